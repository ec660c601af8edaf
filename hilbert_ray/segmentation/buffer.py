"""The latest part of a stream, addressed by place: what cutting holds in memory."""

from collections import deque

import numpy as np


class Buffer:
    """Consecutive float32 arrays of a stream, of which the oldest may be forgotten.

    `first` and `end` are the places of the first value that is held and of the next that will come.
    """

    def __init__(self) -> None:
        self.blocks: deque[np.ndarray] = deque()
        self.first = self.end = 0

    def append(self, block: np.ndarray) -> None:
        """Hold the next values of the stream."""
        self.blocks.append(block)
        self.end += len(block)

    def forget(self, until: int) -> None:
        """Let go of blocks that lie before a place entirely."""
        while self.blocks and self.first + len(self.blocks[0]) <= until:
            self.first += len(self.blocks.popleft())

    def take(self, start: int, end: int) -> np.ndarray:
        """Return a copy of the values from `start`, which must be held still, to `end` or to what is held."""
        parts, at = [np.zeros(0, np.float32)], self.first
        for block in self.blocks:
            parts.append(block[max(start - at, 0) : max(end - at, 0)])
            at += len(block)
        return np.concatenate(parts)
