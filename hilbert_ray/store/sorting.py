"""Writing a snapshot: manifest rows of any order and number, sorted into buckets in bounded memory.

Rows are sorted into runs on disk, one record batch per bucket, and the runs are merged bucket by bucket.
"""

import dataclasses
import json
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hilbert_ray.document import Fault, duplicate_fault
from hilbert_ray.storage import Files
from hilbert_ray.store.snapshot import (
    ROW_GROUP_ROWS,
    SCHEMA,
    Snapshot,
    StoredDocument,
    bucket_of,
    hash_file,
    newest_snapshot,
    to_row,
)

_RUN_BYTES = 64 * 2**20
_ROW_SCHEMA = pa.schema([("hash", pa.uint64()), *list(SCHEMA)[1:]])
"""The columns of `_SCHEMA` while the number of buckets is not known yet."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RowBlock:
    """Many rows of a manifest at once: documents in columns (`_PART_SCHEMA`), and faults."""

    table: pa.Table
    faults: tuple[Fault, ...]


def row_block(items: Iterable[StoredDocument | Fault]) -> RowBlock:
    """Return some rows of a manifest as a part."""
    rows = []
    faults = []
    for item in items:
        if isinstance(item, Fault):
            faults.append(item)
        else:
            rows.append(to_row(item))
    columns = zip(*rows, strict=True) if rows else ([] for _ in _ROW_SCHEMA)
    arrays = [pa.array(values, field.type) for values, field in zip(columns, _ROW_SCHEMA, strict=True)]
    return RowBlock(table=pa.Table.from_arrays(arrays, schema=_ROW_SCHEMA), faults=tuple(faults))


def write_snapshot(
    files: Files, rows: Iterable[StoredDocument | Fault | RowBlock], buckets: int, roles: Sequence[str] = ()
) -> Snapshot:
    """Make these rows the newest snapshot, unless the newest holds the same already; return it.

    Rows may come in any order and number, one by one or as parts: they are sorted by bucket through temporary
    files, so that memory is bounded. All rows of an id that several rows use become faults.
    """
    with tempfile.TemporaryDirectory(prefix="hilbert-ray-") as folder:
        runs, faults = _sort_into_runs(rows, buckets, folder)
        path = f"{folder}/snapshot.parquet"
        groups, duplicates = _merge(runs, faults, buckets, path)
        sha256 = hash_file(path)
        name = f"documents/{sha256[:16]}.parquet"
        snapshot = Snapshot(
            number=0,
            file=name,
            sha256=sha256,
            rows=sum(rows for _, rows in groups),
            groups=tuple(groups),
            faults=tuple(sorted(duplicates, key=lambda fault: fault.row)),
            roles=tuple(sorted(roles)),
        )
        values = {k: v for k, v in dataclasses.asdict(snapshot).items() if k != "number"}
        while True:
            last = newest_snapshot(files)
            is_newest = dataclasses.replace(last, number=0) == snapshot
            # An older manifest's file may be there still; written again, it is too young for `gc`.
            if not is_newest or not files.exists(name):
                files.put_from(name, path)
            if is_newest:
                return last
            if files.create(f"documents/{last.number + 1:08d}.json", json.dumps(values).encode()):
                return dataclasses.replace(snapshot, number=last.number + 1)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Run:
    """A temporary file of rows, one record batch a bucket; `batches` tells where each bucket is."""

    path: str
    batches: Mapping[int, int]


def _sort_into_runs(
    rows: Iterable[StoredDocument | Fault | RowBlock], buckets: int, folder: str
) -> tuple[list[_Run], list[Fault]]:
    """Gather rows into temporary files, each sorted by bucket."""
    runs: list[_Run] = []
    faults: list[Fault] = []
    pending: list[pa.Table] = []
    size = 0
    for item in rows:
        part = item if isinstance(item, RowBlock) else row_block([item])
        faults += part.faults
        pending.append(part.table)
        size += part.table.nbytes
        if size >= _RUN_BYTES:
            runs.append(_spill(pending, buckets, f"{folder}/{len(runs)}.arrow"))
            pending, size = [], 0
    if pending:
        runs.append(_spill(pending, buckets, f"{folder}/{len(runs)}.arrow"))
    return runs, faults


def _spill(tables: Sequence[pa.Table], buckets: int, path: str) -> _Run:
    table = pa.concat_tables(tables)
    bucket = (table["hash"].to_numpy() % np.uint64(buckets)).astype(np.int32)
    arrays = [pa.array(bucket), *table.columns[1:]]
    table = pa.Table.from_arrays(arrays, schema=SCHEMA).sort_by("bucket").combine_chunks()
    present, starts = np.unique(table["bucket"].to_numpy(), return_index=True)
    with pa.OSFile(path, "wb") as sink, pa.ipc.new_file(sink, SCHEMA) as writer:
        for start, end in pairwise([*starts.tolist(), table.num_rows]):
            writer.write_table(table.slice(start, end - start))
    return _Run(path=path, batches={owner: i for i, owner in enumerate(present.tolist())})


def _merge(
    runs: Sequence[_Run], faults: Sequence[Fault], buckets: int, path: str
) -> tuple[list[tuple[int, int]], list[Fault]]:
    """Write the runs as one file by bucket and id; return its row groups, and all faults with shared ids'."""
    readers = [pa.ipc.open_file(pa.OSFile(run.path)) for run in runs]
    named: dict[int, list[Fault]] = {}
    for fault in faults:
        if fault.doc_id:
            named.setdefault(bucket_of(fault.doc_id, buckets), []).append(fault)
    groups: list[tuple[int, int]] = []
    found = [fault for fault in faults if not fault.doc_id]
    with pq.ParquetWriter(path, SCHEMA, compression="zstd", use_dictionary=False) as writer:
        for bucket in range(buckets):
            batches = [
                reader.get_batch(run.batches[bucket])
                for reader, run in zip(readers, runs, strict=True)
                if bucket in run.batches
            ]
            table = pa.Table.from_batches(batches, schema=SCHEMA)
            table = table.sort_by([("doc_id", "ascending"), ("row", "ascending")])
            table, shared = _without_duplicates(table.combine_chunks(), named.get(bucket, []))
            found += shared
            for start in range(0, table.num_rows, ROW_GROUP_ROWS):
                part = table.slice(start, ROW_GROUP_ROWS)
                writer.write_table(part, row_group_size=ROW_GROUP_ROWS)
                groups.append((bucket, part.num_rows))
    return groups, found


def _without_duplicates(table: pa.Table, faults: Sequence[Fault]) -> tuple[pa.Table, list[Fault]]:
    """Split a bucket into the rows whose id is used once and the faults of it, old and new."""
    ids = table["doc_id"].to_pylist()
    uses = Counter(ids)
    uses.update(fault.doc_id for fault in faults)
    if max(uses.values(), default=0) < 2:
        return table, list(faults)
    rows_of: dict[str, list[int]] = {}
    for doc_id, row in [
        *zip(ids, table["row"].to_pylist(), strict=True),
        *((f.doc_id, f.row) for f in faults),
    ]:
        rows_of.setdefault(doc_id, []).append(row)
    kept = [fault for fault in faults if uses[fault.doc_id] == 1]
    shared = [
        duplicate_fault(row, doc_id, rows)
        for doc_id, rows in ((doc_id, sorted(rows)) for doc_id, rows in rows_of.items() if len(rows) > 1)
        for row in rows
    ]
    return table.filter(pa.array([uses[doc_id] == 1 for doc_id in ids], pa.bool_())), kept + shared
