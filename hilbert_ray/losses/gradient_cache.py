"""A training step whose batch exceeds memory: gradients are cached at the model's outputs.

The contrastive terms need all embeddings of a batch at once, but only the embeddings: the graphs behind them
can be built one micro batch at a time (GradCache, Gao et al. 2021, section 3.2). Costs one more forward pass.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


def cached_backward(
    forward: Callable[[T], Mapping[str, Tensor]],
    batches: Sequence[T],
    objective: Callable[[dict[str, Tensor]], Tensor],
    device: torch.device,
) -> Tensor:
    """Add the gradients of objective(forward(all batches)) to parameters and return its detached value.

    1. Every micro batch goes forward without a graph; its outputs are kept.
    2. The objective of all outputs, concatenated, goes backward to the outputs and to its own parameters (the
       logit scale).
    3. Every micro batch goes forward again with the random state of its first time, so that dropout repeats,
       and its cached gradients go backward into the network.

    Value and gradient equal those of running all micro batches with their graphs at once. On several ranks
    the objective may gather (`distributed`), while `forward` must not communicate, so that ranks may have
    different numbers of micro batches. Average the gradients afterwards with `distributed.average_gradients`:
    DDP would reduce them after each micro batch.

    Args:
        forward: micro batch to named outputs, each with documents first; must not change any state except
            that of the random generators.
        batches: the micro batches of a step, at least one.
        objective: outputs of all micro batches, each name concatenated over documents, to a scalar loss.
        device: where `forward` draws its random numbers, besides the CPU.

    Raises:
        ValueError: when there is no micro batch.
    """
    if not batches:
        raise ValueError("gradient caching of 0 micro batches: a step needs at least one; skip empty steps")
    random_states, outputs = [], []
    # The first pass has no graph, and so no activations: its memory is that of the outputs.
    with torch.no_grad():
        for batch in batches:
            random_states.append(_random_state(device))
            outputs.append(dict(forward(batch)))
    # Leaves of the objective's graph: where its backward stops, and leaves the gradients to be cached.
    leaves = [
        {name: x.detach().requires_grad_(x.is_floating_point()) for name, x in output.items()}
        for output in outputs
    ]
    loss = objective({name: torch.cat([leaf[name] for leaf in leaves]) for name in outputs[0]})
    loss.backward()  # type: ignore[no-untyped-call]
    del outputs  # before the second pass: memory holds the leaves and one micro batch's graph
    random_state_after = _random_state(device)
    for batch, random_state, cached in zip(batches, random_states, leaves, strict=True):
        _restore(random_state, device)
        output = forward(batch)
        # Masks and targets carry no gradient, and the objective need not use every output.
        used = [name for name, x in output.items() if x.requires_grad and cached[name].grad is not None]
        torch.autograd.backward([output[name] for name in used], [cached[name].grad for name in used])
    # As after the first pass, so that the next step draws what it would have drawn without caching.
    _restore(random_state_after, device)
    return loss.detach()


def _random_state(device: torch.device) -> tuple[Tensor, Tensor | None]:
    """Return the state of torch's generators: of the CPU, and of `device` where that is a GPU."""
    # Not of all GPUs of the machine: asking for a state takes memory on each, which may be another process's.
    of_gpu = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
    return torch.get_rng_state(), of_gpu


def _restore(state: tuple[Tensor, Tensor | None], device: torch.device) -> None:
    of_cpu, of_gpu = state
    torch.set_rng_state(of_cpu)
    if of_gpu is not None:
        torch.cuda.set_rng_state(of_gpu, device)
