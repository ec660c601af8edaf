"""Audio as a stream of segments: windows, the transcript's turns, or what lies between `pauses`."""

import heapq
import sys
from collections.abc import Iterator, Sequence

import numpy as np

from hilbert_ray.config import SegmentConfig
from hilbert_ray.document import (
    AudioSegment,
    Document,
    DocumentError,
    Hertz,
    Samples,
    Seconds,
    Utterance,
    check_times,
)
from hilbert_ray.segmentation.buffer import Buffer
from hilbert_ray.segmentation.pauses import cut_at_pauses
from hilbert_ray.segmentation.vad import require_vad


def audio_segments(
    document: Document, blocks: Iterator[np.ndarray], rate_hz: Hertz, config: SegmentConfig
) -> Iterator[AudioSegment]:
    """Yield the segments of a recording in order of their starts; memory is bounded by the longest segment.

    `window`: windows of window_s every hop_s, the last one shorter. `turns`: one segment an utterance, cut
    above max_s. `pause`: segments without gaps or overlaps, as long as possible up to max_s, cut in the
    middle of pauses. With `roles`, windows or pauses cut the stretches in which these speakers speak, each by
    itself: nothing outside them, everything inside. The detector of pauses still hears what lies between the
    stretches, so where a pause is does not depend on the roles.

    Args:
        document: names the document, and holds the utterances for `turns` and `roles`.
        blocks: mono float32 samples, as `audio.stream` yields them; read to the end.
        rate_hz: their sampling rate.
        config: how to cut.

    Raises:
        DocumentError: when `turns` or `roles` find no times.
        TimesError: when a turn lies beyond the recording.
        ConfigError: when `pause` lacks its detector, or the rate is not the detector's.
    """
    spans = _wanted_spans(document, config)
    total = 0

    def counted() -> Iterator[np.ndarray]:
        nonlocal total
        for block in blocks:
            total += len(block)
            yield block

    samples = counted()
    stretches = [(0, sys.maxsize)]
    if spans is not None:
        stretches = [(round(start * rate_hz), round(end * rate_hz)) for start, end in spans]
    # A length below one sample would never get on.
    longest = max(1, round(config.max_s * rate_hz))
    if config.audio == "pause":
        require_vad(rate_hz)
        cuts = cut_at_pauses(samples, stretches, longest)
    elif config.audio == "turns":
        cuts = _windows(samples, stretches, longest, longest)
    else:
        window, hop = round(config.window_s * rate_hz), round(config.hop_s * rate_hz)
        cuts = _windows(samples, stretches, max(1, window), max(1, hop))
    for start, cut in cuts:
        yield AudioSegment(start=start / rate_hz, end=(start + len(cut)) / rate_hz, samples=cut)
    for _ in samples:  # the decoder's last checks come at the very end
        pass
    if spans is not None:
        check_times(document, _turns(document), total / rate_hz)


def wanted_seconds(document: Document, config: SegmentConfig, duration_s: Seconds) -> Seconds:
    """Return how much of a recording its segments must cover: all, or the union of the wanted turns."""
    spans = _wanted_spans(document, config)
    if spans is None:
        return duration_s
    return sum(min(end, duration_s) - min(start, duration_s) for start, end in _union(spans))


def is_wanted(utterance: Utterance, config: SegmentConfig) -> bool:
    """Whether an utterance's speaker is among the roles that are kept."""
    return not config.roles or utterance.role in config.roles


def _wanted_spans(document: Document, config: SegmentConfig) -> list[tuple[Seconds, Seconds]] | None:
    """Return the stretches to cut, sorted by start; None for the whole recording."""
    if config.audio != "turns" and not config.roles:
        return None
    asked = "segment.audio `turns`" if config.audio == "turns" else f"segment.roles {list(config.roles)}"
    spans = [
        (u.start, u.end)
        for u in _turns(document)
        if u.start is not None and u.end is not None and is_wanted(u, config)
    ]
    if not spans:
        raise DocumentError(
            f"document {document.doc_id!r}: {asked} needs utterances with times (of these roles), and it has "
            "none; add times and roles to the transcript, or cut windows without roles"
        )
    spans = sorted((start, end) for start, end in spans if end > start)
    return spans if config.audio == "turns" else _union(spans)


def _turns(document: Document) -> tuple[Utterance, ...]:
    return document.text if isinstance(document.text, tuple) else ()


def _union(spans: Sequence[tuple[Seconds, Seconds]]) -> list[tuple[Seconds, Seconds]]:
    joined: list[tuple[Seconds, Seconds]] = []
    for start, end in spans:
        if joined and start <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
        else:
            joined.append((start, end))
    return joined


def _windows(
    blocks: Iterator[np.ndarray], stretches: Sequence[tuple[Samples, Samples]], window: Samples, hop: Samples
) -> Iterator[tuple[Samples, np.ndarray]]:
    """Yield (start, samples) of the windows inside each stretch, in order of their starts."""
    held = Buffer()
    laid = (_laid(begin, end, window, hop) for begin, end in stretches)
    for start, end, covered in heapq.merge(*laid):
        held.forget(start)
        while held.end < end and (block := next(blocks, None)) is not None:
            held.append(block)
            held.forget(start)
        if start >= held.end:  # the recording is over
            return
        if min(end, held.end) > covered:
            yield start, held.take(start, end)


def _laid(
    begin: Samples, limit: Samples, window: Samples, hop: Samples
) -> Iterator[tuple[Samples, Samples, Samples]]:
    """Yield (start, end, end of the one before) of the windows that cover a stretch."""
    start = covered = begin
    while covered < limit:
        end = min(start + window, limit)
        yield start, end, covered
        start, covered = start + hop, end
