"""Any supported recording, local or on an object store, as mono blocks at one rate.

`probe` reads headers; `stream` decodes and resamples in constant memory and checks on the way that the file
is complete, so that partial audio is never taken for all of it. The first bytes of a file, not its name,
decide which format of the table `FORMATS` reads it.
"""

import io
from collections.abc import Generator, Iterator, Sequence
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
    ChannelError,
    LengthError,
    NonFiniteAudioError,
    UnsupportedAudioError,
)
from hilbert_ray.audio.flac import FLAC
from hilbert_ray.audio.format import START_BYTES, AudioFormat, AudioSource, Decoder
from hilbert_ray.audio.header import AudioInfo
from hilbert_ray.audio.levels import Levels
from hilbert_ray.audio.matroska import MATROSKA
from hilbert_ray.audio.mp3 import MP3
from hilbert_ray.audio.mp4 import MP4
from hilbert_ray.audio.ogg import OGG
from hilbert_ray.audio.riff import RIFF
from hilbert_ray.audio.sphere import SPHERE
from hilbert_ray.audio.tags import end_of_leading_tags
from hilbert_ray.audio.w64 import W64
from hilbert_ray.config import Channels
from hilbert_ray.document import Hertz, Samples, Seconds
from hilbert_ray.storage import access_errors, irregular, local_path

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
MIX = Channels()
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


class Stream(Iterator[np.ndarray]):
    """The blocks of a recording; `levels` says how loud what has been drawn is, `info` what its header says.

    What `stream` returns: blocks float32 [samples], or [samples, speakers] where each channel is a speaker's.
    """

    def __init__(self, uri: str, rate_hz: Hertz, block_s: Seconds, channels: Channels) -> None:
        self.levels: Levels | None = None
        self.info: AudioInfo | None = None
        self._channels = channels
        self._chosen: tuple[int, ...] | None = None
        self._blocks = self._decode(uri, rate_hz, block_s)

    def __next__(self) -> np.ndarray:
        """Return the next block."""
        return next(self._blocks)

    def close(self) -> None:
        """Close the file before its end."""
        self._blocks.close()

    @property
    def findings(self) -> tuple[str, ...]:
        """What a user should know about the recording, the same words for all that are alike."""
        if self.levels is None or self.info is None:
            return ()
        found = self.levels.findings()
        if self.info.tracks > 1:
            found += (
                f"the file has {self.info.tracks} sound tracks, of which the first is used; "
                "`ffmpeg -i FILE -map 0:a:1 OUT` takes out the second",
            )
        if set(self._chosen or ()) & set(self.levels.silent):
            found += ("a channel that `channels` names is silent, though others have sound",)
        unnamed = set(range(self.info.channels)) - {channel for channel, _ in self._channels.speakers}
        if self._channels.speakers and unnamed - set(self.levels.silent):
            found += ("channels with sound are not named in `channels` and not used",)
        return found

    def _decode(self, uri: str, rate_hz: Hertz, block_s: Seconds) -> Generator[np.ndarray]:
        with _opened(uri) as file:
            chosen = self._chosen = self._choose(file, uri, block_s)
            decoder = _decoder(file, uri)
            info = self.info = decoder.info
            levels = self.levels = Levels(
                channels=info.channels,
                rate_hz=info.rate_hz,
                is_mixed=chosen is None and info.channels > 1,
            )
            # As a stream soxr returns the same samples whatever the blocks, so features do not depend on
            # block_s.
            width = len(chosen) if chosen and self._channels.speakers else 1
            resampler = soxr.ResampleStream(info.rate_hz, rate_hz, width, dtype="float32")
            decoded = 0
            for block in decoder.decode(max(1, round(block_s * info.rate_hz))):
                # First to few channels, then to the rate: resampling is linear, and costs more per channel.
                used = self._select(block, chosen)
                if not levels.add(block, used if levels.is_mixed else None):
                    _check_finite(block, decoded, info, uri)
                decoded += len(block)
                used = used if info.rate_hz == rate_hz else resampler.resample_chunk(used)
                if len(used):
                    yield used
            # Checked before the last samples leave, so that a caller who counts blocks cannot miss the fault.
            _check_length(decoded, decoder, uri)
            levels.finish()
            levels.check(uri)
            if info.rate_hz != rate_hz:
                # The resampler holds back what its filter needs; an empty last chunk makes it give that out.
                empty = np.zeros((0, width) if self._channels.speakers else 0, np.float32)
                rest = resampler.resample_chunk(empty, last=True)
                if len(rest):
                    yield rest

    def _choose(self, file: BinaryIO, uri: str, block_s: Seconds) -> tuple[int, ...] | None:
        """Return the channels that are used; None for the mean of all.

        Raises:
            ChannelError: when the file lacks one of them.
        """
        choice = self._channels.choice
        if choice == "mix":
            return None
        decoder = _decoder(file, uri)
        count = decoder.info.channels
        if choice == "loudest":
            if count == 1:
                return (0,)
            levels = Levels(channels=count, rate_hz=decoder.info.rate_hz, is_mixed=False)
            for block in decoder.decode(max(1, round(block_s * decoder.info.rate_hz))):
                levels.add(block)
            levels.finish()
            return (int(levels.powers.argmax()),)
        sides = {"left": (0,), "right": (1,)}
        chosen = sides.get(choice) or tuple(channel for channel, _ in self._channels.speakers)
        if max(chosen) >= count:
            raise ChannelError(
                f"{uri} has {count} channel{'' if count == 1 else 's'}, but `channels` is "
                f"{str(self._channels)!r}; channels are counted from 0: correct `channels` in the manifest "
                "or `segment.channels`"
            )
        return chosen

    def _select(self, block: np.ndarray, chosen: tuple[int, ...] | None) -> np.ndarray:
        """Return what is used of a block [samples, channels]: [samples], or [samples, speakers]."""
        if chosen is None:
            return mean_of_channels(block)
        if self._channels.speakers:
            return np.ascontiguousarray(block[:, list(chosen)])
        return np.ascontiguousarray(block[:, chosen[0]])


def stream(uri: str, rate_hz: Hertz = 16_000, block_s: Seconds = 30.0, channels: Channels = MIX) -> Stream:
    """Return the audio as an iterator of float32 [samples] blocks at `rate_hz`.

    The blocks together equal the whole file decoded and resampled at once. Memory does not grow with the
    file. A caller must draw all blocks before trusting any: a fault may show only at the end. One fault
    cannot show: an MP3 whose header does not count its frames, cut off exactly between two of them; and the
    same of AAC and AMR, which count nothing.

    Args:
        uri: a local path, or the URI of an object on any fsspec store; objects are read by ranges.
        rate_hz: rate of the blocks, samples per second.
        block_s: about how much audio is decoded at a time, seconds.
        channels: the mean of all channels (the default), one of them, or several, each a speaker's: blocks
            then are [samples, speakers].

    Raises:
        AudioError: while blocks are drawn, when the file is incomplete, unreadable, or breaks a bound, or its
            channels cancel each other; the class says which.
    """
    return Stream(uri, rate_hz, block_s, channels)


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
    with access_errors(uri), _opened_file(uri) as file:
        yield file


@contextmanager
def _opened_file(uri: str) -> Iterator[BinaryIO]:
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
