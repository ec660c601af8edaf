"""What a run of `embed` would do, without doing it: documents, hours, units, size and time.

Nothing is written to the store. The speed is measured: as many encoder actors as the cluster has room for
embed real pending documents for some seconds, all at once, so that what they take from each other counts.
"""

import json
import random
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import ray

from hilbert_ray.cluster import connect
from hilbert_ray.config import Config, Modality
from hilbert_ray.document import AudioSegment, Fault, Seconds, Segment
from hilbert_ray.embedding.features import segments_of
from hilbert_ray.embedding.plan import CHARACTERS_PER_S, EmbedPlan, versioned_rows
from hilbert_ray.embedding.pool import duration, pool
from hilbert_ray.embedding.reading import DocumentEnd, DocumentProgress, DocumentReader, read_ahead
from hilbert_ray.embedding.resolve import (
    EmbedError,
    chosen_encoders,
    plan_all,
    require_documents,
    resolve_encoders,
)
from hilbert_ray.embedding.worker import configured_encoder, load_fault
from hilbert_ray.encoders import Encoder
from hilbert_ray.storage import Files
from hilbert_ray.store import Quarantined, Snapshot, Store, StoredDocument

PROBE_S = 10.0
"""About how long the probe of one modality takes, seconds, without loading the encoder."""
_DOCUMENTS = 16
_BATCH_S, _BATCH_TEXTS = 60.0, 256
_TIMES_BYTES = 8
"""Bytes that the store keeps of a segment besides its features: start and end."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Rate:
    """What a probe measured for each of `workers` actors that worked at once.

    speed: seconds of the plan (for text: of speech, `CHARACTERS_PER_S`) embedded in a second; 0 where no
    sampled document could be read, for the reason `fault`. bytes_per_s: what the store keeps of each.
    """

    workers: int
    speed: float
    bytes_per_s: float
    fault: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class ModalityEstimate:
    """What is left for one modality: `seconds` of audio or speech, which take `workers` actors `time_s`.

    `gpus_per_worker` is 0 where nothing is left, or the cluster has no GPU.
    """

    encoder: str
    planned: int
    already_stored: int
    quarantined: int
    absent: int
    units: int
    seconds: Seconds
    workers: int
    gpus_per_worker: float
    rate: Rate | None
    size_bytes: float | None
    time_s: Seconds | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """What a run would do; see the module."""

    documents: int
    faults: tuple[Fault, ...]
    modalities: Mapping[Modality, ModalityEstimate] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return the estimate as plain values."""
        values: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return values

    def text(self) -> str:
        """Return the estimate as lines to read."""
        lines = [f"{self.documents} documents, {len(self.faults)} rows of the manifest are at fault"]
        for modality, one in self.modalities.items():
            amount = (
                f"{one.seconds / 3600:.2f} h"
                if modality == "audio"
                else f"{one.seconds * CHARACTERS_PER_S:.0f} characters"
            )
            lines.append(
                f"{modality:5} {one.encoder}: {one.planned} to embed ({amount}, {one.units} units), "
                f"{one.already_stored} stored already, {one.quarantined} quarantined earlier, {one.absent} "
                f"without {modality}"
            )
            if one.rate is None:
                continue
            if one.size_bytes is None or one.time_s is None:
                lines.append(f"      no estimate: no sampled document could be read; {one.rate.fault}")
                continue
            lines.append(
                f"      about {one.size_bytes / 1e6:.1f} MB and {duration(one.time_s)} on {one.workers} "
                f"worker{'s' * (one.workers != 1)}, without start-up (measured: {one.rate.workers} at once, "
                f"each {one.rate.speed:.0f} times real time)"
            )
        lines += [f"  row {fault.row} ({fault.error}): {fault.message}" for fault in self.faults]
        return "\n".join(lines)


def estimate(manifest: str, store: str, config: Config) -> Estimate:
    """Return what `embed` would do with the same arguments; write nothing.

    Args:
        manifest: path or URI of the manifest.
        store: path or URI of the store, which need not exist.
        config: the encoders, and the settings of segmentation and of the run; `embed.workers` are the workers
            to estimate the time for (0: as many as the cluster has room for now).

    Raises:
        ConfigError, ManifestError, StoreError, EmbedError: as `embed` does before anything runs, and where an
        encoder does not load.
    """
    config = resolve_encoders(config)
    chosen = chosen_encoders(config)
    with tempfile.TemporaryDirectory(prefix="hilbert-ray-") as folder:
        target = _existing(store)
        buckets = config.embed.buckets if target is None else target.buckets
        documents = Store.create(folder, buckets)
        rows = versioned_rows(manifest, config.embed.content_hash, config.roots)
        snapshot = documents.write_documents(rows, config.segment.roles)
        require_documents(manifest, snapshot)
        plans = plan_all(target or documents, snapshot, chosen, config, documents)
        found = {
            one.job.modality: _estimate(one, chosen[one.job.modality], documents, snapshot, config)
            for one in plans
        }
    return Estimate(documents=snapshot.rows, faults=snapshot.faults, modalities=found)


def _existing(uri: str) -> Store | None:
    try:
        Files(uri).read("store.json")
    except FileNotFoundError:
        return None
    return Store.open(uri)


def _estimate(
    plan: EmbedPlan, encoder: Encoder, documents: Store, snapshot: Snapshot, config: Config
) -> ModalityEstimate:
    seconds = sum(unit.seconds for unit in plan.units)
    rate, workers = None, config.embed.workers
    resources: Mapping[str, float] = {}
    if plan.units:
        connect()
        workers, resources = pool(config, len(plan.units))
        rate = _probe(_sample(plan, documents, snapshot), plan.job.modality, config, workers, resources)
    is_known = rate is not None and rate.speed > 0
    return ModalityEstimate(
        encoder=encoder.name,
        planned=sum(len(unit.keys) for unit in plan.units),
        already_stored=plan.stored,
        quarantined=plan.quarantined,
        absent=plan.absent,
        units=len(plan.units),
        seconds=seconds,
        workers=workers,
        gpus_per_worker=resources.get("num_gpus", 0.0),
        rate=rate,
        size_bytes=seconds * rate.bytes_per_s if rate is not None and is_known else None,
        time_s=seconds / (rate.speed * workers) if rate is not None and is_known else None,
    )


def _sample(plan: EmbedPlan, documents: Store, snapshot: Snapshot) -> list[StoredDocument]:
    """Return some of the pending documents, from units drawn at random but always the same."""
    generator = random.Random(0)
    units = generator.sample(plan.units, min(_DOCUMENTS, len(plan.units)))
    ids = {generator.choice(unit.keys)[0] for unit in units}
    found = list(documents.stored_documents(snapshot, {unit.bucket for unit in units}, ids))
    generator.shuffle(found)
    return found


def _probe(
    items: Sequence[StoredDocument],
    modality: Modality,
    config: Config,
    workers: int,
    resources: Mapping[str, float],
) -> Rate:
    """Embed the sample in as many Ray tasks as fit at once; return what each of them managed."""
    total = ray.cluster_resources()
    room = total.get("GPU", 0.0) if "num_gpus" in resources else total.get("CPU", 1.0)
    here = max(1, min(workers, int(room / max(resources.values()))))
    task = ray.remote(measure).options(**resources)
    tasks = [task.remote([*items[i:], *items[:i]], modality, config, PROBE_S) for i in range(here)]
    try:
        found = ray.get(tasks)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, EmbedError):
            raise error.cause from None
        raise
    done, passed, size = (sum(values) for values in zip(*(one[:3] for one in found), strict=True))
    fault = next((reason for *_, reason in found if reason is not None), None)
    if not done:
        return Rate(workers=here, speed=0.0, bytes_per_s=0.0, fault=fault)
    return Rate(workers=here, speed=done / passed, bytes_per_s=size / done)


def measure(
    items: Sequence[StoredDocument], modality: Modality, config: Config, probe_s: Seconds
) -> tuple[Seconds, Seconds, int, str | None]:
    """Embed documents over and over for about `probe_s` seconds and keep nothing.

    Returns:
        Seconds of the plan that were embedded, seconds that this took, bytes that a store would keep, and the
        first reason why a document could not be read.

    Raises:
        EmbedError: when the encoder does not load.
    """
    import torch

    torch.set_num_threads(config.embed.threads)
    encoder = configured_encoder(config, modality)
    if (unloaded := load_fault(encoder)) is not None:
        raise EmbedError(unloaded)
    reader = DocumentReader(modality=modality, rate_hz=encoder.rate_hz, config=config)
    done, size, ended, fault = 0.0, 0, 0, None
    began: float | None = None

    def documents() -> Iterator[DocumentProgress]:
        while began is not None or ended < len(items):  # until not one of them could be read
            yield from (DocumentProgress(unit=0, item=item, key="") for item in items)

    batch: list[Segment] = []
    pending = reached = 0.0
    for work, part in read_ahead(documents(), reader):
        if isinstance(part, Quarantined):
            fault = fault or part.message
            ended += 1
            continue
        if isinstance(part, DocumentEnd):
            reached = 0.0
            ended += 1
            continue
        for one in segments_of(work, part, encoder, config):
            batch.append(one)
            if isinstance(one, AudioSegment):
                pending, reached = pending + one.end - reached, one.end
            else:
                pending += len(one.text) / CHARACTERS_PER_S
        is_full = len(batch) >= _BATCH_TEXTS if modality == "text" else pending >= _BATCH_S
        if began is not None and not is_full:
            continue
        encoder.encode(batch)
        if began is None:  # the first batch only warms up
            began = time.monotonic()
        else:
            done, size = done + pending, size + len(batch) * (2 * encoder.dim + _TIMES_BYTES)
            if time.monotonic() - began > probe_s:
                break
        batch, pending = [], 0.0
    return done, 0.0 if began is None else time.monotonic() - began, size, fault
