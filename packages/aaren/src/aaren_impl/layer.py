"""The Aaren layer and the stack of them (section 3.3): a Transformer encoder whose query is a learned token."""

import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, cast

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from shared_impl.pretrained import Pretrained

from .cell import AttentionState, advance, identity_state, read
from .scan import METHODS, Method, attention_scan

__all__ = ["Aaren", "AarenAttention", "AarenLayer", "EncoderLayer", "HeadedAttention", "SequenceModel", "SequenceStack",
           "StackState"]  # fmt: skip


class StackState(NamedTuple):
    """What a stack keeps between tokens: a state a layer, and how many tokens were read."""

    layers: tuple[Any, ...]
    position: int


class HeadedAttention(nn.Module):
    """What every attention here has: the projections of `nn.MultiheadAttention`, heads, a step by way of the forward.

    Raises:
        ValueError: if n_heads does not divide d_model.
    """

    def __init__(self, d_model: int, n_heads: int) -> None:
        super().__init__()
        if n_heads < 1 or d_model < 1 or d_model % n_heads:
            raise ValueError(f"n_heads must divide d_model, got d_model {d_model} and n_heads {n_heads}")
        self.d_model, self.n_heads, self.d_head = d_model, n_heads, d_model // n_heads
        self.in_proj, self.out_proj = nn.Linear(d_model, 3 * d_model), nn.Linear(d_model, d_model)
        nn.init.xavier_uniform_(self.in_proj.weight)
        nn.init.zeros_(self.in_proj.bias)
        nn.init.zeros_(self.out_proj.bias)

    def split_heads(self, x: Tensor, n: int) -> list[Tensor]:
        """n tensors (batch, heads, length, d_head) of one (batch, length, n d_model)."""
        return [t.unflatten(-1, (self.n_heads, -1)).transpose(1, 2) for t in x.chunk(n, -1)]

    def merge_heads(self, o: Tensor) -> Tensor:
        """(batch, heads, length, d_head) to the layer's output, (batch, length, d_model)."""
        return self.out_proj(o.transpose(1, 2).flatten(2))

    def step(self, x: Float[Tensor, "batch d_model"], state: Any = None) -> tuple[Float[Tensor, "batch d_model"], Any]:
        """One token."""
        y, state = self(x.unsqueeze(1), state)
        return y.squeeze(1), state


def check_state(kept: Tensor, batch: int, dtype: torch.dtype) -> None:
    """Refuse a state of another batch or dtype.

    Raises:
        ValueError: if it is one.
    """
    if len(kept) != batch or kept.dtype != dtype:
        raise ValueError(f"state must be of batch {batch} and {dtype}, got {len(kept)} and {kept.dtype}")


class AarenAttention(HeadedAttention):
    """Causal attention with an input-independent query; one `AttentionState` of (batch, heads) carries the past.

    One learned query token of d_model numbers, which W_q projects, stands for the queries of all positions.

    Raises:
        ValueError: if n_heads does not divide d_model or the method is not known.
    """

    def __init__(self, d_model: int, n_heads: int, *, method: Method = "chunk", own_query: bool = True) -> None:
        super().__init__(d_model, n_heads)
        if method not in METHODS:
            raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
        self.method: Method = method
        self.query = nn.Parameter(torch.empty(d_model)) if own_query else None
        if self.query is not None:
            nn.init.normal_(self.query, std=1 / math.sqrt(d_model))

    @property
    def state_dtype(self) -> torch.dtype:
        """Half precision keeps its state in float32."""
        return torch.float64 if self.in_proj.weight.dtype == torch.float64 else torch.float32

    def initial_state(self, batch_size: int) -> AttentionState:
        """Nothing read yet."""
        device = self.in_proj.weight.device
        return identity_state(batch_size, self.n_heads, d_head=self.d_head, dtype=self.state_dtype, device=device)

    def forward(
        self,
        x: Float[Tensor, "batch length d_model"],
        state: AttentionState | None = None,
        *,
        key_padding_mask: Bool[Tensor, "batch length"] | None = None,
        query: Float[Tensor, "d_model"] | None = None,
    ) -> tuple[Float[Tensor, "batch length d_model"], AttentionState]:
        """A piece of a sequence; key_padding_mask is True where a token is padding (as in torch).

        Raises:
            ValueError: if the state is of another batch or dtype, a token that counts is not finite, or the query is
                neither the layer's nor given.
        """
        if state is not None:
            check_state(state.numerator, len(x), self.state_dtype)
        k, v = self.split_heads(F.linear(x, *self._keys_and_values()), 2)
        # One product of the projected query with all keys, whatever the position
        s = torch.einsum("bhnd,hd->bhn", k, self.scaled_query(query))
        mask = None if key_padding_mask is None else ~key_padding_mask.unsqueeze(1).expand(s.shape)
        o, state = attention_scan(s, v, mask, self.method, state, return_final=True)
        return self.merge_heads(o), state

    def step(
        self,
        x: Float[Tensor, "batch d_model"],
        state: AttentionState | None = None,
        *,
        query: Float[Tensor, "d_model"] | None = None,
    ) -> tuple[Float[Tensor, "batch d_model"], AttentionState]:
        """One token, in time and memory that do not depend on how many came before; refuses what `forward` refuses."""
        dtype = self.state_dtype
        state = self.initial_state(len(x)) if state is None else state
        check_state(state.numerator, len(x), dtype)
        k, v = F.linear(x, *self._keys_and_values()).to(dtype).view(len(x), 2, self.n_heads, -1).unbind(1)
        s = (k * self.scaled_query(query)).sum(-1)
        # A sum is finite only if all its terms are; a state that read a NaN would never recover
        if not math.isfinite(s.sum().item() + v.sum().item()):
            raise ValueError("x must be finite, got a token with a score or a value that is NaN or infinite")
        state = advance(state, s, v)
        return self.out_proj(read(state).to(x.dtype).flatten(1)), state

    def scaled_query(self, query: Tensor | None = None) -> Float[Tensor, "heads d_head"]:
        """W_q q / sqrt(d_head) of the layer's own query token or of the one given."""
        query = self.query if query is None else query
        if query is None:
            raise ValueError("query must be given: this layer shares the one of its stack")
        d, proj = self.d_model, self.in_proj
        q = F.linear(query, proj.weight[:d], proj.bias[:d]).view(self.n_heads, -1)
        return q / math.sqrt(q.shape[-1])

    def folded(self, query: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Weight and bias of one product that gives the scores (heads) and the values (d_model) of a token."""
        q, (weight, bias), d = self.scaled_query(query), self._keys_and_values(), self.d_model
        w_s = torch.einsum("hd,hdm->hm", q, weight[:d].unflatten(0, (self.n_heads, -1)))
        b_s = (q * bias[:d].view_as(q)).sum(-1)
        return torch.cat([w_s, weight[d:]]), torch.cat([b_s, bias[d:]])

    def _keys_and_values(self) -> tuple[Tensor, Tensor]:
        return self.in_proj.weight[self.d_model :], self.in_proj.bias[self.d_model :]


class EncoderLayer(nn.Module):
    """Any attention inside a Transformer encoder layer: residual, LayerNorm, feed-forward, residual, LayerNorm.

    Args:
        norm_first: normalise before attention and feed-forward, not after.
        residual: add the token to attention's output; the paper's figure leaves it open, a Transformer does.
    """

    def __init__(
        self,
        attention: nn.Module,
        d_ff: int,
        *,
        dropout: float = 0.0,
        activation: Literal["relu", "gelu"] = "relu",
        norm_first: bool = False,
        residual: bool = True,
    ) -> None:
        super().__init__()
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout must lie in [0, 1), got {dropout}")
        if activation not in ("relu", "gelu"):
            raise ValueError(f"activation must be relu or gelu, got {activation!r}")
        d_model = int(cast(Any, attention).d_model)
        self.attention, self.norm_first, self.residual = attention, norm_first, residual
        self.linear1, self.linear2 = nn.Linear(d_model, d_ff), nn.Linear(d_ff, d_model)
        self.norm1, self.norm2 = nn.LayerNorm(d_model), nn.LayerNorm(d_model)
        self.dropout, self.activation = nn.Dropout(dropout), activation

    def initial_state(self, batch_size: int) -> Any:
        """Nothing read yet."""
        return cast(Any, self.attention).initial_state(batch_size)

    def forward(
        self,
        x: Float[Tensor, "batch length d_model"],
        state: Any = None,
        *,
        key_padding_mask: Tensor | None = None,
        **query: Tensor,
    ) -> tuple[Float[Tensor, "batch length d_model"], Any]:
        """A piece of a sequence, and the state that continues it."""
        y, state = self.attention(self.before(x), state, key_padding_mask=key_padding_mask, **query)
        return self.after(x, y), state

    def step(
        self, x: Float[Tensor, "batch d_model"], state: Any = None, **query: Tensor
    ) -> tuple[Float[Tensor, "batch d_model"], Any]:
        """One token."""
        y, state = cast(Any, self.attention).step(self.before(x), state, **query)
        return self.after(x, y), state

    def before(self, x: Tensor) -> Tensor:
        """What attention reads of the tokens x."""
        return self.norm1(x) if self.norm_first else x

    def after(self, x: Tensor, y: Tensor) -> Tensor:
        """The layer's output, of its input x and attention's output y."""
        y = self._dropped(y) + x if self.residual else self._dropped(y)
        if not self.norm_first:
            y = self.norm1(y)
        hidden = self.linear1(self.norm2(y) if self.norm_first else y)
        hidden = torch.relu(hidden) if self.activation == "relu" else F.gelu(hidden)
        out = y + self._dropped(self.linear2(self._dropped(hidden)))
        return out if self.norm_first else self.norm2(out)

    def _dropped(self, x: Tensor) -> Tensor:
        return self.dropout(x) if self.training else x


class AarenLayer(EncoderLayer):
    """`AarenAttention` in an encoder layer; the interface of causal self-attention, the memory of an RNN."""

    def __init__(
        self, d_model: int, n_heads: int, d_ff: int, *, method: Method = "chunk", own_query: bool = True, **options: Any
    ) -> None:
        super().__init__(AarenAttention(d_model, n_heads, method=method, own_query=own_query), d_ff, **options)


class SequenceModel(nn.Module):
    """What every stack answers to: N tokens in, N out, each output of the tokens up to its own; whole or in pieces."""

    d_model: int
    n_layers: int

    def initial_state(self, batch_size: int) -> StackState:
        """Nothing read yet."""
        raise NotImplementedError

    def init_state(self, batch: int) -> StackState:
        """`initial_state` by its short name."""
        return self.initial_state(batch)

    def forward_chunk(
        self, x: Float[Tensor, "batch length d_model"], state: StackState | None = None
    ) -> tuple[Float[Tensor, "batch length d_model"], StackState]:
        """The next piece of a stream: `forward` with a state."""
        return cast(tuple[Tensor, StackState], self(x, state))

    def step(
        self, x_t: Float[Tensor, "batch d_model"], state: StackState | None = None
    ) -> tuple[Float[Tensor, "batch d_model"], StackState]:
        """One token.

        Raises:
            ValueError: as for `forward`.
        """
        y, state = self(x_t.unsqueeze(1), state)
        return y.squeeze(1), state

    def checked(self, x: Tensor, state: StackState | None, mask: Tensor | None = None) -> StackState:
        """The state to go on from.

        Raises:
            ValueError: if x, the padding mask or the state do not fit.
        """
        if x.ndim not in (2, 3) or x.shape[-1] != self.d_model:
            raise ValueError(f"x must be (batch, length, {self.d_model}), or (batch, {self.d_model}) in a step, "
                             f"got {tuple(x.shape)}")  # fmt: skip
        if mask is not None and (mask.shape != x.shape[:2] or mask.dtype != torch.bool):
            raise ValueError(f"key_padding_mask must be {tuple(x.shape[:2])} of bool, got {tuple(mask.shape)} of "
                             f"{mask.dtype}")  # fmt: skip
        state = self.initial_state(len(x)) if state is None else state
        if len(state.layers) != self.n_layers:
            raise ValueError(f"state must be of {self.n_layers} layers, got {len(state.layers)}")
        return state


class SequenceStack(SequenceModel):
    """Encoder layers one on the other."""

    query: nn.Parameter | None

    def __init__(self, layers: Sequence[nn.Module], d_model: int, positions: str) -> None:
        super().__init__()
        if positions not in ("none", "sinusoidal"):
            raise ValueError(f"positions must be none or sinusoidal, got {positions!r}")
        if not layers:
            raise ValueError("n_layers must be at least 1, got 0")
        self.register_parameter("query", None)
        self.layers, self.d_model, self.positions = nn.ModuleList(layers), d_model, positions
        self.n_layers = len(layers)

    def initial_state(self, batch_size: int) -> StackState:
        """Nothing read yet."""
        return StackState(tuple(cast(Any, layer).initial_state(batch_size) for layer in self.layers), 0)

    def forward(
        self,
        x: Float[Tensor, "batch length d_model"],
        state: StackState | None = None,
        *,
        key_padding_mask: Bool[Tensor, "batch length"] | None = None,
    ) -> tuple[Float[Tensor, "batch length d_model"], StackState]:
        """A piece of a sequence, and the state that continues it.

        Raises:
            ValueError: if shapes do not fit, a token that counts is not finite, or the state is of another batch,
                dtype or number of layers.
        """
        states, position = self.checked(x, state, key_padding_mask)
        if x.shape[1] == 0:
            return x, StackState(states, position)
        return self._through("forward", x, states, position, x.shape[1], key_padding_mask=key_padding_mask)

    def step(
        self, x_t: Float[Tensor, "batch d_model"], state: StackState | None = None
    ) -> tuple[Float[Tensor, "batch d_model"], StackState]:
        """One token.

        Raises:
            ValueError: as for `forward`.
        """
        states, position = self.checked(x_t, state)
        return self._through("step", x_t, states, position, 1)

    def encoded(self, x: Tensor, position: int, length: int) -> Tensor:
        """Tokens with what tells their positions, if the stack has any."""
        return x if self.positions == "none" else x + sinusoids(position, length, x)

    def _through(
        self, how: str, x: Tensor, states: tuple[Any, ...], position: int, length: int, **options: Any
    ) -> tuple[Tensor, StackState]:
        if self.query is not None:
            options["query"] = self.query
        x, found = self.encoded(x, position, length), []
        for layer, before in zip(self.layers, states, strict=True):
            x, after = getattr(layer, how)(x, before, **options)
            found.append(after)
        return x, StackState(tuple(found), position + length)


def sinusoids(start: int, length: int, like: Tensor) -> Tensor:
    """Sines and cosines of the positions from `start`, (length, d_model)."""
    position = torch.arange(start, start + length, device=like.device, dtype=torch.float64).unsqueeze(-1)
    width = like.shape[-1]
    rate = 10_000.0 ** -(torch.arange(0, width, 2, device=like.device, dtype=torch.float64) / width)
    angle = position * rate
    return torch.stack([angle.sin(), angle.cos()], -1).flatten(-2)[:, :width].to(like.dtype)


class Aaren(SequenceStack, Pretrained):
    """A stack of Aaren layers (section 3.3); trains in parallel, streams in L (2 H + d) numbers of memory.

    Args:
        query: "layer" (a learned query token a layer) or "shared" (one for all layers); the paper leaves it open.
        positions: "none", or "sinusoidal" added to the inputs.
    """

    def __init__(
        self,
        *,
        n_layers: int = 2,
        d_model: int = 64,
        n_heads: int = 4,
        d_ff: int = 256,
        dropout: float = 0.0,
        activation: Literal["relu", "gelu"] = "relu",
        norm_first: bool = False,
        residual: bool = True,
        query: Literal["layer", "shared"] = "layer",
        positions: Literal["none", "sinusoidal"] = "none",
        method: Method = "chunk",
    ) -> None:
        if query not in ("layer", "shared"):
            raise ValueError(f"query must be layer or shared, got {query!r}")
        layers = [
            AarenLayer(
                d_model, n_heads, d_ff, method=method, own_query=query == "layer", dropout=dropout,
                activation=activation, norm_first=norm_first, residual=residual,
            )
            for _ in range(n_layers)
        ]  # fmt: skip
        super().__init__(layers, d_model, positions)
        if query == "shared":
            self.query = nn.Parameter(torch.randn(d_model) / math.sqrt(d_model))
