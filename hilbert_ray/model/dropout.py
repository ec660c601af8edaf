"""Dropout whose masks are cheap to draw on a CPU, where torch's own take a tenth to a fifth of a step."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LEVELS = 1 << 16  # a number is dropped by comparing 16 random bits with a share of so many levels


class Dropout(nn.Module):
    """Zero a random share `p` of the numbers in training and scale the others by 1 / (1 - p).

    (Srivastava et al. 2014.) On a CPU four numbers are decided by one draw of 64 bits, and `p` is rounded to
    1 / 65,536; the scale fits the rounded share, so that the mean stays. Elsewhere it is torch's own.
    """

    def __init__(self, p: float) -> None:
        """Set the share, from 0 to below 1.

        Raises:
            ValueError: for another share.
        """
        super().__init__()
        if not 0 <= p < 1:
            raise ValueError(f"dropout of {p}: the share must be from 0 to below 1")
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        """Return `x` with numbers dropped, same shape and dtype; `x` itself outside training."""
        if not self.training or self.p == 0 or x.device.type != "cpu":
            return F.dropout(x, self.p, self.training)
        dropped = min(round(self.p * LEVELS), LEVELS - 1)
        draws = torch.empty((x.numel() + 3) // 4, dtype=torch.int64)
        draws.random_(torch.iinfo(torch.int64).min, None)
        bits = draws.view(torch.int16)[: x.numel()].view(x.shape)
        kept = bits >= dropped - LEVELS // 2  # int16 is from -LEVELS / 2 on
        return x * kept.to(x.dtype).mul_(LEVELS / (LEVELS - dropped))

    def extra_repr(self) -> str:
        """Return what `print` shows in the parentheses."""
        return f"p={self.p}"
