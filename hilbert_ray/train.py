"""`fit` with checkpoints, resume after any failure and the published folder.

One rank on a machine of its own trains in the command's process. Several, or any on a cluster, are DDP ranks
of Ray Train; either goes on from the checkpoints of the other.
"""

import hashlib
import json
import logging
import os
import re
import secrets
import shutil
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tensorboardX import SummaryWriter

from hilbert_ray import distributed, tracking
from hilbert_ray.batch import Features
from hilbert_ray.checkpoint import STATE_FILES, CheckpointError, TrainingState, restore, save
from hilbert_ray.cluster import connect, is_given, removed_at_the_end
from hilbert_ray.config import Config, ConfigError, LossConfig, to_dict
from hilbert_ray.dataset import Dataset, open_dataset, save_run
from hilbert_ray.fit import Progress, fit
from hilbert_ray.folders import APART, Folder, folder
from hilbert_ray.store import Files, absolute

log = logging.getLogger(__name__)

NOT_READ = (*APART, "folds", "search")  # what other steps keep in a run
SHOWN_S = 5.0  # how often progress is shown and, on an object store, saved
ASKED_S = "0.5"  # how often Ray asks ranks for news: a run ends when it hears that they have
_CHECKPOINT = re.compile(r"/(\d{6}-[0-9a-f]{8})\.(model\.safetensors|state\.json)$")


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
    losses. One rank trains in this process, unless RAY_ADDRESS names a cluster or the program started one.

    Args:
        store: feature store.
        out: folder of the run, path or URI.
        config: settings.
        audio: which audio encoder, see `open_dataset`.
        text: which text encoder.

    Raises:
        ConfigError: for settings that do not fit the store, when no document is left to train on, or when
            MLflow or a GPU is asked for and cannot be used.
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
    settings = dataset.config.train
    is_alone = settings.workers == 1 and not is_given()
    if is_alone and settings.gpu and not torch.cuda.is_available():
        raise ConfigError(
            "train.gpu is set, but torch finds no GPU on this machine; leave it out, or set RAY_ADDRESS to a "
            "cluster that has one"
        )
    # The name holds what the run depends on: other settings or data never resume from its checkpoints.
    name = f"{dataset.fingerprint}-{_digest(dataset.config)}"
    work = Work(
        config=dataset.config,
        indices=indices,
        encoders={str(modality): about for modality, about in dataset.encoders.items()},
        run=absolute(run.uri),
        name=name,
    )
    values = {**to_dict(dataset.config), "data": dataset.fingerprint}
    with tracking.run(mlflow, run.path / "mlflow" / name, run.path.name, values) as run_id, _shown(run):
        if is_alone:
            _train_here(work, dataset.features, (mlflow, run_id), run)
        else:
            connect()
            _train_on_ranks(work, dataset.features, (mlflow, run_id), run)
    finished = json.loads(run.read("training.json"))
    return Summary(
        model=f"{run.uri}/model",
        documents=len(indices),
        workers=settings.workers,
        temperature=finished["temperature"],
        last=finished["last"],
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Work:
    """What each rank is to do.

    indices: the documents to train on, int64; encoders: descriptions that the model is published with; run:
    URI of the run; name: of its checkpoints.
    """

    config: Config
    indices: np.ndarray
    encoders: Mapping[str, Any]
    run: str
    name: str


def _train_here(work: Work, features: Features, mlflow: tuple[str, str], run: Folder) -> None:
    """Train as the one rank, in this process: starting Ray would take longer than many a training."""
    settings = work.config.train
    before = torch.get_num_threads()
    torch.set_num_threads(max(int(settings.cpus_per_worker), 1))  # as many as Ray gives a rank
    try:
        newest = Checkpoints(work.run, work.name).newest()
        device = torch.device("cuda" if settings.gpu else "cpu")
        _train_rank(work, features, mlflow, run, newest, device)
        run.save()
    finally:
        torch.set_num_threads(before)


def _train_on_ranks(work: Work, features: Features, mlflow: tuple[str, str], run: Folder) -> None:
    import ray.train.torch  # two seconds, which a rank in this process does without

    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", ASKED_S)
    settings = work.config.train
    # Ray shows the settings of a loop, but not what lies in its store: MLflow's URI may hold a password.
    ray.train.torch.TorchTrainer(
        train_worker,
        train_loop_config={"work": work, "features": ray.put(features), "mlflow": ray.put(mlflow)},
        torch_config=ray.train.torch.TorchConfig(backend="nccl" if settings.gpu else "gloo"),
        scaling_config=ray.train.ScalingConfig(
            num_workers=settings.workers,
            use_gpu=settings.gpu,
            resources_per_worker=None if settings.gpu else {"CPU": settings.cpus_per_worker},
        ),
        run_config=ray.train.RunConfig(
            name=work.name,
            **run.storage("checkpoints"),
            failure_config=ray.train.FailureConfig(max_failures=settings.max_failures),
        ),
    ).fit()


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


class Checkpoints:
    """The checkpoints of a run, RUN/checkpoints/NAME/EPOCHS-RANDOM.state.json and the tensors of each.

    A state.json is written last: a process that is killed leaves tensors without one, which count for
    nothing. Workers of a killed driver may still write for seconds, so no name is used twice.
    """

    def __init__(self, run: str, name: str) -> None:
        self._files, self._folder = Files(run), f"checkpoints/{name}"

    def save(self, state: TrainingState) -> None:
        """Write one, and delete all but the newest two."""
        name = f"{len(state.history):06}-{secrets.token_hex(4)}"
        with tempfile.TemporaryDirectory() as fresh:
            save(Path(fresh) / "state", state)
            for file in STATE_FILES:
                self._files.put_from(self._path(name, file), f"{fresh}/state/{file}")
        found = self._found()
        oldest_kept = _whole(found)[-2:][0]
        for match in reversed(found):  # a state.json before its tensors
            if match[1] < oldest_kept:
                self._files.delete(match.string)

    def newest(self) -> str:
        """Return the name of the newest one; empty where there is none."""
        return (_whole(self._found()) or [""])[-1]

    def read(self, name: str) -> TrainingState:
        """Read one back.

        Raises:
            CheckpointError: when it is damaged or of another schema version.
        """
        with tempfile.TemporaryDirectory() as fresh:
            for file in STATE_FILES:
                with suppress(FileNotFoundError):
                    (Path(fresh) / file).write_bytes(self._files.read(self._path(name, file)))
            try:
                return restore(Path(fresh))
            except CheckpointError as error:
                where = f"{self._files.uri}/{self._path(name, '')}"
                raise CheckpointError(str(error).replace(f"{fresh}/", where).replace(fresh, where)) from error

    def _path(self, name: str, file: str) -> str:
        return f"{self._folder}/{name}.{file}"

    def _found(self) -> list[re.Match[str]]:
        """Return all their files, oldest first; of each, group 1 is the checkpoint's name, 2 the file's."""
        found = map(_CHECKPOINT.search, self._files.names(self._folder))
        return [match for match in found if match]


def _whole(found: Sequence[re.Match[str]]) -> list[str]:
    """Return the names of the checkpoints that are whole, oldest first."""
    return [match[1] for match in found if match[2] == STATE_FILES[-1]]


def train_worker(settings: Mapping[str, Any]) -> None:
    """One rank under Ray Train: rank 0 writes checkpoints and metrics.jsonl and publishes the model."""
    import ray.train.collective
    import ray.train.torch

    work: Work = settings["work"]
    features, mlflow = ray.get([settings["features"], settings["mlflow"]])
    # One rank chooses: workers of a killed driver may write another checkpoint meanwhile.
    newest = Checkpoints(work.run, work.name).newest() if distributed.rank() == 0 else ""
    newest = ray.train.collective.broadcast_from_rank_zero(newest)
    with folder(work.run, NOT_READ) if distributed.rank() == 0 else nullcontext() as run:
        _train_rank(work, features, mlflow, run, newest, ray.train.torch.get_device())


def _train_rank(
    work: Work,
    features: Features,
    mlflow: tuple[str, str],
    run: Folder | None,
    newest: str,
    device: torch.device,
) -> None:
    """Train as one rank, from the checkpoint `newest` on; the one that has the run's folder writes to it."""
    config = work.config
    checkpoints = Checkpoints(work.run, work.name)
    resume = checkpoints.read(newest) if newest else None
    journal = None
    if run:
        uri, run_id = mlflow
        tracker = tracking.Tracker(uri, run_id) if uri else None
        journal = Journal(run.path, resume.history if resume else [], tracker)

    def report(progress: Progress) -> None:
        if run and journal:
            journal.write(progress.record)
            run.save(every_s=SHOWN_S)
            done = int(progress.record["epoch"]) + 1
            if done % config.train.checkpoint_epochs == 0 or progress.is_final:
                checkpoints.save(progress.state())

    fitted = fit(config, features, work.indices, report, resume, device=device)
    if run and journal:
        journal.close()
        fitted.model(work.encoders).save_pretrained(run.path / "model")
        values = {"temperature": fitted.temperature, "last": fitted.history[-1]}
        (run.path / "training.json").write_text(json.dumps(values, indent=1))


def line(record: Mapping[str, Any]) -> str:
    """Return one epoch's record as a line: losses, information, saturation, expert use, speed, time left."""
    shown = " ".join(f"{name} {value:.4g}" for name, value in record.items() if isinstance(value, float))
    return f"{record['job']} epoch {record['epoch']} {shown}"
