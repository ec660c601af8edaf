"""Plain text: one string, the turns of speakers whose names begin lines, or lines that begin with times."""

import re
from dataclasses import replace

from hilbert_ray.transcript.cue import Cue, Flaw, FormatError, Reading
from hilbert_ray.transcript.cue_times import parse_times
from hilbert_ray.transcript.speakers import KEPT, accepted_names, find_prefix, split_turns

_TIMES = re.compile(r"[ \t]{0,20}\[(?P<times>[0-9:., ]{1,40}-->[0-9:., ]{1,40})\](?P<words>.*)")
OTHER_LINES = "lines without times among lines with times, taken as words of the one before"


def read(text: str) -> str | Reading:
    """Return a text, as the turns of speakers if names that recur begin its lines, and else as it is.

    Lines such as `[00:01.000 --> 00:02.500] words`, which Whisper prints, become cues.

    Raises:
        FormatError: if it is no text: other files are named .txt, too.
    """
    if text.startswith(("{\\rtf", "%PDF-", "PK\x03\x04")):
        raise FormatError("is a document of a word processor; export it as plain text")
    lines = text.split("\n")
    if _TIMES.match(next((line for line in lines if line.strip()), "")):
        return _timed(lines)
    found = [find_prefix(line) for line in lines if line.strip()]
    accepted = accepted_names(found, is_caption=False)
    named = sum(one is not None and one.rank > 0 and one.name not in accepted for one in found)
    flaws = (Flaw(KEPT, named),) if named else ()
    if not accepted:
        return Reading(text, flaws)
    turns = split_turns([line for line in lines if line.strip()], accepted)
    return Reading([Cue(" ".join(words.split("\n")), speaker=speaker) for speaker, words in turns], flaws)


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
