"""Transcripts, inline or in files: plain text, JSON (also that of Whisper and WhisperX), WebVTT, SubRip."""

import json
import re
from collections.abc import Sequence
from typing import Any

from hilbert_ray.document.records import Document, DocumentError, Seconds, TimesError, Utterance, parse_text

OVERHANG_S = 0.5
"""Seconds that a transcript may run past its recording, because formats and transcribers round times."""
# Hours are optional in WebVTT; before milliseconds, WebVTT has a point and SubRip a comma.
_CUE = re.compile(r"(?:(\d+):)?(\d{1,2}):(\d{2})[.,](\d{3})\s+-->\s+(?:(\d+):)?(\d{1,2}):(\d{2})[.,](\d{3})")
_VOICE = re.compile(r"<v(?:\.[^ >]*)?\s+([^>]+)>")


def check_times(document: Document, utterances: Sequence[Utterance], duration_s: Seconds) -> None:
    """Check that no utterance ends more than `OVERHANG_S` after the recording does.

    Raises:
        TimesError: naming the document, the utterance, its end and the length of the recording.
    """
    # Only ends: `parse_text` has checked that each utterance starts before it ends.
    ends = [utterance.end for utterance in utterances if utterance.end is not None]
    if ends and max(ends) > duration_s + OVERHANG_S:
        raise TimesError(
            f"document {document.doc_id!r}: utterance {ends.index(max(ends))} ends at {max(ends):.2f} s, but "
            f"the recording lasts {duration_s:.2f} s; write times in seconds from the start of this "
            "recording, or pair the transcript with the recording it belongs to"
        )


def check_text_kind(document: Document) -> str:
    """Return the format of `text_file` by the ending of its name; empty if there is no file.

    Raises:
        DocumentError: if the format is unknown.
    """
    path = document.text_file
    if path is None:
        return ""
    kind = path.rpartition(".")[2].lower()
    if kind not in ("txt", "json", "vtt", "srt"):
        raise DocumentError(
            f"document {document.doc_id!r}: text_file {path} ends in .{kind}; use .txt, .json, .vtt or .srt"
        )
    return kind


def load_text(document: Document) -> str | tuple[Utterance, ...] | None:
    """Return the transcript, reading `text_file` (.txt, .json, .vtt or .srt) if the document has one.

    Raises:
        DocumentError: if the file is absent, of an unknown format, or without a transcript.
    """
    if document.text_file is None:
        return document.text
    import fsspec

    doc_id, path = document.doc_id, document.text_file
    kind = check_text_kind(document)
    try:
        # `utf-8-sig`: editors on Windows write a byte-order mark, which JSON refuses and text would keep.
        with fsspec.open(path, "rt", encoding="utf-8-sig") as file:
            content = file.read()
    except FileNotFoundError:
        raise DocumentError(
            f"document {doc_id!r}: there is no text_file {path}; correct the path or write null"
        ) from None
    except UnicodeDecodeError as error:
        raise DocumentError(f"document {doc_id!r}: text_file {path} is not UTF-8 text: {error}") from None
    if kind == "txt":
        return parse_text(doc_id, content)
    if kind == "json":
        try:
            values = json.loads(content)
        except json.JSONDecodeError as error:
            raise DocumentError(f"document {doc_id!r}: text_file {path} is not valid JSON: {error}") from None
        return parse_text(doc_id, _from_whisper(values))
    return parse_text(doc_id, _parse_cues(doc_id, path, content))


def _from_whisper(values: object) -> object:
    """Return the utterances of Whisper or WhisperX output; other JSON is returned as it is."""
    if not isinstance(values, dict) or "segments" not in values:
        return values
    # Whisper also writes tokens, words and probabilities: only what an utterance has is taken.
    keys = {"text": "text", "start": "start", "end": "end", "speaker": "role"}
    return [{new: item[old] for old, new in keys.items() if old in item} for item in values["segments"]]


def _parse_cues(doc_id: str, path: str, content: str) -> list[dict[str, Any]]:
    """Read WebVTT or SubRip cues; `<v Speaker>` becomes the role, other tags are dropped."""
    cues: list[dict[str, Any]] = []
    for block in re.split(r"\r?\n\s*\r?\n", content):
        lines = block.strip().splitlines()
        # Lines before the times are a cue's number or name; blocks without times are headers, styles or
        # notes.
        times_line = next((i for i, line in enumerate(lines) if "-->" in line), None)
        if times_line is None:
            continue
        match = _CUE.search(lines[times_line])
        if match is None:
            raise DocumentError(
                f"document {doc_id!r}: {path} has an invalid cue time {lines[times_line]!r}; write it as in "
                "00:00:01.000 --> 00:00:02.500"
            )
        parts = [int(part or 0) for part in match.groups()]
        start, end = (3600 * h + 60 * m + s + ms / 1000 for h, m, s, ms in (parts[:4], parts[4:]))
        body = " ".join(lines[times_line + 1 :])
        voice = _VOICE.search(body)
        cue: dict[str, Any] = {"text": re.sub(r"<[^>]*>", "", body).strip(), "start": start, "end": end}
        if voice:
            cue["role"] = voice.group(1).strip()
        cues.append(cue)
    if not cues:
        raise DocumentError(f"document {doc_id!r}: {path} has no cues; write null if there is no transcript")
    return cues
