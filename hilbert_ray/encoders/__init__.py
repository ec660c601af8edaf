"""Frozen encoders behind one protocol: segments in, one float32 vector out for each."""

from typing import TYPE_CHECKING

from hilbert_ray.lazy import lazy_names

if TYPE_CHECKING:
    from hilbert_ray.encoders.load import load_encoder_spec
    from hilbert_ray.encoders.protocol import Encoder
    from hilbert_ray.encoders.transformer import pack
    from hilbert_ray.encoders.weights import pinned, precision_here

__all__ = [
    "Encoder",
    "load_encoder_spec",
    "pack",
    "pinned",
    "precision_here",
]

__getattr__ = lazy_names(
    __name__,
    {
        "load": ("load_encoder_spec",),
        "protocol": ("Encoder",),
        "transformer": ("pack",),
        "weights": (
            "pinned",
            "precision_here",
        ),
    },
)
