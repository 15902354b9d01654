"""The norms of MEGA: over features at each position, or over batch and time."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from .config import NORMS

__all__ = ["ScaleNorm", "SequenceNorm", "activation_function", "check_input"]


class ScaleNorm(nn.Module):
    """x over its root mean square, times one learned number."""

    def __init__(self, eps: float = 1e-5, *, affine: bool = True) -> None:
        super().__init__()
        self.eps = eps
        self.scale = nn.Parameter(torch.ones(1)) if affine else None

    def forward(self, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
        """Each vector by itself."""
        normed = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.eps)
        return normed if self.scale is None else self.scale * normed


class SequenceNorm(nn.Module):
    """A norm by name, on (batch, length, d_model).

    `batchnorm` takes its statistics over batch and time while training, so what it gives depends on the future; in
    evaluation mode it is a fixed affine map of each position.

    Raises:
        ValueError: a name that is none.
    """

    def __init__(self, name: str, d_model: int, *, eps: float = 1e-5, affine: bool = True) -> None:
        super().__init__()
        if name not in NORMS:
            raise ValueError(f"norm must be one of {', '.join(NORMS)}, got {name!r}")
        self.name = name
        self.norm: nn.Module = {
            "layernorm": lambda: nn.LayerNorm(d_model, eps=eps, elementwise_affine=affine),
            "scalenorm": lambda: ScaleNorm(eps, affine=affine),
            "rmsnorm": lambda: nn.RMSNorm(d_model, eps=eps, elementwise_affine=affine),
            "batchnorm": lambda: nn.BatchNorm1d(d_model, eps=eps, affine=affine),
            "none": nn.Identity,
        }[name]()

    @property
    def over_time(self) -> bool:
        """Whether an output depends on other positions."""
        return self.name == "batchnorm" and self.training

    def forward(self, x: Float[Tensor, "batch length d_model"]) -> Float[Tensor, "batch length d_model"]:
        """Of the shape of the input."""
        if self.name != "batchnorm":
            return self.norm(x)
        if self.training and x.shape[0] * x.shape[1] < 2:
            raise ValueError("batchnorm in training needs at least two positions in a batch, got one")
        return self.norm(x.transpose(1, 2)).transpose(1, 2)

    def refuse_streaming(self) -> None:
        """Raises a ValueError where a norm over time would make streaming wrong."""
        if self.over_time:
            raise ValueError(
                "norm batchnorm is taken over time while training, so a state cannot continue it; call .eval(), or "
                "use layernorm, scalenorm or rmsnorm"
            )


def activation_function(name: str) -> nn.Module:
    """SiLU, GELU, ReLU, tanh, or none.

    Raises:
        ValueError: a name that is none of these.
    """
    known = {"silu": nn.SiLU, "gelu": nn.GELU, "relu": nn.ReLU, "tanh": nn.Tanh, "none": nn.Identity}
    if name not in known:
        raise ValueError(f"activation must be one of {', '.join(known)}, got {name!r}")
    return known[name]()


def check_input(x: Tensor, d_model: int) -> None:
    """Refuse what no layer of this package can take.

    Raises:
        ValueError: not floating point, not (batch, length, d_model), or no position.
    """
    if not x.is_floating_point():
        raise ValueError(f"x must be of a floating-point dtype, got {x.dtype}")
    if x.ndim != 3 or x.shape[2] != d_model:
        raise ValueError(f"x must have shape (batch, length, {d_model}), got {tuple(x.shape)}")
    if x.shape[1] == 0:
        raise ValueError("x must hold at least one position, got length 0")
