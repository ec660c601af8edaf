"""Training under Ray: the numbers of one process, whatever dies, and the published folder."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import fsspec
import mlflow
import numpy as np
import pytest
import ray
import torch
from safetensors.torch import load_file
from tensorboardX.proto.event_pb2 import Event

from hilbert_ray import metrics
from hilbert_ray.config import Config, ConfigError, FitConfig, FoldsConfig, ModelConfig, TrainConfig, to_dict
from hilbert_ray.evaluation.cross_validation import gather
from hilbert_ray.features.dataset import Dataset, open_dataset
from hilbert_ray.features.memory_map import map_folder
from hilbert_ray.model.hilbert import Hilbert
from hilbert_ray.run.fold_results import FoldResult
from hilbert_ray.storage.files import DamagedError, Files
from hilbert_ray.storage.json_files import parse_json_lines
from hilbert_ray.store.sorting import write_snapshot
from hilbert_ray.store.store import Store
from hilbert_ray.training.checkpoints import Checkpoints, TrainingState
from hilbert_ray.training.driver import TrainSummary, train
from hilbert_ray.training.loop import TrainedNetworks, fit
from hilbert_ray.training.records import record_line
from tests import make

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("one_thread", "ray_cluster")]

STILL = ModelConfig(dim=16, hops=2, dropout=0.0, wide_dropout=0.0, segment_dropout=0.0, modality_dropout=0.0)
CONFIG = Config(
    model=STILL,
    fit=FitConfig(epochs=3, seeds=2, batch_size=16, learning_rate=1e-2),
    folds=FoldsConfig(inner=2),
    train=TrainConfig(workers=2, checkpoint_epochs=1),
)
OTHER = replace(CONFIG, fit=replace(CONFIG.fit, epochs=2), train=TrainConfig(workers=1, checkpoint_epochs=1))
EPOCHS = [(job, epoch) for job in ("inner 0", "inner 1", "seed 0", "seed 1") for epoch in range(3)]


@pytest.fixture(scope="module", autouse=True)
def quick_reports() -> Iterator[None]:
    """Let Ray Train look for reports ten times a second instead of every two seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.1")
        yield


@dataclass(frozen=True, kw_only=True, slots=True)
class Trained:
    """One undisturbed run of `train` on two ranks; `plain` is `fit` of the same in this process."""

    run: Path
    summary: TrainSummary
    dataset: Dataset
    indices: np.ndarray
    plain: TrainedNetworks


@pytest.fixture(scope="module")
def trained(one_thread: None, embedded: make.Embedded, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    run = tmp_path_factory.mktemp("trained") / "run"
    summary = train(embedded.store, str(run), CONFIG)
    dataset = open_dataset(embedded.store, CONFIG)
    kept = [i for i, doc_id in enumerate(dataset.features.doc_ids) if doc_id not in ("d027", "d030")]
    indices = np.array(kept, np.int64)
    plain = fit(dataset.config, dataset.features, indices)
    return Trained(run=run, summary=summary, dataset=dataset, indices=indices, plain=plain)


def history(run: Path) -> list[dict[str, Any]]:
    """Return the whole lines of metrics.jsonl."""
    path = run / "metrics.jsonl"
    return parse_json_lines(path.read_bytes() if path.exists() else b"", str(path), "")


def assert_same_training(run: Path, expected: Path, rtol: float = 0.0) -> None:
    """Check that two runs went through the same losses to the same weights."""
    records, expected_records = history(run), history(expected)
    assert [(r["job"], r["epoch"]) for r in records] == [(r["job"], r["epoch"]) for r in expected_records]
    for record, expected_record in zip(records, expected_records, strict=True):
        assert sorted(record) == sorted(expected_record)
        for name, value in record.items():
            if name not in ("job", "documents_per_s", "left_s"):
                assert value == pytest.approx(expected_record[name], rel=rtol, abs=rtol), name
    weights, others = (load_file(folder / "model" / "model.safetensors") for folder in (run, expected))
    assert sorted(weights) == sorted(others)
    for name, tensor in weights.items():
        torch.testing.assert_close(tensor, others[name], rtol=rtol, atol=rtol, msg=name)


def test_the_published_folder_predicts_and_names_its_encoders(trained: Trained) -> None:
    assert trained.summary.model == str(trained.run / "model")
    assert sorted(path.name for path in (trained.run / "model").iterdir()) == [
        "README.md",
        "config.json",
        "model.safetensors",
    ]
    model = Hilbert.from_pretrained(trained.run / "model")
    assert model.encoders == json.loads(json.dumps(trained.dataset.encoders))
    assert model.config == trained.dataset.config
    heads = {task: {m: asdict(w) for m, w in of_task.items()} for task, of_task in model.heads.items()}
    for weights in (weights for of_task in heads.values() for weights in of_task.values()):
        weights.pop("offsets")  # which only the model needs
    assert heads == trained.summary.heads
    prediction = model.predict(trained.dataset.features)
    for task, probabilities in prediction.probabilities.items():
        assert len(probabilities) == 32
        assert np.isfinite(probabilities).all(), task
    assert trained.summary.model in trained.summary.text()
    assert trained.summary.to_dict()["last"] == history(trained.run)[-1]


def test_there_is_one_record_for_each_job_and_epoch_in_order(trained: Trained) -> None:
    records = history(trained.run)
    assert [(record["job"], record["epoch"]) for record in records] == EPOCHS
    first = records[0]
    assert record_line(first).startswith(f"inner 0, epoch 0: loss {first['loss']:.4g}, ")
    assert record_line(first).endswith(f", {first['left_s']:.0f} s left")
    assert {"information_audio", "saturation_text", "effective_experts", "documents_per_s"} <= first.keys()
    left = [record["left_s"] * record["documents_per_s"] for record in records]
    assert left[5:] == pytest.approx([180, 150, 120, 90, 60, 30, 0])
    assert left == sorted(left, reverse=True)


def scalars(folder: Path) -> dict[tuple[str, int], float]:
    """Return what TensorBoard would read: the value of each tag and step."""
    values: dict[tuple[str, int], float] = {}
    for path in folder.iterdir():
        data = path.read_bytes()
        while data:  # length (8 bytes), its checksum (4), an event, its checksum (4)
            size = int.from_bytes(data[:8], "little")
            event = Event.FromString(data[12 : 12 + size])
            values |= {(v.tag, event.step): v.simple_value for v in event.summary.value}
            data = data[16 + size :]
    return values


def test_tensorboard_shows_every_number_of_the_records(trained: Trained) -> None:
    expected = {
        (f"{name}/{record['job'].replace(' ', '_')}", record["epoch"]): pytest.approx(value, rel=1e-6)
        for record in history(trained.run)
        for name, value in record.items()
        if isinstance(value, float)
    }
    assert scalars(trained.run / "tensorboard") == expected


def test_two_ranks_train_as_one_process_does_on_the_same_documents(trained: Trained) -> None:
    """Documents of the splits validation and test are none of them."""
    assert trained.summary.documents == len(trained.indices) == 30
    for record, expected_record in zip(history(trained.run), trained.plain.history, strict=True):
        assert record["loss"] == pytest.approx(expected_record["loss"], rel=1e-5, abs=1e-5)
    model = Hilbert.from_pretrained(trained.run / "model")
    features = trained.dataset.features
    prediction, expected = model.predict(features), trained.plain.model().predict(features)
    for task, probabilities in expected.probabilities.items():
        np.testing.assert_allclose(prediction.probabilities[task], probabilities, atol=1e-3, err_msg=task)
    for one, other in zip(prediction.embeddings, expected.embeddings, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-3)
    labelled = features.targets["topic"][trained.indices]
    assert model.labels["topic"].tolist() == [(labelled == 0).sum(), (labelled == 1).sum()]


def final_metrics(model: Hilbert, dataset: Dataset) -> dict[str, float]:
    """Return every number that `evaluate` would report of a model's predictions, by its path."""
    everyone, config = np.arange(len(dataset.features)), dataset.config
    prediction = model.predict(dataset.features)
    result = FoldResult(
        variant="hilbert", repeat=0, fold=0, test=everyone, probabilities=prediction.probabilities,
        decisions=prediction.decisions, heads={}, embeddings={}, attention={},
        trained_on=everyone, seconds=0.0,
    )  # fmt: skip
    numbers: dict[str, float] = {}

    def gather_numbers(path: str, value: Any) -> None:  # noqa: ANN401 - nested plain values
        if isinstance(value, Mapping):
            for key, inner in value.items():
                gather_numbers(f"{path}.{key}", inner)
        elif isinstance(value, float):
            numbers[path] = value

    for name, task in config.tasks.items():
        predictions = gather(dataset.features, task, name, [result])
        gather_numbers(name, metrics.evaluate_predictions(predictions, resamples=0))
        gather_numbers(name, {m: asdict(weights) for m, weights in model.heads[name].items()})
    return numbers


@pytest.mark.parametrize("workers", [2, pytest.param(4, marks=pytest.mark.soak)])
def test_final_metrics_do_not_depend_on_the_number_of_ranks(
    trained: Trained, embedded: make.Embedded, tmp_path: Path, workers: int
) -> None:
    """Every one is within 1e-3; those above 1, such as a calibration slope, within 1e-3 of their size."""
    run = trained.run
    if workers != 2:
        run = tmp_path / "run"
        train(embedded.store, str(run), replace(CONFIG, train=replace(CONFIG.train, workers=workers)))
    single = final_metrics(trained.plain.model(), trained.dataset)
    assert len(single) > 40
    assert final_metrics(Hilbert.from_pretrained(run / "model"), trained.dataset) == pytest.approx(
        single, rel=1e-3, abs=1e-3, nan_ok=True
    )


def test_mapped_features_train_as_those_in_memory_do(
    trained: Trained, embedded: make.Embedded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ranks have another temporary folder than the driver, as they would on another node."""
    theirs = map_folder()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    config = replace(CONFIG, fit=replace(CONFIG.fit, memory_gib=1e-9))
    dataset = open_dataset(embedded.store, config)
    plain = fit(dataset.config, dataset.features, trained.indices)
    assert [r["loss"] for r in plain.history] == [r["loss"] for r in trained.plain.history]
    del dataset
    names = open_dataset(embedded.store, config, held_out=False).features.mapped_files
    assert len(names) == 2
    seen: set[str] = set()
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.05):
            seen.update(name for name in names if (theirs / name).exists())

    watcher = threading.Thread(target=watch)
    watcher.start()
    train(embedded.store, str(tmp_path / "run"), config)
    done.set()
    watcher.join()
    assert_same_training(tmp_path / "run", trained.run)
    assert seen == set(names), "the ranks wrote files of their own"
    for place in (map_folder(), theirs):
        assert not [name for name in names if (place / name).exists()], "they go with the command"


DRIVER = """
import json, sys
import ray
from hilbert_ray.config import Config, from_dict
from hilbert_ray import train

train(sys.argv[1], sys.argv[2], from_dict(Config, json.loads(sys.argv[3])))
print("Ray runs:", ray.is_initialized())
"""


def driver(store: str, run: str, config: Config) -> list[str]:
    """Return a command that trains."""
    return [sys.executable, "-c", DRIVER, store, run, json.dumps(to_dict(config))]


def checkpoints_in(run: Path) -> int:
    return len(list(run.glob("checkpoints/*/*.state.json")))


def train_until_killed(store: str, run: Path, environment: Mapping[str, str]) -> list[dict[str, Any]]:
    """Train with `OTHER` settings, kill the command after two checkpoints, and return the records so far."""
    older = checkpoints_in(run)
    command = subprocess.Popen(driver(store, str(run), OTHER), env=environment, start_new_session=True)
    deadline = time.monotonic() + 120
    while checkpoints_in(run) < min(older, 2) + 2 or len(history(run)) < 4:
        assert command.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline, "the run made no checkpoint"
        time.sleep(0.005)
    os.kill(command.pid, signal.SIGSTOP)  # or it would go on while its processes are looked for
    if "RAY_ADDRESS" not in environment:
        assert not descendants(command.pid), "one rank without a cluster starts no other process"
    os.kill(command.pid, signal.SIGKILL)
    command.wait()
    assert not (run / "model").exists(), "nothing was left at the kill"
    return history(run)


@dataclass(frozen=True, kw_only=True, slots=True)
class Resumed:
    """A run with `OTHER` settings whose driver was killed, run again at once on the same cluster.

    Workers of the dead driver may still linger. It happened in a copy of the folder of `Trained`, with its
    checkpoints. `before` are the records at the kill, `plain` is `fit` of the same in this process.
    """

    run: Path
    summary: TrainSummary
    before: list[dict[str, Any]]
    plain: TrainedNetworks


@pytest.fixture(scope="module")
def resumed(
    one_thread: None, trained: Trained, embedded: make.Embedded, tmp_path_factory: pytest.TempPathFactory
) -> Resumed:
    run = tmp_path_factory.mktemp("resumed") / "run"
    shutil.copytree(trained.run / "checkpoints", run / "checkpoints")
    assert checkpoints_in(run) == 2, "the last two are kept"
    address = ray.get_runtime_context().gcs_address
    before = train_until_killed(embedded.store, run, {**os.environ, "RAY_ADDRESS": address})
    summary = train(embedded.store, str(run), OTHER)
    config = replace(trained.dataset.config, fit=OTHER.fit)
    plain = fit(config, trained.dataset.features, trained.indices)
    return Resumed(run=run, summary=summary, before=before, plain=plain)


def test_a_driver_killed_midway_and_run_again_at_once_ends_as_an_undisturbed_one(resumed: Resumed) -> None:
    """One rank computes what this process does, so the losses and weights are equal to the last bit."""
    records = history(resumed.run)
    assert records[:2] == resumed.before[:2], "it started again from the first epoch"
    assert [r["loss"] for r in records] == [r["loss"] for r in resumed.plain.history]
    assert [(r["job"], r["epoch"]) for r in records] == [(job, epoch) for job, epoch in EPOCHS if epoch < 2]
    plain = resumed.plain.plain_heads()
    assert resumed.summary.heads.keys() == plain.keys()
    for task, by_modalities in plain.items():
        for modalities, numbers in by_modalities.items():
            assert resumed.summary.heads[task][modalities] == pytest.approx(numbers, rel=1e-6)
    weights = load_file(resumed.run / "model" / "model.safetensors")
    for name, tensor in resumed.plain.model().state_dict().items():
        assert torch.equal(weights[name], tensor), name


def test_other_settings_never_resume(resumed: Resumed, trained: Trained) -> None:
    """Checkpoints of more epochs on two ranks lay in the folder; each setting has its own."""
    assert len(list((resumed.run / "checkpoints").iterdir())) == 2
    timings = {r["documents_per_s"] for r in history(trained.run)}
    assert not timings & {r["documents_per_s"] for r in history(resumed.run)}


def test_a_finished_run_is_not_trained_again(
    resumed: Resumed, embedded: make.Embedded, tmp_path: Path
) -> None:
    """Its records, and in them how long each epoch took, come from the checkpoint."""
    run = tmp_path / "run"
    shutil.copytree(resumed.run / "checkpoints", run / "checkpoints")
    summary = train(embedded.store, str(run), OTHER)
    assert history(run) == history(resumed.run)
    assert replace(summary, model=resumed.summary.model) == resumed.summary
    assert_same_training(run, resumed.run)


needs_proc = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds processes in /proc")


def descendants(pid: int) -> dict[int, str]:
    """Return the processes that a process started, and those that they did, each with its command line."""
    parents: dict[int, int] = {}
    commands: dict[int, str] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
                commands[int(folder.name)] = (folder / "cmdline").read_text().replace("\0", " ")
            except OSError:  # it has ended meanwhile
                continue
    started: dict[int, str] = {}
    new = {pid}
    while new:
        new = {child for child, parent in parents.items() if parent in new}
        started |= {child: commands.get(child, "") for child in new}
    return started


@needs_proc
def test_one_rank_without_a_cluster_trains_in_the_command_and_resumes_with_or_without_one(
    resumed: Resumed, embedded: make.Embedded, object_store: str, tmp_path: Path
) -> None:
    """Killed, it resumes from a copy of its folder on an object store, and as a rank of Ray Train."""
    run, away = tmp_path / "run", f"{object_store}/{tmp_path.name}/run"
    before = train_until_killed(embedded.store, run, os.environ)
    assert [r["loss"] for r in before] == [r["loss"] for r in history(resumed.run)[: len(before)]]
    assert checkpoints_in(run) == 2
    s3 = fsspec.filesystem("s3")
    s3.put(f"{run}/", f"{away}/", recursive=True)
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    config = replace(OTHER, train=replace(OTHER.train, mlflow=uri))
    shown = subprocess.run(driver(embedded.store, away, config), capture_output=True, text=True, check=True)
    assert shown.stdout == "Ray runs: False\n"
    s3.get(f"{away}/", f"{tmp_path}/fetched/", recursive=True)
    train(embedded.store, str(run), OTHER)
    for finished in (tmp_path / "fetched", run):
        assert_same_training(finished, resumed.run)
        assert history(finished)[:2] == before[:2], "it started again from the first epoch"
        assert checkpoints_in(finished) == 2
    client = mlflow.MlflowClient(tracking_uri=uri)
    [logged] = client.search_runs([client.get_experiment_by_name("hilbert-ray").experiment_id])
    curve = client.get_metric_history(logged.info.run_id, "loss/seed_0")
    losses = [(r["epoch"], r["loss"]) for r in history(run) if r["job"] == "seed 0"]
    assert sorted((metric.step, metric.value) for metric in curve) == losses


def test_ray_that_a_command_has_started_counts_as_no_cluster() -> None:
    """In one program, `embed` may have started it; one rank then still trains in the process."""
    code = (
        "import ray; from hilbert_ray.cluster import connect, has_cluster\n"
        "seen = [has_cluster()]; connect(); seen.append(has_cluster())\n"
        "ray.shutdown(); seen.append(has_cluster())\n"
        "ray.init('local', include_dashboard=False, log_to_driver=False); seen.append(has_cluster())\n"
        "print(seen)"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.splitlines()[-1] == "[False, False, False, True]"


def test_a_gpu_that_is_not_there_is_refused_before_training(embedded: make.Embedded, tmp_path: Path) -> None:
    config = replace(OTHER, train=TrainConfig(gpu=True))
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    command = driver(embedded.store, str(tmp_path / "run"), config)
    shown = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (
        "train.gpu is set, but torch finds no GPU on this machine; remove it, or set RAY_ADDRESS"
        in shown.stderr
    )
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_a_loss_that_is_not_finite_ends_the_command_with_one_message(
    embedded: make.Embedded, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "hilbert_ray", "train", "--store", embedded.store]
    words = ["--out", str(tmp_path / "run"), "--fit.learning-rate", "1000", "--folds.inner", "0"]
    done = subprocess.run([*command, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    message = r"hilbert-ray train: seed 0, epoch \d+, step \d+: .*Lower fit\.learning_rate, or check .*"
    assert re.fullmatch(message, done.stderr.splitlines()[-1])


def state(epochs: int) -> TrainingState:
    """Return a training state after this many epochs."""
    return TrainingState(
        job=0, epoch=epochs, network={"w": torch.full((3,), float(epochs))}, optimizer={}, finished={},
        history=[{"epoch": i} for i in range(epochs)],
    )  # fmt: skip


@pytest.mark.parametrize("where", ["local", "object store"])
def test_the_newest_two_checkpoints_are_kept_and_an_incomplete_one_is_ignored(
    where: str, object_store: str, tmp_path: Path
) -> None:
    run = str(tmp_path / "run") if where == "local" else f"{object_store}/{tmp_path.name}/run"
    checkpoints, others = Checkpoints(run, "a"), Checkpoints(run, "b")
    assert checkpoints.newest() == ""
    others.save(state(99))
    for epochs in (1, 2, 3, 10):
        checkpoints.save(state(epochs))
        assert checkpoints.read(checkpoints.newest()).network["w"].tolist() == [epochs] * 3
    checkpoints.save(state(2))  # by a worker that has outlived its driver
    files = Files(run)
    assert [int(name.partition("/a/")[2][:6]) for name in files.names("checkpoints/a")] == [3, 3, 10, 10]
    newest_state = checkpoints.read(checkpoints.newest())
    assert (newest_state.epoch, newest_state.history) == (10, state(10).history)
    newest = f"checkpoints/a/{checkpoints.newest()}"
    files.put("checkpoints/a/000011-00000000.model.safetensors", files.read(f"{newest}.model.safetensors"))
    assert f"checkpoints/a/{checkpoints.newest()}" == newest, "its state.json was never written"
    files.put(f"{newest}.model.safetensors", b"damaged")
    with pytest.raises(DamagedError, match=rf"{newest}.* is damaged .*delete it to start again"):
        checkpoints.read(newest.rpartition("/")[2])
    assert checkpoints.read(checkpoints.newest()).epoch == 3, "the one before, of the two that are kept"
    before = f"checkpoints/a/{checkpoints.newest()}.model.safetensors"
    flipped = bytearray(files.read(before))
    flipped[-1] ^= 1
    files.put(before, bytes(flipped))
    with pytest.raises(DamagedError, match=r"is damaged \(its sha256 differs"):
        checkpoints.read(before.rpartition("/")[2].removesuffix(".model.safetensors"))
    with pytest.raises(DamagedError, match=rf"{newest}.* is damaged"):
        checkpoints.newest()


def train_with_a_rank_killed(
    store: str, run: Path, records: int, delay_s: float, config: Config = CONFIG
) -> None:
    """Run `train` and kill one of its ranks `delay_s` seconds after this many epochs."""
    killed: list[int] = []

    def ranks() -> set[int]:
        return {pid for pid, command in descendants(os.getpid()).items() if "RayTrainWorker" in command}

    older = ranks()  # of trainings before, which Ray may not have ended yet

    def kill() -> None:
        deadline = time.monotonic() + 120
        while len(history(run)) < records and time.monotonic() < deadline:
            time.sleep(0.002)
        time.sleep(delay_s)
        for pid in sorted(ranks() - older)[:1]:
            os.kill(pid, signal.SIGKILL)
            killed.append(pid)

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        train(store, str(run), config)
    finally:
        killer.join()
    assert len(killed) == 1


@needs_proc
def test_a_rank_that_is_killed_takes_nothing_with_it(
    trained: Trained, embedded: make.Embedded, tmp_path: Path
) -> None:
    """MLflow has each epoch once, in one run; its URI, which may hold a password, is saved nowhere."""
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    config = replace(CONFIG, train=replace(CONFIG.train, mlflow=uri))
    train_with_a_rank_killed(embedded.store, tmp_path / "run", records=4, delay_s=0.0, config=config)
    assert_same_training(tmp_path / "run", trained.run)
    client = mlflow.MlflowClient(tracking_uri=uri)
    [logged] = client.search_runs([client.get_experiment_by_name("hilbert-ray").experiment_id])
    assert logged.info.status == "FINISHED"
    assert logged.data.params["fit.batch_size"] == "16"
    for job in dict(EPOCHS):
        losses = [(r["epoch"], r["loss"]) for r in history(tmp_path / "run") if r["job"] == job]
        curve = client.get_metric_history(logged.info.run_id, f"loss/{job.replace(' ', '_')}")
        assert sorted((metric.step, metric.value) for metric in curve) == losses
    for path in (tmp_path / "run").rglob("*"):
        assert path.is_dir() or b"sqlite:" not in path.read_bytes(), path


@needs_proc
@pytest.mark.soak
@pytest.mark.parametrize("moment", range(10))
def test_a_rank_may_be_killed_at_any_moment(
    trained: Trained, embedded: make.Embedded, tmp_path: Path, moment: int
) -> None:
    rng = np.random.default_rng(moment)
    records, delay_s = int(rng.integers(0, 10)), float(rng.uniform(0.0, 0.1))
    train_with_a_rank_killed(embedded.store, tmp_path / "run", records, delay_s)
    assert_same_training(tmp_path / "run", trained.run)


def test_a_store_whose_documents_are_all_held_out_is_refused(tmp_path: Path) -> None:
    from hilbert_ray.encoders.registry import build_encoder

    store = Store.create(str(tmp_path / "store"), 1)
    documents = [
        make.stored(name, row=i, split="test", labels={"topic": name}) for i, name in enumerate("ab", 1)
    ]
    write_snapshot(store, documents)
    encoder = build_encoder("mfcc", "audio", CONFIG.audio_encoder, CONFIG.segment)
    store.add_encoder("audio", encoder.fingerprint, encoder.describe())
    rows = [
        make.feature_row(item.document.doc_id, item.source("audio"), dim=120)
        for item in store.snapshot().documents()
    ]
    store.commit("audio", encoder.fingerprint, unit="u", bucket=0, rows=rows)
    with pytest.raises(
        ConfigError, match=r"all 2 documents of store .* are of the splits validation and test"
    ):
        train(store.uri, str(tmp_path / "run"), CONFIG)
