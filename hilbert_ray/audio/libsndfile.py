"""WAV, AIFF, FLAC, Ogg and MP3 through libsndfile."""

import io
from collections.abc import Iterator
from typing import Any, BinaryIO

import numpy as np
import soundfile

from hilbert_ray.audio.errors import (
    CONVERT,
    FETCH_AGAIN,
    CorruptAudioError,
    EmptyAudioError,
    damaged,
    unfinished,
)
from hilbert_ray.audio.header import AudioInfo, check_bounds
from hilbert_ray.audio.ogg import check_pages
from hilbert_ray.document import Samples

# WAV, AIFF, FLAC, Ogg and MP3: libsndfile

_UNKNOWN_LENGTH = 2**63 - 1


class ByteRange:
    """Bytes `begin` to `end` of a file as libsndfile reads them; carries errors past the C library.

    An exception inside a callback of libsndfile would be printed and then read as the end of the file.
    """

    def __init__(self, file: BinaryIO, begin: int, end: int, stated_size: int | None = None) -> None:
        self.file = file
        self.error: BaseException | None = None
        self._begin, self._size = begin, end - begin
        self._stated_size = self._size if stated_size is None else stated_size
        self._position = 0

    def tell(self) -> int:
        """Return the position inside the range."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move to a position, as files do."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._stated_size}[whence]
        self._position = base + offset
        return self._position

    def readinto(self, buffer: Any) -> int:  # noqa: ANN401 - a cffi buffer
        """Fill a buffer; return how many bytes there were."""
        try:
            self.file.seek(self._begin + self._position)
            if self._size < self._position < self._stated_size:  # libsndfile looks for a tag there
                data = bytes(len(buffer))
            else:
                data = self.file.read(max(0, min(len(buffer), self._size - self._position)))
        except BaseException as error:
            self.error = error
            return 0
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)

    def raise_error(self) -> None:
        """Raise what went wrong while libsndfile was reading."""
        if self.error is not None:
            raise self.error


class LibsndfileAudio:
    """A file that libsndfile decodes; `frames` where it would not know their number."""

    tolerance = 0
    """By how many samples the decoded length may differ from the stated one."""

    def __init__(self, source: ByteRange, uri: str, frames: Samples | None = None) -> None:
        self.source, self.uri = source, uri
        try:
            self.file = soundfile.SoundFile(source)
        except soundfile.SoundFileError as error:
            source.raise_error()
            raise CorruptAudioError(
                f"{uri} cannot be opened: {_reason(error)}; its header is damaged or unusual: "
                f"{FETCH_AGAIN}, or {CONVERT}"
            ) from error
        source.raise_error()
        # Else each read would end in a seek, after which an MP3 is not decoded as it is from its start.
        self.file.seekable = lambda: False
        rate, frames = self.file.samplerate, self.file.frames if frames is None else frames
        check_bounds(rate, self.file.channels, uri)
        if frames == _UNKNOWN_LENGTH:
            raise unfinished(uri, "does not state how many samples it holds")
        if frames == 0:
            raise EmptyAudioError(f"{uri} holds no samples; record or export it again, or write null")
        self.info = AudioInfo(
            rate_hz=rate, channels=self.file.channels, frames=frames, format=self.file.format
        )

    def decode(self, block: Samples) -> Iterator[np.ndarray]:
        """Yield float32 [samples, channels] blocks of about `block` samples."""
        if self.info.format == "OGG":
            check_pages(self.source.file, self.uri)
        # `SoundFile.blocks` repeats stale samples after a short read, so the loop is spelt out.
        while True:
            try:
                samples = self.file.read(block, dtype="float32", always_2d=True)
            except soundfile.SoundFileError as error:
                self.source.raise_error()
                done = f"{self.file.tell() / self.info.rate_hz:.2f} s"
                raise damaged(self.uri, f"cannot be decoded after {done}: {_reason(error)}") from error
            self.source.raise_error()
            if len(samples):
                yield samples
            if len(samples) < block:
                return


def _reason(error: Exception) -> str:
    return str(getattr(error, "error_string", error)).removeprefix("Error : ").rstrip(".")
