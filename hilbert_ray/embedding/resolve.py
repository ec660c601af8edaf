"""What `embed` does before anything runs: resolve encoders, check the manifest, plan what is left to do."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import ray

from hilbert_ray.cluster import connect, given_device, has_cluster
from hilbert_ray.config import MODALITIES, Config, EmbedConfig, EncoderChoice, Modality
from hilbert_ray.embedding.errors import EmbedError
from hilbert_ray.embedding.plan import EmbedPlan, EncodingJob, plan_jobs
from hilbert_ray.embedding.worker import configured_encoder
from hilbert_ray.encoders import Encoder, Precision, pin_revision, resolve_precision
from hilbert_ray.segmentation import require_vad
from hilbert_ray.store import Snapshot, Store, reads_turns

DOCUMENTS_PER_TASK = 50_000
"""Documents that are planned together: more are planned by Ray tasks, some buckets each, so that neither ids
nor commits of all documents are ever in one process."""


def resolve_encoders(config: Config) -> Config:
    """Return settings that mean the same on every node: weights by path or commit, precision by name.

    On a running cluster, `auto` precision is what a worker's device supports, which may differ from this one.
    """
    for modality in MODALITIES:
        choice = config.encoder(modality)
        if not choice.spec.startswith("hf:"):  # built-in encoders have neither weights nor a precision
            continue
        spec, options = pin_revision(choice.spec), choice.options
        if options.precision == "auto":
            options = replace(options, precision=_precision_of_workers(config.embed))
        config = config.with_encoder(modality, EncoderChoice(spec=spec, options=options))
    return config


def _precision_of_workers(config: EmbedConfig) -> Precision:
    # Ray started on this machine will find the GPUs that torch finds.
    if not has_cluster():
        import torch  # here, since the driver of a run with built-in encoders does without

        has_gpu = config.gpu != "no" and torch.cuda.is_available()
        return resolve_precision("auto", "cuda" if has_gpu else "cpu")
    connect()
    # A sliver of the device that the workers will use, so that the task runs even on a busy cluster.
    resources = {"num_gpus": 0.01} if takes_gpus(config) else {"num_cpus": 0.01}
    precision: Precision = ray.get(ray.remote(_precision_here).options(**resources).remote())
    return precision


def _precision_here() -> Precision:
    """Return what `auto` means on the device that Ray gave this task."""
    return resolve_precision("auto", given_device())


def takes_gpus(config: EmbedConfig) -> bool:
    """Return whether encoder actors take GPUs; the cluster must be connected."""
    return config.gpu == "yes" or (config.gpu == "auto" and bool(ray.cluster_resources().get("GPU")))


def chosen_encoders(config: Config) -> dict[Modality, Encoder]:
    """Return the encoders that the settings name, by modality.

    Raises:
        ConfigError: when one is unavailable, its weights would not load, or audio is cut at pauses and none
            can be detected at its rate.
    """
    encoders = {
        modality: configured_encoder(config, modality)
        for modality in MODALITIES
        if config.encoder(modality).spec != "none"
    }
    if "audio" in encoders and config.segment.audio == "pause":
        require_vad(encoders["audio"].rate_hz)  # now, not when the first worker cuts the first recording
    for encoder in encoders.values():
        encoder.rehearse()  # now, in one message: later each worker would find the same fault
    return encoders


def require_documents(manifest: str, snapshot: Snapshot) -> None:
    """Check that a manifest has a valid document.

    Raises:
        EmbedError: when it has none.
    """
    if not snapshot.num_documents:
        raise EmbedError(
            f"manifest {manifest} has no valid document ({len(snapshot.faults)} invalid rows); "
            "`hilbert-ray validate` lists what is wrong with each"
        )


def plan_all(
    store: Store,
    snapshot: Snapshot,
    encoders: Mapping[Modality, Encoder],
    config: Config,
    plan_here: bool = False,
) -> list[EmbedPlan]:
    """Plan each modality: here if the manifest is small, otherwise in Ray tasks over groups of buckets.

    Args:
        store: the store whose commits say what is done.
        snapshot: the manifest to embed.
        encoders: by modality.
        config: settings of the run.
        plan_here: plan everything in this process, because the snapshot is on this machine only.
    """
    jobs = [
        EncodingJob(
            modality=modality,
            fingerprint=encoder.fingerprint,
            reads_turns=reads_turns(modality, encoder.describe()),
        )
        for modality, encoder in encoders.items()
    ]
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


def _join(job: EncodingJob, plans: Sequence[EmbedPlan]) -> EmbedPlan:
    """Return one plan for all buckets of the plans of some each."""
    return EmbedPlan(
        job=job,
        units=tuple(unit for plan in plans for unit in plan.units),
        stored=sum(plan.stored for plan in plans),
        quarantined=sum(plan.quarantined for plan in plans),
        absent=sum(plan.absent for plan in plans),
    )
