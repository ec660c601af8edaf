"""The built-in encoders: offline, deterministic, without weights. Honest baselines; the demo uses them.

torch and scikit-learn, which take seconds to import, are imported at first use: a driver that only needs a
fingerprint computes nothing.
"""

import re
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from hilbert_ray.config import EncoderConfig, Modality, SegmentConfig, to_dict
from hilbert_ray.document import AudioSegment, Hertz, Samples, Segment, TextSegment
from hilbert_ray.encoders.protocol import fingerprint_of
from hilbert_ray.segmentation import segmentation

if TYPE_CHECKING:
    import torchaudio
    from sklearn.feature_extraction.text import HashingVectorizer

_WORD = re.compile(r"\S+")
VERSION = 1
"""Version of what both encoders compute, part of the fingerprint. Raise it when the same segment gives a new
feature, whatever the cause, so that stores embed it again."""
OPTIONS = to_dict(EncoderConfig(layer="last"))
"""What descriptions say of options, which these encoders do not have: a feature is their only output."""


class Mfcc:
    """Mean and deviation of 20 mel-frequency cepstral coefficients (25 ms, 10 ms hop) and their deltas.

    Segments are computed one by one, so batches cannot matter. Those below 25 ms are padded with zeros.
    """

    modality: Modality = "audio"
    name = "mfcc"
    rate_hz: Hertz = 16_000
    fill: Samples = 0
    max_tokens: int | None = None
    coefficients = 20
    frame = 400  # samples, 25 ms
    hop = 160  # samples, 10 ms
    dim = 6 * coefficients  # mean and deviation of coefficients, first and second deltas

    def __init__(self, segment: SegmentConfig) -> None:
        self.segment = segment
        self.fingerprint = fingerprint_of(self._facts())

    def _facts(self) -> dict[str, Any]:
        return {"name": self.name, "version": VERSION, "cutting": segmentation(self.segment, "audio")}

    def describe(self) -> dict[str, Any]:
        """Return what decides the features, as plain values."""
        return {
            **self._facts(), "spec": self.name, "dim": self.dim, "options": OPTIONS,
            "segment": to_dict(self.segment), "rate_hz": self.rate_hz, "fingerprint": self.fingerprint,
        }  # fmt: skip

    def encode(self, segments: Sequence[Segment]) -> np.ndarray:
        """Return features float32 [n, 120] of audio segments at 16 kHz."""
        transform = self.transform  # loaded even without segments; see `Encoder.encode`
        features = np.zeros((len(segments), self.dim), np.float32)
        for row, segment in enumerate(segments):
            assert isinstance(segment, AudioSegment)
            features[row] = self._encode(segment.samples, transform)
        return features

    @cached_property
    def transform(self) -> "torchaudio.transforms.MFCC":
        """The function from samples to coefficients."""
        import torchaudio

        return torchaudio.transforms.MFCC(
            self.rate_hz,
            n_mfcc=self.coefficients,
            melkwargs={"n_fft": self.frame, "hop_length": self.hop, "n_mels": 64, "center": False},
        )

    def _encode(self, samples: np.ndarray, transform: "torchaudio.transforms.MFCC") -> np.ndarray:
        import torch
        import torchaudio

        padded = np.zeros(max(len(samples), self.frame), np.float32)
        padded[: len(samples)] = samples
        cepstra = transform(torch.from_numpy(padded))  # [coefficients, frames]
        # Deltas: how the coefficients change over time, and how that changes. [3 * coefficients, frames]
        # together.
        first = torchaudio.functional.compute_deltas(cepstra)
        second = torchaudio.functional.compute_deltas(first)
        frames = torch.cat([cepstra, first, second])
        # Without Bessel's correction, which is NaN for a segment of a single frame.
        return torch.cat([frames.mean(1), frames.std(1, correction=0)]).numpy()

    def rehearse(self) -> None:
        """There are no weights that might not load."""

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Audio has no tokens."""
        raise TypeError("mfcc encodes audio; it has no tokens")

    def split(self, text: str, limit: int) -> list[str]:
        """Audio has no tokens."""
        raise TypeError("mfcc encodes audio; it has no tokens")


class Hashing:
    """Hashed words and word pairs, and hashed character 3- to 5-grams, each half L2-normalised.

    Words carry the topic; character n-grams match inflected and misspelt words too. Source: Weinberger et
    al. 2009, "Feature hashing for large scale multitask learning".
    """

    modality: Modality = "text"
    name = "hashing"
    rate_hz: Hertz = 0
    fill: Samples = 0
    max_tokens: int | None = None
    half = 256
    dim = 2 * half

    def __init__(self, segment: SegmentConfig) -> None:
        self.segment = segment
        self.fingerprint = fingerprint_of(self._facts())

    @cached_property
    def vectorizers(self) -> "tuple[HashingVectorizer, HashingVectorizer]":
        """The vectorizer of words and the one of characters."""
        from sklearn.feature_extraction.text import HashingVectorizer

        # Signed hashing, scikit-learn's default: collisions cancel out on average instead of adding up.
        words = HashingVectorizer(
            n_features=self.half, ngram_range=(1, 2), token_pattern=r"(?u)\b\w+\b", dtype=np.float32
        )
        characters = HashingVectorizer(
            n_features=self.half, analyzer="char_wb", ngram_range=(3, 5), dtype=np.float32
        )
        return words, characters

    def _facts(self) -> dict[str, Any]:
        return {"name": self.name, "version": VERSION, "cutting": segmentation(self.segment, "text")}

    def describe(self) -> dict[str, Any]:
        """Return what decides the features, as plain values."""
        return {
            **self._facts(), "spec": self.name, "dim": self.dim, "options": OPTIONS,
            "segment": to_dict(self.segment), "fingerprint": self.fingerprint,
        }  # fmt: skip

    def encode(self, segments: Sequence[Segment]) -> np.ndarray:
        """Return features float32 [n, 512] of text segments."""
        vectorizers = self.vectorizers  # loaded even without segments; see `Encoder.encode`
        if not segments:
            return np.zeros((0, self.dim), np.float32)
        texts = [segment.text for segment in segments if isinstance(segment, TextSegment)]
        return np.hstack([vectorizer.transform(texts).toarray() for vectorizer in vectorizers])

    def rehearse(self) -> None:
        """There are no weights that might not load."""

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Return how many words, separated by white space, each text has."""
        return [len(_WORD.findall(text)) for text in texts]

    def split(self, text: str, limit: int) -> list[str]:
        """Return pieces of at most `limit` words."""
        words = list(_WORD.finditer(text))
        return [
            text[piece[0].start() : piece[-1].end()]
            for piece in (words[i : i + limit] for i in range(0, len(words), limit))
        ]
