"""From windows to transcripts, in this process: nothing depends on the company of a document."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from hilbert_ray.asr import Recognizer, Spoken, Window, windows
from hilbert_ray.store import Quarantined, TranscriptRow
from hilbert_ray.transcription import recognition
from hilbert_ray.transcription.recognition import SpeechReader, transcribe_parts
from hilbert_ray.units.reading import DocumentEnd, DocumentProgress, read, read_ahead
from tests import make
from tests.embedding.in_process import stored_of
from tests.segmentation.cutting import interview
from tests.transcription.stand_in import CONFIG, HashingRecognizer, spoken

READER = SpeechReader(rate_hz=16000, longest_s=3.0, config=CONFIG)


def transcribed(
    folder: Path, rows: Sequence[dict[str, Any]], recognizer: Recognizer | None = None
) -> tuple[dict[str, TranscriptRow], dict[str, Quarantined]]:
    """Transcribe documents as one unit."""
    entries = stored_of(make.manifest(folder / "m.jsonl", rows))
    documents = [DocumentProgress(unit=0, entry=entry, source=f"s{entry.row}") for entry in entries]
    parts = read_ahead(documents, READER)
    done, failed = transcribe_parts(documents, parts, recognizer or HashingRecognizer(), "auto")
    return {row.doc_id: row for row in done}, {one.doc_id: one for one in failed}


def test_a_transcript_is_that_of_the_windows_of_its_recording_one_by_one(tmp_path: Path) -> None:
    [row] = spoken(tmp_path, 1, 12.0)
    done, failed = transcribed(tmp_path, [row])
    assert not failed
    samples, _ = soundfile.read(tmp_path / row["audio"], dtype="float32")
    recognizer = HashingRecognizer()
    heard = list(windows(iter([samples]), 3.0))
    assert len(heard) >= 4
    means = {
        code: np.mean([one[code] for one in recognizer.detect_languages(heard[:3])]) for code in ("en", "ur")
    }
    language = max(means, key=lambda code: means[code])
    expected = [recognizer.recognize([replace(window, language=language)])[0][0] for window in heard]
    found = json.loads(done["d000"].transcript)
    assert (found["document"], found["language"], found["duration_s"]) == ("d000", language, 12.0)
    assert found["asr"] == {"name": "hashing", "fingerprint": "hashing-1", "revision": 1}
    assert [one["text"] for one in found["utterances"]] == [one.text for one in expected]
    assert [one["start"] for one in found["utterances"]] == [round(one.start, 3) for one in expected]
    assert [word["text"] for word in found["utterances"][0]["words"]] == expected[0].text.split()
    assert [one.get("doubts", []) for one in found["utterances"]] == [list(one.doubts) for one in expected]
    assert (done["d000"].utterances, done["d000"].seconds) == (len(expected), 12.0)


def test_no_byte_depends_on_the_company_of_a_document_or_the_size_of_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = spoken(tmp_path, 5, 8.0, silent=[2])
    together, _ = transcribed(tmp_path, rows)
    monkeypatch.setattr(recognition, "BATCH_S", 4.0)
    recognizer = HashingRecognizer()
    small, _ = transcribed(tmp_path, rows, recognizer)
    assert max(recognizer.batches) <= 4
    alone = {row["doc_id"]: transcribed(tmp_path, [row])[0][row["doc_id"]] for row in rows}
    for doc_id, row in together.items():
        assert row.transcript == small[doc_id].transcript == alone[doc_id].transcript
    assert together["d002"].utterances == 0
    assert len({row.transcript for row in together.values()}) == 5


def test_who_speaks_is_who_the_channel_is_of(tmp_path: Path) -> None:
    one, other = interview(1)[: 16000 * 8], interview(2)[: 16000 * 8]
    soundfile.write(tmp_path / "two.wav", np.stack([one, other], axis=1), 16000)
    [row] = [{"doc_id": "two", "audio": "two.wav", "channels": {"0": "agent", "1": "customer"}}]
    done, _ = transcribed(tmp_path, [row])
    found = json.loads(done["two"].transcript)["utterances"]
    assert {item["role"] for item in found} == {"agent", "customer"}
    starts = [item["start"] for item in found]
    assert starts == sorted(starts)
    for name, samples in (("agent", one), ("customer", other)):
        soundfile.write(tmp_path / f"{name}.wav", samples, 16000)
        alone, _ = transcribed(tmp_path, [{"doc_id": name, "audio": f"{name}.wav"}])
        of_channel = [item["start"] for item in found if item["role"] == name]
        assert of_channel == [item["start"] for item in json.loads(alone[name].transcript)["utterances"]]


def test_a_document_that_fails_takes_no_other_with_it(tmp_path: Path) -> None:
    rows = spoken(tmp_path, 3, 4.0)
    long = spoken(tmp_path / "long", 1, 12.0)[0]
    rows.insert(1, {"doc_id": "long", "audio": f"long/{long['audio']}"})
    (tmp_path / "words.wav").write_text("these are words, not audio")
    rows.append({"doc_id": "words", "audio": "words.wav"})
    done, failed = transcribed(tmp_path, rows, HashingRecognizer(deaf=5.0))
    assert sorted(done) == ["d000", "d001", "d002"]
    assert {doc_id: (one.stage, one.error) for doc_id, one in failed.items()} == {
        "long": ("recognize", "RuntimeError"),
        "words": ("read", "UnsupportedAudioError"),
    }
    assert "RuntimeError in hilbert_ray/asr/long_form.py" in failed["long"].message
    healthy, _ = transcribed(tmp_path, rows[:1])
    assert healthy["d000"].transcript == done["d000"].transcript


class LateRecognizer(HashingRecognizer):
    """Puts an utterance behind the end of the recording: by as much as windows are rounded up, or far."""

    def __init__(self, late: float) -> None:
        super().__init__()
        self.late = late

    def recognize(self, windows: Sequence[Window]) -> list[list[Spoken]]:
        heard = super().recognize(windows)
        return [[replace(one, end=one.end + self.late, words=()) for one in found] for found in heard]


def test_times_end_with_the_recording_and_others_are_refused(tmp_path: Path) -> None:
    rows = spoken(tmp_path, 1, 4.0)
    done, _ = transcribed(tmp_path, rows, LateRecognizer(0.5))
    found = json.loads(done["d000"].transcript)
    assert max(one["end"] for one in found["utterances"]) == 4.0
    _, failed = transcribed(tmp_path, rows, LateRecognizer(60.0))
    assert failed["d000"].error == "TranscriptionError"
    assert "in a recording of 4.000 s; please report this with the recogniser" in failed["d000"].message


def test_what_waits_in_memory_does_not_grow_with_the_recording(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The windows of one batch, and no more, whatever follows."""
    monkeypatch.setattr(recognition, "BATCH_S", 10.0)
    speech = interview(1)[: 16000 * 50]
    soundfile.write(tmp_path / "long.wav", np.tile(speech, 4), 16000)
    entries = stored_of(make.manifest(tmp_path / "m.jsonl", [{"doc_id": "long", "audio": "long.wav"}]))
    [document] = [DocumentProgress(unit=0, entry=entry, source="s") for entry in entries]
    alive: list[int] = []
    recognizer = HashingRecognizer()

    def counted() -> Iterator[tuple[DocumentProgress, Window | DocumentEnd | Quarantined]]:
        parts = read([document], READER)
        for count, (owner, part) in enumerate(parts):
            alive.append(count - sum(recognizer.batches))
            yield owner, part

    [row], _ = transcribe_parts([document], counted(), recognizer, "en")
    assert row.utterances > 50
    assert max(alive) <= 10.0 / 1.0, "windows of a second and more"


def test_a_document_end_says_what_was_heard(tmp_path: Path) -> None:
    entries = stored_of(make.manifest(tmp_path / "m.jsonl", spoken(tmp_path, 1, 4.0)))
    *heard, end = READER.parts(entries[0], "s")
    assert isinstance(end, DocumentEnd)
    assert end.expected == 4.0
    assert all(isinstance(one, Window) and READER.seconds(one) <= 3.0 for one in heard)
