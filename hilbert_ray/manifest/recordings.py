"""Stretches of recordings (NeMo rows, Lhotse supervisions, Kaldi utterances) joined to documents.

Other programs list the utterances of a recording one by one; a document is the whole recording, with its
utterances as a timed transcript.
"""

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

from hilbert_ray.manifest.rows import BadRow, Record

_PLAIN = (str, int, float, bool)


@dataclass(kw_only=True, slots=True)
class Stretch:
    """A part of a recording: seconds from its start, None where the row is about the whole recording."""

    text: str | None
    start: float | None = None
    end: float | None = None
    speaker: str | None = None
    labels: Mapping[str, Any] = field(default_factory=dict)
    attributes: Mapping[str, Any] = field(default_factory=dict)


def is_number(value: object) -> bool:
    """Whether this is a finite number; to Python, a bool is one too."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def scalars(values: Mapping[str, Any], taken: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return what may be attributes: plain values, of names that are not taken."""
    return {
        key: value
        for key, value in values.items()
        if key not in taken and isinstance(value, _PLAIN) and value != ""
    }


def document(doc_id: str, row: int, audio: str | None, stretches: list[Stretch]) -> Record:
    """Return the row of a recording with its stretches, in order of time.

    A recording of one speaker is of that speaker's group. Labels and attributes are those that all stretches
    share; a label that differs between them is refused, since it is not one of the recording.
    """
    record: dict[str, Any] = {"doc_id": doc_id, "audio": audio}
    # Silence is written as a stretch without words.
    spoken = [each for each in stretches if each.text is not None and each.text.strip() not in ("", "-")]
    timed = [each for each in spoken if each.start is not None]
    if timed and len(timed) < len(spoken):
        return BadRow(f"line {row}: some stretches of {doc_id!r} have times, and others have none", doc_id)
    if timed:
        # Parts of a recording that overlap list the same utterance twice.
        once = {(each.start, each.end, each.speaker, each.text): each for each in timed}
        record["text"] = [
            {"text": each.text, "start": each.start, "end": each.end, "role": each.speaker}
            for each in sorted(once.values(), key=lambda each: (each.start, each.end))
        ]
    elif len(spoken) == 1:
        record["text"] = spoken[0].text
    elif spoken:
        record["text"] = [{"text": each.text, "role": each.speaker} for each in spoken]
    speakers = {each.speaker for each in stretches}
    if len(speakers) == 1 and None not in speakers:
        record["group"] = speakers.pop()
    labels: dict[str, Any] = {}
    for each in stretches:
        for task, value in each.labels.items():
            if labels.setdefault(task, value) != value:
                return BadRow(
                    f"line {row}: stretches of {doc_id!r} differ in the label `{task}`, and a document is a "
                    "whole "
                    "recording; give each stretch a file of its own",
                    doc_id,
                )
    record["labels"] = labels
    first = stretches[0].attributes if stretches else {}
    record["attributes"] = {
        name: value
        for name, value in first.items()
        if all(each.attributes.get(name) == value for each in stretches)
    }
    return record


def joined(parts: Iterator[tuple[int, str, str | None, Stretch] | BadRow]) -> Iterator[Record]:
    """Yield a document for each run of (row, id of the recording, its file, stretch) of one recording.

    A recording whose rows are apart makes an invalid row of every further run, with its id: so no part of it
    passes for the whole.
    """
    seen: set[str] = set()
    for doc_id, run in groupby(parts, key=lambda part: None if isinstance(part, BadRow) else part[1]):
        if doc_id is None:
            yield from (part for part in run if isinstance(part, BadRow))
            continue
        stretches = [part for part in run if not isinstance(part, BadRow)]
        row, _, audio, _ = stretches[0]
        if doc_id in seen:
            yield BadRow(
                f"line {row}: the lines of recording {doc_id!r} are not next to each other; sort the "
                "manifest by "
                "recording",
                doc_id,
            )
            continue
        seen.add(doc_id)
        yield document(doc_id, row, audio, [stretch for _, _, _, stretch in stretches])
