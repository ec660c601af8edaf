"""Any supported recording, local or on an object store, as mono blocks at one rate.

`probe` reads headers; `stream` decodes and resamples in constant memory and checks on the way that the file
is complete, so that partial audio is never taken for all of it. The first bytes of a file, not its name,
decide which format of the table `FORMATS` reads it.
"""

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, BinaryIO

import fsspec
import numpy as np
import soxr

from hilbert_ray.audio.adts import ADTS
from hilbert_ray.audio.amr import AMR
from hilbert_ray.audio.asf import ASF
from hilbert_ray.audio.au import AU
from hilbert_ray.audio.caf import CAF
from hilbert_ray.audio.errors import (
    CONVERT,
    FETCH_AGAIN,
    REPACK,
    SET_NULL,
    AudioNotFoundError,
    LengthError,
    NonFiniteAudioError,
    UnsupportedAudioError,
)
from hilbert_ray.audio.flac import FLAC
from hilbert_ray.audio.format import START_BYTES, AudioFormat, AudioSource, Decoder
from hilbert_ray.audio.header import AudioInfo
from hilbert_ray.audio.matroska import MATROSKA
from hilbert_ray.audio.mp3 import MP3
from hilbert_ray.audio.mp4 import MP4
from hilbert_ray.audio.ogg import OGG
from hilbert_ray.audio.riff import RIFF
from hilbert_ray.audio.sphere import SPHERE
from hilbert_ray.audio.tags import end_of_leading_tags
from hilbert_ray.audio.w64 import W64
from hilbert_ray.document import Hertz, Samples, Seconds
from hilbert_ray.storage import irregular, local_path

FORMATS: Sequence[AudioFormat] = (
    RIFF,
    W64,
    OGG,
    FLAC,
    CAF,
    AU,
    SPHERE,
    MP4,
    MATROSKA,
    ASF,
    AMR,
    ADTS,
    MP3,
)
"""The formats that can be read, in the order in which they are tried.

MP3 and AAC come last: their files have no signature, and the bytes that begin one may occur anywhere.
"""
_FETCH_BYTES = 4 * 2**20
"""How much is fetched from an object store at a time: few requests, yet little is wasted on a header."""


def probe(uri: str) -> AudioInfo:
    """Return what the header of an audio file says, after checking it against the bounds.

    An MP3 is walked from frame to frame to its end: only the frames show its length and whether it is
    complete.

    Args:
        uri: a local path, or the URI of an object on any fsspec store.

    Raises:
        AudioError: when there is no such file, its format is not supported, or its header breaks a rule.
    """
    with _opened(uri) as file:
        return _decoder(file, uri).info


def stream(uri: str, rate_hz: Hertz = 16_000, block_s: Seconds = 30.0) -> Iterator[np.ndarray]:
    """Yield the audio as float32 [samples] mono blocks at `rate_hz`: the mean of the channels, resampled.

    The blocks together equal the whole file decoded and resampled at once. Memory does not grow with the
    file. A caller must draw all blocks before trusting any: a fault may show only at the end. One fault
    cannot show: an MP3 whose header does not count its frames, cut off exactly between two of them.

    Args:
        uri: a local path, or the URI of an object on any fsspec store; objects are read by ranges.
        rate_hz: rate of the blocks, samples per second.
        block_s: about how much audio is decoded at a time, seconds.

    Raises:
        AudioError: when the file is incomplete, unreadable, or breaks a bound; the class says which.
    """
    with _opened(uri) as file:
        decoder = _decoder(file, uri)
        info = decoder.info
        # As a stream soxr returns the same samples whatever the blocks, so features do not depend on block_s.
        resampler = soxr.ResampleStream(info.rate_hz, rate_hz, 1, dtype="float32")
        decoded = 0
        for block in decoder.decode(max(1, round(block_s * info.rate_hz))):
            _check_finite(block, decoded, info, uri)
            decoded += len(block)
            # First to mono, then to the rate: resampling is linear, and one channel is cheaper than several.
            mono = mean_of_channels(block)
            mono = mono if info.rate_hz == rate_hz else resampler.resample_chunk(mono)
            if len(mono):
                yield mono
        # Checked before the last samples leave, so that a caller who counts blocks cannot miss the fault.
        _check_length(decoded, decoder, uri)
        if info.rate_hz != rate_hz:
            # The resampler holds back what its filter needs; an empty last chunk makes it give that out.
            rest = resampler.resample_chunk(np.zeros(0, np.float32), last=True)
            if len(rest):
                yield rest


def _check_finite(block: np.ndarray, decoded: Samples, info: AudioInfo, uri: str) -> None:
    """Check a block that follows `decoded` samples: one NaN would spread over a whole feature."""
    is_finite = np.isfinite(block)
    if not is_finite.all():
        first_s = (decoded + int(np.argwhere(~is_finite)[0, 0])) / info.rate_hz
        raise NonFiniteAudioError(
            f"{uri} holds samples that are NaN or infinite, the first at {first_s:.3f} s; samples must be "
            "finite numbers: export the recording again"
        )


def _check_length(decoded: Samples, decoder: Decoder, uri: str) -> None:
    info = decoder.info
    if abs(decoded - info.frames) > decoder.tolerance:
        raise LengthError(
            f"{uri} states {info.frames} samples ({info.duration_s:.2f} s), but {decoded} "
            f"({decoded / info.rate_hz:.2f} s) could be decoded; they must agree: "
            f"{FETCH_AGAIN}, or {REPACK}"
        )


def mean_of_channels(block: np.ndarray) -> np.ndarray:
    """Return what `block.mean(axis=1)` does, for few channels ten times as fast and with the same bits.

    NumPy adds the channels of one frame one after another; only from eight channels on does it add them
    pairwise, in another order and so with other rounding.

    Args:
        block: float32 [samples, channels].

    Returns:
        float32 [samples].
    """
    channels = block.shape[1]
    if channels >= 8:
        return np.asarray(block.mean(axis=1, dtype=np.float32))
    mono = block[:, 0].astype(np.float32)
    for channel in range(1, channels):
        mono += block[:, channel]
    return mono / np.float32(channels)


@contextmanager
def _opened(uri: str) -> Iterator[BinaryIO]:
    """Open a file for reading at any position; objects are fetched by ranges of a few megabytes."""
    if (kind := irregular(uri)) is not None:  # opening a pipe would wait for ever
        raise AudioNotFoundError(
            f"no audio file at {uri}, which is {kind}; name a regular file, or {SET_NULL}"
        )
    path = local_path(uri)
    try:
        if path is not None:
            # 64 KB: the checks read thousands of small headers close together.
            file: Any = open(path, "rb", buffering=2**16)  # noqa: SIM115 - closed below
        else:
            # Without the cache of listings: a file that has appeared since must be seen.
            filesystem, path = fsspec.core.url_to_fs(uri, use_listings_cache=False)
            file = filesystem.open(path, "rb", block_size=_FETCH_BYTES, cache_type="readahead")
    except (FileNotFoundError, IsADirectoryError):
        raise AudioNotFoundError(f"no audio file at {uri}; correct the path, or {SET_NULL}") from None
    with file:
        try:  # fsspec opens what a server cannot serve by ranges as a stream, which cannot seek
            file.seek(0, io.SEEK_END)
        except ValueError:
            raise UnsupportedAudioError(
                f"{uri} can be read from start to end only; audio is read by ranges: use a server that "
                "serves ranges, or copy the file to one"
            ) from None
        yield file


def _decoder(file: BinaryIO, uri: str) -> Decoder:
    """Open a file with the first format of the table that recognises it."""
    # Any format may follow ID3v2 tags: some editors put them in front of FLAC too.
    size = file.seek(0, io.SEEK_END)
    begin = end_of_leading_tags(file, 0)
    file.seek(begin)
    start = file.read(START_BYTES)
    source = AudioSource(file=file, uri=uri, size=size, begin=begin)
    for format_ in FORMATS:
        if format_.recognises(start):
            return format_.open(source)
    problem = (
        f"begins with the bytes {start[:8]!r}, which is not a supported audio format" if size else "is empty"
    )
    raise UnsupportedAudioError(f"{uri} {problem}; the formats are {supported_formats()}: {CONVERT}")


def supported_formats() -> str:
    """Return the names of all formats as part of a sentence, those of each optional dependency together."""
    listed = ", ".join(format_.names for format_ in FORMATS if not format_.extra)
    for extra in dict.fromkeys(format_.extra for format_ in FORMATS if format_.extra):
        names = ", ".join(format_.names for format_ in FORMATS if format_.extra == extra)
        listed += f", and, with the extra `{extra}`, {names}"
    return listed
