"""Decoding with libsndfile: WAV, AIFF, FLAC, Ogg and MP3."""

from collections.abc import Callable, Iterator

import numpy as np
import soundfile

from hilbert_ray.audio.byte_range import ByteRange
from hilbert_ray.audio.errors import (
    CONVERT,
    FETCH_AGAIN,
    SET_NULL,
    CorruptAudioError,
    EmptyAudioError,
    damaged,
    unfinished,
)
from hilbert_ray.audio.header import AudioInfo, check_bounds
from hilbert_ray.document import Samples

_UNKNOWN_LENGTH = 2**63 - 1
"""What libsndfile says where the header does not state the length (`SF_COUNT_MAX`)."""


class LibsndfileDecoder:
    """A file that libsndfile decodes.

    Args:
        content: where its bytes are.
        uri: names it in messages.
        frames: samples per channel, where libsndfile would not know their number.
        check_before_decoding: a check that is too slow for `probe`.

    Raises:
        CorruptAudioError: when libsndfile cannot open it.
        RateError, ChannelError: when the header is out of bounds.
        UnfinishedAudioError: when it does not state its length.
        EmptyAudioError: when it holds no samples.
    """

    tolerance: Samples = 0

    def __init__(
        self,
        content: ByteRange,
        uri: str,
        frames: Samples | None = None,
        check_before_decoding: Callable[[], None] | None = None,
    ) -> None:
        self.content, self.uri = content, uri
        self._check_before_decoding = check_before_decoding
        try:
            self.file = soundfile.SoundFile(content)
        except soundfile.SoundFileError as error:
            content.raise_error()
            raise CorruptAudioError(
                f"{uri} cannot be opened: {_reason(error)}; its header is damaged or unusual: "
                f"{FETCH_AGAIN}, or {CONVERT}"
            ) from error
        content.raise_error()
        # Otherwise each read would end in a seek, after which an MP3 decodes differently than from its start.
        self.file.seekable = lambda: False
        rate, frames = self.file.samplerate, self.file.frames if frames is None else frames
        check_bounds(rate, self.file.channels, uri)
        # Without a length nothing shows whether the file is complete, so it is refused.
        if frames == _UNKNOWN_LENGTH:
            raise unfinished(uri, "does not state how many samples it holds")
        if frames == 0:
            raise EmptyAudioError(f"{uri} holds no samples; record or export it again, or {SET_NULL}")
        self.info = AudioInfo(
            rate_hz=rate, channels=self.file.channels, frames=frames, format=self.file.format
        )

    def decode(self, block: Samples) -> Iterator[np.ndarray]:
        """Yield float32 [samples, channels] blocks of `block` samples, the last one shorter."""
        if self._check_before_decoding is not None:
            self._check_before_decoding()
        # `SoundFile.blocks` repeats stale samples after a short read, so the loop is spelt out.
        while True:
            try:
                samples = self.file.read(block, dtype="float32", always_2d=True)
            except soundfile.SoundFileError as error:
                self.content.raise_error()
                decoded_s = self.file.tell() / self.info.rate_hz
                raise damaged(
                    self.uri, f"cannot be decoded after {decoded_s:.2f} s: {_reason(error)}"
                ) from error
            self.content.raise_error()
            if len(samples):
                yield samples
            if len(samples) < block:
                return


def _reason(error: Exception) -> str:
    return str(getattr(error, "error_string", error)).removeprefix("Error : ").rstrip(".")
