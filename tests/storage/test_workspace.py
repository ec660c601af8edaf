"""Folders of results: on an object store they hold what a local one would, at every save."""

import json
from pathlib import Path

import fsspec
import pyarrow.parquet as pq
import pytest

from hilbert_ray.cli import main
from hilbert_ray.model.hilbert import Hilbert
from hilbert_ray.storage.workspace import Workspace, open_output, open_workspace
from tests import make

SETTINGS = """
model: {dim: 8, hops: 2}
fit: {epochs: 2, seeds: 1, batch_size: 16}
folds: {folds: 2, repeats: 1, inner: 2, cpus: 2}
tasks: {topic: {kind: binary, classes: [home, work]}, age: {kind: regression}}
"""


def names(uri: str) -> list[str]:
    """Return the names of all files below a URI."""
    root = uri.removeprefix("s3://")
    return sorted(path[len(root) + 1 :] for path in fsspec.filesystem("s3").find(root, refresh=True))


def test_a_local_folder_is_used_as_it_is(tmp_path: Path) -> None:
    with open_workspace(str(tmp_path / "run")) as run:
        assert run.is_local
        assert run.path == tmp_path / "run"
        assert run.storage("checkpoints") == {"storage_path": str(tmp_path / "run" / "checkpoints")}


def test_a_copy_brings_what_is_there_and_sends_what_changed(tmp_path: Path, object_store: str) -> None:
    uri = f"{object_store}/{tmp_path.name}/run"
    with open_workspace(uri) as run:
        (run.path / "folds").mkdir()
        (run.path / "folds" / "1.npz").write_bytes(b"one")
        (run.path / "old.json").write_text("old")
        (run.path / "half.tmp").write_text("unfinished")
    assert names(uri) == ["folds/1.npz", "old.json"]
    fsspec.filesystem("s3").pipe(f"{uri}/checkpoints/c1", b"large")
    with open_workspace(uri, excluded=["checkpoints"]) as run:
        assert run.path.name == "run"
        assert not (run.path / "checkpoints").exists()
        assert (run.path / "folds" / "1.npz").read_bytes() == b"one"
        fsspec.filesystem("s3").pipe(f"{uri}/folds/1.npz", b"changed by another")
        (run.path / "old.json").unlink()
        (run.path / "new.json").write_text("new")
        run.save()
        assert names(uri) == ["checkpoints/c1", "folds/1.npz", "new.json"]
        assert run.read("folds/1.npz") == b"changed by another", "what did not change here was sent"
        assert run.read("nowhere") == b""


def test_what_is_done_before_a_failure_is_saved(tmp_path: Path, object_store: str) -> None:
    uri = f"{object_store}/{tmp_path.name}/run"

    def fail() -> None:
        with open_workspace(uri) as run:
            (run.path / "a.json").write_text("a")
            raise RuntimeError("midway")

    with pytest.raises(RuntimeError, match="midway"):
        fail()
    assert names(uri) == ["a.json"]


def test_errors_name_the_place_and_not_the_copy(
    tmp_path: Path, object_store: str, capsys: pytest.CaptureFixture[str]
) -> None:
    uri = f"{object_store}/{tmp_path.name}/run"
    with open_workspace(uri) as run:
        (run.path / "config.json").write_text("{")
    assert main(["report", "--run", uri]) != 0
    manifest, out = (
        make.manifest(tmp_path / "m.jsonl", [{"doc_id": "a", "text": "b"}]),
        tmp_path / "p.parquet",
    )
    assert main(["predict", "--model", uri, "--manifest", manifest, "--out", str(out)]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    for line in lines:
        assert uri in line
        assert "hilbert-ray-" not in line


@pytest.mark.parametrize("kind", ["local", "s3"])
def test_an_output_is_whole_or_not_there(tmp_path: Path, object_store: str, kind: str) -> None:
    place = str(tmp_path) if kind == "local" else f"{object_store}/{tmp_path.name}"
    uri = f"{place}/new/p.parquet"

    def fail() -> None:
        with open_output(uri) as path:
            path.write_text("half")
            raise RuntimeError("midway")

    with pytest.raises(RuntimeError, match="midway"):
        fail()
    assert fsspec.open_files(f"{place}/new/*") == []
    with open_output(uri) as path:
        path.write_text("whole")
    with fsspec.open(uri, "rt") as file:
        assert file.read() == "whole"


@pytest.mark.ray
def test_every_step_reads_and_writes_an_object_store(
    embedded: make.Embedded, object_store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    s3, place = fsspec.filesystem("s3"), f"{object_store}/{tmp_path.name}"
    (tmp_path / "settings.yaml").write_text(SETTINGS)
    s3.put_file(str(tmp_path / "settings.yaml"), f"{place}/settings.yaml")
    s3.put(f"{embedded.store}/", f"{place}/store/", recursive=True)
    new = tmp_path / "new"
    new.mkdir()
    make.manifest(new / "manifest.jsonl", [make.record(new, number) for number in (100, 101)])
    s3.put(f"{new}/", f"{place}/new/", recursive=True)

    def steps(root: str, store: str, manifest: str) -> None:
        read = ["--store", store, "--out", f"{root}/run", "--config", f"{place}/settings.yaml"]
        assert main(["validate", manifest]) == 0
        assert main(["evaluate", *read]) == 0
        assert main(["train", *read]) == 0
        assert main(["report", "--run", f"{root}/run"]) == 0
        predicted = ["--manifest", manifest, "--out", f"{root}/p.parquet", "--explain", "d100"]
        predicted += ["--embed.workers", "1"]
        assert main(["predict", "--model", f"{root}/run/model", *predicted]) == 0

    steps(place, f"{place}/store", f"{place}/new/manifest.jsonl")
    shown = capsys.readouterr().out
    steps(str(tmp_path), embedded.store, str(new / "manifest.jsonl"))
    assert shown.replace(place, "") == capsys.readouterr().out.replace(str(tmp_path), "")
    local = sorted(p.relative_to(tmp_path / "run").as_posix() for p in (tmp_path / "run").rglob("*.*"))
    apart = ("checkpoints/", "tensorboard/")
    assert [n for n in names(f"{place}/run") if not n.startswith(apart)] == [
        n for n in local if not n.startswith(apart)
    ]
    assert any(n.startswith("checkpoints/") for n in names(f"{place}/run"))
    searched = ["--tune.trials", "2", "--tune.max-concurrent", "2", "--json"]
    read = ["--store", f"{place}/store", "--out", f"{place}/run", "--config", f"{place}/settings.yaml"]
    assert main(["tune", *read, *searched]) == 0
    first = json.loads(capsys.readouterr().out)
    assert main(["tune", *read, *searched, "--resume"]) == 0
    assert json.loads(capsys.readouterr().out) == first
    run = Workspace(f"{place}/run", tmp_path / "copy")
    run.fetch()
    here, there = (json.loads((f / "metrics.json").read_text()) for f in (tmp_path / "run", run.path))
    assert here["tasks"] == there["tasks"]
    one, other = (Hilbert.from_pretrained(f / "model") for f in (tmp_path / "run", run.path))
    assert all((x == other.state_dict()[name]).all() for name, x in one.state_dict().items())
    with fsspec.open(f"{place}/p.parquet", "rb") as file:
        assert pq.read_table(file).equals(pq.read_table(tmp_path / "p.parquet"))
    assert main(["evaluate", *read, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["run"]["fits"] == 0, "finished folds were run again"
