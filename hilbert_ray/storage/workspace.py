"""Where results go: a local folder, or a local working copy of a folder on an object store.

Results are appended to, renamed and read again, which object stores cannot do. So a run on one works in a
copy: existing files are fetched first, and changed files are uploaded at each `save`, oldest first. A file
arrives whole or not at all; a run that was killed resumes from what its last `save` uploaded.
"""

import math
import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pyarrow.fs

from hilbert_ray.errors import HilbertError
from hilbert_ray.storage.access import StorageError
from hilbert_ray.storage.files import TEMPORARY, Files, WriteError, write_errors
from hilbert_ray.storage.uri import is_uri

UNFINISHED = ".tmp"
"""End of the names of unfinished files, which are never uploaded."""
_FETCHED_AT_ONCE = 64
"""Files whose bytes are in memory at a time while a copy is fetched."""


class Workspace:
    """A folder of results. `path` is local; `uri` names it for other processes and machines."""

    def __init__(self, uri: str, path: Path) -> None:
        self.uri, self.path = uri.rstrip("/"), path
        self._files = Files(uri)
        self._saved: dict[str, tuple[int, int]] = {}
        self._saved_at = -math.inf

    @property
    def is_local(self) -> bool:
        """Whether `path` is the folder itself, not a copy of it."""
        return self._files.is_local

    def fetch(self, excluded: Sequence[str] = ()) -> None:
        """Copy the files at `uri` to `path`, except in top folders named `excluded`, and existing files."""
        if self.is_local:
            return
        # What is excluded is large and rarely needed: checkpoints of every trial.
        names = [name for name in self._files.names("") if name.split("/")[0] not in excluded]
        names = [name for name in names if not (self.path / name).exists()]
        for first in range(0, len(names), _FETCHED_AT_ONCE):
            for name, data in self._files.read_many(names[first : first + _FETCHED_AT_ONCE]).items():
                target = self.path / name
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(data)
                self._saved[name] = _state(target)

    def save(self, every_s: float = 0.0) -> None:
        """Mirror `path` to `uri`: upload new and changed files, delete those that are gone.

        Args:
            every_s: do nothing if the last save was less than this many seconds ago.
        """
        if self.is_local or time.monotonic() < self._saved_at + every_s:
            return
        self._saved_at = time.monotonic()
        paths = [p for p in self.path.rglob("*") if p.is_file() and p.suffix not in (UNFINISHED, TEMPORARY)]
        present = {path.relative_to(self.path).as_posix(): _state(path) for path in paths}
        # Oldest first: metrics.json is written last, so its presence at `uri` still means a complete run.
        for name, state in sorted(present.items(), key=lambda item: item[1]):
            if self._saved.get(name) != state:
                self._files.put_from(name, str(self.path / name))
        # Only what this process fetched or saved: other files at `uri` are other writers'.
        for name in self._saved.keys() - present.keys():
            self._files.delete(name)
        self._saved = present

    def read(self, name: str) -> bytes:
        """Return the newest content of a file at `uri`, whoever wrote it; b"" where there is none."""
        try:
            return self._files.read(name)
        except FileNotFoundError:
            return b""

    def storage(self, name: str) -> dict[str, Any]:
        """Return the folder `name` inside `uri` as arguments of Ray's `RunConfig`."""
        if self.is_local:
            return {"storage_path": str(self.path / name)}
        # Ray would build its own client from the URI, without the endpoint and credentials of this one.
        handler = pyarrow.fs.FSSpecHandler(self._files.filesystem)
        return {
            "storage_path": self._files.path(name),
            "storage_filesystem": pyarrow.fs.PyFileSystem(handler),
        }


def _state(path: Path) -> tuple[int, int]:
    status = path.stat()
    # Time first: `save` sorts by it. Hashing instead would read every checkpoint at every save.
    return status.st_mtime_ns, status.st_size


@contextmanager
def open_workspace(uri: str, excluded: Sequence[str] = ()) -> Iterator[Workspace]:
    """Yield a folder to read results from and write them to; at the end, whatever happens, it is saved.

    Args:
        uri: path or URI.
        excluded: top folders that are not copied.

    Raises:
        StorageError: when the location cannot be read or written.
    """
    files = Files(uri)
    if files.is_local:
        yield Workspace(uri, Path(files.root))
        return
    with tempfile.TemporaryDirectory(prefix="hilbert-ray-") as scratch:
        # Reports and logs show the folder's own name.
        workspace = Workspace(uri, Path(scratch) / (uri.rstrip("/").rpartition("/")[2] or "run"))
        workspace.path.mkdir()
        workspace.fetch(excluded)
        try:
            yield workspace
        except HilbertError as error:
            # The message names the copy; the user knows the original.
            shown = (str(workspace.path), workspace.uri)
            error.args = tuple(arg.replace(*shown) if isinstance(arg, str) else arg for arg in error.args)
            raise
        finally:
            workspace.save()


def require_writable(uri: str) -> None:
    """Check that a local file may be written: better before hours of work than after them.

    Raises:
        WriteError: when its folder cannot be made or written.
    """
    files = Files(uri.rpartition("/")[0] or ".")
    if not files.is_local:
        return
    folder = Path(files.root)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        is_writable = os.access(folder, os.W_OK)
    except OSError as error:
        raise WriteError(f"cannot write {uri}: {error}; fix it, or choose another folder") from error
    if not is_writable:
        raise WriteError(
            f"cannot write {uri}: its folder is read-only; fix its permissions, or choose another folder"
        )


@contextmanager
def open_output(uri: str) -> Iterator[Path]:
    """Yield a local path; what is written there is then at `uri` (path or URI), whole or not at all.

    Raises:
        WriteError: when it cannot be written, as on a full disk; a file that was there before is intact.
    """
    parent, _, name = uri.rpartition("/")
    files = Files(parent or ".")
    if not files.is_local:
        with tempfile.TemporaryDirectory(prefix="hilbert-ray-") as scratch:
            fresh = Path(scratch) / name
            yield fresh
            files.put_from(name, str(fresh))
        return
    target = Path(files.path(name))
    # In the target's folder, since a rename is atomic only within one file system.
    fresh = target.with_name(f".{name}{UNFINISHED}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        yield fresh
        # Without the sync, a crash of the machine could leave the renamed file empty.
        with fresh.open("rb+") as file:
            os.fsync(file.fileno())
        fresh.replace(target)
    except OSError as error:
        # What is written may be read from elsewhere: of other files the error says itself which.
        if error.filename not in (None, str(fresh), str(target.parent)):
            raise
        with write_errors(str(target)):
            raise
    finally:
        with suppress(OSError):  # on a disk that is read-only there is no such file
            fresh.unlink(missing_ok=True)


@contextmanager
def new_folder(folder: str) -> Iterator[Path]:
    """Yield a local folder to write to, which becomes `folder` if all goes well and vanishes if not.

    Raises:
        StorageError: when `folder` is not local, or neither empty nor absent.
        WriteError: when it cannot be written.
    """
    if is_uri(folder):
        raise StorageError(f"folder {folder} is not local; name a local folder, then copy it")
    target = Path(os.path.abspath(folder))
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise StorageError(
            f"{folder} exists and is not empty; name a new folder, or delete what is in this one"
        )
    # In the same parent folder: a rename is atomic only within one file system.
    unfinished = target.parent / f".{target.name}.{uuid.uuid4().hex[:8]}{TEMPORARY}"
    try:
        with write_errors(folder):
            unfinished.mkdir(parents=True)
            yield unfinished
            os.replace(unfinished, target)
    finally:
        # After the rename there is nothing left to delete.
        shutil.rmtree(unfinished, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Write a local text file in UTF-8, whole or not at all, with the same bytes on every system.

    Raises:
        WriteError: when it cannot be written; a file that was there before is intact.
    """
    with open_output(str(path)) as fresh:
        fresh.write_text(text, encoding="utf-8", newline="\n")
