"""Full disks and read-only ones: one message, exit code 1, and what was there before is as it was."""

import hashlib
import os
import shutil
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hilbert_ray.cli import main
from tests import make
from tests.asr.test_ctc import CASES
from tests.reporting.pages import evaluated
from tests.test_interruption import SHORT
from tests.transcription.stand_in import spoken

Prepare = Callable[[Path], list[str]]
"""Writes what a command needs to a disk and returns the command, whose last word is what it writes."""


def store_on(disk: Path) -> Path:
    return Path(make.features_store(disk / "store", [2] * 12, [2] * 12, 4))


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def compact(disk: Path) -> list[str]:
    return ["store", "compact", str(store_on(disk)), "--min-commits", "1"]


def collect(disk: Path) -> list[str]:
    store = store_on(disk)
    [path, *_] = store.glob("features/audio/*/data/*/*.parquet")
    shutil.copy(path, path.with_name(f"unit-x-{'0' * 16}.parquet"))
    return ["store", "gc", str(store), "--min-age-h", "0"]


def repair(disk: Path) -> list[str]:
    store = store_on(disk)
    [path, *_] = store.glob("features/audio/*/data/*/*.parquet")
    flip(path)
    return ["store", "verify", str(store), "--repair"]


def repair_store(disk: Path) -> list[str]:
    store = store_on(disk)
    flip(store / "store.json")
    return ["store", "verify", str(store), "--repair"]


def export(disk: Path) -> list[str]:
    store = store_on(disk)
    return ["store", "export", str(store), "--out", str(disk / "out")]


def unpack(disk: Path) -> list[str]:
    """The recordings are larger than a buffer, and the third does not fit."""
    rows = [{"audio": {"bytes": bytes([i]) * 20_000, "path": f"{i}.wav"}} for i in range(3)]
    pq.write_table(pa.Table.from_pylist(rows), disk / "t.parquet")
    return ["unpack", str(disk / "t.parquet"), str(disk / "out")]


def train(disk: Path) -> list[str]:
    return ["train", "--store", str(store_on(disk)), "--out", str(disk / "run"), *SHORT]


def evaluate(disk: Path) -> list[str]:
    words = ["--folds.folds", "2", "--folds.repeats", "1", "--fit.epochs", "1"]
    return ["evaluate", "--store", str(store_on(disk)), "--out", str(disk / "run"), *SHORT, *words]


def tune(disk: Path) -> list[str]:
    return ["tune", *evaluate(disk)[1:], "--folds.inner", "2", "--tune.trials", "2"]


def report(disk: Path) -> list[str]:
    evaluated(disk / "run")
    (disk / "run" / "report.html").write_text("what an earlier report said")
    return ["report", "--run", str(disk / "run")]


def embed(disk: Path) -> list[str]:
    manifest = make.corpus(disk.parent, 4)
    return ["embed", "--manifest", manifest, "--store", str(disk / "store"), "--embed.workers", "1"]


def transcribe(disk: Path) -> list[str]:
    CASES["wav2vec2 group"].made(disk.parent / "weights")
    manifest = make.manifest(disk.parent / "spoken.jsonl", spoken(disk.parent, 2))
    words = ["--asr", f"hf:{disk.parent / 'weights'}", "--recognition.precision", "float32"]
    words += ["--embed.workers", "1", "--manifest", manifest]
    return ["transcribe", *words, "--out", str(disk / "out")]


LOCAL: Mapping[str, Prepare] = {
    each.__name__: each for each in (compact, collect, repair, repair_store, export, unpack, train, report)
}
SPACELESS = (collect, repair)
"""Deleting needs no space."""


def state(folder: Path) -> dict[str, str]:
    """Return a hash of each file."""
    return {
        str(path): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "filler"
    }


def fill(disk: Path, left: int) -> None:
    """Fill a disk, but for some bytes that stay free."""
    with (disk / "filler").open("wb", buffering=0) as file, pytest.raises(OSError, match="No space left"):  # noqa: PT012
        while True:
            file.write(bytes(4096))
    os.truncate(disk / "filler", (disk / "filler").stat().st_size - left)


def ends_in_one_message(words: list[str], disk: Path, shown: pytest.CaptureFixture[str], cause: str) -> None:
    """Run a command that cannot write; what it had written before it may stay."""
    before = state(disk)
    shown.readouterr()
    assert main(words) == 1
    [line] = [line for line in shown.readouterr().err.splitlines() if line.startswith("hilbert-ray")]
    assert line.startswith(f"hilbert-ray {words[0]}")
    assert f": {cause}; what " in line
    assert str(disk) in line
    assert "rerun" in line
    after = state(disk)
    assert {path: after.get(path) for path in before} == before


@pytest.mark.parametrize(
    ("name", "left"),
    [(name, 0) for name in LOCAL if LOCAL[name] not in SPACELESS] + [("unpack", 44_000), ("train", 44_000)],
)
def test_a_full_disk(name: str, left: int, small_disk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = LOCAL[name](small_disk)
    fill(small_disk, left)
    ends_in_one_message(words, small_disk, capsys, "No space left on device")
    assert not (small_disk / "out").exists()
    hidden = [path for path in small_disk.iterdir() if path.name.startswith(".")]
    assert hidden == [], "something half is left"


@pytest.mark.parametrize("name", LOCAL)
def test_a_read_only_disk(name: str, small_disk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = LOCAL[name](small_disk)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    ends_in_one_message(words, small_disk, capsys, "Read-only file system")


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize(
    ("prepare", "left"),
    [(embed, 0), (transcribe, 0), (transcribe, 30_000), (train, 60_000), (evaluate, 30_000), (tune, 30_000)],
)
def test_a_full_disk_under_ray(
    prepare: Prepare, left: int, small_disk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = prepare(small_disk)
    fill(small_disk, left)
    if prepare is train:
        words += ["--train.workers", "2", "--train.max-failures", "1"]
    ends_in_one_message(words, small_disk, capsys, "No space left on device")


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize("prepare", [embed, transcribe, evaluate, tune])
def test_a_read_only_disk_under_ray(
    prepare: Prepare, small_disk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = prepare(small_disk)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    ends_in_one_message(words, small_disk, capsys, "Read-only file system")


@pytest.mark.ray
@pytest.mark.parametrize("is_full", [True, False], ids=["full", "read-only"])
def test_predictions_that_cannot_be_written(
    is_full: bool,
    embedded: make.Embedded,
    small_disk: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run, store = str(tmp_path / "run"), str(tmp_path / "store")
    assert main(["train", "--store", embedded.store, "--out", run, *SHORT, "--fit.epochs", "1"]) == 0
    shutil.copytree(embedded.store, store)
    words = ["--model", f"{run}/model", "--manifest", embedded.manifest, "--store", store]
    words = ["predict", *words, "--out", str(small_disk / "p.parquet")]
    if is_full:
        fill(small_disk, 0)
        ends_in_one_message(words, small_disk, capsys, "No space left on device")
        return
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    capsys.readouterr()
    assert main(words) == 1
    assert (
        "p.parquet: its folder is read-only; fix its permissions, or choose another"
        in capsys.readouterr().err
    )
