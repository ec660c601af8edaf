"""The training loop of one worker. Knows no Ray; with a process group it is one rank of DDP.

`fit` trains networks one after another: on inner folds (their out-of-fold logits give the temperature),
then one for each seed (their logits are averaged). All randomness of an epoch comes from (seed, network,
epoch, rank), so a run resumed at the end of an epoch continues as if it had never stopped.
"""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from hilbert_ray import losses
from hilbert_ray.config import Config
from hilbert_ray.errors import HilbertError
from hilbert_ray.features import Features, collate, epoch_batches, eval_batches, rank_share
from hilbert_ray.model import Hilbert, Network
from hilbert_ray.training import distributed
from hilbert_ray.training.checkpoints import TrainingState, load_optimizer, optimizer_tensors
from hilbert_ray.training.networks import NetworkJob, new_network, plan_networks
from hilbert_ray.training.objective import alignment, backward
from hilbert_ray.training.optimization import enter_phase, learning_rate_factor, new_optimizer
from hilbert_ray.training.temperature import fit_temperatures

log = logging.getLogger(__name__)
ReportEpoch = Callable[["EpochProgress"], None]


class NotFiniteError(HilbertError, FloatingPointError):
    """A loss or gradient that is NaN or infinite."""

    exit_code = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class EpochProgress:
    """What `report` receives after each epoch: the epoch's record and a way to take a checkpoint of it."""

    record: Mapping[str, Any]
    state: Callable[[], TrainingState]
    is_final: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Fitted:
    """Trained networks, one for each seed, with each task's temperature and one record an epoch and job."""

    networks: Sequence[Network]
    config: Config
    temperature: Mapping[str, float]
    history: Sequence[Mapping[str, Any]] = field(default_factory=list)

    def model(self, encoders: Mapping[str, Any] | None = None) -> Hilbert:
        """Return the networks as one model; `encoders` are the descriptions it is published with."""
        return Hilbert(self.networks, self.config, self.temperature, encoders or {}).eval()


def fit(
    config: Config,
    features: Features,
    indices: np.ndarray,
    report: ReportEpoch | None = None,
    resume: TrainingState | None = None,
    device: torch.device | str = "cpu",
) -> Fitted:
    """Train on the documents at `indices` and on nothing else.

    Args:
        config: settings; `config.tasks` names every task.
        features: of all documents.
        indices: the training part, int64; unlabelled documents take part in every term but the task's.
        report: called after each epoch, on every rank.
        resume: state to go on from.
        device: where to compute.

    All ranks of a process group must call it with the same arguments.

    Raises:
        NotFiniteError: when a loss or gradient is NaN or infinite, naming job, step and documents.
    """
    jobs = plan_networks(config, features, indices)
    history: list[dict[str, Any]] = list(resume.history) if resume else []
    finished: dict[int, Network] = {}
    for number, job in enumerate(jobs):
        network = new_network(config, features, job).to(device)
        if resume and number in resume.finished:
            network.load_state_dict(resume.finished[number])
        else:
            current = resume if resume and resume.job == number else None
            done = {i: n.state_dict() for i, n in finished.items()}
            _train(config, features, jobs, number, network, done, history, report, current)
        finished[number] = network.eval()
    inner = [(job, finished[i]) for i, job in enumerate(jobs) if job.test is not None]
    networks = [finished[i] for i, job in enumerate(jobs) if job.test is None]
    return Fitted(
        networks=networks,
        config=config,
        temperature=fit_temperatures(config, features, inner),
        history=history,
    )


def _train(
    config: Config,
    features: Features,
    jobs: Sequence[NetworkJob],
    number: int,
    network: Network,
    finished: Mapping[int, Mapping[str, Tensor]],
    history: list[dict[str, Any]],
    report: ReportEpoch | None,
    resume: TrainingState | None,
) -> None:
    """Train one job's network in place: phases, epochs, batches, steps.

    An average of the weights begins anew with a phase, whose weights may be frozen from then on.
    """
    job, settings = jobs[number], config.fit
    lengths = features.lengths[job.train]
    epochs = settings.align_epochs + settings.epochs
    first = 0
    best: dict[str, Tensor] = {}
    if resume:
        network.load_state_dict(resume.network)
        first, best = resume.epoch, resume.best
    optimizer = new_optimizer(network, config)
    if resume:
        load_optimizer(optimizer, network, resume.optimizer)
    model, weights = enter_phase(network, config, first)
    average = _average(network, config)
    if average and resume and resume.average:
        average.load_state_dict(resume.average)
    steps_per_epoch = max(round(len(job.train) / settings.batch_size), 1)
    for epoch in range(first, epochs):
        if _epochs_since_best(history, job) >= settings.patience > 0:
            break
        if epoch == settings.align_epochs:
            model, weights = enter_phase(network, config, epoch)
            average = _average(network, config)
        began = time.perf_counter()
        torch.manual_seed(_torch_seed(job.seed, number, epoch, distributed.rank()))
        generator = np.random.default_rng([job.seed, number, epoch])
        network.train()
        sums: dict[str, float] = {}
        for step, batch_indices in enumerate(
            epoch_batches(job.train, settings.batch_size, generator, lengths)
        ):
            for group in optimizer.param_groups:
                group["lr"] = settings.learning_rate * learning_rate_factor(
                    config, epoch * steps_per_epoch + step, steps_per_epoch
                )
            own = rank_share(batch_indices, distributed.rank(), distributed.world_size())
            optimizer.zero_grad(set_to_none=True)
            terms, loss, seen = backward(model, features, own, config, weights)
            norm = nn.utils.clip_grad_norm_(network.parameters(), settings.clip_norm)
            if not torch.isfinite(loss) or not torch.isfinite(norm):
                raise NotFiniteError(
                    f"{job.name}, epoch {epoch}, step {step}: loss {float(loss)}, gradient norm "
                    f"{float(norm)}; terms {terms.values()}; documents "
                    f"{', '.join(map(str, features.doc_ids[batch_indices]))}. Lower fit.learning_rate, or "
                    "look at these documents' features"
                )
            optimizer.step()
            if average:
                average.update_parameters(network)
            for name, value in {"loss": float(loss), **terms.values()}.items():
                sums[name] = sums.get(name, 0.0) + value
        means = {name: value / (step + 1) for name, value in sums.items()}
        rate = len(job.train) / (time.perf_counter() - began)
        left = len(job.train) * (epochs - epoch - 1) + sum(len(j.train) for j in jobs[number + 1 :]) * epochs
        timing = {"documents_per_s": rate, "left_s": left / rate}
        history.append({"job": job.name, "epoch": epoch, **means, **alignment(seen, config), **timing})
        if job.validation is not None and epoch >= settings.align_epochs:
            shown = _kept_network(network, average)
            history[-1]["validation_loss"] = _validation_loss(shown, features, job.validation, config)
            if _epochs_since_best(history, job) == 0:
                best = {name: tensor.clone() for name, tensor in shown.state_dict().items()}
        is_last = epoch == epochs - 1 or _epochs_since_best(history, job) >= settings.patience > 0
        if report:
            report(
                EpochProgress(
                    record=history[-1],
                    state=lambda at=epoch + 1, best=best, average=average: TrainingState(  # type: ignore[misc]
                        job=number,
                        epoch=at,
                        network=dict(network.state_dict()),
                        optimizer=optimizer_tensors(optimizer, network),
                        finished={i: dict(tensors) for i, tensors in finished.items()},
                        history=history,
                        best=dict(best),
                        average=dict(average.state_dict()) if average else {},
                    ),
                    is_final=number == len(jobs) - 1 and is_last,
                )
            )
    network.load_state_dict(best or _kept_network(network, average).state_dict())


def _average(network: Network, config: Config) -> AveragedModel | None:
    """Return the moving average of the weights that `fit.ema` asks for; it starts with the next step's."""
    if not config.fit.ema:
        return None
    return AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(config.fit.ema))  # type: ignore[no-untyped-call]


def _kept_network(network: Network, average: AveragedModel | None) -> Network:
    """Return the network that is validated and kept: the average of the weights, or the network itself."""
    shown = average.module if average else network
    assert isinstance(shown, Network)
    return shown


def _epochs_since_best(history: Sequence[Mapping[str, Any]], job: NetworkJob) -> int:
    """Return how many epochs ago a job's validation loss was least; 0 where it has none yet."""
    found = [r["validation_loss"] for r in history if r["job"] == job.name and "validation_loss" in r]
    return len(found) - 1 - int(np.argmin(found)) if found else 0


@torch.no_grad()
def _validation_loss(network: Network, features: Features, part: np.ndarray, config: Config) -> float:
    """Return the task loss of held-out documents, without dropout. All ranks must call it."""
    own = rank_share(part, distributed.rank(), distributed.world_size())
    network.eval()
    device = network.logit_scale.device
    sums = {name: torch.zeros(2, device=device) for name in config.tasks}
    for at in eval_batches(len(own), features.lengths[own]):
        batch = collate(features, own[at]).to(device)
        logits = network(batch).logits
        for name, task in config.tasks.items():
            total, count = losses.task_loss(task, logits[name], batch.targets[name], network.labels[name])
            sums[name] += torch.stack([total, torch.as_tensor(count, dtype=total.dtype, device=device)])
    return sum(float(distributed.global_mean(total, count)) for total, count in sums.values())


def _torch_seed(*numbers: int) -> int:
    """Return one torch seed for a tuple of small numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1)
