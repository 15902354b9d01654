"""Attention inside chunks that do not overlap: softmax, Laplace or squared ReLU, with a relative bias (MEGA)."""

import math
from typing import NamedTuple, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from .config import AttentionFunction, RelativeBias

__all__ = [
    "AttentionState",
    "ChunkedAttention",
    "RotaryBias",
    "SimpleBias",
    "block_diagonal_attention",
    "laplace",
]


def laplace(x: Tensor) -> Tensor:
    """0.5 (1 + erf((x - mu) / (sigma sqrt 2))), mu = sqrt(1/2), sigma = sqrt(1 / (4 pi)) (MEGA, equation 17)."""
    mu, sigma = math.sqrt(0.5), math.sqrt(0.25 / math.pi)
    return 0.5 * (1 + torch.erf((x - mu) / (sigma * math.sqrt(2))))


class SimpleBias(nn.Module):
    """A learned number for each of the 2 c - 1 distances inside a chunk; cannot be stretched to a longer one."""

    def __init__(self, max_positions: int) -> None:
        super().__init__()
        self.max_positions = max_positions
        self.weight = nn.Parameter(torch.empty(2 * max_positions - 1).normal_(std=0.02))

    def forward(self, length: int) -> Float[Tensor, "query key"]:
        """Entry (i, j) is that of distance j - i.

        Raises:
            ValueError: if length exceeds what was learned.
        """
        if length > self.max_positions:
            raise ValueError(
                f"chunk {length} exceeds the {self.max_positions} positions that the simple bias was made for; "
                "rel_bias='rotary' can be stretched"
            )
        at = torch.arange(length, device=self.weight.device)
        return self.weight[self.max_positions - 1 + at - at.unsqueeze(1)]


class RotaryBias(nn.Module):
    """<R_m alpha, R_n beta> with learned alpha, beta and rotations R by position: a function of m - n, any length."""

    def __init__(self, z: int) -> None:
        super().__init__()
        if z % 2:
            raise ValueError(f"z must be even for a rotary bias, got {z}")
        self.alpha = nn.Parameter(torch.empty(z).normal_(std=0.02))
        self.beta = nn.Parameter(torch.empty(z).normal_(std=0.02))

    def _rotate(self, vector: Tensor, length: int) -> Tensor:
        half = vector.shape[0] // 2
        rates = torch.exp(-math.log(10_000) / half * torch.arange(half, device=vector.device, dtype=vector.dtype))
        angle = torch.arange(length, device=vector.device, dtype=vector.dtype).unsqueeze(1) * rates
        a, b = vector[:half], vector[half:]
        return torch.cat([a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()], 1)

    def forward(self, length: int) -> Float[Tensor, "query key"]:
        """Entry (m, n)."""
        return self._rotate(self.alpha, length) @ self._rotate(self.beta, length).T


class AttentionState(NamedTuple):
    """Keys and values of the chunk under way; empty at its start."""

    keys: Float[Tensor, "batch seen z"]
    values: Float[Tensor, "batch seen h"]


class ChunkedAttention(nn.Module):
    """f(q k^T + bias) v inside blocks of `chunk` positions.

    softmax scales by z^-1/2; laplace and relu2 divide q k^T by the number of keys that are visible (with the causal
    mask that of each row), add the bias, and do not normalise. A last chunk that is not full is padded and masked.

    Args:
        z: width of queries and keys.
        h: width of values (used by `initial_state` only).
        rel_bias: `simple`, `rotary` or `none`.

    Raises:
        ValueError: sizes below 1, or an unknown name.
    """

    def __init__(
        self,
        chunk: int,
        z: int,
        h: int,
        attn_fn: AttentionFunction = "softmax",
        rel_bias: RelativeBias = "simple",
        *,
        causal: bool = True,
        dropout: float | int = 0.0,
    ) -> None:
        super().__init__()
        for name, size in (("chunk", chunk), ("z", z), ("h", h)):
            if size < 1:
                raise ValueError(f"{name} must be at least 1, got {size}")
        for name, value, allowed in (("attn_fn", attn_fn, AttentionFunction), ("rel_bias", rel_bias, RelativeBias)):
            if value not in get_args(allowed):
                raise ValueError(f"{name} must be one of {', '.join(get_args(allowed))}, got {value!r}")
        self.chunk, self.z, self.h, self.attn_fn, self.causal = chunk, z, h, attn_fn, causal
        self.bias = SimpleBias(chunk) if rel_bias == "simple" else RotaryBias(z) if rel_bias == "rotary" else None
        self.dropout = nn.Dropout(dropout)

    def set_chunk(self, chunk: int) -> None:
        """Another chunk from now on, as the paper tests EnWik8 with 4096 after training with 2048.

        Raises:
            ValueError: below 1, or longer than a simple bias was made for.
        """
        if chunk < 1:
            raise ValueError(f"chunk must be at least 1, got {chunk}")
        if isinstance(self.bias, SimpleBias):
            self.bias(chunk)
        self.chunk = chunk

    def initial_state(self, batch_size: int, *, like: Tensor | None = None) -> AttentionState:
        """Nothing seen."""
        like = torch.zeros(()) if like is None else like
        return AttentionState(like.new_zeros(batch_size, 0, self.z), like.new_zeros(batch_size, 0, self.h))

    def forward(
        self,
        q: Float[Tensor, "batch length z"],
        k: Float[Tensor, "batch length z"],
        v: Float[Tensor, "batch length h"],
        state: AttentionState | None = None,
        mask: Bool[Tensor, "batch length"] | None = None,
    ) -> tuple[Float[Tensor, "batch length h"], AttentionState]:
        """Attention of a sequence, or of a piece that continues one (causal only).

        Args:
            mask: True where a key counts.

        Raises:
            ValueError: no position, a state without a causal mask, or with padding, or longer than the chunk.
        """
        batch, length, _ = q.shape
        if length == 0:
            raise ValueError("q must hold at least one position, got length 0")
        seen = 0
        if state is not None and state.keys.shape[1]:
            if not self.causal:
                raise ValueError("attention that is not causal reads the future of its chunk, so it takes no state")
            if mask is not None:
                raise ValueError("mask must be None where a state continues a sequence")
            seen = state.keys.shape[1]
            if seen >= self.chunk:
                raise ValueError(f"state holds {seen} keys, a chunk has {self.chunk}")
            k, v = torch.cat([state.keys, k], 1), torch.cat([state.values, v], 1)
        total = seen + length
        chunk = min(self.chunk, total)
        short = -total % chunk
        rows = 1 if length == 1 and seen else chunk
        if rows == 1:
            # one new position of a chunk under way: its row alone
            blocks_q, blocks_k, blocks_v = q.unsqueeze(1), k.unsqueeze(1), v.unsqueeze(1)
        else:
            blocks_q = F.pad(q, (0, 0, seen, short)).unflatten(1, (-1, chunk))
            blocks_k = F.pad(k, (0, 0, 0, short)).unflatten(1, (-1, chunk))
            blocks_v = F.pad(v, (0, 0, 0, short)).unflatten(1, (-1, chunk))
        visible = torch.ones(1, 1, 1, chunk, dtype=torch.bool, device=q.device)
        if rows > 1 and (short or mask is not None):
            present = torch.ones(batch, total, dtype=torch.bool, device=q.device) if mask is None else mask
            visible = F.pad(present, (0, short)).unflatten(1, (-1, chunk)).unsqueeze(2)
        if self.causal and rows > 1:
            visible = visible & torch.ones(chunk, chunk, dtype=torch.bool, device=q.device).tril()
        y = self._attend(blocks_q, blocks_k, blocks_v, visible, rows)
        y = y.flatten(1, 2)[:, -1:] if rows == 1 else y.flatten(1, 2)[:, seen:total]
        kept = total % self.chunk
        return y, AttentionState(k[:, total - kept :], v[:, total - kept :])

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, visible: Tensor, rows: int) -> Tensor:
        size = k.shape[2]
        bias = 0.0 if self.bias is None else self.bias(size)[-rows:].to(q.dtype)
        if self.attn_fn == "softmax":
            scores = (q * self.z**-0.5) @ k.transpose(-1, -2) + bias
            # a row without any key gives the mean of nothing: let it see all, it is padding itself
            allowed = visible | ~visible.any(-1, keepdim=True)
            weights = scores.masked_fill(~allowed, float("-inf")).softmax(-1)
        else:
            count = visible.sum(-1, keepdim=True).clamp(min=1).to(q.dtype)
            scores = q @ k.transpose(-1, -2) / count + bias
            weights = laplace(scores) if self.attn_fn == "laplace" else F.relu(scores).square()
            weights = weights * visible.to(q.dtype)
        return self.dropout(weights) @ v


def block_diagonal_attention(
    attention: ChunkedAttention,
    q: Float[Tensor, "batch length z"],
    k: Float[Tensor, "batch length z"],
    v: Float[Tensor, "batch length h"],
) -> Float[Tensor, "batch length h"]:
    """The same as one L x L matrix with a mask, row by row; the oracle, O(L^2)."""
    length, chunk = q.shape[1], attention.chunk
    y = torch.zeros_like(v)
    for t in range(length):
        first = t - t % chunk
        last = t + 1 if attention.causal else min(first + chunk, length)
        size = min(chunk, length)
        bias = 0.0 if attention.bias is None else attention.bias(size)[t - first, : last - first]
        scores = (k[:, first:last] @ q[:, t].unsqueeze(-1)).squeeze(-1)
        if attention.attn_fn == "softmax":
            weights = torch.softmax(scores / math.sqrt(attention.z) + bias, -1)
        else:
            scores = scores / (last - first) + bias
            weights = laplace(scores) if attention.attn_fn == "laplace" else scores.clamp(min=0) ** 2
        y[:, t] = (weights.unsqueeze(-1) * v[:, first:last]).sum(1)
    return y
