"""Whatever a manifest and the files that it names hold, `validate` ends with a report of every row."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hilbert_ray.config import Config, TaskConfig
from hilbert_ray.validation import Probe, validate
from tests import make

GOOD = [
    {"doc_id": "good1", "text": "fine words", "group": "a", "labels": {"topic": "work"}},
    {"doc_id": "good2", "text": "more words", "group": "b", "labels": {"topic": "home"}},
]
HUGE = 10**400
ODD_ROWS: list[Any] = [
    {"doc_id": ["x"], "text": "a"},
    {"doc_id": "split", "text": "a", "split": ["a"]},
    {"doc_id": "group", "text": "a", "group": {"a": [1]}},
    {"doc_id": "nested", "text": "a", "labels": {"topic": [["x"]]}},
    {"doc_id": "deeper", "text": "a", "labels": {"topic": {"x": {"y": [1]}}}},
    {"doc_id": "list", "text": "a", "labels": {"topic": [{"a": 1}]}},
    {"doc_id": "pairs", "text": "a", "labels": [["topic", "a"]]},
    {"doc_id": "times", "text": [{"text": "a", "start": HUGE, "end": HUGE}]},
    {"doc_id": "dict", "text": {"a": 1}},
    {"doc_id": "lists", "text": [[[]]]},
    {"doc_id": "words", "text": [{"text": ["a"]}]},
    {"doc_id": "zero", "audio": "a\0b.wav"},
    {"doc_id": "long", "audio": "x" * 5000},
    {"doc_id": "scheme", "audio": "foo://bar.wav"},
    {"doc_id": "scheme of text", "text_file": "foo://bar.txt"},
    {"doc_id": "chain", "text_file": "::.txt"},
    {"doc_id": "archive", "audio": "zip://x::y.wav"},
    {"doc_id": "attribute", "text": "a", "age": {"x": {"y": [1]}}},
    None,
    5,
    "text",
    [],
]
ODD_LINES = ["[" * 100_000, '{"doc_id":', '{"doc_id": "half", "text": "\\ud800"}', "\x00"]


def written(folder: Path, rows: list[Any], lines: list[str]) -> str:
    path = folder / "m.jsonl"
    path.write_text("".join(f"{line}\n" for line in [*map(json.dumps, rows), *lines]))
    return str(path)


@pytest.mark.parametrize("probe", ["all", 1])
@pytest.mark.parametrize("tasks", [{}, {"topic": TaskConfig(kind="binary", classes=("home", "work"))}])
def test_odd_rows_are_faults_of_their_own_and_the_others_are_counted(
    tmp_path: Path, probe: Probe, tasks: dict[str, TaskConfig]
) -> None:
    manifest = written(tmp_path, [*GOOD, *ODD_ROWS], ODD_LINES)
    report = validate(manifest, Config(tasks=tasks), probe=probe)
    assert report.rows == len(GOOD) + len(ODD_ROWS) + len(ODD_LINES)
    assert report.documents == 2
    assert [fault.row for fault in report.faults] == list(range(3, report.rows + 1))
    assert report.tasks["topic"].documents == {"home": 1, "work": 1}
    assert not any("fault of hilbert_ray" in fault.message for fault in report.faults)
    json.dumps(report.to_dict())
    assert all(line.isprintable() for line in report.text().splitlines())


def test_pipes_devices_and_folders_are_refused_and_nothing_waits_for_them(tmp_path: Path) -> None:
    for ending in ("wav", "txt", "json"):
        os.mkfifo(tmp_path / f"pipe.{ending}")
        (tmp_path / f"zero.{ending}").symlink_to("/dev/zero")
        (tmp_path / f"folder.{ending}").mkdir()
    rows = [
        {"doc_id": f"{name}.{ending}", ("audio" if ending == "wav" else "text_file"): f"{name}.{ending}"}
        for name in ("pipe", "zero", "folder")
        for ending in ("wav", "txt", "json")
    ]
    report = validate(written(tmp_path, [*GOOD, *rows], []))
    assert report.documents == 2
    for fault in report.faults:
        kind = {"p": "a named pipe", "z": "a device", "f": "a folder"}[fault.doc_id[0]]
        assert kind in fault.message, fault
    assert len(report.faults) == len(rows)


@pytest.mark.parametrize(
    "odd", ["null", '"words"', "[" * 100_000, '{"segments": null}', '{"segments": "a"}', "1"]
)
def test_an_odd_transcript_is_a_fault_of_its_row(tmp_path: Path, odd: str) -> None:
    (tmp_path / "odd.json").write_text(odd)
    report = validate(written(tmp_path, [*GOOD, {"doc_id": "odd", "text_file": "odd.json"}], []))
    assert report.rows == 3
    if odd != '"words"':  # a string is a transcript
        [fault] = report.faults
        assert (fault.row, fault.stage, fault.error) == (3, "text", "TranscriptError")


def test_labels_of_several_types_are_a_problem_beside_all_other_faults(tmp_path: Path) -> None:
    records: list[dict[str, Any]] = [
        {"doc_id": "a", "text": "words", "labels": {"mood": "calm", "topic": "work"}},
        {"doc_id": "b", "text": "words", "labels": {"mood": 3, "topic": "home"}},
        {"doc_id": "c", "text": ""},
    ]
    report = validate(make.manifest(tmp_path / "m.jsonl", records))
    assert not report.ok
    [problem] = report.problems
    assert problem.startswith("task `mood` has labels of several types (int, str), so its kind cannot be")
    assert [fault.doc_id for fault in report.faults] == ["c"]
    assert list(report.tasks) == ["topic"]
    assert not any("mood" in warning for warning in report.warnings)
    assert f"problem: {problem}" in report.text().splitlines()


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.just(HUGE)
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(
        ["gone.wav", "odd.json", "odd.txt", "/dev/zero", "s\0", "foo://x", "train", "a/../b", ".txt"]
    ),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
names = st.sampled_from(
    ["audio", "text", "text_file", "group", "labels", "split", "attributes", "channels", "lables", "age", ""]
)
rows = st.fixed_dictionaries(
    {"doc_id": st.sampled_from(["a", "b", "c"]) | values},
    optional={
        "text": st.just("words") | values,
        "labels": st.dictionaries(st.just("topic"), values) | values,
    },
).flatmap(lambda row: st.dictionaries(names, values, max_size=3).map(lambda more: {**more, **row}))


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(rows | values, min_size=1, max_size=6), content=st.text(max_size=40))
def test_any_manifest_gets_a_report(tmp_path: Path, rows: list[Any], content: str) -> None:
    """Rows count once, as a document or as a fault, and no fault is a bug of ours."""
    (tmp_path / "odd.txt").write_bytes(content.encode("utf-8", "surrogatepass"))
    (tmp_path / "odd.json").write_bytes(content.encode("utf-8", "surrogatepass"))
    report = validate(written(tmp_path, rows, []))
    assert report.rows == len(rows)
    assert report.documents + len(report.faults) == report.rows
    for fault in report.faults:
        assert "fault of hilbert_ray" not in fault.message, fault.message
    json.dumps(report.to_dict())
    assert all(line.isprintable() for line in report.text().splitlines())
