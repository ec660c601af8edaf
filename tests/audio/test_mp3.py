"""MP3: every frame is checked, and a file is decoded to its last one, whatever its header counts."""

import io
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import assume, given
from hypothesis import strategies as st

from hilbert_ray import audio
from hilbert_ray.audio.errors import (
    AudioError,
    ChannelError,
    CorruptAudioError,
    LengthError,
    RateError,
    TruncatedAudioError,
    UnsupportedAudioError,
)
from hilbert_ray.audio.mp3 import parse_frame
from hilbert_ray.audio.tags import end_of_leading_tags, start_of_trailing_tags
from tests.audio.recordings import (
    assert_refused,
    decoded_at_once,
    encode,
    half,
    id3,
    id3v1,
    mp3,
    mp3_frames,
    noise,
    patched,
    sample,
    signal,
    streamed,
    written,
)


def ape(size: int = 5000) -> bytes:
    mark = b"APETAGEX" + struct.pack("<III", 2000, size + 32, 1)
    return (
        mark
        + struct.pack("<I", 0xA0000000)
        + bytes(8 + size)
        + mark
        + struct.pack("<I", 0x80000000)
        + bytes(8)
    )


def lyrics() -> bytes:
    words = b"LYRICSBEGIN" + b"IND0000200" + b"la " * 700
    return words + f"{len(words):06}LYRICS200".encode()


def vbri(frames: list[bytes]) -> bytes:
    head = frames[0][:2] + b"\x88" + frames[0][3:4]
    table = struct.pack(">4sHHHII", b"VBRI", 1, 0, 75, sum(map(len, frames)), len(frames))
    return (head + bytes(32) + table).ljust(288, b"\0") + b"".join(frames)


WHOLE: dict[str, tuple[Callable[[], bytes], str]] = {
    "an MP3 followed by zeros": (lambda: sample("mp3") + bytes(5000), "mp3"),
    "an MP3 without a count followed by zeros": (lambda: sample("vbr") + bytes(5000), "vbr"),
    "a counted MP3 followed by noise": (lambda: sample("mp3") + noise(), "mp3"),
    "an MP3 with a tag between frames": (
        lambda: b"".join([*mp3_frames(sample("vbr"))[:50], id3(2000), *mp3_frames(sample("vbr"))[50:]]),
        "vbr",
    ),
    "an MP3 with other tags between frames": (
        lambda: b"".join(
            [*mp3_frames(sample("vbr"))[:50], id3v1(), ape(), *mp3_frames(sample("vbr"))[50:], id3v1()]
        ),
        "vbr",
    ),
    "an MP3 behind two ID3 tags": (lambda: id3() + id3(70000) + sample("mp3"), "mp3"),
    "an MP3 before all kinds of tags": (
        lambda: sample("mp3") + ape() + lyrics() + id3v1(),
        "mp3",
    ),
    "an MP3 without a count before all kinds of tags": (
        lambda: sample("vbr") + ape() + lyrics() + id3v1(),
        "vbr",
    ),
}


@pytest.mark.parametrize("name", WHOLE)
def test_an_odd_but_whole_file_is_decoded_whole(name: str, tmp_path: Path) -> None:
    make_odd, like = WHOLE[name]
    uri = written(tmp_path, make_odd(), "wrong.ending")
    expected = decoded_at_once(make_odd() if like == "fragments" else sample(like))
    found = streamed(uri)
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= 1e-4
    assert audio.probe(uri).duration_s == pytest.approx(len(found) / 16000, abs=0.25)


FAULTS: dict[str, tuple[Callable[[], bytes], type[AudioError], str]] = {
    "an MP3 cut off in a frame": (
        lambda: sample("mp3")[: half("mp3")],
        TruncatedAudioError,
        r"ends \d+ bytes before its last MPEG frame does",
    ),
    "an MP3 cut off between frames": (
        lambda: b"".join(mp3_frames(sample("mp3"))[:-1]),
        TruncatedAudioError,
        r"states \d+ MPEG frames but ends after \d+",
    ),
    "an MP3 with a VBRI header cut off": (
        lambda: b"".join(mp3_frames(vbri(mp3_frames(sample("vbr"))))[:-2]),
        TruncatedAudioError,
        r"states \d+ MPEG frames but ends after \d+",
    ),
    "an MP3 without a count cut off": (
        lambda: sample("vbr")[:-1],
        TruncatedAudioError,
        "ends 1 bytes before",
    ),
    "an MP3 with noise inside": (
        lambda: patched(sample("mp3"), half("mp3"), noise()),
        CorruptAudioError,
        r"no MPEG frame at byte \d+, where one should begin",
    ),
    "an MP3 with bytes lost inside": (
        lambda: sample("vbr")[: half("vbr")] + sample("vbr")[half("vbr") + 100 :],
        CorruptAudioError,
        "no MPEG frame at byte",
    ),
    "an MP3 followed by noise that may be sound": (
        lambda: sample("vbr") + noise(),
        CorruptAudioError,
        "no MPEG frame at byte .* or files were joined",
    ),
    "an MP3 without a count followed by many zeros": (
        lambda: sample("vbr") + bytes(2**17),
        CorruptAudioError,
        "no MPEG frame at byte",
    ),
    "an MP3 with frames that are not counted": (
        lambda: sample("mp3") + b"".join(mp3_frames(sample("vbr"))),
        LengthError,
        r"states \d+ MPEG frames but holds \d+, as if files had been joined",
    ),
    "an MP3 of two files, the second cut off": (
        lambda: sample("mp3") + sample("mp3")[: half("mp3")],
        TruncatedAudioError,
        "before its last MPEG frame does",
    ),
    "an MP3 of two files of two rates": (
        lambda: sample("mp3") + encode("mp3", signal(1.0, 8000), 8000),
        RateError,
        "changes from 16000 to 8000 Hz at byte",
    ),
    "an MP3 of two rates": (
        lambda: mp3() + mp3(rate_hz=8000),
        RateError,
        "changes from 16000 to 8000 Hz at byte",
    ),
    "an MP3 of mono and stereo": (
        lambda: mp3() + mp3(channels=2),
        ChannelError,
        "changes from 1 to 2 channels at byte",
    ),
    "an MP3 that begins in a frame": (
        lambda: mp3()[20:],
        UnsupportedAudioError,
        "not a supported audio format",
    ),
    "an MP3 without frames": (lambda: id3(), UnsupportedAudioError, "not a supported audio format"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_an_incomplete_or_damaged_file_is_refused_with_its_own_error(name: str, tmp_path: Path) -> None:
    make_faulty, error, message = FAULTS[name]
    assert_refused(written(tmp_path, make_faulty(), f"{name}.wav"), error, message)


@pytest.mark.parametrize("between", [b"", id3(), id3v1() + id3(), ape(100)], ids=["", "ID3", "both", "APE"])
def test_joined_mp3s_are_one_after_the_other(between: bytes, tmp_path: Path) -> None:
    """As podcasts with inserted advertisements are: each with a header of its own, trimmed by itself."""
    first, second = sample("mp3"), encode("mp3", signal(1.5), 16000)
    uri = written(tmp_path, first + between + second + id3v1())
    expected = np.concatenate([streamed(written(tmp_path, part, "part")) for part in (first, second)])
    np.testing.assert_array_equal(streamed(uri), expected)
    assert audio.probe(uri).frames == len(expected)


def test_an_mp3_without_a_count_before_one_with_a_count_is_joined(tmp_path: Path) -> None:
    """Even between counted ones: where a file begins, its header says so."""
    parts = [sample("mp3"), id3() + sample("vbr"), sample("mp3")]
    expected = [streamed(written(tmp_path, part, "part")) for part in parts]
    np.testing.assert_array_equal(streamed(written(tmp_path, b"".join(parts))), np.concatenate(expected))


def test_an_mp3_of_changing_bit_rate_without_a_count_is_decoded_to_its_end(tmp_path: Path) -> None:
    """The length that libsndfile computes from the first frame's bit rate is wrong, and it stops there."""
    content = sample("vbr")
    uri = written(tmp_path, content, "a.mp3")
    frames = mp3_frames(content)
    assert len({len(frame) for frame in frames}) > 3
    assert len(soundfile.read(uri)[0]) < 0.9 * 576 * len(frames)
    assert audio.probe(uri).frames == len(streamed(uri)) == 576 * len(frames)


def test_an_mp3_with_a_vbri_header_is_decoded_whole(tmp_path: Path) -> None:
    """The header's own frame is played as 36 ms of silence, as other decoders do."""
    frames = mp3_frames(sample("vbr"))
    found = streamed(written(tmp_path, vbri(frames)))
    assert len(found) == (len(frames) + 1) * 576
    np.testing.assert_allclose(found[576 + 1200 :], decoded_at_once(sample("vbr"))[1200:], atol=1e-4)


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (
            b"\xff\xfb\x90\x00",
            (417, 1152, 44100, 2),
        ),  # MPEG 1, 128 kbit/s: 144 * 128000 / 44100
        (b"\xff\xfb\x92\x00", (418, 1152, 44100, 2)),  # the same with a byte of padding
        (b"\xff\xfb\xe4\xc0", (960, 1152, 48000, 1)),  # MPEG 1, 320 kbit/s, mono: 144 * 320000 / 48000
        (b"\xff\xf3\x88\xc0", (288, 576, 16000, 1)),  # MPEG 2, 64 kbit/s, mono: 72 * 64000 / 16000
        (b"\xff\xe3\x18\xc0", (72, 576, 8000, 1)),  # MPEG 2.5, 8 kbit/s, mono: 72 * 8000 / 8000
        (b"\xff\xfb\xf0\x00", None),  # reserved bit rate
        (b"\xff\xfb\x9c\x00", None),  # reserved sampling rate
        (b"\xff\xeb\x90\x00", None),  # reserved version
        (b"\xff\xfd\x90\x00", None),  # layer II
        (b"\xff\xfb\x90", None),
    ],
)
def test_frame_headers_say_what_the_standard_says(
    header: bytes, expected: tuple[int, int, int, int] | None
) -> None:
    frame = parse_frame(header)
    assert (None if frame is None else tuple(frame)) == expected


@given(
    sound=st.binary(min_size=200, max_size=300).map(lambda data: b"\xff\xfb" + data),
    before=st.lists(st.integers(0, 3000), max_size=3),
    after=st.lists(st.sampled_from([id3v1(), ape(), ape(0), lyrics()]), max_size=4),
)
def test_tags_on_both_sides_are_left_out_and_nothing_else(
    sound: bytes, before: list[int], after: list[bytes]
) -> None:
    leading = b"".join(map(id3, before))
    # What ends like a tag by chance cannot be told from one.
    assume(start_of_trailing_tags(io.BytesIO(sound), len(sound)) == len(sound))
    file = io.BytesIO(leading + sound + b"".join(after))
    assert end_of_leading_tags(file, 0) == len(leading)
    assert start_of_trailing_tags(file, len(file.getvalue())) == len(leading) + len(sound)
