"""The training loop of one worker. Knows no Ray; with a process group it is one rank of DDP.

`fit` trains a list of jobs one after another: networks on inner folds (their out-of-fold logits give the
temperature), then one network for each seed (their logits are averaged). All randomness of an epoch comes
from (seed, job, epoch, rank), so a run resumed at an epoch's end goes on as if it had never stopped.
"""

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from scipy.optimize import minimize_scalar
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from hilbert_ray import distributed, losses
from hilbert_ray.batch import Batch, Features, collate, epoch_batches, share
from hilbert_ray.checkpoint import TrainingState, load_optimizer, optimizer_tensors
from hilbert_ray.config import MODALITIES, Config, LossConfig, Modality, TaskConfig
from hilbert_ray.folds import choose_strata, inner_folds
from hilbert_ray.fusion import redundancy_penalty
from hilbert_ray.model import Hilbert, Network, Output
from hilbert_ray.moe import load_balance_loss, router_z_loss

log = logging.getLogger(__name__)

CKA_MINIMUM = 16  # documents; below, the null deviation of unbiased CKA (0.10 at 16) drowns the signal

Report = Callable[["Progress"], None]


class NotFiniteError(FloatingPointError):
    """A loss or gradient that is NaN or infinite."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """One network to train: on which documents, from which seed; `test` is an inner fold's."""

    name: str
    seed: int
    train: np.ndarray
    test: np.ndarray | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
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
    report: Report | None = None,
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
    jobs = _jobs(config, features, indices)
    history: list[dict[str, Any]] = list(resume.history) if resume else []
    finished: dict[int, Network] = {}
    for number, job in enumerate(jobs):
        network = _start(config, features, job).to(device)
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
        networks=networks, config=config, temperature=_temperatures(config, features, inner), history=history
    )


def _jobs(config: Config, features: Features, indices: np.ndarray) -> list[Job]:
    """Return the networks to train, inner folds first."""
    seed, jobs = config.fit.seed, []
    if config.folds.inner and any(task.kind != "regression" for task in config.tasks.values()):
        strata = choose_strata(config.tasks, features.targets, features.groups, config.folds).members
        for part in inner_folds(indices, features.groups, strata, config.folds, seed):
            jobs.append(Job(name=f"inner {part.fold}", seed=seed, train=part.train, test=part.test))
    jobs += [Job(name=f"seed {seed + i}", seed=seed + i, train=indices) for i in range(config.fit.seeds)]
    return jobs


def _start(config: Config, features: Features, job: Job) -> Network:
    """Return a job's network with its first weights and the statistics of its training part."""
    torch.manual_seed(job.seed)
    dims: dict[Modality, int] = {
        m: getattr(features, m).dim for m in MODALITIES if getattr(features, m) is not None
    }
    network = Network(config, dims)
    network.fit_statistics(features, job.train)
    return network


def _train(
    config: Config,
    features: Features,
    jobs: Sequence[Job],
    number: int,
    network: Network,
    finished: Mapping[int, Mapping[str, Tensor]],
    history: list[dict[str, Any]],
    report: Report | None,
    resume: TrainingState | None,
) -> None:
    """Train one job's network in place: phases, epochs, batches, steps."""
    job, settings = jobs[number], config.fit
    device = network.logit_scale.device
    lengths = features.lengths[job.train]
    epochs = settings.align_epochs + settings.epochs
    first = 0
    if resume:
        network.load_state_dict(resume.network)
        first = resume.epoch
    optimizer = _optimizer(network, config)
    if resume:
        load_optimizer(optimizer, network, resume.optimizer)
    model, weights = _enter_phase(network, config, first)
    steps_per_epoch = max(round(len(job.train) / settings.batch_size), 1)
    for epoch in range(first, epochs):
        if epoch == settings.align_epochs:
            model, weights = _enter_phase(network, config, epoch)
        began = time.perf_counter()
        torch.manual_seed(_mix(job.seed, number, epoch, distributed.rank()))
        generator = np.random.default_rng([job.seed, number, epoch])
        network.train()
        sums: dict[str, float] = {}
        for step, batch_indices in enumerate(
            epoch_batches(job.train, settings.batch_size, generator, lengths)
        ):
            for group in optimizer.param_groups:
                group["lr"] = settings.learning_rate * _schedule(
                    config, epoch * steps_per_epoch + step, steps_per_epoch
                )
            batch = collate(features, share(batch_indices, distributed.rank(), distributed.world_size())).to(
                device
            )
            output = model(batch)
            terms = objective(output, batch, network, config)
            loss = losses.total(terms, weights)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            norm = nn.utils.clip_grad_norm_(network.parameters(), settings.clip_norm)
            if not torch.isfinite(loss) or not torch.isfinite(norm):
                raise NotFiniteError(
                    f"{job.name}, epoch {epoch}, step {step}: loss {float(loss.detach())}, gradient norm "
                    f"{float(norm)}; terms {terms.values()}; documents "
                    f"{', '.join(map(str, features.doc_ids[batch_indices]))}. Lower fit.learning_rate, or "
                    "look at these documents' features"
                )
            optimizer.step()
            for name, value in {"loss": float(loss.detach()), **terms.values()}.items():
                sums[name] = sums.get(name, 0.0) + value
        means = {name: value / (step + 1) for name, value in sums.items()}
        rate = len(job.train) / (time.perf_counter() - began)
        history.append(
            {"job": job.name, "epoch": epoch, **means, **alignment(output), "documents_per_s": rate}
        )
        if report:
            report(
                Progress(
                    record=history[-1],
                    state=lambda at=epoch + 1: TrainingState(  # type: ignore[misc]
                        job=number,
                        epoch=at,
                        network=dict(network.state_dict()),
                        optimizer=optimizer_tensors(optimizer, network),
                        finished={i: dict(tensors) for i, tensors in finished.items()},
                        history=history,
                    ),
                    is_final=number == len(jobs) - 1 and epoch == epochs - 1,
                )
            )


def objective(output: Output, batch: Batch, network: Network, config: Config) -> losses.Terms:
    """Return the terms of the global batch, the same on every rank.

    DESIGN's objective: embeddings are gathered over ranks with their gradients, task losses are local sums
    over global counts. All ranks must call it.
    """
    gather, settings = distributed.all_gather_with_grad, config.loss
    audio, text, joint = gather(output.audio), gather(output.text), gather(output.joint)
    has_audio, has_text = gather(output.audio_present), gather(output.text_present)
    group = None if settings.group_negatives else gather(batch.group)
    scale = output.scale
    if settings.direct:
        contrast = losses.info_nce(audio, text, scale, group, present=has_audio & has_text)
    else:
        contrast = losses.contrastive(
            audio, text, joint, scale, group, audio_present=has_audio, text_present=has_text
        )
    like_audio, like_text = audio, text
    if settings.cka_reference == "features" and batch.audio_wide is not None and batch.text_wide is not None:
        like_audio, like_text = (gather(w[:, : w.shape[1] // 2]) for w in (batch.audio_wide, batch.text_wide))
    cka = losses.cka_loss(
        like_audio,
        like_text,
        joint,
        settings.cka_estimator,
        settings.cka_kernel,
        audio_present=has_audio,
        text_present=has_text,
        minimum=CKA_MINIMUM,
    )
    balance = losses.balance(
        audio,
        text,
        joint,
        scale,
        settings.balance_estimator,
        settings.balance_gradient,
        settings.smile_clip,
        audio_present=has_audio,
        text_present=has_text,
    )
    attention = torch.cat(
        [redundancy_penalty(a, settings.penalty) for a in (output.audio_attention, output.text_attention)]
    )
    router = None if output.router_logits is None else gather(output.router_logits)
    return losses.Terms(
        task=_task_loss(output.logits, batch, network, config),
        contrastive=contrast,
        cka=cka,
        balance=balance,
        unimodal=_unimodal_loss(output, batch, network, config),
        load_balance=joint.new_zeros(()) if router is None else load_balance_loss(router, config.moe.top_k),
        router_z=joint.new_zeros(()) if router is None else router_z_loss(router),
        redundancy=distributed.global_mean(attention.sum(), len(attention)),
    )


def alignment(output: Output) -> dict[str, float]:
    """Return the alignment's diagnostics on a step's global batch. All ranks must call it."""
    gather = distributed.all_gather_with_grad
    audio, text, joint = (gather(x.detach()) for x in (output.audio, output.text, output.joint))
    return losses.diagnostics(
        audio, text, joint, output.scale.detach(),
        audio_present=gather(output.audio_present), text_present=gather(output.text_present),
        minimum=CKA_MINIMUM,
    )  # fmt: skip


def _task_loss(logits: Mapping[str, Tensor], batch: Batch, network: Network, config: Config) -> Tensor:
    """Return the sum over tasks of the mean loss over the global batch's labelled entries."""
    losses_of = []
    for name, task in config.tasks.items():
        total, count = losses.task_loss(task, logits[name], batch.targets[name], network.labels[name])
        losses_of.append(distributed.global_mean(total, count))
    return torch.stack(losses_of).sum()


def _unimodal_loss(output: Output, batch: Batch, network: Network, config: Config) -> Tensor:
    """Return the mean of both single-modality heads' losses, over documents with the modality."""
    if not output.audio_logits:
        return output.joint.new_zeros(())
    halves = []
    for logits, present in (
        (output.audio_logits, output.audio_present),
        (output.text_logits, output.text_present),
    ):
        targets = {task: _hide(y, present) for task, y in batch.targets.items()}
        halves.append(_task_loss(logits, replace(batch, targets=targets), network, config))
    return torch.stack(halves).mean()


def _hide(targets: Tensor, kept: Tensor) -> Tensor:
    """Mark targets of rows that are not kept as unlabelled."""
    unlabelled = float("nan") if targets.is_floating_point() else -1
    return targets.masked_fill(~kept.view(-1, *[1] * (targets.dim() - 1)), unlabelled)


def _optimizer(network: Network, config: Config) -> torch.optim.AdamW:
    """Return AdamW; biases, norms, single tokens and the logit scale are not decayed."""
    named = list(network.named_parameters())
    decayed = [p for _, p in named if p.dim() >= 2]
    others = [p for _, p in named if p.dim() < 2]
    groups = [
        {"params": decayed, "weight_decay": config.fit.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.fit.learning_rate, fused=True)


def _enter_phase(network: Network, config: Config, epoch: int) -> tuple[nn.Module, LossConfig]:
    """Return the module to call and the loss weights of the phase that `epoch` belongs to.

    `align` uses no label; in the `classify` phase after it, everything but the heads is frozen unless
    `finetune`.
    """
    weights = config.loss
    if epoch < config.fit.align_epochs:
        weights = replace(weights, task=0.0, unimodal=0.0)
    elif config.fit.align_epochs and not config.fit.finetune:
        heads = ("experts", "audio_heads", "text_heads", "thresholds")
        for name, parameter in network.named_parameters():
            parameter.requires_grad_(name.startswith(heads))
    if distributed.world_size() == 1:
        return network, weights
    return DistributedDataParallel(network, broadcast_buffers=False, find_unused_parameters=True), weights


def _schedule(config: Config, step: int, steps_per_epoch: int) -> float:
    """Return the learning rate's factor: linear warm-up, then a cosine to 0, over both phases."""
    steps = (config.fit.align_epochs + config.fit.epochs) * steps_per_epoch
    warmup = config.fit.warmup * steps
    if step < warmup:
        return (step + 1) / (warmup + 1)
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(steps - warmup, 1)))


def _mix(*numbers: int) -> int:
    """Return one torch seed for a tuple of small numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1)


def _temperatures(
    config: Config, features: Features, inner: Sequence[tuple[Job, Network]]
) -> dict[str, float]:
    """Return each task's T: the one that gives inner out-of-fold predictions the least log loss."""
    temperature = dict.fromkeys(config.tasks, 1.0)
    if not inner:
        return temperature
    held_out = []
    for job, network in inner:
        assert job.test is not None
        prediction = Hilbert([network], config, {}, {}).predict(features.take(job.test))
        held_out.append((job.test, prediction.logits, network))
    for name, task in config.tasks.items():
        if task.kind == "regression":
            continue
        parts = [
            (
                torch.from_numpy(logits[name]),
                torch.from_numpy(features.targets[name][test]),
                network.labels[name].cpu(),
            )
            for test, logits, network in held_out
        ]
        best = minimize_scalar(
            lambda log_t, task=task, parts=parts: _log_loss(task, parts, math.exp(log_t)),
            bounds=(math.log(0.2), math.log(5.0)),
            method="bounded",
        )
        temperature[name] = math.exp(best.x)
    return temperature


def _log_loss(task: TaskConfig, parts: Sequence[tuple[Tensor, Tensor, Tensor]], temperature: float) -> float:
    """Return the mean log loss of (o + log prior) / T over held-out (logits, targets, statistics)."""
    plain = replace(task, imbalance="none")
    total = count = 0.0
    for logits, targets, statistics in parts:
        adjusted = (logits + losses.log_prior(task, statistics)) / temperature
        loss, entries = losses.task_loss(plain, adjusted, targets, statistics)
        total, count = total + float(loss), count + float(entries)
    return total / max(count, 1.0)
