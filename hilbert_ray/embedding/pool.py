"""Running units on the cluster: a pool of encoder actors under Ray Data, in rounds until nothing is left."""

import logging
import time
import uuid
import warnings
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from typing import Any

import ray
import ray.data
from ray.util.annotations import RayDeprecationWarning

from hilbert_ray.cluster import data_context
from hilbert_ray.config import Config, Modality
from hilbert_ray.document import Seconds
from hilbert_ray.embedding.plan import EmbedPlan, Unit, single_document_units
from hilbert_ray.embedding.resolve import EmbedError, takes_gpus
from hilbert_ray.embedding.worker import DEATHS, EmbedUnits, UnitResult
from hilbert_ray.store import Quarantined, Snapshot, Store

logger = logging.getLogger("hilbert_ray.embed")
FAILURES_LEAST = 20
"""Failures before their share is judged."""
_ROUNDS = 6
_TOGETHER = 4
"""Units that an actor takes at a time where there are many, so that it reads ahead from one to the next."""
_BLOCKS = 10_000
_PROGRESS_S = 10.0


class TooManyQuarantinedError(EmbedError):
    """More documents failed than `embed.max_quarantined` allows."""


def run_units(
    store: Store, snapshot: Snapshot, plans: Sequence[EmbedPlan], config: Config
) -> list[UnitResult]:
    """Run all units to their commits, in rounds; return their results.

    The first round tries a unit twice. Units that no worker survived are split into documents, each tried
    alone, with a note of each attempt that outlives the worker, until it is committed, stored or suspected.
    """
    units = sorted(
        (unit for one in plans for unit in one.units), key=lambda unit: (-unit.seconds, unit.unit_id)
    )
    progress = _Progress(units, config.embed.max_quarantined)
    planned = {one.job.modality: one.job.fingerprint for one in plans}
    left = {unit.unit_id: unit for unit in units}
    for number in range(_ROUNDS):
        if number == 1:
            left = {
                single.unit_id: single for unit in left.values() for single in single_document_units(unit)
            }
        with closing(_round(store, snapshot, list(left.values()), config, planned, number)) as results:
            for result in results:
                # A unit whose worker died on the way from its commit to here is reported again.
                if result.fault is not None or left.pop(result.unit_id, None) is not None:
                    progress.add(result)
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
    store: Store,
    snapshot: Snapshot,
    units: Sequence[Unit],
    config: Config,
    planned: Mapping[Modality, str],
    number: int,
) -> Generator[UnitResult]:
    """Stream units through a pool of encoder actors; yield the results of those that came to an end."""
    retries, together = (1, _TOGETHER) if number == 0 else (DEATHS, 1)
    fingerprints = {modality: planned[modality] for modality in sorted({unit.modality for unit in units})}
    workers, resources = pool(config, len(units))
    context = data_context()
    context.max_errored_blocks = -1
    names: list[str] = []

    def actor_options() -> dict[str, Any]:
        names.append(f"embed-{uuid.uuid4().hex}")
        return {"name": names[-1], "max_restarts": -1, "max_task_retries": retries}

    with ray.data.DataContext.current(context):
        dataset = ray.data.from_items(
            [{"unit": unit.to_json()} for unit in units], override_num_blocks=min(len(units), _BLOCKS)
        )
        with warnings.catch_warnings():
            # Retries can be bounded in no other way, and unbounded ones would let a document kill for ever.
            warnings.simplefilter("ignore", RayDeprecationWarning)
            dataset = dataset.map_batches(
                EmbedUnits,
                fn_constructor_args=(store, snapshot.number, config, fingerprints),
                batch_size=max(1, min(together, len(units) // (together * workers))),
                compute=ray.data.ActorPoolStrategy(size=workers, max_tasks_in_flight_per_actor=2),
                ray_remote_args_fn=actor_options,
                **resources,
            )
        try:
            for row in dataset.iter_rows():
                yield UnitResult.from_json(row["result"])
        finally:
            _end(names)


def _end(names: Sequence[str]) -> None:
    """End the actors of a round: one that was just restarting outlives its pool and keeps its CPU or GPU."""
    for name in names:
        try:
            ray.kill(ray.get_actor(name))
        except ValueError:  # it has ended
            continue


def pool(config: Config, units: int) -> tuple[int, dict[str, float]]:
    """Return the number of encoder actors and what each of them takes of the cluster.

    Raises:
        EmbedError: when nothing says how many actors a cluster without GPUs should grow to.
    """
    total, settings = ray.cluster_resources(), config.embed
    gpus, cpus = total.get("GPU", 0.0), total.get("CPU", 0.0)
    if takes_gpus(settings):
        workers = settings.workers or int(gpus / settings.gpus_per_worker)
        if not workers:
            raise EmbedError(
                f"embed.gpu is {settings.gpu}, embed.workers is 0 and the cluster has {gpus:g} GPUs now; set "
                "embed.workers to how many encoder actors it should grow to"
            )
        return min(workers, units), {"num_gpus": settings.gpus_per_worker}
    workers = min(settings.workers or max(1, int(cpus // 2)), units)
    # Half of the CPUs stay free for what else the cluster runs: an actor without its share hangs a run. A
    # cluster without any is one that grows.
    return workers, {"num_cpus": min(1.0, round(cpus / (2 * workers), 2)) if cpus else 1.0}


class _Progress:
    """Counts what comes in, logs it now and then, and stops the run when too much fails."""

    def __init__(self, units: Sequence[Unit], max_quarantined: float) -> None:
        self.planned = sum(len(unit.keys) for unit in units)
        self.results: list[UnitResult] = []
        self._max_quarantined = max_quarantined
        self._seconds_planned = sum(unit.seconds for unit in units)
        self._seconds_done = 0.0
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

    def add(self, result: UnitResult) -> None:
        """Take the result of one unit.

        Raises:
            EmbedError: when the store could not be written or an encoder did not load.
            TooManyQuarantinedError: when too large a share of the planned documents failed.
        """
        if result.fault is not None:
            raise EmbedError(result.fault)
        self.results.append(result)
        self._done += result.stored + len(result.quarantined)
        self._failures += result.quarantined
        self._hours += result.amount / 3600 if result.modality == "audio" else 0.0
        self._seconds_done += result.seconds
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
            logger.info(self._line(now - self._began))

    def _line(self, passed: Seconds) -> str:
        """Return where the run is, after some time."""
        share = self._seconds_done / self._seconds_planned if self._seconds_planned else 0.0
        left = f", {duration(passed / share - passed)} left" if 0 < share < 1 else ""
        rate = self._hours / passed
        return (
            f"{self._done} of {self.planned} documents, {self._hours:.2f} of {self._hours_planned:.2f} h of "
            f"audio, {rate:.3g} h a second{left}"
        )


def duration(seconds: Seconds) -> str:
    """Return a time to read, such as 42 s, 7 min or 3.2 h."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
