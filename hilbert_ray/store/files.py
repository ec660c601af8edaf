"""Files of a store on a local disk or on any object store that fsspec knows.

The one operation that the store's promises rest on is `create`: a file appears whole or not at all, and of
several writers of one name exactly one wins. Locally that is a synced temporary file and `os.link`; on object
stores it is a put that the server refuses when the name exists.
"""

import os
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

TEMPORARY = ".writing"
"""End of the names of files that are not finished; readers never look at them, `Store.gc` deletes them."""


class StoreError(RuntimeError):
    """A feature store that is absent, of another schema, damaged, or that cannot be written."""


def absolute(uri: str) -> str:
    """Return a path or URI that means the same in every process, whatever folder it works in."""
    return uri.rstrip("/") if "://" in uri else os.path.abspath(uri)


class Files:
    """Create-only access below one folder. Paths are relative to it, with `/` between their parts."""

    def __init__(self, uri: str) -> None:
        self.uri = absolute(uri)
        options = {} if "://" not in uri or uri.startswith("file:") else {"use_listings_cache": False}
        self.filesystem, self.root = fsspec.core.url_to_fs(self.uri, **options)
        self.is_local = isinstance(self.filesystem, LocalFileSystem)

    def path(self, name: str) -> str:
        """Return the path of a file as the file system spells it."""
        return f"{self.root}/{name}"

    def create(self, name: str, data: bytes) -> bool:
        """Write a file that must not exist yet; return False, leaving it as it is, where it does.

        Raises:
            StoreError: when the file cannot be written (disk full, no permission, connection lost).
        """
        try:
            if self.is_local:
                return self._create_local(self.path(name), data)
            self.filesystem.pipe_file(self.path(name), data, mode="create")
        except FileExistsError:
            return False
        except OSError as error:
            raise StoreError(
                f"cannot write {name} ({len(data)} bytes) in store {self.uri}: {error}; what is committed is "
                "unharmed: free space or mend the permissions and run again"
            ) from error
        return True

    def _create_local(self, path: str, data: bytes) -> bool:
        folder, _, name = path.rpartition("/")
        os.makedirs(folder, exist_ok=True)
        unfinished = f"{folder}/.{name}.{uuid.uuid4().hex[:8]}{TEMPORARY}"
        try:
            with open(unfinished, "xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.link(unfinished, path)
        finally:
            if os.path.exists(unfinished):
                os.unlink(unfinished)
        directory = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
        return True

    def create_from(self, name: str, local: str) -> None:
        """Copy a local file of any size into the store under a name that holds its content's hash."""
        try:
            if self.filesystem.exists(self.path(name)):
                return
            if not self.is_local:
                self.filesystem.put_file(local, self.path(name))
                return
            unfinished = f"{self.path(name)}.{uuid.uuid4().hex[:8]}{TEMPORARY}"
            os.makedirs(os.path.dirname(unfinished), exist_ok=True)
            self.filesystem.put_file(local, unfinished)
            with open(unfinished, "rb") as file:
                os.fsync(file.fileno())
            os.replace(unfinished, self.path(name))
        except OSError as error:
            raise StoreError(
                f"cannot write {name} in store {self.uri}: {error}; nothing committed is harmed"
            ) from error

    def read(self, name: str) -> bytes:
        """Return the bytes of a file.

        Raises:
            FileNotFoundError: when there is none.
        """
        data: bytes = self.filesystem.cat_file(self.path(name))
        return data

    def read_many(self, names: Sequence[str]) -> dict[str, bytes]:
        """Return the bytes of several files; object stores are asked for many at a time."""
        if self.is_local or len(names) < 2:
            return {name: self.read(name) for name in names}
        paths = [self.path(name) for name in names]
        found = self.filesystem.cat_ranges(paths, None, None, on_error="raise")
        return dict(zip(names, found, strict=True))

    @contextmanager
    def open(self, name: str) -> Iterator[Any]:
        """Open a file to read ranges of it."""
        with self.filesystem.open(self.path(name), "rb") as file:
            yield file

    def names(self, folder: str) -> list[str]:
        """Return the names of all finished files below a folder, sorted; none where there is no folder."""
        found = self.filesystem.find(self.path(folder))
        return sorted(path[len(self.root) + 1 :] for path in found if not path.endswith(TEMPORARY))

    def details(self, folder: str) -> dict[str, dict[str, Any]]:
        """Return what the file system knows of each file below a folder (size, time), unfinished ones too."""
        found = self.filesystem.find(self.path(folder), detail=True)
        return {path[len(self.root) + 1 :]: info for path, info in found.items()}

    def delete(self, name: str) -> None:
        """Delete a file; no fault where it is gone already."""
        try:
            self.filesystem.rm_file(self.path(name))
        except FileNotFoundError:
            return
