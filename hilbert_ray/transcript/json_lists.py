"""Transcripts as JSON: a string, a list of utterances, or the segments of Whisper and WhisperX."""

import json
from typing import Any

from hilbert_ray.transcript.cue import Cue, FormatError


def read(text: str) -> str | list[Cue]:
    """Return the cues of a JSON file.

    Raises:
        FormatError: if it is not JSON, or not of a shape that is read.
    """
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"is not valid JSON: {error}") from None
    if isinstance(values, str):
        return values
    items = values.get("segments") if isinstance(values, dict) else values
    if not isinstance(items, list):
        raise FormatError(
            f"holds a JSON {type(values).__name__}; write a string, a list of strings, a list of {{text, "
            "start?, end?, role?}, or the output of Whisper with `segments`"
        )
    return [_cue(index, item) for index, item in enumerate(items)]


def _cue(index: int, item: Any) -> Cue:  # noqa: ANN401 - anything may be in JSON
    if isinstance(item, str):
        return Cue(item)
    if not isinstance(item, dict) or not isinstance(item.get("text"), str):
        raise FormatError(
            f"has an utterance {index} of type {type(item).__name__} without a string `text`; it must be a "
            "string, or hold one"
        )
    times = [item.get(name) for name in ("start", "end")]
    for name, value in zip(("start", "end"), times, strict=True):
        if value is not None and (not isinstance(value, (int, float)) or isinstance(value, bool)):
            raise FormatError(
                f"has an utterance {index} whose {name} is a {type(value).__name__}; times are seconds"
            )
    role = item.get("role", item.get("speaker"))
    return Cue(item["text"], times[0], times[1], None if role is None else str(role))
