"""Speech encoders from transformers: what the feature extractor makes of a segment, encoded and pooled.

One class for all of them; `speech_types` says in what they differ. Each segment is prepared alone, so that
nothing in it depends on the batch, and shares a batch with shorter ones only where a mask hides the padding.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import transformers
from torch import Tensor
from torch.nn.functional import pad
from torch.nn.utils.rnn import pad_sequence

from hilbert_ray.config import ConfigError, Modality
from hilbert_ray.document import AudioSegment, Samples, Segment
from hilbert_ray.encoders.folder import EXTRACTOR, PROCESSOR, nested_extractor, reading
from hilbert_ray.encoders.protocol import fingerprint_of
from hilbert_ray.encoders.speech_types import REMOTE_CODE, SpeechType, frames_of, shortest_input
from hilbert_ray.encoders.transformer import Pretrained, SegmentTooLongError, Transformer
from hilbert_ray.encoders.weights import Precision, has_matrix_units

OVERHEAD_S = 0.5
"""The fixed cost of a batch, as the seconds of audio that take as long."""
MIN_RATE_HZ, MAX_RATE_HZ = 1_000, 192_000


def batch_s(device: str, precision: Precision) -> tuple[int, int]:
    """Return the most seconds of audio in a batch, padding included: as samples, and as spectrograms.

    The caches of a CPU hold few frames, but matrix units and GPUs need many to be busy; spectrograms have far
    fewer of them than samples. A rule and no measurement at the start: that would come out different in
    another run, and with it the last bits of features.
    """
    if device != "cpu":
        return 60, 240
    return (60, 60) if precision == "bf16" and has_matrix_units() else (10, 40)


class SpeechEncoder(Transformer):
    """Hidden states of an audio segment, pooled over the frames that it covers."""

    modality: Modality = "audio"

    def __init__(self, pretrained: Pretrained, kind: SpeechType) -> None:
        self.kind, self.part = kind, kind.part
        self._check_pooling(pretrained)
        self.nested_extractor = nested_extractor(pretrained.folder, pretrained.spec)
        self.extractor_file = EXTRACTOR if self.nested_extractor is None else PROCESSOR
        super().__init__(pretrained)
        with reading(self.extractor_file, self.name):
            self.extractor = transformers.AutoFeatureExtractor.from_pretrained(
                pretrained.folder, trust_remote_code=pretrained.options.trust_remote_code
            )
            self.rate_hz = int(self.extractor.sampling_rate)
        self._check_extractor()
        with reading("config.json", self.name):
            self.steps = tuple(kind.steps(self.config, self.extractor))
            self.frame_steps = (*self.steps, *(kind.adapter(self.config) if self.layers is None else ()))
            self.length = None if kind.length is None else kind.length(self.config, self.extractor)
            self.is_masked = kind.is_masked(self.config)
            # Two frames of the first step, since a spectrogram is normalised by its deviation over time.
            self.shortest = max(
                shortest_input(1, self.frame_steps), shortest_input(2, self.steps[:1]) if self.steps else 1
            )
        # The convolutions of an adapter mix what is masked into the last frames of the output.
        self.pads = self.is_masked and self.frame_steps == self.steps
        of_samples, of_spectrograms = batch_s(self.device.type, self.precision)
        self.budget = (of_samples if kind.is_waveform else of_spectrograms) * self.rate_hz
        self.overhead = int(OVERHEAD_S * self.rate_hz) if self.pads else 0
        if self.length is not None:
            self._check_segmentation(self.length / self.rate_hz)
        self.fill = self._fill()

    def _check_pooling(self, pretrained: Pretrained) -> None:
        if pretrained.options.prefix not in ("auto", ""):
            raise ConfigError(
                f"audio encoder {pretrained.spec} takes no words, but audio_encoder.prefix is "
                f"{pretrained.options.prefix!r}; leave it out"
            )
        if pretrained.options.pooling == "last":
            raise ConfigError(
                f"audio encoder {pretrained.spec} is a speech model, whose last frame stands for nothing but "
                "itself; set pooling to mean or mean_std"
            )
        if pretrained.options.pooling == "cls" and not self.kind.special_tokens:
            raise ConfigError(
                f"audio encoder {pretrained.spec} is a speech model, which has no cls token; set pooling to "
                "mean or mean_std"
            )

    def _fill(self) -> Samples:
        """Return up to how many samples segments are heard together, 0 for each alone.

        Raises:
            ConfigError: when they should be, but the encoder cannot.
        """
        options, segment = self.pretrained.options, self.pretrained.segment
        if options.context == "segment":
            return 0
        # CLAP repeats short audio until it fills its input, so its states have no times.
        cannot = (
            "takes input of any length" if self.length is None
            else "gives states that have no times" if not self.steps
            else "is pooled as a whole (pooling `cls`)" if options.pooling == "cls"
            else ""
        )  # fmt: skip
        if self.length is None or cannot:
            raise ConfigError(
                f"audio encoder {self.name} {cannot}, so segments cannot share an input; set "
                "audio_encoder.context to `segment`"
            )
        # Windows as long as the input share it with nothing: features are those of `segment`.
        is_full = segment.audio == "window" and segment.window_s * self.rate_hz >= self.length
        return 0 if is_full else self.length

    def _check_extractor(self) -> None:
        """Check that what prepares the audio is what the network was made for."""
        remedy = "use the file that belongs to these weights"
        name, kind = f"audio encoder {self.name}: {self.extractor_file}", type(self.extractor).__name__
        if self.kind.extractor not in (None, kind):
            raise ConfigError(
                f"{name} describes a {kind}, but a model of type {self.config.model_type!r} takes what a "
                f"{self.kind.extractor} makes; {remedy}"
            )
        if not MIN_RATE_HZ <= self.rate_hz <= MAX_RATE_HZ:
            raise ConfigError(
                f"{name} has sampling_rate {self.rate_hz}; it must be {MIN_RATE_HZ} to {MAX_RATE_HZ} Hz: "
                f"{remedy}"
            )
        with reading(self.extractor_file, self.name):
            sizes = self.kind.must_be_equal(self.config, self.extractor)
        for what, (made, taken) in sizes.items():
            if made != taken:
                raise ConfigError(f"{name} makes {made} {what}, but the network takes {taken}; {remedy}")

    def _check_segmentation(self, longest_s: float) -> None:
        segment = self.pretrained.segment
        setting = "window_s" if segment.audio == "window" else "max_s"
        if getattr(segment, setting) > longest_s:
            raise ConfigError(
                f"audio encoder {self.name} takes at most {longest_s:g} s, but segments may last "
                f"{getattr(segment, setting)} s; set segment.{setting} to at most {longest_s:g}"
            )

    def _layers(self) -> tuple[int, int] | None:
        layer = self.pretrained.options.layer
        if layer != "last" and self.kind.depth is None:
            raise ConfigError(
                f"audio encoder {self.name} is a model of type {self.config.model_type!r}, whose hidden "
                f"states differ in width, but layer is {layer}; set it to `last`"
            )
        return super()._layers()

    def _last_state(self) -> int:
        assert self.kind.depth is not None
        is_hidden = self.kind.adapter_is_inside and self.kind.adapter(self.config)
        return int(getattr(self.config, self.kind.depth)) - bool(is_hidden)

    def _width(self) -> int:
        # Hidden states are as wide as the model says; only the output has a width of its own.
        return int(self.kind.width(self.config)) if self.layers is None else super()._width()

    def _facts(self) -> dict[str, Any]:
        facts = super()._facts()
        # An adapter made other features while the mask was that of its output, or padding reached it.
        if self.kind.is_waveform and self.kind.is_masked(self.config) and self.kind.adapter(self.config):
            facts["frames"] = 2
        if self.fill:
            facts["context"] = "fill"
        if self.nested_extractor is not None:
            facts["extractor"] = fingerprint_of(self.nested_extractor)
        return facts

    def _inputs(self, segments: Sequence[Segment]) -> Sequence[np.ndarray]:
        for segment in segments:
            if self.length and isinstance(segment, AudioSegment) and len(self._heard(segment)) > self.length:
                longest_s = self.length / self.rate_hz
                raise SegmentTooLongError(
                    f"segment from {segment.start:.2f} to {segment.end:.2f} s is longer than the "
                    f"{longest_s:g} s that {self.name} takes; set segment.window_s or segment.max_s to at "
                    f"most {longest_s:g}"
                )
        return [self._heard(segment) for segment in segments if isinstance(segment, AudioSegment)]

    def _heard(self, segment: AudioSegment) -> np.ndarray:
        return segment.samples if segment.fill is None or not self.fill else segment.fill

    def _heard_together(self, segments: Sequence[Segment]) -> list[list[int]]:
        if not self.fill:
            return super()._heard_together(segments)
        groups: dict[int, list[int]] = {}
        for row, segment in enumerate(segments):
            fill = segment.fill if isinstance(segment, AudioSegment) else None
            groups.setdefault(-1 - row if fill is None else id(fill), []).append(row)
        return [*groups.values()]

    def _sizes(self, lengths: np.ndarray) -> np.ndarray:
        if self.length is not None:
            return np.full_like(lengths, self.length)
        sizes: np.ndarray = np.maximum(lengths, self.shortest)
        return sizes

    def _encode(self, inputs: Sequence[np.ndarray], heard: Sequence[Sequence[Segment]]) -> Tensor:
        prepared = [self._prepared(samples) for samples in inputs]
        arguments = {
            self.extractor.model_input_names[0]: pad_sequence([values for values, _ in prepared], True).to(
                self.dtype
            ),
            **self.kind.arguments(len(inputs)),
        }
        if self.is_masked:
            arguments["attention_mask"] = pad_sequence([mask for _, mask in prepared], True)
        output = self.model(
            **{name: values.to(self.device) for name, values in arguments.items()},
            output_hidden_states=self.layers is not None,
        )
        # Layer by layer: all of a long batch in float32 would not fit where one does.
        pooled = self._pooled_by_times if self.fill else self._pooled
        return torch.cat([pooled(self._states(output, layers), inputs, heard) for layers in self.kept], 1)

    def _pooled_by_times(
        self, states: Tensor, inputs: Sequence[np.ndarray], heard: Sequence[Sequence[Segment]]
    ) -> Tensor:
        """Return float32 [segments, dim] of one layer's states [batch, time, width] of fills."""
        features = []
        count = frames_of(self.fill, self.frame_steps)
        for of_input, segments in zip(states[:, self.kind.special_tokens :], heard, strict=True):
            by_time = of_input.unflatten(0, (-1, count))  # of several patches at each time, time runs fastest
            for segment in segments:
                begin, end = self._times(segment, count)
                own = by_time[:, begin:end].flatten(0, 1)[None]
                features.append(self._pool(own, own.new_ones(own.shape[:2], dtype=torch.bool)))
        return torch.cat(features)

    def _times(self, segment: Segment, count: int) -> tuple[int, int]:
        """Return the first state of a segment in its fill of `count` states, and the first after it.

        Its states are those that audio up to its end has and audio up to its beginning has not: where
        segments follow without a gap, each state is one segment's. One that is shorter than a state gets the
        state that it lies in.
        """
        assert isinstance(segment, AudioSegment)
        begin, end = segment.offset, segment.offset + len(segment.samples)
        first, last = frames_of(begin, self.frame_steps), frames_of(end, self.frame_steps)
        if first < last:
            return first, last
        state = min(begin // math.prod(stride for _, stride, _ in self.frame_steps), count - 1)
        return state, state + 1

    def _pooled(
        self, states: Tensor, inputs: Sequence[np.ndarray], heard: Sequence[Sequence[Segment]]
    ) -> Tensor:
        """Return float32 [batch, dim] of one layer's states [batch, time, width]."""
        special = self.kind.special_tokens
        if self.pooling == "cls":  # of several, their mean: what such models are trained to classify by
            states = states[:, :special].mean(1, keepdim=True)
            return self._pool(states, torch.ones_like(states[..., 0], dtype=torch.bool))
        states = states[:, special:]
        return self._pool(states, self._covered(inputs, states.shape[1]).to(self.device))

    def _prepared(self, samples: np.ndarray) -> tuple[Tensor, Tensor]:
        """Return what the network takes of one segment, and int64 [time], 1 where it is of audio."""
        missing = max(self.shortest - len(samples), 0)
        if not self.kind.is_waveform:
            samples = np.pad(samples, (0, missing))
        # Where nothing changes, as in digital silence, some extractors divide by a deviation of 0.
        with np.errstate(invalid="ignore", divide="ignore"):
            made = self.extractor(
                np.asarray(samples, np.float32), sampling_rate=self.rate_hz, return_attention_mask=True,
                return_tensors="pt",
            )  # fmt: skip
        values = made[self.extractor.model_input_names[0]][0]
        values = values.nan_to_num(0, 0, 0)
        if not self.kind.is_waveform:
            return values, made["attention_mask"][0].long() if self.is_masked else values.new_ones(())
        # Padded once it is normalised, so that the padding is no part of mean and deviation.
        values = pad(values, (0, missing))
        return values, torch.ones(values.shape, dtype=torch.int64)

    def _states(self, output: Any, layers: tuple[int, int] | None) -> Tensor:  # noqa: ANN401
        if self.kind is REMOTE_CODE:
            return self._states_of_remote_code(output, layers)
        states = super()._states(output, layers)
        # CLAP lays its states out as an image: [batch, width, bins, time].
        return states.flatten(2).transpose(1, 2) if states.ndim == 4 else states

    def _states_of_remote_code(self, output: Any, layers: tuple[int, int] | None) -> Tensor:  # noqa: ANN401
        """Return the states in what code that comes with the weights has returned, which may be anything.

        Raises:
            ConfigError: when it has no states [batch, time, width] under the names that transformers uses.
        """
        last, hidden = (getattr(output, name, None) for name in ("last_hidden_state", "hidden_states"))
        if layers is None:
            # Dasheng gives its only states as `hidden_states`.
            states = hidden if last is None and isinstance(hidden, Tensor) else last
        elif isinstance(hidden, Sequence) and len(hidden) > layers[1]:
            states = super()._states(output, layers)
        else:
            states = None
        if not isinstance(states, Tensor) or states.ndim != 3 or states.shape[2] != self._width():
            what = "last_hidden_state" if layers is None else f"hidden_states up to {layers[1]}"
            raise ConfigError(
                f"audio encoder {self.name}: what its code returns, a {type(output).__name__}, has no {what} "
                f"of the shape [batch, time, {self._width()}]; name another model"
                + ("" if layers is None else ", or set layer to `last`")
            )
        return states.float()

    def _covered(self, inputs: Sequence[np.ndarray], count: int) -> Tensor:
        """Return bool [batch, count]: which states are of audio, and not of what fills it up."""
        if not self.steps or not (self.is_masked or self.length):
            return torch.ones((len(inputs), count), dtype=torch.bool)
        frames = [max(frames_of(max(len(samples), self.shortest), self.frame_steps), 1) for samples in inputs]
        # With several patches at each time, the time runs fastest.
        times = count if self.length is None else frames_of(self.length, self.frame_steps)
        return torch.arange(count)[None] % times < torch.tensor(frames)[:, None]
