"""How a command ends before its work is done: by Ctrl-C, by a signal, or because its Ray cluster is lost.

Always in the same way: one line on standard error that says why, what is kept and what to do, within
seconds, with exit code 128 + the signal's number (or 1), and with no process left behind.

The main thread is interrupted by an exception, so that temporary files are removed on the way out. But
libraries replace signal handlers, swallow exceptions and wait in native code. So a thread that Python itself
wakes on every signal, whatever its handler does, prints the line and ends the process when time is up.
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from types import FrameType
from typing import Any, NoReturn

from hilbert_ray.errors import HilbertError
from hilbert_ray.terminal import one_line

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
NOTICE_S = 3.0
"""How long the main thread may take to notice, seconds; native code that waits would never."""
GRACE_S = 5.0
"""How long the main thread may take from then on to clean up, seconds."""
AGAIN_S = 0.05
"""How long after an interruption that came to nothing the next one is tried, seconds."""
_PR_SET_CHILD_SUBREAPER = 36
_FINISHED = 0
"""Sent to the watching thread instead of a signal's number: the main thread is done."""


class Interrupted(KeyboardInterrupt):
    """Raised in the main thread of a command that must end."""


class _Ending:
    """The end of the command that this process runs: requested by the first signal, reached once."""

    def __init__(self) -> None:
        self.name = "hilbert-ray"
        self.advice = ""
        self.exit_code: int | None = None
        self._noticed = threading.Event()
        self._lock = threading.Lock()
        self._finished = threading.Event()
        self._stderr = os.dup(_stderr())
        self._signals, self._signalled = os.pipe()
        os.set_blocking(self._signalled, False)  # as `set_wakeup_fd` demands

    def watch(self) -> None:
        """Wait for signals until the main thread is done."""
        while True:
            for number in os.read(self._signals, 64):
                if number == _FINISHED:
                    self._finished.set()
                    return
                if number in SIGNALS:
                    self.request(128 + number, f"interrupted ({signal.Signals(number).name})")

    def request(self, exit_code: int, cause: str) -> bool:
        """Print the line and give the main thread its time to clean up; return False if that began before."""
        with self._lock:
            if self.exit_code is not None:
                return False
            self.exit_code = exit_code
            self._print(f"{self.name}: {cause}{self.advice}")
            # What libraries say of their own end, on whatever thread, is no news after this line.
            silent = os.open(os.devnull, os.O_WRONLY)
            for file in {2, _stderr()}:
                os.dup2(silent, file)
            os.close(silent)
        threading.Thread(target=self._end_in_time, daemon=True).start()
        return True

    def _end_in_time(self) -> None:
        if self._noticed.wait(NOTICE_S):
            time.sleep(GRACE_S)
        self.exit()

    def interrupt(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal in the main thread; later ones are ignored, so as not to cut off cleaning up."""
        if not self._noticed.is_set():
            self._noticed.set()
            raise Interrupted

    def interrupt_again(self, lost: Any, otherwise: Callable[[Any], object]) -> None:  # noqa: ANN401
        """Handle what Python could only report: the exception of a signal in a callback or a destructor."""
        if isinstance(lost.exc_value, Interrupted):
            threading.Thread(target=self._interrupt_again, daemon=True).start()
        else:
            otherwise(lost)

    def _interrupt_again(self) -> None:
        time.sleep(AGAIN_S)
        if not self._finished.is_set():
            self._noticed.clear()
            os.kill(os.getpid(), signal.SIGTERM)

    def finish(self) -> bool:
        """Stop watching; return whether the command must end as interrupted."""
        os.write(self._signalled, bytes([_FINISHED]))
        self._finished.wait()
        return self.exit_code is not None

    def close(self) -> None:
        """Close the files that this object has opened."""
        for file in (self._stderr, self._signals, self._signalled):
            os.close(file)

    def end(self, error: BaseException | None = None) -> NoReturn:
        """End cleaned up, from the main thread; an error of cleaning up is worth a second line."""
        if isinstance(error, HilbertError):
            self._print(one_line(f"{self.name}: {error}"))
        if "multiprocessing.util" in sys.modules:
            # Semaphores of process pools would outlive the process.
            sys.modules["multiprocessing.util"]._run_finalizers(0)
        self.exit()

    def exit(self) -> NoReturn:
        """End this process and all that it started."""
        _kill_descendants()
        with suppress(OSError, ValueError):
            sys.stdout.flush()
        # Nothing else that runs at exit: Ray would try to shut down the cluster that was just killed.
        os._exit(1 if self.exit_code is None else self.exit_code)

    def _print(self, line: str) -> None:
        with suppress(OSError):  # a terminal that has hung up
            os.write(self._stderr, f"{line}\n".encode())


_ending: _Ending | None = None
"""Of the command that runs in this process; None in a program that uses the library by itself."""


def run_interruptible(command: Callable[[], int]) -> int:
    """Call `command` in the main thread and return its exit code; if it is interrupted, end this process.

    To be called last: the process is to end with the exit code.
    """
    global _ending
    ending = _ending = _Ending()
    _adopt_orphans()
    # A signal that is ignored stays ignored: of `nohup`, or of a shell that starts commands with `&`.
    handlers: dict[signal.Signals, Any] = {
        number: handler for number in SIGNALS if (handler := signal.getsignal(number)) is not signal.SIG_IGN
    }
    threading.Thread(target=ending.watch, daemon=True).start()
    wakeup = signal.set_wakeup_fd(ending._signalled, warn_on_full_buffer=False)
    hook = sys.unraisablehook
    sys.unraisablehook = partial(ending.interrupt_again, otherwise=hook)
    try:
        for number in handlers:
            signal.signal(number, ending.interrupt)
        code = command()
        if ending.finish():
            ending.end()
    except BaseException as error:
        ending._noticed.set()  # no signal may interrupt what follows
        # Whatever came up: the handlers of libraries raise SystemExit, or make their own calls fail.
        if ending._finished.is_set() or not ending.finish():
            raise
        ending.end(error)
    finally:
        _ending, sys.unraisablehook = None, hook
        signal.set_wakeup_fd(wakeup)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        ending.close()
    # What is left is Python's own end, in which an exception would be a traceback after the result.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    return code


def _stderr() -> int:
    """Return the file of `sys.stderr`, or of the process where a test has put something else there."""
    with suppress(AttributeError, OSError):
        return sys.stderr.fileno()
    return 2


def describe(name: str, advice: str) -> None:
    """Say which command is running, and what is kept if it is interrupted and how to resume it."""
    if _ending:
        _ending.name, _ending.advice = name, f"; {advice}"


def abort(cause: str) -> None:
    """End the command from any thread, with exit code 1; do nothing outside a command."""
    if _ending and _ending.request(1, cause):
        # A real signal, which also interrupts calls that wait in native code.
        os.kill(os.getpid(), signal.SIGTERM)


@contextmanager
def shielded_children() -> Iterator[None]:
    """Start processes to which Ctrl-C means nothing: a terminal sends it to all, but this one ends them."""
    from multiprocessing import resource_tracker  # here, as for `ctypes` below

    # The first semaphore of a process starts it, after which Python would let signals through again.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _adopt_orphans() -> None:
    """Make processes whose parents die children of this one (Linux), to be found by `_descendants`."""
    if sys.platform == "linux":
        import ctypes  # here, as a signal during the imports of this module finds no handler

        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _kill_descendants() -> None:
    """Kill all processes that this one started, directly or not."""
    stopped: set[int] = set()
    # Stopped first: none of them can start another one, or report the death of its neighbour.
    while fresh := _descendants() - stopped:
        _signal(fresh, signal.SIGSTOP)
        stopped |= fresh
    _signal(stopped, signal.SIGKILL)


def children() -> set[str]:
    """Return the names of the processes that this one started directly and that run (Linux; else none)."""
    return {name for _, parent, name in _processes() if parent == os.getpid()}


def _descendants() -> set[int]:
    """Return the ids of all processes that this one started, directly or not (Linux; else none)."""
    by_parent: dict[int, list[int]] = {}
    for process, parent, _ in _processes():
        by_parent.setdefault(parent, []).append(process)
    found: set[int] = set()
    pending = [os.getpid()]
    while pending:
        own = by_parent.get(pending.pop(), [])
        found.update(own)
        pending += own
    return found


def _processes() -> Iterator[tuple[int, int, str]]:
    """Yield the id, the parent's id and the name of each process that runs (Linux; else none)."""
    for process in filter(str.isdigit, os.listdir("/proc") if sys.platform == "linux" else ()):
        # It may have ended since.
        with suppress(OSError), open(f"/proc/{process}/stat", encoding="latin-1") as file:
            # The name, in parentheses, may hold anything.
            front, _, rest = file.read().rpartition(")")
            state, parent = rest.split()[:2]
            if state != "Z":
                yield int(process), int(parent), front.partition("(")[2]


def _signal(processes: set[int], number: signal.Signals) -> None:
    for process in processes:
        with suppress(ProcessLookupError, PermissionError):
            os.kill(process, number)
