"""Dropout that draws 16 random bits an element.

On a CPU, drawing a Bernoulli variable an element costs as much as the matrix products of these models. Sixteen bits are
enough: the rate is rounded to a multiple of 2^-16, and what is kept is rescaled by exactly that rate.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

__all__ = ["Dropout"]

LEVELS = 2**16


class Dropout(nn.Module):
    """Zeroes each element with probability `p` in training and divides the others by 1 - p.

    Raises:
        ValueError: if p is not in [0, 1).
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        if not 0.0 <= p < 1.0:
            raise ValueError(f"p must be at least 0 and below 1, got {p}")
        self.p = p

    def extra_repr(self) -> str:
        """The rate."""
        return f"p={self.p}"

    def forward(self, x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        if not self.training or self.p == 0.0:
            return x
        if x.device.type != "cpu":
            return F.dropout(x, self.p)
        dropped = min(round(self.p * LEVELS), LEVELS - 1)
        bits = torch.empty((x.numel() + 3) // 4, dtype=torch.int64).random_(-(2**63), None).view(torch.int16)
        keep = bits[: x.numel()].view(x.shape) >= dropped - LEVELS // 2
        return x * keep.to(x.dtype).mul_(LEVELS / (LEVELS - dropped))
