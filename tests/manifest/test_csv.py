"""CSV in every dialect: what a table holds is read, and a row that holds something else is a fault."""

import csv
import io
import os
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hilbert_ray.document import Document, InvalidRow
from hilbert_ray.manifest import ManifestError, manifest_notes, read_manifest
from hilbert_ray.manifest import delimited as delimited


def rows_of(path: Path) -> list[Document | InvalidRow]:
    return [item for _, item in read_manifest(str(path))]


def documents_of(path: Path) -> list[Document]:
    rows = rows_of(path)
    faults = [row.message for row in rows if isinstance(row, InvalidRow)]
    assert faults == []
    return [row for row in rows if isinstance(row, Document)]


def written(folder: Path, content: str | bytes, name: str = "m.csv") -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


TABLE = "doc_id,text,group,labels.mood,age\na,hello,g1,low,34\nb,bye,g2,high,51\n"


@pytest.mark.parametrize(
    ("encoding", "name"),
    [
        ("utf-8-sig", "m.csv"),
        ("utf-16", "m.csv"),
        ("utf-16", "m.tsv"),
        ("utf-32", "m.csv"),
        ("utf-8", "m.csv"),
    ],
)
@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_table_is_read_in_every_encoding_with_every_delimiter(
    tmp_path: Path, encoding: str, name: str, delimiter: str, end: str
) -> None:
    content = TABLE.replace("hello", "hällo").replace(",", delimiter).replace("\n", end)
    path = written(tmp_path, content.encode(encoding), name)
    first, second = documents_of(path)
    assert (first.doc_id, first.text, first.group, first.labels) == ("a", "hällo", "g1", {"mood": "low"})
    assert (first.attributes, second.attributes) == ({"age": 34}, {"age": 51})
    notes = " ".join(manifest_notes(str(path)))
    assert ("UTF-" in notes) == encoding.startswith(("utf-16", "utf-32"))
    assert ("cells are separated by" in notes) == (delimiter != ",")


WORDS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\r"), min_size=1, max_size=30)
CELLS = WORDS.filter(lambda text: text.strip() and text.lstrip()[0] not in "[{(a" and text.lower() not in (
    "nan", "na", "null", "none", "n/a", "#n/a", "<na>", "#na", "-nan"))  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(CELLS, st.floats(allow_nan=False, allow_infinity=False) | st.integers(-99, 99)), min_size=1
    ),
    st.sampled_from([",", ";", "\t", "|"]),
    st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC]),
    st.sampled_from(["\n", "\r\n"]),
    st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
)
def test_any_text_and_number_that_csv_writes_is_read_back(
    tmp_path_factory: pytest.TempPathFactory,
    values: list[tuple[str, float]],
    delimiter: str,
    quoting: Any,  # noqa: ANN401 - a constant of csv
    end: str,
    encoding: str,
) -> None:
    # A tab and a line end in one cell are what a table without quotes looks like.
    values = [(text.replace("\t", " ") if delimiter == "\t" else text, number) for text, number in values]
    table = io.StringIO()
    writer = csv.writer(table, delimiter=delimiter, quoting=quoting, lineterminator=end)
    writer.writerow(["doc_id", "text", "labels.score"])
    writer.writerows([f"d{i}", text, number] for i, (text, number) in enumerate(values))
    path = written(tmp_path_factory.mktemp("csv"), table.getvalue().encode(encoding))
    documents = documents_of(path)
    # A reader of CSV keeps line ends inside quotes as they are.
    assert [document.text for document in documents] == [text for text, _ in values]
    assert [document.labels["score"] for document in documents] == [number for _, number in values]


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.none() | st.booleans() | st.integers(-5, 5), min_size=1, max_size=8),
    st.lists(st.none() | st.sampled_from(["m", "f", "007", "1-2"]), min_size=8, max_size=8),
    st.sampled_from([",", ";", "\t"]),
    st.booleans(),
)
def test_what_pandas_writes_as_csv_and_as_parquet_is_the_same(
    tmp_path_factory: pytest.TempPathFactory,
    labels: list[bool | int | None],
    sites: list[str | None],
    delimiter: str,
    with_index: bool,
) -> None:
    """Labels with gaps, codes with leading zeros, and the index that pandas adds."""
    folder = tmp_path_factory.mktemp("pandas")
    frame = pd.DataFrame(
        {
            "doc_id": [f"d{i}" for i in range(len(labels))],
            "text": "some words",
            "labels.flag": pd.array([None if v is None else bool(v) for v in labels], dtype="boolean"),
            "labels.level": pd.array([None if v is None else int(v) for v in labels], dtype="Int64"),
            "site": sites[: len(labels)],
        }
    )
    frame.to_csv(folder / "m.csv", sep=delimiter, index=with_index)
    frame.to_parquet(folder / "m.parquet", index=with_index)
    documents = documents_of(folder / "m.csv")
    assert documents == documents_of(folder / "m.parquet")
    for document, label, site in zip(documents, labels, sites, strict=False):
        assert document.labels.get("level") == (None if label is None else int(label))
        assert document.labels.get("flag") is (None if label is None else bool(label))
        assert document.attributes.get("site") == site
    assert any("pandas" in note for note in manifest_notes(str(folder / "m.csv"))) == with_index


@pytest.mark.parametrize(
    ("rows", "message", "doc_id"),
    [
        ("a,one, two,g,1", "row 1 (line 2) has 5 cells, the header has 4; quote cells that hold commas", "a"),
        ("a,one", "row 1 (line 2) has 2 cells, the header has 4", "a"),
        ('a,"one" two,g,1', "row 1 (line 2) has text after the closing quote of a cell", ""),
        ('a,"one\n\ntwo,g,1', "row 1 (lines 2 to 5) has a quote that is opened and never closed", ""),
        (",one,g,1", "doc_id is None; it must be a non-empty string", ""),
        ("a,one,NaN,1", "group is 'NaN'; it must be text or a number", "a"),
        ("nan,one,g,1", "doc_id is 'nan'", "nan"),
    ],
)
def test_a_row_with_other_cells_than_the_header_is_a_fault_and_the_next_is_read(
    tmp_path: Path, rows: str, message: str, doc_id: str
) -> None:
    path = written(tmp_path, f"doc_id,text,group,labels.x\n{rows}\nb,fine,g,0\n")
    first, *others = rows_of(path)
    assert isinstance(first, InvalidRow)
    assert message in first.message
    assert (first.row, first.doc_id) == (1, doc_id)
    # A quote that is never closed takes all that follows with it, and says so.
    assert [other.doc_id for other in others] == ([] if "never closed" in message else ["b"])


def test_quotes_that_join_rows_of_a_table_with_tabs_are_seen(tmp_path: Path) -> None:
    """Cell by cell the row looks fine: id, text and group; but its text holds two rows."""
    path = written(tmp_path, 'doc_id\ttext\tgroup\na\t"Hello\tg1\nb\tBye"\tg2\nc\tfine\tg3\n', "m.tsv")
    fault, document = rows_of(path)
    assert isinstance(fault, InvalidRow)
    assert (
        "row 1 (lines 2 to 3) has a cell that begins with a quote and reaches over several rows"
        in fault.message
    )
    assert document.doc_id == "c"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "has no rows; its first line must name the columns"),
        ("\n\n", "has no rows"),
        ("doc_id,text\n", "has no rows; write one row for each document"),
        ("doc_id,text\n,\n", "has no rows; write one row for each document"),
        ("doc_id,text,doc_id\na,b,c\n", "the column `doc_id` is there 2 times (columns 1, 3)"),
        ("id,text\na,b\n", "`id` looks like the field `doc_id`, which is absent: rename it to `doc_id`"),
        ("doc_id,audio_path\na,b\n", "`audio_path` looks like the field `audio`, which is absent: rename"),
        (
            "doc_id,audio,txt\na,b,c\n",
            "`txt` looks like the field `text`, which is absent: rename it to `text`",
        ),
        ("doc_id,Audio\na,b\n", "`Audio` looks like the field `audio`, which is absent"),
        ("doc_id,path\na,b\n", "`path` looks like the field `audio`, which is absent"),
        ("name,text\na,b\n", "there is no column `doc_id`; the columns are name, text"),
        (",text\na,b\n", "there is no column `doc_id`; the first column has no name: if it holds the ids"),
        (
            "doc_id;text,group;labels.x\n",
            "the header holds semicolons and commas, so what separates its cells",
        ),
        ("doc_id,labels.,text\na,b,c\n", "the column `labels.` names no label"),
        ('"doc_id,text\na,b\n', "a quote in the header is opened and not closed"),
        (b"PK\x03\x04rest", "is an Excel workbook or another ZIP file: save it as CSV (UTF-8)"),
        (b"version https://git-lfs.github.com/spec/v1\n", "run `git lfs pull`"),
        (TABLE.encode("utf-16-le"), "UTF-16 without a byte-order mark; save it as UTF-8"),
        ("doc_id,text\na,k\xe4se\n".encode("latin-1"), "save it as UTF-8 (in Excel: CSV UTF-8)"),
    ],
)
def test_a_table_that_cannot_be_meant_is_refused(tmp_path: Path, content: str | bytes, message: str) -> None:
    with pytest.raises(ManifestError) as caught:
        rows_of(written(tmp_path, content))
    assert message in str(caught.value)


def test_a_message_about_a_header_shows_no_speech(tmp_path: Path) -> None:
    path = written(tmp_path, "s1,I told nobody about this before today,g1\ns2,nor did I,g2\n")
    with pytest.raises(ManifestError, match=r"the columns are s1, \(a long text\), g1"):
        rows_of(path)


def test_excel_says_its_delimiter_and_writes_decimal_commas_and_empty_columns(tmp_path: Path) -> None:
    path = written(
        tmp_path, "sep=;\r\ndoc_id;text;labels.score;;\r\na;hello, you;3,5;;\r\nb;bye;4;;\r\n;;;;\r\n"
    )
    documents = documents_of(path)
    assert [(d.text, d.labels["score"]) for d in documents] == [("hello, you", 3.5), ("bye", 4)]
    assert "numbers like 3,5 have a decimal comma" in manifest_notes(str(path))[0]
    filled = written(tmp_path, "doc_id,text,,\na,hello,,x\n", "filled.csv")
    [fault] = rows_of(filled)
    assert isinstance(fault, InvalidRow)
    assert fault.message == "row 1: column 4 has no name, but holds a value: name it, or remove it"


def test_an_index_of_text_is_a_column_without_a_name(tmp_path: Path) -> None:
    [fault] = rows_of(written(tmp_path, ",doc_id,text\nfirst,a,hello\n"))
    assert isinstance(fault, InvalidRow)
    assert "row 1: column 1 has no name, but holds a value: name it, or remove it; pandas" in fault.message
    again = written(tmp_path, "Unnamed: 0,doc_id,text\n7,a,hello\n", "again.csv")
    [document] = documents_of(again)
    assert document.attributes == {}
    assert manifest_notes(str(again)) == (
        "the column `Unnamed: 0` is the index of a pandas table and is not used",
    )


def test_cells_of_any_length_and_spaces_after_delimiters_are_read(tmp_path: Path) -> None:
    long = "word " * 60_000
    path = written(tmp_path, f"doc_id, text, group\na, {long}, g1\n")
    [document] = documents_of(path)
    assert (document.text, document.group) == (long, "g1")


@pytest.mark.parametrize("compression", ["gz", "bz2", "xz"])
def test_a_compressed_table_is_read_and_half_of_one_is_refused(tmp_path: Path, compression: str) -> None:
    frame = pd.DataFrame(
        {"doc_id": [f"d{i}" for i in range(500)], "text": [f"word {i * i}" for i in range(500)]}
    )
    path = tmp_path / f"m.csv.{compression}"
    frame.to_csv(path, index=False)
    assert [document.text for document in documents_of(path)] == frame["text"].to_list()
    path.write_bytes(path.read_bytes()[:-60])
    with pytest.raises(ManifestError, match="is cut off or damaged"):
        rows_of(path)


def test_what_is_no_regular_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "m.csv")
    with pytest.raises(ManifestError, match="is not a regular file; manifests are read twice"):
        rows_of(tmp_path / "m.csv")
    with pytest.raises(ManifestError, match="is a folder; name the manifest in it"):
        rows_of(tmp_path)


def test_a_line_that_never_ends_is_refused_before_memory_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delimited, "LONGEST", 1000)
    with pytest.raises(ManifestError, match="has a line of more than 0 MiB"):
        rows_of(written(tmp_path, f"doc_id,text\na,{'x' * 2000}\n"))
