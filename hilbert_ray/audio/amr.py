"""AMR, narrow and wide band, the format of telephones: walked frame by frame (RFC 4867, section 5)."""

from typing import BinaryIO

from hilbert_ray.audio.byte_range import ByteRange
from hilbert_ray.audio.errors import CONVERT, UnsupportedAudioError, damaged, truncated
from hilbert_ray.audio.format import AudioFormat, AudioSource
from hilbert_ray.audio.pyav import EXTRA, FfmpegDecoder
from hilbert_ray.audio.sizes import is_padding
from hilbert_ray.document import Samples

_NARROW, _WIDE = b"#!AMR\n", b"#!AMR-WB\n"
# Bytes of a frame by its type, its header included: speech, comfort noise, lost (wide only), nothing sent.
_NARROW_SIZES = {0: 13, 1: 14, 2: 16, 3: 18, 4: 20, 5: 21, 6: 27, 7: 32, 8: 6, 15: 1}
_WIDE_SIZES = {0: 18, 1: 24, 2: 33, 3: 37, 4: 41, 5: 47, 6: 51, 7: 59, 8: 61, 9: 6, 14: 1, 15: 1}
_FRAMES_PER_S = 50
_READ_AT_ONCE = 2**20


def _open(source: AudioSource) -> FfmpegDecoder:
    source.file.seek(source.begin)
    start = source.file.read(len(_WIDE))
    is_wide = start == _WIDE
    if not is_wide and not start.startswith(_NARROW):
        raise UnsupportedAudioError(f"{source.uri} is an AMR file of several channels: {CONVERT}")
    magic, sizes, rate_hz = (_WIDE, _WIDE_SIZES, 16_000) if is_wide else (_NARROW, _NARROW_SIZES, 8_000)
    frames, end = _walk(source.file, source.begin + len(magic), source.size, sizes, source.uri)
    samples: Samples = frames * (rate_hz // _FRAMES_PER_S)
    content = ByteRange(source.file, source.begin, end)
    # FFmpeg's own decoders do not know comfort noise, which telephones send while nobody speaks.
    decoder = ("libopencore_amrwb" if is_wide else "libopencore_amrnb", rate_hz)
    return FfmpegDecoder(
        source, "AMR", demuxer="amr", content=content, counted=(samples, rate_hz), decoder=decoder
    )


def _walk(file: BinaryIO, begin: int, size: int, sizes: dict[int, int], uri: str) -> tuple[int, int]:
    """Return the number of frames, and where the last one ends.

    Raises:
        CorruptAudioError: when something else than a frame lies between frames.
        TruncatedAudioError: when the last frame is cut off.
    """
    frames, position = 0, begin
    read, data = begin, b""  # bytes from `read` on: frames are too short to read one by one
    while position < size:
        if position >= read + len(data):
            file.seek(position)
            read, data = position, file.read(_READ_AT_ONCE)
            if not data:
                break
        header = data[position - read]
        # The highest bit and the lowest two are 0; four bits of type; one says whether the frame is intact.
        frame = sizes.get(header >> 3 & 15) if header & 0x83 == 0 else None
        # A zero is a header too, so padding is looked for before a frame of the lowest rate is believed.
        if frame is None or (header == 0 and is_padding(file, position, size)):
            if is_padding(file, position, size):
                return frames, position
            raise damaged(uri, f"has no AMR frame at byte {position}, where one should begin")
        frames, position = frames + 1, position + frame
    if position > size:
        raise truncated(uri, f"ends {position - size} bytes before its last AMR frame does")
    return frames, position


AMR = AudioFormat(names="AMR", recognises=lambda start: start[:5] == b"#!AMR", open=_open, extra=EXTRA)
