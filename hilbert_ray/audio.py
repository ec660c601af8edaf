"""Audio as a stream: any supported file, local or on an object store, as mono blocks at one rate.

`probe` reads headers; `stream` decodes and resamples in constant memory and checks on the way that the file
is whole, so that partial audio is never taken for complete audio. Each breach is its own `AudioError` whose
message names the file. `segment` cuts the blocks; `embed` files the errors with their documents.
"""

import io
import re
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, BinaryIO, NamedTuple

import fsspec
import numpy as np
import soundfile
import soxr

from hilbert_ray.document import DocumentError, Hertz, Samples, Seconds
from hilbert_ray.files import local_path

LOWEST_HZ, HIGHEST_HZ = 4_000, 384_000
MOST_CHANNELS = 32
FORMATS = "WAV, AIFF, FLAC, MP3, Ogg Vorbis, Opus, and, with the extra `video`, M4A, MP4, MOV, MKV and WebM"
_CONVERT = "convert it, for example `ffmpeg -i FILE out.flac`"
_REPACK = "repack it, for example `ffmpeg -i FILE -c copy OUT`"
_AGAIN = "fetch or export it again"
_FETCH_BYTES = 4 * 2**20
_GAP_S = 0.1
_LENGTH_TOLERANCE_S = 0.25


class AudioError(DocumentError):
    """Audio that cannot be read whole and as it was meant."""


class AudioNotFoundError(AudioError):
    """No file at this path or URI."""


class UnsupportedAudioError(AudioError):
    """A file of a kind that is not read, or that cannot be read by ranges."""


class MissingExtraError(AudioError):
    """A container that needs PyAV, which is not installed."""


class NoAudioStreamError(AudioError):
    """A video without a sound track."""


class RateError(AudioError):
    """A sampling rate out of bounds, or one that changes on the way."""


class ChannelError(AudioError):
    """Too many channels, none, or a number that changes on the way."""


class EmptyAudioError(AudioError):
    """A valid file without samples."""


class NonFiniteAudioError(AudioError):
    """Samples that are NaN or infinite."""


class TruncatedAudioError(AudioError):
    """A file that ends before its content does."""


class UnfinishedAudioError(AudioError):
    """A file whose writer never stated how much it holds, so that nobody can tell whether it is whole."""


class CorruptAudioError(AudioError):
    """A file with damage inside: a bad header, checksum, page or frame."""


class LengthError(AudioError):
    """More or fewer samples than the file states."""


class GapError(AudioError):
    """A sound track with a hole, which would shift everything after it against the transcript."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AudioInfo:
    """What the header says: `frames` samples a channel at `rate_hz`, in a `format` such as `WAV`."""

    rate_hz: Hertz
    channels: int
    frames: Samples
    format: str

    @property
    def duration_s(self) -> Seconds:
        """Length of the audio."""
        return self.frames / self.rate_hz


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
            mono = _mean_of_channels(block)
            mono = mono if info.rate_hz == rate_hz else resampler.resample_chunk(mono)
            if len(mono):
                yield mono
        if abs(frames - info.frames) > opened.tolerance:
            raise LengthError(
                f"{uri} states {info.frames} samples ({info.duration_s:.2f} s), but {frames} "
                f"({frames / info.rate_hz:.2f} s) could be decoded; they must agree: {_AGAIN}, or {_REPACK}"
            )
        if info.rate_hz != rate_hz:
            rest = resampler.resample_chunk(np.zeros(0, np.float32), last=True)
            if len(rest):
                yield rest


def _mean_of_channels(block: np.ndarray) -> np.ndarray:
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


def _open(file: BinaryIO, uri: str) -> "_Sound | _Container":
    """Open with the decoder that the first bytes ask for."""
    size = file.seek(0, io.SEEK_END)
    begin = _after_id3(file, 0)
    file.seek(begin)
    head = file.read(16)
    if head[8:12] in (b"WAVE", b"AIFF", b"AIFC"):
        _check_chunks(file, size, uri)
        return _Sound(_Source(file, 0, size), uri)
    if head[:4] == b"OggS":
        return _Sound(_Source(file, 0, size), uri)
    if head[:4] == b"fLaC":
        return _Sound(_Source(file, begin, _before_tags(file, size)), uri)
    if head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free"):
        _check_boxes(file, size, uri)
        return _Container(file, uri, "MP4")
    if head[:4] == _EBML:
        _check_segment(file, size, uri)
        return _Container(file, uri, "Matroska")
    if first := _mp3_frame(head[:4]):
        return _open_mp3(file, begin, _before_tags(file, size), first, uri)
    what = f"begins with the bytes {head[:8]!r}, which is no audio format known here" if size else "is empty"
    raise UnsupportedAudioError(f"{uri} {what}; the formats are {FORMATS}: {_CONVERT}")


def _cut_off(uri: str, what: str) -> TruncatedAudioError:
    return TruncatedAudioError(f"{uri} {what}; it is cut off: fetch it again")


def _damaged(uri: str, what: str) -> CorruptAudioError:
    return CorruptAudioError(f"{uri} {what}; it is damaged: {_AGAIN}")


def _unfinished(uri: str, what: str) -> UnfinishedAudioError:
    return UnfinishedAudioError(
        f"{uri} {what}: it was written live, or its writer did not finish, so it may be cut off; if you "
        f"know that it is whole, {_REPACK}"
    )


def _check_bounds(rate_hz: Hertz, channels: int, uri: str) -> None:
    if not LOWEST_HZ <= rate_hz <= HIGHEST_HZ:
        raise RateError(
            f"{uri} states a sampling rate of {rate_hz} Hz; it must be {LOWEST_HZ} to {HIGHEST_HZ}: if the "
            f"header is wrong, {_AGAIN}"
        )
    if not 1 <= channels <= MOST_CHANNELS:
        raise ChannelError(
            f"{uri} states {channels} channels; there must be 1 to {MOST_CHANNELS}: if the header is wrong, "
            f"{_AGAIN}"
        )


def _check_same(rate_hz: Hertz, channels: int, first: "AudioInfo | _Mp3Frame", where: str, uri: str) -> None:
    if rate_hz != first.rate_hz:
        raise RateError(
            f"{uri} changes from {first.rate_hz} to {rate_hz} Hz {where}, but must not: {_CONVERT}"
        )
    if channels != first.channels:
        raise ChannelError(
            f"{uri} changes from {first.channels} to {channels} channels {where}, but must not: {_CONVERT}"
        )


# WAV, AIFF, FLAC, Ogg and MP3: libsndfile

_UNKNOWN_LENGTH = 2**63 - 1


class _Source:
    """Bytes `begin` to `end` of a file as libsndfile reads them; carries errors past the C library.

    An exception inside a callback of libsndfile would be printed and then read as the end of the file.
    """

    def __init__(self, file: BinaryIO, begin: int, end: int, stated_size: int | None = None) -> None:
        self.file = file
        self.error: BaseException | None = None
        self._begin, self._size = begin, end - begin
        self._stated_size = self._size if stated_size is None else stated_size
        self._position = 0

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._stated_size}[whence]
        self._position = base + offset
        return self._position

    def readinto(self, buffer: Any) -> int:  # noqa: ANN401 - a cffi buffer
        try:
            self.file.seek(self._begin + self._position)
            if self._size < self._position < self._stated_size:  # libsndfile looks for a tag there
                data = bytes(len(buffer))
            else:
                data = self.file.read(max(0, min(len(buffer), self._size - self._position)))
        except BaseException as error:
            self.error = error
            return 0
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)

    def raise_error(self) -> None:
        """Raise what went wrong while libsndfile was reading."""
        if self.error is not None:
            raise self.error


class _Sound:
    """A file that libsndfile decodes; `frames` where it would not know their number."""

    tolerance = 0
    """By how many samples the decoded length may differ from the stated one."""

    def __init__(self, source: _Source, uri: str, frames: Samples | None = None) -> None:
        self.source, self.uri = source, uri
        try:
            self.file = soundfile.SoundFile(source)
        except soundfile.SoundFileError as error:
            source.raise_error()
            raise CorruptAudioError(
                f"{uri} cannot be opened: {_reason(error)}; its header is damaged or unusual: {_AGAIN}, or "
                f"{_CONVERT}"
            ) from error
        source.raise_error()
        # Else each read would end in a seek, after which an MP3 is not decoded as it is from its start.
        self.file.seekable = lambda: False
        rate, frames = self.file.samplerate, self.file.frames if frames is None else frames
        _check_bounds(rate, self.file.channels, uri)
        if frames == _UNKNOWN_LENGTH:
            raise _unfinished(uri, "does not state how many samples it holds")
        if frames == 0:
            raise EmptyAudioError(f"{uri} holds no samples; record or export it again, or write null")
        self.info = AudioInfo(
            rate_hz=rate, channels=self.file.channels, frames=frames, format=self.file.format
        )

    def decode(self, block: Samples) -> Iterator[np.ndarray]:
        if self.info.format == "OGG":
            _check_pages(self.source.file, self.uri)
        # `SoundFile.blocks` repeats stale samples after a short read, so the loop is spelt out.
        while True:
            try:
                samples = self.file.read(block, dtype="float32", always_2d=True)
            except soundfile.SoundFileError as error:
                self.source.raise_error()
                done = f"{self.file.tell() / self.info.rate_hz:.2f} s"
                raise _damaged(self.uri, f"cannot be decoded after {done}: {_reason(error)}") from error
            self.source.raise_error()
            if len(samples):
                yield samples
            if len(samples) < block:
                return


def _reason(error: Exception) -> str:
    return str(getattr(error, "error_string", error)).removeprefix("Error : ").rstrip(".")


def _check_chunks(file: BinaryIO, size: int, uri: str) -> None:
    """Check that the sound chunk of a WAV or AIFF file is whole: libsndfile would shorten it in silence."""
    file.seek(0)
    head = file.read(12)
    order = ">" if head[:4] in (b"FORM", b"RIFX") else "<"
    wanted = b"data" if head[8:] == b"WAVE" else b"SSND"
    long_size = unknown = 0xFFFFFFFF
    while len(header := file.read(8)) == 8:
        name, stated = struct.unpack(f"{order}4sI", header)
        begin = file.tell()
        if name == b"ds64":
            long_size = struct.unpack("<8xQ", file.read(16).ljust(16, b"\0"))[0]
        if name == wanted:
            break
        file.seek(begin + stated + stated % 2)
    else:
        raise _damaged(uri, f"has no chunk {wanted.decode()!r} with samples")
    stated = long_size if stated == unknown else stated
    available = size - begin
    if stated == unknown or (stated == 0 and available >= 2):
        raise _unfinished(uri, "does not state how many samples it holds")
    if stated > available:
        raise _cut_off(uri, f"states {stated} bytes of samples but ends after {available}")
    if available - stated >= 2**32:
        raise LengthError(
            f"{uri} states {stated} bytes of samples but {available} follow, more than its header can state; "
            f"{_REPACK} as RF64 (`-rf64 auto`) or FLAC"
        )


_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def _ogg_checksum(page: bytes) -> int:
    """Return the CRC-32 of RFC 3533 (polynomial 04C11DB7, most significant bit first, zero start and end).

    zlib's CRC takes the same polynomial with the bits of each byte and of the result reversed.
    """
    value = zlib.crc32(page.translate(_REVERSED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int(f"{value:032b}"[::-1], 2)


def _check_pages(file: BinaryIO, uri: str) -> None:
    """Read all pages of an Ogg file: none damaged, none missing, all of one stream, the last one its end.

    Decoders skip damaged pages in silence, and take any page for the last one.
    """
    at, due, stream, is_closed = 0, 0, None, False
    file.seek(0)
    while head := file.read(27):
        if head[:4] != b"OggS"[: len(head)]:
            raise _damaged(uri, f"has no Ogg page at byte {at}, where one should begin")
        sizes = file.read(head[26]) if len(head) == 27 else b""
        page = head + sizes + file.read(sum(sizes))
        if len(head) < 27 or len(page) < 27 + head[26] + sum(sizes):
            raise _cut_off(uri, f"ends within the Ogg page at byte {at}")
        flags, serial, number, checksum = struct.unpack_from("<B8xIII", page, 5)
        if _ogg_checksum(page[:22] + bytes(4) + page[26:]) != checksum:
            raise _damaged(uri, f"holds an Ogg page at byte {at} whose checksum does not match")
        if stream not in (None, serial):
            raise UnsupportedAudioError(
                f"{uri} holds several Ogg streams, of which only the first would be decoded: {_CONVERT}"
            )
        if number != due:
            raise _damaged(uri, f"holds Ogg page {number} at byte {at} instead of page {due}")
        stream, due, is_closed = serial, number + 1, bool(flags & 4)
        at += len(page)
    if not is_closed:
        raise _unfinished(uri, "ends without a closing Ogg page")


_BIT_RATES = (
    (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
)
"""Kilobits a second of layer III, for MPEG 2 and 2.5, and for MPEG 1, by the header's index from 1 on."""
_MP3_RATES = {0b11: (44100, 48000, 32000), 0b10: (22050, 24000, 16000), 0b00: (11025, 12000, 8000)}
_LONGER = 64
"""How many times its size an MP3 without a count of frames is said to have: libsndfile computes its length
from the bit rate of the first frame and stops there; bit rates differ by a factor of at most 20."""
_MOST_TRIMMED = 2 * 4095
"""Samples that a LAME header can take off both ends: the encoder's delay and padding."""


class _Mp3Frame(NamedTuple):
    size: int
    samples: Samples
    rate_hz: Hertz
    channels: int


@lru_cache
def _mp3_frame(header: bytes) -> _Mp3Frame | None:
    """Return what this 4-byte header of a frame of MPEG layer III says, None if it is none."""
    if len(header) < 4 or header[0] != 0xFF or header[1] & 0xE6 != 0xE2:
        return None
    version_bits, bit_rate, rate = header[1] >> 3 & 3, header[2] >> 4, header[2] >> 2 & 3
    if version_bits == 0b01 or bit_rate in (0, 15) or rate == 3:
        return None
    is_mpeg1 = version_bits == 0b11
    rate_hz = _MP3_RATES[version_bits][rate]
    samples = 1152 if is_mpeg1 else 576
    size = samples // 8 * _BIT_RATES[is_mpeg1][bit_rate - 1] * 1000 // rate_hz + (header[2] >> 1 & 1)
    return _Mp3Frame(size, samples, rate_hz, channels=1 if header[3] >> 6 == 3 else 2)


def _open_mp3(file: BinaryIO, begin: int, end: int, first: _Mp3Frame, uri: str) -> _Sound:
    """Walk the frames of an MP3, then open it."""
    samples, is_counted = _walk_mp3(file, begin, end, first, uri)
    if not is_counted:
        return _Sound(_Source(file, begin, end, stated_size=(end - begin) * _LONGER), uri, frames=samples)
    sound = _Sound(_Source(file, begin, end), uri)
    if not 0 <= samples - sound.info.frames <= _MOST_TRIMMED:
        raise LengthError(
            f"{uri} holds {samples} samples but its header asks for {sound.info.frames}, which is wrong: "
            f"{_CONVERT}"
        )
    return sound


def _walk_mp3(file: BinaryIO, begin: int, end: int, first: _Mp3Frame, uri: str) -> tuple[Samples, bool]:
    """Return the samples in the frames of an MP3, and whether a Xing or Info header counts the frames.

    Each frame must begin where the last one ended, be like the first, and end within the file: decoders skip
    what they cannot read and take the end of the file for the end of the recording.
    """
    file.seek(begin + 4)
    kind, stated = _frame_count(file.read(first.size - 4))
    at = begin if kind in ("", "VBRI") else begin + first.size
    frames = samples = 0
    while at < end:
        file.seek(at)
        frame = _mp3_frame(file.read(4))
        if frame is None:
            raise _damaged(uri, f"has no MPEG frame at byte {at}, where one should begin")
        _check_same(frame.rate_hz, frame.channels, first, f"at byte {at}", uri)
        frames += 1
        samples += frame.samples
        at += frame.size
    if at > end:
        raise _cut_off(uri, f"ends {at - end} bytes before its last MPEG frame does")
    if stated is not None and stated > frames:
        raise _cut_off(uri, f"states {stated} MPEG frames but ends after {frames}")
    # Encoders differ in whether VBRI counts its own frame, which decoders play as silence.
    if stated is not None and stated < frames - (kind == "VBRI"):
        raise LengthError(
            f"{uri} states {stated} MPEG frames but holds {frames}; files were joined: {_CONVERT}"
        )
    return samples, stated is not None and kind != "VBRI"


def _frame_count(body: bytes) -> tuple[str, int | None]:
    """Return which header the first frame holds in place of sound, if any, and how many frames it states."""
    for kind in ("Xing", "Info"):
        at = body.find(kind.encode(), 0, 44)
        if at >= 0:
            flags, count = struct.unpack_from(">II", body.ljust(at + 12, b"\0"), at + 4)
            return kind, count if flags & 1 else None
    if body[32:36] == b"VBRI" and len(body) >= 50:
        return "VBRI", struct.unpack_from(">I", body, 46)[0]
    return "", None


def _after_id3(file: BinaryIO, at: int) -> int:
    """Return where the ID3v2 tags end that begin here, if any do."""
    while True:
        file.seek(at)
        head = file.read(10)
        if len(head) < 10 or head[:3] != b"ID3" or max(head[6:10]) > 127:
            return at
        footer = 10 if head[5] & 0x10 else 0
        at += 10 + (head[6] << 21 | head[7] << 14 | head[8] << 7 | head[9]) + footer


def _before_tags(file: BinaryIO, end: int) -> int:
    """Return where the ID3v1, APE and Lyrics3 tags begin that end here, if any do."""
    while end >= 128:
        file.seek(end - 128)
        tail = file.read(128)
        if tail[:3] == b"TAG":
            end -= 128
        elif tail[-32:-24] == b"APETAGEX":
            size, _, flags = struct.unpack_from("<III", tail, 128 - 20)
            end -= size + (32 if flags >> 31 else 0)
        elif tail[-9:] == b"LYRICS200" and tail[-15:-9].isdigit():
            end -= 15 + int(tail[-15:-9])
        else:
            break
    return end


# M4A, MP4, MOV, Matroska and WebM: PyAV

_EBML, _SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"


class _Container:
    """The first sound track of a file that FFmpeg decodes, without encoder delay where the file states it."""

    def __init__(self, file: BinaryIO, uri: str, kind: str) -> None:
        try:
            import av
        except ImportError:
            raise MissingExtraError(
                f"{uri} is a {kind} file, which needs PyAV: pip install 'hilbert-ray[video]', or {_CONVERT}"
            ) from None
        self.uri = uri
        file.seek(0)
        try:
            self.container = av.open(file, metadata_errors="replace")
        except av.FFmpegError as error:
            raise _damaged(uri, f"cannot be opened: {error}") from error
        if not self.container.streams.audio:
            raise NoAudioStreamError(
                f"{uri} is a {kind} file without a sound track; export it with sound, or write null"
            )
        self.stream = self.container.streams.audio[0]
        codec = self.stream.codec_context
        if codec is None:
            raise UnsupportedAudioError(f"{uri} holds sound of a kind that FFmpeg cannot decode: {_CONVERT}")
        rate, channels = codec.sample_rate, codec.channels
        _check_bounds(rate, channels, uri)
        frames = round(self._stated_duration() * rate)
        self.tolerance = round(_LENGTH_TOLERANCE_S * rate)
        self.info = AudioInfo(rate_hz=rate, channels=channels, frames=frames, format=kind)

    def _stated_duration(self) -> Seconds:
        """Return the length of the sound track where it is stated, else that of the file."""
        if self.stream.duration:
            return float(self.stream.duration * self.stream.time_base)
        if tag := re.match(r"(\d+):(\d+):(\d+\.\d+)", self.stream.metadata.get("DURATION", "")):
            return int(tag[1]) * 3600 + int(tag[2]) * 60 + float(tag[3])
        if self.container.duration:
            return float(self.container.duration / 1e6)
        raise _unfinished(self.uri, "does not state how long it is")

    def decode(self, block: Samples) -> Iterator[np.ndarray]:
        import av

        # Packed, because PyAV reads beyond the planes of a planar frame of eight or more channels.
        packer = av.AudioResampler(format="flt")
        held: list[np.ndarray] = []
        frames = num_held = 0
        try:
            for frame in self.container.decode(self.stream):
                self._check_frame(frame, frames / self.info.rate_hz)
                held += [part.to_ndarray().reshape(-1, self.info.channels) for part in packer.resample(frame)]
                frames += frame.samples
                num_held += frame.samples
                if num_held >= block:
                    yield np.concatenate(held)
                    held, num_held = [], 0
        except av.FFmpegError as error:
            done = f"{frames / self.info.rate_hz:.2f} s"
            raise _damaged(self.uri, f"cannot be decoded after {done}: {error}") from error
        if held:
            yield np.concatenate(held)

    def _check_frame(self, frame: Any, due: Seconds) -> None:  # noqa: ANN401 - PyAV is optional
        """Check that a decoded frame is as stated and begins where the last one ended."""
        _check_same(frame.sample_rate, frame.layout.nb_channels, self.info, f"at {due:.2f} s", self.uri)
        if frame.pts is None:
            return
        time = float(frame.pts * frame.time_base) - (self.container.start_time or 0) / 1e6
        if abs(time - due) > _GAP_S:
            raise GapError(
                f"{self.uri} goes on at {time:.2f} s after {due:.2f} s of sound; a hole shifts what follows "
                "against the transcript: fill it with silence, for example "
                "`ffmpeg -i FILE -af aresample=async=1:first_pts=0 out.flac`"
            )


def _check_boxes(file: BinaryIO, size: int, uri: str) -> None:
    """Check that the boxes of an MP4 lie within the file and that its writer finished it."""
    at, kinds = 0, set()
    while at + 8 <= size:
        file.seek(at)
        length, kind, long_length = struct.unpack(">I4sQ", file.read(16).ljust(16, b"\0"))
        length = {0: size - at, 1: long_length}.get(length, length)
        if length < 8:
            raise _damaged(uri, f"has no MP4 box at byte {at}, where one should begin")
        if at + length > size:
            raise _cut_off(
                uri, f"states {length} bytes in the MP4 box at byte {at} but ends after {size - at}"
            )
        kinds.add(kind)
        at += length
    if b"moov" not in kinds or (b"moof" in kinds and b"mfra" not in kinds):
        raise _unfinished(uri, "lacks the index that ends an MP4 (`moov`, or `mfra` if fragmented)")


def _check_segment(file: BinaryIO, size: int, uri: str) -> None:
    """Check that the segment of a Matroska file, which holds all else, lies within the file."""
    file.seek(4)
    header = _element_size(file)
    file.seek(header or 0, io.SEEK_CUR)
    if header is None or file.read(4) != _SEGMENT:
        raise _damaged(uri, "has no Matroska segment after its header")
    stated, available = _element_size(file), size - file.tell()
    if stated is not None and stated > available:
        raise _cut_off(uri, f"states {stated} bytes of content but ends after {available}")


def _element_size(file: BinaryIO) -> int | None:
    """Read the size of a Matroska element (RFC 8794, section 4); None where it is unknown."""
    first = file.read(1) or b"\1"
    count = 8 - max(1, first[0].bit_length())
    unknown = (1 << 7 * (count + 1)) - 1
    value = int.from_bytes(first + file.read(count)) & unknown
    return None if value == unknown else value
