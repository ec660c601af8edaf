"""MP3: walked frame by frame, because only the frames show its length and whether it is complete."""

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import BinaryIO, Literal, NamedTuple

import numpy as np

from hilbert_ray.audio.byte_range import ByteRange
from hilbert_ray.audio.errors import (
    CONVERT,
    FETCH_AGAIN,
    CorruptAudioError,
    LengthError,
    UnsupportedAudioError,
    damaged,
    truncated,
)
from hilbert_ray.audio.format import AudioFormat, AudioSource, Decoder
from hilbert_ray.audio.header import check_unchanged
from hilbert_ray.audio.libsndfile import LibsndfileDecoder
from hilbert_ray.audio.sizes import is_padding
from hilbert_ray.audio.tags import end_of_leading_tags, start_of_trailing_tags
from hilbert_ray.document import Hertz, Samples

_BIT_RATES = (
    (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
)
"""Kilobits per second of layer III, for MPEG 2 and 2.5, and for MPEG 1, by the header's index from 1 on."""
_RATES_HZ = {0b11: (44100, 48000, 32000), 0b10: (22050, 24000, 16000), 0b00: (11025, 12000, 8000)}
"""Sampling rates of MPEG 1, 2 and 2.5 by the header's version bits."""
_STATED_SIZE_FACTOR = 64
"""How many times its size an MP3 without a count of frames is said to have: libsndfile computes its length
from the bit rate of the first frame and stops there; bit rates differ by a factor of at most 20."""
_MOST_TRIMMED: Samples = 2 * 4095
"""What a LAME header can take off both ends together: the encoder's delay and padding, 12 bits each."""
_MOST_PARTS = 1000
"""Joined files in one; more are no recording."""
_MOST_JUNK = 2**16
"""Bytes behind the last counted frame that are no frames: left by editors, players and failed downloads."""
_SIDE_INFORMATION = {(1152, 1): 17, (1152, 2): 32, (576, 1): 9, (576, 2): 17}
"""Bytes between the header of a frame and its sound, by its samples and channels."""
_HEADER_AND_SIDE_INFORMATION = 4 + 32 + 4
"""Bytes from the start of a frame that show whether it is a Xing or Info header."""
Index = Literal["Xing", "Info", "VBRI", ""]
"""The kinds of header that the first frame may hold in place of sound; "" where it is sound."""


class Mp3Frame(NamedTuple):
    """What the header of a frame says. `size` is in bytes, header included."""

    size: int
    samples: Samples
    rate_hz: Hertz
    channels: int


@lru_cache  # a file has a few kinds of headers and, in an hour, 100,000 frames
def parse_frame(header: bytes) -> Mp3Frame | None:
    """Return what this 4-byte header of a frame of MPEG layer III says; None if it is not one."""
    # 11 set bits synchronise; then 2 bits of version, 2 of layer (01 is III), and one for a checksum.
    if len(header) < 4 or header[0] != 0xFF or header[1] & 0xE6 != 0xE2:
        return None
    version_bits, bit_rate, rate = header[1] >> 3 & 3, header[2] >> 4, header[2] >> 2 & 3
    # Reserved values, and bit rate 0 ("free"), whose frames do not state their size.
    if version_bits == 0b01 or bit_rate in (0, 15) or rate == 3:
        return None
    is_mpeg1 = version_bits == 0b11
    rate_hz = _RATES_HZ[version_bits][rate]
    samples = 1152 if is_mpeg1 else 576
    padding = header[2] >> 1 & 1
    size = samples // 8 * _BIT_RATES[is_mpeg1][bit_rate - 1] * 1000 // rate_hz + padding
    return Mp3Frame(size, samples, rate_hz, channels=1 if header[3] >> 6 == 3 else 2)


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """One of the MP3 files that a file was joined from; mostly the only one.

    It begins and ends at these bytes, `holes` are the tags between its frames, `samples` are in its frames,
    and `is_counted` says whether a Xing or Info header counts them.
    """

    begin: int
    end: int
    holes: tuple[tuple[int, int], ...]
    samples: Samples
    is_counted: bool


class JoinedDecoder:
    """MP3 files one behind the other in one file, as podcasts with inserted advertisements are.

    Each is decoded by itself, so that what its header takes off both its ends is taken off.
    """

    tolerance: Samples = 0

    def __init__(self, source: AudioSource, parts: Sequence[Part]) -> None:
        self._source, self._parts = source, parts
        infos = [_open_part(source, part).info for part in parts]
        for part, info in zip(parts, infos, strict=True):
            check_unchanged(info.rate_hz, info.channels, infos[0], f"at byte {part.begin}", source.uri)
        self.info = replace(infos[0], frames=sum(info.frames for info in infos))

    def decode(self, block: Samples) -> Iterator[np.ndarray]:
        """Yield float32 [samples, channels] blocks of at most `block` samples."""
        for part in self._parts:
            decoder, decoded = _open_part(self._source, part), 0
            for samples in decoder.decode(block):
                decoded += len(samples)
                yield samples
            # Together they might agree although one has too many and another too few.
            if decoded != decoder.info.frames:
                raise damaged(
                    self._source.uri,
                    f"holds {decoder.info.frames} samples from byte {part.begin} on, of which {decoded} "
                    "could be decoded",
                )


def _open(source: AudioSource) -> Decoder:
    return open_frames(source, source.begin, start_of_trailing_tags(source.file, source.size))


def open_frames(source: AudioSource, begin: int, end: int) -> Decoder:
    """Walk the frames between two bytes of a file, then open them.

    Raises:
        AudioError: when they are not complete; the class says why.
    """
    parts = _parts(source.file, begin, end, source.uri)
    return _open_part(source, parts[0]) if len(parts) == 1 else JoinedDecoder(source, parts)


def _open_part(source: AudioSource, part: Part) -> LibsndfileDecoder:
    file, uri = source.file, source.uri
    if not part.is_counted:
        stated_size = (part.end - part.begin) * _STATED_SIZE_FACTOR
        content = ByteRange(file, part.begin, part.end, stated_size, part.holes)
        return LibsndfileDecoder(content, uri, frames=part.samples)
    decoder = LibsndfileDecoder(ByteRange(file, part.begin, part.end, holes=part.holes), uri)
    if not 0 <= part.samples - decoder.info.frames <= _MOST_TRIMMED:
        raise LengthError(
            f"{uri} holds {part.samples} samples but its header states {decoder.info.frames}; they may "
            f"differ by at most {_MOST_TRIMMED}: {CONVERT}"
        )
    return decoder


def _parts(file: BinaryIO, begin: int, end: int, uri: str) -> list[Part]:
    """Return the MP3 files that a file consists of.

    Raises:
        CorruptAudioError, TruncatedAudioError, LengthError, RateError, ChannelError: see `_walk`.
        UnsupportedAudioError: when there are more than can be one recording.
    """
    parts: list[Part] = []
    position: int | None = begin
    while position is not None:
        if len(parts) == _MOST_PARTS:
            raise UnsupportedAudioError(
                f"{uri} consists of more than {_MOST_PARTS} MP3 files, joined: {CONVERT}"
            )
        part, position = _walk(file, position, end, uri)
        parts.append(part)
    return parts


def _walk(file: BinaryIO, begin: int, end: int, uri: str) -> tuple[Part, int | None]:
    """Walk the frames of one MP3 file; return it, and where the next one begins if others were joined to it.

    Each frame must begin where the last one ended, be like the first, and end within the file: decoders skip
    what they cannot read and take the end of the file for the end of the recording. Only tags may lie between
    frames, and padding after the last one. Another file begins with a Xing or Info header, or behind a tag
    where all frames that were stated have been seen.

    Raises:
        CorruptAudioError: when something else than a frame lies between frames.
        TruncatedAudioError: when a frame or frames are missing at the end.
        LengthError: when there are more frames than stated.
        RateError, ChannelError: when frames differ.
    """
    file.seek(begin)
    first = parse_frame(file.read(4))
    if first is None:
        raise _no_frame(uri, begin)
    index, stated = _frame_count(file.read(first.size - 4))
    # Decoders skip a Xing or Info frame, which holds no sound; it does not count itself either.
    position = begin if index in ("", "VBRI") else begin + first.size
    frames = samples = 0
    holes: list[tuple[int, int]] = []
    next_part: int | None = None
    while position < end:
        file.seek(position)
        header = file.read(_HEADER_AND_SIDE_INFORMATION)
        frame = parse_frame(header[:4])
        if frame is not None and position > begin and _is_index(header, frame):
            next_part = position
            break
        if frame is not None:
            check_unchanged(frame.rate_hz, frame.channels, first, f"at byte {position}", uri)
            frames += 1
            samples += frame.samples
            position += frame.size
            continue
        is_complete = stated is not None and frames >= stated
        behind = _end_of_tags(file, position, end)
        if behind == position or behind >= end:
            _check_padding(file, behind, end, uri, is_complete)
            break
        if is_complete:
            next_part = behind
            break
        holes.append((position, behind))
        position = behind
    if position > end:
        raise truncated(uri, f"ends {position - end} bytes before its last MPEG frame does")
    if stated is not None and stated > frames:
        raise truncated(uri, f"states {stated} MPEG frames but ends after {frames}")
    # Encoders differ in whether VBRI counts its own frame, which decoders play as silence.
    if stated is not None and stated < frames - (index == "VBRI"):
        raise LengthError(
            f"{uri} states {stated} MPEG frames but holds {frames}, as if files had been joined: {CONVERT}"
        )
    is_counted = stated is not None and index != "VBRI"
    part = Part(begin=begin, end=position, holes=tuple(holes), samples=samples, is_counted=is_counted)
    return part, next_part


def _is_index(header: bytes, frame: Mp3Frame) -> bool:
    """Whether a frame is a Xing or Info header: the mark in its place, behind side information of zeros."""
    side = _SIDE_INFORMATION[frame.samples, frame.channels]
    return header[4 + side : 8 + side] in (b"Xing", b"Info") and not any(header[4 : 4 + side])


def _end_of_tags(file: BinaryIO, position: int, end: int) -> int:
    """Return where the tags between frames end that begin at a position; the position where none do."""
    while True:
        behind = end_of_leading_tags(file, position)
        file.seek(behind)
        start = file.read(32)
        if start[:3] == b"TAG" and behind + 128 <= end:
            behind += 128
        elif start[:8] == b"APETAGEX" and len(start) == 32:
            # The stated size includes the footer but not this header.
            behind += 32 + int(struct.unpack_from("<I", start, 12)[0])
        if behind == position:
            return min(behind, end)
        position = behind


def _check_padding(file: BinaryIO, position: int, end: int, uri: str, is_complete: bool) -> None:
    """Check what follows the last frame: zeros, or anything short if all frames that were stated are there.

    Raises:
        CorruptAudioError: when it may be sound.
    """
    if is_padding(file, position, end) or (is_complete and end - position <= _MOST_JUNK):
        return
    raise _no_frame(uri, position)


def _no_frame(uri: str, position: int) -> CorruptAudioError:
    return CorruptAudioError(
        f"{uri} has no MPEG frame at byte {position}, where one should begin; it is damaged, or files were "
        f"joined: {FETCH_AGAIN}, or, if it plays to its end, {CONVERT}"
    )


def _frame_count(body: bytes) -> tuple[Index, int | None]:
    """Return which header the first frame holds in place of sound, if any, and how many frames it states."""
    # Xing and Info follow the side information, whose length depends on version and channels: at most 32
    # bytes, after 4 of header (not in `body`) and 2 of checksum. VBRI has one fixed place.
    for kind in ("Xing", "Info"):
        start = body.find(kind.encode(), 0, 44)
        if start >= 0:
            flags, count = struct.unpack_from(">II", body.ljust(start + 12, b"\0"), start + 4)
            return kind, count if flags & 1 else None
    if body[32:36] == b"VBRI" and len(body) >= 50:
        return "VBRI", struct.unpack_from(">I", body, 46)[0]
    return "", None


MP3 = AudioFormat(names="MP3", recognises=lambda start: parse_frame(start[:4]) is not None, open=_open)
