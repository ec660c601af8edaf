"""Manifests and transcripts: what is read, and what each fault says."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hilbert_ray.document import (
    Document,
    DocumentError,
    Fault,
    ManifestError,
    Utterance,
    duplicate_fault,
    find_duplicates,
    load_text,
    parse_document,
    read_manifest,
    resolve,
)
from tests import make

GOOD: dict[str, Any] = {"doc_id": "d1", "audio": "a.wav"}


def rows_of(path: Path) -> list[Document | Fault]:
    return [item for _, item in read_manifest(str(path))]


def test_a_jsonl_row_becomes_a_document_with_paths_relative_to_the_manifest(tmp_path: Path) -> None:
    record = {
        "doc_id": "d1",
        "audio": "a/b.wav",
        "text": [
            {"text": "hello", "start": 0, "end": 1.5, "role": "participant"},
            {"text": "yes", "start": 2, "end": 3},
        ],
        "labels": {"mood": "low", "age": None},
        "split": "test",
    }
    path = Path(make.manifest(tmp_path / "m.jsonl", [record]))
    assert rows_of(path) == [
        Document(
            doc_id="d1",
            audio=str(tmp_path / "a/b.wav"),
            text=(
                Utterance(text="hello", start=0.0, end=1.5, role="participant"),
                Utterance(text="yes", start=2.0, end=3.0),
            ),
            group="d1",
            labels={"mood": "low"},
            split="test",
        )
    ]


def test_the_same_documents_in_jsonl_csv_and_parquet_are_equal(tmp_path: Path) -> None:
    records = [
        {"doc_id": "d1", "audio": "a.wav", "text": ["one", "two"], "group": "g", "labels": {"mood": "low"}},
        {"doc_id": "d2", "text": "only words", "labels": {}},
    ]
    make.manifest(tmp_path / "m.jsonl", records)
    (tmp_path / "m.csv").write_text(
        'doc_id,audio,text,group,labels.mood\nd1,a.wav,"[""one"", ""two""]",g,low\nd2,,only words,,\n'
    )
    columns = {
        "doc_id": ["d1", "d2"],
        "audio": ["a.wav", None],
        "text": [json.dumps(["one", "two"]), "only words"],
        "group": ["g", None],
        "labels.mood": ["low", None],
    }
    pq.write_table(pa.table(columns), tmp_path / "m.parquet")
    jsonl = rows_of(tmp_path / "m.jsonl")
    assert all(isinstance(item, Document) for item in jsonl)
    assert rows_of(tmp_path / "m.csv") == jsonl
    assert rows_of(tmp_path / "m.parquet") == jsonl


def test_a_manifest_read_from_memory_like_an_object_store_resolves_uris() -> None:
    import fsspec

    with fsspec.open("memory://corpus/m.jsonl", "wt") as file:
        file.write(json.dumps(GOOD) + "\n")
    [(_, document)] = read_manifest("memory://corpus/m.jsonl")
    assert isinstance(document, Document)
    assert document.audio == "memory://corpus/a.wav"


@pytest.mark.parametrize(
    ("path", "folder", "expected"),
    [
        ("a.wav", "/data", "/data/a.wav"),
        ("/x/a.wav", "/data", "/x/a.wav"),
        ("s3://b/a.wav", "/data", "s3://b/a.wav"),
        ("a.wav", "s3://b/c/", "s3://b/c/a.wav"),
    ],
)
def test_relative_paths_are_relative_to_the_manifest_only(path: str, folder: str, expected: str) -> None:
    assert resolve(path, folder) == expected


def test_a_bad_row_is_a_fault_with_its_row_and_the_next_one_is_read(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    path.write_text('{"doc_id": "d1"}\n\nnot json\n[1]\n' + json.dumps(GOOD) + "\n")
    first, second, third, last = rows_of(path)
    assert isinstance(first, Fault)
    assert (first.row, first.doc_id, first.stage) == (1, "d1", "manifest")
    assert "neither audio nor text" in first.message
    assert isinstance(second, Fault)
    assert "row 2 is not valid JSON" in second.message
    assert isinstance(third, Fault)
    assert "row 3 is a JSON list; each line must be one JSON object" in third.message
    assert isinstance(last, Document)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"doc_id": " "}, "doc_id is ' '; it must be a non-empty string"),
        ({"doc_id": 7}, "doc_id is 7; it must be a non-empty string"),
        ({"audoi": "a"}, "document 'd1' has unknown fields audoi; the fields are doc_id, audio"),
        ({"audio": 3}, "document 'd1': audio is 3; it must be a path, a URI, or null"),
        ({"text": "a", "text_file": "b.txt"}, "document 'd1' has both text and text_file"),
        ({"audio": None}, "document 'd1' has neither audio nor text"),
        ({"labels": "low"}, "document 'd1': labels is 'low'; it must map each task"),
        ({"split": "dev"}, "document 'd1': split is 'dev'; the choices are train, validation, test"),
        ({"text": "  "}, "document 'd1': text is empty; write null"),
        ({"text": 5}, "document 'd1': text is 5; it must be a string, a list of strings"),
        ({"text": [""]}, "document 'd1': all utterances are empty"),
        ({"text": [3]}, "document 'd1': utterance 0 is 3; it must hold a string `text`"),
        ({"text": [{"text": "a", "start": 1}]}, "utterance 0 has only one of start and end"),
        ({"text": [{"text": "a", "start": 2, "end": 1}]}, "utterance 0 runs from 2 to 1; times are"),
        ({"text": [{"text": "a", "start": 0, "end": "1"}]}, "utterance 0 runs from 0 to '1'"),
        ({"text": [{"text": "a", "role": 4}]}, "utterance 0 has role 4; it must be a string"),
        ({"text": ["a", {"text": "b", "start": 0, "end": 1}]}, "1 of 2 utterances have times"),
    ],
)
def test_each_fault_of_a_row_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(DocumentError) as caught:
        parse_document({**GOOD, **changes})
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("m.jsonl", None, "no manifest at "),
        ("m.xlsx", b"", "ends in .xlsx; the kinds are .jsonl, .csv and .parquet"),
        ("m.parquet", b"no parquet", "cannot be read as Parquet"),
        ("m.jsonl", b"\xff\xfe\x00", "cannot be read as .jsonl"),
    ],
)
def test_a_manifest_that_cannot_be_read_says_why(
    tmp_path: Path, name: str, content: bytes | None, message: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ManifestError) as caught:
        rows_of(tmp_path / name)
    assert message in str(caught.value)


@given(st.lists(st.sampled_from("abc"), max_size=12))
def test_duplicates_are_all_rows_of_ids_used_more_than_once(ids: list[str]) -> None:
    rows = [(row, Document(doc_id=doc_id, audio="a")) for row, doc_id in enumerate(ids, start=1)]
    expected = {
        doc_id: [row for row, other in enumerate(ids, start=1) if other == doc_id]
        for doc_id in set(ids)
        if ids.count(doc_id) > 1
    }
    assert find_duplicates(iter(rows)) == expected


def test_the_fault_of_a_shared_id_lists_all_its_rows() -> None:
    fault = duplicate_fault(3, "d1", [1, 3])
    assert (fault.row, fault.error) == (3, "DuplicateIdError")
    assert fault.message == "doc_id 'd1' stands in rows 1, 3; ids must be unique: give each document its own"


VTT = "WEBVTT\n\n1\n00:01.000 --> 00:02.500\n<v Ann>hello <b>you</b>\n\n01:00:00.000 --> 01:00:01.000\nbye\n"
SRT = "1\n00:00:01,000 --> 00:00:02,500\nhello\nyou\n\n2\n01:00:00,000 --> 01:00:01,000\nbye\n"
WHISPER = json.dumps({"segments": [{"text": " hi", "start": 0.5, "end": 1, "speaker": "S0", "words": []}]})


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        (
            "t.vtt",
            VTT,
            (
                Utterance(text="hello you", start=1.0, end=2.5, role="Ann"),
                Utterance(text="bye", start=3600.0, end=3601.0),
            ),
        ),
        (
            "t.srt",
            SRT,
            (
                Utterance(text="hello you", start=1.0, end=2.5),
                Utterance(text="bye", start=3600.0, end=3601.0),
            ),
        ),
        ("t.json", WHISPER, (Utterance(text=" hi", start=0.5, end=1.0, role="S0"),)),
        ("t.json", '["one", "two"]', (Utterance(text="one"), Utterance(text="two"))),
        ("t.txt", "just words\nand more", "just words\nand more"),
    ],
)
def test_transcripts_are_read_by_their_kind(
    tmp_path: Path, name: str, content: str, expected: object
) -> None:
    (tmp_path / name).write_text(content)
    assert load_text(Document(doc_id="d1", text_file=str(tmp_path / name))) == expected


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.txt", None, "document 'd1': no text_file at "),
        ("t.doc", b"", "ends in .doc; use .txt, .json, .vtt or .srt"),
        ("t.txt", b"\xff\xfe", "is not UTF-8 text"),
        ("t.json", b"{", "is not valid JSON"),
        ("t.vtt", b"WEBVTT\n", "holds no cues"),
        ("t.srt", b"1\nsoon --> later\nhello\n", "has a cue time 'soon --> later' that cannot be read"),
    ],
)
def test_a_transcript_that_cannot_be_read_says_why(
    tmp_path: Path, name: str, content: bytes | None, message: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DocumentError) as caught:
        load_text(Document(doc_id="d1", text_file=str(tmp_path / name)))
    assert message in str(caught.value)
