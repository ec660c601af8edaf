"""What a run of `embed` would do, without doing it: documents, hours, units, size and time.

Nothing is written to the store. The speed is measured: as many workers as the cluster has room for embed real
pending documents for some seconds, all at once, so that what they take from each other counts.
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
from hilbert_ray.embedding.errors import EmbedError
from hilbert_ray.embedding.features import segments_of
from hilbert_ray.embedding.plan import CHARACTERS_PER_S, EmbedPlan, versioned_rows
from hilbert_ray.embedding.pool import duration, plan_pool
from hilbert_ray.embedding.reading import DocumentEnd, DocumentProgress, DocumentReader, read_ahead
from hilbert_ray.embedding.resolve import (
    chosen_encoders,
    plan_all,
    require_documents,
    resolve_encoders,
)
from hilbert_ray.embedding.worker import configured_encoder, loading_error
from hilbert_ray.encoders import Encoder
from hilbert_ray.storage import Files
from hilbert_ray.store import Quarantined, Snapshot, Store, StoredDocument, write_snapshot

PROBE_S = 10.0
"""About how long the measurement of one modality takes, seconds, without loading the encoder."""
_SAMPLED_DOCUMENTS = 16
# Smaller batches than in a run, so that several fit into the measurement.
_BATCH_S, _BATCH_TEXTS = 60.0, 256
_TIMES_BYTES = 8
"""Bytes that the store holds per segment besides its features: start and end, float32 each."""
_FEATURE_BYTES = 2
"""Bytes per value of a feature: float16."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Rate:
    """What was measured for each of `workers` workers that ran at once.

    speed: seconds of the plan (for text: of speech, `CHARACTERS_PER_S`) embedded per second; 0 where no
    sampled document could be read, for the reason `fault`. bytes_per_s: what the store holds per second.
    """

    workers: int
    speed: float
    bytes_per_s: float
    fault: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class ModalityEstimate:
    """What is left for one modality: `seconds` of audio or speech, which take `workers` workers `time_s`.

    `gpus_per_worker` is 0 if nothing is left or the cluster has no GPU. `rate`, `size_bytes` and `time_s` are
    None if nothing is left, the latter two also if nothing could be measured.
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

    def lines(self, modality: Modality) -> list[str]:
        """Return lines to read."""
        amount = f"{self.seconds / 3600:.2f} h"
        if modality == "text":
            amount = f"{self.seconds * CHARACTERS_PER_S:.0f} characters"
        counts = (
            f"{modality:5} {self.encoder}: {self.planned} to embed ({amount}, {self.units} units), "
            f"{self.already_stored} already stored, {self.quarantined} quarantined earlier, {self.absent} "
            f"without {modality}"
        )
        if self.rate is None:
            return [counts]
        if self.size_bytes is None or self.time_s is None:
            return [counts, f"      no estimate: no sampled document could be read; {self.rate.fault}"]
        return [
            counts,
            f"      about {self.size_bytes / 1e6:.1f} MB and {duration(self.time_s)} on {self.workers} "
            f"worker{'s' * (self.workers != 1)}, without start-up (measured: {self.rate.workers} at once, "
            f"each {self.rate.speed:.0f} times real time)",
        ]


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
        lines = [f"{self.documents} documents, {len(self.faults)} invalid manifest rows"]
        for modality, estimated in self.modalities.items():
            lines += estimated.lines(modality)
        lines += [f"  row {fault.row} ({fault.error}): {fault.message}" for fault in self.faults]
        return "\n".join(lines)


def estimate(manifest: str, store: str, config: Config | None = None) -> Estimate:
    """Return what `embed` would do with the same arguments; write nothing.

    Args:
        manifest: path or URI of the manifest.
        store: path or URI of the store, which need not exist.
        config: the encoders, and the settings of segmentation and of the run; None: the defaults. The time is
            estimated for `embed.workers` workers (0: as many as the cluster has room for now).

    Raises:
        ConfigError, ManifestError, StoreError, EmbedError: as `embed` does before anything runs, and where an
        encoder does not load.
    """
    config = resolve_encoders(config or Config())
    encoders = chosen_encoders(config)
    # The plan needs a snapshot of the manifest, so one is written to a temporary store.
    with tempfile.TemporaryDirectory(prefix="hilbert-ray-") as folder:
        target = _open_if_exists(store)
        buckets = config.embed.buckets if target is None else target.buckets
        temporary = Store.create(folder, buckets)
        rows = versioned_rows(manifest, config.embed.content_hash, config.roots)
        snapshot = write_snapshot(temporary, rows, config.segment.roles)
        require_documents(manifest, snapshot)
        plans = plan_all(target or temporary, snapshot, encoders, config, plan_here=True)
        modalities = {
            plan.job.modality: _estimate(plan, encoders[plan.job.modality], snapshot, config)
            for plan in plans
        }
    return Estimate(documents=snapshot.num_documents, faults=snapshot.faults, modalities=modalities)


def _open_if_exists(uri: str) -> Store | None:
    try:
        Files(uri).read("store.json")
    except FileNotFoundError:
        return None
    return Store.open(uri)


def _estimate(plan: EmbedPlan, encoder: Encoder, snapshot: Snapshot, config: Config) -> ModalityEstimate:
    # Lengths are those that headers state: nothing is decoded except for the measurement.
    seconds = sum(unit.seconds for unit in plan.units)
    rate, workers = None, config.embed.workers
    resources: Mapping[str, float] = {}
    if plan.units:
        connect()
        workers, resources = plan_pool(config, len(plan.units))
        sample = _sample(plan, snapshot)
        rate = _measure_rate(sample, plan.job.modality, config, workers, resources)
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


def _sample(plan: EmbedPlan, snapshot: Snapshot) -> list[StoredDocument]:
    """Return some of the pending documents, drawn at random, but the same ones every time."""
    # Units first: they are of about equal length, so long recordings, which take most of the time, are drawn
    # too.
    generator = random.Random(0)
    units = generator.sample(plan.units, min(_SAMPLED_DOCUMENTS, len(plan.units)))
    ids = {generator.choice(unit.keys)[0] for unit in units}
    sample = list(snapshot.documents({unit.bucket for unit in units}, ids))
    generator.shuffle(sample)
    return sample


def _measure_rate(
    entries: Sequence[StoredDocument],
    modality: Modality,
    config: Config,
    workers: int,
    resources: Mapping[str, float],
) -> Rate:
    """Embed the sample in as many Ray tasks as run at once; return what each of them achieved."""
    cluster = ray.cluster_resources()
    # All at once or not at all: tasks that run one after another would not compete as workers do.
    free = cluster.get("GPU", 0.0) if "num_gpus" in resources else cluster.get("CPU", 1.0)
    num_tasks = max(1, min(workers, int(free / max(resources.values()))))
    task = ray.remote(measure).options(**resources)
    # Each task starts with another document, so that they do not all read the same file at once.
    tasks = [task.remote([*entries[i:], *entries[:i]], modality, config, PROBE_S) for i in range(num_tasks)]
    try:
        measured: list[Measurement] = ray.get(tasks)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, EmbedError):
            raise error.cause from None
        raise
    seconds = sum(one_task.seconds for one_task in measured)
    if not seconds:
        reasons = (one_task.reason for one_task in measured if one_task.reason is not None)
        return Rate(workers=num_tasks, speed=0.0, bytes_per_s=0.0, fault=next(reasons, None))
    return Rate(
        workers=num_tasks,
        speed=seconds / sum(one_task.elapsed_s for one_task in measured),
        bytes_per_s=sum(one_task.size_bytes for one_task in measured) / seconds,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Measurement:
    """What one worker embedded: `seconds` of the plan in `elapsed_s` seconds, `size_bytes` in a store.

    `reason` is the first one for which a document could not be read.
    """

    seconds: Seconds
    elapsed_s: Seconds
    size_bytes: int
    reason: str | None


def measure(
    entries: Sequence[StoredDocument], modality: Modality, config: Config, probe_s: Seconds
) -> Measurement:
    """Embed documents over and over for about `probe_s` seconds and keep nothing.

    Raises:
        EmbedError: when the encoder does not load.
    """
    import torch

    torch.set_num_threads(config.embed.threads)
    encoder = configured_encoder(config, modality)
    if (error := loading_error(encoder)) is not None:
        raise EmbedError(error)
    return _Probe(entries, modality, encoder, config).run(probe_s)


class _Probe:
    """Reads and encodes documents as a worker does, and counts; the first batch only warms up."""

    def __init__(
        self, entries: Sequence[StoredDocument], modality: Modality, encoder: Encoder, config: Config
    ) -> None:
        self._entries, self._modality, self._encoder, self._config = entries, modality, encoder, config
        self._started: float | None = None  # when the first batch was done
        self._num_ended = 0
        self._batch: list[Segment] = []
        self._batch_s: Seconds = 0.0
        self._last_end: Seconds = 0.0  # of the segments of the current document
        self._seconds: Seconds = 0.0
        self._size_bytes = 0
        self._reason: str | None = None

    def run(self, probe_s: Seconds) -> Measurement:
        """Embed for about so many seconds; see `measure`."""
        reader = DocumentReader(modality=self._modality, rate_hz=self._encoder.rate_hz, config=self._config)
        for document, part in read_ahead(self._documents(), reader):
            if isinstance(part, Quarantined):
                self._reason = self._reason or part.message
                self._num_ended += 1
            elif isinstance(part, DocumentEnd):
                self._last_end = 0.0
                self._num_ended += 1
            else:
                self._add(segments_of(document, part, self._encoder, self._config))
                if self._started is None:
                    self._encode()
                    self._started = time.monotonic()
                elif self._is_full():
                    self._count(self._encode())
                    if time.monotonic() - self._started > probe_s:
                        break
        elapsed_s = 0.0 if self._started is None else time.monotonic() - self._started
        return Measurement(
            seconds=self._seconds, elapsed_s=elapsed_s, size_bytes=self._size_bytes, reason=self._reason
        )

    def _documents(self) -> Iterator[DocumentProgress]:
        """Yield the sample over and over, unless none of it could be read."""
        while self._started is not None or self._num_ended < len(self._entries):
            yield from (DocumentProgress(unit=0, entry=entry, source="") for entry in self._entries)

    def _add(self, segments: Sequence[Segment]) -> None:
        for segment in segments:
            self._batch.append(segment)
            if isinstance(segment, AudioSegment):
                # Windows may overlap: what counts is by how much the recording has advanced.
                self._batch_s += segment.end - self._last_end
                self._last_end = segment.end
            else:
                self._batch_s += len(segment.text) / CHARACTERS_PER_S

    def _is_full(self) -> bool:
        return len(self._batch) >= _BATCH_TEXTS if self._modality == "text" else self._batch_s >= _BATCH_S

    def _encode(self) -> tuple[Seconds, int]:
        """Encode and empty the batch; return its seconds of the plan and its number of segments."""
        self._encoder.encode(self._batch)
        encoded = self._batch_s, len(self._batch)
        self._batch, self._batch_s = [], 0.0
        return encoded

    def _count(self, encoded: tuple[Seconds, int]) -> None:
        seconds, num_segments = encoded
        self._seconds += seconds
        self._size_bytes += num_segments * (_FEATURE_BYTES * self._encoder.dim + _TIMES_BYTES)
