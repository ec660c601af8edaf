"""From cues to utterances: rules that repair one flaw at the cost of a warning, not of the document.

1. Times that are no times (NaN, infinite) count as missing, and so does an end before its start. A start up
   to `OVERHANG_S` before the recording is 0.
2. Cues that are not in the order of their starts are sorted by it; those of one start keep their order.
3. Missing times: neighbours share what lies between the known times around them, in proportion to their
   characters. Before the first and after the last known time, where nothing limits them, speech is taken to
   run at `CHARACTERS_PER_S`.
4. Overlaps are kept as they are: people do speak at once. Those of one speaker by more than `OVERHANG_S` are
   reported.

Without any time, cues become utterances without times. What has times for fewer than half of its cues, or
times that cannot be seconds of a recording, is refused.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

from hilbert_ray.document import Seconds, Utterance
from hilbert_ray.transcript.cue import Cue, Flaw, FormatError
from hilbert_ray.transcript.times import OVERHANG_S

CHARACTERS_PER_S = 15.0
"""How fast speech is taken to be where no time says it: about 150 words per minute."""
LONGEST_S = 10_000 * 3600.0
"""No recording is longer; what is, is in milliseconds or is no time."""
NO_TIMES = "utterances whose start or end is missing, filled in from their neighbours"
NOT_A_TIME = "utterances whose start or end is no finite number, filled in from their neighbours"
BACKWARDS = "utterances that end before they start, their end filled in from their neighbours"
BEFORE_ZERO = "utterances that start a moment before the recording, moved to its start"
UNORDERED = "utterances out of order, sorted by their start"
OVERLAP = f"utterances that overlap an earlier one of the same speaker by more than {OVERHANG_S:g} s, kept"
CHARACTERS = "utterances with characters that are no text (zero bytes, half pairs), removed or replaced"


def repair(cues: Sequence[Cue]) -> tuple[tuple[Utterance, ...], tuple[Flaw, ...]]:
    """Return the utterances of cues in order, and what had to be repaired.

    Raises:
        FormatError: when there are no words, or the times cannot be repaired.
    """
    counts: dict[str, int] = {}
    cues = [_clean(cue, counts) for cue in cues]
    if not any(cue.words.strip() for cue in cues):
        raise FormatError("has no words; write null if there is no transcript")
    cues = [_checked(index, cue, counts) for index, cue in enumerate(cues)]
    timed = sum(cue.start_s is not None or cue.end_s is not None for cue in cues)
    if not timed and NOT_A_TIME in counts:
        raise FormatError("has no time that is a finite number; write seconds, or leave the times out")
    if timed:
        if 2 * timed < len(cues):
            raise FormatError(
                f"has times for {timed} of {len(cues)} utterances; missing times are filled in where at "
                "least half have some: add times, or remove them all"
            )
        # Once more, as ends alone may have given starts before those of earlier cues.
        cues = _ordered(_filled(_ordered(cues, counts), counts), counts)
        _count_overlaps(cues, counts)
    utterances = tuple(
        Utterance(text=cue.words, start=cue.start_s, end=cue.end_s, role=cue.speaker) for cue in cues
    )
    return utterances, tuple(Flaw(kind, count) for kind, count in counts.items())


def _count(counts: dict[str, int], kind: str, by: int = 1) -> None:
    counts[kind] = counts.get(kind, 0) + by


def clean_text(text: str) -> str:
    """Return a text without zero bytes, and with U+FFFD for half pairs, which UTF-8 cannot hold."""
    if text.isascii():
        return text.replace("\0", "")
    return text.replace("\0", "").encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _clean(cue: Cue, counts: dict[str, int]) -> Cue:
    words = clean_text(cue.words)
    speaker = None if cue.speaker is None else clean_text(cue.speaker)
    if words == cue.words and speaker == cue.speaker:
        return cue
    _count(counts, CHARACTERS)
    return replace(cue, words=words, speaker=speaker)


def _checked(index: int, cue: Cue, counts: dict[str, int]) -> Cue:
    """Return a cue with times that are seconds of a recording, or None."""
    start, end = cue.start_s, cue.end_s
    if start is None and end is None:
        return cue
    start, end = _finite(start), _finite(end)
    if (start is None) != (cue.start_s is None) or (end is None) != (cue.end_s is None):
        _count(counts, NOT_A_TIME)
    for value in (start, end):
        if value is not None and not -OVERHANG_S <= value <= LONGEST_S:
            raise FormatError(
                f"has an utterance {index} with the time {value:g} s; times are seconds from the start of "
                f"the recording, from 0 to {LONGEST_S:g}"
            )
    if start is not None and start < 0:
        start, end = 0.0, None if end is None else max(end, 0.0)
        _count(counts, BEFORE_ZERO)
    if start is not None and end is not None and end < start:
        end = None
        _count(counts, BACKWARDS)
    elif start is None and end is not None:
        end = max(end, 0.0)
    return Cue(cue.words, start, end, cue.speaker)


def _finite(value: Seconds | None) -> Seconds | None:
    """Return a time as a float; None if it is none."""
    if value is None:
        return None
    try:
        value = float(value)
    except OverflowError:  # an integer of hundreds of digits
        return None
    return value if math.isfinite(value) else None


def _ordered(cues: list[Cue], counts: dict[str, int]) -> list[Cue]:
    """Return cues sorted by start; those without one stay behind the cue that they follow."""
    keys: list[Seconds] = []
    latest, late = 0.0, 0
    for cue in cues:
        keys.append(cue.start_s if cue.start_s is not None else keys[-1] if keys else 0.0)
        late += keys[-1] < latest
        latest = max(latest, keys[-1])
    if not late:
        return cues
    _count(counts, UNORDERED, late)
    return [cues[index] for index in sorted(range(len(cues)), key=keys.__getitem__)]


def _filled(cues: list[Cue], counts: dict[str, int]) -> list[Cue]:
    """Return cues in order, all with times."""
    filled: list[Cue] = []
    begin = 0
    while begin < len(cues):
        # A run of cues between two known times, with none known inside.
        stop = begin + 1
        while stop < len(cues) and cues[stop - 1].end_s is None and cues[stop].start_s is None:
            stop += 1
        run = cues[begin:stop]
        if len(run) == 1 and run[0].start_s is not None and run[0].end_s is not None:
            filled += run
        else:
            # Those whose bad value was counted already are not counted again as missing.
            _count(counts, NO_TIMES, len(run))
            following = cues[stop].start_s if stop < len(cues) else None
            filled += _spread(run, filled[-1].end_s if filled else None, following)
        begin = stop
    repaired = counts.get(BACKWARDS, 0) + counts.get(NOT_A_TIME, 0)
    if NO_TIMES in counts and (missing := max(0, counts.pop(NO_TIMES) - repaired)):
        counts[NO_TIMES] = missing
    return filled


def _spread(run: list[Cue], before: Seconds | None, following: Seconds | None) -> list[Cue]:
    """Return cues that share the time from the first one's start to the last one's end.

    Args:
        run: cues of which only the first may have a start, and only the last an end.
        before: where the cue before the run ends; None if there is none.
        following: where the cue after it starts; None if there is none.
    """
    sizes = [max(1, len(cue.words)) for cue in run]
    total = sum(sizes)
    estimate = total / CHARACTERS_PER_S
    start = run[0].start_s
    end = run[-1].end_s if run[-1].end_s is not None else following
    if start is None and before is None:
        start = max(0.0, end - estimate) if end is not None else 0.0
    elif start is None:
        start = before if end is None else min(before or 0.0, end)
    assert start is not None
    # Overlapping neighbours leave nothing between them.
    end = start + estimate if end is None else max(start, end)
    filled, passed = [], 0
    for cue, size in zip(run, sizes, strict=True):
        first = start + (end - start) * passed / total
        passed += size
        last = end if passed == total else start + (end - start) * passed / total
        filled.append(replace(cue, start_s=first, end_s=max(first, last)))
    return filled


def _count_overlaps(cues: Sequence[Cue], counts: dict[str, int]) -> None:
    ends: dict[str | None, Seconds] = {}
    overlaps = 0
    for cue in cues:
        assert cue.start_s is not None
        assert cue.end_s is not None
        overlaps += cue.start_s + OVERHANG_S < ends.get(cue.speaker, 0.0)
        ends[cue.speaker] = max(cue.end_s, ends.get(cue.speaker, 0.0))
    if overlaps:
        counts[OVERLAP] = overlaps
