"""The Ray cluster of a run: the one that RAY_ADDRESS names, or one that is started on this machine.

Functions that need Ray call `connect` once their input is checked, so that a wrong argument is refused before
anything starts. A program that has called `ray.init` itself keeps its cluster.
"""

import logging
import os
import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from hilbert_ray.errors import HilbertError
from hilbert_ray.features import remove_maps

if TYPE_CHECKING:
    import ray.data


class ClusterError(HilbertError, ConnectionError):
    """No Ray cluster answers at RAY_ADDRESS."""

    exit_code = 1


_started = ""  # address of the cluster that `connect` has started


def is_given() -> bool:
    """Whether RAY_ADDRESS names a cluster, or the program has called `ray.init`; if not, all runs here."""
    if os.environ.get("RAY_ADDRESS"):
        return True
    if not ray.is_initialized():
        return False
    return not _started or ray.get_runtime_context().gcs_address != _started


def connect() -> None:
    """Join the cluster that RAY_ADDRESS names, or start Ray here; do nothing where Ray runs already.

    Raises:
        ClusterError: when no cluster answers at RAY_ADDRESS.
    """
    global _started
    if ray.is_initialized():
        return
    if address := os.environ.get("RAY_ADDRESS"):
        _require_listener(address)
        ray.init(log_to_driver=False, logging_level=logging.WARNING)
        return
    # A local cluster asks for a token by default; that it does so is no warning to a user.
    logging.getLogger("ray._private.authentication.authentication_token_setup").setLevel(logging.ERROR)
    ray.init("local", include_dashboard=False, log_to_driver=False, logging_level=logging.WARNING)
    _started = ray.get_runtime_context().gcs_address


@contextmanager
def maps_removed_at_exit(names: Sequence[str]) -> Iterator[None]:
    """Delete mapped files of these names on every node when the context ends, however it ends."""
    try:
        yield
    finally:
        if names and ray.is_initialized():
            task = ray.remote(num_cpus=0, max_retries=0)(remove_maps)
            nodes = [node["NodeID"] for node in ray.nodes() if node["Alive"]]
            places = [NodeAffinitySchedulingStrategy(node, soft=False) for node in nodes]
            asked = [task.options(scheduling_strategy=place).remote(*names) for place in places]
            ray.wait(asked, num_returns=len(asked), timeout=60)  # a node that dies meanwhile has no files


def data_context() -> "ray.data.DataContext":
    """Return a copy of Ray Data's settings that shows progress bars in a terminal and else only errors."""
    import ray.data  # half a second that not every command needs

    context = ray.data.DataContext.get_current().copy()
    context.print_on_execution_start = False
    context.enable_progress_bars = sys.stderr.isatty()
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    return context


def _require_listener(address: str) -> None:
    """Check that something listens at `host:port`; Ray itself would try for minutes before it gives up."""
    host, _, port = address.rpartition("/")[2].rpartition(":")
    if not port.isdigit():
        return
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except OSError as error:
        raise ClusterError(
            f"no cluster answers at RAY_ADDRESS {address} ({error}); start it, mend the address, or unset "
            "RAY_ADDRESS to run on this machine"
        ) from None


def resources() -> str:
    """Return what the cluster at RAY_ADDRESS has, or what a local run would use; start nothing."""
    address = os.environ.get("RAY_ADDRESS")
    if not address:
        return f"no RAY_ADDRESS: commands start Ray on this machine ({os.cpu_count()} CPUs)"
    try:
        connect()
    except ClusterError as error:
        return str(error)
    found = sorted(ray.cluster_resources().items())
    return f"{address}: " + ", ".join(f"{name} {amount:g}" for name, amount in found)
