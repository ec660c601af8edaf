"""What a run of `embed` would do, without doing it."""

from dataclasses import replace

from hilbert_ray.config import Config
from hilbert_ray.embedding.probe import measure
from hilbert_ray.embedding.resolve import chosen_encoders, jobs_of, resolve_encoders
from hilbert_ray.store import Content
from hilbert_ray.units import Estimate, JobEstimate, estimate_jobs


def estimate(manifest: str, store: str, config: Config | None = None) -> Estimate:
    """Return what `embed` would do with the same arguments; write nothing.

    Args:
        manifest: path or URI of the manifest.
        store: path or URI of the store, which need not exist.
        config: the encoders, and the settings of segmentation and of the run; None: the defaults. The time is
            estimated for `embed.workers` workers (0: as many as the cluster has room for now).

    Raises:
        ConfigError, ManifestError, StoreError, UnitsError: as `embed` does before anything runs, and where an
        encoder does not load.
    """
    config = resolve_encoders(config or Config())
    encoders = chosen_encoders(config)
    names = [encoder.name for encoder in encoders.values()]
    found = estimate_jobs(manifest, store, config, list(zip(names, jobs_of(encoders), strict=True)), measure)
    modalities: dict[Content, JobEstimate] = {
        modality: replace(found.modalities[modality], layers=encoder.describe().get("layers", 1))
        for modality, encoder in encoders.items()
    }
    return replace(found, modalities=modalities)
