"""Baselines on one fold: linear models on mean and standard deviation, and late fusion of two networks.

Each takes (features, config, train, test) and returns probabilities and decisions by task for the test
documents, as in `TaskPredictions`; `variants.BASELINES` lists them. scikit-learn takes seconds to load, so
workers load this module only when they run a baseline.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import GridSearchCV, GroupKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from hilbert_ray import losses
from hilbert_ray.cluster import given_device
from hilbert_ray.config import MODALITIES, Config, TaskConfig
from hilbert_ray.features import Features
from hilbert_ray.training import HeldOut, fit, fit_weights

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

    Logistic regression on standardised statistics: its strength, whether it reads both modalities or one
    alone, and which layer of each, are chosen on inner group folds by log loss, for each task (and label) on
    its own. The class
    decision is corrected by the prior, as the network's is. One model per label for multilabel; ridge
    regression, chosen by squared error, for numbers.
    """
    inputs = _inputs(features)
    probabilities, decisions = {}, {}
    for name, task in config.tasks.items():
        y = features.targets[name]
        if task.kind == "regression":
            known = train[np.isfinite(y[train])]
            model, x = _choose(
                inputs, y[known].astype(np.float64), known, features.groups, Ridge(RIDGE_STRENGTHS[5]),
                {"ridge__alpha": RIDGE_STRENGTHS}, "neg_mean_squared_error",
            )  # fmt: skip
            probabilities[name] = decisions[name] = model.predict(x[test]).astype(np.float32)
            continue
        is_multilabel = task.kind == "multilabel"
        width = 2 if is_multilabel else len(task.classes)
        by_column, decided = [], []
        for column in y.T if is_multilabel else y[None]:
            # Unlabelled documents are -1 or NaN, and neither is at least 0.
            known = train[column[train] >= 0]
            counts = np.bincount(column[known].astype(np.int64), minlength=width)
            p = _logistic(inputs, column, features.groups, known, test, width)
            by_column.append(p)
            # Dividing by the prior decides as if classes were equally frequent, as logit adjustment does.
            # A class that training lacks has p = 0, and 0 / 0 would be NaN: its count is at least 0.5.
            decided.append((p / np.maximum(counts, 0.5)).argmax(1))
        probabilities[name] = np.stack([p[:, 1] for p in by_column], 1) if is_multilabel else by_column[0]
        decisions[name] = np.stack(decided, 1) if is_multilabel else decided[0]
    return probabilities, decisions


def _inputs(features: Features) -> list[list[np.ndarray]]:
    """Return what a linear model may read of each modality: the statistics of each layer, the last one first.

    The first is used where nothing can be chosen.
    """
    return [
        [ragged.wide_by_layer[:, layer] for layer in reversed(range(ragged.layers))]
        for ragged in features.by_modality.values()
    ]


def _logistic(
    inputs: Sequence[Sequence[np.ndarray]],
    y: np.ndarray,
    groups: np.ndarray,
    train: np.ndarray,
    test: np.ndarray,
    width: int,
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
    estimator = LogisticRegression(C=INVERSE_STRENGTHS[2], max_iter=1000)
    candidates = {"logisticregression__C": INVERSE_STRENGTHS}
    model, x = _choose(inputs, truth, train, groups, estimator, candidates, _mean_log_probability)
    # By class index: training documents may lack some of the task's classes.
    probabilities[:, model.classes_] = model.predict_proba(x[test])
    return probabilities


def _choose(
    inputs: Sequence[Sequence[np.ndarray]],
    y: np.ndarray,
    train: np.ndarray,
    groups: np.ndarray,
    estimator: Any,  # noqa: ANN401 - a scikit-learn model
    candidates: Mapping[str, np.ndarray],
    scoring: Any,  # noqa: ANN401 - a name or function of scikit-learn
) -> tuple[Any, np.ndarray]:
    """Return the model with the best score on inner group folds, fitted on `train`, and what it reads.

    Args:
        inputs: what it may read of each modality, each [documents, width]; one of them is chosen.
        y: targets of the documents at `train`.
        train: documents to fit on, all of them labelled.
        groups: of all documents.
        estimator: the model, with the strength to use where no inner fold can choose.
        candidates: strengths by the name of the pipeline's parameter.
        scoring: greater is better.
    """
    model = make_pipeline(StandardScaler(), estimator)
    inner_splits = _inner_splits(y, groups[train])
    single = [_choose_layer(layers, y, train, model, scoring, inner_splits) for layers in inputs]
    readable = single if len(single) == 1 else [np.concatenate(single, 1), *single]
    if not inner_splits:
        return model.fit(readable[0][train], y), readable[0]
    searches = [
        GridSearchCV(clone(model), candidates, scoring=scoring, cv=inner_splits).fit(x[train], y)
        for x in readable
    ]
    # Both modalities, unless one alone is better by more than chance over the inner folds: with few documents
    # the best of three would often be the luckiest, and this is the model to beat.
    chosen = 0
    for i in range(1, len(readable)):
        gain = _scores_of_best(searches[i]) - _scores_of_best(searches[0])
        error = gain.std(ddof=1) / np.sqrt(len(gain)) if len(gain) > 1 else np.inf
        if gain.mean() > error and searches[i].best_score_ > searches[chosen].best_score_:
            chosen = i
    return searches[chosen].best_estimator_, readable[chosen]


def _choose_layer(
    layers: Sequence[np.ndarray],
    y: np.ndarray,
    train: np.ndarray,
    model: Any,  # noqa: ANN401 - a scikit-learn pipeline
    scoring: Any,  # noqa: ANN401 - a name or function of scikit-learn
    inner_splits: Sequence[tuple[np.ndarray, np.ndarray]],
) -> np.ndarray:
    """Return the layer with the best mean score on inner folds at the middle strength, the first of equals.

    Not at each strength: large encoders have dozens of layers.
    """
    if len(layers) == 1 or not inner_splits:
        return layers[0]
    scores = [
        cross_val_score(clone(model), x[train], y, scoring=scoring, cv=inner_splits).mean() for x in layers
    ]
    return layers[int(np.argmax(scores))]


def _scores_of_best(search: GridSearchCV) -> np.ndarray:
    """Return the scores of the best strength on each inner fold."""
    results = search.cv_results_
    return np.array([results[f"split{k}_test_score"][search.best_index_] for k in range(search.n_splits_)])


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
    """Return an audio-only and a text-only network, stacked as the heads of HILBERT are.

    Weights of the two and a temperature are fitted on their inner out-of-fold evidence; a document that lacks
    a modality has the other one's prediction.
    """
    evidence: list[Mapping[str, np.ndarray]] = []
    held_out: list[Mapping[str, HeldOut]] = []
    present: list[np.ndarray] = []
    labels: Mapping[str, torch.Tensor] = {}
    for modality in MODALITIES:
        seen = features.only(modality)
        fitted = fit(config, seen, train, device=given_device())
        model = fitted.model()
        evidence.append(model.predict(seen.take(test)).evidence)
        held_out.append(fitted.held_out)
        present.append(seen.by_modality[modality].lengths[test] > 0)
        labels = {task: statistics.cpu() for task, statistics in model.labels.items()}
    probabilities, decisions = {}, {}
    for name, task in config.tasks.items():
        members = np.stack([by_task[name] for by_task in evidence])  # [2, documents, K]
        weights, offsets = _stack(task, [by_task.get(name) for by_task in held_out])
        both = (weights[:, None, None] * members).sum(0) + offsets
        # Documents of one modality: its own evidence, already at its own temperature.
        alone = np.where(present[0][:, None], members[0], members[1])
        fused = torch.from_numpy(np.where((present[0] & present[1])[:, None], both, alone)).float()
        probabilities[name] = losses.probabilities(task, fused, labels[name]).numpy()
        decisions[name] = losses.decide(task, fused, labels[name]).numpy()
    return probabilities, decisions


def _stack(task: TaskConfig, held_out: Sequence[HeldOut | None]) -> tuple[np.ndarray, np.ndarray]:
    """Return the weights of the two networks' evidence, float64 [2], and offsets, float64 [K] or [1].

    Halves and 0 where nothing can be fitted.
    """
    audio, text = held_out
    halves = np.full(2, 0.5), np.zeros(1)
    if audio is None or text is None:
        return halves
    # Documents that both networks were tried on, in the same order.
    _, in_audio, in_text = np.intersect1d(audio.documents, text.documents, return_indices=True)
    members = torch.cat([audio.members[in_audio], text.members[in_text]], dim=1)
    joined = HeldOut(
        documents=audio.documents[in_audio], members=members, rest=audio.rest[in_audio],
        prior=audio.prior[in_audio], targets=audio.targets[in_audio],
    )  # fmt: skip
    weights = fit_weights(task, joined, (True, True, False))
    if not weights.labels:
        return halves
    return np.array(weights.values()[:2]) / weights.temperature, np.array(weights.offsets or (0.0,))
