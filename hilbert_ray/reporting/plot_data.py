"""The numbers behind the figures: curves, confusion counts, maps and choices, from saved predictions.

Scores with intervals are in metrics.json already; here is only what a picture needs beside them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from hilbert_ray.metrics import Predictions, Problem, problems, reliability

GRID = np.linspace(0, 1, 101)


@dataclass(frozen=True, kw_only=True, slots=True)
class Curve:
    """A curve over `GRID`, a mean over repeats."""

    name: str
    values: Float[np.ndarray, " grid"]


def _by_repeat(predictions: Predictions, problem: Problem) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return score and truth in each repeat that has both a positive and a negative."""
    repeat = predictions.repeat[problem.rows]
    parts = [(problem.score[repeat == r], problem.positive[repeat == r]) for r in np.unique(repeat)]
    return [(score, positive) for score, positive in parts if 0 < positive.sum() < len(positive)]


def _counts(score: np.ndarray, positive: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return true and false positives at each threshold, from the strictest on."""
    order = np.argsort(-score, kind="stable")
    last = np.flatnonzero(np.append(np.diff(score[order]) != 0, True))
    return np.cumsum(positive[order])[last], np.cumsum(~positive[order])[last]


def roc_curves(predictions: Predictions) -> list[Curve]:
    """Return for each problem the true positive rate at each false positive rate of `GRID`."""
    curves = []
    for problem in problems(predictions):
        parts = []
        for score, positive in _by_repeat(predictions, problem):
            true, false = _counts(score, positive)
            rates = [np.append(0, count) / count[-1] for count in (false, true)]
            parts.append(np.interp(GRID, *rates))
        if parts:
            curves.append(Curve(name=problem.name, values=np.mean(parts, 0)))
    return curves


def precision_curves(predictions: Predictions) -> list[Curve]:
    """Return for each problem the precision at the first threshold that reaches each recall of `GRID`.

    At recall 0 stands the precision at the first positive.
    """
    curves = []
    for problem in problems(predictions):
        parts = []
        for score, positive in _by_repeat(predictions, problem):
            true, false = _counts(score, positive)
            at = np.searchsorted(true / true[-1], np.maximum(GRID, 1e-9) - 1e-12)
            parts.append((true / (true + false))[at])
        if parts:
            curves.append(Curve(name=problem.name, values=np.mean(parts, 0)))
    return curves


def confusion_counts(
    targets: Int[np.ndarray, " rows"], decisions: Int[np.ndarray, " rows"], classes: int
) -> Int[np.ndarray, "true decided"]:
    """Return how often each (true, decided) pair occurs, over all repeats; unlabelled rows are left out."""
    counts = np.zeros((classes, classes), np.int64)
    known = targets >= 0
    np.add.at(counts, (targets[known].astype(np.int64), decisions[known].astype(np.int64)), 1)
    return counts


def pooled_reliability(predictions: Predictions) -> Mapping[str, list[float]]:
    """Return the reliability of all one-vs-rest probabilities together."""
    asked = problems(predictions)
    score = np.concatenate([problem.score for problem in asked]).astype(np.float64)
    return reliability(score, np.concatenate([problem.positive for problem in asked]))


@dataclass(frozen=True, kw_only=True, slots=True)
class Judged:
    """How well each document of one repeat was predicted.

    rows: of the predictions, labelled ones of the repeat. right: whether the decision was true. truth: how
    much the prediction favoured the truth (probability; for numbers minus the absolute error). sure:
    probability of what was decided (for numbers minus the absolute error).
    """

    rows: Int[np.ndarray, " rows"]
    right: np.ndarray
    truth: Float[np.ndarray, " rows"]
    sure: Float[np.ndarray, " rows"]


def judge(predictions: Predictions, repeat: int = 0) -> Judged:
    """Return how well the documents of one repeat were predicted."""
    rows = np.flatnonzero(predictions.labelled & (predictions.repeat == repeat))
    part = predictions[rows]
    p, y, d = part.probabilities.astype(np.float64), part.targets, part.decisions
    if d is None:
        error = -np.abs(p - y)
        return Judged(
            rows=rows, right=error >= np.median(error) if len(error) else error, truth=error, sure=error
        )
    if predictions.kind == "multilabel":
        known = np.isfinite(y)
        of_truth, of_decision = (np.where(side > 0.5, p, 1 - p) for side in (np.nan_to_num(y), d))
        means = [np.nanmean(np.where(known, x, np.nan), 1) for x in (of_truth, of_decision)]
        return Judged(rows=rows, right=((d == y) | ~known).all(1), truth=means[0], sure=means[1])
    at = np.arange(len(rows))
    return Judged(rows=rows, right=d == y, truth=p[at, y.astype(int)], sure=p[at, d.astype(int)])


def choose_documents(judged: Judged) -> list[tuple[str, int]]:
    """Return (why, row) of the documents whose timelines are shown: surest right, surest wrong, middle."""
    found = []
    right, wrong = np.flatnonzero(judged.right), np.flatnonzero(~judged.right.astype(bool))
    if len(right):
        found.append(("right", int(right[judged.sure[right].argmax()])))
    if len(wrong):
        is_number = judged.sure is judged.truth
        surest = judged.sure[wrong].argmin() if is_number else judged.sure[wrong].argmax()
        found.append(("wrong", int(wrong[surest])))
    taken = {at for _, at in found}
    middle = [int(at) for at in np.argsort(judged.truth, kind="stable") if int(at) not in taken]
    if middle:
        found.append(("middle", middle[len(middle) // 2]))
    return [(why, int(judged.rows[at])) for why, at in found]


def principal_plane(x: Float[np.ndarray, "rows dim"]) -> tuple[Float[np.ndarray, "rows 2"], float]:
    """Return rows on their two first principal axes, and the share of the variance that these hold.

    The sign of an axis is free; here its largest loading is positive, so that the same rows give the same
    map.
    """
    centred = x.astype(np.float64) - x.mean(0)
    _, spread, axes = np.linalg.svd(centred, full_matrices=False)
    axes = axes[:2]
    axes = axes * np.sign(axes[np.arange(len(axes)), np.abs(axes).argmax(1)])[:, None]
    flat = np.zeros((len(x), 2))
    flat[:, : len(axes)] = centred @ axes.T
    total = float((spread**2).sum())
    return flat, float((spread[:2] ** 2).sum() / total) if total else 0.0


def by_epoch(records: Sequence[Mapping[str, Any]], name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the epochs that have a value called `name`, and its mean over jobs in each."""
    found: dict[int, list[float]] = {}
    for record in records:
        value = record.get(name)
        if value is not None and np.isfinite(value):
            found.setdefault(int(record["epoch"]), []).append(float(value))
    epochs = sorted(found)
    return np.array(epochs, np.int64), np.array([float(np.mean(found[epoch])) for epoch in epochs])
