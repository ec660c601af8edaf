"""Scores of a task: equal to scikit-learn where it has them, to brute force where it has not."""

import json
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import sklearn.metrics as sk
from scipy import special, stats

from hilbert_ray.config import TaskKind
from hilbert_ray.metrics.evaluation import (
    decision_curves,
    evaluate_predictions,
)
from hilbert_ray.metrics.predictions import problems
from tests.metrics.helpers import KINDS, brute_pairs, make_predictions, rows_by


@pytest.mark.parametrize("kind", ["binary", "multiclass", "ordinal"])
def test_pooled_scores_equal_scikit_learn(kind: TaskKind) -> None:
    predictions = make_predictions(kind)
    scores = evaluate_predictions(predictions, resamples=0)
    assert predictions.decisions is not None
    expected: dict[str, list[float]] = {name: [] for name in scores}
    for rows in rows_by(predictions, "repeat"):
        y, p, d = predictions.targets[rows], predictions.probabilities[rows], predictions.decisions[rows]
        if kind == "binary":
            expected["auc"].append(sk.roc_auc_score(y, p[:, 1]))
            expected["pr_auc"].append(sk.average_precision_score(y, p[:, 1]))
        elif kind == "multiclass":
            expected["auc"].append(sk.roc_auc_score(y, p, multi_class="ovr"))
            expected["pr_auc"].append(sk.average_precision_score(np.eye(3)[y], p))
        else:
            above = [p[:, k:].sum(1) for k in (1, 2)]
            expected["auc"].append(np.mean([sk.roc_auc_score(y >= k, above[k - 1]) for k in (1, 2)]))
            expected["pr_auc"].append(
                np.mean([sk.average_precision_score(y >= k, above[k - 1]) for k in (1, 2)])
            )
            expected["quadratic_kappa"].append(sk.cohen_kappa_score(y, d, weights="quadratic"))
        expected["balanced_accuracy"].append(sk.balanced_accuracy_score(y, d))
        expected["macro_f1"].append(sk.f1_score(y, d, average="macro"))
        expected["mcc"].append(sk.matthews_corrcoef(y, d))
        labels = range(p.shape[1])
        expected["brier"].append(sk.brier_score_loss(y, p[:, 1] if kind == "binary" else p, labels=labels))
    for name, values in expected.items():
        if name not in ("ece", "calibration_slope"):
            assert scores[name]["pooled"] == pytest.approx(np.mean(values), abs=1e-12), name


def test_equal_ordinal_probabilities_are_ties_however_they_are_split() -> None:
    """P(y >= k) is a sum of classes; 0.1 + 0.2 + 0.3 is above 0.6 by rounding, and won against its equal."""
    rows = np.array([[0.4, 0.3, 0.2, 0.1], [0.4, 0.6, 0, 0], [0.4, 0.1, 0.2, 0.3], [0.7, 0.1, 0.1, 0.1]])
    assert len(set(rows[:3, ::-1].cumsum(1)[:, 2])) > 1, "sums that rounding parts"
    predictions = make_predictions("ordinal", documents=4, groups=4, repeats=1, classes=4)
    for targets in ([1, 0, 2, 3], [0, 3, 1, 2], [2, 1, 0, 3]):
        tied = replace(predictions, probabilities=rows, targets=np.array(targets), fold=np.zeros(4, np.int64))
        score = problems(tied)[0].score
        assert score[0] == score[1] == score[2] > score[3]
        assert score[:3] == pytest.approx(0.6, abs=1e-15)
    # What differs by more than rounding stays apart, however small it is.
    small = np.array([1e-9, 1.0001e-9, 1e-300, 0.0])
    apart = replace(tied, probabilities=np.stack([1 - small, small, 0 * small, 0 * small], 1))
    assert problems(apart)[0].score.tolist() == small.tolist()


@pytest.mark.parametrize("kind", ["multiclass", "ordinal"])
def test_scores_of_each_class_equal_scikit_learn(kind: TaskKind) -> None:
    predictions = make_predictions(kind)
    assert predictions.decisions is not None
    scores = evaluate_predictions(predictions, resamples=0)
    result: dict[str, list[np.ndarray]] = {"balanced_accuracy": [], "macro_f1": [], "auc": [], "pr_auc": []}
    for rows in rows_by(predictions, "repeat"):
        y, p, d = predictions.targets[rows], predictions.probabilities[rows], predictions.decisions[rows]
        result["balanced_accuracy"].append(sk.recall_score(y, d, average=None))
        result["macro_f1"].append(sk.f1_score(y, d, average=None))
        if kind == "multiclass":
            result["auc"].append(np.array([sk.roc_auc_score(y == k, p[:, k]) for k in range(3)]))
            result["pr_auc"].append(sk.average_precision_score(np.eye(3)[y], p, average=None))
    for name, of_repeats in result.items():
        if of_repeats:
            of_classes = [scores[name]["classes"][label]["pooled"] for label in predictions.classes]
            assert of_classes == pytest.approx(np.mean(of_repeats, axis=0), abs=1e-12), name


def test_multilabel_scores_equal_scikit_learn_a_label_at_a_time() -> None:
    predictions = make_predictions("multilabel")
    assert predictions.decisions is not None
    scores = evaluate_predictions(predictions, resamples=0)
    measures: dict[str, Callable[[np.ndarray, np.ndarray, np.ndarray], float]] = {
        "auc": lambda y, p, d: sk.roc_auc_score(y, p),
        "pr_auc": lambda y, p, d: sk.average_precision_score(y, p),
        "balanced_accuracy": lambda y, p, d: sk.balanced_accuracy_score(y, d),
        "macro_f1": lambda y, p, d: sk.f1_score(y, d),
        "mcc": lambda y, p, d: sk.matthews_corrcoef(y, d),
        "brier": lambda y, p, d: sk.brier_score_loss(y, p),
    }
    for name, measure in measures.items():
        by_label = []
        for k in range(3):
            of_repeats = []
            for rows in rows_by(predictions, "repeat"):
                rows = rows[np.isfinite(predictions.targets[rows, k])]
                d, p = predictions.decisions[rows, k], predictions.probabilities[rows, k]
                of_repeats.append(measure(predictions.targets[rows, k], p, d))
            by_label.append(np.mean(of_repeats))
            assert scores[name].get("classes", {}).get("abc"[k], {"pooled": by_label[k]})["pooled"] == (
                pytest.approx(by_label[k], abs=1e-12)
            )
        assert scores[name]["pooled"] == pytest.approx(np.mean(by_label), abs=1e-12), name


def test_regression_scores_equal_scikit_learn_and_scipy() -> None:
    predictions = make_predictions("regression")
    scores = evaluate_predictions(predictions, resamples=0)
    for by, taken in (("repeat", "pooled"), ("fold", "mean")):
        of_parts = [
            (predictions.targets[rows], predictions.probabilities[rows]) for rows in rows_by(predictions, by)
        ]
        assert scores["r2"][taken] == pytest.approx(np.mean([sk.r2_score(y, p) for y, p in of_parts]))
        assert scores["mae"][taken] == pytest.approx(
            np.mean([sk.mean_absolute_error(y, p) for y, p in of_parts])
        )
        assert scores["spearman"][taken] == pytest.approx(
            np.mean([stats.spearmanr(y, p)[0] for y, p in of_parts])
        )


@pytest.mark.parametrize("kind", ["binary", "multiclass", "ordinal", "multilabel"])
def test_auc_within_folds_equals_brute_force(kind: TaskKind) -> None:
    predictions = make_predictions(kind)
    by_class = []
    for problem in problems(predictions):
        concordant, pairs = 0.0, 0
        for rows in rows_by(predictions, "fold"):
            inside = np.isin(problem.rows, rows)
            c, n = brute_pairs(problem.score[inside], problem.positive[inside])
            concordant, pairs = concordant + c, pairs + n
        by_class.append(concordant / pairs)
    result = evaluate_predictions(predictions, resamples=0)["auc"]
    assert result["within"] == pytest.approx(np.mean(by_class), abs=1e-12)
    assert [entry["within"] for entry in result["classes"].values()] == pytest.approx(by_class, abs=1e-12)


def test_concordance_within_folds_equals_brute_force() -> None:
    predictions = make_predictions("regression")
    pairs = [
        (i, j)
        for rows in rows_by(predictions, "fold")
        for i in rows
        for j in rows
        if predictions.targets[i] > predictions.targets[j]
    ]
    p = predictions.probabilities
    expected = np.mean([0.5 * (1 + np.sign(p[i] - p[j])) for i, j in pairs])
    assert evaluate_predictions(predictions, resamples=0)["concordance"]["within"] == pytest.approx(expected)


def test_within_ignores_how_networks_of_different_folds_are_offset_and_pooled_does_not() -> None:
    predictions = make_predictions("binary", signal=2.0)
    offset = special.expit(special.logit(predictions.probabilities[:, 1]) + 3.0 * predictions.fold)
    shifted = replace(predictions, probabilities=offset)
    plain, moved = (evaluate_predictions(p, resamples=0)["auc"] for p in (predictions, shifted))
    assert moved["within"] == pytest.approx(plain["within"], abs=1e-12)
    assert moved["mean"] == pytest.approx(plain["mean"], abs=1e-12)
    assert moved["pooled"] < plain["pooled"] - 0.05


def test_classes_absent_from_a_fold_leave_its_mean_and_are_counted() -> None:
    predictions = make_predictions("multiclass", repeats=1)
    y = predictions.targets.copy()
    y[(y == 2) & (predictions.fold < 3)] = 0
    predictions = replace(predictions, targets=y)
    defined = []
    for rows in rows_by(predictions, "fold"):
        truth = y[rows] == 2
        if 0 < truth.sum() < len(truth):
            defined.append(sk.roc_auc_score(truth, predictions.probabilities[rows, 2]))
    result = evaluate_predictions(predictions, resamples=0)
    rare = result["auc"]["classes"]["c"]
    assert (rare["folds"], result["auc"]["folds"]) == (len(defined), 5)
    assert len(defined) <= 2
    assert rare["mean"] == pytest.approx(np.mean(defined))
    assert result["balanced_accuracy"]["classes"]["c"]["folds"] == len(defined)
    assert result["macro_f1"]["classes"]["c"]["folds"] == len(defined)
    means = [entry["mean"] for entry in result["auc"]["classes"].values()]
    assert result["auc"]["mean"] == pytest.approx(np.mean(means))


def test_a_class_without_any_document_is_none_and_leaves_the_macro_mean() -> None:
    predictions = make_predictions("multiclass")
    y = np.where(predictions.targets == 2, 0, predictions.targets)
    result = evaluate_predictions(replace(predictions, targets=y), resamples=50)
    absent = result["auc"]["classes"]["c"]
    assert (absent["within"], absent["mean"], absent["pooled"], absent["low"], absent["folds"]) == (
        None,
    ) * 4 + (0,)
    assert result["auc"]["pooled"] == pytest.approx(
        np.mean([result["auc"]["classes"][name]["pooled"] for name in "ab"])
    )
    assert result["auc"]["low"] is not None


def test_unlabelled_rows_change_nothing() -> None:
    for kind in KINDS:
        predictions = make_predictions(kind)
        hidden = predictions.document < 15
        nothing = -1 if predictions.targets.dtype.kind == "i" else np.nan
        targets = predictions.targets.copy()
        targets[hidden] = nothing
        masked = evaluate_predictions(replace(predictions, targets=targets), resamples=30)
        assert masked == evaluate_predictions(predictions[~hidden], resamples=30), kind


@pytest.mark.parametrize("kind", KINDS)
def test_scores_are_plain_json_with_the_keys_of_metrics_json(kind: TaskKind) -> None:
    scores = evaluate_predictions(make_predictions(kind), resamples=50)
    json.dumps(scores, allow_nan=False)
    for name, score in scores.items():
        assert {"mean", "pooled", "low", "high", "folds"} <= set(score), name
        assert score["low"] < score["pooled"] < score["high"], name
    headline = scores["concordance" if kind == "regression" else "auc"]
    assert headline["within_low"] < headline["within"] < headline["within_high"]
    if kind != "regression":
        assert set(headline["classes"]) == {problem.name for problem in problems(make_predictions(kind))}
        assert {"positives", "groups"} <= set(next(iter(headline["classes"].values())))


def test_prevalence_is_the_chance_level_of_average_precision() -> None:
    predictions = make_predictions("multiclass", documents=400, groups=80, signal=0.0)
    result = evaluate_predictions(predictions, resamples=0)["pr_auc"]
    shares = np.bincount(predictions.targets) / len(predictions.targets)
    assert [entry["prevalence"] for entry in result["classes"].values()] == pytest.approx(shares)
    assert result["prevalence"] == pytest.approx(1 / 3)
    assert result["pooled"] == pytest.approx(1 / 3, abs=0.05)


def test_a_binary_task_may_give_one_probability_a_row() -> None:
    predictions = make_predictions("binary")
    single = replace(predictions, probabilities=predictions.probabilities[:, 1])
    expected, result = (evaluate_predictions(p, resamples=20) for p in (predictions, single))
    for name, score in expected.items():
        assert result[name]["pooled"] == pytest.approx(score["pooled"]), name


def test_some_metrics_can_be_asked_for_alone() -> None:
    predictions = make_predictions("multiclass")
    every = evaluate_predictions(predictions, resamples=20)
    assert evaluate_predictions(predictions, resamples=20, only=("auc",)) == {"auc": every["auc"]}
    with pytest.raises(
        ValueError, match="metrics 'accuracy' were requested; a multiclass task has auc, pr_auc"
    ):
        evaluate_predictions(predictions, only=("accuracy",))


def test_decision_curves_cover_every_class() -> None:
    curves = decision_curves(make_predictions("multiclass"))
    assert set(curves) == {"a", "b", "c"}
    assert all(len(curve["model"]) == len(curve["thresholds"]) == 99 for curve in curves.values())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"fold": np.zeros(3, np.int64)},
            r"fold has shape \(3,\), targets have 120 rows; give one value per row",
        ),
        (
            {"probabilities": np.ones((120, 2))},
            r"of a multiclass task have shape \(120, 2\); it must be \(120, 3\)",
        ),
        (
            {"decisions": np.ones((120, 3))},
            r"decisions of a multiclass task have shape \(120, 3\); it must be",
        ),
        (
            {"probabilities": np.full((120, 3), np.nan)},
            "120 of 120 rows hold NaN or infinity, the first is row 0",
        ),
        (
            {"decisions": np.full(120, 3)},
            "decisions of a multiclass task go up to 3, but its classes are a, b, c",
        ),
        ({"targets": np.full(120, 7)}, "targets of a multiclass task go up to 7"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(changes: dict[str, np.ndarray], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(make_predictions("multiclass"), **changes)  # type: ignore[arg-type]


def test_a_task_without_labels_is_refused() -> None:
    predictions = make_predictions("multiclass")
    empty = replace(predictions, targets=np.full(120, -1))
    with pytest.raises(ValueError, match="none of its 120 rows has a label; label some documents"):
        evaluate_predictions(empty)
