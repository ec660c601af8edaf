"""Whether probabilities mean what they say: calibration error, Brier score, slope, decision curve.

Probabilities are [rows, classes] that sum to 1; a binary label of a multilabel task comes as two columns. The
first two functions take bootstrap weights; the slope comes with influences, from which its cluster-robust
error follows.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.special import expit

from hilbert_ray.metrics.partition import Partition, ratio

# The usual number (Guo et al. 2017); the estimate depends on it, so only equal numbers can be compared.
BINS = 15
# Probabilities are kept this far from 0 and 1 before their logit is taken: float32 softmax gives exact 0 and
# 1, and one infinite logit would decide the whole fit.
LOGIT_LIMIT = 1e-6


def expected_calibration_error(
    probabilities: Float[np.ndarray, "rows classes"],
    targets: Int[np.ndarray, " rows"],
    partition: Partition,
    weights: Float[np.ndarray, "rows draws"],
    bins: int = BINS,
) -> Float[np.ndarray, "sets draws"]:
    """Return the expected calibration error of the largest probability (Guo et al. 2017, eq. 3).

    The bins have equal width and are open below, closed above.
    """
    confidence = probabilities.max(1)
    correct = probabilities.argmax(1) == targets
    # "Left" search makes bins open below and closed above, so that a confidence of 1 is in the last bin.
    cell = np.clip(np.searchsorted(np.linspace(0, 1, bins + 1), confidence) - 1, 0, bins - 1)
    # |sum(correct) - sum(confidence)| is the bin's weight times its gap, so dividing by the total weight at
    # the end gives the weighted mean of gaps without a division in empty bins.
    gap = Partition(index=partition.index * bins + cell, count=partition.count * bins).sums(
        correct - confidence, weights
    )
    total = partition.sums(np.ones(len(targets)), weights)
    return ratio(np.abs(gap).reshape(partition.count, bins, -1).sum(1), total)


def brier(
    probabilities: Float[np.ndarray, "rows classes"],
    targets: Int[np.ndarray, " rows"],
    partition: Partition,
    weights: Float[np.ndarray, "rows draws"],
) -> Float[np.ndarray, "sets draws"]:
    """Return the Brier score (Brier 1950): 0 to 2; halved with two classes, to be the usual 0 to 1."""
    classes = probabilities.shape[1]
    squared = ((probabilities - np.eye(classes)[targets]) ** 2).sum(1) / (2 if classes == 2 else 1)
    return ratio(partition.sums(squared, weights), partition.sums(np.ones(len(targets)), weights))


@dataclass(frozen=True, kw_only=True, slots=True)
class Slope:
    """A calibration slope and the first-order influence of each row on it; NaN where undefined."""

    value: float
    influence: Float[np.ndarray, " rows"]


def calibration_slope(
    probabilities: Float[np.ndarray, " rows"],
    positive: Bool[np.ndarray, " rows"],
    problem: Int[np.ndarray, " rows"],
    iterations: int = 50,
) -> Slope:
    """Fit logit P(y) = intercept + slope * logit(p) and return the slope (Cox 1958).

    A slope of 1 is calibrated, a slope below 1 overconfident. Several one-vs-rest problems share the slope
    and have an intercept each. A problem with one class is left out; perfectly separated rows have no slope
    (NaN).

    Args:
        probabilities: predicted probability that the row is positive.
        positive: whether it is.
        problem: which problem (class or label) the row belongs to, int64 from 0.
        iterations: most Newton steps.
    """
    undefined = Slope(value=np.nan, influence=np.full(len(positive), np.nan))
    size = int(problem.max(initial=-1)) + 1
    # The intercept of a problem with one class runs off to infinity; its rows say nothing about the slope.
    mixed = np.array([len(np.unique(positive[problem == p])) == 2 for p in range(size)], bool)
    if not mixed.any():
        return undefined
    is_used = mixed[problem]
    clipped = np.clip(probabilities[is_used], LOGIT_LIMIT, 1 - LOGIT_LIMIT)
    column = (np.cumsum(mixed) - 1)[problem[is_used]]
    design = np.column_stack([np.log(clipped / (1 - clipped)), np.eye(int(mixed.sum()))[column]])
    # Newton's method on the log-likelihood (that is, iteratively reweighted least squares). The likelihood is
    # concave, so the start does not matter for the result.
    parameters = np.zeros(design.shape[1])
    for _ in range(iterations):
        fitted = expit(design @ parameters)
        information = (design * (fitted * (1 - fitted))[:, None]).T @ design
        # With separated classes the parameters grow without limit and the fitted variances vanish: the matrix
        # becomes singular before the step does, and there is no finite slope to report.
        if np.linalg.cond(information) > 1e12:
            return undefined
        residual = positive[is_used] - fitted
        step = np.linalg.solve(information, design.T @ residual)
        # A full step from a flat part of the likelihood can overshoot beyond where expit saturates.
        parameters = parameters + np.clip(step, -5, 5)
        if np.abs(step).max() < 1e-9:
            # First row of the inverse information times each row's score: the one-step change of the slope
            # when the row is left out, from which the sandwich (cluster-robust) variance follows by summing
            # within groups.
            influence = np.zeros(len(positive))
            influence[is_used] = (design * residual[:, None]) @ np.linalg.inv(information)[0]
            return Slope(value=float(parameters[0]), influence=influence)
    return undefined


def decision_curve(
    probabilities: Float[np.ndarray, " rows"],
    positive: Bool[np.ndarray, " rows"],
    thresholds: Float[np.ndarray, " thresholds"],
) -> dict[str, list[float]]:
    """Return the net benefit of acting on probabilities of at least each threshold (Vickers and Elkin 2006).

    Args:
        probabilities: predicted probability that the row is positive.
        positive: whether it is.
        thresholds: probabilities, each above 0 and below 1.

    Returns:
        `thresholds`; `model`, TP/N - FP/N * t/(1-t) at each; `all`, the same when everyone is acted on
        (`none` is 0).
    """
    # Acting at threshold t says that one missed positive is as bad as (1 - t) / t needless actions; a false
    # positive therefore costs t / (1 - t) of a true one.
    odds = thresholds / (1 - thresholds)
    acted = probabilities >= thresholds[:, None]
    model = (acted & positive).mean(1) - (acted & ~positive).mean(1) * odds
    everyone = positive.mean() - (~positive).mean() * odds
    return {"thresholds": thresholds.tolist(), "model": model.tolist(), "all": everyone.tolist()}


def reliability_bins(probabilities: Float[np.ndarray, " rows"], bins: int = 10) -> Int[np.ndarray, " rows"]:
    """Return the bin of equal width, from 0, that each probability falls into."""
    # A probability of exactly 1 would fall into a bin of its own beyond the last.
    return np.clip((probabilities * bins).astype(np.int64), 0, bins - 1)


def reliability(
    probabilities: Float[np.ndarray, " rows"], positive: Bool[np.ndarray, " rows"], bins: int = 10
) -> dict[str, list[float]]:
    """Return mean `predicted` probability, `observed` share and `count` of each bin that has rows."""
    cell = reliability_bins(probabilities, bins)
    count = np.bincount(cell, minlength=bins)
    used = count > 0
    predicted = np.bincount(cell, probabilities, bins)[used] / count[used]
    observed = np.bincount(cell, positive, bins)[used] / count[used]
    return {"predicted": predicted.tolist(), "observed": observed.tolist(), "count": count[used].tolist()}
