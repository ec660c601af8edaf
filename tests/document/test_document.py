"""Manifests and transcripts: what is read, and what each fault says."""

import json
import os
import tempfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hilbert_ray.document.faults import InvalidRow, duplicate_row
from hilbert_ray.document.records import Document, DocumentError, Utterance, parse_document, resolve
from hilbert_ray.manifest import blocks as manifest
from hilbert_ray.manifest.blocks import _blocks, map_blocks, read_manifest
from hilbert_ray.manifest.rows import ManifestError
from tests import make

GOOD: dict[str, Any] = {"doc_id": "d1", "audio": "a.wav"}


def rows_of(path: Path) -> list[Document | InvalidRow]:
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
    assert isinstance(first, InvalidRow)
    assert (first.row, first.doc_id, first.stage) == (1, "d1", "manifest")
    assert "neither audio nor text" in first.message
    assert isinstance(second, InvalidRow)
    assert "row 2 is not valid JSON" in second.message
    assert isinstance(third, InvalidRow)
    assert "row 3 is a JSON list; each line must be one JSON object" in third.message
    assert isinstance(last, Document)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"doc_id": " "}, "doc_id is ' '; it must be a non-empty string"),
        ({"doc_id": 7}, "doc_id is 7; it must be a non-empty string"),
        (
            {"audio": None, "audoi": "a", "text": "words"},
            "document 'd1': `audoi` looks like the field `audio`, which is absent: rename it to `audio`",
        ),
        ({"age": [3]}, "document 'd1': `age` is of type list, and attributes are text, numbers or true"),
        ({"attributes": "old"}, "document 'd1': attributes is of type str; it must map names to values"),
        ({"group": float("nan")}, "document 'd1': group is nan; it must be text or a number, or null for"),
        ({"group": "NaN"}, "document 'd1': group is 'NaN'; it must be text or a number, or null for"),
        ({"group": " "}, "document 'd1': group is ' '; it must be text or a number, or null for"),
        ({"audio": "nan"}, "document 'd1': audio is 'nan', which stands for a missing value; write null"),
        ({"text": "NaN"}, "document 'd1': text is a word that stands for a missing value; write null"),
        ({"doc_id": "nan"}, "doc_id is 'nan'; it must be a non-empty string"),
        ({"audio": 3}, "document 'd1': audio is 3; it must be a path, a URI, or null"),
        ({"text_file": "a\0.txt"}, r"document 'd1': text_file is 'a\x00.txt'; it must be a path, a URI"),
        ({"text": "a", "text_file": "b.txt"}, "document 'd1' has both text and text_file"),
        ({"audio": None}, "document 'd1' has neither audio nor text"),
        ({"labels": "low"}, "document 'd1': labels is 'low'; it must map each task"),
        ({"split": "dev"}, "document 'd1': split is 'dev'; the choices are train, validation, test"),
        ({"text": "  "}, "document 'd1': text is empty; write null"),
        ({"text": 5}, "document 'd1': text is of type int; it must be a string, a list of strings"),
        ({"text": [""]}, "document 'd1': all utterances are empty"),
        ({"text": [3]}, "document 'd1': utterance 0 is of type int without a string `text`"),
        ({"text": [{"text": "a", "start": 1}]}, "utterance 0 has only one of start and end"),
        ({"text": [{"text": "a", "start": 2, "end": 1}]}, "utterance 0 runs from 2 to 1; times are"),
        ({"text": [{"text": "a", "start": 0, "end": "1"}]}, "utterance 0 runs from 0 to '1'"),
        ({"text": [{"text": "a", "role": 4.5}]}, "utterance 0 has role 4.5; it must be a string"),
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
        ("m.jsonl", None, "there is no manifest "),
        ("m.xlsx", b"", "ends in .xlsx; the formats are .jsonl, .csv, .tsv and .parquet"),
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


LINES = st.sampled_from(
    [
        b'{"doc_id": "d1", "audio": "a.wav"}',
        b'{"doc_id": "d2", "text": "\xc3\xa4 \xe2\x80\xa8 \\u00e4 two"}',
        b'{"doc_id": "d3"}',
        b'{"doc_id": 7, "audio": "a.wav"}',
        b'{"audio": "a.wav"}',
        b"[1]",
        b"not json",
        b"",
        b"  \t",
    ]
)


@given(st.lists(st.tuples(LINES, st.sampled_from([b"\n", b"\r\n"])), max_size=12), st.integers(1, 200))
def test_a_manifest_cut_into_blocks_of_any_size_has_the_same_rows(
    lines: list[tuple[bytes, bytes]], size: int
) -> None:
    content = b"".join(line + end for line, end in lines)
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        path = Path(folder, "m.jsonl")
        path.write_bytes(content)
        if not any(line.strip() for line, _ in lines):
            with pytest.raises(ManifestError, match="has no rows"):
                list(read_manifest(str(path)))
            return
        whole = list(read_manifest(str(path)))
        assert [row for row, _ in whole] == list(range(1, 1 + sum(bool(line.strip()) for line, _ in lines)))
        patch.setattr(manifest, "_BLOCK_BYTES", size)
        assert list(read_manifest(str(path))) == whole
        blocks = list(_blocks(str(path)))
        assert [doc_id for block in blocks for doc_id in block.ids()] == [item.doc_id for _, item in whole]
        path.write_bytes(content.rstrip(b"\r\n"))
        assert list(read_manifest(str(path))) == whole


@pytest.fixture
def rooted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder with `data` to be the root, in it links inwards and outwards, and folders beside it."""
    for name in ("data", "data/deep", "data2", "secret"):
        (tmp_path / name).mkdir()
    (tmp_path / "data" / "inwards").symlink_to(tmp_path / "data" / "deep")
    (tmp_path / "data" / "outwards").symlink_to(tmp_path / "secret")
    (tmp_path / "data" / "outwards.wav").symlink_to(tmp_path / "secret" / "a.wav")
    (tmp_path / "link").symlink_to(tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("path", "root", "is_allowed"),
    [
        ("a.wav", "data", True),
        ("deep/../a.wav", "data/", True),
        ("inwards/a.wav", "data", True),
        ("a.wav", "link", True),
        ("{folder}/link/a.wav", "data", True),
        ("file://{folder}/data/a.wav", "data", True),
        ("a.wav", "/", True),
        ("a..b%20.wav", "data", True),
        ("../secret/a.wav", "data", False),
        ("deep/../../secret/a.wav", "data", False),
        ("outwards/a.wav", "data", False),
        ("outwards.wav", "data", False),
        ("inwards/../../secret/a.wav", "data", False),
        ("{folder}/secret/a.wav", "data", False),
        ("{folder}/data2/a.wav", "data", False),
        ("{folder}/data", "data/deep", False),
        ("file://{folder}/secret/a.wav", "data", False),
        ("file://{folder}/data/../secret/a.wav", "data", False),
        ("file://{folder}/data/outwards/a.wav", "data", False),
        ("file://~/a.wav", ".", False),
        ("outwards.wav::{folder}/data/a.wav", "data", False),
        ("simplecache::{folder}/secret/a.wav", "data", False),
        ("s3://bucket/a.wav", "data", False),
        ("a.wav", "s3://bucket", False),
        ("s3://bucket/data/a.wav", "s3://bucket/data", True),
        ("s3://bucket/data/a.wav", "s3://bucket/data/", True),
        ("s3://bucket/data2/a.wav", "s3://bucket/data", False),
        ("s3://bucket2/a.wav", "s3://bucket", False),
        ("s3://bucket/data/../a.wav", "s3://bucket/data", False),
        ("s3://bucket/data/%2e%2e/a.wav", "s3://bucket/data", False),
        ("https://host/data/.\t./a.wav", "https://host/data", False),
        ("https://host@evil/data/a.wav", "https://host", False),
        ("s3://bucket/data/a.zip::file:///secret/a.wav", "s3://bucket/data", False),
    ],
)
@pytest.mark.parametrize("name", ["audio", "text_file", "diarization"])
def test_a_document_names_files_below_the_roots_only(
    rooted: Path, path: str, root: str, is_allowed: bool, name: str
) -> None:
    record = {"doc_id": "d1", name: path.format(folder=rooted)}
    if name == "diarization":
        record["text"] = "words"
    folder = str(rooted / "data")
    named = parse_document(record, folder)
    assert getattr(named, name) == resolve(record[name], folder)
    if is_allowed:
        assert parse_document(record, folder, [root]) == named
        assert parse_document(record, folder, ["/nowhere", root]) == named
        return
    with pytest.raises(DocumentError, match=rf"^document 'd1': {name} ") as error:
        parse_document(record, folder, ["/nowhere", root])
    assert "--root" in str(error.value)


def test_what_lies_outside_the_roots_is_named_with_them(rooted: Path) -> None:
    with pytest.raises(DocumentError) as error:
        parse_document({"doc_id": "d1", "audio": "../data2/a.wav"}, str(rooted / "data"), ["data", "s3://b/"])
    assert str(error.value) == (
        f"document 'd1': audio {rooted}/data/../data2/a.wav is outside {rooted}/data/ and s3://b/ (links "
        "and `..` are followed); move the file there, or allow its folder with another --root"
    )
    with pytest.raises(DocumentError) as error:
        parse_document({"doc_id": "d1", "audio": "s3://b/%61.wav"}, "", ["s3://b"])
    assert str(error.value) == (
        "document 'd1': audio 's3://b/%61.wav' contains %, which may lead out of the folders that --root "
        "allows; rename the file, or write its plain path"
    )


def test_the_manifest_itself_may_lie_outside_the_roots_and_a_text_needs_none(rooted: Path) -> None:
    records = [{"doc_id": "in", "audio": "data/a.wav"}, {"doc_id": "out", "audio": "data2/a.wav"}]
    path = make.manifest(rooted / "m.jsonl", [*records, {"doc_id": "words", "text": "hello"}])
    found = [item for _, item in read_manifest(path, ["data"])]
    assert [item.doc_id for item in found if isinstance(item, Document)] == ["in", "words"]
    [fault] = [item for item in found if isinstance(item, InvalidRow)]
    assert (fault.row, fault.doc_id, fault.error) == (2, "out", "DocumentError")
    assert fault.message.startswith(f"document 'out': audio {rooted}/data2/a.wav is outside {rooted}/data/ ")


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_processes_read_a_manifest_as_this_one_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Relative to its folder, in order, whatever folder the processes started in."""
    records = [{"doc_id": f"d{i}", "audio": f"{i}.wav" if i % 5 else None} for i in range(100)]
    path = tmp_path / f"m.{kind}"
    columns = {name: [record[name] for record in records] for name in ("doc_id", "audio")}
    if kind == "jsonl":
        make.manifest(path, records)
    elif kind == "csv":
        path.write_text("doc_id,audio\n" + "".join(f"{r['doc_id']},{r['audio'] or ''}\n" for r in records))
    else:
        pq.write_table(pa.table(columns), path)
    plain = list(read_manifest(str(path)))
    assert sum(isinstance(item, Document) for _, item in plain) == 80
    monkeypatch.setattr(manifest, "_BLOCK_BYTES", 1000)
    monkeypatch.chdir(tmp_path)
    inside = list(map_blocks(lambda block: list(block.rows()), path.name, ["."]))
    assert [row for rows in inside for row in rows] == plain
    outside = list(map_blocks(lambda block: list(block.rows()), path.name, ["elsewhere"]))
    assert sum(isinstance(item, InvalidRow) for rows in outside for _, item in rows) == 100
    found = list(map_blocks(lambda block: (os.getpid(), list(block.rows())), path.name))
    assert len(found) > 3
    assert [row for _, rows in found for row in rows] == plain
    assert all(process != os.getpid() for process, _ in found)


def test_an_error_in_a_process_or_late_in_the_file_reaches_the_caller(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(manifest, "_BLOCK_BYTES", 1000)
    path = tmp_path / "m.jsonl"
    path.write_bytes(b'{"doc_id": "d", "audio": "a"}\n' * 500 + b'{"doc_id": "\xff"}\n')
    with pytest.raises(ManifestError, match=r"m.jsonl cannot be read as .jsonl: 'utf-8' codec"):
        list(map_blocks(lambda block: list(block.rows()), str(path)))
    csv_path = tmp_path / "m.csv"
    csv_path.write_bytes(b"doc_id,audio\n" + b"d,a\n" * 500 + b"\xff,a\n")
    with pytest.raises(ManifestError, match=r"m.csv cannot be read as .csv: 'utf-8' codec"):
        list(map_blocks(lambda block: list(block.rows()), str(csv_path)))


def test_half_a_character_is_a_fault_and_not_the_end_of_the_run(tmp_path: Path) -> None:
    """It is valid JSON, but no file and no Parquet column can hold it."""
    path = tmp_path / "m.jsonl"
    path.write_text('{"doc_id": "a", "text": "\\ud83d"}\n{"doc_id": "b", "text": "\\ud83d\\ude00"}\n')
    first, second = rows_of(path)
    assert isinstance(first, InvalidRow)
    assert "row 1 is not valid JSON ('utf-8' codec can't encode character" in first.message
    assert isinstance(second, Document)
    assert second.text == "\N{GRINNING FACE}"


def test_the_fault_of_a_shared_id_lists_all_its_rows() -> None:
    fault = duplicate_row(3, "d1", [1, 3])
    assert (fault.row, fault.error) == (3, "DuplicateIdError")
    assert fault.message == "doc_id 'd1' is in rows 1, 3; ids must be unique: give each document its own"
    many = duplicate_row(3, "d1", list(range(1, 1001)))
    assert "is in rows 1, 2, 3, 4, 5, 6, 7, 8, 9, 10 and 990 more; ids must be unique" in many.message


def test_a_row_nested_beyond_reason_is_a_fault_and_its_neighbour_is_read(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    path.write_text("[" * 100_000 + '\n{"doc_id": "a", "text": "words"}\n')
    (_, fault), (row, document) = read_manifest(str(path))
    assert isinstance(fault, InvalidRow)
    assert "row 1 is not valid JSON" in fault.message
    assert isinstance(document, Document)
    assert (row, document.doc_id) == (2, "a")
