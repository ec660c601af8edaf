"""Metrics of order: AUC, average precision, concordance of numbers, Spearman's correlation.

All take document weights [rows, draws], so that a thousand bootstrap resamples cost one sort and a few
cumulative sums. They return values (or counts of pairs) for each set and draw; `predictions` turns them
into scores.
"""

import numpy as np
from jaxtyping import Bool, Float, Int

from hilbert_ray.metrics.partition import Partition, ratio

Pairs = tuple[Float[np.ndarray, "sets draws"], Float[np.ndarray, "sets draws"]]
GroupPairs = tuple[Float[np.ndarray, "groups groups"], Float[np.ndarray, "groups groups"]]
PAIR_ROWS = 512  # rows of the pair matrix of `number_pairs` that are in memory at once
CELLS = 1 << 20  # numbers in one [rows, groups] array of `class_pairs_by_group`: 8 MiB


def _keys(values: np.ndarray, partition: Partition) -> Int[np.ndarray, " rows"]:
    """Return integers that order rows by set, then value; equal where both are equal."""
    # Comparing floats once here lets all later steps search integers, and the set as the upper part of the
    # key keeps rows of different sets apart: one sort serves all test sets.
    order = np.lexsort((values, partition.index))
    changes = (np.diff(values[order]) != 0) | (np.diff(partition.index[order]) != 0)
    keys = np.empty(len(values), np.int64)
    keys[order] = np.concatenate([np.zeros(min(len(values), 1), np.int64), np.cumsum(changes)])
    return keys


def _cumulated(weights: np.ndarray) -> np.ndarray:
    """Return sums of the first 0, 1, ... rows: [rows, draws] -> [rows + 1, draws]."""
    sums = np.empty((len(weights) + 1, weights.shape[1]))
    sums[0] = 0
    np.cumsum(weights, axis=0, out=sums[1:])
    return sums


def class_pairs(
    scores: Float[np.ndarray, " rows"],
    positive: Bool[np.ndarray, " rows"],
    partition: Partition,
    weights: Float[np.ndarray, "rows draws"],
) -> Pairs:
    """Return concordant pairs (ties count half) and all pairs of a positive with a negative of its set.

    Their quotient in one set is the AUC (Mann and Whitney 1947); the quotient of their sums over folds is
    the AUC `within` folds, for which scores of different networks are never compared.
    """
    low, high = np.flatnonzero(~positive), np.flatnonzero(positive)
    keys = _keys(scores, partition)
    return _pairs(keys[low], partition[low], weights[low], keys[high], partition[high], weights[high])


def shuffled_pairs(
    scores: Float[np.ndarray, " rows"],
    positive: Bool[np.ndarray, "rows draws"],
    negative: Bool[np.ndarray, "rows draws"],
    partition: Partition,
) -> Pairs:
    """Return the counts of `class_pairs` for labels that differ from draw to draw; unlabelled is neither."""
    keys = _keys(scores, partition)
    return _pairs(keys, partition, negative.astype(float), keys, partition, positive.astype(float))


def _pairs(
    low_keys: np.ndarray,
    low_partition: Partition,
    low_weights: np.ndarray,
    high_keys: np.ndarray,
    high_partition: Partition,
    high_weights: np.ndarray,
) -> Pairs:
    """Count, by weight, rows of the high side that beat rows of the low side in their set."""
    low, high = (np.argsort(keys, kind="stable") for keys in (low_keys, high_keys))
    low_keys, high_keys, high_index = low_keys[low], high_keys[high], high_partition.index[high]
    high_weights = high_weights[high]
    edges = np.arange(low_partition.count + 1)
    below = _cumulated(low_weights[low])
    borders = np.searchsorted(low_partition.index[low], edges)
    # The weight strictly below plus the weight up to and including equals, halved: a tie counts half, as if
    # it were broken at random, so that a constant score has an AUC of exactly 0.5.
    beaten = below[np.searchsorted(low_keys, high_keys, "left")]
    beaten += below[np.searchsorted(low_keys, high_keys, "right")]
    beaten *= 0.5
    # `below` runs over all sets; what earlier sets contributed is taken off.
    beaten -= below[borders[high_index]]
    beaten *= high_weights
    firsts = np.searchsorted(high_index, edges)
    concordant, positives = (np.diff(_cumulated(values)[firsts], axis=0) for values in (beaten, high_weights))
    return concordant, positives * np.diff(below[borders], axis=0)


def class_pairs_by_group(
    scores: Float[np.ndarray, " rows"],
    positive: Bool[np.ndarray, " rows"],
    partition: Partition,
    group: Int[np.ndarray, " rows"],
    groups: int,
) -> GroupPairs:
    """Return the counts of `class_pairs`, summed over sets, by the groups of the positive and the negative.

    Entry [g, h] counts pairs of a positive of group g with a negative of group h. With a weight per group, w,
    the counts are w' C w: one sort gives every resample and every score without a group.
    """
    low, high = np.flatnonzero(~positive), np.flatnonzero(positive)
    keys = _keys(scores, partition)
    low, high = (rows[np.argsort(keys[rows], kind="stable")] for rows in (low, high))
    left, right = (np.searchsorted(keys[low], keys[high], side) for side in ("left", "right"))
    start = np.searchsorted(partition.index[low], partition.index[high])
    concordant = np.zeros((groups, groups))
    of_positive = Partition(index=group[high], count=groups)
    by_set = [
        part.counts(group[rows], groups, np.ones((len(rows), 1)))[..., 0]
        for part, rows in ((partition[high], high), (partition[low], low))
    ]
    compared = by_set[0].T @ by_set[1]
    step = max(CELLS // max(len(scores), 1), 1)
    for first in range(0, groups, step):
        some = np.arange(first, min(first + step, groups))
        # As in `_pairs`: what lies strictly below and what lies at or below, halved, so that ties count half.
        below = _cumulated((group[low][:, None] == some).astype(float))
        beaten = 0.5 * (below[left] + below[right]) - below[start]
        concordant[:, some] = of_positive.sums(np.ones(len(high)), beaten)
    return concordant, compared


def average_precision(
    scores: Float[np.ndarray, " rows"],
    positive: Bool[np.ndarray, " rows"],
    partition: Partition,
    weights: Float[np.ndarray, "rows draws"],
) -> Float[np.ndarray, "sets draws"]:
    """Return the area under precision over recall, the sum of (R_n - R_n-1) P_n; NaN without positives."""
    keys = _keys(-scores, partition)
    order = np.argsort(keys, kind="stable")
    keys, hit, ordered = keys[order], positive[order], weights[order]
    part = partition[order]
    borders = np.searchsorted(part.index, np.arange(partition.count + 1))
    everyone = _cumulated(ordered)
    hits_before = _cumulated(ordered * hit[:, None])
    # Precision is taken after all rows of equal score: no threshold can separate them, and without this the
    # result would depend on the order of the rows.
    ends = np.searchsorted(keys, keys[hit], "right")
    starts = borders[part.index[hit]]
    precision = ratio(hits_before[ends] - hits_before[starts], everyone[ends] - everyone[starts])
    rows = np.flatnonzero(hit)
    # A draw can give weight 0 to every row so far: precision is 0/0 there, and its weight of 0 adds nothing.
    gained = part[rows].sums(np.ones(len(rows)), np.nan_to_num(precision) * ordered[rows])
    return ratio(gained, np.diff(hits_before[borders], axis=0))


def number_pairs(
    predictions: Float[np.ndarray, " rows"],
    targets: Float[np.ndarray, " rows"],
    partition: Partition,
    weights: Float[np.ndarray, "rows draws"],
) -> Pairs:
    """Return concordant pairs (tied predictions count half) and all pairs with different targets.

    Their quotient is the concordance index (Harrell 1982) without censoring: the AUC of numbers.
    """
    concordant = np.zeros((partition.count, weights.shape[1]))
    pairs = np.zeros_like(concordant)
    for number in range(partition.count):
        rows = np.flatnonzero(partition.index == number)
        p, y, w = predictions[rows], targets[rows], weights[rows]
        for start in range(0, len(rows), PAIR_ROWS):
            part = slice(start, start + PAIR_ROWS)
            above = y[part, None] > y
            # 1 for concordant pairs, 0.5 for tied predictions, 0 for discordant ones or where targets are
            # equal. Each unordered pair counts once, from its row with the larger target.
            agreement = 0.5 * above * (1.0 + np.sign(p[part, None] - p))
            concordant[number] += np.einsum("rd,rd->d", w[part], agreement @ w)
            pairs[number] += np.einsum("rd,rd->d", w[part], above.astype(float) @ w)
    return concordant, pairs


def number_pairs_by_group(
    predictions: Float[np.ndarray, " rows"],
    targets: Float[np.ndarray, " rows"],
    partition: Partition,
    group: Int[np.ndarray, " rows"],
    groups: int,
) -> GroupPairs:
    """Return the counts of `number_pairs`, summed over sets, by the groups of both documents.

    Entry [g, h] counts pairs whose larger target is of group g and whose smaller one is of group h.
    """
    concordant, pairs = np.zeros((2, groups, groups))
    for number in range(partition.count):
        rows = np.flatnonzero(partition.index == number)
        p, y, of = predictions[rows], targets[rows], Partition(index=group[rows], count=groups)
        for start in range(0, len(rows), PAIR_ROWS):
            part = slice(start, start + PAIR_ROWS)
            above = (y[part, None] > y).astype(float)
            agreement = 0.5 * above * (1.0 + np.sign(p[part, None] - p))
            for counts, values in ((concordant, agreement), (pairs, above)):
                of_larger = of[np.arange(len(rows))[part]].sums(np.ones(len(values)), values)
                counts += of.sums(np.ones(len(rows)), of_larger.T).T
    return concordant, pairs


def _ranks(values: np.ndarray, partition: Partition, weights: np.ndarray) -> np.ndarray:
    """Return mid-ranks within a set, up to a constant of it: float64 [rows, draws]."""
    keys = _keys(values, partition)
    # Weights act as repeated rows: a rank is the weight below plus half the weight of the tie. The constant
    # that separates this from ranks 1..n cancels in a correlation.
    order = np.argsort(keys, kind="stable")
    below = _cumulated(weights[order])
    left, right = (np.searchsorted(keys[order], keys, side) for side in ("left", "right"))
    borders = np.searchsorted(partition.index[order], np.arange(partition.count + 1))
    return np.asarray(0.5 * (below[left] + below[right]) - below[borders[partition.index]])


def spearman(
    predictions: Float[np.ndarray, " rows"],
    targets: Float[np.ndarray, " rows"],
    partition: Partition,
    weights: Float[np.ndarray, "rows draws"],
) -> Float[np.ndarray, "sets draws"]:
    """Return Spearman's rank correlation in each set; NaN where either side is constant."""
    ranks = [_ranks(values, partition, weights) for values in (predictions, targets)]
    ones = np.ones(len(predictions))
    total = partition.sums(ones, weights)
    centred = [rank - ratio(partition.sums(ones, weights * rank), total)[partition.index] for rank in ranks]
    covariance = partition.sums(ones, weights * centred[0] * centred[1])
    variances = [partition.sums(ones, weights * rank**2) for rank in centred]
    # A constant side leaves rounding errors of its ranks instead of 0.
    floor = 1e-12 * np.maximum(total, 1.0) ** 3
    spread = np.where(np.minimum(*variances) > floor, variances[0] * variances[1], 0.0)
    return ratio(covariance, np.sqrt(spread))
