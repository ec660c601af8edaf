"""Decoding: the stream equals the whole file, in bounded memory, and partial audio is never taken for whole.

All files are real: soundfile and PyAV make them, then some are damaged byte by byte.
"""

import functools
import io
import itertools
import math
import os
import struct
import subprocess
import sys
import threading
from collections.abc import Callable
from fractions import Fraction
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import av
import fsspec
import numpy as np
import pytest
import s3fs
import soundfile
import soxr

from hilbert_ray import audio
from hilbert_ray.audio.decoding import mean_of_channels
from hilbert_ray.audio.errors import (
    AudioError,
    AudioNotFoundError,
    ChannelError,
    CorruptAudioError,
    EmptyAudioError,
    GapError,
    LengthError,
    MissingExtraError,
    NoAudioStreamError,
    NonFiniteAudioError,
    RateError,
    TruncatedAudioError,
    UnfinishedAudioError,
    UnsupportedAudioError,
)

BARE = {"write_xing": "0", "id3v2_version": "0"}
VBR: dict[str, Any] = {
    "codec": "libmp3lame",
    "settings": {"flags": "qscale", "global_quality": "472"},
    "muxer": BARE,
}
LAYOUTS = {1: "mono", 2: "stereo", 6: "5.1", 8: "7.1"}
CONTAINERS = {
    "m4a": ("ipod", "aac"),
    "mp4": ("mp4", "aac"),
    "mkv": ("matroska", "flac"),
    "webm": ("webm", "libopus"),
}


def signal(seconds: float = 4.0, rate_hz: int = 16000, channels: int = 1) -> np.ndarray:
    """Return a rising tone with noise that comes and goes, float32 [samples, channels], all different."""
    rng = np.random.default_rng(channels)
    time = np.arange(round(seconds * rate_hz))[:, None] / rate_hz
    pitch = 150 + 40 * np.arange(channels) + 60 * time
    noise = rng.standard_normal((len(time), channels)) * (np.sin(2 * np.pi * 1.3 * time) > 0)
    return (0.25 * np.sin(2 * np.pi * pitch * time) + 0.06 * noise).astype(np.float32)


def encode(kind: str, samples: np.ndarray, rate_hz: int = 16000, **options: Any) -> bytes:  # noqa: ANN401
    """Return an audio file of this kind; options are soundfile's, or PyAV's for containers."""
    buffer = io.BytesIO()
    if kind in CONTAINERS or "codec" in options:
        _encode_container(buffer, kind, samples, rate_hz, **options)
    else:
        known = {"ogg": ("OGG", "VORBIS"), "opus": ("OGG", "OPUS"), "mp3": ("MP3", "MPEG_LAYER_III")}
        form, subtype = known.get(kind, (kind.upper(), None))
        channels = samples.shape[1] if samples.ndim == 2 else 1
        options = {"format": form, "subtype": subtype, **options}
        with soundfile.SoundFile(buffer, "w", rate_hz, channels, **options) as file:
            for start in range(0, len(samples), rate_hz):  # libsndfile crashes on minutes of Vorbis at once
                file.write(samples[start : start + rate_hz])
    return buffer.getvalue()


def _encode_container(
    buffer: io.BytesIO,
    kind: str,
    samples: np.ndarray,
    rate_hz: int,
    *,
    codec: str | None = None,
    settings: dict[str, str] | None = None,
    muxer: dict[str, str] | None = None,
    skip: tuple[float, float] = (0.0, 0.0),
    video_s: float = 0.0,
) -> None:
    """Mux one sound track, with times from `skip[0]` seconds on moved by `skip[1]`, and perhaps a picture."""
    form, default = CONTAINERS.get(kind, (kind, ""))
    with av.open(buffer, "w", format=form, options=muxer or {}) as container:
        video = container.add_stream("mpeg4", rate=10) if video_s else None
        if video is not None:
            video.width = video.height = 32
            video.pix_fmt = "yuv420p"
        if len(samples):
            sound = container.add_stream(codec or default, rate=rate_hz, options=settings or {})
            sound.layout = LAYOUTS[samples.shape[1]]
            step = 960
            for start in range(0, len(samples), step):
                part = samples[start : start + step].reshape(1, -1)
                frame = av.AudioFrame.from_ndarray(part, format="flt", layout=sound.layout.name)
                frame.sample_rate = rate_hz
                frame.pts = start + (round(skip[1] * rate_hz) if start >= skip[0] * rate_hz else 0)
                frame.time_base = Fraction(1, rate_hz)
                container.mux(sound.encode(frame))
            container.mux(sound.encode(None))
        if video is not None:
            for number in range(round(10 * video_s)):
                picture = av.VideoFrame.from_ndarray(np.full((32, 32, 3), number, np.uint8), format="rgb24")
                picture.pts, picture.time_base = number, Fraction(1, 10)
                container.mux(video.encode(picture))
            container.mux(video.encode(None))


@functools.cache
def sample(kind: str, seconds: float = 4.0) -> bytes:
    """Return a whole mono file, made once; `vbr` is an MP3 of changing bit rate without a count of frames."""
    if kind == "vbr":
        return encode("mp3", signal(seconds), **VBR)
    rate_hz = 48000 if kind == "webm" else 16000
    return encode(kind, signal(seconds, rate_hz), rate_hz)


def written(folder: Path, content: bytes, name: str = "audio.bin") -> str:
    (folder / name).write_bytes(content)
    return str(folder / name)


def decoded(content: bytes) -> tuple[np.ndarray, int]:
    """Return all samples of a file, float32 [samples, channels], and their rate, read at once."""
    if content[:4] in (b"RIFF", b"fLaC", b"OggS", b"FORM"):
        samples, rate_hz = soundfile.read(io.BytesIO(content), dtype="float32", always_2d=True)
        return samples, rate_hz
    with av.open(io.BytesIO(content)) as container:
        packer = av.AudioResampler(format="flt")
        frames = [part for frame in container.decode(audio=0) for part in packer.resample(frame)]
    samples = np.concatenate([frame.to_ndarray() for frame in frames], 1)
    return samples.reshape(-1, frames[0].layout.nb_channels), frames[0].sample_rate


def at_once(content: bytes, rate_hz: int = 16000) -> np.ndarray:
    samples, found_hz = decoded(content)
    return np.asarray(soxr.resample(samples.mean(1, dtype=np.float32), found_hz, rate_hz), np.float32)


def streamed(uri: str, rate_hz: int = 16000, block_s: float = 30.0) -> np.ndarray:
    return np.concatenate(list(audio.stream(uri, rate_hz, block_s)))


CASES = [
    ("wav", 8000, 1, {}),
    ("wav", 44100, 2, {"subtype": "FLOAT"}),
    ("wav", 192000, 8, {"subtype": "PCM_24"}),
    ("aiff", 22050, 2, {}),
    ("flac", 11025, 3, {}),
    ("flac", 96000, 2, {"subtype": "PCM_24"}),
    ("mp3", 8000, 1, {"bitrate_mode": "CONSTANT"}),
    ("mp3", 44100, 2, {"bitrate_mode": "VARIABLE", "compression_level": 0.5}),
    ("mp3", 48000, 2, VBR),
    ("mp3", 22050, 1, {"codec": "libmp3lame", "settings": {"b": "64k"}, "muxer": BARE}),
    ("ogg", 44100, 2, {}),
    ("ogg", 192000, 1, {}),
    ("opus", 48000, 2, {}),
    ("opus", 16000, 8, {}),
    ("m4a", 44100, 2, {}),
    ("m4a", 8000, 1, {"codec": "alac"}),
    ("mp4", 48000, 6, {"video_s": 3.0}),
    ("mkv", 96000, 2, {}),
    ("mkv", 44100, 1, {"codec": "aac"}),
    ("mkv", 192000, 8, {"codec": "pcm_s16le"}),
    ("mkv", 32000, 2, {"codec": "pcm_u8"}),
    ("webm", 48000, 2, {}),
]


def _name(case: Any) -> str | None:  # noqa: ANN401
    return "-".join(map(str, case.values())) or "plain" if isinstance(case, dict) else None


@pytest.mark.parametrize(("kind", "rate_hz", "channels", "options"), CASES, ids=_name)
def test_the_stream_equals_the_file_decoded_and_resampled_at_once(
    kind: str, rate_hz: int, channels: int, options: dict[str, Any], tmp_path: Path
) -> None:
    content = encode(kind, signal(3.1, rate_hz, channels), rate_hz, **options)
    uri = written(tmp_path, content)
    info = audio.probe(uri)
    assert (info.rate_hz, info.channels) == (rate_hz, channels)
    assert info.duration_s == pytest.approx(3.1, abs=0.25)
    expected = at_once(content)
    for block_s in (0.013, 0.7, 30.0):
        found = streamed(uri, block_s=block_s)
        assert found.dtype == np.float32
        assert found.shape == expected.shape
        assert np.abs(found - expected).max() <= 1e-4


@pytest.mark.soak
@pytest.mark.parametrize("channels", [1, 2, 8])
@pytest.mark.parametrize("rate_hz", [8000, 11025, 16000, 22050, 32000, 44100, 48000, 88200, 96000, 192000])
@pytest.mark.parametrize("kind", ["wav", "flac", "mp3", "ogg", "m4a", "mkv"])
def test_the_stream_equals_the_file_at_any_rate_and_number_of_channels(
    kind: str, rate_hz: int, channels: int, tmp_path: Path
) -> None:
    if (kind == "mp3" and (rate_hz > 48000 or channels > 2)) or (kind == "m4a" and rate_hz > 96000):
        pytest.skip("the format has no such files")
    content = encode(kind, signal(5.03, rate_hz, channels), rate_hz)
    uri = written(tmp_path, content)
    for target_hz, block_s in itertools.product((8000, 16000, 44100), (0.01, 0.31, 100.0)):
        expected = at_once(content, target_hz)
        found = streamed(uri, target_hz, block_s)
        assert found.shape == expected.shape
        assert np.abs(found - expected).max() <= 1e-4


def test_several_channels_become_their_mean(tmp_path: Path) -> None:
    samples = signal(1.0, 16000, 6)
    uri = written(tmp_path, encode("wav", samples, subtype="FLOAT"))
    np.testing.assert_allclose(streamed(uri), samples.mean(1), atol=1e-6)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("mp3", {}),
        ("ogg", {}),
        ("opus", {}),
        ("m4a", {}),
        ("mp4", {"codec": "libopus", "video_s": 4.0}),
        ("mkv", {"codec": "libopus"}),
        ("mkv", {"codec": "libmp3lame"}),
        ("webm", {}),
    ],
    ids=_name,
)
def test_the_delay_of_the_encoder_shifts_nothing(kind: str, options: dict[str, Any], tmp_path: Path) -> None:
    samples = signal(4.0, 48000)
    uri = written(tmp_path, encode(kind, samples, 48000, **options))
    found = streamed(uri, 48000)
    near = slice(24000, 96000)
    score = [float(samples[near, 0] @ found[24000 + lag : 96000 + lag]) for lag in range(-3000, 3001)]
    assert int(np.argmax(score)) - 3000 == 0
    assert len(found) == pytest.approx(len(samples), abs=1200)


def mp3_frames(content: bytes) -> list[bytes]:
    """Cut an MP3 of 16 kHz without tags into its frames."""
    starts = [at for at in range(len(content) - 1) if content[at : at + 2] == b"\xff\xf3"]
    whole = [0]
    for at in starts:
        bit_rate = (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)[content[whole[-1] + 2] >> 4]
        if at == whole[-1] + 72 * bit_rate // 16 + (content[whole[-1] + 2] >> 1 & 1):
            whole.append(at)
    return [content[begin:end] for begin, end in itertools.pairwise([*whole, len(content)])]


def ogg_pages(content: bytes) -> list[bytes]:
    return [b"OggS" + part for part in content.split(b"OggS")[1:]]


def id3(size: int = 300) -> bytes:
    return (
        b"ID3\x04\0\0" + bytes([size >> 21, size >> 14 & 127, size >> 7 & 127, size & 127]) + b"\xff" * size
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


def vbri(frames: list[bytes]) -> bytes:
    head = frames[0][:2] + b"\x88" + frames[0][3:4]
    table = struct.pack(">4sHHHII", b"VBRI", 1, 0, 75, sum(map(len, frames)), len(frames))
    return (head + bytes(32) + table).ljust(288, b"\0") + b"".join(frames)


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


def patched(content: bytes, at: int, data: bytes) -> bytes:
    return content[:at] + data + content[at + len(data) :]


def noise(size: int = 3000) -> bytes:
    return np.random.default_rng(5).bytes(size)


def half(kind: str) -> int:
    return len(sample(kind)) // 2


def fragmented() -> bytes:
    flags = {"movflags": "frag_keyframe+empty_moov+default_base_moof", "frag_duration": "500000"}
    return encode("mp4", signal(), muxer=flags)


def id3v1() -> bytes:
    return b"TAG" + bytes(125)


def lyrics() -> bytes:
    words = b"LYRICSBEGIN" + b"IND0000200" + b"la " * 700
    return words + f"{len(words):06}LYRICS200".encode()


WHOLE: dict[str, tuple[Callable[[], bytes], str]] = {
    "a WAV with chunks before and after its samples": (
        lambda: patched(
            sample("wav")[:36] + b"junk\x05\0\0\0abcde\0" + sample("wav")[36:] + b"LIST\x04\0\0\0INFO",
            4,
            bytes(4),
        ),
        "wav",
    ),
    "an RF64": (lambda: encode("rf64", signal(), format="RF64"), "wav"),
    "an extensible WAV": (lambda: encode("wavex", signal()), "wav"),
    "a big-endian WAV": (lambda: encode("wav", signal(), endian="BIG"), "wav"),
    "a FLAC behind two ID3 tags": (lambda: id3() + id3(70000) + sample("flac"), "flac"),
    "a FLAC before an ID3v1 tag": (lambda: sample("flac") + id3v1(), "flac"),
    "an MP3 behind two ID3 tags": (lambda: id3() + id3(70000) + sample("mp3"), "mp3"),
    "an MP3 before all kinds of tags": (
        lambda: sample("mp3") + ape() + lyrics() + id3v1(),
        "mp3",
    ),
    "an MP3 without a count before all kinds of tags": (
        lambda: sample("vbr") + ape() + lyrics() + id3v1(),
        "vbr",
    ),
    "a MP4 in fragments": (fragmented, "fragments"),
    "a MP4 that begins with its index": (lambda: index_first(sample("m4a")), "m4a"),
    "a MOV": (lambda: encode("mov", signal(), codec="pcm_s16le"), "wav"),
}


@pytest.mark.parametrize("name", WHOLE)
def test_an_odd_but_whole_file_is_decoded_whole(name: str, tmp_path: Path) -> None:
    make_odd, like = WHOLE[name]
    uri = written(tmp_path, make_odd(), "wrong.ending")
    expected = at_once(make_odd() if like == "fragments" else sample(like))
    found = streamed(uri)
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= 1e-4
    assert audio.probe(uri).duration_s == pytest.approx(len(found) / 16000, abs=0.25)


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
    np.testing.assert_allclose(found[576 + 1200 :], at_once(sample("vbr"))[1200:], atol=1e-4)


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


def mp3(seconds: float = 1.0, rate_hz: int = 16000, channels: int = 1) -> bytes:
    return encode("mp3", signal(seconds, rate_hz, channels), rate_hz, codec="libmp3lame", muxer=BARE)


def wav(samples: np.ndarray, at: int = 0, data: bytes = b"", **options: Any) -> bytes:  # noqa: ANN401
    return patched(encode("wav", samples, **options), at, data)


def holed(value: float) -> np.ndarray:
    samples = signal(4.0, 16000, 2)
    samples[40000, 1] = value
    return samples


FAULTS: dict[str, tuple[Callable[[], bytes], type[AudioError], str]] = {
    "an empty file": (lambda: b"", UnsupportedAudioError, "is empty; the formats are WAV"),
    "one byte": (lambda: b"R", UnsupportedAudioError, "begins with the bytes b'R'"),
    "zeros": (lambda: bytes(5000), UnsupportedAudioError, "no audio format known here"),
    "words": (lambda: b"these are words", UnsupportedAudioError, "begins with the bytes b'these ar'"),
    "an AVI": (
        lambda: patched(sample("wav"), 8, b"AVI "),
        UnsupportedAudioError,
        "no audio format known here",
    ),
    "a WAV header cut off": (lambda: sample("wav")[:30], CorruptAudioError, "no chunk 'data'"),
    "noise behind RIFF": (
        lambda: b"RIFF\xff\xff\0\0WAVE" + noise(),
        CorruptAudioError,
        "no chunk 'data' with samples",
    ),
    "a WAV without format": (
        lambda: sample("wav")[:12] + sample("wav")[36:],
        CorruptAudioError,
        "cannot be opened",
    ),
    "a WAV cut off": (
        lambda: sample("wav")[: half("wav")],
        TruncatedAudioError,
        "states 128000 bytes of samples but ends after 63978",
    ),
    "a WAV that lacks a byte": (lambda: sample("wav")[:-1], TruncatedAudioError, "but ends after 127999"),
    "a WAV of unknown length": (
        lambda: patched(sample("wav"), 40, b"\xff" * 4),
        UnfinishedAudioError,
        "does not state how many samples",
    ),
    "a WAV never finished": (
        lambda: patched(sample("wav"), 40, bytes(4)),
        UnfinishedAudioError,
        "if you know that it is whole, repack it",
    ),
    "a WAV without samples": (lambda: wav(np.zeros(0)), EmptyAudioError, "holds no samples"),
    "a WAV of 0 Hz": (lambda: wav(signal(), 24, bytes(4)), CorruptAudioError, "cannot be opened"),
    "a WAV of 1 Hz": (
        lambda: wav(signal(), 24, struct.pack("<I", 1)),
        RateError,
        "rate of 1 Hz; it must be 4000 to 384000",
    ),
    "a WAV of 2 GHz": (lambda: wav(signal(), 24, struct.pack("<I", 2 * 10**9)), RateError, "2000000000 Hz"),
    "a WAV of 4 GHz": (lambda: wav(signal(), 24, b"\xff" * 4), CorruptAudioError, "cannot be opened"),
    "a WAV of no channels": (lambda: wav(signal(), 22, bytes(2)), CorruptAudioError, "cannot be opened"),
    "a WAV of 65535 channels": (
        lambda: wav(signal(), 22, b"\xff\xff"),
        CorruptAudioError,
        "cannot be opened",
    ),
    "a WAV of 33 channels": (
        lambda: wav(signal(0.1, 16000, 33)),
        ChannelError,
        "states 33 channels; there must be 1 to 32",
    ),
    "a WAV of 0 bits": (lambda: wav(signal(), 34, bytes(2)), CorruptAudioError, "cannot be opened"),
    "a WAV with NaN": (
        lambda: wav(holed(math.nan), subtype="FLOAT"),
        NonFiniteAudioError,
        "NaN or infinite, the first at 2.500 s",
    ),
    "a WAV with infinity": (
        lambda: wav(holed(-math.inf), subtype="FLOAT"),
        NonFiniteAudioError,
        "the first at 2.500 s",
    ),
    "an RF64 cut off": (
        lambda: encode("rf64", signal(), format="RF64")[:20000],
        TruncatedAudioError,
        "states 128000 bytes",
    ),
    "an RF64 cut off in its header": (
        lambda: encode("rf64", signal(), format="RF64")[:24],
        CorruptAudioError,
        "no chunk 'data'",
    ),
    "an AIFF cut off": (lambda: sample("aiff")[: half("aiff")], TruncatedAudioError, "is cut off"),
    "an AIFF without samples": (lambda: encode("aiff", np.zeros(0)), EmptyAudioError, "holds no samples"),
    "a FLAC header alone": (lambda: sample("flac")[:42], LengthError, "but 0 "),
    "a FLAC cut off": (
        lambda: sample("flac")[: half("flac")],
        CorruptAudioError,
        r"cannot be decoded after \d\.\d\d s",
    ),
    "a FLAC damaged inside": (
        lambda: patched(sample("flac"), half("flac"), noise(50)),
        CorruptAudioError,
        "cannot be decoded after",
    ),
    "a FLAC that states too many samples": (
        lambda: patched(sample("flac"), 22, struct.pack(">I", 65000)),
        LengthError,
        r"states 65000 samples \(4.06 s\), but 64000 \(4.00 s\)",
    ),
    "a FLAC of unknown length": (
        lambda: patched(sample("flac"), 22, bytes(4)),
        UnfinishedAudioError,
        "does not state how many samples",
    ),
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
        "is cut off: fetch it again",
    ),
    "an Opus with a damaged byte": (
        lambda: patched(sample("opus"), half("opus"), bytes([sample("opus")[half("opus")] ^ 1])),
        CorruptAudioError,
        "checksum does not match",
    ),
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
    "an MP3 with a tag between frames": (
        lambda: b"".join([*mp3_frames(sample("vbr"))[:50], id3(2000), *mp3_frames(sample("vbr"))[50:]]),
        CorruptAudioError,
        "no MPEG frame at byte",
    ),
    "an MP3 followed by zeros": (
        lambda: sample("mp3") + bytes(5000),
        CorruptAudioError,
        "no MPEG frame at byte",
    ),
    "an MP3 of two files": (
        lambda: sample("mp3") * 2,
        LengthError,
        r"states \d+ MPEG frames but holds \d+; files were joined",
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
        "no audio format known here",
    ),
    "an MP3 without frames": (lambda: id3(), UnsupportedAudioError, "no audio format known here"),
    "an M4A cut off": (
        lambda: sample("m4a")[: half("m4a")],
        TruncatedAudioError,
        "bytes in the MP4 box at byte",
    ),
    "an M4A cut off in its index": (lambda: sample("m4a")[:-50], TruncatedAudioError, "is cut off"),
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
        r"goes on at 2.5\d s after 2.0\d s of sound",
    ),
    "an MKV with a hole in its sound": (
        lambda: encode("mkv", signal(), skip=(2.0, 0.5)),
        GapError,
        r"goes on at 2.\d\d s after 2.\d\d s of sound; a hole shifts",
    ),
    "a video whose sound begins late": (
        lambda: encode("mkv", signal(), skip=(0.0, 0.5), video_s=4.5),
        GapError,
        "goes on at 0.50 s after 0.00 s",
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
        "of a kind that FFmpeg cannot decode",
    ),
    "an MKV with a hole in its file": (
        lambda: patched(sample("mkv"), half("mkv"), bytes(1500)),
        CorruptAudioError,
        r"cannot be decoded after \d\.\d\d s",
    ),
    "a WebM with a hole in its file": (
        lambda: patched(sample("webm", 16.0), half("webm") * 2, bytes(1500)),
        GapError,
        "a hole shifts what follows",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_file_that_is_not_whole_is_refused_with_its_own_error(name: str, tmp_path: Path) -> None:
    make_faulty, error, message = FAULTS[name]
    uri = written(tmp_path, make_faulty(), f"{name}.wav")
    with pytest.raises(error, match=message) as caught:
        streamed(uri)
    assert type(caught.value) is error
    assert uri in str(caught.value)


KINDS = ["wav", "aiff", "flac", "mp3", "vbr", "ogg", "opus", "m4a", "mkv", "webm"]


def outcome(uri: str) -> int | AudioError:
    """Return how many samples the whole file has, or why it is refused."""
    try:
        return sum(len(block) for block in audio.stream(uri, block_s=5.0))
    except AudioError as error:
        return error


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_cut_off_anywhere_is_never_taken_for_whole(kind: str, tmp_path: Path) -> None:
    """Only an MP3 without a count that ends exactly between two frames cannot be told from a whole one."""
    content = sample(kind)
    ends = np.unique(np.linspace(1, len(content) - 1, 25).astype(int))
    if kind == "vbr":
        ends = np.setdiff1d(ends, list(itertools.accumulate(map(len, mp3_frames(content)))))
    found = {int(end): outcome(written(tmp_path, content[:end])) for end in ends}
    assert [end for end, what in found.items() if not isinstance(what, AudioError)] == []


@pytest.mark.soak
@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_file_is_refused_or_keeps_its_length(kind: str, tmp_path: Path) -> None:
    content = sample(kind)
    whole = outcome(written(tmp_path, content))
    assert isinstance(whole, int)
    rng = np.random.default_rng(1)
    for _ in range(400):
        size = int(rng.choice([1, 4, 60, 1000]))
        damaged = patched(content, int(rng.integers(0, len(content) - size)), rng.bytes(size))
        what = outcome(written(tmp_path, damaged))
        assert isinstance(what, AudioError) or abs(what - whole) <= 0.25 * 16000


@pytest.mark.soak
@pytest.mark.parametrize("kind", KINDS)
def test_a_file_cut_off_after_any_of_its_last_bytes_is_never_taken_for_whole(
    kind: str, tmp_path: Path
) -> None:
    content = sample(kind)
    whole = mp3_frames(content) if kind == "vbr" else []
    between = set(itertools.accumulate(map(len, whole)))
    for end in {*range(1, 200), *range(len(content) - 600, len(content))} - between:
        assert isinstance(outcome(written(tmp_path, content[:end])), AudioError), end


def test_a_file_that_is_not_there_is_named(tmp_path: Path, object_store: str) -> None:
    for uri in (tmp_path / "gone.wav", tmp_path, f"file://{tmp_path}/gone.wav", f"{object_store}/gone.wav"):
        with pytest.raises(AudioNotFoundError, match=f"no audio file at {uri}; mend the path"):
            audio.probe(str(uri))


def test_a_container_without_pyav_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(MissingExtraError, match=r"needs PyAV: pip install 'hilbert-ray\[video\]'"):
        audio.probe(written(tmp_path, sample("m4a")))


class WithoutRanges(SimpleHTTPRequestHandler):
    """Serves files from start to end only."""

    def end_headers(self) -> None:
        self.send_header("Accept-Ranges", "none")
        super().end_headers()


def test_a_server_without_ranges_is_refused(tmp_path: Path) -> None:
    written(tmp_path, sample("wav"), "a.wav")
    handler = functools.partial(WithoutRanges, directory=str(tmp_path))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with pytest.raises(UnsupportedAudioError, match="can be read from start to end only"):
        audio.probe(f"http://127.0.0.1:{server.server_port}/a.wav")
    server.shutdown()


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that grows by the size of each range that is read from the object store."""
    sizes: list[int] = []
    fetch = s3fs.core.S3File._fetch_range

    def counting(self: Any, start: int, end: int) -> bytes:  # noqa: ANN401
        data: bytes = fetch(self, start, end)
        sizes.append(len(data))
        return data

    monkeypatch.setattr(s3fs.core.S3File, "_fetch_range", counting)
    return sizes


@pytest.mark.parametrize("kind", KINDS)
def test_an_object_gives_the_samples_of_the_file(kind: str, tmp_path: Path, object_store: str) -> None:
    uri = f"{object_store}/a.{kind}"
    fsspec.filesystem("s3").pipe(uri, sample(kind))
    local = written(tmp_path, sample(kind))
    assert audio.probe(uri) == audio.probe(local)
    np.testing.assert_array_equal(streamed(uri), streamed(local))


def test_a_large_object_is_read_by_ranges(object_store: str, fetched: list[int]) -> None:
    uri = f"{object_store}/large.wav"
    content = encode("wav", np.zeros((60 * 192000, 2), np.float32), 192000)
    fsspec.filesystem("s3").pipe(uri, content)
    assert audio.probe(uri).duration_s == 60
    assert sum(fetched) <= 10 * 2**20 < len(content) / 4
    fetched.clear()
    assert sum(map(len, audio.stream(uri))) == 60 * 16000
    assert max(fetched) <= 10 * 2**20
    assert sum(fetched) <= 1.3 * len(content)


@pytest.mark.parametrize("kind", ["wav", "mkv"])
def test_an_object_that_vanishes_while_it_is_read_is_an_error(kind: str, object_store: str) -> None:
    uri, store = f"{object_store}/gone.{kind}", fsspec.filesystem("s3")
    options = {"codec": "pcm_s16le"} if kind == "mkv" else {}
    store.pipe(uri, encode(kind, np.zeros((60 * 96000, 2), np.float32), 96000, **options))
    blocks = audio.stream(uri, block_s=1.0)
    next(blocks)
    store.rm(uri)
    with pytest.raises(OSError, match=r"\S"):
        list(blocks)


MEASURE = """
import re, sys
from hilbert_ray import audio
samples = sum(map(len, audio.stream(sys.argv[1], block_s=10.0)))
print(samples, re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="peak memory is read from Linux's /proc")
@pytest.mark.parametrize("kind", ["wav", "flac", "mp3", "vbr", "ogg", "m4a", "mkv"])
def test_memory_does_not_grow_with_duration(kind: str, tmp_path: Path) -> None:
    """As float32 at 16 kHz, the longer recording alone would be 31 MB more."""
    peaks = []
    for minutes in (1, 9):
        samples = np.tile(signal(60.0, 8000), (minutes, 1))
        options = VBR if kind == "vbr" else {}
        uri = written(tmp_path, encode("mp3" if kind == "vbr" else kind, samples, 8000, **options))
        result = subprocess.run(
            [sys.executable, "-c", MEASURE, uri], capture_output=True, text=True, check=True
        )
        count, kilobytes = map(int, result.stdout.split())
        assert count == pytest.approx(minutes * 60 * 16000, abs=4000)
        peaks.append(kilobytes / 1024)
    assert peaks[1] - peaks[0] < 10


def test_probing_reads_no_more_than_the_header(tmp_path: Path) -> None:
    assert audio.probe(written(tmp_path, sample("flac"))) == audio.AudioInfo(
        rate_hz=16000, channels=1, frames=64000, format="FLAC"
    )


@pytest.mark.parametrize("channels", [1, 2, 3, 6, 7, 8, 9, 32])
def test_channels_are_averaged_as_numpy_does_to_the_last_bit(channels: int) -> None:
    """Features must not change with how the mean is taken: stores hold what earlier versions made."""
    block = np.random.default_rng(channels).standard_normal((10_001, channels)).astype(np.float32)
    before = block.copy()
    found = mean_of_channels(block)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, block.mean(axis=1, dtype=np.float32))
    np.testing.assert_array_equal(block, before)
