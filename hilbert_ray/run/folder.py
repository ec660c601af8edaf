"""The run folder: the names of everything in it, and RUN/config.json, which says what was run on which data.

One folder holds results on one data set with one configuration; results of another are refused.
"""

import importlib.metadata
import json
import platform
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any

from hilbert_ray.config import ConfigError, require, to_dict
from hilbert_ray.errors import HilbertError
from hilbert_ray.features import Dataset
from hilbert_ray.storage import (
    Workspace,
    json_line,
    parse_json,
    parse_json_lines,
    require_regular,
    with_checksum,
    write_text,
)
from hilbert_ray.version import __version__


class RunFile(StrEnum):
    """Names of the files of a run folder, by the command that writes them."""

    # Every command.
    CONFIG = "config.json"
    # `evaluate`.
    FOLDS = "folds.parquet"
    PREDICTIONS = "predictions.parquet"
    EMBEDDINGS = "embeddings.parquet"
    ATTENTION = "attention.parquet"
    METRICS = "metrics.json"
    # `train`: one record per epoch and network, and what the finished training came to.
    HISTORY = "metrics.jsonl"
    TRAINING = "training.json"
    # `tune`.
    TUNE = "tune.json"
    TRIALS = "trials.jsonl"
    BEST_SETTINGS = "best.yaml"
    # `report`.
    REPORT = "report.html"


class RunDir(StrEnum):
    """Names of the folders inside a run folder."""

    FOLD_RESULTS = "folds"
    SEARCHES = "search"
    CHECKPOINTS = "checkpoints"
    MODEL = "model"
    TENSORBOARD = "tensorboard"
    MLFLOW = "mlflow"


NOT_COPIED = (RunDir.CHECKPOINTS,)
"""Folders without a local copy where the run is on an object store: Ray and checkpoints use them in place."""
RESUME_ONLY = (*NOT_COPIED, RunDir.FOLD_RESULTS, RunDir.SEARCHES)
"""Folders that only a rerun of the same command reads; the other commands do not copy them."""
TRAINED = ("tasks", "segment", "model", "moe", "loss", "fit")
"""Settings that determine what is trained; all commands on one run folder must agree on them."""


_WRITERS = {
    RunFile.FOLDS: "evaluate",
    RunFile.PREDICTIONS: "evaluate",
    RunFile.EMBEDDINGS: "evaluate",
    RunFile.ATTENTION: "evaluate",
    RunFile.METRICS: "evaluate",
    RunFile.HISTORY: "train",
    RunFile.TRAINING: "train",
    RunFile.TUNE: "tune --resume",
    RunFile.TRIALS: "tune --resume",
}
"""The command that writes each file again, mostly from results that it kept."""


class RunError(HilbertError, ValueError):
    """A run folder whose results are missing, or do not belong together."""


def write_run_config(run: Workspace, dataset: Dataset) -> None:
    """Write RUN/config.json: resolved settings, versions, seed, git revision and data fingerprint.

    Raises:
        ConfigError: when the folder holds a run on other data, or with other settings of what is trained, or
            is a feature store.
    """
    run.path.mkdir(parents=True, exist_ok=True)
    require(
        not (run.path / "store.json").exists(),
        f"--out {run.uri} is a feature store; name another folder for the run",
    )
    # Commands share a folder: whoever comes later must have the data and settings of those before.
    if (run.path / RunFile.CONFIG).exists():
        _refuse_other_run(run.uri, read_run_config(run.path), dataset)
    values = {
        # Resolved: with the tasks inferred from the labels and the encoders found in the store.
        "config": to_dict(dataset.config),
        "data": dataset.fingerprint,
        "encoders": dataset.encoders,
        "documents": len(dataset.documents),
        "seed": dataset.config.fit.seed,
        "versions": {
            "hilbert-ray": __version__,
            "python": platform.python_version(),
            # The packages whose versions can change a result.
            **{name: importlib.metadata.version(name) for name in ("torch", "ray", "transformers", "numpy")},
        },
        "revision": _revision(),
    }
    write_json(run.path, RunFile.CONFIG, values)


def read_run_config(folder: Path) -> dict[str, Any]:
    """Return RUN/config.json as plain values.

    Raises:
        RunError: when the file is missing.
        DamagedError: when it is not what was written.
    """
    return read_json(folder, RunFile.CONFIG)


def write_json(folder: Path, name: RunFile, values: Mapping[str, Any]) -> None:
    """Write a JSON file of a run folder, with its checksum, whole or not at all."""
    write_text(folder / name, with_checksum(json.dumps(values, indent=1).encode()).decode())


def read_json(folder: Path, name: RunFile) -> dict[str, Any]:
    """Return a JSON file of a run folder.

    Raises:
        RunError: when the file is missing.
        DamagedError: when it is not what was written.
    """
    path = folder / name
    if not path.exists():
        raise RunError(
            f"run folder {folder} has no {name}; run `hilbert-ray evaluate --store STORE --out {folder}` "
            "first"
        )
    require_regular(path)
    return parse_json(path.read_bytes(), str(path), repair(name))


def write_lines(folder: Path, name: RunFile, records: Iterable[Mapping[str, Any]]) -> None:
    """Write a JSON Lines file of a run folder, with a checksum in each line, whole or not at all."""
    write_text(folder / name, "".join(map(json_line, records)))


def read_lines(folder: Path, name: RunFile) -> list[dict[str, Any]]:
    """Return the records of a JSON Lines file of a run folder, none where it is missing.

    Raises:
        DamagedError: when a line is not what was written; a last one that a kill cut off is left out.
    """
    path = folder / name
    if not path.exists():
        return []
    require_regular(path)
    return [*parse_json_lines(path.read_bytes(), str(path), repair(name))]


def repair(name: RunFile) -> str:
    """Return what to do where a file of a run folder is damaged."""
    if name == RunFile.CONFIG:
        # Every command refuses a folder whose settings it cannot compare with its own.
        return "restore it from a copy, or delete it and rerun `hilbert-ray` with the same settings and --out"
    return f"rerun `hilbert-ray {_WRITERS[name]}` with the same --out, which writes it again"


def _refuse_other_run(out: str, earlier: Mapping[str, Any], dataset: Dataset) -> None:
    """Raise ConfigError unless the folder's results belong to this data and these settings.

    A report reads scores, model and searches of one folder as one experiment.
    """
    remedy = "choose another --out, or delete the folder to start over"
    if earlier["data"] != dataset.fingerprint:
        raise ConfigError(
            f"run folder {out} holds results on other data (fingerprint {earlier['data']}, now "
            f"{dataset.fingerprint}): documents, groups, labels or encoders have changed; {remedy}"
        )
    settings = to_dict(dataset.config)
    # Others, such as folds or resources, may differ between the commands of one run.
    for name in TRAINED:
        changed = list(_differences(earlier["config"].get(name), settings[name], name))
        if changed:
            raise ConfigError(
                f"run folder {out} holds results with other settings: {'; '.join(changed)}; {remedy}"
            )


def _differences(earlier: object, now: object, name: str) -> Iterator[str]:
    """Yield what differs between two plain values, a line for each innermost setting, by its dotted name."""
    if isinstance(earlier, Mapping) and isinstance(now, Mapping):
        for key in dict.fromkeys((*earlier, *now)):
            yield from _differences(earlier.get(key), now.get(key), f"{name}.{key}")
    elif earlier != now:
        yield f"`{name}` was {earlier!r} and is now {now!r}"


def _revision() -> str | None:
    """Return the git revision of the working folder; None outside a repository or without git."""
    try:
        # Of the working folder, where the study's own files are; the package itself has a version.
        git = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return None
    # Outside a repository git writes to standard error only.
    return git.stdout.strip() or None
