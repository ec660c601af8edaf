"""Streams of samples: the latest part of one, addressed by position, and the count of what has passed."""

from collections import deque
from collections.abc import Iterator

import numpy as np

from hilbert_ray.document import Samples


class Buffer:
    """Consecutive float32 arrays of a stream, [values] or [values, columns]; the oldest may be dropped.

    This is all that cutting holds in memory. Positions count from the start of the stream: `first` is that of
    the first value still held, `end` that of the next value to come.
    """

    def __init__(self) -> None:
        self.blocks: deque[np.ndarray] = deque()
        self.first = self.end = 0

    def append(self, block: np.ndarray) -> None:
        """Hold the next values of the stream."""
        self.blocks.append(block)
        self.end += len(block)

    def drop(self, until: int) -> None:
        """Drop the blocks that lie entirely before a position."""
        while self.blocks and self.first + len(self.blocks[0]) <= until:
            self.first += len(self.blocks.popleft())

    def copy(self, start: int, end: int) -> np.ndarray:
        """Return the values from `start`, which must still be held, up to `end` or the last one held."""
        pieces, position = [], self.first
        for block in self.blocks:
            pieces.append(block[max(start - position, 0) : max(end - position, 0)])
            position += len(block)
        return np.concatenate(pieces) if pieces else np.zeros(0, np.float32)


class CountedBlocks(Iterator[np.ndarray]):
    """Passes the blocks of a stream on; `samples` is how many samples have passed."""

    def __init__(self, blocks: Iterator[np.ndarray]) -> None:
        self._blocks = blocks
        self.samples: Samples = 0

    def __next__(self) -> np.ndarray:
        """Return the next block."""
        block = next(self._blocks)
        self.samples += len(block)
        return block
