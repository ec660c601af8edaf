"""The measurement of a dry run: what it counts is what a worker embeds."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hilbert_ray.config import SegmentConfig
from hilbert_ray.document.records import Segment, TextSegment
from hilbert_ray.embedding import probe
from hilbert_ray.embedding.probe import _Probe
from hilbert_ray.units.plan import CHARACTERS_PER_S
from tests import make
from tests.embedding.in_process import CONFIG, PlainEncoder, stored_of


class CountingEncoder(PlainEncoder):
    """Keeps the segments of every batch."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Sequence[Segment]] = []

    def encode(self, segments: Sequence[Segment]) -> np.ndarray:
        self.seen.append(segments)
        return np.zeros((len(segments), self.dim), np.float32)


def test_audio_counts_once_even_where_windows_overlap(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two windows of 2 s every second: of 10 s of audio nearly 20 s are encoded, and 10 s are embedded."""
    monkeypatch.setattr(probe, "_BATCH_S", 5.0)
    config = replace(CONFIG, segment=SegmentConfig(window_s=2.0, hop_s=1.0))
    entries = stored_of(make.corpus(tmp_path, 3, seconds=10.0))
    encoder = CountingEncoder()
    measured = _Probe(entries, "audio", encoder, config).run(0.05)
    assert len(encoder.seen[0]) == 1, "the first batch only warms up"
    assert measured.reason is None
    assert measured.elapsed_s > 0.05
    segments = sum(len(batch) for batch in encoder.seen[1:])
    assert measured.size_bytes == segments * (2 * encoder.dim + 8)
    assert measured.seconds / segments == pytest.approx(10 / 9, rel=0.1)


def test_text_counts_as_the_speech_that_it_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "_BATCH_TEXTS", 8)
    entries = stored_of(make.corpus(tmp_path, 3))
    encoder = CountingEncoder()
    measured = _Probe(entries, "text", encoder, CONFIG).run(0.05)
    encoded = [segment for batch in encoder.seen[1:] for segment in batch]
    characters = sum(len(segment.text) for segment in encoded if isinstance(segment, TextSegment))
    assert measured.seconds == pytest.approx(characters / CHARACTERS_PER_S)


def test_it_ends_where_no_document_can_be_read(tmp_path: Path) -> None:
    (tmp_path / "words.wav").write_text("these are words, not audio")
    entries = stored_of(make.manifest(tmp_path / "m.jsonl", [{"doc_id": "a", "audio": "words.wav"}]))
    measured = _Probe(entries, "audio", PlainEncoder(), CONFIG).run(5.0)
    assert (measured.seconds, measured.elapsed_s, measured.size_bytes) == (0.0, 0.0, 0)
    assert "words.wav begins with the bytes" in str(measured.reason)
