"""Dropout with masks that are cheap to draw on a CPU, where torch's own take a tenth to a fifth of a step."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LEVELS = 1 << 16
"""Values of the 16 random bits that decide whether a number is dropped: the probability is a multiple of
1 / LEVELS."""


class Dropout(nn.Module):
    """Zero each number with probability `p` in training and scale the others by 1 / (1 - p).

    Srivastava et al. 2014. On a CPU one draw of 64 bits decides four numbers, and `p` is rounded to a
    multiple of 1 / 65,536; the scale uses the rounded probability, so that the mean stays. On other devices
    it is torch's own dropout.
    """

    def __init__(self, p: float) -> None:
        """Set the probability.

        Raises:
            ValueError: when it is not at least 0 and below 1.
        """
        super().__init__()
        if not 0 <= p < 1:
            raise ValueError(f"dropout of {p}: the probability must be at least 0 and below 1")
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        """Return `x` with numbers dropped, same shape and dtype; `x` itself outside training."""
        # A GPU draws its masks inside the kernel, which nothing here could beat.
        if not self.training or self.p == 0 or x.device.type != "cpu":
            return F.dropout(x, self.p, self.training)
        # At most LEVELS - 1, so that the scale stays finite for p near 1.
        dropped = min(round(self.p * LEVELS), LEVELS - 1)
        # Whole words of 64 bits: drawing 16-bit integers directly takes as many draws as numbers.
        draws = torch.empty((x.numel() + 3) // 4, dtype=torch.int64)
        draws.random_(torch.iinfo(torch.int64).min, None)
        bits = draws.view(torch.int16)[: x.numel()].view(x.shape)
        is_kept = bits >= dropped - LEVELS // 2  # int16 begins at -LEVELS / 2
        return x * is_kept.to(x.dtype).mul_(LEVELS / (LEVELS - dropped))

    def extra_repr(self) -> str:
        """Return what `print` shows in the parentheses."""
        return f"p={self.p}"
