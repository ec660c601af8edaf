"""Commands killed at random moments and run again, until one is left alone: it ends as an undisturbed one.

After each kill, what a command replaces is what was there before, or the whole result. Drivers of `embed`,
`evaluate`, `train` and `tune` are killed in the tests of their rooms too; here it is the commands themselves.
"""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import ray

from tests import make
from tests.embedding.in_process import rows_of
from tests.reporting.pages import evaluated

SETTINGS = """
segment: {window_s: 0.5, hop_s: 0.5}
embed: {buckets: 4, unit_s: 16.0, workers: 1, max_quarantined: 1.0}
model: {dim: 8, hops: 2}
fit: {epochs: 4, seeds: 2, batch_size: 16}
folds: {folds: 2, repeats: 1, inner: 2}
tune: {trials: 4, max_concurrent: 1}
tasks: {topic: {kind: binary, classes: [home, work]}}
"""
OLD = b"what an earlier run wrote"


@dataclass(frozen=True, kw_only=True, slots=True)
class Inputs:
    """What commands read: manifest, store and model of `make.labelled`, a run to report on, settings."""

    manifest: str
    store: str
    model: Path
    run: Path
    settings: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Command:
    """A command in a folder of its own: its words, what it results in, and what it replaces as a whole."""

    words: Callable[[Inputs, Path], list[str]]
    result: Callable[[Path], Any]
    replaces: str = ""


def embed(given: Inputs, folder: Path) -> list[str]:
    return ["embed", "--manifest", given.manifest, "--store", str(folder / "store")]


def evaluate(given: Inputs, folder: Path) -> list[str]:
    return ["evaluate", "--store", given.store, "--out", str(folder / "run")]


def train(given: Inputs, folder: Path) -> list[str]:
    return ["train", "--store", given.store, "--out", str(folder / "run")]


def tune(given: Inputs, folder: Path) -> list[str]:
    resume = ["--resume"] if (folder / "run" / "config.json").exists() else []
    return ["tune", "--store", given.store, "--out", str(folder / "run"), *resume]


def predict(given: Inputs, folder: Path) -> list[str]:
    words = [
        "--manifest",
        given.manifest,
        "--store",
        str(folder / "store"),
        "--out",
        str(folder / "p.parquet"),
    ]
    if not (folder / "store").exists():
        shutil.copytree(given.store, folder / "store")
    return ["predict", "--model", str(given.model), *words]


def report(given: Inputs, folder: Path) -> list[str]:
    if not (folder / "run").exists():
        shutil.copytree(given.run, folder / "run")
    return ["report", "--run", str(folder / "run")]


def rows(folder: Path) -> dict[Any, Any]:
    return {key: (row.source, row.features.tobytes()) for key, row in rows_of(str(folder / "store")).items()}


def scores(folder: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((folder / "run" / "metrics.json").read_text())
    return {name: value for name, value in values.items() if name not in ("run", "checksum")}


def weights(folder: Path) -> bytes:
    return (folder / "run" / "model" / "model.safetensors").read_bytes()


def trials(folder: Path) -> tuple[int, int, list[float]]:
    """Return how many trials there are, how many differ, and the scores of the defaults."""
    lines = (folder / "run" / "trials.jsonl").read_text().splitlines()
    found = [json.loads(line) for line in lines]
    settings = {json.dumps([trial.get("search"), trial["settings"]]) for trial in found}
    return len(found), len(settings), sorted(trial["score"] for trial in found if trial["is_default"])


def predictions(folder: Path) -> Any:  # noqa: ANN401
    return pq.read_table(folder / "p.parquet").to_pylist()


def page(folder: Path) -> bytes:
    return (folder / "run" / "report.html").read_bytes()


COMMANDS: Mapping[str, Command] = {
    "embed": Command(words=embed, result=rows),
    "evaluate": Command(words=evaluate, result=scores),
    "train": Command(words=train, result=weights),
    "tune": Command(words=tune, result=trials),
    "predict": Command(words=predict, result=predictions, replaces="p.parquet"),
    "report": Command(words=report, result=page, replaces="run/report.html"),
}


@pytest.fixture(scope="module")
def given(embedded: make.Embedded, tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    folder = tmp_path_factory.mktemp("given")
    (folder / "settings.yaml").write_text(SETTINGS)
    settings, out = str(folder / "settings.yaml"), folder / "trained"
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("RAY_ADDRESS", raising=False)
        command = [sys.executable, "-m", "hilbert_ray", "train", "--store", embedded.store, "--out", str(out)]
        subprocess.run([*command, "--config", settings], check=True, capture_output=True)
    evaluated(folder / "run")
    # Of one task alone, which is quicker to draw.
    path = folder / "run" / "metrics.json"
    values = json.loads(path.read_text())
    kept = {name: {"state": values[name]["state"]} for name in ("tasks", "comparisons", "permutation")}
    path.write_text(json.dumps({**values, **kept}))
    return Inputs(
        manifest=embedded.manifest, store=embedded.store, model=out / "model", run=folder / "run",
        settings=settings,
    )  # fmt: skip


def start(name: str, given: Inputs, folder: Path) -> subprocess.Popen[bytes]:
    """Start a command on the shared cluster; `train` of one rank needs none."""
    words = [*COMMANDS[name].words(given, folder), "--config", given.settings]
    environment = {**os.environ, "RAY_ADDRESS": ray.get_runtime_context().gcs_address}
    if name == "train":
        del environment["RAY_ADDRESS"]
    return subprocess.Popen(
        [sys.executable, "-m", "hilbert_ray", *words],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


def finish(name: str, given: Inputs, folder: Path) -> Any:  # noqa: ANN401
    """Run a command to its end; return its result."""
    process = start(name, given, folder)
    _, shown = process.communicate(timeout=600)
    assert process.returncode == 0, shown.decode()[-2000:]
    return COMMANDS[name].result(folder)


def killed(name: str, given: Inputs, folder: Path, after_s: float) -> bool:
    """Kill a command after some seconds; return whether it was still running."""
    process = start(name, given, folder)
    try:
        process.communicate(timeout=after_s)
    except subprocess.TimeoutExpired:
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        return True
    return False


@pytest.mark.timeout(7200)
@pytest.mark.parametrize(
    ("name", "kills"),
    [("predict", 2), ("report", 2), *(pytest.param(name, 17, marks=pytest.mark.soak) for name in COMMANDS)],
)
def test_a_command_killed_at_random_moments_ends_as_an_undisturbed_one(
    name: str, kills: int, given: Inputs, tmp_path: Path
) -> None:
    command, rng, survived, number = COMMANDS[name], random.Random(name), 0, 0
    began = time.monotonic()
    (tmp_path / "undisturbed").mkdir()
    expected = finish(name, given, tmp_path / "undisturbed")
    took_s = time.monotonic() - began
    while survived < kills:
        number += 1
        folder = tmp_path / f"killed-{number}"
        folder.mkdir()
        replaced = folder / command.replaces
        if command.replaces:
            command.words(given, folder)
            replaced.write_bytes(OLD)
        # Several in a row, each of which resumes what the one before it left.
        is_fresh = True
        while survived < kills and rng.random() < 0.75:
            # Not while Python starts, when nothing has begun.
            after_s = rng.uniform(0.3, 1.0) * took_s
            if not killed(name, given, folder, after_s):
                if is_fresh:  # the first run was slowed down: after the end, there is nothing to kill
                    took_s = after_s
                break
            is_fresh = False
            survived += 1
            if command.replaces and replaced.read_bytes() != OLD:
                assert command.result(folder) == expected, "half a result was left"
        assert finish(name, given, folder) == expected, f"after {survived} kills"
        shutil.rmtree(folder)
    print(f"{name}: {survived} kills survived")
