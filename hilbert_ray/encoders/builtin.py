"""The built-in encoders: offline, deterministic, without weights. Honest baselines; the demo uses them.

What they compute with (torch and scikit-learn, seconds to import) is imported at first use: a driver that
only asks for a fingerprint computes nothing.
"""

import re
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from hilbert_ray.config import EncoderConfig, Modality, SegmentConfig, to_dict
from hilbert_ray.document import AudioSegment, Hertz, Segment, TextSegment
from hilbert_ray.encoders.protocol import fingerprint_of
from hilbert_ray.segmentation import segmentation

if TYPE_CHECKING:
    import torchaudio
    from sklearn.feature_extraction.text import HashingVectorizer

_WORD = re.compile(r"\S+")


class Mfcc:
    """Mean and deviation of 20 mel-frequency cepstral coefficients (25 ms, 10 ms hop) and their deltas.

    Segments are computed one by one, so batches cannot matter. Those below 25 ms are filled up with zeros.
    """

    modality: Modality = "audio"
    name = "mfcc"
    rate_hz: Hertz = 16_000
    max_tokens: int | None = None
    coefficients = 20
    frame = 400
    dim = 6 * coefficients

    def __init__(self, segment: SegmentConfig) -> None:
        self.segment = segment
        self.fingerprint = fingerprint_of(self._facts())

    def _facts(self) -> dict[str, Any]:
        return {"name": self.name, "version": 1, "cutting": segmentation(self.segment, "audio")}

    def describe(self) -> dict[str, Any]:
        """Return what makes the features, as plain values."""
        return {
            **self._facts(), "spec": self.name, "dim": self.dim, "options": to_dict(EncoderConfig()),
            "segment": to_dict(self.segment), "rate_hz": self.rate_hz, "fingerprint": self.fingerprint,
        }  # fmt: skip

    def encode(self, segments: Sequence[Segment]) -> np.ndarray:
        """Return features float32 [n, 120] of audio segments at 16 kHz."""
        transform = self.transform  # loaded for no segment too, so that a worker knows at once whether it can
        features = np.zeros((len(segments), self.dim), np.float32)
        for row, segment in enumerate(segments):
            assert isinstance(segment, AudioSegment)
            features[row] = self._encode(segment.samples, transform)
        return features

    @cached_property
    def transform(self) -> "torchaudio.transforms.MFCC":
        """What turns samples into coefficients."""
        import torchaudio

        return torchaudio.transforms.MFCC(
            self.rate_hz,
            n_mfcc=self.coefficients,
            melkwargs={"n_fft": self.frame, "hop_length": 160, "n_mels": 64, "center": False},
        )

    def _encode(self, samples: np.ndarray, transform: "torchaudio.transforms.MFCC") -> np.ndarray:
        import torch
        import torchaudio

        filled = np.zeros(max(len(samples), self.frame), np.float32)
        filled[: len(samples)] = samples
        cepstra = transform(torch.from_numpy(filled))  # [coefficients, frames]
        first = torchaudio.functional.compute_deltas(cepstra)
        second = torchaudio.functional.compute_deltas(first)
        frames = torch.cat([cepstra, first, second])
        return torch.cat([frames.mean(1), frames.std(1, correction=0)]).numpy()

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Audio has no tokens."""
        raise TypeError("mfcc encodes audio; it has no tokens")

    def split(self, text: str, limit: int) -> list[str]:
        """Audio has no tokens."""
        raise TypeError("mfcc encodes audio; it has no tokens")


class Hashing:
    """Hashed words, word pairs and character 3- to 5-grams, each half L2-normalised (Weinberger 2009)."""

    modality: Modality = "text"
    name = "hashing"
    rate_hz: Hertz = 0
    max_tokens: int | None = None
    half = 256
    dim = 2 * half

    def __init__(self, segment: SegmentConfig) -> None:
        self.segment = segment
        self.fingerprint = fingerprint_of(self._facts())

    @cached_property
    def vectorizers(self) -> "tuple[HashingVectorizer, HashingVectorizer]":
        """What hashes words, and what hashes characters."""
        from sklearn.feature_extraction.text import HashingVectorizer

        words = HashingVectorizer(
            n_features=self.half, ngram_range=(1, 2), token_pattern=r"(?u)\b\w+\b", dtype=np.float32
        )
        characters = HashingVectorizer(
            n_features=self.half, analyzer="char_wb", ngram_range=(3, 5), dtype=np.float32
        )
        return words, characters

    def _facts(self) -> dict[str, Any]:
        return {"name": self.name, "version": 1, "cutting": segmentation(self.segment, "text")}

    def describe(self) -> dict[str, Any]:
        """Return what makes the features, as plain values."""
        return {
            **self._facts(), "spec": self.name, "dim": self.dim, "options": to_dict(EncoderConfig()),
            "segment": to_dict(self.segment), "fingerprint": self.fingerprint,
        }  # fmt: skip

    def encode(self, segments: Sequence[Segment]) -> np.ndarray:
        """Return features float32 [n, 512] of text segments."""
        vectorizers = self.vectorizers  # as in `Mfcc.encode`
        if not segments:
            return np.zeros((0, self.dim), np.float32)
        texts = [segment.text for segment in segments if isinstance(segment, TextSegment)]
        return np.hstack([vectorizer.transform(texts).toarray() for vectorizer in vectorizers])

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Return the number of words between white space, of each text."""
        return [len(_WORD.findall(text)) for text in texts]

    def split(self, text: str, limit: int) -> list[str]:
        """Return pieces of at most `limit` words."""
        words = list(_WORD.finditer(text))
        return [
            text[part[0].start() : part[-1].end()]
            for part in (words[i : i + limit] for i in range(0, len(words), limit))
        ]
