"""RUN/predictions.parquet, embeddings.parquet and attention.parquet: writers and readers."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from hilbert_ray.config import HILBERT, TaskConfig, encoder_parts
from hilbert_ray.features import Dataset, Features
from hilbert_ray.metrics import Predictions
from hilbert_ray.run.fold_results import FoldResult
from hilbert_ray.run.folder import RunFile, repair
from hilbert_ray.storage import open_output, parquet_writer, read_parquet, require_regular


def write_predictions(run: Path, dataset: Dataset, results: Sequence[FoldResult]) -> None:
    """Write predictions.parquet of all results, and embeddings.parquet and attention.parquet of HILBERT's.

    predictions.parquet has one row per task, variant, repeat and document; target, decision and probability
    are lists of float64 in all kinds of tasks (one number, or one per class). The other two have one row per
    document of the first repeat.
    """
    tables = [_prediction_rows(dataset, task, result) for result in results for task in result.probabilities]
    _write(run, RunFile.PREDICTIONS, pa.concat_tables(tables))
    # Embeddings of different repeats come from different networks; one repeat covers every document once.
    first_repeat = [result for result in results if result.variant == HILBERT and result.repeat == 0]
    embeddings = {
        name: [row.tolist() for result in first_repeat for row in result.embeddings[name]]
        for name in ("audio", "text", "joint")
    }
    _write_documents(run, RunFile.EMBEDDINGS, dataset, first_repeat, embeddings)
    timelines = _attention_columns(dataset.features, first_repeat)
    _write_documents(run, RunFile.ATTENTION, dataset, first_repeat, timelines)


def _prediction_rows(dataset: Dataset, task: str, result: FoldResult) -> pa.Table:
    """Return one fold's predictions of one task as rows of predictions.parquet."""
    features, rows = dataset.features, len(result.test)
    return pa.table(
        {
            "task": pa.repeat(task, rows),
            "variant": pa.repeat(result.variant, rows),
            "repeat": pa.repeat(result.repeat, rows),
            "fold": pa.repeat(result.fold, rows),
            "doc_id": features.doc_ids[result.test].tolist(),
            "group": [dataset.documents[i].group for i in result.test],
            "target": _lists(features.targets[task][result.test]),
            "decision": _lists(result.decisions[task]),
            "probability": _lists(result.probabilities[task]),
        }
    )


def _lists(values: np.ndarray) -> pa.Array:
    """Return rows [N] or [N, K] as N lists of float64, so that all kinds of tasks share one schema."""
    return pa.array(
        [np.atleast_1d(row).astype(np.float64).tolist() for row in values], pa.list_(pa.float64())
    )


def _attention_columns(features: Features, results: Sequence[FoldResult]) -> dict[str, list[Any]]:
    """Return weight, start and end of each document's segments, by modality: lists of float32."""
    columns: dict[str, list[Any]] = {}
    for modality, ragged in features.by_modality.items():
        # Segments of all documents are in one array; offsets say where each document's begin.
        spans = [slice(ragged.offsets[i], ragged.offsets[i + 1]) for result in results for i in result.test]
        columns[f"{modality}_weight"] = [w.tolist() for r in results for w in r.attention[modality]]
        columns[f"{modality}_start"] = [ragged.start[span].tolist() for span in spans]
        columns[f"{modality}_end"] = [ragged.end[span].tolist() for span in spans]
    return columns


def _write_documents(
    run: Path,
    name: RunFile,
    dataset: Dataset,
    results: Sequence[FoldResult],
    columns: Mapping[str, list[Any]],
) -> None:
    """Write one row per tested document: its id, its fold and some columns."""
    doc_ids = [doc_id for result in results for doc_id in dataset.features.doc_ids[result.test].tolist()]
    folds = [result.fold for result in results for _ in result.test]
    _write(run, name, pa.table({"doc_id": doc_ids, "fold": folds, **columns}))


def _write(run: Path, name: RunFile, table: pa.Table) -> None:
    with open_output(str(run / name)) as path, parquet_writer(path, table.schema) as writer:
        writer.write_table(table)


def _read(run: Path, name: RunFile) -> pa.Table | None:
    """Return a table of a run folder, None where there is none.

    Raises:
        DamagedError: when it is not what was written.
    """
    path = run / name
    if not path.exists():
        return None
    require_regular(path)
    with path.open("rb") as file:
        return read_parquet(file, str(path), repair(name))


Columns = Mapping[str, list[Any]]
"""A table by column: `doc_id`, `fold`, and lists of numbers."""


def read_columns(run: Path, name: RunFile) -> Columns | None:
    """Return embeddings.parquet or attention.parquet by column; None where a run has none.

    Raises:
        DamagedError: when it is not what was written.
    """
    table = _read(run, name)
    if table is None:
        return None
    columns: dict[str, list[Any]] = table.to_pydict()
    # Ids made from file names may hold the folders of the machine that made the manifest.
    columns["doc_id"] = [without_paths(doc_id) for doc_id in columns["doc_id"]]
    return columns


def read_predictions(
    run: Path, tasks: Mapping[str, TaskConfig]
) -> tuple[list[str], dict[tuple[str, str], Predictions]]:
    """Read predictions.parquet; rows of tasks that are not in `tasks` are left out.

    Returns:
        The ids of all documents, and predictions by (task, variant), sorted by repeat and document; their
        `document` is an index of the ids. Empty where a run has no such file.

    Raises:
        DamagedError: when it is not what was written.
    """
    table = _read(run, RunFile.PREDICTIONS)
    if table is None:
        return [], {}
    # Ids and groups as numbers: metrics work on arrays, and ids are strings of any length.
    doc_ids, documents = np.unique(table["doc_id"].to_pylist(), return_inverse=True)
    _, groups = np.unique(table["group"].to_pylist(), return_inverse=True)
    task, variant = (np.array(table[name].to_pylist(), dtype=object) for name in ("task", "variant"))
    fold, repeat = (table[name].to_numpy() for name in ("fold", "repeat"))
    values = {name: table[name].to_pylist() for name in ("target", "decision", "probability")}
    predictions = {}
    for key in dict.fromkeys(zip(task.tolist(), variant.tolist(), strict=True)):
        settings = tasks.get(key[0])
        if settings is None:
            continue
        rows = np.flatnonzero((task == key[0]) & (variant == key[1]))
        # As `gather` sorts them, so that figures see what the scores were computed from.
        rows = rows[np.lexsort([documents[rows], repeat[rows]])]
        # Parquet gives a null in a list back as None; as a float it is NaN, which it was written for.
        target, decision, p = (np.array([values[n][i] for i in rows], np.float64) for n in values)
        is_wide, is_number = settings.kind == "multilabel", settings.kind == "regression"
        predictions[key] = Predictions(
            kind=settings.kind,
            classes=settings.classes,
            probabilities=p[:, 0] if is_number else p,
            # The file repeats the number as its decision, so that all kinds share one schema.
            decisions=None if is_number else (decision if is_wide else decision[:, 0]).astype(np.int64),
            targets=target if is_wide else target[:, 0] if is_number else target[:, 0].astype(np.int64),
            fold=fold[rows],
            repeat=repeat[rows],
            group=groups[rows],
            document=documents[rows],
        )
    # Cut last: ids that differ in their folder only are different documents.
    return [without_paths(str(doc_id)) for doc_id in doc_ids], predictions


def without_paths(value: Any) -> Any:  # noqa: ANN401 - plain values of any shape
    """Return plain values with absolute paths cut to their last part, also those after `hf:`, joined or not.

    Reports are passed on; a path can name the user, the machine or the study.
    """
    if isinstance(value, Mapping):
        return {key: without_paths(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [without_paths(inner) for inner in value]
    if isinstance(value, str):
        return "+".join(map(_without_path, encoder_parts(value)))
    return value


def _without_path(value: str) -> str:
    kind, path = ("hf:", value[3:]) if value.startswith("hf:") else ("", value)
    # POSIX, home, Windows drive, Windows share, and file URIs; other URIs name no machine.
    if re.match(r"(/|~|[A-Za-z]:[\\/]|\\\\|file:)", path):
        return kind + re.split(r"[\\/]", path.rstrip("\\/"))[-1]
    return value
