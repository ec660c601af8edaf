"""The commits of one modality and encoder: a small file per unit, and indexes that repeat many in one.

    bucket=0007/<unit>.json              what one unit stored and quarantined
    bucket=0007/index-<sha16>.jsonl      the same of many units, one per line; its name holds its hash

`compact` writes indexes and `sweep` lists, much later, what they made superfluous. Both may run while others
read and write: an index is created whole, repeats what it replaces, and a reader takes a unit once wherever
it is, from an index first. A late writer that commits an indexed unit again does no harm.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from typing import TypeVar

from hilbert_ray.storage import DamagedError, Entry, Files, reading_json, with_checksum, without_checksum
from hilbert_ray.store.errors import FILLING, StoreError
from hilbert_ray.store.features import Commit, commit_from_json, sha256_of

_FILES_AT_ONCE, _BYTES_AT_ONCE = 1024, 8 * 2**20
"""Most files and bytes that a reader fetches together. Parsed, commits take about ten times their bytes."""
_INDEX, _INDEX_END, _COMMIT_END = "index-", ".jsonl", ".json"
_TRIES = 5
"""Listings of a bucket before a reader gives up on a `gc` that keeps deleting what it is about to read."""
_T = TypeVar("_T")


class Commits:
    """The commits below `folder` of a store with this number of buckets."""

    def __init__(self, files: Files, folder: str, buckets: int) -> None:
        self.files = files
        self.folder = folder
        self.buckets = buckets

    def name(self, bucket: int, unit: str) -> str:
        """Return the name of a unit's own commit file."""
        return f"{self.folder}/bucket={bucket:04d}/{unit}{_COMMIT_END}"

    def create(self, commit: Commit) -> bool:
        """Commit a unit; False where it has another commit already."""
        return self.files.create(self.name(commit.bucket, commit.unit), with_checksum(commit.to_json()))

    def find(self, bucket: int, unit: str) -> Commit | None:
        """Return the commit of a unit, or None where there is none."""
        # The unit's own file first: one request, where indexes must be listed and read.
        name = self.name(bucket, unit)
        try:
            return _parse(name, self.files.read(name))
        except FileNotFoundError:
            pass
        for index in self.files.names(f"{self.folder}/bucket={bucket:04d}", prefix=_INDEX):
            try:
                lines = self._lines(index)
            except FileNotFoundError:  # superseded by another that is listed too
                continue
            for line in lines:
                # Searching bytes is much cheaper than parsing, and most lines are other units'.
                if unit.encode() in line and (commit := _parse(index, line)).unit == unit:
                    return commit
        return None

    def read(self, buckets: Collection[int] | None = None) -> Iterator[Commit]:
        """Yield each unit's commit once, of all buckets or some, by bucket and unit."""
        # A batch is read whole and then yielded: relisting must not yield a unit twice.
        for names in _batches(self._list(buckets)):
            for units in self._relisting(self._read, names).values():
                yield from (units[unit] for unit in sorted(units))

    def names(self, buckets: Collection[int] | None = None) -> dict[int, list[str]]:
        """Return the names of the commit files and indexes of all buckets or some."""
        return {bucket: list(entries) for bucket, entries in self._list(buckets).items()}

    def _list(self, buckets: Collection[int] | None) -> dict[int, dict[str, Entry]]:
        """Return the commit files and indexes by bucket."""
        # An object store lists a thousand files per request, and a bucket is at least one request: beyond a
        # quarter of the buckets, listing everything is cheaper.
        if buckets is None or 4 * len(buckets) > self.buckets:
            listed = _by_bucket(self.files.entries(self.folder))
            return {b: entries for b, entries in listed.items() if buckets is None or b in buckets}
        folders = [f"{self.folder}/bucket={bucket:04d}" for bucket in sorted(buckets)]
        return _by_bucket({k: v for folder in folders for k, v in self.files.entries(folder).items()})

    def load(self, name: str) -> list[Commit]:
        """Return what one commit file or index says.

        Raises:
            FileNotFoundError: when it is gone.
            DamagedError: when its content is not what was written.
        """
        if not name.endswith(_INDEX_END):
            return [_parse(name, self.files.read(name))]
        return [_parse(name, line) for line in self._lines(name)]

    def compact(self, min_commits: int) -> list[str]:
        """Fold each bucket with at least `min_commits` commits outside an index; return the new indexes.

        What a bucket's older indexes hold goes into the new one too.
        """
        fold = partial(self._fold, min_commits)
        # One index per bucket and call: a bucket is what readers read at once.
        indexes = [self._relisting(fold, {bucket: names}) for bucket, names in self.names().items()]
        return [name for name in indexes if name is not None]

    def _fold(self, min_commits: int, listed: Mapping[int, Sequence[str]]) -> str | None:
        [(bucket, names)] = listed.items()
        if len(names) < min_commits:
            return None
        by_index = self._indexed([name for name in names if _is_index(name)])
        units = _merged(by_index.values())
        unindexed = [name for name in names if not _is_index(name) and _unit_of(name) not in units]
        # Few new commits are worth an index only where older ones can be joined: one file for several.
        is_one_index = any(len(indexed) == len(units) for indexed in by_index.values())
        if len(unindexed) < min_commits and is_one_index:
            return None
        # What an index holds is never taken from a commit file, which a late writer may have made since.
        units.update((commit.unit, commit) for _, commit in self._parsed(unindexed))
        return self._write_index(bucket, units.values())

    def drop(self, bucket: int, units: Collection[str]) -> None:
        """Forget units, in commit files and indexes, so that they are embedded again.

        Nothing else may write to the bucket meanwhile.
        """
        for name in self.names([bucket])[bucket]:
            if not _is_index(name):
                if _unit_of(name) in units:
                    self.files.delete(name)
                continue
            commits = self.load(name)
            kept = [commit for commit in commits if commit.unit not in units]
            if len(kept) < len(commits):
                # The new index first: killed in between, nothing that should stay is lost.
                if kept:
                    self._write_index(bucket, kept)
                self.files.delete(name)

    def _write_index(self, bucket: int, commits: Iterable[Commit]) -> str:
        # Sorted, so that two processes that fold the same commits write the same index.
        data = b"".join(commit.to_json() + b"\n" for commit in sorted(commits, key=lambda each: each.unit))
        name = f"{self.folder}/bucket={bucket:04d}/{_INDEX}{sha256_of(data)[:16]}{_INDEX_END}"
        self.files.create(name, data)
        return name

    def sweep(self, entries: Mapping[str, Entry], min_age_h: float) -> tuple[list[str], set[str]]:
        """Return the commit files and indexes that may go, and the data files that commits name.

        A commit may go once an index that holds it is old enough, and an index once another that holds all
        of it is: readers that listed the bucket before that index existed have ended by then.

        Args:
            entries: a listing of `folder`.
            min_age_h: what is old enough, in hours.
        """
        superfluous: list[str] = []
        named: set[str] = set()
        for names in map(list, _by_bucket(entries).values()):
            by_index = self._indexed([name for name in names if _is_index(name)])
            old = {name: set(units) for name, units in by_index.items() if entries[name].age_h >= min_age_h}
            in_old_index = set().union(*old.values())
            in_any_index = set().union(*by_index.values())
            for name in old:
                # Of two that hold the same units the one with the lower name stays.
                if any(old[name] < old[other] or (old[name] == old[other] and other < name) for other in old):
                    superfluous.append(name)
            commit_files = [name for name in names if not _is_index(name)]
            superfluous += [
                name
                for name in commit_files
                if _unit_of(name) in in_old_index and entries[name].age_h >= min_age_h
            ]
            # What is not in an index yet must be read: its data file is needed, however old.
            unindexed = [name for name in commit_files if _unit_of(name) not in in_any_index]
            commits = [commit for units in by_index.values() for commit in units.values()]
            commits += [commit for _, commit in self._parsed(unindexed)]
            named.update(commit.file for commit in commits if commit.file is not None)
        return superfluous, named

    def _read(self, listed: Mapping[int, Sequence[str]]) -> dict[int, dict[str, Commit]]:
        """Return the commits of some buckets by unit, as listed."""
        by_index = self._indexed([name for names in listed.values() for name in names if _is_index(name)])
        units = {
            bucket: _merged(by_index[name] for name in names if _is_index(name))
            for bucket, names in listed.items()
        }
        unindexed = [
            name
            for bucket, names in listed.items()
            for name in names
            if not _is_index(name) and _unit_of(name) not in units[bucket]
        ]
        for name, commit in self._parsed(unindexed):
            units[_bucket_of(name)][commit.unit] = commit
        return units

    def _relisting(
        self, action: Callable[[Mapping[int, Sequence[str]]], _T], listed: Mapping[int, Sequence[str]]
    ) -> _T:
        """Run `action` on commits as listed; list them again where `gc` deleted some meanwhile.

        A commit that is deleted is in an index by then, which the next listing has.
        """
        for _ in range(_TRIES):
            try:
                return action(listed)
            except FileNotFoundError:
                names = self.names(listed.keys())
                listed = {bucket: names.get(bucket, []) for bucket in listed}
        raise StoreError(
            f"commits in {self.folder} of store {self.files.uri} were deleted {_TRIES} times while they "
            "were read; run `store gc` with a larger --min-age-h, then rerun"
        )

    def _indexed(self, names: Sequence[str]) -> dict[str, dict[str, Commit]]:
        """Return the commits of some indexes, by name of the index and unit."""
        contents = self.files.read_many(names)
        return {
            name: {
                commit.unit: commit
                for commit in (_parse(name, line) for line in _checked_lines(name, contents[name]))
            }
            for name in names
        }

    def _parsed(self, names: Sequence[str]) -> Iterator[tuple[str, Commit]]:
        """Yield the names and contents of commit files, fetched many at a time."""
        remaining = iter(names)
        while batch := list(islice(remaining, _FILES_AT_ONCE)):
            contents = self.files.read_many(batch)
            yield from ((name, _parse(name, contents[name])) for name in batch)

    def _lines(self, index: str) -> list[bytes]:
        return _checked_lines(index, self.files.read(index))


def _merged(indexes: Iterable[Mapping[str, Commit]]) -> dict[str, Commit]:
    """Return the commits of several indexes by unit; where several have a unit, the first index counts."""
    # All readers take indexes in the order of their names, and so the same commit of a unit.
    units: dict[str, Commit] = {}
    for indexed in indexes:
        units = {**indexed, **units}
    return units


def _batches(listed: Mapping[int, Mapping[str, Entry]]) -> Iterator[dict[int, list[str]]]:
    """Group buckets whose commits one process reads, and holds, together."""
    batch: dict[int, list[str]] = {}
    count = size = 0
    for bucket, entries in listed.items():
        batch[bucket] = list(entries)
        count += len(entries)
        size += sum(entry.size_bytes for entry in entries.values())
        if count >= _FILES_AT_ONCE or size >= _BYTES_AT_ONCE:
            yield batch
            batch, count, size = {}, 0, 0
    if batch:
        yield batch


def _by_bucket(entries: Mapping[str, Entry]) -> dict[int, dict[str, Entry]]:
    listed: dict[int, dict[str, Entry]] = {}
    for name in sorted(entries):
        if name.endswith((_COMMIT_END, _INDEX_END)):  # not what a writer has not finished
            listed.setdefault(_bucket_of(name), {})[name] = entries[name]
    return listed


def _bucket_of(name: str) -> int:
    return int(name.split("/")[-2].removeprefix("bucket="))


def _unit_of(name: str) -> str:
    return name.rpartition("/")[2].removesuffix(_COMMIT_END)


def _is_index(name: str) -> bool:
    return name.endswith(_INDEX_END)


def _checked_lines(index: str, data: bytes) -> list[bytes]:
    """Return the lines of an index whose content is what its name says."""
    sha256 = sha256_of(data)
    if not index.endswith(f"{_INDEX}{sha256[:16]}{_INDEX_END}"):
        raise DamagedError.of(
            f"index {index}",
            f"its sha256 is {sha256}, its name says otherwise",
            "restore it from a copy, or run `hilbert-ray store verify --repair`, after which a rerun of "
            f"{FILLING} redoes what only it held",
        )
    return data.splitlines()


def _parse(name: str, data: bytes) -> Commit:
    repair = (
        "restore it from a copy, or run `hilbert-ray store verify --repair`, after which a rerun of "
        f"{FILLING} writes it again"
    )
    with reading_json(f"commit {name}", repair):
        return commit_from_json(without_checksum(data, f"commit {name}", repair))
