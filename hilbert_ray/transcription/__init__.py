"""From recordings without text to transcripts, and the manifest that names them."""

from typing import TYPE_CHECKING

from hilbert_ray.lazy import lazy_names

if TYPE_CHECKING:
    from hilbert_ray.transcription.driver import TranscribeSummary, transcribe
    from hilbert_ray.transcription.dry_run import estimate

__all__ = ["TranscribeSummary", "estimate", "transcribe"]

__getattr__ = lazy_names(
    __name__,
    {
        "driver": (
            "TranscribeSummary",
            "transcribe",
        ),
        "dry_run": ("estimate",),
    },
)
