"""A temperature for each task, fitted on inner out-of-fold predictions."""

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from scipy.optimize import minimize_scalar
from torch import Tensor

from hilbert_ray import losses
from hilbert_ray.config import Config, TaskConfig
from hilbert_ray.features import Features
from hilbert_ray.model import Hilbert, Network
from hilbert_ray.training.networks import NetworkJob


def fit_temperatures(
    config: Config, features: Features, inner: Sequence[tuple[NetworkJob, Network]]
) -> dict[str, float]:
    """Return each task's T: the one that gives inner out-of-fold predictions the least log loss."""
    temperature = dict.fromkeys(config.tasks, 1.0)
    if not inner:
        return temperature
    held_out = []
    for job, network in inner:
        assert job.test is not None
        prediction = Hilbert([network], config, {}, {}).predict(features.take(job.test))
        held_out.append((job.test, prediction.logits, network))
    for name, task in config.tasks.items():
        if task.kind == "regression":
            continue
        parts = [
            (
                torch.from_numpy(logits[name]),
                torch.from_numpy(features.targets[name][test]),
                network.labels[name].cpu(),
            )
            for test, logits, network in held_out
        ]
        best = minimize_scalar(
            lambda log_t, task=task, parts=parts: _log_loss(task, parts, math.exp(log_t)),
            bounds=(math.log(0.2), math.log(5.0)),
            method="bounded",
        )
        temperature[name] = math.exp(best.x)
    return temperature


def _log_loss(task: TaskConfig, parts: Sequence[tuple[Tensor, Tensor, Tensor]], temperature: float) -> float:
    """Return the mean log loss of (o + log prior) / T over held-out (logits, targets, statistics)."""
    plain = replace(task, imbalance="none")
    total = count = 0.0
    for logits, targets, statistics in parts:
        adjusted = (logits + losses.log_prior(task, statistics)) / temperature
        loss, entries = losses.task_loss(plain, adjusted, targets, statistics)
        total, count = total + float(loss), count + float(entries)
    return total / max(count, 1.0)
