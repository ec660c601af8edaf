"""AAC without a container (ADTS): walked frame by frame, since nothing else shows how long it is."""

from typing import BinaryIO, NamedTuple

from hilbert_ray.audio.byte_range import ByteRange
from hilbert_ray.audio.errors import CONVERT, UnsupportedAudioError, damaged, truncated
from hilbert_ray.audio.format import AudioFormat, AudioSource
from hilbert_ray.audio.header import check_unchanged
from hilbert_ray.audio.pyav import EXTRA, FfmpegDecoder
from hilbert_ray.audio.sizes import is_padding
from hilbert_ray.audio.tags import end_of_leading_tags, start_of_trailing_tags
from hilbert_ray.document import Hertz, Samples

_RATES_HZ = (96000, 88200, 64000, 48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000, 7350)
_CHANNELS = (0, 1, 2, 3, 4, 5, 6, 8)
_SAMPLES = 1024
"""Samples of a block of AAC, of which a frame holds one to four."""


class AdtsFrame(NamedTuple):
    """What the header of a frame says. `size` is in bytes, header included."""

    size: int
    samples: Samples
    rate_hz: Hertz
    channels: int


def parse_frame(header: bytes) -> AdtsFrame | None:
    """Return what this 7-byte header of an ADTS frame says (ISO/IEC 13818-7, 6.2); None if it is not one."""
    # 12 set bits synchronise; a bit of version; layer, always 0.
    if len(header) < 7 or header[0] != 0xFF or header[1] & 0xF6 != 0xF0:
        return None
    rate = header[2] >> 2 & 15
    size = (header[3] & 3) << 11 | header[4] << 3 | header[5] >> 5
    channels = _CHANNELS[(header[2] & 1) << 2 | header[3] >> 6]
    if rate >= len(_RATES_HZ) or size < 7:
        return None
    return AdtsFrame(size, _SAMPLES * ((header[6] & 3) + 1), _RATES_HZ[rate], channels)


def _open(source: AudioSource) -> FfmpegDecoder:
    end = start_of_trailing_tags(source.file, source.size)
    samples, rate_hz, holes, end = _walk(source.file, source.begin, end, source.uri)
    content = ByteRange(source.file, source.begin, end, holes=holes)
    return FfmpegDecoder(source, "AAC", demuxer="aac", content=content, counted=(samples, rate_hz))


def _walk(
    file: BinaryIO, begin: int, end: int, uri: str
) -> tuple[Samples, Hertz, list[tuple[int, int]], int]:
    """Return the samples in the frames, their rate, the tags between frames, and where the last frame ends.

    Raises:
        CorruptAudioError: when something else than a frame or a tag lies between frames.
        TruncatedAudioError: when the last frame is cut off.
        RateError, ChannelError: when frames differ.
        UnsupportedAudioError: when there is only one frame, which might be anything.
    """
    position, samples, frames = begin, 0, 0
    first: AdtsFrame | None = None
    holes: list[tuple[int, int]] = []
    while position < end:
        file.seek(position)
        frame = parse_frame(file.read(7))
        if frame is None:
            behind = end_of_leading_tags(file, position)
            # Programmes that are sent in pieces carry the time in a tag before each.
            if position < behind < end:
                holes.append((position, behind))
                position = behind
                continue
            if behind == end or (frames and is_padding(file, position, end)):
                end = position
                break
            raise damaged(uri, f"has no AAC frame at byte {position}, where one should begin")
        first = first or frame
        check_unchanged(frame.rate_hz, frame.channels, first, f"at byte {position}", uri)
        frames, samples, position = frames + 1, samples + frame.samples, position + frame.size
    if position > end:
        raise truncated(uri, f"ends {position - end} bytes before its last AAC frame does")
    if first is None or frames < 2:
        raise UnsupportedAudioError(f"{uri} begins like AAC but has only {frames} frame of it: {CONVERT}")
    return samples, first.rate_hz, holes, end


ADTS = AudioFormat(
    names="AAC", recognises=lambda start: parse_frame(start[:7]) is not None, open=_open, extra=EXTRA
)
