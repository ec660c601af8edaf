"""MP4, MOV, Matroska and WebM: odd but complete files are decoded whole, incomplete ones are refused."""

import io
import struct
import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from hilbert_ray import audio
from hilbert_ray.audio.errors import (
    AudioError,
    ChannelError,
    CorruptAudioError,
    GapError,
    LengthError,
    MissingExtraError,
    NoAudioStreamError,
    RateError,
    TruncatedAudioError,
    UnfinishedAudioError,
    UnsupportedAudioError,
)
from tests.audio.recordings import (
    assert_refused,
    decoded_at_once,
    encode,
    half,
    mp3,
    noise,
    patched,
    sample,
    signal,
    streamed,
    written,
)


def boxes(content: bytes) -> list[bytes]:
    parts, at = [], 0
    while at < len(content):
        size = struct.unpack_from(">I", content, at)[0]
        parts.append(content[at : at + size])
        at += size
    return parts


def index_first(content: bytes) -> bytes:
    """Move the index of an MP4 before its samples and their places in it, one chunk each, behind it."""
    head, *rest, index = boxes(content)
    at = index.index(b"stco") + 8
    count = struct.unpack_from(">I", index, at)[0]
    places = [place + len(index) for place in struct.unpack_from(f">{count}I", index, at + 4)]
    return head + patched(index, at + 4, struct.pack(f">{count}I", *places)) + b"".join(rest)


def fragmented() -> bytes:
    flags = {"movflags": "frag_keyframe+empty_moov+default_base_moof", "frag_duration": "500000"}
    return encode("mp4", signal(), muxer=flags)


def unknown_size(content: bytes) -> bytes:
    return patched(content, content.index(b"\x18\x53\x80\x67") + 4, b"\x01" + b"\xff" * 7)


def two_in_one(kind: str, first: bytes, second: bytes) -> bytes:
    """Return a Matroska file whose one sound track has the packets of two MP3 files."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=kind) as container:
        track, due = None, Fraction(0)
        for content in (first, second):
            with av.open(io.BytesIO(content)) as source:
                track = track or container.add_stream_from_template(source.streams.audio[0])
                for packet in source.demux(audio=0):
                    if packet.size:
                        length = packet.duration * packet.time_base
                        packet.stream = track
                        packet.pts = packet.dts = round(due / packet.time_base)
                        container.mux(packet)
                        due += length
    return buffer.getvalue()


WHOLE: dict[str, tuple[Callable[[], bytes], str]] = {
    "a MP4 in fragments": (fragmented, "fragments"),
    "a MP4 that begins with its index": (lambda: index_first(sample("m4a")), "m4a"),
    "a MOV": (lambda: encode("mov", signal(), codec="pcm_s16le"), "wav"),
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
    "an M4A cut off": (
        lambda: sample("m4a")[: half("m4a")],
        TruncatedAudioError,
        "bytes in the MP4 box at byte",
    ),
    "an M4A cut off in its index": (lambda: sample("m4a")[:-50], TruncatedAudioError, "is truncated"),
    "an M4A without its index": (
        lambda: b"".join(boxes(sample("m4a"))[:-1]),
        UnfinishedAudioError,
        "lacks the index",
    ),
    "an M4A with a hole in its file": (
        lambda: patched(sample("m4a"), half("m4a"), bytes(1500)),
        CorruptAudioError,
        r"cannot be decoded after \d\.\d\d s",
    ),
    "an M4A with noise for an index": (
        lambda: b"".join(boxes(sample("m4a"))[:-1]) + b"\0\0\x0b\xc0moov" + noise(3000),
        NoAudioStreamError,
        "without a sound track",
    ),
    "an M4A with an impossible box": (
        lambda: sample("m4a") + b"\0\0\0\x05free",
        CorruptAudioError,
        "has no MP4 box at byte",
    ),
    "an MP4 that lacks its last fragments": (
        lambda: b"".join(boxes(fragmented())[:-3]),
        UnfinishedAudioError,
        "`mfra` if fragmented",
    ),
    "a video without sound": (
        lambda: encode("mp4", np.zeros((0, 1)), video_s=1.0),
        NoAudioStreamError,
        "MP4 file without a sound track",
    ),
    "a Matroska video without sound": (
        lambda: encode("mkv", np.zeros((0, 1)), video_s=1.0),
        NoAudioStreamError,
        "without a sound track",
    ),
    "an MP4 with a hole in its sound": (
        lambda: encode("mp4", signal(), skip=(2.0, 0.5)),
        GapError,
        r"continues at 2.5\d s after 2.0\d s of sound",
    ),
    "an MKV with a hole in its sound": (
        lambda: encode("mkv", signal(), skip=(2.0, 0.5)),
        GapError,
        r"continues at 2.\d\d s after 2.\d\d s of sound; a gap shifts",
    ),
    "a video whose sound begins late": (
        lambda: encode("mkv", signal(), skip=(0.0, 0.5), video_s=4.5),
        GapError,
        "continues at 0.50 s after 0.00 s",
    ),
    "an MKV of 8000 and 16000 Hz": (
        lambda: two_in_one("matroska", mp3(), mp3(rate_hz=8000)),
        RateError,
        r"changes from 16000 to 8000 Hz at 1.\d\d s",
    ),
    "an MKV of mono and stereo": (
        lambda: two_in_one("matroska", mp3(), mp3(channels=2)),
        ChannelError,
        r"changes from 1 to 2 channels at 1.\d\d s",
    ),
    "an MKV cut off": (
        lambda: sample("mkv")[: half("mkv")],
        TruncatedAudioError,
        r"states \d+ bytes of content but ends after",
    ),
    "an MKV of unknown size cut off": (
        lambda: unknown_size(sample("mkv"))[: half("mkv")],
        LengthError,
        r"states 64000 samples \(4.00 s\), but \d+ \(\d.\d\d s\) could be decoded",
    ),
    "an MKV of unknown size and length": (
        lambda: encode("mkv", signal(), muxer={"live": "1"}),
        UnfinishedAudioError,
        "does not state how long it is",
    ),
    "an MKV without a segment": (
        lambda: sample("mkv").replace(b"\x18\x53\x80\x67", b"\x18\x53\x80\x68"),
        CorruptAudioError,
        "no Matroska segment",
    ),
    "an MKV with an unknown kind of sound": (
        lambda: sample("mkv").replace(b"A_FLAC", b"A_XYZW"),
        UnsupportedAudioError,
        "has a sound track that FFmpeg cannot decode",
    ),
    "an MKV with a hole in its file": (
        lambda: patched(sample("mkv"), half("mkv"), bytes(1500)),
        CorruptAudioError,
        r"cannot be decoded after \d\.\d\d s",
    ),
    "a WebM with a hole in its file": (
        lambda: patched(sample("webm", 16.0), half("webm") * 2, bytes(1500)),
        GapError,
        "a gap shifts what follows",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_an_incomplete_or_damaged_file_is_refused_with_its_own_error(name: str, tmp_path: Path) -> None:
    make_faulty, error, message = FAULTS[name]
    assert_refused(written(tmp_path, make_faulty(), f"{name}.wav"), error, message)


def test_a_container_without_pyav_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(MissingExtraError, match=r"needs PyAV: pip install 'hilbert-ray\[video\]'"):
        audio.probe(written(tmp_path, sample("m4a")))
