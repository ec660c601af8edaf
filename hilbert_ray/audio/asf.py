"""Windows Media (ASF: WMA, WMV): are all objects there that the file consists of, and all packets?"""

import struct
from typing import BinaryIO

from hilbert_ray.audio.errors import damaged, truncated, unfinished
from hilbert_ray.audio.format import AudioFormat, AudioSource
from hilbert_ray.audio.pyav import EXTRA, FfmpegDecoder

# GUIDs of the objects (Advanced Systems Format, section 10), as they lie in the file.
_HEADER = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")
_FILE_PROPERTIES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")
_DATA = bytes.fromhex("3626b2758e66cf11a6d900aa0062ce6c")
_BROADCAST = 1
_MOST_HEADER_BYTES = 64 * 2**20


def _open(source: AudioSource) -> FfmpegDecoder:
    check_objects(source.file, source.size, source.uri)
    return FfmpegDecoder(source, "WMA", demuxer="asf")


def check_objects(file: BinaryIO, size: int, uri: str) -> None:
    """Check that the objects of the file lie within it, and that the data holds the packets it states.

    Raises:
        CorruptAudioError: when there is no object where one should be, or none with data.
        TruncatedAudioError: when an object ends behind the file.
        UnfinishedAudioError: when the file was broadcast, so that its sizes were never written.
    """
    position, has_data = 0, False
    while position < size:
        file.seek(position)
        name, stated = struct.unpack("<16sQ", file.read(24).ljust(24, b"\0"))
        if stated < 24:
            raise damaged(uri, f"has no ASF object at byte {position}, where one should begin")
        if name == _HEADER:
            # Objects inside the header follow 6 bytes of counts.
            header = file.read(min(stated, size, _MOST_HEADER_BYTES) - 24)
            _check_properties(header, uri)
        if position + stated > size:
            raise truncated(
                uri,
                f"states {stated} bytes in the ASF object at byte {position} but ends after "
                f"{size - position}",
            )
        has_data = has_data or name == _DATA
        position += stated
    if not has_data:
        raise damaged(uri, "has no ASF object with data")


def _check_properties(header: bytes, uri: str) -> None:
    begin = header.find(_FILE_PROPERTIES)
    if begin < 0 or len(header) < begin + 104:
        raise damaged(uri, "has no ASF object with the properties of the file")
    flags = struct.unpack_from("<I", header, begin + 88)[0]
    if flags & _BROADCAST:
        raise unfinished(uri, "does not state how long it is")


ASF = AudioFormat(names="WMA, WMV", recognises=lambda start: start == _HEADER, open=_open, extra=EXTRA)
