"""RUN/predictions.parquet, embeddings.parquet and attention.parquet: writers and readers."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hilbert_ray.config import MODALITIES, TaskConfig
from hilbert_ray.features import Dataset
from hilbert_ray.metrics import Predictions
from hilbert_ray.run.fold_results import FoldResult


def write_predictions(run: Path, dataset: Dataset, results: Sequence[FoldResult]) -> None:
    """Write predictions.parquet, and of the first repeat embeddings.parquet and attention.parquet."""
    features = dataset.features
    tables = []
    for result in results:
        for task, probabilities in result.probabilities.items():
            rows = len(result.test)
            targets = features.targets[task][result.test].astype(np.float64)
            tables.append(
                pa.table(
                    {
                        "task": pa.repeat(task, rows),
                        "variant": pa.repeat(result.variant, rows),
                        "repeat": pa.repeat(result.repeat, rows),
                        "fold": pa.repeat(result.fold, rows),
                        "doc_id": features.doc_ids[result.test].tolist(),
                        "group": [dataset.documents[i].group for i in result.test],
                        "target": pa.array(
                            [np.atleast_1d(y).tolist() for y in targets], pa.list_(pa.float64())
                        ),
                        "decision": pa.array(
                            [np.atleast_1d(d).astype(np.float64).tolist() for d in result.decisions[task]],
                            pa.list_(pa.float64()),
                        ),
                        "probability": pa.array(
                            [np.atleast_1d(p).astype(np.float64).tolist() for p in probabilities],
                            pa.list_(pa.float64()),
                        ),
                    }
                )
            )
    pq.write_table(pa.concat_tables(tables), run / "predictions.parquet")
    first = [r for r in results if r.variant == "hilbert" and r.repeat == 0]
    ids = [doc_id for r in first for doc_id in features.doc_ids[r.test].tolist()]
    fold = [r.fold for r in first for _ in r.test]
    columns = {
        name: [row.tolist() for r in first for row in r.embeddings[name]]
        for name in ("audio", "text", "joint")
    }
    pq.write_table(pa.table({"doc_id": ids, "fold": fold, **columns}), run / "embeddings.parquet")
    timeline: dict[str, list[Any]] = {}
    for modality in MODALITIES:
        part = getattr(features, modality)
        if part is not None:
            spans = [slice(part.offsets[i], part.offsets[i + 1]) for r in first for i in r.test]
            timeline[f"{modality}_weight"] = [w.tolist() for r in first for w in r.attention[modality]]
            timeline[f"{modality}_start"] = [part.start[span].tolist() for span in spans]
            timeline[f"{modality}_end"] = [part.end[span].tolist() for span in spans]
    pq.write_table(pa.table({"doc_id": ids, "fold": fold, **timeline}), run / "attention.parquet")


Columns = Mapping[str, list[Any]]


def read_columns(path: Path) -> Columns | None:
    """Return embeddings.parquet or attention.parquet by column; None where a run has none."""
    if not path.exists():
        return None
    columns: dict[str, list[Any]] = pq.read_table(path).to_pydict()
    columns["doc_id"] = [without_paths(doc_id) for doc_id in columns["doc_id"]]
    return columns


def read_predictions(
    path: Path, tasks: Mapping[str, TaskConfig]
) -> tuple[list[str], dict[tuple[str, str], Predictions]]:
    """Return the ids of documents, and predictions whose `document` counts them."""
    if not path.exists():
        return [], {}
    table = pq.read_table(path)
    names, documents = np.unique(table["doc_id"].to_pylist(), return_inverse=True)
    _, groups = np.unique(table["group"].to_pylist(), return_inverse=True)
    task, variant = (np.array(table[name].to_pylist(), dtype=object) for name in ("task", "variant"))
    fold, repeat = (table[name].to_numpy() for name in ("fold", "repeat"))
    values = {name: table[name].to_pylist() for name in ("target", "decision", "probability")}
    found = {}
    for key in dict.fromkeys(zip(task.tolist(), variant.tolist(), strict=True)):
        settings = tasks.get(key[0])
        if settings is None:
            continue
        rows = np.flatnonzero((task == key[0]) & (variant == key[1]))
        rows = rows[np.lexsort([documents[rows], repeat[rows]])]
        # A null in a list comes back as None; NaN is what it stands for.
        target, decision, p = (np.array([values[n][i] for i in rows], np.float64) for n in values)
        wide, is_number = settings.kind == "multilabel", settings.kind == "regression"
        found[key] = Predictions(
            kind=settings.kind,
            classes=settings.classes,
            probabilities=p[:, 0] if is_number else p,
            decisions=None if is_number else (decision if wide else decision[:, 0]).astype(np.int64),
            targets=target if wide else target[:, 0] if is_number else target[:, 0].astype(np.int64),
            fold=fold[rows],
            repeat=repeat[rows],
            group=groups[rows],
            document=documents[rows],
        )
    return [without_paths(str(name)) for name in names], found


def without_paths(value: Any) -> Any:  # noqa: ANN401 - plain values of any shape
    """Return plain values with absolute paths, also those of `hf:` folders, cut to their last part."""
    if isinstance(value, Mapping):
        return {key: without_paths(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [without_paths(inner) for inner in value]
    if isinstance(value, str):
        kind, path = ("hf:", value[3:]) if value.startswith("hf:") else ("", value)
        if re.match(r"(/|~|[A-Za-z]:[\\/]|\\\\|file:)", path):
            return kind + re.split(r"[\\/]", path.rstrip("\\/"))[-1]
    return value
