"""Tags around audio, which are not part of the sound: ID3v2 before it; ID3v1, APE and Lyrics3 after it."""

import struct
from typing import BinaryIO


def end_of_leading_tags(file: BinaryIO, position: int) -> int:
    """Return where the ID3v2 tags end that begin at a position; the position itself where there are none."""
    while True:
        file.seek(position)
        header = file.read(10)
        # Sizes are "syncsafe": seven bits per byte, so a byte above 127 means that this is not a tag.
        if len(header) < 10 or header[:3] != b"ID3" or max(header[6:10]) > 127:
            return position
        footer = 10 if header[5] & 0x10 else 0
        position += 10 + (header[6] << 21 | header[7] << 14 | header[8] << 7 | header[9]) + footer


def start_of_trailing_tags(file: BinaryIO, end: int) -> int:
    """Return where the ID3v1, APE and Lyrics3 tags begin that end at `end`; `end` where there are none."""
    # Each kind may follow each other, in any order, so look again after every tag that is taken off. 128
    # bytes hold all of an ID3v1 tag and the footers of the other two.
    while end >= 128:
        file.seek(end - 128)
        tail = file.read(128)
        if tail[:3] == b"TAG":
            end -= 128
        elif tail[-32:-24] == b"APETAGEX":
            # The stated size includes this footer but not the header, whose presence is the highest flag.
            size, _, flags = struct.unpack_from("<III", tail, 128 - 20)
            end -= size + (32 if flags >> 31 else 0)
        elif tail[-9:] == b"LYRICS200" and tail[-15:-9].isdigit():
            end -= 15 + int(tail[-15:-9])
        else:
            break
    return end
