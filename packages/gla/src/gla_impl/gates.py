"""The gates of the family, from none to the outer product, as `log_alpha` for the operators.

A gate of width 1 in the last axis is one decay for all channels of a head, which `gla_chunk` computes with a
(C, C) matrix instead of sub-blocks.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

__all__ = ["GateKind", "fixed_gate", "no_gate", "outer_gate", "scalar_gate", "vector_gate"]

GateKind = Literal["none", "fixed", "scalar", "vector", "outer"]


def no_gate(n_heads: int) -> Float[Tensor, "1 1 heads 1"]:
    """Nothing is forgotten: linear attention. The operators take None for the same thing, faster."""
    return torch.zeros(1, 1, n_heads, 1)


def fixed_gate(n_heads: int) -> Float[Tensor, "1 1 heads 1"]:
    """RetNet's constant decay a head, `gamma_h = 1 - 2^(-5-h)`, as logarithms."""
    heads = torch.arange(n_heads, dtype=torch.float64)
    return torch.log1p(-torch.exp2(-5.0 - heads)).float().view(1, 1, n_heads, 1)


def scalar_gate(
    time_step: Float[Tensor, "batch length heads"], log_rate: Float[Tensor, " heads"]
) -> Float[Tensor, "batch length heads 1"]:
    """Mamba-2's data-dependent decay a head: `log alpha = -exp(log_rate) softplus(time_step)`, float32 or wider.

    `time_step` is a projection of the token with its bias added; `log_rate` is a parameter a head.
    """
    return -(_wide(log_rate).exp() * F.softplus(_wide(time_step))).unsqueeze(-1)


def vector_gate(
    logits: Float[Tensor, "batch length heads dk"], *, tau: float = 16.0
) -> Float[Tensor, "batch length heads dk"]:
    """GLA's decay a key channel, `alpha = sigmoid(logits)^(1/tau)`, as logarithms in float32 or wider (section 4.4)."""
    if tau <= 0:
        raise ValueError(f"tau must be positive, got {tau}")
    return F.logsigmoid(_wide(logits)) / tau


def outer_gate(
    key_logits: Float[Tensor, "batch length heads dk"],
    value_logits: Float[Tensor, "batch length heads dv"],
    *,
    tau: float = 16.0,
) -> tuple[Float[Tensor, "batch length heads dk"], Float[Tensor, "batch length heads dv"]]:
    """The general gate `G_t = alpha_t^T beta_t` (section 4.1): pass them as `log_alpha` and `log_beta`."""
    return vector_gate(key_logits, tau=tau), vector_gate(value_logits, tau=tau)


def _wide(x: Tensor) -> Tensor:
    """Half precision loses decays close to one; float64 stays what it is."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
