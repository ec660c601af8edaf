"""Whether a text is of some format beyond doubt, judged by how it begins."""

import re

_SUBRIP = re.compile(
    r"\s{0,99}(?:\d{1,9}[ \t]{0,9}\r?\n)?[ \t]{0,9}\d{1,3}:\d{1,2}:\d{1,2}(?:[.,]\d{1,9})?[ \t]{0,9}-->"
)


_FOREIGN = (
    (
        b"version https://git-lfs.github.com/spec/",
        "a pointer of Git LFS; fetch the file with `git lfs pull`",
    ),
    (b"%PDF-", "a PDF; export its text"),
    (b"{\\rtf", "rich text; export it as plain text"),
    (b"PK\x03\x04", "an archive or a document of a word processor; unpack it, or export its text"),
    (b"\x1f\x8b", "compressed by gzip; unpack it"),
    (b"<!doctype html", "a web page, maybe of an error or a login; download the transcript itself"),
    (b"<html", "a web page, maybe of an error or a login; download the transcript itself"),
)


def foreign(data: bytes) -> str | None:
    """Return what a file is and what to do, where it plainly holds no transcript whatever its name says."""
    start = data[:1024].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    return next((what for mark, what in _FOREIGN if start.startswith(mark.lower())), None)


def is_webvtt(text: str) -> bool:
    """Whether a text has the signature of WebVTT."""
    return bool(re.match(r"\s{0,99}WEBVTT(?![^\s])", text))


def is_subrip(text: str) -> bool:
    """Whether a text begins with a SubRip cue: its number, which may be missing, and its times."""
    return _SUBRIP.match(text) is not None


def is_sbv(text: str) -> bool:
    """Whether a text begins with the times of an SBV caption."""
    return (
        re.match(r"\s{0,99}\d{1,3}:\d\d:\d\d\.\d{3},\d{1,3}:\d\d:\d\d\.\d{3}[ \t]{0,9}\n", text) is not None
    )


def is_json(text: str) -> bool:
    """Whether a text begins as a JSON object or a list of objects do, which speech never does."""
    return bool(re.match(r'\s{0,99}(?:\{\s{0,99}"|\[\s{0,99}\{\s{0,99}")', text))


def is_textgrid(text: str) -> bool:
    """Whether a text begins as Praat's files do."""
    return text.startswith(('File type = "ooTextFile', '"ooTextFile', "ooBinaryFile"))


def is_chat(text: str) -> bool:
    """Whether a text begins with the headers of CHAT."""
    return bool(re.match(r"(?:@UTF8|@Begin)\s", text))
