"""WAV and AIFF: is the sound chunk whole?"""

import struct
from typing import BinaryIO

from hilbert_ray.audio.errors import REPACK, LengthError, cut_off, damaged, unfinished


def check_chunks(file: BinaryIO, size: int, uri: str) -> None:
    """Check that the sound chunk of a WAV or AIFF file is whole: libsndfile would shorten it in silence."""
    file.seek(0)
    head = file.read(12)
    order = ">" if head[:4] in (b"FORM", b"RIFX") else "<"
    wanted = b"data" if head[8:] == b"WAVE" else b"SSND"
    long_size = unknown = 0xFFFFFFFF
    while len(header := file.read(8)) == 8:
        name, stated = struct.unpack(f"{order}4sI", header)
        begin = file.tell()
        if name == b"ds64":
            long_size = struct.unpack("<8xQ", file.read(16).ljust(16, b"\0"))[0]
        if name == wanted:
            break
        file.seek(begin + stated + stated % 2)
    else:
        raise damaged(uri, f"has no chunk {wanted.decode()!r} with samples")
    stated = long_size if stated == unknown else stated
    available = size - begin
    if stated == unknown or (stated == 0 and available >= 2):
        raise unfinished(uri, "does not state how many samples it holds")
    if stated > available:
        raise cut_off(uri, f"states {stated} bytes of samples but ends after {available}")
    if available - stated >= 2**32:
        raise LengthError(
            f"{uri} states {stated} bytes of samples but {available} follow, more than its header can state; "
            f"{REPACK} as RF64 (`-rf64 auto`) or FLAC"
        )
