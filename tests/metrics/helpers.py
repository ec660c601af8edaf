"""Predictions with known signal, and slow but obvious counterparts of the metrics."""

import itertools
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from scipy import special

from hilbert_ray.config import TaskKind
from hilbert_ray.metrics.partition import Partition
from hilbert_ray.metrics.predictions import Predictions

GOLDEN = json.loads((Path(__file__).parent.parent / "golden_metrics.json").read_text())
KINDS: tuple[TaskKind, ...] = ("binary", "multiclass", "ordinal", "multilabel", "regression")


def make_predictions(
    kind: TaskKind = "multiclass",
    documents: int = 60,
    groups: int = 20,
    repeats: int = 2,
    classes: int = 3,
    signal: float = 1.0,
    seed: int = 0,
) -> Predictions:
    """Return predictions that know something of the labels; networks of folds differ by an offset."""
    rng = np.random.default_rng(seed)
    width = 2 if kind == "binary" else classes
    share = 0.5 ** np.arange(width)
    group = rng.integers(0, groups, documents)
    y = rng.choice(width, documents, p=share / share.sum())
    document, repeat = np.tile(np.arange(documents), repeats), np.repeat(np.arange(repeats), documents)
    fold = np.concatenate([(rng.permutation(groups) % 5)[group] for _ in range(repeats)])
    truth = y[document]
    logits = signal * np.eye(width)[truth] + rng.normal(size=(len(truth), width)) + 0.3 * fold[:, None]
    p, names = special.softmax(logits, 1), tuple("abcdef"[:width])
    targets: np.ndarray = truth
    decisions: np.ndarray | None = p.argmax(1)
    if kind == "multilabel":
        targets = (rng.random((documents, width)) < 0.4).astype(np.float64)[document]
        p = special.expit(2 * signal * (targets - 0.5) + rng.normal(size=targets.shape))
        decisions = (p > 0.5).astype(np.int64)
        hidden = (rng.random((documents, width)) < 0.1)[document]
        targets = np.where(hidden, np.nan, targets)
    elif kind == "regression":
        targets = rng.normal(50, 10, documents).round()[document]
        p, decisions, names = targets + rng.normal(0, 5 / max(signal, 1e-9), len(targets)), None, ()
    return Predictions(
        kind=kind,
        classes=names,
        probabilities=p,
        decisions=decisions,
        targets=targets,
        fold=fold,
        repeat=repeat,
        group=group[document],
        document=document,
    )


def single_set(count: int) -> Partition:
    return Partition(index=np.zeros(count, np.int64), count=1)


def of_all(score: Callable[..., np.ndarray], *values: np.ndarray, weights: np.ndarray | None = None) -> float:
    """Return a metric of one set under one set of weights."""
    weight = np.ones(len(values[0])) if weights is None else weights
    return float(score(*values, single_set(len(weight)), weight[:, None])[0, 0])


def rows_by(predictions: Predictions, by: str) -> list[np.ndarray]:
    """Return the rows of each test set (`fold`) or each repeat (`repeat`)."""
    keys = [predictions.repeat] + ([predictions.fold] if by == "fold" else [])
    return [
        rows
        for values in itertools.product(*(np.unique(key) for key in keys))
        if len(rows := np.flatnonzero(np.all([k == v for k, v in zip(keys, values, strict=True)], 0)))
    ]


def brute_pairs(score: np.ndarray, positive: np.ndarray) -> tuple[float, int]:
    """Count concordant and all pairs of a positive with a negative, one by one."""
    concordant, pairs = 0.0, 0
    for i in np.flatnonzero(positive):
        for j in np.flatnonzero(~positive):
            pairs += 1
            concordant += 1.0 if score[i] > score[j] else 0.5 if score[i] == score[j] else 0.0
    return concordant, pairs
