"""Frozen encoders behind one protocol: segments in, one float32 vector each out.

`load` turns the name in the settings into an encoder: `mfcc` and `hashing` are built in (`builtin`), `hf:`
names a transformers model (`huggingface`), of `speech` or `text`; `pinned` and `precision_here` settle what
such a name and the precision `auto` mean. A segment's feature is the same alone or in any batch.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from hilbert_ray import vad
from hilbert_ray.config import ConfigError, EncoderConfig, Modality, SegmentConfig, to_dict
from hilbert_ray.document import Hertz, Segment
from hilbert_ray.encoders.weights import pinned, precision_here

__all__ = ["Encoder", "cutting", "fingerprint_of", "load", "pinned", "precision_here", "segmentation"]

CUTTING_RULES = 2
"""Version of how `segment` cuts: to be raised when the same settings give other segments."""


class Encoder(Protocol):
    """What turns segments into features.

    modality: which segments it takes. name: as in the settings. dim: width of a feature. fingerprint: hash of
    all that features depend on besides the document: weights, layer, pooling, precision, segmentation.
    rate_hz: sampling rate of audio segments. max_tokens: longest text segment, without special tokens; None
    where there is no limit.
    """

    modality: Modality
    name: str
    dim: int
    fingerprint: str
    rate_hz: Hertz
    max_tokens: int | None

    def describe(self) -> dict[str, Any]:
        """Return what makes the features, as plain values: the content of the store's encoder.json."""

    def encode(self, segments: Sequence[Segment]) -> np.ndarray:
        """Return features float32 [n, dim], one a segment, the same for a segment in any batch.

        Given no segment, it loads what it computes with, and raises what keeps it from that.
        """

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Return how many tokens each text has, without special tokens."""

    def split(self, text: str, limit: int) -> list[str]:
        """Return consecutive pieces of a text, none above `limit` tokens, together the whole text."""


def load(spec: str, modality: Modality, options: EncoderConfig, segment: SegmentConfig) -> Encoder:
    """Return the encoder that the settings name; the weights of a transformers model are read at first use.

    Args:
        spec: `mfcc`, `hashing`, or `hf:<id or folder>[@revision]`.
        modality: what it is to encode.
        options: of a transformers model.
        segment: segmentation, which is part of the fingerprint.

    Raises:
        ConfigError: for a name that is not known or is of the other modality, or options that do not fit the
        model.
    """
    from hilbert_ray.encoders.builtin import Hashing, Mfcc

    if spec.startswith("hf:"):
        from hilbert_ray.encoders.huggingface import load_model

        return load_model(spec, modality, options, segment)
    if (modality, spec) == ("audio", "mfcc"):
        return Mfcc(segment)
    if (modality, spec) == ("text", "hashing"):
        return Hashing(segment)
    builtin = {"audio": "mfcc", "text": "hashing"}[modality]
    raise ConfigError(
        f"{modality} encoder is {spec!r}; the choices are `{builtin}`, `hf:<id or folder>[@revision]` and "
        "`none`"
    )


def cutting(segment: SegmentConfig, modality: Modality) -> dict[str, Any]:
    """Return the segmentation settings that a modality's features depend on.

    Roles are left out: they decide which part of a document is read, and so belong to the document's key.
    """
    values = to_dict(segment)
    names = ("audio", "window_s", "hop_s", "max_s") if modality == "audio" else ("target_tokens",)
    return {name: values[name] for name in names}


def segmentation(segment: SegmentConfig, modality: Modality) -> dict[str, Any]:
    """Return all that decides how a modality is cut: the settings, and the detector where it cuts at pauses.

    Raises:
        ConfigError: when pauses are asked for and the detector is not installed.
    """
    facts = {**cutting(segment, modality), "rules": CUTTING_RULES}
    if facts.get("audio") == "pause":
        facts["pauses"] = vad.identity()
    return facts


def fingerprint_of(facts: Mapping[str, Any]) -> str:
    """Return 16 hexadecimal digits that stand for some plain values."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
