"""Frozen encoders behind one protocol: segments in, one float32 vector out per segment."""

from typing import TYPE_CHECKING

from hilbert_ray.lazy import lazy_names

if TYPE_CHECKING:
    from hilbert_ray.encoders.protocol import Encoder
    from hilbert_ray.encoders.registry import build_encoder
    from hilbert_ray.encoders.transformer import pack
    from hilbert_ray.encoders.weights import Precision, pin_revision, resolve_precision

__all__ = [
    "Encoder",
    "Precision",
    "build_encoder",
    "pack",
    "pin_revision",
    "resolve_precision",
]

__getattr__ = lazy_names(
    __name__,
    {
        "registry": ("build_encoder",),
        "protocol": ("Encoder",),
        "transformer": ("pack",),
        "weights": (
            "Precision",
            "pin_revision",
            "resolve_precision",
        ),
    },
)
