"""Frozen encoders behind one protocol: segments in, one float32 vector out per segment.

Recognisers of speech read their folders of transformers with the same functions.
"""

from typing import TYPE_CHECKING

from hilbert_ray.lazy import lazy_names

if TYPE_CHECKING:
    from hilbert_ray.encoders.folder import (
        check_extractor_files,
        check_folder,
        check_layers,
        check_tokenizer_files,
        reading,
    )
    from hilbert_ray.encoders.loading import Part, load, rehearse
    from hilbert_ray.encoders.protocol import Encoder, fingerprint_of
    from hilbert_ray.encoders.registry import build_encoder
    from hilbert_ray.encoders.speech_types import SPEECH_TYPES, shortest_input
    from hilbert_ray.encoders.transformer import pack
    from hilbert_ray.encoders.weights import fetch, pin_revision, resolve_precision, weights_hash

__all__ = [
    "SPEECH_TYPES",
    "Encoder",
    "Part",
    "build_encoder",
    "check_extractor_files",
    "check_folder",
    "check_layers",
    "check_tokenizer_files",
    "fetch",
    "fingerprint_of",
    "load",
    "pack",
    "pin_revision",
    "reading",
    "rehearse",
    "resolve_precision",
    "shortest_input",
    "weights_hash",
]

__getattr__ = lazy_names(
    __name__,
    {
        "folder": (
            "check_extractor_files",
            "check_folder",
            "check_layers",
            "check_tokenizer_files",
            "reading",
        ),
        "loading": ("Part", "load", "rehearse"),
        "registry": ("build_encoder",),
        "protocol": ("Encoder", "fingerprint_of"),
        "speech_types": ("SPEECH_TYPES", "shortest_input"),
        "transformer": ("pack",),
        "weights": (
            "fetch",
            "pin_revision",
            "resolve_precision",
            "weights_hash",
        ),
    },
)
