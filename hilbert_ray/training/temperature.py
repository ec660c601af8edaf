"""A temperature for each task, fitted on inner out-of-fold predictions (Guo et al. 2017, section 4.2).

It divides a task's logits, so that probabilities are as sure as the network is right on documents it has not
seen. Logits of training documents would give temperatures that are too low.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from scipy.optimize import minimize_scalar
from torch import Tensor

from hilbert_ray import losses
from hilbert_ray.config import Config, TaskConfig
from hilbert_ray.features import Features
from hilbert_ray.model import Hilbert, Network
from hilbert_ray.training.networks import NetworkJob

BOUNDS = (0.2, 5.0)
"""Temperatures considered: with few held-out documents the best one may be 0 or infinite."""


@dataclass(frozen=True, kw_only=True, slots=True)
class HeldOut:
    """An inner fold's held-out documents: a task's logits and targets, its network's label statistics."""

    logits: Tensor
    targets: Tensor
    statistics: Tensor


def fit_temperatures(
    config: Config, features: Features, inner: Sequence[tuple[NetworkJob, Network]]
) -> dict[str, float]:
    """Return each task's T: the one that gives inner out-of-fold predictions the least log loss.

    1 for regression, and for all tasks without `inner`, the trained networks of the inner folds.
    """
    temperature = dict.fromkeys(config.tasks, 1.0)
    by_task: dict[str, list[HeldOut]] = {name: [] for name in config.tasks}
    for job, network in inner:
        assert job.test is not None
        # A network of its own, not the ensemble: it is the only one that has not seen these documents.
        prediction = Hilbert([network], config, {}, {}).predict(features.take(job.test))
        for name, held_out in by_task.items():
            held_out.append(
                HeldOut(
                    logits=torch.from_numpy(prediction.logits[name]),
                    targets=torch.from_numpy(features.targets[name][job.test]),
                    statistics=network.labels[name].cpu(),
                )
            )
    for name, task in config.tasks.items():
        if inner and task.kind != "regression":
            # In log T, where 1/2 and 2 are equally far from 1.
            best = minimize_scalar(
                lambda log_t, task=task, name=name: _log_loss(task, by_task[name], math.exp(log_t)),
                bounds=(math.log(BOUNDS[0]), math.log(BOUNDS[1])),
                method="bounded",
            )
            temperature[name] = math.exp(best.x)
    return temperature


def _log_loss(task: TaskConfig, folds: Sequence[HeldOut], temperature: float) -> float:
    """Return the mean log loss of (o + log prior) / T over the held-out documents of all folds."""
    # The plain loss: weights of classes would fit the temperature to them instead of to frequencies.
    plain = replace(task, imbalance="none")
    loss = count = 0.0
    for fold in folds:
        adjusted = (fold.logits + losses.log_prior(task, fold.statistics)) / temperature
        fold_loss, entries = losses.task_loss(plain, adjusted, fold.targets, fold.statistics)
        loss, count = loss + float(fold_loss), count + float(entries)
    return loss / max(count, 1.0)
