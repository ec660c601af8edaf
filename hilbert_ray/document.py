"""A document, its segments, and the manifest that lists documents.

Records are small frozen values; audio and text files are opened only when someone asks. `read_manifest`
yields each row as a `Document` or as a `Fault` that says what is wrong with it, so that no row vanishes on
the way.
"""

import csv
import gc
import json
import math
import os
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from typing import IO, Any, BinaryIO, TypeAlias, TypeVar

import msgspec
import numpy as np

Seconds: TypeAlias = float
Hertz: TypeAlias = int
Samples: TypeAlias = int
Label: TypeAlias = str | int | float | bool | list[str] | dict[str, int | None]

T = TypeVar("T")
FIELDS = ("doc_id", "audio", "text", "text_file", "group", "labels", "split")
_FIELDS = frozenset(FIELDS)
SPLITS = ("train", "validation", "test")
OVERHANG_S = 0.5
"""How far a transcript may reach beyond its recording, seconds (formats and transcribers round)."""
_ROWS_LISTED = 10
_PROCESSES = 8
"""Most processes that read a manifest; more would wait for the one that hands out its blocks."""
_BLOCK_BYTES = 2**23
_RECORD_BYTES = 128
"""What a record takes in a block besides its strings."""


class DocumentError(ValueError):
    """A fault of one document; its message names the document, the value, the rule and what to do."""


class TimesError(DocumentError):
    """Utterances whose times lie beyond the end of the recording."""


class ManifestError(ValueError):
    """A manifest that cannot be read at all."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Utterance:
    """A stretch of transcript; times in seconds from the start of the recording, None where unknown."""

    text: str
    start: Seconds | None = None
    end: Seconds | None = None
    role: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Document:
    """One recording with its transcript; lacks at most one of the two.

    `audio` and `text_file` are absolute paths or URIs. `text` is one string (to be split into sentences), or
    utterances as given. `group` is what must never straddle folds. A label that is None or absent is
    unlabelled.
    """

    doc_id: str
    audio: str | None = None
    text: str | tuple[Utterance, ...] | None = None
    text_file: str | None = None
    group: str = ""
    labels: Mapping[str, Label] = field(default_factory=dict)
    split: str | None = None

    @property
    def has_text(self) -> bool:
        """Whether a transcript is given, inline or as a file."""
        return self.text is not None or self.text_file is not None


@dataclass(frozen=True, kw_only=True, slots=True)
class AudioSegment:
    """A stretch of mono audio: `samples` float32 [n] at the encoder's rate, times in seconds."""

    start: Seconds
    end: Seconds
    samples: np.ndarray


@dataclass(frozen=True, kw_only=True, slots=True)
class TextSegment:
    """A stretch of text; times in seconds, or the position in [0, 1] where the transcript has no times."""

    start: Seconds
    end: Seconds
    text: str


Segment: TypeAlias = AudioSegment | TextSegment


@dataclass(frozen=True, kw_only=True, slots=True)
class Fault:
    """A manifest row that is no valid document. `row` counts from 1 (a header line is not counted)."""

    row: int
    doc_id: str
    stage: str
    error: str
    message: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Block:
    """Some rows of a manifest that are not checked yet: what one process works on at a time.

    They are lines of JSON, or the records of other kinds of manifests; paths inside are relative to `folder`
    and must lie below one of `roots`, if there are any.
    """

    manifest: str
    folder: str
    roots: tuple[str, ...] = ()
    first_row: int = 1
    lines: bytes = b""
    records: Sequence[Mapping[str, Any]] = ()

    def rows(self) -> Iterator[tuple[int, Document | Fault]]:
        """Yield (row, document or fault) for each row.

        Raises:
            ManifestError: when a line is not UTF-8.
        """
        for row, record in enumerate(self._records(), start=self.first_row):
            if isinstance(record, str):
                message = f"row {row} {record}; each line must be one JSON object"
                fault = Fault(row=row, doc_id="", stage="manifest", error="DocumentError", message=message)
                yield row, fault
                continue
            try:
                yield row, parse_document(record, self.folder, self.roots)
            except DocumentError as error:
                yield (
                    row,
                    Fault(
                        row=row,
                        doc_id=_id_of(record),
                        stage="manifest",
                        error=type(error).__name__,
                        message=str(error),
                    ),
                )

    def ids(self) -> Iterator[str]:
        """Yield the id of each row as `rows` would, empty where it has none."""
        return ("" if isinstance(record, str) else _id_of(record) for record in self._records())

    def _records(self) -> Iterator[Mapping[str, Any] | str]:
        """Yield the fields of each row, or what is wrong with its line."""
        yield from self.records
        for line in self.lines.splitlines():
            if not line.strip():
                continue
            try:
                record = _read_json(line)
            except UnicodeDecodeError as error:
                raise ManifestError(
                    f"manifest {self.manifest} cannot be read as .jsonl: {error} of a line of {len(line)} "
                    "bytes; save it as UTF-8"
                ) from None
            except (ValueError, RecursionError) as error:
                yield f"is not valid JSON ({error})"
            else:
                yield record if isinstance(record, dict) else f"is a JSON {type(record).__name__}"


def read_manifest(uri: str, roots: Sequence[str] = ()) -> Iterator[tuple[int, Document | Fault]]:
    """Yield (row, document or fault) for each row of a JSONL, CSV or Parquet manifest, in order, streaming.

    Paths inside are taken relative to the manifest; a row that names a file outside all of `roots` is a fault
    (no roots: any file may be named). Ids that stand in several rows are not noticed here (that needs the
    whole manifest); see `duplicate_fault`.

    Raises:
        ManifestError: when the file is absent, of another kind, or not readable as its kind.
    """
    for block in _blocks(uri, roots):
        yield from block.rows()


def map_blocks(function: Callable[[Block], T], uri: str, roots: Sequence[str] = ()) -> Iterator[T]:
    """Yield what a function makes of each block of a manifest, in order, streaming; roots as `read_manifest`.

    A manifest of several blocks is worked on by several processes, so the function and what it returns must
    be picklable. A few blocks are held at a time.

    Raises:
        ManifestError: as `read_manifest`.
    """
    from joblib.externals.loky import ProcessPoolExecutor, cpu_count  # type: ignore[import-untyped]

    blocks = _blocks(uri, roots)
    first = list(islice(blocks, 2))
    processes = min(cpu_count(), _PROCESSES)
    if len(first) < 2 or processes < 2:
        yield from map(function, chain(first, blocks))
        return
    # Unlike the standard library's, these processes do not import the program that is running again.
    with ProcessPoolExecutor(processes) as pool:
        going: deque[Future[T]] = deque()
        for block in chain(first, blocks):
            going.append(pool.submit(_apply, function, block))
            if len(going) > processes + 1:
                yield going.popleft().result()
        while going:
            yield going.popleft().result()


def _apply(function: Callable[[Block], T], block: Block) -> T:
    """Call a function in a process of its own, where looking for garbage would only cost time (a fifth)."""
    gc.disable()
    try:
        return function(block)
    finally:
        gc.enable()


def files_of(rows: Iterable[tuple[int, Document | Fault]]) -> Iterator[str]:
    """Yield the audio and text files that the documents of some rows name."""
    for _, item in rows:
        if isinstance(item, Document):
            if item.audio is not None:
                yield item.audio
            if item.text_file is not None:
                yield item.text_file


def duplicate_fault(row: int, doc_id: str, rows: list[int]) -> Fault:
    """Return the fault of one of several rows that share an id: which of them is meant cannot be known."""
    more = f" and {len(rows) - _ROWS_LISTED} more" if len(rows) > _ROWS_LISTED else ""
    listed = ", ".join(map(str, rows[:_ROWS_LISTED])) + more
    message = f"doc_id {doc_id!r} stands in rows {listed}; ids must be unique: give each document its own"
    return Fault(row=row, doc_id=doc_id, stage="manifest", error="DuplicateIdError", message=message)


def _folder_of(uri: str) -> str:
    """Return what relative paths in a manifest are relative to."""
    return uri.rpartition("/")[0] if "://" in uri else os.path.dirname(os.path.abspath(uri))


def _blocks(uri: str, roots: Sequence[str] = ()) -> Iterator[Block]:
    """Cut a manifest into blocks, by the kind that its name tells."""
    import fsspec

    empty = Block(manifest=uri, folder=_folder_of(uri), roots=tuple(map(_below, roots)))
    kind = uri.rpartition(".")[2].lower()
    try:
        if kind == "jsonl":
            with fsspec.open(uri, "rb") as file:
                yield from _json_blocks(empty, file)
        elif kind == "csv":
            with fsspec.open(uri, "rt", encoding="utf-8", newline="") as file:
                yield from _record_blocks(empty, _csv_records(file))
        elif kind == "parquet":
            with fsspec.open(uri, "rb") as file:
                yield from _record_blocks(empty, _parquet_records(file))
        else:
            raise ManifestError(f"manifest {uri} ends in .{kind}; the kinds are .jsonl, .csv and .parquet")
    except FileNotFoundError:
        raise ManifestError(
            f"no manifest at {uri}; give the path of a .jsonl, .csv or .parquet file"
        ) from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise ManifestError(f"manifest {uri} cannot be read as .{kind}: {error}") from error
    except ValueError as error:  # pyarrow.ArrowInvalid is a ValueError
        if isinstance(error, ManifestError) or kind != "parquet":
            raise
        raise ManifestError(f"manifest {uri} cannot be read as Parquet: {error}") from error


def _json_blocks(empty: Block, file: BinaryIO) -> Iterator[Block]:
    row, rest = 1, b""
    while data := file.read(_BLOCK_BYTES):
        lines, end, rest = (rest + data).rpartition(b"\n")
        if end:
            yield replace(empty, first_row=row, lines=lines)
            row += sum(1 for line in lines.splitlines() if line.strip())
    if rest:
        yield replace(empty, first_row=row, lines=rest)


def _record_blocks(empty: Block, records: Iterator[Mapping[str, Any]]) -> Iterator[Block]:
    row, size = 1, 0
    held: list[Mapping[str, Any]] = []
    for record in records:
        held.append(record)
        size += _RECORD_BYTES + sum(len(value) for value in record.values() if isinstance(value, str))
        if size >= _BLOCK_BYTES:
            yield replace(empty, first_row=row, records=held)
            row, size, held = row + len(held), 0, []
    if held:
        yield replace(empty, first_row=row, records=held)


def _csv_records(file: IO[str]) -> Iterator[dict[str, Any]]:
    for values in csv.DictReader(file):
        yield _unflatten({k: v for k, v in values.items() if k is not None and v not in ("", None)})


def _parquet_records(file: BinaryIO) -> Iterator[dict[str, Any]]:
    import pyarrow.parquet as pq

    for batch in pq.ParquetFile(file).iter_batches(batch_size=1024):
        yield from map(_unflatten, batch.to_pylist())


def _read_json(data: str | bytes) -> object:
    """Parse JSON whose strings can be written again.

    Raises:
        ValueError: when it is no JSON, is not UTF-8, or an escape names half of a character.
        RecursionError: when it is nested too deeply.
    """
    try:
        return msgspec.json.decode(data)
    except ValueError:  # the standard library reads a little more, such as NaN, and says better what is wrong
        text = data if isinstance(data, str) else data.decode()
        value = json.loads(text)
        if "\\u" in text:
            json.dumps(value, ensure_ascii=False).encode()
        return value


def _id_of(record: Mapping[str, Any]) -> str:
    doc_id = record.get("doc_id")
    return doc_id if isinstance(doc_id, str) else ""


def _unflatten(values: Mapping[str, Any]) -> dict[str, Any]:
    """Gather columns `labels.<task>` under `labels`; read JSON cells of `text` and `labels`; drop nulls."""
    record: dict[str, Any] = {}
    for key, value in values.items():
        if value is None:
            continue
        if key.startswith("labels."):
            record.setdefault("labels", {})[key.removeprefix("labels.")] = value
        elif key in ("text", "labels") and isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
            try:
                record[key] = _read_json(value)
            except (ValueError, RecursionError):
                record[key] = value
        else:
            record[key] = value
    return record


def parse_document(record: Mapping[str, Any], folder: str = "", roots: Sequence[str] = ()) -> Document:
    """Check one manifest row and return its document. What people said is in no message.

    Args:
        record: a row of a manifest: doc_id, audio, text or text_file, group, labels, split.
        folder: what relative paths are relative to.
        roots: folders and URI prefixes below which files must lie; none allows any file.

    Raises:
        DocumentError: naming the document, the field, the value and the rule.
    """
    doc_id = record.get("doc_id")
    if not isinstance(doc_id, str) or not doc_id.strip():
        raise DocumentError(f"doc_id is {doc_id!r}; it must be a non-empty string")
    if not _FIELDS.issuperset(record):
        unknown = sorted(set(record) - _FIELDS)
        raise DocumentError(
            f"document {doc_id!r} has unknown fields {', '.join(unknown)}; the fields are {', '.join(FIELDS)}"
        )
    audio, text_file = record.get("audio"), record.get("text_file")
    for name, value in ("audio", audio), ("text_file", text_file):
        if value is not None and (not isinstance(value, str) or not value or "\0" in value):
            raise DocumentError(
                f"document {doc_id!r}: {name} is {value!r}; it must be a path, a URI, or null"
            )
    text = _parse_text(doc_id, record.get("text"))
    if text is not None and text_file is not None:
        raise DocumentError(f"document {doc_id!r} has both text and text_file; give one of them")
    if audio is None and text is None and text_file is None:
        raise DocumentError(f"document {doc_id!r} has neither audio nor text; at least one must be given")
    labels = record.get("labels") or {}
    if not isinstance(labels, (dict, Mapping)):
        raise DocumentError(f"document {doc_id!r}: labels is {labels!r}; it must map each task to its value")
    split = record.get("split")
    if split is not None and split not in SPLITS:
        raise DocumentError(f"document {doc_id!r}: split is {split!r}; the choices are {', '.join(SPLITS)}")
    group = record.get("group")
    audio, text_file = (None if path is None else resolve(path, folder) for path in (audio, text_file))
    for name, path in ("audio", audio), ("text_file", text_file):
        if roots and path is not None:
            _check_root(doc_id, name, path, roots)
    return Document(
        doc_id=doc_id,
        audio=audio,
        text=text,
        text_file=text_file,
        group=doc_id if group is None else str(group),
        labels={str(task): value for task, value in labels.items() if value is not None},
        split=split,
    )


def resolve(path: str, folder: str) -> str:
    """Return a path or URI as absolute, taking a relative one as relative to `folder`."""
    if "://" in path or os.path.isabs(path) or not folder:
        return path
    return f"{folder.rstrip('/')}/{path}" if "://" in folder else os.path.join(folder, path)


def _check_root(doc_id: str, name: str, path: str, roots: Sequence[str]) -> None:
    """Check that a file lies below one of some roots, wherever links and `..` lead.

    Raises:
        DocumentError: naming the document, the path, the roots and what to do.
    """
    allowed = tuple(map(_below, roots))
    if not _below(path).startswith(allowed):
        raise DocumentError(
            f"document {doc_id!r}: {name} {path} lies outside {' and '.join(allowed)} (links and `..` are "
            "followed); move the file there, or allow its folder with --root too"
        )
    refused = ("::", "..", "%", "file://~") if "://" in path else ("::",)
    found = [part for part in refused if part in path]
    if found or ("://" in path and not path.isprintable()):
        raise DocumentError(
            f"document {doc_id!r}: {name} {path!r} holds {found[0] if found else 'unprintable characters'}, "
            "which may lead out of the folders that --root allows; rename the file, or give its plain path"
        )


def _below(path: str) -> str:
    """Return how paths below a folder begin: without links and `..` where it is local, with a `/` last."""
    local = path.removeprefix("file://")
    return (path if "://" in local else os.path.realpath(local)).rstrip("/") + "/"


def _parse_text(doc_id: str, text: object) -> str | tuple[Utterance, ...] | None:
    if text is None:
        return None
    if isinstance(text, str):
        if not text.strip():
            raise DocumentError(
                f"document {doc_id!r}: text is empty; write null where there is no transcript"
            )
        return text
    if not isinstance(text, list) or not text:
        raise DocumentError(
            f"document {doc_id!r}: text is {'empty' if text == [] else f'of type {type(text).__name__}'}; it "
            "must be a string, a list of strings, or a list of {text, start?, end?, role?}"
        )
    utterances = tuple(_parse_utterance(doc_id, i, item) for i, item in enumerate(text))
    timed = sum(u.start is not None for u in utterances)
    if 0 < timed < len(utterances):
        raise DocumentError(
            f"document {doc_id!r}: {timed} of {len(utterances)} utterances have times; give times to all or "
            "to none"
        )
    if not any(u.text.strip() for u in utterances):
        raise DocumentError(
            f"document {doc_id!r}: all utterances are empty; write null where there is no transcript"
        )
    return utterances


def _parse_utterance(doc_id: str, index: int, item: object) -> Utterance:
    if isinstance(item, str):
        return Utterance(text=item)
    if not isinstance(item, (dict, Mapping)) or not isinstance(text := item.get("text"), str):
        raise DocumentError(
            f"document {doc_id!r}: utterance {index} is of type {type(item).__name__} without a string "
            "`text`; it must be a string, or hold one"
        )
    start: Any
    end: Any
    start, end, role = item.get("start"), item.get("end"), item.get("role")
    if (start is None) != (end is None):
        raise DocumentError(
            f"document {doc_id!r}: utterance {index} has only one of start and end; give both or none"
        )
    if start is not None:
        if not _is_number(start) or not _is_number(end) or not 0 <= start <= end < math.inf:
            raise DocumentError(
                f"document {doc_id!r}: utterance {index} runs from {start!r} to {end!r}; times are seconds "
                "with 0 <= start <= end"
            )
        start, end = float(start), float(end)
    if role is not None and not isinstance(role, str):
        raise DocumentError(f"document {doc_id!r}: utterance {index} has role {role!r}; it must be a string")
    return Utterance(text=text, start=start, end=end, role=role)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def check_times(document: Document, utterances: Sequence[Utterance], duration_s: Seconds) -> None:
    """Check that no utterance ends more than `OVERHANG_S` after the recording does.

    Raises:
        TimesError: naming the document, the utterance, its end and the length of the recording.
    """
    ends = [utterance.end for utterance in utterances if utterance.end is not None]
    if ends and max(ends) > duration_s + OVERHANG_S:
        raise TimesError(
            f"document {document.doc_id!r}: utterance {ends.index(max(ends))} ends at {max(ends):.2f} s, but "
            f"the recording lasts {duration_s:.2f} s; give times in seconds from the start of this "
            "recording, or pair the transcript with its own recording"
        )


def check_text_kind(document: Document) -> str:
    """Return the kind of `text_file` by its name; empty where there is none.

    Raises:
        DocumentError: when it is no kind that can be read.
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
    """Return the transcript, reading `text_file` (.txt, .json, .vtt or .srt) where that is how it is given.

    Raises:
        DocumentError: when the file is absent, of another kind, or holds no transcript.
    """
    if document.text_file is None:
        return document.text
    import fsspec

    doc_id, path = document.doc_id, document.text_file
    kind = check_text_kind(document)
    try:
        with fsspec.open(path, "rt", encoding="utf-8-sig") as file:
            content = file.read()
    except FileNotFoundError:
        raise DocumentError(
            f"document {doc_id!r}: no text_file at {path}; mend the path or write null"
        ) from None
    except UnicodeDecodeError as error:
        raise DocumentError(f"document {doc_id!r}: text_file {path} is not UTF-8 text: {error}") from None
    if kind == "txt":
        return _parse_text(doc_id, content)
    if kind == "json":
        try:
            values = json.loads(content)
        except json.JSONDecodeError as error:
            raise DocumentError(f"document {doc_id!r}: text_file {path} is not valid JSON: {error}") from None
        return _parse_text(doc_id, _from_whisper(values))
    return _parse_text(doc_id, _parse_cues(doc_id, path, content))


def _from_whisper(values: object) -> object:
    """Take the utterances out of Whisper and WhisperX output; other JSON passes as it is."""
    if not isinstance(values, dict) or "segments" not in values:
        return values
    keys = {"text": "text", "start": "start", "end": "end", "speaker": "role"}
    return [{new: item[old] for old, new in keys.items() if old in item} for item in values["segments"]]


_CUE = re.compile(r"(?:(\d+):)?(\d{1,2}):(\d{2})[.,](\d{3})\s+-->\s+(?:(\d+):)?(\d{1,2}):(\d{2})[.,](\d{3})")
_VOICE = re.compile(r"<v(?:\.[^ >]*)?\s+([^>]+)>")


def _parse_cues(doc_id: str, path: str, content: str) -> list[dict[str, Any]]:
    """Read WebVTT or SubRip cues; `<v Speaker>` becomes the role, other tags are dropped."""
    cues: list[dict[str, Any]] = []
    for block in re.split(r"\r?\n\s*\r?\n", content):
        lines = block.strip().splitlines()
        at = next((i for i, line in enumerate(lines) if "-->" in line), None)
        if at is None:
            continue
        match = _CUE.search(lines[at])
        if match is None:
            raise DocumentError(
                f"document {doc_id!r}: {path} has a cue time {lines[at]!r} that cannot be read"
            )
        parts = [int(part or 0) for part in match.groups()]
        start, end = (3600 * h + 60 * m + s + ms / 1000 for h, m, s, ms in (parts[:4], parts[4:]))
        body = " ".join(lines[at + 1 :])
        voice = _VOICE.search(body)
        cue: dict[str, Any] = {"text": re.sub(r"<[^>]*>", "", body).strip(), "start": start, "end": end}
        if voice:
            cue["role"] = voice.group(1).strip()
        cues.append(cue)
    if not cues:
        raise DocumentError(f"document {doc_id!r}: {path} holds no cues")
    return cues
