"""The check of a manifest before anything is computed: counts that add up, invalid rows with their number."""

import json
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hilbert_ray.config import Config, ConfigError, SegmentConfig, TaskConfig
from hilbert_ray.document.labels import encode_label, infer_tasks
from hilbert_ray.document.records import Document, Label
from hilbert_ray.manifest import ManifestError
from hilbert_ray.manifest import blocks as manifests
from hilbert_ray.transcript import LoadedText, load_text
from hilbert_ray.validation import checks
from hilbert_ray.validation.driver import _DIGEST, _digest, _draw, _shared, validate
from tests import make


def test_a_report_counts_documents_durations_words_groups_and_labels(tmp_path: Path) -> None:
    records = [make.record(tmp_path, number, seconds=1.0 + number) for number in range(4)]
    records[0]["split"] = "test"
    records.append({"doc_id": "words", "text": "only words here", "group": "g0", "split": "test"})
    records.append({"doc_id": "sound", "audio": "d000.wav", "labels": {"topic": "work"}})
    report = validate(make.manifest(tmp_path / "m.jsonl", records))
    assert (report.rows, report.documents, report.faults) == (6, 6, ())
    assert (report.with_audio, report.with_text, report.with_both) == (5, 5, 4)
    assert report.audio_s == pytest.approx(1 + 2 + 3 + 4 + 1)
    assert (report.shortest_s, report.median_s, report.longest_s) == (1.0, 2.0, 4.0)
    assert report.utterances == 16
    assert report.words == 3 + sum(
        len(turn["text"].split()) for record in records[:4] for turn in record["text"]
    )
    assert (report.groups, report.largest_group) == (5, 2)
    assert report.splits == {"none": 4, "test": 2}
    topic = report.tasks["topic"]
    assert (topic.kind, topic.classes, topic.is_inferred) == ("binary", ("home", "work"), True)
    assert (topic.labelled, topic.unlabelled) == (5, 1)
    assert (topic.documents, topic.groups) == ({"home": 2, "work": 3}, {"home": 2, "work": 3})
    written = json.loads(json.dumps(report.to_dict()))["tasks"]["topic"]
    assert (written["labelled"], written["unlabelled"]) == (5, 1)
    assert written["documents"] == {"home": 2, "work": 3}


def test_without_a_valid_document_nothing_is_said_of_groups(tmp_path: Path) -> None:
    report = validate(make.manifest(tmp_path / "m.jsonl", [{"doc_id": "gone", "audio": "gone.wav"}]))
    assert (report.documents, report.warnings) == (0, ())


def test_the_text_of_a_report_shows_every_part_of_it(tmp_path: Path) -> None:
    records = [make.record(tmp_path, number) for number in range(3)]
    records.append({"doc_id": "gone", "audio": "gone.wav"})
    lines = validate(make.manifest(tmp_path / "m.jsonl", records)).text().splitlines()
    assert lines[0].endswith("m.jsonl: 4 rows, 3 valid documents, 1 invalid rows")
    assert "  audio        3 documents, 0.00 h" in lines
    assert "  durations    2.0 s to 2.0 s, median 2.0 s" in lines
    assert "  groups       3, the largest with 1 documents" in lines
    assert "task topic (binary, inferred from the labels): 3 labelled, 0 unlabelled" in lines
    assert "  work       2 documents  66.7%  in 2 groups" in lines
    assert "warning: task `topic`: class 'home' occurs in 1 group; cross-validation needs at" in lines[-5]
    assert "warning: the manifest has only 3 groups; folds keep groups together" in lines[-4]
    assert lines[-3] == "invalid rows: 1 of 4; --json lists them all"
    assert lines[-2] == "  1 row (audio, AudioNotFoundError):"
    assert lines[-1].startswith("    row 4, 'gone': ")
    assert "gone.wav" in lines[-1]


@pytest.mark.parametrize(
    ("changes", "stage", "message"),
    [
        ({"audio": "gone.wav"}, "audio", "gone.wav"),
        ({"audio": "words.txt"}, "audio", "words.txt"),
        ({"text": None, "text_file": "gone.vtt"}, "text", "document 'd000': there is no text_file "),
        (
            {"text": [{"text": "a", "start": 0, "end": 1}, {"text": "late", "start": 2, "end": 9}]},
            "text",
            "document 'd000': utterance 1 ends at 9.00 s, but the recording lasts 2.00 s; write times in",
        ),
        (
            {"text": [{"text": "a", "role": "judge"}]},
            "text",
            "document 'd000' has no utterance of segment.roles = ['participant']; its roles are ['judge']",
        ),
        ({"text": ["a"]}, "text", "its roles are unknown: name roles that it has, or remove the document"),
        (
            {"labels": {"topic": "sport"}},
            "labels",
            "document 'd000', task `topic`: unknown class 'sport', expected one of work, home",
        ),
        ({"labels": [1]}, "manifest", "labels is [1]; it must map each task to its value"),
    ],
)
def test_each_invalid_row_is_named_with_its_stage(
    tmp_path: Path, changes: dict[str, Any], stage: str, message: str
) -> None:
    (tmp_path / "words.txt").write_text("no audio")
    records = [make.record(tmp_path, 1), make.record(tmp_path, 0, **changes)]
    config = Config(tasks=TOPIC, segment=SegmentConfig(roles=("participant",)))
    report = validate(make.manifest(tmp_path / "m.jsonl", records), config)
    [fault] = report.faults
    assert (fault.row, fault.doc_id, fault.stage) == (2, "d000", stage)
    assert message in fault.message
    assert (report.rows, report.documents) == (2, 1)


def test_a_transcript_may_reach_a_little_beyond_a_rounded_header(tmp_path: Path) -> None:
    record = make.record(tmp_path, 0, text=[{"text": "a", "start": 0, "end": 2.4}])
    assert validate(make.manifest(tmp_path / "m.jsonl", [record])).faults == ()


def test_all_rows_of_a_shared_id_are_invalid_and_are_counted_nowhere(tmp_path: Path) -> None:
    records = [make.record(tmp_path, 0), make.record(tmp_path, 1), {"doc_id": "d000", "text": "again"}]
    report = validate(make.manifest(tmp_path / "m.jsonl", records))
    assert [fault.row for fault in report.faults] == [1, 3]
    assert "is in rows 1, 3" in report.faults[0].message
    assert (report.documents, report.with_audio) == (1, 1)


@pytest.mark.parametrize("config", [Config(), Config(tasks={"topic": TaskConfig(classes=("home", "work"))})])
def test_all_rows_of_a_group_of_several_splits_are_invalid(tmp_path: Path, config: Config) -> None:
    """Whether the tasks are declared or inferred; a document without a split counts as of train."""
    placed = [("g1", None), ("g1", "train"), ("g2", "test"), ("g2", "train"), ("g3", "test"), ("g2", None)]
    records = [
        {"doc_id": f"d{i}", "text": "some words", "group": group, "split": split, "labels": {"topic": topic}}
        for i, ((group, split), topic) in enumerate(zip(placed, ["home", "work"] * 3, strict=True))
    ]
    records.append({"doc_id": "g2", "text": "its own group, by its id"})
    records.append({"doc_id": "d9", "text": "some words", "group": "g3", "split": "dev"})
    report = validate(make.manifest(tmp_path / "m.jsonl", records), config)
    straddling = [fault for fault in report.faults if fault.error == "SplitError"]
    assert [(fault.row, fault.doc_id, fault.stage) for fault in straddling] == [
        (3, "d2", "manifest"), (4, "d3", "manifest"), (6, "d5", "manifest"), (7, "g2", "manifest")
    ]  # fmt: skip
    for fault in straddling:
        assert fault.message.startswith("group 'g2' has documents of the splits train and test; a group must")
    assert (report.documents, report.groups, report.splits) == (3, 2, {"none": 1, "test": 1, "train": 1})


def test_a_group_of_several_splits_is_found_across_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(manifests, "_BLOCK_BYTES", 64)
    monkeypatch.setattr(manifests, "_PROCESSES", 1)
    records: list[dict[str, Any]] = [
        {"doc_id": f"d{i}", "text": "some words", "group": f"g{i % 3}"} for i in range(9)
    ]
    records[7]["split"] = "validation"
    report = validate(make.manifest(tmp_path / "m.jsonl", records), Config(tasks=TOPIC))
    assert [fault.doc_id for fault in report.faults] == ["d1", "d4", "d7"]
    assert "splits train and validation" in report.faults[0].message


@settings(deadline=None)
@given(st.lists(st.sampled_from(["a", "b", "c", ""]), max_size=12))
def test_shared_ids_are_all_rows_of_ids_used_more_than_once(ids: list[str]) -> None:
    expected = {
        _digest(doc_id): [row for row, other in enumerate(ids, start=1) if other == doc_id]
        for doc_id in set(ids) - {""}
        if ids.count(doc_id) > 1
    }
    digests = np.array([_digest(doc_id) for doc_id in ids], _DIGEST)
    assert _shared(digests) == {key.rstrip(b"\0"): rows for key, rows in expected.items()}


def large(folder: Path) -> list[dict[str, Any]]:
    """Return 60 rows with faults of every sort, one of which shows only when the file is opened."""
    records = [make.record(folder, number % 6, doc_id=f"n{number}") for number in range(60)]
    (folder / "t.vtt").write_text("WEBVTT\n\n00:00.000 --> 00:01.000\none two three\n")
    for record in records[1::2]:
        del record["text"]
        record["text_file"] = "t.vtt"
    records[3]["audio"] = "gone.wav"
    records[5]["text_file"] = "gone.vtt"
    records[7]["text_file"] = "t.doc"
    records[8]["doc_id"] = "n10"
    records[12]["labels"] = {"topic": "sport"}
    records[14]["labels"] = "none"
    records[16]["audio"] = "words.wav"
    (folder / "words.wav").write_text("no audio")
    (folder / "t.doc").write_text("no transcript")
    return records


TOPIC = {"topic": TaskConfig(kind="binary", classes=("work", "home"))}


@pytest.mark.parametrize("tasks", [TOPIC, {}])
def test_a_report_of_many_blocks_by_many_processes_is_that_of_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tasks: dict[str, TaskConfig]
) -> None:
    manifest = make.manifest(tmp_path / "m.jsonl", large(tmp_path))
    whole = validate(manifest, Config(tasks=tasks))
    assert [fault.row for fault in whole.faults] == (
        [4, 6, 8, 9, 11, 13, 15, 17] if tasks else [4, 6, 8, 9, 11, 15, 17]
    )
    assert (whole.unopened, whole.rows) == (0, 60)
    monkeypatch.setattr(manifests, "_BLOCK_BYTES", 2000)
    assert validate(manifest, Config(tasks=tasks)) == whole


def test_beyond_its_limit_a_random_sample_is_opened_and_the_report_says_so(tmp_path: Path) -> None:
    records = large(tmp_path)
    manifest = make.manifest(tmp_path / "m.jsonl", records)
    report = validate(manifest, Config(tasks=TOPIC), probe=20)
    assert report == validate(manifest, Config(tasks=TOPIC), probe=20)
    whole = validate(manifest, Config(tasks=TOPIC), probe="all")
    drawn = _draw(60, 20)
    assert len(drawn) == 20
    assert whole.unopened == 0
    # All that is wrong but can be seen without opening a file is found; `words.wav` only if it was drawn.
    assert report.faults == tuple(fault for fault in whole.faults if fault.row != 17 or 17 in drawn)
    bad = {fault.row for fault in report.faults}
    good = [row for row in range(1, 61) if row not in bad]
    opened = [row for row in good if row in drawn]
    assert report.unopened == len(good) - len(opened)
    assert report.with_audio == report.documents == len(good)
    assert report.audio_s == pytest.approx(2.0 * len(good))
    inline = [row for row in good if row % 2]
    words = sum(len(turn["text"].split()) for row in inline for turn in records[row - 1]["text"])
    assert report.words == words + 3 * (len(good) - len(inline))
    assert report.utterances == 4 * len(inline) + (len(good) - len(inline))
    assert (
        f"the files of {report.unopened} documents exist but were not opened: hours, utterances and "
        f"words are estimates from the other {len(opened)}, a random sample"
    ) in report.warnings[0]
    lines = report.text().splitlines()
    assert f"  audio        {len(good)} documents, about 0.03 h" in lines
    assert "  durations    2.0 s to 2.0 s, median 2.0 s, of the sample" in lines
    counts = f"about {report.utterances} utterances, about {report.words} words"
    assert f"  text         {len(good)} documents, {counts}" in lines


def test_what_no_sampled_file_tells_is_unknown(tmp_path: Path) -> None:
    records: list[dict[str, Any]] = [{"doc_id": f"t{i}", "text": "two words"} for i in range(50)]
    records.append(make.record(tmp_path, 0, text=None))
    assert 51 not in _draw(51, 2)
    report = validate(make.manifest(tmp_path / "m.jsonl", records), probe=2)
    assert (report.audio_s, report.words, report.unopened) == (None, 100, 1)
    assert "  audio        1 documents, unknown h" in report.text()


def test_a_sample_of_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="probe is 0; it must be 1 document or more, or `all`"):
        validate(make.corpus(tmp_path, 1), probe=0)


def test_files_on_an_object_store_are_known_by_listings(tmp_path: Path, object_store: str) -> None:
    store = fsspec.filesystem("s3")
    uri = f"{object_store}/{tmp_path.name}"
    names = [f"{number:02d}.wav" for number in range(40)]
    store.pipe({f"{uri}/audio/{name}": b"RIFF" for name in names if name != "07.wav"})
    records = [{"doc_id": name, "audio": f"{uri}/audio/{name}"} for name in names]
    report = validate(make.manifest(tmp_path / "m.jsonl", records), probe=1)
    assert {fault.row for fault in report.faults} == {8} | _draw(40, 1)
    assert "no audio file at s3://" in next(fault.message for fault in report.faults if fault.row == 8)
    assert report.unopened == 38


def test_labels_of_tasks_that_are_not_declared_are_reported_as_ignored(tmp_path: Path) -> None:
    records = [
        make.record(tmp_path, number, labels={"topic": "work", "age": 40 + number}) for number in range(2)
    ]
    tasks = {"age": TaskConfig(kind="regression")}
    report = validate(make.manifest(tmp_path / "m.jsonl", records), Config(tasks=tasks))
    assert "task `topic` (2 labels) is ignored: the settings do not declare it" in report.warnings
    assert (report.tasks["age"].unlabelled, report.tasks["age"].documents) == (0, {})
    inferred = validate(make.manifest(tmp_path / "m.jsonl", records))
    assert "task `topic` (2 labels) is ignored: all its labels are the same" in inferred.warnings


def test_a_manifest_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="there is no manifest "):
        validate(str(tmp_path / "m.jsonl"))


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


def test_labels_of_several_types_are_refused_and_named() -> None:
    with pytest.raises(
        ConfigError, match=r"task `task` has labels of several types \(int, str\), so its kind"
    ):
        infer_tasks(iter(labelled("a", 1)))


def test_labels_of_which_none_is_known_do_not_make_a_document_labelled(tmp_path: Path) -> None:
    """As in training: a document counts for a task when at least one of its labels is known."""
    labels: list[Any] = [
        {"themes": {"art": 1, "law": None}},
        {"themes": {"art": None, "law": None}},
        {"themes": []},
        {"themes": ["law"], "age": 3.5},
        {"themes": None},
    ]
    records = [{"doc_id": f"d{i}", "text": "some words", "labels": each} for i, each in enumerate(labels)]
    report = validate(make.manifest(tmp_path / "m.jsonl", records))
    themes = report.tasks["themes"]
    assert (themes.labelled, themes.unlabelled) == (3, 2)
    assert themes.documents == {"art": 1, "law": 1}
    task = TaskConfig(kind="multilabel", classes=("art", "law"))
    # What training reads of each label that is there.
    targets = [encode_label(task, each["themes"]) for each in labels[:4]]
    known = [bool(np.isfinite(np.array(target, np.float64)).any()) for target in targets]
    assert known == [True, False, True, True]


def test_faults_of_one_reason_are_shown_once_with_three_examples(tmp_path: Path) -> None:
    records: list[dict[str, Any]] = [
        {"doc_id": f"d{number:02d}", "text_file": f"gone{number}.vtt"} for number in range(28)
    ]
    records += [{"doc_id": f"e{number}", "text": ""} for number in range(2)]
    report = validate(make.manifest(tmp_path / "m.jsonl", records))
    assert len(report.faults) == 30
    values = report.to_dict()
    assert [(each["count"], each["examples"]) for each in values["reasons"]] == [
        (28, ["d00", "d01", "d02"]),
        (2, ["e0", "e1"]),
    ]
    assert len(values["faults"]) == 30
    lines = report.text().splitlines()
    shown = lines[lines.index("invalid rows: 30 of 30; --json lists them all") + 1 :]
    assert shown == [
        "  28 rows (text, TranscriptError), the first 3:",
        f"    row 1, 'd00': there is no text_file {tmp_path}/gone0.vtt; correct the path or write null",
        f"    row 2, 'd01': there is no text_file {tmp_path}/gone1.vtt",
        f"    row 3, 'd02': there is no text_file {tmp_path}/gone2.vtt",
        "  2 rows (manifest, DocumentError):",
        "    row 29, 'e0': text is empty; write null if there is no transcript",
        "    row 30, 'e1': text is empty",
    ]


def test_a_bug_that_one_document_brings_to_light_is_its_fault_and_ends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its message names the place in the code, and nothing that the transcript says."""

    def faulty(document: Document) -> LoadedText:
        if document.doc_id == "odd":
            raise TypeError("what somebody said")
        return load_text(document)

    monkeypatch.setattr(checks, "load_text", faulty)
    records = [{"doc_id": doc_id, "text": "what somebody said"} for doc_id in ("a", "odd", "b")]
    report = validate(make.manifest(tmp_path / "m.jsonl", records))
    assert report.documents == 2
    [fault] = report.faults
    assert (fault.row, fault.doc_id, fault.stage, fault.error) == (2, "odd", "text", "TypeError")
    assert (
        "document 'odd' cannot be read: TypeError in hilbert_ray/validation/checks.py, line " in fault.message
    )
    assert "said" not in report.text()
