"""Whether a path is a regular file: opening a named pipe would wait for ever, and a device may never end."""

import os
import stat

from hilbert_ray.storage.access import StorageError

_LOCAL = ("file://", "local://")
_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def irregular(uri: str) -> str | None:
    """Return what a local path is where it is no regular file, such as `a folder` or `a named pipe`.

    Links are followed. None for regular files, for what does not exist or cannot be looked up (opening it
    says why), and for objects on an object store, which are always whole.

    Whatever opens a file that somebody else named asks this first and refuses it: `open` itself would wait
    until another process writes to the pipe.
    """
    path = uri.rpartition("::")[2]  # a chain of file systems, such as simplecache::file://, ends at the file
    for prefix in _LOCAL:
        path = path.removeprefix(prefix)
    if "://" in path:
        return None
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError):  # ValueError: a zero byte in the path
        return None
    return kind_of(mode)


def kind_of(mode: int) -> str | None:
    """Return what a file of this mode is where it is no regular file; see `irregular`."""
    if stat.S_ISREG(mode):
        return None
    return next((kind for is_kind, kind in _KINDS if is_kind(mode)), "no regular file")


def require_regular(uri: str | os.PathLike[str]) -> None:
    """Check that a local path is a regular file, if it exists; see `irregular`.

    Raises:
        StorageError: when it is something else.
    """
    if (kind := irregular(os.fspath(uri))) is not None:
        raise StorageError(
            f"{os.fspath(uri)} is {kind}; it must be a regular file: put the file itself there"
        )
