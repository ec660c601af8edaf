"""Jobs: the thin scripts under `ray job submit`, on a real head with token authentication."""

import json
import os
import random
import runpy
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import numpy as np
import pyarrow.parquet as pq
import pytest

from hilbert_ray.cli import main
from hilbert_ray.commands import COMMANDS
from hilbert_ray.config import MODALITIES, Config, FitConfig, FoldsConfig, ModelConfig
from hilbert_ray.features.arrays import Features
from hilbert_ray.features.dataset import open_dataset
from hilbert_ray.features.reading import read_features
from hilbert_ray.model.hilbert import Hilbert
from hilbert_ray.store.maintenance import verify_store
from hilbert_ray.store.store import Store
from hilbert_ray.training.loop import fit
from tests import make

ROOT = Path(__file__).parent.parent
TRAINED = Config(
    model=ModelConfig(dim=8, hops=2), fit=FitConfig(epochs=1, seeds=1), folds=FoldsConfig(inner=0)
)
RAY = str(Path(sys.executable).parent / "ray")


def free_ports(count: int) -> list[int]:
    """Return ports that nobody listens on.

    They are above those of Ray's workers and below those that the system hands out, which others may get
    before they are used.
    """
    found: list[int] = []
    for port in random.sample(range(20_000, 32_768), 1000):
        with socket.socket() as listener, suppress(OSError):
            listener.bind(("127.0.0.1", port))
            found.append(port)
        if len(found) == count:
            return found
    raise AssertionError("no free ports")


@pytest.fixture(scope="module")
def head(ray_home: Path) -> Iterator[dict[str, str]]:
    """Start a head with a dashboard; give the environment that submits jobs to it.

    It asks for the token of the test run. Its folder is short because Ray puts Unix sockets below it.
    """
    folder = tempfile.mkdtemp(prefix="hr-", dir="/tmp" if os.path.isdir("/tmp") else None)
    port, dashboard, agent, agent_grpc, client = free_ports(5)
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "RAY_AUTH_MODE": "token", "PATH": path}
    environment.pop("RAY_ADDRESS", None)
    command = [RAY, "start", "--head", "--block", "--num-cpus=4", f"--port={port}", f"--temp-dir={folder}"]
    # The defaults may be taken, that of the agent by the cluster that other tests share, which ends the head.
    command += [f"--dashboard-agent-listen-port={agent}", f"--dashboard-agent-grpc-port={agent_grpc}"]
    command += [f"--dashboard-port={dashboard}", f"--ray-client-server-port={client}"]
    command += ["--object-store-memory=200000000", "--disable-usage-stats"]
    log = Path(folder, "head.log")
    with log.open("wb") as out:
        server = subprocess.Popen(command, env=environment, stdout=out, stderr=subprocess.STDOUT, cwd=folder)
    submit = {**environment, "RAY_API_SERVER_ADDRESS": f"http://127.0.0.1:{dashboard}"}
    try:
        _wait_until_ready(server, submit, log)
        yield submit
    finally:
        server.kill()  # with `--block` the processes that it started, and no others, end with it
        server.wait(60)
        shutil.rmtree(folder, ignore_errors=True)


def _wait_until_ready(server: subprocess.Popen[bytes], submit: Mapping[str, str], log: Path) -> None:
    """Wait until a job is taken: the agent that takes jobs comes up some time after the dashboard answers."""
    deadline, job = time.monotonic() + 120, ""
    while not job:
        assert server.poll() is None, f"the head ended: {log.read_text()}"
        assert time.monotonic() < deadline, f"the head takes no job: {log.read_text()}"
        with suppress(OSError):  # refused connections and HTTP errors
            job = ask(submit, token_of(submit), "", entrypoint="true")["submission_id"]
        time.sleep(0.5)
    wait_until(submit, job, "SUCCEEDED")


def submit_job(environment: Mapping[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    """Submit a command from the repository's root and wait for its end."""
    command = [RAY, "job", "submit", "--working-dir", ".", "--", *words]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def ask(environment: Mapping[str, str], token: str | None, path: str, **body: str) -> dict[str, Any]:
    """Ask the head's server for jobs over HTTP, as `ray job` does."""
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    address = f"{environment['RAY_API_SERVER_ADDRESS']}/api/jobs/{path}"
    data = json.dumps(body).encode() if body else None
    request = urllib.request.Request(address, data, {**headers, "Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        found: dict[str, Any] = json.load(answer)
    return found


def token_of(environment: Mapping[str, str]) -> str:
    return Path(environment["RAY_AUTH_TOKEN_PATH"]).read_text()


def wait_until(environment: Mapping[str, str], job: str, *states: str) -> None:
    deadline = time.monotonic() + 60
    while ask(environment, token_of(environment), job)["status"] not in states:
        assert time.monotonic() < deadline, f"job {job} did not come to be {states}"
        time.sleep(0.1)


def test_an_embed_job_fills_a_store(head: dict[str, str], tmp_path: Path) -> None:
    manifest, store = make.corpus(tmp_path, 5, seconds=1.0), str(tmp_path / "store")
    words = ["python", "jobs/embed.py", "--manifest", manifest, "--store", store]
    words += ["--embed.buckets", "2", "--embed.workers", "1"]
    done = submit_job(head, *words)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "audio mfcc: 5 embedded" in done.stdout
    opened = Store.open(store)
    [audio], [text] = opened.encoders("audio"), opened.encoders("text")
    expected = {f"d{i:03d}" for i in range(5)}
    assert {row.doc_id for row in opened.read("audio", audio)} == expected
    assert {row.doc_id for row in opened.read("text", text)} == expected


def test_a_wrong_argument_fails_the_job_with_its_message(head: dict[str, str], tmp_path: Path) -> None:
    words = ["python", "jobs/embed.py", "--manifest", "no.jsonl", "--store", str(tmp_path / "store")]
    done = submit_job(head, *words)
    assert done.returncode == 1
    assert "there is no manifest no.jsonl" in done.stdout + done.stderr
    assert "failed with exit code 2" in " ".join((done.stdout + done.stderr).split())


@pytest.mark.ray
def test_a_published_folder_predicts_the_same_from_python_the_command_line_and_a_job(
    embedded: make.Embedded, head: dict[str, str], tmp_path: Path
) -> None:
    dataset = open_dataset(embedded.store, TRAINED)
    fitted = fit(dataset.config, dataset.features, np.arange(32))
    folder = fitted.model({str(m): d for m, d in dataset.encoders.items()}).save_pretrained(
        tmp_path / "model"
    )
    manifest = make.corpus(tmp_path, 3)
    words = ["predict", "--model", str(folder), "--manifest", manifest, "--embed.workers", "1"]
    assert main([*words, "--out", str(tmp_path / "command.parquet")]) == 0
    store = str(tmp_path / "command.parquet.store")
    job = ["python", "jobs/predict.py", *words[1:], "--out", str(tmp_path / "job.parquet")]
    done = submit_job(head, *job)
    assert done.returncode == 0, done.stdout + done.stderr
    model = Hilbert.from_pretrained(folder)
    features = open_features(store, model)
    direct = model.predict(features)
    for name in ("command", "job"):
        rows = {row["doc_id"]: row for row in pq.read_table(tmp_path / f"{name}.parquet").to_pylist()}
        assert sorted(rows) == features.doc_ids.tolist() == ["d000", "d001", "d002"]
        for i, doc_id in enumerate(features.doc_ids.tolist()):
            for embedding in ("audio", "text", "joint"):
                np.testing.assert_allclose(
                    rows[doc_id][embedding], getattr(direct.embeddings, embedding)[i], atol=1e-5
                )
            for task, settings in model.config.tasks.items():
                found = [rows[doc_id][f"{task}.{label}"] for label in settings.classes]
                if found:
                    np.testing.assert_allclose(found, direct.probabilities[task][i], atol=1e-5)


def open_features(store: str, model: Hilbert) -> Features:
    """Return the features of all documents of a store, by a model's encoders."""
    opened = Store.open(store)
    entries = opened.snapshot().documents(with_text=False)
    documents = sorted((entry.document for entry in entries), key=lambda document: document.doc_id)
    placed = {m: opened.locate(m, model.encoders[m]["fingerprint"]) for m in MODALITIES}
    return read_features(opened, placed, {}, documents)


def test_a_wrong_token_is_refused(head: dict[str, str], tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("0" * 64)
    refused = submit_job({**head, "RAY_AUTH_TOKEN_PATH": str(token)}, "python", "--version")
    assert refused.returncode != 0
    assert "Job submission server address" not in refused.stdout


def test_no_token_and_a_wrong_one_run_nothing(head: dict[str, str], tmp_path: Path) -> None:
    """Asked directly, without the refusal of Ray's own client to send a request without a token."""
    for token, code in (None, 401), ("0" * 64, 403):
        with pytest.raises(HTTPError) as refused:
            ask(head, token, "", entrypoint=f"touch {tmp_path / 'refused'}")
        assert refused.value.code == code
    made = ask(head, token_of(head), "", entrypoint=f"touch {tmp_path / 'allowed'}")
    wait_until(head, made["submission_id"], "SUCCEEDED")
    assert [path.name for path in tmp_path.iterdir()] == ["allowed"]


def test_a_stopped_embed_job_leaves_a_store_that_the_same_job_finishes(
    head: dict[str, str], tmp_path: Path
) -> None:
    make.tone(tmp_path / "a.wav", 60.0)
    manifest = make.manifest(tmp_path / "m.jsonl", [{"doc_id": f"d{i}", "audio": "a.wav"} for i in range(60)])
    store = tmp_path / "store"
    words = f"--manifest {manifest} --store {store} --text none"
    words += " --embed.buckets 2 --embed.unit-s 60 --embed.workers 1"
    command = f"{sys.executable} {ROOT / 'jobs' / 'embed.py'} {words}"
    made = ask(head, token_of(head), "", entrypoint=command)["submission_id"]
    deadline = time.monotonic() + 120
    while not any(store.glob("features/audio/*/commits/*/*.json")):
        assert time.monotonic() < deadline, ask(head, token_of(head), f"{made}/logs")["logs"]
        time.sleep(0.02)
    assert ask(head, token_of(head), f"{made}/stop", stop="now") == {"stopped": True}
    wait_until(head, made, "STOPPED")
    opened = Store.open(str(store))
    [fingerprint] = opened.encoders("audio")
    stored = sum(len(commit.stored) for commit in opened.commits("audio", fingerprint).read())
    assert 0 < stored < 60
    assert list(verify_store(opened)) == []
    done = submit_job(head, *command.split())
    assert done.returncode == 0, done.stdout + done.stderr
    assert "60 documents, 0 invalid manifest rows" in done.stdout
    assert " 0 quarantined" in done.stdout
    assert sorted(row.doc_id for row in opened.read("audio", fingerprint)) == sorted(
        f"d{i}" for i in range(60)
    )
    assert list(verify_store(opened)) == []


@pytest.mark.ray
def test_a_pipeline_runs_again_from_the_first_unfinished_step(
    embedded: make.Embedded,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """It fails in `train`; run again with more folds, `evaluate` runs those alone and `train` all."""
    run, store, settings = tmp_path / "run", tmp_path / "store", tmp_path / "settings.yaml"
    shutil.copytree(embedded.store, store)
    common = (
        "segment: {window_s: 0.5, hop_s: 0.5}\nmodel: {dim: 8}\nfit: {epochs: 1, seeds: 1}\n"
        "tasks: {topic: {kind: binary, classes: [home, work]}}\ntrain: {workers: 1}\n"
    )
    settings.write_text(f"{common}folds: {{folds: 2, repeats: 1, inner: 0}}\n")
    words = ["--manifest", embedded.manifest, "--store", store, "--out", run, "--config", settings]
    monkeypatch.setattr(sys, "argv", ["pipeline.py", *map(str, words)])
    pipeline = runpy.run_path(str(ROOT / "jobs" / "pipeline.py"))["pipeline"]
    run.mkdir()
    (run / "metrics.jsonl").mkdir()  # in the way of the file
    assert pipeline() == 1
    assert "metrics.jsonl" in capsys.readouterr().err
    first = json.loads((run / "metrics.json").read_text())["run"]
    assert (first["reused"], first["fits"] > 0) == (0, True)
    assert not (run / "report.html").exists()
    (run / "metrics.jsonl").rmdir()
    settings.write_text(f"{common}folds: {{folds: 2, repeats: 2, inner: 0}}\n")
    capsys.readouterr()
    assert pipeline() == 0
    assert "nothing to embed, 31 already stored" in capsys.readouterr().out
    second = json.loads((run / "metrics.json").read_text())["run"]
    assert (second["reused"], second["fits"]) == (first["fits"], first["fits"])
    assert (run / "model" / "model.safetensors").exists()
    assert (run / "report.html").exists()


def test_a_pipeline_transcribes_before_anything_else_and_stops_there_if_that_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--manifest", make.corpus(tmp_path, 1), "--transcribe", tmp_path / "transcribed"]
    words += ["--store", tmp_path / "store", "--out", tmp_path / "run"]
    monkeypatch.setattr(sys, "argv", ["pipeline.py", *map(str, words)])
    assert runpy.run_path(str(ROOT / "jobs" / "pipeline.py"))["pipeline"]() == 2
    shown = capsys.readouterr().err
    assert "asr is `none`; name the recogniser with --asr" in shown
    assert "transcribe failed with exit code 2; submit the job again to resume" in shown
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("name", ["transcribe", "embed", "evaluate", "train", "tune", "predict", "pipeline"])
def test_each_job_has_a_script_that_shows_its_help(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [f"{name}.py", "--help"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(ROOT / "jobs" / f"{name}.py"), run_name="__main__")
    assert not ended.value.code
    assert ("--out" if name == "transcribe" else "--store") in capsys.readouterr().out
    assert name in COMMANDS or name == "pipeline"
