"""The optimiser, its learning-rate schedule and the two phases of training."""

import math
from dataclasses import replace

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from hilbert_ray.config import Config, LossConfig
from hilbert_ray.model import Network
from hilbert_ray.training import distributed


def new_optimizer(network: Network, config: Config) -> torch.optim.AdamW:
    """Return AdamW; biases, norms, single tokens and the logit scale are not decayed."""
    named = list(network.named_parameters())
    decayed = [p for _, p in named if p.dim() >= 2]
    others = [p for _, p in named if p.dim() < 2]
    groups = [
        {"params": decayed, "weight_decay": config.fit.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.fit.learning_rate, fused=True)


def enter_phase(network: Network, config: Config, epoch: int) -> tuple[nn.Module, LossConfig]:
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


def learning_rate_factor(config: Config, step: int, steps_per_epoch: int) -> float:
    """Return the learning rate's factor: linear warm-up, then a cosine to 0, over both phases."""
    steps = (config.fit.align_epochs + config.fit.epochs) * steps_per_epoch
    warmup = config.fit.warmup * steps
    if step < warmup:
        return (step + 1) / (warmup + 1)
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(steps - warmup, 1)))
