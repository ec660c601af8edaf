"""NeMo manifests: JSON lines with `audio_filepath`, one row per utterance of a recording.

Source: the "Preparing data" pages of NeMo's documentation of ASR, classification and diarisation.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from hilbert_ray.manifest.recordings import Stretch, is_number, joined, scalars
from hilbert_ray.manifest.rows import BadRow, Record

NOTE = (
    "read as a NeMo manifest: a document for each `audio_filepath`, its rows with `offset` and `duration` "
    "being "
    "utterances"
)
_TEXTS = ("text", "transcript")
_TAKEN = ("audio_filepath", "offset", "duration", "text", "transcript", "speaker", "speaker_id", "label")


def is_nemo(row: Mapping[str, Any]) -> bool:
    """Whether a row is one of NeMo's."""
    return "audio_filepath" in row and "doc_id" not in row


def documents(rows: Iterator[Record]) -> Iterator[Record]:
    """Yield the documents of NeMo's rows, which must be next to each other for each recording."""
    return joined(_stretch(number, row) for number, row in enumerate(rows, start=1))


def _stretch(number: int, row: Record) -> tuple[int, str, str | None, Stretch] | BadRow:
    if isinstance(row, BadRow):
        return row
    path = row.get("audio_filepath")
    if isinstance(path, list):
        return BadRow(
            f"line {number} names several files in audio_filepath; a document is one recording: join them"
        )
    if not isinstance(path, str) or not path:
        return BadRow(f"line {number}: audio_filepath is {path!r}; it must name a file")
    offset, duration = row.get("offset"), row.get("duration")
    for name, value in ("offset", offset), ("duration", duration):
        if value is not None and (not is_number(value) or not 0 <= value < float("inf")):
            return BadRow(f"line {number}: {name} is {value!r}; it must be seconds from 0 on", path)
    if offset is not None and duration is None and offset > 0:
        return BadRow(f"line {number} has an offset and no duration; where its words end is unknown", path)
    text = next((row[name] for name in _TEXTS if row.get(name) is not None), None)
    if text is not None and not isinstance(text, str):
        return BadRow(f"line {number}: text is of type {type(text).__name__}; it must be a string", path)
    speaker = row.get("speaker", row.get("speaker_id"))
    start = end = None
    if offset is not None and duration is not None:
        start, end = float(offset), float(offset) + float(duration)
    stretch = Stretch(
        text=text,
        start=start,
        end=end,
        speaker=None if speaker is None else str(speaker),
        labels={"label": row["label"]} if row.get("label") not in (None, "", "infer") else {},
        attributes=scalars(row, _TAKEN),
    )
    return number, path, path, stretch
