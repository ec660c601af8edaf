"""What encoders from transformers share: packing segments into batches, hidden states, pooling.

`speech` and `text` say what a segment's input is and how inputs may share a batch.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
import torch
import transformers
from safetensors import SafetensorError
from torch import Tensor

from hilbert_ray.config import ConfigError, EncoderConfig, Modality, SegmentConfig, to_dict
from hilbert_ray.document import DocumentError, Hertz, Segment
from hilbert_ray.encoders.protocol import fingerprint_of
from hilbert_ray.encoders.weights import has_safetensors, precision_here, weights_hash
from hilbert_ray.segmentation import segmentation

UNUSED = {"masked_spec_embed", "num_batches_tracked", "pooler"}
"""Parts of networks that no feature depends on, so that weights may do without them."""


class SegmentTooLongError(DocumentError):
    """A segment beyond what the encoder takes; nothing is cut off to make it fit."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Pretrained:
    """A transformers model as the settings name it; `config` is its own, read from `folder`."""

    spec: str
    folder: str
    config: Any
    options: EncoderConfig
    segment: SegmentConfig


@dataclass(kw_only=True, slots=True)
class Waste:
    """How much was computed for padding: real and padded amounts (samples or tokens) so far."""

    real: int = 0
    padded: int = 0

    @property
    def share(self) -> float:
        """Padding's share of all that was computed."""
        return 1 - self.real / self.padded if self.padded else 0.0


class Transformer:
    """Base of the encoders: fingerprint, lazily loaded weights, batches, layers and pooling."""

    modality: Modality
    rate_hz: Hertz = 0
    max_tokens: int | None = None
    budget: int
    """Most samples or tokens in a batch, padding included; a segment above it has a batch to itself."""
    overhead: int = 0
    """What a batch costs by itself, in samples or tokens; with 0 only inputs of equal size share one."""

    def __init__(self, pretrained: Pretrained) -> None:
        self.pretrained, self.name, self.config = pretrained, pretrained.spec, pretrained.config
        self.precision = precision_here(pretrained.options.precision)
        self.dtype = {"bf16": torch.bfloat16, "float32": torch.float32}[self.precision]
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.pooling = pretrained.options.pooling
        self.layers = self._layers()
        width = int(self.config.hidden_size)
        self.dim = 2 * width if self.pooling == "mean_std" else width
        self.fingerprint = fingerprint_of(self._facts())
        self.waste = Waste()

    def _layers(self) -> tuple[int, int] | None:
        """Return the first and last hidden state to average, None for the model's output."""
        layer = self.pretrained.options.layer
        if layer == "last":
            return None
        parts = [int(part) for part in layer.split(":")]
        count = int(getattr(self.config, "encoder_layers", None) or self.config.num_hidden_layers)
        if parts[-1] > count:
            raise ConfigError(
                f"encoder {self.name} has hidden states 0 to {count}, but layer {layer} was asked for"
            )
        return parts[0], parts[-1]

    def _facts(self) -> dict[str, Any]:
        return {
            "weights": weights_hash(self.pretrained.folder),
            "layer": self.pretrained.options.layer,
            "pooling": self.pooling,
            "precision": str(self.dtype).removeprefix("torch."),
            "cutting": segmentation(self.pretrained.segment, self.modality),
        }

    def describe(self) -> dict[str, Any]:
        """Return what makes the features, as plain values."""
        return {
            **self._facts(), "name": self.name, "spec": self.name, "dim": self.dim,
            "type": self.config.model_type, "options": to_dict(self.pretrained.options),
            "segment": to_dict(self.pretrained.segment), "rate_hz": self.rate_hz,
            "fingerprint": self.fingerprint,
        }  # fmt: skip

    @cached_property
    def model(self) -> Any:  # noqa: ANN401 - transformers gives no common type
        """The network, in the chosen precision, on the GPU where there is one."""
        # Weights converted in inference mode need no gradient, and torch then multiplies by a copy of them
        # for every frame when a batch holds two segments or more: WavLM becomes seven times slower.
        with torch.inference_mode(False):
            return self._load().to(self.device, self.dtype).eval()

    def _load(self) -> Any:  # noqa: ANN401
        transformers.utils.logging.disable_progress_bar()  # logs of many workers are no terminal
        kind = (
            transformers.AutoModelForTextEncoding
            if self.config.model_type in ("t5", "mt5", "umt5")
            else transformers.AutoModel
        )
        try:
            loaded = kind.from_pretrained(
                self.pretrained.folder,
                use_safetensors=has_safetensors(self.pretrained.folder),
                trust_remote_code=self.pretrained.options.trust_remote_code,
                output_loading_info=True,
            )
        except SafetensorError as error:
            raise ConfigError(
                f"the weights of encoder {self.name} cannot be read: {error}; fetch them again"
            ) from error
        if not isinstance(loaded, tuple):  # remote code with a way of its own to load weights
            return loaded
        model, found = loaded
        unused = UNUSED | ({"decoder"} if self.config.model_type == "whisper" else set())
        lacking = sorted(name for name in found["missing_keys"] if not unused & set(name.split(".")))
        if lacking:
            raise ConfigError(
                f"the weights of encoder {self.name} lack {len(lacking)} of the tensors that a network of "
                f"type {self.config.model_type} computes with, the first {lacking[0]}; they would be random: "
                "use weights that belong to this config.json, or fetch them again"
            )
        return model

    def encode(self, segments: Sequence[Segment]) -> np.ndarray:
        """Return features float32 [n, dim]; batches are a function of the segments alone.

        Given none it only loads the weights.

        Raises:
            ConfigError: when the weights cannot be read or lack what the network computes with.
        """
        _ = self.model
        features = np.zeros((len(segments), self.dim), np.float32)
        inputs = self._inputs(segments)
        lengths = np.array([len(one) for one in inputs], np.int64)
        sizes = self._sizes(lengths)
        for rows in pack(sizes, self.budget, self.overhead):
            with torch.inference_mode():
                features[rows] = self._encode([inputs[row] for row in rows]).cpu().numpy()
            self.waste.real += int(lengths[rows].sum())
            self.waste.padded += int(sizes[rows].max()) * len(rows)
        return features

    def _inputs(self, segments: Sequence[Segment]) -> Sequence[np.ndarray]:
        """Return what the model sees of each segment: samples or token numbers."""
        raise NotImplementedError

    def _sizes(self, lengths: np.ndarray) -> np.ndarray:
        """Return what inputs of these lengths take of a batch."""
        return lengths

    def _encode(self, inputs: Sequence[np.ndarray]) -> Tensor:
        """Return float32 [batch, dim] of one batch."""
        raise NotImplementedError

    def _states(self, output: Any) -> Tensor:  # noqa: ANN401
        """Return float32 [batch, time, width]: the output, or the mean of the chosen hidden states."""
        if self.layers is None:
            return output.last_hidden_state.float()  # type: ignore[no-any-return]
        first, last = self.layers
        return torch.stack([state.float() for state in output.hidden_states[first : last + 1]]).mean(0)

    def _pool(self, states: Tensor, mask: Tensor) -> Tensor:
        """Return float32 [batch, dim] from states [batch, time, width] over places where `mask` is True."""
        if self.pooling == "cls":
            return states[:, 0]
        weights = mask[..., None].to(states.dtype)
        count = weights.sum(1)
        states = states.masked_fill(~mask[..., None], 0)
        mean = states.sum(1) / count
        if self.pooling == "mean":
            return mean
        variance = ((states - mean[:, None]).square() * weights).sum(1) / count
        return torch.cat([mean, variance.sqrt()], 1)

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Audio has no tokens."""
        raise TypeError(f"{self.name} encodes audio; it has no tokens")

    def split(self, text: str, limit: int) -> list[str]:
        """Audio has no tokens."""
        raise TypeError(f"{self.name} encodes audio; it has no tokens")


def pack(sizes: np.ndarray, budget: int, overhead: int) -> Iterator[np.ndarray]:
    """Yield batches of indices, largest first, cut so that all together cost least.

    A batch costs its padded size and `overhead`: many small ones waste time, few large ones padding. With an
    overhead of 0 only equal sizes share a batch.

    Args:
        sizes: int [n], what each input takes.
        budget: most that a batch takes, padding included; an input above it gets a batch to itself.
        overhead: what a batch costs by itself, in the same unit.
    """
    order = np.argsort(-sizes, kind="stable")
    ordered = sizes[order]
    least = np.zeros(len(sizes) + 1, np.int64)  # cost of the first so many inputs
    cuts = np.zeros(len(sizes) + 1, np.int64)  # where the last batch of these begins
    first = 0
    for stop in range(1, len(sizes) + 1):
        while first < stop - 1 and ordered[first] * (stop - first) > budget:
            first += 1
        costs = least[first:stop] + ordered[first:stop] * np.arange(stop - first, 0, -1)
        cuts[stop] = first + np.argmin(costs)
        least[stop] = costs.min() + overhead
    stops = [len(sizes)]
    while stops[-1]:
        stops.append(int(cuts[stops[-1]]))
    for start, stop in pairwise(reversed(stops)):
        yield order[start:stop]
