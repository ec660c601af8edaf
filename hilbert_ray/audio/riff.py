"""WAV and AIFF: is the chunk with the samples complete?"""

import struct
from typing import BinaryIO

from hilbert_ray.audio.errors import REPACK, LengthError, damaged, truncated, unfinished
from hilbert_ray.audio.format import AudioFormat, AudioSource
from hilbert_ray.audio.libsndfile import ByteRange, LibsndfileDecoder

_UNKNOWN_SIZE = 0xFFFFFFFF
"""What RF64 writes where the size is in its `ds64` chunk, and live recorders where they do not know it."""


def _open(source: AudioSource) -> LibsndfileDecoder:
    check_chunks(source.file, source.size, source.uri)
    return LibsndfileDecoder(ByteRange(source.file, 0, source.size), source.uri)


def check_chunks(file: BinaryIO, size: int, uri: str) -> None:
    """Check that the sample chunk of a WAV or AIFF file is complete.

    libsndfile silently shortens an incomplete one.

    Raises:
        CorruptAudioError: when there is no chunk with samples.
        UnfinishedAudioError: when its size was never written.
        TruncatedAudioError: when it is larger than the file.
        LengthError: when more samples follow than its header can state.
    """
    file.seek(0)
    header = file.read(12)
    # RIFX is a WAV of big-endian machines; AIFF always is big-endian.
    order = ">" if header[:4] in (b"FORM", b"RIFX") else "<"
    sample_chunk = b"data" if header[8:] == b"WAVE" else b"SSND"
    size_in_ds64 = _UNKNOWN_SIZE
    while len(chunk_header := file.read(8)) == 8:
        name, stated = struct.unpack(f"{order}4sI", chunk_header)
        begin = file.tell()
        if name == b"ds64":
            size_in_ds64 = struct.unpack("<8xQ", file.read(16).ljust(16, b"\0"))[0]
        if name == sample_chunk:
            break
        # Seek, not read: chunks before the samples may hold pictures. They are padded to an even length.
        file.seek(begin + stated + stated % 2)
    else:
        raise damaged(uri, f"has no chunk {sample_chunk.decode()!r} with samples")
    stated = size_in_ds64 if stated == _UNKNOWN_SIZE else stated
    available = size - begin
    # Recorders write a size of 0 first and the true one when they stop.
    if stated == _UNKNOWN_SIZE or (stated == 0 and available >= 2):
        raise unfinished(uri, "does not state how many samples it holds")
    if stated > available:
        raise truncated(uri, f"states {stated} bytes of samples but ends after {available}")
    # Writers that know nothing of RF64 let the 32-bit size overflow: it then is too small by 4 GiB.
    if available - stated >= 2**32:
        raise LengthError(
            f"{uri} states {stated} bytes of samples but {available} follow, more than its header can state; "
            f"{REPACK} as RF64 (`-rf64 auto`) or FLAC"
        )


RIFF = AudioFormat(
    names="WAV, AIFF",
    # Bytes 0 to 3 name the byte order and the variant: RIFF, RIFX, RF64 or FORM.
    recognises=lambda start: start[8:12] in (b"WAVE", b"AIFF", b"AIFC"),
    open=_open,
)
