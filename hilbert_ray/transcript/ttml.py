"""TTML and DFXP (also IMSC, EBU-TT, Netflix's and iTunes' XML): paragraphs become utterances.

Times of a paragraph count from the start of what holds it; spans with times of their own are utterances of
their own. The speaker is that of `ttm:agent`, by its name where the head gives one. Line breaks become
spaces; metadata, styles and ruby readings are not read.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from xml.etree.ElementTree import Element

from hilbert_ray.document import Seconds
from hilbert_ray.transcript.cue import Cue, FormatError
from hilbert_ray.transcript.xml_tree import attribute, local, named, tree

_CLOCK = re.compile(r"(\d{2,6}):(\d{1,2}):(\d{1,2})(\.\d{1,18})?(?::(\d{1,6})(?:\.(\d{1,6}))?)?")
_OFFSET = re.compile(r"(\d{1,18}(?:\.\d{1,18})?)(h|ms|m|s|f|t)")
_DROPPED = frozenset(("metadata", "set", "rt", "rp", "rtc", "title", "desc", "agent"))
_UNITS: Mapping[str, Seconds] = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}


@dataclass(frozen=True, slots=True)
class Rates:
    """What a frame and a tick are, in seconds."""

    frame_s: Seconds
    tick_s: Seconds


@dataclass(frozen=True, slots=True)
class Scope:
    """What an element inherits: where its times begin and end, and who speaks."""

    start_s: Seconds = 0.0
    end_s: Seconds | None = None
    is_timed: bool = False
    speaker: str | None = None


def read(data: bytes) -> list[Cue]:
    """Return the cues of a TTML file.

    Raises:
        FormatError: if it is no TTML, or has a time that is none.
    """
    root = tree(data)
    if local(root) != "tt":
        raise FormatError(
            f"is XML with the root {local(root)[:40]!r}, but that of TTML is tt; export it again"
        )
    rates = _rates(root)
    agents = dict(_agents(root))
    body = next((one for one in root if local(one) == "body"), None)
    if body is None:
        return []
    # The depth is bounded by `tree`.
    return [cue for cue in _below(body, Scope(), rates, agents) if cue.words]


def _below(element: Element, above: Scope, rates: Rates, agents: Mapping[str, str]) -> Iterator[Cue]:
    """Yield the cues of body, div and p, in the order of the file."""
    if local(element) in _DROPPED:
        return
    scope = _scope(element, above, rates, agents)
    if local(element) == "p":
        yield from _paragraph(element, scope, rates, agents)
        return
    is_sequence = attribute(element, "timeContainer") == "seq"
    latest = scope.start_s
    for child in element:
        # In a sequence, each child begins where the one before ends.
        inside = replace(scope, start_s=latest) if is_sequence else scope
        for cue in _below(child, inside, rates, agents):
            latest = cue.end_s if cue.end_s is not None else latest
            yield cue


def _scope(element: Element, above: Scope, rates: Rates, agents: Mapping[str, str]) -> Scope:
    begin, end, length = (_time(element, name, rates) for name in ("begin", "end", "dur"))
    start = above.start_s + (begin or 0.0)
    ends = [
        above.end_s,
        None if end is None else above.start_s + end,
        None if length is None else start + length,
    ]
    said_by = attribute(element, "agent")
    # Of several agents, the first is taken.
    name = above.speaker if not said_by else agents.get(said_by.split()[0], said_by.split()[0])
    is_timed = above.is_timed or begin is not None or end is not None or length is not None
    known = [one for one in ends if one is not None]
    return Scope(start, min(known) if known else None, is_timed, name)


def _paragraph(paragraph: Element, scope: Scope, rates: Rates, agents: Mapping[str, str]) -> Iterator[Cue]:
    """Yield the cue of a paragraph; or one for each stretch of spans with times of their own."""
    parts: list[tuple[Scope, str]] = [(scope, paragraph.text or "")]
    for child in paragraph:
        parts += _inline(child, scope, rates, agents)
        parts.append((scope, child.tail or ""))
    groups: list[tuple[Scope, list[str]]] = []
    for one, text in parts:
        if groups and (groups[-1][0] == one or not text.strip()):
            groups[-1][1].append(text)
        else:
            groups.append((one, [text]))
    for one, texts in groups:
        words = " ".join("".join(texts).split())
        if words:
            start = one.start_s if one.is_timed else None
            yield Cue(words, start, one.end_s, one.speaker)


def _inline(
    element: Element, above: Scope, rates: Rates, agents: Mapping[str, str]
) -> list[tuple[Scope, str]]:
    if local(element) in _DROPPED:
        return []
    if local(element) == "br":
        return [(above, " ")]
    scope = _scope(element, above, rates, agents)
    parts = [(scope, element.text or "")]
    for child in element:
        parts += _inline(child, scope, rates, agents)
        parts.append((scope, child.tail or ""))
    return parts


def _agents(root: Element) -> Iterator[tuple[str, str]]:
    """Yield the identifier and name of each agent of the head."""
    for agent in named(root, "agent"):
        identifier = attribute(agent, "id")
        name = next(("".join(one.itertext()).strip() for one in named(agent, "name")), "")
        if identifier and name:
            yield identifier, name


def _rates(root: Element) -> Rates:
    """Return the rates that the root declares: 30 frames per second and their ticks where it says nothing."""
    frames = _positive(root, "frameRate") or 30.0
    parts = (attribute(root, "frameRateMultiplier") or "1 1").replace(":", " ").split()
    if len(parts) != 2 or not all(re.fullmatch(r"0*[1-9]\d{0,8}", part) for part in parts):
        raise FormatError("has a frameRateMultiplier that is not two whole numbers; export it again")
    frames_per_s = frames * int(parts[0]) / int(parts[1])
    sub = _positive(root, "subFrameRate") or 1.0
    ticks = _positive(root, "tickRate") or (frames_per_s * sub if attribute(root, "frameRate") else 1.0)
    return Rates(1 / frames_per_s, 1 / ticks)


def _positive(root: Element, name: str) -> float | None:
    value = attribute(root, name)
    if value is None:
        return None
    if not re.fullmatch(r"0{0,9}[1-9]\d{0,11}", value.strip()):
        raise FormatError(f"has a {name} that is no whole number above 0; export it again")
    return float(value)


def _time(element: Element, name: str, rates: Rates) -> Seconds | None:
    """Return a time expression in seconds (TTML 2, section 12.3.1); None if there is none.

    Raises:
        FormatError: naming the attribute.
    """
    value = attribute(element, name)
    if value is None or not value.strip() or value.strip() == "indefinite":
        return None
    if match := _OFFSET.fullmatch(value.strip()):
        unit = match[2]
        if unit == "f":
            return float(match[1]) * rates.frame_s
        if unit == "t":
            return float(match[1]) * rates.tick_s
        return float(match[1]) / 1000 if unit == "ms" else float(match[1]) * _UNITS[unit]
    if match := _CLOCK.fullmatch(value.strip()):
        hours, minutes, whole = (int(part) for part in match.groups()[:3])
        exact = float(f"{3600 * hours + 60 * minutes + whole}{match[4] or ''}")
        return exact + int(match[5] or 0) * rates.frame_s
    raise FormatError(
        f"has a {local(element)} whose {name} is no time of TTML; times are as in 00:00:01.500, "
        f"00:00:01:12 or 1.5s"
    )
