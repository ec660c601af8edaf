"""The look at a manifest before anything is computed: counts that add up, faults that name their row."""

import json
from pathlib import Path
from typing import Any

import pytest

from hilbert_ray.config import ConfigError, TaskConfig
from hilbert_ray.document import Document, Label, ManifestError
from hilbert_ray.validate import infer_tasks, validate
from tests import make


def test_a_report_counts_documents_durations_words_groups_and_labels(tmp_path: Path) -> None:
    records = [make.record(tmp_path, number, seconds=1.0 + number) for number in range(4)]
    records.append({"doc_id": "words", "text": "only words here", "group": "g0", "split": "test"})
    records.append({"doc_id": "sound", "audio": "d000.wav", "labels": {"topic": "work"}})
    report = validate(make.manifest(tmp_path / "m.jsonl", records), {})
    assert (report.rows, report.documents, report.faults) == (6, 6, ())
    assert (report.with_audio, report.with_text, report.with_both) == (5, 5, 4)
    assert report.audio_s == pytest.approx(1 + 2 + 3 + 4 + 1)
    assert (report.shortest_s, report.median_s, report.longest_s) == (1.0, 2.0, 4.0)
    assert report.utterances == 16
    assert report.words == 3 + sum(
        len(turn["text"].split()) for record in records[:4] for turn in record["text"]
    )
    assert (report.groups, report.largest_group) == (5, 2)
    assert report.splits == {"none": 5, "test": 1}
    topic = report.tasks["topic"]
    assert (topic.kind, topic.classes, topic.is_inferred, topic.unlabelled) == (
        "binary",
        ("home", "work"),
        True,
        1,
    )
    assert (topic.documents, topic.groups) == ({"home": 2, "work": 3}, {"home": 2, "work": 3})
    assert json.loads(json.dumps(report.to_dict()))["tasks"]["topic"]["documents"] == {"home": 2, "work": 3}


def test_the_text_of_a_report_shows_every_part_of_it(tmp_path: Path) -> None:
    records = [make.record(tmp_path, number) for number in range(3)]
    records.append({"doc_id": "gone", "audio": "gone.wav"})
    lines = validate(make.manifest(tmp_path / "m.jsonl", records), {}).text().splitlines()
    assert lines[0].endswith("m.jsonl: 4 rows, 3 documents, 1 faults")
    assert "  audio        3 documents, 0.00 h" in lines
    assert "  durations    2.0 s to 2.0 s, median 2.0 s" in lines
    assert "  groups       3, the largest with 1 documents" in lines
    assert "task topic (binary, inferred from the labels): 0 unlabelled" in lines
    assert "  work       2 documents  66.7%  in 2 groups" in lines
    assert "warning: task `topic`: class 'home' is in 1 groups; no test fold can hold it while" in lines[-3]
    assert "warning: there are 3 groups; folds that keep groups apart need at least one each" in lines
    assert lines[-1].startswith("fault in row 4, 'gone' (audio, ")
    assert "gone.wav" in lines[-1]


@pytest.mark.parametrize(
    ("changes", "stage", "message"),
    [
        ({"audio": "gone.wav"}, "audio", "gone.wav"),
        ({"audio": "words.txt"}, "audio", "words.txt"),
        ({"text": None, "text_file": "gone.vtt"}, "text", "document 'd000': no text_file at "),
        (
            {"text": [{"text": "a", "start": 0, "end": 1}, {"text": "late", "start": 2, "end": 9}]},
            "text",
            "document 'd000': utterance 1 ends at 9.00 s, but the recording lasts 2.00 s; give times in",
        ),
        (
            {"text": [{"text": "a", "role": "judge"}]},
            "text",
            "document 'd000' has no utterance of segment.roles = ['participant']; its roles are ['judge']",
        ),
        ({"text": ["a"]}, "text", "its roles are not given: name roles that it has, or leave it out"),
        (
            {"labels": {"topic": "sport"}},
            "labels",
            "document 'd000', task `topic`: label 'sport' is no class of it",
        ),
        ({"labels": [1]}, "manifest", "labels is [1]; it must map each task to its value"),
    ],
)
def test_each_fault_is_named_with_its_row_and_stage(
    tmp_path: Path, changes: dict[str, Any], stage: str, message: str
) -> None:
    (tmp_path / "words.txt").write_text("no audio")
    records = [make.record(tmp_path, 1), make.record(tmp_path, 0, **changes)]
    tasks = {"topic": TaskConfig(kind="binary", classes=("work", "home"))}
    report = validate(make.manifest(tmp_path / "m.jsonl", records), tasks, roles=["participant"])
    [fault] = report.faults
    assert (fault.row, fault.doc_id, fault.stage) == (2, "d000", stage)
    assert message in fault.message
    assert (report.rows, report.documents) == (2, 1)


def test_a_transcript_may_reach_a_little_beyond_a_rounded_header(tmp_path: Path) -> None:
    record = make.record(tmp_path, 0, text=[{"text": "a", "start": 0, "end": 2.4}])
    assert validate(make.manifest(tmp_path / "m.jsonl", [record]), {}).faults == ()


def test_all_rows_of_a_shared_id_are_faults_and_are_counted_nowhere(tmp_path: Path) -> None:
    records = [make.record(tmp_path, 0), make.record(tmp_path, 1), {"doc_id": "d000", "text": "again"}]
    report = validate(make.manifest(tmp_path / "m.jsonl", records), {})
    assert [fault.row for fault in report.faults] == [1, 3]
    assert "stands in rows 1, 3" in report.faults[0].message
    assert (report.documents, report.with_audio) == (1, 1)


def test_labels_of_tasks_that_are_not_declared_are_said_to_be_left_out(tmp_path: Path) -> None:
    records = [
        make.record(tmp_path, number, labels={"topic": "work", "age": 40 + number}) for number in range(2)
    ]
    tasks = {"age": TaskConfig(kind="regression")}
    report = validate(make.manifest(tmp_path / "m.jsonl", records), tasks)
    assert "task `topic` (2 labels) is left out: the settings do not declare it" in report.warnings
    assert (report.tasks["age"].unlabelled, report.tasks["age"].documents) == (0, {})
    inferred = validate(make.manifest(tmp_path / "m.jsonl", records), {})
    assert "task `topic` (2 labels) is left out: all its labels are alike" in inferred.warnings


def test_a_manifest_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="no manifest at"):
        validate(str(tmp_path / "m.jsonl"), {})


def labelled(*labels: Label) -> list[Document]:
    return [Document(doc_id=str(i), text="a", labels={"task": label}) for i, label in enumerate(labels)]


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ((True, False), TaskConfig(kind="binary", classes=("false", "true"))),
        (("no", "yes", "no"), TaskConfig(kind="binary", classes=("no", "yes"))),
        ((1, 0, 1), TaskConfig(kind="binary", classes=("0", "1"))),
        (("b", "a", "c"), TaskConfig(kind="multiclass", classes=("a", "b", "c"))),
        ((10, 2, 9), TaskConfig(kind="ordinal", classes=("2", "9", "10"))),
        (tuple(range(11)), TaskConfig(kind="regression")),
        ((1, 2.5), TaskConfig(kind="regression")),
        ((0.5, 1.0), TaskConfig(kind="regression")),
        ((["x"], ["y", "x"], []), TaskConfig(kind="multilabel", classes=("x", "y"))),
        (({"x": 1, "y": None}, ["z"]), TaskConfig(kind="multilabel", classes=("x", "y", "z"))),
    ],
)
def test_tasks_are_inferred_from_labels(labels: tuple[Label, ...], expected: TaskConfig) -> None:
    assert infer_tasks(iter(labelled(*labels))) == {"task": expected}


def test_a_task_whose_labels_are_all_alike_is_left_out() -> None:
    assert infer_tasks(iter(labelled("a", "a"))) == {}


def test_labels_of_several_sorts_are_refused_and_named() -> None:
    with pytest.raises(
        ConfigError, match=r"task `task` has labels of several sorts \(int, str\), so its kind"
    ):
        infer_tasks(iter(labelled("a", 1)))
