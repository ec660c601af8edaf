"""Metrics: equal to scikit-learn where it has them, to brute force and golden values where it has not."""

import itertools
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sklearn.metrics as sk
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special, stats
from sklearn.calibration import calibration_curve
from sklearn.linear_model import LogisticRegression

from hilbert_ray.config import TaskKind
from hilbert_ray.metrics.calibration import (
    brier,
    calibration_slope,
    decision_curve,
    expected_calibration_error,
    reliability,
)
from hilbert_ray.metrics.evaluation import (
    compare_predictions,
    decision_curves,
    evaluate_predictions,
    permutation_null,
)
from hilbert_ray.metrics.intervals import (
    Error,
    Interval,
    bootstrap_error,
    bootstrap_interval,
    resample_groups,
    t_interval,
)
from hilbert_ray.metrics.partition import Partition
from hilbert_ray.metrics.predictions import Predictions, problems
from hilbert_ray.metrics.ranking import average_precision, class_pairs, number_pairs, shuffled_pairs, spearman
from hilbert_ray.metrics.retrieval import (
    alignment,
    evaluate_embeddings,
    modality_gap,
    retrieval_ranks,
    uniformity,
)
from hilbert_ray.metrics.significance import (
    bootstrap_t,
    corrected_resampled_t,
    holm,
    shuffled_documents,
    smallest_detectable_difference,
)

GOLDEN = json.loads((Path(__file__).parent.parent / "golden_metrics.json").read_text())
KINDS: tuple[TaskKind, ...] = ("binary", "multiclass", "ordinal", "multilabel", "regression")


def make(
    kind: TaskKind = "multiclass",
    documents: int = 60,
    groups: int = 20,
    repeats: int = 2,
    classes: int = 3,
    signal: float = 1.0,
    seed: int = 0,
) -> Predictions:
    """Return predictions that know something of the labels; networks of folds differ by an offset."""
    rng = np.random.default_rng(seed)
    width = 2 if kind == "binary" else classes
    share = 0.5 ** np.arange(width)
    group = rng.integers(0, groups, documents)
    y = rng.choice(width, documents, p=share / share.sum())
    document, repeat = np.tile(np.arange(documents), repeats), np.repeat(np.arange(repeats), documents)
    fold = np.concatenate([(rng.permutation(groups) % 5)[group] for _ in range(repeats)])
    truth = y[document]
    logits = signal * np.eye(width)[truth] + rng.normal(size=(len(truth), width)) + 0.3 * fold[:, None]
    p, names = special.softmax(logits, 1), tuple("abcdef"[:width])
    targets: np.ndarray = truth
    decisions: np.ndarray | None = p.argmax(1)
    if kind == "multilabel":
        targets = (rng.random((documents, width)) < 0.4).astype(np.float64)[document]
        p = special.expit(2 * signal * (targets - 0.5) + rng.normal(size=targets.shape))
        decisions = (p > 0.5).astype(np.int64)
        hidden = (rng.random((documents, width)) < 0.1)[document]
        targets = np.where(hidden, np.nan, targets)
    elif kind == "regression":
        targets = rng.normal(50, 10, documents).round()[document]
        p, decisions, names = targets + rng.normal(0, 5 / max(signal, 1e-9), len(targets)), None, ()
    return Predictions(
        kind=kind,
        classes=names,
        probabilities=p,
        decisions=decisions,
        targets=targets,
        fold=fold,
        repeat=repeat,
        group=group[document],
        document=document,
    )


def one(count: int) -> Partition:
    return Partition(index=np.zeros(count, np.int64), count=1)


def of_all(score: Callable[..., np.ndarray], *values: np.ndarray, weights: np.ndarray | None = None) -> float:
    """Return a metric of one segment under one set of weights."""
    weight = np.ones(len(values[0])) if weights is None else weights
    return float(score(*values, one(len(weight)), weight[:, None])[0, 0])


def parts(predictions: Predictions, by: str) -> list[np.ndarray]:
    """Return the rows of each test set (`fold`) or each repeat (`repeat`)."""
    keys = [predictions.repeat] + ([predictions.fold] if by == "fold" else [])
    return [
        rows
        for values in itertools.product(*(np.unique(key) for key in keys))
        if len(rows := np.flatnonzero(np.all([k == v for k, v in zip(keys, values, strict=True)], 0)))
    ]


def brute_pairs(score: np.ndarray, positive: np.ndarray) -> tuple[float, int]:
    """Count concordant and all pairs of a positive with a negative, one by one."""
    concordant, pairs = 0.0, 0
    for i in np.flatnonzero(positive):
        for j in np.flatnonzero(~positive):
            pairs += 1
            concordant += 1.0 if score[i] > score[j] else 0.5 if score[i] == score[j] else 0.0
    return concordant, pairs


# One metric under weights: equal to scikit-learn, and to the repeated rows that the weights stand for.


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 4), st.booleans(), st.integers(0, 2), st.integers(0, 3)),
        min_size=1,
        max_size=40,
    )
)
def test_pairs_of_tied_weighted_scores_equal_brute_force(rows: list[tuple[int, bool, int, int]]) -> None:
    score, positive, segment, weight = (np.array(column) for column in zip(*rows, strict=True))
    segments = Partition(index=segment.astype(np.int64), count=3)
    weights = np.stack([np.ones(len(rows)), weight], 1).astype(float)
    concordant, pairs = class_pairs(score.astype(float), positive, segments, weights)
    shuffled = shuffled_pairs(score.astype(float), positive[:, None], ~positive[:, None], segments)
    for s in range(3):
        inside = segment == s
        assert (concordant[s, 0], pairs[s, 0]) == brute_pairs(score[inside], positive[inside])
        assert (shuffled[0][s, 0], shuffled[1][s, 0]) == brute_pairs(score[inside], positive[inside])
        repeated = np.repeat(np.flatnonzero(inside), weight[inside])
        assert (concordant[s, 1], pairs[s, 1]) == brute_pairs(score[repeated], positive[repeated])


def test_average_precision_equals_scikit_learn_with_ties_and_weights() -> None:
    rng = np.random.default_rng(0)
    score, positive, weights = rng.integers(0, 8, 60) / 8, rng.random(60) < 0.3, rng.integers(1, 4, 60) * 1.0
    assert of_all(average_precision, score, positive) == pytest.approx(
        sk.average_precision_score(positive, score), abs=1e-12
    )
    assert of_all(average_precision, score, positive, weights=weights) == pytest.approx(
        sk.average_precision_score(positive, score, sample_weight=weights), abs=1e-12
    )
    assert np.isnan(of_all(average_precision, score, np.zeros(60, bool)))


def test_spearman_equals_scipy_on_the_repeated_rows() -> None:
    rng = np.random.default_rng(0)
    p, y, weights = rng.integers(0, 9, 50) * 1.0, rng.integers(0, 9, 50) * 1.0, rng.integers(0, 4, 50)
    repeated = np.repeat(np.arange(50), weights)
    assert of_all(spearman, p, y) == pytest.approx(stats.spearmanr(p, y)[0], abs=1e-12)
    assert of_all(spearman, p, y, weights=weights * 1.0) == pytest.approx(
        stats.spearmanr(p[repeated], y[repeated])[0], abs=1e-12
    )
    assert np.isnan(of_all(spearman, p, np.full(50, 3.0)))


def test_concordance_of_numbers_equals_brute_force() -> None:
    rng = np.random.default_rng(0)
    p, y, weights = rng.integers(0, 9, 30) * 1.0, rng.integers(0, 9, 30) * 1.0, rng.integers(0, 3, 30)
    repeated = np.repeat(np.arange(30), weights)
    for rows, weight in ((np.arange(30), np.ones(30)), (repeated, weights * 1.0)):
        found = number_pairs(p, y, one(30), weight[:, None])
        pairs = [(i, j) for i in rows for j in rows if y[i] > y[j]]
        assert found[1][0, 0] == len(pairs)
        assert found[0][0, 0] == sum(0.5 * (1 + np.sign(p[i] - p[j])) for i, j in pairs)


def test_calibration_error_equals_the_golden_value() -> None:
    golden = GOLDEN["calibration"]
    p, y = np.array(golden["inputs"]["probabilities"]), np.array(golden["inputs"]["targets"])
    assert of_all(expected_calibration_error, p, y) == pytest.approx(golden["ece"], abs=1e-12)


@pytest.mark.parametrize("classes", [2, 4])
def test_brier_equals_scikit_learn(classes: int) -> None:
    rng = np.random.default_rng(0)
    p, y = rng.dirichlet(np.ones(classes), 50), rng.integers(0, classes, 50)
    expected = sk.brier_score_loss(y, p[:, 1] if classes == 2 else p, labels=range(classes))
    assert of_all(brier, p, y) == pytest.approx(expected, abs=1e-12)


def test_calibration_slope_equals_an_unpenalised_logistic_regression() -> None:
    rng = np.random.default_rng(0)
    logit = rng.normal(size=400)
    positive = rng.random(400) < special.expit(0.5 * logit - 0.3)
    found = calibration_slope(special.expit(logit), positive, np.zeros(400, np.int64))
    fitted = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000).fit(logit[:, None], positive)
    assert found.value == pytest.approx(float(fitted.coef_[0, 0]), abs=1e-6)


def test_influences_on_the_slope_are_what_leaving_a_row_out_changes() -> None:
    rng = np.random.default_rng(0)
    p, positive = special.expit(rng.normal(size=300)), rng.random(300) < 0.4
    problem = np.repeat([0, 1], 150)
    whole = calibration_slope(p, positive, problem)
    for row in (0, 77, 299):
        kept = np.arange(300) != row
        without = calibration_slope(p[kept], positive[kept], problem[kept])
        assert whole.value - without.value == pytest.approx(whole.influence[row], rel=0.1, abs=1e-4)


def test_the_slope_is_undefined_for_separated_or_one_class_rows() -> None:
    p = np.linspace(0.01, 0.99, 20)
    assert np.isnan(calibration_slope(p, p > 0.5, np.zeros(20, np.int64)).value)
    assert np.isnan(calibration_slope(p, np.ones(20, bool), np.zeros(20, np.int64)).value)
    mixed = np.arange(20) % 2 == 0
    alone = calibration_slope(p, mixed, np.zeros(20, np.int64)).value
    beside_a_constant = calibration_slope(
        np.tile(p, 2), np.concatenate([mixed, np.ones(20, bool)]), np.repeat([0, 1], 20)
    ).value
    assert beside_a_constant == pytest.approx(alone, abs=1e-9)


def test_net_benefit_is_counted_by_hand() -> None:
    p, positive = np.array([0.1, 0.4, 0.6, 0.9]), np.array([False, True, False, True])
    curve = decision_curve(p, positive, np.array([0.2, 0.5]))
    # At 0.2 three are acted on: 2 true, 1 false; at 0.5 two: 1 true, 1 false.
    assert curve["model"] == pytest.approx([2 / 4 - 1 / 4 * 0.25, 1 / 4 - 1 / 4])
    assert curve["all"] == pytest.approx([0.5 - 0.5 * 0.25, 0.0])


def test_reliability_bins_hold_every_row() -> None:
    found = reliability(np.array([0.05, 0.06, 0.95, 1.0]), np.array([False, True, True, True]))
    assert found["count"] == [2, 2]
    assert found["predicted"] == pytest.approx([0.055, 0.975])
    assert found["observed"] == pytest.approx([0.5, 1.0])


@pytest.mark.parametrize("bins", [5, 10])
def test_reliability_equals_scikit_learn(bins: int) -> None:
    rng = np.random.default_rng(0)
    p = rng.random(200)
    positive = rng.random(200) < p**2
    found = reliability(p, positive, bins)
    observed, predicted = calibration_curve(positive, p, n_bins=bins)
    assert found["observed"] == pytest.approx(observed)
    assert found["predicted"] == pytest.approx(predicted)


# Scores of a task.


@pytest.mark.parametrize("kind", ["binary", "multiclass", "ordinal"])
def test_pooled_scores_equal_scikit_learn(kind: TaskKind) -> None:
    predictions = make(kind)
    scores = evaluate_predictions(predictions, resamples=0)
    assert predictions.decisions is not None
    expected: dict[str, list[float]] = {name: [] for name in scores}
    for rows in parts(predictions, "repeat"):
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


@pytest.mark.parametrize("kind", ["multiclass", "ordinal"])
def test_scores_of_each_class_equal_scikit_learn(kind: TaskKind) -> None:
    predictions = make(kind)
    assert predictions.decisions is not None
    scores = evaluate_predictions(predictions, resamples=0)
    found: dict[str, list[np.ndarray]] = {"balanced_accuracy": [], "macro_f1": [], "auc": [], "pr_auc": []}
    for rows in parts(predictions, "repeat"):
        y, p, d = predictions.targets[rows], predictions.probabilities[rows], predictions.decisions[rows]
        found["balanced_accuracy"].append(sk.recall_score(y, d, average=None))
        found["macro_f1"].append(sk.f1_score(y, d, average=None))
        if kind == "multiclass":
            found["auc"].append(np.array([sk.roc_auc_score(y == k, p[:, k]) for k in range(3)]))
            found["pr_auc"].append(sk.average_precision_score(np.eye(3)[y], p, average=None))
    for name, of_repeats in found.items():
        if of_repeats:
            of_classes = [scores[name]["classes"][label]["pooled"] for label in predictions.classes]
            assert of_classes == pytest.approx(np.mean(of_repeats, axis=0), abs=1e-12), name


def test_multilabel_scores_equal_scikit_learn_a_label_at_a_time() -> None:
    predictions = make("multilabel")
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
            for rows in parts(predictions, "repeat"):
                rows = rows[np.isfinite(predictions.targets[rows, k])]
                d, p = predictions.decisions[rows, k], predictions.probabilities[rows, k]
                of_repeats.append(measure(predictions.targets[rows, k], p, d))
            by_label.append(np.mean(of_repeats))
            assert scores[name].get("classes", {}).get("abc"[k], {"pooled": by_label[k]})["pooled"] == (
                pytest.approx(by_label[k], abs=1e-12)
            )
        assert scores[name]["pooled"] == pytest.approx(np.mean(by_label), abs=1e-12), name


def test_regression_scores_equal_scikit_learn_and_scipy() -> None:
    predictions = make("regression")
    scores = evaluate_predictions(predictions, resamples=0)
    for by, taken in (("repeat", "pooled"), ("fold", "mean")):
        of_parts = [
            (predictions.targets[rows], predictions.probabilities[rows]) for rows in parts(predictions, by)
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
    predictions = make(kind)
    by_class = []
    for problem in problems(predictions):
        concordant, pairs = 0.0, 0
        for rows in parts(predictions, "fold"):
            inside = np.isin(problem.rows, rows)
            c, n = brute_pairs(problem.score[inside], problem.positive[inside])
            concordant, pairs = concordant + c, pairs + n
        by_class.append(concordant / pairs)
    found = evaluate_predictions(predictions, resamples=0)["auc"]
    assert found["within"] == pytest.approx(np.mean(by_class), abs=1e-12)
    assert [entry["within"] for entry in found["classes"].values()] == pytest.approx(by_class, abs=1e-12)


def test_concordance_within_folds_equals_brute_force() -> None:
    predictions = make("regression")
    pairs = [
        (i, j)
        for rows in parts(predictions, "fold")
        for i in rows
        for j in rows
        if predictions.targets[i] > predictions.targets[j]
    ]
    p = predictions.probabilities
    expected = np.mean([0.5 * (1 + np.sign(p[i] - p[j])) for i, j in pairs])
    assert evaluate_predictions(predictions, resamples=0)["concordance"]["within"] == pytest.approx(expected)


def test_within_ignores_how_networks_of_different_folds_are_offset_and_pooled_does_not() -> None:
    predictions = make("binary", signal=2.0)
    offset = special.expit(special.logit(predictions.probabilities[:, 1]) + 3.0 * predictions.fold)
    shifted = replace(predictions, probabilities=offset)
    plain, moved = (evaluate_predictions(p, resamples=0)["auc"] for p in (predictions, shifted))
    assert moved["within"] == pytest.approx(plain["within"], abs=1e-12)
    assert moved["mean"] == pytest.approx(plain["mean"], abs=1e-12)
    assert moved["pooled"] < plain["pooled"] - 0.05


def test_classes_absent_from_a_fold_leave_its_mean_and_are_counted() -> None:
    predictions = make("multiclass", repeats=1)
    y = predictions.targets.copy()
    y[(y == 2) & (predictions.fold < 3)] = 0
    predictions = replace(predictions, targets=y)
    defined = []
    for rows in parts(predictions, "fold"):
        truth = y[rows] == 2
        if 0 < truth.sum() < len(truth):
            defined.append(sk.roc_auc_score(truth, predictions.probabilities[rows, 2]))
    found = evaluate_predictions(predictions, resamples=0)
    rare = found["auc"]["classes"]["c"]
    assert (rare["folds"], found["auc"]["folds"]) == (len(defined), 5)
    assert len(defined) <= 2
    assert rare["mean"] == pytest.approx(np.mean(defined))
    assert found["balanced_accuracy"]["classes"]["c"]["folds"] == len(defined)
    assert found["macro_f1"]["classes"]["c"]["folds"] == len(defined)
    means = [entry["mean"] for entry in found["auc"]["classes"].values()]
    assert found["auc"]["mean"] == pytest.approx(np.mean(means))


def test_a_class_without_any_document_is_none_and_leaves_the_macro_mean() -> None:
    predictions = make("multiclass")
    y = np.where(predictions.targets == 2, 0, predictions.targets)
    found = evaluate_predictions(replace(predictions, targets=y), resamples=50)
    absent = found["auc"]["classes"]["c"]
    assert (absent["within"], absent["mean"], absent["pooled"], absent["low"], absent["folds"]) == (
        None,
    ) * 4 + (0,)
    assert found["auc"]["pooled"] == pytest.approx(
        np.mean([found["auc"]["classes"][name]["pooled"] for name in "ab"])
    )
    assert found["auc"]["low"] is not None


def test_unlabelled_rows_change_nothing() -> None:
    for kind in KINDS:
        predictions = make(kind)
        hidden = predictions.document < 15
        nothing = -1 if predictions.targets.dtype.kind == "i" else np.nan
        targets = predictions.targets.copy()
        targets[hidden] = nothing
        masked = evaluate_predictions(replace(predictions, targets=targets), resamples=30)
        assert masked == evaluate_predictions(predictions[~hidden], resamples=30), kind


@pytest.mark.parametrize("kind", KINDS)
def test_scores_are_plain_json_with_the_keys_of_metrics_json(kind: TaskKind) -> None:
    scores = evaluate_predictions(make(kind), resamples=50)
    json.dumps(scores, allow_nan=False)
    for name, score in scores.items():
        assert {"mean", "pooled", "low", "high", "folds"} <= set(score), name
        assert score["low"] < score["pooled"] < score["high"], name
    headline = scores["concordance" if kind == "regression" else "auc"]
    assert headline["within_low"] < headline["within"] < headline["within_high"]
    if kind != "regression":
        assert set(headline["classes"]) == {problem.name for problem in problems(make(kind))}
        assert {"positives", "groups"} <= set(next(iter(headline["classes"].values())))


def test_prevalence_is_the_chance_level_of_average_precision() -> None:
    predictions = make("multiclass", documents=400, groups=80, signal=0.0)
    found = evaluate_predictions(predictions, resamples=0)["pr_auc"]
    shares = np.bincount(predictions.targets) / len(predictions.targets)
    assert [entry["prevalence"] for entry in found["classes"].values()] == pytest.approx(shares)
    assert found["prevalence"] == pytest.approx(1 / 3)
    assert found["pooled"] == pytest.approx(1 / 3, abs=0.05)


def test_a_binary_task_may_give_one_probability_a_row() -> None:
    predictions = make("binary")
    single = replace(predictions, probabilities=predictions.probabilities[:, 1])
    expected, found = (evaluate_predictions(p, resamples=20) for p in (predictions, single))
    for name, score in expected.items():
        assert found[name]["pooled"] == pytest.approx(score["pooled"]), name


def test_some_metrics_can_be_asked_for_alone() -> None:
    predictions = make("multiclass")
    every = evaluate_predictions(predictions, resamples=20)
    assert evaluate_predictions(predictions, resamples=20, only=("auc",)) == {"auc": every["auc"]}
    with pytest.raises(
        ValueError, match="metrics 'accuracy' were asked for; a multiclass task has auc, pr_auc"
    ):
        evaluate_predictions(predictions, only=("accuracy",))


def test_decision_curves_cover_every_class() -> None:
    curves = decision_curves(make("multiclass"))
    assert set(curves) == {"a", "b", "c"}
    assert all(len(curve["model"]) == len(curve["thresholds"]) == 99 for curve in curves.values())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"fold": np.zeros(3, np.int64)},
            r"fold has shape \(3,\), targets have 120 rows; give one value a row",
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
        replace(make("multiclass"), **changes)  # type: ignore[arg-type]


def test_a_task_without_labels_is_refused() -> None:
    predictions = make("multiclass")
    empty = replace(predictions, targets=np.full(120, -1))
    with pytest.raises(ValueError, match="none of its 120 rows has a label; give labels to some documents"):
        evaluate_predictions(empty)


# Intervals.


def test_resamples_keep_the_number_of_groups_and_the_classes_that_are_needed() -> None:
    needed = np.zeros((2, 12), bool)
    needed[0, :2], needed[1, 5] = True, True
    counts = resample_groups(12, 300, np.random.default_rng(0), needed)
    assert counts.shape == (12, 300)
    assert (counts.sum(0) == 12).all()
    assert (counts[:2].sum(0) > 0).all()
    assert (counts[5] > 0).all()
    free = resample_groups(12, 300, np.random.default_rng(0))
    assert (free[5] == 0).any()


def test_resamples_are_drawn_freely_once_conditions_prove_too_rare() -> None:
    counts = resample_groups(30, 20, np.random.default_rng(0), np.eye(30, dtype=bool))
    assert counts.shape == (30, 20)
    assert (counts.sum(0) == 30).all()


def test_resampled_scores_are_scores_of_repeated_documents() -> None:
    """One resample, its draws taken as rows: AUC and pooled F1 must be those of the repeated rows."""
    predictions = make("multiclass", documents=40, groups=10, repeats=1)
    counts = resample_groups(10, 1, np.random.default_rng(3))[:, 0].astype(int)
    rows = np.repeat(np.arange(40), counts[predictions.group])
    repeated = evaluate_predictions(predictions[rows], resamples=0)
    weights = counts[predictions.group][:, None].astype(float)
    by_class = []
    for problem in problems(predictions):
        segments = predictions.test_sets()
        concordant, pairs = class_pairs(problem.score, problem.positive, segments, weights)
        by_class.append(concordant.sum() / pairs.sum())
    assert repeated["auc"]["within"] == pytest.approx(np.mean(by_class), abs=1e-12)


def interval_of(value: float, draws: np.ndarray, groups: int, documents: int, scale: Any) -> Interval:  # noqa: ANN401
    """Return the interval of a score with one part that every group carries."""
    support = np.array([groups])
    return bootstrap_interval(np.array([value]), draws[None], support, groups, documents, scale)


def test_the_interval_is_t_around_the_logit() -> None:
    draws = special.expit(np.random.default_rng(0).normal(1.0, 0.3, 500))
    found = interval_of(0.8, draws, groups=12, documents=100, scale="share")
    reach = stats.t.ppf(0.975, 11) * special.logit(draws).std(ddof=1) * np.sqrt(12 / 11)
    assert special.logit(found.low) == pytest.approx(special.logit(0.8) - reach)
    assert special.logit(found.high) == pytest.approx(special.logit(0.8) + reach)


def test_a_class_in_few_groups_widens_the_interval_and_has_fewer_degrees_of_freedom() -> None:
    draws = np.random.default_rng(0).normal([[0.8], [0.7]], 0.02, (2, 400))
    values = np.array([0.8, 0.7])
    many, few = (bootstrap_error(values, draws, np.array(support), 50) for support in ([50, 50], [50, 3]))
    variances = draws.var(1, ddof=1) * [50 / 49, 3 / 2]
    assert few.df == pytest.approx(variances.sum() ** 2 / (variances**2 / [49, 2]).sum())
    assert many.df == 49
    assert few.value > 1.1 * many.value
    wide, narrow = (
        bootstrap_interval(values, draws, np.array(s), 50, 100, "share") for s in ([50, 3], [50, 50])
    )
    assert wide.low < narrow.low < narrow.high < wide.high


def test_resamples_without_a_class_do_not_count() -> None:
    draws = np.random.default_rng(0).normal(0.7, 0.02, (2, 100))
    holed = draws.copy()
    holed[1, :50] = np.nan
    support, values = np.array([9, 9]), np.array([0.7, 0.7])
    found = bootstrap_error(values, holed, support, 10)
    assert found == bootstrap_error(values, draws[:, 50:], support, 10)
    holed[1, :95] = np.nan
    assert np.isnan(bootstrap_error(values, holed, support, 10).value)
    undefined = bootstrap_error(
        np.array([0.7, np.nan]), np.where([[True], [False]], draws, np.nan), support, 10
    )
    assert undefined == bootstrap_error(values[:1], draws[:1], support[:1], 10)


@pytest.mark.parametrize(
    ("scale", "low", "high"),
    [
        ("share", 0, 1),
        ("double_share", 0, 2),
        ("correlation", -1, 1),
        ("positive", 0, np.inf),
        ("at_most_one", -np.inf, 1),
    ],
)
def test_intervals_stay_inside_the_bounds_of_the_score(scale: Any, low: float, high: float) -> None:  # noqa: ANN401
    rng = np.random.default_rng(0)
    middle = {"share": 0.9, "double_share": 1.8, "correlation": 0.9, "positive": 0.5, "at_most_one": 0.9}[
        scale
    ]
    draws = np.minimum(middle + 0.1 * rng.normal(size=200), high - 1e-3)
    found = interval_of(middle, np.maximum(draws, low + 1e-3), groups=5, documents=20, scale=scale)
    assert low <= found.low < middle < found.high <= high


def test_a_perfect_score_without_spread_keeps_an_honest_lower_end() -> None:
    found = interval_of(1.0, np.ones(100), groups=20, documents=60, scale="share")
    assert [found.low, found.high] == pytest.approx([0.025 ** (1 / 20), 1.0])
    worst = interval_of(0.0, np.zeros(100), groups=20, documents=60, scale="share")
    assert [worst.low, worst.high] == pytest.approx([0.0, 1 - 0.025 ** (1 / 20)])


def test_no_interval_from_one_group_or_an_undefined_score() -> None:
    assert np.isnan(interval_of(0.8, np.full(9, 0.8), groups=1, documents=5, scale="share").low)
    assert np.isnan(interval_of(np.nan, np.full(9, 0.8), groups=9, documents=9, scale="share").high)
    assert np.isnan(t_interval(1.0, Error(value=np.nan, df=8)).low)


def test_the_bootstrap_repeats_by_seed() -> None:
    predictions = make("multiclass")
    first, again, other = (
        evaluate_predictions(predictions, resamples=50, seed=s)["auc"]["low"] for s in (0, 0, 1)
    )
    assert first == again != other


# Comparisons.


def test_the_corrected_t_equals_the_golden_value() -> None:
    golden = GOLDEN["corrected_resampled_t"]
    inputs = golden["inputs"]
    found = corrected_resampled_t(np.array(inputs["differences"]), inputs["n_train"], inputs["n_test"])
    assert [found.t, found.df] == pytest.approx([golden["t"], golden["df"]], abs=1e-12)
    assert found.p == pytest.approx(2 * stats.t.sf(golden["t"], 24))


def test_the_corrected_t_leaves_out_folds_without_a_score() -> None:
    differences = np.array([0.1, np.nan, 0.2, 0.15])
    assert corrected_resampled_t(differences, 80, 20) == corrected_resampled_t(differences[[0, 2, 3]], 80, 20)
    assert np.isnan(corrected_resampled_t(np.array([0.1]), 80, 20).p)
    assert corrected_resampled_t(np.zeros(5), 80, 20).p == 1.0


def test_holm_equals_the_closed_testing_of_every_subset() -> None:
    rng = np.random.default_rng(0)
    p = rng.random(5) ** 2
    closed = []
    for i in range(5):
        families = [s for n in range(1, 6) for s in itertools.combinations(range(5), n) if i in s]
        closed.append(max(min(1.0, len(s) * min(p[list(s)])) for s in families))
    assert holm(p.tolist()) == pytest.approx(closed)
    assert holm([0.01, float("nan"), 0.04])[::2] == pytest.approx([0.02, 0.04])
    assert np.isnan(holm([0.01, float("nan"), 0.04])[1])


def test_the_smallest_detectable_difference_is_found_at_the_stated_power() -> None:
    difference = smallest_detectable_difference(Error(value=0.02, df=1000))
    assert difference == pytest.approx(0.02 * (1.96 + 0.8416), rel=5e-3)
    assert smallest_detectable_difference(Error(value=0.02, df=9)) > difference


def test_comparing_a_system_with_itself_finds_nothing() -> None:
    predictions = make("multiclass")
    found = compare_predictions(predictions, predictions, resamples=50)
    assert (found["difference"], found["p_bootstrap"], found["p_corrected_t"]) == (0.0, 1.0, 1.0)
    assert found["exploratory"] is True
    json.dumps(found, allow_nan=False)


@pytest.mark.parametrize("kind", KINDS)
def test_a_clearly_better_system_is_found(kind: TaskKind) -> None:
    good = make(kind, documents=200, groups=50, signal=3.0)
    rng = np.random.default_rng(1)
    noise = rng.permutation(good.probabilities)
    poor = replace(good, probabilities=noise)
    found = compare_predictions(good, poor, resamples=200)
    assert found["first"] == pytest.approx(evaluate_predictions(good, resamples=0)[found["metric"]]["within"])
    assert found["difference"] == pytest.approx(found["first"] - found["second"])
    assert found["low"] > 0
    assert found["p_bootstrap"] < 1e-3
    assert found["p_corrected_t"] < 1e-3
    assert (found["groups"], found["exploratory"]) == (len(np.unique(good.group)), False)
    assert 0 < found["smallest_detectable_difference"] < found["difference"]


def test_the_paired_error_is_smaller_than_that_of_independent_systems() -> None:
    first = make("binary", documents=200, groups=50)
    rng = np.random.default_rng(0)
    nearly = special.expit(special.logit(first.probabilities[:, 1]) + 0.1 * rng.normal(size=400))
    other = make("binary", documents=200, groups=50, seed=0)
    unlike = replace(other, probabilities=rng.permutation(nearly))
    close, far = (
        compare_predictions(first, second, resamples=200)["standard_error"]
        for second in (replace(first, probabilities=nearly), unlike)
    )
    assert close < far / 3


def test_systems_on_other_rows_are_not_compared() -> None:
    predictions = make("multiclass")
    with pytest.raises(ValueError, match="only be compared on the same rows, but their fold differ"):
        compare_predictions(predictions, replace(predictions, fold=predictions.fold[::-1]))
    with pytest.raises(
        ValueError, match=r"but their targets differ \(multiclass with 120 rows, multiclass with 60"
    ):
        compare_predictions(predictions, predictions[np.arange(60)])


def test_the_t_of_the_bootstrap_is_difference_over_error() -> None:
    found = bootstrap_t(0.1, Error(value=0.05, df=14.5))
    assert found.t == pytest.approx(2.0)
    assert found.p == pytest.approx(2 * stats.t.sf(2.0, 14.5))
    assert np.isnan(bootstrap_t(0.1, Error(value=np.nan, df=14)).p)


# Permutations.


def test_labels_move_in_blocks_of_groups() -> None:
    group = np.repeat(np.arange(6), 3)
    taken = shuffled_documents(group, np.random.default_rng(0))
    assert sorted(taken) == list(range(18))
    assert (taken.reshape(6, 3) % 3 == [0, 1, 2]).all()
    assert all(len(set(group[row])) == 1 for row in taken.reshape(6, 3))
    assert not np.array_equal(taken, np.arange(18))


@pytest.mark.parametrize("kind", KINDS)
def test_scores_that_know_nothing_lie_inside_the_null(kind: TaskKind) -> None:
    predictions = make(kind, documents=100, groups=100, signal=0.0)
    if kind == "regression":
        blind = np.random.default_rng(5).normal(size=200)
        predictions = replace(predictions, probabilities=blind)
    found = permutation_null(predictions, permutations=200)
    assert found["mean"] == pytest.approx(0.5, abs=0.02)
    assert found["low"] < found["value"] < found["high"]
    assert found["p"] > 0.025


@pytest.mark.parametrize("kind", KINDS)
def test_scores_that_know_something_lie_outside_the_null(kind: TaskKind) -> None:
    found = permutation_null(make(kind, documents=100, groups=50, signal=3.0), permutations=99)
    assert found["value"] > found["high"]
    assert found["p"] == pytest.approx(0.01)
    assert found["permutations"] == 99


def test_the_null_equals_scores_of_predictions_with_exchanged_labels() -> None:
    predictions = make("multilabel", documents=30, groups=10)
    found = permutation_null(predictions, permutations=5, seed=4)
    labelled = predictions[predictions.labelled]
    rng = np.random.default_rng(4)
    firsts, document = np.unique(labelled.document, return_index=True, return_inverse=True)[1:]
    values = []
    for _ in range(5):
        rows = firsts[shuffled_documents(labelled.group[firsts], rng)][document]
        shuffled = replace(labelled, targets=labelled.targets[rows])
        values.append(evaluate_predictions(shuffled, resamples=0)["auc"]["within"])
    assert found["mean"] == pytest.approx(np.mean(values), abs=1e-12)


# Embeddings.


def brute_recall(queries: np.ndarray, gallery: np.ndarray, depth: int) -> float:
    hits = 0
    for i, query in enumerate(queries):
        cosine = [query @ row / np.linalg.norm(query) / np.linalg.norm(row) for row in gallery]
        hits += i in np.argsort(cosine)[::-1][:depth]
    return hits / len(queries)


def test_retrieval_within_test_sets_equals_brute_force() -> None:
    rng = np.random.default_rng(0)
    audio, noise = rng.normal(size=(60, 8)), rng.normal(size=(60, 8))
    text, joint = audio + noise, audio + 0.2 * noise
    fold, repeat, group = np.arange(60) % 4, np.arange(60) // 30, np.arange(60) // 2
    found = evaluate_embeddings(audio, text, joint, fold, repeat, group, resamples=100)
    sets = [np.flatnonzero((fold == f) & (repeat == r)) for r in (0, 1) for f in range(4)]
    for depth in (1, 5):
        expected = [brute_recall(audio[rows], text[rows], depth) for rows in sets]
        score = found[f"audio_to_text_recall_at_{depth}"]
        assert score["mean"] == pytest.approx(np.mean(expected))
        assert score["pooled"] == pytest.approx(np.average(expected, weights=[len(rows) for rows in sets]))
        assert score["low"] < score["pooled"] <= score["high"]
        assert (score["folds"], score["gallery"]) == (8, pytest.approx(np.mean([len(rows) for rows in sets])))
    ranks = np.concatenate([retrieval_ranks(audio[rows], text[rows]) for rows in sets])
    assert found["audio_to_text_mrr"]["pooled"] == pytest.approx((1 / ranks).mean())
    assert found["alignment"]["mean"] == pytest.approx(
        np.mean([alignment(audio[rows], text[rows]) for rows in sets])
    )
    json.dumps(found, allow_nan=False)


def test_retrieval_equals_scikit_learn() -> None:
    """A query has one right answer, so R@k is top-k accuracy and MRR is label ranking average precision."""
    rng = np.random.default_rng(0)
    audio = rng.normal(size=(40, 6))
    text = audio + rng.normal(size=(40, 6))
    ranks = retrieval_ranks(audio, text)
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (audio, text)]
    cosine = unit[0] @ unit[1].T
    for depth in (1, 5, 10):
        expected = sk.top_k_accuracy_score(np.arange(40), cosine, k=depth)
        assert (ranks <= depth).mean() == pytest.approx(expected)
    expected = sk.label_ranking_average_precision_score(np.eye(40, dtype=int), cosine)
    assert (1 / ranks).mean() == pytest.approx(expected)


def test_chance_of_retrieval_is_what_unrelated_embeddings_reach() -> None:
    rng = np.random.default_rng(0)
    audio, text = rng.normal(size=(2, 4000, 8))
    fold = np.arange(4000) // 20
    found = evaluate_embeddings(audio, text, text, fold, np.zeros(4000, int), np.arange(4000), resamples=2)
    for name in ("recall_at_1", "recall_at_5", "recall_at_10", "mrr"):
        score = found[f"audio_to_text_{name}"]
        assert score["pooled"] == pytest.approx(score["chance"], abs=0.03)
    assert found["audio_to_text_recall_at_5"]["chance"] == pytest.approx(0.25)
    assert found["audio_to_text_mrr"]["chance"] == pytest.approx(sum(1 / k for k in range(1, 21)) / 20)


def test_ties_in_retrieval_earn_half_a_place() -> None:
    same = np.ones((3, 4))
    assert retrieval_ranks(same, same).tolist() == [2.0, 2.0, 2.0]
    assert retrieval_ranks(np.eye(3), np.eye(3)).tolist() == [1.0, 1.0, 1.0]


def test_documents_that_lack_a_modality_are_left_out_of_retrieval() -> None:
    rng = np.random.default_rng(0)
    audio, text, joint = rng.normal(size=(3, 20, 4))
    fold, zero, group = np.arange(20) // 10, np.zeros(20, int), np.arange(20)
    holed = audio.copy()
    holed[[0, 13]] = np.nan
    kept = np.isfinite(holed).all(1)
    expected = evaluate_embeddings(audio[kept], text[kept], joint[kept], fold[kept], zero[kept], group[kept])
    assert evaluate_embeddings(holed, text, joint, fold, zero, group) == expected
    assert evaluate_embeddings(holed[:1], text[:1], joint[:1], fold[:1], zero[:1], group[:1]) == {}


def test_geometry_equals_its_definitions() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 12, 5))
    unit = [v / np.linalg.norm(v, axis=1, keepdims=True) for v in (x, y)]
    assert alignment(x, y) == pytest.approx(
        np.mean([np.sum((a - b) ** 2) for a, b in zip(*unit, strict=True)])
    )
    distances = [np.sum((a - b) ** 2) for a, b in itertools.combinations(unit[0], 2)]
    assert uniformity(x) == pytest.approx(np.log(np.mean(np.exp(-2 * np.array(distances)))))
    assert modality_gap(x, y) == pytest.approx(np.linalg.norm(unit[0].mean(0) - unit[1].mean(0)))
    assert [alignment(x, 3 * x), modality_gap(x, 3 * x)] == pytest.approx([0, 0])
