"""Manifests of NeMo, Lhotse, Kaldi and Hugging Face, as those programs write them."""

import gzip
import io
import json
from pathlib import Path
from typing import Any

import datasets  # type: ignore[import-untyped]
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile

from hilbert_ray.cli import main
from hilbert_ray.document import Document, InvalidRow, Utterance
from hilbert_ray.manifest import ManifestError, manifest_notes, read_manifest, unpack
from hilbert_ray.manifest import kaldi as kaldi_folders
from hilbert_ray.validation import validate
from tests import make


def rows_of(path: Path | str) -> list[Document | InvalidRow]:
    return [item for _, item in read_manifest(str(path))]


def documents_of(path: Path | str) -> list[Document]:
    rows = rows_of(path)
    assert [row.message for row in rows if isinstance(row, InvalidRow)] == []
    return [row for row in rows if isinstance(row, Document)]


def one(path: Path | str) -> InvalidRow:
    [fault] = [row for row in rows_of(path) if isinstance(row, InvalidRow)]
    return fault


def test_a_folder_of_recordings_has_a_document_for_each_file(tmp_path: Path) -> None:
    for name in ("b.wav", "a.FLAC", "day two/b.wav"):
        make.tone(tmp_path / name)
    (tmp_path / "._a.FLAC").write_bytes(b"of macOS")
    (tmp_path / "notes.txt").write_text("not a transcript of any")
    documents = documents_of(tmp_path)
    assert [document.doc_id for document in documents] == ["a.FLAC", "b.wav", "day two/b.wav"]
    assert [document.audio for document in documents] == [str(tmp_path / d.doc_id) for d in documents]
    assert {document.text for document in documents} == {None}
    [note] = manifest_notes(str(tmp_path))
    assert note.startswith("read as a folder of recordings: 3 documents named as their files, without text,")
    assert "; 1 other files, such as notes.txt, are not read;" in note
    found = validate(str(tmp_path))
    assert (found.documents, found.untranscribed, found.faults) == (3, 3, ())
    make.manifest(tmp_path / "m.jsonl", [{"doc_id": "x", "audio": "b.wav"}])
    with pytest.raises(ManifestError, match=r"is a folder with m\.jsonl; name the manifest, or move"):
        rows_of(tmp_path)


def test_a_nemo_manifest_has_a_document_for_each_file(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {
            "audio_filepath": "wav/a.wav",
            "duration": 5.5,
            "text": "whole recording",
            "speaker": "s1",
            "lang": "de",
        },
        {
            "audio_filepath": "/x/b.wav",
            "offset": 4.0,
            "duration": 1.5,
            "text": "second",
            "speaker": 2,
            "lang": "en",
        },
        {
            "audio_filepath": "/x/b.wav",
            "offset": 0.5,
            "duration": 1.0,
            "text": "first",
            "speaker": 1,
            "lang": "fr",
        },
        {
            "audio_filepath": "/x/b.wav",
            "offset": 2.0,
            "duration": 1.0,
            "text": "-",
            "speaker": 1,
            "lang": "en",
        },
        {"audio_filepath": "c.wav", "duration": 2, "text": "", "label": "yes", "rttm_filepath": None},
    ]
    path = make.manifest(tmp_path / "train_manifest.json", rows)
    first, second, third = documents_of(path)
    assert (first.doc_id, first.audio, first.text) == (
        "wav/a.wav",
        str(tmp_path / "wav/a.wav"),
        "whole recording",
    )
    assert (first.group, first.attributes) == ("s1", {"lang": "de"})
    assert (second.audio, second.group, second.attributes) == ("/x/b.wav", "/x/b.wav", {})
    assert second.text == (
        Utterance(text="first", start=0.5, end=1.5, role="1"),
        Utterance(text="second", start=4.0, end=5.5, role="2"),
    )
    assert (third.text, third.labels) == (None, {"label": "yes"})
    assert manifest_notes(path)[0].startswith("read as a NeMo manifest: a document for each `audio_filepath`")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            [{"audio_filepath": "a", "offset": -1, "duration": 1}],
            "offset is -1; it must be seconds from 0 on",
        ),
        ([{"audio_filepath": "a", "offset": 3}], "line 1 has an offset and no duration"),
        ([{"audio_filepath": ["a", "b"]}], "names several files in audio_filepath"),
        (
            [{"audio_filepath": "a", "label": x, "offset": i, "duration": 1} for i, x in enumerate("yn")],
            "stretches of 'a' differ in the label `label`, and a document is a whole recording",
        ),
    ],
)
def test_rows_of_nemo_that_make_no_document_say_why(
    tmp_path: Path, rows: list[dict[str, Any]], message: str
) -> None:
    assert message in one(make.manifest(tmp_path / "m.jsonl", rows)).message


def test_rows_of_a_recording_that_are_apart_leave_none_of_it_valid(tmp_path: Path) -> None:
    rows = [{"audio_filepath": f"{name}.wav", "offset": 0, "duration": 1, "text": "a"} for name in "aba"]
    for name in "ab":
        make.tone(tmp_path / f"{name}.wav")
    report = validate(make.manifest(tmp_path / "m.jsonl", rows))
    assert report.documents == 1
    assert [(fault.row, fault.doc_id) for fault in report.faults] == [(1, "a.wav"), (3, "a.wav")]
    assert "line 3: the lines of recording 'a.wav' are not next to each other" in report.faults[1].message


def recording(name: str, path: str, **changes: Any) -> dict[str, Any]:  # noqa: ANN401 - any field
    return {
        "id": name, "sources": [{"type": "file", "channels": [0], "source": path}], "sampling_rate": 16000,
        "num_samples": 160000, "duration": 10.0, "channel_ids": [0], **changes,
    }  # fmt: skip


def supervision(
    name: str,
    start: float,
    text: str,
    speaker: str,
    **changes: Any,  # noqa: ANN401 - any field
) -> dict[str, Any]:
    return {
        "id": f"{name}-{start}", "recording_id": name, "start": start, "duration": 1.5, "channel": 0,
        "text": text, "language": "English", "speaker": speaker, **changes,
    }  # fmt: skip


def lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    data = "".join(json.dumps(row) + "\n" for row in rows).encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


@pytest.mark.parametrize("ending", ["jsonl", "jsonl.gz"])
def test_cuts_of_lhotse_have_times_of_the_recording(tmp_path: Path, ending: str) -> None:
    """The second cut begins at 5 s, and overlaps the first: its first utterance is in both."""
    shared = supervision("r1", 5.5, "shared words", "a")
    rows = [
        {
            "id": "r1-0", "start": 0.0, "duration": 7.0, "channel": 0, "type": "MonoCut",
            "recording": recording("r1", "r1.flac"),
            "supervisions": [supervision("r1", 0.25, "hello", "a"), shared],
        },
        {
            "id": "r1-1", "start": 5.0, "duration": 5.0, "channel": 0, "type": "MonoCut",
            "recording": recording("r1", "r1.flac"),
            "supervisions": [{**shared, "start": 0.5}, supervision("r1", 3.0, "bye", "b")],
        },
        {
            "id": "r2-0", "start": 0, "duration": 10.0, "channel": 0, "type": "MonoCut", "supervisions": [],
            "recording": recording("r2", "/x/r2.wav"), "custom": {"site": "A"},
        },
    ]  # fmt: skip
    first, second = documents_of(lines(tmp_path / f"cuts.{ending}", rows))
    assert (first.doc_id, first.audio, first.group) == ("r1", str(tmp_path / "r1.flac"), "r1")
    assert first.text == (
        Utterance(text="hello", start=0.25, end=1.75, role="a"),
        Utterance(text="shared words", start=5.5, end=7.0, role="a"),
        Utterance(text="bye", start=8.0, end=9.5, role="b"),
    )
    assert first.attributes == {"language": "English"}
    assert (second.audio, second.text, second.attributes) == ("/x/r2.wav", None, {"site": "A"})


@pytest.mark.parametrize(
    ("cut", "message"),
    [
        (
            {"type": "MixedCut", "tracks": []},
            "line 1 is a MixedCut; a document is a recording: save the audio",
        ),
        (
            {"recording": recording("r", "cat x |", sources=[{"type": "command", "source": "cat x"}])},
            "['command']",
        ),
        (
            {"recording": recording("r", "a.wav", transforms=[{"name": "Speed"}])},
            "has transforms, which are not",
        ),
        ({"recording": None, "features": {}}, "line 1 has no recording"),
    ],
)
def test_cuts_that_are_no_file_are_refused_with_what_to_do(
    tmp_path: Path, cut: dict[str, Any], message: str
) -> None:
    row = {"id": "c", "start": 0, "duration": 1, "type": "MonoCut", "supervisions": [], **cut}
    fault = one(lines(tmp_path / "cuts.jsonl", [row]))
    assert message in fault.message
    assert "cuts.save_audios" in fault.message


def test_recordings_and_supervisions_of_lhotse_are_one_manifest(tmp_path: Path) -> None:
    recordings = lines(
        tmp_path / "x_recordings_train.jsonl.gz", [recording("r1", "a.wav"), recording("r2", "b.wav")]
    )
    rows = [supervision("r1", 2.0, "two", "s", gender="F"), supervision("r1", 0.0, "one", "s", gender="F"),
            supervision("gone", 0.0, "lost", "s")]  # fmt: skip
    supervisions = lines(tmp_path / "x_supervisions_train.jsonl.gz", rows)
    for path in (recordings, supervisions, tmp_path):
        first, second, fault = rows_of(path)
        assert isinstance(first, Document)
        assert isinstance(second, Document)
        assert [turn.text for turn in first.text or () if isinstance(turn, Utterance)] == ["one", "two"]
        assert (first.group, first.attributes) == ("s", {"gender": "F", "language": "English"})
        assert second.text is None
        assert isinstance(fault, InvalidRow)
        assert "1 supervisions are of recording 'gone', which is not in" in fault.message
    recordings.unlink()
    with pytest.raises(
        ManifestError, match="holds supervisions of Lhotse, and there are no recordings beside it"
    ):
        rows_of(supervisions)


def kaldi(folder: Path, **files: str) -> Path:
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        (folder / name.replace("wav_scp", "wav.scp")).write_text(content)
    return folder


def test_a_kaldi_folder_with_segments_has_a_document_for_each_recording(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = kaldi(
        tmp_path / "train",
        wav_scp="rec1 audio/rec1.wav\nrec2\t/x/rec2.wav\nrec3 sph2pipe -f wav a.sph |\nrec4 raw.ark:17\n",
        segments="u2 rec1 3.5 4.25\nu1 rec1 0.5 2\nu3 rec2 1 0.5\nu9 rec9 0 1\n",
        text="u1 good morning\nu2 how are you\nu8 nowhere\n",
        utt2spk="u1 ann\nu2 bob\n",
        spk2gender="ann f\nbob m\n",
        utt2lang="u1 en\nu2 en\n",
    )
    first, *faults = rows_of(folder)
    assert isinstance(first, Document)
    assert (first.doc_id, first.audio, first.group) == ("rec1", str(tmp_path / "audio/rec1.wav"), "rec1")
    assert first.text == (
        Utterance(text="good morning", start=0.5, end=2.0, role="ann"),
        Utterance(text="how are you", start=3.5, end=4.25, role="bob"),
    )
    assert first.attributes == {"language": "en"}
    messages = [fault.message for fault in faults if isinstance(fault, InvalidRow)]
    assert len(messages) == len(faults)
    for message, part in zip(
        messages,
        ["utterance 'u3' of segments runs from and to '1 0.5'", "'rec3' is made by a command in wav.scp",
         "recording 'rec4' is in an archive", "segments has 1 utterances of recording 'rec9'",
         "text has utterance 'u8', which is not in segments"],
        strict=True,
    ):  # fmt: skip
        assert part in message
    assert "nowhere" not in " ".join(messages)


def test_a_kaldi_folder_without_segments_has_a_document_for_each_utterance(tmp_path: Path) -> None:
    folder = kaldi(
        tmp_path / "test",
        wav_scp="u1 /x/u1.wav\nu2 /x/u2.wav\n",
        text="u1 words here\n",
        spk2utt="ann u1 u2\n",
    )
    first, second = documents_of(folder)
    assert (first.text, first.group, first.audio) == ("words here", "ann", "/x/u1.wav")
    assert (second.text, second.group) == (None, "ann")


def test_a_line_of_a_kaldi_file_that_never_ends_is_refused_before_memory_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kaldi_folders, "LONGEST", 1000)
    folder = kaldi(tmp_path / "test", wav_scp="u1 /x/u1.wav\n", text=f"u1 {'x' * 2000}\n")
    with pytest.raises(ManifestError, match="text has a line of more than 0 MiB"):
        rows_of(folder)


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_an_audiofolder_is_read_with_its_splits(tmp_path: Path, kind: str) -> None:
    for split in ("train", "test"):
        (tmp_path / split).mkdir()
        frame = pd.DataFrame(
            {
                "file_name": ["a.wav", "b/c.wav"],
                "transcription": ["one", "two"],
                "label": ["x", "y"],
                "age": [3, 4],
            }
        )
        path = tmp_path / split / f"metadata.{kind}"
        if kind == "csv":
            frame.to_csv(path, index=False)
        elif kind == "jsonl":
            frame.to_json(path, orient="records", lines=True)
        else:
            frame.to_parquet(path)
    documents = documents_of(tmp_path)
    assert [document.doc_id for document in documents] == [
        "test/a.wav", "test/b/c.wav", "train/a.wav", "train/b/c.wav"
    ]  # fmt: skip
    last = documents[-1]
    assert (last.audio, last.text, last.split) == (str(tmp_path / "train/b/c.wav"), "two", "train")
    assert (last.labels, last.attributes) == ({"label": "y"}, {"age": 4})
    alone = documents_of(tmp_path / "test" / f"metadata.{kind}")
    assert [document.audio for document in alone] == [
        str(tmp_path / "test" / n) for n in ("a.wav", "b/c.wav")
    ]
    assert "`transcription` as `text`" in manifest_notes(str(tmp_path))[0]


def speech(seconds: float) -> bytes:
    data = io.BytesIO()
    samples = np.sin(np.arange(round(seconds * 8000)) / 9).astype(np.float32)
    soundfile.write(data, samples, 8000, format="FLAC")
    return data.getvalue()


def dataset(paths_only: bool) -> datasets.Dataset:
    """Return a dataset with classes by number, as the library makes it; -1 is no label."""
    audio = [{"bytes": None if paths_only else speech(0.5 + i), "path": f"call {i}.flac"} for i in range(3)]
    features = datasets.Features(
        {
            "audio": datasets.Audio(decode=False),
            "sentence": datasets.Value("string"),
            "intent": datasets.ClassLabel(names=["pay", "block"]),
        }
    )
    # As the library stores it; to encode audio from Python values it needs another package.
    columns = [
        pa.array(audio, features["audio"].pa_type),
        pa.array(["one", "two", "three"]),
        pa.array([1, 0, -1]),
    ]
    return datasets.Dataset(pa.Table.from_arrays(columns, schema=features.arrow_schema))


def test_a_parquet_dataset_of_paths_is_read_and_one_of_bytes_is_unpacked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths, held = tmp_path / "paths.parquet", tmp_path / "held.parquet"
    pq.write_table(dataset(True).data.table, paths)
    documents = documents_of(paths)
    assert [document.audio for document in documents] == [str(tmp_path / f"call {i}.flac") for i in range(3)]
    assert [document.labels for document in documents] == [{"intent": "block"}, {"intent": "pay"}, {}]
    assert [document.text for document in documents] == ["one", "two", "three"]

    dataset(False).to_parquet(held)
    with pytest.raises(
        ManifestError, match=r"holds the audio itself.*hilbert-ray unpack .*held.parquet FOLDER"
    ):
        rows_of(held)
    assert main(["unpack", str(held), str(tmp_path / "out")]) == 0
    assert "manifest.jsonl: 3 documents, 3 recordings" in capsys.readouterr().out
    report = validate(str(tmp_path / "out" / "manifest.jsonl"))
    assert (report.faults, report.audio_s) == ((), 0.5 + 1.5 + 2.5)
    assert report.tasks["intent"].labelled == 2
    written = documents_of(tmp_path / "out" / "manifest.jsonl")
    assert [Path(str(each.audio)).read_bytes() for each in written] == [speech(0.5 + i) for i in range(3)]
    assert [each.doc_id for each in written] == [f"call {i}.flac" for i in range(3)]
    assert main(["unpack", str(held), str(tmp_path / "out")]) == 2
    assert "is not empty" in capsys.readouterr().err


def test_folders_that_save_to_disk_writes_are_unpacked_and_tables_of_paths_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The library stores the bytes of all files that it finds."""
    monkeypatch.chdir(tmp_path)
    for i in range(3):
        Path(f"call {i}.flac").write_bytes(speech(1.0))
    datasets.DatasetDict({"train": dataset(False), "test": dataset(True)}).save_to_disk(tmp_path / "held")
    with pytest.raises(ManifestError, match=r"hilbert-ray unpack \S+/held FOLDER"):
        rows_of(tmp_path / "held")
    unpacked = unpack(str(tmp_path / "held"), str(tmp_path / "out"))
    assert (unpacked.documents, unpacked.files, unpacked.faults) == (6, 6, ())
    documents = [json.loads(line) for line in Path(unpacked.manifest).read_text().splitlines()]
    assert [each["split"] for each in documents] == ["train"] * 3 + ["test"] * 3
    table = dataset(True).data.table
    with pa.ipc.new_stream(tmp_path / "paths.arrow", table.schema) as writer:
        writer.write_table(table)
    assert [document.text for document in documents_of(tmp_path / "paths.arrow")] == ["one", "two", "three"]


def test_names_of_files_in_a_table_lead_nowhere_else(tmp_path: Path) -> None:
    audio = pa.array([{"bytes": b"RIFF", "path": "../../evil.wav"}, {"bytes": b"OggS", "path": None}])
    pq.write_table(pa.table({"audio": audio}), tmp_path / "t.parquet")
    unpack(str(tmp_path / "t.parquet"), str(tmp_path / "out"))
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == [
        "000001-evil.wav", "000002.ogg", "manifest.jsonl", "t.parquet"
    ]  # fmt: skip
    ids = [
        json.loads(line)["doc_id"] for line in (tmp_path / "out" / "manifest.jsonl").read_text().splitlines()
    ]
    assert ids == ["../../evil.wav", "t-000002"]
