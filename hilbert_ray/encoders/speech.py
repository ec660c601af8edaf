"""Speech encoders from transformers: wav2vec2 and its kin on the raw waveform, the encoder half of Whisper.

How segments may share a batch depends on the architecture: encoders whose features change with padding take
segments of exactly equal length together, others pad, mask and pool what is real.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import transformers
from torch import Tensor

from hilbert_ray.config import ConfigError, Modality
from hilbert_ray.document import AudioSegment, Samples, Segment
from hilbert_ray.encoders.transformer import Pretrained, SegmentTooLongError, Transformer

WAVEFORM = (
    "wav2vec2",
    "hubert",
    "wavlm",
    "data2vec-audio",
    "wav2vec2-conformer",
    "unispeech",
    "unispeech-sat",
)
PADDABLE = ("wav2vec2", "hubert", "wavlm")
"""Encoders that masks make independent of padding, when their feature extractor uses layer norm."""
BATCH_S = {"cpu": 10, "cuda": 60}
"""Most padded seconds of audio in a batch, by device: a GPU wants many, the caches of a CPU hold few."""
OVERHEAD_S = 0.5
"""Seconds that take about as long as what a batch costs by itself."""
WHISPER_S = 30


class _Speech(Transformer):
    """What both kinds share: segments are samples, and no token stands for a whole one."""

    modality: Modality = "audio"

    def __init__(self, pretrained: Pretrained) -> None:
        if pretrained.options.pooling == "cls":
            raise ConfigError(
                f"speech encoder {pretrained.spec} has no cls token; set pooling to mean or mean_std"
            )
        super().__init__(pretrained)
        self.extractor = transformers.AutoFeatureExtractor.from_pretrained(pretrained.folder)
        self.rate_hz = int(self.extractor.sampling_rate)

    def _inputs(self, segments: Sequence[Segment]) -> Sequence[np.ndarray]:
        return [segment.samples for segment in segments if isinstance(segment, AudioSegment)]


class Waveform(_Speech):
    """wav2vec2 and its kin, on the raw waveform.

    With a group-norm feature extractor the statistics run over padded time too, so only segments of exactly
    equal length share a batch; so it is for data2vec, whose positional convolutions see padding. Layer-norm
    wav2vec2, HuBERT and WavLM pad, mask, and pool valid frames.
    """

    def __init__(self, pretrained: Pretrained) -> None:
        super().__init__(pretrained)
        self.budget = BATCH_S[self.device.type] * self.rate_hz
        norm = getattr(self.config, "feat_extract_norm", "group")
        self.pads = self.config.model_type in PADDABLE and norm == "layer"
        self.overhead = int(OVERHEAD_S * self.rate_hz) if self.pads else 0
        self.least = self._least_samples()

    def _least_samples(self) -> Samples:
        """Return the samples that the convolutions need for one frame."""
        samples = 1
        for kernel, stride in zip(
            reversed(self.config.conv_kernel), reversed(self.config.conv_stride), strict=True
        ):
            samples = (samples - 1) * stride + kernel
        return samples

    def _sizes(self, lengths: np.ndarray) -> np.ndarray:
        sizes: np.ndarray = np.maximum(lengths, self.least)
        return sizes

    def _encode(self, inputs: Sequence[np.ndarray]) -> Tensor:
        lengths = [max(len(samples), self.least) for samples in inputs]
        values = np.zeros((len(inputs), max(lengths)), np.float32)
        for row, samples in enumerate(inputs):
            values[row, : len(samples)] = self._normalised(samples)
        mask = torch.arange(values.shape[1])[None] < torch.tensor(lengths)[:, None]
        attention = mask.to(self.device, torch.int64)
        output = self.model(
            torch.from_numpy(values).to(self.device, self.dtype),
            attention_mask=attention if self.pads else None,
            output_hidden_states=self.layers is not None,
        )
        states = self._states(output)
        if self.pads:
            valid = self.model._get_feature_vector_attention_mask(states.shape[1], attention).bool()
        else:
            valid = torch.ones(states.shape[:2], dtype=torch.bool, device=self.device)
        return self._pool(states, valid)

    def _normalised(self, samples: np.ndarray) -> np.ndarray:
        """Return a waveform as the model's feature extractor gives it, of a segment by itself."""
        wave: np.ndarray = samples.astype(np.float32)
        if self.extractor.do_normalize and len(wave):
            wave = (wave - wave.mean()) / np.sqrt(wave.var() + 1e-7)
        return wave


class Whisper(_Speech):
    """The encoder half of Whisper: always 30 s of log-mel frames, pooled over those that the audio covers."""

    def __init__(self, pretrained: Pretrained) -> None:
        segment = pretrained.segment
        setting = "window_s" if segment.audio == "window" else "max_s"
        longest = getattr(segment, setting)
        if longest > WHISPER_S:
            raise ConfigError(
                f"audio encoder {pretrained.spec} takes at most {WHISPER_S} s, but segments may last "
                f"{longest} s; set segment.{setting} to at most {WHISPER_S}"
            )
        super().__init__(pretrained)
        self.longest = WHISPER_S * self.rate_hz
        self.budget = 4 * BATCH_S[self.device.type] * self.rate_hz

    def _load(self) -> Any:  # noqa: ANN401 - transformers gives no common type
        return super()._load().get_encoder()

    def _inputs(self, segments: Sequence[Segment]) -> Sequence[np.ndarray]:
        for segment in segments:
            if isinstance(segment, AudioSegment) and len(segment.samples) > self.longest:
                raise SegmentTooLongError(
                    f"segment from {segment.start:.2f} to {segment.end:.2f} s is longer than the "
                    f"{WHISPER_S} s that {self.name} takes; set segment.window_s or max_s to at most "
                    f"{WHISPER_S}"
                )
        return super()._inputs(segments)

    def _sizes(self, lengths: np.ndarray) -> np.ndarray:
        return np.full_like(lengths, self.longest)

    def _encode(self, inputs: Sequence[np.ndarray]) -> Tensor:
        made = self.extractor(
            list(inputs), sampling_rate=self.rate_hz, padding="max_length", return_tensors="pt"
        )
        output = self.model(
            made.input_features.to(self.device, self.dtype), output_hidden_states=self.layers is not None
        )
        states = self._states(output)
        step = 2 * self.extractor.hop_length  # the second convolution halves the mel frames
        covered = torch.tensor([max(-(-len(samples) // step), 1) for samples in inputs])
        valid = torch.arange(states.shape[1])[None] < covered[:, None]
        return self._pool(states, valid.to(self.device))
