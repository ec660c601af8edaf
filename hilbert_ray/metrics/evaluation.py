"""Scores of a task with their intervals, comparison of two systems, and the null of the headline.

A score is taken three ways. `within`: concordant pairs within test sets over all pairs within test sets, a
class at a time, then the mean of classes (AUC and concordance only; the headline). `mean`: the mean over the
test sets where the metric is defined, then over classes. `pooled`: over all predictions of a repeat, then the
mean over repeats, then over classes. Results are plain values for metrics.json, None where a score is not
defined.
"""

import math
from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Float

from hilbert_ray.metrics import calibration, ranking
from hilbert_ray.metrics.intervals import (
    RESAMPLES,
    Error,
    bootstrap_error,
    bootstrap_interval,
    jackknife_error,
    pair_influence,
    resample_groups,
    share_interval,
    t_interval,
)
from hilbert_ray.metrics.partition import Partition, defined_mean, ratio
from hilbert_ray.metrics.predictions import Metric, Predictions, headline, metrics, problems
from hilbert_ray.metrics.significance import (
    EXPLORATORY_GROUPS,
    corrected_resampled_t,
    paired_t,
    shuffled_documents,
    smallest_detectable_difference,
)

# Numbers in one [rows, draws] array: 8 MiB of float64, so that memory does not grow with the number of
# resamples.
CHUNK = 1 << 20
# Shares of pairs of more groups take their error from the bootstrap: counts between groups need memory and
# time by the square of their number, and with so many groups both errors nearly agree.
PAIR_GROUPS = 1000
# Neither 0 nor 1: the odds of acting are undefined at 1, and at 0 everyone is acted on.
THRESHOLDS = np.linspace(0.01, 0.99, 99)
WIDENING = math.sqrt(2.0)
"""Of the null of permuted labels, because predictions stay as they were learned. Let s = sum y_i A_ij y_j,
where A_ij is the weight of training label j in the prediction of document i, and y is centred. Both A_ij and
A_ji are in s, learned in different folds: var(s) = sum A_ij^2 + A_ij A_ji, at most twice the sum A_ij^2 that
permuting y_i under fixed predictions shows, and twice it where influence is mutual, as in a kernel method.
An upper bound, so that the test is conservative where little is learned: `bench/null.py` counts. That
cross-validated scores vary more than their parts suggest is known (Noirhomme et al. 2014)."""
Scores = dict[str, Any]


def evaluate_predictions(
    predictions: Predictions, resamples: int = RESAMPLES, seed: int = 0, only: Collection[str] = ()
) -> dict[str, Scores]:
    """Return every metric of a task: {metric: {within, mean, pooled, low, high, folds, ...}}.

    `low` and `high` are the interval of `pooled`; `within_low` and `within_high` that of `within`. `folds`
    counts the test sets where the metric is defined. Macro metrics have `classes`: {class: the same keys};
    AUC adds to each the numbers of `positives` (documents) and `groups` (with a positive), average precision
    its chance level, `prevalence`. Unlabelled rows are left out.

    Args:
        predictions: out-of-fold predictions.
        resamples: bootstrap resamples of groups; fewer than 2 leave intervals None.
        seed: of the resampling.
        only: names of metrics; empty takes all that the task has.

    Raises:
        ValueError: when no row is labelled, or `only` names a metric that the task does not have.
    """
    predictions = _labelled(predictions)
    num_groups, draws = _draws(predictions, resamples, seed)
    documents = len(np.unique(predictions.document))
    score_functions: dict[str, Callable[[], Scores]] = {
        metric.name: partial(_score, metric, predictions, num_groups, draws, documents)
        for metric in metrics(predictions)
    }
    if predictions.kind != "regression":
        score_functions["calibration_slope"] = partial(_slope_score, predictions, num_groups)
    unknown = sorted(set(only) - set(score_functions))
    if unknown:
        raise ValueError(
            f"metrics {', '.join(map(repr, unknown))} were requested; a {predictions.kind} task has "
            f"{', '.join(score_functions)}"
        )
    scores = {name: score() for name, score in score_functions.items() if not only or name in only}
    _describe_classes(predictions, scores)
    return scores


def _labelled(predictions: Predictions) -> Predictions:
    labelled = predictions.labelled
    if not labelled.any():
        raise ValueError(
            f"scores of a {predictions.kind} task were requested, but none of its {len(labelled)} rows has a "
            "label; label some documents or leave the task out"
        )
    return predictions if labelled.all() else predictions[labelled]


def _draws(
    predictions: Predictions, resamples: int, seed: int
) -> tuple[int, Float[np.ndarray, "groups draws"]]:
    """Return the number of groups, and resamples in which each class keeps a positive and a negative."""
    num_groups = int(predictions.group.max()) + 1
    needed = []
    # An AUC needs both sides of its question. A side without any group in the data is no condition: no
    # resample could meet it, and the score is undefined anyway.
    for problem in problems(predictions):
        for side in (problem.positive, ~problem.positive):
            has = np.zeros(num_groups, bool)
            has[predictions.group[problem.rows[side]]] = True
            needed.append(has)
    conditions = np.array([has for has in needed if has.any()], bool).reshape(-1, num_groups)
    return num_groups, resample_groups(num_groups, resamples, np.random.default_rng(seed), conditions)


def _over_draws(
    score: Callable[[np.ndarray], np.ndarray], group: np.ndarray, draws: np.ndarray
) -> np.ndarray:
    """Return score(weights [rows, draws]), [parts, draws], computed a few resamples at a time."""
    # Weights of rows are the draws of their groups, expanded only for a few resamples at a time.
    step = max(CHUNK // len(group), 1)
    parts = [score(draws[group, start : start + step]) for start in range(0, draws.shape[1], step)]
    return np.concatenate(parts, 1) if parts else score(np.ones((len(group), 1)))[:, :0]


def _pooled(metric: Metric, repeats: Partition, weights: np.ndarray) -> np.ndarray:
    """Return the mean over repeats of each part: [parts, draws]."""
    return defined_mean(metric.values(repeats, weights), 1)


def _within(metric: Metric, test_sets: Partition, weights: np.ndarray) -> np.ndarray:
    """Return the share of concordant pairs within test sets: [parts, draws]."""
    assert metric.pairs is not None
    concordant, compared = metric.pairs(test_sets, weights)
    return ratio(concordant.sum(1), compared.sum(1))


def _score(
    metric: Metric,
    predictions: Predictions,
    num_groups: int,
    draws: np.ndarray,
    documents: int,
) -> Scores:
    ones = np.ones((len(predictions.group), 1))
    test_sets = predictions.test_sets()
    by_test_set = metric.values(test_sets, ones)[..., 0]
    # The same functions score the data (weights of 1) and its resamples, so that the two cannot drift apart.
    score_functions = {"pooled": partial(_pooled, metric, predictions.repeats())}
    if metric.pairs is not None:
        score_functions = {"within": partial(_within, metric, test_sets)} | score_functions
    values = {name: score(ones)[:, 0] for name, score in score_functions.items()}
    influences = {}
    if metric.group_pairs is not None and num_groups <= PAIR_GROUPS and draws.shape[1] > 1:
        for name, sets in (("within", test_sets), ("pooled", predictions.repeats())):
            # Every repeat has the same pairs, so that their mean is the share of the pairs of all repeats.
            influences[name] = pair_influence(*metric.group_pairs(sets, predictions.group, num_groups))
    resampled = {
        name: _over_draws(score, predictions.group, draws)
        for name, score in score_functions.items()
        if name not in influences
    }

    def entry(parts: np.ndarray) -> Scores:
        """Average some parts and give the mean its interval."""
        scores_of_parts: Scores = {name: _plain(defined_mean(value[parts])) for name, value in values.items()}
        scores_of_parts["mean"] = _plain(defined_mean(defined_mean(by_test_set[parts], 1)))
        scores_of_parts["folds"] = int(np.isfinite(by_test_set[parts]).any(0).sum())
        support = metric.support[parts]
        for name in values:
            if name in influences:
                around = share_interval(influences[name][parts], support, documents)
            else:
                drawn = resampled[name][parts]
                around = bootstrap_interval(
                    values[name][parts], drawn, support, num_groups, documents, metric.scale
                )
            prefix = "" if name == "pooled" else "within_"
            scores_of_parts |= {f"{prefix}low": _plain(around.low), f"{prefix}high": _plain(around.high)}
        return scores_of_parts

    score = entry(np.arange(len(by_test_set)))
    if metric.parts:
        score["classes"] = {name: entry(np.array([k])) for k, name in enumerate(metric.parts)}
    return score


def _describe_classes(predictions: Predictions, scores: dict[str, Scores]) -> None:
    """Add counts of positives to the AUC and chance levels to the average precision, for each class."""
    questions = problems(predictions)
    if "auc" in scores:
        for problem in questions:
            positive = problem.rows[problem.positive]
            scores["auc"]["classes"][problem.name] |= {
                "positives": len(np.unique(predictions.document[positive])),
                "groups": len(np.unique(predictions.group[positive])),
            }
    if "pr_auc" in scores:
        shares = np.array([problem.positive.mean() if len(problem.rows) else np.nan for problem in questions])
        for problem, share in zip(questions, shares, strict=True):
            scores["pr_auc"]["classes"][problem.name]["prevalence"] = _plain(share)
        scores["pr_auc"]["prevalence"] = _plain(defined_mean(shares))


def _slope_score(predictions: Predictions, num_groups: int) -> Scores:
    """Return the calibration slope; its error is cluster-robust, the limit of the cluster bootstrap."""
    # A thousand logistic fits per metric would dominate the run time; the influence of rows, summed by group,
    # gives what the cluster bootstrap converges to.
    questions = problems(predictions)
    rows = np.concatenate([problem.rows for problem in questions])
    values = [
        np.concatenate([problem.score for problem in questions]).astype(np.float64),
        np.concatenate([problem.positive for problem in questions]),
        np.repeat(np.arange(len(questions)), [len(problem.rows) for problem in questions]),
    ]

    def slopes(partition: Partition) -> list[calibration.Slope]:
        index = partition.index[rows]
        return [
            calibration.calibration_slope(*(v[index == s] for v in values)) for s in range(partition.count)
        ]

    repeats = predictions.repeats()
    by_repeat = slopes(repeats)
    by_fold = np.array([slope.value for slope in slopes(predictions.test_sets())])
    pooled = float(defined_mean(np.array([slope.value for slope in by_repeat])))
    influence = np.zeros(num_groups)
    defined = [(s, slope.influence) for s, slope in enumerate(by_repeat) if np.isfinite(slope.value)]
    for s, values_of_rows in defined:
        at = rows[repeats.index[rows] == s]
        influence += np.bincount(predictions.group[at], values_of_rows, num_groups) / len(defined)
    # G / (G - 1) for the G - 1 free deviations, as in the bootstrap's intervals.
    error = (
        np.sqrt((influence**2).sum() * num_groups / (num_groups - 1))
        if defined and num_groups > 1
        else np.nan
    )
    around = t_interval(pooled, Error(value=float(error), df=num_groups - 1))
    return {
        "mean": _plain(defined_mean(by_fold)),
        "pooled": _plain(pooled),
        "low": _plain(around.low),
        "high": _plain(around.high),
        "folds": int(np.isfinite(by_fold).sum()),
    }


def compare_predictions(
    first: Predictions, second: Predictions, resamples: int = RESAMPLES, seed: int = 0
) -> dict[str, Any]:
    """Compare two systems on the same rows by the headline (`within`): first minus second.

    Returns:
        `metric`; `first`, `second` and their `difference`, with `low` and `high` (t interval of its error
        over groups), `standard_error` and `df_paired_t`; `p_paired_t` of that; `t`, `df` and
        `p_corrected_t` of the corrected resampled t test on the macro scores of folds; `groups`;
        `smallest_detectable_difference` at 80 % power and 5 % level; `exploratory`, true below 40 groups.
        Adjust the p-values of a family with `holm`. The names of two of them are older than the method: the
        error over groups is that of `jackknife_error`, and of the paired bootstrap only above `PAIR_GROUPS`.

    Raises:
        ValueError: when the two do not have the same targets, folds, repeats and groups row by row.
    """
    for name in ("targets", "fold", "repeat", "group", "document"):
        ours, theirs = getattr(first, name), getattr(second, name)
        if first.kind != second.kind or not np.array_equal(ours, theirs, equal_nan=name == "targets"):
            raise ValueError(
                f"two systems can only be compared on the same rows, but their {name} differ ({first.kind} "
                f"with {len(first.targets)} rows, {second.kind} with {len(second.targets)}); evaluate both "
                "on the same folds and sort both by repeat and document"
            )
    first, second = _labelled(first), _labelled(second)
    ones, test_sets = np.ones((len(first.group), 1)), first.test_sets()
    both = [headline(predictions) for predictions in (first, second)]
    values = [_within(metric, test_sets, ones)[:, 0] for metric in both]
    by_fold = [defined_mean(metric.values(test_sets, ones)[..., 0]) for metric in both]
    num_groups = int(first.group.max()) + 1
    error = _paired_error(first, both, resamples, seed)
    difference = float(defined_mean(values[0] - values[1]))
    tested, around = paired_t(difference, error), t_interval(difference, error)
    n_test = np.bincount(test_sets.index, minlength=test_sets.count)
    # A repeat partitions the labelled documents: what is not in a test set was trained on.
    totals = np.bincount(first.repeats().index)
    repeat_of = np.zeros(test_sets.count, np.int64)
    repeat_of[test_sets.index] = first.repeats().index
    n_train = totals[repeat_of] - n_test
    corrected = corrected_resampled_t(by_fold[0] - by_fold[1], float(n_train.mean()), float(n_test.mean()))
    return {
        "metric": both[0].name,
        "first": _plain(defined_mean(values[0])),
        "second": _plain(defined_mean(values[1])),
        "difference": _plain(difference),
        "low": _plain(around.low),
        "high": _plain(around.high),
        "standard_error": _plain(error.value),
        "df_paired_t": _plain(error.df),
        "p_paired_t": _plain(tested.p),
        "t": _plain(corrected.t),
        "df": corrected.df,
        "p_corrected_t": _plain(corrected.p),
        "groups": num_groups,
        "smallest_detectable_difference": _plain(smallest_detectable_difference(error)),
        "exploratory": num_groups < EXPLORATORY_GROUPS,
    }


def _paired_error(first: Predictions, both: Sequence[Metric], resamples: int, seed: int) -> Error:
    """Return the error of the difference of two headlines (`within`) on the rows of `first`."""
    # The same groups are left out, or drawn, for both systems: the error of a paired difference lacks what
    # the data's luck adds to both.
    num_groups, test_sets, support = int(first.group.max()) + 1, first.test_sets(), both[0].support
    counts = [metric.group_pairs for metric in both if metric.group_pairs is not None]
    if len(counts) == 2 and num_groups <= PAIR_GROUPS and resamples > 1:
        ours, theirs = (pair_influence(*count(test_sets, first.group, num_groups)) for count in counts)
        return jackknife_error(ours - theirs, support)
    _, draws = _draws(first, resamples, seed)
    drawn = [_over_draws(partial(_within, metric, test_sets), first.group, draws) for metric in both]
    ones = np.ones((len(first.group), 1))
    values = [_within(metric, test_sets, ones)[:, 0] for metric in both]
    return bootstrap_error(values[0] - values[1], drawn[0] - drawn[1], support, num_groups)


def permutation_null(
    predictions: Predictions, permutations: int = RESAMPLES, seed: int = 0
) -> dict[str, Any]:
    """Return how the headline (`within`) varies when scores know nothing of labels.

    Labels are exchanged under the predictions as `shuffled_documents` says, by groups where all documents of
    a group share their labels; a document keeps one label over all repeats. The null is then widened about
    its mean by `WIDENING`, because networks are not trained again for the exchanged labels.

    Returns:
        `metric`, the observed `value`, `mean`, `low` and `high` (2.5 and 97.5 %) of the null, `p` of a value
        at least as large (one-sided, (1 + hits) / (1 + permutations)), `permutations`, and `exchanged`:
        `groups` where each group has one label, else `documents`.
    """
    predictions = _labelled(predictions)
    metric, test_sets = headline(predictions), predictions.test_sets()
    value = float(defined_mean(_within(metric, test_sets, np.ones((len(predictions.group), 1))))[0])
    null, constant = permuted_headlines(predictions, permutations, seed)
    null = null[np.isfinite(null)]
    null = null.mean() + WIDENING * (null - null.mean()) if len(null) else null
    # Equal shares of pairs can differ by rounding, and ties must count as hits.
    hits = int((null >= value - 1e-12).sum())
    low, high = np.quantile(null, [0.025, 0.975]).clip(0, 1) if len(null) else (np.nan, np.nan)
    return {
        "metric": metric.name,
        "value": _plain(value),
        "mean": _plain(null.mean() if len(null) else np.nan),
        "low": _plain(low),
        "high": _plain(high),
        # The observed labelling is one of the permutations: p is never 0 (Phipson and
        # Smyth 2010).
        "p": (1 + hits) / (1 + len(null)),
        "permutations": len(null),
        "exchanged": "groups" if constant else "documents",
    }


def permuted_headlines(
    predictions: Predictions, permutations: int = RESAMPLES, seed: int = 0
) -> tuple[Float[np.ndarray, " permutations"], bool]:
    """Return the headline of the same predictions under exchanged labels, and whether groups have one label.

    The values are those of `permutation_null` before they are widened; NaN where not defined.
    """
    predictions = _labelled(predictions)
    generator, test_sets = np.random.default_rng(seed), predictions.test_sets()
    # Rows of a document (one per repeat) move together, or the null would average over repeats and come out
    # too narrow.
    firsts, document = np.unique(predictions.document, return_index=True, return_inverse=True)[1:]
    group = predictions.group[firsts]
    constant = _constant_within_groups(predictions.targets[firsts], group)
    step = max(CHUNK // len(document), 1)
    parts = [np.zeros(0)]
    for start in range(0, permutations, step):
        count = min(step, permutations - start)
        taken = [shuffled_documents(group, constant, generator) for _ in range(count)]
        parts.append(_null_values(predictions, test_sets, np.stack([firsts[t][document] for t in taken], 1)))
    return np.concatenate(parts), constant


def _constant_within_groups(targets: np.ndarray, group: np.ndarray) -> bool:
    """Return whether the known labels of a group are all the same, in every column of a multilabel task."""
    values = targets.reshape(len(targets), -1).astype(np.float64)
    low, high = (np.full((int(group.max()) + 1, values.shape[1]), end) for end in (np.inf, -np.inf))
    # These two pass over NaN, an unknown label of a document that has others.
    np.fmin.at(low, group, values)
    np.fmax.at(high, group, values)
    return not (low < high).any()


def _null_values(predictions: Predictions, test_sets: Partition, sources: np.ndarray) -> np.ndarray:
    """Return the headline for labels taken from the rows `sources` [rows, draws]."""
    if predictions.kind == "regression":
        p, y = predictions.probabilities.astype(np.float64), predictions.targets.astype(np.float64)
        ones = np.ones((len(y), 1))
        counted = [ranking.number_pairs(p, y[taken], test_sets, ones) for taken in sources.T]
        return np.array([float(ratio(c.sum(0), n.sum(0))[0]) for c, n in counted])
    scores = np.empty((len(problems(predictions)), sources.shape[1]))
    for k, problem in enumerate(problems(predictions)):
        # A label that moves to a row keeps being unknown if it was: the number of known labels stays the
        # same.
        positive, negative = np.zeros((2, len(predictions.group)), bool)  # a null label is neither
        positive[problem.rows], negative[problem.rows] = problem.positive, ~problem.positive
        score = _score_of_all_rows(predictions, k)
        concordant, compared = ranking.shuffled_pairs(score, positive[sources], negative[sources], test_sets)
        scores[k] = ratio(concordant.sum(0), compared.sum(0))
    return defined_mean(scores)


def _score_of_all_rows(predictions: Predictions, k: int) -> np.ndarray:
    """Return the predicted probability of problem k for every row, labelled or not."""
    if predictions.kind == "multilabel":
        return np.asarray(predictions.probabilities[:, k])
    return problems(predictions)[k].score


def decision_curves(
    predictions: Predictions, thresholds: np.ndarray = THRESHOLDS
) -> dict[str, dict[str, list[float]]]:
    """Return the decision curve of each class (label, cut-point) over all repeats' labelled rows."""
    return {
        problem.name: calibration.decision_curve(problem.score, problem.positive, thresholds)
        for problem in problems(predictions)
        if len(problem.rows)
    }


def _plain(value: float | np.floating[Any] | np.ndarray) -> float | None:
    """Return a JSON number, None for what is not defined."""
    number = float(value)
    return number if np.isfinite(number) else None
