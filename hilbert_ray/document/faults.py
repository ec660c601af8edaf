"""Manifest rows that are not valid documents, also those that only other rows show to be invalid."""

from collections.abc import Sequence
from dataclasses import dataclass

from hilbert_ray.document.records import Document
from hilbert_ray.document.splits import SplitError, straddle_message

_ROWS_LISTED = 10
"""Most rows that a message about a shared id lists."""


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
