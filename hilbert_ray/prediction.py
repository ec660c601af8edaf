"""A published model and a manifest to embeddings and predictions, as Ray Data jobs.

The manifest is embedded with the encoders that the model was trained on (others are refused by fingerprint),
then the store's buckets stream through the network and into one Parquet file.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray
import ray.data
import torch

from hilbert_ray.cluster import connect, data_context
from hilbert_ray.config import MODALITIES, ConfigError, EmbedConfig, Modality
from hilbert_ray.embedding import embed
from hilbert_ray.encoders import load_encoder_spec
from hilbert_ray.features import Features, read_features
from hilbert_ray.model import Hilbert, ModelError, Prediction
from hilbert_ray.storage import absolute, open_output, open_workspace
from hilbert_ray.store import Store, bucket_of

log = logging.getLogger(__name__)
EXPLAINED = 10  # segments of each modality that `explain` lists


@dataclass(frozen=True, kw_only=True, slots=True)
class PredictSummary:
    """What `predict` did.

    predicted: rows written. partly: documents among them of which one modality is in quarantine, so that the
    other alone was read. failed: documents and manifest rows without a prediction. Both give the reasons.
    """

    out: str
    predicted: int
    partly: Mapping[str, str]
    failed: Mapping[str, str]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)

    def text(self) -> str:
        """Return lines for a terminal."""
        lines = [f"{self.predicted} documents predicted: {self.out}"]
        lines += [f"{doc_id}: one modality only; {reason}" for doc_id, reason in self.partly.items()]
        lines += [f"{doc_id}: not predicted; {reason}" for doc_id, reason in self.failed.items()]
        return "\n".join(lines)


def predict(
    model: str,
    manifest: str,
    out: str,
    config: EmbedConfig,
    *,
    store: str | None = None,
    trust_remote_code: bool = False,
    roots: Sequence[str] = (),
) -> PredictSummary:
    """Embed and classify every document of a manifest.

    The Parquet file has a row a document: doc_id; audio, text, joint (lists of float32, see
    `model.Prediction`; null where the modality is absent); for each task `<task>` (the class decided on, a
    list for multilabel, a number for regression) and `<task>.<class>` (its calibrated probability);
    audio_start, audio_end, audio_weight, text_start, text_end, text_weight (lists of float32, one number a
    segment: its times as in `batch.Ragged`, and its share of the pooled embedding, summing to 1); fault (why
    one modality could not be read and is missing from all of this; null where nothing is wrong).

    Args:
        model: published folder, path or URI.
        manifest: path or URI.
        out: Parquet file to write, path or URI.
        config: how to run the embedding.
        store: feature store to reuse and fill; default `<out>.store`.
        trust_remote_code: let encoders run the Python code that comes with their weights.
        roots: folders and URI prefixes below which the manifest's files must lie; none allows any file.

    Raises:
        ModelError: when the folder cannot be loaded, or an encoder here is not the one it was trained with.
    """
    trained = _load(model, trust_remote_code)
    settings = replace(trained.config, embed=config, roots=tuple(roots))
    for modality in MODALITIES:
        known = trained.encoders.get(modality)
        if known is None:
            continue
        options = getattr(settings, f"{modality}_encoder")
        here = load_encoder_spec(getattr(settings, modality), modality, options, settings.segment).fingerprint
        if here != known["fingerprint"]:
            raise ModelError(
                f"model {model} was trained on {modality} features of encoder {known['name']} with "
                f"fingerprint {known['fingerprint']}, but that encoder has fingerprint {here} here: use the "
                "same weights, revision and versions"
            )
    store = store or f"{out}.store"
    summary = embed(manifest, store, settings)
    opened = Store.open(store)
    buckets = sorted({bucket_of(document.doc_id, opened.buckets) for document in opened.documents()})
    fingerprints = {m: trained.encoders[m]["fingerprint"] for m in MODALITIES if m in trained.encoders}
    connect()
    faults: dict[str, str] = {}
    for modality, one in summary.modalities.items():
        for failure in one.quarantined:
            earlier = f"{faults[failure.doc_id]}; " if failure.doc_id in faults else ""
            faults[failure.doc_id] = f"{earlier}{modality}: {failure.message}"
    context = data_context()
    context.execution_options.preserve_order = True  # the same run writes the same file
    with ray.data.DataContext.current(context):
        rows = ray.data.from_items([{"bucket": bucket} for bucket in buckets]).map_batches(
            PredictBucket,
            fn_constructor_kwargs={
                "model": absolute(model),
                "store": opened.uri,
                "fingerprints": fingerprints,
                "trust_remote_code": trust_remote_code,
            },
            batch_size=1,
            batch_format="numpy",
            compute=ray.data.ActorPoolStrategy(size=1),
            num_cpus=0.5,
        )
        with open_output(out) as path:
            predicted, partly = _write(rows, path, trained, faults)
    failed = {doc_id: reason for doc_id, reason in faults.items() if doc_id not in partly}
    failed |= {f"row {fault.row}": fault.message for fault in summary.faults}
    return PredictSummary(out=out, predicted=predicted, partly=partly, failed=failed)


def _load(model: str, trust_remote_code: bool) -> Hilbert:
    with open_workspace(model) as published:
        if not any(published.path.glob("*")):
            raise ModelError(
                f"model folder {model} cannot be read: nothing is there; `hilbert-ray train` publishes one"
            )
        return Hilbert.from_pretrained(published.path, trust_remote_code=trust_remote_code)


class PredictBucket:
    """Actor that reads the features of one bucket's documents and predicts them."""

    def __init__(
        self, model: str, store: str, fingerprints: Mapping[Modality, str], trust_remote_code: bool
    ) -> None:
        torch.set_num_threads(1)
        self.model = _load(model, trust_remote_code)
        self.store = Store.open(store)
        self.fingerprints = fingerprints

    def __call__(self, batch: Mapping[str, Any]) -> pa.Table:
        """Return the predictions of the bucket that the batch names."""
        bucket = int(batch["bucket"][0])
        documents = [stored.document for stored in self.store.stored_documents(buckets={bucket}, words=False)]
        placed = {m: self.store.placed(m, key, bucket) for m, key in self.fingerprints.items()}
        features = read_features(self.store, placed, {}, documents)
        if not len(features):
            return schema(self.model).empty_table()
        return table(self.model, features, self.model.predict(features))


def schema(model: Hilbert) -> pa.Schema:
    """Return the columns of the Parquet file, see `predict`."""
    vectors = pa.list_(pa.float32())
    fields = [("doc_id", pa.string()), ("audio", vectors), ("text", vectors), ("joint", vectors)]
    for name, task in model.config.tasks.items():
        one = pa.float32() if task.kind == "regression" else pa.string()
        fields.append((name, pa.list_(one) if task.kind == "multilabel" else one))
        fields += [(f"{name}.{label}", pa.float32()) for label in task.classes]
    fields += [(f"{m}_{what}", vectors) for m in MODALITIES for what in ("start", "end", "weight")]
    return pa.schema([*fields, ("fault", pa.string())])


def table(model: Hilbert, features: Features, prediction: Prediction) -> pa.Table:
    """Return predictions as the rows that `predict` writes."""
    columns: dict[str, Any] = {"doc_id": features.doc_ids.tolist(), "fault": [None] * len(features)}
    for name in ("audio", "text", "joint"):
        columns[name] = [vector.tolist() if vector.any() else None for vector in getattr(prediction, name)]
    for modality in MODALITIES:
        ragged = getattr(features, modality)
        parts = {"weight": getattr(prediction, f"{modality}_attention")}
        for what in ("start", "end"):
            spans = [] if ragged is None else np.split(getattr(ragged, what), ragged.offsets[1:-1])
            parts[what] = spans or [np.zeros(0, np.float32)] * len(features)
        for what, rows in parts.items():
            columns[f"{modality}_{what}"] = [row.tolist() if len(row) else None for row in rows]
    for name, task in model.config.tasks.items():
        decision = prediction.decisions[name]
        if task.kind == "regression":
            columns[name] = decision
        elif task.kind == "multilabel":
            columns[name] = [
                [c for c, held in zip(task.classes, row, strict=True) if held] for row in decision
            ]
        else:
            columns[name] = [task.classes[k] for k in decision]
        for k, label in enumerate(task.classes):
            columns[f"{name}.{label}"] = prediction.probabilities[name][:, k]
    return pa.table(columns, schema(model))


def explain(out: str, doc_id: str) -> str:
    """Return lines on a document of a file that `predict` wrote: which segments weigh most, and how much.

    Raises:
        ConfigError: when the file has no such document.
    """
    with fsspec.open(out, "rb") as file:
        rows = pq.read_table(file, filters=[("doc_id", "=", doc_id)]).to_pylist()
    if not rows:
        raise ConfigError(f"{out} has no prediction of document {doc_id!r}; see what `predict` says of it")
    lines = [f"{doc_id}: segments by their share of the embedding"]
    for modality in MODALITIES:
        names = (f"{modality}_weight", f"{modality}_start", f"{modality}_end")
        found = sorted(zip(*(rows[0][name] or () for name in names), strict=True), reverse=True)
        for weight, start, end in found[:EXPLAINED]:
            lines.append(f"  {modality:5} {start:9.2f} to {end:9.2f}  {weight:6.1%}")
        if len(found) > EXPLAINED:
            rest = sum(weight for weight, _, _ in found[EXPLAINED:])
            lines.append(f"  {modality:5} {len(found) - EXPLAINED} others {rest:18.1%}")
    return "\n".join(lines)


def _write(
    rows: ray.data.Dataset, path: Path, model: Hilbert, faults: Mapping[str, str]
) -> tuple[int, dict[str, str]]:
    """Write the rows as they come into one Parquet file; note their faults.

    Returns:
        The number of rows, and the faults of those that have one.
    """
    columns = schema(model)
    count = 0
    partly: dict[str, str] = {}
    place = columns.get_field_index("fault")
    with pq.ParquetWriter(path, columns) as writer:
        for batch in rows.iter_batches(batch_size=None, batch_format="pyarrow"):
            ids = batch["doc_id"].to_pylist()
            noted = pa.array([faults.get(doc_id) for doc_id in ids], pa.string())
            writer.write_table(batch.cast(columns).set_column(place, columns.field(place), noted))
            count += len(ids)
            partly |= {doc_id: faults[doc_id] for doc_id in ids if doc_id in faults}
    return count, partly
