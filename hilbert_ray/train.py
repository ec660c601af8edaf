"""`fit` under Ray Train: DDP, checkpoints, resume after any failure, and the published folder."""

import hashlib
import json
import logging
import os
import shutil
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import ray
import ray.train
import ray.train.torch
from tensorboardX import SummaryWriter

from hilbert_ray import distributed, tracking
from hilbert_ray.batch import Features
from hilbert_ray.checkpoint import restore, save
from hilbert_ray.cluster import connect, removed_at_the_end
from hilbert_ray.config import Config, ConfigError, LossConfig, to_dict
from hilbert_ray.dataset import Dataset, open_dataset, save_run
from hilbert_ray.fit import Progress, fit
from hilbert_ray.folders import APART, Folder, folder
from hilbert_ray.store import absolute

log = logging.getLogger(__name__)

NOT_READ = (*APART, "folds", "search")  # what other steps keep in a run
SHOWN_S = 5.0  # how often progress is shown and, on an object store, saved
ASKED_S = "0.5"  # how often ranks are asked for news: a checkpoint waits for it, and so does the end


@dataclass(frozen=True, kw_only=True, slots=True)
class Summary:
    """What `train` did: where the model is, on how many documents and ranks, and the last epoch's record."""

    model: str
    documents: int
    workers: int
    temperature: Mapping[str, float]
    last: Mapping[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)

    def text(self) -> str:
        """Return lines for a terminal."""
        shown = ", ".join(f"{name} {self.last[name]:.3g}" for name in ("loss", *LossConfig.WEIGHTS))
        return (
            f"trained on {self.documents} documents with {self.workers} workers\n"
            f"last epoch: {shown}\nmodel: {self.model}"
        )


def train(
    store: str, out: str, config: Config, *, audio: str | None = None, text: str | None = None
) -> Summary:
    """Train on every document of a store (those of `split` train, where the manifest has splits) and publish.

    RUN gets config.json, checkpoints/, metrics.jsonl, tensorboard/ and model/; with `train.mlflow` the same
    numbers go to MLflow. Run again after a kill, it goes on from the last checkpoint and ends with the same
    losses.

    Args:
        store: feature store.
        out: folder of the run, path or URI.
        config: settings.
        audio: which audio encoder, see `open_dataset`.
        text: which text encoder.

    Raises:
        ConfigError: for settings that do not fit the store, when no document is left to train on, or when
            MLflow is asked for and cannot be used.
    """
    if config.train.mlflow:
        tracking.require()
    dataset = open_dataset(store, config, audio, text)
    with removed_at_the_end(dataset.features.mapped), folder(out, NOT_READ) as run:
        return _train(store, run, dataset, config.train.mlflow)


def _train(store: str, run: Folder, dataset: Dataset, mlflow: str) -> Summary:
    save_run(run, dataset)
    indices = _training_documents(dataset)
    if not len(indices):
        raise ConfigError(
            f"all {len(dataset.documents)} documents of store {store} are of the splits validation and test; "
            "`train` needs documents of split train, or without a split"
        )
    # The name holds what the run depends on: other settings or data never resume from its checkpoints.
    name = f"{dataset.fingerprint}-{_digest(dataset.config)}"
    note = run.path / "mlflow" / name
    values = {**to_dict(dataset.config), "data": dataset.fingerprint}
    with tracking.run(mlflow, note, run.path.name, values) as run_id, _shown(run):
        connect()
        os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", ASKED_S)
        # Ray shows the settings of a loop, but not what lies in its store.
        _trainer(dataset, indices, run, name, ray.put((mlflow, run_id))).fit()
    finished = json.loads(run.read("training.json"))
    return Summary(
        model=f"{run.uri}/model",
        documents=len(indices),
        workers=dataset.config.train.workers,
        temperature=finished["temperature"],
        last=finished["last"],
    )


def _trainer(
    dataset: Dataset,
    indices: np.ndarray,
    run: Folder,
    name: str,
    mlflow: Any,  # noqa: ANN401 - an object reference
) -> ray.train.torch.TorchTrainer:
    settings = dataset.config.train
    return ray.train.torch.TorchTrainer(
        train_worker,
        train_loop_config={
            "config": dataset.config,
            "features": ray.put(dataset.features),
            "indices": indices,
            "encoders": dataset.encoders,
            "run": absolute(run.uri),
            "mlflow": mlflow,
        },
        torch_config=ray.train.torch.TorchConfig(backend="nccl" if settings.gpu else "gloo"),
        scaling_config=ray.train.ScalingConfig(
            num_workers=settings.workers,
            use_gpu=settings.gpu,
            resources_per_worker=None if settings.gpu else {"CPU": settings.cpus_per_worker},
        ),
        run_config=ray.train.RunConfig(
            name=name,
            **run.storage("checkpoints"),
            failure_config=ray.train.FailureConfig(max_failures=settings.max_failures),
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=2),
        ),
    )


def _training_documents(dataset: Dataset) -> np.ndarray:
    """Return which documents to train on, int64: those of split train or of none.

    An align phase uses no labels, but what it sees of a speaker who is also in the validation or test split
    would make the scores there too good: it needs those groups left out.
    """
    held_out = {d.group for d in dataset.documents if d.split not in (None, "train")}
    kept = [i for i, d in enumerate(dataset.documents) if d.split in (None, "train")]
    if dataset.config.fit.align_epochs:
        shared = [i for i in kept if dataset.documents[i].group in held_out]
        if shared:
            log.warning(
                "%d documents of split train are left out: their groups have documents in the validation or "
                "test split, which an align phase may not see",
                len(shared),
            )
        kept = sorted(set(kept) - set(shared))
    return np.array(kept, dtype=np.int64)


@contextmanager
def _shown(run: Folder, every_s: float = SHOWN_S) -> Iterator[None]:
    """Log the newest record that rank 0 has written, every few seconds, as long as the context lasts."""
    done = threading.Event()

    def follow() -> None:
        seen = 0
        while not done.wait(every_s):
            written = run.read("metrics.jsonl").decode()
            lines = written.rpartition("\n")[0].splitlines()  # the last may be half written
            if len(lines) > seen:
                log.info("%s", line(json.loads(lines[-1])))
            seen = len(lines)

    (run.path / "metrics.jsonl").unlink(missing_ok=True)
    run.save()
    follower = threading.Thread(target=follow, daemon=True)
    follower.start()
    try:
        yield
    finally:
        done.set()
        follower.join()


def _digest(config: Config) -> str:
    """Return a hash of the settings that training depends on; how often it may fail is none of them."""
    values = to_dict(config)
    values["train"] = {"workers": config.train.workers}
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


class Journal:
    """Writes a run's records, one an epoch, to RUN/metrics.jsonl, RUN/tensorboard and MLflow."""

    def __init__(
        self, run: Path, history: Sequence[Mapping[str, Any]], tracker: tracking.Tracker | None = None
    ) -> None:
        """Begin with the records up to the checkpoint; what was logged after it happens again."""
        self.path = run / "metrics.jsonl"
        self.path.write_text("")
        shutil.rmtree(run / "tensorboard", ignore_errors=True)
        self.board = SummaryWriter(str(run / "tensorboard"))
        self.tracker = tracker
        for record in history:
            self.write(record)

    def write(self, record: Mapping[str, Any]) -> None:
        """Append a record; TensorBoard and MLflow show each number over epochs, a curve a network."""
        with self.path.open("a") as file:
            file.write(json.dumps(record) + "\n")
        network = record["job"].replace(" ", "_")  # TensorBoard's names have no spaces
        for name, value in record.items():
            if isinstance(value, float):
                self.board.add_scalar(f"{name}/{network}", value, record["epoch"])
        self.board.flush()
        if self.tracker:
            self.tracker.write(network, record)

    def close(self) -> None:
        """Finish the TensorBoard files."""
        self.board.close()


def train_worker(settings: Mapping[str, Any]) -> None:
    """One rank: `fit` with checkpoints; rank 0 writes metrics.jsonl and publishes the model."""
    with folder(settings["run"], NOT_READ) if distributed.rank() == 0 else nullcontext() as run:
        _train_rank(settings, run)


def _train_rank(settings: Mapping[str, Any], run: Folder | None) -> None:
    config: Config = settings["config"]
    features: Features = ray.get(settings["features"])
    checkpoint = ray.train.get_checkpoint()
    resume = None
    if checkpoint is not None:
        with checkpoint.as_directory() as held:
            resume = restore(Path(held) / "state")
    every = config.train.checkpoint_epochs
    journal = None
    if run:
        uri, run_id = ray.get(settings["mlflow"])
        tracker = tracking.Tracker(uri, run_id) if uri else None
        journal = Journal(run.path, resume.history if resume else [], tracker)

    def report(progress: Progress) -> None:
        record = progress.record
        if run and journal:
            journal.write(record)
            run.save(every_s=SHOWN_S)
        if (int(record["epoch"]) + 1) % every and not progress.is_final:
            return
        with tempfile.TemporaryDirectory() as fresh:
            made = None
            if journal:
                save(Path(fresh) / "state", progress.state())
                made = ray.train.Checkpoint.from_directory(fresh)
            ray.train.report({"loss": record["loss"], "epoch": record["epoch"]}, checkpoint=made)

    fitted = fit(config, features, settings["indices"], report, resume, device=ray.train.torch.get_device())
    if run and journal:
        journal.close()
        fitted.model(settings["encoders"]).save_pretrained(run.path / "model")
        values = {"temperature": fitted.temperature, "last": fitted.history[-1]}
        (run.path / "training.json").write_text(json.dumps(values, indent=1))


def line(record: Mapping[str, Any]) -> str:
    """Return one epoch's record as a line: losses, information, saturation, expert use, speed, time left."""
    shown = " ".join(f"{name} {value:.4g}" for name, value in record.items() if isinstance(value, float))
    return f"{record['job']} epoch {record['epoch']} {shown}"
