"""Tests of differences between two systems on the same folds, and of one system against chance.

The corrected resampled t test looks at differences of folds, the paired t test at groups of documents.
Neither is exact with few groups (the t test alone rejects too often there), so both are shown, and below
`EXPLORATORY_GROUPS` groups their p-values are labelled exploratory.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from scipy import special

from hilbert_ray.metrics.intervals import Error

# Cluster-robust tests are known to reject too often below about 40 clusters (Angrist and Pischke 2009, ch.
# 8).
EXPLORATORY_GROUPS = 40


@dataclass(frozen=True, kw_only=True, slots=True)
class TTest:
    """Result of a t test; NaN where it is not defined."""

    t: float
    df: float
    p: float


def corrected_resampled_t(differences: Float[np.ndarray, " folds"], n_train: float, n_test: float) -> TTest:
    """Test fold differences against 0 with the variance corrected for overlapping training parts.

    t = mean / sqrt((1/J + n_test/n_train) * variance) with J - 1 degrees of freedom (Nadeau and Bengio 2003,
    eq. 9; for repeated k-fold Bouckaert and Frank 2004).

    Args:
        differences: first minus second score in each fold; folds where it is not defined (NaN) are left out.
        n_train: documents of a training part (mean over folds).
        n_test: documents of a test part (mean over folds).
    """
    values = differences[np.isfinite(differences)]
    df = len(values) - 1
    if df < 1:
        return TTest(t=np.nan, df=max(df, 0), p=np.nan)
    # Training sets of repeated k-fold overlap, so fold scores are correlated and variance / J is too small.
    # With correlation r the factor is 1/J + r / (1 - r); r is taken as n_test / (n_test + n_train).
    error = float(np.sqrt((1 / len(values) + n_test / n_train) * values.var(ddof=1)))
    return _t_test(float(values.mean()), error, df)


def paired_t(difference: float, error: Error) -> TTest:
    """Test a difference against 0 with its error over groups, that of `jackknife_error`."""
    if not np.isfinite(difference + error.value):
        return TTest(t=np.nan, df=0.0, p=np.nan)
    return _t_test(difference, error.value, error.df)


def _t_test(mean: float, error: float, df: float) -> TTest:
    if error == 0:  # the same scores in every fold or resample: no difference, or one without any spread
        return TTest(
            t=0.0 if mean == 0 else float(np.copysign(np.inf, mean)), df=df, p=1.0 if mean == 0 else 0.0
        )
    t = mean / error
    return TTest(t=t, df=df, p=float(2 * special.stdtr(df, -abs(t))))


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values adjusted for a family of tests (Holm 1979); NaN stays NaN and does not count."""
    p = np.asarray(p_values, float)
    adjusted = np.full(len(p), np.nan)
    known = np.flatnonzero(np.isfinite(p))
    # The smallest p is multiplied by the number of tests m, the next by m - 1, ...; the running maximum keeps
    # the adjusted values in the order of the raw ones.
    order = known[np.argsort(p[known], kind="stable")]
    steps = p[order] * np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return [float(value) for value in adjusted]


def smallest_detectable_difference(error: Error, power: float = 0.8, level: float = 0.05) -> float:
    """Return the true difference that a two-sided test would find with the given power.

    (t_{1 - level/2} + t_{power}) * standard error (Bloom 1995).
    """
    return float((special.stdtrit(error.df, 1 - level / 2) + special.stdtrit(error.df, power)) * error.value)


def shuffled_documents(
    group: Int[np.ndarray, " documents"], constant: bool, generator: np.random.Generator
) -> Int[np.ndarray, " documents"]:
    """Return from which document each one takes its labels when scores know nothing of labels.

    Only what is exchangeable is exchanged (Winkler et al. 2015, "Multi-level block permutation"). Labels that
    are constant within groups belong to groups: each group takes the label of another, of whatever size.
    Otherwise each group takes the labels of one of about its size (1, 2 to 3, 4 to 7, ... documents), in
    random order, repeated where the other has fewer: labels stay as alike within groups as they are, and with
    groups of one size the test is exact. With one document a group both are a plain permutation.

    Args:
        group: of each document, numbered from 0 without gaps.
        constant: whether all documents of a group have the same labels.
        generator: source of randomness.
    """
    sizes = np.bincount(group)
    starts = np.cumsum(sizes) - sizes
    # Across all sizes, documents of a large group would take copies of few labels, and the null of labels
    # that differ within groups would be far too wide. `frexp` gives the number of binary digits.
    strata = np.zeros(len(sizes), np.int64) if constant else np.frexp(sizes)[1]
    donor = np.empty(len(sizes), np.int64)
    for stratum in np.unique(strata):
        members = np.flatnonzero(strata == stratum)
        donor[members] = generator.permutation(members)
    receivers = np.argsort(group, kind="stable")
    place = np.arange(len(group)) - starts[group[receivers]]
    from_group = donor[group[receivers]]
    shuffled = np.lexsort((generator.random(len(group)), group))
    taken = np.empty(len(group), np.int64)
    taken[receivers] = shuffled[starts[from_group] + place % sizes[from_group]]
    return taken
