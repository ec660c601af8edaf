"""Sony Wave64: is the chunk with the samples complete? Sizes have 64 bits, and chunks are named by GUIDs."""

import struct
import sys
from typing import BinaryIO

from hilbert_ray.audio.byte_range import ByteRange
from hilbert_ray.audio.errors import FETCH_AGAIN, damaged
from hilbert_ray.audio.format import AudioFormat, AudioSource
from hilbert_ray.audio.libsndfile import LibsndfileDecoder
from hilbert_ray.audio.sizes import check_stated, is_padding, not_stated

_SUFFIX = bytes.fromhex("f3acd3118cd100c04f8edb8a")
"""What the GUIDs of all chunks end with, but for the first one, `riff`."""
_HEADER = 24
"""Bytes of a chunk's GUID and size, which the size includes."""

_WRITE_AGAIN = "write it again, to a file instead of a pipe, or as FLAC"
"""The remedy for a size that was never written: FFmpeg does not read such files."""


def _open(source: AudioSource) -> LibsndfileDecoder:
    end = check_chunks(source.file, source.size, source.uri)
    return LibsndfileDecoder(ByteRange(source.file, 0, end), source.uri)


def check_chunks(file: BinaryIO, size: int, uri: str) -> int:
    """Check that the chunk with the samples is complete, and that only chunks follow it; return its end.

    libsndfile takes what follows for samples too.

    Raises:
        CorruptAudioError: when there is no such chunk.
        UnfinishedAudioError: when its size was never written.
        TruncatedAudioError: when it is larger than the file.
        LengthError: when bytes follow it that are in no chunk.
    """
    position = 40  # behind `riff`, the size of the file and `wave`
    while (chunk := _chunk(file, position)) is not None and chunk[0] != b"data":
        position = _next(position, chunk[1])
    if chunk is None:
        raise damaged(uri, "has no chunk 'data' with samples")
    samples, available = chunk[1] - _HEADER, size - position - _HEADER
    # Writers to a pipe state 0, less than the header, or all bits.
    is_unknown = samples < 0 or samples >= 2**62
    check_stated(uri, 0 if is_unknown else samples, available, remedy=_WRITE_AGAIN)
    end = position + chunk[1]
    rest = position = _next(position, chunk[1])
    while position < size and (chunk := _chunk(file, position)) is not None:
        position = _next(position, chunk[1])
    if position < size and not is_padding(file, position, size):
        raise not_stated(uri, samples, size - rest, FETCH_AGAIN)
    return end


def _chunk(file: BinaryIO, position: int) -> tuple[bytes, int] | None:
    """Return the name and size of the chunk at a position; None where there is none."""
    if position > sys.maxsize:  # stated by a damaged size; no file can be read there
        return None
    file.seek(position)
    header = file.read(_HEADER)
    if len(header) < _HEADER or header[4:16] != _SUFFIX:
        return None
    size = struct.unpack_from("<Q", header, 16)[0]
    return (header[:4], size) if size >= _HEADER or header[:4] == b"data" else None


def _next(position: int, size: int) -> int:
    """Return where the next chunk begins: chunks are padded to multiples of 8 bytes."""
    return position + size + -size % 8


W64 = AudioFormat(
    names="W64",
    recognises=lambda start: start == b"riff" + bytes.fromhex("2e91cf11a5d628db04c10000"),
    open=_open,
)
