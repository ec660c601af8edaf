"""Decoding with PyAV (FFmpeg): M4A, MP4, MOV, Matroska and WebM."""

import re
from collections.abc import Iterator
from typing import Any

import numpy as np

from hilbert_ray.audio.errors import (
    CONVERT,
    SET_NULL,
    GapError,
    MissingExtraError,
    NoAudioStreamError,
    UnsupportedAudioError,
    damaged,
    unfinished,
)
from hilbert_ray.audio.format import AudioSource
from hilbert_ray.audio.header import AudioInfo, check_bounds, check_unchanged
from hilbert_ray.document import Samples, Seconds

EXTRA = "video"
_LARGEST_GAP_S = 0.1
"""Containers round times to milliseconds and codecs shift them by tens of milliseconds: not a gap yet."""
_LENGTH_TOLERANCE_S = 0.25
"""Stated lengths include the encoder's delay and padding, which FFmpeg drops: a few thousand samples."""


class FfmpegDecoder:
    """The first sound track of a container, without encoder delay where the file states it.

    Args:
        source: the file.
        format: names its format in messages.

    Raises:
        MissingExtraError: when PyAV is not installed.
        CorruptAudioError: when FFmpeg cannot open the file.
        NoAudioStreamError: when it has no sound track.
        UnsupportedAudioError: when FFmpeg has no codec for it.
        UnfinishedAudioError: when nothing states how long it is.
        RateError, ChannelError: when the header is out of bounds.
    """

    def __init__(self, source: AudioSource, format: str) -> None:
        try:
            import av
        except ImportError:
            raise MissingExtraError(
                f"{source.uri} is a {format} file, which needs PyAV: pip install 'hilbert-ray[{EXTRA}]', or "
                f"{CONVERT}"
            ) from None
        self.uri = uri = source.uri
        source.file.seek(0)
        try:
            # Names and comments in odd encodings must not keep the sound from being read.
            self.container = av.open(source.file, metadata_errors="replace")
        except av.FFmpegError as error:
            raise damaged(uri, f"cannot be opened: {error}") from error
        if not self.container.streams.audio:
            raise NoAudioStreamError(
                f"{uri} is a {format} file without a sound track; export it with sound, or {SET_NULL}"
            )
        self.stream = self.container.streams.audio[0]
        codec = self.stream.codec_context
        if codec is None:
            raise UnsupportedAudioError(f"{uri} has a sound track that FFmpeg cannot decode: {CONVERT}")
        rate, channels = codec.sample_rate, codec.channels
        check_bounds(rate, channels, uri)
        # Containers state times, not samples: hence a tolerance, where libsndfile needs none.
        frames = round(self._stated_duration() * rate)
        self.tolerance: Samples = round(_LENGTH_TOLERANCE_S * rate)
        self.info = AudioInfo(rate_hz=rate, channels=channels, frames=frames, format=format)

    def _stated_duration(self) -> Seconds:
        """Return the length of the sound track where it is stated, else that of the file."""
        if self.stream.duration:
            return float(self.stream.duration * self.stream.time_base)
        # Matroska has no field for the length of a track; muxers write a tag such as 00:01:02.345000000.
        if tag := re.match(r"(\d+):(\d+):(\d+\.\d+)", self.stream.metadata.get("DURATION", "")):
            return int(tag[1]) * 3600 + int(tag[2]) * 60 + float(tag[3])
        if self.container.duration:
            return float(self.container.duration / 1e6)  # microseconds
        raise unfinished(self.uri, "does not state how long it is")

    def decode(self, block: Samples) -> Iterator[np.ndarray]:
        """Yield float32 [samples, channels] blocks of about `block` samples."""
        import av

        # Packed, because PyAV reads beyond the planes of a planar frame of eight or more channels.
        packer = av.AudioResampler(format="flt")
        collected: list[np.ndarray] = []
        decoded = num_collected = 0
        try:
            for frame in self.container.decode(self.stream):
                self._check_frame(frame, decoded / self.info.rate_hz)
                collected += [
                    packed.to_ndarray().reshape(-1, self.info.channels) for packed in packer.resample(frame)
                ]
                decoded += frame.samples
                num_collected += frame.samples
                if num_collected >= block:
                    yield np.concatenate(collected)
                    collected, num_collected = [], 0
        except av.FFmpegError as error:
            decoded_s = decoded / self.info.rate_hz
            raise damaged(self.uri, f"cannot be decoded after {decoded_s:.2f} s: {error}") from error
        if collected:
            yield np.concatenate(collected)

    def _check_frame(self, frame: Any, due: Seconds) -> None:  # noqa: ANN401 - PyAV is optional
        """Check that a decoded frame has the stated rate and channels and begins where the last one ended."""
        check_unchanged(frame.sample_rate, frame.layout.nb_channels, self.info, f"at {due:.2f} s", self.uri)
        if frame.pts is None:  # raw streams have no times; a gap in one then shows as a wrong length
            return
        time = float(frame.pts * frame.time_base) - (self.container.start_time or 0) / 1e6
        if abs(time - due) > _LARGEST_GAP_S:
            raise GapError(
                f"{self.uri} continues at {time:.2f} s after {due:.2f} s of sound; a gap shifts what follows "
                "against the transcript: fill it with silence, for example "
                "`ffmpeg -i FILE -af aresample=async=1:first_pts=0 out.flac`"
            )
