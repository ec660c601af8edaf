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
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from hilbert_ray.document import resolve
from hilbert_ray.manifest.arrow import Batches, arrow_batches, checked, packed
from hilbert_ray.manifest.huggingface import audio_column, tables_of
from hilbert_ray.manifest.opening import errors_of, folder_of, table_columns
from hilbert_ray.manifest.rows import BadRow, ManifestError
from hilbert_ray.storage import access_errors, local_path

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
        ManifestError: if the table cannot be read or has no column of audio, or the folder holds something.
    """
    if os.path.isdir(folder) and os.listdir(folder):
        raise ManifestError(f"folder {folder} is not empty; name one that is, or one that does not exist")
    path = local_path(manifest)
    tables = [(manifest, "", "")]
    if path is not None and os.path.isdir(path):
        tables = [each for each in tables_of(path) if each[0].endswith((".parquet", ".arrow"))]
        if not tables:
            raise ManifestError(f"folder {path} has no tables of Hugging Face; name a Parquet or Arrow file")
    os.makedirs(os.path.join(folder, "audio"), exist_ok=True)
    documents, faults, files = 0, [], 0
    target = os.path.join(folder, "manifest.jsonl")
    # Under another name until it is whole: half of a manifest looks like a manifest.
    with open(f"{target}.part", "w", encoding="utf-8") as out:
        for number, (table, _, split) in enumerate(tables):
            for record in _records(table, folder, f"{number:03d}-" if len(tables) > 1 else ""):
                if isinstance(record, BadRow):
                    faults.append(f"{table}: {record.message}")
                    continue
                files += str(record.get("audio", "")).startswith("audio/")
                documents += 1
                line = {**record, "split": split} if split else record
                out.write(json.dumps(line, ensure_ascii=False) + "\n")
    os.replace(f"{target}.part", target)
    return Unpacked(manifest=target, documents=documents, files=files, faults=tuple(faults))


def _records(table: str, folder: str, prefix: str) -> Iterator[Mapping[str, Any] | BadRow]:
    """Yield the rows of a table, whose audio is written below `folder` as soon as it is read."""
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
            yield from _unpacked(batch, row, audio, content, folder, prefix, folder_of(table))
            row += batch.num_rows


@contextmanager
def _batches(table: str) -> Iterator[tuple[pa.Schema, Iterator[pa.RecordBatch]]]:
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


def _unpacked(
    batch: pa.RecordBatch, row: int, audio: str, content: Batches, folder: str, prefix: str, home: str
) -> Iterator[Mapping[str, Any] | BadRow]:
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
        if data:
            values["audio"] = _write(data, values.get("audio"), f"{prefix}{row + i:06d}", folder)
        elif isinstance(values.get("audio"), str):
            values["audio"] = resolve(values["audio"], os.path.abspath(home))
        yield values


def _write(data: bytes, path: object, number: str, folder: str) -> str:
    """Write a recording under its number and name; return its path relative to the folder."""
    name = re.sub(r"[^\w.-]+", "_", os.path.basename(path)).lstrip(".") if isinstance(path, str) else ""
    name = f"audio/{number}-{name[-100:]}" if name else f"audio/{number}"
    if "." not in name:
        name += "." + next((ending for magic, ending in _MAGIC if data.startswith(magic)), "bin")
    with open(os.path.join(folder, name), "xb") as file:
        file.write(data)
    return name
