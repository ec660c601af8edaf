"""Scores of out-of-fold predictions and embeddings, their intervals, and tests of differences."""

from hilbert_ray.metrics.calibration import reliability, reliability_bins
from hilbert_ray.metrics.evaluation import (
    compare_predictions,
    decision_curves,
    evaluate_predictions,
    permutation_null,
    permuted_headlines,
)
from hilbert_ray.metrics.intervals import bootstrap_error, bootstrap_interval, resample_groups
from hilbert_ray.metrics.partition import Partition, defined_mean, ratio
from hilbert_ray.metrics.predictions import Predictions, Problem, headline, problems
from hilbert_ray.metrics.retrieval import evaluate_embeddings, retrieval_ranks
from hilbert_ray.metrics.significance import holm, paired_t

__all__ = [
    "Partition",
    "Predictions",
    "Problem",
    "bootstrap_error",
    "bootstrap_interval",
    "compare_predictions",
    "decision_curves",
    "defined_mean",
    "evaluate_embeddings",
    "evaluate_predictions",
    "headline",
    "holm",
    "paired_t",
    "permutation_null",
    "permuted_headlines",
    "problems",
    "ratio",
    "reliability",
    "reliability_bins",
    "resample_groups",
    "retrieval_ranks",
]
