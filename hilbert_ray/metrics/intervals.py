"""Intervals of scores from few groups: a cluster bootstrap feeds a t interval on a transformed scale.

Documents of a group resemble each other, so groups, not documents, are drawn. Percentile intervals cover too
rarely with few groups; here the bootstrap gives only a standard error, on a scale where scores are nearly
normal, and the quantile is Student's with groups - 1 degrees of freedom. `bench/coverage.py` measures how
often these intervals hold.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float
from scipy import special, stats

Scale = Literal["share", "double_share", "correlation", "positive", "at_most_one", "real"]
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
    """Draw groups with replacement; return how often each group stands in each resample.

    Args:
        groups: number of groups G; each resample has G of them.
        resamples: resamples wanted.
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
        drawn = generator.multinomial(groups, np.full(groups, 1 / groups), size=resamples).astype(float)
        if needed is not None and attempt < 50:
            drawn = drawn[((drawn @ needed.T.astype(float)) > 0).all(1)]
        accepted.append(drawn[:missing])
        missing -= len(accepted[-1])
        if missing == 0:
            break
    return np.ascontiguousarray(np.concatenate(accepted).T)


def _to_line(values: np.ndarray, scale: Scale, margin: float) -> np.ndarray:
    """Map scores to a scale without bounds; `margin` keeps shares off 0 and 1."""
    match scale:
        case "share":
            return np.asarray(special.logit(np.clip(values, margin, 1 - margin)))
        case "double_share":
            return np.asarray(special.logit(np.clip(values / 2, margin, 1 - margin)))
        case "correlation":
            return np.asarray(special.logit(np.clip((values + 1) / 2, margin, 1 - margin)))
        case "positive":
            return np.asarray(np.log(np.maximum(values, np.finfo(float).tiny)))
        case "at_most_one":
            return np.asarray(-np.log(np.maximum(1 - values, np.finfo(float).tiny)))
        case "real":
            return values


def _from_line(values: np.ndarray, scale: Scale) -> np.ndarray:
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


def bootstrap_interval(
    value: float,
    draws: Float[np.ndarray, " draws"],
    groups: int,
    documents: int,
    scale: Scale,
    level: float = LEVEL,
) -> Interval:
    """Return the t interval of a score around its value, with the spread of its bootstrap draws.

    Args:
        value: the score.
        draws: the score in each resample; undefined ones (NaN) are left out.
        groups: groups G that were resampled; the quantile has G - 1 degrees of freedom.
        documents: documents scored; shares are kept 1 / (2 documents) off their bounds before the logit.
        scale: which bounds the score has.
        level: coverage aimed at.

    Returns:
        The interval. A score at its bound in every resample has no spread: there the inner end is the exact
        binomial one for G trials without failure, ((1 - level) / 2)^(1 / G), on the bounded scale.
    """
    draws = draws[np.isfinite(draws)]
    if not np.isfinite(value) or len(draws) < 2 or groups < 2:
        return Interval(low=np.nan, high=np.nan)
    margin = 0.5 / documents
    centre = _to_line(np.array(value), scale, margin)
    error = float(np.std(_to_line(draws, scale, margin), ddof=1))
    if error == 0 and scale in ("share", "double_share", "correlation"):
        inner = special.logit(((1 - level) / 2) ** (1 / groups))
        low, high = (centre, np.inf) if centre > 0 else (-np.inf, centre)
        low, high = (min(low, inner), high) if centre > 0 else (low, max(high, -inner))
    else:
        reach = stats.t.ppf(0.5 + level / 2, groups - 1) * error
        low, high = centre - reach, centre + reach
    return Interval(
        low=float(_from_line(np.array(low), scale)), high=float(_from_line(np.array(high), scale))
    )


def t_interval(value: float, standard_error: float, groups: int, level: float = LEVEL) -> Interval:
    """Return value -+ t * standard error with groups - 1 degrees of freedom; NaN where undefined."""
    if groups < 2 or not np.isfinite(value + standard_error):
        return Interval(low=np.nan, high=np.nan)
    reach = float(stats.t.ppf(0.5 + level / 2, groups - 1)) * standard_error
    return Interval(low=value - reach, high=value + reach)
