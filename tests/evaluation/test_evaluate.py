"""`evaluate`: what a run writes, that its scores are those of its predictions, and that a rerun resumes."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import ray
from sklearn.metrics import roc_auc_score

from hilbert_ray.config import Config, FoldsConfig, TaskConfig, from_dict, to_dict
from hilbert_ray.evaluation.cross_validation import run_fold
from hilbert_ray.evaluation.driver import evaluate
from hilbert_ray.evaluation.variants import choose_variants
from hilbert_ray.features.dataset import Dataset, open_dataset
from hilbert_ray.folds.draw import make_folds
from hilbert_ray.folds.file import read_folds as load_folds
from hilbert_ray.folds.file import write_folds
from hilbert_ray.run.evaluation import Evaluation, read_metrics
from tests import make
from tests.evaluation.cases import CONFIG

pytestmark = pytest.mark.usefixtures("one_thread")
FILES = (
    "attention.parquet", "config.json", "embeddings.parquet", "folds", "folds.parquet", "metrics.json"
)  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluated:
    """One run of `evaluate` that several tests look at; `rows` are those of predictions.parquet."""

    folder: Path
    evaluation: Evaluation
    values: dict[str, Any]
    rows: list[dict[str, Any]]
    dataset: Dataset

    def of(self, task: str, variant: str = "hilbert") -> list[dict[str, Any]]:
        """Return the labelled rows of a task."""
        return [
            row
            for row in self.rows
            if (row["task"], row["variant"]) == (task, variant) and max(row["target"]) >= 0
        ]


@pytest.fixture(scope="module")
def evaluated(embedded: make.Embedded, tmp_path_factory: pytest.TempPathFactory) -> Evaluated:
    folder = tmp_path_factory.mktemp("evaluated") / "run"
    evaluation = evaluate(embedded.store, str(folder), CONFIG)
    rows = pq.read_table(folder / "predictions.parquet").to_pylist()
    return Evaluated(
        folder=folder,
        evaluation=evaluation,
        values=evaluation.to_dict(),
        rows=rows,
        dataset=open_dataset(embedded.store, CONFIG, held_out=False),
    )


@pytest.mark.ray
def test_a_run_holds_its_settings_folds_predictions_embeddings_attention_and_scores(
    evaluated: Evaluated,
) -> None:
    assert sorted(path.name for path in evaluated.folder.iterdir()) == sorted([*FILES, "predictions.parquet"])
    assert read_metrics(evaluated.folder).to_dict() == evaluated.values
    saved = json.loads((evaluated.folder / "config.json").read_text())
    assert from_dict(Config, saved["config"]) == evaluated.dataset.config
    assert saved["data"] == evaluated.dataset.fingerprint
    assert sorted(evaluated.values["tasks"]) == ["age", "mood", "place", "themes", "topic"]
    for scores in evaluated.values["tasks"].values():
        assert list(scores) == ["hilbert", "audio_only", "mean_std_logistic", "text_only"]


@pytest.mark.ray
def test_every_document_is_predicted_once_a_repeat_in_the_fold_that_tests_it(
    evaluated: Evaluated, embedded: make.Embedded
) -> None:
    ids = sorted(record["doc_id"] for record in embedded.records if not record.get("split"))
    assert len(ids) == 30
    folds = pq.read_table(evaluated.folder / "folds.parquet").to_pylist()
    tested = {(row["repeat"], row["doc_id"]): row["fold"] for row in folds}
    assert len(tested) == len(folds) == 2 * len(ids)
    found: dict[tuple[str, str, int], list[str]] = {}
    for row in evaluated.rows:
        found.setdefault((row["task"], row["variant"], row["repeat"]), []).append(row["doc_id"])
        assert row["fold"] == tested[row["repeat"], row["doc_id"]]
    assert len(found) == 5 * 4 * 2
    for key, doc_ids in found.items():
        assert sorted(doc_ids) == ids, key
    group = {record["doc_id"]: record["group"] for record in embedded.records}
    for repeat in range(2):
        of_group = {(group[doc_id], fold) for (r, doc_id), fold in tested.items() if r == repeat}
        assert len(of_group) == 8, "a group is in two folds"


def concordance(sets: Sequence[tuple[np.ndarray, np.ndarray]]) -> float:
    """Return the share of pairs in order over all whose truth differs, in sets of (score, truth)."""
    right = compared = 0.0
    for score, truth in sets:
        for i, j in combinations(range(len(score)), 2):
            if truth[i] != truth[j]:
                compared += 1
                agreement = (score[i] - score[j]) * (float(truth[i]) - float(truth[j]))
                right += 1.0 if agreement > 0 else 0.5 if agreement == 0 else 0.0
    return right / compared


def questions(task: TaskConfig, row: dict[str, Any]) -> list[tuple[float, float]]:
    """Return (score, truth) for each class, label or cut-point of a row."""
    p, y = row["probability"], row["target"]
    match task.kind:
        case "binary":
            return [(p[1], y[0])]
        case "multiclass":
            return [(p[k], float(y[0] == k)) for k in range(len(p))]
        case "ordinal":
            return [(p[2], float(y[0] >= 2)), (p[1] + p[2], float(y[0] >= 1))]
        case "multilabel":
            return list(zip(p, y, strict=True))
        case "regression":
            return [(p[0], y[0])]


@pytest.mark.ray
@pytest.mark.parametrize("task", ["topic", "place", "mood", "themes", "age"])
@pytest.mark.parametrize("name", ["hilbert", "mean_std_logistic"])
def test_the_headline_is_what_brute_force_finds_in_the_predictions(
    evaluated: Evaluated, task: str, name: str
) -> None:
    settings, rows = evaluated.dataset.config.tasks[task], evaluated.of(task, name)
    asked = [questions(settings, row) for row in rows]
    scores = evaluated.values["tasks"][task][name]
    found = scores["concordance" if settings.kind == "regression" else "auc"]

    def sets(k: int, *keys: str) -> list[tuple[np.ndarray, np.ndarray]]:
        by_set: dict[tuple[int, ...], list[tuple[float, float]]] = {}
        for row, pairs in zip(rows, asked, strict=True):
            by_set.setdefault(tuple(row[key] for key in keys), []).append(pairs[k])
        return [(np.array(rows)[:, 0], np.array(rows)[:, 1]) for rows in by_set.values()]

    size = len(asked[0])
    within = np.mean([concordance(sets(k, "repeat", "fold")) for k in range(size)])
    assert found["within"] == pytest.approx(within, abs=1e-12)
    if settings.kind == "regression":
        return
    pooled = [[roc_auc_score(truth, score) for score, truth in sets(k, "repeat")] for k in range(size)]
    by_fold = [
        [roc_auc_score(truth, score) for score, truth in sets(k, "repeat", "fold")] for k in range(size)
    ]
    assert found["pooled"] == pytest.approx(np.mean(pooled), abs=1e-12)
    assert found["mean"] == pytest.approx(np.mean(by_fold), abs=1e-12)
    assert found["folds"] == 4


@pytest.mark.ray
def test_ray_tasks_give_the_numbers_of_plain_calls(evaluated: Evaluated) -> None:
    features, config = evaluated.dataset.features, evaluated.dataset.config
    folds = load_folds(str(evaluated.folder / "folds.parquet"), features.doc_ids, features.groups)
    for name, repeat, fold in (
        ("hilbert", 0, 1),
        ("hilbert", 1, 0),
        ("text_only", 1, 1),
        ("mean_std_logistic", 0, 0),
    ):
        one = next(v for v in choose_variants(config, features, compare=False) if v.name == name)
        plain = run_fold(features, one, folds.split(repeat, fold))
        for task, probabilities in plain.probabilities.items():
            rows = {
                row["doc_id"]: row
                for row in evaluated.rows
                if (row["task"], row["variant"], row["repeat"], row["fold"]) == (task, name, repeat, fold)
            }
            ordered = [rows[doc_id] for doc_id in features.doc_ids[plain.test]]
            assert len(rows) == len(plain.test)
            for column, values in (("probability", probabilities), ("decision", plain.decisions[task])):
                found = np.array([row[column] for row in ordered])
                np.testing.assert_array_equal(found, values.reshape(found.shape).astype(np.float64))
            truth = features.targets[task][plain.test].astype(np.float64)
            np.testing.assert_array_equal(
                np.array([row["target"] for row in ordered]).reshape(truth.shape), truth
            )
        if (name, repeat) == ("hilbert", 0):
            table = pq.read_table(evaluated.folder / "embeddings.parquet").to_pylist()
            by_id = {row["doc_id"]: row for row in table if row["fold"] == fold}
            for modality, vectors in plain.embeddings.items():
                found = np.array([by_id[doc_id][modality] for doc_id in features.doc_ids[plain.test]])
                np.testing.assert_array_equal(found, vectors)


@pytest.mark.ray
def test_attention_is_kept_for_every_segment_of_the_first_repeat(evaluated: Evaluated) -> None:
    rows = pq.read_table(evaluated.folder / "attention.parquet").to_pylist()
    features = evaluated.dataset.features
    assert features.audio is not None
    assert features.text is not None
    assert sorted(row["doc_id"] for row in rows) == features.doc_ids.tolist()
    number = {doc_id: i for i, doc_id in enumerate(features.doc_ids.tolist())}
    for row in rows:
        for modality, ragged in features.by_modality.items():
            weights, start, end = (row[f"{modality}_{name}"] for name in ("weight", "start", "end"))
            assert len(weights) == len(start) == len(end) == ragged.lengths[number[row["doc_id"]]]
            assert not weights or sum(weights) == pytest.approx(1.0, abs=1e-5)
            assert all(a < b for a, b in zip(start, end, strict=True))
    lacking = {row["doc_id"] for row in rows if not row["audio_weight"]}
    assert lacking == {"d005", "d015"}


@pytest.mark.ray
def test_a_document_with_a_quarantined_modality_takes_part_and_is_counted(evaluated: Evaluated) -> None:
    data = evaluated.values["data"]
    assert data["quarantined"] == {"audio": 1, "text": 0}
    assert (data["documents"], data["groups"]) == (30, 8)
    assert data["with"] == {"audio": 28, "text": 29}
    assert data["segments"] == {"audio": 112, "text": 116}
    assert data["labels"]["topic"]["labelled"] == 28
    assert data["labels"]["age"] == {"labelled": 29}
    assert evaluated.values["splits"] == {"documents": 30, "held_out": {"test": 1, "validation": 1}}
    assert sum(row["doc_id"] == "d015" for row in evaluated.of("topic")) == 2
    assert not any(row["doc_id"] in ("d003", "d020") for row in evaluated.of("topic"))


@pytest.mark.ray
def test_comparisons_are_hilbert_less_each_other_variant(evaluated: Evaluated) -> None:
    for task, compared in evaluated.values["comparisons"].items():
        scores = evaluated.values["tasks"][task]
        assert sorted(compared) == ["audio_only", "mean_std_logistic", "text_only"]
        for name, one in compared.items():
            first, second = scores["hilbert"][one["metric"]]["within"], scores[name][one["metric"]]["within"]
            assert (one["first"], one["second"]) == (first, second)
            assert one["difference"] == pytest.approx(first - second, abs=1e-12)
            assert one["p_paired_t_holm"] >= one["p_paired_t"]
            assert one["exploratory"]
        null = evaluated.values["permutation"][task]
        assert null["value"] == pytest.approx(scores["hilbert"][null["metric"]]["within"], abs=1e-12)


@pytest.mark.ray
def test_shortcuts_are_scored_on_the_folds_of_the_first_repeat(evaluated: Evaluated) -> None:
    found = evaluated.values["shortcuts"]
    assert sorted(found) == [
        "duration and number of turns", "shared_sentences", "turns of interviewer", "turns of participant"
    ]  # fmt: skip
    for name in set(found) - {"shared_sentences"}:
        assert sorted(found[name]) == ["age", "mood", "place", "themes", "topic"]
        for scores in found[name].values():
            assert scores["within_low"] is None or scores["within_low"] <= scores["within"]
    assert found["shared_sentences"] == {"sentences": 0, "documents": 0, "of": 30}


@pytest.mark.ray
def test_the_table_for_a_terminal_shows_each_variant_with_its_interval(evaluated: Evaluated) -> None:
    lines = evaluated.evaluation.text().splitlines()
    assert len(lines) == 5 * (1 + 4)
    for name, shown in (("hilbert", "HILBERT"), ("mean_std_logistic", "Mean + std, logistic")):
        auc = evaluated.values["tasks"]["topic"][name]["auc"]
        start = lines.index("topic: headline within folds, with 95 % interval over groups")
        [line] = [line for line in lines[start : start + 5] if shown in line]
        assert line.split(shown)[1].split() == [
            f"{auc['within']:.3f}", f"{auc['within_low']:.3f}", "to", f"{auc['within_high']:.3f}"
        ]  # fmt: skip


def test_a_score_that_is_not_defined_is_shown_as_such() -> None:
    auc = {"within": None, "within_low": None, "within_high": None}
    shown = Evaluation({"tasks": {"topic": {"no_fusion": {"auc": auc}}}}).text()
    assert shown.splitlines()[1].split() == ["No", "fusion", "layer", "n/a", "no", "interval"]


@pytest.mark.ray
def test_given_folds_are_kept_and_one_modality_is_enough(embedded: make.Embedded, tmp_path: Path) -> None:
    features = open_dataset(embedded.store, CONFIG, text="none", held_out=False).features
    drawn = make_folds(features.doc_ids, features.groups, np.zeros((28, 0), bool), CONFIG.folds, seed=0)
    assignment = (features.groups % 4 == 0).astype(np.int64)[None]  # two groups against six
    write_folds(replace(drawn, assignment=assignment), str(tmp_path / "given.parquet"))
    config = replace(
        CONFIG,
        fit=replace(CONFIG.fit, epochs=1),
        folds=FoldsConfig(inner=0, file=str(tmp_path / "given.parquet")),
        tasks={"topic": TaskConfig(kind="binary", classes=("home", "work"))},
    )
    values = evaluate(embedded.store, str(tmp_path / "run"), config, text="none").to_dict()
    rows = pq.read_table(tmp_path / "run" / "predictions.parquet").to_pylist()
    assert len(rows) == 2 * 28
    given = dict(zip(features.doc_ids.tolist(), assignment[0].tolist(), strict=True))
    assert {(row["variant"], row["doc_id"]): row["fold"] for row in rows} == {
        (name, doc_id): fold for name in ("hilbert", "mean_std_logistic") for doc_id, fold in given.items()
    }
    assert values["folds"]["sizes"] == [np.bincount(assignment[0]).tolist()]
    assert values["embedding"] == {}
    assert values["data"]["with"] == {"audio": 28}
    names = pq.read_table(tmp_path / "run" / "attention.parquet").column_names
    assert names == ["doc_id", "fold", "audio_weight", "audio_start", "audio_end"]
    assert json.loads((tmp_path / "run" / "config.json").read_text())["config"]["text"] == "none"


DRIVER = """
import json, sys
from hilbert_ray.config import Config, from_dict
from hilbert_ray import evaluate

evaluate(sys.argv[1], sys.argv[2], from_dict(Config, json.loads(sys.argv[3])))
"""


def folds_in(run: Path) -> dict[str, int]:
    """Return the finished folds of a run, each with when it was written, nanoseconds."""
    return {path.name: path.stat().st_mtime_ns for path in run.glob("folds/*.npz")}


def without_timing(values: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key != "run"}


@pytest.mark.ray
def test_a_killed_run_resumes_with_the_missing_folds_and_ends_as_an_undisturbed_one(
    evaluated: Evaluated, embedded: make.Embedded, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    command = [sys.executable, "-c", DRIVER, embedded.store, str(run), json.dumps(to_dict(CONFIG))]
    environment = {**os.environ, "RAY_ADDRESS": ray.get_runtime_context().gcs_address}
    driver = subprocess.Popen(command, env=environment, start_new_session=True)
    deadline = time.monotonic() + 120
    while len(folds_in(run)) < 3:
        assert driver.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline, "no fold was finished"
        time.sleep(0.005)
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    before = folds_in(run)
    assert 3 <= len(before) < 16
    values = evaluate(embedded.store, str(run), CONFIG).to_dict()
    assert (values["run"]["reused"], values["run"]["fits"]) == (len(before), 16 - len(before))
    after = folds_in(run)
    assert sorted(after) == sorted(folds_in(evaluated.folder))
    assert {name: after[name] for name in before} == before, "a finished fold was run again"
    assert without_timing(values) == without_timing(evaluated.values)
    for name in ("predictions.parquet", "embeddings.parquet", "attention.parquet", "folds.parquet"):
        found, wanted = (repr(pq.read_table(folder / name).to_pylist()) for folder in (run, evaluated.folder))
        assert found == wanted, name


@pytest.mark.ray
def test_a_rerun_with_more_variants_runs_only_what_is_new(
    evaluated: Evaluated, embedded: make.Embedded, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(evaluated.folder, tmp_path / "run"))
    values = evaluate(embedded.store, str(run), CONFIG, subsets=True).to_dict()
    assert (values["run"]["reused"], values["run"]["fits"]) == (12, 4), "only HILBERT has more to do"
    for task, scores in values["tasks"].items():
        assert {"hilbert_audio", "hilbert_text"} < set(scores)
        before = evaluated.values["tasks"][task]
        assert {name: scores[name] for name in before} == before
        assert {"hilbert_audio", "hilbert_text"} < set(values["comparisons"][task])
    named = set(pq.read_table(run / "predictions.parquet")["variant"].to_pylist())
    assert {"hilbert_audio", "hilbert_text"} < named


@pytest.mark.ray
def test_a_learning_curve_has_the_scores_of_the_run_and_adds_no_rival(
    embedded: make.Embedded, tmp_path: Path
) -> None:
    config = replace(
        CONFIG,
        fit=replace(CONFIG.fit, epochs=1),
        folds=FoldsConfig(folds=2, repeats=1, inner=0),
        tasks={"topic": TaskConfig(kind="binary", classes=("home", "work"))},
    )
    run = str(tmp_path / "run")
    values = evaluate(embedded.store, run, config, text="none", labels=(1, 0.5)).to_dict()
    names = ["hilbert", "mean_std_logistic"]
    assert sorted(values["tasks"]["topic"]) == names
    assert sorted(values["comparisons"]["topic"]) == names[1:]
    assert {
        row["variant"] for row in pq.read_table(tmp_path / "run" / "predictions.parquet").to_pylist()
    } == set(names)
    curve = values["learning_curve"]["topic"]
    assert sorted(curve) == [*names, "task_only"]
    for name in names:
        few, whole = curve[name]
        assert (few["fraction"], whole["fraction"]) == (0.5, 1)
        assert few["labels"] < whole["labels"]
        assert whole["within"] == values["tasks"]["topic"][name]["auc"]["within"]
        assert few["folds"] == whole["folds"] == 2
    labelled = values["labels"]["topic"]
    assert labelled == {"labelled": values["data"]["labels"]["topic"]["labelled"], "unlabelled": 2}
    # Two folds of each: HILBERT and the regression, the task loss alone, and all three with half the labels.
    assert (values["run"]["fits"], values["run"]["reused"]) == (2 * (2 + 1 + 3), 0)
    again = evaluate(embedded.store, run, config, text="none").to_dict()
    assert (again["run"]["fits"], again["run"]["reused"]) == (0, 4)
    assert (again["tasks"], again["learning_curve"]) == (values["tasks"], {})
