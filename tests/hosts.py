"""Several hosts on one machine: network namespaces on one bridge, each with a Ray node of its own.

They share the machine's disks. Needs root and iproute2.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

GCS_PORT = 6379


def missing() -> str | None:
    """Return why there can be no hosts here, None if there can."""
    if not shutil.which("ip"):
        return "needs iproute2"
    made = subprocess.run(["ip", "netns", "add", f"hr{os.getpid()}probe"], capture_output=True)
    if made.returncode:
        return "network namespaces need root"
    subprocess.run(["ip", "netns", "del", f"hr{os.getpid()}probe"], check=True)
    return None


@dataclass(frozen=True, kw_only=True, slots=True)
class Host:
    """A network namespace with an address; `temporary` is its Ray node's folder."""

    namespace: str
    address: str
    temporary: Path
    environment: dict[str, str] = field(default_factory=dict)

    def start(self, arguments: Sequence[str]) -> "subprocess.Popen[str]":
        """Start a Python process on this host."""
        command = ["ip", "netns", "exec", self.namespace, sys.executable, *arguments]
        return subprocess.Popen(
            command,
            env={**os.environ, **self.environment},
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    def run(self, arguments: Sequence[str]) -> str:
        """Run a Python process on this host to its end and return what it printed."""
        process = self.start(arguments)
        shown, _ = process.communicate()
        assert process.returncode == 0, shown
        return shown

    def kill(self) -> None:
        """Kill every process on this host and take it off the network, as a lost machine is."""
        subprocess.run(["ip", "-n", self.namespace, "link", "set", "eth0", "down"], check=True)
        for pid in self._pids():
            os.kill(pid, signal.SIGKILL)

    def revive(self) -> None:
        """Put a host that was lost back on the network, empty."""
        subprocess.run(["ip", "-n", self.namespace, "link", "set", "eth0", "up"], check=True)

    def _pids(self) -> list[int]:
        shown = subprocess.run(
            ["ip", "netns", "pids", self.namespace], capture_output=True, text=True, check=True
        )
        return [int(pid) for pid in shown.stdout.split()]

    def is_idle(self) -> bool:
        """Whether no process runs here."""
        return not self._pids()


@contextmanager
def cluster(folder: Path, cpus: Sequence[int]) -> Iterator[list[Host]]:
    """Start a host with a Ray node for each number of CPUs; the first is the head."""
    with network(folder, len(cpus)) as hosts:
        for host, number in zip(hosts, cpus, strict=True):
            start_node(host, number)
        yield hosts


@contextmanager
def network(folder: Path, count: int) -> Iterator[list[Host]]:
    """Make hosts on one network, without Ray nodes; on leaving, all that runs on them is killed."""
    mark = f"hr{os.getpid()}"
    bridge = f"{mark}b"[:15]
    hosts = [
        Host(
            namespace=f"{mark}n{i}",
            address=f"10.77.0.{i + 1}",
            temporary=folder / f"h{i}",
            environment={
                "GLOO_SOCKET_IFNAME": "eth0",
                "RAY_AUTH_MODE": "token",
                "RAY_ADDRESS": f"10.77.0.1:{GCS_PORT}",
                # Ray takes a node for dead after this much silence; the default is half a minute.
                "RAY_health_check_period_ms": "1000",
                "RAY_health_check_failure_threshold": "3",
            },
        )
        for i in range(count)
    ]
    try:
        _ip("link", "add", bridge, "type", "bridge")
        _ip("link", "set", bridge, "up")
        for i, host in enumerate(hosts):
            _ip("netns", "add", host.namespace)
            _ip("link", "add", f"{mark}v{i}", "type", "veth", "peer", "name", "eth0", "netns", host.namespace)
            _ip("link", "set", f"{mark}v{i}", "master", bridge, "up")
            _ip("-n", host.namespace, "addr", "add", f"{host.address}/24", "dev", "eth0")
            for device in ("lo", "eth0"):
                _ip("-n", host.namespace, "link", "set", device, "up")
        yield hosts
    finally:
        for host in hosts:
            if os.path.exists(f"/run/netns/{host.namespace}"):
                host.kill()
                deadline = time.monotonic() + 10
                while not host.is_idle() and time.monotonic() < deadline:
                    time.sleep(0.1)
                _ip("netns", "del", host.namespace)
        subprocess.run(["ip", "link", "del", bridge], capture_output=True)


def start_node(host: Host, cpus: int, *options: str) -> None:
    """Start the Ray node of a host, the head on the first address; `options` are for `ray start`."""
    is_head = host.address.endswith(".1")
    place = (
        ["--head", f"--port={GCS_PORT}", "--include-dashboard=false"]
        if is_head
        else [f"--address=10.77.0.1:{GCS_PORT}"]
    )
    own = [
        f"--node-ip-address={host.address}",
        f"--num-cpus={cpus}",
        f"--temp-dir={host.temporary}",
        "--object-store-memory=200000000",
        "--disable-usage-stats",
    ]
    host.run(["-m", "ray.scripts.scripts", "start", *place, *own, *options])


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)
