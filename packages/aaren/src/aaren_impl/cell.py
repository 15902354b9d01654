"""Softmax attention as a recurrence: the state, its cell and its associative operator (sections 3.1 and 3.2)."""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["AttentionState", "attention_cell", "attention_rnn", "combine", "identity_state", "latent_attention", "read",
           "self_attention_as_rnns"]  # fmt: skip


class AttentionState(NamedTuple):
    """What attention keeps of a set of tokens: section 3.2's (m, u, w); `*batch` may hold heads and time."""

    maximum: Float[Tensor, "*batch"]
    """m, the largest score; -inf of the empty set"""
    denominator: Float[Tensor, "*batch"]
    """u, the sum of exp(s_i - m)"""
    numerator: Float[Tensor, "*batch d_head"]
    """w, the sum of exp(s_i - m) v_i"""

    @property
    def n_bytes(self) -> int:
        """Memory of the state; it does not depend on how many tokens were read."""
        return sum(t.numel() * t.element_size() for t in self)


def decay(a: Tensor, b: Tensor) -> Tensor:
    """exp(a - b) for a <= b, where exp(-inf - -inf) is 0: the empty set weighs nothing."""
    return torch.exp(a - b.masked_fill(b == -math.inf, 0.0))


def identity_state(
    *batch: int, d_head: int, dtype: torch.dtype | None = None, device: torch.device | str | None = None
) -> AttentionState:
    """The empty set, neutral under `combine`: (-inf, 0, 0)."""
    zeros = torch.zeros(batch, dtype=dtype, device=device)
    return AttentionState(torch.full_like(zeros, -math.inf), zeros, zeros.new_zeros(*batch, d_head))


def combine(a: AttentionState, b: AttentionState) -> AttentionState:
    """The state of the union of two disjoint sets of tokens; associative and commutative (section 3.2)."""
    m = torch.maximum(a.maximum, b.maximum)
    of_a, of_b = decay(a.maximum, m), decay(b.maximum, m)
    u = a.denominator * of_a + b.denominator * of_b
    w = a.numerator * of_a.unsqueeze(-1) + b.numerator * of_b.unsqueeze(-1)
    return AttentionState(m, u, w)


def attention_cell(
    state: AttentionState, s: Float[Tensor, "*batch"], v: Float[Tensor, "*batch d_head"]
) -> AttentionState:
    """The state after one more token with score s and value v (section 3.1); s = -inf leaves it as it was.

    Raises:
        ValueError: if a score is NaN or +inf, or the state is of another batch or dtype.
    """
    if state.maximum.shape != s.shape or state.numerator.shape != v.shape or state.numerator.dtype != v.dtype:
        raise ValueError(
            f"state must be of shape {tuple(v.shape)} and {v.dtype}, got {tuple(state.numerator.shape)} and "
            f"{state.numerator.dtype}"
        )
    if bool((s.isnan() | (s == math.inf)).any()):
        raise ValueError("s must be finite, or -inf to hide a token; got NaN or +inf")
    v = torch.where((s == -math.inf).unsqueeze(-1), torch.zeros_like(v), v)
    one = torch.where(s == -math.inf, torch.zeros_like(s), torch.ones_like(s))
    return combine(state, AttentionState(s, one, v))


def advance(state: AttentionState, s: Tensor, v: Tensor) -> AttentionState:
    """`attention_cell` for finite scores alone: a third of its operations, for streams."""
    m = torch.maximum(state.maximum, s)
    old, new = torch.exp(state.maximum - m), torch.exp(s - m)
    u = torch.addcmul(new, state.denominator, old)
    w = torch.addcmul(v * new.unsqueeze(-1), state.numerator, old.unsqueeze(-1))
    return AttentionState(m, u, w)


def read(state: AttentionState) -> Float[Tensor, "*batch d_head"]:
    """The attention output w / u; 0 where no token was seen."""
    u = state.denominator
    return state.numerator / torch.where(u == 0, torch.ones_like(u), u).unsqueeze(-1)


def attention_rnn(
    q: Float[Tensor, "*batch d_head"],
    k: Float[Tensor, "*#batch length d_head"],
    v: Float[Tensor, "*#batch length d_value"],
    *,
    block_size: int = 1,
) -> Float[Tensor, "*batch d_value"]:
    """Attention of one query over all tokens as a many-to-one RNN, `block_size` tokens a step (section 3.1).

    Any block size gives the same; memory beside the inputs is O(block_size).

    Raises:
        ValueError: if block_size is not positive.
    """
    if block_size < 1:
        raise ValueError(f"block_size must be positive, got {block_size}")
    scale = 1 / math.sqrt(q.shape[-1])
    state = identity_state(*q.shape[:-1], d_head=v.shape[-1], dtype=v.dtype, device=v.device)
    for start in range(0, k.shape[-2], block_size):
        part = slice(start, start + block_size)
        s = (k[..., part, :] @ q.unsqueeze(-1)).squeeze(-1) * scale
        m = s.amax(-1)
        p = decay(s, m.unsqueeze(-1))
        block = AttentionState(m, p.sum(-1), (p.unsqueeze(-2) @ v[..., part, :]).squeeze(-2))
        state = combine(state, block)
    return read(state)


def self_attention_as_rnns(
    q: Float[Tensor, "*batch length d_head"],
    k: Float[Tensor, "*batch length d_head"],
    v: Float[Tensor, "*batch length d_value"],
) -> Float[Tensor, "*batch length d_value"]:
    """Causal self-attention as one RNN a token (section 3.1): token t's query runs the cell over tokens 1 to t.

    The query fixes the start of each RNN, so a new token has to read the whole past: this is what Aaren does away with.
    """
    n = q.shape[-2]
    state = identity_state(*q.shape[:-1], d_head=v.shape[-1], dtype=v.dtype, device=v.device)
    position = torch.arange(n, device=q.device)
    for i in range(n):
        s = (q * k[..., i : i + 1, :]).sum(-1) / math.sqrt(q.shape[-1])
        s = s.masked_fill(position < i, -math.inf)
        state = attention_cell(state, s, v[..., i : i + 1, :].expand(*s.shape, v.shape[-1]))
    return read(state)


def latent_attention(
    latents: Float[Tensor, "*batch latents d_head"],
    k: Float[Tensor, "*batch length d_head"],
    v: Float[Tensor, "*batch length d_value"],
    *,
    block_size: int = 64,
) -> Float[Tensor, "*batch latents d_value"]:
    """Perceiver's cross-attention as one RNN a latent (section 3.1); the queries do not depend on the tokens.

    Raises:
        ValueError: if block_size is not positive.
    """
    return attention_rnn(latents, k.unsqueeze(-3), v.unsqueeze(-3), block_size=block_size)
