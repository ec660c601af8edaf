"""Running units on the cluster: a pool of encoder actors under Ray Data, in rounds until all are committed.

A round streams the remaining units through a fresh pool. Workers commit what they embed (`worker.EmbedUnits`)
and send back only results, so any process may die at any moment: what has no result is in the next round.
"""

import logging
import time
import uuid
import warnings
from collections import Counter
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from itertools import groupby
from typing import Any

import ray
import ray.data
from ray.util.annotations import RayDeprecationWarning

from hilbert_ray.cluster import data_context
from hilbert_ray.config import Config, Modality
from hilbert_ray.document import EXAMPLES, Seconds, reason_of, reasons_of
from hilbert_ray.embedding.errors import EmbedError, TooManyQuarantinedError
from hilbert_ray.embedding.plan import EmbedPlan, Unit, single_document_units
from hilbert_ray.embedding.resolve import takes_gpus
from hilbert_ray.embedding.worker import MAX_DEATHS, EmbedUnits, UnitResult
from hilbert_ray.store import Quarantined, Snapshot, Store
from hilbert_ray.transcript import Flaw, FlawCounts

logger = logging.getLogger("hilbert_ray.embed")
MIN_FAILURES = 20
"""Failures before a run is stopped for too many: a few say little about thousands of documents."""
_ROUNDS = 6
"""Rounds before a run gives up. The second finds the documents that workers die on; more are only needed
where nodes keep being lost."""
_UNITS_PER_CALL = 4
"""Units that an actor takes at a time if there are many, so that it reads ahead from one to the next."""
_BLOCKS = 10_000
"""Blocks of Ray Data at most: each costs its scheduler some memory."""
_PROGRESS_S = 10.0
"""Seconds between lines of progress in the log."""
_KNOWN_SHARE = 0.05
"""Of the work done since the first result, from which on the log says how long the rest will take."""
_ACTOR_RESTARTS = -1
"""Ray's "forever": nodes may come and go as often as they like."""


def run_units(
    store: Store, snapshot: Snapshot, plans: Sequence[EmbedPlan], config: Config
) -> list[UnitResult]:
    """Run all units until they are committed, in rounds; return their results.

    The first round tries a unit twice. Units that no worker survived are split into documents, each embedded
    alone, with a note of each attempt that outlives the worker, until it is stored or quarantined.

    Raises:
        EmbedError: when the store cannot be written, an encoder does not load, or workers keep dying.
        TooManyQuarantinedError: when more documents fail than `embed.max_quarantined` allows.
    """
    # Longest first, so that the last actor to finish has little left; then by id, the same in every run.
    units = sorted(
        (unit for plan in plans for unit in plan.units), key=lambda unit: (-unit.seconds, unit.unit_id)
    )
    progress = _RunProgress(units, config.embed.max_quarantined)
    fingerprints = {plan.job.modality: plan.job.fingerprint for plan in plans}
    remaining = {unit.unit_id: unit for unit in units}
    for round_number in range(_ROUNDS):
        if round_number == 1:
            singles = [single for unit in remaining.values() for single in single_document_units(unit)]
            remaining = {single.unit_id: single for single in singles}
        stream = _run_round(
            store, snapshot, list(remaining.values()), config, fingerprints, is_first=round_number == 0
        )
        with closing(stream) as results:
            for result in results:
                # A unit whose worker died on the way from its commit to here is reported again.
                if result.error is not None or remaining.pop(result.unit_id, None) is not None:
                    progress.add(result)
        if not remaining:
            progress.log_flaws()
            return progress.results
        logger.warning(
            "%d units were lost with their workers; embedding their documents again, one by one",
            len(remaining),
        )
    raise EmbedError(
        f"{sum(len(unit.keys) for unit in remaining.values())} documents of {progress.planned} are neither "
        f"stored nor quarantined after {_ROUNDS} rounds, because their workers failed without a result; the "
        "log above and the workers' logs say why. What is committed stays: fix the cause and rerun to resume"
    )


def _run_round(
    store: Store,
    snapshot: Snapshot,
    units: Sequence[Unit],
    config: Config,
    fingerprints: Mapping[Modality, str],
    *,
    is_first: bool,
) -> Generator[UnitResult]:
    """Stream units through a pool of encoder actors; yield the results of those that were finished."""
    # After the first round, units are single documents that workers may have died on: one at a time, and
    # retried often enough that `EmbedUnits` sees the notes of `MAX_DEATHS` attempts.
    retries, units_per_call = (1, _UNITS_PER_CALL) if is_first else (MAX_DEATHS, 1)
    modalities = sorted({unit.modality for unit in units})  # an actor only loads encoders that it needs
    workers, resources = plan_pool(config, len(units))
    context = data_context()
    context.max_errored_blocks = -1  # a unit that is lost must not stop the others
    names: list[str] = []

    def actor_options() -> dict[str, Any]:
        # Named, so that `_kill` reaches actors that Ray Data has already let go of.
        names.append(f"embed-{uuid.uuid4().hex}")
        return {"name": names[-1], "max_restarts": _ACTOR_RESTARTS, "max_task_retries": retries}

    with ray.data.DataContext.current(context):
        dataset = ray.data.from_items(
            [{"unit": unit.to_json()} for unit in units], override_num_blocks=min(len(units), _BLOCKS)
        )
        with warnings.catch_warnings():
            # Only `ray_remote_args_fn` can bound retries; unbounded, a document could kill workers forever.
            warnings.simplefilter("ignore", RayDeprecationWarning)
            dataset = dataset.map_batches(
                EmbedUnits,
                fn_constructor_args=(
                    store,
                    snapshot.number,
                    config,
                    {modality: fingerprints[modality] for modality in modalities},
                ),
                # With few units, one per call, or some actors would get none.
                batch_size=max(1, min(units_per_call, len(units) // (units_per_call * workers))),
                # One call waits at an actor while it runs another; more would pile up at the slow ones.
                compute=ray.data.ActorPoolStrategy(size=workers, max_tasks_in_flight_per_actor=2),
                ray_remote_args_fn=actor_options,
                **resources,
            )
        try:
            for row in dataset.iter_rows():
                yield UnitResult.from_json(row["result"])
        finally:
            _kill(names)


def _kill(names: Sequence[str]) -> None:
    """Kill the actors of a round: one that was just restarting outlives its pool and keeps its CPU or GPU."""
    for name in names:
        try:
            ray.kill(ray.get_actor(name))
        except ValueError:  # it has ended
            continue


def plan_pool(config: Config, units: int) -> tuple[int, dict[str, float]]:
    """Return the number of encoder actors and the resources of each, for at most `units` units.

    Raises:
        EmbedError: when encoders shall use GPUs, the cluster has none yet, and `embed.workers` is not set.
    """
    cluster, settings = ray.cluster_resources(), config.embed
    gpus, cpus = cluster.get("GPU", 0.0), cluster.get("CPU", 0.0)
    if takes_gpus(settings):
        workers = settings.workers or int(gpus / settings.gpus_per_worker)
        if not workers:
            raise EmbedError(
                f"embed.gpu is {settings.gpu}, embed.workers is 0 and the cluster has {gpus:g} GPUs now; an "
                "autoscaling cluster does not report its maximum size: set embed.workers to the number of "
                "encoder actors"
            )
        return min(workers, units), {"num_gpus": settings.gpus_per_worker}
    workers = min(settings.workers or max(1, int(cpus // 2)), units)
    # Half of the CPUs stay free for decoding tasks and whatever else the cluster runs: a run hangs if an
    # actor never gets its CPU. A cluster without any CPU is one that grows.
    return workers, {"num_cpus": min(1.0, round(cpus / (2 * workers), 2)) if cpus else 1.0}


class _RunProgress:
    """Counts results, logs progress now and then, and stops the run when too many documents fail."""

    def __init__(self, units: Sequence[Unit], max_quarantined: float) -> None:
        self.planned = sum(len(unit.keys) for unit in units)
        self.results: list[UnitResult] = []
        self._max_quarantined = max_quarantined
        self._seconds_planned = sum(unit.seconds for unit in units)
        self._seconds_done = 0.0
        self._documents_done = 0
        self._failures: list[Quarantined] = []
        self._reasons: Counter[tuple[str, str, str]] = Counter()
        self._flaws = FlawCounts()
        self._hours_done = 0.0
        self._hours_planned = sum(unit.seconds for unit in units if unit.modality == "audio") / 3600
        self._started = self._last_logged = time.monotonic()
        # When the first result came, and the seconds done by then: workers start and load encoders before.
        self._first: tuple[float, Seconds] | None = None
        logger.info(
            "embedding %d recordings and transcripts (%.2f h of audio) in %d units",
            self.planned,
            self._hours_planned,
            len(units),
        )

    def add(self, result: UnitResult) -> None:
        """Add the result of one unit.

        Raises:
            EmbedError: when the store could not be written or an encoder did not load.
            TooManyQuarantinedError: when too many of the planned documents have failed.
        """
        if result.error is not None:
            raise EmbedError(result.error)
        self.results.append(result)
        self._documents_done += result.stored + len(result.quarantined)
        self._hours_done += result.amount / 3600 if result.modality == "audio" else 0.0
        self._seconds_done += result.seconds
        for failure in result.quarantined:
            self._log_failure(failure)
        self._failures += result.quarantined
        for doc_id, flaws in groupby(result.flaws, key=lambda flaw: flaw[0]):
            self._flaws.add(doc_id, [Flaw(kind, count) for _, kind, count in flaws])
        self._check_failures()
        now = time.monotonic()
        self._first = self._first or (now, self._seconds_done)
        if now - self._last_logged >= _PROGRESS_S or self._documents_done == self.planned:
            self._last_logged = now
            logger.info(self._line(now))

    def log_flaws(self) -> None:
        """Log what was odd or repaired in transcripts, once for each kind."""
        for line in self._flaws.lines():
            logger.warning("%s", line)

    def _log_failure(self, failure: Quarantined) -> None:
        """Log the first failures of each reason: thousands may have the same one."""
        reason = reason_of(failure)
        self._reasons[reason] += 1
        if self._reasons[reason] <= EXAMPLES:
            is_last = self._reasons[reason] == EXAMPLES
            more = "; others for this reason are counted in the summary" if is_last else ""
            logger.warning("quarantined %s (%s): %s%s", failure.doc_id, failure.error, failure.message, more)

    def _check_failures(self) -> None:
        failed = len(self._failures)
        if failed >= MIN_FAILURES and failed > self._max_quarantined * self.planned:
            reasons = [
                f"{reason.count} {reason.error} ({reason.examples[0].message})"
                for reason in reasons_of(self._failures)[:EXAMPLES]
            ]
            raise TooManyQuarantinedError(
                f"{failed} of {self.planned} planned documents failed, more than embed.max_quarantined = "
                f"{self._max_quarantined} allows; most often: {'; '.join(reasons)}. What is committed "
                "stays: fix the cause, or raise embed.max_quarantined, and rerun to resume"
            )

    def _line(self, now: Seconds) -> str:
        """Return one line of progress at this time."""
        rate = self._hours_done / (now - self._started)
        failed = f", {len(self._failures)} quarantined" if self._failures else ""
        return (
            f"{self._documents_done} of {self.planned} documents, {self._hours_done:.2f} of "
            f"{self._hours_planned:.2f} h of audio, {rate:.3g} h per second{failed}{self._time_left(now)}"
        )

    def _time_left(self, now: Seconds) -> str:
        """Return how long the rest will take; nothing while too little has been done to know."""
        assert self._first is not None
        first, done_before = self._first
        # By the weights of the plan: documents differ too much in length to count them.
        done, left = self._seconds_done - done_before, self._seconds_planned - self._seconds_done
        if left <= 0 or done < _KNOWN_SHARE * self._seconds_planned:
            return ""
        return f", {duration((now - first) / done * left)} left"


def duration(seconds: Seconds) -> str:
    """Return a duration to read, such as 42 s, 7 min or 3.2 h."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
