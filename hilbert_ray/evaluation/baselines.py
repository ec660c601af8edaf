"""Baselines on one fold: linear models on mean and standard deviation, and late fusion of two networks.

Each takes (features, config, train, test) and returns probabilities and decisions by task for the test
documents, as in `TaskPredictions`; `variants.BASELINES` lists them. scikit-learn takes seconds to load, so
workers load this module only when they run a baseline.
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

INVERSE_STRENGTHS = np.logspace(-4, 0, 5)
"""Candidates for logistic regression's C: more features than documents need strong regularisation."""
RIDGE_STRENGTHS = np.logspace(0, 5, 11)
"""Candidates for ridge regression's alpha, for the same reason large."""
LEAST_PROBABILITY = 1e-6
"""Of the truth, where inner training data lacked its class: one such document must not decide on its own."""


def logistic(
    features: Features, config: Config, train: np.ndarray, test: np.ndarray
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Return probabilities and decisions of the baseline to beat: a linear model on mean and std of segments.

    Logistic regression on standardised statistics, its strength chosen on inner group folds by log loss; the
    class decision is corrected by the prior, as the network's is. One model per label for multilabel; ridge
    regression for numbers.
    """
    x = np.concatenate([ragged.wide for ragged in features.by_modality.values()], 1)
    probabilities, decisions = {}, {}
    for name, task in config.tasks.items():
        y = features.targets[name]
        if task.kind == "regression":
            # RidgeCV chooses its strength by leave-one-out in closed form: no inner folds are fitted.
            known = train[np.isfinite(y[train])]
            model = make_pipeline(StandardScaler(), RidgeCV(RIDGE_STRENGTHS)).fit(x[known], y[known])
            probabilities[name] = decisions[name] = model.predict(x[test]).astype(np.float32)
            continue
        is_multilabel = task.kind == "multilabel"
        width = 2 if is_multilabel else len(task.classes)
        by_column, decided = [], []
        for column in y.T if is_multilabel else y[None]:
            # Unlabelled documents are -1 or NaN, and neither is at least 0.
            known = train[column[train] >= 0]
            counts = np.bincount(column[known].astype(np.int64), minlength=width)
            p = _logistic(x, column, features.groups, known, test, width)
            by_column.append(p)
            # Dividing by the prior decides as if classes were equally frequent, as logit adjustment does.
            # A class that training lacks has p = 0, and 0 / 0 would be NaN: its count is at least 0.5.
            decided.append((p / np.maximum(counts, 0.5)).argmax(1))
        probabilities[name] = np.stack([p[:, 1] for p in by_column], 1) if is_multilabel else by_column[0]
        decisions[name] = np.stack(decided, 1) if is_multilabel else decided[0]
    return probabilities, decisions


def _logistic(
    x: np.ndarray, y: np.ndarray, groups: np.ndarray, train: np.ndarray, test: np.ndarray, width: int
) -> np.ndarray:
    """Return class probabilities float32 [test, width]; classes that training lacks get 0."""
    probabilities = np.zeros((len(test), width), np.float32)
    truth = y[train].astype(np.int64)
    classes = np.unique(truth)
    if len(classes) < 2:
        # scikit-learn refuses a single class; predicting it is all there is to learn.
        probabilities[:, classes] = 1.0
        return probabilities
    # The middle strength is for folds too small to choose one.
    model = make_pipeline(StandardScaler(), LogisticRegression(C=INVERSE_STRENGTHS[2], max_iter=1000))
    inner_splits = _inner_splits(truth, groups[train])
    if inner_splits:
        candidates = {"logisticregression__C": INVERSE_STRENGTHS}
        search = GridSearchCV(model, candidates, scoring=_mean_log_probability, cv=inner_splits)
        model = search.fit(x[train], truth).best_estimator_
    else:
        model.fit(x[train], truth)
    # By class index: training documents may lack some of the task's classes.
    probabilities[:, model.classes_] = model.predict_proba(x[test])
    return probabilities


def _inner_splits(truth: np.ndarray, groups: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return up to 3 group folds, without those whose training documents have one class only."""
    # Three are enough to choose among five strengths.
    count = min(3, len(np.unique(groups)))
    splits = GroupKFold(count).split(truth, groups=groups) if count > 1 else ()
    return [(train, test) for train, test in splits if len(np.unique(truth[train])) > 1]


def _mean_log_probability(model: Any, x: np.ndarray, y: np.ndarray) -> float:  # noqa: ANN401 - a scikit-learn model
    """Return the mean log probability of the truth; that of a class the model never saw is the least."""
    p = model.predict_proba(x)
    column = np.searchsorted(model.classes_, y)
    known = np.isin(y, model.classes_)
    truth = np.where(known, p[np.arange(len(y)), np.where(known, column, 0)], 0)
    return float(np.log(np.maximum(truth, LEAST_PROBABILITY)).mean())


def late_fusion(
    features: Features, config: Config, train: np.ndarray, test: np.ndarray
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Return the mean of an audio-only and a text-only network, over the modalities that a document has."""
    # Predictions of all test documents, and which of them have the modality.
    outputs: list[tuple[Prediction, np.ndarray]] = []
    labels: Mapping[str, torch.Tensor] = {}
    for modality in MODALITIES:
        seen = features.only(modality)
        model = fit(config, seen, train).model()
        outputs.append((model.predict(seen.take(test)), seen.by_modality[modality].lengths[test] > 0))
        labels = model.labels
    probabilities, decisions = {}, {}
    for name, task in config.tasks.items():

        def mean(values: Sequence[np.ndarray]) -> np.ndarray:
            # Presence [documents] as a weight over whatever axes follow; a document has one modality or both.
            weights = [present.reshape(-1, *[1] * (values[0].ndim - 1)) for _, present in outputs]
            return np.asarray(sum(w * v for w, v in zip(weights, values, strict=True)) / sum(weights))

        # Probabilities are averaged for scores, logits for decisions, which do not use the prior (`decide`).
        probabilities[name] = mean([prediction.probabilities[name] for prediction, _ in outputs])
        logits = torch.from_numpy(mean([prediction.logits[name] for prediction, _ in outputs]))
        decisions[name] = losses.decide(task, logits, labels[name]).numpy()
    return probabilities, decisions
