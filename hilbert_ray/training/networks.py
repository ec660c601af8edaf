"""Which networks one training consists of: inner folds first, then one for each seed."""

from dataclasses import dataclass, replace

import numpy as np
import torch

from hilbert_ray.config import MODALITIES, Config, Modality
from hilbert_ray.features import Features
from hilbert_ray.folds import Fold, choose_strata, inner_folds
from hilbert_ray.model import Network

EARLY_STOPPING_FROM = 1000  # documents; below, the validation loss of a few rare cases says little
VALIDATION_PARTS = 10  # one of so many parts of a training part is held out for early stopping


@dataclass(frozen=True, kw_only=True, slots=True)
class NetworkJob:
    """One network to train: on which documents, from which seed; `test` is an inner fold's.

    `validation` says when to stop; nothing is fitted on it.
    """

    name: str
    seed: int
    train: np.ndarray
    test: np.ndarray | None = None
    validation: np.ndarray | None = None


def plan_networks(config: Config, features: Features, indices: np.ndarray) -> list[NetworkJob]:
    """Return the networks to train, inner folds first; large ones with a part to validate on."""
    seed, jobs = config.fit.seed, []
    targets = {name: values[indices] for name, values in features.targets.items()}
    members = choose_strata(config.tasks, targets, features.groups[indices], config.folds).members
    strata = np.zeros((len(features), members.shape[1]), bool)
    strata[indices] = members

    def parts(train: np.ndarray, count: int) -> list[Fold]:
        return inner_folds(train, features.groups, strata, replace(config.folds, inner=count), seed)

    if config.folds.inner and any(task.kind != "regression" for task in config.tasks.values()):
        for part in parts(indices, config.folds.inner):
            jobs.append(NetworkJob(name=f"inner {part.fold}", seed=seed, train=part.train, test=part.test))
    jobs += [
        NetworkJob(name=f"seed {seed + i}", seed=seed + i, train=indices) for i in range(config.fit.seeds)
    ]
    for i, job in enumerate(jobs):
        if config.fit.patience and len(job.train) >= EARLY_STOPPING_FROM:
            part = parts(job.train, VALIDATION_PARTS)[0]
            jobs[i] = replace(job, train=part.train, validation=part.test)
    return jobs


def new_network(config: Config, features: Features, job: NetworkJob) -> Network:
    """Return a job's network with its first weights and the statistics of its training part."""
    torch.manual_seed(job.seed)
    dims: dict[Modality, int] = {
        m: getattr(features, m).dim for m in MODALITIES if getattr(features, m) is not None
    }
    network = Network(config, dims)
    network.fit_statistics(features, job.train)
    return network
