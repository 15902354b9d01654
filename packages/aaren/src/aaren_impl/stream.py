"""Aaren on a stream: a frozen copy of the weights, folded so that a token costs two dozen small operations a layer."""

import math
from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from .cell import AttentionState
from .layer import Aaren, AarenAttention, AarenLayer, StackState, check_state

__all__ = ["Stream"]


class Stream:
    """Tokens in, outputs out, one at a time; the same as `Aaren.step` in a fraction of its time.

    The learned query does not depend on the tokens, so it folds with W_q and W_k into one row a head. The weights are
    those at construction: training goes on in the model, not here; nothing is differentiated.

    Args:
        model: any Aaren; dropout does not act here.
        batch_size: how many streams are read side by side.
        state: where to go on from, as `Aaren.forward` gives it; the start by default.

    Raises:
        ValueError: if the model is no Aaren, or the state does not fit.
    """

    def __init__(self, model: Aaren, batch_size: int = 1, state: StackState | None = None) -> None:
        if not isinstance(model, Aaren):
            raise ValueError(f"model must be an Aaren, got {type(model).__name__}")
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        state = model.initial_state(batch_size) if state is None else state
        if len(state.layers) != len(model.layers):
            raise ValueError(f"state must be of {len(model.layers)} layers, got {len(state.layers)}")
        self._model, self._shape, self.position = model, (batch_size, model.d_model), state.position
        with torch.no_grad():
            layers = zip(cast(list[AarenLayer], model.layers), state.layers, strict=True)
            self._layers = [_Folded(layer, model.query, kept, batch_size) for layer, kept in layers]

    @property
    def state(self) -> StackState:
        """What is kept, as `Aaren.forward` and `step` take it."""
        return StackState(tuple(layer.state() for layer in self._layers), self.position)

    def __call__(self, x_t: Float[Tensor, "batch d_model"]) -> Float[Tensor, "batch d_model"]:
        """The output for the next token.

        Raises:
            ValueError: if x_t has another shape, or gives a score or a value that is not finite (nothing is read then).
        """
        if x_t.shape != self._shape:
            raise ValueError(f"x_t must be {self._shape}, got {tuple(x_t.shape)}")
        x, kept = self._model.encoded(x_t.detach(), self.position, 1), []
        for layer in self._layers:
            x, after = layer(x)
            kept.append(after)
        for layer, after in zip(self._layers, kept, strict=True):
            layer.kept = after
        self.position += 1
        return x


class _Folded:
    """A layer's weights, detached, and its state: m, and (w, u) in one tensor, since both decay alike."""

    def __init__(self, layer: AarenLayer, query: Tensor | None, state: AttentionState, batch_size: int) -> None:
        attention = layer.attention
        assert isinstance(attention, AarenAttention)
        check_state(state.numerator, batch_size, attention.state_dtype)
        h, d = attention.n_heads, attention.d_model
        self.shape, self.width, self.norm_first = (batch_size, h, attention.d_head + 2), (d,), layer.norm_first
        self.kept_dtype = None if attention.in_proj.weight.dtype == state.numerator.dtype else state.numerator.dtype
        # A head's row of scores, its rows of values, and a row that gives 1, which the denominator sums
        (w_s, w_v), (b_s, b_v) = ((t[:h], t[h:]) for t in attention.folded(query))
        weight = torch.cat([w_s.view(h, 1, d), w_v.view(h, -1, d), w_s.new_zeros(h, 1, d)], 1)
        self.inward = (
            weight.flatten(0, 1),
            torch.cat([b_s.view(h, 1), b_v.view(h, -1), b_s.new_ones(h, 1)], 1).flatten(),
        )
        # What is read back has the 1 too; its columns are 0
        out = F.pad(attention.out_proj.weight.view(d, h, -1), (0, 1)).flatten(1)
        self.outward = (out.detach(), attention.out_proj.bias.detach().clone())
        self.first, self.second = (
            tuple(t.detach().clone() for t in m.parameters()) for m in (layer.linear1, layer.linear2)
        )
        norms = (layer.norm1, layer.norm2)
        self.norm1, self.norm2 = ((m.weight.detach().clone(), m.bias.detach().clone(), m.eps) for m in norms)
        self.residual, self.relu = layer.residual, layer.activation == "relu"
        both = torch.cat([state.numerator, state.denominator.unsqueeze(-1)], -1).detach()
        self.kept = (state.maximum.detach().unsqueeze(-1), both)

    def state(self) -> AttentionState:
        """As the cell has it."""
        m, both = self.kept
        return AttentionState(m.squeeze(-1), both[..., -1].clone(), both[..., :-1].clone())

    def __call__(self, x: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        token = F.linear(torch.layer_norm(x, self.width, *self.norm1) if self.norm_first else x, *self.inward)
        if not math.isfinite(token.sum().item()):
            raise ValueError("x_t must be finite, got a token with a score or a value that is NaN or infinite")
        token = token.view(self.shape) if self.kept_dtype is None else token.view(self.shape).to(self.kept_dtype)
        m0, both = self.kept
        s, v = token[..., :1], token[..., 1:]
        m = torch.maximum(m0, s)
        both = torch.addcmul(v * (s - m).exp_(), both, (m0 - m).exp_())
        o = (both / both[..., -1:]).view(len(x), -1)
        y = F.linear(o if self.kept_dtype is None else o.to(x.dtype), *self.outward)
        y = y.add_(x) if self.residual else y
        if self.norm_first:
            hidden = torch.layer_norm(y, self.width, *self.norm2)
        else:
            y = hidden = torch.layer_norm(y, self.width, *self.norm1)
        hidden = F.linear(hidden, *self.first)
        out = F.linear(hidden.relu_() if self.relu else F.gelu(hidden), *self.second).add_(y)
        return (out if self.norm_first else torch.layer_norm(out, self.width, *self.norm2)), (m, both)
