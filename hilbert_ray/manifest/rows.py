"""What readers of manifests share: rows, also bad ones, contents of blocks, and the error of a manifest."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, TypeAlias

from hilbert_ray.errors import HilbertError

BLOCK_BYTES = 2**23
"""Bytes of a block: enough work to be worth sending to another process, little enough to hold several."""
LONGEST = 2**28
"""Most bytes of a line or characters of a cell (weeks of speech): what a reader holds is bounded."""
RECORD_BYTES = 128
"""Bytes that a record takes up in a block besides its strings (estimated)."""


class ManifestError(HilbertError, ValueError):
    """A manifest that cannot be read at all."""


class BadRow(NamedTuple):
    """A row without a record: what is wrong with it, as a message that names the row, and its id if known."""

    message: str
    doc_id: str = ""


Record: TypeAlias = Mapping[str, Any] | BadRow
"""The fields of a row, or what is wrong with it."""


class Content(Protocol):
    """Consecutive rows of a manifest as they were read: parsed where they are needed, maybe elsewhere."""

    def records(self, first_row: int, only: Sequence[str] | None = None) -> Iterator[Record]:
        """Yield the fields of each row, the first of which has this number; all, or at least `only`."""
        ...


Contents: TypeAlias = Iterator[tuple[int, Content]]
"""The parts of a manifest in order, each with the number of its first row (from 1)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Records:
    """Rows that are parsed already."""

    rows: Sequence[Record]

    def records(self, first_row: int, only: Sequence[str] | None = None) -> Iterator[Record]:
        """Yield the rows."""
        yield from self.rows


def blocks_of(records: Iterator[Record], block_bytes: int) -> Contents:
    """Yield parsed rows in blocks of about that many bytes."""
    row, size = 1, 0
    held: list[Record] = []
    for record in records:
        held.append(record)
        size += RECORD_BYTES
        if isinstance(record, Mapping):
            size += sum(len(value) for value in record.values() if isinstance(value, str | list))
        if size >= block_bytes:
            yield row, Records(rows=held)
            row, size, held = row + len(held), 0, []
    if held:
        yield row, Records(rows=held)


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """An open manifest: its contents, the folder of its paths, and notes on how it is read, for the user."""

    contents: Contents
    folder: str
    notes: Sequence[str] = ()
