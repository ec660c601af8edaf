"""What every command over units does before anything runs: check the manifest, plan what is left to do."""

from collections.abc import Sequence

import ray

from hilbert_ray.cluster import connect
from hilbert_ray.config import Config
from hilbert_ray.store import Snapshot, Store, write_snapshot
from hilbert_ray.units.errors import UnitsError
from hilbert_ray.units.plan import Job, Plan, plan_jobs, versioned_rows

DOCUMENTS_PER_TASK = 50_000
"""Documents that are planned together: more are planned by Ray tasks, some buckets each, so that neither ids
nor commits of all documents are ever in one process."""


def take_snapshot(manifest: str, store: Store, config: Config) -> Snapshot:
    """Write a manifest, with the versions that its files have now, into a store as its newest snapshot.

    Workers on any node read their documents from there, and a manifest that changes during the run changes
    nothing.

    Raises:
        ManifestError: when the manifest cannot be read at all.
        UnitsError: when it has no valid document.
    """
    rows = versioned_rows(manifest, config.embed.content_hash, config.roots)
    snapshot = write_snapshot(store, rows, config.segment.roles)
    if not snapshot.num_documents:
        raise UnitsError(
            f"manifest {manifest} has no valid document ({len(snapshot.faults)} invalid rows); "
            "`hilbert-ray validate` lists what is wrong with each"
        )
    return snapshot


def plan_all(
    store: Store,
    snapshot: Snapshot,
    jobs: Sequence[Job],
    config: Config,
    plan_here: bool = False,
) -> list[Plan]:
    """Plan each job: here if the manifest is small, otherwise in Ray tasks over groups of buckets.

    Args:
        store: the store whose commits say what is done.
        snapshot: the manifest.
        jobs: what to do.
        config: settings of the run.
        plan_here: plan everything in this process, because the snapshot is on this machine only.
    """
    # Documents, sources and commits are all sharded by bucket, so blocks of buckets are planned
    # independently.
    blocks = snapshot.blocks(num_documents=DOCUMENTS_PER_TASK)
    options = (config.embed.unit_s, config.embed.retry_quarantined)
    if len(blocks) == 1 or plan_here:
        by_block = [plan_jobs(store, snapshot, jobs, block, *options) for block in blocks]
    else:
        connect()
        task = ray.remote(num_cpus=1)(plan_jobs)
        shared = ray.put(snapshot)  # once, not with every task
        by_block = ray.get([task.remote(store, shared, jobs, block, *options) for block in blocks])
    return [_join(job, plans) for job, plans in zip(jobs, zip(*by_block, strict=True), strict=True)]


def _join(job: Job, plans: Sequence[Plan]) -> Plan:
    """Return one plan for all buckets of the plans of some each."""
    return Plan(
        job=job,
        units=tuple(unit for plan in plans for unit in plan.units),
        stored=sum(plan.stored for plan in plans),
        quarantined=sum(plan.quarantined for plan in plans),
        absent=sum(plan.absent for plan in plans),
    )
