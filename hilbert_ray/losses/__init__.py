"""The objective: every term as a pure function of tensors, and their weighted total.

`alignment` holds the contrastive and balance losses, `structure` CKA, `tasks` the supervised losses with
their probabilities and decisions, `gradient_cache` the step whose batch exceeds memory. No function asks for
a rank: `fit` gathers over ranks with `distributed` and hands over the global batch.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from hilbert_ray.config import LossConfig
from hilbert_ray.losses.alignment import balance, contrastive, info_nce, information, nce
from hilbert_ray.losses.diagnostics import diagnostics
from hilbert_ray.losses.gradient_cache import cached_backward
from hilbert_ray.losses.structure import cka, cka_loss
from hilbert_ray.losses.tasks import (
    decide,
    label_statistics,
    log_prior,
    num_outputs,
    probabilities,
    statistics_shape,
    task_loss,
)

__all__ = [
    "Terms", "balance", "cached_backward", "cka", "cka_loss", "contrastive", "decide", "diagnostics",
    "info_nce", "information", "label_statistics", "log_prior", "nce", "num_outputs", "probabilities",
    "statistics_shape", "task_loss", "total",
]  # fmt: skip


def _zero() -> Tensor:
    return torch.zeros(())


@dataclass(frozen=True, kw_only=True, slots=True)
class Terms:
    """The terms of the objective, scalars before weighting; names as in `LossConfig` and in the logs.

    A term left out is 0.
    """

    task: Tensor = field(default_factory=_zero)
    contrastive: Tensor = field(default_factory=_zero)
    cka: Tensor = field(default_factory=_zero)
    balance: Tensor = field(default_factory=_zero)
    unimodal: Tensor = field(default_factory=_zero)
    load_balance: Tensor = field(default_factory=_zero)
    router_z: Tensor = field(default_factory=_zero)
    redundancy: Tensor = field(default_factory=_zero)

    def values(self) -> dict[str, float]:
        """Return the terms as numbers for the log."""
        return {name: float(getattr(self, name).detach()) for name in LossConfig.WEIGHTS}


def total(terms: Terms, weights: LossConfig) -> Tensor:
    """Return sum over terms of weight * term.

    A weight of 0 multiplies instead of dropping its term: the graph stays the same for every setting, which
    DDP and the collectives' backward rely on.
    """
    weighted = (getattr(weights, name) * getattr(terms, name) for name in LossConfig.WEIGHTS)
    return sum(weighted, start=torch.zeros(()))
