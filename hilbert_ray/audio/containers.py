"""M4A, MP4, MOV, Matroska and WebM through PyAV (FFmpeg)."""

import io
import re
import struct
from collections.abc import Iterator
from typing import Any, BinaryIO

import numpy as np

from hilbert_ray.audio.errors import (
    CONVERT,
    GapError,
    MissingExtraError,
    NoAudioStreamError,
    UnsupportedAudioError,
    cut_off,
    damaged,
    unfinished,
)
from hilbert_ray.audio.header import AudioInfo, check_bounds, check_same
from hilbert_ray.document import Samples, Seconds

_GAP_S = 0.1
_LENGTH_TOLERANCE_S = 0.25
# M4A, MP4, MOV, Matroska and WebM: PyAV

EBML, _SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"


class ContainerAudio:
    """The first sound track of a file that FFmpeg decodes, without encoder delay where the file states it."""

    def __init__(self, file: BinaryIO, uri: str, kind: str) -> None:
        try:
            import av
        except ImportError:
            raise MissingExtraError(
                f"{uri} is a {kind} file, which needs PyAV: pip install 'hilbert-ray[video]', or {CONVERT}"
            ) from None
        self.uri = uri
        file.seek(0)
        try:
            self.container = av.open(file, metadata_errors="replace")
        except av.FFmpegError as error:
            raise damaged(uri, f"cannot be opened: {error}") from error
        if not self.container.streams.audio:
            raise NoAudioStreamError(
                f"{uri} is a {kind} file without a sound track; export it with sound, or write null"
            )
        self.stream = self.container.streams.audio[0]
        codec = self.stream.codec_context
        if codec is None:
            raise UnsupportedAudioError(f"{uri} holds sound of a kind that FFmpeg cannot decode: {CONVERT}")
        rate, channels = codec.sample_rate, codec.channels
        check_bounds(rate, channels, uri)
        frames = round(self._stated_duration() * rate)
        self.tolerance = round(_LENGTH_TOLERANCE_S * rate)
        self.info = AudioInfo(rate_hz=rate, channels=channels, frames=frames, format=kind)

    def _stated_duration(self) -> Seconds:
        """Return the length of the sound track where it is stated, else that of the file."""
        if self.stream.duration:
            return float(self.stream.duration * self.stream.time_base)
        if tag := re.match(r"(\d+):(\d+):(\d+\.\d+)", self.stream.metadata.get("DURATION", "")):
            return int(tag[1]) * 3600 + int(tag[2]) * 60 + float(tag[3])
        if self.container.duration:
            return float(self.container.duration / 1e6)
        raise unfinished(self.uri, "does not state how long it is")

    def decode(self, block: Samples) -> Iterator[np.ndarray]:
        """Yield float32 [samples, channels] blocks of about `block` samples."""
        import av

        # Packed, because PyAV reads beyond the planes of a planar frame of eight or more channels.
        packer = av.AudioResampler(format="flt")
        held: list[np.ndarray] = []
        frames = num_held = 0
        try:
            for frame in self.container.decode(self.stream):
                self._check_frame(frame, frames / self.info.rate_hz)
                held += [part.to_ndarray().reshape(-1, self.info.channels) for part in packer.resample(frame)]
                frames += frame.samples
                num_held += frame.samples
                if num_held >= block:
                    yield np.concatenate(held)
                    held, num_held = [], 0
        except av.FFmpegError as error:
            done = f"{frames / self.info.rate_hz:.2f} s"
            raise damaged(self.uri, f"cannot be decoded after {done}: {error}") from error
        if held:
            yield np.concatenate(held)

    def _check_frame(self, frame: Any, due: Seconds) -> None:  # noqa: ANN401 - PyAV is optional
        """Check that a decoded frame is as stated and begins where the last one ended."""
        check_same(frame.sample_rate, frame.layout.nb_channels, self.info, f"at {due:.2f} s", self.uri)
        if frame.pts is None:
            return
        time = float(frame.pts * frame.time_base) - (self.container.start_time or 0) / 1e6
        if abs(time - due) > _GAP_S:
            raise GapError(
                f"{self.uri} goes on at {time:.2f} s after {due:.2f} s of sound; a hole shifts what follows "
                "against the transcript: fill it with silence, for example "
                "`ffmpeg -i FILE -af aresample=async=1:first_pts=0 out.flac`"
            )


def check_boxes(file: BinaryIO, size: int, uri: str) -> None:
    """Check that the boxes of an MP4 lie within the file and that its writer finished it."""
    at, kinds = 0, set()
    while at + 8 <= size:
        file.seek(at)
        length, kind, long_length = struct.unpack(">I4sQ", file.read(16).ljust(16, b"\0"))
        length = {0: size - at, 1: long_length}.get(length, length)
        if length < 8:
            raise damaged(uri, f"has no MP4 box at byte {at}, where one should begin")
        if at + length > size:
            raise cut_off(
                uri, f"states {length} bytes in the MP4 box at byte {at} but ends after {size - at}"
            )
        kinds.add(kind)
        at += length
    if b"moov" not in kinds or (b"moof" in kinds and b"mfra" not in kinds):
        raise unfinished(uri, "lacks the index that ends an MP4 (`moov`, or `mfra` if fragmented)")


def check_segment(file: BinaryIO, size: int, uri: str) -> None:
    """Check that the segment of a Matroska file, which holds all else, lies within the file."""
    file.seek(4)
    header = _element_size(file)
    file.seek(header or 0, io.SEEK_CUR)
    if header is None or file.read(4) != _SEGMENT:
        raise damaged(uri, "has no Matroska segment after its header")
    stated, available = _element_size(file), size - file.tell()
    if stated is not None and stated > available:
        raise cut_off(uri, f"states {stated} bytes of content but ends after {available}")


def _element_size(file: BinaryIO) -> int | None:
    """Read the size of a Matroska element (RFC 8794, section 4); None where it is unknown."""
    first = file.read(1) or b"\1"
    count = 8 - max(1, first[0].bit_length())
    unknown = (1 << 7 * (count + 1)) - 1
    value = int.from_bytes(first + file.read(count)) & unknown
    return None if value == unknown else value
