"""Collectives that carry gradients, so that the objective sees the global batch on any number of ranks.

The losses never ask for a rank: `objective` gathers embeddings here and passes them whole batches. Without an
initialised process group every function is the identity (or the plain mean) and costs nothing.

The convention, which makes W ranks on any split of a batch equal to one process:

- Every rank computes the same global loss L, from gathered rows or from sums that were reduced over ranks.
- DDP averages parameter gradients, so it differentiates (1 / W) sum_r L_r, where L_r is the loss on rank r.
- The collectives here therefore carry true adjoints: what flows back to a rank is the sum, over all ranks, of
  the gradients with respect to what that rank contributed. As every L_r equals L, the average is exactly
  dL/dtheta, both for parameters behind a gather and for those used after it (the logit scale).
- A sum of local terms is reduced and divided by the global count (`global_mean`); multiplying the local sum
  by W and dividing by the global count gives the same gradient, but not the same value on every rank.

Forward and backward both communicate: all ranks must build the same graph and run backward on it.
"""

from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Float, Shaped
from torch import Tensor
from torch.autograd.function import once_differentiable


def world_size() -> int:
    """Return the number of ranks W; 1 without a process group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Return this process's rank, from 0; 0 without a process group."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def all_gather_with_grad(x: Shaped[Tensor, "rows ..."]) -> Shaped[Tensor, "all_rows ..."]:
    """Return the rows of all ranks in rank order; gradients flow back to the rank that owns a row.

    Ranks may have different numbers of rows, or none; the other axes and the dtype must agree. Rows of any
    dtype are gathered (masks and group numbers too, without gradients). All ranks must call it, and all must
    run backward through it.
    """
    return x if world_size() == 1 else _AllGather.apply(x)  # type: ignore[no-untyped-call]


def all_reduce_sum_with_grad(x: Shaped[Tensor, "*shape"]) -> Shaped[Tensor, "*shape"]:
    """Return the sum of `x` over ranks; the gradient of each rank's `x` is the sum of all ranks' gradients.

    All ranks must call it, and all must run backward through it where `x` requires a gradient.
    """
    return x if world_size() == 1 else _AllReduceSum.apply(x)  # type: ignore[no-untyped-call]


def global_mean(
    loss_sum: Float[Tensor, "*shape"], count: Shaped[Tensor, "*shape"] | int
) -> Float[Tensor, "*shape"]:
    """Return sum over ranks of `loss_sum` / sum over ranks of `count`, and 0 where nothing was counted.

    This is how a loss of local sums (tasks, redundancy) becomes the mean over the global batch, in value and
    gradient. All ranks must call it.
    """
    if isinstance(count, int):
        counts = torch.full_like(loss_sum, count)  # filled on the device: a copy would wait for the host
    else:
        counts = count.to(loss_sum.dtype).expand_as(loss_sum)
    return all_reduce_sum_with_grad(loss_sum) / all_reduce_sum_with_grad(counts.detach()).clamp_min(1)


def average_gradients(parameters: Iterable[torch.nn.Parameter]) -> None:
    """Average `.grad` over ranks in place, as DDP does after its backward; no gradient counts as 0.

    For steps that run backward several times, such as embedding-gradient caching. All ranks must call it with
    the same parameters in the same order.
    """
    if world_size() == 1:
        return
    # Which parameters got a gradient may differ by rank: zeros keep the collectives equal everywhere.
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    for parameter in trained:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    gradients = [parameter.grad for parameter in trained if parameter.grad is not None]
    # One collective for each dtype and device, in the same order on every rank: the cost of a collective is
    # mostly its latency.
    for kind in sorted({(str(g.dtype), str(g.device)) for g in gradients}):
        same = [g for g in gradients if (str(g.dtype), str(g.device)) == kind]
        flat = torch.cat([g.reshape(-1) for g in same])
        dist.all_reduce(flat)
        flat /= world_size()
        for gradient, averaged in zip(same, torch.split(flat, [g.numel() for g in same]), strict=True):
            gradient.copy_(averaged.view_as(gradient))


class _AllGather(torch.autograd.Function):
    """Concatenate rows over ranks; backward sums the gradient over ranks and returns that of the own rows."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:  # noqa: ANN401 - torch gives no type
        # Ranks first tell each other their numbers of rows: a batch need not divide evenly.
        count = x.new_full((1,), x.shape[0], dtype=torch.int64)
        counts = [torch.zeros_like(count) for _ in range(world_size())]
        dist.all_gather(counts, count)
        rows: list[int] = torch.cat(counts).tolist()
        ctx.own_rows = slice(sum(rows[: rank()]), sum(rows[: rank() + 1]))
        # Collectives need equal shapes, and not every backend supports booleans: pad, and send them as bytes.
        sent = x.to(torch.uint8) if x.dtype == torch.bool else x
        padded = sent.new_zeros(max(rows), *x.shape[1:])
        padded[: x.shape[0]] = sent
        gathered = [torch.empty_like(padded) for _ in rows]
        dist.all_gather(gathered, padded)
        return torch.cat([padded[:n] for padded, n in zip(gathered, rows, strict=True)]).to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # noqa: ANN401 - torch gives no type
        # Every rank used all rows, each in its own copy of the loss: the adjoint is the sum over ranks.
        summed = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(summed)
        return summed[ctx.own_rows]


class _AllReduceSum(torch.autograd.Function):
    """Sum over ranks; its adjoint is the same sum."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:  # noqa: ANN401 - torch gives no type
        summed = x.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(summed)
        return summed

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # noqa: ANN401 - torch gives no type
        summed = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(summed)
        return summed
