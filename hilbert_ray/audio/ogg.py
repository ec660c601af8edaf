"""Ogg: are all pages there, undamaged and of one stream?"""

import struct
import zlib
from typing import BinaryIO

from hilbert_ray.audio.errors import CONVERT, UnsupportedAudioError, cut_off, damaged, unfinished

_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def _ogg_checksum(page: bytes) -> int:
    """Return the CRC-32 of RFC 3533 (polynomial 04C11DB7, most significant bit first, zero start and end).

    zlib's CRC takes the same polynomial with the bits of each byte and of the result reversed.
    """
    value = zlib.crc32(page.translate(_REVERSED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int(f"{value:032b}"[::-1], 2)


def check_pages(file: BinaryIO, uri: str) -> None:
    """Read all pages of an Ogg file: none damaged, none missing, all of one stream, the last one its end.

    Decoders skip damaged pages in silence, and take any page for the last one.
    """
    at, due, stream, is_closed = 0, 0, None, False
    file.seek(0)
    while head := file.read(27):
        if head[:4] != b"OggS"[: len(head)]:
            raise damaged(uri, f"has no Ogg page at byte {at}, where one should begin")
        sizes = file.read(head[26]) if len(head) == 27 else b""
        page = head + sizes + file.read(sum(sizes))
        if len(head) < 27 or len(page) < 27 + head[26] + sum(sizes):
            raise cut_off(uri, f"ends within the Ogg page at byte {at}")
        flags, serial, number, checksum = struct.unpack_from("<B8xIII", page, 5)
        if _ogg_checksum(page[:22] + bytes(4) + page[26:]) != checksum:
            raise damaged(uri, f"holds an Ogg page at byte {at} whose checksum does not match")
        if stream not in (None, serial):
            raise UnsupportedAudioError(
                f"{uri} holds several Ogg streams, of which only the first would be decoded: {CONVERT}"
            )
        if number != due:
            raise damaged(uri, f"holds Ogg page {number} at byte {at} instead of page {due}")
        stream, due, is_closed = serial, number + 1, bool(flags & 4)
        at += len(page)
    if not is_closed:
        raise unfinished(uri, "ends without a closing Ogg page")
