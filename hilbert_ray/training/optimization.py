"""The optimiser, its learning-rate schedule and the two phases of training."""

import inspect
import math
from dataclasses import replace

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from hilbert_ray.config import Config, LossConfig
from hilbert_ray.model import Network
from hilbert_ray.training import distributed

HEADS = ("experts", "audio_heads", "text_heads", "thresholds")
"""Modules of the network that the second phase trains, by the first part of their parameters' names."""


class EagerAdamW(torch.optim.AdamW):
    """AdamW that does not import torch's compiler, which takes every process that trains two seconds.

    torch wraps these methods to tell `torch.compile` to leave them alone, and imports the compiler to do so.
    Nothing is compiled here, so what they wrap computes the same.
    """

    step = torch.no_grad()(inspect.unwrap(torch.optim.AdamW.step))
    add_param_group = inspect.unwrap(torch.optim.Optimizer.add_param_group)
    zero_grad = inspect.unwrap(torch.optim.Optimizer.zero_grad)
    state_dict = inspect.unwrap(torch.optim.Optimizer.state_dict)
    load_state_dict = inspect.unwrap(torch.optim.Optimizer.load_state_dict)


def new_optimizer(network: Network, config: Config) -> torch.optim.AdamW:
    """Return AdamW; biases, norms, single tokens and the logit scale are not decayed."""
    parameters = list(network.parameters())
    # Matrices are decayed, vectors and scalars are not: decay would pull norms and biases towards 0, which is
    # not where they are neutral (nor is it for the scale, which is a logarithm).
    groups = [
        {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": config.fit.weight_decay},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]
    return EagerAdamW(groups, lr=config.fit.learning_rate, fused=True)


def set_learning_rate(
    optimizer: torch.optim.Optimizer, config: Config, step: int, steps_per_epoch: int
) -> None:
    """Set the learning rate of a step, counted from 0 over all epochs of the network."""
    for group in optimizer.param_groups:
        group["lr"] = config.fit.learning_rate * learning_rate_factor(config, step, steps_per_epoch)


def learning_rate_factor(config: Config, step: int, steps_per_epoch: int) -> float:
    """Return the learning rate's factor: in each phase a linear warm-up, then a cosine to 0."""
    # The second phase trains heads that have not moved yet: at the tail of one cosine over both they would
    # get half the rate, and no warm-up.
    align = config.fit.align_epochs * steps_per_epoch
    steps, step = (align, step) if step < align else (config.fit.epochs * steps_per_epoch, step - align)
    warmup = config.fit.warmup * steps
    if step < warmup:
        return (step + 1) / (warmup + 1)  # never 0: the first step should not be wasted
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(steps - warmup, 1)))


def phase_weights(config: Config, epoch: int) -> LossConfig:
    """Return the weights of the loss terms in an epoch: the align phase uses no label."""
    if epoch < config.fit.align_epochs:
        return replace(config.loss, task=0.0, unimodal=0.0)
    return config.loss


def phase_module(network: Network, config: Config, epoch: int) -> nn.Module:
    """Return what a step of an epoch's phase calls: the network, or DDP around it.

    After an align phase everything except the heads is frozen, unless `fit.finetune`. All ranks must call it.
    """
    if config.fit.align_epochs and epoch >= config.fit.align_epochs and not config.fit.finetune:
        for name, parameter in network.named_parameters():
            parameter.requires_grad_(name.startswith(HEADS))
    # Gradient caching runs backward several times in a step, each of which DDP would reduce:
    # `objective.backward` averages the gradients itself then.
    if distributed.world_size() == 1 or config.fit.micro_batch_size:
        return network
    # A rank may lack a modality, a label or any document in a step, so that parameters go unused on it alone.
    # Buffers are statistics of the training part, the same on every rank from the start.
    return DistributedDataParallel(network, broadcast_buffers=False, find_unused_parameters=True)
