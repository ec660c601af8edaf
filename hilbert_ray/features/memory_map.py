"""Rows of features that memory cannot hold: a file in a node's temporary folder, mapped by its processes.

The file holds float16 [rows, dim], as the store does; it is read as float32. All processes of a node map the
same file, whose pages the system keeps or drops as memory allows. Pickling sends a description only: a
process on a node without the file writes it there, from the store. Its name is a hash of its content, so it
does not matter which process wrote it.
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
"""Rows to read at a time where all are read in turn: a few megabytes, so that each read is sequential."""
RowSpan = tuple[int, np.ndarray]
"""The number of a first row, and that row and those after it: float16 or float32 [n, dim]."""


def map_folder() -> Path:
    """Return this user's folder in the temporary folder (TMPDIR); nobody else can read it.

    Raises:
        PermissionError: when it belongs to another user, who could read or replace the files.
    """
    path = Path(tempfile.gettempdir()) / f"hilbert-ray-{os.getuid()}"
    path.mkdir(mode=0o700, exist_ok=True)
    # Anyone may create this name in /tmp; lstat, so that a link to a folder of ours does not pass.
    if path.lstat().st_uid != os.getuid():
        raise PermissionError(
            f"{path}, the folder for features larger than memory, belongs to user {path.lstat().st_uid}; set "
            "TMPDIR to a folder of your own"
        )
    return path


def remove_maps(*names: str) -> None:
    """Delete files of this node; a process that has mapped one can read it until it ends."""
    for name in names:
        _delete(map_folder() / name)


def _delete(path: Path) -> None:
    for file in (path, path.with_name(f"{path.name}.lock")):
        file.unlink(missing_ok=True)


class MappedFile:
    """A file of rows, once per node; it is deleted together with the object that called `write`."""

    def __init__(self, name: str, shape: tuple[int, int], row_spans: Callable[[], Iterable[RowSpan]]) -> None:
        """Describe a file; nothing is read or written yet.

        Args:
            name: of the file; files of different content must have different names.
            shape: rows (at least one) and dim.
            row_spans: yields the rows again, in any order, for a node that lacks the file.
        """
        self.name = name
        self.shape = shape
        self.row_spans = row_spans

    def __reduce__(self) -> tuple[type["MappedFile"], tuple[object, ...]]:
        return MappedFile, (self.name, self.shape, self.row_spans)

    @cached_property
    def array(self) -> np.ndarray:
        """The rows, float16, read-only; a node that lacks the file writes it first."""
        path = map_folder() / self.name
        # Without the lock first: in all but the first process of a node the file exists.
        try:
            return self._map(path)
        except FileNotFoundError:
            pass
        with FileLock(f"{path}.lock"):  # one process writes, the others wait
            try:
                return self._map(path)
            except FileNotFoundError:
                return self._write(path, self.row_spans())

    def write(self, row_spans: Iterable[RowSpan]) -> None:
        """Write the file, and delete it when this object (not a copy of it) is no longer used.

        Raises:
            OSError: when the disk has too little space.
        """
        path = map_folder() / self.name
        # Not via `array`, which would read the store a second time: these rows come from a pass under way.
        self.array = self._write(path, row_spans)
        weakref.finalize(self, _delete, path)

    def _map(self, path: Path) -> np.ndarray:
        return np.asarray(np.memmap(path, "<f2", "r", shape=self.shape))

    def _write(self, path: Path, row_spans: Iterable[RowSpan]) -> np.ndarray:
        row_bytes = 2 * self.shape[1]
        size, free = self.shape[0] * row_bytes, shutil.disk_usage(path.parent).free
        # Checked first: otherwise the disk would be full after all has been read, perhaps an hour later.
        if size > free:
            raise OSError(
                errno.ENOSPC,
                f"the features take {size / 2**30:.1f} GiB in {path.parent}, which has {free / 2**30:.1f} "
                "GiB left; set TMPDIR to a folder on a larger disk, or raise fit.memory_gib to hold them in "
                "memory",
            )
        # Renamed when complete: a process that finds the name must find all rows.
        handle, unfinished = tempfile.mkstemp(prefix=f"{self.name}.", dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                for first, values in row_spans:
                    file.seek(first * row_bytes)
                    file.write(values.astype("<f2", copy=False).tobytes())
            # Mapped before it has its name: another run with the same content may replace or delete that.
            array = self._map(Path(unfinished))
            os.replace(unfinished, path)
        except BaseException:  # an interrupt too must not leave gigabytes in the temporary folder
            os.unlink(unfinished)
            raise
        return array


@dataclass(frozen=True, slots=True)
class MappedRows:
    """All rows of a file, or those at `rows` (int64 [n]), usable like a float32 array [n, dim].

    Indexing reads only the indexed rows. Like an array it has a length and a shape.
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
        file_index = index if self.rows is None else self.rows[index]
        return np.asarray(self.file.array[file_index].astype(np.float32))

    def take(self, indices: np.ndarray, axis: int) -> "MappedRows":
        """Return the rows at `indices` without reading them; `axis` is 0, as in `numpy.take`."""
        assert axis == 0
        return MappedRows(self.file, indices if self.rows is None else self.rows[indices])
