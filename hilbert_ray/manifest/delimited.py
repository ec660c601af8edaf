"""Manifests as CSV: delimiter and encoding from the header, every row with as many cells as it has columns.

Rows are split into cells by the process that reads the file (quoted cells may hold line ends) and become
records where they are needed.
"""

import csv
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import IO, BinaryIO

from hilbert_ray.document import MISSING
from hilbert_ray.manifest.cells import attribute_of, label_of, read_literal
from hilbert_ray.manifest.columns import Columns
from hilbert_ray.manifest.rows import LONGEST, RECORD_BYTES, BadRow, Contents, ManifestError, Record

DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "vertical bars"}
_SEP = re.compile(r"\"?sep=(.)\"?\s*", re.IGNORECASE)
_MAY_BE_MISSING = ("audio", "text_file", "split", "labels", "attributes", "channels", "diarization")
"""Fields in which a word like `NA` means that there is none; as id, group or speech it is refused."""
_WHOLE = re.compile(r"\d+", re.ASCII)


@dataclass(frozen=True, kw_only=True, slots=True)
class Dialect:
    """How a table is written: its delimiter, the names of its header, and lines before the first row."""

    delimiter: str
    names: tuple[str, ...]
    header_lines: int
    skips_spaces: bool = False

    @property
    def has_decimal_commas(self) -> bool:
        """Whether `3,5` is a number: where semicolons separate cells, commas are decimal."""
        return self.delimiter == ";"

    def notes(self) -> Iterator[str]:
        """Yield what to tell the user."""
        if self.delimiter != ",":
            decimal = ", and numbers like 3,5 have a decimal comma" if self.has_decimal_commas else ""
            yield f"cells are separated by {DELIMITERS.get(self.delimiter, repr(self.delimiter))}{decimal}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Cells:
    """Rows of cells, and the columns that say what they are."""

    columns: Columns
    rows: Sequence[list[str] | BadRow]
    has_decimal_commas: bool = False

    def records(self, first_row: int, only: Sequence[str] | None = None) -> Iterator[Record]:
        """Yield the record of each row, or only some of its fields; empty cells are left out."""
        columns, comma = self.columns, self.has_decimal_commas
        if only is not None:
            # The row may turn out to be invalid, but its id is taken all the same.
            fields = tuple(each for each in columns.fields if each[1] in only)
            columns = replace(columns, fields=fields, labels=(), attributes=(), nameless=(), index=None)
        for row, cells in enumerate(self.rows, start=first_row):
            if isinstance(cells, BadRow):
                yield cells
                continue
            record: dict[str, object] = {
                name: cell
                for i, name in columns.fields
                if (cell := cells[i]) and not (cell in MISSING and name in _MAY_BE_MISSING)
            }
            if columns.stem is not None:
                record["doc_id"] = columns.id_of(record, row)
            if columns.index is not None or columns.nameless:
                bad = self._nameless(row, cells)
                if bad is not None:
                    yield bad
                    continue
            for field in ("labels", "attributes"):
                given = record.get(field)
                if isinstance(given, str):
                    record[field] = _mapping(given)
            if columns.labels:
                labels = {task: label_of(cells[i], comma) for i, task in columns.labels if cells[i]}
                if not _merge(record, "labels", labels):
                    yield BadRow(f"row {row} has two labels for one task; give each once", _id_of(record))
                    continue
            if columns.attributes:
                attributes = {
                    name: attribute_of(cells[i], comma) for i, name in columns.attributes if cells[i]
                }
                if not _merge(record, "attributes", attributes):
                    yield BadRow(f"row {row} has an attribute twice; give it once", _id_of(record))
                    continue
            yield record

    def _nameless(self, row: int, cells: Sequence[str]) -> BadRow | None:
        """Return what is wrong with cells whose column has no name: they may only number the rows."""
        index = self.columns.index
        used = [i for i in self.columns.nameless if cells[i].strip()]
        if index is not None and cells[index] and not _WHOLE.fullmatch(cells[index]):
            used.insert(0, index)
        if not used:
            return None
        hint = "; pandas writes its index so: use `to_csv(..., index=False)`" if used[0] == 0 else ""
        return BadRow(
            f"row {row}: column {used[0] + 1} has no name, but holds a value: name it, or remove it{hint}"
        )


def _mapping(cell: str) -> object:
    """Return the mapping that a cell writes; as text if it writes none, which is refused where it is used."""
    try:
        return read_literal(cell)
    except ValueError:
        return cell


def _id_of(record: Mapping[str, object]) -> str:
    return str(record.get("doc_id", ""))


def _merge(record: dict[str, object], field: str, values: Mapping[str, object]) -> bool:
    """Add values to a field that is a mapping, or absent; False if a name is in both."""
    given = record.get(field)
    if given is None:
        record[field] = values
        return True
    if not isinstance(given, dict):
        return True  # it is refused as what it is
    if not given.keys().isdisjoint(values):
        return False
    record[field] = {**given, **values}
    return True


def find_dialect(manifest: str, head: str, ids: Sequence[str]) -> Dialect:
    """Return how a table is written, from its first lines.

    Args:
        manifest: for messages.
        head: the beginning of the file, at least the whole header.
        ids: names of columns of which a header has one: it shows which delimiter is meant.

    Raises:
        ManifestError: if there is no header, or its names could be separated by two delimiters.
    """
    lines = head.splitlines(keepends=True)
    skipped = 0
    while skipped < len(lines) and not lines[skipped].strip():
        skipped += 1
    if skipped == len(lines):
        raise ManifestError(f"manifest {manifest} has no rows; its first line must name the columns")
    delimiters: Sequence[str] = tuple(DELIMITERS)
    if (stated := _SEP.fullmatch(lines[skipped])) is not None:
        delimiters, skipped = (stated[1],), skipped + 1  # as Excel reads and writes
    candidates = {}
    for delimiter in delimiters:
        reader = csv.reader(iter(lines[skipped:]), delimiter=delimiter, strict=True)
        try:
            names = next(reader)
        except (csv.Error, StopIteration):
            continue
        candidates[delimiter] = Dialect(
            delimiter=delimiter, names=tuple(names), header_lines=skipped + reader.line_num,
            skips_spaces=len(names) > 1 and all(name.startswith(" ") for name in names[1:]),
        )  # fmt: skip
    if not candidates:
        raise ManifestError(f"manifest {manifest}: a quote in the header is opened and not closed")
    most = max(candidates.values(), key=lambda dialect: len(dialect.names))
    with_id = [d for d in candidates.values() if any(name.strip() in ids for name in d.names)]
    chosen = max(with_id, key=lambda dialect: len(dialect.names), default=most)
    header = "".join(lines[skipped : chosen.header_lines])
    others = [d for d in delimiters if d != chosen.delimiter and d in header and '"' not in header]
    if others and len(delimiters) > 1:
        raise ManifestError(
            f"manifest {manifest}: the header holds {DELIMITERS[chosen.delimiter]} and "
            f"{DELIMITERS[others[0]]}, so "
            "what separates its cells is unclear; separate all by one of them, and quote names that hold "
            "the other"
        )
    return chosen


def read_cells(
    manifest: str, file: BinaryIO, encoding: str, dialect: Dialect, columns: Columns, block_bytes: int
) -> Contents:
    """Yield the rows of a table in blocks of about that many characters.

    Raises:
        ManifestError: if the file is not in this encoding, or a line is too long.
    """
    text = io.TextIOWrapper(file, encoding=encoding, newline="")
    row, size = 1, 0
    held: list[list[str] | BadRow] = []
    has_commas = dialect.has_decimal_commas
    for cells in _rows(manifest, text, dialect, columns):
        held.append(cells)
        size += RECORD_BYTES + sum(map(len, cells))
        if size >= block_bytes:
            yield row, Cells(columns=columns, rows=held, has_decimal_commas=has_commas)
            row, size, held = row + len(held), 0, []
    if held:
        yield row, Cells(columns=columns, rows=held, has_decimal_commas=has_commas)


def _rows(manifest: str, text: IO[str], dialect: Dialect, columns: Columns) -> Iterator[list[str] | BadRow]:
    """Yield the cells of each row that has any, or what is wrong with it."""
    # The limit is of the whole process; whoever else reads CSV may need it higher.
    csv.field_size_limit(max(csv.field_size_limit(), LONGEST))
    reader = csv.reader(
        _lines(manifest, text),
        delimiter=dialect.delimiter,
        strict=True,  # or the rest of a file vanishes into a cell whose quote is not closed
        skipinitialspace=dialect.skips_spaces,
    )
    try:
        while reader.line_num < dialect.header_lines:
            next(reader, None)
    except csv.Error as error:
        raise ManifestError(
            f"the header of manifest {manifest} {_reason(error, dialect.delimiter)}"
        ) from None
    width, row = len(columns.names), 0
    id_first = columns.names[0] == "doc_id"
    mentioned = DELIMITERS.get(dialect.delimiter, repr(dialect.delimiter))
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            row += 1
            yield BadRow(
                f"row {row} ({_lines_of(line, reader.line_num)}) {_reason(error, dialect.delimiter)}"
            )
            continue
        # Spreadsheets write rows of nothing but delimiters; like a blank line, they are no rows.
        if not cells or (not cells[0] and not any(cells)):
            continue
        row += 1
        if len(cells) != width:
            place = _lines_of(line, reader.line_num)
            more = f"; quote cells that hold {mentioned}" if len(cells) > width else ""
            yield BadRow(
                f"row {row} ({place}) has {len(cells)} cells, the header has {width}{more}",
                cells[0] if id_first else "",
            )
        elif reader.line_num > line and _swallows_rows(cells, dialect.delimiter):
            yield BadRow(
                f"row {row} ({_lines_of(line, reader.line_num)}) has a cell that begins with a quote and "
                "reaches "
                "over several rows; write a quote inside a quoted cell twice"
            )
        else:
            yield cells


def _lines(manifest: str, text: IO[str]) -> Iterator[str]:
    while line := text.readline(LONGEST):
        if len(line) == LONGEST:
            raise ManifestError(
                f"manifest {manifest} has a line of more than {LONGEST // 2**20} MiB; write long "
                "transcripts into "
                "files that the column `text_file` names"
            )
        yield line


def _lines_of(first: int, last: int) -> str:
    return f"line {first}" if last <= first else f"lines {first} to {last}"


def _swallows_rows(cells: Sequence[str], delimiter: str) -> bool:
    """Whether a cell holds whole rows: tabs between its words are those of other rows, never a speaker's."""
    return delimiter == "\t" and any("\t" in cell and "\n" in cell for cell in cells)


def _reason(error: csv.Error, delimiter: str) -> str:
    """Return what is wrong with a row in our words."""
    text = str(error)
    if "unexpected end of data" in text:
        return "has a quote that is opened and never closed"
    if "field limit" in text:
        return f"has a cell of more than {LONGEST // 2**20} MiB; maybe a quote is opened and not closed"
    if "expected after" in text:
        return (
            "has text after the closing quote of a cell; write a quote inside a quoted cell twice, and "
            "nothing "
            f"between the closing quote and the {DELIMITERS.get(delimiter, 'delimiter')[:-1]}"
        )
    return f"cannot be read as CSV: {text}"
