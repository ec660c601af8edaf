"""The feature store: the manifest and, for each modality and encoder, the features of its documents.

    STORE/store.json                                 schema version, number of buckets (fixed at creation)
    STORE/documents/<number>.json, <sha16>.parquet   snapshots of the validated manifest; the highest counts
    STORE/features/<modality>/<fingerprint>/
        encoder.json                                 what makes these features
        data/bucket=0007/<unit>-<sha16>.parquet      rows; never changed: the name holds their hash
        commits/bucket=0007/<unit>.json              the only truth: what a unit stored and quarantined
        commits/bucket=0007/index-<sha16>.jsonl      many commits in one file, made by `compact`
        attempts/bucket=0007/<unit>/1.json           breadcrumbs of documents tried alone after workers died

Features of a document are current when their source equals the one that the newest snapshot gives it; others
are superseded and no reader sees them. There are no locks or leases: a file is created only once
(`Files.create`) or its name holds its content's hash, so runs that overlap can at worst do the same work
twice. `embed` writes, `compact` repeats what is written, `gc` deletes what nothing needs; all else reads.
"""

import json
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, NamedTuple, TypeVar
from uuid import uuid4

import numpy as np
import pyarrow as pa

from hilbert_ray.config import MODALITIES, Modality
from hilbert_ray.document import Document, Fault
from hilbert_ray.storage import TEMPORARY, DamagedError, Files, StorageError, absolute
from hilbert_ray.store.commits import Commits
from hilbert_ray.store.export import (
    ExportPart,
    Format,
    Row,
    new_folder,
    write_arrow,
    write_card,
    write_numpy,
    write_parquet,
)
from hilbert_ray.store.features import Commit, FeatureRow, Quarantined, decode_rows, encode_rows, sha256_of
from hilbert_ray.store.snapshot import (
    Snapshot,
    StoredDocument,
    bucket_of,
    check_snapshot,
    newest_snapshot,
    read_documents,
    read_snapshot,
    read_sources,
    superseded_snapshots,
)
from hilbert_ray.store.sorting import RowBlock, write_snapshot

SCHEMA = 1
_AT_ONCE = 16
_READ_BYTES = 64 * 2**20
_T = TypeVar("_T")


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """Something that `verify` found wrong with a file of the store."""

    path: str
    message: str


class Place(NamedTuple):
    """Where a document's features are: a data file, which never changes, its size, and how many segments."""

    file: str
    size_bytes: int
    segments: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Placed:
    """What a store has of its newest manifest's documents, by one encoder.

    `places` has those that are stored by id; `quarantined` counts those that could not be embedded.
    """

    fingerprint: str
    places: Mapping[str, Place]
    quarantined: int


class Store:
    """A feature store at a local path or URI. Cheap to make; may be pickled and used by many processes."""

    def __init__(self, uri: str, buckets: int) -> None:
        self.uri = absolute(uri)
        self.buckets = buckets

    def __reduce__(self) -> tuple[type["Store"], tuple[str, int]]:
        return Store, (self.uri, self.buckets)

    @cached_property
    def files(self) -> Files:
        """The store's files."""
        return Files(self.uri)

    @classmethod
    def create(cls, uri: str, buckets: int = 256) -> "Store":
        """Make a store, or open the one that is there (it keeps the number of buckets it was made with)."""
        files = Files(uri)
        files.create("store.json", json.dumps({"schema": SCHEMA, "buckets": buckets}).encode())
        return cls.open(uri)

    @classmethod
    def open(cls, uri: str) -> "Store":
        """Open a store that exists.

        Raises:
            StoreError: when there is none, or it is of a schema that this version cannot read.
        """
        try:
            values = json.loads(Files(uri).read("store.json"))
        except FileNotFoundError:
            raise StorageError(
                f"no store at {uri}: there is no store.json; mend the path, or make one with `hilbert-ray "
                "embed`"
            ) from None
        except ValueError as error:
            raise StorageError(f"store.json of {uri} is damaged ({error}); restore it from a copy") from None
        if values.get("schema") != SCHEMA:
            raise StorageError(
                f"store {uri} has schema {values.get('schema')!r}; this version reads {SCHEMA}: use the "
                "version of hilbert-ray that made it, or embed into a new store"
            )
        return cls(uri, int(values["buckets"]))

    # Documents

    def write_documents(
        self, rows: Iterable[StoredDocument | Fault | RowBlock], roles: Sequence[str] = ()
    ) -> Snapshot:
        """Make these manifest rows, of which `roles` are kept, what readers see; see `write_snapshot`."""
        return write_snapshot(self.files, rows, self.buckets, roles)

    def snapshot(self, number: int | None = None) -> Snapshot:
        """Return a snapshot of the manifest by its number, or the newest (empty where there is none)."""
        return newest_snapshot(self.files) if number is None else read_snapshot(self.files, number)

    def stored_documents(
        self,
        snapshot: Snapshot | None = None,
        buckets: Collection[int] | None = None,
        doc_ids: Collection[str] | None = None,
        words: bool = True,
    ) -> Iterator[StoredDocument]:
        """Yield documents with the versions of their files, by bucket and id; see `read_documents`."""
        chosen = self.snapshot() if snapshot is None else snapshot
        return read_documents(self.files, chosen, buckets, doc_ids, words)

    def sources(
        self, snapshot: Snapshot, buckets: Collection[int], modality: Modality, reads_turns: bool
    ) -> Iterator[tuple[str, str | None]]:
        """Yield (id, source) of the documents of some buckets; see `read_sources`."""
        return read_sources(self.files, snapshot, buckets, modality, reads_turns)

    def documents(self, words: bool = False) -> Iterator[Document]:
        """Yield the documents of the newest manifest, by bucket and id.

        With `words` False an inline transcript is the empty string (`has_text` still holds): it is not read.
        """
        return (stored.document for stored in self.stored_documents(words=words))

    def faults(self) -> list[Fault]:
        """Return the rows of the newest manifest that are no valid documents, by row."""
        return list(self.snapshot().faults)

    # Encoders

    def add_encoder(self, modality: Modality, fingerprint: str, description: Mapping[str, Any]) -> None:
        """Note what makes the features of a fingerprint; what is noted already stays.

        Raises:
            StoreError: when the same fingerprint stands for an encoder of another width.
        """
        name = f"{_folder(modality, fingerprint)}/encoder.json"
        if self.files.create(name, json.dumps(description, indent=1, sort_keys=True).encode()):
            return
        noted = json.loads(self.files.read(name))
        if noted.get("dim") != description.get("dim"):
            raise StorageError(
                f"{name} describes an encoder of width {noted.get('dim')}, but this run's encoder of the "
                f"same fingerprint has width {description.get('dim')}; features of both must not mix: embed "
                "into a new store"
            )

    def encoders(self, modality: Modality) -> dict[str, dict[str, Any]]:
        """Return the description of each encoder whose features this store has, by fingerprint.

        The description is the encoder's own (`describe`), with the roles that the newest run kept.
        """
        found: dict[str, dict[str, Any]] = {}
        for fingerprint in self.files.folders(f"features/{modality}"):
            try:
                found[fingerprint] = self._encoder(modality, fingerprint)
            except FileNotFoundError:
                continue
        if any("segment" in description for description in found.values()):
            roles = self.snapshot().roles
            for description in found.values():
                if "segment" in description:
                    description["segment"]["roles"] = list(roles)
        return found

    def _encoder(self, modality: Modality, fingerprint: str) -> dict[str, Any]:
        description: dict[str, Any] = json.loads(
            self.files.read(f"{_folder(modality, fingerprint)}/encoder.json")
        )
        return description

    def _reads_turns(self, modality: Modality, fingerprint: str) -> bool:
        try:
            return reads_turns(modality, self._encoder(modality, fingerprint))
        except FileNotFoundError:
            known = self.encoders(modality)
            listed = ", ".join(f"{key} ({value.get('name', '?')})" for key, value in known.items()) or "none"
            raise StorageError(
                f"store {self.uri} has no {modality} features of encoder {fingerprint}; it has {listed}: run "
                "`hilbert-ray embed` with that encoder first"
            ) from None

    # Writing features

    def commit(
        self,
        modality: Modality,
        fingerprint: str,
        *,
        unit: str,
        bucket: int,
        rows: Sequence[FeatureRow],
        quarantined: Sequence[Quarantined] = (),
        versions: Mapping[str, str] | None = None,
        threads: int = 1,
    ) -> Commit:
        """Store a unit: its data file first, then its commit. Return the commit that counts.

        Of several writers of one unit the first wins; others discard what they made and return its commit.

        Raises:
            StoreError: when the store cannot be written.
        """
        folder = _folder(modality, fingerprint)
        file = sha256 = None
        data = b""
        if rows:
            data = encode_rows(modality, rows)
            sha256 = sha256_of(data)
            file = f"{folder}/data/bucket={bucket:04d}/{unit}-{sha256[:16]}.parquet"
            self.files.put(file, data)
        made = Commit(
            unit=unit,
            bucket=bucket,
            file=file,
            sha256=sha256,
            size_bytes=len(data),
            stored=tuple((row.doc_id, row.source, len(row.features), row.seen) for row in rows),
            quarantined=tuple(quarantined),
            versions=dict(versions or {}),
            threads=threads,
        )
        commits = self._commits(modality, fingerprint)
        if commits.create(made):
            return made
        winner = commits.find(bucket, unit)
        if winner is None:
            raise StorageError(
                f"commit {unit} of store {self.uri} was there and is gone: something else deletes; run again"
            )
        if file is not None and winner.file != file:
            self.files.delete(file)
        return winner

    def committed(self, modality: Modality, fingerprint: str, bucket: int, unit: str) -> Commit | None:
        """Return the commit of a unit, or None where the unit is not done."""
        return self._commits(modality, fingerprint).find(bucket, unit)

    def _commits(self, modality: Modality, fingerprint: str) -> Commits:
        return Commits(self.files, f"{_folder(modality, fingerprint)}/commits", self.buckets)

    def note_attempt(self, modality: Modality, fingerprint: str, bucket: int, unit: str) -> int:
        """Note, where other workers will see it, that work on a unit begins; return which attempt it is.

        Attempts that ended are cleared, so earlier ones that are still noted died.
        """
        folder = f"{_folder(modality, fingerprint)}/attempts/bucket={bucket:04d}/{unit}"
        number = 1
        # Each attempt has content of its own, or two of them would pass for one that was written twice.
        note = json.dumps({"attempt": uuid4().hex}).encode()
        while not self.files.create(f"{folder}/{number}.json", note):
            number += 1
        return number

    def clear_attempts(self, modality: Modality, fingerprint: str, bucket: int, unit: str) -> None:
        """Forget the attempts at a unit, once it is committed."""
        for name in self.files.names(f"{_folder(modality, fingerprint)}/attempts/bucket={bucket:04d}/{unit}"):
            self.files.delete(name)

    # Reading features

    def commits(
        self, modality: Modality, fingerprint: str, buckets: Collection[int] | None = None
    ) -> Iterator[Commit]:
        """Yield all commits, or those of some buckets, by bucket and unit."""
        return self._commits(modality, fingerprint).read(buckets)

    def read(self, modality: Modality, fingerprint: str, bucket: int | None = None) -> Iterator[FeatureRow]:
        """Yield the current features of each document once, file by file (all, or those of one bucket).

        Only files that commits name are opened. Where two runs stored the same document, the unit with the
        lowest id counts, so every reader takes the same. The order follows the units of the runs that stored
        the documents; sort by doc_id where order matters.
        """
        buckets = None if bucket is None else {bucket}
        for _, current, commits in self._blocks(modality, fingerprint, self.snapshot(), buckets):
            yield from self.rows(modality, _places(current, commits))

    def placed(self, modality: Modality, fingerprint: str, bucket: int | None = None) -> Placed:
        """Return where `read` finds each document. Only commits are read, no data."""
        places: dict[str, Place] = {}
        quarantined = 0
        buckets = None if bucket is None else {bucket}
        for _, current, commits in self._blocks(modality, fingerprint, self.snapshot(), buckets):
            places |= _places(current, commits)
            quarantined += len(_failures(current, commits))
        return Placed(fingerprint=fingerprint, places=places, quarantined=quarantined)

    def rows(self, modality: Modality, places: Mapping[str, Place]) -> Iterator[FeatureRow]:
        """Yield the features of documents from their places, file by file; see `placed`."""
        for files in _by_size({place.file: place.size_bytes for place in places.values()}.items()):
            try:
                found = self.files.read_many(files)
            except FileNotFoundError as error:
                raise StorageError(
                    f"a data file that a commit of store {self.uri} names is gone ({error}); `hilbert-ray "
                    "store verify` lists what is missing"
                ) from error
            for file in files:
                for row in _decoded(modality, file, found[file]):
                    place = places.get(row.doc_id)
                    if place is not None and place.file == file:
                        yield row

    def quarantined(self, modality: Modality, fingerprint: str) -> list[Quarantined]:
        """Return the current documents that could not be embedded and are not stored, by id."""
        found: dict[str, Quarantined] = {}
        for _, current, commits in self._blocks(modality, fingerprint, self.snapshot()):
            found |= _failures(current, commits)
        return [found[doc_id] for doc_id in sorted(found)]

    def _blocks(
        self,
        modality: Modality,
        fingerprint: str,
        snapshot: Snapshot,
        buckets: Collection[int] | None = None,
    ) -> Iterator[tuple[Collection[int], dict[str, str], list[Commit]]]:
        """Yield (buckets, source of each document that has the modality, commits), some buckets at a time."""
        by_turns = self._reads_turns(modality, fingerprint)
        for block in snapshot.blocks():
            here = block if buckets is None else block & set(buckets)
            if here:
                known = self.sources(snapshot, here, modality, by_turns)
                current = {doc_id: source for doc_id, source in known if source is not None}
                yield here, current, list(self.commits(modality, fingerprint, here))

    # Care

    def info(self) -> dict[str, Any]:
        """Return what the store holds, as plain values: documents, faults, and what is stored by encoder."""
        snapshot = self.snapshot()
        encoders = [
            self._info_of(modality, fingerprint, snapshot, description)
            for modality in MODALITIES
            for fingerprint, description in self.encoders(modality).items()
        ]
        return {
            "uri": self.uri,
            "schema": SCHEMA,
            "buckets": self.buckets,
            "documents": snapshot.rows,
            "faults": len(snapshot.faults),
            "encoders": encoders,
        }

    def _info_of(
        self, modality: Modality, fingerprint: str, snapshot: Snapshot, description: Mapping[str, Any]
    ) -> dict[str, Any]:
        present = stored = segments = size = units = superseded = 0
        amount = 0.0
        errors: Counter[str] = Counter()
        for _, current, commits in self._blocks(modality, fingerprint, snapshot):
            owner = _owners(current, commits)
            present += len(current)
            stored += len(owner)
            errors.update(failure.error for failure in _failures(current, commits).values())
            for commit in commits:
                units += 1
                size += commit.size_bytes
                for doc_id, _, n, seen in commit.stored:
                    if owner.get(doc_id) == commit.unit:
                        segments, amount = segments + n, amount + seen
                    else:
                        superseded += 1
        quarantined = errors.total()
        unit, divisor = ("hours", 3600.0) if modality == "audio" else ("tokens", 1.0)
        entries = self.files.entries(f"{_folder(modality, fingerprint)}/commits")
        return {
            "modality": modality,
            "fingerprint": fingerprint,
            "encoder": description.get("name"),
            "dim": description.get("dim"),
            "documents": present,
            "stored": stored,
            "quarantined": quarantined,
            "quarantined_by_error": dict(sorted(errors.items())),
            "pending": present - stored - quarantined,
            "superseded": superseded,
            "units": units,
            "segments": segments,
            unit: amount / divisor,
            "size_bytes": size,
            "commit_files": sum(name.endswith(".json") for name in entries),
            "indexes": sum(name.endswith(".jsonl") for name in entries),
            "commits_size_bytes": sum(entry.size_bytes for entry in entries.values()),
        }

    def export(self, folder: str, form: Format = "huggingface", doc_ids: Collection[str] = ()) -> int:
        """Write the current features of all documents or some to a new folder; return how many documents.

        Each modality and encoder has a part of its own, FOLDER/<modality>-<fingerprint>: a configuration of a
        Hugging Face data set, an Arrow file, or a folder of NumPy files; see `hilbert_ray.store.export`.

        Raises:
            StoreError: when the folder is not empty or cannot be written, or a document of `doc_ids` is not
            in the newest manifest or has no features.
        """
        snapshot = self.snapshot()
        chosen = set(doc_ids) or None
        if chosen is not None:
            found = self.stored_documents(snapshot, self._buckets_of(chosen), chosen, words=False)
            if absent := sorted(chosen - {item.document.doc_id for item in found}):
                raise StorageError(
                    f"document {absent[0]!r} is not in the newest manifest of store {self.uri}, which has "
                    f"{snapshot.rows} documents: mend the id, or embed a manifest that has it"
                )
        parts = [
            ExportPart(
                modality=modality,
                fingerprint=fingerprint,
                encoder=str(description.get("name")),
                dim=int(description["dim"]),
            )
            for modality in MODALITIES
            for fingerprint, description in self.encoders(modality).items()
        ]
        with new_folder(folder) as place:
            for part in parts:
                rows = self._exported(part, snapshot, chosen)
                if form == "numpy":
                    write_numpy(rows, place / part.name)
                elif form == "arrow":
                    write_arrow(rows, part.modality, place / f"{part.name}.arrow")
                else:
                    write_parquet(rows, part.modality, place / part.name)
            exported = set().union(*(part.exported for part in parts))
            if not exported and chosen is None:
                raise StorageError(
                    f"store {self.uri} has no features to export; run `hilbert-ray embed` first"
                )
            if missing := sorted((chosen or set()) - exported):
                raise StorageError(
                    f"document {missing[0]!r} has no features in store {self.uri}: it is pending or "
                    "quarantined; run `hilbert-ray embed`, which says why, or leave it out"
                )
            if form == "huggingface":
                write_card(parts, self.uri, place)
        return len(exported)

    def _exported(
        self, part: ExportPart, snapshot: Snapshot, chosen: Collection[str] | None
    ) -> Iterator[Row]:
        """Yield the features of a part with their documents; note in it what there was."""
        buckets = None if chosen is None else self._buckets_of(chosen)
        for here, current, commits in self._blocks(part.modality, part.fingerprint, snapshot, buckets):
            wanted = {key: source for key, source in current.items() if chosen is None or key in chosen}
            part.documents += len(wanted)
            items = self.stored_documents(snapshot, here, chosen, words=False)
            known = {item.document.doc_id: item.document for item in items}
            for row in self.rows(part.modality, _places(wanted, commits)):
                part.exported.add(row.doc_id)
                yield row, known[row.doc_id]

    def _buckets_of(self, doc_ids: Collection[str]) -> set[int]:
        return {bucket_of(doc_id, self.buckets) for doc_id in doc_ids}

    def compact(self, min_commits: int = 32) -> list[str]:
        """Fold the commits of buckets that have many into one index each; return the new indexes' names.

        Readers then ask for one file where they asked for hundreds. It may run beside readers, writers and
        itself. What the indexes repeat is deleted by `gc`, later.

        Args:
            min_commits: fold a bucket once so many of its commits are in no index.
        """
        made = []
        for modality in MODALITIES:
            for fingerprint in self.encoders(modality):
                made += self._commits(modality, fingerprint).compact(min_commits)
        return made

    def verify(self, mend: bool = False) -> Iterator[Problem]:
        """Read every committed file again; yield what is gone, changed, or not what its commit says.

        Args:
            mend: delete damaged files and the commits that name them, so that `embed` makes them again.
        """
        snapshot = self.snapshot()
        if snapshot.number:
            try:
                check_snapshot(self.files, snapshot)
            except StorageError as error:
                yield Problem(path=snapshot.file, message=str(error))
                if mend:
                    self.files.delete(snapshot.file)
        for modality in MODALITIES:
            for fingerprint in self.encoders(modality):
                commits = self._commits(modality, fingerprint)
                for bucket, names in commits.names().items():
                    yield from self._verify_bucket(modality, commits, bucket, names, mend)

    def _verify_bucket(
        self, modality: Modality, commits: Commits, bucket: int, names: Sequence[str], mend: bool
    ) -> Iterator[Problem]:
        held: dict[tuple[str | None, str | None], Commit] = {}
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            for name, loaded in zip(names, pool.map(partial(_load, commits), names), strict=True):
                if isinstance(loaded, DamagedError):
                    yield Problem(path=name, message=str(loaded))
                    if mend:
                        self.files.delete(name)
                else:
                    held |= {(commit.unit, commit.file): commit for commit in loaded}
            spoilt = []
            for part in _by_size((one, one.size_bytes) for one in held.values() if one.file is not None):
                for commit, message in zip(
                    part, pool.map(partial(self._fault_of, modality), part), strict=True
                ):
                    if message is not None and commit.file is not None:
                        yield Problem(path=commit.file, message=message)
                        spoilt.append(commit)
        if mend and spoilt:
            commits.drop(bucket, {commit.unit for commit in spoilt})
            for commit in spoilt:
                self.files.delete(str(commit.file))

    def _fault_of(self, modality: Modality, commit: Commit) -> str | None:
        """Return what is wrong with a commit's data file."""
        advice = "`hilbert-ray store verify --mend` drops both, and `embed` makes them again"
        try:
            data = self.files.read(str(commit.file))
        except FileNotFoundError:
            return f"commit {commit.unit} names it, but it is gone; {advice}"
        sha256 = sha256_of(data)
        if sha256 != commit.sha256:
            return f"sha256 is {sha256}, but commit {commit.unit} says {commit.sha256}; {advice}"
        rows = list(decode_rows(modality, data))
        held = tuple((row.doc_id, row.source, len(row.features), row.seen) for row in rows)
        if held != commit.stored:
            return f"its rows are not those of commit {commit.unit}; {advice}"
        for row in rows:
            if not np.isfinite(row.features).all():
                return f"document {row.doc_id!r} has features that are not finite; {advice}"
        return None

    def gc(self, min_age_h: float = 24.0) -> list[str]:
        """Delete files that nothing needs any more; return their names.

        These are data files that no commit names, files that a killed writer left unfinished, commits and
        indexes that an index repeats, and manifests that a newer one replaced. A run that is under way needs
        what it has just written, and what it found when it began: what is younger than `min_age_h` hours
        stays, so no run may last longer.
        """
        superfluous = superseded_snapshots(self.files, min_age_h)
        for modality in MODALITIES:
            for fingerprint in self.encoders(modality):
                folder = _folder(modality, fingerprint)
                # Data is listed before commits, so that what is committed meanwhile is known to be needed.
                entries = self.files.entries(folder)
                commits = self._commits(modality, fingerprint)
                try:
                    found, named = commits.sweep(self.files.entries(commits.folder), min_age_h)
                except FileNotFoundError as error:
                    raise StorageError(
                        f"a commit of store {self.uri} was deleted while `gc` looked ({error}); nothing is "
                        "harmed: let one `store gc` run at a time"
                    ) from error
                superfluous += found
                superfluous += [
                    name
                    for name in entries
                    if name.endswith(TEMPORARY) or (name.startswith(f"{folder}/data/") and name not in named)
                ]
        return self.files.delete_old(superfluous, min_age_h)


def reads_turns(modality: Modality, description: Mapping[str, Any]) -> bool:
    """Whether an encoder's segments are cut by the transcript's turns, by its description."""
    return modality == "audio" and description.get("segment", {}).get("audio") == "turns"


def _folder(modality: Modality, fingerprint: str) -> str:
    return f"features/{modality}/{fingerprint}"


def _owners(current: Mapping[str, str], commits: Sequence[Commit]) -> dict[str, str]:
    """Return the unit whose row counts for each stored document, for commits in rising order of units."""
    owner: dict[str, str] = {}
    for commit in commits:
        for doc_id, source, _, _ in commit.stored:
            if current.get(doc_id) == source:
                owner.setdefault(doc_id, commit.unit)
    return owner


def _failures(current: Mapping[str, str], commits: Sequence[Commit]) -> dict[str, Quarantined]:
    """Return the quarantined documents whose source is current and that no commit stores, by id."""
    stored = _owners(current, commits)
    return {
        failure.doc_id: failure
        for commit in commits
        for failure in commit.quarantined
        if current.get(failure.doc_id) == failure.key and failure.doc_id not in stored
    }


def _places(current: Mapping[str, str], commits: Sequence[Commit]) -> dict[str, Place]:
    """Return where the row is that counts for each stored document, for commits in rising order of units."""
    owner = _owners(current, commits)
    return {
        doc_id: Place(str(commit.file), commit.size_bytes, segments)
        for commit in commits
        for doc_id, source, segments, _ in commit.stored
        if owner.get(doc_id) == commit.unit and current[doc_id] == source
    }


def _decoded(modality: Modality, file: str, data: bytes) -> Iterator[FeatureRow]:
    """Return the rows of a data file."""
    try:
        return decode_rows(modality, data)
    except (pa.ArrowException, OSError) as error:
        raise DamagedError(
            f"data file {file} is damaged ({error}); `hilbert-ray store verify` lists all such files, and "
            "with --mend makes `embed` write them again"
        ) from error


def _load(commits: Commits, name: str) -> list[Commit] | DamagedError:
    """Return what a commit file or index says, nothing where `gc` deleted it, or what is wrong with it."""
    try:
        return commits.load(name)
    except FileNotFoundError:
        return []
    except DamagedError as error:
        return error


def _by_size(sizes: Iterable[tuple[_T, int]]) -> Iterator[list[_T]]:
    """Group things of so many bytes that make up some megabytes, to be fetched together."""
    part: list[_T] = []
    size = 0
    for one, size_bytes in sizes:
        part.append(one)
        size += size_bytes
        if size >= _READ_BYTES:
            yield part
            part, size = [], 0
    if part:
        yield part
