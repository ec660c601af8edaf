"""Metrics of decisions, all made from confusion counts: recall, F1, Matthews correlation, quadratic kappa.

Counts carry a last axis of bootstrap draws. A class absent from a test set has no recall and no F1 there
(NaN), so that means over folds leave it out instead of counting it as 0.
"""

import numpy as np
from jaxtyping import Float, Int

from hilbert_ray.metrics.partition import Partition, ratio

Confusion = Float[np.ndarray, "sets true decided draws"]


def confusion(
    targets: Int[np.ndarray, " rows"],
    decisions: Int[np.ndarray, " rows"],
    classes: int,
    partition: Partition,
    weights: Float[np.ndarray, "rows draws"],
) -> Confusion:
    """Return the weight of each (true class, decided class) in each set."""
    counts = partition.counts(targets * classes + decisions, classes * classes, weights)
    return counts.reshape(partition.count, classes, classes, -1)


def recall(counts: Confusion) -> Float[np.ndarray, "classes sets draws"]:
    """Return the recall of each class; its mean over classes is the balanced accuracy."""
    return np.swapaxes(ratio(_diagonal(counts), counts.sum(2)), 0, 1)


def f1(counts: Confusion) -> Float[np.ndarray, "classes sets draws"]:
    """Return F1 of each class, 2 TP / (2 TP + FP + FN); NaN where the class is absent."""
    # Where a class is absent but decided, F1 would be 0 whatever the network does otherwise: undefined, so
    # that rare classes are not punished for folds that do not contain them.
    true, decided = counts.sum(2), counts.sum(1)
    return np.swapaxes(ratio(2 * _diagonal(counts), np.where(true > 0, true + decided, 0.0)), 0, 1)


def matthews(counts: Confusion) -> Float[np.ndarray, "sets draws"]:
    """Return the Matthews correlation of K classes (Gorodkin 2004, eq. 8).

    NaN where only one class is present, 0 where only one is decided.
    """
    true, decided = counts.sum(2), counts.sum(1)
    total = true.sum(1)
    covariance = _diagonal(counts).sum(1) * total - (true * decided).sum(1)
    spread_true = total**2 - (true**2).sum(1)
    spread_decided = total**2 - (decided**2).sum(1)
    # With one decided class the covariance is 0 too: 0 / 1 instead of 0 / 0, no correlation instead of none
    # defined, because a network that always says the same is to be scored, and scored as useless.
    return ratio(covariance, np.sqrt(spread_true * np.where(spread_decided > 0, spread_decided, 1.0)))


def quadratic_kappa(counts: Confusion) -> Float[np.ndarray, "sets draws"]:
    """Return Cohen's kappa with weights (i - j)^2 (Cohen 1968); NaN where no disagreement is expected."""
    classes = counts.shape[1]
    distance = (np.arange(classes)[:, None] - np.arange(classes)) ** 2.0
    true, decided = counts.sum(2), counts.sum(1)
    # Both numbers lack the factor 1/N: `expected` is N^2 times its share, `observed` N times; hence * N
    # below.
    expected = np.einsum("ij,sid,sjd->sd", distance, true, decided)
    observed = np.einsum("ij,sijd->sd", distance, counts)
    return np.asarray(1.0 - ratio(observed * true.sum(1), expected))


def _diagonal(counts: Confusion) -> Float[np.ndarray, "sets classes draws"]:
    return np.moveaxis(np.diagonal(counts, axis1=1, axis2=2), -1, 1)
