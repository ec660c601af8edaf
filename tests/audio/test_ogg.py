"""Ogg Vorbis and Opus: every page is checked."""

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hilbert_ray.audio.errors import (
    AudioError,
    CorruptAudioError,
    TruncatedAudioError,
    UnfinishedAudioError,
    UnsupportedAudioError,
)
from hilbert_ray.audio.ogg import _ogg_checksum
from tests.audio.recordings import (
    assert_refused,
    half,
    noise,
    patched,
    sample,
    written,
)


def ogg_pages(content: bytes) -> list[bytes]:
    return [b"OggS" + part for part in content.split(b"OggS")[1:]]


FAULTS: dict[str, tuple[Callable[[], bytes], type[AudioError], str]] = {
    "an Ogg that lacks its last page": (
        lambda: b"".join(ogg_pages(sample("ogg"))[:-1]),
        UnfinishedAudioError,
        "without a closing Ogg page",
    ),
    "an Ogg cut off in a page": (
        lambda: sample("ogg")[:-20],
        TruncatedAudioError,
        r"ends within the Ogg page at byte \d+",
    ),
    "an Ogg cut off in a page header": (
        lambda: b"".join([*ogg_pages(sample("ogg"))[:-1], b"OggS\0\0"]),
        TruncatedAudioError,
        "ends within the Ogg page",
    ),
    "an Ogg that lacks a page inside": (
        lambda: b"".join([*ogg_pages(sample("ogg"))[:-2], ogg_pages(sample("ogg"))[-1]]),
        CorruptAudioError,
        r"holds Ogg page \d+ at byte \d+ instead of page",
    ),
    "an Ogg with a damaged byte": (
        lambda: patched(sample("ogg"), half("ogg"), bytes([sample("ogg")[half("ogg")] ^ 1])),
        CorruptAudioError,
        "checksum does not match",
    ),
    "an Ogg with noise between pages": (
        lambda: b"".join([*ogg_pages(sample("ogg"))[:-1], noise(), ogg_pages(sample("ogg"))[-1]]),
        CorruptAudioError,
        "has no Ogg page at byte",
    ),
    "an Ogg of two files": (
        lambda: sample("ogg") + sample("opus"),
        UnsupportedAudioError,
        "several Ogg streams",
    ),
    "an Opus cut off": (
        lambda: sample("opus")[: half("opus")],
        TruncatedAudioError,
        "is truncated: fetch or export it again",
    ),
    "an Opus with a damaged byte": (
        lambda: patched(sample("opus"), half("opus"), bytes([sample("opus")[half("opus")] ^ 1])),
        CorruptAudioError,
        "checksum does not match",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_an_incomplete_or_damaged_file_is_refused_with_its_own_error(name: str, tmp_path: Path) -> None:
    make_faulty, error, message = FAULTS[name]
    assert_refused(written(tmp_path, make_faulty(), f"{name}.wav"), error, message)


@given(st.binary(max_size=300))
def test_the_checksum_of_a_page_is_that_of_the_bitwise_definition(page: bytes) -> None:
    """RFC 3533, section 6: polynomial 04C11DB7, most significant bit first, start and final value zero."""
    register = 0
    for byte in page:
        register ^= byte << 24
        for _ in range(8):
            register = (register << 1 ^ (0x04C11DB7 if register >> 31 else 0)) & 0xFFFFFFFF
    assert _ogg_checksum(page) == register
