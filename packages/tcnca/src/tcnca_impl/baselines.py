"""What the paper's layer is compared with: a Transformer and an LSTM, as sequence layers."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["LSTMLayer", "TransformerAttention"]


class TransformerAttention(nn.Module):
    """x + attention over the whole sequence, with rotary positions, by `scaled_dot_product_attention`."""

    def __init__(self, d_model: int, n_heads: int = 4, *, causal: bool = True) -> None:
        super().__init__()
        if d_model % (2 * n_heads):
            raise ValueError(f"d_model must be a multiple of {2 * n_heads}, got {d_model}")
        self.n_heads, self.causal = n_heads, causal
        self.norm = nn.LayerNorm(d_model)
        self.qkv, self.out = nn.Linear(d_model, 3 * d_model), nn.Linear(d_model, d_model)

    def forward(
        self, x: Tensor, state: Any = None, mask: Tensor | None = None, *, return_state: bool = True
    ) -> tuple[Tensor, Any]:
        """The sequence; the state holds all keys and values."""
        q, k, v = self.qkv(self.norm(x)).unflatten(-1, (3, self.n_heads, -1)).permute(2, 0, 3, 1, 4)
        seen = 0 if state is None else state[0].shape[2]
        q, k = self._rotate(q, seen), self._rotate(k, seen)
        if state is not None:
            k, v = torch.cat([state[0], k], 2), torch.cat([state[1], v], 2)
        allowed = None
        if seen or mask is not None:
            rows = torch.arange(seen, seen + x.shape[1], device=x.device).unsqueeze(1)
            columns = torch.arange(k.shape[2], device=x.device)
            allowed = (columns <= rows) if self.causal else torch.ones_like(columns <= rows)
            if mask is not None:
                allowed = allowed & mask[:, None, None]
        y = F.scaled_dot_product_attention(q, k, v, allowed, is_causal=self.causal and allowed is None)
        return x + self.out(y.transpose(1, 2).flatten(2)), (k, v) if return_state else None

    def step(self, x_t: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """One position."""
        y, state = self(x_t.unsqueeze(1), state)
        return y.squeeze(1), state

    def _rotate(self, x: Tensor, start: int) -> Tensor:
        half = x.shape[-1] // 2
        rates = 10_000 ** (-torch.arange(half, device=x.device, dtype=x.dtype) / half)
        angle = torch.arange(start, start + x.shape[2], device=x.device, dtype=x.dtype).unsqueeze(1) * rates
        a, b = x.chunk(2, -1)
        return torch.cat([a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()], -1)


class LSTMLayer(nn.Module):
    """x + LSTM(norm(x))."""

    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(d_model)
        self.lstm = nn.LSTM(d_model, d_model, batch_first=True)

    def forward(
        self, x: Tensor, state: Any = None, mask: Tensor | None = None, *, return_state: bool = True
    ) -> tuple[Tensor, Any]:
        """The sequence, or a piece that continues one."""
        y, state = self.lstm(self.norm(x), state)
        return x + y, state

    def step(self, x_t: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """One position."""
        y, state = self(x_t.unsqueeze(1), state)
        return y.squeeze(1), state
