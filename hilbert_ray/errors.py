"""The root of all errors that a user can act on, and the exit code that they give a command."""

import errno
import os
from typing import ClassVar


class HilbertError(Exception):
    """Something that the user can correct; the message names the value, the rule and what to do.

    Every named error of the library derives from it. The command line prints the message and exits with
    `exit_code`; any other exception is a bug and shows its traceback.
    """

    exit_code: ClassVar[int] = 2
    """2: wrong input or settings, refused before any work begins; 1: work has begun and cannot continue."""


class SystemFaultError(HilbertError):
    """The operating system refuses a file that the command needs: a full disk, no permission ..."""

    exit_code = 1


SYSTEM_FAULTS = frozenset(
    (
        errno.EACCES, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EISDIR, errno.ELOOP, errno.EMFILE,
        errno.ENAMETOOLONG, errno.ENFILE, errno.ENOSPC, errno.ENOTDIR, errno.EPERM, errno.EROFS, errno.ESTALE,
    )
)  # fmt: skip
"""Numbers of the operating system's errors behind a `SystemFaultError`; others are bugs of ours."""


def system_fault(error: Exception) -> SystemFaultError | None:
    """Return what to say of an error of the operating system; None for an error of another kind."""
    if not isinstance(error, OSError) or error.errno not in SYSTEM_FAULTS:
        return None
    where = "" if error.filename is None else f" {error.filename}"
    return SystemFaultError(
        f"cannot access{where}: {os.strerror(error.errno)}; what was there before is intact: free space or "
        "fix the permissions, then rerun"
    )
