"""Features in forms that other programs read: NumPy, Arrow, and a folder that Hugging Face `datasets` loads.

Each modality and encoder has its own part: a configuration of a Hugging Face data set, an Arrow file, or a
folder of NumPy files, named <modality>-<fingerprint>. An export is written next to its folder and renamed
when it is complete. Rows stream through, some megabytes at a time. Arrow and Parquet files have one row per
document:

    doc_id, group, split  string    as in the manifest
    labels                string    JSON, as in the manifest
    features              list<list<float16>>  [n, dim]
    start, end            list<float32>        [n], seconds where `timed`, else positions in [0, 1]
    timed                 bool
    roles                 list<string>  [n], the speaker of each segment's channel or turn, empty if unknown;
                                        null where none is known
    seconds (text: tokens)  float64  length of the document, all of which the features cover
"""

import hashlib
import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias
from urllib.parse import quote

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from hilbert_ray.config import MODALITIES, Modality, layer_range
from hilbert_ray.document import Document
from hilbert_ray.storage import new_folder
from hilbert_ray.store.errors import PendingError, StoreError
from hilbert_ray.store.features import AMOUNT, FeatureRow
from hilbert_ray.store.snapshot import Snapshot, bucket_of
from hilbert_ray.store.store import Store

Format: TypeAlias = Literal["huggingface", "numpy", "arrow"]
"""What `export_store` writes."""
Row: TypeAlias = tuple[FeatureRow, Document]
"""Features of a document and what the manifest says of it."""
LONGEST_NAME = 200
"""Characters of a NumPy file's name, without what is appended: file systems take 255 bytes."""
_ROW_GROUP_BYTES = 32 * 2**20
"""Features per row group: what is in memory at a time, here and in programs that stream the file."""
_SHARD_BYTES = 512 * 2**20
"""Features per Parquet file: the hub recommends files of some hundred megabytes."""


@dataclass(kw_only=True, slots=True)
class ExportPart:
    """What an export holds of one modality and encoder; it is counted while the export is written.

    `layers` is how many the stored features hold, of which `layer` is exported, or all of them side by side;
    `dim` is the width that is exported. `names` are those of named columns, by the first of them; none where
    there are several layers. `documents` counts those that have the modality; `exported` are the
    ids of those that have features too.
    """

    modality: Modality
    fingerprint: str
    encoder: str
    dim: int
    layers: int = 1
    layer: int | None = None
    names: Mapping[int, Sequence[str]] = field(default_factory=dict)
    documents: int = 0
    exported: set[str] = field(default_factory=set)

    @property
    def name(self) -> str:
        """Name of the part: the configuration that `datasets.load_dataset` takes."""
        return f"{self.modality}-{self.fingerprint}"


def export_store(
    store: Store,
    folder: str,
    format: Format = "huggingface",
    doc_ids: Collection[str] = (),
    *,
    layer: int | None = None,
    allow_pending: bool = False,
) -> int:
    """Write the current features of all documents or some to a new folder; return how many documents.

    Args:
        store: the store.
        folder: local folder to write, absent or empty.
        format: what to write, see the module.
        doc_ids: only these documents; all where empty.
        layer: of features that were embedded with `layer: all`, only this one; None for all side by side.
            Features of a single layer are exported as they are.
        allow_pending: leave out documents that are not embedded yet, instead of refusing the store.

    Raises:
        PendingError: when documents are not embedded yet, without `doc_ids` and `allow_pending`.
        ConfigError: when features of several layers lack this one.
        StorageError: when the folder is not local or not empty.
        WriteError: when it cannot be written.
        StoreError: when a document of `doc_ids` is not in the newest manifest or has no features, or none
            has.
    """
    # One snapshot for all parts, whatever is embedded meanwhile.
    snapshot = store.snapshot()
    chosen = set(doc_ids) or None
    if chosen is not None:
        _require_documents(store, snapshot, chosen)
    parts = [
        _part(modality, fingerprint, description, layer)
        for modality in MODALITIES
        for fingerprint, description in store.encoders(modality, snapshot).items()
    ]
    with new_folder(folder) as unfinished:
        if chosen is None and not allow_pending:
            _require_all_embedded(parts, store, snapshot)
        for part in parts:
            _write_part(part, _rows_of(part, store, snapshot, chosen), format, unfinished)
        exported = set().union(*(part.exported for part in parts))
        # Raised inside, so that the unfinished folder goes.
        if not exported and chosen is None:
            raise StoreError(f"store {store.uri} has no features to export; run `hilbert-ray embed` first")
        if missing := sorted((chosen or set()) - exported):
            raise StoreError(
                f"document {missing[0]!r} has no features in store {store.uri}: it is pending or "
                "quarantined; run `hilbert-ray embed`, which reports the reason, or leave it out"
            )
        if format == "huggingface":
            _write_card(parts, store.uri, unfinished)
    return len(exported)


def _part(
    modality: Modality, fingerprint: str, description: Mapping[str, Any], layer: int | None
) -> ExportPart:
    """Return what is exported of an encoder's features.

    Raises:
        ConfigError: when features of several layers lack the chosen one.
    """
    encoder, layers = str(description.get("name")), int(description.get("layers", 1))
    if layer is not None and layers > 1:
        layer_range(str(layer), layers, f"{modality} encoder {encoder}")
    else:
        layer = None
    return ExportPart(
        modality=modality, fingerprint=fingerprint, encoder=encoder, layers=layers, layer=layer,
        dim=int(description["dim"]) // (1 if layer is None else layers),
        names=_names(description) if layers == 1 else {},
    )  # fmt: skip


def _names(description: Mapping[str, Any], first: int = 0) -> dict[int, Sequence[str]]:
    """Return the names of the columns of an encoder or of the parts that it joins, by their first column."""
    names = {first: description["names"]} if "names" in description else {}
    for part in description.get("parts", ()):
        names |= _names(part, first)
        first += part["dim"]
    return names


def _require_all_embedded(parts: Sequence[ExportPart], store: Store, snapshot: Snapshot) -> None:
    """Refuse a store that `embed` has not finished, before anything is written."""
    pending = {
        f"{part.modality} ({part.encoder})": sum(
            len(block.sources) - len(block.owners) - len(block.failures)
            for block in store.current_blocks(part.modality, part.fingerprint, snapshot)
        )
        for part in parts
    }
    if any(pending.values()):
        raise PendingError(store.uri, pending, snapshot.num_documents)


def _require_documents(store: Store, snapshot: Snapshot, doc_ids: Collection[str]) -> None:
    """Refuse ids that the newest manifest lacks, before anything is written."""
    buckets = _buckets_of(doc_ids, store)
    known = {item.document.doc_id for item in snapshot.documents(buckets, doc_ids, with_text=False)}
    if absent := sorted(set(doc_ids) - known):
        raise StoreError(
            f"document {absent[0]!r} is not in the newest manifest of store {store.uri}, which has "
            f"{snapshot.num_documents} documents: correct the id, or embed a manifest that has it"
        )


def _buckets_of(doc_ids: Collection[str], store: Store) -> set[int]:
    return {bucket_of(doc_id, store.buckets) for doc_id in doc_ids}


def _rows_of(
    part: ExportPart, store: Store, snapshot: Snapshot, chosen: Collection[str] | None
) -> Iterator[Row]:
    """Yield the features of a part with their documents; count them in it."""
    buckets = None if chosen is None else _buckets_of(chosen, store)
    for block in store.current_blocks(part.modality, part.fingerprint, snapshot, buckets):
        part.documents += sum(chosen is None or doc_id in chosen for doc_id in block.sources)
        # An export has labels and groups but no transcripts: what people said stays in the manifest.
        items = snapshot.documents(block.buckets, chosen, with_text=False)
        documents = {item.document.doc_id: item.document for item in items}
        for row in store.rows(part.modality, block.locations(chosen)):
            part.exported.add(row.doc_id)
            if part.layer is not None:
                by_layer = row.features.reshape(len(row.features), part.layers, -1)
                row = replace(row, features=by_layer[:, part.layer])
            yield row, documents[row.doc_id]


def _write_part(part: ExportPart, rows: Iterable[Row], format: Format, folder: Path) -> None:
    if format == "numpy":
        _write_numpy(rows, folder / part.name)
    elif format == "arrow":
        _write_arrow(rows, part.modality, folder / f"{part.name}.arrow")
    else:
        _write_parquet(rows, part.modality, folder / part.name)


def _write_numpy(rows: Iterable[Row], folder: Path) -> None:
    """Write each document to `folder`/<doc_id>.npz.

    A file holds `doc_id`, `features` float16 [n, dim], `start` and `end` float32 [n], `timed`, and where
    a speaker is known `roles` [n]. In its name, characters other than letters, digits and `_.-~` are written
    as in URLs (%2F for a slash), and an id too long for a name is its first `LONGEST_NAME` characters and a
    hash.
    """
    folder.mkdir()
    for row, _ in rows:
        path = folder / f"{_file_name(row.doc_id)}.npz"
        roles: dict[str, Any] = {} if row.roles is None else {"roles": np.array(row.roles)}
        np.savez(
            path, doc_id=np.str_(row.doc_id), features=row.features, start=row.start, end=row.end,
            timed=np.bool_(row.timed), **roles,
        )  # fmt: skip


def _file_name(doc_id: str) -> str:
    name = quote(doc_id, safe="")
    if len(name) <= LONGEST_NAME:
        return name
    # The hash keeps apart ids that begin alike.
    return f"{name[:LONGEST_NAME]}-{hashlib.sha256(doc_id.encode()).hexdigest()[:16]}"


def _write_arrow(rows: Iterable[Row], modality: Modality, path: Path) -> None:
    """Write documents as one Arrow IPC file."""
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, _schema(modality)) as writer:
        for table in _tables(rows, modality):
            writer.write_table(table)


def _write_parquet(rows: Iterable[Row], modality: Modality, folder: Path) -> None:
    """Write documents as Parquet files of some hundred megabytes."""
    folder.mkdir()
    tables = _tables(rows, modality)
    # One table ahead, so that the last file is never empty.
    shard = 0
    table = next(tables, None)
    # Without documents, one file without rows: `datasets` refuses a configuration without files.
    while table is not None or shard == 0:
        path = folder / f"{shard:05d}.parquet"
        size = 0
        # A dictionary of float16 lists would hold every row: all differ.
        with pq.ParquetWriter(path, _schema(modality), use_dictionary=False) as writer:
            while table is not None and size < _SHARD_BYTES:
                writer.write_table(table)
                size += table.nbytes
                table = next(tables, None)
        shard += 1


def _write_card(parts: Sequence[ExportPart], store: str, folder: Path) -> None:
    """Write the README.md that lists the configurations, for `datasets` and for people."""
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
        f"Segment features of the documents of {store}, exported by hilbert_ray: one configuration per",
        "modality and encoder. `datasets` requires a split, so all documents are in `train`; the column",
        "`split` is the one in the manifest.",
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
        "positions in [0, 1]; `roles` are the speakers of their channels or turns; `labels` is JSON;",
        "`seconds` (or `tokens`) is the length of the document, which the features cover whole.",
        "",
        *(
            f"Columns {first} to {first + len(names) - 1} of `{part.name}` are {', '.join(names)}.\n"
            for part in parts
            for first, names in part.names.items()
        ),
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
            ("roles", pa.list_(pa.string())),
            (AMOUNT[modality], pa.float64()),
        ]
    )


def _tables(rows: Iterable[Row], modality: Modality) -> Iterator[pa.Table]:
    """Yield tables of documents whose features make up some megabytes."""
    batch: list[Row] = []
    size = 0
    for row in rows:
        batch.append(row)
        size += row[0].features.nbytes
        if size >= _ROW_GROUP_BYTES:
            yield _table(batch, modality)
            batch, size = [], 0
    if batch:
        yield _table(batch, modality)


def _table(rows: Sequence[Row], modality: Modality) -> pa.Table:
    # Nested lists are built from flat arrays and offsets: Python lists of float16 would take minutes.
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
        [json.dumps(dict(document.labels), sort_keys=True, ensure_ascii=False) for document in documents],
        pa.ListArray.from_arrays(starts, segments),
        pa.ListArray.from_arrays(starts, pa.array(np.concatenate([row.start for row, _ in rows]))),
        pa.ListArray.from_arrays(starts, pa.array(np.concatenate([row.end for row, _ in rows]))),
        [row.timed for row, _ in rows],
        [row.roles for row, _ in rows],
        [row.seen for row, _ in rows],
    ]
    schema = _schema(modality)
    arrays = [
        column if isinstance(column, pa.Array) else pa.array(column, field.type)
        for column, field in zip(columns, schema, strict=True)
    ]
    return pa.Table.from_arrays(arrays, schema=schema)
