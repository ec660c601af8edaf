"""Sun and NeXT audio (AU, SND): are all samples there that the header states, and no others?"""

import struct
from typing import BinaryIO

from hilbert_ray.audio.byte_range import ByteRange
from hilbert_ray.audio.errors import CONVERT, unfinished
from hilbert_ray.audio.format import AudioFormat, AudioSource
from hilbert_ray.audio.libsndfile import LibsndfileDecoder
from hilbert_ray.audio.sizes import check_stated, is_padding, not_stated

_UNKNOWN = 0xFFFFFFFF


def _open(source: AudioSource) -> LibsndfileDecoder:
    end = check_size(source.file, source.size, source.uri)
    return LibsndfileDecoder(ByteRange(source.file, 0, end), source.uri)


def check_size(file: BinaryIO, size: int, uri: str) -> int:
    """Check the stated size of the samples against the file; return where they end.

    Raises:
        UnfinishedAudioError: when it was never written.
        TruncatedAudioError: when it is larger than what is left of the file.
        LengthError: when bytes follow that are not stated.
    """
    file.seek(0)
    header = file.read(12).ljust(12, b"\0")
    begin, stated = struct.unpack_from(">II" if header[:4] == b".snd" else "<II", header, 4)
    if stated == _UNKNOWN:
        raise unfinished(uri, "does not state how many samples it holds", CONVERT)
    check_stated(uri, stated, size - begin, remedy=CONVERT)
    if not is_padding(file, begin + stated, size):
        raise not_stated(uri, stated, size - begin - stated, CONVERT)
    return int(begin + stated)


AU = AudioFormat(names="AU", recognises=lambda start: start[:4] in (b".snd", b"dns."), open=_open)
