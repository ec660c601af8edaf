"""The commits of one modality and encoder: a small file a unit, and indexes that repeat many of them in one.

    bucket=0007/<unit>.json              what one unit stored and quarantined
    bucket=0007/index-<sha16>.jsonl      the same of many units, a line each; its name holds its hash

`compact` makes indexes and `sweep` tells, much later, what they made superfluous. Both may run beside readers
and writers: an index is created whole, repeats what it replaces, and a reader takes a unit once wherever it
finds it, from an index first. A writer that comes late and commits a folded unit again does no harm.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from typing import TypeVar

from hilbert_ray.storage import DamagedError, Entry, Files, StorageError
from hilbert_ray.store.features import Commit, commit_from_json, sha256_of

_AT_ONCE, _BYTES_AT_ONCE = 1024, 8 * 2**20
"""Files that one reader asks for together, and their bytes: in memory they take ten times as much."""
_INDEX, _INDEX_END, _COMMIT_END = "index-", ".jsonl", ".json"
_TRIES = 5
_T = TypeVar("_T")


class Commits:
    """The commits below `folder` of a store with some number of buckets."""

    def __init__(self, files: Files, folder: str, buckets: int) -> None:
        self.files = files
        self.folder = folder
        self.buckets = buckets

    def name(self, bucket: int, unit: str) -> str:
        """Return the name of a unit's own commit file."""
        return f"{self.folder}/bucket={bucket:04d}/{unit}{_COMMIT_END}"

    def create(self, commit: Commit) -> bool:
        """Commit a unit; False where another commit of it is there."""
        return self.files.create(self.name(commit.bucket, commit.unit), commit.to_json())

    def find(self, bucket: int, unit: str) -> Commit | None:
        """Return the commit of a unit, or None where there is none."""
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
                if unit.encode() in line and (commit := _parse(index, line)).unit == unit:
                    return commit
        return None

    def read(self, buckets: Collection[int] | None = None) -> Iterator[Commit]:
        """Yield each unit's commit once, of all buckets or some, by bucket and unit."""
        for listed in _parts(self._listed(buckets)):
            for units in self._again(self._read, listed).values():
                yield from (units[unit] for unit in sorted(units))

    def names(self, buckets: Collection[int] | None = None) -> dict[int, list[str]]:
        """Return the names of the commit files and indexes of all buckets or some."""
        return {bucket: list(entries) for bucket, entries in self._listed(buckets).items()}

    def _listed(self, buckets: Collection[int] | None) -> dict[int, dict[str, Entry]]:
        """Return the commit files and indexes by bucket, in as few listings as may be."""
        if buckets is None or 4 * len(buckets) > self.buckets:
            listed = _by_bucket(self.files.entries(self.folder))
            return {b: entries for b, entries in listed.items() if buckets is None or b in buckets}
        folders = [f"{self.folder}/bucket={bucket:04d}" for bucket in sorted(buckets)]
        return _by_bucket({k: v for folder in folders for k, v in self.files.entries(folder).items()})

    def load(self, name: str) -> list[Commit]:
        """Return what one commit file or index says.

        Raises:
            FileNotFoundError: when it is gone.
            StoreError: when it is damaged.
        """
        if not name.endswith(_INDEX_END):
            return [_parse(name, self.files.read(name))]
        return [_parse(name, line) for line in self._lines(name)]

    def compact(self, min_commits: int) -> list[str]:
        """Fold the commits of each bucket that has at least so many outside an index; return the new indexes.

        What a bucket's older indexes hold goes into the new one too.
        """
        fold = partial(self._fold, min_commits)
        made = [self._again(fold, {bucket: names}) for bucket, names in self.names().items()]
        return [name for name in made if name is not None]

    def _fold(self, min_commits: int, listed: Mapping[int, Sequence[str]]) -> str | None:
        [(bucket, names)] = listed.items()
        if len(names) < min_commits:
            return None
        indexed = self._indexed([name for name in names if _is_index(name)])
        units = _merged(indexed.values())
        loose = [name for name in names if not _is_index(name) and _unit_of(name) not in units]
        if len(loose) < min_commits and any(len(one) == len(units) for one in indexed.values()):
            return None
        units.update((commit.unit, commit) for _, commit in self._loose(loose))
        return self._write_index(bucket, units.values())

    def drop(self, bucket: int, units: Collection[str]) -> None:
        """Forget units, in commit files and indexes, so that they are done again.

        Nothing else may write to the bucket meanwhile.
        """
        names = self.names([bucket])[bucket]
        for name in names:
            if not _is_index(name):
                if _unit_of(name) in units:
                    self.files.delete(name)
                continue
            commits = self.load(name)
            kept = [commit for commit in commits if commit.unit not in units]
            if len(kept) < len(commits):
                if kept:
                    self._write_index(bucket, kept)
                self.files.delete(name)

    def _write_index(self, bucket: int, commits: Iterable[Commit]) -> str:
        data = b"".join(commit.to_json() + b"\n" for commit in sorted(commits, key=lambda one: one.unit))
        name = f"{self.folder}/bucket={bucket:04d}/{_INDEX}{sha256_of(data)[:16]}{_INDEX_END}"
        self.files.create(name, data)
        return name

    def sweep(self, entries: Mapping[str, Entry], min_age_h: float) -> tuple[list[str], set[str]]:
        """Return the commit files and indexes that may go, and the data files that commits name.

        A commit may go once an index that holds it is old enough, and an index once another that holds all
        of it is: who listed the bucket before that came has ended then.

        Args:
            entries: a listing of `folder`.
            min_age_h: what is old enough.
        """
        superfluous: list[str] = []
        named: set[str] = set()
        for names in map(list, _by_bucket(entries).values()):
            indexed = self._indexed([name for name in names if _is_index(name)])
            old = {name: set(units) for name, units in indexed.items() if entries[name].age_h >= min_age_h}
            folded = set().union(*old.values())
            known = set().union(*indexed.values())
            for name in old:
                if any(old[name] < old[other] or (old[name] == old[other] and other < name) for other in old):
                    superfluous.append(name)
            loose = [name for name in names if not _is_index(name)]
            superfluous += [
                name for name in loose if _unit_of(name) in folded and entries[name].age_h >= min_age_h
            ]
            commits = [commit for units in indexed.values() for commit in units.values()]
            commits += [commit for _, commit in self._loose([n for n in loose if _unit_of(n) not in known])]
            named.update(commit.file for commit in commits if commit.file is not None)
        return superfluous, named

    def _read(self, listed: Mapping[int, Sequence[str]]) -> dict[int, dict[str, Commit]]:
        """Return the commits of some buckets by unit, as listed."""
        indexed = self._indexed([name for names in listed.values() for name in names if _is_index(name)])
        found = {
            bucket: _merged(indexed[name] for name in names if _is_index(name))
            for bucket, names in listed.items()
        }
        loose = [
            name
            for bucket, names in listed.items()
            for name in names
            if not _is_index(name) and _unit_of(name) not in found[bucket]
        ]
        for name, commit in self._loose(loose):
            found[_bucket_of(name)][commit.unit] = commit
        return found

    def _again(
        self, action: Callable[[Mapping[int, Sequence[str]]], _T], listed: Mapping[int, Sequence[str]]
    ) -> _T:
        """Do something with commits as listed; list them again where `gc` deleted some meanwhile."""
        for _ in range(_TRIES):
            try:
                return action(listed)
            except FileNotFoundError:
                names = self.names(listed.keys())
                listed = {bucket: names.get(bucket, []) for bucket in listed}
        raise StorageError(
            f"commits below {self.folder} of store {self.files.uri} were deleted {_TRIES} times while they "
            "were read; leave `store gc` its --min-age-h, and run again"
        )

    def _indexed(self, names: Sequence[str]) -> dict[str, dict[str, Commit]]:
        """Return the commits of some indexes, by name of the index and unit."""
        found = self.files.read_many(names)
        return {
            name: {
                commit.unit: commit for commit in (_parse(name, line) for line in _whole(name, found[name]))
            }
            for name in names
        }

    def _loose(self, names: Sequence[str]) -> Iterator[tuple[str, Commit]]:
        remaining = iter(names)
        while part := list(islice(remaining, _AT_ONCE)):
            found = self.files.read_many(part)
            yield from ((name, _parse(name, found[name])) for name in part)

    def _lines(self, index: str) -> list[bytes]:
        return _whole(index, self.files.read(index))


def _merged(indexes: Iterable[Mapping[str, Commit]]) -> dict[str, Commit]:
    """Return the commits of several indexes by unit; of one unit, the first index counts."""
    units: dict[str, Commit] = {}
    for one in indexes:
        units = {**one, **units}
    return units


def _parts(listed: Mapping[int, Mapping[str, Entry]]) -> Iterator[dict[int, list[str]]]:
    """Group buckets whose commits one process reads, and holds, together."""
    part: dict[int, list[str]] = {}
    count = size = 0
    for bucket, entries in listed.items():
        part[bucket] = list(entries)
        count += len(entries)
        size += sum(entry.size_bytes for entry in entries.values())
        if count >= _AT_ONCE or size >= _BYTES_AT_ONCE:
            yield part
            part, count, size = {}, 0, 0
    if part:
        yield part


def _by_bucket(entries: Mapping[str, Entry]) -> dict[int, dict[str, Entry]]:
    listed: dict[int, dict[str, Entry]] = {}
    for name in sorted(entries):
        if name.endswith((_COMMIT_END, _INDEX_END)):
            listed.setdefault(_bucket_of(name), {})[name] = entries[name]
    return listed


def _bucket_of(name: str) -> int:
    return int(name.split("/")[-2].removeprefix("bucket="))


def _unit_of(name: str) -> str:
    return name.rpartition("/")[2].removesuffix(_COMMIT_END)


def _is_index(name: str) -> bool:
    return name.endswith(_INDEX_END)


def _whole(index: str, data: bytes) -> list[bytes]:
    """Return the lines of an index whose content is what its name says."""
    sha256 = sha256_of(data)
    if not index.endswith(f"{_INDEX}{sha256[:16]}{_INDEX_END}"):
        raise DamagedError(
            f"index {index} is damaged: sha256 is {sha256}, its name says otherwise; restore it from a copy, "
            "or run `hilbert-ray store verify --mend`, and `embed` makes again what only it held"
        )
    return data.splitlines()


def _parse(name: str, data: bytes) -> Commit:
    try:
        return commit_from_json(data)
    except (ValueError, KeyError, TypeError) as error:
        raise DamagedError(
            f"commit {name} is damaged ({type(error).__name__}: {error}); restore it from a copy, or "
            "run `hilbert-ray store verify --mend`, and `embed` makes it again"
        ) from error
