"""The Ray cluster of a run: the one that RAY_ADDRESS names, or one that is started on this machine.

Functions that need Ray call `connect` after checking their input, so that an invalid argument is refused
before anything starts. A program that has called `ray.init` itself keeps its cluster.
"""

import logging
import os
import secrets
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import ray
from joblib import cpu_count  # type: ignore[import-untyped]
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from hilbert_ray.doctor import shared_memory
from hilbert_ray.errors import HilbertError
from hilbert_ray.features import remove_maps
from hilbert_ray.interruption import SIGNALS, abort, children

if TYPE_CHECKING:
    import ray.data


log = logging.getLogger(__name__)
_CONNECTION_S = 5
"""How long a listener may take to accept a connection, seconds."""
_WATCH_S = 0.5
"""Seconds between two looks at whether the cluster is still there."""
_HEAD_S = 20.0
"""How long the head of a cluster may not answer, seconds: a busy one is not lost."""
_SOCKET_PATH_BYTES = 107 if sys.platform == "linux" else 103
_SESSION = "session_2026-01-01_00-00-00_000000"
"""How the folder of a session is named, without the id of its process."""
_REMOVAL_S = 60
"""How long nodes may take to delete files, seconds: a command that is done must end, even if one hangs."""


class ClusterError(HilbertError, ConnectionError):
    """No Ray cluster answers at RAY_ADDRESS."""

    exit_code = 1


_started_address = ""
"""Address of the cluster that `connect` started; "" if it started none."""
_is_leaving = threading.Event()
"""Set when this process leaves its cluster, whose processes may end from then on."""


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
        _start()
        head = ray.get_runtime_context().gcs_address
        _watch(lambda: _head_loss(head))
        return
    if path_fault := socket_path_fault():
        raise ClusterError(path_fault)
    # It tells by a warning that the cluster requires a token, which a user can safely ignore.
    logging.getLogger("ray._private.authentication.authentication_token_setup").setLevel(logging.ERROR)
    logging.getLogger("ray._private.services").addFilter(_is_other_warning)
    if not {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & os.environ.keys():
        # Known to this process and its children alone. Ray would write one into the home folder, readable by
        # others, and from then on demand it of every `ray start`.
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    log.info("starting Ray on this machine (%d CPUs)", cpu_count())
    seen: set[str] = set()
    _watch(lambda: _local_loss(seen))
    # Ray would count the CPUs of the machine, not those that a batch system or a container grants.
    _start(address="local", num_cpus=cpu_count(), include_dashboard=False)
    _started_address = ray.get_runtime_context().gcs_address


def disconnect() -> None:
    """Leave the cluster, which ends if `connect` started it."""
    _is_leaving.set()
    ray.shutdown()


def _is_other_warning(record: logging.LogRecord) -> bool:
    """Say in a line what Ray says in 400 characters where its objects do not fit into /dev/shm."""
    if "/dev/shm" not in record.getMessage():
        return True
    log.warning(
        "%s: Ray keeps what its processes share in files below %s instead, which is slower; start a "
        "container with a larger --shm-size",
        shared_memory(),
        _folder(),
    )
    return False


def socket_path_fault() -> str:
    """Return what is wrong with the folder of Ray's Unix sockets; "" if nothing is.

    Batch systems set TMPDIR to long paths, and a socket's path is bounded by the system.
    """
    name = "RAY_TMPDIR" if "RAY_TMPDIR" in os.environ else "TMPDIR"
    folder = os.environ.get(name, "/tmp")
    longest = _SOCKET_PATH_BYTES - len(f"/ray/{_SESSION}_{os.getpid()}/sockets/plasma_store")
    size = len(os.fsencode(folder))
    if size <= longest:
        return ""
    return (
        f"{name} is {folder}, {size} bytes long, but Ray's sockets leave room for {longest}; set RAY_TMPDIR "
        "to a folder with a shorter path, such as /tmp"
    )


def _start(**options: Any) -> None:  # noqa: ANN401 - of ray.init
    """Start Ray, or join the cluster of RAY_ADDRESS.

    Raises:
        ClusterError: when that fails.
    """
    try:
        with _signal_handlers_kept():
            ray.init(log_to_driver=False, logging_level=logging.WARNING, **options)
    except Exception as error:  # of any kind: OSError, ValueError, and Exception itself
        # Its message may hold a traceback, whose last line says what happened.
        reason = str(error).strip().rpartition("\n")[2].strip()
        raise ClusterError(f"Ray does not start: {reason}; its logs are in {_logs()}") from error


def _folder() -> str:
    return f"{os.environ.get('RAY_TMPDIR') or os.environ.get('TMPDIR', '/tmp')}/ray"


def _logs() -> str:
    return f"{_folder()}/session_latest/logs"


def _watch(loss: Callable[[], str]) -> None:
    """End the command as soon as `loss` says what is lost of the cluster.

    Ray would wait for a minute, and then end the process from native code.
    """
    _is_leaving.clear()

    def watch() -> None:
        while not _is_leaving.wait(_WATCH_S):
            if lost := loss():
                abort(lost)
                return

    threading.Thread(target=watch, daemon=True).start()


def _local_loss(seen: set[str]) -> str:
    """Return which process of the local cluster has ended that was `seen` before; "" if none has."""
    running = children()
    seen |= running & {"raylet", "gcs_server"}
    if not seen - running or _is_leaving.is_set():
        return ""
    return (
        f"Ray's process {min(seen - running)} on this machine has ended, as when memory runs out or starting "
        f"takes too long on a busy machine (its logs: {_logs()})"
    )


def _head_loss(address: str) -> str:
    """Return "" as soon as the head of the cluster answers; what to say if it does not for a while."""
    deadline = time.monotonic() + _HEAD_S
    while time.monotonic() < deadline and not _is_leaving.is_set():
        if not _connection_error(address):
            return ""
        time.sleep(_WATCH_S)
    return f"the head of the cluster, {address}, has not answered for {_HEAD_S:g} s"


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
    if error := _connection_error(address.rpartition("/")[2]):  # without `ray://`
        raise ClusterError(
            f"no cluster answers at RAY_ADDRESS {address} ({error}); start it, correct the address, or unset "
            "RAY_ADDRESS to run on this machine"
        )


def _connection_error(address: str) -> str:
    """Return why nothing listens at `host:port`; "" if something does, or for `auto` and the like."""
    host, _, port = address.rpartition(":")
    if not port.isdigit():
        return ""
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECTION_S).close()
    except OSError as error:
        return str(error)
    return ""


def given_device() -> str:
    """Return where this process may compute: the GPU that Ray gave its task or actor, otherwise `cpu`.

    Not what torch finds: Ray 2.60 hides no GPU from a worker that requested none, and such workers would all
    load their weights onto the first one.

    Raises:
        ClusterError: when Ray gave a GPU and torch finds none.
    """
    gpus = ray.get_gpu_ids() if ray.is_initialized() else []
    if not gpus:
        return "cpu"
    import torch  # two seconds, which not every command needs

    if not torch.cuda.is_available():
        raise ClusterError(
            f"Ray gave this worker on node {socket.gethostname()} GPU {gpus[0]}, but torch "
            f"{torch.__version__} finds no GPU there: install a torch built for its driver, or use no GPUs "
            "(embed.gpu no, folds.gpus 0, tune.gpus_per_trial 0)"
        )
    return f"cuda:{gpu_number(str(gpus[0]), os.environ.get('CUDA_VISIBLE_DEVICES'))}"


def gpu_number(gpu: str, visible: str | None) -> int:
    """Return torch's number of a GPU, which counts those that CUDA_VISIBLE_DEVICES makes visible from 0.

    Ray sets that variable to the GPUs of a worker, unless RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES is set.
    """
    names = [gpu] if visible is None else [name.strip() for name in visible.split(",")]
    return names.index(gpu) if visible is not None and gpu in names else int(gpu)


def describe_resources() -> str:
    """Return what the cluster at RAY_ADDRESS has, or what a local run would use; start nothing.

    Raises:
        ClusterError: when no cluster answers at RAY_ADDRESS, or Ray could not start here.
    """
    address = os.environ.get("RAY_ADDRESS")
    if not address:
        if path_fault := socket_path_fault():
            raise ClusterError(path_fault)
        return f"no RAY_ADDRESS: commands start Ray on this machine ({cpu_count()} CPUs)"
    connect()
    amounts = sorted(ray.cluster_resources().items())
    return f"{address}: " + ", ".join(f"{name} {amount:g}" for name, amount in amounts)


def cause_of(error: Exception) -> Exception:
    """Return the error that a worker raised instead of Ray's, which shows its traceback as a message.

    What Ray itself raises, such as for lost workers, becomes a `ClusterError`; all else is returned as it is.
    """
    while True:
        failures = getattr(error, "worker_failures", None) or {}  # of ranks of Ray Train
        causes = [*failures.values(), getattr(error, "controller_failure", None)]
        causes += [error.cause] if isinstance(error, ray.exceptions.RayTaskError) else []
        cause = next((cause for cause in causes if isinstance(cause, Exception)), None)
        if cause is None:
            break
        error = cause
    if isinstance(error, ray.exceptions.RayError):
        reason = " ".join(str(error).split())
        return ClusterError(f"{reason} ({type(error).__name__}); fix the cause and rerun to resume")
    return error
