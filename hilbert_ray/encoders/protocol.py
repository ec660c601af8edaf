"""What every encoder offers, and the fingerprint that names what it makes."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from hilbert_ray.config import Modality
from hilbert_ray.document import Hertz, Segment


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


def fingerprint_of(facts: Mapping[str, Any]) -> str:
    """Return 16 hexadecimal digits that stand for some plain values."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
