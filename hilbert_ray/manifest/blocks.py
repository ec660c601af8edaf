"""Blocks of a manifest: each row becomes a `Document`, or an `InvalidRow` that says why not; none is lost."""

import gc
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any, TypeVar

from hilbert_ray.document import Document, InvalidRow, below, group_of, message_of, parse_document
from hilbert_ray.interruption import shielded_children
from hilbert_ray.manifest.cells import looks_like_literal, read_json, read_literal
from hilbert_ray.manifest.opening import errors_of, open_source
from hilbert_ray.manifest.rows import BLOCK_BYTES, BadRow, Content, ManifestError, Record

T = TypeVar("T")
_PROCESSES = 8
"""Most processes that parse a manifest; more would wait for the one that hands out its blocks."""
_BLOCK_BYTES = BLOCK_BYTES


# Blocks and not rows go to processes, since sending a row takes longer than parsing it.
@dataclass(frozen=True, kw_only=True, slots=True)
class Block:
    """Consecutive rows of a manifest, not checked yet: what one process works on at a time.

    Relative paths in them are relative to `folder`; files must be under one of `roots`, if there are any.
    """

    manifest: str
    folder: str
    content: Content
    roots: tuple[str, ...] = ()
    first_row: int = 1

    def rows(self) -> Iterator[tuple[int, Document | InvalidRow]]:
        """Yield (row number, document or invalid row) for each row.

        Raises:
            ManifestError: if a line is not UTF-8.
        """
        # Yielded and not raised: of a million rows some are always invalid, and a report should list them
        # all.
        for row, record in self._records():
            if isinstance(record, BadRow):
                yield row, _invalid(row, record.doc_id, "DocumentError", record.message)
                continue
            try:
                yield row, parse_document(record, self.folder, self.roots)
            # All of them: a bug that one row brings to light must not end a run over the others.
            except Exception as error:
                doc_id = _id_of(record)
                yield row, _invalid(row, doc_id, type(error).__name__, message_of(error, doc_id))

    def ids(self) -> Iterator[str]:
        """Yield the id of each row as `rows` would, empty if it has none."""
        return (doc_id for doc_id, _, _ in self.places())

    def places(self) -> Iterator[tuple[str, str, str | None]]:
        """Yield id, group and split of each row as `rows` would, unchecked; empty if it has none."""
        for record in self.content.records(self.first_row, ("doc_id", "audio", "group", "split")):
            if isinstance(record, BadRow):
                yield record.doc_id, "", None
            else:
                doc_id = _id_of(record)
                yield doc_id, group_of(doc_id, record.get("group")), record.get("split")

    def _records(self) -> Iterator[tuple[int, Record]]:
        """Yield number and fields of each row, transcripts that a program wrote into a string being lists."""
        for row, record in enumerate(self.content.records(self.first_row), start=self.first_row):
            if not isinstance(record, BadRow):
                text = record.get("text")
                if isinstance(text, str) and text.lstrip()[:1] in _OPENING:
                    yield row, _with_read_text(row, record, text)
                    continue
            yield row, record


_OPENING = frozenset("[{(a")
"""How lists begin that a program wrote: `a` as in `array([`."""


def _with_read_text(row: int, record: Mapping[str, Any], text: str) -> Record:
    """Return a row whose transcript may be the JSON or Python form of a list, with the list."""
    try:
        value = read_json(text)
    except (ValueError, RecursionError):
        # Not JSON after all: a transcript may well begin with [inaudible].
        if not looks_like_literal(text):
            return record
        try:
            value = read_literal(text)
        except ValueError as error:
            # The keys, quotes and times of a list must never pass for what people said.
            return BadRow(
                f"row {row}: text begins like a list that a program printed, but {error}; write the "
                "utterances as "
                "JSON, or plain words",
                _id_of(record),
            )
    if isinstance(value, tuple):
        value = list(value)
    return {**record, "text": value} if isinstance(value, list | dict) else record


def _invalid(row: int, doc_id: str, error: str, message: str) -> InvalidRow:
    return InvalidRow(row=row, doc_id=doc_id, stage="manifest", error=error, message=message)


def _id_of(record: Mapping[str, Any]) -> str:
    doc_id = record.get("doc_id")
    return doc_id if isinstance(doc_id, str) else ""


def read_manifest(uri: str, roots: Sequence[str] = ()) -> Iterator[tuple[int, Document | InvalidRow]]:
    """Stream (row number, document or invalid row) of a manifest of any kind, in order.

    Relative paths are relative to the manifest; a row that names a file outside all `roots` is invalid (no
    roots: no restriction). Ids that several rows share are not detected here, since that takes the whole
    manifest; see `duplicate_row`.

    Raises:
        ManifestError: if the file is absent, of an unknown format, cannot be read in it, or has no rows.
    """
    for block in _blocks(uri, roots):
        yield from block.rows()


def manifest_notes(uri: str) -> tuple[str, ...]:
    """Return what a user should know about how a manifest is read: its kind, delimiter, unused columns.

    Raises:
        ManifestError: as `read_manifest`.
    """
    with errors_of(uri), open_source(uri, _BLOCK_BYTES) as source:
        return tuple(source.notes)


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
            with shielded_children():
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
    """Yield the files that the documents of some rows name."""
    for _, item in rows:
        if isinstance(item, Document):
            yield from item.files


def _blocks(uri: str, roots: Sequence[str] = ()) -> Iterator[Block]:
    """Cut a manifest into blocks.

    Raises:
        ManifestError: as `read_manifest`.
    """
    # Resolved here, because relative roots are relative to where the user started the command.
    allowed = tuple(map(below, roots))
    rows = 0
    with errors_of(uri), open_source(uri, _BLOCK_BYTES) as source:
        for first_row, content in source.contents:
            rows = first_row
            yield Block(
                manifest=uri, folder=source.folder, content=content, roots=allowed, first_row=first_row
            )
    if not rows:
        raise ManifestError(f"manifest {uri} has no rows; write one row for each document")
