"""Manifests: each row becomes a `Document`, or an `InvalidRow` that says why not; none is lost."""

import csv
import gc
import json
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from itertools import chain, islice
from typing import IO, Any, BinaryIO, TypeVar

import msgspec

from hilbert_ray.document.records import Document, DocumentError, below, parse_document
from hilbert_ray.document.splits import SplitError, straddle_message
from hilbert_ray.errors import HilbertError
from hilbert_ray.storage import is_uri

T = TypeVar("T")
_ROWS_LISTED = 10
"""Most rows that a message about a shared id lists."""
_PROCESSES = 8
"""Most processes that parse a manifest; more would wait for the one that hands out its blocks."""
_BLOCK_BYTES = 2**23
"""Bytes of a block: enough work to be worth sending to another process, little enough to hold several."""
_RECORD_BYTES = 128
"""Bytes that a record takes up in a block besides its strings (estimated)."""


class ManifestError(HilbertError, ValueError):
    """A manifest that cannot be read at all."""


@dataclass(frozen=True, kw_only=True, slots=True)
class InvalidRow:
    """A manifest row that is not a valid document. `row` counts from 1, without a CSV header.

    `stage` is what failed: `manifest` (the row itself), `audio`, `text` or `labels`; `error` is the name of
    the exception.
    """

    row: int
    doc_id: str
    stage: str
    error: str
    message: str


# Blocks and not rows go to processes, since sending a row takes longer than parsing it. Lines are sent as
# bytes, which are quick to copy, and parsed where they arrive.
@dataclass(frozen=True, kw_only=True, slots=True)
class Block:
    """Consecutive rows of a manifest, not parsed or checked yet: what one process works on at a time.

    The rows are `lines` of JSON, or the `records` of a CSV or Parquet manifest. Relative paths in them are
    relative to `folder`; files must be under one of `roots`, if there are any.
    """

    manifest: str
    folder: str
    roots: tuple[str, ...] = ()
    first_row: int = 1
    lines: bytes = b""
    records: Sequence[Mapping[str, Any]] = ()

    def rows(self) -> Iterator[tuple[int, Document | InvalidRow]]:
        """Yield (row number, document or invalid row) for each row.

        Raises:
            ManifestError: if a line is not UTF-8.
        """
        # Yielded and not raised: of a million rows some are always invalid, and a report should list them
        # all.
        for row, record in enumerate(self._records(), start=self.first_row):
            if isinstance(record, str):
                message = f"row {row} {record}; each line must be one JSON object"
                yield (
                    row,
                    InvalidRow(row=row, doc_id="", stage="manifest", error="DocumentError", message=message),
                )
                continue
            try:
                yield row, parse_document(record, self.folder, self.roots)
            except DocumentError as error:
                yield (
                    row,
                    InvalidRow(
                        row=row,
                        doc_id=_id_of(record),
                        stage="manifest",
                        error=type(error).__name__,
                        message=str(error),
                    ),
                )

    def ids(self) -> Iterator[str]:
        """Yield the id of each row as `rows` would, empty if it has none."""
        return (doc_id for doc_id, _, _ in self.places())

    def places(self) -> Iterator[tuple[str, str, str | None]]:
        """Yield id, group and split of each row as `rows` would, unchecked; an empty id if it has none."""
        for record in self._records():
            if isinstance(record, str):
                yield "", "", None
            else:
                doc_id, group = _id_of(record), record.get("group")
                yield doc_id, doc_id if group is None else str(group), record.get("split")

    def _records(self) -> Iterator[Mapping[str, Any] | str]:
        """Yield the fields of each row, or (as a string) what is wrong with its line."""
        yield from self.records
        # As bytes: `str.splitlines` would also split at U+2028, which JSON strings may hold.
        for line in self.lines.splitlines():
            if not line.strip():
                continue
            try:
                record = _read_json(line)
            except UnicodeDecodeError as error:
                # Raised, unlike bad JSON: a file in another encoding has it in all of its lines, and a guess
                # at the encoding would give wrong ids and texts.
                raise ManifestError(
                    f"manifest {self.manifest} cannot be read as .jsonl: {error} in a line of {len(line)} "
                    "bytes; save it as UTF-8"
                ) from None
            except (ValueError, RecursionError) as error:
                yield f"is not valid JSON ({error})"
            else:
                yield record if isinstance(record, dict) else f"is a JSON {type(record).__name__}"


def read_manifest(uri: str, roots: Sequence[str] = ()) -> Iterator[tuple[int, Document | InvalidRow]]:
    """Stream (row number, document or invalid row) of a JSONL, CSV or Parquet manifest, in order.

    Relative paths are relative to the manifest; a row that names a file outside all `roots` is invalid (no
    roots: no restriction). Ids that several rows share are not detected here, since that takes the whole
    manifest; see `duplicate_row`.

    Raises:
        ManifestError: if the file is absent, of an unknown format, or not readable in its format.
    """
    for block in _blocks(uri, roots):
        yield from block.rows()


def map_blocks(function: Callable[[Block], T], uri: str, roots: Sequence[str] = ()) -> Iterator[T]:
    """Stream the results of a function for each block of a manifest, in order; `roots` as in `read_manifest`.

    If there are several blocks, several processes call the function, so that it and its results must be
    picklable. Only a few blocks are in memory at a time.

    Raises:
        ManifestError: as `read_manifest`.
    """
    from joblib.externals.loky import ProcessPoolExecutor, cpu_count  # type: ignore[import-untyped]

    blocks = _blocks(uri, roots)
    # Reading two blocks ahead shows whether starting processes (about a second) is worth it.
    first = list(islice(blocks, 2))
    processes = min(cpu_count(), _PROCESSES)
    if len(first) < 2 or processes < 2:
        yield from map(function, chain(first, blocks))
        return
    # Unlike the standard library's, loky's processes do not import the main program again.
    with ProcessPoolExecutor(processes) as pool:
        pending: deque[Future[T]] = deque()
        for block in chain(first, blocks):
            pending.append(pool.submit(_apply, function, block))
            # One block waits beyond those being worked on, so that no process idles; more would only take
            # memory.
            if len(pending) > processes + 1:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()


def _apply(function: Callable[[Block], T], block: Block) -> T:
    """Call a function in a worker process, without garbage collection: it would take a fifth of the time."""
    gc.disable()
    try:
        return function(block)
    finally:
        gc.enable()


def files_of(rows: Iterable[tuple[int, Document | InvalidRow]]) -> Iterator[str]:
    """Yield the audio and text files that the documents of some rows name."""
    for _, item in rows:
        if isinstance(item, Document):
            if item.audio is not None:
                yield item.audio
            if item.text_file is not None:
                yield item.text_file


def duplicate_row(row: int, doc_id: str, rows: list[int]) -> InvalidRow:
    """Return one of several rows that share an id as invalid: which of them is meant cannot be known."""
    more = f" and {len(rows) - _ROWS_LISTED} more" if len(rows) > _ROWS_LISTED else ""
    listed = ", ".join(map(str, rows[:_ROWS_LISTED])) + more
    message = f"doc_id {doc_id!r} is in rows {listed}; ids must be unique: give each document its own"
    return InvalidRow(row=row, doc_id=doc_id, stage="manifest", error="DuplicateIdError", message=message)


def straddling_row(row: int, document: Document, splits: Sequence[str]) -> InvalidRow:
    """Return one of the rows of a group whose documents are of several splits as invalid, like the others."""
    message = straddle_message(document.group, splits)
    return InvalidRow(
        row=row, doc_id=document.doc_id, stage="manifest", error=SplitError.__name__, message=message
    )


def _folder_of(uri: str) -> str:
    """Return the folder that relative paths in a manifest are relative to."""
    # Absolute, since workers on other nodes have other working directories.
    return uri.rpartition("/")[0] if is_uri(uri) else os.path.dirname(os.path.abspath(uri))


def _blocks(uri: str, roots: Sequence[str] = ()) -> Iterator[Block]:
    """Cut a manifest into blocks; its format is the ending of its name."""
    import fsspec

    # Resolved here, because relative roots are relative to where the user started the command.
    empty = Block(manifest=uri, folder=_folder_of(uri), roots=tuple(map(below, roots)))
    kind = uri.rpartition(".")[2].lower()
    try:
        if kind == "jsonl":
            with fsspec.open(uri, "rb") as file:
                yield from _json_blocks(empty, file)
        elif kind == "csv":
            # `newline=''` leaves line ends inside quoted cells to the csv module.
            with fsspec.open(uri, "rt", encoding="utf-8", newline="") as file:
                yield from _record_blocks(empty, _csv_records(file))
        elif kind == "parquet":
            with fsspec.open(uri, "rb") as file:
                yield from _record_blocks(empty, _parquet_records(file))
        else:
            raise ManifestError(f"manifest {uri} ends in .{kind}; the formats are .jsonl, .csv and .parquet")
    except FileNotFoundError:
        raise ManifestError(
            f"there is no manifest {uri}; name an existing .jsonl, .csv or .parquet file"
        ) from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise ManifestError(f"manifest {uri} cannot be read as .{kind}: {error}") from error
    except ValueError as error:  # pyarrow.ArrowInvalid is a ValueError
        if isinstance(error, ManifestError) or kind != "parquet":
            raise
        raise ManifestError(f"manifest {uri} cannot be read as Parquet: {error}") from error


def _json_blocks(empty: Block, file: BinaryIO) -> Iterator[Block]:
    # Blocks end at line ends; what follows the last one is completed by the next read.
    row, rest = 1, b""
    while data := file.read(_BLOCK_BYTES):
        lines, end, rest = (rest + data).rpartition(b"\n")
        if end:
            yield replace(empty, first_row=row, lines=lines)
            # Blank lines are no rows in `Block._records`: row numbers must agree with it.
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
        # A key of None holds cells beyond the header; an empty cell is a null, which CSV cannot write.
        yield _unflatten({k: v for k, v in values.items() if k is not None and v not in ("", None)})


def _parquet_records(file: BinaryIO) -> Iterator[dict[str, Any]]:
    import pyarrow.parquet as pq

    # Small batches: each row may hold a whole transcript.
    for batch in pq.ParquetFile(file).iter_batches(batch_size=1024):
        yield from map(_unflatten, batch.to_pylist())


def _read_json(data: str | bytes) -> object:
    """Parse JSON whose strings can be written again.

    Raises:
        ValueError: if it is not JSON, not UTF-8, or an escape names half of a character.
        RecursionError: if it is nested too deeply.
    """
    try:
        return msgspec.json.decode(data)
    except ValueError:
        # The standard library accepts a little more, such as NaN, and explains better what is wrong. But it
        # also accepts lone surrogates (`\\ud800`), which no file could store: encoding finds them.
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
                # Not JSON after all: a transcript may well begin with [inaudible].
                record[key] = value
        else:
            record[key] = value
    return record
