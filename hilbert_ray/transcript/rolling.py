"""Captions that roll: each shows the last line of the one before again, above what is new.

YouTube writes its automatic captions so, with a caption of 10 ms between any two that shows only what is
there already. Read as they stand, every word would be said two or three times.
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

from hilbert_ray.transcript.cue import Cue, Flaw

ROLLING = "rolling captions, each repeating lines of the one before, which are counted once"
GROWING = "growing captions, each repeating the one before with more words, of which the last is kept"
_LEAST = 2


def unroll(cues: Sequence[Cue]) -> tuple[list[Cue], tuple[Flaw, ...]]:
    """Return captions without the lines that repeat the end of the caption before, if captions roll.

    They do where at least two captions of several lines, and half of those, begin with the last line of the
    caption before; one line said twice is no sign of it. Captions of which nothing is left are dropped. They
    grow where at least half of all, and two, begin with all words of the caption before and go on.
    """
    lines = [[line.strip() for line in cue.words.split("\n") if line.strip()] for cue in cues]
    several = [index for index in range(1, len(cues)) if len(lines[index]) > 1]
    rolled = sum(bool(lines[index - 1]) and lines[index][0] == lines[index - 1][-1] for index in several)
    if rolled >= _LEAST and 2 * rolled >= len(several):
        return _without_repeats(cues, lines), (Flaw(ROLLING),)
    grown = [_grows(before, after) for before, after in pairwise(lines)]
    if sum(grown) >= _LEAST and 2 * sum(grown) >= len(grown):
        return _grown(cues, grown), (Flaw(GROWING),)
    return list(cues), ()


def _without_repeats(cues: Sequence[Cue], lines: Sequence[list[str]]) -> list[Cue]:
    kept: list[Cue] = []
    before: list[str] = []
    for cue, shown in zip(cues, lines, strict=True):
        # The longest end of what was shown that this caption begins with; captions have few lines.
        most = min(len(before), len(shown), 8)
        repeated = next((n for n in range(most, 0, -1) if before[-n:] == shown[:n]), 0)
        if shown[repeated:]:
            kept.append(replace(cue, words="\n".join(shown[repeated:])))
        if shown:
            before = shown
    return kept


def _grows(before: list[str], after: list[str]) -> bool:
    first, second = " ".join(before), " ".join(after)
    return bool(first) and len(second) > len(first) and second.startswith(f"{first} ")


def _grown(cues: Sequence[Cue], grown: Sequence[bool]) -> list[Cue]:
    kept: list[Cue] = []
    start = None
    for index, cue in enumerate(cues):
        if start is None:
            start = cue.start_s
        if index < len(grown) and grown[index]:
            continue
        kept.append(replace(cue, start_s=start))
        start = None
    return kept
