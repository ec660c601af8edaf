"""Damaged transcripts of every format: read, or refused with one error, in bounded time."""

import math
from pathlib import Path

import pytest

from hilbert_ray.transcript.cue import FormatError
from hilbert_ray.transcript.reading import LoadedText, read_transcript
from hilbert_ray.transcript.registry import FORMATS, format_by_name
from tests.mutation import bounded_time, damaged

SAMPLES = {path.name: path.read_bytes() for path in (Path(__file__).parent / "samples").iterdir()}
"""A small valid file of every format, and of every kind of JSON."""
SOAK = pytest.param(range(3000, 1_000_000), marks=pytest.mark.soak)
NAMES = sorted(SAMPLES)


def check(loaded: LoadedText) -> None:
    """Check what later stages rely on: words that can be stored, and times in order."""
    if isinstance(loaded.text, str):
        assert loaded.text.strip()
        loaded.text.encode()
        return
    assert any(one.text.strip() for one in loaded.utterances)
    for one in loaded.utterances:
        (one.text + (one.role or "")).encode()
        assert (one.start is None) == (one.end is None)
        if one.start is not None and one.end is not None:
            assert math.isfinite(one.end)
            assert 0 <= one.start <= one.end
    starts = [one.start for one in loaded.utterances if one.start is not None]
    assert starts in ([], sorted(starts))


def attack(seed: int) -> None:
    name = NAMES[seed % len(NAMES)]
    named = format_by_name(name)
    assert named is not None
    others = [data for other, data in SAMPLES.items() if format_by_name(other) is named]
    data = damaged(seed, SAMPLES[name], others)
    try:
        with bounded_time():
            loaded = read_transcript(data, named)
        check(loaded)
    except FormatError as error:
        str(error).encode()
    except BaseException as error:
        error.add_note(f"seed {seed}: {name}, {len(data)} bytes: {data[:300]!r}")
        raise


def test_every_format_has_a_sample_that_is_read() -> None:
    assert {format_by_name(name) for name in NAMES} == set(FORMATS)
    for name in NAMES:
        named = format_by_name(name)
        assert named is not None
        check(read_transcript(SAMPLES[name], named))


@pytest.mark.parametrize("seeds", [range(3000), SOAK], ids=len)
def test_damaged_transcripts_are_read_or_refused(seeds: range) -> None:
    for seed in seeds:
        attack(seed)


def test_a_seed_that_took_quadratic_time_does_not_any_more() -> None:
    """A line of brackets that are opened and never closed."""
    attack(5_728_159)
