"""Manifests as JSON lines, one object per line, in UTF-8 or in what a byte-order mark says."""

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

from hilbert_ray.manifest.cells import read_json
from hilbert_ray.manifest.rows import LONGEST, BadRow, Contents, ManifestError, Record


@dataclass(frozen=True, kw_only=True, slots=True)
class Lines:
    """Lines of JSON, as bytes: quick to copy to the process that parses them."""

    manifest: str
    lines: bytes

    def records(self, first_row: int, only: Sequence[str] | None = None) -> Iterator[Record]:
        """Yield the object of each line that is not blank.

        Raises:
            ManifestError: if a line is not UTF-8.
        """
        row = first_row
        # As bytes: `str.splitlines` would also split at U+2028, which JSON strings may hold.
        for line in self.lines.splitlines():
            if line.strip():
                yield self._record(row, line)
                row += 1

    def _record(self, row: int, line: bytes) -> Record:
        try:
            record = read_json(line)
        except UnicodeDecodeError as error:
            # Raised, unlike bad JSON: a file in another encoding has it in all of its lines, and a guess
            # at the encoding would give wrong ids and texts.
            raise ManifestError(
                f"manifest {self.manifest} cannot be read as .jsonl: {error} in a line of {len(line)} "
                "bytes; save it as UTF-8"
            ) from None
        except (ValueError, RecursionError) as error:
            return BadRow(f"row {row} is not valid JSON ({error}); each line must be one JSON object")
        if isinstance(record, dict):
            return record
        return BadRow(f"row {row} is a JSON {type(record).__name__}; each line must be one JSON object")


def read_lines(manifest: str, chunks: Iterator[bytes]) -> Contents:
    """Yield the lines of a file, which is read in chunks of a block's size."""
    # Blocks end at line ends; what follows the last one is completed by the next read.
    row, rest = 1, b""
    for data in chunks:
        lines, end, rest = (rest + data).rpartition(b"\n")
        if end:
            # Blank lines are no rows in `Lines.records`: row numbers must agree with it.
            rows = sum(1 for line in lines.splitlines() if line.strip())
            if rows:
                yield row, Lines(manifest=manifest, lines=lines)
            row += rows
        elif len(rest) > LONGEST:
            raise ManifestError(
                f"manifest {manifest}: row {row} is longer than {LONGEST // 2**20} MiB; write one row per "
                "line, "
                "and long transcripts into files that `text_file` names"
            )
    if rest.strip():
        yield row, Lines(manifest=manifest, lines=rest)


def chunks_of(file: BinaryIO, encoding: str, size: int) -> Iterator[bytes]:
    """Yield the content of a file in chunks as UTF-8, without the byte-order mark."""
    if encoding == "utf-8":
        return iter(lambda: file.read(size), b"")
    text = io.TextIOWrapper(file, encoding=encoding, newline="")
    return (chunk.encode() for chunk in iter(lambda: text.read(size), ""))


def read_array(manifest: str, data: bytes) -> list[Record]:
    """Return the objects of a JSON array.

    Raises:
        ManifestError: if it is not an array.
    """
    try:
        values = read_json(data)
    except (ValueError, RecursionError) as error:
        raise ManifestError(f"manifest {manifest} is not valid JSON: {error}") from None
    if not isinstance(values, list):
        raise ManifestError(
            f"manifest {manifest} is one JSON {type(values).__name__}; write one object per row, as JSON "
            "lines "
            "or as an array"
        )
    return [
        value if isinstance(value, dict)
        else BadRow(f"row {row} is a JSON {type(value).__name__}; each row must be one JSON object")
        for row, value in enumerate(values, start=1)
    ]  # fmt: skip


def first_object(head: bytes) -> Mapping[str, Any]:
    """Return the first object among the first lines of a file; empty if there is none."""
    for line in head.splitlines()[:100]:
        try:
            value = read_json(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(value, dict):
            return value
    return {}


Reshape = Callable[[Iterator[Record]], Iterator[Record]]
"""Makes rows of a manifest of this project out of those that another program writes."""


def reshaped(contents: Contents, reshape: Reshape) -> Iterator[Record]:
    """Yield the rows of foreign JSON lines as rows of documents."""
    yield from reshape(record for row, content in contents for record in content.records(row))
