"""`predict`: embeddings and predictions of a published model for a new manifest, as Ray Data jobs.

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
import ray
import ray.data
import torch

from hilbert_ray.cluster import connect, data_context, given_device
from hilbert_ray.config import (
    MODALITIES,
    Config,
    ConfigError,
    EmbedConfig,
    Modality,
    TaskConfig,
    class_column,
    heads_column,
)
from hilbert_ray.document import InvalidRow, reason_lines
from hilbert_ray.embedding import embed_what_can_be
from hilbert_ray.encoders import build_encoder
from hilbert_ray.features import Features, read_features
from hilbert_ray.model import HEADS, Hilbert, ModelError, Prediction
from hilbert_ray.storage import (
    absolute,
    access_errors,
    open_output,
    open_workspace,
    parquet_writer,
    read_parquet,
    require_writable,
)
from hilbert_ray.store import Quarantined, Store
from hilbert_ray.units import takes_gpus

log = logging.getLogger(__name__)
EXPLAINED = 10
"""Segments of each modality that `explain` lists; the rest is one line."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PredictSummary:
    """What `predict` did.

    predicted: rows written. partly: documents among them that were predicted from one modality because the
    other is in quarantine. failed: documents and manifest rows without a prediction. Both with the reasons as
    text; `quarantined` and `faults` are the records that they come from.
    """

    out: str
    predicted: int
    partly: Mapping[str, str]
    failed: Mapping[str, str]
    quarantined: tuple[Quarantined, ...] = ()
    faults: tuple[InvalidRow, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)

    def text(self) -> str:
        """Return lines for a terminal."""
        lines = [f"{self.predicted} documents predicted: {self.out}"]
        for title, doc_ids in (
            ("predicted from one modality only", self.partly),
            ("documents not predicted", self.failed.keys() - {f"row {fault.row}" for fault in self.faults}),
        ):
            if doc_ids:
                lines.append(f"{title}: {len(doc_ids)}; --json lists them all")
                lines += reason_lines([one for one in self.quarantined if one.doc_id in doc_ids])
        if self.faults:
            lines.append(f"invalid rows, not predicted: {len(self.faults)}; --json lists them all")
            lines += reason_lines(self.faults, "row")
        return "\n".join(lines)


def predict(
    model: str,
    manifest: str,
    out: str,
    config: Config | None = None,
    *,
    store: str | None = None,
    trust_remote_code: bool = False,
) -> PredictSummary:
    """Embed and classify every document of a manifest.

    The Parquet file has one row per document: doc_id; audio, text, joint (lists of float32, see
    `model.Prediction`; null where the modality is absent); for each task `<task>` (the decided class, a list
    for multilabel, a number for regression), `<task>.<class>` (its calibrated probability) and `<task>_heads`
    (how much the experts, the audio head and the text head counted, summing to 1); audio_start,
    audio_end, audio_weight, text_start, text_end, text_weight (lists of float32 with one number per segment:
    its times as in `Ragged`, and its part of the pooled embedding, summing to 1); fault (why a modality could
    not be read and is missing from all of this; null where nothing is wrong).

    Args:
        model: published model folder, path or URI.
        manifest: path or URI.
        out: Parquet file to write, path or URI.
        config: its `embed` says how to run the embedding, its `roots` which folders and URI prefixes the
            manifest's files may lie under (empty: anywhere); all other settings are the model's own.
        store: feature store to reuse and fill; default `<out>.store`.
        trust_remote_code: let encoders run the Python code that comes with their weights.

    Raises:
        WriteError: when `out` cannot be written.
        ModelError: when the folder cannot be loaded, or an encoder here is not the one it was trained with.
    """
    config = config or Config()
    require_writable(out)
    trained = _load(model, trust_remote_code)
    # Cutting, encoders and tasks are the model's own: other features would not fit its weights.
    settings = replace(trained.config, embed=config.embed, roots=config.roots)
    _require_same_encoders(model, trained, settings)
    # Kept, so that a rerun resumes, and a second model on the same encoders embeds nothing.
    store_uri = store or f"{out}.store"
    # A document that fails is a row with its fault, whatever share of them does.
    summary = embed_what_can_be(manifest, store_uri, settings)
    faults = _faults({modality: done.quarantined for modality, done in summary.modalities.items()})
    connect()
    log.info("predicting %d documents", summary.documents)
    context = data_context()
    # Otherwise the order of rows would depend on which bucket is ready first.
    context.execution_options.preserve_order = True
    # A dataset keeps the context that it is made in.
    with ray.data.DataContext.current(context):
        rows = _predicted_rows(model, trained, Store.open(store_uri), trust_remote_code, config.embed)
        with open_output(out) as path:
            predicted, partly = _write(rows, path, trained, faults)
    failed = {doc_id: reason for doc_id, reason in faults.items() if doc_id not in partly}
    failed |= {f"row {fault.row}": fault.message for fault in summary.faults}
    return PredictSummary(
        out=out,
        predicted=predicted,
        partly=partly,
        failed=failed,
        quarantined=tuple(one for done in summary.modalities.values() for one in done.quarantined),
        faults=summary.faults,
    )


def _require_same_encoders(model: str, trained: Hilbert, settings: Config) -> None:
    """Raise ModelError where an encoder would give other features than those the model was trained on."""
    for modality in MODALITIES:
        described = trained.encoders.get(modality)
        if described is None:
            continue
        choice = settings.encoder(modality)
        spec = build_encoder(choice.spec, modality, choice.options, settings.segment)
        if spec.fingerprint != described["fingerprint"]:
            raise ModelError(
                f"model {model} was trained on {modality} features of encoder {described['name']} with "
                f"fingerprint {described['fingerprint']}, but here that encoder has fingerprint "
                f"{spec.fingerprint}; use the same weights, revision and package versions"
            )


def _faults(quarantined: Mapping[Modality, Sequence[Quarantined]]) -> dict[str, str]:
    """Return what could not be embedded, by document: modality and reason, of both modalities if need be."""
    faults: dict[str, str] = {}
    for modality, failures in quarantined.items():
        for failure in failures:
            earlier = f"{faults[failure.doc_id]}; " if failure.doc_id in faults else ""
            faults[failure.doc_id] = f"{earlier}{modality}: {failure.message}"
    return faults


def _predicted_rows(
    model: str, trained: Hilbert, store: Store, trust_remote_code: bool, settings: EmbedConfig
) -> ray.data.Dataset:
    """Return the lazy dataset of predictions: one actor reads the store bucket by bucket.

    It computes on a GPU, as much of one as an encoder has, where encoders do.
    """
    fingerprints = {m: trained.encoders[m]["fingerprint"] for m in MODALITIES if m in trained.encoders}
    snapshot = store.snapshot()
    # Sorted, so that rows have the same order in every run.
    buckets = sorted({bucket for bucket, _ in snapshot.row_groups})
    return ray.data.from_items([{"bucket": bucket} for bucket in buckets]).map_batches(
        PredictBucket,
        fn_constructor_kwargs={
            "model": absolute(model),
            "store": store.uri,
            "snapshot": snapshot.number,
            "fingerprints": fingerprints,
            "trust_remote_code": trust_remote_code,
        },
        batch_size=1,
        batch_format="numpy",
        # Networks are small next to encoders, so one actor keeps up; half a CPU leaves room for Ray's own
        # tasks on a single core.
        compute=ray.data.ActorPoolStrategy(size=1),
        **({"num_gpus": settings.gpus_per_worker} if takes_gpus(settings) else {"num_cpus": 0.5}),
    )


def _load(model: str, trust_remote_code: bool) -> Hilbert:
    with open_workspace(model) as published:
        if not any(published.path.glob("*")):
            raise ModelError(
                f"model folder {model} does not exist or is empty; give the folder RUN/model that "
                "`hilbert-ray train` wrote"
            )
        return Hilbert.from_pretrained(published.path, trust_remote_code=trust_remote_code)


class PredictBucket:
    """Actor that reads the features of one bucket's documents and predicts them."""

    def __init__(
        self,
        model: str,
        store: str,
        snapshot: int,
        fingerprints: Mapping[Modality, str],
        trust_remote_code: bool,
    ) -> None:
        # Ray gives the actor half a CPU; torch would take all of the machine's.
        torch.set_num_threads(1)
        self.model = _load(model, trust_remote_code).to(given_device())
        self.store = Store.open(store)
        # By number: another run may replace the store's newest manifest meanwhile.
        self.snapshot = self.store.snapshot(snapshot)
        self.fingerprints = fingerprints

    def __call__(self, batch: Mapping[str, Any]) -> pa.Table:
        """Return the predictions of the bucket that the batch names."""
        bucket = int(batch["bucket"][0])
        documents = [item.document for item in self.snapshot.documents({bucket}, with_text=False)]
        stored = {
            modality: self.store.locate(modality, fingerprint, self.snapshot, {bucket})
            for modality, fingerprint in self.fingerprints.items()
        }
        features = read_features(self.store, stored, {}, documents)
        # A bucket can consist of quarantined documents only; Ray Data still needs its columns.
        if not len(features):
            return prediction_schema(self.model).empty_table()
        return prediction_table(self.model, features, self.model.predict(features))


def prediction_schema(model: Hilbert) -> pa.Schema:
    """Return the columns of the Parquet file, see `predict`."""
    vectors = pa.list_(pa.float32())
    fields = [("doc_id", pa.string()), ("audio", vectors), ("text", vectors), ("joint", vectors)]
    for name, task in model.config.tasks.items():
        decision = pa.float32() if task.kind == "regression" else pa.string()
        fields.append((name, pa.list_(decision) if task.kind == "multilabel" else decision))
        fields += [(class_column(name, label), pa.float32()) for label in task.classes]
        fields.append((heads_column(name), pa.struct([(head, pa.float32()) for head in HEADS])))
    fields += [(f"{m}_{column}", vectors) for m in MODALITIES for column in ("start", "end", "weight")]
    return pa.schema([*fields, ("fault", pa.string())])


def prediction_table(model: Hilbert, features: Features, prediction: Prediction) -> pa.Table:
    """Return predictions as the rows that `predict` writes, all without a fault."""
    columns: dict[str, Any] = {"doc_id": features.doc_ids.tolist(), "fault": [None] * len(features)}
    for name, vectors in prediction.embeddings._asdict().items():
        # The network gives zeros for an absent modality, which would look like an embedding.
        columns[name] = [vector.tolist() if vector.any() else None for vector in vectors]
    for modality in MODALITIES:
        ragged = features.by_modality.get(modality)
        by_document = {"weight": prediction.attention[modality]}
        for column in ("start", "end"):
            # Without the encoder no document has segments, and each cell is null.
            spans = [] if ragged is None else np.split(getattr(ragged, column), ragged.offsets[1:-1])
            by_document[column] = spans or [np.zeros(0, np.float32)] * len(features)
        for column, rows in by_document.items():
            columns[f"{modality}_{column}"] = [row.tolist() if len(row) else None for row in rows]
    for name, task in model.config.tasks.items():
        columns[name] = _named_decisions(task, prediction.decisions[name])
        for k, label in enumerate(task.classes):
            columns[class_column(name, label)] = prediction.probabilities[name][:, k]
        columns[heads_column(name)] = [
            dict(zip(HEADS, row.tolist(), strict=True)) for row in prediction.shares[name]
        ]
    return pa.table(columns, prediction_schema(model))


def _named_decisions(task: TaskConfig, decisions: np.ndarray) -> Any:  # noqa: ANN401 - by kind of task
    """Return decisions as readers see them: numbers, names of classes, or lists of names."""
    if task.kind == "regression":
        return decisions
    if task.kind == "multilabel":
        return [
            [label for label, is_set in zip(task.classes, row, strict=True) if is_set] for row in decisions
        ]
    return [task.classes[k] for k in decisions]


def explain(out: str, doc_id: str) -> str:
    """Return lines that list the heaviest segments of a document, from a file that `predict` wrote.

    Raises:
        ConfigError: when the file has no such document.
        DamagedError: when the file is not what was written.
    """
    # Filtered while reading: a file of many documents does not have to fit into memory.
    with access_errors(out), fsspec.open(out, "rb") as file:
        repair = "rerun `hilbert-ray predict`, which writes it again"
        rows = read_parquet(file, out, repair, filters=[("doc_id", "=", doc_id)]).to_pylist()
    if not rows:
        raise ConfigError(
            f"{out} has no prediction of document {doc_id!r}; the summary of `predict` lists the documents "
            "that were not predicted, and why"
        )
    lines = [f"{doc_id}: segments by their weight in the embedding"]
    for modality in MODALITIES:
        names = (f"{modality}_weight", f"{modality}_start", f"{modality}_end")
        # The weight is first, so that tuples sort by it.
        segments = sorted(zip(*(rows[0][name] or () for name in names), strict=True), reverse=True)
        # A text without times has positions instead, from 0 to 1; one with times hardly ends that early.
        is_timed = modality == "audio" or max((end for _, _, end in segments), default=0.0) > 1.0
        scale, unit = (1, "s") if is_timed else (100, "%")
        for weight, start, end in segments[:EXPLAINED]:
            place = f"{scale * start:9.2f} to {scale * end:9.2f} {unit}"
            lines.append(f"  {modality:5} {place}  {weight:6.1%}")
        if len(segments) > EXPLAINED:
            rest = sum(weight for weight, _, _ in segments[EXPLAINED:])
            lines.append(f"  {modality:5} {f'{len(segments) - EXPLAINED} others':<24}  {rest:6.1%}")
        if segments and not is_timed:
            lines.append(f"  {modality:5} has no times: % are positions in the document")
    return "\n".join(lines)


def _write(
    rows: ray.data.Dataset, path: Path, model: Hilbert, faults: Mapping[str, str]
) -> tuple[int, dict[str, str]]:
    """Write the rows as they come into one Parquet file, with their faults.

    Returns:
        The number of rows, and the faults of those that have one.
    """
    columns = prediction_schema(model)
    count = 0
    partly: dict[str, str] = {}
    fault_index = columns.get_field_index("fault")
    with parquet_writer(path, columns) as writer:
        for batch in rows.iter_batches(batch_size=None, batch_format="pyarrow"):
            doc_ids = batch["doc_id"].to_pylist()
            # Only the driver knows what was quarantined: the actor sees what the store holds.
            reasons = pa.array([faults.get(doc_id) for doc_id in doc_ids], pa.string())
            field = columns.field(fault_index)
            writer.write_table(batch.cast(columns).set_column(fault_index, field, reasons))
            count += len(doc_ids)
            partly |= {doc_id: faults[doc_id] for doc_id in doc_ids if doc_id in faults}
    return count, partly
