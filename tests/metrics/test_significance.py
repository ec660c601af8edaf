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
    permuted_headlines,
)
from hilbert_ray.metrics.intervals import (
    Error,
)
from hilbert_ray.metrics.predictions import Predictions
from hilbert_ray.metrics.significance import (
    corrected_resampled_t,
    holm,
    paired_t,
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
    assert (result["difference"], result["p_paired_t"], result["p_corrected_t"]) == (0.0, 1.0, 1.0)
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
    assert result["p_paired_t"] < 1e-3
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


def test_the_paired_t_is_difference_over_error() -> None:
    result = paired_t(0.1, Error(value=0.05, df=14.5))
    assert result.t == pytest.approx(2.0)
    assert result.p == pytest.approx(2 * stats.t.sf(2.0, 14.5))
    assert np.isnan(paired_t(0.1, Error(value=np.nan, df=14)).p)


# Permutations.


@pytest.mark.parametrize("constant", [False, True])
def test_groups_of_one_size_exchange_all_their_labels(constant: bool) -> None:
    group = np.repeat(np.arange(6), 3)
    taken = shuffled_documents(group, constant, np.random.default_rng(0))
    assert sorted(taken) == list(range(18))
    assert all(len(set(group[row])) == 1 for row in taken.reshape(6, 3))
    assert not np.array_equal(group[taken], group)
    assert not (taken.reshape(6, 3) % 3 == [0, 1, 2]).all(), "documents of a group are in random order"


def test_labels_of_groups_stay_labels_of_groups_whatever_their_sizes() -> None:
    """Groups of unequal size once exchanged labels document by document, which made the null too narrow."""
    group, rng = np.repeat(np.arange(5), [1, 2, 3, 7, 20]), np.random.default_rng(0)
    label = np.array([0, 1, 2, 3, 4])
    seen = set()
    for _ in range(50):
        received = label[group][shuffled_documents(group, True, rng)]
        by_group = [set(received[group == g]) for g in range(5)]
        assert all(len(labels) == 1 for labels in by_group)
        order = tuple(labels.pop() for labels in by_group)
        assert sorted(order) == [0, 1, 2, 3, 4], "the group labels are permuted, none is lost"
        seen.add(order)
    assert len(seen) > 25


def test_labels_that_differ_within_groups_come_from_one_group_of_about_the_size() -> None:
    sizes = np.array([1, 1, 2, 3, 4, 7, 20])
    group, rng = np.repeat(np.arange(7), sizes), np.random.default_rng(1)
    donors = set()
    for _ in range(100):
        taken = shuffled_documents(group, False, rng)
        for g, size in enumerate(sizes):
            source = taken[group == g]
            donor = group[source[0]]
            assert (group[source] == donor).all()
            assert sizes[donor].item().bit_length() == size.item().bit_length()
            # A donor's document is not taken again before all of them are.
            assert np.ptp(np.bincount(source, minlength=len(group))[group == donor]) <= 1
            donors.add((g, int(donor)))
    assert {(0, 1), (2, 3), (3, 2), (4, 5), (5, 4), (6, 6)} <= donors


def noise(seed: int, shared: float) -> Predictions:
    """Return the predictions of a nearest-mean classifier, cross-validated on noise that groups share.

    `shared` is the share of documents that have their group's label.
    """
    rng = np.random.default_rng([seed, 7])
    group = np.repeat(np.arange(20), rng.integers(1, 6, 20))
    count = len(group)
    x = rng.normal(size=(20, 10))[group] + rng.normal(size=(count, 10))
    own, of_group = rng.random(count) < 0.4, (rng.random(20) < 0.4)[group]
    y = np.where(rng.random(count) < shared, of_group, own).astype(np.int64)
    fold, score = (rng.permutation(20) % 5)[group], np.zeros(count)
    for k in range(5):
        known = fold != k
        means = [x[known & (y == label)].mean(0) for label in (0, 1)]
        score[fold == k] = x[fold == k] @ (means[1] - means[0])
    return Predictions(
        kind="binary", classes=("no", "yes"), probabilities=special.expit(score),
        decisions=np.zeros(count, np.int64), targets=y, fold=fold, repeat=np.zeros(count, np.int64),
        group=group, document=np.arange(count),
    )  # fmt: skip


@pytest.mark.parametrize(("shared", "exchanged"), [(0.0, "documents"), (1.0, "groups")])
def test_the_null_of_labels_without_signal_keeps_its_level(shared: float, exchanged: str) -> None:
    """Of 60 data sets 3 should reach p = 0.05; at that level more than 6 come with a probability of 3 %.

    `bench/null.py` counts the same with the network.
    """
    found = [permutation_null(noise(seed, shared), permutations=39) for seed in range(60)]
    assert {result["exchanged"] for result in found} == {exchanged}
    p = np.array([result["p"] for result in found])
    assert (p <= 0.05).sum() <= 6
    assert 0.35 < p.mean() < 0.65
    # What exchanging labels under fixed predictions shows is less than how far the score varies: a document's
    # label is in its own test set and in the training part of all others.
    nulls = [permuted_headlines(noise(seed, shared), permutations=39)[0] for seed in range(60)]
    assert np.std([result["value"] for result in found]) > 1.1 * np.mean([null.std() for null in nulls])


def test_exchanging_single_documents_would_reject_too_often() -> None:
    """The null of labels that belong to groups was once that of documents, or nearly so."""
    hits = 0
    for seed in range(60):
        predictions = noise(seed, 1.0)
        alone = replace(predictions, group=predictions.document)
        hits += permutation_null(alone, permutations=39)["p"] <= 0.05
    assert hits > 6


def test_the_null_is_the_permuted_headlines_widened_about_their_mean() -> None:
    predictions = make_predictions("binary", documents=40, groups=8)
    values, constant = permuted_headlines(predictions, permutations=80, seed=3)
    result = permutation_null(predictions, permutations=80, seed=3)
    assert not constant
    widened = values.mean() + np.sqrt(2) * (values - values.mean())
    assert result["mean"] == pytest.approx(values.mean())
    assert [result["low"], result["high"]] == pytest.approx(np.quantile(widened, [0.025, 0.975]))
    assert result["p"] == pytest.approx((1 + (widened >= result["value"]).sum()) / 81)


def test_a_group_of_unknown_labels_is_no_group_of_several() -> None:
    predictions = make_predictions("multilabel", documents=40, groups=8, repeats=1)
    of_group = (np.arange(8)[:, None] >> np.arange(3)) % 2
    targets = of_group[predictions.group].astype(np.float64)
    targets[::3, 1] = np.nan
    assert permuted_headlines(replace(predictions, targets=targets), 2)[1]
    targets[0, 0] = 1 - targets[0, 0]
    assert not permuted_headlines(replace(predictions, targets=targets), 2)[1]


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
        rows = firsts[shuffled_documents(labelled.group[firsts], False, rng)][document]
        shuffled = replace(labelled, targets=labelled.targets[rows])
        values.append(evaluate_predictions(shuffled, resamples=0)["auc"]["within"])
    assert result["mean"] == pytest.approx(np.mean(values), abs=1e-12)
