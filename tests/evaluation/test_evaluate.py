"""Cross-validation: what is written, that nothing tested is trained on, and the baselines."""

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
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss, roc_auc_score
from sklearn.model_selection import GroupKFold
from sklearn.preprocessing import StandardScaler

from hilbert_ray.config import Config, FitConfig, FoldsConfig, ModelConfig, TaskConfig, from_dict, to_dict
from hilbert_ray.evaluation.baselines import logistic
from hilbert_ray.evaluation.cross_validation import _fold_key, gather, run_fold
from hilbert_ray.evaluation.driver import evaluate
from hilbert_ray.evaluation.scores import summarise
from hilbert_ray.evaluation.variants import Variant, choose_variants
from hilbert_ray.features.arrays import Features, mean_std
from hilbert_ray.features.dataset import Dataset, open_dataset
from hilbert_ray.folds.draw import make_folds
from hilbert_ray.folds.file import read_folds as load_folds
from hilbert_ray.folds.file import write_folds
from hilbert_ray.folds.records import Fold
from hilbert_ray.metrics.evaluation import permutation_null
from hilbert_ray.run.fold_results import FoldResult, read_fold_result, write_fold_result
from hilbert_ray.training.loop import fit
from tests import make

pytestmark = pytest.mark.usefixtures("one_thread")

CONFIG = Config(
    model=ModelConfig(dim=16, hops=2),
    fit=FitConfig(epochs=2, seeds=1, batch_size=16),
    folds=FoldsConfig(folds=2, repeats=2, inner=2),
)
TASKS = {
    "state": TaskConfig(classes=("a", "b", "c", "d")),
    "level": TaskConfig(kind="ordinal", classes=("low", "mid", "high")),
    "heard": TaskConfig(kind="binary", classes=("no", "yes")),
}
TINY = replace(CONFIG, tasks=TASKS, fit=FitConfig(epochs=1, seeds=1, batch_size=16))
FEATURES = make.features(40, groups=8, absent=0.1)
PART = Fold(
    repeat=0, fold=0, train=np.flatnonzero(FEATURES.groups < 6), test=np.flatnonzero(FEATURES.groups > 5)
)
COMPARED = (
    "hilbert",
    "audio_only",
    "text_only",
    "mean_std_logistic",
    "late_fusion",
    "paper",
    "direct_contrast",
    "no_fusion",
    "mlp_head",
    "without_wide",
    "without_unimodal",
    "without_contrastive",
    "without_cka",
    "without_balance",
    "without_router_losses",
    "without_redundancy",
    "task_only",
)
FILES = (
    "attention.parquet", "config.json", "embeddings.parquet", "folds", "folds.parquet", "metrics.json"
)  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluated:
    """One run of `evaluate` that several tests look at; `rows` are those of predictions.parquet."""

    folder: Path
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
    values = evaluate(embedded.store, str(folder), CONFIG)
    rows = pq.read_table(folder / "predictions.parquet").to_pylist()
    return Evaluated(folder=folder, values=values, rows=rows, dataset=open_dataset(embedded.store, CONFIG))


def variant(name: str, config: Config = TINY) -> Variant:
    return next(one for one in choose_variants(config, FEATURES, compare=True) if one.name == name)


# A whole run


@pytest.mark.ray
def test_a_run_holds_its_settings_folds_predictions_embeddings_attention_and_scores(
    evaluated: Evaluated,
) -> None:
    assert sorted(path.name for path in evaluated.folder.iterdir()) == sorted([*FILES, "predictions.parquet"])
    assert json.loads((evaluated.folder / "metrics.json").read_text()) == evaluated.values
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
    ids = sorted(record["doc_id"] for record in embedded.records)
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
        assert len(of_group) == 8, "a group stands in two folds"


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
        parts: dict[tuple[int, ...], list[tuple[float, float]]] = {}
        for row, pairs in zip(rows, asked, strict=True):
            parts.setdefault(tuple(row[key] for key in keys), []).append(pairs[k])
        return [(np.array(part)[:, 0], np.array(part)[:, 1]) for part in parts.values()]

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
        for modality, part in (("audio", features.audio), ("text", features.text)):
            weights, start, end = (row[f"{modality}_{name}"] for name in ("weight", "start", "end"))
            assert len(weights) == len(start) == len(end) == part.lengths[number[row["doc_id"]]]
            assert not weights or sum(weights) == pytest.approx(1.0, abs=1e-5)
            assert all(a < b for a, b in zip(start, end, strict=True))
    lacking = {row["doc_id"] for row in rows if not row["audio_weight"]}
    assert lacking == {"d005", "d015"}


@pytest.mark.ray
def test_a_document_with_a_quarantined_modality_takes_part_and_is_counted(evaluated: Evaluated) -> None:
    data = evaluated.values["data"]
    assert data["quarantined"] == {"audio": 1, "text": 0}
    assert (data["documents"], data["groups"]) == (32, 8)
    assert data["with"] == {"audio": 30, "text": 31}
    assert data["segments"] == {"audio": 120, "text": 124}
    assert data["labels"]["topic"]["labelled"] == 30
    assert data["labels"]["age"] == {"labelled": 31}
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
            assert one["p_bootstrap_holm"] >= one["p_bootstrap"]
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
    assert found["shared_sentences"] == {"sentences": 0, "documents": 0, "of": 32}


@pytest.mark.ray
def test_the_table_for_a_terminal_shows_each_variant_with_its_interval(evaluated: Evaluated) -> None:
    lines = summarise(evaluated.values).splitlines()
    assert len(lines) == 5 * (1 + 4)
    for name, shown in (("hilbert", "HILBERT"), ("mean_std_logistic", "Mean + std, logistic")):
        auc = evaluated.values["tasks"]["topic"][name]["auc"]
        start = lines.index("topic: headline over folds (within), with 95 % interval by groups")
        [line] = [line for line in lines[start : start + 5] if shown in line]
        assert line.split(shown)[1].split() == [
            f"{auc['within']:.3f}", f"{auc['within_low']:.3f}", "to", f"{auc['within_high']:.3f}"
        ]  # fmt: skip


def test_a_score_that_is_not_defined_is_shown_as_such() -> None:
    auc = {"within": None, "within_low": None, "within_high": None}
    shown = summarise({"tasks": {"topic": {"no_fusion": {"auc": auc}}}})
    assert shown.splitlines()[1].split() == ["No", "fusion", "layer", "n/a", "no", "interval"]


@pytest.mark.ray
def test_given_folds_are_kept_and_one_modality_is_enough(embedded: make.Embedded, tmp_path: Path) -> None:
    features = open_dataset(embedded.store, CONFIG, text="none").features
    drawn = make_folds(features.doc_ids, features.groups, np.zeros((30, 0), bool), CONFIG.folds, seed=0)
    assignment = (features.groups % 4 == 0).astype(np.int64)[None]  # two groups against six
    write_folds(replace(drawn, assignment=assignment), str(tmp_path / "given.parquet"))
    config = replace(
        CONFIG,
        fit=replace(CONFIG.fit, epochs=1),
        folds=FoldsConfig(inner=0, file=str(tmp_path / "given.parquet")),
        tasks={"topic": TaskConfig(kind="binary", classes=("home", "work"))},
    )
    values = evaluate(embedded.store, str(tmp_path / "run"), config, text="none")
    rows = pq.read_table(tmp_path / "run" / "predictions.parquet").to_pylist()
    assert len(rows) == 2 * 30
    given = dict(zip(features.doc_ids.tolist(), assignment[0].tolist(), strict=True))
    assert {(row["variant"], row["doc_id"]): row["fold"] for row in rows} == {
        (name, doc_id): fold for name in ("hilbert", "mean_std_logistic") for doc_id, fold in given.items()
    }
    assert values["folds"]["sizes"] == [np.bincount(assignment[0]).tolist()]
    assert values["embedding"] == {}
    assert values["data"]["with"] == {"audio": 30}
    names = pq.read_table(tmp_path / "run" / "attention.parquet").column_names
    assert names == ["doc_id", "fold", "audio_weight", "audio_start", "audio_end"]
    assert json.loads((tmp_path / "run" / "config.json").read_text())["config"]["text"] == "none"


# A run that goes on

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
def test_a_killed_run_goes_on_with_the_folds_that_are_missing_and_ends_as_an_undisturbed_one(
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
    values = evaluate(embedded.store, str(run), CONFIG)
    assert (values["run"]["reused"], values["run"]["fits"]) == (len(before), 16 - len(before))
    after = folds_in(run)
    assert sorted(after) == sorted(folds_in(evaluated.folder))
    assert {name: after[name] for name in before} == before, "a finished fold was run again"
    assert without_timing(values) == without_timing(evaluated.values)
    for name in ("predictions.parquet", "embeddings.parquet", "attention.parquet", "folds.parquet"):
        found, wanted = (repr(pq.read_table(folder / name).to_pylist()) for folder in (run, evaluated.folder))
        assert found == wanted, name


@pytest.mark.ray
def test_asking_for_more_runs_only_what_is_new(
    evaluated: Evaluated, embedded: make.Embedded, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(evaluated.folder, tmp_path / "run"))
    values = evaluate(embedded.store, str(run), CONFIG, subsets=True)
    assert (values["run"]["reused"], values["run"]["fits"]) == (12, 4), "HILBERT alone is asked for more"
    for task, scores in values["tasks"].items():
        assert {"hilbert_audio", "hilbert_text"} < set(scores)
        before = evaluated.values["tasks"][task]
        assert {name: scores[name] for name in before} == before
        assert {"hilbert_audio", "hilbert_text"} < set(values["comparisons"][task])
    named = set(pq.read_table(run / "predictions.parquet")["variant"].to_pylist())
    assert {"hilbert_audio", "hilbert_text"} < named


def same_result(first: FoldResult, second: FoldResult) -> None:
    assert (first.variant, first.repeat, first.fold) == (second.variant, second.repeat, second.fold)
    assert (first.temperature, first.seconds) == (second.temperature, second.seconds)
    for name in ("probabilities", "decisions", "embeddings"):
        found, wanted = getattr(first, name), getattr(second, name)
        assert sorted(found) == sorted(wanted)
        for key, value in wanted.items():
            assert found[key].dtype == value.dtype
            np.testing.assert_array_equal(found[key], value)
    for modality, rows in second.attention.items():
        assert len(first.attention[modality]) == len(rows)
        for one, other in zip(first.attention[modality], rows, strict=True):
            np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(first.test, second.test)
    np.testing.assert_array_equal(first.trained_on, second.trained_on)


@pytest.mark.parametrize("name", ["hilbert", "mean_std_logistic"])
def test_a_result_reads_back_as_it_was_written(name: str, tmp_path: Path) -> None:
    one = replace(variant(name), subsets=name == "hilbert")
    result = run_fold(FEATURES, one, PART)
    write_fold_result(tmp_path / "a.npz", result)
    assert [path.name for path in tmp_path.iterdir()] == ["a.npz"]
    found = read_fold_result(tmp_path / "a.npz", one.name, PART)
    assert len(found.split()) == (3 if name == "hilbert" else 1)
    for first, second in zip(found.split(), result.split(), strict=True):
        same_result(first, second)


def test_a_fold_is_known_by_all_that_its_result_depends_on_and_by_nothing_else() -> None:
    def key(one: Variant, data: str = "data", part: Fold = PART) -> str:
        return _fold_key(data, one, part)

    def of(config: Config) -> Variant:
        return Variant(name="hilbert", config=config)

    plain = of(TINY)
    moved = replace(PART, train=PART.train[1:], test=np.sort([*PART.test, PART.train[0]]))
    others = [
        key(plain, data="other"),
        key(plain, part=replace(PART, repeat=1)),
        key(plain, part=moved),
        key(replace(plain, modality="audio")),
        key(replace(plain, method="logistic")),
        key(replace(plain, subsets=True)),
        key(of(replace(TINY, fit=replace(TINY.fit, epochs=2)))),
        key(of(replace(TINY, loss=replace(TINY.loss, cka=0.1)))),
        key(of(replace(TINY, folds=replace(TINY.folds, inner=0)))),
    ]
    assert len({key(plain), *others}) == 1 + len(others)
    elsewhere = replace(TINY.folds, cpus=0.5, repeats=9)
    assert key(of(replace(TINY, folds=elsewhere))) == key(plain)


# One fold


def test_with_subsets_the_network_of_both_modalities_predicts_from_each_alone() -> None:
    one = replace(variant("hilbert"), subsets=True)
    whole, *apart = run_fold(FEATURES, one, PART).split()
    same = run_fold(FEATURES, variant("hilbert"), PART)
    model = fit(TINY, FEATURES, PART.train).model()
    assert [part.variant for part in apart] == ["hilbert_audio", "hilbert_text"]
    for modality, part in zip(("audio", "text"), apart, strict=True):
        alone = model.predict(FEATURES.take(PART.test).only(modality))  # type: ignore[arg-type]
        for task, probabilities in alone.probabilities.items():
            np.testing.assert_array_equal(part.probabilities[task], probabilities)
            np.testing.assert_array_equal(part.decisions[task], alone.decisions[task])
            np.testing.assert_array_equal(whole.probabilities[task], same.probabilities[task])
            assert not np.allclose(probabilities, whole.probabilities[task])


def null_of(features: Features, folds: Sequence[Fold]) -> dict[str, Any]:
    """Return the headline of HILBERT on `heard` over some folds, with its permutation null."""
    task = {"heard": TASKS["heard"]}
    config = Config(
        tasks=task,
        model=ModelConfig(dim=16, hops=2, dropout=0.1, wide_dropout=0.1),
        fit=FitConfig(epochs=10, seeds=1, batch_size=16, learning_rate=5e-3),
        folds=FoldsConfig(inner=0),
    )
    results = [run_fold(features, Variant(name="hilbert", config=config), part) for part in folds]
    return permutation_null(gather(features, task["heard"], "heard", results), permutations=500)


def test_labels_shuffled_within_groups_are_predicted_by_chance() -> None:
    features = make.features(80, groups=10, absent=0.0)
    folds = FoldsConfig(folds=4, repeats=1)
    heard = features.targets["heard"]
    drawn = make_folds(features.doc_ids, features.groups, heard, folds, seed=0)
    assert null_of(features, list(drawn))["value"] > 0.9, "in their order the labels can be predicted"
    rng = np.random.default_rng(0)
    shuffled = heard.copy()
    for group in range(10):
        at = np.flatnonzero(features.groups == group)
        shuffled[at] = rng.permutation(heard[at])
    null = null_of(replace(features, targets={**features.targets, "heard": shuffled}), list(drawn))
    assert null["low"] <= null["value"] <= null["high"]


def test_a_feature_that_only_tells_groups_apart_gains_nothing_on_our_folds() -> None:
    """Labels go with groups, and the feature names the group; plain folds take that for knowledge."""
    plain = make.features(96, groups=16, absent=0.0, seed=1)
    rng = np.random.default_rng(1)
    heard = np.where(rng.random(96) < 0.9, plain.groups % 2, 1 - plain.groups % 2)
    names = rng.normal(size=(16, 12)).astype(np.float32)[plain.groups]
    noise = np.random.default_rng(2)
    lengths = np.full(96, 3)
    audio = make.ragged(lengths, 12, np.zeros(96), noise)
    values = 0.1 * audio.values + 3 * np.repeat(names, 3, axis=0)
    wide = np.stack([mean_std(part) for part in np.split(values, 32 * 3)])
    features = replace(
        plain,
        audio=replace(audio, values=values, wide=wide),
        text=make.ragged(lengths, 20, np.zeros(96), noise),
        targets={"heard": heard},
    )
    settings = FoldsConfig(folds=4, repeats=1)
    ours = make_folds(features.doc_ids, features.groups, heard, settings, seed=0)
    leaking = make_folds(features.doc_ids, np.arange(96), heard, settings, seed=0)
    leaked = null_of(features, list(leaking))
    assert leaked["value"] > leaked["high"]
    found = null_of(features, list(ours))
    assert found["low"] <= found["value"] <= found["high"]


def test_no_tested_group_is_trained_on() -> None:
    folds = make_folds(FEATURES.doc_ids, FEATURES.groups, FEATURES.targets["heard"], CONFIG.folds, seed=3)
    small = replace(TINY, folds=replace(TINY.folds, inner=0))
    for part in folds:
        result = run_fold(FEATURES, Variant(name="hilbert", config=small), part)
        trained, tested = (set(FEATURES.groups[i].tolist()) for i in (result.trained_on, result.test))
        assert not trained & tested
        assert sorted([*result.trained_on, *result.test]) == list(range(40))
        np.testing.assert_array_equal(result.test, np.flatnonzero(folds.assignment[part.repeat] == part.fold))
        assert len(result.probabilities["heard"]) == len(result.test)


def changed(features: Features, at: np.ndarray) -> Features:
    """Return features in which the documents at `at` say something else and are labelled otherwise."""
    assert features.audio is not None
    assert features.text is not None
    parts = {}
    for name, part in (("audio", features.audio), ("text", features.text)):
        values, wide = part.values.copy(), part.wide.copy()
        values[part.rows(at)] = values[part.rows(at)] * 50 + 7
        wide[at] = wide[at] * 50 + 7
        parts[name] = replace(part, values=values, wide=wide)
    targets = {name: np.where(np.isin(np.arange(len(y)), at), 0, y) for name, y in features.targets.items()}
    return replace(features, audio=parts["audio"], text=parts["text"], targets=targets)


@pytest.mark.parametrize("name", ["hilbert", "late_fusion", "mean_std_logistic"])
def test_what_is_tested_changes_nothing_that_is_fitted(name: str) -> None:
    half = PART.test[: len(PART.test) // 2]
    first = run_fold(FEATURES, variant(name), PART)
    second = run_fold(changed(FEATURES, half), variant(name), PART)
    assert first.temperature == second.temperature
    others = ~np.isin(PART.test, half)
    for task, probabilities in first.probabilities.items():
        np.testing.assert_array_equal(probabilities[others], second.probabilities[task][others])
        assert not np.allclose(probabilities[~others], second.probabilities[task][~others])


@pytest.mark.parametrize("align_epochs", [0, 1])
def test_scaler_priors_temperature_and_alignment_see_no_document_of_a_tested_group(align_epochs: int) -> None:
    """A fit of the training documents alone, of which the others are not even a part, is the same."""
    config = replace(TINY, fit=replace(TINY.fit, align_epochs=align_epochs))
    trained = FEATURES.take(PART.train)
    assert set(trained.doc_ids) == set(FEATURES.doc_ids) - set(FEATURES.doc_ids[PART.test])
    assert not set(trained.groups) & set(FEATURES.groups[PART.test])
    whole, alone = fit(config, FEATURES, PART.train), fit(config, trained, np.arange(len(trained)))
    assert whole.temperature == alone.temperature
    found, wanted = whole.networks[0].state_dict(), alone.networks[0].state_dict()
    assert {"audio.scale.mean", "text.wide_scale.scale", "labels_0"} < set(wanted), "scaler and priors"
    for name, tensor in wanted.items():
        assert torch.equal(found[name], tensor), name
    result = run_fold(FEATURES, Variant(name="hilbert", config=config), PART)
    assert result.temperature == alone.temperature
    np.testing.assert_array_equal(result.trained_on, PART.train)


def test_what_is_trained_on_changes_what_is_fitted() -> None:
    """The counterpart of the test above: it would pass if nothing were read at all."""
    first = run_fold(FEATURES, variant("hilbert"), PART)
    second = run_fold(changed(FEATURES, PART.train[:4]), variant("hilbert"), PART)
    assert first.temperature != second.temperature
    assert not np.allclose(first.probabilities["state"], second.probabilities["state"])


def test_comparing_names_every_baseline_and_ablation() -> None:
    assert tuple(one.name for one in choose_variants(TINY, FEATURES, compare=True)) == COMPARED
    assert tuple(one.name for one in choose_variants(TINY, FEATURES, compare=False)) == COMPARED[:4]
    alone = choose_variants(TINY, FEATURES.only("audio"), compare=True)
    assert not {"audio_only", "text_only", "late_fusion"} & {one.name for one in alone}


def test_an_ablation_changes_what_its_name_says_and_nothing_else() -> None:
    def without(**weights: float) -> Config:
        return from_dict(Config, {"loss": weights}, TINY)

    expected = {
        "no_fusion": replace(TINY, model=replace(TINY.model, layers=0)),
        "mlp_head": replace(TINY, moe=replace(TINY.moe, kind="mlp")),
        "without_wide": replace(TINY, model=replace(TINY.model, wide=False)),
        "without_contrastive": without(contrastive=0.0),
        "without_cka": without(cka=0.0),
        "without_balance": without(balance=0.0),
        "without_router_losses": without(load_balance=0.0, router_z=0.0),
        "without_redundancy": without(redundancy=0.0),
        "task_only": without(
            contrastive=0.0, cka=0.0, balance=0.0, load_balance=0.0, router_z=0.0, redundancy=0.0
        ),
        "hilbert": TINY,
    }
    for name, config in expected.items():
        assert variant(name).config == config, name
    assert variant("direct_contrast").config.loss.direct
    assert variant("paper").config.model == replace(TINY.model, wide=False, unimodal_heads=False)


@pytest.mark.parametrize("name", COMPARED)
def test_every_variant_can_be_fitted_and_predicts_finite_probabilities(name: str) -> None:
    result = run_fold(FEATURES, variant(name), PART)
    assert result.variant == name
    for task, settings in TASKS.items():
        p, decision = result.probabilities[task], result.decisions[task]
        assert p.shape == (len(PART.test), len(settings.classes))
        assert np.isfinite(p).all()
        assert (p >= 0).all()
        np.testing.assert_allclose(p.sum(1), 1.0, atol=1e-5)
        assert decision.shape == (len(PART.test),)
        assert set(decision) <= set(range(len(settings.classes)))
    assert bool(result.embeddings) == (name == "hilbert")


def test_a_variant_of_one_modality_never_reads_the_other() -> None:
    assert FEATURES.text is not None
    other = replace(
        FEATURES, text=replace(FEATURES.text, values=-FEATURES.text.values, wide=-FEATURES.text.wide)
    )
    plain, turned = (run_fold(one, variant("audio_only"), PART) for one in (FEATURES, other))
    for task, probabilities in plain.probabilities.items():
        np.testing.assert_array_equal(probabilities, turned.probabilities[task])


def test_late_fusion_is_the_mean_of_what_a_document_has() -> None:
    assert FEATURES.audio is not None
    assert FEATURES.text is not None
    fused, audio, text = (
        run_fold(FEATURES, variant(name), PART) for name in ("late_fusion", "audio_only", "text_only")
    )
    heard, read = FEATURES.audio.lengths[PART.test] > 0, FEATURES.text.lengths[PART.test] > 0
    assert (heard & read).any()
    assert not (heard & read).all()
    for task, found in fused.probabilities.items():
        both = (audio.probabilities[task] + text.probabilities[task]) / 2
        expected = np.where(
            (heard & read)[:, None],
            both,
            np.where(heard[:, None], audio.probabilities[task], text.probabilities[task]),
        )
        np.testing.assert_allclose(found, expected, atol=1e-6)


def test_repeats_train_from_other_seeds() -> None:
    later = replace(PART, repeat=1)
    first, second = (run_fold(FEATURES, variant("hilbert"), part) for part in (PART, later))
    assert not np.allclose(first.probabilities["state"], second.probabilities["state"])


# The baseline to beat


def labelled_features(y: np.ndarray, groups: np.ndarray, seed: int = 0) -> Features:
    """Return audio alone in which the documents of class k lie around k."""
    rng = np.random.default_rng(seed)
    part = make.ragged(rng.integers(2, 5, len(y)), 6, np.maximum(y, 0).astype(np.float32), rng)
    ids = np.array([f"d{i:03d}" for i in range(len(y))])
    return Features(doc_ids=ids, groups=groups, audio=part, text=None, targets={"state": y})


def test_the_baseline_equals_a_plain_regression_whose_strength_is_searched_by_hand() -> None:
    y = np.tile([0, 0, 1, 0, 2, 0, 1, 0, 0, 1], 9)  # skewed: decisions are corrected by the prior
    y[::11] = -1
    features = labelled_features(y, np.arange(90) // 10)
    assert features.audio is not None
    x, groups = features.audio.wide, features.groups
    train, test = np.flatnonzero(groups < 6), np.flatnonzero(groups >= 6)
    known = train[y[train] >= 0]

    def fitted(c: float, at: np.ndarray) -> tuple[StandardScaler, LogisticRegression]:
        scaler = StandardScaler().fit(x[at])
        return scaler, LogisticRegression(C=c, max_iter=1000).fit(scaler.transform(x[at]), y[at])

    def score(c: float) -> float:
        found = []
        for a, b in GroupKFold(3).split(known, groups=groups[known]):
            scaler, model = fitted(c, known[a])
            held = known[b]
            found.append(-log_loss(y[held], model.predict_proba(scaler.transform(x[held])), labels=[0, 1, 2]))
        return float(np.mean(found))

    scaler, model = fitted(max(np.logspace(-4, 0, 5), key=score), known)
    expected = model.predict_proba(scaler.transform(x[test]))
    tasks = {"state": TaskConfig(classes=("a", "b", "c"))}
    probabilities, decisions = logistic(features, Config(tasks=tasks), train, test)
    np.testing.assert_allclose(probabilities["state"], expected, atol=1e-6)
    np.testing.assert_array_equal(decisions["state"], (expected / np.bincount(y[known])).argmax(1))
    assert (decisions["state"] != expected.argmax(1)).any()


def test_classes_that_training_lacks_get_no_probability_and_no_decision() -> None:
    y = np.arange(60) % 3
    groups = np.arange(60) % 6
    groups[y == 2] = 5  # only the tested group has it
    features = labelled_features(y, groups)
    train, test = np.flatnonzero(groups < 5), np.flatnonzero(groups == 5)
    tasks = {"state": TaskConfig(classes=("a", "b", "c", "never"))}
    probabilities, decisions = logistic(features, Config(tasks=tasks), train, test)
    assert (probabilities["state"][:, 2:] == 0).all()
    np.testing.assert_allclose(probabilities["state"].sum(1), 1.0, atol=1e-6)
    assert set(decisions["state"]) <= {0, 1}
    one_class = np.flatnonzero((groups < 5) & (y == 1))
    probabilities, decisions = logistic(features, Config(tasks=tasks), one_class, test)
    assert (probabilities["state"][:, 1] == 1).all()
    assert set(decisions["state"]) == {1}


def test_a_class_of_one_training_group_does_not_switch_the_search_for_a_strength_off() -> None:
    """An inner fold without it has one class left, which failed and made all strengths look alike."""
    groups = np.arange(120) % 6
    y = ((groups == 0) | (groups == 5)).astype(np.int64)
    features = labelled_features(y, groups)
    train, test = np.flatnonzero(groups < 5), np.flatnonzero(groups == 5)
    tasks = {"state": TaskConfig(kind="binary", classes=("no", "yes"))}
    probabilities, _ = logistic(features, Config(tasks=tasks), train, test)
    assert probabilities["state"][:, 1].mean() > 0.5, "the weakest strength gives the class's share, 0.2"


@pytest.mark.parametrize("groups", [np.zeros(40, np.int64), np.arange(40) % 2])
def test_one_training_group_or_groups_of_one_class_each_are_no_crash(groups: np.ndarray) -> None:
    y = np.arange(40) % 2
    features = labelled_features(y, groups)
    tasks = {"state": TaskConfig(kind="binary", classes=("no", "yes"))}
    probabilities, decisions = logistic(features, Config(tasks=tasks), np.arange(40), np.arange(40))
    assert (probabilities["state"][y == 1, 1].mean()) > probabilities["state"][y == 0, 1].mean()
    assert (decisions["state"] == y).mean() > 0.8
