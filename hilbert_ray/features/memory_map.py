"""Rows of features that memory cannot hold: a file in a node's temporary folder, mapped by its processes.

The file holds float16 [rows, dim], as the store does; what is read of it is float32. All processes of a node
map the same file, whose pages the system keeps or drops as memory allows. Pickled, only a description
travels: a process on a node without the file writes it there, from the store. The name says what is in it, so
it does not matter who wrote it.
"""

import errno
import os
import shutil
import tempfile
import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from filelock import FileLock

BLOCK_ROWS = 4096
"""Rows to read at once where all are wanted one after another."""
Piece = tuple[int, np.ndarray]
"""Some rows of a file, float16 [n, dim] or as float32, after the number of the first of them."""


def map_folder() -> Path:
    """Return this user's folder in the temporary folder (TMPDIR); nobody else can read it.

    Raises:
        PermissionError: when another user has made it.
    """
    path = Path(tempfile.gettempdir()) / f"hilbert-ray-{os.getuid()}"
    path.mkdir(mode=0o700, exist_ok=True)
    if path.lstat().st_uid != os.getuid():
        raise PermissionError(
            f"{path}, where features larger than memory go, belongs to user {path.lstat().st_uid}; set "
            "TMPDIR to a folder of your own"
        )
    return path


def remove_maps(*names: str) -> None:
    """Delete files of this node; processes that have mapped one keep it until they end."""
    for name in names:
        _delete(map_folder() / name)


def _delete(path: Path) -> None:
    for one in (path, path.with_name(f"{path.name}.lock")):
        one.unlink(missing_ok=True)


class MappedFile:
    """A file of rows that each node has once; it goes when the object that was told to `write` it does."""

    def __init__(self, name: str, shape: tuple[int, int], pieces: Callable[[], Iterable[Piece]]) -> None:
        """Describe a file; nothing is read or written yet.

        Args:
            name: of the file; another content must have another name.
            shape: rows (at least one) and dim.
            pieces: gives the rows again, in any order, for a node that lacks the file.
        """
        self.name = name
        self.shape = shape
        self.pieces = pieces

    def __reduce__(self) -> tuple[type["MappedFile"], tuple[object, ...]]:
        return MappedFile, (self.name, self.shape, self.pieces)

    @cached_property
    def array(self) -> np.ndarray:
        """The rows, float16, read-only; where this node has no such file it is written first."""
        path = map_folder() / self.name
        try:
            return self._map(path)
        except FileNotFoundError:
            pass
        with FileLock(f"{path}.lock"):  # one process writes, the others wait
            try:
                return self._map(path)
            except FileNotFoundError:
                return self._write(path, self.pieces())

    def write(self, pieces: Iterable[Piece]) -> None:
        """Write the file from `pieces`, and delete it when this object (not a copy) is no longer used.

        Raises:
            OSError: when the disk has not enough space.
        """
        path = map_folder() / self.name
        self.array = self._write(path, pieces)
        weakref.finalize(self, _delete, path)

    def _map(self, path: Path) -> np.ndarray:
        return np.asarray(np.memmap(path, "<f2", "r", shape=self.shape))

    def _write(self, path: Path, pieces: Iterable[Piece]) -> np.ndarray:
        row_bytes = 2 * self.shape[1]
        size, free = self.shape[0] * row_bytes, shutil.disk_usage(path.parent).free
        if size > free:
            raise OSError(
                errno.ENOSPC,
                f"the features take {size / 2**30:.1f} GiB in {path.parent}, which has {free / 2**30:.1f} "
                "GiB left; set TMPDIR to a folder on a larger disk, or raise fit.memory_gib to hold them in "
                "memory",
            )
        handle, part = tempfile.mkstemp(prefix=f"{self.name}.", dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                for first, values in pieces:
                    file.seek(first * row_bytes)
                    file.write(values.astype("<f2", copy=False).tobytes())
            array = self._map(Path(part))
            os.replace(part, path)
        except BaseException:
            os.unlink(part)
            raise
        return array


@dataclass(frozen=True, slots=True)
class MappedRows:
    """All rows of a file, or those at `rows`, in the place of a float32 array [n, dim].

    Only what an index asks for is read. Like an array it has a length and a shape.
    """

    file: MappedFile
    rows: np.ndarray | None = None

    def __len__(self) -> int:
        return self.file.shape[0] if self.rows is None else len(self.rows)

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and dim."""
        return len(self), self.file.shape[1]

    def __getitem__(self, index: slice | np.ndarray) -> np.ndarray:
        at = index if self.rows is None else self.rows[index]
        return np.asarray(self.file.array[at].astype(np.float32))

    def take(self, indices: np.ndarray, axis: int) -> "MappedRows":
        """Return the rows at `indices`, still mapped; `axis` is 0, as for an array."""
        assert axis == 0
        return MappedRows(self.file, indices if self.rows is None else self.rows[indices])
