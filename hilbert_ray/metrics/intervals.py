"""Intervals of scores from few groups: a cluster bootstrap feeds a t interval on a transformed scale.

Documents of a group resemble each other, so groups, not documents, are drawn. Percentile intervals cover too
rarely with few groups; here the bootstrap gives only a standard error, on a scale where scores are nearly
normal, and the quantile is Student's. Its degrees of freedom are groups - 1 at most and fewer where a class
occurs in few groups: with groups - 1 throughout, a class in 3 of 10 groups left coverage at 0.83
(`bench/coverage.py` measures this).
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import special

IntervalScale = Literal["share", "double_share", "correlation", "positive", "at_most_one", "real"]
# Only a standard error is taken from the resamples: 1000 give it to about 2 %, percentiles would need more.
RESAMPLES = 1000
LEVEL = 0.95


@dataclass(frozen=True, kw_only=True, slots=True)
class Interval:
    """A confidence interval; both ends NaN where none can be given."""

    low: float
    high: float


def resample_groups(
    groups: int,
    resamples: int,
    generator: np.random.Generator,
    needed: Bool[np.ndarray, "needs groups"] | None = None,
) -> Float[np.ndarray, "groups draws"]:
    """Draw groups with replacement; return how often each group is in each resample.

    Args:
        groups: number of groups G; each resample has G of them.
        resamples: number of resamples R.
        generator: source of randomness.
        needed: for each condition the groups that fulfil it, such as "has a positive of this class";
            resamples in which a condition is unmet are drawn again, since the score is not defined there.
            After 50 rounds the rest is drawn without conditions: with very many rare classes hardly a
            resample has them all.

    Returns:
        Counts as float64.
    """
    accepted: list[np.ndarray] = []
    missing = resamples
    for attempt in range(51):
        # Whole groups, because documents of a group resemble each other: drawing documents would pretend that
        # there are as many independent observations as documents, and the interval would be far too narrow.
        drawn = generator.multinomial(groups, np.full(groups, 1 / groups), size=resamples).astype(float)
        # Rejection, not repair: the accepted draws are multinomial draws given that the score is defined,
        # while adding the missing class to a draw would favour its groups.
        if needed is not None and attempt < 50:
            # (drawn @ needed.T)[i, j] counts how often draw i has a group that meets condition j.
            drawn = drawn[((drawn @ needed.T.astype(float)) > 0).all(1)]
        accepted.append(drawn[:missing])
        missing -= len(accepted[-1])
        if missing == 0:
            break
    return np.ascontiguousarray(np.concatenate(accepted).T)


def _to_line(values: np.ndarray, scale: IntervalScale, margin: float) -> np.ndarray:
    """Map scores to a scale without bounds; `margin` keeps shares off 0 and 1."""
    match scale:
        case "share":
            # The logit of 0 or 1 is infinite, and one perfect resample would make the error infinite. The
            # margin is half a document: no score of that many documents can be resolved more finely.
            return np.asarray(special.logit(np.clip(values, margin, 1 - margin)))
        case "double_share":
            return np.asarray(special.logit(np.clip(values / 2, margin, 1 - margin)))
        case "correlation":
            return np.asarray(special.logit(np.clip((values + 1) / 2, margin, 1 - margin)))
        case "positive":
            return np.asarray(np.log(np.maximum(values, np.finfo(float).tiny)))
        case "at_most_one":
            # R2 has no lower bound; 1 - R2 is a ratio of sums of squares, which is nearly normal in its
            # logarithm.
            return np.asarray(-np.log(np.maximum(1 - values, np.finfo(float).tiny)))
        case "real":
            return values


def _from_line(values: np.ndarray, scale: IntervalScale) -> np.ndarray:
    match scale:
        case "share":
            return np.asarray(special.expit(values))
        case "double_share":
            return np.asarray(2 * special.expit(values))
        case "correlation":
            return np.asarray(2 * special.expit(values) - 1)
        case "positive":
            return np.asarray(np.exp(values))
        case "at_most_one":
            return np.asarray(1 - np.exp(-values))
        case "real":
            return values


@dataclass(frozen=True, kw_only=True, slots=True)
class Error:
    """A standard error and the degrees of freedom of its estimate; NaN where none can be given."""

    value: float
    df: float


def _spread(
    values: Float[np.ndarray, " parts"],
    draws: Float[np.ndarray, "parts draws"],
    support: Int[np.ndarray, " parts"],
    groups: int,
    scale: IntervalScale,
    margin: float,
) -> tuple[Float[np.ndarray, " draws"], float]:
    """Return resampled means over parts, widened for small samples, and their degrees of freedom.

    n groups resampled with replacement vary (n - 1) / n as much as n new ones would, which matters for a
    class in three groups even if there are fifty: each part is widened by sqrt(n / (n - 1)) with the groups
    that carry it. Degrees of freedom follow Satterthwaite (1946), n - 1 for each part, at most groups - 1. No
    draw is returned when a mean over parts is defined in less than a tenth of the resamples.
    """
    defined = np.isfinite(values)
    # A mean over fewer classes is another quantity (it lacks the hard class, say), so such draws are left
    # out.
    complete = np.isfinite(draws[defined]).all(0)
    if not defined.any() or groups < 2 or complete.sum() < max(2, 0.1 * draws.shape[1]):
        return np.zeros(0), np.nan
    # The factor n / (n - 1) is infinite for one group, of which no spread can be estimated at all.
    carried = np.maximum(support[defined], 2)
    # Widened on the transformed scale, so that a score cannot leave its bounds by being widened.
    centre = _to_line(values[defined, None], scale, margin)
    around = _to_line(draws[np.ix_(defined, complete)], scale, margin) - centre
    widened = _from_line(centre + around * np.sqrt(carried / (carried - 1))[:, None], scale)
    variances = widened.var(1, ddof=1)
    # The class with the largest variance dominates the sums, and so decides the degrees of freedom. G - 1 is
    # the limit because G groups give no more than G - 1 independent deviations, however many classes.
    shared = (variances**2 / (carried - 1)).sum()
    df = min(variances.sum() ** 2 / shared, groups - 1) if shared > 0 else groups - 1
    return widened.mean(0), float(df)


def bootstrap_error(
    values: Float[np.ndarray, " parts"],
    draws: Float[np.ndarray, "parts draws"],
    support: Int[np.ndarray, " parts"],
    groups: int,
) -> Error:
    """Return the standard error of a mean over parts (classes); arguments as of `bootstrap_interval`."""
    means, df = _spread(values, draws, support, groups, "real", 0.0)
    return Error(value=float(means.std(ddof=1)) if len(means) else np.nan, df=df)


def bootstrap_interval(
    values: Float[np.ndarray, " parts"],
    draws: Float[np.ndarray, "parts draws"],
    support: Int[np.ndarray, " parts"],
    groups: int,
    documents: int,
    scale: IntervalScale,
    level: float = LEVEL,
) -> Interval:
    """Return the t interval of a mean over parts (classes), with the spread of its resamples.

    Args:
        values: the score of each part; undefined ones (NaN) do not count.
        draws: the same in each resample; resamples in which a part is undefined are left out.
        support: groups that carry each part, such as those with a document of the class.
        groups: groups G that were resampled.
        documents: documents scored; shares are kept 1 / (2 documents) off their bounds before the logit.
        scale: which bounds the score has.
        level: coverage aimed at.

    Returns:
        The interval. A score at its bound in every resample has no spread: there the inner end is the exact
        binomial one for n groups without failure, ((1 - level) / 2)^(1 / n), on the bounded scale.
    """
    margin = 0.5 / documents
    # On this scale scores near a bound are nearly symmetric, as t needs; back on the score's own scale the
    # interval is asymmetric and never leaves the bounds.
    means, df = _spread(values, draws, support, groups, scale, margin)
    if not len(means):
        return Interval(low=np.nan, high=np.nan)
    centre = float(_to_line(np.nanmean(values, keepdims=True), scale, margin)[0])
    error = float(_to_line(means, scale, margin).std(ddof=1))
    # Every resample of a perfect score is perfect: the bootstrap sees no error, yet n groups without failure
    # are consistent with any failure rate up to this one ("rule of three", Hanley and Lippman-Hand 1983).
    if error < 1e-9 and scale in ("share", "double_share", "correlation"):
        inner = float(special.logit(((1 - level) / 2) ** (1 / support[np.isfinite(values)].min())))
        low, high = (min(centre, inner), np.inf) if centre > 0 else (-np.inf, max(centre, -inner))
    else:
        # Student's t, because the error itself is estimated from few groups; the normal quantile is too
        # small.
        reach = float(special.stdtrit(df, 0.5 + level / 2)) * error
        low, high = centre - reach, centre + reach
    ends = _from_line(np.array([low, high]), scale)
    return Interval(low=float(ends[0]), high=float(ends[1]))


def t_interval(value: float, error: Error, level: float = LEVEL) -> Interval:
    """Return value -+ t * standard error; NaN where undefined."""
    if not np.isfinite(value + error.value):
        return Interval(low=np.nan, high=np.nan)
    reach = float(special.stdtrit(error.df, 0.5 + level / 2)) * error.value
    return Interval(low=value - reach, high=value + reach)
