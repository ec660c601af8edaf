"""The process of a command: `hilbert-ray`, `python -m hilbert_ray` and the scripts in `jobs/`.

Interruptions are handled before anything else is imported, which takes half a second.
"""

import _signal  # type: ignore[import-not-found]
import sys

if "threading" not in sys.modules and _signal.getsignal(_signal.SIGINT) != _signal.SIG_IGN:
    # A process that has just begun: until `run_interruptible`, Ctrl-C ends it without a traceback of imports.
    _signal.signal(_signal.SIGINT, _signal.SIG_DFL)

import os
import select
import signal
from collections.abc import Callable, Sequence

from hilbert_ray.interruption import run_interruptible
from hilbert_ray.native_log import filtered_native_log


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command as this process; return its exit code. See `cli.main`, and `run`."""

    def command() -> int:
        from hilbert_ray import cli

        return cli.main(arguments)

    return run(command)


def run(command: Callable[[], int]) -> int:
    """Call what this process is for and return its exit code; see `interruption` for how a signal ends it."""

    def whole() -> int:
        try:
            code = command()
            sys.stdout.flush()
        except BrokenPipeError:
            if not _is_reader_gone():
                raise
            code = 128 + signal.SIGPIPE
        if _is_reader_gone():
            # What is still buffered is written when Python ends: into nothing, instead of an error.
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        if "ray" in sys.modules:
            from hilbert_ray.cluster import disconnect

            # Not left to Python's end, where a signal would find nobody to handle it.
            disconnect()
        return code

    with filtered_native_log():
        return run_interruptible(whole)


def _is_reader_gone() -> bool:
    """Whether standard output is a pipe that nobody reads any more, such as `head` that has its lines."""
    poll = select.poll()
    poll.register(1, 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))


if __name__ == "__main__":
    sys.exit(main())
