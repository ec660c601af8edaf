"""Weights of the heads, a temperature and offsets for each task, fitted on inner out-of-fold predictions.

A head that says nothing about a task must cost nothing, and probabilities must be as sure as the model is
right on documents that it has not seen, and as frequent as the classes. All come of one convex fit of the log
loss, with weights not below 0 (stacking: Wolpert 1992, Breiman 1996) that are pulled towards equal ones: with
few labels they stay there. What such a fit gains by chance is then taken back.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor

from hilbert_ray import losses
from hilbert_ray.config import MODALITIES, Config, TaskConfig
from hilbert_ray.features import Features, is_labelled
from hilbert_ray.model import BOTH, HEADS, HeadWeights, Hilbert, Network
from hilbert_ray.training.networks import NetworkJob

EVEN_STRENGTH = 2.0
"""Pull of the weights towards each other, in nats for each unit of squared distance: as much as a handful of
labelled documents say."""
SCALE_STRENGTH = 1.0
"""Pull of their mean towards 1, which is a temperature of 1."""
OFFSET_STRENGTH = 1.0
"""Pull of the offsets towards 0, in nats for each unit of squared distance."""
GREATEST_OFFSET = 5.0
"""Of the offsets: more would be a prior of its own."""
LEAST_MEAN = 0.05
"""Of the weights. Without any signal the best mean is 0: all documents would have the same probabilities, and
their order would be lost."""
GREATEST_MEAN = 5.0
"""Of the weights, where held-out documents are told apart without an error."""


@dataclass(frozen=True, kw_only=True, slots=True)
class HeldOut:
    """Held-out labelled documents of a task, from all inner folds.

    documents: int64 [n], places in the features. members: float64 [n, H, W], what each member adds to the
    logits. rest: float64 [n, K], logits less `losses.learned_prior` less the members: thresholds of an
    ordinal task. prior: float64 [n, K], `losses.log_prior` of the fold's training part. targets: as in
    `Features`.
    """

    documents: np.ndarray
    members: Tensor
    rest: Tensor
    prior: Tensor
    targets: Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class Fusion:
    """What inner folds tell of how heads count.

    heads: by task and by what a document has, see `HeadWeights`. held_out: each task's held-out labelled
    documents, with the evidence of these weights as their only member: what fuses several models is fitted on
    it. Both are empty without inner folds.
    """

    heads: Mapping[str, Mapping[str, HeadWeights]]
    held_out: Mapping[str, HeldOut]


def fit_heads(config: Config, features: Features, inner: Sequence[tuple[NetworkJob, Network]]) -> Fusion:
    """Fit the weights of each task, by what a document has.

    Args:
        config: settings.
        features: of all documents.
        inner: jobs and trained networks of the inner folds.
    """
    folds = [(job.test, Hilbert([network], config, {}, {})) for job, network in inner if job.test is not None]
    heads: dict[str, dict[str, HeadWeights]] = {task: {} for task in config.tasks}
    evidence: dict[str, HeldOut] = {}
    for name, (seen, eligible) in _by_modalities(features).items():
        held_out = _score(config, seen, eligible, folds)
        in_use = [head in ("experts", name) or name == BOTH for head in HEADS]
        if not config.model.unimodal_heads:
            in_use = [True, False, False]
        for task, documents in held_out.items():
            heads[task][name] = fit_weights(config.tasks[task], documents, in_use)
            # The first is what most documents have: both modalities, where both have an encoder.
            evidence.setdefault(task, _weighted(documents, heads[task][name]))
    return Fusion(heads=heads, held_out=evidence)


def _weighted(held_out: HeldOut, weights: HeadWeights) -> HeldOut:
    """Return the documents with their weighted evidence as the only member."""
    change = held_out.members.new_tensor(weights.values())
    evidence = ((held_out.members * change[:, None]).sum(1) + held_out.rest) / weights.temperature
    if weights.offsets:
        evidence = evidence + evidence.new_tensor(weights.offsets)
    return replace(held_out, members=evidence[:, None], rest=torch.zeros_like(evidence))


def _by_modalities(features: Features) -> dict[str, tuple[Features, np.ndarray]]:
    """Return what documents may have, with the features that show it and the documents to fit it on.

    A single modality is fitted on all documents that have it, with the other one hidden: those that truly
    lack one are few.
    """
    has = {m: ragged.lengths > 0 for m, ragged in features.by_modality.items()}
    alone: dict[str, tuple[Features, np.ndarray]] = {m: (features.only(m), has[m]) for m in has}
    if len(has) < len(MODALITIES):
        return alone
    return {BOTH: (features, has["audio"] & has["text"]), **alone}


def _score(
    config: Config, features: Features, eligible: np.ndarray, folds: Sequence[tuple[np.ndarray, Hilbert]]
) -> dict[str, HeldOut]:
    """Return what is held out of each task; tasks without a held-out label are left out."""
    parts: dict[str, list[HeldOut]] = {task: [] for task in config.tasks}
    for test, model in folds:
        logits, scores = model.score_heads(features.take(test))
        for name, task in config.tasks.items():
            targets = torch.from_numpy(features.targets[name][test])
            kept = torch.from_numpy(is_labelled(features.targets[name][test]) & eligible[test])
            statistics = model.labels[name].cpu()
            own = scores[name][kept].double()
            rest = logits[name][kept].double() - own.sum(1) - losses.learned_prior(task, statistics)
            parts[name].append(
                HeldOut(
                    documents=test[kept.numpy()],
                    members=own,
                    rest=rest,
                    prior=losses.log_prior(task, statistics).double().expand_as(rest),
                    targets=_standardised(task, targets[kept], statistics),
                )
            )
    return {name: join(each) for name, each in parts.items() if sum(len(p.documents) for p in each)}


def join(parts: Sequence[HeldOut]) -> HeldOut:
    """Return the held-out documents of several folds as one."""
    return HeldOut(
        documents=np.concatenate([part.documents for part in parts]),
        members=torch.cat([part.members for part in parts]),
        rest=torch.cat([part.rest for part in parts]),
        prior=torch.cat([part.prior for part in parts]),
        targets=torch.cat([part.targets for part in parts]),
    )


def fit_weights(task: TaskConfig, held_out: HeldOut, in_use: Sequence[bool]) -> HeadWeights:
    """Return the weights that give the held-out documents the least log loss, pulled towards equal ones.

    With w the weights over the temperature, w >= 0, m their mean over the H heads in use, and b the offsets,
    the loss is

        sum of log losses of (sum_h w_h member_h + m rest + b + prior)
        + EVEN_STRENGTH / 2 sum_h (w_h - m)^2 + SCALE_STRENGTH / 2 (m - 1)^2 + OFFSET_STRENGTH / 2 |b|^2

    and convex. Then w is multiplied by 1 - p / (2 g), not below 0, and b fitted again: a fit of p numbers
    that gains g nats over w = 0 gains about p / 2 of them by chance, and this factor is what is left (van
    Houwelingen and le Cessie 1990, "Predictive value of statistical models", the heuristic shrinkage factor).

    An ordinal task has one offset for all cuts, which keeps them in order; regression has none, and its log
    loss is that of a normal error with the variance of equal weights. Weights are even where fewer than two
    classes are held out.
    """
    cases = _rarest(task, held_out.targets)
    if cases == 0:
        return HeadWeights()
    columns = np.flatnonzero(in_use)
    members = held_out.members[:, columns]
    heads, offsets = len(columns), _num_offsets(task, held_out)
    variance = 1.0
    if task.kind == "regression":
        error = members.sum(1) + held_out.rest - held_out.targets[:, None]
        variance = max(float(error.square().mean()), 1e-6)

    def log_loss(w: Tensor, b: Tensor) -> Tensor:
        logits = (members * w[:, None]).sum(1) + w.mean() * held_out.rest + held_out.prior
        if offsets:
            logits = logits + b
        return _log_loss(task, logits, held_out.targets) / variance

    def penalised(w: Tensor, b: Tensor) -> Tensor:
        mean = w.mean()
        pulls = EVEN_STRENGTH * (w - mean).square().sum() + SCALE_STRENGTH * (mean - 1).square()
        return log_loss(w, b) + (pulls + OFFSET_STRENGTH * b.square().sum()) / 2

    bounds = [(0.0, GREATEST_MEAN)] * heads + [(-GREATEST_OFFSET, GREATEST_OFFSET)] * offsets
    start = np.concatenate([np.ones(heads), np.zeros(offsets)])
    best = torch.from_numpy(_minimum(lambda t: penalised(t[:heads], t[heads:]), start, bounds))
    w, b = best[:heads], best[heads:]
    gain = float(log_loss(torch.zeros_like(w), b) - log_loss(w, b))
    mean = float(w.mean())
    shares = w / mean if mean > 0 else torch.ones_like(w)
    mean = max(mean * (1 - len(best) / (2 * gain)) if gain > 0 else 0.0, LEAST_MEAN)
    if offsets:
        b = torch.from_numpy(_minimum(lambda t: penalised(shares * mean, t), b.numpy(), bounds[heads:]))
    weights = dict.fromkeys(HEADS, 0.0) | {HEADS[c]: float(v) for c, v in zip(columns, shares, strict=True)}
    return HeadWeights(
        **weights, temperature=1 / mean, offsets=tuple(b.tolist()), labels=len(held_out.documents),
        cases=cases,
    )  # fmt: skip


def _num_offsets(task: TaskConfig, held_out: HeldOut) -> int:
    match task.kind:
        case "regression":
            return 0
        case "ordinal":
            return 1
        case _:
            return held_out.prior.shape[1]


def _minimum(
    loss: Callable[[Tensor], Tensor], start: np.ndarray, bounds: Sequence[tuple[float, float]]
) -> np.ndarray:
    """Return where a convex function is least within bounds, float64."""

    def loss_and_gradient(values: np.ndarray) -> tuple[float, np.ndarray]:
        x = torch.from_numpy(values).requires_grad_()
        found = loss(x)
        found.backward()  # type: ignore[no-untyped-call]
        assert x.grad is not None
        return float(found.detach()), x.grad.numpy()

    found: np.ndarray = minimize(loss_and_gradient, start, jac=True, method="L-BFGS-B", bounds=bounds).x
    return found


def _log_loss(task: TaskConfig, logits: Tensor, targets: Tensor) -> Tensor:
    """Return the sum of the log losses; of regression half the squared error."""
    if task.kind == "regression":
        return (logits[:, 0] - targets).square().sum() / 2
    # The plain loss: weights of classes would fit to them instead of to frequencies.
    plain = replace(task, imbalance="none")
    loss, _ = losses.task_loss(plain, logits, targets, logits.new_zeros(losses.statistics_shape(task)))
    return loss


def _rarest(task: TaskConfig, targets: Tensor) -> int:
    """Return the cases of the rarest class that is held out, 0 with fewer than two classes.

    Labels for regression; for multilabel the rarer side of the label that has most on both sides.
    """
    if task.kind == "regression":
        return len(targets)
    if task.kind == "multilabel":
        return int(torch.minimum((targets == 1).sum(0), (targets == 0).sum(0)).max())
    counts = torch.bincount(targets, minlength=len(task.classes))
    present = counts[counts > 0]
    return int(present.min()) if len(present) > 1 else 0


def _standardised(task: TaskConfig, targets: Tensor, statistics: Tensor) -> Tensor:
    """Return the targets; those of regression in the units of the network's scores, float64."""
    if task.kind != "regression":
        return targets
    mean, deviation = (float(value) for value in statistics)
    return (targets.double() - mean) / (deviation if deviation > 0 else 1.0)
