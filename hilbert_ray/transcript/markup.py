"""Markup of captions: tags and escapes of WebVTT and SubRip to plain words and who says them.

Only tags that these formats define are markup. What else stands between `<` and `>` is words: people write
`<laughter>`, and `x < y and z > 3`. All expressions take linear time: none can run past the next `<` or `{`.
"""

import html
import re
from typing import NamedTuple

_NAMES = "c|i|b|u|s|v|lang|ruby|rt|font|span|p|em|strong|br"
_TAG = re.compile(
    # Classes follow a point, an annotation or attributes a space.
    rf"<(?P<close>/?)(?P<name>{_NAMES})(?:\.[^\s<>]*)?(?:[ \t\n](?P<note>[^<>]*))?/?>"
    r"|<(?:\d{1,9}:)?\d{1,3}:\d{1,3}(?:[.,]\d{1,9})?>",  # when the words that follow are shown
    re.IGNORECASE,
)
_STYLE = re.compile(r"\{\\[^{}]*\}")  # of SubStation Alpha, as in {\an8}
_ESCAPE = re.compile(r"&(?:#\d{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});")


class Voice(NamedTuple):
    """Words and who says them; None if no tag does."""

    speaker: str | None
    words: str


def unescape(text: str) -> str:
    """Return a text with its escapes as characters; the space that does not break is a space."""
    return _ESCAPE.sub(_character, text) if "&" in text else text


def _character(match: re.Match[str]) -> str:
    # Speech has no line breaks to forbid, and tokenizers know only the ordinary space.
    return " " if match.group() == "&nbsp;" else html.unescape(match.group())


def voices(text: str) -> list[Voice]:
    """Return what the voices of a caption say, in order, without tags; at least one, maybe without words.

    `<v Name>` begins a voice, which `</v>` or the next `<v` ends.
    """
    if "{\\" in text:
        text = _STYLE.sub("", text)
    if "<" not in text:
        return [Voice(None, unescape(text))]
    found: list[tuple[str | None, list[str]]] = []
    speaker: str | None = None
    words: list[str] = []
    position = 0
    for match in _TAG.finditer(text):
        words.append(text[position : match.start()])
        position = match.end()
        name = (match["name"] or "").lower()
        if name == "br":
            words.append("\n")
        elif name == "v":
            _add(found, speaker, words)
            note = "" if match["close"] else (match["note"] or "")
            speaker, words = unescape(" ".join(note.split())) or None, []
    words.append(text[position:])
    _add(found, speaker, words)
    return [Voice(speaker, unescape("".join(words))) for speaker, words in found] or [Voice(None, "")]


def _add(found: list[tuple[str | None, list[str]]], speaker: str | None, words: list[str]) -> None:
    """Add words to what was found: to the last voice if it is the same one."""
    if not any(map(str.strip, words)):
        return
    if found and found[-1][0] == speaker:
        found[-1][1].extend(words)
    else:
        found.append((speaker, words))
