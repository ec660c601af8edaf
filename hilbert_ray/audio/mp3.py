"""MP3: walked frame by frame, because only the frames tell its length and whether it is whole."""

import struct
from functools import lru_cache
from typing import BinaryIO, NamedTuple

from hilbert_ray.audio.errors import CONVERT, LengthError, cut_off, damaged
from hilbert_ray.audio.header import check_same
from hilbert_ray.audio.libsndfile import ByteRange, LibsndfileAudio
from hilbert_ray.document import Hertz, Samples

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


class Mp3Frame(NamedTuple):
    size: int
    samples: Samples
    rate_hz: Hertz
    channels: int


@lru_cache
def parse_frame(header: bytes) -> Mp3Frame | None:
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
    return Mp3Frame(size, samples, rate_hz, channels=1 if header[3] >> 6 == 3 else 2)


def open_mp3(file: BinaryIO, begin: int, end: int, first: Mp3Frame, uri: str) -> LibsndfileAudio:
    """Walk the frames of an MP3, then open it."""
    samples, is_counted = _walk_mp3(file, begin, end, first, uri)
    if not is_counted:
        return LibsndfileAudio(
            ByteRange(file, begin, end, stated_size=(end - begin) * _LONGER), uri, frames=samples
        )
    sound = LibsndfileAudio(ByteRange(file, begin, end), uri)
    if not 0 <= samples - sound.info.frames <= _MOST_TRIMMED:
        raise LengthError(
            f"{uri} holds {samples} samples but its header asks for {sound.info.frames}, which is wrong: "
            f"{CONVERT}"
        )
    return sound


def _walk_mp3(file: BinaryIO, begin: int, end: int, first: Mp3Frame, uri: str) -> tuple[Samples, bool]:
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
        frame = parse_frame(file.read(4))
        if frame is None:
            raise damaged(uri, f"has no MPEG frame at byte {at}, where one should begin")
        check_same(frame.rate_hz, frame.channels, first, f"at byte {at}", uri)
        frames += 1
        samples += frame.samples
        at += frame.size
    if at > end:
        raise cut_off(uri, f"ends {at - end} bytes before its last MPEG frame does")
    if stated is not None and stated > frames:
        raise cut_off(uri, f"states {stated} MPEG frames but ends after {frames}")
    # Encoders differ in whether VBRI counts its own frame, which decoders play as silence.
    if stated is not None and stated < frames - (kind == "VBRI"):
        raise LengthError(
            f"{uri} states {stated} MPEG frames but holds {frames}; files were joined: {CONVERT}"
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


def after_id3(file: BinaryIO, at: int) -> int:
    """Return where the ID3v2 tags end that begin here, if any do."""
    while True:
        file.seek(at)
        head = file.read(10)
        if len(head) < 10 or head[:3] != b"ID3" or max(head[6:10]) > 127:
            return at
        footer = 10 if head[5] & 0x10 else 0
        at += 10 + (head[6] << 21 | head[7] << 14 | head[8] << 7 | head[9]) + footer


def before_tags(file: BinaryIO, end: int) -> int:
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
