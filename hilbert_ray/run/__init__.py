"""The run folder: all its file names, with the writer and reader of each file side by side."""

from hilbert_ray.run.fold_results import Answers, FoldResult, read_fold_result, write_fold_result
from hilbert_ray.run.folder import NOT_COPIED, write_run_config
from hilbert_ray.run.results import RunResults, Scores, headline_of, read_run, variant_name
from hilbert_ray.run.tables import Columns, write_predictions

__all__ = [
    "NOT_COPIED",
    "Answers",
    "Columns",
    "FoldResult",
    "RunResults",
    "Scores",
    "headline_of",
    "read_fold_result",
    "read_run",
    "variant_name",
    "write_fold_result",
    "write_predictions",
    "write_run_config",
]
