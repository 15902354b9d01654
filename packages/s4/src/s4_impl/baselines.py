"""What S4 is compared with: LSTM, Transformer, TCN and LSSL, each behind the same encoder, decoder and interface."""

import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from s4_impl.model import S4Backbone, S4Block
from s4_impl.sequence import Pooling, SequenceModel

__all__ = ["MODELS", "LSSLModel", "LSTMModel", "TCNModel", "TransformerModel", "match_parameters"]

Encoder = Literal["auto", "linear", "embedding"]


class _LSTMBackbone(nn.Module):
    causal = True

    def __init__(self, d_model: int, n_layers: int, dropout: float) -> None:
        super().__init__()
        self.lstm: Any = nn.LSTM(d_model, d_model, n_layers, batch_first=True, dropout=dropout if n_layers > 1 else 0.0)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, x: Tensor, mask: Tensor | None = None, state: Any = None, rate: float = 1.0
    ) -> tuple[Tensor, Any]:
        y, state = self.lstm(x, state)
        return self.dropout(y), state

    def default_state(self, batch: int) -> Any:
        weight = self.lstm.weight_hh_l0
        zeros = weight.new_zeros(self.lstm.num_layers, batch, self.lstm.hidden_size)
        return zeros, zeros

    def setup_step(self, mode: str) -> None:
        pass

    def step(self, x: Tensor, state: Any) -> tuple[Tensor, Any]:
        y, state = self.lstm(x[:, None], state)
        return y[:, 0], state


class LSTMModel(SequenceModel):
    """LSTM (Hochreiter & Schmidhuber 1997), `n_layers` deep, in one direction."""

    def __init__(
        self,
        d_input: int,
        d_output: int,
        n_layers: int = 1,
        *,
        d_model: int = 128,
        task: str = "classify",
        dropout: float = 0.0,
        encoder: Encoder = "auto",
        pooling: Pooling | None = None,
        horizon: int | None = None,
    ) -> None:
        super().__init__(
            _LSTMBackbone(d_model, n_layers, dropout),
            d_input=d_input,
            d_output=d_output,
            d_model=d_model,
            task=task,
            encoder=encoder,
            pooling=pooling,
            horizon=horizon,
        )


class _Cache(NamedTuple):
    """Keys and values of the steps so far; the tensors have room for more."""

    keys: Tensor  # (batch, heads, room, d_head)
    values: Tensor
    used: int


def _extended(cache: _Cache, keys: Tensor, values: Tensor) -> _Cache:
    """The cache with further steps; its room doubles when it is full, so that a step copies O(1) on average."""
    used = cache.used + keys.shape[2]
    room = cache.keys.shape[2]
    old_keys, old_values = cache.keys, cache.values
    if used > room:
        grow = max(used, 2 * room) - room
        old_keys, old_values = (F.pad(t, (0, 0, 0, grow)) for t in (old_keys, old_values))
    old_keys[:, :, cache.used : used] = keys
    old_values[:, :, cache.used : used] = values
    return _Cache(old_keys, old_values, used)


class _Attention(nn.Module):
    """A pre-norm Transformer layer."""

    def __init__(self, d_model: int, n_heads: int, dropout: float, causal: bool) -> None:
        super().__init__()
        self.n_heads, self.causal, self.p = n_heads, causal, dropout
        self.norm1, self.norm2 = nn.LayerNorm(d_model), nn.LayerNorm(d_model)
        self.qkv, self.out = nn.Linear(d_model, 3 * d_model), nn.Linear(d_model, d_model)
        self.feed = nn.Sequential(
            nn.Linear(d_model, 4 * d_model), nn.GELU(), nn.Dropout(dropout), nn.Linear(4 * d_model, d_model)
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor | None, cache: _Cache | None) -> tuple[Tensor, _Cache | None]:
        q, k, v = (
            t.unflatten(-1, (self.n_heads, -1)).transpose(1, 2) for t in self.qkv(self.norm1(x)).chunk(3, dim=-1)
        )
        before = 0
        if cache is not None:
            before, cache = cache.used, _extended(cache, k, v)
            k, v = cache.keys[:, :, : cache.used], cache.values[:, :, : cache.used]
        allowed: Tensor | None = None if mask is None else mask[:, None, None, :]
        plain_causal = self.causal and before == 0 and mask is None
        if self.causal and not plain_causal and q.shape[2] > 1:
            seen = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool, device=x.device).tril(before)
            allowed = seen if allowed is None else allowed & seen
        y = F.scaled_dot_product_attention(
            q, k, v, attn_mask=allowed, is_causal=plain_causal and q.shape[2] > 1,
            dropout_p=self.p if self.training else 0.0,
        )  # fmt: skip
        x = x + self.dropout(self.out(y.transpose(1, 2).flatten(2)))
        return x + self.dropout(self.feed(self.norm2(x))), cache


def _positions(first: int, n: int, d_model: int, like: Tensor) -> Tensor:
    """Sinusoidal positions (Vaswani et al. 2017), (n, d_model): no largest length."""
    position = torch.arange(first, first + n, device=like.device, dtype=torch.float32)[:, None]
    rates = torch.exp(torch.arange(0, d_model, 2, device=like.device) * (-math.log(10_000.0) / d_model))
    out = torch.zeros(n, d_model, device=like.device)
    out[:, 0::2], out[:, 1::2] = torch.sin(position * rates), torch.cos(position * rates)[:, : d_model // 2]
    return out.to(like.dtype)


class _TransformerBackbone(nn.Module):
    def __init__(self, d_model: int, n_layers: int, n_heads: int, dropout: float, causal: bool) -> None:
        super().__init__()
        if d_model % n_heads:
            raise ValueError(f"d_model must be a multiple of n_heads, got {d_model} and {n_heads}")
        self.causal, self.d_model, self.n_heads = causal, d_model, n_heads
        self.layers: Any = nn.ModuleList(_Attention(d_model, n_heads, dropout, causal) for _ in range(n_layers))
        self.norm = nn.LayerNorm(d_model)

    def forward(
        self, x: Tensor, mask: Tensor | None = None, state: Any = None, rate: float = 1.0
    ) -> tuple[Tensor, Any]:
        first = 0 if state is None else state[0].used
        x = x + _positions(first, x.shape[1], self.d_model, x)
        caches = []
        for layer, cache in zip(self.layers, state or [None] * len(self.layers), strict=True):
            x, cache = layer(x, mask, cache)
            caches.append(cache)
        return self.norm(x), caches

    def default_state(self, batch: int) -> Any:
        weight = self.norm.weight

        def empty() -> Tensor:
            return weight.new_zeros(batch, self.n_heads, 16, self.d_model // self.n_heads)

        return [_Cache(empty(), empty(), 0) for _ in self.layers]

    def setup_step(self, mode: str) -> None:
        pass

    def step(self, x: Tensor, state: Any) -> tuple[Tensor, Any]:
        y, state = self(x[:, None], state=state)
        return y[:, 0], state


class TransformerModel(SequenceModel):
    """Pre-norm Transformer with sinusoidal positions; causal for "lm" and "regress", with a key-value cache in `step`.

    The cache is extended in place: a state given to `step` must not be used again.
    """

    def __init__(
        self,
        d_input: int,
        d_output: int,
        n_layers: int = 4,
        *,
        d_model: int = 128,
        n_heads: int = 4,
        task: str = "classify",
        causal: bool | None = None,
        dropout: float = 0.0,
        encoder: Encoder = "auto",
        pooling: Pooling | None = None,
        horizon: int | None = None,
    ) -> None:
        if causal is None:
            causal = task in ("lm", "regress")
        super().__init__(
            _TransformerBackbone(d_model, n_layers, n_heads, dropout, causal),
            d_input=d_input,
            d_output=d_output,
            d_model=d_model,
            task=task,
            encoder=encoder,
            pooling=pooling,
            horizon=horizon,
        )


class _TCNLayer(nn.Module):
    """Two dilated causal convolutions and a residual."""

    def __init__(self, d_model: int, kernel_size: int, dilation: int, dropout: float) -> None:
        super().__init__()
        self.dilation, self.reach = dilation, (kernel_size - 1) * dilation
        self.conv1, self.conv2 = (
            weight_norm(nn.Conv1d(d_model, d_model, kernel_size, dilation=dilation)) for _ in range(2)
        )
        self.dropout = nn.Dropout1d(dropout)

    def forward(self, x: Tensor, state: Any) -> tuple[Tensor, Any]:
        """x: (batch, d_model, length); state: the `reach` inputs before each convolution."""
        past1, past2 = state
        padded1 = torch.cat([past1, x], dim=2)
        hidden = self.dropout(F.relu(self.conv1(padded1)))
        padded2 = torch.cat([past2, hidden], dim=2)
        y = F.relu(x + self.dropout(F.relu(self.conv2(padded2))))
        return y, (padded1[:, :, -self.reach :], padded2[:, :, -self.reach :])


class _TCNBackbone(nn.Module):
    causal = True

    def __init__(self, d_model: int, n_layers: int, kernel_size: int, dropout: float) -> None:
        super().__init__()
        if kernel_size < 2:
            raise ValueError(f"kernel_size must be at least 2, got {kernel_size}")
        self.d_model = d_model
        self.layers: Any = nn.ModuleList(_TCNLayer(d_model, kernel_size, 2**i, dropout) for i in range(n_layers))

    def forward(
        self, x: Tensor, mask: Tensor | None = None, state: Any = None, rate: float = 1.0
    ) -> tuple[Tensor, Any]:
        x = x.transpose(1, 2)
        states = []
        for layer, layer_state in zip(self.layers, state or self.default_state(len(x)), strict=True):
            x, layer_state = layer(x, layer_state)
            states.append(layer_state)
        return x.transpose(1, 2), states

    def default_state(self, batch: int) -> Any:
        like = self.layers[0].conv1.bias

        def past(layer: Any) -> Tensor:
            return like.new_zeros(batch, self.d_model, layer.reach)

        return [(past(layer), past(layer)) for layer in self.layers]

    def setup_step(self, mode: str) -> None:
        pass

    def step(self, x: Tensor, state: Any) -> tuple[Tensor, Any]:
        y, state = self(x[:, None], state=state)
        return y[:, 0], state


class TCNModel(SequenceModel):
    """Temporal convolutional network (Bai et al. 2018) with dilations 1, 2, 4, ...

    Sees 2 (kernel_size - 1) (2^n_layers - 1) steps back.
    """

    def __init__(
        self,
        d_input: int,
        d_output: int,
        n_layers: int = 8,
        *,
        d_model: int = 64,
        kernel_size: int = 3,
        task: str = "classify",
        dropout: float = 0.0,
        encoder: Encoder = "auto",
        pooling: Pooling | None = None,
        horizon: int | None = None,
    ) -> None:
        super().__init__(
            _TCNBackbone(d_model, n_layers, kernel_size, dropout),
            d_input=d_input,
            d_output=d_output,
            d_model=d_model,
            task=task,
            encoder=encoder,
            pooling=pooling,
            horizon=horizon,
        )


class LSSLModel(SequenceModel):
    """LSSL (Gu et al. 2021), the predecessor of S4: the same blocks, but A is a dense matrix and the kernel is the
    Krylov sequence C A^l B, computed by powers of A: O(N^2 L) work and O(N L) memory a feature."""

    def __init__(
        self,
        d_input: int,
        d_output: int,
        n_layers: int = 4,
        *,
        d_model: int = 128,
        d_state: int = 64,
        l_max: int | None = None,
        task: str = "classify",
        norm: Literal["layer", "batch"] = "layer",
        prenorm: bool = True,
        dropout: float = 0.0,
        encoder: Encoder = "auto",
        pooling: Pooling | None = None,
        horizon: int | None = None,
    ) -> None:
        blocks: list[nn.Module] = [
            S4Block(
                d_model, norm=norm, prenorm=prenorm, dropout=dropout, version="v1",
                d_state=d_state, l_max=l_max, mode="dense",
            )
            for _ in range(n_layers)
        ]  # fmt: skip
        super().__init__(
            S4Backbone(blocks, d_model, norm=norm, prenorm=prenorm, causal=True),
            d_input=d_input,
            d_output=d_output,
            d_model=d_model,
            task=task,
            encoder=encoder,
            pooling=pooling,
            horizon=horizon,
        )


def _parameters(make: Callable[[int], nn.Module], width: int) -> int:
    with torch.random.fork_rng(devices=[]):
        return sum(p.numel() for p in make(width).parameters())


def match_parameters(make: Callable[[int], nn.Module], n_parameters: int, *, multiple_of: int = 1) -> int:
    """The width with which `make(width)` has as nearly `n_parameters` as can be, by bisection.

    Args:
        make: builds a model of a width; its size must grow with the width.
        multiple_of: allowed widths, such as the number of heads.

    Raises:
        ValueError: if even the narrowest model is more than twice too large.
    """
    low, high = 1, 2
    while _parameters(make, high * multiple_of) < n_parameters:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if _parameters(make, middle * multiple_of) < n_parameters else (low, middle)
    best = min((low, high), key=lambda w: abs(_parameters(make, w * multiple_of) - n_parameters)) * multiple_of
    if _parameters(make, best) > 2 * n_parameters:
        raise ValueError(f"n_parameters is too small for this model: {n_parameters} < {_parameters(make, best)} / 2")
    return best


def _models() -> dict[str, type[SequenceModel]]:
    from s4_impl.model import S4Model

    return {"s4": S4Model, "lstm": LSTMModel, "transformer": TransformerModel, "tcn": TCNModel, "lssl": LSSLModel}


MODELS: dict[str, type[SequenceModel]] = _models()
"""Models by the names that the command line uses."""
