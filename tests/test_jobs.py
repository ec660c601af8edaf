"""Jobs: the thin scripts under `ray job submit`, on a real head with token authentication."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from hilbert_ray.cli import COMMANDS
from hilbert_ray.store import Store
from tests import make

ROOT = Path(__file__).parent.parent
RAY = str(Path(sys.executable).parent / "ray")


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.fixture(scope="module")
def head(ray_home: Path) -> Iterator[dict[str, str]]:
    """Start a head with a dashboard; give the environment that submits jobs to it.

    It asks for the token of the test run. Its folder is short because Ray puts Unix sockets below it.
    """
    folder = tempfile.mkdtemp(prefix="hr-", dir="/tmp" if os.path.isdir("/tmp") else None)
    port, dashboard = free_port(), free_port()
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "RAY_AUTH_MODE": "token", "PATH": path}
    environment.pop("RAY_ADDRESS", None)
    command = [RAY, "start", "--head", "--block", "--num-cpus=4", f"--port={port}", f"--temp-dir={folder}"]
    # The cluster that other tests share has an agent too, on the port that is the default.
    command += [f"--dashboard-agent-listen-port={free_port()}", f"--dashboard-agent-grpc-port={free_port()}"]
    command += [f"--dashboard-port={dashboard}", "--object-store-memory=200000000", "--disable-usage-stats"]
    server = subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=folder
    )
    submit = {**environment, "RAY_API_SERVER_ADDRESS": f"http://127.0.0.1:{dashboard}"}
    try:
        _wait_until_ready(server, submit)
        yield submit
    finally:
        server.send_signal(signal.SIGTERM)  # `--block` ends the processes that it started, and no others
        server.wait(60)
        shutil.rmtree(folder, ignore_errors=True)


def _wait_until_ready(server: subprocess.Popen[bytes], submit: Mapping[str, str]) -> None:
    """Wait until a job runs: the agent that takes jobs comes up some time after the dashboard answers."""
    deadline = time.monotonic() + 120
    while True:
        asked = subprocess.run(
            [RAY, "job", "submit", "--", "true"], env=submit, capture_output=True, text=True, check=False
        )
        if asked.returncode == 0:
            return
        assert server.poll() is None, "the head ended"
        assert time.monotonic() < deadline, asked.stderr
        time.sleep(0.5)


def submit_job(environment: Mapping[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    """Submit a command from the repository's root and wait for its end."""
    command = [RAY, "job", "submit", "--working-dir", ".", "--", *words]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def test_an_embed_job_fills_a_store(head: dict[str, str], tmp_path: Path) -> None:
    manifest, store = make.corpus(tmp_path, 5, seconds=1.0), str(tmp_path / "store")
    words = ["python", "jobs/embed.py", "--manifest", manifest, "--store", store, "--embed.buckets", "2"]
    done = submit_job(head, *words)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "audio mfcc: 5 embedded" in done.stdout
    opened = Store.open(store)
    [audio], [text] = opened.encoders("audio"), opened.encoders("text")
    expected = {f"d{i:03d}" for i in range(5)}
    assert {row.doc_id for row in opened.read("audio", audio)} == expected
    assert {row.doc_id for row in opened.read("text", text)} == expected
    assert "nothing to embed, 5 stored already" in submit_job(head, *words).stdout


def test_a_wrong_argument_fails_the_job_with_its_message(head: dict[str, str], tmp_path: Path) -> None:
    words = ["python", "jobs/embed.py", "--manifest", "no.jsonl", "--store", str(tmp_path / "store")]
    done = submit_job(head, *words)
    assert done.returncode == 1
    assert "no manifest at no.jsonl" in done.stdout + done.stderr
    assert "failed with exit code 2" in " ".join((done.stdout + done.stderr).split())


def test_a_wrong_token_is_refused(head: dict[str, str], tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("0" * 64)
    refused = submit_job({**head, "RAY_AUTH_TOKEN_PATH": str(token)}, "python", "--version")
    assert refused.returncode != 0
    assert "Job submission server address" not in refused.stdout


@pytest.mark.parametrize("name", ["embed", "evaluate", "train", "tune", "predict", "pipeline"])
def test_each_job_has_a_script_that_shows_its_help(name: str) -> None:
    command = [sys.executable, f"jobs/{name}.py", "--help"]
    shown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "--store" in shown.stdout
    assert name in COMMANDS or name == "pipeline"
