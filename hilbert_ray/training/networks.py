"""Which networks a run trains: one for each inner fold first, then one for each seed."""

from dataclasses import dataclass, replace

import numpy as np
import torch

from hilbert_ray.config import Config
from hilbert_ray.features import Features
from hilbert_ray.folds import Fold, choose_strata, inner_folds
from hilbert_ray.model import Network

EARLY_STOPPING_FROM = 1000
"""Documents of a training part from which early stopping is used: in smaller ones the validation loss would
be that of a few cases of a rare class."""
VALIDATION_FOLDS = 10
"""One of this many group folds of a training part is held out for early stopping."""


@dataclass(frozen=True, kw_only=True, slots=True)
class NetworkJob:
    """One network to train.

    name: in records and logs. seed: of its weights, batches and dropout. train: its documents, int64. test:
    the documents that an inner fold holds out for the temperature; None for a network that is kept.
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
    # Inner folds serve the temperatures, which regression has none of.
    if config.folds.inner and any(task.kind != "regression" for task in config.tasks.values()):
        for fold in group_folds(indices, config.folds.inner):
            jobs.append(NetworkJob(name=f"inner {fold.fold}", seed=seed, train=fold.train, test=fold.test))
    jobs += [
        NetworkJob(name=f"seed {seed + i}", seed=seed + i, train=indices) for i in range(config.fit.seeds)
    ]
    if config.fit.patience:
        for i, job in enumerate(jobs):
            if len(job.train) >= EARLY_STOPPING_FROM:
                fold = group_folds(job.train, VALIDATION_FOLDS)[0]
                jobs[i] = replace(job, train=fold.train, validation=fold.test)
    return jobs


def new_network(config: Config, features: Features, job: NetworkJob) -> Network:
    """Return a job's network with its first weights and the statistics of its training part."""
    # On the CPU, before any move to a device: the first weights are the same on every rank and device.
    torch.manual_seed(job.seed)
    network = Network(config, {modality: ragged.dim for modality, ragged in features.by_modality.items()})
    network.fit_statistics(features, job.train)
    return network
