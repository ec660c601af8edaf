"""Fills: what an encoder with an input of one length, such as the 30 s of Whisper, hears in one go.

It takes as long for a short segment as for a full input, so consecutive segments are laid into one input, of
which each is pooled over its own time.
"""

from collections.abc import Iterable, Iterator
from dataclasses import replace

import numpy as np

from hilbert_ray.document import AudioSegment, Hertz, Samples


def heard_together(
    segments: Iterable[AudioSegment], length: Samples, rate_hz: Hertz
) -> Iterator[tuple[AudioSegment, ...]]:
    """Yield the segments of one recording in groups, each with the audio that its group is heard in.

    A fill holds as many consecutive segments of one channel as fit, and nothing else: what they overlap is
    in it once, and where audio between two of them is nobody's segment, they are joined. So fills are a
    function of the document and the settings alone.

    Args:
        segments: in order of their starts.
        length: most samples of a fill; a segment above it gets one to itself. 0: each is heard alone.
        rate_hz: sampling rate of the segments.

    Yields:
        The segments of one fill, in order of their starts; fills in the order in which they end.
    """
    # The channels of several speakers are cut each by itself, and are heard each by itself.
    by_channel: dict[int, _Fill] = {}
    for segment in segments:
        if not length:
            yield (segment,)
            continue
        start = round(segment.start * rate_hz)
        fill = by_channel.get(segment.channel)
        if fill is not None and not fill.has_room(start, segment, length):
            yield fill.closed()
            fill = None
        if fill is None:
            fill = by_channel[segment.channel] = _Fill()
        fill.add(start, segment)
    for fill in by_channel.values():
        yield fill.closed()


class _Fill:
    """A fill under way: its segments, and the audio of them that is no other's yet."""

    def __init__(self) -> None:
        # Without its samples, which overlap those of others: with its place in the fill.
        self.placed: list[tuple[AudioSegment, Samples, Samples]] = []
        self.pieces: list[np.ndarray] = []
        self.size: Samples = 0
        self.end: Samples = 0  # where in the recording the last piece ends

    def _offset(self, start: Samples) -> Samples:
        """Return where in the fill a segment that starts here in the recording begins."""
        return self.size - max(self.end - start, 0)

    def has_room(self, start: Samples, segment: AudioSegment, length: Samples) -> bool:
        return self._offset(start) + len(segment.samples) <= length

    def add(self, start: Samples, segment: AudioSegment) -> None:
        offset = self._offset(start)
        bare = replace(segment, samples=np.empty(0, np.float32))
        self.placed.append((bare, offset, offset + len(segment.samples)))
        new = segment.samples[self.size - offset :]
        if len(new):
            self.pieces.append(new)
            self.size += len(new)
            self.end = start + len(segment.samples)

    def closed(self) -> tuple[AudioSegment, ...]:
        """Return its segments, with the fill and their places in it."""
        whole = self.pieces[0] if len(self.pieces) == 1 else np.concatenate(self.pieces)
        return tuple(
            # Views, so that what waits for the encoder is in memory once.
            replace(one, samples=whole[begin:end], fill=whole, offset=begin)
            for one, begin, end in self.placed
        )
