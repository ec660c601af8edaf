"""`embed`: plan first, and start Ray only if something is left to do.

Ray Data then streams units, longest first, through a pool of encoder actors (`worker.EmbedUnits`), which
write and commit what they embed (`units.run_units`).
"""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from hilbert_ray.config import Config, Modality
from hilbert_ray.document import InvalidRow, Seconds, reason_lines
from hilbert_ray.embedding.resolve import (
    chosen_encoders,
    jobs_of,
    resolve_encoders,
    warn_of_other_layer,
)
from hilbert_ray.embedding.worker import EmbedUnits
from hilbert_ray.encoders import Encoder
from hilbert_ray.store import Quarantined, Snapshot, Store
from hilbert_ray.units import Plan, UnitResult, check_quarantined, plan_all, run_units, take_snapshot


@dataclass(frozen=True, kw_only=True, slots=True)
class ModalitySummary:
    """What a run did for one modality. `amount`: hours of audio or tokens of text that this run embedded."""

    encoder: str
    fingerprint: str
    planned: int
    embedded: int
    already_stored: int
    absent: int
    amount: float
    quarantined: tuple[Quarantined, ...]
    """Documents that are quarantined now, by this run or an earlier one."""

    def text(self, modality: Modality) -> str:
        """Return one line to read."""
        amount = f"{self.amount:.2f} h" if modality == "audio" else f"{self.amount:.0f} tokens"
        done = f"{self.embedded} embedded ({amount})" if self.planned else "nothing to embed"
        return (
            f"{modality:5} {self.encoder}: {done}, {self.already_stored} already stored, {self.absent} "
            f"without {modality}, {len(self.quarantined)} quarantined"
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class EmbedSummary:
    """What a run did: in each modality, every manifest row is stored, quarantined, absent or invalid."""

    documents: int
    faults: tuple[InvalidRow, ...]
    modalities: Mapping[Modality, ModalitySummary] = field(default_factory=dict)
    seconds: Seconds = 0.0

    @property
    def embedded(self) -> int:
        """Embeddings that this run computed, both modalities together."""
        return sum(summary.embedded for summary in self.modalities.values())

    def to_dict(self) -> dict[str, Any]:
        """Return the summary as plain values."""
        values: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return values

    def text(self) -> str:
        """Return the summary as lines to read."""
        lines = [f"{self.documents} documents, {len(self.faults)} invalid manifest rows"]
        lines += [summary.text(modality) for modality, summary in self.modalities.items()]
        for modality, summary in self.modalities.items():
            if summary.quarantined:
                lines.append(f"quarantined, {modality}: {len(summary.quarantined)}; --json lists them all")
                lines += reason_lines(summary.quarantined)
        # Last, since the exit code does not say it: rows that are no documents are not embedded.
        if self.faults:
            lines.append(f"invalid rows, not embedded: {len(self.faults)}; --json lists them all")
            lines += reason_lines(self.faults, "row")
        return "\n".join(lines)


def embed(manifest: str, store: str, config: Config | None = None) -> EmbedSummary:
    """Embed the documents of a manifest that a store does not hold yet.

    Rerun it after any failure: what is committed stays, and only the rest is embedded.

    Args:
        manifest: path or URI of the manifest.
        store: path or URI of the store; created if absent.
        config: the encoders, and the settings of segmentation and of the run; None: the defaults.

    Raises:
        ConfigError: when an encoder cannot be loaded as configured.
        ManifestError: when the manifest cannot be read at all.
        StoreError: when the store cannot be read, or has another schema.
        UnitsError: when the manifest has no valid document, the store cannot be written, an encoder does
            not load, or workers keep dying.
        TooManyQuarantinedError: when more documents are quarantined than `config.embed.max_quarantined`
            allows, by this run or an earlier one.
    """
    config = config or Config()
    summary = embed_what_can_be(manifest, store, config)
    # The store and not the run: a job that is tried again has nothing left to embed, and must fail again.
    for modality, part in summary.modalities.items():
        having = summary.documents - part.absent
        check_quarantined(modality, part.quarantined, having, config.embed.max_quarantined)
    return summary


def embed_what_can_be(manifest: str, store: str, config: Config) -> EmbedSummary:
    """Embed as `embed` does, but do not judge how many documents are quarantined in the end.

    For those that say of each document what became of it, as `predict` does. A run still stops early when
    many documents fail.

    Raises:
        ConfigError, ManifestError, StoreError, UnitsError, TooManyQuarantinedError: as `embed`.
    """
    # Not the wall clock, which a time server may set back during a run of days.
    started = time.monotonic()
    config = resolve_encoders(config)
    encoders = chosen_encoders(config)

    target = Store.create(store, config.embed.buckets)
    snapshot = take_snapshot(manifest, target, config)
    # Before any features: a reader must be able to tell what a folder of features is, at any moment.
    for modality, encoder in encoders.items():
        target.add_encoder(modality, encoder.fingerprint, encoder.describe())

    # What commits hold is done, whoever did it. With nothing left, a rerun takes seconds and starts no Ray.
    plans = plan_all(target, snapshot, jobs_of(encoders), config)
    for (modality, encoder), plan in zip(encoders.items(), plans, strict=True):
        warn_of_other_layer(target, modality, plan, encoder, config)
    results = run_units(target, snapshot, plans, config, EmbedUnits)

    return EmbedSummary(
        documents=snapshot.num_documents,
        faults=snapshot.faults,
        modalities={
            modality: _summary(modality, plan, encoder, results, target, snapshot)
            for (modality, encoder), plan in zip(encoders.items(), plans, strict=True)
        },
        seconds=time.monotonic() - started,
    )


def _summary(
    modality: Modality,
    plan: Plan,
    encoder: Encoder,
    results: Sequence[UnitResult],
    store: Store,
    snapshot: Snapshot,
) -> ModalitySummary:
    """Return what the results of a run say about one modality."""
    # Of this run only; what is quarantined is read from the store, since earlier runs count too.
    own_results = [result for result in results if result.content == modality]
    amount = sum(result.amount for result in own_results)
    return ModalitySummary(
        encoder=encoder.name,
        fingerprint=plan.job.fingerprint,
        planned=sum(len(unit.keys) for unit in plan.units),
        embedded=sum(result.stored for result in own_results),
        already_stored=plan.stored,
        absent=plan.absent,
        amount=amount / 3600 if modality == "audio" else amount,
        quarantined=tuple(store.quarantined(modality, plan.job.fingerprint, snapshot)),
    )
