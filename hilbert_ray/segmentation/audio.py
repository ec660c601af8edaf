"""Audio as a stream of segments: windows, the transcript's turns, or what lies between `pauses`."""

import heapq
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NoReturn, TypeAlias

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

Stretch: TypeAlias = tuple[Seconds, Seconds, str]
"""Start, end and speaker; empty for an unknown one, or several."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Track:
    """A column of the blocks, whose it is, and the stretches of it to cut in seconds; None for all of it."""

    column: int
    role: str | None
    turns: Sequence[Stretch] | None


def audio_segments(
    document: Document,
    blocks: Iterator[np.ndarray],
    rate_hz: Hertz,
    config: SegmentConfig,
    speakers: Sequence[str] = (),
) -> Iterator[AudioSegment]:
    """Yield the segments of a recording in order of their starts; memory is bounded by the longest segment.

    `window`: windows of window_s every hop_s, the last one shorter. `turns`: one segment per utterance, cut
    above max_s, with its speaker. `pause`: segments without gaps or overlaps, as long as possible up to
    max_s, cut in the middle of pauses. With `roles`, windows or pauses cut the stretches in which these
    speakers speak, each by itself: nothing outside them, everything inside. The pause detector still hears
    what lies between the stretches, so where a pause is does not depend on the roles.

    With `speakers`, each column of the blocks is one speaker's channel and is cut by itself: whole, or where
    the transcript says that this speaker speaks (always with `turns`; with `roles` where it has times). With
    `roles`, only their channels are cut. Segments then overlap in time, and carry the role.

    Args:
        document: names the document, and holds the utterances for `turns` and `roles`.
        blocks: float32 [samples], or [samples, speakers], as `audio.stream` yields them; read to the end.
        rate_hz: their sampling rate.
        config: how to cut.
        speakers: whose channels the columns are; empty for one channel of all speakers.

    Raises:
        DocumentError: when `turns` or `roles` are set and no utterance has times, or an utterance is by
            nobody's channel.
        TimesError: when a turn lies beyond the recording.
        ConfigError: when `pause` lacks its detector, or the rate is not the detector's.
    """
    tracks = _tracks(document, config, speakers)
    recording = CountedBlocks(blocks)
    for start, number, samples, role in _cuts(recording, tracks, rate_hz, config):
        end, track = (start + len(samples)) / rate_hz, tracks[number]
        yield AudioSegment(
            start=start / rate_hz, end=end, samples=samples, role=track.role or role or None,
            channel=track.column,
        )  # fmt: skip
    # Read to the end even where no turn lies: the decoder makes its last checks there, and only then is the
    # true length known against which the turns are checked.
    for _ in recording:
        pass
    if any(track.turns is not None for track in tracks):
        check_times(document, _turns(document), recording.samples / rate_hz)


def _cuts(
    recording: Iterator[np.ndarray], tracks: Sequence[_Track], rate_hz: Hertz, config: SegmentConfig
) -> Iterator[tuple[Samples, int, np.ndarray, str]]:
    """Yield (start, number of the track, samples, speaker) of each segment, in order of the starts."""
    stretches = [
        [(round(start * rate_hz), round(end * rate_hz), role) for start, end, role in track.turns]
        if track.turns is not None
        else [(0, sys.maxsize, "")]
        for track in tracks
    ]
    columns = [track.column for track in tracks]
    # Blocks of one channel have one axis.
    wide = (block[:, None] if block.ndim == 1 else block[:, columns] for block in recording)
    # With lengths below one sample, cutting would never advance.
    longest = max(1, round(config.max_s * rate_hz))
    if config.audio == "pause":
        require_vad(rate_hz)
        bounds = [[(begin, end) for begin, end, _ in of_track] for of_track in stretches]
        return ((*cut, "") for cut in cut_at_pauses(wide, bounds, longest))
    if config.audio == "turns":
        return _windows(wide, stretches, longest, longest)
    window, hop = round(config.window_s * rate_hz), round(config.hop_s * rate_hz)
    return _windows(wide, stretches, max(1, window), max(1, hop))


def expected_seconds(
    document: Document, config: SegmentConfig, duration_s: Seconds, speakers: Sequence[str] = ()
) -> Seconds:
    """Return how much of a recording its segments must cover: all, or the union of the selected turns.

    With `speakers`, the sum over their channels.
    """
    return sum(
        duration_s
        if track.turns is None
        else sum(
            min(end, duration_s) - min(start, duration_s) for start, end, _ in _merge_overlaps(track.turns)
        )
        for track in _tracks(document, config, speakers)
    )


def is_selected(utterance: Utterance, config: SegmentConfig) -> bool:
    """Whether an utterance is by one of `segment.roles`; all are where no roles are set."""
    return not config.roles or utterance.role in config.roles


def _tracks(document: Document, config: SegmentConfig, speakers: Sequence[str]) -> list[_Track]:
    """Return what is cut: the one channel of a recording, or the channels of the speakers to keep.

    Raises:
        DocumentError: when nothing is left to cut, or an utterance is by nobody's channel.
    """
    if not speakers:
        return [_Track(column=0, role=None, turns=_selected_turns(document, config))]
    if config.roles and not set(config.roles) & set(speakers):
        raise DocumentError(
            f"document {document.doc_id!r}: segment.roles are {list(config.roles)}, but its channels are "
            f"named {list(speakers)}; name roles that it has, or correct `channels`"
        )
    kept = [
        (column, role) for column, role in enumerate(speakers) if not config.roles or role in config.roles
    ]
    by_role: dict[str | None, list[Stretch]] = {}
    for u in _turns(document):
        if u.start is not None and u.end is not None and is_selected(u, config):
            by_role.setdefault(u.role, []).append((u.start, u.end, u.role or ""))
    if config.audio == "turns":
        if unknown := sorted({str(role) for role in by_role} - set(speakers)):
            raise DocumentError(
                f"document {document.doc_id!r}: segment.audio `turns` cuts each speaker's channel, named "
                f"{list(speakers)}, but the transcript has turns of {unknown}; name the channels as the "
                "transcript names speakers, or keep only these with segment.roles"
            )
        if not by_role:
            _refuse_without_turns(document, config)
    # Without roles, a channel is its speaker's from start to end; so it is if no times say otherwise.
    has_turns = config.audio == "turns" or (config.roles and not set(speakers).isdisjoint(by_role))
    if not has_turns:
        return [_Track(column=column, role=role, turns=None) for column, role in kept]
    return [
        _Track(column=column, role=role, turns=_sorted(by_role.get(role, ()), config))
        for column, role in kept
    ]


def _selected_turns(document: Document, config: SegmentConfig) -> list[Stretch] | None:
    """Return the stretches to cut, sorted by start; None for the whole recording."""
    if config.audio != "turns" and not config.roles:
        return None
    turns = [
        (u.start, u.end, u.role or "")
        for u in _turns(document)
        if u.start is not None and u.end is not None and is_selected(u, config)
    ]
    if not turns:
        _refuse_without_turns(document, config)
    return _sorted(turns, config)


def _refuse_without_turns(document: Document, config: SegmentConfig) -> NoReturn:
    setting = "segment.audio `turns`" if config.audio == "turns" else f"segment.roles {list(config.roles)}"
    raise DocumentError(
        f"document {document.doc_id!r}: {setting} needs utterances with times (of these roles), and it "
        "has none; add times and roles to the transcript, or cut windows without roles"
    )


def _sorted(turns: Iterable[Stretch], config: SegmentConfig) -> list[Stretch]:
    """Return the stretches in which turns lie, sorted by start."""
    in_order = sorted(turn for turn in turns if turn[1] > turn[0])
    # Turns stay apart even where they overlap: each is one speaker's, and becomes a segment. Windows and
    # pauses cut what anyone of these roles says, once.
    return in_order if config.audio == "turns" else _merge_overlaps(in_order)


def _turns(document: Document) -> tuple[Utterance, ...]:
    return document.text if isinstance(document.text, tuple) else ()


def _merge_overlaps(turns: Sequence[Stretch]) -> list[Stretch]:
    """Return turns, sorted by start, with those that overlap or touch joined; the speakers are lost."""
    merged: list[Stretch] = []
    for start, end, _ in turns:
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]), "")
        else:
            merged.append((start, end, ""))
    return merged


def _windows(
    blocks: Iterator[np.ndarray],
    stretches: Sequence[Sequence[tuple[Samples, Samples, str]]],
    window: Samples,
    hop: Samples,
) -> Iterator[tuple[Samples, int, np.ndarray, str]]:
    """Yield (start, column, samples, speaker) of the windows inside each column's stretches, by starts.

    Args:
        blocks: float32 [samples, columns].
        stretches: (begin, end, speaker) for each column.
        window: samples of a window.
        hop: samples between the starts of two.
    """
    buffer = Buffer()
    # Turns overlap, so the windows of several stretches may be under way at once. Merged by start, the stream
    # is read once, and nothing before the next start is needed any more.
    bounds = (
        _window_bounds(begin, end, column, role, window, hop)
        for column, of_column in enumerate(stretches)
        for begin, end, role in of_column
    )
    for start, end, covered, column, role in heapq.merge(*bounds):
        buffer.drop(start)
        while buffer.end < end and (block := next(blocks, None)) is not None:
            buffer.append(block)
            buffer.drop(start)
        if start >= buffer.end:  # the recording is over
            return
        # At the end of the recording, windows that would only repeat what the last one holds are left out.
        if min(end, buffer.end) > covered:
            yield start, column, np.ascontiguousarray(buffer.copy(start, end)[:, column]), role


def _window_bounds(
    begin: Samples, limit: Samples, column: int, role: str, window: Samples, hop: Samples
) -> Iterator[tuple[Samples, Samples, Samples, int, str]]:
    """Yield (start, end, end of the one before, column, speaker) of the windows that cover a stretch."""
    start = covered = begin
    while covered < limit:
        end = min(start + window, limit)
        yield start, end, covered, column, role
        start, covered = start + hop, end
