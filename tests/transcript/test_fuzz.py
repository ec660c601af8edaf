"""Damaged transcripts of every format: read, or refused with one error, in bounded time."""

import math
from dataclasses import replace
from pathlib import Path

import pytest

from hilbert_ray.document.records import Utterance
from hilbert_ray.transcript.cue import FormatError
from hilbert_ray.transcript.diarization import with_speakers
from hilbert_ray.transcript.nist import read_turns
from hilbert_ray.transcript.reading import LoadedText, decode, read_transcript
from hilbert_ray.transcript.registry import FORMATS, format_by_name
from tests.mutation import bounded_time, damaged

SAMPLES = {path.name: path.read_bytes() for path in sorted((Path(__file__).parent / "samples").iterdir())}
"""A small valid file of every format, and of every kind of JSON."""
TURN = "SPEAKER call 1 {start:.2f} {length:.2f} <NA> <NA> {name} <NA> <NA>\n"
DIARIZATIONS = [
    SAMPLES["a.rttm"],
    "".join(TURN.format(start=k * 2.5, length=3, name="AB"[k % 2]) for k in range(40)).encode(),
    (";; a comment\nSPKR-INFO call 1 <NA> <NA> <NA> unknown Zoë <NA> <NA>\n" * 3).encode()
    + TURN.format(start=0, length=3600, name="Zoë").encode(),
]
"""Valid RTTM files that say who speaks when."""
UTTERANCES = tuple(Utterance(text="words", start=k * 3.6, end=k * 3.6 + 2 * (k % 3)) for k in range(1000))
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


def attack_diarization(seed: int) -> None:
    """Read a damaged RTTM file, and give an hour's utterances their speakers by it."""
    data = damaged(seed, DIARIZATIONS[seed % len(DIARIZATIONS)], DIARIZATIONS)
    try:
        with bounded_time():
            text, _ = with_speakers(UTTERANCES, read_turns(decode(data)))
        assert isinstance(text, tuple)
        assert [replace(one, role=None) for one in text] == list(UTTERANCES)
        "".join(one.role or "" for one in text).encode()
    except FormatError as error:
        str(error).encode()
    except BaseException as error:
        error.add_note(f"seed {seed}: {len(data)} bytes: {data[:300]!r}")
        raise


@pytest.mark.parametrize("seeds", [range(2000), SOAK], ids=len)
def test_damaged_diarizations_give_speakers_or_are_refused(seeds: range) -> None:
    for seed in seeds:
        attack_diarization(seed)


def test_a_seed_that_took_quadratic_time_does_not_any_more() -> None:
    """A line of brackets that are opened and never closed."""
    attack(5_728_159)
