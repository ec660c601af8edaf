"""What every encoder provides, and the fingerprint that names the features it computes."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from hilbert_ray.config import Modality
from hilbert_ray.document import Hertz, Samples, Segment


class Encoder(Protocol):
    """What turns segments into features.

    modality: which segments it takes. name: as in the settings. dim: width of a feature. fingerprint: hash of
    everything that features depend on besides the document: weights, layer, pooling, precision, segmentation.
    rate_hz: sampling rate of audio segments, 0 for text. fill: most samples of audio segments that are heard
    together (`segmentation.heard_together`), 0 where each is heard alone. max_tokens: longest text segment,
    without special tokens; None where there is no limit.
    """

    modality: Modality
    name: str
    dim: int
    rate_hz: Hertz
    fill: Samples
    max_tokens: int | None

    @property
    def fingerprint(self) -> str:
        """The hash that names its features."""

    def describe(self) -> dict[str, Any]:
        """Return what decides the features, as plain values: the content of the store's encoder.json."""

    def encode(self, segments: Sequence[Segment]) -> np.ndarray:
        """Return features float32 [n, dim], one per segment; a segment has the same feature in any batch.

        That holds where segments are heard together too, since each brings what it is heard in
        (`AudioSegment.fill`). Those of one fill are computed once if they are in the same call.

        Called without segments, it only loads libraries and weights: a worker does so first, so that what
        keeps them from loading is raised before any document is read, and no document is blamed for it.
        """

    def rehearse(self) -> None:
        """Check that the weights would load, without holding them: in the driver, before a run begins.

        Raises:
            ConfigError: naming what is wrong with them and what to do.
        """

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Return how many tokens each text has, without special tokens."""

    def split(self, text: str, limit: int) -> list[str]:
        """Return consecutive pieces of a text, none above `limit` tokens, together the whole text."""


def fingerprint_of(facts: Mapping[str, Any]) -> str:
    """Return 16 hexadecimal digits that identify plain values: the start of the SHA-256 of their JSON."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
