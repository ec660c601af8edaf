"""The validated manifest inside a store: documents by bucket, and the rows that were no valid documents.

A snapshot is one Parquet file named by its content, with row groups for each bucket, and one small JSON file
`documents/<number>.json` that names it. A number is created only once, so finding the newest is a matter of
listing, and replacing the manifest is one atomic step: documents it no longer lists leave the readers' view.
"""

import dataclasses
import hashlib
import json
import tempfile
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hilbert_ray.config import Modality
from hilbert_ray.document import Document, Fault, Utterance, duplicate_fault
from hilbert_ray.store.files import Files, StoreError

GROUP_ROWS = 256
"""Documents in one row group: what a worker reads at least to get at one document."""
_RUN_BYTES = 64 * 2**20
_GROUPS_AT_ONCE = 64
"""Row groups of which ids and versions are read together."""
_SCHEMA = pa.schema(
    [
        ("bucket", pa.int32()),
        ("row", pa.int64()),
        ("doc_id", pa.string()),
        ("audio", pa.string()),
        ("text", pa.large_string()),
        ("text_file", pa.string()),
        ("group", pa.string()),
        ("labels", pa.string()),
        ("split", pa.string()),
        ("audio_version", pa.string()),
        ("text_version", pa.string()),
        ("turns_version", pa.string()),
    ]
)

_PART_SCHEMA = pa.schema([("hash", pa.uint64()), *list(_SCHEMA)[1:]])
"""The columns of `_SCHEMA` while the number of buckets is not known yet."""
_SORTED_ENCODER = json.JSONEncoder(ensure_ascii=False, sort_keys=True)
_footers: dict[str, pq.FileMetaData] = {}


def bucket_of(doc_id: str, buckets: int) -> int:
    """Return the bucket of a document: blake2b-64 of its id, modulo the store's number of buckets."""
    return _hash(doc_id) % buckets


def _hash(doc_id: str) -> int:
    return int.from_bytes(hashlib.blake2b(doc_id.encode(), digest_size=8).digest(), "big")


def digest(*parts: str) -> str:
    """Return a 64-bit hash of some strings, as 16 hexadecimal digits."""
    return hashlib.blake2b("\0".join(parts).encode(), digest_size=8).hexdigest()


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredDocument:
    """A document as the newest manifest gave it, with the versions that its files had then.

    A version is None where the document lacks the thing. `turns_version` covers the times and roles of a
    timed transcript: what audio features depend on when audio is cut by turns or filtered by role.
    """

    document: Document
    row: int
    audio_version: str | None
    text_version: str | None
    turns_version: str | None

    def has(self, modality: Modality) -> bool:
        """Whether the document has this modality."""
        return (self.audio_version if modality == "audio" else self.text_version) is not None

    def source(self, modality: Modality, *, reads_turns: bool = False, roles: Sequence[str] = ()) -> str:
        """Return the hash of what the features depend on besides the encoder's fingerprint.

        Args:
            modality: whose features.
            reads_turns: whether audio is cut by the transcript's turns.
            roles: the only speakers that are kept, where that is set.
        """
        return _source(
            modality, reads_turns, roles, self.audio_version, self.text_version, self.turns_version
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Snapshot:
    """What one `documents/<number>.json` says.

    `groups` lists (bucket, rows) of each row group of `file`; `roles` are the only speakers that the run kept
    (empty: all), on which every document's source depends.
    """

    number: int
    file: str
    sha256: str
    rows: int
    groups: tuple[tuple[int, int], ...]
    faults: tuple[Fault, ...]
    roles: tuple[str, ...] = ()

    def blocks(self, bucket: int | None = None, rows: int = 50_000) -> list[frozenset[int]]:
        """Return the buckets in use in groups of about `rows` documents: what one process holds at a time."""
        blocks: list[frozenset[int]] = []
        pending: set[int] = set()
        size = 0
        for owner, count in self.groups:
            if bucket is not None and owner != bucket:
                continue
            if size >= rows and owner not in pending:
                blocks.append(frozenset(pending))
                pending, size = set(), 0
            pending.add(owner)
            size += count
        return [*blocks, frozenset(pending)] if pending else blocks


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """Many rows of a manifest at once: documents in columns (`_PART_SCHEMA`), and faults."""

    table: pa.Table
    faults: tuple[Fault, ...]


EMPTY = Snapshot(number=0, file="", sha256="", rows=0, groups=(), faults=())


def newest(files: Files) -> Snapshot:
    """Return the newest snapshot of a store; an empty one where nothing was written yet."""
    names = [name for name in files.names("documents") if name.endswith(".json")]
    return load(files, _number_of(names[-1])) if names else EMPTY


def _number_of(name: str) -> int:
    return int(name.rpartition("/")[2].removesuffix(".json"))


def load(files: Files, number: int) -> Snapshot:
    """Return a snapshot by its number."""
    values = json.loads(files.read(f"documents/{number:08d}.json"))
    return Snapshot(
        number=number,
        file=values["file"],
        sha256=values["sha256"],
        rows=values["rows"],
        groups=tuple((bucket, rows) for bucket, rows in values["groups"]),
        faults=tuple(Fault(**fault) for fault in values["faults"]),
        roles=tuple(values["roles"]),
    )


def part_of(items: Iterable[StoredDocument | Fault]) -> Part:
    """Return some rows of a manifest as a part."""
    rows = []
    faults = []
    for item in items:
        if isinstance(item, Fault):
            faults.append(item)
        else:
            rows.append(_to_row(item))
    columns = zip(*rows, strict=True) if rows else ([] for _ in _PART_SCHEMA)
    arrays = [pa.array(values, field.type) for values, field in zip(columns, _PART_SCHEMA, strict=True)]
    return Part(table=pa.Table.from_arrays(arrays, schema=_PART_SCHEMA), faults=tuple(faults))


def write(
    files: Files, rows: Iterable[StoredDocument | Fault | Part], buckets: int, roles: Sequence[str] = ()
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
            last = newest(files)
            is_newest = dataclasses.replace(last, number=0) == snapshot
            # An older manifest's file may be there still; written again, it is too young for `gc`.
            if not is_newest or not files.exists(name):
                files.put_from(name, path)
            if is_newest:
                return last
            if files.create(f"documents/{last.number + 1:08d}.json", json.dumps(values).encode()):
                return dataclasses.replace(snapshot, number=last.number + 1)


def read(
    files: Files,
    snapshot: Snapshot,
    buckets: Collection[int] | None = None,
    doc_ids: Collection[str] | None = None,
    words: bool = True,
) -> Iterator[StoredDocument]:
    """Yield the documents of a snapshot by bucket and id, reading only the row groups that hold wanted ones.

    Args:
        files: the store's files.
        snapshot: which snapshot.
        buckets: only these buckets.
        doc_ids: only these ids (then `buckets` should say where they are).
        words: False leaves inline transcripts out, as the empty string.
    """
    if not snapshot.rows:
        return
    numbers = [i for i, (owner, _) in enumerate(snapshot.groups) if buckets is None or owner in buckets]
    if not numbers:
        return
    columns = [name for name in _SCHEMA.names if words or name != "text"]
    with files.open(snapshot.file) as file:
        parquet = _open(file, snapshot)
        for number in numbers:
            if doc_ids is None:
                table = parquet.read_row_group(number, columns=columns)
            else:
                here = parquet.read_row_group(number, columns=["doc_id"])["doc_id"].to_pylist()
                wanted = [i for i, doc_id in enumerate(here) if doc_id in doc_ids]
                if not wanted:
                    continue
                table = parquet.read_row_group(number, columns=columns).take(wanted)
            yield from map(_from_row, table.to_pylist())


def sources(
    files: Files, snapshot: Snapshot, buckets: Collection[int], modality: Modality, reads_turns: bool
) -> Iterator[tuple[str, str | None]]:
    """Yield (id, source) of the documents of some buckets, source None where they lack the modality.

    It is `StoredDocument.source` of each, read from the few columns that tell it.
    """
    columns = ["doc_id", "audio_version", "text_version", "turns_version"]
    numbers = [i for i, (owner, _) in enumerate(snapshot.groups) if owner in buckets]
    if not numbers:
        return
    has = columns[1] if modality == "audio" else columns[2]
    with files.open(snapshot.file) as file:
        parquet = _open(file, snapshot)
        for start in range(0, len(numbers), _GROUPS_AT_ONCE):
            table = parquet.read_row_groups(numbers[start : start + _GROUPS_AT_ONCE], columns=columns)
            present = table[has].is_valid().to_pylist()
            for found, (doc_id, *versions) in zip(
                present, zip(*(column.to_pylist() for column in table.columns), strict=True), strict=True
            ):
                yield doc_id, _source(modality, reads_turns, snapshot.roles, *versions) if found else None


def _open(file: Any, snapshot: Snapshot) -> pq.ParquetFile:  # noqa: ANN401 - whatever fsspec opens
    """Open the documents of a snapshot; its footer, which grows with the manifest, is read once a process."""
    parquet = pq.ParquetFile(file, metadata=_footers.get(snapshot.sha256))
    if snapshot.sha256 not in _footers:
        _footers.clear()  # a run reads one snapshot
        _footers[snapshot.sha256] = parquet.metadata
    return parquet


def hash_file(path: str) -> str:
    """Return the SHA-256 of a local file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def superseded(files: Files, min_age_h: float) -> list[str]:
    """Return the names of files that no manifest needs but such as were replaced `min_age_h` hours ago."""
    entries = files.entries("documents")
    numbered = [name for name in entries if name.endswith(".json")]
    replaced = [old for old, new in pairwise(numbered) if entries[new].age_h >= min_age_h]
    kept = {load(files, _number_of(name)).file for name in numbered if name not in replaced}
    return replaced + [name for name in entries if not name.endswith(".json") and name not in kept]


def check(files: Files, snapshot: Snapshot) -> None:
    """Read a snapshot's file again and compare its hash.

    Raises:
        StoreError: when the file is gone or its content changed.
    """
    hasher = hashlib.sha256()
    try:
        with files.open(snapshot.file) as file:
            while block := file.read(2**22):
                hasher.update(block)
    except FileNotFoundError:
        raise StoreError(
            f"{snapshot.file}, the newest manifest, is gone; run `hilbert-ray embed` again"
        ) from None
    if hasher.hexdigest() != snapshot.sha256:
        raise StoreError(
            f"sha256 is {hasher.hexdigest()}, but the manifest {snapshot.number:08d}.json says "
            f"{snapshot.sha256}; delete the file and run `hilbert-ray embed` again"
        )


def encode_text(text: str | tuple[Utterance, ...]) -> str:
    """Return a transcript as JSON: a string, or a list of utterances without their empty fields."""
    if isinstance(text, str):
        return msgspec.json.encode(text).decode()
    return msgspec.json.encode([_fields(utterance) for utterance in text]).decode()


def _fields(utterance: Utterance) -> dict[str, Any]:
    fields: dict[str, Any] = {"text": utterance.text}
    if utterance.start is not None:
        fields["start"] = utterance.start
    if utterance.end is not None:
        fields["end"] = utterance.end
    if utterance.role is not None:
        fields["role"] = utterance.role
    return fields


def _decode_text(text: str) -> str | tuple[Utterance, ...]:
    values = msgspec.json.decode(text)
    return values if isinstance(values, str) else tuple(Utterance(**fields) for fields in values)


def _source(
    modality: Modality,
    reads_turns: bool,
    roles: Sequence[str],
    audio: str | None,
    text: str | None,
    turns: str | None,
) -> str:
    if modality == "text":
        return digest("text", text or "", *sorted(roles))
    return digest("audio", audio or "", (turns or "") if reads_turns or roles else "", *sorted(roles))


def _to_row(stored: StoredDocument) -> tuple[Any, ...]:
    """Return the values of a row in the order of `_PART_SCHEMA`."""
    document = stored.document
    return (
        _hash(document.doc_id),
        stored.row,
        document.doc_id,
        document.audio,
        None if document.text is None else encode_text(document.text),
        document.text_file,
        document.group,
        _SORTED_ENCODER.encode(document.labels),
        document.split,
        stored.audio_version,
        stored.text_version,
        stored.turns_version,
    )


def _from_row(values: dict[str, Any]) -> StoredDocument:
    text: str | tuple[Utterance, ...] | None = None
    if values.get("text") is not None:
        text = _decode_text(values["text"])
    elif values["text_version"] is not None and values["text_file"] is None:
        text = ""
    return StoredDocument(
        document=Document(
            doc_id=values["doc_id"],
            audio=values["audio"],
            text=text,
            text_file=values["text_file"],
            group=values["group"],
            labels=json.loads(values["labels"]),
            split=values["split"],
        ),
        row=values["row"],
        audio_version=values["audio_version"],
        text_version=values["text_version"],
        turns_version=values["turns_version"],
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Run:
    """A temporary file of rows, one record batch a bucket; `batches` tells where each bucket is."""

    path: str
    batches: Mapping[int, int]


def _sort_into_runs(
    rows: Iterable[StoredDocument | Fault | Part], buckets: int, folder: str
) -> tuple[list[_Run], list[Fault]]:
    """Gather rows into temporary files, each sorted by bucket."""
    runs: list[_Run] = []
    faults: list[Fault] = []
    pending: list[pa.Table] = []
    size = 0
    for item in rows:
        part = item if isinstance(item, Part) else part_of([item])
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
    table = pa.Table.from_arrays(arrays, schema=_SCHEMA).sort_by("bucket").combine_chunks()
    present, starts = np.unique(table["bucket"].to_numpy(), return_index=True)
    with pa.OSFile(path, "wb") as sink, pa.ipc.new_file(sink, _SCHEMA) as writer:
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
    with pq.ParquetWriter(path, _SCHEMA, compression="zstd", use_dictionary=False) as writer:
        for bucket in range(buckets):
            batches = [
                reader.get_batch(run.batches[bucket])
                for reader, run in zip(readers, runs, strict=True)
                if bucket in run.batches
            ]
            table = pa.Table.from_batches(batches, schema=_SCHEMA)
            table = table.sort_by([("doc_id", "ascending"), ("row", "ascending")])
            table, shared = _without_duplicates(table.combine_chunks(), named.get(bucket, []))
            found += shared
            for start in range(0, table.num_rows, GROUP_ROWS):
                part = table.slice(start, GROUP_ROWS)
                writer.write_table(part, row_group_size=GROUP_ROWS)
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
