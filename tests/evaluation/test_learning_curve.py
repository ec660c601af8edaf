"""The learning curve: who is on it, how many labels each point has, and that its scores are right."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from hilbert_ray.config import Config, ConfigError, FoldsConfig, TaskConfig
from hilbert_ray.evaluation.cross_validation import _fold_key, gather, run_fold
from hilbert_ray.evaluation.learning_curve import check_shares, choose_learners, count_labels, score_curve
from hilbert_ray.evaluation.variants import Variant, choose_variants
from hilbert_ray.features import Features
from hilbert_ray.folds import Fold, make_folds
from hilbert_ray.metrics import evaluate_predictions
from hilbert_ray.run import Evaluation, FoldResult
from tests import make
from tests.evaluation.cases import FEATURES, FOLD, TASKS, TINY

pytestmark = pytest.mark.usefixtures("one_thread")
LIGHT = replace(TINY, folds=FoldsConfig(folds=2, repeats=1, inner=0))


def run_all(features: Features, learners: Sequence[Variant], folds: Sequence[Fold]) -> list[FoldResult]:
    return [run_fold(features, learner, fold) for learner in learners for fold in folds]


def drawn(features: Features, config: Config, task: str) -> list[Fold]:
    strata = features.targets[task]
    return list(make_folds(features.doc_ids, features.groups, strata, config.folds, seed=0))


def test_the_curve_has_hilbert_its_task_loss_alone_and_the_baselines() -> None:
    learners = choose_learners(TINY, FEATURES, (0.1, 0.5, 1.0))
    names = ["hilbert", "task_only", "mean_std_logistic", "late_fusion"]
    assert [(one.name, one.labels) for one in learners] == [
        (name, share) for share in (1.0, 0.5, 0.1) for name in names
    ]
    task_only = next(one for one in learners if one.name == "task_only")
    assert (task_only.config.loss.contrastive, task_only.config.loss.task) == (0.0, TINY.loss.task)
    alone = choose_learners(TINY, FEATURES.only("audio"), (0.5,))
    assert [one.name for one in alone] == names[:3]
    assert choose_learners(TINY, FEATURES, ()) == []


@pytest.mark.parametrize("subsets", [False, True])
def test_with_all_labels_a_learner_is_a_variant_whose_folds_are_reused(subsets: bool) -> None:
    compared = choose_variants(TINY, FEATURES, compare=True, subsets=subsets)
    keys = {_fold_key("data", one, FOLD) for one in compared}
    for learner in choose_learners(TINY, FEATURES, (0.5, 1.0), subsets):
        assert (_fold_key("data", learner, FOLD) in keys) == (learner.labels == 1.0)
        assert (learner in compared) == (learner.labels == 1.0)


@pytest.mark.parametrize("share", [0.0, -0.1, 1.5, 25.0, float("nan")])
def test_a_share_that_is_none_is_refused_with_what_to_give_instead(share: float) -> None:
    with pytest.raises(
        ConfigError, match=rf"labels is {share:g}; .* above 0 and at most 1: for 10 % give 0.1"
    ):
        check_shares((0.5, share))


def test_shares_are_sorted_and_each_is_run_once() -> None:
    assert check_shares((1, 0.25, 0.5, 0.25)) == (0.25, 0.5, 1)
    assert check_shares(()) == ()


def test_every_point_is_the_headline_of_its_folds_with_its_number_of_labels() -> None:
    tasks = {name: TASKS[name] for name in ("heard", "level")}
    config = replace(LIGHT, tasks=tasks)
    folds = drawn(FEATURES, config, "heard")
    learners = [
        one
        for one in choose_learners(config, FEATURES, (0.5, 1.0))
        if one.name in ("hilbert", "mean_std_logistic")
    ]
    results = run_all(FEATURES, learners, folds)
    # Another variant's results with all labels are no part of it.
    other = replace(results[0], variant="paper")
    curve = score_curve(FEATURES, config, folds, learners, [*results, other])
    assert list(curve) == list(tasks)
    for task, by_variant in curve.items():
        assert list(by_variant) == ["hilbert", "mean_std_logistic"]
        for name, points in by_variant.items():
            assert [point["fraction"] for point in points] == [0.5, 1.0]
            for point in points:
                own = [r for r in results if (r.variant, r.labels) == (name, point["fraction"])]
                predictions = gather(FEATURES, TASKS[task], task, own)
                # All that are tested are scored, whatever was withheld from training.
                assert len(predictions.targets) == len(FEATURES)
                auc = evaluate_predictions(predictions, only=("auc",))["auc"]
                assert (point["within"], point["low"], point["high"], point["folds"]) == (
                    auc["within"], auc["within_low"], auc["within_high"], auc["folds"]
                )  # fmt: skip
            half, whole = points
            # Four training groups of five documents, all labelled, of which two keep their labels.
            assert (half["labels"], whole["labels"]) == (10.0, 20.0)


def test_more_labels_make_a_better_baseline() -> None:
    features = make.features(120, groups=60, absent=0.0, seed=3)
    config = replace(LIGHT, tasks={"heard": TASKS["heard"]})
    folds = drawn(features, config, "heard")
    learners = [Variant(name="mean_std_logistic", config=config, method="logistic", labels=share)
                for share in (0.1, 1.0)]  # fmt: skip
    curve = score_curve(features, config, folds, learners, run_all(features, learners, folds))
    few, whole = curve["heard"]["mean_std_logistic"]
    assert (few["labels"], whole["labels"]) == (6.0, 60.0)
    assert few["within"] + 0.05 < whole["within"]


def test_documents_that_never_had_a_label_do_not_count_and_those_withheld_are_of_every_task() -> None:
    heard = FEATURES.targets["heard"].copy()
    heard[FOLD.train[:10]] = -1
    features = replace(FEATURES, targets={**FEATURES.targets, "heard": heard})
    full, half = (count_labels(features, TINY, FOLD, share) for share in (1.0, 0.5))
    assert full["heard"] == len(FOLD.train) - 10
    assert full["level"] == len(FOLD.train)
    assert all(half[task] < full[task] for task in TASKS)


VALUES: dict[str, Any] = {
    "tasks": {"topic": {"hilbert": {"auc": {"within": 0.9, "within_low": 0.8, "within_high": 0.95}}}},
    "labels": {"topic": {"labelled": 60, "unlabelled": 1000}},
    "learning_curve": {
        "topic": {
            "hilbert": [
                {"fraction": 1.0, "labels": 48.0, "within": 0.9, "low": 0.8, "high": 0.95, "folds": 5},
                {"fraction": 0.1, "labels": 4.8, "within": 0.7, "low": None, "high": None, "folds": 5},
            ],
            "mean_std_logistic": [
                {"fraction": 0.1, "labels": 4.8, "within": None, "low": None, "high": None, "folds": 0},
                {"fraction": 1.0, "labels": 48.0, "within": 0.85, "low": 0.7, "high": 0.9, "folds": 5},
            ],
        }
    },
}


def test_the_result_has_the_curve_and_the_counts_as_records() -> None:
    evaluation = Evaluation(VALUES)
    few, whole = evaluation.learning_curve["topic"]["hilbert"]
    assert (few.fraction, few.labels, few.within, few.low, few.folds) == (0.1, 4.8, 0.7, None, 5)
    assert (whole.fraction, whole.within, whole.high) == (1.0, 0.9, 0.95)
    assert (evaluation.labels["topic"].labelled, evaluation.labels["topic"].unlabelled) == (60, 1000)
    without = Evaluation({"tasks": {}})
    assert (dict(without.learning_curve), dict(without.labels)) == ({}, {})


def test_a_terminal_shows_the_curve_below_the_scores() -> None:
    lines = Evaluation(VALUES).text().splitlines()
    assert [line.split() for line in lines[2:]] == [
        ["topic:", "the", "same", "with", "fewer", "labels"],
        ["labelled", "documents", "to", "train", "on", "5", "48"],
        ["HILBERT", "0.700", "0.900"],
        ["Mean", "+", "std,", "logistic", "n/a", "0.850"],
    ]
    assert len({len(line) for line in lines[3:]}) == 1, "columns are not aligned"


def test_a_task_of_numbers_has_a_curve_of_concordance() -> None:
    rng = np.random.default_rng(0)
    features = make.features(60, groups=30, absent=0.0)
    assert features.audio is not None
    age = (features.audio.wide[:, 0] + 0.1 * rng.normal(size=60)).astype(np.float32)
    features = replace(features, targets={"age": age})
    config = replace(LIGHT, tasks={"age": TaskConfig(kind="regression")})
    folds = list(make_folds(features.doc_ids, features.groups, np.zeros((60, 0)), config.folds, seed=0))
    learners = [one for one in choose_learners(config, features, (0.02, 1.0)) if one.method == "logistic"]
    few, whole = score_curve(features, config, folds, learners, run_all(features, learners, folds))["age"][
        "mean_std_logistic"
    ]
    # One value below the median and one above it: two groups of two documents at most.
    assert 2 <= few["labels"] <= 4
    assert whole["labels"] == 30
    assert few["within"] < whole["within"]
