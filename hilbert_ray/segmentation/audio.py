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
)
from hilbert_ray.segmentation.buffer import Buffer, CountedBlocks
from hilbert_ray.segmentation.pauses import cut_at_pauses
from hilbert_ray.segmentation.vad import require_vad
from hilbert_ray.transcript import check_times


def audio_segments(
    document: Document, blocks: Iterator[np.ndarray], rate_hz: Hertz, config: SegmentConfig
) -> Iterator[AudioSegment]:
    """Yield the segments of a recording in order of their starts; memory is bounded by the longest segment.

    `window`: windows of window_s every hop_s, the last one shorter. `turns`: one segment per utterance, cut
    above max_s. `pause`: segments without gaps or overlaps, as long as possible up to max_s, cut in the
    middle of pauses. With `roles`, windows or pauses cut the stretches in which these speakers speak, each by
    itself: nothing outside them, everything inside. The pause detector still hears what lies between the
    stretches, so where a pause is does not depend on the roles.

    Args:
        document: names the document, and holds the utterances for `turns` and `roles`.
        blocks: mono float32 [samples], as `audio.stream` yields them; read to the end.
        rate_hz: their sampling rate.
        config: how to cut.

    Raises:
        DocumentError: when `turns` or `roles` are set and no utterance has times.
        TimesError: when a turn lies beyond the recording.
        ConfigError: when `pause` lacks its detector, or the rate is not the detector's.
    """
    turns = _selected_turns(document, config)
    recording = CountedBlocks(blocks)
    for start, samples in _cuts(recording, turns, rate_hz, config):
        yield AudioSegment(start=start / rate_hz, end=(start + len(samples)) / rate_hz, samples=samples)
    # Read to the end even where no turn lies: the decoder makes its last checks there, and only then is the
    # true length known against which the turns are checked.
    for _ in recording:
        pass
    if turns is not None:
        check_times(document, _turns(document), recording.samples / rate_hz)


def _cuts(
    recording: Iterator[np.ndarray],
    turns: Sequence[tuple[Seconds, Seconds]] | None,
    rate_hz: Hertz,
    config: SegmentConfig,
) -> Iterator[tuple[Samples, np.ndarray]]:
    """Yield (start, samples) of each segment."""
    stretches = [(0, sys.maxsize)]
    if turns is not None:
        stretches = [(round(start * rate_hz), round(end * rate_hz)) for start, end in turns]
    # With lengths below one sample, cutting would never advance.
    longest = max(1, round(config.max_s * rate_hz))
    if config.audio == "pause":
        require_vad(rate_hz)
        return cut_at_pauses(recording, stretches, longest)
    if config.audio == "turns":
        return _windows(recording, stretches, longest, longest)
    window, hop = round(config.window_s * rate_hz), round(config.hop_s * rate_hz)
    return _windows(recording, stretches, max(1, window), max(1, hop))


def expected_seconds(document: Document, config: SegmentConfig, duration_s: Seconds) -> Seconds:
    """Return how much of a recording its segments must cover: all, or the union of the selected turns."""
    turns = _selected_turns(document, config)
    if turns is None:
        return duration_s
    return sum(min(end, duration_s) - min(start, duration_s) for start, end in _merge_overlaps(turns))


def is_selected(utterance: Utterance, config: SegmentConfig) -> bool:
    """Whether an utterance is by one of `segment.roles`; all are where no roles are set."""
    return not config.roles or utterance.role in config.roles


def _selected_turns(document: Document, config: SegmentConfig) -> list[tuple[Seconds, Seconds]] | None:
    """Return the stretches to cut, sorted by start; None for the whole recording."""
    if config.audio != "turns" and not config.roles:
        return None
    setting = "segment.audio `turns`" if config.audio == "turns" else f"segment.roles {list(config.roles)}"
    turns = [
        (u.start, u.end)
        for u in _turns(document)
        if u.start is not None and u.end is not None and is_selected(u, config)
    ]
    if not turns:
        raise DocumentError(
            f"document {document.doc_id!r}: {setting} needs utterances with times (of these roles), and it "
            "has none; add times and roles to the transcript, or cut windows without roles"
        )
    turns = sorted((start, end) for start, end in turns if end > start)
    # Turns stay apart even where they overlap: each is one speaker's, and becomes a segment. Windows and
    # pauses cut what anyone of these roles says, once.
    return turns if config.audio == "turns" else _merge_overlaps(turns)


def _turns(document: Document) -> tuple[Utterance, ...]:
    return document.text if isinstance(document.text, tuple) else ()


def _merge_overlaps(turns: Sequence[tuple[Seconds, Seconds]]) -> list[tuple[Seconds, Seconds]]:
    """Return turns, sorted by start, with those that overlap or touch joined."""
    merged: list[tuple[Seconds, Seconds]] = []
    for start, end in turns:
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged


def _windows(
    blocks: Iterator[np.ndarray], stretches: Sequence[tuple[Samples, Samples]], window: Samples, hop: Samples
) -> Iterator[tuple[Samples, np.ndarray]]:
    """Yield (start, samples) of the windows inside each stretch, in order of their starts."""
    buffer = Buffer()
    # Turns overlap, so the windows of several stretches may be under way at once. Merged by start, the stream
    # is read once, and nothing before the next start is needed any more.
    bounds = (_window_bounds(begin, end, window, hop) for begin, end in stretches)
    for start, end, covered in heapq.merge(*bounds):
        buffer.drop(start)
        while buffer.end < end and (block := next(blocks, None)) is not None:
            buffer.append(block)
            buffer.drop(start)
        if start >= buffer.end:  # the recording is over
            return
        # At the end of the recording, windows that would only repeat what the last one holds are left out.
        if min(end, buffer.end) > covered:
            yield start, buffer.copy(start, end)


def _window_bounds(
    begin: Samples, limit: Samples, window: Samples, hop: Samples
) -> Iterator[tuple[Samples, Samples, Samples]]:
    """Yield (start, end, end of the one before) of the windows that cover a stretch."""
    start = covered = begin
    while covered < limit:
        end = min(start + window, limit)
        yield start, end, covered
        start, covered = start + hop, end
