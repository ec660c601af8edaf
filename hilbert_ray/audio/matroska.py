"""Matroska and WebM: does the segment, which holds everything else, lie within the file?"""

import io
from typing import BinaryIO

from hilbert_ray.audio.errors import damaged, truncated
from hilbert_ray.audio.format import AudioFormat, AudioSource
from hilbert_ray.audio.pyav import EXTRA, FfmpegDecoder

_EBML, _SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"
"""The ids of the two elements at the top of a file: header and segment (RFC 9559, section 5.1)."""


def _open(source: AudioSource) -> FfmpegDecoder:
    check_segment(source.file, source.size, source.uri)
    return FfmpegDecoder(source, "Matroska")


def check_segment(file: BinaryIO, size: int, uri: str) -> None:
    """Check that the segment of a Matroska file, which holds everything else, lies within the file.

    A segment of unknown size, which live recorders write, passes: the decoded length then shows whether the
    file is complete.

    Raises:
        CorruptAudioError: when there is no segment.
        TruncatedAudioError: when it is larger than what is left of the file.
    """
    file.seek(4)
    header = _element_size(file)
    file.seek(header or 0, io.SEEK_CUR)
    if header is None or file.read(4) != _SEGMENT:
        raise damaged(uri, "has no Matroska segment after its header")
    stated, available = _element_size(file), size - file.tell()
    if stated is not None and stated > available:
        raise truncated(uri, f"states {stated} bytes of content but ends after {available}")


def _element_size(file: BinaryIO) -> int | None:
    """Read the size of a Matroska element (RFC 8794, section 4); None where it is unknown."""
    # The zeros before the first set bit count the bytes that follow; all bits after it set mean "unknown".
    first = file.read(1) or b"\1"
    count = 8 - max(1, first[0].bit_length())
    unknown = (1 << 7 * (count + 1)) - 1
    value = int.from_bytes(first + file.read(count)) & unknown
    return None if value == unknown else value


MATROSKA = AudioFormat(
    names="MKV, WebM", recognises=lambda start: start[:4] == _EBML, open=_open, extra=EXTRA
)
