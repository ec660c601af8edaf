"""Plain text: one string, the turns of speakers whose names begin lines, or lines that begin with times."""

import re
from dataclasses import replace

from hilbert_ray.transcript.cue import Cue, Flaw, Reading
from hilbert_ray.transcript.cue_times import parse_times
from hilbert_ray.transcript.speakers import KEPT, accepted_names, find_prefix, split_turns, take_speakers

_TIMES = re.compile(r"[ \t]{0,20}\[(?P<times>[0-9:., ]{1,40}-->[0-9:., ]{1,40})\](?P<words>.*)")
_START = re.compile(
    # A name and the time alone on the line, or a time and words.
    r"(?P<name>[^\W\d][^:\[\](){}<>\n]{0,59}?[ \t]{1,9})?"
    r"[\[(]?(?P<time>(?:\d{1,3}:)?[0-5]?\d:[0-5]\d(?:[.,]\d{1,3})?)[\])]?"
    r"(?:[ \t]?[-–:])?(?P<words>(?(name)|[ \t]+.*)|)"  # noqa: RUF001
)
OTHER_LINES = "lines without times among lines with times, taken as words of the one before"


def read(text: str) -> str | Reading:
    """Return a text, as the turns of speakers if names that recur begin its lines, and else as it is.

    Lines such as `[00:01.000 --> 00:02.500] words`, which Whisper prints, become cues.
    """
    lines = text.split("\n")
    if _TIMES.match(next((line for line in lines if line.strip()), "")):
        return _timed(lines)
    if (timed := _below_starts(lines)) is not None:
        return timed
    found = [find_prefix(line) for line in lines if line.strip()]
    accepted = accepted_names(found, is_caption=False)
    named = sum(one is not None and one.rank > 0 and one.name not in accepted for one in found)
    flaws = (Flaw(KEPT, named),) if named else ()
    if not accepted:
        return Reading(text, flaws)
    turns = split_turns([line for line in lines if line.strip()], accepted)
    return Reading([Cue(" ".join(words.split("\n")), speaker=speaker) for speaker, words in turns], flaws)


def _below_starts(lines: list[str]) -> Reading | None:
    """Return cues that begin with their start; None unless at least two times rise, on a quarter of lines."""
    spoken = [line for line in lines if line.strip()]
    found = [_START.fullmatch(line.strip()) for line in spoken]
    starts = [_seconds(match["time"]) for match in found if match is not None]
    if len(starts) < 2 or 4 * len(starts) < len(spoken) or starts != sorted(starts):
        return None
    cues: list[Cue] = []
    for line, match in zip(spoken, found, strict=True):
        if match is not None:
            name = " ".join((match["name"] or "").split()) or None
            cues.append(Cue((match["words"] or "").strip(), _seconds(match["time"]), None, name))
        elif cues:
            cues[-1] = replace(cues[-1], words=f"{cues[-1].words}\n{line.strip()}".strip())
        else:
            cues.append(Cue(line.strip()))
    cues, flaws = take_speakers(cues)
    return Reading([replace(cue, words=cue.words.replace("\n", " ")) for cue in cues], flaws)


def _seconds(time: str) -> float:
    seconds = 0.0
    for part in time.replace(",", ".").split(":"):
        seconds = 60 * seconds + float(part)
    return seconds


def _timed(lines: list[str]) -> Reading:
    cues: list[Cue] = []
    others = 0
    for line in lines:
        match = _TIMES.match(line)
        times = parse_times(match["times"]) if match else None
        if match and times is not None:
            cues.append(Cue(match["words"].strip(), times.start_s, times.end_s))
        elif line.strip() and cues:
            others += 1
            cues[-1] = replace(cues[-1], words=f"{cues[-1].words} {line.strip()}")
        elif line.strip():
            cues.append(Cue(line.strip()))
    return Reading(cues, (Flaw(OTHER_LINES, others),) if others else ())
