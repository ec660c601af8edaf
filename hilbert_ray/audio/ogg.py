"""Ogg: are all pages there, undamaged and of one stream?"""

import struct
import zlib
from functools import partial
from typing import BinaryIO

from hilbert_ray.audio.byte_range import ByteRange
from hilbert_ray.audio.errors import CONVERT, UnsupportedAudioError, damaged, truncated, unfinished
from hilbert_ray.audio.format import AudioFormat, AudioSource, Decoder
from hilbert_ray.audio.libsndfile import LibsndfileDecoder
from hilbert_ray.audio.pyav import FfmpegDecoder

_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
_HEADER_BYTES = 27
_LAST_PAGE = 4
"""The flag of a page that ends its stream (RFC 3533, section 6)."""

_FIRST_PACKET = 28
"""Where the first packet begins, which names the codec: its page has one segment."""
_BY_FFMPEG = {b"\x7fFLAC": "Ogg FLAC", b"Speex   ": "Ogg Speex"}
"""What libsndfile does not decode, by the mark of its first packet, though FFmpeg does."""


def _open(source: AudioSource) -> Decoder:
    # Every page must be read to be checked, which is too much for `probe`, so it is done before decoding.
    check = partial(check_pages, source.file, source.uri)
    source.file.seek(0)
    start = source.file.read(_FIRST_PACKET + 8)[_FIRST_PACKET:]
    for mark, name in _BY_FFMPEG.items():
        if start.startswith(mark):
            # A range, which moves to its own place before each read: the check reads the same file.
            content = ByteRange(source.file, 0, source.size)
            return FfmpegDecoder(source, name, demuxer="ogg", content=content, check_before_decoding=check)
    return LibsndfileDecoder(ByteRange(source.file, 0, source.size), source.uri, check_before_decoding=check)


def _ogg_checksum(page: bytes) -> int:
    """Return the CRC-32 of RFC 3533 (polynomial 04C11DB7, most significant bit first, zero start and end).

    zlib's CRC takes the same polynomial with the bits of each byte and of the result reversed; this way the
    loop over the bytes runs in C.
    """
    value = zlib.crc32(page.translate(_REVERSED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int(f"{value:032b}"[::-1], 2)


def check_pages(file: BinaryIO, uri: str) -> None:
    """Read all pages of an Ogg file: none damaged, none missing, all of one stream, the last one its end.

    Decoders silently skip damaged pages, and take any page for the last one.

    Raises:
        CorruptAudioError: when a page is damaged or missing.
        TruncatedAudioError: when the file ends within a page.
        UnfinishedAudioError: when the last page is not marked as the end.
        UnsupportedAudioError: when pages belong to several streams.
    """
    position, due_number, stream, is_closed = 0, 0, None, False
    file.seek(0)
    while header := file.read(_HEADER_BYTES):
        if header[:4] != b"OggS"[: len(header)]:
            raise damaged(uri, f"has no Ogg page at byte {position}, where one should begin")
        # The last byte of the header counts the segments; their sizes follow, then their content.
        sizes = file.read(header[26]) if len(header) == _HEADER_BYTES else b""
        page = header + sizes + file.read(sum(sizes))
        if len(header) < _HEADER_BYTES or len(page) < _HEADER_BYTES + header[26] + sum(sizes):
            raise truncated(uri, f"ends within the Ogg page at byte {position}")
        flags, serial, number, checksum = struct.unpack_from("<B8xIII", page, 5)
        # The checksum was computed with zeros in its own place.
        if _ogg_checksum(page[:22] + bytes(4) + page[26:]) != checksum:
            raise damaged(uri, f"holds an Ogg page at byte {position} whose checksum does not match")
        if stream not in (None, serial):
            raise UnsupportedAudioError(
                f"{uri} holds several Ogg streams, but only one can be decoded: {CONVERT}"
            )
        if number != due_number:
            raise damaged(uri, f"holds Ogg page {number} at byte {position} instead of page {due_number}")
        stream, due_number, is_closed = serial, number + 1, bool(flags & _LAST_PAGE)
        position += len(page)
    if not is_closed:
        raise unfinished(uri, "ends without a closing Ogg page")


OGG = AudioFormat(
    names="Ogg (Vorbis, Opus; FLAC and Speex with the extra `video`)",
    recognises=lambda start: start[:4] == b"OggS",
    open=_open,
)
