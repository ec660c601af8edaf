"""Cutting a stream of audio in the middle of its pauses, into segments as long as possible up to a limit."""

from collections.abc import Iterator, Sequence

import numpy as np

from hilbert_ray.document import Samples
from hilbert_ray.segmentation.buffer import Buffer
from hilbert_ray.segmentation.vad import FRAME, SHORTEST_PAUSE, find_pauses, speech_probabilities


def cut_at_pauses(
    blocks: Iterator[np.ndarray], stretches: Sequence[tuple[Samples, Samples]], longest: Samples
) -> Iterator[tuple[Samples, np.ndarray]]:
    """Yield (start, samples) of segments that together are exactly each stretch; see `cut_frame` for where.

    Args:
        blocks: mono float32 samples at `vad.RATE_HZ`; read as far as the last stretch.
        stretches: (begin, end), in order and without overlaps; an end may lie beyond the recording.
        longest: the most samples of a segment; twice as many are held, to see where a pause ends.
    """
    detected = speech_probabilities(blocks)
    samples, speech = Buffer(), Buffer()  # `speech` is addressed by frame
    for start, limit in stretches:
        while start < limit:
            first_frame = start // FRAME
            while samples.end < min(limit, start + 2 * longest):
                step = next(detected, None)
                if step is None:
                    limit = samples.end
                    break
                samples.append(step[0])
                speech.append(step[1])
                samples.drop(start)
                speech.drop(first_frame)
            if start >= limit:  # the recording is over
                return
            end = limit
            if limit - start > longest:
                # Frames are counted from the stream's start, not the segment's: round outwards.
                seen = speech.copy(first_frame, -(-min(limit, start + 2 * longest) // FRAME))
                cut = cut_frame(seen, (start + longest) // FRAME - first_frame)
                end = (first_frame + cut) * FRAME if cut else start + longest
            yield start, samples.copy(start, end)
            start = end


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
