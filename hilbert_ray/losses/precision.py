"""The decorator that keeps losses out of low precision."""

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

P = ParamSpec("P")
R = TypeVar("R")


def full_precision(function: Callable[P, R]) -> Callable[P, R]:
    """Run `function` without autocast and on tensors of at least float32; float64 stays what it is.

    bf16 has 8 significant bits: a logsumexp over a batch, or the cancelling sums of HSIC, would be noise.
    """

    def raised(value: Any) -> Any:  # noqa: ANN401 - any argument passes through
        low = isinstance(value, Tensor) and value.dtype in (torch.float16, torch.bfloat16)
        return value.float() if low else value

    # Inputs are raised, not results: the caller's bf16 tensors get bf16 gradients, through the cast.
    @functools.wraps(function)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        # Autocast is per device type: the one to switch off is that of the first tensor.
        device = next(value.device.type for value in args if isinstance(value, Tensor))
        with torch.autocast(device, enabled=False):
            return function(*map(raised, args), **{name: raised(value) for name, value in kwargs.items()})

    return wrapped
