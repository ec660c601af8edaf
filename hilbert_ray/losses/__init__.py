"""The objective: every term as a pure function of tensors, and their weighted total."""

from hilbert_ray.losses.alignment import balance, contrastive, info_nce, information, nce
from hilbert_ray.losses.diagnostics import alignment_diagnostics
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
from hilbert_ray.losses.terms import Terms, total

__all__ = [
    "Terms",
    "alignment_diagnostics",
    "balance",
    "cached_backward",
    "cka",
    "cka_loss",
    "contrastive",
    "decide",
    "info_nce",
    "information",
    "label_statistics",
    "log_prior",
    "nce",
    "num_outputs",
    "probabilities",
    "statistics_shape",
    "task_loss",
    "total",
]
