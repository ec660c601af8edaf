"""MP3: walked frame by frame, because only the frames show its length and whether it is complete."""

import struct
from functools import lru_cache
from typing import BinaryIO, Literal, NamedTuple

from hilbert_ray.audio.errors import CONVERT, LengthError, damaged, truncated
from hilbert_ray.audio.format import AudioFormat, AudioSource
from hilbert_ray.audio.header import check_unchanged
from hilbert_ray.audio.libsndfile import ByteRange, LibsndfileDecoder
from hilbert_ray.audio.tags import start_of_trailing_tags
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


def _open(source: AudioSource) -> LibsndfileDecoder:
    """Walk the frames of an MP3, then open it."""
    file, uri, begin = source.file, source.uri, source.begin
    end = start_of_trailing_tags(file, source.size)
    samples, is_counted = _walk(file, begin, end, uri)
    if not is_counted:
        stated_size = (end - begin) * _STATED_SIZE_FACTOR
        return LibsndfileDecoder(ByteRange(file, begin, end, stated_size), uri, frames=samples)
    decoder = LibsndfileDecoder(ByteRange(file, begin, end), uri)
    if not 0 <= samples - decoder.info.frames <= _MOST_TRIMMED:
        raise LengthError(
            f"{uri} holds {samples} samples but its header states {decoder.info.frames}; they may differ by "
            f"at most {_MOST_TRIMMED}: {CONVERT}"
        )
    return decoder


def _walk(file: BinaryIO, begin: int, end: int, uri: str) -> tuple[Samples, bool]:
    """Return the samples in the frames of an MP3, and whether a Xing or Info header counts the frames.

    Each frame must begin where the last one ended, be like the first, and end within the file: decoders skip
    what they cannot read and take the end of the file for the end of the recording.

    Raises:
        CorruptAudioError: when something else than a frame lies between frames.
        TruncatedAudioError: when a frame or frames are missing at the end.
        LengthError: when there are more frames than stated.
        RateError, ChannelError: when frames differ.
    """
    file.seek(begin)
    first = parse_frame(file.read(4))
    assert first is not None  # or the file would not have been recognised
    index, stated = _frame_count(file.read(first.size - 4))
    # Decoders skip a Xing or Info frame, which holds no sound; it does not count itself either.
    position = begin if index in ("", "VBRI") else begin + first.size
    frames = samples = 0
    while position < end:
        file.seek(position)
        frame = parse_frame(file.read(4))
        if frame is None:
            raise damaged(uri, f"has no MPEG frame at byte {position}, where one should begin")
        check_unchanged(frame.rate_hz, frame.channels, first, f"at byte {position}", uri)
        frames += 1
        samples += frame.samples
        position += frame.size
    if position > end:
        raise truncated(uri, f"ends {position - end} bytes before its last MPEG frame does")
    if stated is not None and stated > frames:
        raise truncated(uri, f"states {stated} MPEG frames but ends after {frames}")
    # Encoders differ in whether VBRI counts its own frame, which decoders play as silence.
    if stated is not None and stated < frames - (index == "VBRI"):
        raise LengthError(
            f"{uri} states {stated} MPEG frames but holds {frames}, as if files had been joined: {CONVERT}"
        )
    return samples, stated is not None and index != "VBRI"


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
