"""One step's objective on the global batch, and its gradients.

Embeddings are gathered over ranks with their gradients; task and redundancy losses are local sums over global
counts. Everything here can be tested without the loop in `fit`.
"""

import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from hilbert_ray import losses
from hilbert_ray.config import MODALITIES, Config, LossConfig
from hilbert_ray.features import Batch, Features, collate
from hilbert_ray.model import (
    Network,
    Output,
    effective_experts,
    load_balance_loss,
    redundancy_penalty,
    router_z_loss,
)
from hilbert_ray.training import distributed

CKA_MINIMUM = 16  # documents; below, the null deviation of unbiased CKA (0.10 at 16) drowns the signal


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
        terms = objective_terms(given, network, config)
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


def objective_terms(given: Mapping[str, Tensor], network: Network, config: Config) -> losses.Terms:
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

    Beside those of `losses.alignment_diagnostics`: `effective_experts`, where experts are routed to.
    """
    names = ("audio", "text", "joint", "audio_present", "text_present")
    audio, text, joint, has_audio, has_text = (distributed.all_gather_with_grad(seen[n]) for n in names)
    figures = losses.alignment_diagnostics(
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
