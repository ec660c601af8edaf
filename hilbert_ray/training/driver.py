"""`train`: `fit` with checkpoints, resume after any failure, and the published model folder.

One rank on one machine trains in the command's process. Several ranks, or any on a cluster, are DDP ranks of
Ray Train. Each resumes from the checkpoints of the other.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from hilbert_ray.cluster import connect, has_cluster, maps_removed_at_exit
from hilbert_ray.config import Config, ConfigError, LossConfig, to_dict
from hilbert_ray.features import Dataset, Features, open_dataset
from hilbert_ray.run import RESUME_ONLY, RunDir, RunFile, pending_lines, write_run_config, write_training
from hilbert_ray.storage import Workspace, absolute, open_workspace, parse_json
from hilbert_ray.training import distributed
from hilbert_ray.training.checkpoints import Checkpoints
from hilbert_ray.training.loop import EpochReport, fit
from hilbert_ray.training.records import PROGRESS_S, RecordWriter, logged_progress
from hilbert_ray.training.tracking import MlflowRun, MlflowTracker, mlflow_run, require_mlflow

HEALTH_CHECK_S = "0.5"
"""Seconds between two of Ray Train's polls of its ranks, for RAY_TRAIN_HEALTH_CHECK_INTERVAL_S. A training
ends with the poll after the last rank has returned, so that Ray's default of 2 s would lengthen short
ones."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainSummary:
    """What `train` did.

    model: path or URI of the published folder. documents: trained on. pending: by modality, documents that
    were not embedded yet and counted as lacking it. workers: ranks. heads: by task and by
    what a document has, the fields of `model.HeadWeights`. last: the record of the last epoch.
    """

    model: str
    documents: int
    pending: Mapping[str, int]
    workers: int
    heads: Mapping[str, Mapping[str, Mapping[str, float]]]
    last: Mapping[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)

    def text(self) -> str:
        """Return lines for a terminal."""
        terms = ", ".join(f"{name} {self.last[name]:.3g}" for name in ("loss", *LossConfig.WEIGHTS))
        plural = "" if self.workers == 1 else "s"
        lines = [f"trained on {self.documents} documents with {self.workers} worker{plural}"]
        return "\n".join(
            [*lines, *pending_lines(self.pending), f"last epoch: {terms}", f"model: {self.model}"]
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingSpec:
    """What every rank of a training needs to know, apart from the features.

    indices: the documents to train on, int64. encoders: descriptions that the model is published with. run:
    URI of the run. checkpoints: name of its checkpoints, which holds all that they depend on.
    """

    config: Config
    indices: np.ndarray
    encoders: Mapping[str, Any]
    run: str
    checkpoints: str


def train(
    store: str,
    out: str,
    config: Config | None = None,
    *,
    audio: str | None = None,
    text: str | None = None,
    allow_pending: bool = False,
) -> TrainSummary:
    """Train on every document of a store that is not held out by its `split`, and publish.

    RUN gets config.json, checkpoints/, metrics.jsonl, tensorboard/ and model/; with `train.mlflow` the same
    numbers go to MLflow. Rerun after a kill, it resumes from the last checkpoint and ends with the same
    losses. One rank trains in this process, unless RAY_ADDRESS names a cluster or the program started one.

    Args:
        store: feature store, path or URI.
        out: folder of the run, path or URI.
        config: settings; None for the defaults.
        audio: which audio encoder, see `open_dataset`.
        text: which text encoder.
        allow_pending: go on although documents are not embedded yet, see `open_dataset`.

    Raises:
        PendingError: when documents are not embedded yet, without `allow_pending`.
        ConfigError: for settings that do not fit the store, when there is no document to train on, or when
            MLflow or a GPU is requested and cannot be used.
        SplitError: when the documents of a group are of several splits.
        NotFiniteError: when a loss or gradient is NaN or infinite.
    """
    config = config or Config()
    if config.train.mlflow:
        require_mlflow()  # before reading the store, which may take minutes
    dataset = open_dataset(store, config, audio, text, held_out=False, allow_pending=allow_pending)
    with maps_removed_at_exit(dataset.features.mapped_files), open_workspace(out, RESUME_ONLY) as run:
        # The resolved settings of `dataset` hold no URI: they are saved, and it may hold a password.
        return _train(run, dataset, config.train.mlflow)


def _train(run: Workspace, dataset: Dataset, mlflow_uri: str) -> TrainSummary:
    """Train in a run folder that is open, in this process or on ranks of Ray Train."""
    write_run_config(run, dataset)
    spec = _training_spec(run, dataset)
    settings = spec.config.train
    is_alone = settings.workers == 1 and not has_cluster()
    if is_alone and settings.gpu and not torch.cuda.is_available():
        raise ConfigError(
            "train.gpu is set, but torch finds no GPU on this machine; remove it, or set RAY_ADDRESS to a "
            "cluster that has one"
        )
    values = {**to_dict(spec.config), "data": dataset.fingerprint}
    note = run.path / RunDir.MLFLOW / spec.checkpoints
    with mlflow_run(mlflow_uri, note, run.path.name, values) as mlflow, logged_progress(run):
        if is_alone:
            _train_here(spec, dataset.features, mlflow, run)
        else:
            connect()
            _train_on_ranks(spec, dataset.features, mlflow, run)
    # From the file and not from a return value: rank 0 may be a process on another machine.
    name = f"{run.uri}/{RunFile.TRAINING}"
    finished = parse_json(run.read(RunFile.TRAINING), name, "rerun `hilbert-ray train` to publish again")
    return TrainSummary(
        model=f"{run.uri}/{RunDir.MODEL}",
        documents=len(spec.indices),
        pending={str(modality): count for modality, count in dataset.pending.items()},
        workers=settings.workers,
        heads=finished["heads"],
        last=finished["last"],
    )


def _training_spec(run: Workspace, dataset: Dataset) -> TrainingSpec:
    """Return what the ranks are to do: train on all documents of the dataset."""
    encoders: dict[str, Any] = {str(modality): described for modality, described in dataset.encoders.items()}
    if dataset.recognizers and "text" in encoders:
        # Whoever predicts needs to know which words the text features are of.
        encoders["text"] = {**encoders["text"], "recognizers": dataset.recognizers}
    for modality, count in dataset.pending.items():
        if count and modality in encoders:
            # The model outlives the store's state: it was trained as if these documents had no such modality.
            encoders[modality] = {**encoders[modality], "pending": count}
    return TrainingSpec(
        config=dataset.config,
        indices=np.arange(len(dataset.features)),
        encoders=encoders,
        run=absolute(run.uri),
        # All that the numbers depend on: other settings or data never resume from these checkpoints.
        checkpoints=f"{dataset.fingerprint}-{_digest(dataset.config)}",
    )


def _digest(config: Config) -> str:
    """Return a hash of the settings that training depends on."""
    values = to_dict(config)
    # Of `train` only the number of ranks counts, for they draw their own dropout; not how often one may fail.
    values["train"] = {"workers": config.train.workers}
    del values["asr"], values["recognition"]  # they made the transcripts, which the data's fingerprint is of
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


def _train_here(spec: TrainingSpec, features: Features, mlflow: MlflowRun | None, run: Workspace) -> None:
    """Train as the only rank, in this process: starting Ray would take longer than many a training."""
    settings = spec.config.train
    threads_before = torch.get_num_threads()
    torch.set_num_threads(max(int(settings.cpus_per_worker), 1))  # as many as Ray gives a rank
    try:
        newest = Checkpoints(spec.run, spec.checkpoints).newest()
        device = torch.device("cuda" if settings.gpu else "cpu")
        _train_rank(spec, features, mlflow, run, newest, device)
        run.save()
    finally:
        torch.set_num_threads(threads_before)


def _train_on_ranks(spec: TrainingSpec, features: Features, mlflow: MlflowRun | None, run: Workspace) -> None:
    """Train on ranks of Ray Train, which starts all of them again when one fails."""
    import ray.train.torch  # two seconds, which a rank in this process does without

    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", HEALTH_CHECK_S)
    settings = spec.config.train
    # Ray shows a loop's settings, but not what is in its object store: an MLflow URI may hold a password.
    ray.train.torch.TorchTrainer(
        train_worker,
        train_loop_config={"spec": spec, "features": ray.put(features), "mlflow": ray.put(mlflow)},
        torch_config=ray.train.torch.TorchConfig(backend="nccl" if settings.gpu else "gloo"),
        scaling_config=ray.train.ScalingConfig(
            num_workers=settings.workers,
            use_gpu=settings.gpu,
            resources_per_worker=None if settings.gpu else {"CPU": settings.cpus_per_worker},
        ),
        run_config=ray.train.RunConfig(
            name=spec.checkpoints,
            **run.storage(RunDir.CHECKPOINTS),
            failure_config=ray.train.FailureConfig(
                max_failures=settings.max_failures,
                # Of its controller, which a full disk fails: Ray's default is to try for ever.
                controller_failure_limit=settings.max_failures,
            ),
        ),
    ).fit()


def train_worker(settings: Mapping[str, Any]) -> None:
    """Train as one rank of Ray Train; rank 0 writes checkpoints and records, and publishes the model."""
    import ray.train.collective
    import ray.train.torch

    spec: TrainingSpec = settings["spec"]
    features, mlflow = ray.get([settings["features"], settings["mlflow"]])
    # One rank chooses: workers of a killed driver may write another checkpoint in between, and ranks that
    # resume from different epochs would wait for each other forever.
    newest = Checkpoints(spec.run, spec.checkpoints).newest() if distributed.rank() == 0 else ""
    newest = ray.train.collective.broadcast_from_rank_zero(newest)
    with open_workspace(spec.run, RESUME_ONLY) if distributed.rank() == 0 else nullcontext() as run:
        _train_rank(spec, features, mlflow, run, newest, ray.train.torch.get_device())


def _train_rank(
    spec: TrainingSpec,
    features: Features,
    mlflow: MlflowRun | None,
    run: Workspace | None,
    newest: str,
    device: torch.device,
) -> None:
    """Train as one rank, from the checkpoint `newest` unless that is empty; the rank with a `run` writes."""
    checkpoints = Checkpoints(spec.run, spec.checkpoints)
    resume = checkpoints.read(newest) if newest else None
    writer = None
    if run:
        tracker = MlflowTracker(mlflow) if mlflow else None
        writer = RecordWriter(run.path, resume.history if resume else [], tracker)

    def report(epoch: EpochReport) -> None:
        if run and writer:
            writer.write(epoch.record)
            run.save(every_s=PROGRESS_S)
            done = int(epoch.record["epoch"]) + 1
            # Of the final epoch always: a rerun of a finished training then publishes without training.
            if done % spec.config.train.checkpoint_epochs == 0 or epoch.is_final:
                checkpoints.save(epoch.checkpoint())

    # All ranks train and return the same networks; one of them writes.
    trained = fit(spec.config, features, spec.indices, report, resume, device=device)
    if run and writer:
        writer.close()
        trained.model(spec.encoders).save_pretrained(run.path / RunDir.MODEL)
        write_training(run.path, trained.plain_heads(), trained.history)
