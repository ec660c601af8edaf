"""Recordings made for the tests of `audio`: real files of every format, and ways to damage them."""

import functools
import io
import itertools
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import soundfile
import soxr

from hilbert_ray import audio
from hilbert_ray.audio.errors import (
    AudioError,
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


KINDS = ["wav", "aiff", "flac", "mp3", "vbr", "ogg", "opus", "m4a", "mkv", "webm"]


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


def mp3(seconds: float = 1.0, rate_hz: int = 16000, channels: int = 1) -> bytes:
    """Return an MP3 without a count of its frames and without tags."""
    return encode("mp3", signal(seconds, rate_hz, channels), rate_hz, codec="libmp3lame", muxer=BARE)


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


def decoded_at_once(content: bytes, rate_hz: int = 16000) -> np.ndarray:
    samples, found_hz = decoded(content)
    return np.asarray(soxr.resample(samples.mean(1, dtype=np.float32), found_hz, rate_hz), np.float32)


def streamed(uri: str, rate_hz: int = 16000, block_s: float = 30.0) -> np.ndarray:
    return np.concatenate(list(audio.stream(uri, rate_hz, block_s)))


def outcome(uri: str) -> int | AudioError:
    """Return how many samples the whole file has, or why it is refused."""
    try:
        return sum(len(block) for block in audio.stream(uri, block_s=5.0))
    except AudioError as error:
        return error


def patched(content: bytes, at: int, data: bytes) -> bytes:
    return content[:at] + data + content[at + len(data) :]


def noise(size: int = 3000) -> bytes:
    return np.random.default_rng(5).bytes(size)


def half(kind: str) -> int:
    return len(sample(kind)) // 2


def mp3_frames(content: bytes) -> list[bytes]:
    """Cut an MP3 of 16 kHz without tags into its frames."""
    starts = [at for at in range(len(content) - 1) if content[at : at + 2] == b"\xff\xf3"]
    whole = [0]
    for at in starts:
        bit_rate = (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)[content[whole[-1] + 2] >> 4]
        if at == whole[-1] + 72 * bit_rate // 16 + (content[whole[-1] + 2] >> 1 & 1):
            whole.append(at)
    return [content[begin:end] for begin, end in itertools.pairwise([*whole, len(content)])]


def id3(size: int = 300) -> bytes:
    return (
        b"ID3\x04\0\0" + bytes([size >> 21, size >> 14 & 127, size >> 7 & 127, size & 127]) + b"\xff" * size
    )


def id3v1() -> bytes:
    return b"TAG" + bytes(125)


def assert_refused(uri: str, error: type[AudioError], message: str) -> None:
    """Check that a file is refused with just this error, which names the file."""
    with pytest.raises(error, match=message) as caught:
        streamed(uri)
    assert type(caught.value) is error
    assert uri in str(caught.value)
