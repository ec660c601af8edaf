"""A part of a file as a file of its own: decoders must not see what lies around or between the sound."""

import io
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import Any, BinaryIO


class ByteRange:
    """Bytes `begin` to `end` of a file as decoders read them; carries errors past the C library.

    An exception inside a callback of libsndfile would be printed and then read as the end of the file.
    `stated_size` makes the range look longer than it is; what lies behind its end reads as zeros. `holes` are
    stretches (begin, end) of the file inside the range, in order, that are left out.
    """

    def __init__(
        self,
        file: BinaryIO,
        begin: int,
        end: int,
        stated_size: int | None = None,
        holes: Sequence[tuple[int, int]] = (),
    ) -> None:
        self.file = file
        self.error: BaseException | None = None
        # The pieces between holes: where each begins in the file, and in what is read.
        self._begins = [begin, *(after for _, after in holes)]
        ends = [*(before for before, _ in holes), end]
        sizes = [max(0, stop - start) for start, stop in zip(self._begins, ends, strict=True)]
        *self._offsets, self._size = accumulate(sizes, initial=0)
        self._stated_size = self._size if stated_size is None else stated_size
        self._position = 0

    def tell(self) -> int:
        """Return the position inside the range."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move to a position, as files do."""
        # Beyond the end too, as files allow: `readinto` then returns nothing, or zeros up to `stated_size`.
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._stated_size}[whence]
        self._position = base + offset
        return self._position

    def read(self, size: int = -1) -> bytes:
        """Return the next bytes, at most `size` and perhaps fewer; none at the end."""
        if self._size < self._position < self._stated_size:  # libsndfile looks for a tag there
            data = bytes(max(0, size))
        else:
            piece = max(0, bisect_right(self._offsets, self._position) - 1)
            stop = self._offsets[piece + 1] if piece + 1 < len(self._offsets) else self._size
            rest = max(0, stop - self._position)
            # Before every read: the checks of a format move in the same file.
            self.file.seek(self._begins[piece] + self._position - self._offsets[piece])
            data = self.file.read(rest if size < 0 else min(size, rest))
        self._position += len(data)
        return data

    def readinto(self, buffer: Any) -> int:  # noqa: ANN401 - a cffi buffer
        """Fill a buffer; return how many bytes there were."""
        filled = 0
        try:
            # To the end of the buffer: libsndfile takes fewer bytes for the end of the file.
            while filled < len(buffer) and (data := self.read(len(buffer) - filled)):
                buffer[filled : filled + len(data)] = data
                filled += len(data)
        except BaseException as error:
            self.error = error
            return 0
        return filled

    def raise_error(self) -> None:
        """Raise what went wrong while libsndfile was reading."""
        if self.error is not None:
            raise self.error
