"""Intervals: which groups are resampled, and the t interval on a transformed scale."""

from typing import Any

import numpy as np
import pytest
from scipy import special, stats

from hilbert_ray.metrics.evaluation import (
    evaluate_predictions,
)
from hilbert_ray.metrics.intervals import (
    Error,
    Interval,
    bootstrap_error,
    bootstrap_interval,
    resample_groups,
    t_interval,
)
from hilbert_ray.metrics.predictions import problems
from hilbert_ray.metrics.ranking import class_pairs
from tests.metrics.helpers import make_predictions


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
    predictions = make_predictions("multiclass", documents=40, groups=10, repeats=1)
    counts = resample_groups(10, 1, np.random.default_rng(3))[:, 0].astype(int)
    rows = np.repeat(np.arange(40), counts[predictions.group])
    repeated = evaluate_predictions(predictions[rows], resamples=0)
    weights = counts[predictions.group][:, None].astype(float)
    by_class = []
    for problem in problems(predictions):
        test_sets = predictions.test_sets()
        concordant, pairs = class_pairs(problem.score, problem.positive, test_sets, weights)
        by_class.append(concordant.sum() / pairs.sum())
    assert repeated["auc"]["within"] == pytest.approx(np.mean(by_class), abs=1e-12)


def interval_of(value: float, draws: np.ndarray, groups: int, documents: int, scale: Any) -> Interval:  # noqa: ANN401
    """Return the interval of a score with one part that every group carries."""
    support = np.array([groups])
    return bootstrap_interval(np.array([value]), draws[None], support, groups, documents, scale)


def test_the_interval_is_t_around_the_logit() -> None:
    draws = special.expit(np.random.default_rng(0).normal(1.0, 0.3, 500))
    result = interval_of(0.8, draws, groups=12, documents=100, scale="share")
    reach = stats.t.ppf(0.975, 11) * special.logit(draws).std(ddof=1) * np.sqrt(12 / 11)
    assert special.logit(result.low) == pytest.approx(special.logit(0.8) - reach)
    assert special.logit(result.high) == pytest.approx(special.logit(0.8) + reach)


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
    result = bootstrap_error(values, holed, support, 10)
    assert result == bootstrap_error(values, draws[:, 50:], support, 10)
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
    result = interval_of(middle, np.maximum(draws, low + 1e-3), groups=5, documents=20, scale=scale)
    assert low <= result.low < middle < result.high <= high


def test_a_perfect_score_without_spread_keeps_an_honest_lower_end() -> None:
    result = interval_of(1.0, np.ones(100), groups=20, documents=60, scale="share")
    assert [result.low, result.high] == pytest.approx([0.025 ** (1 / 20), 1.0])
    worst = interval_of(0.0, np.zeros(100), groups=20, documents=60, scale="share")
    assert [worst.low, worst.high] == pytest.approx([0.0, 1 - 0.025 ** (1 / 20)])


def test_no_interval_from_one_group_or_an_undefined_score() -> None:
    assert np.isnan(interval_of(0.8, np.full(9, 0.8), groups=1, documents=5, scale="share").low)
    assert np.isnan(interval_of(np.nan, np.full(9, 0.8), groups=9, documents=9, scale="share").high)
    assert np.isnan(t_interval(1.0, Error(value=np.nan, df=8)).low)


def test_the_bootstrap_repeats_by_seed() -> None:
    predictions = make_predictions("multiclass")
    first, again, other = (
        evaluate_predictions(predictions, resamples=50, seed=s)["auc"]["low"] for s in (0, 0, 1)
    )
    assert first == again != other
