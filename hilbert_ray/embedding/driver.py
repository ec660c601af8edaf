"""`embed`: plan first, and start Ray only when something is left to do.

Ray Data then streams units, longest first, through a pool of encoder actors (`worker.EmbedUnits`), which
write and commit what they make: nothing but short results comes back, and any process may die at any
moment. Units lost with a worker run again, document by document, until each is committed.
"""

import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from hilbert_ray.cluster import connect
from hilbert_ray.config import Config, Modality
from hilbert_ray.document import Fault, Seconds
from hilbert_ray.embedding.plan import versioned_rows
from hilbert_ray.embedding.pool import run_units
from hilbert_ray.embedding.resolve import chosen_encoders, plan_all, require_documents, resolve_encoders
from hilbert_ray.embedding.worker import UnitResult
from hilbert_ray.store import Quarantined, Store


@dataclass(frozen=True, kw_only=True, slots=True)
class ModalitySummary:
    """What a run did for one modality. `amount` is hours of audio or tokens of text, of this run."""

    encoder: str
    fingerprint: str
    planned: int
    embedded: int
    already_stored: int
    absent: int
    amount: float
    quarantined: tuple[Quarantined, ...]
    """Documents that are quarantined now, by this run or an earlier one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EmbedSummary:
    """What a run did. For each modality a row of the manifest is stored, quarantined, absent or a fault."""

    documents: int
    faults: tuple[Fault, ...]
    modalities: Mapping[Modality, ModalitySummary] = field(default_factory=dict)
    seconds: Seconds = 0.0

    @property
    def embedded(self) -> int:
        """Embeddings that this run made, both modalities together."""
        return sum(one.embedded for one in self.modalities.values())

    def to_dict(self) -> dict[str, Any]:
        """Return the summary as plain values."""
        values: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return values

    def text(self) -> str:
        """Return the summary as lines to read."""
        lines = [f"{self.documents} documents, {len(self.faults)} rows of the manifest are at fault"]
        for modality, one in self.modalities.items():
            amount = f"{one.amount:.2f} h" if modality == "audio" else f"{one.amount:.0f} tokens"
            did = f"{one.embedded} embedded ({amount})" if one.planned else "nothing to embed"
            lines.append(
                f"{modality:5} {one.encoder}: {did}, {one.already_stored} stored already, {one.absent} "
                f"without {modality}, {len(one.quarantined)} quarantined"
            )
        for fault in self.faults:
            lines.append(f"  row {fault.row} ({fault.error}): {fault.message}")
        for modality, one in self.modalities.items():
            for failure in one.quarantined:
                lines.append(f"  {failure.doc_id} ({modality}, {failure.error}): {failure.message}")
        return "\n".join(lines)


def embed(manifest: str, store: str, config: Config) -> EmbedSummary:
    """Embed the documents of a manifest that a store does not hold yet.

    Args:
        manifest: path or URI of the manifest.
        store: path or URI of the store; it is made where there is none.
        config: the encoders, and the settings of segmentation and of the run.

    Raises:
        ConfigError: when an encoder cannot be had.
        ManifestError: when the manifest cannot be read at all.
        StoreError: when the store cannot be read, or is of another schema.
        EmbedError: when the manifest has no valid document, the store cannot be written, an encoder does
            not load, or workers keep
        dying.
        TooManyQuarantinedError: when more documents fail than `config.embed.max_quarantined` allows.
    """
    began = time.monotonic()
    config = resolve_encoders(config)
    chosen = chosen_encoders(config)
    target = Store.create(store, config.embed.buckets)
    rows = versioned_rows(manifest, config.embed.content_hash, config.roots)
    snapshot = target.write_documents(rows, config.segment.roles)
    require_documents(manifest, snapshot)
    for modality, encoder in chosen.items():
        target.add_encoder(modality, encoder.fingerprint, encoder.describe())
    plans = plan_all(target, snapshot, chosen, config)
    results: list[UnitResult] = []
    if any(one.units for one in plans):
        connect()
        results = run_units(target, snapshot, plans, config)
    summaries = {}
    for one in plans:
        modality = one.job.modality
        own = [result for result in results if result.modality == modality]
        amount = sum(result.amount for result in own)
        summaries[modality] = ModalitySummary(
            encoder=chosen[modality].name,
            fingerprint=one.job.fingerprint,
            planned=sum(len(unit.keys) for unit in one.units),
            embedded=sum(result.stored for result in own),
            already_stored=one.stored,
            absent=one.absent,
            amount=amount / 3600 if modality == "audio" else amount,
            quarantined=tuple(target.quarantined(modality, one.job.fingerprint)),
        )
    return EmbedSummary(
        documents=snapshot.rows,
        faults=snapshot.faults,
        modalities=summaries,
        seconds=time.monotonic() - began,
    )
