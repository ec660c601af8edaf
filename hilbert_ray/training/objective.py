"""One step's objective on the global batch, and its gradients.

Embeddings are gathered over ranks with their gradients; task and redundancy losses are local sums over global
counts. Everything here can be tested without the loop in `loop`.
"""

import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from hilbert_ray import losses
from hilbert_ray.config import MODALITIES, Config, LossConfig
from hilbert_ray.features import Batch, Features, collate, to_device
from hilbert_ray.model import (
    Network,
    Output,
    effective_experts,
    load_balance_loss,
    redundancy_penalty,
    router_z_loss,
)
from hilbert_ray.training import distributed

CKA_MINIMUM = 16
"""Documents below which CKA is not computed: with independent data, unbiased CKA of 16 documents still has a
standard deviation of 0.10, which would drown the signal."""


def backward(
    model: nn.Module, features: Features, own: np.ndarray, config: Config, weights: LossConfig
) -> tuple[losses.Terms, Tensor, dict[str, Tensor]]:
    """Add the gradients of one step's loss to the parameters, the mean over ranks.

    With `fit.micro_batch_size` activations exist for that many documents at a time. All ranks must call it.

    Args:
        model: the network, or DDP around it; the network itself with `fit.micro_batch_size`.
        features: of all documents.
        own: this rank's documents of the step; may be empty.
        config: settings.
        weights: of the terms, in this phase.

    Returns:
        The terms, the loss, and what the objective saw, detached: `objective_inputs` of this rank's
        documents, and the contrastive scale as `scale`.
    """
    network = model.module if isinstance(model, DistributedDataParallel) else model
    assert isinstance(network, Network)
    device = network.logit_scale.device
    seen: dict[str, Tensor] = {}
    terms = losses.Terms()

    def forward(indices: np.ndarray) -> dict[str, Tensor]:
        batch = collate(features, indices).to(device)
        # Autocast for the network alone: the losses are computed in float32.
        with torch.autocast(device.type, torch.bfloat16, enabled=_is_bf16(config, device)):
            return objective_inputs(model(batch), batch, config)

    # Gradient caching calls `forward` once per micro batch and again in its second pass, but this one once
    # per step, with all of them: what the record needs is kept here.
    def loss_of(inputs: dict[str, Tensor]) -> Tensor:
        nonlocal seen, terms
        seen = {name: x.detach() for name, x in {**inputs, "scale": network.scale}.items()}
        terms = objective_terms(inputs, network, config)
        return losses.weighted_sum(terms, weights)

    if config.fit.micro_batch_size:
        count = math.ceil(len(own) / config.fit.micro_batch_size)
        # A rank without documents runs one empty micro batch: it must still take part in the collectives.
        loss = losses.cached_backward(forward, np.array_split(own, max(count, 1)), loss_of, device)
        distributed.average_gradients(network.parameters())
    else:
        loss = loss_of(forward(own))
        loss.backward()  # type: ignore[no-untyped-call]
    return terms, loss.detach(), seen


def _is_bf16(config: Config, device: torch.device) -> bool:
    """Return whether the network computes in bf16; its weights, gradients and losses are float32."""
    return config.fit.precision == "bf16" or (config.fit.precision == "auto" and device.type == "cuda")


def objective_inputs(output: Output, batch: Batch, config: Config) -> dict[str, Tensor]:
    """Return what the objective reads, by name, one row per document.

    Flat, and not a record, since gradient caching joins micro batches name by name with `torch.cat`:

    - `joint`: embedding [B, D]; `group`: [B].
    - `MODALITY/embedding`: [B, D]; `MODALITY/present`: bool [B]; `MODALITY/reference`: what CKA compares with
      the joint embedding, the embedding or the frozen features' mean over segments.
    - `redundancy`: the penalty of both pools, [B, 2]; `router_logits`: [B, tasks, experts], absent without
      experts.
    - `logits/TASK`, `MODALITY/logits/TASK`, `targets/TASK`.
    """
    # The order of names is that in which gradient caching runs back: changing it changes the last bits.
    inputs = {f"{m}/embedding": x.embedding for m, x in output.by_modality.items()}
    inputs["joint"] = output.joint
    inputs |= {f"{m}/present": x.present for m, x in output.by_modality.items()}
    inputs["group"] = batch.group
    penalties = []
    for modality, unimodal in output.by_modality.items():
        reference, padded = unimodal.embedding, batch.by_modality.get(modality)
        # A modality without an encoder has no features: its embedding, the same for all documents, takes
        # their place, and no row of it is present.
        if config.loss.cka_reference == "features" and padded is not None:
            mean, _ = padded.wide.chunk(2, dim=1)  # over segments; the other half is the deviation
            reference = mean.to(output.joint.dtype)
        inputs[f"{modality}/reference"] = reference
        penalties.append(redundancy_penalty(unimodal.attention, config.loss.penalty))
    inputs["redundancy"] = torch.stack(penalties, dim=1)
    if output.router_logits is not None:
        inputs["router_logits"] = output.router_logits
    inputs |= {f"logits/{task}": logits for task, logits in output.logits.items()}
    for modality, unimodal in output.by_modality.items():
        inputs |= {f"{modality}/logits/{task}": logits for task, logits in unimodal.logits.items()}
    return inputs | {f"targets/{task}": targets for task, targets in batch.targets.items()}


def objective_terms(inputs: Mapping[str, Tensor], network: Network, config: Config) -> losses.Terms:
    """Return the terms of the global batch, the same on every rank.

    All ranks must call it.

    Args:
        inputs: `objective_inputs` of this rank's documents.
        network: gives the contrastive scale and the statistics of labels.
        config: settings.
    """
    gather, settings, scale = distributed.all_gather_with_grad, config.loss, network.scale
    # Terms that compare documents with each other need the embeddings of all ranks, with their gradients: the
    # loss of a batch must not depend on how it is divided.
    audio, text, joint = (gather(inputs[name]) for name in ("audio/embedding", "text/embedding", "joint"))
    with_audio, with_text, with_both = _rows_with(
        gather(inputs["audio/present"]), gather(inputs["text/present"])
    )
    # Documents of one group (a speaker) are alike for reasons other than their content: not negatives.
    group = None if settings.group_negatives else gather(inputs["group"])
    contrasts = []
    if settings.contrast != "direct":
        contrasts.append(
            losses.contrastive(
                audio, text, joint, scale, group, audio_present=with_audio, text_present=with_text
            )
        )
    if settings.contrast != "reciprocal":  # the modalities directly, on the documents that have both
        contrasts.append(losses.info_nce(audio, text, scale, group, present=with_both))
    audio_reference, text_reference = audio, text
    if settings.cka_reference == "features":
        audio_reference, text_reference = gather(inputs["audio/reference"]), gather(inputs["text/reference"])
    cka = losses.cka_loss(
        audio_reference, text_reference, joint, settings.cka_estimator, settings.cka_kernel,
        audio_present=with_audio, text_present=with_text, minimum=CKA_MINIMUM,
    )  # fmt: skip
    balance = losses.balance(
        audio, text, joint, scale, settings.balance_estimator, settings.balance_gradient, settings.smile_clip,
        present=with_both,
    )  # fmt: skip
    # The load of experts is a product of two means over the batch, which a mean over ranks would not give.
    router = gather(inputs["router_logits"]) if "router_logits" in inputs else None
    zero = joint.new_zeros(())
    return losses.Terms(
        task=_task_loss("logits", inputs, network, config),
        contrastive=torch.stack(contrasts).mean(),
        cka=cka,
        balance=balance,
        unimodal=_unimodal_loss(inputs, network, config),
        load_balance=zero if router is None else load_balance_loss(router, config.moe.top_k),
        router_z=zero if router is None else router_z_loss(router),
        redundancy=distributed.global_mean(inputs["redundancy"].sum(), inputs["redundancy"].numel()),
    )


def _rows_with(has_audio: Tensor, has_text: Tensor) -> list[Tensor]:
    """Return the rows of documents with audio, with text and with both, int64, of masks over documents."""
    # The sizes of what the terms select must be known here: one wait for the device, where selecting by masks
    # would wait at each selection and again in its backward.
    masks = torch.stack([has_audio, has_text, has_audio & has_text]).cpu()
    return [to_device(mask.nonzero()[:, 0], has_audio.device) for mask in masks]


def diagnostics(seen: Mapping[str, Tensor], config: Config) -> dict[str, float]:
    """Return figures on a step's global batch from what `backward` saw. All ranks must call it.

    Those of `losses.embedding_diagnostics`, and with experts `effective_experts`.
    """
    # Gathered again, without gradients: keeping the gathered embeddings of each step would cost memory for
    # figures that are shown once per epoch.
    names = ("audio/embedding", "text/embedding", "joint", "audio/present", "text/present")
    audio, text, joint, has_audio, has_text = (distributed.all_gather_with_grad(seen[n]) for n in names)
    figures = losses.embedding_diagnostics(
        audio, text, joint, seen["scale"], audio_present=has_audio, text_present=has_text,
        minimum=CKA_MINIMUM,
    )  # fmt: skip
    if "router_logits" in seen:
        router_logits = distributed.all_gather_with_grad(seen["router_logits"])
        figures["effective_experts"] = effective_experts(router_logits, config.moe.top_k)
    return figures


def _task_loss(
    head: str, inputs: Mapping[str, Tensor], network: Network, config: Config, present: Tensor | None = None
) -> Tensor:
    """Return the sum over tasks of a head's mean loss over the global batch's labelled (present) entries."""
    means = []
    for name, task in config.tasks.items():
        targets = inputs[f"targets/{name}"]
        if present is not None:
            targets = _unlabelled_unless(present, targets)
        # A rank may have no labelled document: sums and counts are reduced, and not the means of ranks.
        loss, count = losses.task_loss(task, inputs[f"{head}/{name}"], targets, network.labels[name])
        means.append(distributed.global_mean(loss, count))
    return torch.stack(means).sum()


def _unimodal_loss(inputs: Mapping[str, Tensor], network: Network, config: Config) -> Tensor:
    """Return the mean of both single-modality heads' losses, over documents with the modality."""
    if not config.model.unimodal_heads:
        return inputs["joint"].new_zeros(())
    halves = [
        _task_loss(f"{modality}/logits", inputs, network, config, inputs[f"{modality}/present"])
        for modality in MODALITIES
    ]
    return torch.stack(halves).mean()


def _unlabelled_unless(present: Tensor, targets: Tensor) -> Tensor:
    """Return the targets [B, ...], marked as unlabelled in rows where `present` [B] is False."""
    unlabelled = float("nan") if targets.is_floating_point() else -1
    return targets.masked_fill(~present.view(-1, *[1] * (targets.dim() - 1)), unlabelled)
