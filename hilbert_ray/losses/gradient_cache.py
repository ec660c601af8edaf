"""A training step whose batch exceeds memory: gradients are cached at the model's outputs.

The contrastive terms need all embeddings of a batch at once, but only the embeddings: graphs of the networks
behind them can be built a micro batch at a time (GradCache, Gao et al. 2021, section 3.2).
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
    DDP would reduce them after each part.

    Args:
        forward: micro batch to named outputs, each with documents first; must not change any state but the
            random generators'.
        batches: the micro batches of a step, at least one.
        objective: outputs of all micro batches, each name concatenated over documents, to a scalar loss.

    Raises:
        ValueError: when there is no micro batch.
    """
    if not batches:
        raise ValueError("gradient caching of 0 micro batches: a step needs at least one; skip empty steps")
    states, parts = [], []
    with torch.no_grad():
        for batch in batches:
            states.append(_random_state())
            parts.append(dict(forward(batch)))
    leaves = [
        {name: x.detach().requires_grad_(x.is_floating_point()) for name, x in part.items()} for part in parts
    ]
    loss = objective({name: torch.cat([part[name] for part in leaves]) for name in parts[0]})
    loss.backward()  # type: ignore[no-untyped-call]
    del parts
    after = _random_state()
    for batch, state, cached in zip(batches, states, leaves, strict=True):
        _restore(state)
        again = forward(batch)
        used = [name for name, x in again.items() if x.requires_grad and cached[name].grad is not None]
        torch.autograd.backward([again[name] for name in used], [cached[name].grad for name in used])
    _restore(after)
    return loss.detach()


def _random_state() -> tuple[Tensor, list[Tensor]]:
    """Return the state of torch's generators: CPU, and each CUDA device."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return torch.get_rng_state(), cuda


def _restore(state: tuple[Tensor, list[Tensor]]) -> None:
    torch.set_rng_state(state[0])
    if state[1]:
        torch.cuda.set_rng_state_all(state[1])
