"""Core Audio Format (CAF): is the chunk with the samples complete?"""

import struct
from typing import BinaryIO

from hilbert_ray.audio.byte_range import ByteRange
from hilbert_ray.audio.errors import FETCH_AGAIN, damaged
from hilbert_ray.audio.format import AudioFormat, AudioSource, Decoder
from hilbert_ray.audio.libsndfile import LibsndfileDecoder
from hilbert_ray.audio.pyav import FfmpegDecoder
from hilbert_ray.audio.sizes import check_stated, is_padding, not_stated

_LIBSNDFILE = (b"lpcm", b"ulaw", b"alaw", b"alac")
"""Codecs that libsndfile decodes; FFmpeg takes the others, such as AAC and Opus of telephones.
ALAC is not left to FFmpeg, which takes the padding of the last packet off twice, and sound with it."""
_UNKNOWN = 2**64 - 1
_EDIT_COUNT = 4


def _open(source: AudioSource) -> Decoder:
    codec = check_chunks(source.file, source.size, source.uri)
    if codec in _LIBSNDFILE:
        return LibsndfileDecoder(ByteRange(source.file, 0, source.size), source.uri)
    return FfmpegDecoder(source, "CAF", demuxer="caf")


def check_chunks(file: BinaryIO, size: int, uri: str) -> bytes:
    """Check that the chunk with the samples is complete and that only chunks follow it; return the codec.

    Raises:
        CorruptAudioError: when there are no chunks with a description and samples.
        UnfinishedAudioError: when their size was never written: "to the end of the file", by the format.
        TruncatedAudioError: when they are larger than the file.
        LengthError: when bytes follow that are in no chunk.
    """
    position, codec, samples, behind = 8, b"", None, 0
    while position + 12 <= size:
        file.seek(position)
        name, stated = struct.unpack(">4sQ", file.read(12))
        position += 12
        if name == b"desc":
            codec = file.read(12)[8:]
        if name == b"data" and samples is None:
            # Four bytes count the edits; SoX writes no more than these into its pipes.
            is_unknown = stated == _UNKNOWN or stated <= _EDIT_COUNT
            check_stated(uri, 0 if is_unknown else stated, size - position)
            samples, behind = stated, position + stated
        elif not all(32 <= byte < 127 for byte in name) or (samples is not None and stated > size - position):
            position -= 12
            break
        position += stated
    if samples is None or not codec:
        raise damaged(uri, "has no chunks 'desc' and 'data' with a description and samples")
    if position < size and not is_padding(file, position, size):
        raise not_stated(uri, samples, size - behind, FETCH_AGAIN)
    return codec


CAF = AudioFormat(names="CAF", recognises=lambda start: start[:4] == b"caff", open=_open)
