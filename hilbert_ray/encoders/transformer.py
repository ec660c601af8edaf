"""What encoders from transformers share: packing segments into batches, hidden states, pooling.

`speech` and `text` define what the input for a segment is and how inputs may share a batch.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hilbert_ray.config import EncoderConfig, Modality, SegmentConfig, layer_range, to_dict
from hilbert_ray.document import DocumentError, Hertz, Samples, Segment
from hilbert_ray.encoders.declaration import Declaration
from hilbert_ray.encoders.folder import reading
from hilbert_ray.encoders.loading import Part, load, rehearse
from hilbert_ray.encoders.pooling import pool, pooled_dim
from hilbert_ray.encoders.protocol import fingerprint_of
from hilbert_ray.encoders.weights import code_hash, declares_code, resolve_precision, weights_hash
from hilbert_ray.segmentation import segmentation


class SegmentTooLongError(DocumentError):
    """A segment longer than the encoder takes; nothing is cut off to make it fit."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Pretrained:
    """A transformers model as the settings name it.

    root: the folder that `spec` names. folder: where the transformer is, `root` for all but some text models;
    `config` is its own, read from there. declaration: how a text model is meant to be used. device:
    where it computes, which whoever started this process has to say: a GPU that torch finds may be another
    process's.
    """

    spec: str
    root: str
    folder: str
    config: Any
    options: EncoderConfig
    segment: SegmentConfig
    declaration: Declaration
    device: str

    @property
    def runs_code(self) -> bool:
        """Whether the network is defined by code that comes with the weights, which may be run."""
        return self.options.trust_remote_code and bool(getattr(self.config, "auto_map", None))


@dataclass(kw_only=True, slots=True)
class PaddingCount:
    """How much was computed for padding: samples or tokens so far, without padding and with it."""

    real: int = 0
    padded: int = 0

    @property
    def fraction(self) -> float:
        """The fraction of what was computed that was padding, 0 to 1."""
        return 1 - self.real / self.padded if self.padded else 0.0


class Transformer:
    """Base of the encoders: fingerprint, lazily loaded weights, batches, layers and pooling."""

    modality: Modality
    rate_hz: Hertz = 0
    fill: Samples = 0
    max_tokens: int | None = None
    budget: int
    """Most samples or tokens in a batch, padding included; a segment above it has a batch to itself."""
    overhead: int = 0
    """The fixed cost of a batch, in samples or tokens; with 0 only inputs of equal size share one."""
    part: Part | None = None
    """The network, if the folder may hold more than it."""

    def __init__(self, pretrained: Pretrained) -> None:
        self.pretrained, self.name, self.config = pretrained, pretrained.spec, pretrained.config
        self.device = torch.device(pretrained.device)
        self.precision = resolve_precision(pretrained.options.precision, pretrained.device)
        self.dtype = {"bf16": torch.bfloat16, "float32": torch.float32}[self.precision]
        self.modes = self._modes()
        self.pooling = "+".join(self.modes)
        with reading("config.json", self.name):
            self.layers = self._layers()
            self.width = self._width()
        self.layer_dim = self._dim()
        self.dim = len(self.kept) * self.layer_dim
        self.padding = PaddingCount()

    def _modes(self) -> tuple[str, ...]:
        """Return how states are pooled; what several modes give is concatenated."""
        pooling = self.pretrained.options.pooling
        return ("mean" if pooling == "auto" else pooling,)

    def _dim(self) -> int:
        """Return the width of what a feature holds of one layer."""
        return pooled_dim(self.width, self.modes)

    def _layers(self) -> tuple[int, int] | None:
        """Return the first and last hidden state to read, None for the model's output."""
        layer = self.pretrained.options.layer
        if layer == "last":
            return None
        chosen = layer_range(layer, self._last_state() + 1, f"encoder {self.name}")
        return chosen.start, chosen.stop - 1

    @property
    def kept(self) -> Sequence[tuple[int, int] | None]:
        """First and last of the hidden states whose mean is pooled, for each layer that a feature holds."""
        if self.layers is None or self.pretrained.options.layer != "all":
            return [self.layers]
        return [(layer, layer) for layer in range(self.layers[1] + 1)]

    def _last_state(self) -> int:
        """Return the number of the last hidden state that can be chosen."""
        # Models with a decoder too name the layers of the encoder apart.
        return int(getattr(self.config, "encoder_layers", None) or self.config.num_hidden_layers)

    def _width(self) -> int:
        """Return the width of the states that are pooled."""
        return int(self.config.hidden_size)

    def _facts(self) -> dict[str, Any]:
        folder, options = self.pretrained.folder, self.pretrained.options
        has_code = options.trust_remote_code and declares_code(folder)
        return {
            "weights": weights_hash(folder),
            "layer": options.layer,
            "pooling": self.pooling,
            # As torch names it: stores hold this hash, so it must stay what it was.
            "precision": str(self.dtype).removeprefix("torch."),
            "cutting": segmentation(self.pretrained.segment, self.modality),
            **({"code": code_hash(folder)} if has_code else {}),
        }

    @cached_property
    def fingerprint(self) -> str:
        """The hash of everything that features depend on besides the document."""
        return fingerprint_of(self._facts())

    def describe(self) -> dict[str, Any]:
        """Return what decides the features, as plain values."""
        return {
            **self._facts(), "name": self.name, "spec": self.name, "dim": self.dim,
            "type": self.config.model_type, "options": to_dict(self.pretrained.options),
            "segment": to_dict(self.pretrained.segment), "rate_hz": self.rate_hz,
            "fingerprint": self.fingerprint,
            # Left out where it is 1: descriptions in stores are compared whole.
            **({"layers": len(self.kept)} if len(self.kept) > 1 else {}),
        }  # fmt: skip

    @cached_property
    def model(self) -> Any:  # noqa: ANN401 - transformers has no common type
        """The network, in the chosen precision and on the device; loaded at first use."""
        # Weights converted in inference mode need no gradient, and torch then multiplies by a copy of them
        # for every frame when a batch holds two segments or more: WavLM becomes seven times slower.
        with torch.inference_mode(False):
            return self._load().to(self.device, self.dtype).eval()

    def _load(self) -> Any:  # noqa: ANN401
        """Return the network with its weights.

        Raises:
            ConfigError: when the weights cannot be read or lack what the network computes with.
        """
        options, folder = self.pretrained.options, self.pretrained.folder
        return load(folder, self.name, self.config, options.trust_remote_code, self.part)

    def rehearse(self) -> None:
        """Check that the weights would load, in about a second and without holding them.

        Raises:
            ConfigError: when they cannot be read or lack what the network computes with.
        """
        # What remote code does with its weights is known once it runs, and it is run where it is used.
        if not self.pretrained.runs_code:
            rehearse(self.pretrained.folder, self.name, self.config, self.part)

    def encode(self, segments: Sequence[Segment]) -> np.ndarray:
        """Return features float32 [n, dim]; how they are batched depends on the segments alone.

        Segments of one fill share an input, which is computed once. Called without segments, it only loads
        the weights.

        Raises:
            ConfigError: when the weights cannot be read or lack what the network computes with.
            SegmentTooLongError: when a segment is longer than the encoder takes.
        """
        _ = self.model
        features = np.zeros((len(segments), self.dim), np.float32)  # rows in the order of the segments
        groups = self._heard_together(segments)
        inputs = self._inputs([segments[rows[0]] for rows in groups])
        lengths = np.array([len(values) for values in inputs], np.int64)
        sizes = self._sizes(lengths)
        for batch in pack(sizes, self.budget, self.overhead):
            heard = [[segments[row] for row in groups[number]] for number in batch]
            with torch.inference_mode():
                pooled = self._encode([inputs[number] for number in batch], heard)
            features[[row for number in batch for row in groups[number]]] = pooled.cpu().numpy()
            self.padding.real += int(lengths[batch].sum())
            self.padding.padded += int(sizes[batch].max()) * len(batch)
        return features

    def _inputs(self, segments: Sequence[Segment]) -> Sequence[np.ndarray]:
        """Return what the model gets of each segment: float32 samples or int64 token ids."""
        raise NotImplementedError

    def _heard_together(self, segments: Sequence[Segment]) -> list[list[int]]:
        """Return the rows of the segments that share an input, for each input."""
        return [[row] for row in range(len(segments))]

    def _sizes(self, lengths: np.ndarray) -> np.ndarray:
        """Return how much of a batch inputs of these lengths take, in the unit of `budget`."""
        return lengths

    def _encode(self, inputs: Sequence[np.ndarray], heard: Sequence[Sequence[Segment]]) -> Tensor:
        """Return float32 [segments, dim] of a batch of inputs, given the segments that are heard in each."""
        raise NotImplementedError

    def _states(self, output: Any, layers: tuple[int, int] | None) -> Tensor:  # noqa: ANN401
        """Return float32 [batch, time, width]: the output, or the mean of the hidden states first to last."""
        if layers is None:
            return output.last_hidden_state.float()  # type: ignore[no-any-return]
        first, last = layers
        # Where a decoder reads the text after the encoder, its states are those that the output is of.
        states = output["decoder_hidden_states" if "decoder_hidden_states" in output else "hidden_states"]
        if first == last:  # without the two passes over all states that the mean of one takes
            return states[first].float()  # type: ignore[no-any-return]
        # In float32, because a sum in bf16 would be rounded once per layer.
        return torch.stack([state.float() for state in states[first : last + 1]]).mean(0)

    def _pool(self, states: Tensor, mask: Tensor) -> Tensor:
        """Return float32 [batch, dim] from states [batch, time, width] where `mask` [batch, time] is True."""
        return pool(states, mask, self.modes)

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Audio has no tokens."""
        raise TypeError(f"{self.name} encodes audio; it has no tokens")

    def split(self, text: str, limit: int) -> list[str]:
        """Audio has no tokens."""
        raise TypeError(f"{self.name} encodes audio; it has no tokens")


def pack(sizes: np.ndarray, budget: int, overhead: int) -> Iterator[np.ndarray]:
    """Yield batches of indices, largest first, cut so that together they cost least.

    A batch costs its padded size plus `overhead`: many small ones waste time, few large ones padding. With an
    overhead of 0, only equal sizes share a batch.

    Args:
        sizes: int [n], the size of each input.
        budget: largest padded size of a batch; an input above it gets a batch to itself.
        overhead: fixed cost of a batch, in the same unit.

    Yields:
        int [batch], indices into `sizes`; every index once.
    """
    # Some cheapest batches are runs of the sorted inputs: moving the larger inputs of two batches together
    # never costs more. So dynamic programming over the places to cut finds the optimum.
    # A stable sort keeps the order of equal sizes, which makes batches a function of the inputs alone.
    order = np.argsort(-sizes, kind="stable")
    ordered = sizes[order]
    least = np.zeros(len(sizes) + 1, np.int64)  # least[i]: cost of the first i inputs
    cuts = np.zeros(len(sizes) + 1, np.int64)  # cuts[i]: where the last batch of the first i inputs begins
    first = 0  # the earliest start of a batch that ends at `stop` within the budget; it never moves back
    for stop in range(1, len(sizes) + 1):
        while first < stop - 1 and ordered[first] * (stop - first) > budget:
            first += 1
        # The first input of a batch is its largest, so all are padded to `ordered[start]`.
        costs = least[first:stop] + ordered[first:stop] * np.arange(stop - first, 0, -1)
        cuts[stop] = first + np.argmin(costs)
        least[stop] = costs.min() + overhead
    stops = [len(sizes)]
    while stops[-1]:
        stops.append(int(cuts[stops[-1]]))
    for start, stop in pairwise(reversed(stops)):
        yield order[start:stop]
