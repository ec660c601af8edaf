"""The numbers behind the figures: curves, confusion counts, maps and choices, from stored predictions.

Scores with intervals are in metrics.json already; here is only what the pictures need in addition.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from scipy.stats import t as student_t

from hilbert_ray.metrics import Predictions, Problem, problems, reliability, reliability_bins

# Steps of 0.01 are 4 units of a drawing's 400: finer ones would not be seen.
GRID = np.linspace(0, 1, 101)
"""Where curves are evaluated, so that those of several repeats can be averaged."""
LEAST_DOCUMENTS = 5
"""Of a bin of probabilities: with fewer, its share of positives is close to anything."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassCurve:
    """A curve over `GRID` of one class, label or cut-point, averaged over repeats."""

    name: str
    values: Float[np.ndarray, " grid"]


def _by_repeat(predictions: Predictions, problem: Problem) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return score and truth in each repeat that has both a positive and a negative."""
    repeat = predictions.repeat[problem.rows]
    by_repeat = [(problem.score[repeat == r], problem.positive[repeat == r]) for r in np.unique(repeat)]
    # With one class only a rate divides by 0: the mean is over the other repeats.
    return [(score, positive) for score, positive in by_repeat if 0 < positive.sum() < len(positive)]


def _counts(score: np.ndarray, positive: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the numbers of true and of false positives at each threshold, the strictest first."""
    order = np.argsort(-score, kind="stable")
    # Equal scores pass a threshold together: only the last of each run is a point of the curve.
    last = np.flatnonzero(np.append(np.diff(score[order]) != 0, True))
    return np.cumsum(positive[order])[last], np.cumsum(~positive[order])[last]


def roc_curves(predictions: Predictions) -> list[ClassCurve]:
    """Return for each problem the true positive rate at each false positive rate of `GRID`."""
    curves = []
    for problem in problems(predictions):
        by_repeat = []
        for score, positive in _by_repeat(predictions, problem):
            true, false = _counts(score, positive)
            # From (0, 0): nothing is positive above the highest score.
            rates = [np.append(0, count) / count[-1] for count in (false, true)]
            # Where a curve rises vertically, x repeats; np.interp takes the last of equal x, which is the top
            # of the step.
            by_repeat.append(np.interp(GRID, *rates))
        if by_repeat:
            curves.append(ClassCurve(name=problem.name, values=np.mean(by_repeat, 0)))
    return curves


def precision_curves(predictions: Predictions) -> list[ClassCurve]:
    """Return for each problem the precision at the first threshold that reaches each recall of `GRID`.

    At recall 0 it is the precision at the first positive. Precision is not interpolated: between two
    thresholds a straight line would be too high (Davis and Goadrich 2006).
    """
    curves = []
    for problem in problems(predictions):
        by_repeat = []
        for score, positive in _by_repeat(predictions, problem):
            true, false = _counts(score, positive)
            # The small numbers keep recall 0 at the first positive, and rounding from skipping a threshold.
            at = np.searchsorted(true / true[-1], np.maximum(GRID, 1e-9) - 1e-12)
            by_repeat.append((true / (true + false))[at])
        if by_repeat:
            curves.append(ClassCurve(name=problem.name, values=np.mean(by_repeat, 0)))
    return curves


def confusion_counts(
    targets: Int[np.ndarray, " rows"], decisions: Int[np.ndarray, " rows"], classes: int
) -> Int[np.ndarray, "true decided"]:
    """Return how often each (true, decided) pair occurs, over all repeats; unlabelled rows are left out."""
    counts = np.zeros((classes, classes), np.int64)
    known = targets >= 0
    # `counts[i, j] += 1` would count a pair once, however often it occurs.
    np.add.at(counts, (targets[known].astype(np.int64), decisions[known].astype(np.int64)), 1)
    return counts


@dataclass(frozen=True, kw_only=True, slots=True)
class CalibrationBins:
    """Ten bins of predicted probability, those with rows: the share that is positive, and how sure that is.

    predicted: mean probability. observed: share of positives, with its 95 % interval from low to high; NaN
    where one group has all of a bin. documents, rows: distinct documents, and rows over classes and repeats.
    number: of the bin, from 0.
    """

    predicted: Float[np.ndarray, " bins"]
    observed: Float[np.ndarray, " bins"]
    low: Float[np.ndarray, " bins"]
    high: Float[np.ndarray, " bins"]
    documents: Int[np.ndarray, " bins"]
    rows: Int[np.ndarray, " bins"]
    number: Int[np.ndarray, " bins"]

    @property
    def is_solid(self) -> np.ndarray:
        """Which bins have enough documents to be believed, bool [bins]."""
        return self.documents >= LEAST_DOCUMENTS

    def stretches(self) -> list[np.ndarray]:
        """Return the indices of solid bins in runs of neighbours: a line must not leap over a gap."""
        solid = np.flatnonzero(self.is_solid)
        gaps = np.flatnonzero(np.diff(self.number[solid]) > 1) + 1
        return [run for run in np.split(solid, gaps) if len(run)]


def calibration_bins(predictions: Predictions, problem: Problem | None = None) -> CalibrationBins:
    """Return the calibration of one problem of a task, or of all its one-vs-rest probabilities together.

    The interval is Wilson's (1927) with the effective number of documents in place of the number of rows: the
    variance of the share between groups says how many independent documents a bin is worth, which is at least
    its groups and at most its documents (Korn and Graubard 1998; Dean and Pagano 2015).
    """
    of = [problem] if problem is not None else problems(predictions)
    score = np.concatenate([one.score for one in of]).astype(np.float64)
    positive = np.concatenate([one.positive for one in of])
    rows = np.concatenate([one.rows for one in of])
    bins, cell = reliability(score, positive), reliability_bins(score)
    number = np.unique(cell)
    intervals, documents = [], []
    for k in number:
        at = cell == k
        group, document = predictions.group[rows[at]], predictions.document[rows[at]]
        documents.append(len(np.unique(document)))
        intervals.append(_share_interval(positive[at].astype(np.float64), group, documents[-1]))
    low, high = np.array(intervals).reshape(-1, 2).T
    return CalibrationBins(
        predicted=np.array(bins["predicted"]), observed=np.array(bins["observed"]), low=low, high=high,
        documents=np.array(documents, np.int64), rows=np.array(bins["count"], np.int64), number=number,
    )  # fmt: skip


def _share_interval(positive: np.ndarray, group: np.ndarray, documents: int) -> tuple[float, float]:
    """Return the 95 % interval of the share of positive rows that come in groups; NaN with one group."""
    share, groups = float(positive.mean()), len(np.unique(group))
    if groups < 2:
        return np.nan, np.nan
    residual = np.bincount(np.unique(group, return_inverse=True)[1], positive - share)
    variance = (residual**2).sum() / len(positive) ** 2 * groups / (groups - 1)
    # Without a variance, as where all rows are positive, no more than the groups are independent.
    effective = share * (1 - share) / variance if variance > 1e-12 else groups
    n = min(max(effective, groups), max(documents, groups))
    z2 = float(student_t.ppf(0.975, groups - 1)) ** 2
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = np.sqrt(z2 * (share * (1 - share) / n + z2 / (4 * n**2))) / (1 + z2 / n)
    return max(float(centre - half), 0.0), min(float(centre + half), 1.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class JudgedDocuments:
    """How well each labelled document of one repeat was predicted.

    rows: their rows in the predictions. is_right: whether the decision is the truth (for numbers: an error
    up to the median). of_truth: probability of the truth. of_decision: probability of what was decided. For
    numbers, both are minus the absolute error; for multilabel, means over known labels.
    """

    rows: Int[np.ndarray, " rows"]
    is_right: np.ndarray
    of_truth: Float[np.ndarray, " rows"]
    of_decision: Float[np.ndarray, " rows"]


def judge(predictions: Predictions, repeat: int = 0) -> JudgedDocuments:
    """Return how well the documents of one repeat were predicted."""
    rows = np.flatnonzero(predictions.labelled & (predictions.repeat == repeat))
    labelled = predictions[rows]
    p, y, d = labelled.probabilities.astype(np.float64), labelled.targets, labelled.decisions
    # Numbers have no decision; the median error makes half of them right, so that a right and a wrong one can
    # be shown.
    if d is None:
        closeness = -np.abs(p - y)
        is_right = closeness >= np.median(closeness) if len(closeness) else closeness
        return JudgedDocuments(rows=rows, is_right=is_right, of_truth=closeness, of_decision=closeness)
    if predictions.kind == "multilabel":
        known = np.isfinite(y)
        # p where the label is set, 1 - p where it is not: once for the truth, once for the decision.
        by_label = [np.where(side > 0.5, p, 1 - p) for side in (np.nan_to_num(y), d)]
        of_truth, of_decision = (np.nanmean(np.where(known, x, np.nan), 1) for x in by_label)
        # A label that nobody assigned cannot make the set wrong.
        is_right = ((d == y) | ~known).all(1)
        return JudgedDocuments(rows=rows, is_right=is_right, of_truth=of_truth, of_decision=of_decision)
    at = np.arange(len(rows))
    return JudgedDocuments(
        rows=rows, is_right=d == y, of_truth=p[at, y.astype(int)], of_decision=p[at, d.astype(int)]
    )


def choose_documents(judged: JudgedDocuments) -> list[tuple[str, int]]:
    """Return (why, row) of the documents to show: most confident right and wrong, and the middle one.

    A rule and not a choice by eye, so that nobody picks the documents whose attention looks convincing.
    """
    chosen = []
    right, wrong = np.flatnonzero(judged.is_right), np.flatnonzero(~judged.is_right.astype(bool))
    if len(right):
        chosen.append(("right", int(right[judged.of_decision[right].argmax()])))
    if len(wrong):
        # Numbers have no confidence: their worst prediction is the one with the largest error.
        is_number = judged.of_decision is judged.of_truth
        confidence = judged.of_decision[wrong]
        chosen.append(("wrong", int(wrong[confidence.argmin() if is_number else confidence.argmax()])))
    taken = {at for _, at in chosen}
    # Stable: with equal scores the choice must not depend on the sort, or the same run could give another
    # page.
    others = [int(at) for at in np.argsort(judged.of_truth, kind="stable") if int(at) not in taken]
    if others:
        chosen.append(("middle", others[len(others) // 2]))
    return [(why, int(judged.rows[at])) for why, at in chosen]


def principal_plane(x: Float[np.ndarray, "rows dim"]) -> tuple[Float[np.ndarray, "rows 2"], float]:
    """Return rows on their first two principal axes, and the share of the variance along these.

    The sign of an axis is arbitrary; its largest loading is made positive, so that the same rows give the
    same map.
    """
    centred = x.astype(np.float64) - x.mean(0)
    # SVD of the centred rows: more accurate than eigenvectors of their covariance.
    _, spread, axes = np.linalg.svd(centred, full_matrices=False)
    axes = axes[:2]
    axes = axes * np.sign(axes[np.arange(len(axes)), np.abs(axes).argmax(1)])[:, None]
    # Fewer than two axes where the embeddings have one dimension; the other coordinate is then 0.
    flat = np.zeros((len(x), 2))
    flat[:, : len(axes)] = centred @ axes.T
    variance = float((spread**2).sum())
    return flat, float((spread[:2] ** 2).sum() / variance) if variance else 0.0


def by_epoch(records: Sequence[Mapping[str, Any]], name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the epochs that have a value called `name`, and its mean over networks in each."""
    values: dict[int, list[float]] = {}
    for record in records:
        value = record.get(name)
        # null where an epoch does not define a value, such as information without two complete documents in a
        # batch.
        if value is not None and np.isfinite(value):
            values.setdefault(int(record["epoch"]), []).append(float(value))
    epochs = sorted(values)
    return np.array(epochs, np.int64), np.array([float(np.mean(values[epoch])) for epoch in epochs])
