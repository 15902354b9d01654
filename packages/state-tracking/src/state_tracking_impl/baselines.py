"""What the linear recurrences are held against: LSTM, sLSTM (xLSTM's layer with memory mixing) and attention."""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from .checks import check_positive, check_sequence

__all__ = ["LSTM", "SLSTM", "Attention"]

Sequences = Float[Tensor, "batch length d_model"]
Tokens = Float[Tensor, "batch d_model"]


class _Stepping(nn.Module):
    def step(self, x: Tokens, state: Any = None) -> tuple[Tokens, Any]:
        """One token."""
        y, state = self(x[:, None], state)
        return y[:, 0], state


class LSTM(_Stepping):
    """torch's LSTM in the layers' own interface."""

    def __init__(self, d_model: int) -> None:
        super().__init__()
        check_positive(d_model=d_model)
        self.d_model = d_model
        self.lstm = nn.LSTM(d_model, d_model, batch_first=True)

    def forward(self, x: Sequences, state: Any = None) -> tuple[Sequences, Any]:
        """A piece of a sequence; the state continues it."""
        check_sequence(x, self.d_model)
        return self.lstm(x, state)  # type: ignore[no-any-return]

    def initial_state(self, batch_size: int) -> tuple[Tensor, Tensor]:
        """Zeros."""
        weight: Any = self.lstm.weight_ih_l0
        zero: Tensor = weight.new_zeros(1, batch_size, self.d_model)
        return zero, zero.clone()


class SLSTM(_Stepping):
    """sLSTM (Beck et al. 2024, equations 8 to 18): exponential gates with normaliser and stabiliser, and a recurrent
    matrix within each head. Not linear in its state, hence a loop over tokens.

        c = f c + i tanh(z),  n = f n + i,  h = sigmoid(o) c / n,  f = exp(log sigmoid(f~) + m - m'),  i = exp(i~ - m')
    """

    def __init__(self, d_model: int, n_heads: int = 4) -> None:
        super().__init__()
        check_positive(d_model=d_model, n_heads=n_heads)
        if d_model % n_heads:
            raise ValueError(f"d_model must be a multiple of n_heads, got {d_model} and {n_heads}")
        self.d_model, self.n_heads, d_head = d_model, n_heads, d_model // n_heads
        self.w = nn.Linear(d_model, 4 * d_model)
        self.r = nn.Parameter(torch.randn(n_heads, d_head, 4 * d_head) * d_head**-0.5)
        self.out_norm = nn.RMSNorm(d_head, eps=1e-5)
        self.o_proj = nn.Linear(d_model, d_model, bias=False)
        with torch.no_grad():
            # forget gates open from 3 to 6, as the authors' power law does
            self.w.bias.view(n_heads, 4, d_head)[:, 2] = torch.linspace(3, 6, d_head)

    def forward(self, x: Sequences, state: Any = None) -> tuple[Sequences, Any]:
        """A piece of a sequence; the state is (h, c, n, m)."""
        check_sequence(x, self.d_model)
        h, c, n, m = self.initial_state(x.shape[0]) if state is None else state
        gates = self.w(x).unflatten(-1, (self.n_heads, -1))
        outputs = []
        for gate in gates.unbind(1):
            z, i, f, o = (gate + torch.einsum("bhd,hdk->bhk", h, self.r)).chunk(4, -1)
            log_f = F.logsigmoid(f)
            m_new = torch.maximum(log_f + m, i)
            keep, write = torch.exp(log_f + m - m_new), torch.exp(i - m_new)
            c, n, m = keep * c + write * torch.tanh(z), keep * n + write, m_new
            h = torch.sigmoid(o) * c / n
            outputs.append(h)
        return self.o_proj(self.out_norm(torch.stack(outputs, 1)).flatten(-2)), (h, c, n, m)

    def initial_state(self, batch_size: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Zeros; of the stabiliser minus infinity, in effect: what was before weighs nothing."""
        zero = self.w.weight.new_zeros(batch_size, self.n_heads, self.d_model // self.n_heads)
        return zero, zero, zero, zero - 1e4


class Attention(_Stepping):
    """Causal softmax attention with rotary positions (a Transformer's mixer); the state is the cache."""

    def __init__(self, d_model: int, n_heads: int = 4) -> None:
        super().__init__()
        check_positive(d_model=d_model, n_heads=n_heads)
        if d_model % (2 * n_heads):
            raise ValueError(f"d_model must be a multiple of 2 * n_heads, got {d_model} and {n_heads}")
        self.d_model, self.n_heads = d_model, n_heads
        self.qkv = nn.Linear(d_model, 3 * d_model, bias=False)
        self.o_proj = nn.Linear(d_model, d_model, bias=False)

    def forward(self, x: Sequences, state: Any = None) -> tuple[Sequences, Any]:
        """A piece of a sequence; the state is (keys, values), growing."""
        check_sequence(x, self.d_model)
        q, k, v = (p.unflatten(-1, (self.n_heads, -1)).transpose(1, 2) for p in self.qkv(x).chunk(3, -1))
        past = 0 if state is None else state[0].shape[2]
        q, k = _rotate(q, past), _rotate(k, past)
        if state is not None:
            k, v = torch.cat([state[0], k], 2), torch.cat([state[1], v], 2)
        mask = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool, device=x.device).tril(past)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.o_proj(y.transpose(1, 2).flatten(-2)), (k, v)

    def initial_state(self, batch_size: int) -> tuple[Tensor, Tensor]:
        """An empty cache."""
        empty = self.qkv.weight.new_zeros(batch_size, self.n_heads, 0, self.d_model // self.n_heads)
        return empty, empty


def _rotate(x: Tensor, past: int) -> Tensor:
    """Rotary positions (Su et al. 2021), counted from `past`."""
    length, dim = x.shape[2:]
    frequency = 10000.0 ** (-torch.arange(0, dim, 2, device=x.device, dtype=x.dtype) / dim)
    angle = torch.arange(past, past + length, device=x.device, dtype=x.dtype)[:, None] * frequency
    first, second = x.chunk(2, -1)
    return torch.cat([first * angle.cos() - second * angle.sin(), first * angle.sin() + second * angle.cos()], -1)
