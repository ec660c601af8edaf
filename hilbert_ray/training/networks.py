"""Which networks a run trains: one for each inner fold first, then one for each seed."""

from dataclasses import dataclass, replace

import numpy as np
import torch

from hilbert_ray.config import Config
from hilbert_ray.features import Features, is_labelled
from hilbert_ray.folds import Fold, choose_strata, inner_folds
from hilbert_ray.model import Network

EARLY_STOPPING_FROM = 1000
"""Labelled documents of each task from which early stopping is used: in smaller sets the validation loss
would be that of a handful."""
RAREST_FROM = 100
"""Groups of a task's rarest class from which it is used: a tenth of them are validated on."""
VALIDATION_FOLDS = 10
"""One of this many group folds of a training part is held out for early stopping."""


@dataclass(frozen=True, kw_only=True, slots=True)
class NetworkJob:
    """One network to train.

    name: in records and logs. seed: of its weights, batches and dropout. train: its documents, int64. test:
    the documents that an inner fold holds out for the weights of the heads; None for a network that is kept.
    validation: the documents whose loss says when to stop, None without early stopping; nothing is fitted on
    them.
    """

    name: str
    seed: int
    train: np.ndarray
    test: np.ndarray | None = None
    validation: np.ndarray | None = None


def plan_networks(config: Config, features: Features, indices: np.ndarray) -> list[NetworkJob]:
    """Return the networks to train on the documents at `indices`, inner folds first.

    Large ones get a validation part. Deterministic: a resumed run plans the same.
    """
    seed = config.fit.seed
    targets = {name: values[indices] for name, values in features.targets.items()}
    # Strata of the whole training part, by document of `features`: all folds inside it are balanced by them.
    members = choose_strata(config.tasks, targets, features.groups[indices], config.folds).members
    strata = np.zeros((len(features), members.shape[1]), bool)
    strata[indices] = members

    def group_folds(train: np.ndarray, count: int) -> list[Fold]:
        return inner_folds(train, features.groups, strata, replace(config.folds, inner=count), seed)

    jobs = []
    # One network per inner fold, although the mean over seeds is what is published: three in each took twice
    # the time and gave no better probabilities (bench/NOTES.md).
    if config.folds.inner:
        for fold in group_folds(indices, config.folds.inner):
            jobs.append(NetworkJob(name=f"inner {fold.fold}", seed=seed, train=fold.train, test=fold.test))
    jobs += [
        NetworkJob(name=f"seed {seed + i}", seed=seed + i, train=indices) for i in range(config.fit.seeds)
    ]
    if config.fit.patience:
        for i, job in enumerate(jobs):
            if _can_stop_early(config, features, job.train):
                fold = group_folds(job.train, VALIDATION_FOLDS)[0]
                jobs[i] = replace(job, train=fold.train, validation=fold.test)
    return jobs


def _can_stop_early(config: Config, features: Features, train: np.ndarray) -> bool:
    """Return whether a tenth of a training part can tell when to stop, for each task."""
    groups = features.groups[train]
    for name, task in config.tasks.items():
        targets = features.targets[name][train]
        labelled = is_labelled(targets)
        if task.kind == "regression":
            classes = [labelled]
        elif task.kind == "multilabel":
            classes = [side for column in targets.T for side in (column == 0, column == 1)]
        else:
            classes = [targets == k for k in range(len(task.classes))]
        if labelled.sum() < EARLY_STOPPING_FROM:
            return False
        if any(len(np.unique(groups[members])) < RAREST_FROM for members in classes):
            return False
    return bool(config.tasks)


def new_network(config: Config, features: Features, job: NetworkJob) -> Network:
    """Return a job's network with its first weights and the statistics of its training part."""
    # On the CPU, before any move to a device: the first weights are the same on every rank and device.
    torch.manual_seed(job.seed)
    by_modality = features.by_modality
    network = Network(
        config,
        dims={modality: ragged.dim for modality, ragged in by_modality.items()},
        layers={modality: ragged.layers for modality, ragged in by_modality.items()},
    )
    network.fit_statistics(features, job.train)
    return network
