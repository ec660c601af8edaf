"""The Ray cluster of a run: the one that RAY_ADDRESS names, or one that is started on this machine.

Functions that need Ray call `connect` after checking their input, so that an invalid argument is refused
before anything starts. A program that has called `ray.init` itself keeps its cluster.
"""

import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from hilbert_ray.errors import HilbertError
from hilbert_ray.features import remove_maps
from hilbert_ray.interruption import SIGNALS

if TYPE_CHECKING:
    import ray.data


_CONNECTION_S = 5
"""How long a listener may take to accept a connection, seconds."""
_REMOVAL_S = 60
"""How long nodes may take to delete files, seconds: a command that is done must end, even if one hangs."""


class ClusterError(HilbertError, ConnectionError):
    """No Ray cluster answers at RAY_ADDRESS."""

    exit_code = 1


_started_address = ""
"""Address of the cluster that `connect` started; "" if it started none."""


def has_cluster() -> bool:
    """Whether RAY_ADDRESS names a cluster or the program has called `ray.init`; if not, all runs here."""
    if os.environ.get("RAY_ADDRESS"):
        return True
    if not ray.is_initialized():
        return False
    # Compared by address: the program may have shut our cluster down and connected to its own.
    return not _started_address or ray.get_runtime_context().gcs_address != _started_address


def connect() -> None:
    """Join the cluster that RAY_ADDRESS names, or start Ray here; do nothing if this process has Ray already.

    Raises:
        ClusterError: when no cluster answers at RAY_ADDRESS.
    """
    global _started_address
    if ray.is_initialized():
        return
    if address := os.environ.get("RAY_ADDRESS"):
        _require_listener(address)
        with _signal_handlers_kept():
            ray.init(log_to_driver=False, logging_level=logging.WARNING)
        return
    # A local cluster creates a token for itself and logs so as a warning, which a user can safely ignore.
    logging.getLogger("ray._private.authentication.authentication_token_setup").setLevel(logging.ERROR)
    with _signal_handlers_kept():
        ray.init("local", include_dashboard=False, log_to_driver=False, logging_level=logging.WARNING)
    _started_address = ray.get_runtime_context().gcs_address


def disconnect() -> None:
    """Leave the cluster, which ends if `connect` started it."""
    ray.shutdown()


@contextmanager
def _signal_handlers_kept() -> Iterator[None]:
    """Keep the handlers of signals, which Ray replaces when it starts: in Python, and in its native code."""
    if threading.current_thread() is not threading.main_thread():  # only the main thread may set handlers
        yield
        return
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    os.environ.setdefault("RAY_DISABLE_FAILURE_SIGNAL_HANDLER", "1")
    try:
        yield
    finally:
        for number, handler in handlers.items():
            # Of the default actions, that of SIGTERM would leave some of Ray's processes behind.
            if callable(handler):
                signal.signal(number, handler)


@contextmanager
def maps_removed_at_exit(names: Sequence[str]) -> Iterator[None]:
    """Delete memory-mapped files of these names on every node when the context ends, however it ends."""
    try:
        yield
    finally:
        if not has_cluster():
            # This machine is the only node, and after an interruption no task would run any more.
            remove_maps(*names)
        elif names and ray.is_initialized():
            # No CPUs: it must run even while trials or folds that are being stopped still hold all of them.
            task = ray.remote(num_cpus=0, max_retries=0)(remove_maps)
            nodes = [node["NodeID"] for node in ray.nodes() if node["Alive"]]
            strategies = [NodeAffinitySchedulingStrategy(node, soft=False) for node in nodes]
            removals = [task.options(scheduling_strategy=strategy).remote(*names) for strategy in strategies]
            # `wait` does not raise for a node that dies meanwhile, whose files are gone with it.
            ray.wait(removals, num_returns=len(removals), timeout=_REMOVAL_S)


def data_context() -> "ray.data.DataContext":
    """Return a copy of Ray Data's settings: progress bars in a terminal only, and no logs but errors."""
    import ray.data  # takes half a second, which not every command needs

    context = ray.data.DataContext.get_current().copy()
    context.print_on_execution_start = False
    context.enable_progress_bars = sys.stderr.isatty()
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    return context


def _require_listener(address: str) -> None:
    """Check that something listens at `host:port`; Ray itself would try for minutes before it gives up."""
    host, _, port = address.rpartition("/")[2].rpartition(":")  # without `ray://`
    if not port.isdigit():  # `auto`, `local` and the like
        return
    try:
        socket.create_connection((host, int(port)), timeout=_CONNECTION_S).close()
    except OSError as error:
        raise ClusterError(
            f"no cluster answers at RAY_ADDRESS {address} ({error}); start it, correct the address, or unset "
            "RAY_ADDRESS to run on this machine"
        ) from None


def describe_resources() -> str:
    """Return what the cluster at RAY_ADDRESS has, or what a local run would use; start nothing."""
    address = os.environ.get("RAY_ADDRESS")
    if not address:
        return f"no RAY_ADDRESS: commands start Ray on this machine ({os.cpu_count()} CPUs)"
    try:
        connect()
    except ClusterError as error:
        return str(error)
    amounts = sorted(ray.cluster_resources().items())
    return f"{address}: " + ", ".join(f"{name} {amount:g}" for name, amount in amounts)
