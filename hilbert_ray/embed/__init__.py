"""Embedding: from a manifest to a store in which every document is stored or quarantined with a reason.

`embed` looks at the manifest and the store first (`plan`), and starts Ray only when something is left to do.
Ray Data then streams units, longest first, through a pool of encoder actors (`unit.EmbedUnit`), which write
and commit what they make: nothing but short results comes back, and any process may die at any moment. Units
lost with a worker run again, document by document, until each is committed.
"""

import json
import logging
import os
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import ray
import ray.data
from ray.util.annotations import RayDeprecationWarning

from hilbert_ray.cluster import connect, data_context
from hilbert_ray.config import MODALITIES, Config, Modality
from hilbert_ray.document import Fault, Seconds
from hilbert_ray.embed.plan import Job, Plan, Unit, alone, look, plan_job
from hilbert_ray.embed.unit import EmbedUnit, Result, load_encoder
from hilbert_ray.store import Quarantined, Snapshot, Store, reads_turns

__all__ = ["EmbedError", "EmbedUnit", "ModalitySummary", "Summary", "TooManyQuarantinedError", "embed"]

logger = logging.getLogger(__name__)

PLANNED_HERE = 50_000
"""Documents up to which the driver plans by itself; more are planned by Ray tasks, some buckets each."""
FAILURES_LEAST = 20
"""Failures before their share is judged."""
_ROUNDS = 6
_BLOCKS = 10_000
_PROGRESS_S = 10.0


class EmbedError(RuntimeError):
    """A run that cannot go on: no valid document, a store that cannot be written, workers that keep dying."""


class TooManyQuarantinedError(EmbedError):
    """More documents failed than `embed.max_quarantined` allows."""


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
class Summary:
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


def embed(manifest: str, store: str, config: Config) -> Summary:
    """Embed the documents of a manifest that a store does not hold yet.

    Args:
        manifest: path or URI of the manifest.
        store: path or URI of the store; it is made where there is none.
        config: the encoders, and the settings of segmentation and of the run.

    Raises:
        ManifestError: when the manifest cannot be read at all.
        StoreError: when the store cannot be read, or is of another schema.
        EmbedError: when the manifest has no valid document, the store cannot be written, or workers keep
        dying.
        TooManyQuarantinedError: when more documents fail than `config.embed.max_quarantined` allows.
    """
    began = time.monotonic()
    config = replace(config, audio=_located(config.audio), text=_located(config.text))
    target = Store.create(store, config.embed.buckets)
    snapshot = target.write_documents(look(manifest, config.embed.content_hash), config.segment.roles)
    if not snapshot.rows:
        raise EmbedError(
            f"manifest {manifest} has no valid document ({len(snapshot.faults)} rows are at fault); "
            "`hilbert-ray validate` lists what is wrong with each"
        )
    names: dict[Modality, str] = {}
    jobs = []
    for modality in MODALITIES:
        if (config.audio if modality == "audio" else config.text) == "none":
            continue
        encoder = load_encoder(config, modality)
        description = encoder.describe()
        target.add_encoder(modality, encoder.fingerprint, description)
        by_turns = reads_turns(modality, description)
        jobs.append(Job(modality=modality, fingerprint=encoder.fingerprint, reads_turns=by_turns))
        names[modality] = encoder.name
    plans = _plan(target, snapshot, jobs, config)
    results: list[Result] = []
    if any(one.units for one in plans):
        connect()
        results = _run(target, snapshot, plans, config)
    summaries = {}
    for one in plans:
        modality = one.job.modality
        own = [result for result in results if result.modality == modality]
        amount = sum(result.amount for result in own)
        summaries[modality] = ModalitySummary(
            encoder=names[modality],
            fingerprint=one.job.fingerprint,
            planned=sum(len(unit.keys) for unit in one.units),
            embedded=sum(result.stored for result in own),
            already_stored=one.stored,
            absent=one.absent,
            amount=amount / 3600 if modality == "audio" else amount,
            quarantined=tuple(target.quarantined(modality, one.job.fingerprint)),
        )
    return Summary(
        documents=snapshot.rows,
        faults=snapshot.faults,
        modalities=summaries,
        seconds=time.monotonic() - began,
    )


def _located(spec: str) -> str:
    """Return an encoder's name with the absolute path of its folder, if it is one: workers run elsewhere."""
    name = spec.removeprefix("hf:")
    return f"hf:{os.path.abspath(name)}" if spec != name and os.path.isdir(name) else spec


def _plan(
    store: Store,
    snapshot: Snapshot,
    jobs: Sequence[Job],
    config: Config,
) -> list[Plan]:
    """Plan each job: here when the manifest is small, else as Ray tasks over groups of buckets."""
    blocks = snapshot.blocks(rows=PLANNED_HERE)
    options = (config.embed.unit_s, config.embed.retry_quarantined)
    if len(blocks) == 1:
        return [plan_job(store, snapshot, job, blocks[0], *options) for job in jobs]
    connect()
    task = ray.remote(num_cpus=1)(plan_job)
    shared = ray.put(snapshot)
    pending = [[task.remote(store, shared, job, block, *options) for block in blocks] for job in jobs]
    plans = []
    for job, parts in zip(jobs, pending, strict=True):
        done: list[Plan] = ray.get(parts)
        plans.append(
            Plan(
                job=job,
                units=tuple(unit for part in done for unit in part.units),
                stored=sum(part.stored for part in done),
                quarantined=sum(part.quarantined for part in done),
                absent=sum(part.absent for part in done),
            )
        )
    return plans


def _run(store: Store, snapshot: Snapshot, plans: Sequence[Plan], config: Config) -> list[Result]:
    """Run all units to their commits, in rounds; return their results.

    The first round tries a unit twice. Units that no worker survived are split into documents, each tried
    alone, with a note of each attempt that outlives the worker, until it is committed, stored or suspected.
    """
    units = sorted(
        (unit for one in plans for unit in one.units), key=lambda unit: (-unit.seconds, unit.unit_id)
    )
    progress = _Progress(units, config.embed.max_quarantined)
    left = {unit.unit_id: unit for unit in units}
    for number in range(_ROUNDS):
        if number == 1:
            left = {single.unit_id: single for unit in left.values() for single in alone(unit)}
        for result in _round(store, snapshot, list(left.values()), config, retries=3 if number else 1):
            progress.add(result)
            left.pop(result.unit_id, None)
        if not left:
            return progress.results
        logger.warning(
            "%d units were lost with their workers; they run again, document by document", len(left)
        )
    raise EmbedError(
        f"{sum(len(unit.keys) for unit in left.values())} documents of {progress.planned} are neither stored "
        f"nor quarantined after {_ROUNDS} rounds, because their workers failed without a result; the log "
        "above and the workers' logs say why. What is committed stays: mend the cause and run the same "
        "command again"
    )


def _round(
    store: Store, snapshot: Snapshot, units: Sequence[Unit], config: Config, retries: int
) -> Iterator[Result]:
    """Stream units through a pool of encoder actors; yield the results of those that came to an end."""
    modalities = sorted({unit.modality for unit in units})
    workers, resources = _pool(config, len(units))
    context = data_context()
    context.max_errored_blocks = -1
    with ray.data.DataContext.current(context):
        dataset = ray.data.from_items(
            [{"unit": unit.to_json()} for unit in units], override_num_blocks=min(len(units), _BLOCKS)
        )
        with warnings.catch_warnings():
            # Retries can be bounded in no other way, and unbounded ones would let a document kill for ever.
            warnings.simplefilter("ignore", RayDeprecationWarning)
            dataset = dataset.map_batches(
                EmbedUnit,
                fn_constructor_args=(store, snapshot.number, config, modalities),
                batch_size=1,
                compute=ray.data.ActorPoolStrategy(size=workers, max_tasks_in_flight_per_actor=2),
                ray_remote_args_fn=lambda: {"max_restarts": -1, "max_task_retries": retries},
                **resources,
            )
        for row in dataset.iter_rows():
            yield Result.from_json(row["result"])


def _pool(config: Config, units: int) -> tuple[int, dict[str, float]]:
    """Return the number of encoder actors and what each of them takes of the cluster."""
    total = ray.cluster_resources()
    gpus, cpus = total.get("GPU", 0.0), total.get("CPU", 1.0)
    if gpus:
        workers = config.embed.workers or max(1, int(gpus / config.embed.gpus_per_worker))
        return min(workers, units), {"num_gpus": config.embed.gpus_per_worker}
    workers = min(config.embed.workers or max(1, int(cpus // 2)), units)
    # Half of the CPUs stay free for what else the cluster runs: an actor without its share hangs a run.
    return workers, {"num_cpus": min(1.0, round(cpus / (2 * workers), 2))}


class _Progress:
    """Counts what comes in, logs it now and then, and stops the run when too much fails."""

    def __init__(self, units: Sequence[Unit], max_quarantined: float) -> None:
        self.planned = sum(len(unit.keys) for unit in units)
        self.results: list[Result] = []
        self._max_quarantined = max_quarantined
        self._done = 0
        self._failures: list[Quarantined] = []
        self._hours = 0.0
        self._hours_planned = sum(unit.seconds for unit in units if unit.modality == "audio") / 3600
        self._began = self._logged = time.monotonic()
        logger.info(
            "embedding %d recordings and transcripts (%.2f h of audio) in %d units",
            self.planned,
            self._hours_planned,
            len(units),
        )

    def add(self, result: Result) -> None:
        """Take the result of one unit.

        Raises:
            EmbedError: when the store could not be written.
            TooManyQuarantinedError: when too large a share of the planned documents failed.
        """
        if result.fault is not None:
            raise EmbedError(result.fault)
        self.results.append(result)
        self._done += result.stored + len(result.quarantined)
        self._failures += result.quarantined
        self._hours += result.amount / 3600 if result.modality == "audio" else 0.0
        for failure in result.quarantined:
            logger.warning("quarantined %s (%s): %s", failure.doc_id, failure.error, failure.message)
        failed = len(self._failures)
        if failed >= FAILURES_LEAST and failed > self._max_quarantined * self.planned:
            reasons = "; ".join(sorted({f"{one.error} ({one.message})" for one in self._failures})[:3])
            raise TooManyQuarantinedError(
                f"{failed} of {self.planned} planned documents failed, more than embed.max_quarantined = "
                f"{self._max_quarantined} allows; for example: {reasons}. What is committed stays: mend the "
                "cause, or raise embed.max_quarantined, and run again"
            )
        now = time.monotonic()
        if now - self._logged >= _PROGRESS_S or self._done == self.planned:
            self._logged = now
            passed = now - self._began
            logger.info(
                "%d of %d, %.2f of %.2f h of audio, %.1f times real time, %.0f s left",
                self._done,
                self.planned,
                self._hours,
                self._hours_planned,
                self._hours * 3600 / passed,
                passed * (self.planned - self._done) / self._done,
            )
