"""From a manifest to a store in which every document is stored or quarantined with a reason."""

from typing import TYPE_CHECKING

from hilbert_ray.lazy import lazy_names

if TYPE_CHECKING:
    from hilbert_ray.embedding.capacity import plan_capacity
    from hilbert_ray.embedding.driver import embed, embed_what_can_be
    from hilbert_ray.embedding.dry_run import estimate
    from hilbert_ray.embedding.features import embed_documents
    from hilbert_ray.embedding.plan import SPEECH_PER_UNIT, plan_jobs, version_or_absent, versioned_rows
    from hilbert_ray.embedding.resolve import chosen_encoders, plan_all, takes_gpus
    from hilbert_ray.embedding.worker import EmbedUnits, configured_encoder

__all__ = [
    "SPEECH_PER_UNIT",
    "EmbedUnits",
    "chosen_encoders",
    "configured_encoder",
    "embed",
    "embed_documents",
    "embed_what_can_be",
    "estimate",
    "plan_all",
    "plan_capacity",
    "plan_jobs",
    "takes_gpus",
    "version_or_absent",
    "versioned_rows",
]

__getattr__ = lazy_names(
    __name__,
    {
        "capacity": ("plan_capacity",),
        "driver": (
            "embed",
            "embed_what_can_be",
        ),
        "dry_run": ("estimate",),
        "features": ("embed_documents",),
        "plan": (
            "SPEECH_PER_UNIT",
            "plan_jobs",
            "version_or_absent",
            "versioned_rows",
        ),
        "resolve": (
            "chosen_encoders",
            "plan_all",
            "takes_gpus",
        ),
        "worker": (
            "EmbedUnits",
            "configured_encoder",
        ),
    },
)
