"""Features in forms that other programs read: NumPy, Arrow, and a folder that Hugging Face `datasets` loads.

An export is written beside its folder and moved there when it is whole. Rows stream through, some megabytes
at a time. Arrow and Parquet files have one row a document:

    doc_id, group, split  string    as in the manifest
    labels                string    JSON, as in the manifest
    features              list<list<float16>>  [n, dim]
    start, end            list<float32>        [n], seconds where `timed`, else positions in [0, 1]
    timed                 bool
    seconds (text: tokens)  float64  how much of the document the features cover: all of it
"""

import json
import os
import shutil
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias
from urllib.parse import quote

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from hilbert_ray.config import Modality
from hilbert_ray.document import Document
from hilbert_ray.storage import TEMPORARY, StorageError
from hilbert_ray.store.features import AMOUNT, FeatureRow

Format: TypeAlias = Literal["huggingface", "numpy", "arrow"]
"""What `Store.export` writes."""
Row: TypeAlias = tuple[FeatureRow, Document]
"""Features of a document and what the manifest says of it."""
_GROUP_BYTES, _SHARD_BYTES = 32 * 2**20, 512 * 2**20


@dataclass(kw_only=True, slots=True)
class ExportPart:
    """What an export holds of one modality and encoder; it is filled while the export is written.

    `documents` have the modality; those `exported` have features too.
    """

    modality: Modality
    fingerprint: str
    encoder: str
    dim: int
    documents: int = 0
    exported: set[str] = field(default_factory=set)

    @property
    def name(self) -> str:
        """Name of the part: the configuration that `datasets.load_dataset` takes."""
        return f"{self.modality}-{self.fingerprint}"


@contextmanager
def new_folder(folder: str) -> Iterator[Path]:
    """Give a folder to write to, which becomes `folder` if all goes well and vanishes if not.

    Raises:
        StoreError: when there is something in `folder` already, or it cannot be written.
    """
    if "://" in folder:
        raise StorageError(
            f"--out is {folder}; an export is written to a local folder: give a path, then copy it"
        )
    target = Path(os.path.abspath(folder))
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise StorageError(
            f"{folder} is there and not empty; an export is written whole, to a folder of its own: delete "
            "it, or choose another --out"
        )
    unfinished = target.parent / f".{target.name}.{uuid.uuid4().hex[:8]}{TEMPORARY}"
    try:
        unfinished.mkdir(parents=True)
        yield unfinished
        os.replace(unfinished, target)
    except OSError as error:
        raise StorageError(
            f"cannot write the export to {folder}: {error}; nothing of it is left there: free space or mend "
            "the permissions, and run again"
        ) from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def write_numpy(rows: Iterable[Row], folder: Path) -> None:
    """Write each document to `folder`/<doc_id>.npz.

    A file holds `features` float16 [n, dim], `start` and `end` float32 [n], and `timed`. What is no letter,
    digit or one of `_.-~` in an id is written as in URLs (%2F for a slash).
    """
    folder.mkdir()
    for row, _ in rows:
        path = folder / f"{quote(row.doc_id, safe='')}.npz"
        np.savez(path, features=row.features, start=row.start, end=row.end, timed=np.bool_(row.timed))


def write_arrow(rows: Iterable[Row], modality: Modality, path: Path) -> None:
    """Write documents as one Arrow IPC file."""
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, _schema(modality)) as writer:
        for table in _tables(rows, modality):
            writer.write_table(table)


def write_parquet(rows: Iterable[Row], modality: Modality, folder: Path) -> None:
    """Write documents as Parquet files of some hundred megabytes."""
    folder.mkdir()
    tables = _tables(rows, modality)
    shard = 0
    table = next(tables, None)
    while table is not None or shard == 0:  # without documents, one file without rows
        path = folder / f"{shard:05d}.parquet"
        size = 0
        with pq.ParquetWriter(path, _schema(modality), use_dictionary=False) as writer:
            while table is not None and size < _SHARD_BYTES:
                writer.write_table(table)
                size += table.nbytes
                table = next(tables, None)
        shard += 1


def write_card(parts: Sequence[ExportPart], store: str, folder: Path) -> None:
    """Write the README.md by which `datasets` finds the configurations, and people what they are."""
    configs = [
        {
            "config_name": part.name,
            "data_files": [{"split": "train", "path": f"{part.name}/*.parquet"}],
        }
        for part in parts
    ]
    lines = [
        "---",
        yaml.safe_dump({"configs": configs}, sort_keys=False).rstrip(),
        "---",
        "",
        "# Document features",
        "",
        f"Segment features of the documents of {store}, exported by hilbert_ray: one configuration a",
        "modality and encoder. `datasets` needs a split, so all documents are in `train`; the column `split`",
        "says which one the manifest gave them.",
        "",
        "| configuration | encoder | width | documents | without features (pending or quarantined) |",
        "|---|---|---|---|---|",
        *(
            f"| `{part.name}` | {part.encoder} | {part.dim} | {len(part.exported)} | "
            f"{part.documents - len(part.exported)} |"
            for part in parts
        ),
        "",
        "    import datasets",
        f'    documents = datasets.load_dataset("FOLDER", "{parts[0].name}", split="train")',
        "",
        "`features` is float16 [segments, width]; `start` and `end` are seconds where `timed`, else",
        "positions in [0, 1]; `labels` is JSON; `seconds` (or `tokens`) is how much of the document the",
        "features cover: all of it.",
        "",
    ]
    (folder / "README.md").write_text("\n".join(lines), encoding="utf-8")


def _schema(modality: Modality) -> pa.Schema:
    times = pa.list_(pa.float32())
    return pa.schema(
        [
            ("doc_id", pa.string()),
            ("group", pa.string()),
            ("split", pa.string()),
            ("labels", pa.string()),
            ("features", pa.list_(pa.list_(pa.float16()))),
            ("start", times),
            ("end", times),
            ("timed", pa.bool_()),
            (AMOUNT[modality], pa.float64()),
        ]
    )


def _tables(rows: Iterable[Row], modality: Modality) -> Iterator[pa.Table]:
    """Yield tables of documents whose features make up some megabytes."""
    part: list[Row] = []
    size = 0
    for row in rows:
        part.append(row)
        size += row[0].features.nbytes
        if size >= _GROUP_BYTES:
            yield _table(part, modality)
            part, size = [], 0
    if part:
        yield _table(part, modality)


def _table(rows: Sequence[Row], modality: Modality) -> pa.Table:
    features = np.concatenate([row.features for row, _ in rows])
    lengths = [len(row.features) for row, _ in rows]
    starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    width = features.shape[1]
    segments = pa.ListArray.from_arrays(
        np.arange(len(features) + 1, dtype=np.int32) * np.int32(width),
        pa.array(features.astype(np.float16).ravel()),
    )
    documents = [document for _, document in rows]
    columns = [
        [row.doc_id for row, _ in rows],
        [document.group for document in documents],
        [document.split for document in documents],
        [json.dumps(dict(one.labels), sort_keys=True, ensure_ascii=False) for one in documents],
        pa.ListArray.from_arrays(starts, segments),
        pa.ListArray.from_arrays(starts, pa.array(np.concatenate([row.start for row, _ in rows]))),
        pa.ListArray.from_arrays(starts, pa.array(np.concatenate([row.end for row, _ in rows]))),
        [row.timed for row, _ in rows],
        [row.seen for row, _ in rows],
    ]
    schema = _schema(modality)
    arrays = [
        column if isinstance(column, pa.Array) else pa.array(column, field.type)
        for column, field in zip(columns, schema, strict=True)
    ]
    return pa.Table.from_arrays(arrays, schema=schema)
