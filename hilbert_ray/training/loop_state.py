"""Where the training of one network stands: all that a step or an epoch of `loop.fit` changes.

`checkpoint` turns it into the `TrainingState` that is saved, `begin` can start from one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from hilbert_ray.config import Config, LossConfig
from hilbert_ray.model import Network
from hilbert_ray.training import distributed
from hilbert_ray.training.checkpoints import TrainingState, load_optimizer, optimizer_tensors
from hilbert_ray.training.networks import NetworkJob
from hilbert_ray.training.optimization import new_optimizer, phase_module, phase_weights


@dataclass(kw_only=True, slots=True)
class LoopState:
    """The state of one network's training; its job is the one at `number` in `jobs`.

    network, optimizer: what is trained. epoch: how many epochs are done, over both phases. module: what a
    step calls, the network or DDP around it. weights: of the loss terms in the current phase. average: the
    moving average of the network's weights, None without `fit.ema`. best: the network's tensors at its least
    validation loss so far, empty without early stopping. finished: the trained networks of earlier jobs.
    history: one record per epoch and network, shared by all networks of a run.
    """

    config: Config
    jobs: Sequence[NetworkJob]
    number: int
    network: Network
    optimizer: torch.optim.Optimizer
    module: nn.Module
    weights: LossConfig
    average: AveragedModel | None
    finished: Mapping[int, Network]
    history: list[dict[str, Any]]
    epoch: int = 0
    best: dict[str, Tensor] = field(default_factory=dict)

    @classmethod
    def begin(
        cls,
        config: Config,
        jobs: Sequence[NetworkJob],
        number: int,
        network: Network,
        finished: Mapping[int, Network],
        history: list[dict[str, Any]],
        resume: TrainingState | None = None,
    ) -> "LoopState":
        """Return the state of a network before its first epoch, or that of the checkpoint `resume`."""
        epoch = 0
        if resume:
            epoch = resume.epoch
            network.load_state_dict(resume.network)
        # All weights have a place in the optimiser from the start: which of them are trained may change with
        # the phase, and moments must have the same names in every checkpoint.
        optimizer = new_optimizer(network, config)
        if resume:
            load_optimizer(optimizer, network, resume.optimizer)
        state = cls(
            config=config,
            jobs=jobs,
            number=number,
            network=network,
            optimizer=optimizer,
            module=network,
            weights=config.loss,
            average=None,
            finished=finished,
            history=history,
            epoch=epoch,
            best=resume.best if resume else {},
        )
        state.enter_phase()
        # After the phase: entering one starts the average again.
        if state.average and resume and resume.average:
            state.average.load_state_dict(resume.average)
        return state

    @property
    def job(self) -> NetworkJob:
        """The documents and the seed of this network."""
        return self.jobs[self.number]

    @property
    def total_epochs(self) -> int:
        """Epochs of one network over both phases, if it does not stop early."""
        return self.config.fit.align_epochs + self.config.fit.epochs

    @property
    def begins_second_phase(self) -> bool:
        """Whether the next epoch is the first after an align phase."""
        return self.epoch == self.config.fit.align_epochs > 0

    @property
    def is_done(self) -> bool:
        """Whether all epochs are done, or the validation loss has not fallen for `fit.patience` of them."""
        patience = self.config.fit.patience
        return self.epoch >= self.total_epochs or self.epochs_since_best() >= patience > 0

    @property
    def is_last_network(self) -> bool:
        """Whether no network comes after this one."""
        return self.number == len(self.jobs) - 1

    @property
    def network_to_keep(self) -> Network:
        """The network that is validated and published: the average of the weights if there is one."""
        network = self.average.module if self.average else self.network
        assert isinstance(network, Network)
        return network

    def enter_phase(self) -> None:
        """Set up what a step calls, the weights of the terms and the average for the phase of `epoch`.

        The average starts again with each phase. In the second one most weights may be frozen: an average
        over both would keep values that the heads were never trained on.
        """
        self.module = phase_module(self.network, self.config, self.epoch)
        self.weights = phase_weights(self.config, self.epoch)
        # torch's average is the weights themselves after its first update: no bias towards the first weights.
        self.average = None
        if self.config.fit.ema:
            moving_average = get_ema_multi_avg_fn(self.config.fit.ema)  # type: ignore[no-untyped-call]
            self.average = AveragedModel(self.network, multi_avg_fn=moving_average)

    def seed_epoch(self) -> np.random.Generator:
        """Seed torch for the epoch on this rank, and return the sampler of its batches.

        Nothing but (seed, network, epoch, rank) counts, so that a resumed run draws what an undisturbed one
        does, without saving random states. The sampler is the same on every rank, for the ranks divide the
        same batches; dropout differs by rank.
        """
        seeds = (self.job.seed, self.number, self.epoch)
        words = np.random.SeedSequence((*seeds, distributed.rank())).generate_state(1, np.uint64)
        torch.manual_seed(int(words[0] >> 1))  # torch takes 63 bits
        return np.random.default_rng(list(seeds))

    def timing(self, seconds: float) -> dict[str, float]:
        """Return the speed of an epoch that took `seconds`, and the seconds left for this and later networks.

        Of the run, not of the rank: a global batch counts once. Early stopping may end it sooner.
        """
        # Every network is assumed to take all epochs at the speed of this one.
        own, later = len(self.job.train), self.jobs[self.number + 1 :]
        documents_per_s = own / seconds
        documents_left = own * (self.total_epochs - self.epoch - 1)
        documents_left += sum(len(job.train) for job in later) * self.total_epochs
        return {"documents_per_s": documents_per_s, "left_s": documents_left / documents_per_s}

    def epochs_since_best(self) -> int:
        """Return how many epochs ago the validation loss was least; 0 where there is none yet."""
        # From the history and not a counter: a resumed run knows it too.
        validation = [
            record["validation_loss"]
            for record in self.history
            if record["job"] == self.job.name and "validation_loss" in record
        ]
        return len(validation) - 1 - int(np.argmin(validation)) if validation else 0

    def keep_if_best(self) -> None:
        """Copy the network that is kept if the newest validation loss is the least so far."""
        # A copy: the next step changes the weights in place.
        if self.epochs_since_best() == 0:
            self.best = {name: tensor.clone() for name, tensor in self.network_to_keep.state_dict().items()}

    def checkpoint(self) -> TrainingState:
        """Return what is saved of it. Tensors are shared: write it before the next step."""
        # `network` and not the average is what training continues with; both are saved.
        return TrainingState(
            job=self.number,
            epoch=self.epoch,
            network=dict(self.network.state_dict()),
            optimizer=optimizer_tensors(self.optimizer, self.network),
            finished={number: dict(network.state_dict()) for number, network in self.finished.items()},
            history=self.history,
            best=dict(self.best),
            average=dict(self.average.state_dict()) if self.average else {},
        )
