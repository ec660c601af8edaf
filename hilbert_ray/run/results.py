"""A run folder read once: scores, settings, predictions, embeddings, attention, training and search.

Absolute paths are cut to their last part when read, so that no report can print one. The writers of the
files that only a report reads are here too.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hilbert_ray.config import BASELINE, VARIANTS, Config, ConfigError, TaskConfig, from_dict
from hilbert_ray.metrics import Predictions
from hilbert_ray.run.evaluation import Comparison, Evaluation, Score, read_metrics
from hilbert_ray.run.folder import (
    RunDir,
    RunError,
    RunFile,
    read_json,
    read_lines,
    read_run_config,
    repair,
    write_json,
    write_lines,
)
from hilbert_ray.run.tables import Columns, read_columns, read_predictions, without_paths
from hilbert_ray.storage import DamagedError


@dataclass(frozen=True, kw_only=True, slots=True)
class RunResults:
    """A run folder's content; what a run lacks is None or empty.

    name: of the folder. evaluation: metrics.json. settings: config.json. tasks: the settings of each scored
    task. doc_ids: by `document` of the predictions. predictions: out of fold, by (task, variant).
    embeddings, attention: columns of the first repeat. history: one record per epoch and network. training:
    training.json. tuned: tune.json. trials: of all searches. is_published: whether there is a model folder.
    """

    name: str
    evaluation: Evaluation
    settings: Mapping[str, Any]
    tasks: Mapping[str, TaskConfig]
    doc_ids: Sequence[str]
    predictions: Mapping[tuple[str, str], Predictions]
    embeddings: Columns | None
    attention: Columns | None
    history: Sequence[Mapping[str, Any]]
    training: Mapping[str, Any] | None
    tuned: Mapping[str, Any] | None
    trials: Sequence[Mapping[str, Any]]
    is_published: bool

    @property
    def config(self) -> Config:
        """The resolved settings."""
        return from_dict(Config, self.settings["config"])

    @property
    def main_task(self) -> str:
        """The task that the summary is about: the one with most classes, the first among equals."""
        return max(self.tasks, key=lambda name: len(self.tasks[name].classes))

    def scores(self, task: str) -> Mapping[str, Mapping[str, Score]]:
        """Return the scores of a task by variant and metric; variants in the order of `VARIANTS`."""
        by_variant = self.evaluation.tasks[task]
        # First those in the order in which readers compare them, then others as in the file.
        known = [name for name in VARIANTS if name in by_variant]
        others = [name for name in by_variant if name not in VARIANTS]
        return {name: by_variant[name] for name in [*known, *others]}

    def comparison(self, task: str, variant: str) -> Comparison | None:
        """Return HILBERT against another variant; None where the run has not compared them."""
        return self.evaluation.comparisons.get(task, {}).get(variant)


def headline_of(kind: str) -> tuple[str, str]:
    """Return the headline metric of a kind of task, and what readers call it."""
    if kind == "regression":
        return "concordance", "concordance"
    # One metric: with two classes there is nothing to average.
    return "auc", "AUC" if kind == "binary" else "macro AUC"


def variant_name(name: str, kind: str) -> str:
    """Return what readers call a variant."""
    if name == BASELINE and kind == "regression":
        return "Mean + std, ridge"
    return VARIANTS.get(name, name)


def read_run(folder: Path) -> RunResults:
    """Read a run folder.

    Raises:
        RunError: when metrics.json or config.json is missing, or they do not fit each other.
        DamagedError: when a file is not what was written.
    """
    evaluation, saved = read_metrics(folder), read_run_config(folder)
    tasks = _scored_tasks(folder, evaluation, saved)
    settings = without_paths(saved)
    # A class may look like a path, and must keep its name.
    settings["config"]["tasks"] = saved["config"]["tasks"]
    training, tuned = _read_optional(folder, RunFile.TRAINING), _read_optional(folder, RunFile.TUNE)
    # Only the two JSON files are required: a report of scores alone is still a report.
    doc_ids, predictions = read_predictions(folder, tasks)
    return RunResults(
        # Resolved, since `.` has no name.
        name=folder.resolve().name,
        evaluation=evaluation,
        settings=settings,
        tasks=tasks,
        doc_ids=doc_ids,
        predictions=predictions,
        embeddings=read_columns(folder, RunFile.EMBEDDINGS),
        attention=read_columns(folder, RunFile.ATTENTION),
        history=_read_whole(folder, RunFile.HISTORY, (training or {}).get("records")),
        training=training,
        tuned=tuned,
        trials=_read_whole(folder, RunFile.TRIALS, (tuned or {}).get("trials")),
        is_published=(folder / RunDir.MODEL / RunFile.CONFIG).exists(),
    )


def _scored_tasks(folder: Path, evaluation: Evaluation, saved: Mapping[str, Any]) -> dict[str, TaskConfig]:
    """Return the settings of the tasks that metrics.json scores, in its order."""
    try:
        tasks = from_dict(Config, saved["config"]).tasks
    except (ConfigError, KeyError, TypeError) as error:
        raise RunError(
            f"{folder / RunFile.CONFIG} is not a valid configuration: {error}; rerun `hilbert-ray evaluate`"
        ) from error
    # A folder may have been put together from two runs.
    unknown = sorted(set(evaluation.tasks) - set(tasks))
    if unknown or not evaluation.tasks:
        fault = f"tasks {', '.join(unknown)}, which config.json lacks" if unknown else "no task"
        raise RunError(
            f"{folder / RunFile.METRICS} has scores of {fault}; rerun `hilbert-ray evaluate` with this --out"
        )
    return {name: tasks[name] for name in evaluation.tasks}


def write_training(
    run: Path, heads: Mapping[str, Mapping[str, Mapping[str, float]]], history: Sequence[Mapping[str, Any]]
) -> None:
    """Write RUN/training.json: what each head counts for each task, the last epoch's record, and how many."""
    write_json(run, RunFile.TRAINING, {"heads": heads, "last": history[-1], "records": len(history)})


def write_tune(run: Path, summary: Mapping[str, Any], searches: Mapping[str, Sequence[Any]]) -> None:
    """Write RUN/tune.json, and RUN/trials.jsonl with one line per trial, by the name of its search."""
    # Before tune.json, whose presence says that the search is complete.
    write_lines(
        run,
        RunFile.TRIALS,
        ({"search": name, **trial} for name, all_of in searches.items() for trial in all_of),
    )
    write_json(run, RunFile.TUNE, summary)


def _read_optional(folder: Path, name: RunFile) -> dict[str, Any] | None:
    return read_json(folder, name) if (folder / name).exists() else None


def _read_whole(folder: Path, name: RunFile, count: int | None) -> list[dict[str, Any]]:
    """Return the records of a JSON Lines file, which are `count`, where another file says how many."""
    records = read_lines(folder, name)
    # Each line proves itself, but not that none is missing at the end.
    if count is not None and (folder / name).exists() and len(records) != count:
        fault = f"it has {len(records)} whole lines of {count}"
        raise DamagedError.of(str(folder / name), fault, repair(name))
    return records
