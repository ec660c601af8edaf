"""What a run of `embed` would do, without doing it: documents, hours, units, size and time.

Nothing is written to the store. The speed is measured: as many workers as the cluster has room for embed real
pending documents for some seconds, all at once, so that what they take from each other counts.
"""

import json
import random
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import ray

from hilbert_ray.cluster import connect
from hilbert_ray.config import Config, Modality
from hilbert_ray.document import InvalidRow, Seconds, reason_lines
from hilbert_ray.embedding.errors import EmbedError
from hilbert_ray.embedding.plan import CHARACTERS_PER_S, EmbedPlan, versioned_rows
from hilbert_ray.embedding.pool import duration, plan_pool
from hilbert_ray.embedding.probe import Measurement, measure
from hilbert_ray.embedding.resolve import (
    chosen_encoders,
    plan_all,
    require_documents,
    resolve_encoders,
)
from hilbert_ray.encoders import Encoder
from hilbert_ray.storage import Files
from hilbert_ray.store import Snapshot, Store, StoredDocument, write_snapshot

PROBE_S = 10.0
"""About how long the measurement of one modality takes, seconds, without loading the encoder."""
_SAMPLED_DOCUMENTS = 16
"""Documents that the workers embed over and over: enough for the lengths to be typical."""


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
    faults: tuple[InvalidRow, ...]
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
        if self.faults:
            lines.append(f"invalid rows, not to embed: {len(self.faults)}; --json lists them all")
            lines += reason_lines(self.faults, "row")
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
        # As many buckets as the store, since its commits are looked up by bucket.
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
    # Not `Store.create`, as a dry run must leave nothing behind.
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
    # Units first: they are about equally long, so long recordings, which take most of the time, come too.
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
    # `plan_pool` gives a worker a single kind of resource, which `max` picks.
    num_tasks = max(1, min(workers, int(free / max(resources.values()))))
    task = ray.remote(measure).options(**resources)
    # Each task starts with another document, so that they do not all read the same file at once.
    tasks = [task.remote([*entries[i:], *entries[:i]], modality, config, PROBE_S) for i in range(num_tasks)]
    try:
        measured: list[Measurement] = ray.get(tasks)
    except ray.exceptions.RayTaskError as error:
        # Ray wraps what a task raises in a traceback; the message for the user is inside.
        if isinstance(error.cause, EmbedError):
            raise error.cause from None
        raise
    # Sums over all tasks: the mean per worker, weighted by how long each measured.
    seconds = sum(one_task.seconds for one_task in measured)
    if not seconds:
        reasons = (one_task.reason for one_task in measured if one_task.reason is not None)
        return Rate(workers=num_tasks, speed=0.0, bytes_per_s=0.0, fault=next(reasons, None))
    return Rate(
        workers=num_tasks,
        speed=seconds / sum(one_task.elapsed_s for one_task in measured),
        bytes_per_s=sum(one_task.size_bytes for one_task in measured) / seconds,
    )
