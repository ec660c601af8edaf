"""Reading ahead: bounded, in order, and nothing of a file that has changed."""

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from hilbert_ray.config import SegmentConfig
from hilbert_ray.embedding.features import embed_documents
from hilbert_ray.embedding.reading import _read_audio
from hilbert_ray.embedding.worker import configured_encoder
from hilbert_ray.transcript.repair import UNORDERED
from hilbert_ray.units.reading import DocumentEnd, draw_ahead
from tests import make
from tests.embedding.in_process import (
    CONFIG,
    PlainEncoder,
    stored_of,
)


def test_a_file_replaced_after_planning_fails_with_that_reason(tmp_path: Path) -> None:
    records = [make.record(tmp_path, 0), make.record(tmp_path, 1, text=None, text_file="t.txt")]
    (tmp_path / "t.txt").write_text("before")
    items = stored_of(make.manifest(tmp_path / "m.jsonl", records))
    make.tone(tmp_path / "d000.wav", seconds=3.0)
    (tmp_path / "t.txt").write_text("after it changed")
    rows, [failure] = embed_documents(items, ["k0", "k1"], "audio", PlainEncoder(), CONFIG)
    assert [row.doc_id for row in rows] == ["d001"]
    assert failure.error == "ChangedError"
    assert f"d000.wav was version {items[0].audio_version} when the run was planned and is" in failure.message
    _, [failure] = embed_documents(items, ["k0", "k1"], "text", configured_encoder(CONFIG, "text"), CONFIG)
    assert (failure.doc_id, failure.error) == ("d001", "ChangedError")


def test_reading_ahead_is_bounded_keeps_the_order_and_stops_when_nobody_reads() -> None:
    drawn: list[int] = []

    def items() -> Iterator[int]:
        for i in range(1000):
            drawn.append(i)
            yield i

    ahead = draw_ahead(items(), 4)
    assert [next(ahead) for _ in range(3)] == [0, 1, 2]
    deadline = time.monotonic() + 5
    while len(drawn) < 8 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert len(drawn) <= 3 + 4 + 2
    ahead.close()
    assert list(draw_ahead(iter(range(50)), 4)) == list(range(50))


def test_a_fault_of_the_reader_itself_reaches_the_caller() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(draw_ahead(items(), 4))


def test_flaws_of_a_transcript_that_only_cuts_audio_are_reported_with_the_audio(tmp_path: Path) -> None:
    (tmp_path / "t.vtt").write_text("WEBVTT\n\n00:01.000 --> 00:02.000\nb\n\n00:00.000 --> 00:01.000\na\n")
    record = make.record(tmp_path, 0, text=None, text_file="t.vtt")
    [entry] = stored_of(make.manifest(tmp_path / "m.jsonl", [record]))
    config = replace(CONFIG, segment=SegmentConfig(audio="turns"))
    for text, kinds in (("none", [UNORDERED]), ("hashing", [])):
        *_, end = _read_audio(entry, 16000, 0, replace(config, text=text))
        assert isinstance(end, DocumentEnd)
        assert [flaw.kind for flaw in end.flaws] == kinds
