"""`unpack`: recordings inside tables of Hugging Face `datasets`, written as files with their manifest.

Decoders read files as streams, of any length; a cell of a table must be in memory as a whole.
"""

import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import Any, NamedTuple

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from hilbert_ray.document import resolve
from hilbert_ray.manifest.arrow import Batches, arrow_batches, checked, packed
from hilbert_ray.manifest.huggingface import audio_column, tables_of
from hilbert_ray.manifest.opening import errors_of, folder_of, table_columns
from hilbert_ray.manifest.rows import BadRow, ManifestError
from hilbert_ray.storage import access_errors, local_path, new_folder, require_regular

MANIFEST = "manifest.jsonl"
"""Name of the manifest in the folder."""
_ROWS = 4
"""Rows in memory at a time: each may hold hours of audio."""
_MAGIC = (
    (b"RIFF", "wav"), (b"fLaC", "flac"), (b"OggS", "ogg"), (b"ID3", "mp3"), (b"\xff\xfb", "mp3"),
    (b"\xff\xf3", "mp3"), (b"\x1aE\xdf\xa3", "webm"), (b"caff", "caf"), (b".snd", "au"), (b"#!AMR", "amr"),
)  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class Unpacked:
    """What `unpack` wrote: the manifest, its documents, files of audio, and rows that it left out."""

    manifest: str
    documents: int
    files: int
    faults: tuple[str, ...]


def unpack(manifest: str, folder: str) -> Unpacked:
    """Write the recordings inside a table to `folder`/audio, and `folder`/manifest.jsonl that names them.

    Args:
        manifest: a Parquet or Arrow file, or the folder of a dataset.
        folder: a local folder that is empty or absent.

    Raises:
        ManifestError: if the table cannot be read or has no column of audio.
        StorageError: if the folder holds something, or is not local.
        WriteError: if it cannot be written; nothing is left of it then.
    """
    path = local_path(manifest)
    tables = [(manifest, "", "")]
    if path is not None and os.path.isdir(path):
        tables = [each for each in tables_of(path) if each[0].endswith((".parquet", ".arrow"))]
        if not tables:
            raise ManifestError(f"folder {path} has no tables of Hugging Face; name a Parquet or Arrow file")
    documents, faults, files = 0, [], 0
    with new_folder(folder) as unfinished:
        (unfinished / "audio").mkdir()
        with (unfinished / MANIFEST).open("w", encoding="utf-8") as out:
            for number, (table, _, split) in enumerate(tables):
                prefix = f"{number:03d}-" if len(tables) > 1 else ""
                for record in _records(table):
                    if isinstance(record, BadRow):
                        faults.append(f"{table}: {record.message}")
                        continue
                    line = dict(record.values)
                    if record.audio:
                        name = _file_name(record.audio, line.get("audio"), f"{prefix}{record.number:06d}")
                        (unfinished / name).write_bytes(record.audio)
                        line["audio"] = name
                        files += 1
                    if split:
                        line["split"] = split
                    documents += 1
                    out.write(json.dumps(line, ensure_ascii=False) + "\n")
    return Unpacked(
        manifest=os.path.join(folder, MANIFEST), documents=documents, files=files, faults=tuple(faults)
    )


class _Row(NamedTuple):
    """A row of a table: its number, what it says, and the bytes of its recording, if it holds them."""

    number: int
    values: Mapping[str, Any]
    audio: bytes | None


def _records(table: str) -> Iterator[_Row | BadRow]:
    """Yield the rows of a table."""
    with errors_of(table), _batches(table) as (schema, batches):
        audio = audio_column(schema)
        if audio is None:
            raise ManifestError(
                f"table {table} has no column of structs of `bytes` and `path`, as `datasets` stores audio; "
                "if it "
                "names files, use it as the manifest"
            )
        content, _ = table_columns(table, schema, audio)
        row = 1
        for batch in batches:
            yield from _rows(batch, row, audio, content, folder_of(table))
            row += batch.num_rows


@contextmanager
def _batches(table: str) -> Iterator[tuple[pa.Schema, Iterator[pa.RecordBatch]]]:
    require_regular(table)
    with access_errors(table), fsspec.open(table, "rb") as file:
        if file.read(4) == b"PAR1":
            parquet = pq.ParquetFile(file)
            yield parquet.schema_arrow, checked(parquet.iter_batches(batch_size=_ROWS))
        else:
            file.seek(0)
            schema, batches = arrow_batches(file)
            yield schema, chain.from_iterable(map(_slices, batches))


def _slices(batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    return (batch.slice(start, _ROWS) for start in range(0, batch.num_rows, _ROWS))


def _rows(
    batch: pa.RecordBatch, row: int, audio: str, content: Batches, home: str
) -> Iterator[_Row | BadRow]:
    column = batch.column(audio)
    position = batch.schema.get_field_index(audio)
    paths = batch.set_column(position, audio, column.field("path"))
    cells = column.field("bytes")
    for i, record in enumerate(packed([paths], content).records(row)):
        if isinstance(record, BadRow):
            yield record
            continue
        data = cells[i].as_py()
        values = dict(record)
        if not data and isinstance(values.get("audio"), str):
            values["audio"] = resolve(values["audio"], os.path.abspath(home))
        yield _Row(row + i, values, data)


def _file_name(data: bytes, path: object, number: str) -> str:
    """Return the name of a recording's file in the folder, by its number and its own name."""
    name = re.sub(r"[^\w.-]+", "_", os.path.basename(path)).lstrip(".") if isinstance(path, str) else ""
    name = f"audio/{number}-{name[-100:]}" if name else f"audio/{number}"
    if "." not in name:
        name += "." + next((ending for magic, ending in _MAGIC if data.startswith(magic)), "bin")
    return name
