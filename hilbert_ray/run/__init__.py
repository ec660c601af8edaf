"""The run folder: all its file names, with the writer and reader of each file side by side."""

from hilbert_ray.run.evaluation import (
    SHORTCUT_LOW,
    Comparison,
    DataCounts,
    Evaluation,
    FoldCounts,
    FusionWeights,
    LearningPoint,
    PermutationNull,
    RunCost,
    Score,
    ShortcutScores,
    read_metrics,
    write_metrics,
)
from hilbert_ray.run.fold_results import FoldResult, TaskPredictions, read_fold_result, write_fold_result
from hilbert_ray.run.folder import NOT_COPIED, RESUME_ONLY, RunDir, RunError, RunFile, write_run_config
from hilbert_ray.run.results import (
    RunResults,
    headline_of,
    read_run,
    variant_name,
    write_training,
    write_tune,
)
from hilbert_ray.run.tables import Columns, write_predictions

__all__ = [
    "NOT_COPIED",
    "RESUME_ONLY",
    "SHORTCUT_LOW",
    "Columns",
    "Comparison",
    "DataCounts",
    "Evaluation",
    "FoldCounts",
    "FoldResult",
    "FusionWeights",
    "LearningPoint",
    "PermutationNull",
    "RunCost",
    "RunDir",
    "RunError",
    "RunFile",
    "RunResults",
    "Score",
    "ShortcutScores",
    "TaskPredictions",
    "headline_of",
    "read_fold_result",
    "read_metrics",
    "read_run",
    "variant_name",
    "write_fold_result",
    "write_metrics",
    "write_predictions",
    "write_run_config",
    "write_training",
    "write_tune",
]
