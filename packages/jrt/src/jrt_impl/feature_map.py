"""The Taylor feature map: a finite map whose inner product is the second-order expansion of exp (Based; section 4)."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

__all__ = ["TaylorExp", "taylor_kernel"]


def taylor_kernel(
    q: Float[Tensor, "*batch queries feature"], k: Float[Tensor, "*batch keys feature"]
) -> Float[Tensor, "*batch queries keys"]:
    """1 + z + z^2 / 2 with z = q.k / sqrt(d'): what `TaylorExp` expands, never below 1/2."""
    z = (q / math.sqrt(q.shape[-1])) @ k.transpose(-1, -2)
    return torch.addcmul(1 + z, z, z, value=0.5)


class TaylorExp(nn.Module):
    """phi(x) = [1, x / d'^(1/4), vec(x x^T) / (sqrt 2 sqrt d')], so that phi(q).phi(k) = `taylor_kernel`(q, k).

    Args:
        feature_dim: d', the size of a query and a key.
        symmetric: keep each product x_i x_j once (times sqrt 2 off the diagonal): the same inner product from
            1 + d' + d'(d'+1)/2 numbers instead of 1 + d' + d'^2.

    Raises:
        ValueError: if `feature_dim` is not positive, or an input has another last dimension.
    """

    _row: Tensor
    _column: Tensor

    def __init__(self, feature_dim: int = 16, *, symmetric: bool = False) -> None:
        super().__init__()
        if feature_dim < 1:
            raise ValueError(f"feature_dim must be at least 1, got {feature_dim}")
        self.feature_dim, self.symmetric = feature_dim, symmetric
        row, column = torch.triu_indices(feature_dim, feature_dim)
        self.register_buffer("_row", row, persistent=False)
        self.register_buffer("_column", column, persistent=False)

    @property
    def size(self) -> int:
        """D, the number of features."""
        d = self.feature_dim
        return 1 + d + (d * (d + 1) // 2 if self.symmetric else d * d)

    def forward(self, x: Float[Tensor, "*batch feature"]) -> Float[Tensor, "*batch expanded"]:
        """The features of each vector."""
        d = self.feature_dim
        if x.shape[-1] != d:
            raise ValueError(f"x must have last dimension {d}, got shape {tuple(x.shape)}")
        if self.symmetric:
            # made in x's own type: a torch.where of two numbers would be float32
            weight = x.new_full((len(self._row),), 1 / math.sqrt(d))
            weight = weight.masked_fill(self._row == self._column, 1 / math.sqrt(2 * d))
            second = x[..., self._row] * x[..., self._column] * weight
        else:
            second = (x[..., :, None] * x[..., None, :]).flatten(-2) / math.sqrt(2 * d)
        return torch.cat([torch.ones_like(x[..., :1]), x / d**0.25, second], dim=-1)
