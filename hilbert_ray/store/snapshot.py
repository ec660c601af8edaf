"""The validated manifest inside a store: documents by bucket, with the versions of their files.

A snapshot is one Parquet file and a small JSON file that names it; the newest counts. Manifest rows that are
not valid documents are kept with it as faults. Workers read a few row groups each, so the JSON file has a
checksum of every block of the Parquet file.
"""

import hashlib
import json
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from itertools import starmap
from typing import Any, NamedTuple

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from hilbert_ray.config import parse_channels
from hilbert_ray.document import Document, InvalidRow, Utterance
from hilbert_ray.storage import CheckedBlocks, DamagedError, Files, parse_json, reading_json, with_checksum
from hilbert_ray.store.contents import Content
from hilbert_ray.store.errors import FILLING, StoreError

ROW_GROUP_ROWS = 256
"""Documents per row group: the least that a worker reads to get at one document, transcript included."""
_ROW_GROUPS_AT_ONCE = 64
"""Row groups whose file versions are read together: they are few bytes, so 16,384 documents fit easily."""
_HASHED_BYTES = 4 * 2**20
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
        ("attributes", pa.string()),
        ("channels", pa.string()),
        ("diarization", pa.string()),
    ]
)
OPTIONAL = ("attributes", "channels", "diarization")
"""Columns that a file has only where a document needs them: manifests without them keep their bytes."""
_VERSION_COLUMNS = ("audio_version", "text_version", "turns_version", "channels")
_SORTED_ENCODER = json.JSONEncoder(ensure_ascii=False, sort_keys=True)
_REPAIR = f"run `hilbert-ray store verify --repair`; a rerun of {FILLING} then writes it again"
_footers: dict[str, pq.FileMetaData] = {}
"""Footer of the snapshot that this process read last, by the file's hash."""


def doc_id_hash(doc_id: str) -> int:
    """Return 64 bits of blake2b: the order of rows, and the bucket modulo their number."""
    return int.from_bytes(hashlib.blake2b(doc_id.encode(), digest_size=8).digest(), "big")


def bucket_of(doc_id: str, buckets: int) -> int:
    """Return the bucket of a document: blake2b-64 of its id, modulo the store's number of buckets."""
    return doc_id_hash(doc_id) % buckets


def digest(*parts: str) -> str:
    """Return a 64-bit hash of some strings, as 16 hexadecimal digits."""
    return hashlib.blake2b("\0".join(parts).encode(), digest_size=8).hexdigest()


class FileVersions(NamedTuple):
    """Versions of a document's files; each is None where the document lacks the thing.

    `turns` covers the times and roles of a timed transcript: what audio features depend on when audio is cut
    by turns or filtered by role. `channels` is the document's own choice of channels, as one word.
    """

    audio: str | None
    text: str | None
    turns: str | None
    channels: str | None = None

    def has(self, content: Content) -> bool:
        """Whether the document has this modality; a transcript is to be made of audio without text."""
        if content == "transcript":
            return self.audio is not None and self.text is None
        return (self.audio if content == "audio" else self.text) is not None

    def source(self, content: Content, *, reads_turns: bool = False, roles: Sequence[str] = ()) -> str:
        """Return the hash of what the content depends on besides the fingerprint of its encoder.

        Args:
            content: features of a modality, or a transcript.
            reads_turns: whether audio is cut by the transcript's turns.
            roles: the only speakers that are kept, where that is set.
        """
        # These strings are in every store: changing them would make all features superseded.
        if content == "text":
            return digest("text", self.text or "", *sorted(roles))
        # Audio that is cut without looking at the transcript survives an edit of the transcript.
        turns = (self.turns or "") if reads_turns or roles else ""
        # Marked, so that no role can look like it.
        channels = () if self.channels is None else (f"\1channels={self.channels}",)
        # A transcript is of all speakers, and depends on no other.
        kept = () if content == "transcript" else sorted(roles)
        return digest(content, self.audio or "", turns, *kept, *channels)


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredDocument:
    """A document as a snapshot holds it: its manifest row, and the versions that its files had then.

    `row` is the row's number in the manifest; for the versions see `FileVersions`.
    """

    document: Document
    row: int
    audio_version: str | None
    text_version: str | None
    turns_version: str | None

    @property
    def versions(self) -> FileVersions:
        """Versions of the document's files."""
        channels = self.document.channels
        return FileVersions(
            self.audio_version,
            self.text_version,
            self.turns_version,
            None if channels is None else str(channels),
        )

    def has(self, content: Content) -> bool:
        """Whether the document has this modality, see `FileVersions.has`."""
        return self.versions.has(content)

    def source(self, content: Content, *, reads_turns: bool = False, roles: Sequence[str] = ()) -> str:
        """Return the hash of what the features depend on, see `FileVersions.source`."""
        return self.versions.source(content, reads_turns=reads_turns, roles=roles)


@dataclass(frozen=True, kw_only=True, slots=True)
class Snapshot:
    """What one `documents/<number>.json` says, and the reader of the documents that it names.

    `row_groups` lists (bucket, documents) of each row group of `file`; `roles` are the only speakers that the
    run kept (empty: all), on which every document's source depends. Number 0 is a store without a manifest.
    `block_checksums` are those of the file's blocks, empty in stores of older versions.
    """

    files: Files = field(compare=False, repr=False)
    number: int = 0
    file: str = ""
    sha256: str = ""
    num_documents: int = 0
    row_groups: tuple[tuple[int, int], ...] = ()
    faults: tuple[InvalidRow, ...] = ()
    roles: tuple[str, ...] = ()
    block_checksums: str = ""

    @classmethod
    def read(cls, files: Files, number: int) -> "Snapshot":
        """Read a snapshot by its number.

        Raises:
            FileNotFoundError: when there is none of this number.
            DamagedError: when it is not what was written.
        """
        name = f"{files.uri}/{snapshot_name(number)}"
        repair = (
            f"a rerun of {FILLING} with the manifest writes it again; if a newer one has replaced it, "
            "`hilbert-ray store verify --repair` deletes it"
        )
        values = parse_json(files.read(snapshot_name(number)), name, repair)
        with reading_json(name, repair):
            return cls(
                files=files,
                number=number,
                file=values["file"],
                sha256=values["sha256"],
                num_documents=values["rows"],
                row_groups=tuple((bucket, rows) for bucket, rows in values["groups"]),
                faults=tuple(InvalidRow(**fault) for fault in values["faults"]),
                roles=tuple(values["roles"]),
                block_checksums=values.get("blocks", ""),
            )

    def to_json(self) -> bytes:
        """Return the bytes of the JSON file; the number is its name."""
        # Names and their order are the format on disk, which predates some names of this class.
        values = {
            "file": self.file,
            "sha256": self.sha256,
            "rows": self.num_documents,
            "groups": self.row_groups,
            "faults": [asdict(fault) for fault in self.faults],
            "roles": self.roles,
            "blocks": self.block_checksums,
        }
        return with_checksum(json.dumps(values).encode())

    def blocks(self, bucket: int | None = None, num_documents: int = 50_000) -> list[frozenset[int]]:
        """Return the buckets in use in blocks: what one process holds in memory at a time.

        Args:
            bucket: only this bucket.
            num_documents: how many documents a block has at least, but for the last.
        """
        blocks: list[frozenset[int]] = []
        pending: set[int] = set()
        size = 0
        for owner, count in self.row_groups:
            if bucket is not None and owner != bucket:
                continue
            # A bucket is never split: commits, too, are read by whole buckets.
            if size >= num_documents and owner not in pending:
                blocks.append(frozenset(pending))
                pending, size = set(), 0
            pending.add(owner)
            size += count
        return [*blocks, frozenset(pending)] if pending else blocks

    def documents(
        self,
        buckets: Collection[int] | None = None,
        doc_ids: Collection[str] | None = None,
        with_text: bool = True,
    ) -> Iterator[StoredDocument]:
        """Yield documents by bucket and id, reading only the row groups that hold requested ones.

        Args:
            buckets: only these buckets.
            doc_ids: only these ids (then `buckets` should say where they are).
            with_text: False does not read inline transcripts: they are the empty string (`has_text` holds).
        """
        numbers = self._row_groups_of(buckets)
        if not numbers:
            return
        # Transcripts are most of the bytes of a manifest that has them inline.
        columns = [name for name in SCHEMA.names if with_text or name != "text"]
        with self._open() as parquet:
            # A column that no document needs is absent, and so in snapshots older than the column.
            columns = [name for name in columns if name in parquet.schema_arrow.names]
            for number in numbers:
                if doc_ids is None:
                    table = parquet.read_row_group(number, columns=columns)
                else:
                    # Ids are a small part of a row group: most groups need not be read any further.
                    ids = parquet.read_row_group(number, columns=["doc_id"])["doc_id"].to_pylist()
                    matching = [i for i, doc_id in enumerate(ids) if doc_id in doc_ids]
                    if not matching:
                        continue
                    table = parquet.read_row_group(number, columns=columns).take(matching)
                yield from map(_from_row, table.to_pylist())

    def versions(self, buckets: Collection[int]) -> Iterator[tuple[str, FileVersions]]:
        """Yield each document's id and file versions, by bucket and id; nothing else is read."""
        numbers = self._row_groups_of(buckets)
        if not numbers:
            return
        with self._open() as parquet:
            for first in range(0, len(numbers), _ROW_GROUPS_AT_ONCE):
                columns = [name for name in _VERSION_COLUMNS if name in parquet.schema_arrow.names]
                table = parquet.read_row_groups(
                    numbers[first : first + _ROW_GROUPS_AT_ONCE], columns=["doc_id", *columns]
                )
                # Whole columns become Python values much faster than rows do.
                doc_ids, *versions = (column.to_pylist() for column in table.columns)
                yield from zip(doc_ids, starmap(FileVersions, zip(*versions, strict=True)), strict=True)

    def sources(
        self, buckets: Collection[int], content: Content, reads_turns: bool
    ) -> Iterator[tuple[str, str | None]]:
        """Yield (id, source) of the documents of some buckets, source None where they lack the content."""
        for doc_id, versions in self.versions(buckets):
            source = None
            if versions.has(content):
                source = versions.source(content, reads_turns=reads_turns, roles=self.roles)
            yield doc_id, source

    def check(self) -> None:
        """Read the snapshot's Parquet file again and compare its hash.

        Raises:
            StoreError: when the file is gone or its content changed.
        """
        hasher = hashlib.sha256()
        try:
            with self.files.open(self.file) as file:
                while block := file.read(_HASHED_BYTES):
                    hasher.update(block)
        except FileNotFoundError:
            raise self._gone() from None
        if hasher.hexdigest() != self.sha256:
            raise StoreError(
                f"sha256 is {hasher.hexdigest()}, but the manifest {self.number:08d}.json says "
                f"{self.sha256}; delete the file and rerun `hilbert-ray embed`"
            )

    def _gone(self) -> StoreError:
        return StoreError(
            f"{self.files.uri}/{self.file}, the manifest's documents, is gone; rerun `hilbert-ray embed` "
            "with the manifest to write it again"
        )

    def _row_groups_of(self, buckets: Collection[int] | None) -> list[int]:
        return [i for i, (owner, _) in enumerate(self.row_groups) if buckets is None or owner in buckets]

    @contextmanager
    def _open(self) -> Iterator[pq.ParquetFile]:
        """Open the documents. The footer grows with the manifest, so a process reads it only once."""
        name = f"{self.files.uri}/{self.file}"
        try:
            with self.files.open(self.file) as file:
                if self.block_checksums:
                    file = CheckedBlocks(file, self.block_checksums, name, _REPAIR)
                parquet = pq.ParquetFile(file, metadata=_footers.get(self.sha256))
                if self.sha256 not in _footers:
                    _footers.clear()  # a run reads one snapshot
                    _footers[self.sha256] = parquet.metadata
                yield parquet
        except FileNotFoundError:
            raise self._gone() from None
        # Only of older stores, whose documents have no checksums; what cannot be read is a StorageError.
        except (pa.ArrowException, ValueError, KeyError, TypeError) as error:
            raise DamagedError.of(name, f"{type(error).__name__}: {error}", _REPAIR) from error


def snapshot_name(number: int) -> str:
    """Return the name of a snapshot's JSON file."""
    return f"documents/{number:08d}.json"


def snapshot_numbers(names: Collection[str]) -> list[int]:
    """Return the numbers of those files of `documents/` that are snapshots, in rising order."""
    return sorted(
        int(name.rpartition("/")[2].removesuffix(".json")) for name in names if name.endswith(".json")
    )


def encode_text(text: str | tuple[Utterance, ...]) -> str:
    """Return a transcript as JSON: a string, or a list of utterances without their empty fields."""
    if isinstance(text, str):
        return msgspec.json.encode(text).decode()
    return msgspec.json.encode([_fields(utterance) for utterance in text]).decode()


def _fields(utterance: Utterance) -> dict[str, Any]:
    # The text version is a hash of this: a field may be absent or null, but always the same of the two.
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


def to_row(stored: StoredDocument) -> tuple[Any, ...]:
    """Return a document's values in the order of `SCHEMA`, with the hash of its id in place of the bucket."""
    document = stored.document
    return (
        doc_id_hash(document.doc_id),
        stored.row,
        document.doc_id,
        document.audio,
        None if document.text is None else encode_text(document.text),
        document.text_file,
        document.group,
        _SORTED_ENCODER.encode(document.labels),  # sorted: order of labels is no change of the manifest
        document.split,
        stored.audio_version,
        stored.text_version,
        stored.turns_version,
        _SORTED_ENCODER.encode(document.attributes) if document.attributes else None,
        None if document.channels is None else str(document.channels),
        document.diarization,
    )


def _from_row(values: dict[str, Any]) -> StoredDocument:
    text: str | tuple[Utterance, ...] | None = None
    if values.get("text") is not None:
        text = _decode_text(values["text"])
    elif values["text_version"] is not None and values["text_file"] is None:
        # An inline transcript whose column was not read: the document must still say that it has text.
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
            attributes=json.loads(values.get("attributes") or "{}"),
            channels=None if values.get("channels") is None else parse_channels(values["channels"]),
            diarization=values.get("diarization"),
        ),
        row=values["row"],
        audio_version=values["audio_version"],
        text_version=values["text_version"],
        turns_version=values["turns_version"],
    )
