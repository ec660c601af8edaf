"""Comparisons of two systems, and the null of exchanged labels."""

import itertools
import json
from dataclasses import replace

import numpy as np
import pytest
from scipy import special, stats

from hilbert_ray.config import TaskKind
from hilbert_ray.metrics.evaluation import (
    compare_predictions,
    evaluate_predictions,
    permutation_null,
)
from hilbert_ray.metrics.intervals import (
    Error,
)
from hilbert_ray.metrics.significance import (
    bootstrap_t,
    corrected_resampled_t,
    holm,
    shuffled_documents,
    smallest_detectable_difference,
)
from tests.metrics.helpers import GOLDEN, KINDS, make_predictions


def test_the_corrected_t_equals_the_golden_value() -> None:
    golden = GOLDEN["corrected_resampled_t"]
    inputs = golden["inputs"]
    result = corrected_resampled_t(np.array(inputs["differences"]), inputs["n_train"], inputs["n_test"])
    assert [result.t, result.df] == pytest.approx([golden["t"], golden["df"]], abs=1e-12)
    assert result.p == pytest.approx(2 * stats.t.sf(golden["t"], 24))


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
    predictions = make_predictions("multiclass")
    result = compare_predictions(predictions, predictions, resamples=50)
    assert (result["difference"], result["p_bootstrap"], result["p_corrected_t"]) == (0.0, 1.0, 1.0)
    assert result["exploratory"] is True
    json.dumps(result, allow_nan=False)


@pytest.mark.parametrize("kind", KINDS)
def test_a_clearly_better_system_is_found(kind: TaskKind) -> None:
    good = make_predictions(kind, documents=200, groups=50, signal=3.0)
    rng = np.random.default_rng(1)
    noise = rng.permutation(good.probabilities)
    poor = replace(good, probabilities=noise)
    result = compare_predictions(good, poor, resamples=200)
    assert result["first"] == pytest.approx(
        evaluate_predictions(good, resamples=0)[result["metric"]]["within"]
    )
    assert result["difference"] == pytest.approx(result["first"] - result["second"])
    assert result["low"] > 0
    assert result["p_bootstrap"] < 1e-3
    assert result["p_corrected_t"] < 1e-3
    assert (result["groups"], result["exploratory"]) == (len(np.unique(good.group)), False)
    assert 0 < result["smallest_detectable_difference"] < result["difference"]


def test_the_paired_error_is_smaller_than_that_of_independent_systems() -> None:
    first = make_predictions("binary", documents=200, groups=50)
    rng = np.random.default_rng(0)
    nearly = special.expit(special.logit(first.probabilities[:, 1]) + 0.1 * rng.normal(size=400))
    other = make_predictions("binary", documents=200, groups=50, seed=0)
    unlike = replace(other, probabilities=rng.permutation(nearly))
    close, far = (
        compare_predictions(first, second, resamples=200)["standard_error"]
        for second in (replace(first, probabilities=nearly), unlike)
    )
    assert close < far / 3


def test_systems_on_other_rows_are_not_compared() -> None:
    predictions = make_predictions("multiclass")
    with pytest.raises(ValueError, match="only be compared on the same rows, but their fold differ"):
        compare_predictions(predictions, replace(predictions, fold=predictions.fold[::-1]))
    with pytest.raises(
        ValueError, match=r"but their targets differ \(multiclass with 120 rows, multiclass with 60"
    ):
        compare_predictions(predictions, predictions[np.arange(60)])


def test_the_t_of_the_bootstrap_is_difference_over_error() -> None:
    result = bootstrap_t(0.1, Error(value=0.05, df=14.5))
    assert result.t == pytest.approx(2.0)
    assert result.p == pytest.approx(2 * stats.t.sf(2.0, 14.5))
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
    predictions = make_predictions(kind, documents=100, groups=100, signal=0.0)
    if kind == "regression":
        blind = np.random.default_rng(5).normal(size=200)
        predictions = replace(predictions, probabilities=blind)
    result = permutation_null(predictions, permutations=200)
    assert result["mean"] == pytest.approx(0.5, abs=0.02)
    assert result["low"] < result["value"] < result["high"]
    assert result["p"] > 0.025


@pytest.mark.parametrize("kind", KINDS)
def test_scores_that_know_something_lie_outside_the_null(kind: TaskKind) -> None:
    result = permutation_null(make_predictions(kind, documents=100, groups=50, signal=3.0), permutations=99)
    assert result["value"] > result["high"]
    assert result["p"] == pytest.approx(0.01)
    assert result["permutations"] == 99


def test_the_null_equals_scores_of_predictions_with_exchanged_labels() -> None:
    predictions = make_predictions("multilabel", documents=30, groups=10)
    result = permutation_null(predictions, permutations=5, seed=4)
    labelled = predictions[predictions.labelled]
    rng = np.random.default_rng(4)
    firsts, document = np.unique(labelled.document, return_index=True, return_inverse=True)[1:]
    values = []
    for _ in range(5):
        rows = firsts[shuffled_documents(labelled.group[firsts], rng)][document]
        shuffled = replace(labelled, targets=labelled.targets[rows])
        values.append(evaluate_predictions(shuffled, resamples=0)["auc"]["within"])
    assert result["mean"] == pytest.approx(np.mean(values), abs=1e-12)
