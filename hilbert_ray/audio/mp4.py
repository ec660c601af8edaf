"""MP4, M4A and MOV: are all boxes there, and the index that ends the file?"""

import struct
from typing import BinaryIO

from hilbert_ray.audio.errors import damaged, truncated, unfinished
from hilbert_ray.audio.format import AudioFormat, AudioSource
from hilbert_ray.audio.pyav import EXTRA, FfmpegDecoder


def _open(source: AudioSource) -> FfmpegDecoder:
    check_boxes(source.file, source.size, source.uri)
    return FfmpegDecoder(source, "MP4")


def check_boxes(file: BinaryIO, size: int, uri: str) -> None:
    """Check that the boxes of an MP4 lie within the file and that its writer finished it.

    FFmpeg plays what there is of a truncated file, and a fragmented one ends wherever its fragments do.

    Raises:
        CorruptAudioError: when there is no box where one should begin.
        TruncatedAudioError: when a box is larger than what is left of the file.
        UnfinishedAudioError: when the index is missing.
    """
    position, kinds = 0, set()
    while position + 8 <= size:
        file.seek(position)
        length, kind, long_length = struct.unpack(">I4sQ", file.read(16).ljust(16, b"\0"))
        # ISO/IEC 14496-12, section 4.2: 0 means "to the end of the file", 1 that a 64-bit length follows.
        length = {0: size - position, 1: long_length}.get(length, length)
        if length < 8:
            raise damaged(uri, f"has no MP4 box at byte {position}, where one should begin")
        if position + length > size:
            raise truncated(
                uri,
                f"states {length} bytes in the MP4 box at byte {position} but ends after {size - position}",
            )
        kinds.add(kind)
        position += length
    # A fragmented file (`moof`) has its index (`moov`) first; only the closing `mfra` shows that it is whole.
    if b"moov" not in kinds or (b"moof" in kinds and b"mfra" not in kinds):
        raise unfinished(uri, "lacks the index that ends an MP4 (`moov`, or `mfra` if fragmented)")


MP4 = AudioFormat(
    names="M4A, MP4, MOV",
    # The first box names the file type; files of old QuickTime have none and begin with one of the others.
    recognises=lambda start: start[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free"),
    open=_open,
    extra=EXTRA,
)
