"""From a manifest to a store in which every document is stored or quarantined with a reason."""

from typing import TYPE_CHECKING

from hilbert_ray.lazy import lazy_names

if TYPE_CHECKING:
    from hilbert_ray.embedding.driver import embed, embed_what_can_be
    from hilbert_ray.embedding.dry_run import estimate
    from hilbert_ray.embedding.features import embed_documents
    from hilbert_ray.embedding.resolve import chosen_encoders, jobs_of
    from hilbert_ray.embedding.worker import EmbedUnits, configured_encoder

__all__ = [
    "EmbedUnits",
    "chosen_encoders",
    "configured_encoder",
    "embed",
    "embed_documents",
    "embed_what_can_be",
    "estimate",
    "jobs_of",
]

__getattr__ = lazy_names(
    __name__,
    {
        "driver": (
            "embed",
            "embed_what_can_be",
        ),
        "dry_run": ("estimate",),
        "features": ("embed_documents",),
        "resolve": (
            "chosen_encoders",
            "jobs_of",
        ),
        "worker": (
            "EmbedUnits",
            "configured_encoder",
        ),
    },
)
