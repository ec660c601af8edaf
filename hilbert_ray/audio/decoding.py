"""Any supported recording, local or on an object store, as mono blocks at one rate.

`probe` reads headers; `stream` decodes and resamples in constant memory and checks on the way that the file
is whole, so that partial audio is never taken for complete audio. The first bytes of a file, not its name,
say which module of this room reads it.
"""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

import fsspec
import numpy as np
import soxr

from hilbert_ray.audio.containers import EBML, ContainerAudio, check_boxes, check_segment
from hilbert_ray.audio.errors import (
    CONVERT,
    FETCH_AGAIN,
    REPACK,
    AudioNotFoundError,
    LengthError,
    NonFiniteAudioError,
    UnsupportedAudioError,
)
from hilbert_ray.audio.header import AudioInfo
from hilbert_ray.audio.libsndfile import ByteRange, LibsndfileAudio
from hilbert_ray.audio.mp3 import after_id3, before_tags, open_mp3, parse_frame
from hilbert_ray.audio.riff import check_chunks
from hilbert_ray.document import Hertz, Seconds
from hilbert_ray.storage import local_path

FORMATS = "WAV, AIFF, FLAC, MP3, Ogg Vorbis, Opus, and, with the extra `video`, M4A, MP4, MOV, MKV and WebM"
_FETCH_BYTES = 4 * 2**20


def probe(uri: str) -> AudioInfo:
    """Return what the header of an audio file says, after checking it against the bounds.

    An MP3 is walked from frame to frame to its end: only the frames tell its length and whether it is whole.

    Args:
        uri: a local path, or the URI of an object on any fsspec store.

    Raises:
        AudioError: when there is no such file, its kind is not supported, or its header breaks a rule.
    """
    with _opened(uri) as file:
        return _open(file, uri).info


def stream(uri: str, rate_hz: Hertz = 16_000, block_s: Seconds = 30.0) -> Iterator[np.ndarray]:
    """Yield the audio as float32 [samples] mono blocks at `rate_hz`: the mean of the channels, resampled.

    The blocks together equal the whole file decoded and resampled at once. Memory does not grow with the
    file. A caller must draw all blocks before trusting any: a fault may show only at the end. One cannot
    show: an MP3 whose header does not count its frames, cut off exactly between two of them.

    Args:
        uri: a local path, or the URI of an object on any fsspec store; objects are read by ranges.
        rate_hz: rate of the blocks, samples a second.
        block_s: about how much audio is decoded at a time, seconds.

    Raises:
        AudioError: when the file is not whole, not readable, or breaks a bound; the class says which.
    """
    with _opened(uri) as file:
        opened = _open(file, uri)
        info = opened.info
        resampler = soxr.ResampleStream(info.rate_hz, rate_hz, 1, dtype="float32")
        frames = 0
        for block in opened.decode(max(1, round(block_s * info.rate_hz))):
            if not np.isfinite(block).all():
                at = (frames + int(np.argwhere(~np.isfinite(block))[0, 0])) / info.rate_hz
                raise NonFiniteAudioError(
                    f"{uri} holds samples that are NaN or infinite, the first at {at:.3f} s; samples must be "
                    "finite numbers: export the recording again"
                )
            frames += len(block)
            mono = mean_of_channels(block)
            mono = mono if info.rate_hz == rate_hz else resampler.resample_chunk(mono)
            if len(mono):
                yield mono
        if abs(frames - info.frames) > opened.tolerance:
            raise LengthError(
                f"{uri} states {info.frames} samples ({info.duration_s:.2f} s), but {frames} "
                f"({frames / info.rate_hz:.2f} s) could be decoded; they must agree: "
                f"{FETCH_AGAIN}, or {REPACK}"
            )
        if info.rate_hz != rate_hz:
            rest = resampler.resample_chunk(np.zeros(0, np.float32), last=True)
            if len(rest):
                yield rest


def mean_of_channels(block: np.ndarray) -> np.ndarray:
    """Return what `block.mean(axis=1)` does, for few channels ten times as fast and with the same bits.

    NumPy adds the channels of one frame after another; only from eight on does it add them in another order.
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
    """Open a file for reading at any place; objects are fetched by ranges of a few megabytes."""
    path = local_path(uri)
    try:
        if path is not None:
            file: Any = open(path, "rb", buffering=2**16)  # noqa: SIM115 - closed below
        else:
            filesystem, path = fsspec.core.url_to_fs(uri, use_listings_cache=False)
            file = filesystem.open(path, "rb", block_size=_FETCH_BYTES, cache_type="readahead")
    except (FileNotFoundError, IsADirectoryError):
        raise AudioNotFoundError(f"no audio file at {uri}; mend the path or write null") from None
    with file:
        try:
            file.seek(0, io.SEEK_END)
        except ValueError:
            raise UnsupportedAudioError(
                f"{uri} can be read from start to end only; audio is read by ranges: use a store that serves "
                "ranges, or copy the file to one"
            ) from None
        yield file


def _open(file: BinaryIO, uri: str) -> "LibsndfileAudio | ContainerAudio":
    """Open with the decoder that the first bytes ask for."""
    size = file.seek(0, io.SEEK_END)
    begin = after_id3(file, 0)
    file.seek(begin)
    head = file.read(16)
    if head[8:12] in (b"WAVE", b"AIFF", b"AIFC"):
        check_chunks(file, size, uri)
        return LibsndfileAudio(ByteRange(file, 0, size), uri)
    if head[:4] == b"OggS":
        return LibsndfileAudio(ByteRange(file, 0, size), uri)
    if head[:4] == b"fLaC":
        return LibsndfileAudio(ByteRange(file, begin, before_tags(file, size)), uri)
    if head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free"):
        check_boxes(file, size, uri)
        return ContainerAudio(file, uri, "MP4")
    if head[:4] == EBML:
        check_segment(file, size, uri)
        return ContainerAudio(file, uri, "Matroska")
    if first := parse_frame(head[:4]):
        return open_mp3(file, begin, before_tags(file, size), first, uri)
    what = f"begins with the bytes {head[:8]!r}, which is no audio format known here" if size else "is empty"
    raise UnsupportedAudioError(f"{uri} {what}; the formats are {FORMATS}: {CONVERT}")
