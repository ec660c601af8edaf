"""The objective: every term as a pure function of tensors, and their weighted sum."""

from hilbert_ray.losses.contrast import balance, contrastive, info_nce, information
from hilbert_ray.losses.diagnostics import embedding_diagnostics
from hilbert_ray.losses.gradient_cache import cached_backward
from hilbert_ray.losses.structure import cka, cka_loss
from hilbert_ray.losses.tasks import (
    added_prior,
    decide,
    label_statistics,
    learned_prior,
    log_prior,
    num_outputs,
    probabilities,
    statistics_shape,
    task_loss,
)
from hilbert_ray.losses.terms import Terms, weighted_sum

__all__ = [
    "Terms",
    "added_prior",
    "balance",
    "cached_backward",
    "cka",
    "cka_loss",
    "contrastive",
    "decide",
    "embedding_diagnostics",
    "info_nce",
    "information",
    "label_statistics",
    "learned_prior",
    "log_prior",
    "num_outputs",
    "probabilities",
    "statistics_shape",
    "task_loss",
    "weighted_sum",
]
