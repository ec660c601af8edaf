"""The feature store: the manifest and, for each modality and encoder, the features of its documents.

    STORE/store.json                                 schema version, number of buckets (fixed at creation)
    STORE/documents/<number>.json, <sha16>.parquet   snapshots of the validated manifest; the highest counts
    STORE/features/<modality>/<fingerprint>/
        encoder.json                                 what makes these features
        data/bucket=0007/<unit>-<sha16>-<crc32>.parquet   rows; never changed: the name holds their hashes
        commits/bucket=0007/<unit>.json              the only truth: what a unit stored and quarantined
        commits/bucket=0007/index-<sha16>.jsonl      many commits in one file, written by `compact_store`
        attempts/bucket=0007/<unit>/1.json           notes on documents tried alone after workers died

`transcribe` keeps its state in a store too, where <modality> is `transcript` and rows are transcripts.
Features of a document are current when their source equals the one that the newest snapshot gives it; others
are superseded and no reader sees them. There are no locks or leases: a file is created only once
(`Files.create`) or its name holds its content's hash, so runs that overlap can at worst do the same work
twice. `embed` writes, `compact_store` repeats what is written, `collect_garbage` deletes what nothing needs;
all else reads.
"""

import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from typing import Any, TypeVar
from uuid import uuid4

import pyarrow as pa

from hilbert_ray.config import Modality
from hilbert_ray.document import Recognition
from hilbert_ray.storage import DamagedError, Files, absolute, parse_json, reading_json, with_checksum
from hilbert_ray.store.commits import Commits
from hilbert_ray.store.contents import (
    Content,
    ContentRow,
    TranscriptRow,
    decode_transcripts,
    encode_content,
)
from hilbert_ray.store.current import CurrentBlock, DataLocation, StoredFeatures
from hilbert_ray.store.errors import FILLING, StoreError
from hilbert_ray.store.features import (
    CRC32_DIGITS,
    Commit,
    FeatureRow,
    Quarantined,
    crc32_of,
    decode_rows,
    sha256_of,
)
from hilbert_ray.store.snapshot import Snapshot, snapshot_numbers

SCHEMA = 1
"""Version of the layout above. A store of another schema is refused: nothing converts it."""
ABOUT = "store.json"
_READ_BYTES = 64 * 2**20
"""Data files that are fetched together: enough to hide the latency of an object store, few enough to hold."""
_T = TypeVar("_T")
_Row = TypeVar("_Row", FeatureRow, TranscriptRow)


class Store:
    """A feature store at a local path or URI. Cheap to make; may be pickled and used by many processes.

    `Store.open` and `Store.create` make one. What a store keeps of documents is read through `snapshot`. For
    maintenance see `store_info`, `verify_store`, `compact_store`, `collect_garbage` and `export_store`.
    """

    def __init__(self, uri: str, buckets: int) -> None:
        self.uri = absolute(uri)
        self.buckets = buckets

    # Connections do not travel: each process opens its own when it first needs one.
    def __reduce__(self) -> tuple[type["Store"], tuple[str, int]]:
        return Store, (self.uri, self.buckets)

    @cached_property
    def files(self) -> Files:
        """The store's files."""
        return Files(self.uri)

    @classmethod
    def create(cls, uri: str, buckets: int = 256) -> "Store":
        """Create a store, or open the existing one, which keeps its own number of buckets."""
        # Of several processes that create a store at once, one wins, and the others open what it created.
        files = Files(uri)
        files.create(ABOUT, about_store(buckets))
        return cls.open(uri)

    @classmethod
    def open(cls, uri: str) -> "Store":
        """Open an existing store.

        Raises:
            StoreError: when there is none, or it is of a schema that this version cannot read.
            DamagedError: when store.json is not what was written.
        """
        name = f"{uri.rstrip('/')}/{ABOUT}"
        repair = "run `hilbert-ray store verify --repair`, which computes it from the documents"
        try:
            values = parse_json(Files(uri).read(ABOUT), name, repair)
        except FileNotFoundError:
            raise StoreError(
                f"no store at {uri}: it has no store.json; correct the path, or create a store with "
                "`hilbert-ray embed`"
            ) from None
        if values.get("schema") != SCHEMA:
            raise StoreError(
                f"store {uri} has schema {values.get('schema')!r}; this version reads {SCHEMA}: use the "
                "version of hilbert-ray that wrote it, or embed into a new store"
            )
        with reading_json(name, repair):
            return cls(uri, int(values["buckets"]))

    def snapshot(self, number: int | None = None) -> Snapshot:
        """Return a snapshot of the manifest: of this number, or the newest; number 0 is an empty one.

        Raises:
            DamagedError: when it is not what was written.
        """
        number = self.newest_snapshot_number() if number is None else number
        return Snapshot.read(self.files, number) if number else Snapshot(files=self.files)

    def newest_snapshot_number(self) -> int:
        """Return the number of the newest snapshot, 0 where there is none."""
        # Numbers never repeat and only grow, so a listing tells which is the newest.
        return max(snapshot_numbers(self.files.names("documents")), default=0)

    # Encoders

    def add_encoder(self, content: Content, fingerprint: str, description: Mapping[str, Any]) -> None:
        """Record what makes the features of a fingerprint; an earlier record stays.

        Raises:
            StoreError: when the recorded encoder of this fingerprint has another width.
        """
        name = f"{encoder_folder(content, fingerprint)}/encoder.json"
        data = json.dumps(description, indent=1, sort_keys=True).encode()
        if self.files.create(name, with_checksum(data)):
            return
        # A fingerprint hashes what the encoder says of itself; one that forgets something shows up here.
        recorded = self.description(content, fingerprint)
        if recorded.get("dim") != description.get("dim"):
            raise StoreError(
                f"{name} describes an encoder of width {recorded.get('dim')}, but this run's encoder of the "
                f"same fingerprint has width {description.get('dim')}; features of both must not mix: embed "
                "into a new store"
            )

    def encoders(self, content: Content, snapshot: Snapshot | None = None) -> dict[str, dict[str, Any]]:
        """Return the description of each encoder whose features this store has, by fingerprint.

        The description is the encoder's own (`describe`), with the roles that the snapshot's run kept: they
        are part of each document's source, not of the fingerprint.

        Args:
            content: whose encoders.
            snapshot: the newest where None.
        """
        descriptions: dict[str, dict[str, Any]] = {}
        for fingerprint in self.files.folders(f"features/{content}"):
            try:
                descriptions[fingerprint] = self.description(content, fingerprint)
            except FileNotFoundError:  # another run is about to write it
                continue
        if any("segment" in description for description in descriptions.values()):
            roles = (snapshot or self.snapshot()).roles
            for description in descriptions.values():
                if "segment" in description:
                    description["segment"]["roles"] = list(roles)
        return descriptions

    def encoder_dim(self, modality: Modality, fingerprint: str) -> int:
        """Return the width of an encoder's features, all its layers together."""
        return int(self.description(modality, fingerprint)["dim"])

    def encoder_layers(self, modality: Modality, fingerprint: str) -> int:
        """Return how many hidden states a feature holds: 1 unless it was embedded with `layer: all`."""
        return int(self.description(modality, fingerprint).get("layers", 1))

    def description(self, content: Content, fingerprint: str) -> dict[str, Any]:
        """Return what encoder.json says of an encoder.

        Raises:
            FileNotFoundError: when there is none.
            DamagedError: when it is not what was written.
        """
        name = f"{encoder_folder(content, fingerprint)}/encoder.json"
        repair = (
            "restore it from a copy, or run `hilbert-ray store verify --repair`; a rerun of "
            f"{FILLING} with the same settings then writes it again"
        )
        return parse_json(self.files.read(name), f"{self.uri}/{name}", repair)

    def _reads_turns(self, content: Content, fingerprint: str) -> bool:
        try:
            return reads_turns(content, self.description(content, fingerprint))
        except FileNotFoundError:
            known = self.encoders(content)
            listed = ", ".join(f"{key} ({value.get('name', '?')})" for key, value in known.items()) or "none"
            raise StoreError(
                f"store {self.uri} has no {content} features of encoder {fingerprint}; it has {listed}: run "
                "`hilbert-ray embed` with that encoder first"
            ) from None

    # Writing features

    def commits(self, content: Content, fingerprint: str) -> Commits:
        """The commits of an encoder's features."""
        return Commits(self.files, f"{encoder_folder(content, fingerprint)}/commits", self.buckets)

    def commit(
        self,
        content: Content,
        fingerprint: str,
        *,
        unit: str,
        bucket: int,
        rows: Sequence[ContentRow],
        quarantined: Sequence[Quarantined] = (),
        versions: Mapping[str, str] | None = None,
        threads: int = 1,
    ) -> Commit:
        """Store a unit: its data file first, then its commit. Return the commit that counts.

        Of several writers of one unit the first wins; the others return its commit, and their data counts for
        nothing until `collect_garbage` deletes it.

        Raises:
            StorageError: when the store cannot be written.
            StoreError: when a commit was deleted meanwhile.
        """
        file = sha256 = None
        data = b""
        if rows:
            data = encode_content(content, rows)
            sha256 = sha256_of(data)
            folder = encoder_folder(content, fingerprint)
            file = f"{folder}/data/bucket={bucket:04d}/{unit}-{sha256[:16]}-{crc32_of(data)}.parquet"
            # Before its commit: a writer that dies in between leaves a file that nothing names, and
            # `collect_garbage` deletes it. The other way round, readers would look for a missing file.
            self.files.put(file, data)
        own = Commit(
            unit=unit,
            bucket=bucket,
            file=file,
            sha256=sha256,
            size_bytes=len(data),
            stored=tuple(row.committed for row in rows),
            quarantined=tuple(quarantined),
            versions=dict(versions or {}),
            threads=threads,
            recognized={i: row.recognition for i, row in enumerate(rows) if row.recognition is not None},
        )
        # Create-only, so one commit of a unit ever counts, whoever else embeds it at this moment.
        commits = self.commits(content, fingerprint)
        if commits.create(own):
            return own
        winner = commits.find(bucket, unit)
        if winner is None:
            raise StoreError(
                f"commit {unit} of store {self.uri} existed and is gone: another process deletes files of "
                "the store; let it end, then rerun"
            )
        # What was written here stays for `collect_garbage`, which knows all that commits and indexes name: an
        # index may name these very bytes, although the unit's commit file is another's.
        return winner

    def note_attempt(self, content: Content, fingerprint: str, bucket: int, unit: str) -> int:
        """Record, where other workers will see it, that work on a unit begins; return which attempt it is.

        Attempts that ended are cleared, so earlier ones that are still recorded died.
        """
        folder = _attempts_folder(content, fingerprint, bucket, unit)
        number = 1
        # Each attempt has content of its own, or two of them would pass for one that was written twice.
        note = json.dumps({"attempt": uuid4().hex}).encode()
        while not self.files.create(f"{folder}/{number}.json", note):
            number += 1
        return number

    def clear_attempts(self, content: Content, fingerprint: str, bucket: int, unit: str) -> None:
        """Forget the attempts at a unit, once it is committed."""
        for name in self.files.names(_attempts_folder(content, fingerprint, bucket, unit)):
            self.files.delete(name)

    # Reading features

    def read(self, modality: Modality, fingerprint: str, bucket: int | None = None) -> Iterator[FeatureRow]:
        """Yield the current features of each document once, file by file (all, or those of one bucket).

        Only files that commits name are opened. The order follows the units of the runs that stored the
        documents; sort by doc_id where order matters.

        Raises:
            StoreError: when the store has no features of this encoder, or they are damaged.
        """
        buckets = None if bucket is None else {bucket}
        for block in self.current_blocks(modality, fingerprint, buckets=buckets):
            yield from self.rows(modality, block.locations())

    def locate(
        self,
        modality: Modality,
        fingerprint: str,
        snapshot: Snapshot | None = None,
        buckets: Collection[int] | None = None,
    ) -> StoredFeatures:
        """Return where the current features of each document are. Only commits are read, no data.

        Args:
            modality: whose features.
            fingerprint: of which encoder.
            snapshot: of which documents; of the newest where None.
            buckets: only these buckets.
        """
        locations: dict[str, DataLocation] = {}
        recognized: dict[str, Recognition] = {}
        quarantined = 0
        for block in self.current_blocks(modality, fingerprint, snapshot, buckets):
            locations |= block.locations()
            recognized |= block.recognized()
            quarantined += len(block.failures)
        return StoredFeatures(
            fingerprint=fingerprint, locations=locations, quarantined=quarantined, recognized=recognized
        )

    def rows(self, modality: Modality, locations: Mapping[str, DataLocation]) -> Iterator[FeatureRow]:
        """Yield the features of documents from their locations, file by file; see `locate`.

        Raises:
            StoreError: when a data file is gone or damaged.
        """
        return self._rows(partial(decode_rows, modality), locations)

    def transcripts(
        self, fingerprint: str, snapshot: Snapshot | None = None, doc_ids: Collection[str] | None = None
    ) -> Iterator[TranscriptRow]:
        """Yield the current transcripts that a recogniser made, each once, of all documents or of some.

        Raises:
            StoreError: when the store has none of this recogniser, or a data file is gone or damaged.
        """
        for block in self.current_blocks("transcript", fingerprint, snapshot):
            yield from self._rows(decode_transcripts, block.locations(doc_ids))

    def _rows(
        self, decode: Callable[[bytes], Iterator[_Row]], locations: Mapping[str, DataLocation]
    ) -> Iterator[_Row]:
        # Many documents share a file: each is fetched once.
        sizes = {location.file: location.size_bytes for location in locations.values()}
        for names in batches_by_size(sizes.items()):
            try:
                contents = self.files.read_many(names)
            except FileNotFoundError as error:
                raise StoreError(
                    f"a data file that a commit of store {self.uri} names is gone ({error}); `hilbert-ray "
                    "store verify` lists what is missing"
                ) from error
            for name in names:
                for row in _decoded(decode, name, contents[name]):
                    # A file may hold more: superseded rows, or documents that were not requested.
                    location = locations.get(row.doc_id)
                    if location is not None and location.file == name:
                        yield row

    def quarantined(
        self, content: Content, fingerprint: str, snapshot: Snapshot | None = None
    ) -> list[Quarantined]:
        """Return a snapshot's documents that could not be done and are not stored, by id."""
        failures: dict[str, Quarantined] = {}
        for block in self.current_blocks(content, fingerprint, snapshot):
            failures |= block.failures
        return [failures[doc_id] for doc_id in sorted(failures)]

    def current_blocks(
        self,
        content: Content,
        fingerprint: str,
        snapshot: Snapshot | None = None,
        buckets: Collection[int] | None = None,
    ) -> Iterator[CurrentBlock]:
        """Yield what is stored of a snapshot (the newest where None), some buckets at a time."""
        # Not a default of each call: all blocks must be of one snapshot.
        snapshot = snapshot or self.snapshot()
        by_turns = self._reads_turns(content, fingerprint)
        commits = self.commits(content, fingerprint)
        for block in snapshot.blocks():
            chosen = block if buckets is None else block & set(buckets)
            if chosen:
                sources = snapshot.sources(chosen, content, by_turns)
                yield CurrentBlock(
                    buckets=chosen,
                    sources={doc_id: source for doc_id, source in sources if source is not None},
                    commits=list(commits.read(chosen)),
                )


def about_store(buckets: int) -> bytes:
    """Return the content of store.json."""
    return with_checksum(json.dumps({"schema": SCHEMA, "buckets": buckets}).encode())


def reads_turns(content: Content, description: Mapping[str, Any]) -> bool:
    """Whether an encoder's segments are cut by the transcript's turns, by its description."""
    return content == "audio" and description.get("segment", {}).get("audio") == "turns"


def encoder_folder(content: Content, fingerprint: str) -> str:
    """Return the folder of a store that holds the features of one encoder."""
    return f"features/{content}/{fingerprint}"


def _attempts_folder(content: Content, fingerprint: str, bucket: int, unit: str) -> str:
    return f"{encoder_folder(content, fingerprint)}/attempts/bucket={bucket:04d}/{unit}"


def _decoded(decode: Callable[[bytes], Iterator[_Row]], file: str, data: bytes) -> Iterator[_Row]:
    """Return the rows of a data file, whose name ends in its checksum."""
    recorded = file.rpartition("-")[2].removesuffix(".parquet")
    # Older names end in digits of the SHA-256, which takes longer.
    actual = crc32_of(data) if len(recorded) == CRC32_DIGITS else sha256_of(data)[: len(recorded)]
    try:
        if actual != recorded:
            raise ValueError(f"its checksum is {actual}, not {recorded} as its name says")
        return decode(data)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DamagedError.of(
            f"data file {file}",
            str(error),
            "`hilbert-ray store verify` lists all such files, and with --repair makes `embed` write them "
            "again",
        ) from error


def batches_by_size(sizes: Iterable[tuple[_T, int]]) -> Iterator[list[_T]]:
    """Group things, given with their bytes, into batches of some megabytes that are fetched together."""
    batch: list[_T] = []
    size = 0
    for item, size_bytes in sizes:
        batch.append(item)
        size += size_bytes
        if size >= _READ_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
