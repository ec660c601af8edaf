"""Every kind of file with flipped bits and cut off: a named error, or what it gave before, and nothing else.

`flip` and `cut` are seeded, so that a failure comes again. The soak form does 200 of each to each kind.
"""

import re
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from hilbert_ray.cli import main
from hilbert_ray.config import HILBERT, MODALITIES, Config, to_dict, with_settings_checksum
from hilbert_ray.errors import HilbertError
from hilbert_ray.folds.file import read_folds, write_folds
from hilbert_ray.folds.records import Folds
from hilbert_ray.model.hilbert import Hilbert
from hilbert_ray.prediction import explain, prediction_schema, prediction_table
from hilbert_ray.run.evaluation import Evaluation, write_metrics
from hilbert_ray.run.fold_results import read_fold_result, write_fold_result
from hilbert_ray.run.folder import RunFile, write_json, write_lines
from hilbert_ray.run.results import read_run, write_training, write_tune
from hilbert_ray.storage.parquet_files import parquet_writer
from hilbert_ray.store.maintenance import store_info, verify_store
from hilbert_ray.store.store import Store
from hilbert_ray.training.checkpoints import Checkpoints, TrainingState
from hilbert_ray.tuning.trials import read_journal
from tests import make
from tests.model.test_model import model
from tests.run import test_table_properties as tables
from tests.store import test_golden as golden

SOAK, SHORT = 200, 6
"""Flips, and as many truncations, of each kind."""


Damage = Callable[[bytes, np.random.Generator], bytes]


def exact(value: Any) -> Any:  # noqa: ANN401 - what any reader returns
    """Return a value in a form whose equality is that of every bit: arrays as bytes, NaN equal to itself."""
    if isinstance(value, np.ndarray):
        return (value.dtype.str, value.shape, value.tolist() if value.dtype == object else value.tobytes())
    if isinstance(value, torch.Tensor):
        return exact(value.numpy())
    if isinstance(value, dict):
        return {key: exact(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [exact(inner) for inner in value]
    if hasattr(value, "__dataclass_fields__"):
        return {name: exact(getattr(value, name)) for name in value.__dataclass_fields__}
    return repr(value)


def read_store(folder: Path) -> Any:  # noqa: ANN401
    """Return all that readers get from a store."""
    store = Store.open(str(folder))
    snapshot = store.snapshot()
    found: list[Any] = [list(snapshot.documents()), snapshot.faults, list(snapshot.versions({0, 1, 2, 3}))]
    for modality in MODALITIES:
        for fingerprint, description in store.encoders(modality).items():
            rows = sorted(store.read(modality, fingerprint), key=lambda row: row.doc_id)
            found += [description, rows, store.quarantined(modality, fingerprint)]
    info = {name: value for name, value in store_info(store).items() if name != "uri"}
    for encoder in info["encoders"]:
        del encoder["commits_size_bytes"]  # the size of the file that was cut, which is no result
    return [*found, info]


def read_trials(folder: Path) -> Any:  # noqa: ANN401
    return read_journal(folder / RunFile.TRIALS)


def read_model(folder: Path) -> Any:  # noqa: ANN401
    return Hilbert.from_pretrained(folder).predict(make.features(12))


def read_checkpoints(folder: Path) -> Any:  # noqa: ANN401
    """Return the state that training resumes from."""
    checkpoints = Checkpoints(str(folder), "a")
    return checkpoints.read(checkpoints.newest())


FOLDS = Folds(
    doc_ids=np.array([f"d{i}" for i in range(8)]), groups=np.array([f"g{i}" for i in range(8)]),
    assignment=np.arange(16).reshape(2, 8) % 4,
)  # fmt: skip
FEATURES = tables.labelled(12, 3)
RESULTS = [tables.result_of(FEATURES, fold, i) for i, fold in enumerate(tables.folds_of(12, 1, 3))]
FOLD = next(tables.folds_of(12, 1, 3))


def write_run(folder: Path) -> None:
    """Write what `evaluate`, `train` and `tune` leave in a run folder, with their own writers."""
    folder.mkdir()
    config = to_dict(Config(tasks=tables.TASKS))
    write_json(folder, RunFile.CONFIG, {"config": config, "data": "f00d", "encoders": {}, "versions": {}})
    tables.write(folder, FEATURES, RESULTS)
    scores = {task: {HILBERT: {"auc": {"pooled": 0.75, "within": 0.5}}} for task in tables.TASKS}
    write_metrics(folder, Evaluation({"tasks": scores}))
    history = [{"job": "seed 0", "epoch": i, "total": 1 / (i + 1), "rows": 7} for i in range(3)]
    write_lines(folder, RunFile.HISTORY, history)
    write_training(folder, {"state": {"both": {"audio": 0.1}}}, history)
    trials = [
        {"settings": {"loss.cka": 0.1 * i}, "score": 0.5, "folds": [0.5], "is_default": i == 0}
        for i in range(4)
    ]
    write_tune(folder, {"trials": 4, "best": {"loss.cka": 0.1}}, {"all": trials})


def write_folds_file(folder: Path) -> None:
    write_folds(FOLDS, f"{folder}/folds.parquet")


def write_best_settings(folder: Path) -> None:
    folder.mkdir()
    text = "# Made by `hilbert-ray tune`.\n" + yaml.safe_dump(to_dict(Config(tasks=tables.TASKS)))
    (folder / "best.yaml").write_text(with_settings_checksum(text))


def write_fold(folder: Path) -> None:
    write_fold_result(folder / "fold.npz", RESULTS[0])


def write_model(folder: Path) -> None:
    torch.manual_seed(0)
    model().save_pretrained(folder)


def write_checkpoints(folder: Path) -> None:
    for epoch in (1, 2):
        state = TrainingState(
            job=0, epoch=epoch, network={"w": torch.arange(40.0) * epoch},
            optimizer={"w/step": torch.ones(1)}, finished={},
            history=[{"epoch": i, "total": 0.25} for i in range(epoch)],
        )  # fmt: skip
        Checkpoints(str(folder), "a").save(state)


def write_predictions(folder: Path) -> None:
    trained, features = model(), make.features(12)
    folder.mkdir()
    with parquet_writer(folder / "p.parquet", prediction_schema(trained)) as writer:
        writer.write_table(prediction_table(trained, features, trained.predict(features)))


def write_journal(folder: Path) -> None:
    folder.mkdir()
    write_tune(
        folder, {"trials": 2}, {"outer-0": [{"score": 0.5, "folds": [0.5]}, {"score": 0.75, "folds": [1.0]}]}
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Kind:
    """A kind of file: the writer of a folder that has it, the pattern of its path, and its reader.

    falls_back: whether readers may take what was written before it: the checkpoint or the line before.
    """

    write: Callable[[Path], Any]
    pattern: str
    read: Callable[[Path], Any]
    falls_back: bool = False


def write_golden(folder: Path) -> None:
    golden.write(str(folder))


def write_unindexed(folder: Path) -> None:
    golden.write(str(folder))
    for path in folder.glob("features/*/*/commits/*/index-*.jsonl"):
        path.unlink()


def write_indexed(folder: Path) -> None:
    golden.write(str(folder))
    for path in folder.glob("features/audio/*/commits/*/unit-*.json"):
        path.unlink()


def store(pattern: str, write: Callable[[Path], Any] = write_golden) -> Kind:
    return Kind(write=write, pattern=pattern, read=read_store)


def run(name: RunFile) -> Kind:
    return Kind(write=write_run, pattern=name.value, read=read_run)


KINDS = {
    "store.json": store("store.json"),
    "snapshot": store("documents/00000002.json"),
    "documents": store("documents/*.parquet"),
    "encoder.json": store("features/audio/*/encoder.json"),
    "commit": store("features/audio/*/commits/*/unit-3.json", write_unindexed),
    "index": store("features/audio/*/commits/*/index-*.jsonl", write_indexed),
    "data": store("features/audio/*/data/*/unit-1-*.parquet"),
    "config.json": run(RunFile.CONFIG),
    "metrics.json": run(RunFile.METRICS),
    "predictions.parquet": run(RunFile.PREDICTIONS),
    "embeddings.parquet": run(RunFile.EMBEDDINGS),
    "attention.parquet": run(RunFile.ATTENTION),
    "metrics.jsonl": run(RunFile.HISTORY),
    "training.json": run(RunFile.TRAINING),
    "tune.json": run(RunFile.TUNE),
    "trials.jsonl": run(RunFile.TRIALS),
    "journal": Kind(write=write_run, pattern=RunFile.TRIALS.value, read=read_trials, falls_back=True),
    "best.yaml": Kind(
        write=write_best_settings, pattern="best.yaml",
        read=lambda folder: Config.from_file(folder / "best.yaml"),
    ),
    "folds.parquet": Kind(
        write=write_folds_file, pattern="folds.parquet",
        read=lambda folder: read_folds(f"{folder}/folds.parquet", FOLDS.doc_ids, FOLDS.groups).assignment,
    ),
    "fold result": Kind(
        write=write_fold, pattern="fold.npz",
        read=lambda folder: read_fold_result(folder / "fold.npz", HILBERT, FOLD),
    ),
    "predictions of predict": Kind(
        write=write_predictions, pattern="p.parquet",
        read=lambda folder: explain(str(folder / "p.parquet"), make.features(12).doc_ids[3]),
    ),
    "weights of a model": Kind(write=write_model, pattern="model.safetensors", read=read_model),
    "config.json of a model": Kind(write=write_model, pattern="config.json", read=read_model),
    "weights of a checkpoint": Kind(
        write=write_checkpoints, pattern="checkpoints/a/000002-*.model.safetensors", read=read_checkpoints,
        falls_back=True,
    ),
    "state of a checkpoint": Kind(
        write=write_checkpoints, pattern="checkpoints/a/000002-*.state.json", read=read_checkpoints,
        falls_back=True,
    ),
}  # fmt: skip


def flip(data: bytes, rng: np.random.Generator) -> bytes:
    """Return the bytes with one bit flipped."""
    damaged = bytearray(data)
    damaged[rng.integers(len(data))] ^= 1 << int(rng.integers(8))
    return bytes(damaged)


def cut(data: bytes, rng: np.random.Generator) -> bytes:
    """Return the first of the bytes, at least one less than there are."""
    return data[: rng.integers(len(data))]


def outcome(read: Callable[[Path], Any], folder: Path, path: Path, allowed: Sequence[Any]) -> str:
    """Return what became of reading a damaged file; fail where that is none of the allowed ends.

    allowed: what it gave before, then what readers may fall back to, in the form of `exact`.
    """
    try:
        found = exact(read(folder))
    except HilbertError as error:
        message = str(error)
        assert "\n" not in message, message
        # Which file: by its name, or by the folder of a model, whose two files prove each other.
        assert path.name in message or str(folder) in message, message
        assert re.search("rerun|restore|run `|delete|write|publish", message), f"nothing to do: {message}"
        return "named error"
    assert found in allowed, f"other results from a damaged {path.name}"
    return "unchanged" if found == allowed[0] else "the one before"


def attack(kind: Kind, folder: Path, times: int, damage: Damage) -> Counter[str]:
    """Damage a file again and again, each time another way, and count what readers make of it."""
    [path] = folder.glob(kind.pattern)
    data, allowed = path.read_bytes(), [exact(kind.read(folder))]
    if kind.falls_back and path.suffix == ".jsonl":
        allowed += [allowed[0][:count] for count in range(len(allowed[0]))]
    elif kind.falls_back:
        path.unlink()
        allowed.append(exact(kind.read(folder)))
    rng, ends = np.random.default_rng(0), Counter[str]()
    for _ in range(times):
        path.write_bytes(damage(data, rng))
        ends[outcome(kind.read, folder, path, allowed)] += 1
    return ends


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Kind], Path]:
    """Return a function that gives a fresh copy of what a kind's writer writes, which it does only once."""
    folders: dict[Callable[[Path], Any], Path] = {}

    def copy(kind: Kind) -> Path:
        if kind.write not in folders:
            folders[kind.write] = tmp_path_factory.mktemp("written") / "whole"
            kind.write(folders[kind.write])
        return Path(shutil.copytree(folders[kind.write], tmp_path_factory.mktemp("damaged") / "copy"))

    return copy


@pytest.mark.parametrize("damage", [flip, cut])
@pytest.mark.parametrize("name", KINDS)
def test_a_damaged_file_gives_a_named_error_or_what_it_gave_before(
    name: str, damage: Damage, written: Callable[[Kind], Path]
) -> None:
    assert attack(KINDS[name], written(KINDS[name]), SHORT, damage).total() == SHORT


@pytest.mark.soak
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("damage", [flip, cut])
@pytest.mark.parametrize("name", KINDS)
def test_200_damages_of_each_kind(name: str, damage: Damage, written: Callable[[Kind], Path]) -> None:
    ends = attack(KINDS[name], written(KINDS[name]), SOAK, damage)
    assert ends.total() == SOAK
    counts = [f"{ends[end]:3}" for end in ("named error", "the one before", "unchanged")]
    print("", f"| {name} | {damage.__name__} |", " | ".join(counts), "|")


@pytest.mark.parametrize("name", [name for name, kind in KINDS.items() if kind.read is read_store])
def test_verify_finds_damage_and_after_repair_and_embed_nothing_is_left(
    name: str, written: Callable[[Kind], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = written(KINDS[name])
    [path] = folder.glob(KINDS[name].pattern)
    path.write_bytes(path.read_bytes()[:-9])
    # `info` reads no features.
    assert main(["store", "info", str(folder)]) == int(name != "data")
    assert len(capsys.readouterr().err.splitlines()) == int(name != "data")
    assert main(["store", "verify", str(folder), "--repair"]) == 1
    assert path.name in "".join(capsys.readouterr())
    if name == "store.json":
        return  # three documents do not tell the number of buckets
    golden.write(str(folder))
    left = list(verify_store(Store.open(str(folder)), repair=True))
    # Never deleted while it was the newest: the one before it would have counted.
    assert [problem.path for problem in left] == (["documents/00000002.json"] if name == "snapshot" else [])
    assert list(verify_store(Store.open(str(folder)))) == []


def test_a_damaged_store_of_an_older_version_never_ends_in_a_traceback(tmp_path: Path) -> None:
    """Its JSON and documents have no checksums: other values may be read, which only `embed` can end."""
    shutil.copytree(golden.GOLDEN, tmp_path / "store")
    rng = np.random.default_rng(0)
    for path in sorted((tmp_path / "store").rglob("*.*")):
        data = path.read_bytes()
        for damage in (flip, cut) * SHORT:
            path.write_bytes(damage(data, rng))
            with suppress(HilbertError):
                read_store(tmp_path / "store")
        path.write_bytes(data)


@pytest.mark.parametrize("name", [name for name, kind in KINDS.items() if kind.read is read_run])
def test_report_of_a_damaged_run_ends_in_one_line(
    name: str, written: Callable[[Kind], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = written(KINDS[name])
    path = folder / KINDS[name].pattern
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)
    assert main(["report", "--run", str(folder)]) == 1
    [shown] = capsys.readouterr().err.splitlines()
    assert str(path) in shown
    assert "is damaged" in shown
    assert not (folder / RunFile.REPORT).exists()


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
@pytest.mark.parametrize("damage", [flip, cut])
def test_predict_with_a_damaged_model_ends_in_one_line(
    name: str, damage: Damage, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_model(tmp_path / "model")
    path = tmp_path / "model" / name
    path.write_bytes(damage(path.read_bytes(), np.random.default_rng(3)))
    manifest, out = (
        make.manifest(tmp_path / "m.jsonl", [{"doc_id": "a", "text": "b"}]),
        tmp_path / "p.parquet",
    )
    words = ["predict", "--model", str(path.parent), "--manifest", manifest, "--out", str(out)]
    assert main(words) == 1
    [shown] = capsys.readouterr().err.splitlines()
    assert shown.startswith(f"hilbert-ray predict: {path} is damaged (")
    assert "rerun `hilbert-ray train`, which publishes the model again" in shown
    assert not out.exists()
