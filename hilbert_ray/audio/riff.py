"""WAV and AIFF: is the chunk with the samples complete, and do only other chunks follow it?"""

import struct
from dataclasses import dataclass
from typing import BinaryIO

from hilbert_ray.audio.byte_range import ByteRange
from hilbert_ray.audio.errors import FETCH_AGAIN, damaged
from hilbert_ray.audio.format import AudioFormat, AudioSource, Decoder
from hilbert_ray.audio.libsndfile import LibsndfileDecoder
from hilbert_ray.audio.mp3 import open_frames
from hilbert_ray.audio.pyav import FfmpegDecoder
from hilbert_ray.audio.sizes import check_stated, is_padding, not_stated
from hilbert_ray.audio.tags import end_of_leading_tags, start_of_trailing_tags

_UNKNOWN_SIZE = 0xFFFFFFFF
"""What RF64 writes where the size is in its `ds64` chunk, and live recorders where they do not know it."""
_MP3 = 0x55
_LIBSNDFILE = frozenset((0x1, 0x2, 0x3, 0x6, 0x7, 0x11, 0x31, 0x38, 0x40, 0x64, _MP3, 0xFFFE))
"""Codecs of WAV that libsndfile decodes: PCM, ADPCM, float, A-law, mu-law, GSM, MP3, and what an extensible
header names; telephone systems also write others, such as G.729 (0x83) and TrueSpeech (0x22)."""
_ALL_BYTES = "`ffmpeg -ignore_length 1 -i FILE -c copy -rf64 auto OUT.wav`"
"""Takes all bytes of a WAV to its end for samples, whatever size it states, and states the right one."""
_ALL_SAMPLES = f"if they are samples, repack all of them, for example {_ALL_BYTES}; if not, cut them off"
_REPACK_ALL = f"repack it, for example {_ALL_BYTES}"
# A chunk of these may be cut off at the end of the file: it holds no sound.
_WITHOUT_SOUND = frozenset(
    b"LIST|id3 |ID3 |bext|iXML|_PMX|cue |smpl|inst|PEAK|fact|JUNK|junk|PAD |FLLR|afsp|axml|cart|LGWV|umid|"
    b"DISP|plst|NAME|AUTH|ANNO|COMT|MARK|INST|APPL|(c) |COMM|FVER|AESD|MIDI".split(b"|")
)


@dataclass(frozen=True, kw_only=True, slots=True)
class SampleChunk:
    """Where the samples of a file are, in bytes, and the number of their codec (of WAV; else 0)."""

    begin: int
    end: int
    codec: int


def _open(source: AudioSource) -> Decoder:
    chunk = check_chunks(source.file, source.size, source.uri)
    if chunk.codec == _MP3:
        # Its chunk `fact` counts what the encoder was given, not what its frames hold.
        return open_frames(source, chunk.begin, chunk.end)
    if chunk.codec and chunk.codec not in _LIBSNDFILE:
        return FfmpegDecoder(source, "WAV", demuxer="wav")
    return LibsndfileDecoder(ByteRange(source.file, 0, source.size), source.uri)


def check_chunks(file: BinaryIO, size: int, uri: str) -> SampleChunk:
    """Check that the sample chunk of a WAV or AIFF file is complete, and that no sound follows it.

    libsndfile silently shortens an incomplete one, and reads nothing that follows one.

    Raises:
        CorruptAudioError: when there is no chunk with samples.
        UnfinishedAudioError: when its size was never written.
        TruncatedAudioError: when it is larger than the file.
        LengthError: when bytes follow it that are in no chunk.
    """
    file.seek(0)
    header = file.read(12)
    # RIFX is a WAV of big-endian machines; AIFF always is big-endian.
    order = ">" if header[:4] in (b"FORM", b"RIFX") else "<"
    is_wav = header[8:] == b"WAVE"
    sample_chunk = b"data" if is_wav else b"SSND"
    size_in_ds64, codec = _UNKNOWN_SIZE, 0
    while len(chunk_header := file.read(8)) == 8:
        name, stated = struct.unpack(f"{order}4sI", chunk_header)
        begin = file.tell()
        if name == b"ds64":
            size_in_ds64 = struct.unpack("<8xQ", file.read(16).ljust(16, b"\0"))[0]
        if name == b"fmt " and is_wav:
            codec = struct.unpack(f"{order}H", file.read(2).ljust(2, b"\0"))[0]
        if name == sample_chunk:
            break
        # Seek, not read: chunks before the samples may hold pictures. They are padded to an even length.
        file.seek(begin + stated + stated % 2)
    else:
        raise damaged(uri, f"has no chunk {sample_chunk.decode()!r} with samples")
    stated = size_in_ds64 if stated == _UNKNOWN_SIZE else stated
    remedy = _REPACK_ALL if is_wav else None
    check_stated(uri, stated, size - begin, remedy=remedy)
    rest = _rest_after(file, begin + stated, size, order)
    if rest:
        remedy = _ALL_SAMPLES if is_wav else FETCH_AGAIN
        raise not_stated(uri, stated, rest, remedy)
    return SampleChunk(begin=begin, end=begin + stated, codec=codec)


def _rest_after(file: BinaryIO, position: int, size: int, order: str) -> int:
    """Return how many bytes behind the samples belong to nothing: to no chunk, tag or padding."""
    end = start_of_trailing_tags(file, size) if size - position >= 128 else size
    # Samples of an odd number of bytes are followed by one of padding, which many writers forget.
    begins = {position, position + 1} if position % 2 else {position}
    return min(_rest_of_chunks(file, begin, end, order) for begin in begins)


def _rest_of_chunks(file: BinaryIO, position: int, end: int, order: str) -> int:
    """Return how many bytes there are behind a position that are no chain of chunks, tags and padding."""
    first = position
    while position < end:
        if is_padding(file, position, end) or end_of_leading_tags(file, position) == end:
            return 0
        file.seek(position)
        header = file.read(8)
        if len(header) < 8:
            break
        name, stated = struct.unpack(f"{order}4sI", header)
        if name in _WITHOUT_SOUND and position + 8 + stated >= end:
            return 0
        # Samples may look like a chunk by chance; a chain of them that ends where the file does is none.
        if not all(32 <= byte < 127 for byte in name):
            break
        position += 8 + stated
        if position == end:
            return 0
        position += position % 2
    return max(0, end - first)


RIFF = AudioFormat(
    names="WAV, AIFF",
    # Bytes 0 to 3 name the byte order and the variant: RIFF, RIFX, RF64, BW64 or FORM.
    recognises=lambda start: start[8:12] in (b"WAVE", b"AIFF", b"AIFC"),
    open=_open,
)
