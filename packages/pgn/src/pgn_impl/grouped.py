"""A linear map for each of several variables at once: the 1 × 1 and full-width grouped convolutions of the paper."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

__all__ = ["GroupedLinear", "uniform_init_"]


def uniform_init_(weight: Tensor, bias: Tensor, fan_in: int) -> None:
    """PyTorch's default of linear and convolutional layers: both uniform in ±1 / sqrt(fan_in)."""
    bound = 1 / math.sqrt(fan_in)
    nn.init.uniform_(weight, -bound, bound)
    nn.init.uniform_(bias, -bound, bound)


class GroupedLinear(nn.Module):
    """y[g] = x[g] W[g]^T + b[g] for every group g, as one batched product.

    Args:
        groups: variables; each has its own weights.
        d_in, d_out: features a group.
    """

    def __init__(self, groups: int, d_in: int, d_out: int) -> None:
        super().__init__()
        for name, size in {"groups": groups, "d_in": d_in, "d_out": d_out}.items():
            if size < 1:
                raise ValueError(f"{name} must be at least 1, got {size}")
        self.weight = nn.Parameter(torch.empty(groups, d_out, d_in))
        self.bias = nn.Parameter(torch.empty(groups, d_out))
        uniform_init_(self.weight, self.bias, d_in)

    def forward(self, x: Float[Tensor, "groups rows d_in"]) -> Float[Tensor, "groups rows d_out"]:
        """The maps; rows are whatever shares the weights of a group."""
        return torch.baddbmm(self.bias.unsqueeze(1), x, self.weight.transpose(1, 2))
