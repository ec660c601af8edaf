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
        blocks: mono float32 samples at `RATE_HZ`; read as far as the last stretch.
        stretches: (begin, end), apart from one another and in order; an end may lie beyond the recording.
        longest: the most samples of a segment; twice as many are held, to see how a pause goes on.
    """
    parts = speech_probabilities(blocks)
    samples, speech = Buffer(), Buffer()
    for start, limit in stretches:
        while start < limit:
            begin = start // FRAME
            while samples.end < min(limit, start + 2 * longest):
                part = next(parts, None)
                if part is None:
                    limit = samples.end
                    break
                samples.append(part[0])
                speech.append(part[1])
                samples.forget(start)
                speech.forget(begin)
            if start >= limit:  # the recording is over
                return
            end = limit
            if limit - start > longest:
                ahead = speech.take(begin, -(-min(limit, start + 2 * longest) // FRAME))
                cut = cut_frame(ahead, (start + longest) // FRAME - begin)
                end = (begin + cut) * FRAME if cut else start + longest
            yield start, samples.take(start, end)
            start = end


def cut_frame(speech: np.ndarray, limit: int) -> int:
    """Return before which frame a segment that begins in frame 0 ends: as late as possible up to `limit`.

    That is the middle of the last pause, or the limit if it comes sooner and the pause has begun well before.
    The pause that the segment begins in counts only if it reaches the limit, else it would make a segment of
    its own. Without a pause: where speech is least likely in the second half, the last of equals. 0 if there
    is no frame to choose, because the limit is 0.

    Args:
        speech: probabilities float32 [frames], from the segment's first frame to twice the limit, or to the
            end of the stretch.
        limit: last frame that may be cut before.
    """
    begins, ends = find_pauses(speech)
    if len(begins) and begins[0] == 0 and ends[0] >= limit:
        return limit
    cuts = np.minimum((begins + ends) // 2, limit)
    cuts = cuts[(begins > 0) & (cuts - begins >= SHORTEST_PAUSE // 2)]
    if len(cuts):
        return int(cuts[-1])
    half = (limit + 1) // 2
    late = speech[half:limit]
    return limit - 1 - int(late[::-1].argmin()) if len(late) else limit
