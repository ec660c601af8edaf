"""Scores of out-of-fold predictions and embeddings, their intervals, and tests of differences.

Pure NumPy and SciPy: nothing here knows the network or Ray. `evaluate_predictions` gives all metrics of a
task, `compare_predictions` sets two systems against each other, `evaluate_embeddings` measures retrieval and
geometry.
"""

from hilbert_ray.metrics.calibration import reliability
from hilbert_ray.metrics.evaluation import (
    compare_predictions,
    decision_curves,
    evaluate_predictions,
    permutation_null,
)
from hilbert_ray.metrics.predictions import Predictions, Problem, problems
from hilbert_ray.metrics.retrieval import evaluate_embeddings
from hilbert_ray.metrics.significance import corrected_resampled_t, holm, smallest_detectable_difference

__all__ = [
    "Predictions",
    "Problem",
    "compare_predictions",
    "corrected_resampled_t",
    "decision_curves",
    "evaluate_embeddings",
    "evaluate_predictions",
    "holm",
    "permutation_null",
    "problems",
    "reliability",
    "smallest_detectable_difference",
]
