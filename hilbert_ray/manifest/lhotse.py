"""Lhotse manifests as JSON lines: cuts, or recordings with their supervisions beside them.

Source: `MonoCut`, `Recording` and `SupervisionSegment` in Lhotse's documentation. Nothing is executed or
fetched: audio that a command makes, or that is kept in memory, is refused.
"""

import glob
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import fsspec

from hilbert_ray.manifest.json_lines import Lines
from hilbert_ray.manifest.recordings import Stretch, document, is_number, joined, scalars
from hilbert_ray.manifest.rows import BadRow, ManifestError, Record, Source, blocks_of
from hilbert_ray.storage import require_regular

NOTE = "read as cuts of Lhotse: a document for each recording, its supervisions being utterances"
_PAIR_NOTE = "read as recordings of Lhotse with the supervisions of {}"
_ALONE = "read as recordings of Lhotse; there are no supervisions beside them, and so no transcripts"
_TAKEN = ("id", "recording_id", "start", "duration", "channel", "text", "speaker", "custom", "alignment")
_Part = tuple[int, str, str | None, Stretch]


def is_cut(row: Mapping[str, Any]) -> bool:
    """Whether a row is a cut."""
    return row.get("type") in ("MonoCut", "MultiCut", "MixedCut", "PaddingCut") or (
        "supervisions" in row and "recording" in row
    )


def is_recording(row: Mapping[str, Any]) -> bool:
    """Whether a row is a recording."""
    return "id" in row and isinstance(row.get("sources"), list) and "sampling_rate" in row


def is_supervision(row: Mapping[str, Any]) -> bool:
    """Whether a row is a supervision: a stretch of a recording and what is said in it."""
    return "recording_id" in row and "start" in row and "duration" in row and "sources" not in row


def cuts(rows: Iterator[Record]) -> Iterator[Record]:
    """Yield the documents of cuts, which must be next to each other for each recording."""
    return joined(part for number, row in enumerate(rows, start=1) for part in _cut(number, row))


def _cut(number: int, row: Record) -> Iterator[_Part | BadRow]:
    if isinstance(row, BadRow):
        yield row
        return
    recording = row.get("recording")
    kind = row.get("type", "MonoCut")
    if kind not in ("MonoCut", "MultiCut") or not isinstance(recording, dict):
        what = "has no recording" if kind in ("MonoCut", "MultiCut") else f"is a {kind}"
        yield BadRow(
            f"line {number} {what}; a document is a recording: save the audio with `cuts.save_audios(...)` "
            "first"
        )
        return
    audio = _audio(number, recording)
    start = row.get("start", 0)
    if isinstance(audio, BadRow) or not is_number(start):
        yield (
            audio if isinstance(audio, BadRow) else BadRow(f"line {number}: start is {start!r}, not seconds")
        )
        return
    supervisions, custom = row.get("supervisions") or [], row.get("custom") or {}
    if not isinstance(supervisions, list) or not isinstance(custom, dict):
        yield BadRow(
            f"line {number}: supervisions must be a list, and custom a mapping, as Lhotse writes them"
        )
        return
    custom = scalars(custom)
    if not supervisions:
        yield number, str(recording.get("id")), audio, Stretch(text=None, attributes=custom)
    for supervision in supervisions:
        stretch = _supervised(number, supervision, float(start), custom)
        yield stretch if isinstance(stretch, BadRow) else (number, str(recording.get("id")), audio, stretch)


def _supervised(
    number: int, supervision: object, offset: float, custom: Mapping[str, Any]
) -> Stretch | BadRow:
    """Return the stretch of a supervision, whose times start at `offset` seconds of the recording."""
    values = supervision if isinstance(supervision, dict) else {}
    start, duration = values.get("start"), values.get("duration")
    if not (is_number(start) and is_number(duration)):
        return BadRow(f"line {number}: a supervision has no start and duration in seconds")
    text, speaker, own = values.get("text"), values.get("speaker"), values.get("custom") or {}
    if text is not None and not isinstance(text, str):
        return BadRow(f"line {number}: the text of a supervision is of type {type(text).__name__}")
    if not isinstance(own, dict):
        return BadRow(
            f"line {number}: custom of a supervision is of type {type(own).__name__}, not a mapping"
        )
    # Not before the recording: a supervision may begin before its cut.
    begin = max(0.0, offset + float(start))  # type: ignore[arg-type]
    return Stretch(
        text=text,
        start=begin,
        end=max(begin, offset + float(start) + float(duration)),  # type: ignore[arg-type]
        speaker=None if speaker is None else str(speaker),
        attributes={**custom, **scalars(values, _TAKEN), **scalars(own)},
    )


def _audio(number: int, recording: Mapping[str, Any]) -> str | BadRow:
    """Return the file of a recording."""
    name = str(recording.get("id") or "")
    sources = recording.get("sources")
    sources = sources if isinstance(sources, list) else [sources]
    kinds = [source.get("type") if isinstance(source, dict) else source for source in sources]
    if len(kinds) != 1 or not isinstance(sources[0], dict) or kinds[0] not in ("file", "url"):
        return BadRow(
            f"line {number}: recording {name!r} has the sources {kinds}; it must be one file (or url): save "
            "the "
            "audio as files first, with `cuts.save_audios(...)`",
            name,
        )
    if recording.get("transforms"):
        return BadRow(
            f"line {number}: recording {name!r} has transforms, which are not applied here; save the audio "
            "with "
            "`cuts.save_audios(...)` first",
            name,
        )
    return str(sources[0].get("source"))


def pair_in(folder: str) -> str | None:
    """Return the recordings (or cuts) that a folder holds; None if there are none, or several."""
    for pattern in ("*recordings*.jsonl*", "*cuts*.jsonl*"):
        found = glob.glob(os.path.join(glob.escape(folder), pattern))
        if len(found) == 1:
            return found[0]
    return None


def open_pair(manifest: str, folder: str, is_recordings: bool, block_bytes: int) -> Source:
    """Open recordings with the supervisions beside them, of the same name but for that word.

    Raises:
        ManifestError: if there are supervisions and no recordings.
    """
    head, slash, name = manifest.rpartition("/")
    recordings = manifest if is_recordings else head + slash + name.replace("supervisions", "recordings")
    supervisions = head + slash + recordings.rpartition("/")[2].replace("recordings", "supervisions")
    if not is_recordings and (recordings == manifest or not _exists(recordings)):
        raise ManifestError(
            f"manifest {manifest} holds supervisions of Lhotse, and there are no recordings beside it "
            f"({recordings}): "
            "put them there, or make cuts of both"
        )
    has_text = supervisions != recordings and _exists(supervisions)
    note = _PAIR_NOTE.format(supervisions) if has_text else _ALONE
    records = _pairs(recordings, supervisions if has_text else None)
    return Source(contents=blocks_of(records, block_bytes), folder=folder, notes=[note])


def _exists(uri: str) -> bool:
    filesystem, path = fsspec.core.url_to_fs(uri)
    return bool(filesystem.exists(path))


def _rows(manifest: str) -> Iterator[Record]:
    require_regular(manifest)
    with fsspec.open(manifest, "rb", compression="infer") as file:
        for row, line in enumerate(file, start=1):
            yield from Lines(manifest=manifest, lines=line).records(row)


def _pairs(recordings: str, supervisions: str | None) -> Iterator[Record]:
    """Yield the documents of recordings; supervisions are held in memory, by recording."""
    spoken: dict[str, list[Stretch]] = {}
    faults: list[BadRow] = []
    for number, row in enumerate(() if supervisions is None else _rows(supervisions), start=1):
        stretch = row if isinstance(row, BadRow) else _supervised(number, row, 0.0, {})
        if isinstance(stretch, BadRow):
            owner = "" if isinstance(row, BadRow) else str(row.get("recording_id") or "")
            faults.append(BadRow(f"{stretch.message} (in {supervisions})", owner))
        elif not isinstance(row, BadRow):
            spoken.setdefault(str(row.get("recording_id")), []).append(stretch)
    for number, row in enumerate(_rows(recordings), start=1):
        if isinstance(row, BadRow):
            yield row
            continue
        name = str(row.get("id"))
        audio = _audio(number, row)
        stretches: Sequence[Stretch] = spoken.pop(name, [])
        yield audio if isinstance(audio, BadRow) else document(name, number, audio, list(stretches))
    yield from faults
    for name, stretches in spoken.items():
        yield BadRow(f"{len(stretches)} supervisions are of recording {name!r}, which is not in {recordings}")
