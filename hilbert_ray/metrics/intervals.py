"""Intervals of scores from few groups: a standard error over groups feeds a t interval.

Documents of a group resemble each other, so groups, not documents, are left out or drawn. Shares of pairs
(AUC, concordance) take their standard error from a cluster jackknife, less what it counts twice; all other
scores from a cluster bootstrap. The interval is Student's on a scale where scores are nearly normal. Its
degrees of freedom are groups - 1 at most and fewer where a class occurs in few groups: with groups - 1
throughout, a class in 3 of 10 groups left coverage at 0.83. `bench/coverage.py` measures all this.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import special

from hilbert_ray.metrics.partition import ratio

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


@dataclass(frozen=True, kw_only=True, slots=True)
class Influence:
    """What each group, and each two groups together, contribute to shares of pairs.

    groups: float64 [parts, groups], the share of each part minus the share without the group; where no pair
        is left without it, its linear approximation, which is the sum of `pairs`. pairs: float64 [parts,
        groups, groups], symmetric: the sum over the pairs of two groups of (concordant minus the share), over
        all pairs of the part. value: [parts], the shares; NaN, as the rest, for a part without pairs.
    """

    value: Float[np.ndarray, " parts"]
    groups: Float[np.ndarray, "parts groups"]
    pairs: Float[np.ndarray, "parts groups groups"]

    def __getitem__(self, parts: Int[np.ndarray, " some"]) -> "Influence":
        """Return the influence on some of the parts."""
        return Influence(value=self.value[parts], groups=self.groups[parts], pairs=self.pairs[parts])

    def __sub__(self, other: "Influence") -> "Influence":
        """Return the influence on the difference of two systems with the same documents and groups."""
        return Influence(
            value=self.value - other.value,
            groups=self.groups - other.groups,
            pairs=self.pairs - other.pairs,
        )


def pair_influence(
    concordant: Float[np.ndarray, "parts groups groups"], compared: Float[np.ndarray, "parts groups groups"]
) -> Influence:
    """Return the influence of groups on concordant / compared, counts of pairs of a group with a group."""
    # Which of both groups has the positive does not matter: [g, h] and [h, g] are pairs of the same two.
    hits, total = ((counts + counts.swapaxes(1, 2)) / 2 for counts in (concordant, compared))
    all_hits, all_pairs = hits.sum((1, 2))[:, None], total.sum((1, 2))[:, None]
    value = ratio(all_hits, all_pairs)
    excess = ratio(hits - value[..., None] * total, all_pairs[..., None])
    own = np.arange(hits.shape[1])
    pairs = 2 * excess
    pairs[:, own, own] = excess[:, own, own]
    left_hits, left = (
        whole - 2 * counts.sum(2) + counts[:, own, own]
        for whole, counts in ((all_hits, hits), (all_pairs, total))
    )
    # Counts are multiples of a half, so that "no pair left" is exact.
    without = ratio(left_hits, left)
    groups = np.where(np.isfinite(without), value - without, pairs.sum(2))
    return Influence(value=value[:, 0], groups=groups, pairs=pairs)


def jackknife_error(influence: Influence, support: Int[np.ndarray, " parts"]) -> Error:
    """Return the standard error of a mean over parts of shares of pairs, or of differences of such shares.

    A cluster jackknife, (G - 1) / G times the sum of squares of groups left out, less the sum of squares over
    pairs of different groups, times G / (G - 2) for the means of both sides of the pairs (MacKinnon and White
    1985, HC1). A pair depends on two groups, so that what is peculiar to it, and to neither of
    them, is in the squares of both: the jackknife overestimates the variance (Efron and Stein 1981), up to
    twice for two systems that differ by little, in single pairs. The difference is the variance with
    dependence between pairs that share a group (Aronow, Samii and Assenova 2015, "Cluster-robust variance
    estimation for dyadic data"); it is kept at half the jackknife or more, its limit for many groups. Parts
    are widened, and degrees of freedom taken as for the bootstrap, see `_widening`.

    Args:
        influence: of the groups on each part; undefined parts do not count.
        support: groups that carry each part, such as those with a document of the class.
    """
    defined = np.isfinite(influence.value)
    num_groups = influence.groups.shape[1]
    if not defined.any() or num_groups < 2:
        return Error(value=np.nan, df=np.nan)
    carried, widening = _widening(support[defined])
    groups = influence.groups[defined] * widening[:, None]
    pairs = influence.pairs[defined] * widening[:, None, None]
    variances = np.array([_jackknife_variance(*part) for part in zip(groups, pairs, strict=True)])
    variance = _jackknife_variance(groups.mean(0), pairs.mean(0))
    return Error(value=float(np.sqrt(variance)), df=_satterthwaite(variances, carried, num_groups))


def _jackknife_variance(groups: np.ndarray, pairs: np.ndarray) -> float:
    count = len(groups)
    jackknife = (count - 1) / count * ((groups - groups.mean()) ** 2).sum()
    # Each two groups are twice in the symmetric matrix, and one with itself is no pair of different groups.
    twice = ((pairs**2).sum() - (np.diagonal(pairs) ** 2).sum()) / 2
    # A share of pairs has two means, of positives and of negatives, estimated from the same groups.
    return float(max(jackknife - twice, jackknife / 2) * count / max(count - 2, 1))


def _widening(support: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the number n of groups that carry each part, at least 2, and sqrt(n / (n - 1)).

    n groups vary about their own mean (n - 1) / n as much as about the true one, which matters for a class in
    three groups even if there are fifty: each part is widened by the groups that carry it. The factor is
    infinite for one group, of which no spread can be estimated at all; 2 are assumed there.
    """
    carried = np.maximum(support, 2)
    return carried, np.sqrt(carried / (carried - 1))


def _satterthwaite(variances: np.ndarray, carried: np.ndarray, groups: int) -> float:
    """Return degrees of freedom after Satterthwaite (1946), n - 1 for each part, at most groups - 1."""
    # The part with the largest variance dominates the sums, and so decides the degrees of freedom. G - 1 is
    # the limit because G groups give no more than G - 1 independent deviations, however many classes.
    shared = (variances**2 / (carried - 1)).sum()
    return float(min(variances.sum() ** 2 / shared, groups - 1) if shared > 0 else groups - 1)


def _spread(
    values: Float[np.ndarray, " parts"],
    draws: Float[np.ndarray, "parts draws"],
    support: Int[np.ndarray, " parts"],
    groups: int,
    scale: IntervalScale,
    margin: float,
) -> tuple[Float[np.ndarray, " draws"], float]:
    """Return resampled means over parts, widened for small samples, and their degrees of freedom.

    No draw is returned when a mean over parts is defined in less than a tenth of the resamples.
    """
    defined = np.isfinite(values)
    # A mean over fewer classes is another quantity (it lacks the hard class, say), so such draws are left
    # out.
    complete = np.isfinite(draws[defined]).all(0)
    if not defined.any() or groups < 2 or complete.sum() < max(2, 0.1 * draws.shape[1]):
        return np.zeros(0), np.nan
    carried, widening = _widening(support[defined])
    # Widened on the transformed scale, so that a score cannot leave its bounds by being widened.
    centre = _to_line(values[defined, None], scale, margin)
    around = _to_line(draws[np.ix_(defined, complete)], scale, margin) - centre
    widened = _from_line(centre + around * widening[:, None], scale)
    return widened.mean(0), _satterthwaite(widened.var(1, ddof=1), carried, groups)


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
        The interval, see `_interval_on_line` for a score at its bound.
    """
    margin = 0.5 / documents
    # On this scale scores near a bound are nearly symmetric, as t needs; back on the score's own scale the
    # interval is asymmetric and never leaves the bounds.
    means, df = _spread(values, draws, support, groups, scale, margin)
    if not len(means):
        return Interval(low=np.nan, high=np.nan)
    centre = float(_to_line(np.nanmean(values, keepdims=True), scale, margin)[0])
    error = Error(value=float(_to_line(means, scale, margin).std(ddof=1)), df=df)
    return _interval_on_line(centre, error, int(support[np.isfinite(values)].min()), scale, level)


def share_interval(
    influence: Influence, support: Int[np.ndarray, " parts"], documents: int, level: float = LEVEL
) -> Interval:
    """Return the t interval of a mean over parts of shares of pairs, from `jackknife_error`.

    The error is taken to the logit scale by its slope at the mean, 1 / (p (1 - p)).

    Args:
        influence: of the groups on each part; undefined parts do not count.
        support: groups that carry each part, such as those with a document of the class.
        documents: documents scored; the mean is kept 1 / (2 documents) off 0 and 1 before the logit.
        level: coverage aimed at.
    """
    error, defined = jackknife_error(influence, support), np.isfinite(influence.value)
    if not np.isfinite(error.value):
        return Interval(low=np.nan, high=np.nan)
    margin = 0.5 / documents
    share = float(np.clip(influence.value[defined].mean(), margin, 1 - margin))
    on_line = Error(value=error.value / (share * (1 - share)), df=error.df)
    return _interval_on_line(
        float(special.logit(share)), on_line, int(support[defined].min()), "share", level
    )


def _interval_on_line(
    centre: float, error: Error, support: int, scale: IntervalScale, level: float
) -> Interval:
    """Return the t interval about a score on the scale without bounds, on the score's own scale.

    A score at its bound whatever groups are drawn has no spread: there the inner end is the exact binomial
    one for `support` groups without failure, ((1 - level) / 2)^(1 / support), on the bounded scale.
    """
    # Every resample of a perfect score is perfect: the bootstrap sees no error, yet n groups without failure
    # are consistent with any failure rate up to this one ("rule of three", Hanley and Lippman-Hand 1983).
    if error.value < 1e-9 and scale in ("share", "double_share", "correlation"):
        inner = float(special.logit(((1 - level) / 2) ** (1 / support)))
        low, high = (min(centre, inner), np.inf) if centre > 0 else (-np.inf, max(centre, -inner))
    else:
        # Student's t, because the error itself is estimated from few groups; the normal quantile is too
        # small.
        reach = float(special.stdtrit(error.df, 0.5 + level / 2)) * error.value
        low, high = centre - reach, centre + reach
    ends = _from_line(np.array([low, high]), scale)
    return Interval(low=float(ends[0]), high=float(ends[1]))


def t_interval(value: float, error: Error, level: float = LEVEL) -> Interval:
    """Return value -+ t * standard error; NaN where undefined."""
    if not np.isfinite(value + error.value):
        return Interval(low=np.nan, high=np.nan)
    reach = float(special.stdtrit(error.df, 0.5 + level / 2)) * error.value
    return Interval(low=value - reach, high=value + reach)
