"""Files below a path or URI: on a local disk, or on any object store that fsspec knows.

A feature store's promises rest on one operation, `create`: a file appears whole or not at all, and of
several writers of one name exactly one wins. Locally that is a synced temporary file and `os.link`; on object
stores it is a put that the server refuses when the name exists. A request whose answer is lost is sent again
by the client below, so a refusal may mean that our own first put came through: the file's content decides.
"""

import http.client
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime
from typing import Any, NamedTuple

import fsspec
from fsspec.implementations.local import LocalFileSystem

from hilbert_ray.errors import SYSTEM_FAULTS
from hilbert_ray.storage.access import StorageError, access_errors
from hilbert_ray.storage.regular import require_regular
from hilbert_ray.storage.uri import absolute, is_local

TEMPORARY = ".writing"
"""End of the names of unfinished files: readers ignore them, garbage collection of a store deletes them."""
_READ_AHEAD_BYTES = 2**20
"""What is read ahead of an open file: about a row group of a manifest, not the 50 MiB that s3fs takes."""
_DELETES_AT_ONCE = 16
_LONGEST_FAULT = 300
_CREATE_TRIES = 5
"""Tries to create a file while S3 answers that writers compete for it: one of them wins each time."""


class WriteError(StorageError):
    """Work has begun and its results cannot be written."""

    exit_code = 1


class DamagedError(StorageError):
    """A file whose bytes are not those that were written; the message names it and what repairs it."""

    exit_code = 1

    @classmethod
    def of(cls, name: str, fault: str, repair: str) -> "DamagedError":
        """Return the error of a file: its name or path, what is wrong, and what the user can do."""
        # Some libraries report over several lines, with bytes of the file.
        shown = "".join(c if c.isprintable() else " " for c in fault)
        return cls(f"{name} is damaged ({' '.join(shown.split())[:_LONGEST_FAULT]}); {repair}")


@contextmanager
def write_errors(path: str) -> Iterator[None]:
    """Turn what the system refuses while a local file or folder is written into one error that names it.

    Raises:
        WriteError: when it cannot be written, as on a full disk.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in SYSTEM_FAULTS:
            raise
        raise WriteError(
            f"cannot write {path}: {os.strerror(error.errno)}; what was there before is intact: free space "
            "or fix the permissions, then rerun"
        ) from error


class Entry(NamedTuple):
    """What a listing says about a file."""

    size_bytes: int
    age_h: float


class Files:
    """Access to the files below one folder. Paths are relative to it, with `/` between their parts.

    A missing file raises FileNotFoundError, as always; anything else that keeps a file from being read or
    written, once the client's own retries are used up, raises StorageError (`AccessError`, where the whole
    place cannot be used from here).
    """

    def __init__(self, uri: str) -> None:
        self.uri = absolute(uri)
        # Other processes write to the same folder: a cached listing would hide their files.
        options = {} if is_local(uri) else {"use_listings_cache": False}
        self.filesystem, self.root = fsspec.core.url_to_fs(self.uri, **options)
        self.is_local = isinstance(self.filesystem, LocalFileSystem)
        # s3fs turns most faults into OSError, but hands some of its libraries' on as they are.
        self._errors: tuple[type[Exception], ...] = (OSError,)
        if not self.is_local:
            self._errors += _network_errors()

    def __reduce__(self) -> tuple[type["Files"], tuple[str]]:
        return Files, (self.uri,)

    def path(self, name: str) -> str:
        """Return the path of a file as the file system spells it."""
        return f"{self.root}/{name}"

    # Writing

    def create(self, name: str, data: bytes) -> bool:
        """Write a file that must not exist yet; return whether it holds these bytes now.

        False means that another writer created it, and it stays as it is. Writers of the same bytes all win.

        Raises:
            StorageError: when the file cannot be written (disk full, no permission, connection lost).
        """
        # `open(path, "x")` would not do: a reader must never see half a file under its final name.
        for _ in range(_CREATE_TRIES):
            with self._writing(name, len(data)):
                try:
                    if self.is_local:
                        _write_local(self.path(name), data, os.link)
                    else:
                        self.filesystem.pipe_file(self.path(name), data, mode="create")
                except FileExistsError:
                    # Another writer's file, or our own: the client repeats a request whose answer is lost.
                    return self._holds(name, data)
                except FileNotFoundError:
                    # A large file is uploaded in parts. Where the answer to the request that completes them
                    # is lost, the client sends it again, and the server no longer knows the upload.
                    if not self._holds(name, data):
                        raise
                except OSError as error:
                    # S3 has not decided yet which of several writers wins, and requests another try.
                    if "ConditionalRequestConflict" in str(error):
                        continue
                    raise
            return True
        raise WriteError(f"cannot write {name} in {self.uri}: too many writers at once; rerun to resume")

    def put(self, name: str, data: bytes) -> None:
        """Write a file, replacing an existing one as a whole: readers see the old bytes or the new ones.

        Replacing a file by the same bytes makes it young again: garbage collection of a store spares it until
        its commit is written.

        Raises:
            StorageError: when the file cannot be written.
        """
        with self._writing(name, len(data)):
            if self.is_local:
                _write_local(self.path(name), data, os.replace)
            else:
                self.filesystem.pipe_file(self.path(name), data)

    def put_from(self, name: str, local: str) -> None:
        """Copy a local file of any size to `name`, replacing an existing one as a whole.

        Raises:
            StorageError: when the file cannot be written.
        """
        with self._writing(name, os.path.getsize(local)):
            if not self.is_local:
                self.filesystem.put_file(local, self.path(name))
                return
            with _finishing(self.path(name), os.replace) as unfinished:
                shutil.copyfile(local, unfinished)
                with open(unfinished, "rb") as file:
                    os.fsync(file.fileno())

    def _holds(self, name: str, data: bytes) -> bool:
        try:
            return self.read(name) == data
        except FileNotFoundError:
            return False

    @contextmanager
    def _writing(self, name: str, size_bytes: int | None) -> Iterator[None]:
        """Turn what is in the way of writing a file, or of deleting it (no size), into one error."""
        with access_errors(self.uri):
            try:
                yield
            except self._errors as error:
                action = f"delete {name}" if size_bytes is None else f"write {name} ({size_bytes} bytes)"
                # Without the names of temporary files, which the error may hold too.
                raise WriteError(
                    f"cannot {action} in {self.uri}: {getattr(error, 'strerror', None) or error}; what is "
                    "already written is intact: free space or fix the permissions, then rerun to resume"
                ) from error

    # Reading

    def read(self, name: str) -> bytes:
        """Return the bytes of a file.

        Raises:
            FileNotFoundError: when there is none.
        """
        with self._reading(name):
            if self.is_local:
                require_regular(self.path(name))
                with open(self.path(name), "rb") as file:
                    return file.read()
            try:
                # For a range s3fs sends one request; for a whole file it would first request its size.
                data: bytes = self.filesystem.cat_file(self.path(name), start=0)
            except FileNotFoundError:
                raise
            except OSError:
                # An empty file has no valid range.
                if _entry(self.filesystem.info(self.path(name))).size_bytes:
                    raise
                return b""
        return data

    def read_many(self, names: Sequence[str]) -> dict[str, bytes]:
        """Return the bytes of several files; from an object store many are fetched at a time.

        Raises:
            FileNotFoundError: when one is missing.
        """
        # A local disk answers one after another as fast as all at once.
        if self.is_local or len(names) < 2:
            return {name: self.read(name) for name in names}
        paths = [self.path(name) for name in names]
        results = self.filesystem.cat_ranges(paths, 0, None, on_error="return")
        return {
            # What failed is read once more by itself, so that the error names the file.
            name: result if isinstance(result, bytes) else self.read(name)
            for name, result in zip(names, results, strict=True)
        }

    @contextmanager
    def open(self, name: str) -> Iterator[Any]:
        """Open a file to read ranges of it."""
        with (
            self._reading(name),
            self.filesystem.open(self.path(name), "rb", block_size=_READ_AHEAD_BYTES) as file,
        ):
            yield file

    def exists(self, name: str) -> bool:
        """Whether there is a file of this name."""
        return self.entry(name) is not None

    def entry(self, name: str) -> Entry | None:
        """Return size and age of one file, or None where there is none."""
        with self._reading(name):
            try:
                return _entry(self.filesystem.info(self.path(name)))
            except FileNotFoundError:
                return None

    def names(self, folder: str, prefix: str = "") -> list[str]:
        """Return the names of all finished files below a folder, sorted; none where there is no folder.

        Args:
            folder: the folder.
            prefix: what the names must begin with inside the folder.
        """
        return [name for name in self.entries(folder, prefix) if not name.endswith(TEMPORARY)]

    def entries(self, folder: str, prefix: str = "") -> dict[str, Entry]:
        """Return size and age of all files below a folder, unfinished ones too, by name.

        Raises:
            StorageError: when any folder cannot be listed: garbage collection deletes data whose commits a
            listing lacks, so a partial listing must never pass for a whole one.
        """
        start = f"{folder}/{prefix}" if folder else prefix
        with self._reading(start):
            if self.is_local:
                by_path = dict(_walk(self.path(folder)))
            else:
                # From the root with a prefix: one request per thousand files, and one where there are none.
                listed = self.filesystem.find(self.root, detail=True, prefix=start)
                by_path = {path: _entry(info) for path, info in listed.items()}
        names = {path[len(self.root) + 1 :]: entry for path, entry in by_path.items()}
        return {name: names[name] for name in sorted(names) if name.startswith(start)}

    def folders(self, folder: str) -> list[str]:
        """Return the names of the folders and files in a folder, sorted; none where there is no folder."""
        with self._reading(folder):
            try:
                listed = self.filesystem.ls(self.path(folder), detail=False)
            except FileNotFoundError:
                return []
        return sorted(path.rstrip("/").rpartition("/")[2] for path in listed)

    @contextmanager
    def _reading(self, name: str) -> Iterator[None]:
        with access_errors(self.uri):
            try:
                yield
            except FileNotFoundError:
                raise
            except self._errors as error:
                raise StorageError(
                    f"cannot read {name} in {self.uri}: {error}; nothing was changed: check that the "
                    "location can be reached and read, then rerun"
                ) from error

    # Deleting

    def delete(self, name: str) -> None:
        """Delete a file; a missing one is no error."""
        with self._writing(name, None):
            try:
                self.filesystem.rm_file(self.path(name))
            except FileNotFoundError:
                return

    def delete_old(self, names: Sequence[str], min_age_h: float) -> list[str]:
        """Delete those of some files that are at least `min_age_h` hours old; return their names."""

        def delete(name: str) -> bool:
            # Looked up again: since the listing a writer may have written the same bytes to the same name.
            entry = self.entry(name)
            if entry is None or entry.age_h < min_age_h:
                return False
            self.delete(name)
            return True

        with ThreadPoolExecutor(_DELETES_AT_ONCE) as pool:
            return [name for name, is_gone in zip(names, pool.map(delete, names), strict=True) if is_gone]


def _network_errors() -> tuple[type[Exception], ...]:
    """Return the network errors that s3fs raises as they are when its retries are used up."""
    from aiohttp import ClientError
    from botocore.exceptions import BotoCoreError

    return BotoCoreError, ClientError, http.client.HTTPException


def _write_local(path: str, data: bytes, finish: Callable[[str, str], None]) -> None:
    with _finishing(path, finish) as unfinished, open(unfinished, "xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def _finishing(path: str, finish: Callable[[str, str], None]) -> Iterator[str]:
    """Yield the path of a file to write, which `finish` (link or replace) then gives its real name."""
    folder, _, name = path.rpartition("/")
    try:
        os.makedirs(folder, exist_ok=True)
    except FileExistsError:
        raise NotADirectoryError(f"{folder} is a file, not a folder") from None
    # A name of its own for every writer: two writers of one file must not write into each other's.
    unfinished = f"{folder}/.{name}.{uuid.uuid4().hex[:8]}{TEMPORARY}"
    try:
        yield unfinished
        finish(unfinished, path)
    finally:
        if os.path.exists(unfinished):
            os.unlink(unfinished)
    # The file's bytes are synced by its writer; its name is durable once its folder is.
    directory = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _walk(folder: str) -> Iterator[tuple[str, Entry]]:
    """Yield the files below a local folder; unlike fsspec, raise where a folder cannot be listed."""
    try:
        with os.scandir(folder) as items:
            for item in items:
                if item.is_dir():
                    yield from _walk(item.path)
                    continue
                try:
                    status = item.stat()
                except FileNotFoundError:  # renamed or deleted since it was listed
                    continue
                yield item.path, Entry(status.st_size, _age_h(status.st_mtime))
    except FileNotFoundError:
        return


def _entry(info: dict[str, Any]) -> Entry:
    # Each file system of fsspec has its own name for the time of modification, and its own type.
    modified = info.get("mtime", info.get("LastModified", info.get("last_modified")))
    seconds = modified.timestamp() if isinstance(modified, datetime) else float(modified or time.time())
    return Entry(int(info["size"] or 0), _age_h(seconds))


def _age_h(modified: float) -> float:
    return (time.time() - modified) / 3600
