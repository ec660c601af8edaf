"""Writing a snapshot: manifest rows in any order and number, sorted into buckets in bounded memory.

Rows are sorted into runs on disk, one record batch per bucket, and the runs are merged bucket by bucket.
"""

import dataclasses
import hashlib
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hilbert_ray.document import InvalidRow, duplicate_row
from hilbert_ray.storage import DamagedError, block_checksums
from hilbert_ray.store.snapshot import (
    OPTIONAL,
    ROW_GROUP_ROWS,
    SCHEMA,
    Snapshot,
    StoredDocument,
    bucket_of,
    snapshot_name,
    to_row,
)
from hilbert_ray.store.store import Store

_RUN_BYTES = 64 * 2**20
"""Rows that are sorted in memory at a time; a run on disk is about as large."""
_ROW_SCHEMA = pa.schema([("hash", pa.uint64()), *list(SCHEMA)[1:]])
"""The columns of `SCHEMA` before the number of buckets is known: the hash of the id in its place."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RowBlock:
    """Many rows of a manifest at once: documents in columns (`_ROW_SCHEMA`), and faults."""

    table: pa.Table
    faults: tuple[InvalidRow, ...]


def row_block(items: Iterable[StoredDocument | InvalidRow]) -> RowBlock:
    """Return some rows of a manifest as a block."""
    # As columns rather than records: a million Python objects, or their pickles, would be gigabytes.
    rows = []
    faults = []
    for item in items:
        if isinstance(item, InvalidRow):
            faults.append(item)
        else:
            rows.append(to_row(item))
    columns = zip(*rows, strict=True) if rows else ([] for _ in _ROW_SCHEMA)
    arrays = [pa.array(values, field.type) for values, field in zip(columns, _ROW_SCHEMA, strict=True)]
    return RowBlock(table=pa.Table.from_arrays(arrays, schema=_ROW_SCHEMA), faults=tuple(faults))


def write_snapshot(
    store: Store, rows: Iterable[StoredDocument | InvalidRow | RowBlock], roles: Sequence[str] = ()
) -> Snapshot:
    """Make these manifest rows the newest snapshot, unless the newest holds the same; return it.

    Rows are sorted by bucket through temporary files, so that memory is bounded. Rows that share an id all
    become faults.

    Args:
        store: where to write.
        rows: in any order and number, one by one or in blocks.
        roles: the only speakers that the run keeps (empty: all).
    """
    files = store.files
    with tempfile.TemporaryDirectory(prefix="hilbert-ray-") as folder:
        runs, faults = _sort_into_runs(rows, store.buckets, folder)
        # Written locally first: its name in the store is its hash, which is known only at the end.
        path = f"{folder}/snapshot.parquet"
        row_groups, all_faults = _merge(runs, faults, store.buckets, path)
        with open(path, "rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            checksums = block_checksums(file)
        snapshot = Snapshot(
            files=files,
            file=f"documents/{sha256[:16]}.parquet",
            sha256=sha256,
            num_documents=sum(rows for _, rows in row_groups),
            row_groups=tuple(row_groups),
            faults=tuple(sorted(all_faults, key=lambda fault: fault.row)),
            roles=tuple(sorted(roles)),
            block_checksums=checksums,
        )
        # Ends when this snapshot is the newest: another run may take the next number first.
        while True:
            number = store.newest_snapshot_number()
            try:
                is_newest = dataclasses.replace(store.snapshot(number), number=0) == snapshot
            except DamagedError:
                is_newest = False  # this one takes its place
            # An older manifest's file may still exist; written again, it is too young for garbage collection.
            if not is_newest or not files.exists(snapshot.file):
                files.put_from(snapshot.file, path)
            if is_newest:
                return dataclasses.replace(snapshot, number=number)
            if files.create(snapshot_name(number + 1), snapshot.to_json()):
                return dataclasses.replace(snapshot, number=number + 1)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Run:
    """A temporary file of rows, one record batch per bucket; `batches` has each bucket's batch number.

    `unused` are the optional columns that none of its rows needs.
    """

    path: str
    batches: Mapping[int, int]
    unused: frozenset[str]


def _sort_into_runs(
    rows: Iterable[StoredDocument | InvalidRow | RowBlock], buckets: int, folder: str
) -> tuple[list[_Run], list[InvalidRow]]:
    """Write rows to temporary files, each sorted by bucket."""
    runs: list[_Run] = []
    # Faults stay in memory: a manifest of mostly invalid rows is not worth more code.
    faults: list[InvalidRow] = []
    pending: list[pa.Table] = []
    size = 0
    for item in rows:
        block = item if isinstance(item, RowBlock) else row_block([item])
        faults += block.faults
        pending.append(block.table)
        size += block.table.nbytes
        if size >= _RUN_BYTES:
            runs.append(_write_run(pending, buckets, f"{folder}/{len(runs)}.arrow"))
            pending, size = [], 0
    if pending:
        runs.append(_write_run(pending, buckets, f"{folder}/{len(runs)}.arrow"))
    return runs, faults


def _write_run(tables: Sequence[pa.Table], buckets: int, path: str) -> _Run:
    table = pa.concat_tables(tables)
    # Must equal `bucket_of`, here for a whole column at once.
    bucket = (table["hash"].to_numpy() % np.uint64(buckets)).astype(np.int32)
    arrays = [pa.array(bucket), *table.columns[1:]]
    table = pa.Table.from_arrays(arrays, schema=SCHEMA).sort_by("bucket").combine_chunks()
    # The table is sorted: the first row of each bucket is where its batch starts.
    present, starts = np.unique(table["bucket"].to_numpy(), return_index=True)
    with pa.OSFile(path, "wb") as sink, pa.ipc.new_file(sink, SCHEMA) as writer:
        for start, end in pairwise([*starts.tolist(), table.num_rows]):
            writer.write_table(table.slice(start, end - start))
    unused = frozenset(name for name in OPTIONAL if table[name].null_count == table.num_rows)
    return _Run(path=path, batches={owner: i for i, owner in enumerate(present.tolist())}, unused=unused)


def _merge(
    runs: Sequence[_Run], faults: Sequence[InvalidRow], buckets: int, path: str
) -> tuple[list[tuple[int, int]], list[InvalidRow]]:
    """Write the runs as one file by bucket and id; return its row groups, and all faults with shared ids'."""
    readers = [pa.ipc.open_file(pa.OSFile(run.path)) for run in runs]
    # A fault with an id takes part in the search for duplicates; one without cannot.
    faults_of: dict[int, list[InvalidRow]] = {}
    for fault in faults:
        if fault.doc_id:
            faults_of.setdefault(bucket_of(fault.doc_id, buckets), []).append(fault)
    row_groups: list[tuple[int, int]] = []
    all_faults = [fault for fault in faults if not fault.doc_id]
    unused = frozenset(OPTIONAL).intersection(*(run.unused for run in runs))
    schema = pa.schema([column for column in SCHEMA if column.name not in unused])
    with pq.ParquetWriter(path, schema, compression="zstd", use_dictionary=False) as writer:
        for bucket in range(buckets):
            # One bucket is in memory at a time: of each run only its batch is read.
            batches = [
                reader.get_batch(run.batches[bucket])
                for reader, run in zip(readers, runs, strict=True)
                if bucket in run.batches
            ]
            table = pa.Table.from_batches(batches, schema=SCHEMA).select(schema.names)
            # By id, whatever the order in the manifest: the same documents give the same file.
            table = table.sort_by([("doc_id", "ascending"), ("row", "ascending")])
            table, bucket_faults = _without_duplicates(table.combine_chunks(), faults_of.get(bucket, []))
            all_faults += bucket_faults
            # A row group holds one bucket only, so that a worker reads no other bucket's documents.
            for start in range(0, table.num_rows, ROW_GROUP_ROWS):
                row_group = table.slice(start, ROW_GROUP_ROWS)
                writer.write_table(row_group, row_group_size=ROW_GROUP_ROWS)
                row_groups.append((bucket, row_group.num_rows))
    return row_groups, all_faults


def _without_duplicates(table: pa.Table, faults: Sequence[InvalidRow]) -> tuple[pa.Table, list[InvalidRow]]:
    """Split a bucket into the rows whose id is used once, and its faults, old and new.

    An id is used by invalid rows too: which of the rows is meant cannot be known.
    """
    ids = table["doc_id"].to_pylist()
    uses = Counter(ids)
    uses.update(fault.doc_id for fault in faults)
    # The usual case, without a pass over the rows in Python.
    if max(uses.values(), default=0) < 2:
        return table, list(faults)
    rows_of: dict[str, list[int]] = {}
    for doc_id, row in [
        *zip(ids, table["row"].to_pylist(), strict=True),
        *((fault.doc_id, fault.row) for fault in faults),
    ]:
        rows_of.setdefault(doc_id, []).append(row)
    unshared = [fault for fault in faults if uses[fault.doc_id] == 1]
    shared = [
        duplicate_row(row, doc_id, rows)
        for doc_id, rows in ((doc_id, sorted(rows)) for doc_id, rows in rows_of.items() if len(rows) > 1)
        for row in rows
    ]
    is_unique = pa.array([uses[doc_id] == 1 for doc_id in ids], pa.bool_())
    return table.filter(is_unique), unshared + shared
