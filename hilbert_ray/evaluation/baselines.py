"""Baselines on one fold: linear models on mean and standard deviation, and late fusion of two networks.

Each takes (features, config, train, test) and returns probabilities and decisions by task for the test
documents; `variants.BASELINES` lists them. scikit-learn takes seconds to load, so workers load this module
only when they run a baseline.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.model_selection import GridSearchCV, GroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from hilbert_ray import losses
from hilbert_ray.config import MODALITIES, Config
from hilbert_ray.features import Features
from hilbert_ray.model import Prediction
from hilbert_ray.training import fit

STRENGTHS = np.logspace(-4, 0, 5)  # from which logistic regression takes its C


def logistic(
    features: Features, config: Config, train: np.ndarray, test: np.ndarray
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Return probabilities and decisions of the baseline to beat: mean and std, linear model.

    Logistic regression on standardised statistics, its strength chosen on inner group folds by log loss; the
    class decision is corrected by the prior, as that of the network is. Ridge regression for numbers; one
    model a label for multilabel.
    """
    parts = [part.wide for part in (features.audio, features.text) if part is not None]
    x = np.concatenate(parts, 1)
    probabilities, decisions = {}, {}
    for name, task in config.tasks.items():
        y = features.targets[name]
        if task.kind == "regression":
            known = train[np.isfinite(y[train])]
            model = make_pipeline(StandardScaler(), RidgeCV(np.logspace(0, 5, 11))).fit(x[known], y[known])
            probabilities[name] = decisions[name] = model.predict(x[test]).astype(np.float32)
            continue
        width = 2 if task.kind == "multilabel" else len(task.classes)
        columns = y.T if task.kind == "multilabel" else y[None]
        found, decided = [], []
        for column in columns:
            known = train[column[train] >= 0]
            counts = np.bincount(column[known].astype(np.int64), minlength=width)
            p = _logistic(x, column, features.groups, known, test, width)
            found.append(p)
            decided.append((p / np.maximum(counts, 0.5)).argmax(1))
        is_multilabel = task.kind == "multilabel"
        probabilities[name] = np.stack([p[:, 1] for p in found], 1) if is_multilabel else found[0]
        decisions[name] = np.stack(decided, 1) if is_multilabel else decided[0]
    return probabilities, decisions


def _logistic(
    x: np.ndarray, y: np.ndarray, groups: np.ndarray, train: np.ndarray, test: np.ndarray, width: int
) -> np.ndarray:
    """Return class probabilities float32 [test, width]; classes that training lacks get 0."""
    found = np.zeros((len(test), width), np.float32)
    truth = y[train].astype(np.int64)
    classes = np.unique(truth)
    if len(classes) < 2:
        found[:, classes] = 1.0
        return found
    model = make_pipeline(StandardScaler(), LogisticRegression(C=STRENGTHS[2], max_iter=1000))
    folds = _inner_splits(truth, groups[train])
    if folds:
        strengths = {"logisticregression__C": STRENGTHS}
        search = GridSearchCV(model, strengths, scoring=_mean_log_probability, cv=folds)
        model = search.fit(x[train], truth).best_estimator_
    else:
        model.fit(x[train], truth)
    found[:, model.classes_] = model.predict_proba(x[test])
    return found


def _inner_splits(truth: np.ndarray, groups: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return up to 3 group folds; those whose training part has one class only can teach nothing."""
    count = min(3, len(np.unique(groups)))
    splits = GroupKFold(count).split(truth, groups=groups) if count > 1 else ()
    return [(train, test) for train, test in splits if len(np.unique(truth[train])) > 1]


def _mean_log_probability(model: Any, x: np.ndarray, y: np.ndarray) -> float:  # noqa: ANN401 - a scikit-learn model
    """Return the mean log probability of the truth; a class that the model never saw has 1e-6."""
    p = model.predict_proba(x)
    column = np.searchsorted(model.classes_, y)
    known = np.isin(y, model.classes_)
    truth = np.where(known, p[np.arange(len(y)), np.where(known, column, 0)], 0)
    return float(np.log(np.maximum(truth, 1e-6)).mean())


def late_fusion(
    features: Features, config: Config, train: np.ndarray, test: np.ndarray
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Return the mean of an audio-only and a text-only network, of whichever a document has."""
    outputs: list[tuple[Prediction, np.ndarray]] = []
    labels: Mapping[str, torch.Tensor] = {}
    for modality in MODALITIES:
        seen = features.only(modality)
        model = fit(config, seen, train).model()
        part = getattr(seen, modality)
        outputs.append((model.predict(seen.take(test)), part.lengths[test] > 0))
        labels = model.labels
    probabilities, decisions = {}, {}
    for name, task in config.tasks.items():

        def mean(values: Sequence[np.ndarray]) -> np.ndarray:
            weights = [present.reshape(-1, *[1] * (values[0].ndim - 1)) for _, present in outputs]
            return np.asarray(sum(w * v for w, v in zip(weights, values, strict=True)) / sum(weights))

        probabilities[name] = mean([prediction.probabilities[name] for prediction, _ in outputs])
        logits = torch.from_numpy(mean([prediction.logits[name] for prediction, _ in outputs]))
        decisions[name] = losses.decide(task, logits, labels[name]).numpy()
    return probabilities, decisions
