"""Metrics of order under weights: equal to scikit-learn, scipy and brute force on repeated rows."""

import numpy as np
import pytest
import sklearn.metrics as sk
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from hilbert_ray.metrics.partition import Partition
from hilbert_ray.metrics.ranking import average_precision, class_pairs, number_pairs, shuffled_pairs, spearman
from tests.metrics.helpers import brute_pairs, of_all, single_set


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 4), st.booleans(), st.integers(0, 2), st.integers(0, 3)),
        min_size=1,
        max_size=40,
    )
)
def test_pairs_of_tied_weighted_scores_equal_brute_force(rows: list[tuple[int, bool, int, int]]) -> None:
    score, positive, set_number, weight = (np.array(column) for column in zip(*rows, strict=True))
    test_sets = Partition(index=set_number.astype(np.int64), count=3)
    weights = np.stack([np.ones(len(rows)), weight], 1).astype(float)
    concordant, pairs = class_pairs(score.astype(float), positive, test_sets, weights)
    shuffled = shuffled_pairs(score.astype(float), positive[:, None], ~positive[:, None], test_sets)
    for s in range(3):
        inside = set_number == s
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
        result = number_pairs(p, y, single_set(30), weight[:, None])
        pairs = [(i, j) for i in rows for j in rows if y[i] > y[j]]
        assert result[1][0, 0] == len(pairs)
        assert result[0][0, 0] == sum(0.5 * (1 + np.sign(p[i] - p[j])) for i, j in pairs)
