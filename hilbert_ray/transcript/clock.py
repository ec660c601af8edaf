"""Times as files write them, in seconds: numbers with a unit, clocks, ISO 8601 durations."""

import math
import re
from collections.abc import Sequence
from dataclasses import replace

from hilbert_ray.document import Seconds
from hilbert_ray.errors import HilbertError
from hilbert_ray.transcript.cue import Cue, Flaw

MILLISECONDS = "transcripts whose times are whole numbers that fit milliseconds and not seconds, read as such"
SLOWEST = 0.05
"""Characters per second below which whole numbers are no seconds: one character in 20 s."""
FASTEST = 200.0
"""Characters per second above which they are no milliseconds either."""
_NUMBER = re.compile(r"([+-]?(?:\d{1,18}(?:[.,]\d{0,18})?|[.,]\d{1,18})(?:[eE][+-]?\d{1,3})?)\s?(s|sec|ms)?")
_CLOCK = re.compile(r"(?:(\d{1,6}):)?(\d{1,6}):(\d{1,6}(?:[.,]\d{0,18})?)")
_ISO = re.compile(r"PT(?=\d)(?:(\d{1,9})H)?(?:(\d{1,9})M)?(?:(\d{1,9}(?:\.\d{0,18})?)S)?")
_UNITS = {None: None, "s": 1.0, "sec": 1.0, "ms": 0.001}


class NoTimeError(HilbertError, ValueError):
    """A value that is no time; the message says how times are written, without the value."""


def seconds(value: object, unit_s: Seconds = 1.0) -> Seconds | None:
    """Return a time in seconds; None if there is none, infinite if it is too large for a number.

    Args:
        value: a number of units; text with a number, with `s` or `ms` behind it, `h:mm:ss.fff`, `m:ss` or
            `PT1H2M3.5S`; `{seconds, nanos}`, as Google writes; or None.
        unit_s: the unit of plain numbers.

    Raises:
        NoTimeError: for anything else.
    """
    if value is None:
        return None
    if isinstance(value, dict) and value.keys() <= {"seconds", "nanos"}:
        return (seconds(value.get("seconds", 0)) or 0.0) + (seconds(value.get("nanos", 0)) or 0.0) * 1e-9
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        try:
            return float(value) if unit_s == 1.0 else float(value) * unit_s
        except OverflowError:  # an integer of hundreds of digits
            return math.inf
    if isinstance(value, str):
        return _from_text(value.strip(), unit_s)
    raise NoTimeError(f"is a {type(value).__name__}, no time")


def _from_text(text: str, unit_s: Seconds) -> Seconds | None:
    if not text or text.lower() in ("nan", "na", "n/a", "none", "null", "<na>"):
        return None
    if match := _NUMBER.fullmatch(text):
        unit = _UNITS[match[2]]
        return float(match[1].replace(",", ".")) * (unit_s if unit is None else unit)
    if match := _CLOCK.fullmatch(text) or _ISO.fullmatch(text):
        hours, minutes, rest = (float((part or "0").replace(",", ".")) for part in match.groups())
        return 3600 * hours + 60 * minutes + rest
    raise NoTimeError("is text that is no time; write seconds, or hours:minutes:seconds")


def is_whole(value: object) -> bool:
    """Whether a value is a whole number, as milliseconds are: an integer, or text of digits."""
    if isinstance(value, str):
        return value.strip().isdecimal()
    return isinstance(value, int) and not isinstance(value, bool)


def of_unknown_unit(cues: Sequence[Cue]) -> tuple[Sequence[Cue], tuple[Flaw, ...]]:
    """Return cues whose times are whole numbers of a unit that the file does not say, in seconds.

    They are seconds unless speech would then be slower than `SLOWEST`, and as milliseconds would not be
    faster than `FASTEST`: speech has about 15 characters per second.
    """
    characters = length = 0.0
    for cue in cues:
        if cue.start_s is not None and cue.end_s is not None and cue.end_s > cue.start_s:
            characters += len(cue.words)
            length += cue.end_s - cue.start_s
    if not characters or not length * SLOWEST > characters or characters * 1000 > FASTEST * length:
        return cues, ()
    return in_milliseconds(cues), (Flaw(MILLISECONDS),)


def in_milliseconds(cues: Sequence[Cue]) -> list[Cue]:
    """Return cues whose times are milliseconds, in seconds."""
    return [
        replace(
            cue,
            start_s=None if cue.start_s is None else cue.start_s / 1000,
            end_s=None if cue.end_s is None else cue.end_s / 1000,
        )
        for cue in cues
    ]
