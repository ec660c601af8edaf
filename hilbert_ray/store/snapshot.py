"""The validated manifest inside a store: documents by bucket, with the versions of their files.

A snapshot is one Parquet file and a small JSON file that names it; the newest counts. Rows that were not
valid documents are kept with it as faults.
"""

import hashlib
import json
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from hilbert_ray.config import Modality
from hilbert_ray.document import Document, Fault, Utterance
from hilbert_ray.storage import Files, StorageError

ROW_GROUP_ROWS = 256
"""Documents in one row group: what a worker reads at least to get at one document."""
_GROUPS_AT_ONCE = 64
"""Row groups of which ids and versions are read together."""
SCHEMA = pa.schema(
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
_SORTED_ENCODER = json.JSONEncoder(ensure_ascii=False, sort_keys=True)
_footers: dict[str, pq.FileMetaData] = {}


def doc_id_hash(doc_id: str) -> int:
    """Return 64 bits of blake2b: the order of rows, and the bucket modulo their number."""
    return int.from_bytes(hashlib.blake2b(doc_id.encode(), digest_size=8).digest(), "big")


def bucket_of(doc_id: str, buckets: int) -> int:
    """Return the bucket of a document: blake2b-64 of its id, modulo the store's number of buckets."""
    return doc_id_hash(doc_id) % buckets


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


EMPTY = Snapshot(number=0, file="", sha256="", rows=0, groups=(), faults=())


def newest_snapshot(files: Files) -> Snapshot:
    """Return the newest snapshot of a store; an empty one where nothing was written yet."""
    names = [name for name in files.names("documents") if name.endswith(".json")]
    return read_snapshot(files, _number_of(names[-1])) if names else EMPTY


def _number_of(name: str) -> int:
    return int(name.rpartition("/")[2].removesuffix(".json"))


def read_snapshot(files: Files, number: int) -> Snapshot:
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


def read_documents(
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
    columns = [name for name in SCHEMA.names if words or name != "text"]
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


def read_sources(
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


def superseded_snapshots(files: Files, min_age_h: float) -> list[str]:
    """Return the names of files that no manifest needs but such as were replaced `min_age_h` hours ago."""
    entries = files.entries("documents")
    numbered = [name for name in entries if name.endswith(".json")]
    replaced = [old for old, new in pairwise(numbered) if entries[new].age_h >= min_age_h]
    kept = {read_snapshot(files, _number_of(name)).file for name in numbered if name not in replaced}
    return replaced + [name for name in entries if not name.endswith(".json") and name not in kept]


def check_snapshot(files: Files, snapshot: Snapshot) -> None:
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
        raise StorageError(
            f"{snapshot.file}, the newest manifest, is gone; run `hilbert-ray embed` again"
        ) from None
    if hasher.hexdigest() != snapshot.sha256:
        raise StorageError(
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


def to_row(stored: StoredDocument) -> tuple[Any, ...]:
    """Return the values of a row in the order of `_PART_SCHEMA`."""
    document = stored.document
    return (
        doc_id_hash(document.doc_id),
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
