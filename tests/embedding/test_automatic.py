"""Automatic transcripts through the store: what recognised them stays with the features, and is counted."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from hilbert_ray.config import Config, SegmentConfig
from hilbert_ray.document.records import Recognition
from hilbert_ray.features.dataset import open_dataset
from hilbert_ray.store import compact_store, verify_store
from hilbert_ray.store.store import Store
from hilbert_ray.transcript import AutomaticTranscript
from hilbert_ray.validation import validate
from tests import make
from tests.embedding.in_process import CONFIG, embed_here, rows_of

WHISPER = {"name": "whisper", "fingerprint": "0a1b"}


def transcript(doc_id: str, confidence: float | None, asr: dict[str, str] = WHISPER) -> bytes:
    words = [
        {"text": "good morning", "start": 0.1, "end": 0.9, "confidence": confidence},
        {"text": "and good night", "start": 1.0, "end": 1.8, "confidence": confidence},
    ]
    return AutomaticTranscript(
        document=doc_id, language="en", asr=asr, duration_s=2.0, utterances=words
    ).to_bytes()


def corpus(folder: Path) -> str:
    """Write six recordings: three transcribed by `whisper`, one by `other`, one by hand, one not at all."""
    records = [make.record(folder, number) for number in range(6)]
    texts = [transcript(f"d00{number}", 0.5 + number / 10) for number in range(3)]
    texts.append(transcript("d003", None, {"name": "other", "fingerprint": "2c3d"}))
    for number, text in enumerate(texts):
        (folder / f"{number}.json").write_bytes(text)
        del records[number]["text"]
        records[number]["text_file"] = f"{number}.json"
    del records[5]["text"]
    return make.manifest(folder / "m.jsonl", records)


def test_recognisers_are_stored_with_text_features_and_counted(tmp_path: Path) -> None:
    store = Store.create(str(tmp_path / "store"), 2)
    embed_here(corpus(tmp_path), store)
    rows = rows_of(store.uri)
    assert {doc_id: row.recognition for (modality, doc_id), row in rows.items() if modality == "text"} == {
        "d000": Recognition("whisper", "0a1b", 0.5),
        "d001": Recognition("whisper", "0a1b", 0.6),
        "d002": Recognition("whisper", "0a1b", 0.7),
        "d003": Recognition("other", "2c3d", None),
        "d004": None,
    }
    # Audio is not cut by the transcript here, so it does not depend on it.
    assert all(row.recognition is None for (modality, _), row in rows.items() if modality == "audio")
    dataset = open_dataset(store.uri, Config())
    assert dataset.recognizers == [
        {"name": "whisper", "fingerprint": "0a1b", "documents": 3, "confidence": pytest.approx(0.6)},
        {"name": "other", "fingerprint": "2c3d", "documents": 1, "confidence": None},
    ]
    # Folded into indexes, commits say the same.
    compact_store(store, min_commits=1)
    assert open_dataset(store.uri, Config()).recognizers == dataset.recognizers
    assert list(verify_store(store)) == []


def test_audio_that_is_cut_by_an_automatic_transcript_says_so(tmp_path: Path) -> None:
    store = Store.create(str(tmp_path / "store"), 2)
    config = replace(CONFIG, segment=SegmentConfig(audio="turns"))
    manifest = make.manifest(
        tmp_path / "m.jsonl",
        [json.loads(line) for line in Path(corpus(tmp_path)).read_text().splitlines()[:5]],
    )
    embed_here(manifest, store, config)
    row = rows_of(store.uri)["audio", "d001"]
    assert row.recognition == Recognition("whisper", "0a1b", 0.6)
    np.testing.assert_allclose(row.start, [0.1, 1.0], atol=1e-6)


def test_a_corrected_transcript_is_embedded_again_and_counts_as_it_says_then(tmp_path: Path) -> None:
    store = Store.create(str(tmp_path / "store"), 2)
    manifest = corpus(tmp_path)
    embed_here(manifest, store)
    values = json.loads((tmp_path / "0.json").read_text())
    values["utterances"][0]["text"] = "good evening"
    del values["asr"]
    (tmp_path / "0.json").write_text(json.dumps(values))
    embed_here(manifest, store)
    [first, _] = open_dataset(store.uri, Config()).recognizers
    assert first["documents"] == 2


def test_files_of_other_transcripts_have_no_column_for_recognisers(tmp_path: Path) -> None:
    """A reader of all columns must find what older stores have; their bytes are in the golden store."""
    columns = {}
    for name, count in (("automatic", 4), ("manual", 0)):
        records = [json.loads(line) for line in Path(corpus(tmp_path)).read_text().splitlines()]
        chosen = records[:count] or records[4:5]
        store = Store.create(str(tmp_path / name), 1)
        embed_here(make.manifest(tmp_path / "m.jsonl", chosen), store)
        files = (tmp_path / name / "features" / "text").rglob("*.parquet")
        columns[name] = set().union(*(pq.read_schema(file).names for file in files))
    assert columns["automatic"] - columns["manual"] == {"recognition"}


def test_validate_counts_automatic_transcripts_and_says_how_to_get_the_missing_ones(tmp_path: Path) -> None:
    manifest = corpus(tmp_path)
    report = validate(manifest)
    assert (report.faults, report.with_text, report.untranscribed) == ((), 5, 1)
    assert report.automatic == {"whisper": 3, "other": 1}
    lines = report.text().splitlines()
    assert "  automatic    4 transcripts: 3 by whisper, 1 by other" in lines
    assert (
        f"  no text      1 documents with a recording; `hilbert-ray transcribe --manifest {manifest} "
        "--out FOLDER` transcribes them"
    ) in lines
    complete = validate(make.manifest(tmp_path / "two.jsonl", [make.record(tmp_path, 7)])).text()
    assert "no text" not in complete
    assert "  automatic  " not in complete


def test_an_automatic_transcript_without_speech_is_one_clear_fault(tmp_path: Path) -> None:
    silent = AutomaticTranscript(document="d000", language=None, asr=WHISPER, duration_s=2.0, utterances=())
    (tmp_path / "0.json").write_bytes(silent.to_bytes())
    record = make.record(tmp_path, 0)
    del record["text"]
    [fault] = validate(make.manifest(tmp_path / "m.jsonl", [{**record, "text_file": "0.json"}])).faults
    assert fault.message == (
        f"document 'd000': text_file {tmp_path / '0.json'} is an automatic transcript without utterances: "
        "whisper found no speech; write null as text_file"
    )
