"""Intervals: which groups are resampled, and the t interval on a transformed scale."""

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy import special, stats

from hilbert_ray.config import TaskKind
from hilbert_ray.metrics import evaluation
from hilbert_ray.metrics.evaluation import (
    compare_predictions,
    evaluate_predictions,
)
from hilbert_ray.metrics.intervals import (
    Error,
    Influence,
    Interval,
    bootstrap_error,
    bootstrap_interval,
    jackknife_error,
    pair_influence,
    resample_groups,
    share_interval,
    t_interval,
)
from hilbert_ray.metrics.predictions import Predictions, headline, problems
from hilbert_ray.metrics.ranking import class_pairs, class_pairs_by_group
from tests.metrics.helpers import KINDS, make_predictions, rows_by, single_set


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
    first, again, other = (evaluate_predictions(predictions, resamples=50, seed=s) for s in (0, 0, 1))
    assert first["mcc"]["low"] == again["mcc"]["low"] != other["mcc"]["low"]
    assert first["auc"] == other["auc"], "the jackknife draws nothing"


# Shares of pairs: the cluster jackknife.


def influences(predictions: Predictions) -> dict[str, tuple[Influence, list[np.ndarray]]]:
    """Return the influence on both shares of pairs, and the rows of the sets that their pairs are in."""
    count, groups = headline(predictions).group_pairs, int(predictions.group.max()) + 1
    assert count is not None
    sets = {"fold": predictions.test_sets(), "repeat": predictions.repeats()}
    return {
        by: (pair_influence(*count(partition, predictions.group, groups)), rows_by(predictions, by))
        for by, partition in sets.items()
    }


@pytest.mark.parametrize("kind", KINDS)
def test_groups_left_out_are_scores_without_their_rows(kind: TaskKind) -> None:
    predictions = make_predictions(kind, documents=30, groups=7)
    predictions = predictions[predictions.labelled]
    for by, name in (("fold", "within"), ("repeat", "pooled")):
        influence, _ = influences(predictions)[by]
        metric = headline(predictions).name
        whole = evaluate_predictions(predictions, resamples=0, only=(metric,))[metric]
        for g in range(influence.groups.shape[1]):
            rest = predictions[predictions.group != g]
            without = evaluate_predictions(rest, resamples=0, only=(metric,))[metric]
            assert influence.groups[:, g].mean() == pytest.approx(whole[name] - without[name], abs=1e-12)


@pytest.mark.parametrize("by", ["fold", "repeat"])
def test_joint_influence_of_groups_equals_a_loop_over_pairs(by: str) -> None:
    predictions = make_predictions("multilabel", documents=30, groups=7)
    influence, sets = influences(predictions)[by]
    for k, problem in enumerate(problems(predictions)):
        expected, pairs = np.zeros((7, 7)), 0
        for rows in sets:
            inside = np.flatnonzero(np.isin(problem.rows, rows))
            group = predictions.group[problem.rows]
            for i, j in itertools.product(inside, inside):
                if problem.positive[i] and not problem.positive[j]:
                    above = 0.5 * (1 + np.sign(problem.score[i] - problem.score[j]))
                    expected[group[i], group[j]] += above - influence.value[k]
                    if group[i] != group[j]:
                        expected[group[j], group[i]] += above - influence.value[k]
                    pairs += 1
        assert influence.pairs[k] == pytest.approx(expected / pairs, abs=1e-12)


def test_with_a_document_a_group_linear_influence_gives_the_variance_of_delong() -> None:
    """DeLong et al. (1988), from placements by definition: S10 / m + S01 / n with divisors m and n."""
    rng = np.random.default_rng(0)
    y, score = np.arange(40) % 3 == 0, rng.normal(size=40).round(1)
    counts = class_pairs_by_group(score, y, single_set(40), np.arange(40), 40)
    influence = pair_influence(*(values[None] for values in counts))
    above = 0.5 * (1 + np.sign(score[y][:, None] - score[~y]))
    assert influence.value[0] == pytest.approx(above.mean())
    expected = above.mean(1).var() / y.sum() + above.mean(0).var() / (~y).sum()
    assert (influence.pairs[0].sum(1) ** 2).sum() == pytest.approx(expected)


def test_the_jackknife_error_equals_loops_over_groups_and_pairs_of_groups() -> None:
    predictions = make_predictions("multiclass", documents=40, groups=8)
    influence, support = influences(predictions)["fold"][0], np.array([8, 5, 3])
    wide = np.sqrt(support / (support - 1))
    groups = (influence.groups * wide[:, None]).mean(0)
    pairs = (influence.pairs * wide[:, None, None]).mean(0)
    variance = 7 / 8 * sum((x - groups.mean()) ** 2 for x in groups)
    variance -= sum(pairs[g, h] ** 2 for g, h in itertools.combinations(range(8), 2))
    error = jackknife_error(influence, support)
    assert error.value == pytest.approx(np.sqrt(variance * 8 / 6))
    assert 2 <= error.df <= 7


def test_noise_of_single_pairs_is_not_counted_twice() -> None:
    """Pairs decided by coin: the variance of their share is p q / pairs, and a plain jackknife gives twice.

    So do two systems that differ by little: their difference is in single pairs, and a test that counts it
    twice rejects in 0.6 % of cases instead of 5.
    """
    rng = np.random.default_rng(0)
    positive = np.arange(30) < 12
    compared = np.outer(positive, ~positive).astype(float)[None]
    variances, plain = [], []
    for _ in range(100):
        influence = pair_influence(compared * (rng.random((1, 30, 30)) < 0.3), compared)
        variances.append(jackknife_error(influence, np.array([10**6])).value ** 2)
        plain.append(29 / 30 * ((influence.groups - influence.groups.mean()) ** 2).sum())
    true = 0.3 * 0.7 / compared.sum()
    assert np.mean(plain) > 1.8 * true
    assert np.mean(variances) == pytest.approx(true * 30 / 28, rel=0.15)


def test_intervals_of_scores_that_were_not_trained_cover_the_truth() -> None:
    """Normal scores with a part that documents of a group share; the true AUC is Phi(d / sqrt(2) sigma)."""
    rng = np.random.default_rng(0)
    truth, hits = special.ndtr(1.0 / np.sqrt(2 * 1.5)), []
    for _ in range(300):
        group, y = np.repeat(np.arange(20), 4), rng.random(80) < 0.4
        score = y + np.sqrt(0.5) * rng.normal(size=20)[group] + rng.normal(size=80)
        counts = class_pairs_by_group(score, y, single_set(80), group, 20)
        around = share_interval(
            pair_influence(*(values[None] for values in counts)), np.array([len(np.unique(group[y]))]), 80
        )
        hits.append(around.low <= truth <= around.high)
    assert 0.92 <= np.mean(hits) <= 0.98


def test_the_interval_of_a_share_is_t_around_its_logit() -> None:
    influence, support = influences(make_predictions("binary"))["fold"][0], np.array([9])
    result, error = share_interval(influence, support, documents=60), jackknife_error(influence, support)
    share = influence.value[0]
    reach = stats.t.ppf(0.975, error.df) * error.value / (share * (1 - share))
    assert special.logit([result.low, result.high]) == pytest.approx(
        [special.logit(share) - reach, special.logit(share) + reach]
    )
    assert error.df == 8


def test_a_class_in_one_group_has_a_wide_interval_and_a_perfect_score_the_binomial_one() -> None:
    predictions = make_predictions("binary", documents=60, groups=12)
    alone = replace(predictions, targets=(predictions.group == 3).astype(np.int64))
    result = evaluate_predictions(alone, only=("auc",))["auc"]
    assert result["low"] < result["pooled"] < result["high"]
    assert result["high"] - result["low"] > 0.5
    perfect = replace(predictions, probabilities=predictions.targets * 0.8 + 0.1)
    result = evaluate_predictions(perfect, only=("auc",))["auc"]
    support = headline(perfect).support[0]
    assert [result["within_low"], result["within_high"]] == pytest.approx([0.025 ** (1 / support), 1.0])


def test_many_groups_take_the_bootstrap_and_both_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    first = make_predictions("binary", documents=600, groups=200)
    noise = np.random.default_rng(0).normal(size=len(first.group))
    second = replace(first, probabilities=special.expit(special.logit(first.probabilities[:, 1]) + noise))
    few, few_both = evaluate_predictions(first, only=("auc",))["auc"], compare_predictions(first, second)
    monkeypatch.setattr(evaluation, "PAIR_GROUPS", 100)
    many, many_both = evaluate_predictions(first, only=("auc",))["auc"], compare_predictions(first, second)
    for low, high in (("low", "high"), ("within_low", "within_high")):
        assert few[high] - few[low] == pytest.approx(many[high] - many[low], rel=0.15)
        assert few[low] != many[low]
    assert few_both["standard_error"] == pytest.approx(many_both["standard_error"], rel=0.2)


def test_without_resamples_there_is_no_interval() -> None:
    predictions = make_predictions("binary")
    assert evaluate_predictions(predictions, resamples=0)["auc"]["within_low"] is None
    assert compare_predictions(predictions, predictions, resamples=0)["p_paired_t"] is None
