"""Cutting a stream of audio in the middle of its pauses, into segments as long as possible up to a limit."""

import heapq
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from itertools import islice

import numpy as np

from hilbert_ray.document import Samples
from hilbert_ray.segmentation.buffer import Buffer
from hilbert_ray.segmentation.vad import FRAME, SHORTEST_PAUSE, SPEECH, find_pauses, speech_probabilities

_MARGIN = 12
"""Frames (0.38 s) kept around speech: the detector hears it a little late, and soft ends not at all."""


def cut_at_pauses(
    blocks: Iterator[np.ndarray], stretches: Sequence[Sequence[tuple[Samples, Samples]]], longest: Samples
) -> Iterator[tuple[Samples, int, np.ndarray]]:
    """Yield (start, column, samples) of segments that together are exactly each stretch of each column.

    For where they are cut see `cut_frame`. Segments come in order of their starts.

    Args:
        blocks: float32 [samples, columns] at `vad.RATE_HZ`; read as far as the last stretch.
        stretches: for each column (begin, end), in order and without overlaps; an end may lie beyond the
            recording.
        longest: the most samples of a segment; twice as many are held, to see where a pause ends.
    """
    heard = _Heard(blocks, len(stretches))
    # What is next in each column, the earliest first, so that nothing before it has to be held.
    remaining = [iter(of_column) for of_column in stretches]
    due = [(*stretch, column) for column, rest in enumerate(remaining) for stretch in islice(rest, 1)]
    heapq.heapify(due)
    while due:
        start, limit, column = heapq.heappop(due)
        if start < limit:
            limit = min(limit, heard.read(start, min(limit, start + 2 * longest)))
            if start >= limit:  # the recording is over, for all that begins later too
                return
            first_frame = start // FRAME
            end = limit
            if limit - start > longest:
                # Frames are counted from the stream's start, not the segment's: round outwards.
                last_frame = -(-min(limit, start + 2 * longest) // FRAME)
                seen = heard.speech[column].copy(first_frame, last_frame)
                cut = cut_frame(seen, (start + longest) // FRAME - first_frame)
                end = (first_frame + cut) * FRAME if cut else start + longest
            yield start, column, np.ascontiguousarray(heard.samples.copy(start, end)[:, column])
            start = end
        if start < limit:
            heapq.heappush(due, (start, limit, column))
        else:
            for stretch in islice(remaining[column], 1):
                heapq.heappush(due, (*stretch, column))


def cut_speech(
    blocks: Iterator[np.ndarray], columns: int, longest: Samples
) -> Iterator[tuple[Samples, int, np.ndarray, np.ndarray]]:
    """Yield (start, column, samples, probabilities of speech) of segments with all speech of each column.

    They are cut as `cut_at_pauses` cuts; silence at their borders is left out, and so are segments without
    speech. Segments come in order of their starts, which are multiples of `vad.FRAME`.

    Args:
        blocks: float32 [samples, columns] at `vad.RATE_HZ`; read to the end.
        columns: how many there are.
        longest: the most samples of a segment; twice as many are held, to see where a pause ends.
    """
    heard = _Heard(blocks, columns, amplify=True)
    due = [(0, column) for column in range(columns)]
    while due:
        start, column = heapq.heappop(due)
        limit = min(start + 2 * longest, heard.read(start, start + 2 * longest))
        if start >= limit:  # the recording is over
            continue
        first_frame = start // FRAME
        seen = heard.speech[column].copy(first_frame, -(-limit // FRAME))
        spoken = np.flatnonzero(seen >= SPEECH)
        # What is silent is passed over first, so that the segment has its full length from the first word on.
        silent = int(spoken[0]) - _MARGIN if len(spoken) else max(len(seen) - _MARGIN, 1)
        if silent > 0:
            heapq.heappush(due, (start + silent * FRAME, column))
            continue
        cut = len(seen) if limit - start <= longest else cut_frame(seen, longest // FRAME)
        last_spoken = int(spoken[spoken < cut][-1])
        kept = min(last_spoken + 1 + _MARGIN, cut)
        end = min(start + kept * FRAME, limit)
        samples = heard.samples.copy(start, end)[:, column]
        yield start, column, np.ascontiguousarray(samples), seen[:kept]
        heapq.heappush(due, (start + cut * FRAME, column))


class _Heard:
    """The latest part of a recording and how likely each of its frames is speech, by column.

    `samples` is [samples, columns]; each of `speech` is addressed by frame.
    """

    def __init__(self, blocks: Iterator[np.ndarray], columns: int, amplify: bool = False) -> None:
        self.samples = Buffer()
        self.speech = [Buffer() for _ in range(columns)]
        # In step, so that what one column has read and another has not is never more than a block.
        copies = _copies(blocks, columns)
        heard = [speech_probabilities(_column(copy, column), amplify) for column, copy in enumerate(copies)]
        self._steps = zip(*heard, strict=True)

    def read(self, start: Samples, end: Samples) -> Samples:
        """Hold what lies from `start` to `end`; return where the recording ends, the maximum if later."""
        while self.samples.end < end:
            step = next(self._steps, None)
            if step is None:
                return self.samples.end
            self.samples.append(np.stack([samples for samples, _ in step], axis=1))
            for speech, (_, probabilities) in zip(self.speech, step, strict=True):
                speech.append(probabilities)
                speech.drop(start // FRAME)
            self.samples.drop(start)
        return sys.maxsize


def _copies(blocks: Iterator[np.ndarray], copies: int) -> list[Iterator[np.ndarray]]:
    """Return iterators over the same blocks, of which those are held that some iterator has not read yet."""
    # Not `itertools.tee`, which lets go of what all have read only after every 57 blocks: half an hour.
    waiting: list[deque[np.ndarray]] = [deque() for _ in range(copies)]

    def copy(own: deque[np.ndarray]) -> Iterator[np.ndarray]:
        while True:
            if not own:
                block = next(blocks, None)
                if block is None:
                    return
                for queue in waiting:
                    queue.append(block)
            yield own.popleft()

    return [copy(own) for own in waiting]


def _column(blocks: Iterator[np.ndarray], column: int) -> Iterator[np.ndarray]:
    return (np.ascontiguousarray(block[:, column]) for block in blocks)


def cut_frame(speech: np.ndarray, limit: int) -> int:
    """Return before which frame a segment that begins in frame 0 ends: as late as possible up to `limit`.

    That is the middle of the last pause, or the limit if it comes sooner and the pause began well before.
    The pause that the segment begins in counts only if it reaches the limit; otherwise it would become a
    segment of its own. Without a pause: where speech is least likely in the second half, the last of equals.
    0 if there is no frame to choose, because the limit is 0.

    Args:
        speech: probabilities float32 [frames], from the segment's first frame to twice the limit, or to the
            end of the stretch.
        limit: last frame that may be cut before.
    """
    begins, ends = find_pauses(speech)
    if len(begins) and begins[0] == 0 and ends[0] >= limit:
        return limit
    cuts = np.minimum((begins + ends) // 2, limit)
    # "Well before": a cut just where a pause begins would clip the end of the word before it.
    cuts = cuts[(begins > 0) & (cuts - begins >= SHORTEST_PAUSE // 2)]
    if len(cuts):
        return int(cuts[-1])
    # Not in the first half: somebody who never pauses would be cut into crumbs.
    half = (limit + 1) // 2
    second_half = speech[half:limit]
    return limit - 1 - int(second_half[::-1].argmin()) if len(second_half) else limit
