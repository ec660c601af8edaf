"""The training loop of one worker. Knows no Ray; with a process group it is one rank of DDP.

`fit` trains networks one after another: on inner folds (their out-of-fold scores say how much each head
counts), then one for each seed (their logits are averaged). All randomness of an epoch comes from (seed,
network, epoch, rank), so a run resumed after an epoch continues as if it had never stopped. The loop holds
the order of a run; its formulas are in `objective`, `optimization`, `validation` and `loop_state`.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn

from hilbert_ray.config import Config, LossConfig
from hilbert_ray.errors import HilbertError
from hilbert_ray.features import Features, documents_of_rank, epoch_batches
from hilbert_ray.model import HeadWeights, Hilbert, Network
from hilbert_ray.training import distributed
from hilbert_ray.training.checkpoints import TrainingState
from hilbert_ray.training.head_weights import HeldOut, fit_heads
from hilbert_ray.training.loop_state import LoopState
from hilbert_ray.training.networks import new_network, plan_networks
from hilbert_ray.training.objective import backward, diagnostics
from hilbert_ray.training.optimization import set_learning_rate
from hilbert_ray.training.validation import validation_loss


class NotFiniteError(HilbertError, FloatingPointError):
    """A loss or gradient that is NaN or infinite."""

    exit_code = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class EpochReport:
    """What `report` receives after each epoch.

    record: the epoch's numbers, as in metrics.jsonl. checkpoint: returns the state after this epoch; to be
    called and saved before `report` returns. is_final: whether this is the run's last epoch.
    """

    record: Mapping[str, Any]
    checkpoint: Callable[[], TrainingState]
    is_final: bool


Reporter = Callable[[EpochReport], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainedNetworks:
    """What `fit` returns: a network for each seed.

    heads: how much each counts, by task and by what a document has. held_out: the inner folds' evidence by
    task, see `head_weights.Fusion`. history: one record per epoch and network, those of the inner folds too.
    """

    networks: Sequence[Network]
    config: Config
    heads: Mapping[str, Mapping[str, HeadWeights]]
    held_out: Mapping[str, HeldOut] = field(default_factory=dict)
    history: Sequence[Mapping[str, Any]] = field(default_factory=list)

    def plain_heads(self) -> dict[str, dict[str, dict[str, float]]]:
        """Return `heads` as plain numbers, for files; without the offsets, which say nothing about heads."""
        return {
            task: {
                modalities: {name: value for name, value in asdict(weights).items() if name != "offsets"}
                for modalities, weights in by_modalities.items()
            }
            for task, by_modalities in self.heads.items()
        }

    def model(self, encoders: Mapping[str, Any] | None = None) -> Hilbert:
        """Return the networks as one model; `encoders` are the descriptions it is published with."""
        return Hilbert(self.networks, self.config, self.heads, encoders or {}).eval()


def fit(
    config: Config,
    features: Features,
    indices: np.ndarray,
    report: Reporter | None = None,
    resume: TrainingState | None = None,
    device: torch.device | str = "cpu",
) -> TrainedNetworks:
    """Train on the documents at `indices` and on nothing else.

    Args:
        config: settings; `config.tasks` names every task.
        features: of all documents.
        indices: the training part, int64; unlabelled documents count in every term except the task's.
        report: called after each epoch, on every rank.
        resume: state to continue from, of the same settings and documents.
        device: where to compute.

    All ranks of a process group must call it with the same arguments.

    Raises:
        NotFiniteError: when a loss or gradient is NaN or infinite, naming network, step and documents.
    """
    # Build. The history is shared by all networks: metrics.jsonl and early stopping read the same records.
    jobs = plan_networks(config, features, indices)
    history: list[dict[str, Any]] = list(resume.history) if resume else []
    finished: dict[int, Network] = {}
    for number, job in enumerate(jobs):
        # First weights come from the job's seed alone: they do not depend on what was trained before, so that
        # a resumed run builds the same.
        network = new_network(config, features, job).to(device)
        # Restore: networks that were finished are not trained again, and one continues after its last epoch.
        if resume and number in resume.finished:
            network.load_state_dict(resume.finished[number])
        else:
            current = resume if resume and resume.job == number else None
            state = LoopState.begin(config, jobs, number, network, finished, history, current)
            _train_network(state, features, report)
        finished[number] = network.eval()
    # The networks of inner folds only say how the heads count; those of the seeds make the model.
    inner = [(job, finished[number]) for number, job in enumerate(jobs) if job.test is not None]
    fusion = fit_heads(config, features, inner)
    return TrainedNetworks(
        networks=[finished[number] for number, job in enumerate(jobs) if job.test is None],
        config=config,
        heads=fusion.heads,
        held_out=fusion.held_out,
        history=history,
    )


def _train_network(state: LoopState, features: Features, report: Reporter | None) -> None:
    """Train one network in place: epochs, each of steps, a record, validation and a report."""
    config, job, network = state.config, state.job, state.network
    lengths, is_labelled = features.lengths[job.train], features.is_labelled[job.train]
    while not state.is_done:
        # Align first, then classify: the second phase weighs the terms differently, and may freeze streams.
        if state.begins_second_phase:
            state.enter_phase()
        started = time.perf_counter()
        batches = epoch_batches(job.train, config.fit.batch_size, state.seed_epoch(), lengths, is_labelled)
        network.train()
        sums: dict[str, float] = {}
        # The steps. Each is one global batch, whose documents the ranks divide.
        for step, batch in enumerate(batches):
            set_learning_rate(state.optimizer, config, state.epoch * len(batches) + step, len(batches))
            state.optimizer.zero_grad(set_to_none=True)
            # The loss is that of the whole batch on every rank, and so is the gradient after `backward`:
            # clipping and the check below decide the same everywhere, without asking other ranks.
            own = documents_of_rank(batch, distributed.rank(), distributed.world_size())
            terms, loss, seen = backward(state.module, features, own, config, state.weights)
            norm = nn.utils.clip_grad_norm_(network.parameters(), config.fit.clip_norm)
            # Before the step: a NaN in the weights would outlive the batch that it came from.
            numbers = terms.values(loss=loss, norm=norm)
            if not math.isfinite(numbers["loss"]) or not math.isfinite(numbers["norm"]):
                raise _not_finite(state, step, numbers, features.doc_ids[batch])
            state.optimizer.step()
            network.bound_scale()
            if state.average:
                state.average.update_parameters(network)
            for name in ("loss", *LossConfig.WEIGHTS):
                sums[name] = sums.get(name, 0.0) + numbers[name]
        # The record: means over steps, and diagnostics of the last step, whose embeddings are at hand. All
        # ranks compute it, since diagnostics gather; rank 0 writes it.
        record: dict[str, Any] = {"job": job.name, "epoch": state.epoch}
        record |= {name: value / len(batches) for name, value in sums.items()}
        timing = state.timing(time.perf_counter() - started)
        record |= {**diagnostics(seen, config), **timing}
        state.history.append(record)
        # An align phase trains no head, so that its task loss would say nothing about when to stop.
        if job.validation is not None and state.epoch >= config.fit.align_epochs:
            network_to_keep = state.network_to_keep
            record["validation_loss"] = validation_loss(network_to_keep, features, job.validation, config)
            state.keep_if_best()
        # Counted before the report: what is saved now resumes with the next epoch.
        state.epoch += 1
        # Report. Whoever writes checkpoints takes one here, or the run stops here without losing the epoch.
        if report:
            is_final = state.is_last_network and state.is_done
            report(EpochReport(record=record, checkpoint=state.checkpoint, is_final=is_final))
    # The best epoch's weights with early stopping, otherwise the last ones (or their average).
    network.load_state_dict(state.best or state.network_to_keep.state_dict())


def _not_finite(
    state: LoopState, step: int, numbers: Mapping[str, float], doc_ids: np.ndarray
) -> NotFiniteError:
    """Return the error of a step whose loss or gradient is not finite."""
    terms = {name: numbers[name] for name in LossConfig.WEIGHTS}
    return NotFiniteError(
        f"{state.job.name}, epoch {state.epoch}, step {step}: loss {numbers['loss']} and gradient norm "
        f"{numbers['norm']} must be finite; terms {terms}; documents {', '.join(map(str, doc_ids))}. "
        "Lower fit.learning_rate, or check these documents' features"
    )
