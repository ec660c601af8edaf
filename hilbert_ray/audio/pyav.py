"""Decoding with PyAV (FFmpeg): video containers, AAC, AMR, WMA, and codecs that libsndfile lacks."""

import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from hilbert_ray.audio.byte_range import ByteRange
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
from hilbert_ray.document import Hertz, Samples, Seconds

EXTRA = "video"
_LARGEST_GAP_S = 0.1
"""Containers round times to milliseconds and codecs shift them by tens of milliseconds: not a gap yet."""
_LARGEST_GAP_OF_WMA_S = 0.2
"""FFmpeg leaves out the first two blocks, which hold the encoder's delay: 128 ms at 8 kHz, else less."""
_LENGTH_TOLERANCE_S = 0.25
"""Stated lengths include the encoder's delay and padding, which FFmpeg drops: a few thousand samples."""

_COUNTED_TOLERANCE_S = 0.1
"""Where frames were counted, the decoder may hold back its delay: a few of 20 to 64 ms."""


class FfmpegDecoder:
    """The first sound track of a container, without encoder delay where the file states it.

    Args:
        source: the file.
        format: names its format in messages.
        demuxer: FFmpeg's name of the format; None where it may look for itself.
        content: where in the file the sound is; by default all of it.
        counted: samples per channel and the rate that they were counted at, for formats without times.
        decoder: FFmpeg's name of the decoder to use, and the rate of its one channel, where the one that
            FFmpeg chooses lacks something; ignored where this FFmpeg was built without it.
        check_before_decoding: a check that is too slow for `probe`.

    Raises:
        MissingExtraError: when PyAV is not installed.
        CorruptAudioError: when FFmpeg cannot open the file.
        NoAudioStreamError: when it has no sound track.
        UnsupportedAudioError: when FFmpeg has no codec for it.
        UnfinishedAudioError: when nothing states how long it is.
        RateError, ChannelError: when the header is out of bounds.
    """

    def __init__(
        self,
        source: AudioSource,
        format: str,
        *,
        demuxer: str | None = None,
        content: ByteRange | None = None,
        counted: tuple[Samples, Hertz] | None = None,
        decoder: tuple[str, Hertz] | None = None,
        check_before_decoding: Callable[[], None] | None = None,
    ) -> None:
        try:
            import av
        except ImportError:
            raise MissingExtraError(
                f"{source.uri} is a {format} file, which needs PyAV: pip install 'hilbert-ray[{EXTRA}]', or "
                f"{CONVERT}"
            ) from None
        self.uri = uri = source.uri
        source.file.seek(0)
        self._check_before_decoding, self._has_times = check_before_decoding, counted is None
        try:
            # Names and comments in odd encodings must not keep the sound from being read.
            self.container = av.open(content or source.file, format=demuxer, metadata_errors="replace")
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
        duration_s = self._stated_duration() if counted is None else counted[0] / counted[1]
        self.tolerance: Samples = round((_COUNTED_TOLERANCE_S if counted else _LENGTH_TOLERANCE_S) * rate)
        self.info = AudioInfo(
            rate_hz=rate,
            channels=channels,
            frames=round(duration_s * rate),
            format=format,
            tracks=len(self.container.streams.audio),
        )

        self._decoder: Any = None
        if decoder is not None and decoder[0] in av.codecs_available:
            self._decoder = av.CodecContext.create(decoder[0], "r")
            self._decoder.sample_rate, self._decoder.layout = decoder[1], "mono"

    def _frames(self) -> Iterator[Any]:
        """Yield what FFmpeg decodes."""
        if self._decoder is None:
            yield from self.container.decode(self.stream)
            return
        for packet in self.container.demux(self.stream):
            yield from self._decoder.decode(packet)

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

        if self._check_before_decoding is not None:
            self._check_before_decoding()
        # Packed, because PyAV reads beyond the planes of a planar frame of eight or more channels.
        packer = av.AudioResampler(format="flt")
        collected: list[np.ndarray] = []
        decoded = num_collected = 0
        try:
            for frame in self._frames():
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
        if (
            frame.pts is None or not self._has_times
        ):  # raw streams have no times; a gap in one then shows as a wrong length
            return
        time = float(frame.pts * frame.time_base) - (self.container.start_time or 0) / 1e6
        is_wma = self.stream.codec_context.name.startswith("wma")
        if abs(time - due) > (_LARGEST_GAP_OF_WMA_S if is_wma else _LARGEST_GAP_S):
            raise GapError(
                f"{self.uri} continues at {time:.2f} s after {due:.2f} s of sound; a gap shifts what follows "
                "against the transcript: fill it with silence, for example "
                "`ffmpeg -i FILE -af aresample=async=1:first_pts=0 out.flac`"
            )
