"""Care of a store: what it holds, whether it is intact, and what may be folded or deleted."""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np

from hilbert_ray.storage import TEMPORARY, DamagedError, Files, has_checksum
from hilbert_ray.store.commits import Commits
from hilbert_ray.store.contents import CONTENTS, Content, decode_content
from hilbert_ray.store.errors import FILLING, StoreError
from hilbert_ray.store.features import Commit, FeatureRow, sha256_of
from hilbert_ray.store.snapshot import Snapshot, doc_id_hash, snapshot_name, snapshot_numbers
from hilbert_ray.store.store import ABOUT, SCHEMA, Store, about_store, batches_by_size, encoder_folder

_READS_AT_ONCE = 16
"""Files that `verify_store` reads at a time: what hides the latency of an object store."""
_BUCKETS = 2**20
"""More buckets than any store has: a larger common divisor means that documents are too few to tell."""
_ADVICE = f"`hilbert-ray store verify --repair` deletes both, and {FILLING} then writes them again"


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """Something that `verify_store` found wrong with a file of the store."""

    path: str
    message: str


def store_info(store: Store) -> dict[str, Any]:
    """Return what a store holds, as plain values: documents, faults, and what is stored by encoder."""
    snapshot = store.snapshot()
    encoders = [
        _encoder_info(store, content, fingerprint, snapshot, description)
        for content in CONTENTS
        for fingerprint, description in store.encoders(content, snapshot).items()
    ]
    return {
        "uri": store.uri,
        "schema": SCHEMA,
        "buckets": store.buckets,
        "documents": snapshot.num_documents,
        "faults": len(snapshot.faults),
        "encoders": encoders,
    }


def _encoder_info(
    store: Store, content: Content, fingerprint: str, snapshot: Snapshot, description: Mapping[str, Any]
) -> dict[str, Any]:
    present = stored = segments = size_bytes = units = superseded = 0
    amount = 0.0
    errors: Counter[str] = Counter()
    # Block by block, never all documents at once: `info` must work on a store of any size.
    for block in store.current_blocks(content, fingerprint, snapshot):
        present += len(block.sources)
        stored += len(block.owners)
        errors.update(failure.error for failure in block.failures.values())
        for commit in block.commits:
            units += 1
            size_bytes += commit.size_bytes
            for doc_id, _, row_segments, row_amount in commit.stored:
                if block.owners.get(doc_id) == commit.unit:
                    segments, amount = segments + row_segments, amount + row_amount
                else:
                    # Of an old source, of a document that left the manifest, or stored by two runs.
                    superseded += 1
    quarantined = errors.total()
    # Commits count seconds; people count hours.
    unit, divisor = ("hours", 3600.0) if content != "text" else ("tokens", 1.0)
    entries = store.files.entries(store.commits(content, fingerprint).folder)
    return {
        "modality": content,
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
        "size_bytes": size_bytes,
        "commit_files": sum(name.endswith(".json") for name in entries),
        "indexes": sum(name.endswith(".jsonl") for name in entries),
        "commits_size_bytes": sum(entry.size_bytes for entry in entries.values()),
    }


def compact_store(store: Store, min_commits: int = 32) -> list[str]:
    """Fold the commits of buckets that have many into one index each; return the new indexes' names.

    Readers then fetch one file instead of hundreds. May run while others read, write or compact. What the
    indexes repeat is deleted later, by `collect_garbage`.

    Args:
        store: the store.
        min_commits: fold a bucket once this many of its commits are in no index.
    """
    return [
        index
        for content in CONTENTS
        for fingerprint in store.files.folders(f"features/{content}")
        for index in store.commits(content, fingerprint).compact(min_commits)
    ]


def verify_store(store: Store, repair: bool = False) -> Iterator[Problem]:
    """Read everything that counts again; yield what is gone, changed, or not what its commit says.

    Args:
        store: the store.
        repair: delete damaged files and the commits that name them, so that `embed` writes them again.
            Nothing else may write to the store meanwhile.
    """
    yield from _verify_manifests(store, repair)
    for content in CONTENTS:
        for fingerprint in store.files.folders(f"features/{content}"):
            yield from _verify_encoder(store, content, fingerprint, repair)
            commits = store.commits(content, fingerprint)
            for bucket, names in commits.names().items():
                yield from _verify_bucket(store, content, commits, bucket, names, repair)


def open_to_verify(uri: str, repair: bool) -> tuple[Store, Sequence[Problem]]:
    """Open a store whose store.json may be damaged; return it and what was wrong with that file.

    Raises:
        DamagedError: when store.json is damaged, without `repair`, or where it cannot be written again.
        StoreError: when there is no store.
    """
    try:
        return Store.open(uri), ()
    except DamagedError as error:
        if not repair:
            raise
        return rewrite_about(uri), [Problem(path="store.json", message=str(error))]


def rewrite_about(uri: str) -> Store:
    """Write a damaged store.json again, with the number of buckets that the documents are in; open the store.

    Raises:
        DamagedError: when other numbers of buckets would give each document the same bucket, as with few
            documents.
    """
    files = Files(uri)
    number = max(snapshot_numbers(files.names("documents")), default=0)
    snapshot = Snapshot.read(files, number) if number else Snapshot(files=files)
    # hash = bucket + n * buckets, for each document: the number of buckets divides all differences.
    common = largest = documents = 0
    for bucket in sorted({bucket for bucket, _ in snapshot.row_groups}):
        largest = bucket
        for doc_id, _ in snapshot.versions({bucket}):
            common, documents = math.gcd(common, doc_id_hash(doc_id) - bucket), documents + 1
    smaller = range(largest + 1, common // 2 + 1)
    if not documents or common > _BUCKETS or any(common % number == 0 for number in smaller):
        fault = f"and the {documents} documents of the newest manifest do not tell the number of buckets"
        raise DamagedError.of(
            f"{files.uri}/{ABOUT}", fault, "restore it from a copy, or embed into a new store"
        )
    files.put(ABOUT, about_store(common))
    return Store.open(uri)


def _verify_manifests(store: Store, repair: bool) -> Iterator[Problem]:
    numbers = snapshot_numbers(store.files.names("documents"))
    for number in numbers:
        name, is_newest = snapshot_name(number), number == numbers[-1]
        try:
            snapshot = store.snapshot(number)
        except DamagedError as error:
            yield Problem(path=name, message=str(error))
            # Never the newest: the one before would count as the manifest until `embed` writes the next.
            if repair and not is_newest:
                store.files.delete(name)
            continue
        if not is_newest:
            continue  # no reader opens the documents of a manifest that was replaced
        try:
            snapshot.check()
        except StoreError as error:
            yield Problem(path=snapshot.file, message=str(error))
            # Only the documents' file: `embed` writes it again under the same name, the hash of its content.
            if repair:
                store.files.delete(snapshot.file)


def _verify_encoder(store: Store, content: Content, fingerprint: str, repair: bool) -> Iterator[Problem]:
    name = f"{encoder_folder(content, fingerprint)}/encoder.json"
    try:
        store.description(content, fingerprint)
    except DamagedError as error:
        yield Problem(path=name, message=str(error))
        if repair:
            store.files.delete(name)
    except FileNotFoundError:
        yield Problem(path=name, message=f"it is gone; rerun {FILLING} with the same settings")


def count_unchecked(store: Store) -> int:
    """Return how many files of a store have no checksum, because an older version wrote them.

    They are read as they are. Data files and indexes have the hash of their content in their name.
    """
    sizes = (
        (name, entry.size_bytes)
        for name, entry in store.files.entries("").items()
        if name.endswith(".json") and "/attempts/" not in name
    )
    contents = (store.files.read_many(batch) for batch in batches_by_size(sizes))
    return sum(not has_checksum(data) for batch in contents for data in batch.values())


def _verify_bucket(
    store: Store, content: Content, commits: Commits, bucket: int, names: Sequence[str], repair: bool
) -> Iterator[Problem]:
    # A unit may be in a commit file and in indexes: by unit and data file, each file is read once.
    unique: dict[tuple[str | None, str | None], Commit] = {}
    with ThreadPoolExecutor(_READS_AT_ONCE) as pool:
        for name, loaded in zip(names, pool.map(partial(_load, commits), names), strict=True):
            if isinstance(loaded, DamagedError):
                yield Problem(path=name, message=str(loaded))
                if repair:
                    store.files.delete(name)
            else:
                unique |= {(commit.unit, commit.file): commit for commit in loaded}
        damaged = []
        with_data = ((commit, commit.size_bytes) for commit in unique.values() if commit.file is not None)
        for batch in batches_by_size(with_data):
            messages = pool.map(partial(_data_fault, store, content), batch)
            for commit, message in zip(batch, messages, strict=True):
                if message is not None and commit.file is not None:
                    yield Problem(path=commit.file, message=message)
                    damaged.append(commit)
    if repair and damaged:
        # Commits first: killed in between, the store has data without a commit, never the reverse.
        commits.drop(bucket, {commit.unit for commit in damaged})
        for commit in damaged:
            store.files.delete(str(commit.file))


def _load(commits: Commits, name: str) -> list[Commit] | DamagedError:
    """Return what a commit file or index says, nothing if it was deleted meanwhile, or what is wrong."""
    try:
        return commits.load(name)
    except FileNotFoundError:
        return []
    except DamagedError as error:
        return error


def _data_fault(store: Store, content: Content, commit: Commit) -> str | None:
    """Return what is wrong with a commit's data file."""
    try:
        data = store.files.read(str(commit.file))
    except FileNotFoundError:
        return f"commit {commit.unit} names it, but it is gone; {_ADVICE}"
    sha256 = sha256_of(data)
    if sha256 != commit.sha256:
        return f"sha256 is {sha256}, but commit {commit.unit} says {commit.sha256}; {_ADVICE}"
    # The bytes are those that were committed; from here on faults would be of the code that wrote them.
    rows = list(decode_content(content, data))
    if tuple(row.committed for row in rows) != commit.stored:
        return f"its rows are not those of commit {commit.unit}; {_ADVICE}"
    for row in rows:
        if isinstance(row, FeatureRow) and not np.isfinite(row.features).all():
            return f"document {row.doc_id!r} has features that are not finite; {_ADVICE}"
    return None


def collect_garbage(store: Store, min_age_h: float = 24.0) -> list[str]:
    """Delete files that nothing needs any more; return their names.

    These are data files that no commit names, files that a killed writer left unfinished, commits and indexes
    that an index repeats, and manifests that a newer one replaced. A run that is under way needs what it has
    just written, and what existed when it began: so files younger than `min_age_h` hours stay, and no run may
    last longer than that.
    """
    # Everything is listed before anything is deleted, and `delete_old` looks at each age once more.
    superfluous = _superseded_snapshots(store, min_age_h)
    for content in CONTENTS:
        for fingerprint in store.encoders(content):
            superfluous += _superfluous_features(store, content, fingerprint, min_age_h)
    return store.files.delete_old(superfluous, min_age_h)


def _superfluous_features(store: Store, content: Content, fingerprint: str, min_age_h: float) -> list[str]:
    folder = encoder_folder(content, fingerprint)
    # Data is listed before commits: what is committed in between is then named by a commit that is read.
    entries = store.files.entries(folder)
    commits = store.commits(content, fingerprint)
    try:
        superfluous, named = commits.sweep(store.files.entries(commits.folder), min_age_h)
    except FileNotFoundError as error:
        raise StoreError(
            f"a commit of store {store.uri} was deleted while `store gc` read it ({error}); nothing is "
            "damaged: run one `store gc` at a time"
        ) from error
    return superfluous + [
        name
        for name in entries
        if name.endswith(TEMPORARY) or (name.startswith(f"{folder}/data/") and name not in named)
    ]


def _superseded_snapshots(store: Store, min_age_h: float) -> list[str]:
    """Return the files of manifests that were replaced at least `min_age_h` hours ago.

    A manifest's age is that of the one after it: a run that began before the change still reads the old one.
    """
    entries = store.files.entries("documents")
    numbers = snapshot_numbers(entries)
    replaced = [old for old, new in pairwise(numbers) if entries[snapshot_name(new)].age_h >= min_age_h]
    # Several manifests may share a file: one that returned to an earlier content.
    kept_files = {store.snapshot(number).file for number in numbers if number not in replaced}
    replaced_names = [snapshot_name(number) for number in replaced]
    return replaced_names + [n for n in entries if not n.endswith(".json") and n not in kept_files]
