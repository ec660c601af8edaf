"""What the tests of cutting share: documents, recordings, and checks of segments."""

from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

import numpy as np
from hypothesis import strategies as st

from hilbert_ray import audio
from hilbert_ray.config import SegmentConfig
from hilbert_ray.document.records import AudioSegment, Document, Utterance
from hilbert_ray.segmentation.audio import audio_segments

CORPUS = Path(__file__).parent.parent.parent / "examples" / "corpus" / "audio"


ROLES = ("judge", "witness", None)


RATE_HZ = 1000


RECORDING = np.random.default_rng(0).standard_normal(4000).astype(np.float32)


SIZES = st.lists(st.integers(0, 900), max_size=8)


def utterance(start: float, end: float, role: str | None = None, text: str = "so it was") -> Utterance:
    return Utterance(text=text, start=start, end=end, role=role)


def document(*utterances: Utterance) -> Document:
    return Document(doc_id="d7", audio="/d7.wav", text=utterances or None)


def cut(
    samples: np.ndarray,
    config: SegmentConfig,
    rate_hz: int = RATE_HZ,
    of: Document | None = None,
    sizes: Sequence[int] = (),
) -> list[AudioSegment]:
    """Return the segments of a recording that comes in blocks of these sizes, then the rest."""

    def blocks() -> Iterator[np.ndarray]:
        at = 0
        for size in sizes:
            yield samples[at : at + size]
            at += size
        yield samples[at:]

    return list(audio_segments(of or document(), blocks(), rate_hz, config))


def spans(segments: Sequence[AudioSegment], rate_hz: int = RATE_HZ) -> list[tuple[int, int]]:
    return [(round(s.start * rate_hz), round(s.end * rate_hz)) for s in segments]


def places(pairs: Sequence[tuple[int, int]]) -> set[int]:
    return {place for start, end in pairs for place in range(start, end)}


def assert_true_to(samples: np.ndarray, segments: Sequence[AudioSegment], rate_hz: int = RATE_HZ) -> None:
    """Check that each segment holds the samples that its times name, and that starts never go back."""
    for segment, (start, end) in zip(segments, spans(segments, rate_hz), strict=True):
        assert end > start
        assert segment.samples.dtype == np.float32
        np.testing.assert_array_equal(segment.samples, samples[start:end])
    starts = [segment.start for segment in segments]
    assert starts == sorted(starts)


@cache
def interview(number: int) -> np.ndarray:
    """Return a spoken interview of the sample corpus at 16 kHz, about a minute (the first: 58 s)."""
    return np.concatenate(list(audio.stream(str(CORPUS / f"interview-{number:03d}.opus"), 16000)))
