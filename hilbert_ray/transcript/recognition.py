"""Whether a text is of some format beyond doubt, judged by how it begins."""

import re

_SUBRIP = re.compile(r"\s{0,99}(?:\d{1,9}[ \t]*\r?\n)?[ \t]*\d{1,3}:\d{1,2}:\d{1,2}(?:[.,]\d{1,9})?[ \t]*-->")


def is_webvtt(text: str) -> bool:
    """Whether a text has the signature of WebVTT."""
    return bool(re.match(r"\s{0,99}WEBVTT(?![^\s])", text))


def is_subrip(text: str) -> bool:
    """Whether a text begins with a SubRip cue: its number, which may be missing, and its times."""
    return _SUBRIP.match(text) is not None


def is_json(text: str) -> bool:
    """Whether a text begins as a JSON object or a list of objects do, which speech never does."""
    return bool(re.match(r'\s{0,99}(?:\{\s{0,99}"|\[\s{0,99}\{\s{0,99}")', text))


def is_textgrid(text: str) -> bool:
    """Whether a text begins as Praat's files do."""
    return text.startswith(('File type = "ooTextFile', '"ooTextFile', "ooBinaryFile"))


def is_chat(text: str) -> bool:
    """Whether a text begins with the headers of CHAT."""
    return bool(re.match(r"(?:@UTF8|@Begin)\s", text))
