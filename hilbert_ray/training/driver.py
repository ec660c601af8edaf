"""`train`: `fit` with checkpoints, resume after any failure, and the published model folder.

One rank on one machine trains in the command's process. Several, or any on a cluster, are DDP ranks of Ray
Train; either resumes from the checkpoints of the other.
"""

import hashlib
import json
import logging
import os
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from hilbert_ray.cluster import connect, is_given, maps_removed_at_exit
from hilbert_ray.config import Config, ConfigError, LossConfig, to_dict
from hilbert_ray.features import Dataset, Features, open_dataset
from hilbert_ray.run import RESUME_ONLY, RunDir, RunFile, write_run_config, write_training
from hilbert_ray.storage import Workspace, absolute, open_workspace
from hilbert_ray.training import distributed
from hilbert_ray.training.checkpoints import Checkpoints
from hilbert_ray.training.loop import EpochProgress, fit
from hilbert_ray.training.records import SHOWN_S, EpochRecords, log_progress
from hilbert_ray.training.tracking import Tracker, mlflow_run, require_mlflow

log = logging.getLogger(__name__)
ASKED_S = "0.5"  # how often Ray asks ranks for news: a run ends when it hears that they have


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainSummary:
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
) -> TrainSummary:
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
        require_mlflow()
    dataset = open_dataset(store, config, audio, text)
    with maps_removed_at_exit(dataset.features.mapped_files), open_workspace(out, RESUME_ONLY) as run:
        return _train(store, run, dataset, config.train.mlflow)


def _train(store: str, run: Workspace, dataset: Dataset, mlflow: str) -> TrainSummary:
    write_run_config(run, dataset)
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
    work = RankTask(
        config=dataset.config,
        indices=indices,
        encoders={str(modality): about for modality, about in dataset.encoders.items()},
        run=absolute(run.uri),
        name=name,
    )
    values = {**to_dict(dataset.config), "data": dataset.fingerprint}
    mlflow_folder = run.path / RunDir.MLFLOW / name
    with mlflow_run(mlflow, mlflow_folder, run.path.name, values) as run_id, log_progress(run):
        if is_alone:
            _train_here(work, dataset.features, (mlflow, run_id), run)
        else:
            connect()
            _train_on_ranks(work, dataset.features, (mlflow, run_id), run)
    finished = json.loads(run.read(RunFile.TRAINING))
    return TrainSummary(
        model=f"{run.uri}/{RunDir.MODEL}",
        documents=len(indices),
        workers=settings.workers,
        temperature=finished["temperature"],
        last=finished["last"],
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class RankTask:
    """What each rank is to do.

    indices: the documents to train on, int64; encoders: descriptions that the model is published with; run:
    URI of the run; name: of its checkpoints.
    """

    config: Config
    indices: np.ndarray
    encoders: Mapping[str, Any]
    run: str
    name: str


def _train_here(work: RankTask, features: Features, mlflow: tuple[str, str], run: Workspace) -> None:
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


def _train_on_ranks(work: RankTask, features: Features, mlflow: tuple[str, str], run: Workspace) -> None:
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
            **run.storage(RunDir.CHECKPOINTS),
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


def _digest(config: Config) -> str:
    """Return a hash of the settings that training depends on; how often it may fail is none of them."""
    values = to_dict(config)
    values["train"] = {"workers": config.train.workers}
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


def train_worker(settings: Mapping[str, Any]) -> None:
    """One rank under Ray Train: rank 0 writes checkpoints and metrics.jsonl and publishes the model."""
    import ray.train.collective
    import ray.train.torch

    work: RankTask = settings["work"]
    features, mlflow = ray.get([settings["features"], settings["mlflow"]])
    # One rank chooses: workers of a killed driver may write another checkpoint meanwhile.
    newest = Checkpoints(work.run, work.name).newest() if distributed.rank() == 0 else ""
    newest = ray.train.collective.broadcast_from_rank_zero(newest)
    with open_workspace(work.run, RESUME_ONLY) if distributed.rank() == 0 else nullcontext() as run:
        _train_rank(work, features, mlflow, run, newest, ray.train.torch.get_device())


def _train_rank(
    work: RankTask,
    features: Features,
    mlflow: tuple[str, str],
    run: Workspace | None,
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
        tracker = Tracker(uri, run_id) if uri else None
        journal = EpochRecords(run.path, resume.history if resume else [], tracker)

    def report(progress: EpochProgress) -> None:
        if run and journal:
            journal.write(progress.record)
            run.save(every_s=SHOWN_S)
            done = int(progress.record["epoch"]) + 1
            if done % config.train.checkpoint_epochs == 0 or progress.is_final:
                checkpoints.save(progress.state())

    fitted = fit(config, features, work.indices, report, resume, device=device)
    if run and journal:
        journal.close()
        fitted.model(work.encoders).save_pretrained(run.path / RunDir.MODEL)
        write_training(run.path, fitted.temperature, fitted.history[-1])
