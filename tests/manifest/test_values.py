"""Values of manifests: lists that programs print, labels and attributes, names like a field's."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hilbert_ray.config import Config, ConfigError, TaskConfig
from hilbert_ray.document import (
    Document,
    DocumentError,
    InvalidRow,
    Label,
    Utterance,
    encode_label,
    infer_tasks,
)
from hilbert_ray.document.attributes import doubtful_name, resembled_field
from hilbert_ray.document.records import parse_document
from hilbert_ray.manifest import ManifestError, read_manifest
from hilbert_ray.validation import validate
from tests import make


def rows_of(path: Path) -> list[Document | InvalidRow]:
    return [item for _, item in read_manifest(str(path))]


def labelled(*labels: Any) -> list[Document]:  # noqa: ANN401 - any label
    return [Document(doc_id=str(i), text="a", labels={"t": label}) for i, label in enumerate(labels)]


TURNS: list[dict[str, Any]] = [
    {"text": 'it\'s "fine"', "start": 0.0, "end": 1.5, "role": "patient"},
    {"text": "I see", "start": 2.0, "end": 3.0, "role": None},
]
UTTERANCES = (
    Utterance(text='it\'s "fine"', start=0.0, end=1.5, role="patient"),
    Utterance(text="I see", start=2.0, end=3.0),
)


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        (str(TURNS), UTTERANCES),
        (str([{**turn, "start": np.float64(turn["start"])} for turn in TURNS]), UTTERANCES),
        (repr(np.array(TURNS, dtype=object)), UTTERANCES),
        (str(["one", "two"]), (Utterance(text="one"), Utterance(text="two"))),
        (str(tuple(TURNS)), UTTERANCES),
        (str([{"text": "a", "start": float("nan"), "end": float("nan")}]), (Utterance(text="a"),)),
        ("[inaudible] yes", "[inaudible] yes"),
        ("(laughs) [sic]", "(laughs) [sic]"),
        ("array of things", "array of things"),
        ("[...] and then", "[...] and then"),
    ],
)
def test_a_list_that_python_printed_is_read_and_speech_in_brackets_is_speech(
    tmp_path: Path, cell: str, expected: object
) -> None:
    pd.DataFrame({"doc_id": ["d"], "text": [cell]}).to_csv(tmp_path / "m.csv", index=False)
    pd.DataFrame({"doc_id": ["d"], "text": [cell]}).to_parquet(tmp_path / "m.parquet")
    make.manifest(tmp_path / "m.jsonl", [{"doc_id": "d", "text": cell}])
    for kind in ("csv", "parquet", "jsonl"):
        [document] = rows_of(tmp_path / f"m.{kind}")
        assert isinstance(document, Document), document
        assert document.text == expected


@pytest.mark.parametrize(
    "cell",
    [
        str(TURNS)[:-20],
        str(np.array(TURNS, dtype=object)),
        "[{'text': 'one'} {'text': 'two'}]",
        "[Utterance(text='one')]",
        "{'text': open('x')}",
        "[" * 5000 + "'a'",
    ],
)
def test_a_list_that_cannot_be_read_is_never_speech(tmp_path: Path, cell: str) -> None:
    pd.DataFrame({"doc_id": ["d"], "text": [cell]}).to_csv(tmp_path / "m.csv", index=False)
    [fault] = rows_of(tmp_path / "m.csv")
    assert isinstance(fault, InvalidRow)
    assert fault.doc_id == "d"
    assert "one" not in fault.message


@pytest.mark.parametrize("word", ["NA", "NaN", "None", "null", "N/A", "", "nan", "<NA>", "NULL", "#N/A"])
def test_words_for_a_missing_value_are_no_labels(tmp_path: Path, word: str) -> None:
    (tmp_path / "m.csv").write_text(
        "doc_id,text,labels.t,sex\n"
        + "".join(f"d{i},some words,{label},{label}\n" for i, label in enumerate([0, 1, 0, 1, word]))
    )
    report = validate(str(tmp_path / "m.csv"))
    task = report.tasks["t"]
    assert (task.kind, task.classes, task.labelled, task.unlabelled) == ("binary", ("0", "1"), 4, 1)
    assert (report.attributes["sex"].values, report.attributes["sex"].missing) == (2, 1)


def test_a_declared_class_may_be_named_like_a_missing_value() -> None:
    task = TaskConfig(kind="ordinal", classes=("None", "Mild"))
    assert encode_label(task, "None") == 0
    assert encode_label(task, "NA") is None
    assert encode_label(TaskConfig(kind="regression"), "NA") is None


@pytest.mark.parametrize(
    ("classes", "label", "expected"),
    [
        (("0", "1"), 1.0, 1),
        (("0", "1"), "1.0", 1),
        (("0", "1"), "01", 1),
        (("0.0", "1.0"), 1, 1),
        (("01", "02"), 2, 1),
        (("false", "true"), "True", 1),
        (("False", "True"), True, 1),
        (("1", "1.0"), "1.0", 1),
    ],
)
def test_a_class_is_the_same_number_or_truth_value_however_written(
    classes: tuple[str, ...], label: Label, expected: int
) -> None:
    assert encode_label(TaskConfig(kind="binary", classes=classes), label) == expected


@pytest.mark.parametrize(
    ("labels", "kind", "classes"),
    [
        ((0.0, 1.0, 1.0), "binary", ("0", "1")),
        ((0.0, 1.0, 2.0), "ordinal", ("0", "1", "2")),
        ((1, "1", 0, "0"), "binary", ("0", "1")),
        ((True, "false"), "binary", ("false", "true")),
        (("1", "2", "3"), "multiclass", ("1", "2", "3")),
        (tuple(float(i) for i in range(12)), "regression", ()),
        ((1, "2.5"), "regression", ()),
    ],
)
def test_tasks_follow_values_and_not_their_spelling(
    labels: tuple[Any, ...], kind: str, classes: tuple[str, ...]
) -> None:
    assert infer_tasks(labelled(*labels)) == {"t": TaskConfig(kind=kind, classes=classes)}  # type: ignore[arg-type]


def test_a_word_among_numbers_is_named() -> None:
    with pytest.raises(
        ConfigError, match=r"cannot be inferred \(one label is 'unknown'\); use one type, write"
    ):
        infer_tasks(labelled(*range(20), "unknown"))


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_scores_of_a_table_are_a_regression_declared_or_not(tmp_path: Path, kind: str) -> None:
    frame = pd.DataFrame({"doc_id": [f"d{i}" for i in range(30)], "text": "words", "labels.phq": range(30)})
    frame.loc[3, "labels.phq"] = None
    path = tmp_path / f"m.{kind}"
    frame.to_csv(path, index=False) if kind == "csv" else frame.to_parquet(path)
    inferred = validate(str(path))
    declared = validate(str(path), Config(tasks={"phq": TaskConfig(kind="regression")}))
    for report in (inferred, declared):
        assert report.faults == ()
        assert (report.tasks["phq"].kind, report.tasks["phq"].labelled) == ("regression", 29)
    assert [w for w in inferred.warnings if "phq" in w] == [
        "task `phq` is inferred as a regression, since its labels are many numbers; if they are classes, "
        "declare "
        "the task in the settings"
    ]
    ordinal = Config(tasks={"phq": TaskConfig(kind="ordinal", classes=tuple(map(str, range(30))))})
    assert validate(str(path), ordinal).faults == ()


def test_many_classes_are_one_warning_and_alike_ones_are_named(tmp_path: Path) -> None:
    rows = [{"doc_id": f"d{i}", "text": "words", "labels": {"note": f"free text {i}"}} for i in range(54)]
    rows += [
        {"doc_id": f"e{i}", "text": "words", "labels": {"sex": sex}}
        for i, sex in enumerate(["F", "f ", "m"] * 2)
    ]
    warnings = validate(make.manifest(tmp_path / "m.jsonl", rows)).warnings
    [many] = [warning for warning in warnings if "note" in warning]
    assert "54 of 54 classes (such as 'free text 0'" in many
    assert "task `sex`: the classes 'F' and 'f ' differ in case or spaces only; are they one?" in warnings


def test_what_is_not_a_field_is_an_attribute(tmp_path: Path) -> None:
    rows = [
        {"doc_id": "a", "text": "w", "age": 34, "attributes": {"sex": "f", "smoker": False}, "device": None},
        {"doc_id": "b", "text": "w", "age": 51.5, "site": "Zürich"},
    ]
    first, second = rows_of(Path(make.manifest(tmp_path / "m.jsonl", rows)))
    assert isinstance(first, Document)
    assert isinstance(second, Document)
    assert first.attributes == {"age": 34, "sex": "f", "smoker": False}
    assert second.attributes == {"age": 51.5, "site": "Zürich"}
    report = validate(str(tmp_path / "m.jsonl"))
    assert {name: (a.values, a.missing) for name, a in report.attributes.items()} == {
        "age": (2, 0), "sex": (1, 1), "site": (1, 1), "smoker": (1, 1),
    }  # fmt: skip
    assert "attribute sex: 1 value, missing in 1 documents" in report.text().splitlines()


@pytest.mark.parametrize(
    ("name", "field"),
    [
        ("lables", "labels"), ("label", "labels"), ("labels_mood", "labels"), ("audio_path", "audio"),
        ("audoi", "audio"), ("Audio", "audio"), ("txt", "text"), ("tetx", "text"), ("text.1", "text"),
        ("transcript", "text"), ("textfile", "text_file"), ("docid", "doc_id"), ("spliit", "split"),
        ("speaker", "group"), ("channel", "channels"), ("text", None), ("age", None), ("test", None),
        ("language", None), ("context", None), ("next", None), ("location", None), ("site", None),
    ],
)  # fmt: skip
def test_names_that_look_like_a_field(name: str, field: str | None) -> None:
    assert resembled_field(name) == field


def test_a_doubtful_attribute_is_warned_about(tmp_path: Path) -> None:
    rows = [
        {"doc_id": f"d{i}", "text": "words", "speaker": "s1", "partition": "test", "label": i}
        for i in range(3)
    ]
    warnings = validate(make.manifest(tmp_path / "m.jsonl", rows)).warnings
    assert any(
        w.startswith("`label` is an attribute; if it is to be predicted, name it `labels.label`")
        for w in warnings
    )
    assert any(w.startswith("`partition` is an attribute and holds nothing out") for w in warnings)
    assert any(w.startswith("`speaker` is an attribute, and no document has a `group`") for w in warnings)
    for row in rows:
        row["group"] = "g"
    warnings = validate(make.manifest(tmp_path / "m.jsonl", rows)).warnings
    assert not any("`speaker`" in warning for warning in warnings)
    assert doubtful_name("age", ["group", "split"]) is None


def test_a_plain_column_is_the_label_of_a_declared_task(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text(
        "doc_id,text,phq,age\n" + "".join(f"d{i},words,{i},{40 + i}\n" for i in range(6))
    )
    report = validate(str(tmp_path / "m.csv"), Config(tasks={"phq": TaskConfig(kind="regression")}))
    assert report.tasks["phq"].labelled == 6
    assert list(report.attributes) == ["age"]
    assert list(validate(str(tmp_path / "m.csv")).attributes) == ["age", "phq"]


def test_types_of_a_parquet_table_become_plain_values(tmp_path: Path) -> None:
    import datetime
    from decimal import Decimal

    table = pa.table(
        {
            "doc_id": pa.array([300, 301], pa.int64()),
            "text": pa.array([TURNS, [{"text": "only", "start": None, "end": None, "role": None}]]),
            "group": pa.array([7.0, None]),
            "labels.level": pa.array([1.0, None]),
            "labels.themes": pa.array([["art"], []]),
            "labels": pa.array([[("mood", "low")], []], pa.map_(pa.string(), pa.string())),
            "seen": pa.array([datetime.date(2024, 5, 1), None]),
            "price": pa.array([Decimal("1.50"), Decimal("2")]),
            "__index_level_0__": pa.array([5, 9]),
        }
    )
    pq.write_table(table, tmp_path / "m.parquet")
    first, second = rows_of(tmp_path / "m.parquet")
    assert isinstance(first, Document), first
    assert isinstance(second, Document), second
    assert (first.doc_id, first.group, second.group) == ("300", "7", "301")
    assert first.text == UTTERANCES
    assert first.labels == {"mood": "low", "level": 1.0, "themes": ["art"]}
    assert second.labels == {"themes": []}
    assert first.attributes == {"seen": "2024-05-01", "price": 1.5}
    assert second.attributes == {"price": 2}


def test_a_table_without_ids_or_with_a_misspelt_column_is_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"doc_id": ["a"], "audio_filepath": ["a.wav"]}), tmp_path / "m.parquet")
    with pytest.raises(ManifestError, match="`audio_filepath` looks like the field `audio`, which is absent"):
        rows_of(tmp_path / "m.parquet")


def test_attributes_change_neither_labels_nor_what_features_depend_on(tmp_path: Path) -> None:
    plain = parse_document({"doc_id": "a", "audio": "a.wav"})
    known = parse_document({"doc_id": "a", "audio": "a.wav", "age": 3, "note": float("nan")})
    assert known.attributes == {"age": 3}
    assert (plain.audio, plain.labels, plain.group) == (known.audio, known.labels, known.group)
    with pytest.raises(DocumentError, match="attribute `age` has two values"):
        parse_document({"doc_id": "a", "audio": "a.wav", "age": 3, "attributes": {"age": 4}})
