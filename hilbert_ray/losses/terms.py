"""The terms of the objective in one record, and their weighted total."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from hilbert_ray.config import LossConfig


def _zero() -> Tensor:
    return torch.zeros(())


@dataclass(frozen=True, kw_only=True, slots=True)
class Terms:
    """The terms of the objective, scalars before weighting; names as in `LossConfig` and in the logs.

    A term that is not given is 0.
    """

    task: Tensor = field(default_factory=_zero)
    contrastive: Tensor = field(default_factory=_zero)
    cka: Tensor = field(default_factory=_zero)
    balance: Tensor = field(default_factory=_zero)
    unimodal: Tensor = field(default_factory=_zero)
    load_balance: Tensor = field(default_factory=_zero)
    router_z: Tensor = field(default_factory=_zero)
    redundancy: Tensor = field(default_factory=_zero)

    def values(self, **others: Tensor) -> dict[str, float]:
        """Return other scalars and the terms as numbers for the log."""
        scalars = others | {name: getattr(self, name) for name in LossConfig.WEIGHTS}
        # Copied together: each copy would wait until the device has done all of its work so far.
        numbers = torch.stack([scalar.detach() for scalar in scalars.values()]).tolist()
        return dict(zip(scalars, numbers, strict=True))


def weighted_sum(terms: Terms, weights: LossConfig) -> Tensor:
    """Return the loss: the sum over terms of weight * term, a scalar."""
    # A weight of 0 multiplies instead of dropping its term: the graph stays the same for every setting, which
    # DDP and the collectives' backward rely on.
    weighted = (getattr(weights, name) * getattr(terms, name) for name in LossConfig.WEIGHTS)
    return sum(weighted, start=torch.zeros(()))
