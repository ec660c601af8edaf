"""A run folder read once: scores, settings, predictions, embeddings, attention, training logs.

Absolute paths are cut to their last part when read, so that no report can print one.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hilbert_ray.config import BASELINE, VARIANTS, Config, ConfigError, TaskConfig, from_dict
from hilbert_ray.errors import HilbertError
from hilbert_ray.metrics import Predictions
from hilbert_ray.run.tables import Columns, read_columns, read_predictions, without_paths

Scores = Mapping[str, Any]


class ReportError(HilbertError, ValueError):
    """A run folder that no report can be made of."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunResults:
    """A run folder's content; what a run lacks is None or empty.

    name: of the folder. metrics: metrics.json. settings: config.json. tasks: the settings of each scored
    task. doc_ids: by `document` of the predictions. predictions: out of fold, by (task, variant).
    embeddings, attention: columns of the first repeat. history: a record an epoch and job. training:
    training.json. tuned: tune.json. trials: of the search. is_published: whether model/ is there.
    """

    name: str
    metrics: Mapping[str, Any]
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
        """The task that the summary is about: most classes, the first among equals."""
        return max(self.tasks, key=lambda name: len(self.tasks[name].classes))

    def scores(self, task: str) -> Mapping[str, Scores]:
        """Return the metrics of each variant of a task, HILBERT first, then as `VARIANTS` lists them."""
        found = self.metrics["tasks"][task]
        known = [name for name in VARIANTS if name in found]
        return {name: found[name] for name in [*known, *(name for name in found if name not in VARIANTS)]}

    def comparison(self, task: str, variant: str) -> Scores | None:
        """Return HILBERT against another variant."""
        found: Scores | None = self.metrics.get("comparisons", {}).get(task, {}).get(variant)
        return found


def headline_of(kind: str) -> tuple[str, str]:
    """Return the headline metric of a kind of task, and what readers call it."""
    if kind == "regression":
        return "concordance", "concordance"
    return "auc", "AUC" if kind == "binary" else "macro AUC"


def variant_name(name: str, kind: str) -> str:
    """Return what readers call a variant."""
    if name == BASELINE and kind == "regression":
        return "Mean + std, ridge"
    return VARIANTS.get(name, name)


def finite(value: float | None) -> float | None:
    """Return a number, None for one that is not finite."""
    return None if value is None or not math.isfinite(value) else value


def read_run(folder: Path) -> RunResults:
    """Read a run folder.

    Raises:
        ReportError: when metrics.json or config.json is absent or damaged, or they do not fit each other.
    """
    metrics = _required(folder, "metrics.json")
    saved = _required(folder, "config.json")
    try:
        tasks = from_dict(Config, saved["config"]).tasks
    except (ConfigError, KeyError, TypeError) as error:
        raise ReportError(
            f"{folder / 'config.json'} cannot be understood: {error}; evaluate again"
        ) from error
    scored = metrics.get("tasks", {})
    unknown = sorted(set(scored) - set(tasks))
    if unknown or not scored:
        wrong = f"tasks {', '.join(unknown)} that config.json does not have" if unknown else "no task"
        raise ReportError(
            f"{folder / 'metrics.json'} scores {wrong}; run `hilbert-ray evaluate` into it again"
        )
    tasks = {name: tasks[name] for name in scored}
    settings = without_paths(saved)
    settings["config"]["tasks"] = saved["config"]["tasks"]  # a class may look like a path
    doc_ids, predictions = read_predictions(folder / "predictions.parquet", tasks)
    training, tuned = folder / "training.json", folder / "tune.json"
    return RunResults(
        name=folder.resolve().name,
        metrics=metrics,
        settings=settings,
        tasks=tasks,
        doc_ids=doc_ids,
        predictions=predictions,
        embeddings=read_columns(folder / "embeddings.parquet"),
        attention=read_columns(folder / "attention.parquet"),
        history=_lines(folder / "metrics.jsonl"),
        training=_required(folder, training.name) if training.exists() else None,
        tuned=_required(folder, tuned.name) if tuned.exists() else None,
        trials=_lines(folder / "trials.jsonl"),
        is_published=(folder / "model" / "config.json").exists(),
    )


def _required(folder: Path, name: str) -> dict[str, Any]:
    path = folder / name
    if not path.exists():
        raise ReportError(
            f"a report on {folder} was asked for, but there is no {path}; run "
            f"`hilbert-ray evaluate --store STORE --out {folder}` first"
        )
    try:
        values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ReportError(f"{path} is not valid JSON ({error}); run `hilbert-ray evaluate` again") from error
    return values


def _lines(path: Path) -> list[dict[str, Any]]:
    """Return the records of a JSONL file; a last line that a kill cut off is left out."""
    found = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            found.append(json.loads(line))
        except ValueError:
            break
    return found
