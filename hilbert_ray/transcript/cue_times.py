"""The line with the times of a caption, as WebVTT and SubRip have it and as tools write it in fact."""

import re
from typing import NamedTuple

from hilbert_ray.document import Seconds

# Tools leave out hours and fractions, write one digit for two, a comma or a point, or spaces around colons.
# Every repetition is bounded, so that a line costs the same whatever it holds.
_TIME = r"(-?)(?:(?:(\d{1,9}) ?: ?)?(\d{1,9}) ?: ?)?(\d{1,9})(?: ?([.,:]) ?(\d{1,9}))?"
_LINE = re.compile(rf"{_TIME}[ \t]{{0,9}}-{{1,3}}(?:>|&gt;)[ \t]{{0,9}}{_TIME}(?=[ \t]|$)")
_SETTING = re.compile(r"[A-Za-z][A-Za-z0-9]{0,19}:\S+")


class CueTimes(NamedTuple):
    """What a line of times says; `rest`: words on it, which belong to the caption."""

    start_s: Seconds
    end_s: Seconds
    rest: str


def parse_times(line: str) -> CueTimes | None:
    """Return the times of a line; None if it has none.

    Settings after the times (`align:start`, `X1:40`) are about the place on the screen and are dropped.
    """
    line = line.strip()
    match = _LINE.match(line)
    if match is None:
        return None
    start, end = _seconds(*match.groups()[:6]), _seconds(*match.groups()[6:])
    if start is None or end is None:
        return None
    rest = line[match.end() :]
    return CueTimes(start, end, "" if _is_settings(rest) else rest.strip())


def has_arrow(line: str) -> bool:
    """Whether a line has the arrow that times have between them."""
    return "-->" in line or "--&gt;" in line


def _is_settings(rest: str) -> bool:
    return all(_SETTING.fullmatch(word) for word in rest.split())


def _seconds(
    sign: str, hours: str | None, minutes: str | None, seconds: str, point: str | None, fraction: str | None
) -> Seconds | None:
    if minutes is None and fraction is None:
        return None  # a bare number is more likely part of what is said
    # After a colon, three digits are milliseconds, but two are frames of a length that nobody states.
    if point == ":" and (hours is None or len(fraction or "") != 3):
        return None
    whole = 3600.0 * int(hours or 0) + 60 * int(minutes or 0) + int(seconds)
    value = whole + (int(fraction) / 10 ** len(fraction) if fraction else 0)
    return -value if sign else value
