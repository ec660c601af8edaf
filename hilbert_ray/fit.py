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
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from hilbert_ray import distributed, losses
from hilbert_ray.batch import Batch, Features, collate, epoch_batches, eval_batches, share
from hilbert_ray.checkpoint import TrainingState, load_optimizer, optimizer_tensors
from hilbert_ray.config import MODALITIES, Config, LossConfig, Modality, TaskConfig
from hilbert_ray.folds import Fold, choose_strata, inner_folds
from hilbert_ray.fusion import redundancy_penalty
from hilbert_ray.model import Hilbert, Network, Output
from hilbert_ray.moe import effective_experts, load_balance_loss, router_z_loss

log = logging.getLogger(__name__)

EARLY_STOPPING_FROM = 1000  # documents; below, the validation loss of a few rare cases says little
VALIDATION_PARTS = 10  # one of so many parts of a training part is held out for early stopping
CKA_MINIMUM = 16  # documents; below, the null deviation of unbiased CKA (0.10 at 16) drowns the signal

Report = Callable[["Progress"], None]


class NotFiniteError(FloatingPointError):
    """A loss or gradient that is NaN or infinite."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """One network to train: on which documents, from which seed; `test` is an inner fold's.

    `validation` says when to stop; nothing is fitted on it.
    """

    name: str
    seed: int
    train: np.ndarray
    test: np.ndarray | None = None
    validation: np.ndarray | None = None


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
            jobs.append(Job(name=f"inner {part.fold}", seed=seed, train=part.train, test=part.test))
    jobs += [Job(name=f"seed {seed + i}", seed=seed + i, train=indices) for i in range(config.fit.seeds)]
    for i, job in enumerate(jobs):
        if config.fit.patience and len(job.train) >= EARLY_STOPPING_FROM:
            part = parts(job.train, VALIDATION_PARTS)[0]
            jobs[i] = replace(job, train=part.train, validation=part.test)
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
    optimizer = _optimizer(network, config)
    if resume:
        load_optimizer(optimizer, network, resume.optimizer)
    model, weights = _enter_phase(network, config, first)
    average = _average(network, config)
    if average and resume and resume.average:
        average.load_state_dict(resume.average)
    steps_per_epoch = max(round(len(job.train) / settings.batch_size), 1)
    for epoch in range(first, epochs):
        if _waited(history, job) >= settings.patience > 0:
            break
        if epoch == settings.align_epochs:
            model, weights = _enter_phase(network, config, epoch)
            average = _average(network, config)
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
            own = share(batch_indices, distributed.rank(), distributed.world_size())
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
            shown = _shown(network, average)
            history[-1]["validation_loss"] = _validation_loss(shown, features, job.validation, config)
            if _waited(history, job) == 0:
                best = {name: tensor.clone() for name, tensor in shown.state_dict().items()}
        is_last = epoch == epochs - 1 or _waited(history, job) >= settings.patience > 0
        if report:
            report(
                Progress(
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
    network.load_state_dict(best or _shown(network, average).state_dict())


def _average(network: Network, config: Config) -> AveragedModel | None:
    """Return the moving average of the weights that `fit.ema` asks for; it starts with the next step's."""
    if not config.fit.ema:
        return None
    return AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(config.fit.ema))  # type: ignore[no-untyped-call]


def _shown(network: Network, average: AveragedModel | None) -> Network:
    """Return the network that is validated and kept: the average of the weights, or the network itself."""
    shown = average.module if average else network
    assert isinstance(shown, Network)
    return shown


def _waited(history: Sequence[Mapping[str, Any]], job: Job) -> int:
    """Return how many epochs ago a job's validation loss was least; 0 where it has none yet."""
    found = [r["validation_loss"] for r in history if r["job"] == job.name and "validation_loss" in r]
    return len(found) - 1 - int(np.argmin(found)) if found else 0


@torch.no_grad()
def _validation_loss(network: Network, features: Features, part: np.ndarray, config: Config) -> float:
    """Return the task loss of held-out documents, without dropout. All ranks must call it."""
    own = share(part, distributed.rank(), distributed.world_size())
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


def backward(
    model: nn.Module, features: Features, own: np.ndarray, config: Config, weights: LossConfig
) -> tuple[losses.Terms, Tensor, dict[str, Tensor]]:
    """Add the gradients of one step's loss to the parameters, the mean over ranks.

    With `fit.micro_batch_size` activations exist for that many documents at a time.

    Args:
        model: the network, or DDP around it; the network itself with `fit.micro_batch_size`.
        features: of all documents.
        own: this rank's share of the step's documents; may be empty.
        config: settings.
        weights: of the terms, in this phase.

    Returns:
        The terms, their total, and what the objective saw: `columns` of this rank's documents, and the scale.
    """
    network = model.module if isinstance(model, DistributedDataParallel) else model
    assert isinstance(network, Network)
    device = network.logit_scale.device
    seen: dict[str, Tensor] = {}
    terms = losses.Terms()

    def forward(indices: np.ndarray) -> dict[str, Tensor]:
        batch = collate(features, indices).to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=_is_bf16(config, device)):
            return columns(model(batch), batch, config)

    def total(given: dict[str, Tensor]) -> Tensor:
        nonlocal seen, terms
        seen = {name: x.detach() for name, x in {**given, "scale": network.scale}.items()}
        terms = objective(given, network, config)
        return losses.total(terms, weights)

    if config.fit.micro_batch_size:
        parts = math.ceil(len(own) / config.fit.micro_batch_size)
        loss = losses.cached_backward(forward, np.array_split(own, max(parts, 1)), total)
        distributed.average_gradients(network.parameters())
    else:
        loss = total(forward(own))
        loss.backward()  # type: ignore[no-untyped-call]
    return terms, loss.detach(), seen


def _is_bf16(config: Config, device: torch.device) -> bool:
    """Return whether the network computes in bf16; its weights, gradients and losses are float32."""
    return config.fit.precision == "bf16" or (config.fit.precision == "auto" and device.type == "cuda")


def columns(output: Output, batch: Batch, config: Config) -> dict[str, Tensor]:
    """Return what the objective reads, by name, a row a document: micro batches are joined by `torch.cat`.

    `<modality>_reference` is what CKA compares with the joint embedding, `redundancy` the penalty of both
    pools, a row each.
    """
    found = {
        "audio": output.audio, "text": output.text, "joint": output.joint,
        "audio_present": output.audio_present, "text_present": output.text_present, "group": batch.group,
    }  # fmt: skip
    penalties = []
    for modality in MODALITIES:
        reference, wide = found[modality], getattr(batch, f"{modality}_wide")
        if config.loss.cka_reference == "features" and wide is not None:
            mean, _ = wide.chunk(2, dim=1)  # over segments; the other half is the deviation
            reference = mean.to(output.joint.dtype)
        found[f"{modality}_reference"] = reference
        penalties.append(redundancy_penalty(getattr(output, f"{modality}_attention"), config.loss.penalty))
    found["redundancy"] = torch.stack(penalties, dim=1)
    if output.router_logits is not None:
        found["router_logits"] = output.router_logits
    for head in ("logits", "audio_logits", "text_logits"):
        found |= {f"{head}/{task}": logits for task, logits in getattr(output, head).items()}
    return found | {f"targets/{task}": targets for task, targets in batch.targets.items()}


def objective(given: Mapping[str, Tensor], network: Network, config: Config) -> losses.Terms:
    """Return the terms of the global batch, the same on every rank.

    Embeddings are gathered over ranks with their gradients; task and redundancy losses are local sums over
    global counts. All ranks must call it.

    Args:
        given: `columns` of this rank's documents.
        network: whose scale and label statistics count.
        config: settings.
    """
    gather, settings, scale = distributed.all_gather_with_grad, config.loss, network.scale
    audio, text, joint = (gather(given[name]) for name in ("audio", "text", "joint"))
    has_audio, has_text = gather(given["audio_present"]), gather(given["text_present"])
    group = None if settings.group_negatives else gather(given["group"])
    if settings.direct:
        contrast = losses.info_nce(audio, text, scale, group, present=has_audio & has_text)
    else:
        contrast = losses.contrastive(
            audio, text, joint, scale, group, audio_present=has_audio, text_present=has_text
        )
    like_audio, like_text = audio, text
    if settings.cka_reference == "features":
        like_audio, like_text = gather(given["audio_reference"]), gather(given["text_reference"])
    cka = losses.cka_loss(
        like_audio, like_text, joint, settings.cka_estimator, settings.cka_kernel,
        audio_present=has_audio, text_present=has_text, minimum=CKA_MINIMUM,
    )  # fmt: skip
    balance = losses.balance(
        audio, text, joint, scale, settings.balance_estimator, settings.balance_gradient, settings.smile_clip,
        audio_present=has_audio, text_present=has_text,
    )  # fmt: skip
    zero = joint.new_zeros(())
    router = gather(given["router_logits"]) if "router_logits" in given else None
    return losses.Terms(
        task=_task_loss("logits", given, network, config),
        contrastive=contrast,
        cka=cka,
        balance=balance,
        unimodal=_unimodal_loss(given, network, config),
        load_balance=zero if router is None else load_balance_loss(router, config.moe.top_k),
        router_z=zero if router is None else router_z_loss(router),
        redundancy=distributed.global_mean(given["redundancy"].sum(), given["redundancy"].numel()),
    )


def alignment(seen: Mapping[str, Tensor], config: Config) -> dict[str, float]:
    """Return the diagnostics of a step's global batch from what `backward` saw. All ranks must call it.

    Beside those of `losses.diagnostics`: `effective_experts`, where experts are routed to.
    """
    names = ("audio", "text", "joint", "audio_present", "text_present")
    audio, text, joint, has_audio, has_text = (distributed.all_gather_with_grad(seen[n]) for n in names)
    figures = losses.diagnostics(
        audio, text, joint, seen["scale"], audio_present=has_audio, text_present=has_text,
        minimum=CKA_MINIMUM,
    )  # fmt: skip
    if "router_logits" in seen:
        router_logits = distributed.all_gather_with_grad(seen["router_logits"])
        figures["effective_experts"] = effective_experts(router_logits, config.moe.top_k)
    return figures


def _task_loss(
    head: str, given: Mapping[str, Tensor], network: Network, config: Config, present: Tensor | None = None
) -> Tensor:
    """Return the sum over tasks of a head's mean loss over the global batch's labelled (present) entries."""
    means = []
    for name, task in config.tasks.items():
        targets = given[f"targets/{name}"] if present is None else _hide(given[f"targets/{name}"], present)
        total, count = losses.task_loss(task, given[f"{head}/{name}"], targets, network.labels[name])
        means.append(distributed.global_mean(total, count))
    return torch.stack(means).sum()


def _unimodal_loss(given: Mapping[str, Tensor], network: Network, config: Config) -> Tensor:
    """Return the mean of both single-modality heads' losses, over documents with the modality."""
    if not config.model.unimodal_heads:
        return given["joint"].new_zeros(())
    halves = [_task_loss(f"{m}_logits", given, network, config, given[f"{m}_present"]) for m in MODALITIES]
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
    if distributed.world_size() == 1 or config.fit.micro_batch_size:
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
