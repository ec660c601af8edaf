"""What Ray's native code writes to standard error: its log, which a command's user can do nothing with.

Ray mirrors errors and warnings of its core there, such as a remark of 400 characters on each pool of actors.
Its files in the session's folder have all of them.
"""

import os
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_LOGGED = re.compile(rb"\[\d{4}-\d\d-\d\d [\d:,]+ [DIWE] \d+ \d+\] (\(.*?\) )?\w+\.(cc|h):\d+: ")
"""How a line of Ray's log begins that is not fatal."""
_END_S = 5.0


@contextmanager
def filtered_native_log() -> Iterator[None]:
    """Drop Ray's log from what native code and child processes write to standard error.

    Python's own `sys.stderr` is not filtered: what it writes is seen at once, whatever happens then.
    """
    if not _is_standard_error():
        yield
        return
    stderr = sys.stderr
    direct = os.dup(2)
    reader, writer = os.pipe()
    os.dup2(writer, 2)
    os.close(writer)
    thread = threading.Thread(target=_copy, args=(reader, direct), daemon=True)
    thread.start()
    sys.stderr = open(os.dup(direct), "w", encoding=stderr.encoding, errors=stderr.errors, buffering=1)  # noqa: SIM115
    try:
        yield
    finally:
        sys.stderr.close()
        sys.stderr = stderr
        os.dup2(direct, 2)
        # Processes that still run may hold the pipe open.
        thread.join(_END_S)


def _is_standard_error() -> bool:
    """Whether `sys.stderr` is the process's own, and not a stand-in such as that of a test."""
    try:
        return sys.stderr.fileno() == 2
    except (AttributeError, OSError):
        return False


def _copy(reader: int, target: int) -> None:
    """Copy lines that are not of Ray's log."""
    with open(reader, "rb") as lines:
        for line in lines:
            if not _LOGGED.match(line):
                os.write(target, line)
