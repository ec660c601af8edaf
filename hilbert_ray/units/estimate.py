"""What a run would do, without doing it: documents, hours, units, size and time.

Nothing is written to the store. The speed is measured: as many workers as the cluster has room for do real
pending documents for some seconds, all at once, so that what they take from each other counts.
"""

import json
import random
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, TypeAlias

import ray

from hilbert_ray.cluster import connect
from hilbert_ray.config import Config
from hilbert_ray.document import InvalidRow, Seconds, reason_lines
from hilbert_ray.storage import Files
from hilbert_ray.store import Content, Snapshot, Store, StoredDocument
from hilbert_ray.terminal import duration
from hilbert_ray.units.driver import plan_all, take_snapshot
from hilbert_ray.units.errors import UnitsError
from hilbert_ray.units.plan import CHARACTERS_PER_S, Job, Plan
from hilbert_ray.units.probe import Measurement
from hilbert_ray.units.resources import plan_pool

PROBE_S = 10.0
"""About how long the measurement of one job takes, seconds, without loading the model."""
_SAMPLED_DOCUMENTS = 16
"""Documents that the workers do over and over: enough for the lengths to be typical."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Rate:
    """What was measured for each of `workers` workers that ran at once.

    speed: seconds of the plan (for text: of speech, `CHARACTERS_PER_S`) done per second; 0 where no
    sampled document could be read, for the reason `fault`. bytes_per_s: what the store holds per second.
    """

    workers: int
    speed: float
    bytes_per_s: float
    fault: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class JobEstimate:
    """What is left of one job: `seconds` of audio or speech, which take `workers` workers `time_s`.

    `layers` is how many hidden states each feature holds; `size_bytes` is of all of them.
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
    layers: int = 1

    def lines(self, content: Content) -> list[str]:
        """Return lines to read."""
        amount = f"{self.seconds / 3600:.2f} h"
        if content == "text":
            amount = f"{self.seconds * CHARACTERS_PER_S:.0f} characters"
        verb, others = "embed", f"without {content}"
        if content == "transcript":
            verb, others = "transcribe", "with text or without audio"
        counts = (
            f"{content:5} {self.encoder}: {self.planned} to {verb} ({amount}, {self.units} units), "
            f"{self.already_stored} already stored, {self.quarantined} quarantined earlier, {self.absent} "
            f"{others}"
        )
        if self.rate is None:
            return [counts]
        if self.size_bytes is None or self.time_s is None:
            return [counts, f"      no estimate: no sampled document could be read; {self.rate.fault}"]
        return [
            counts,
            f"      about {self.size_bytes / 1e6:.1f} MB{f' ({self.layers} layers)' * (self.layers > 1)} "
            f"and {duration(self.time_s)} on {self.workers} "
            f"worker{'s' * (self.workers != 1)}, without start-up (measured: {self.rate.workers} at once, "
            f"each {self.rate.speed:.0f} times real time)",
        ]


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """What a run would do, by what it makes of documents; see the module."""

    documents: int
    faults: tuple[InvalidRow, ...]
    modalities: Mapping[Content, JobEstimate] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return the estimate as plain values."""
        values: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return values

    def text(self) -> str:
        """Return the estimate as lines to read."""
        lines = [f"{self.documents} documents, {len(self.faults)} invalid manifest rows"]
        for content, estimated in self.modalities.items():
            lines += estimated.lines(content)
        if self.faults:
            lines.append(f"invalid rows, left out: {len(self.faults)}; --json lists them all")
            lines += reason_lines(self.faults, "row")
        return "\n".join(lines)


Measure: TypeAlias = Callable[[Sequence[StoredDocument], Content, Config, Seconds], Measurement]
"""Does documents over and over for about some seconds, in a Ray task, and keeps nothing."""


def estimate_jobs(
    manifest: str,
    store: str,
    config: Config,
    jobs: Sequence[tuple[str, Job]],
    measure: Measure,
) -> Estimate:
    """Return what a run over units would do; write nothing.

    Args:
        manifest: path or URI of the manifest.
        store: path or URI of the store, which need not exist.
        config: settings of the run. The time is estimated for `embed.workers` workers (0: as many as the
            cluster has room for now).
        jobs: what to do, with the name of the model that does it.
        measure: what does it to some documents; it raises UnitsError where the model does not load.

    Raises:
        ManifestError, StoreError, UnitsError: as the run does before anything runs, and what `measure` does.
    """
    # The plan needs a snapshot of the manifest, so one is written to a temporary store.
    with tempfile.TemporaryDirectory(prefix="hilbert-ray-") as folder:
        target = _open_if_exists(store)
        buckets = config.embed.buckets if target is None else target.buckets
        # As many buckets as the store, since its commits are looked up by bucket.
        temporary = Store.create(folder, buckets)
        snapshot = take_snapshot(manifest, temporary, config)
        plans = plan_all(target or temporary, snapshot, [job for _, job in jobs], config, plan_here=True)
        modalities = {
            plan.job.content: _estimate(plan, name, snapshot, config, measure)
            for (name, _), plan in zip(jobs, plans, strict=True)
        }
    return Estimate(documents=snapshot.num_documents, faults=snapshot.faults, modalities=modalities)


def _open_if_exists(uri: str) -> Store | None:
    # Not `Store.create`, as a dry run must leave nothing behind.
    try:
        Files(uri).read("store.json")
    except FileNotFoundError:
        return None
    return Store.open(uri)


def _estimate(plan: Plan, name: str, snapshot: Snapshot, config: Config, measure: Measure) -> JobEstimate:
    # Lengths are those that headers state: nothing is decoded except for the measurement.
    seconds = sum(unit.seconds for unit in plan.units)
    rate, workers = None, config.embed.workers
    resources: Mapping[str, float] = {}
    if plan.units:
        connect()
        workers, resources = plan_pool(config, len(plan.units))
        sample = _sample(plan, snapshot)
        rate = _measure_rate(sample, plan.job.content, config, measure, workers, resources)
    is_known = rate is not None and rate.speed > 0
    return JobEstimate(
        encoder=name,
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


def _sample(plan: Plan, snapshot: Snapshot) -> list[StoredDocument]:
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
    content: Content,
    config: Config,
    measure: Measure,
    workers: int,
    resources: Mapping[str, float],
) -> Rate:
    """Do the sample in as many Ray tasks as run at once; return what each of them achieved."""
    cluster = ray.cluster_resources()
    # All at once or not at all: tasks that run one after another would not compete as workers do.
    free = cluster.get("GPU", 0.0) if "num_gpus" in resources else cluster.get("CPU", 1.0)
    # `plan_pool` gives a worker a single kind of resource, which `max` picks.
    num_tasks = max(1, min(workers, int(free / max(resources.values()))))
    task = ray.remote(measure).options(**resources)
    # Each task starts with another document, so that they do not all read the same file at once.
    tasks = [task.remote([*entries[i:], *entries[:i]], content, config, PROBE_S) for i in range(num_tasks)]
    try:
        measured: list[Measurement] = ray.get(tasks)
    except ray.exceptions.RayTaskError as error:
        # Ray wraps what a task raises in a traceback; the message for the user is inside.
        if isinstance(error.cause, UnitsError):
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
