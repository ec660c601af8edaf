"""Speech encoders from transformers: wav2vec2 and its kin on the raw waveform, the encoder half of Whisper.

Whether segments may share a batch depends on the architecture. Encoders whose features change with padding
get segments of exactly equal length together; others pad, mask, and pool the frames that are real.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import transformers
from torch import Tensor

from hilbert_ray.config import ConfigError, Modality
from hilbert_ray.document import AudioSegment, Samples, Segment
from hilbert_ray.encoders.folder import reading
from hilbert_ray.encoders.transformer import Pretrained, SegmentTooLongError, Transformer

WAVEFORM_TYPES = (
    "wav2vec2",
    "hubert",
    "wavlm",
    "data2vec-audio",
    "wav2vec2-conformer",
    "unispeech",
    "unispeech-sat",
)
"""Model types whose input is the raw waveform."""
PADDABLE_TYPES = ("wav2vec2", "hubert", "wavlm")
"""Those that masks make independent of padding, if their feature extractor uses layer norm."""
BATCH_S = {"cpu": 10, "cuda": 60}
"""Most padded seconds of audio in a batch, by device: a GPU needs many, the caches of a CPU hold few."""
OVERHEAD_S = 0.5
"""The fixed cost of a batch, as the seconds of audio that take as long."""
MIN_RATE_HZ, MAX_RATE_HZ = 1_000, 192_000
WHISPER_S = 30
"""What Whisper was trained on: it pads or cuts every input to 30 s."""


class _Speech(Transformer):
    """What both kinds share: segments are samples, and there is no token for a whole segment."""

    modality: Modality = "audio"

    def __init__(self, pretrained: Pretrained) -> None:
        if pretrained.options.pooling == "cls":
            raise ConfigError(
                f"audio encoder {pretrained.spec} is a speech model, which has no cls token; set pooling to "
                "mean or mean_std"
            )
        super().__init__(pretrained)
        with reading("preprocessor_config.json", self.name):
            self.extractor = transformers.AutoFeatureExtractor.from_pretrained(pretrained.folder)
            self.rate_hz = int(self.extractor.sampling_rate)
        if not MIN_RATE_HZ <= self.rate_hz <= MAX_RATE_HZ:
            raise ConfigError(
                f"audio encoder {self.name}: preprocessor_config.json has sampling_rate {self.rate_hz}; it "
                f"must be {MIN_RATE_HZ} to {MAX_RATE_HZ} Hz: use the file that belongs to these weights"
            )

    def _inputs(self, segments: Sequence[Segment]) -> Sequence[np.ndarray]:
        return [segment.samples for segment in segments if isinstance(segment, AudioSegment)]


class WaveformEncoder(_Speech):
    """wav2vec2 and its kin, on the raw waveform.

    A feature extractor with group norm takes its statistics over padded time too, and the positional
    convolutions of data2vec see padding: there only segments of exactly equal length share a batch. wav2vec2,
    HuBERT and WavLM with layer norm pad, mask, and pool valid frames.
    """

    def __init__(self, pretrained: Pretrained) -> None:
        super().__init__(pretrained)
        self.budget = BATCH_S[self.device.type] * self.rate_hz
        norm = getattr(self.config, "feat_extract_norm", "group")
        self.pads = self.config.model_type in PADDABLE_TYPES and norm == "layer"
        self.overhead = int(OVERHEAD_S * self.rate_hz) if self.pads else 0
        with reading("config.json", self.name):
            self.shortest = self._samples_of_one_frame()

    def _samples_of_one_frame(self) -> Samples:
        """Return the fewest samples from which the convolutions compute a frame (400 for wav2vec2)."""
        # Backwards through the layers: what a layer needs to give `samples` outputs.
        samples = 1
        for kernel, stride in zip(
            reversed(self.config.conv_kernel), reversed(self.config.conv_stride), strict=True
        ):
            samples = (samples - 1) * stride + kernel
        return samples

    def _sizes(self, lengths: np.ndarray) -> np.ndarray:
        sizes: np.ndarray = np.maximum(lengths, self.shortest)
        return sizes

    def _encode(self, inputs: Sequence[np.ndarray]) -> Tensor:
        lengths = [max(len(samples), self.shortest) for samples in inputs]
        values = np.zeros((len(inputs), max(lengths)), np.float32)
        for row, samples in enumerate(inputs):
            # Normalised before padding: otherwise mean and variance would depend on the batch.
            values[row, : len(samples)] = self._normalised(samples)
        mask = torch.arange(values.shape[1])[None] < torch.tensor(lengths)[:, None]
        attention = mask.to(self.device, torch.int64)
        output = self.model(
            torch.from_numpy(values).to(self.device, self.dtype),
            # Models with group norm were trained without a mask.
            attention_mask=attention if self.pads else None,
            output_hidden_states=self.layers is not None,
        )
        states = self._states(output)
        # A frame is valid if the convolutions saw no padding for it; the model counts that itself.
        if self.pads:
            valid = self.model._get_feature_vector_attention_mask(states.shape[1], attention).bool()
        else:
            valid = torch.ones(states.shape[:2], dtype=torch.bool, device=self.device)
        return self._pool(states, valid)

    def _normalised(self, samples: np.ndarray) -> np.ndarray:
        """Return a segment as the model's feature extractor would prepare it alone."""
        wave: np.ndarray = samples.astype(np.float32)
        if self.extractor.do_normalize and len(wave):
            wave = (wave - wave.mean()) / np.sqrt(wave.var() + 1e-7)  # the extractor's epsilon
        return wave


class WhisperEncoder(_Speech):
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
        bins, expected = getattr(self.extractor, "feature_size", None), self.config.num_mel_bins
        if bins != expected:
            raise ConfigError(
                f"audio encoder {self.name}: preprocessor_config.json makes {bins} mel bins, but the network "
                f"takes {expected}; use the file that belongs to these weights"
            )
        self.longest = WHISPER_S * self.rate_hz
        # Log-mel frames are far fewer than samples, so more seconds fit: 1 segment on a CPU, 8 on a GPU.
        self.budget = 4 * BATCH_S[self.device.type] * self.rate_hz

    def _load(self) -> Any:  # noqa: ANN401 - transformers has no common type
        return super()._load().get_encoder()

    def _inputs(self, segments: Sequence[Segment]) -> Sequence[np.ndarray]:
        for segment in segments:
            if isinstance(segment, AudioSegment) and len(segment.samples) > self.longest:
                raise SegmentTooLongError(
                    f"segment from {segment.start:.2f} to {segment.end:.2f} s is longer than the "
                    f"{WHISPER_S} s that {self.name} takes; set segment.window_s or segment.max_s to at most "
                    f"{WHISPER_S}"
                )
        return super()._inputs(segments)

    def _sizes(self, lengths: np.ndarray) -> np.ndarray:
        return np.full_like(lengths, self.longest)

    def _encode(self, inputs: Sequence[np.ndarray]) -> Tensor:
        mel = self.extractor(
            list(inputs), sampling_rate=self.rate_hz, padding="max_length", return_tensors="pt"
        )
        output = self.model(
            mel.input_features.to(self.device, self.dtype), output_hidden_states=self.layers is not None
        )
        states = self._states(output)
        # One state per two mel frames: the second convolution has a stride of 2. Beyond the audio, states are
        # those of padding, and would pull the mean of a short segment towards silence.
        step = 2 * self.extractor.hop_length
        covered = torch.tensor([max(-(-len(samples) // step), 1) for samples in inputs])
        valid = torch.arange(states.shape[1])[None] < covered[:, None]
        return self._pool(states, valid.to(self.device))
