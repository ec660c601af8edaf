"""Manifests as Parquet or Arrow, also those that Hugging Face `datasets` writes; types are the table's."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from hilbert_ray.manifest.cells import plain_value
from hilbert_ray.manifest.columns import Columns
from hilbert_ray.manifest.rows import RECORD_BYTES, BadRow, Contents, Record

_ROWS = 1024
"""Rows that are read at a time: each may hold a whole transcript."""
_PATH = ".path"


@dataclass(frozen=True, kw_only=True, slots=True)
class Batches:
    """Rows of a table in Arrow's stream format, which is quick to send, and what its columns hold.

    `classes` are the names of the classes of columns that hold their numbers, by position.
    """

    columns: Columns
    data: bytes
    classes: Mapping[int, tuple[str, ...]] = field(default_factory=dict)

    def records(self, first_row: int, only: Sequence[str] | None = None) -> Iterator[Record]:
        """Yield the record of each row; nulls are left out."""
        row = first_row
        with pa.ipc.open_stream(self.data) as reader:
            for batch in reader:
                unreadable: dict[int, str] = {}
                columns = [
                    _values(column, name, unreadable)
                    for column, name in zip(batch.columns, self.columns.names, strict=True)
                ]
                for i, cells in enumerate(zip(*columns, strict=True)):
                    if i in unreadable:
                        yield BadRow(
                            f"row {row}: column `{unreadable[i]}` holds a date or time that no calendar "
                            "has, or an unknown time zone; correct it, or write it as text"
                        )
                    else:
                        yield self._record(row, cells)
                    row += 1

    def _record(self, row: int, cells: tuple[Any, ...]) -> Record:
        columns = self.columns
        record: dict[str, Any] = {
            name: _field(name, value) for i, name in columns.fields if (value := cells[i]) is not None
        }
        if columns.stem is not None:
            record["doc_id"] = columns.id_of(record, row)
        for name, places in ("labels", columns.labels), ("attributes", columns.attributes):
            values = {key: self._value(i, value) for i, key in places if (value := cells[i]) is not None}
            given = record.get(name)
            if isinstance(given, dict) and not given.keys().isdisjoint(values):
                return BadRow(
                    f"row {row} has a value of `{name}` twice; give it once", str(record.get("doc_id", ""))
                )
            if values and (given is None or isinstance(given, dict)):
                record[name] = {**(given or {}), **values}
        return record

    def _value(self, position: int, value: object) -> object:
        names = self.classes.get(position)
        if names is None or not isinstance(value, int):
            return plain_value(value)
        # -1 is how `datasets` writes that there is no label.
        return names[value] if 0 <= value < len(names) else None


def _values(column: pa.Array, name: str, unreadable: dict[int, str]) -> list[Any]:
    """Return the values of a column; note the rows of those that Python cannot hold as `unreadable`."""
    try:
        # Whole columns become Python values much faster than rows do.
        return list(column.to_pylist())
    except (ValueError, OverflowError, LookupError):
        values = []
        for i, value in enumerate(column):
            try:
                values.append(value.as_py())
            except (ValueError, OverflowError, LookupError):
                values.append(None)
                unreadable[i] = name
        return values


def _field(name: str, value: Any) -> Any:  # noqa: ANN401 - any value of a table
    if name == "doc_id":
        # Tables keep numbers as ids; a gap makes them decimal.
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        return str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    if name in ("labels", "attributes") and isinstance(value, list):
        # A column of Arrow's type map.
        value = dict(value) if all(isinstance(item, tuple) and len(item) == 2 for item in value) else value
    if name == "audio" and isinstance(value, dict):
        return value.get("path")
    return plain_value(value)


def parquet_batches(file: pq.ParquetFile, names: list[str]) -> Iterator[pa.RecordBatch]:
    """Yield the rows of a Parquet file; of structs of `path` and `bytes` only the path."""
    paths = {name for name in names if has_audio(file.schema_arrow.field(name).type)}
    wanted = [f"{name}{_PATH}" if name in paths else name for name in names]
    for batch in checked(file.iter_batches(batch_size=_ROWS, columns=wanted)):
        yield batch.select(names)


def checked(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Yield batches whose contents are what their types say.

    Arrow trusts a file: offsets beyond its end would be read from the memory of the process.

    Raises:
        ArrowInvalid: if an offset, an index or a text is damaged.
    """
    for batch in batches:
        batch.validate(full=True)
        yield batch


def has_audio(kind: pa.DataType) -> bool:
    """Whether a column holds audio as `datasets` stores it: a struct of its bytes and its path."""
    return pa.types.is_struct(kind) and {each.name for each in kind} == {"bytes", "path"}


def read_batches(batches: Iterator[pa.RecordBatch], content: Batches, block_bytes: int) -> Contents:
    """Yield rows in blocks of about that many bytes, each as `content` with other data."""
    row, size = 1, 0
    held: list[pa.RecordBatch] = []
    for part in (part for batch in batches for part in _parts(batch, block_bytes)):
        held.append(part)
        size += _size(part)
        if size >= block_bytes:
            yield row, packed(held, content)
            row, size, held = row + sum(each.num_rows for each in held), 0, []
    if any(batch.num_rows for batch in held):
        yield row, packed(held, content)


def _parts(batch: pa.RecordBatch, block_bytes: int) -> Iterator[pa.RecordBatch]:
    """Yield a batch in parts of about a block: its rows may be long transcripts."""
    rows = max(1, batch.num_rows * block_bytes // max(1, _size(batch)))
    return (batch.slice(start, rows) for start in range(0, batch.num_rows, rows))


def _size(batch: pa.RecordBatch) -> int:
    return int(batch.nbytes) + RECORD_BYTES * int(batch.num_rows)


def packed(batches: list[pa.RecordBatch], content: Batches) -> Batches:
    """Return rows as `content` with them as its data."""
    # Written as a stream: a pickled slice of a batch would carry all of it.
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batches[0].schema) as writer:
        for batch in batches:
            writer.write_batch(batch)
    return replace(content, data=sink.getvalue().to_pybytes())


def arrow_batches(file: BinaryIO) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
    """Return schema and rows of an Arrow file or stream (also Feather).

    Raises:
        ArrowInvalid: if it is neither.
    """
    if file.read(6) == b"ARROW1":
        file.seek(0)
        reader = pa.ipc.open_file(file)
        return reader.schema, checked(reader.get_batch(i) for i in range(reader.num_record_batches))
    file.seek(0)
    stream = pa.ipc.open_stream(file)
    return stream.schema, checked(iter(stream))


def class_names(schema: pa.Schema) -> dict[str, tuple[str, ...]]:
    """Return the names of classes that `datasets` notes for columns of their numbers."""
    try:
        noted = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        features = noted["info"]["features"]
        return {
            name: tuple(map(str, feature["names"]))
            for name, feature in features.items()
            if isinstance(feature, dict) and feature.get("_type") == "ClassLabel" and feature.get("names")
        }
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}
