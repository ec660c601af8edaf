"""The feature store: the manifest and, for each modality and encoder, the features of its documents.

    STORE/store.json                                 schema version, number of buckets (fixed at creation)
    STORE/documents/<number>.json, <sha16>.parquet   snapshots of the validated manifest; the highest counts
    STORE/features/<modality>/<fingerprint>/
        encoder.json                                 what makes these features
        data/bucket=0007/<unit>-<sha16>.parquet      rows; never overwritten: the name holds their hash
        commits/bucket=0007/<unit>.json              the only truth: what a unit stored and quarantined
        attempts/bucket=0007/<unit>/1.json           breadcrumbs of documents tried alone after workers died

Features of a document are current when their source equals the one that the newest snapshot gives it; others
are superseded and no reader sees them. There are no locks, leases or clocks: every file is created only once
(`Files.create`), so runs that overlap can at worst do the same work twice. `embed` writes; all else reads.
"""

import json
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from hilbert_ray.config import MODALITIES, Modality
from hilbert_ray.document import Document, Fault
from hilbert_ray.store import documents, features
from hilbert_ray.store.documents import Snapshot, StoredDocument, bucket_of
from hilbert_ray.store.features import Commit, FeatureRow, Quarantined
from hilbert_ray.store.files import Files, StoreError, absolute

__all__ = [
    "Commit",
    "FeatureRow",
    "Problem",
    "Quarantined",
    "Snapshot",
    "Store",
    "StoreError",
    "StoredDocument",
    "bucket_of",
    "reads_turns",
]

SCHEMA = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """Something that `verify` found wrong with a file of the store."""

    path: str
    message: str


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
            raise StoreError(
                f"no store at {uri}: there is no store.json; mend the path, or make one with `hilbert-ray "
                "embed`"
            ) from None
        except ValueError as error:
            raise StoreError(f"store.json of {uri} is damaged ({error}); restore it from a copy") from None
        if values.get("schema") != SCHEMA:
            raise StoreError(
                f"store {uri} has schema {values.get('schema')!r}; this version reads {SCHEMA}: use the "
                "version of hilbert-ray that made it, or embed into a new store"
            )
        return cls(uri, int(values["buckets"]))

    # Documents

    def write_documents(self, rows: Iterator[StoredDocument | Fault], roles: Sequence[str] = ()) -> Snapshot:
        """Make these manifest rows, of which `roles` are kept, what readers see; see `documents.write`."""
        return documents.write(self.files, rows, self.buckets, roles)

    def snapshot(self, number: int | None = None) -> Snapshot:
        """Return a snapshot of the manifest by its number, or the newest (empty where there is none)."""
        return documents.newest(self.files) if number is None else documents.load(self.files, number)

    def stored_documents(
        self,
        snapshot: Snapshot | None = None,
        buckets: Collection[int] | None = None,
        doc_ids: Collection[str] | None = None,
        words: bool = True,
    ) -> Iterator[StoredDocument]:
        """Yield documents with the versions of their files, by bucket and id; see `documents.read`."""
        chosen = self.snapshot() if snapshot is None else snapshot
        return documents.read(self.files, chosen, buckets, doc_ids, words)

    def sources(
        self, snapshot: Snapshot, buckets: Collection[int], modality: Modality, reads_turns: bool
    ) -> Iterator[tuple[str, str | None]]:
        """Yield (id, source) of the documents of some buckets; see `documents.sources`."""
        return documents.sources(self.files, snapshot, buckets, modality, reads_turns)

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
            raise StoreError(
                f"{name} describes an encoder of width {noted.get('dim')}, but this run's encoder of the "
                f"same fingerprint has width {description.get('dim')}; features of both must not mix: embed "
                "into a new store"
            )

    def encoders(self, modality: Modality) -> dict[str, dict[str, Any]]:
        """Return the description of each encoder whose features this store has, by fingerprint.

        The description is the encoder's own (`describe`), with the roles that the newest run kept.
        """
        root = f"features/{modality}"
        found: dict[str, dict[str, Any]] = {}
        for fingerprint in self._folders(root):
            try:
                found[fingerprint] = json.loads(self.files.read(f"{root}/{fingerprint}/encoder.json"))
            except FileNotFoundError:
                continue
            if "segment" in found[fingerprint]:
                found[fingerprint]["segment"]["roles"] = list(self.snapshot().roles)
        return found

    def _folders(self, name: str) -> list[str]:
        try:
            listed = self.files.filesystem.ls(self.files.path(name), detail=False)
        except FileNotFoundError:
            return []
        return sorted(path.rstrip("/").rpartition("/")[2] for path in listed)

    def _reads_turns(self, modality: Modality, fingerprint: str) -> bool:
        known = self.encoders(modality)
        if fingerprint not in known:
            listed = ", ".join(f"{key} ({value.get('name', '?')})" for key, value in known.items()) or "none"
            raise StoreError(
                f"store {self.uri} has no {modality} features of encoder {fingerprint}; it has {listed}: run "
                "`hilbert-ray embed` with that encoder first"
            )
        return reads_turns(modality, known[fingerprint])

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
            data = features.encode(modality, rows)
            sha256 = features.sha256_of(data)
            file = f"{folder}/data/bucket={bucket:04d}/{unit}-{sha256[:16]}.parquet"
            self.files.create(file, data)
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
        if self.files.create(_commit_name(modality, fingerprint, bucket, unit), made.to_json()):
            return made
        winner = self.committed(modality, fingerprint, bucket, unit)
        if winner is None:
            raise StoreError(
                f"commit {unit} of store {self.uri} was there and is gone; run one `store gc` at a time"
            )
        if file is not None and winner.file != file:
            self.files.delete(file)
        return winner

    def committed(self, modality: Modality, fingerprint: str, bucket: int, unit: str) -> Commit | None:
        """Return the commit of a unit, or None where the unit is not done."""
        try:
            return features.commit_from_json(
                self.files.read(_commit_name(modality, fingerprint, bucket, unit))
            )
        except FileNotFoundError:
            return None

    def note_attempt(self, modality: Modality, fingerprint: str, bucket: int, unit: str) -> int:
        """Note, where other workers will see it, that work on a unit begins; return which attempt it is.

        Attempts that ended are cleared, so earlier ones that are still noted died.
        """
        folder = f"{_folder(modality, fingerprint)}/attempts/bucket={bucket:04d}/{unit}"
        number = 1
        while not self.files.create(f"{folder}/{number}.json", b"{}"):
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
        folder = f"{_folder(modality, fingerprint)}/commits"
        folders = (
            [folder] if buckets is None else [f"{folder}/bucket={bucket:04d}" for bucket in sorted(buckets)]
        )
        for part in _chunks((name for folder in folders for name in self.files.names(folder)), 1024):
            found = self.files.read_many(part)
            yield from (features.commit_from_json(found[name]) for name in part)

    def read(self, modality: Modality, fingerprint: str, bucket: int | None = None) -> Iterator[FeatureRow]:
        """Yield the current features of each document once, file by file (all, or those of one bucket).

        Only files that commits name are opened. Where two runs stored the same document, the unit with the
        lowest id counts, so every reader takes the same. The order follows the units of the runs that stored
        the documents; sort by doc_id where order matters.
        """
        for current, commits in self._blocks(modality, fingerprint, bucket):
            owner = _owners(current, commits)
            wanted = [
                commit for commit in commits if any(owner.get(key[0]) == commit.unit for key in commit.stored)
            ]
            for part in _by_size(wanted):
                found = self.files.read_many([commit.file for commit in part if commit.file])
                for commit in part:
                    for row in features.decode(modality, found[commit.file]) if commit.file else ():
                        if owner.get(row.doc_id) == commit.unit and current[row.doc_id] == row.source:
                            yield row

    def quarantined(self, modality: Modality, fingerprint: str) -> list[Quarantined]:
        """Return the current documents that could not be embedded and are not stored, by id."""
        found: dict[str, Quarantined] = {}
        for current, commits in self._blocks(modality, fingerprint, None):
            stored = _owners(current, commits)
            for commit in commits:
                for failure in commit.quarantined:
                    if current.get(failure.doc_id) == failure.key and failure.doc_id not in stored:
                        found[failure.doc_id] = failure
        return [found[doc_id] for doc_id in sorted(found)]

    def _blocks(
        self, modality: Modality, fingerprint: str, bucket: int | None
    ) -> Iterator[tuple[dict[str, str], list[Commit]]]:
        """Yield (current source of each document that has the modality, commits), some buckets at a time."""
        by_turns = self._reads_turns(modality, fingerprint)
        snapshot = self.snapshot()
        for buckets in snapshot.blocks(bucket):
            known = self.sources(snapshot, buckets, modality, by_turns)
            current = {doc_id: source for doc_id, source in known if source is not None}
            yield current, list(self.commits(modality, fingerprint, buckets))

    # Care

    def info(self) -> dict[str, Any]:
        """Return what the store holds, as plain values: documents, faults, and what is stored by encoder."""
        snapshot = self.snapshot()
        encoders = []
        for modality in MODALITIES:
            for fingerprint, description in self.encoders(modality).items():
                encoders.append(self._info_of(modality, fingerprint, description))
        return {
            "uri": self.uri,
            "schema": SCHEMA,
            "buckets": self.buckets,
            "documents": snapshot.rows,
            "faults": len(snapshot.faults),
            "encoders": encoders,
        }

    def _info_of(
        self, modality: Modality, fingerprint: str, description: Mapping[str, Any]
    ) -> dict[str, Any]:
        present = stored = segments = size = units = superseded = 0
        amount = 0.0
        for current, commits in self._blocks(modality, fingerprint, None):
            owner = _owners(current, commits)
            present += len(current)
            stored += len(owner)
            for commit in commits:
                units += 1
                size += commit.size_bytes
                for doc_id, _, n, seen in commit.stored:
                    if owner.get(doc_id) == commit.unit:
                        segments, amount = segments + n, amount + seen
                    else:
                        superseded += 1
        quarantined = len(self.quarantined(modality, fingerprint))
        unit, divisor = ("hours", 3600.0) if modality == "audio" else ("tokens", 1.0)
        return {
            "modality": modality,
            "fingerprint": fingerprint,
            "encoder": description.get("name"),
            "dim": description.get("dim"),
            "documents": present,
            "stored": stored,
            "quarantined": quarantined,
            "pending": present - stored - quarantined,
            "superseded": superseded,
            "units": units,
            "segments": segments,
            unit: amount / divisor,
            "size_bytes": size,
        }

    def export(self, folder: str) -> int:
        """Write all current features to FOLDER/<modality>/<fingerprint>/<doc_id>.npz; return the documents.

        Each file holds `features` float16 [n, dim], `start` and `end` float32 [n]. What is no letter, digit
        or one of `_.-~` in an id is written as in URLs (%2F for a slash).
        """
        exported: set[str] = set()
        for modality in MODALITIES:
            for fingerprint in self.encoders(modality):
                place = Path(folder, modality, fingerprint)
                place.mkdir(parents=True, exist_ok=True)
                for row in self.read(modality, fingerprint):
                    path = place / f"{quote(row.doc_id, safe='')}.npz"
                    np.savez(path, features=row.features, start=row.start, end=row.end)
                    exported.add(row.doc_id)
        return len(exported)

    def verify(self) -> Iterator[Problem]:
        """Read every committed file again; yield what is gone, changed, or not what its commit says."""
        snapshot = self.snapshot()
        if snapshot.number:
            try:
                documents.check(self.files, snapshot)
            except StoreError as error:
                yield Problem(path=snapshot.file, message=str(error))
        for modality in MODALITIES:
            for fingerprint in self.encoders(modality):
                for commit in self.commits(modality, fingerprint):
                    if commit.file is not None:
                        message = self._fault_of(modality, commit, commit.file)
                        if message:
                            yield Problem(path=commit.file, message=message)

    def _fault_of(self, modality: Modality, commit: Commit, file: str) -> str | None:
        try:
            data = self.files.read(file)
        except FileNotFoundError:
            return f"commit {commit.unit} names it, but it is gone; delete the commit and embed again"
        sha256 = features.sha256_of(data)
        if sha256 != commit.sha256:
            return (
                f"sha256 is {sha256}, but commit {commit.unit} says {commit.sha256}; delete both files and "
                "embed again"
            )
        rows = list(features.decode(modality, data))
        held = tuple((row.doc_id, row.source, len(row.features), row.seen) for row in rows)
        if held != commit.stored:
            return f"its rows are not those of commit {commit.unit}; delete both files and embed again"
        for row in rows:
            if not np.isfinite(row.features).all():
                return (
                    f"document {row.doc_id!r} has features that are not finite; delete the file and commit "
                    f"{commit.unit}, and embed again"
                )
        return None

    def gc(self, min_age_h: float = 24.0) -> list[str]:
        """Delete files that no commit and no newest snapshot names; return their names.

        A run that is under way has written data that its commit will name in a moment: files younger than
        `min_age_h` hours therefore stay.
        """
        snapshot = self.snapshot()
        kept = {snapshot.file}
        folders = ["documents"]
        for modality in MODALITIES:
            for fingerprint in self.encoders(modality):
                folders.append(_folder(modality, fingerprint))
                kept.update(commit.file for commit in self.commits(modality, fingerprint) if commit.file)
        deleted = []
        for folder in folders:
            for name, details in sorted(self.files.details(folder).items()):
                if name in kept or name.endswith(".json") or _age_h(details) < min_age_h:
                    continue
                self.files.delete(name)
                deleted.append(name)
        return deleted


def reads_turns(modality: Modality, description: Mapping[str, Any]) -> bool:
    """Whether an encoder's segments are cut by the transcript's turns, by its description."""
    return modality == "audio" and description.get("segment", {}).get("audio") == "turns"


def _folder(modality: Modality, fingerprint: str) -> str:
    return f"features/{modality}/{fingerprint}"


def _commit_name(modality: Modality, fingerprint: str, bucket: int, unit: str) -> str:
    return f"{_folder(modality, fingerprint)}/commits/bucket={bucket:04d}/{unit}.json"


def _owners(current: Mapping[str, str], commits: Sequence[Commit]) -> dict[str, str]:
    """Return the unit whose row counts for each stored document, for commits in rising order of units."""
    owner: dict[str, str] = {}
    for commit in commits:
        for doc_id, source, _, _ in commit.stored:
            if current.get(doc_id) == source:
                owner.setdefault(doc_id, commit.unit)
    return owner


def _chunks(items: Iterator[str], size: int) -> Iterator[list[str]]:
    while part := list(islice(items, size)):
        yield part


def _by_size(commits: Sequence[Commit], size_bytes: int = 64 * 2**20) -> Iterator[list[Commit]]:
    """Group commits whose data files make up about `size_bytes`, to be fetched together."""
    part: list[Commit] = []
    for commit in commits:
        part.append(commit)
        if sum(one.size_bytes for one in part) >= size_bytes:
            yield part
            part = []
    if part:
        yield part


def _age_h(details: Mapping[str, Any]) -> float:
    modified = details.get("mtime", details.get("LastModified", details.get("last_modified")))
    seconds = modified.timestamp() if isinstance(modified, datetime) else float(modified or time.time())
    return (time.time() - seconds) / 3600
