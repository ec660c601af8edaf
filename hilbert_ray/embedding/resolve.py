"""What `embed` does before anything runs: settle the encoders, read the manifest, plan what is left to do."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import ray

from hilbert_ray.cluster import connect, is_given
from hilbert_ray.config import MODALITIES, Config, EmbedConfig, Modality
from hilbert_ray.embedding.plan import EmbedPlan, EncodingJob, plan_job
from hilbert_ray.embedding.worker import configured_encoder
from hilbert_ray.encoders import Encoder, pin_revision, resolve_precision
from hilbert_ray.errors import HilbertError
from hilbert_ray.segmentation import require_vad
from hilbert_ray.store import Snapshot, Store, reads_turns

PLANNED_HERE = 50_000
"""Documents up to which the driver plans by itself; more are planned by Ray tasks, some buckets each."""


class EmbedError(HilbertError, RuntimeError):
    """A run that cannot go on: no document, no way to write the store or load an encoder, dying workers."""

    exit_code = 1


def resolve_encoders(config: Config) -> Config:
    """Return settings that mean the same on every node: encoders by place and revision, precision by name.

    On a running cluster `auto` is what a worker's device has, which need not be what this machine has.
    """
    for modality in MODALITIES:
        spec, options = getattr(config, modality), getattr(config, f"{modality}_encoder")
        if not spec.startswith("hf:"):
            continue
        spec = pin_revision(spec)
        if options.precision == "auto":
            options = replace(options, precision=_precision(config.embed))
        config = replace(config, **{modality: spec, f"{modality}_encoder": options})
    return config


def _precision(config: EmbedConfig) -> str:
    if not is_given():
        return resolve_precision()
    connect()
    share = {"num_gpus": 0.01} if takes_gpus(config) else {"num_cpus": 0.01}
    found: str = ray.get(ray.remote(resolve_precision).options(**share).remote())
    return found


def takes_gpus(config: EmbedConfig) -> bool:
    """Return whether encoder actors take GPUs, on a cluster that is connected."""
    return config.gpu == "yes" or (config.gpu == "auto" and bool(ray.cluster_resources().get("GPU")))


def chosen_encoders(config: Config) -> dict[Modality, Encoder]:
    """Return the encoders that the settings name, by modality.

    Raises:
        ConfigError: when one cannot be had, or recordings cannot be cut as it would need them.
    """
    chosen = {
        modality: configured_encoder(config, modality)
        for modality in MODALITIES
        if getattr(config, modality) != "none"
    }
    if "audio" in chosen and config.segment.audio == "pause":
        require_vad(chosen["audio"].rate_hz)
    return chosen


def require_documents(manifest: str, snapshot: Snapshot) -> None:
    """Refuse a manifest of which nothing is valid."""
    if not snapshot.rows:
        raise EmbedError(
            f"manifest {manifest} has no valid document ({len(snapshot.faults)} rows are at fault); "
            "`hilbert-ray validate` lists what is wrong with each"
        )


def plan_all(
    store: Store,
    snapshot: Snapshot,
    chosen: Mapping[Modality, Encoder],
    config: Config,
    documents: Store | None = None,
) -> list[EmbedPlan]:
    """Plan each modality: here when the manifest is small, else as Ray tasks over groups of buckets.

    Args:
        store: the store whose commits tell what is done.
        snapshot: the manifest to embed.
        chosen: encoders by modality.
        config: settings of the run.
        documents: where the snapshot lies if not in the store: on this machine, so all is planned here.
    """
    jobs = [
        EncodingJob(
            modality=modality,
            fingerprint=encoder.fingerprint,
            reads_turns=reads_turns(modality, encoder.describe()),
        )
        for modality, encoder in chosen.items()
    ]
    blocks = snapshot.blocks(rows=PLANNED_HERE)
    options = (config.embed.unit_s, config.embed.retry_quarantined, documents)
    if len(blocks) == 1 or documents is not None:
        return [_merged(job, [plan_job(store, snapshot, job, b, *options) for b in blocks]) for job in jobs]
    connect()
    task = ray.remote(num_cpus=1)(plan_job)
    shared = ray.put(snapshot)
    pending = [[task.remote(store, shared, job, block, *options) for block in blocks] for job in jobs]
    return [_merged(job, ray.get(parts)) for job, parts in zip(jobs, pending, strict=True)]


def _merged(job: EncodingJob, parts: Sequence[EmbedPlan]) -> EmbedPlan:
    return EmbedPlan(
        job=job,
        units=tuple(unit for part in parts for unit in part.units),
        stored=sum(part.stored for part in parts),
        quarantined=sum(part.quarantined for part in parts),
        absent=sum(part.absent for part in parts),
    )
