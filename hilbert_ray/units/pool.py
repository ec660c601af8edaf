"""Running units on the cluster: a pool of workers under Ray Data, in rounds until all are committed.

A round streams the remaining units through a fresh pool. Workers commit what they do (`worker.UnitWorker`)
and send back only results, so any process may die at any moment: what has no result is in the next round.
"""

import logging
import uuid
import warnings
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from typing import Any

import ray
import ray.data
from ray.util.annotations import RayDeprecationWarning

from hilbert_ray.cluster import connect, data_context
from hilbert_ray.config import Config
from hilbert_ray.store import Content, Snapshot, Store
from hilbert_ray.units.errors import UnitsError
from hilbert_ray.units.plan import Plan, Unit, single_document_units
from hilbert_ray.units.progress import RunProgress
from hilbert_ray.units.resources import plan_pool
from hilbert_ray.units.worker import MAX_DEATHS, UnitResult, UnitWorker

logger = logging.getLogger(__name__)
_ROUNDS = 6
"""Rounds before a run gives up. The second finds the documents that workers die on; more are only needed
where nodes keep being lost."""
_UNITS_PER_CALL = 4
"""Units that an actor takes at a time if there are many, so that it reads ahead from one to the next."""
_BLOCKS = 10_000
"""Blocks of Ray Data at most: each costs its scheduler some memory."""
_ACTOR_RESTARTS = -1
"""Ray's "forever": nodes may come and go as often as they like."""


def run_units(
    store: Store, snapshot: Snapshot, plans: Sequence[Plan], config: Config, worker: type[UnitWorker[Any]]
) -> list[UnitResult]:
    """Run all units until they are committed, in rounds; return their results. Starts no Ray without units.

    The first round tries a unit twice. Units that no worker survived are split into documents, each done
    alone, with a note of each attempt that outlives the worker, until it is stored or quarantined.

    Raises:
        UnitsError: when the store cannot be written, a model does not load, or workers keep dying.
        TooManyQuarantinedError: when more documents fail than `embed.max_quarantined` allows.
    """
    # Longest first, so that the last actor to finish has little left; then by id, the same in every run.
    units = sorted(
        (unit for plan in plans for unit in plan.units), key=lambda unit: (-unit.seconds, unit.unit_id)
    )
    if not units:
        return []
    connect()
    progress = RunProgress(units, config.embed.max_quarantined, worker.title)
    fingerprints = {plan.job.content: plan.job.fingerprint for plan in plans}
    remaining = {unit.unit_id: unit for unit in units}
    for round_number in range(_ROUNDS):
        if round_number == 1:
            singles = [single for unit in remaining.values() for single in single_document_units(unit)]
            remaining = {single.unit_id: single for single in singles}
        stream = _run_round(
            store,
            snapshot,
            list(remaining.values()),
            config,
            worker,
            fingerprints,
            is_first=round_number == 0,
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
            "%d units were lost with their workers; doing their documents again, one by one",
            len(remaining),
        )
    raise UnitsError(
        f"{sum(len(unit.keys) for unit in remaining.values())} documents of {progress.planned} are neither "
        f"stored nor quarantined after {_ROUNDS} rounds, because their workers failed without a result; the "
        "log above and the workers' logs say why. What is committed stays: fix the cause and rerun to resume"
    )


def _run_round(
    store: Store,
    snapshot: Snapshot,
    units: Sequence[Unit],
    config: Config,
    worker: type[UnitWorker[Any]],
    fingerprints: Mapping[Content, str],
    *,
    is_first: bool,
) -> Generator[UnitResult]:
    """Stream units through a pool of workers; yield the results of those that were finished."""
    # After the first round, units are single documents that workers may have died on: one at a time, and
    # retried often enough that `UnitWorker` sees the notes of `MAX_DEATHS` attempts.
    retries, units_per_call = (1, _UNITS_PER_CALL) if is_first else (MAX_DEATHS, 1)
    contents = sorted({unit.content for unit in units})  # an actor only loads models that it needs
    workers, resources = plan_pool(config, len(units))
    context = data_context()
    context.max_errored_blocks = -1  # a unit that is lost must not stop the others
    # Each result comes as soon as its unit is committed, for progress and for the bound on failures, and not
    # with all of a call, which may take an hour.
    context.target_max_block_size = 1
    names: list[str] = []

    def actor_options() -> dict[str, Any]:
        # Named, so that `_kill` reaches actors that Ray Data has already let go of.
        names.append(f"units-{uuid.uuid4().hex}")
        return {"name": names[-1], "max_restarts": _ACTOR_RESTARTS, "max_task_retries": retries}

    with ray.data.DataContext.current(context):
        dataset = ray.data.from_items(
            [{"unit": unit.to_json()} for unit in units], override_num_blocks=min(len(units), _BLOCKS)
        )
        with warnings.catch_warnings():
            # Only `ray_remote_args_fn` can bound retries; unbounded, a document could kill workers forever.
            warnings.simplefilter("ignore", RayDeprecationWarning)
            dataset = dataset.map_batches(
                worker,
                fn_constructor_args=(
                    store,
                    snapshot.number,
                    config,
                    {content: fingerprints[content] for content in contents},
                ),
                # With few units, one per call, or some actors would get none.
                batch_size=max(1, min(units_per_call, len(units) // (units_per_call * workers))),
                # One call waits at an actor while it runs another; more would pile up at the slow ones.
                compute=ray.data.ActorPoolStrategy(size=workers, max_tasks_in_flight_per_actor=2),
                ray_remote_args_fn=actor_options,
                **resources,
            )
        try:
            for batch in dataset.iter_batches(batch_size=None, prefetch_batches=0):
                yield from map(UnitResult.from_json, batch["result"])
        finally:
            _kill(names)


def _kill(names: Sequence[str]) -> None:
    """Kill the actors of a round: one that was just restarting outlives its pool and keeps its CPU or GPU."""
    for name in names:
        try:
            ray.kill(ray.get_actor(name))
        except ValueError:  # it has ended
            continue
