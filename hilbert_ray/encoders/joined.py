"""Several audio encoders as one: their features of the same segments, side by side.

Where parts hold several layers (`layer: all`), each layer is joined with what the others have of it, and
parts of a single layer are repeated: a weighted mean of layers, or one that is cut out, has them unchanged.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from hilbert_ray.config import ConfigError, EncoderConfig, Modality, SegmentConfig, to_dict
from hilbert_ray.document import Segment
from hilbert_ray.encoders.protocol import Encoder, fingerprint_of


class JoinedEncoder:
    """Concatenated features of its parts, in their order: within each layer if there are several."""

    modality: Modality = "audio"
    max_tokens: int | None = None

    def __init__(
        self, spec: str, parts: Sequence[Encoder], options: EncoderConfig, segment: SegmentConfig
    ) -> None:
        """Join encoders of audio that are built with the same settings.

        Raises:
            ConfigError: when their sampling rates differ, or their numbers of layers where both have several,
                or the lengths of what they hear segments in.
        """
        self.name, self.parts, self.options, self.segment = spec, parts, options, segment
        self.layers_of = [int(part.describe().get("layers", 1)) for part in parts]
        self.layers = max(self.layers_of)
        rates = {part.name: part.rate_hz for part in parts}
        if len(set(rates.values())) > 1:
            listed = ", ".join(f"{name} {rate}" for name, rate in rates.items())
            raise ConfigError(
                f"audio encoder {spec} joins encoders of different sampling rates in Hz ({listed}), and a "
                "recording is read at one: join encoders of the same rate"
            )
        if not set(self.layers_of) <= {1, self.layers}:
            counts = zip(rates, self.layers_of, strict=True)
            listed = ", ".join(f"{name} {count}" for name, count in counts)
            raise ConfigError(
                f"audio encoder {spec} joins encoders of different numbers of layers ({listed}), which "
                "cannot share weights: set audio_encoder.layer to one layer, a range or `last`"
            )
        fills = {part.name: part.fill / part.rate_hz for part in parts if part.fill}
        if len(set(fills.values())) > 1:
            listed = ", ".join(f"{name} {seconds:g} s" for name, seconds in fills.items())
            raise ConfigError(
                f"audio encoder {spec} joins encoders with inputs of different lengths ({listed}), which "
                "cannot hear the same segments together: set audio_encoder.context to segment"
            )
        self.rate_hz, self.fill = parts[0].rate_hz, max(part.fill for part in parts)
        self.dim = self.layers * sum(
            part.dim // count for part, count in zip(parts, self.layers_of, strict=True)
        )
        self.fingerprint = fingerprint_of({"joined": [part.fingerprint for part in parts]})

    def describe(self) -> dict[str, Any]:
        """Return what decides the features, as plain values: in `parts`, what each part says of itself."""
        return {
            "name": self.name, "spec": self.name, "dim": self.dim, "options": to_dict(self.options),
            "segment": to_dict(self.segment), "rate_hz": self.rate_hz, "fingerprint": self.fingerprint,
            "parts": [part.describe() for part in self.parts],
            **({"layers": self.layers} if self.layers > 1 else {}),
        }  # fmt: skip

    def encode(self, segments: Sequence[Segment]) -> np.ndarray:
        """Return features float32 [n, dim]: of each layer, the features of all parts."""
        by_layer = []
        for part, count in zip(self.parts, self.layers_of, strict=True):
            features = part.encode(segments).reshape(len(segments), count, part.dim // count)
            by_layer.append(np.broadcast_to(features, (len(segments), self.layers, features.shape[2])))
        return np.concatenate(by_layer, axis=2).reshape(len(segments), self.dim)

    def rehearse(self) -> None:
        """Check that the weights of all parts would load.

        Raises:
            ConfigError: naming what is wrong with them and what to do.
        """
        for part in self.parts:
            part.rehearse()

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Audio has no tokens."""
        raise TypeError(f"{self.name} encodes audio; it has no tokens")

    def split(self, text: str, limit: int) -> list[str]:
        """Audio has no tokens."""
        raise TypeError(f"{self.name} encodes audio; it has no tokens")
