"""The layers: MEGA's gated attention with any mixer, TCNCA's, the simple one; feed-forward (figures 1, A1, A2)."""

from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from .attention import AttentionState, ChunkedAttention
from .config import MIXERS, LayerConfig, MixerConfig
from .ema import S4D, MultiHeadEMA
from .norms import SequenceNorm, check_input
from .tcn import CausalTCN

__all__ = [
    "Block",
    "FeedForward",
    "LayerState",
    "MegaLayer",
    "MixedLayer",
    "MixerOnly",
    "SimpleTCNCA",
    "TCNCALayer",
    "make_mixer",
]


class LayerState(NamedTuple):
    """What a layer remembers."""

    mixer: Any
    attention: AttentionState | None


def _check_batch(state: Any, batch: int) -> None:
    """Refuse a state of another batch: one of batch 1 would be read for all sequences."""
    if isinstance(state, Tensor):
        if state.ndim and state.shape[0] != batch:
            raise ValueError(f"the state must be of batch {batch}, got {state.shape[0]}")
    elif isinstance(state, tuple | list):
        for part in state:
            _check_batch(part, batch)


class _NoMixer(nn.Module):
    def forward(
        self, x: Tensor, state: None = None, mask: Tensor | None = None, *, return_state: bool = True
    ) -> tuple[Tensor, None]:
        return x, None

    def step(self, x_t: Tensor, state: None = None) -> tuple[Tensor, None]:
        return x_t, None


def make_mixer(name: str, d_model: int, config: MixerConfig) -> nn.Module:
    """A mixer by name: `tcn`, `ema`, `s4d`, or `none`.

    Raises:
        ValueError: a name that is none.
    """
    if name not in MIXERS:
        raise ValueError(f"mixer must be one of {', '.join(MIXERS)}, got {name!r}")
    if name == "tcn":
        return CausalTCN(
            d_model, config.kernel, config.dilation_factor, config.depth, config.convs_per_block, norm=config.norm,
            activation=config.activation, groups=config.groups, bidirectional=config.bidirectional,
        )  # fmt: skip
    if name == "ema":
        return MultiHeadEMA(
            d_model, config.n_states, bidirectional=config.bidirectional, truncation=config.truncation
        )  # fmt: skip
    return S4D(d_model, config.n_states, bidirectional=config.bidirectional) if name == "s4d" else _NoMixer()


def _linear(d_in: int, d_out: int) -> nn.Linear:
    layer = nn.Linear(d_in, d_out)
    nn.init.normal_(layer.weight, std=0.02)
    nn.init.zeros_(layer.bias)
    return layer


class FeedForward(nn.Module):
    """y + W2 SiLU(W1 norm(y)); with `prenorm=False` the norm comes last."""

    def __init__(
        self,
        d_model: int,
        width: int,
        *,
        norm: str = "layernorm",
        prenorm: bool = True,
        dropout: float | int = 0.0,
        hidden_dropout: float | int = 0.0,
    ) -> None:
        super().__init__()
        self.prenorm = prenorm
        self.norm = SequenceNorm(norm, d_model)
        self.fc1, self.fc2 = _linear(d_model, width), _linear(width, d_model)
        self.dropout, self.hidden_dropout = nn.Dropout(dropout), nn.Dropout(hidden_dropout)

    def forward(self, x: Float[Tensor, "batch length d_model"]) -> Float[Tensor, "batch length d_model"]:
        """Each position by itself."""
        hidden = self.hidden_dropout(F.silu(self.fc1(self.norm(x) if self.prenorm else x)))
        y = self.dropout(self.fc2(hidden)) + x
        return y if self.prenorm else self.norm(y)


class MixedLayer(nn.Module):
    """What all layers with a mixer share: x~ = norm(x), x' = mixer(x~), then `combine` of the kind."""

    def __init__(self, d_model: int, mixer: str, config: MixerConfig, *, prenorm: bool = True) -> None:
        super().__init__()
        self.d_model, self.prenorm = d_model, prenorm
        self.norm = SequenceNorm(config.norm, d_model)
        self.mixer = make_mixer(mixer, d_model, config)
        self.attention: ChunkedAttention | None = None

    def combine(
        self, x: Tensor, x_in: Tensor, mixed: Tensor, state: AttentionState | None, mask: Tensor | None
    ) -> tuple[Tensor, AttentionState | None]:
        """The output, of the input, its norm and what the mixer made of it."""
        raise NotImplementedError

    def initial_state(self, batch_size: int) -> LayerState:
        """Of a sequence that has not begun."""
        mixer = cast(Any, self.mixer).initial_state(batch_size) if hasattr(self.mixer, "initial_state") else None
        if self.attention is None:
            return LayerState(mixer, None)
        return LayerState(mixer, self.attention.initial_state(batch_size, like=next(self.parameters())))

    def forward(
        self,
        x: Float[Tensor, "batch length d_model"],
        state: LayerState | None = None,
        mask: Bool[Tensor, "batch length"] | None = None,
        *,
        return_state: bool = True,
    ) -> tuple[Float[Tensor, "batch length d_model"], LayerState | None]:
        """The sequence, or a piece that continues one.

        Raises:
            ValueError: a wrong shape; a state of another batch, or where the layer reads the future.
        """
        check_input(x, self.d_model)
        if state is not None:
            self.norm.refuse_streaming()
            _check_batch(state, x.shape[0])
        x_in = self.norm(x) if self.prenorm else x
        mixed, after = self.mixer(x_in, None if state is None else state.mixer, mask, return_state=return_state)
        y, attention = self.combine(x, x_in, mixed, None if state is None else state.attention, mask)
        return y, LayerState(after, attention) if return_state else None

    def step(
        self, x_t: Float[Tensor, "batch d_model"], state: LayerState | None = None
    ) -> tuple[Float[Tensor, "batch d_model"], LayerState]:
        """One position."""
        x = x_t.unsqueeze(1)
        check_input(x, self.d_model)
        self.norm.refuse_streaming()
        state = self.initial_state(x_t.shape[0]) if state is None else state
        _check_batch(state, x_t.shape[0])
        x_in = self.norm(x) if self.prenorm else x
        mixed, mixer = cast(Any, self.mixer).step(x_in.squeeze(1), state.mixer)
        y, attention = self.combine(x, x_in, mixed.unsqueeze(1), state.attention, None)
        return y.squeeze(1), LayerState(mixer, attention)


class MegaLayer(MixedLayer):
    """MEGA's gated attention over chunks, with a mixer of choice in the place of its moving average (figure A1).

    x~ = norm(x); v = SiLU(W_v x~) from what is not mixed; x' = mixer(x~); (u, z, r, h) = W x'; q, k by a diagonal map
    of SiLU(z); g = SiLU(h + W_h (attention * SiLU(r))); y = sigmoid(u) g + (1 - sigmoid(u)) x.

    Args:
        mixer: `ema` (MEGA), `tcn` (TCNCA), `s4d` or `none`.
        settings: as in `LayerConfig`.
    """

    attention: ChunkedAttention

    def __init__(self, d_model: int, mixer: str = "ema", **settings: Any) -> None:
        config = LayerConfig(**settings)
        super().__init__(d_model, mixer, config, prenorm=config.prenorm)
        z = max(2, d_model // 4 // 2 * 2) if config.z is None else config.z
        h = 2 * d_model if config.h is None else config.h
        self.z, self.h = z, h
        self.v_proj = _linear(d_model, h)
        self.mx_proj = _linear(d_model, z + h + 2 * d_model)
        self.h_proj = _linear(h, d_model)
        self.gamma = nn.Parameter(torch.empty(2, z).normal_(std=0.02))
        self.beta = nn.Parameter(torch.zeros(2, z))
        self.attention = ChunkedAttention(
            config.chunk, z, h, config.attn_fn, config.rel_bias, causal=not config.bidirectional,
            dropout=config.attention_dropout,
        )  # fmt: skip
        self.dropout, self.hidden_dropout = nn.Dropout(config.dropout), nn.Dropout(config.hidden_dropout)

    def combine(
        self, x: Tensor, x_in: Tensor, mixed: Tensor, state: AttentionState | None, mask: Tensor | None
    ) -> tuple[Tensor, AttentionState | None]:
        """Attention of the mixed sequence over values of the unmixed one, gated."""
        v = F.silu(self.v_proj(x_in))
        base = self.mx_proj(self.dropout(mixed))
        u, zr, hx = base.split([self.d_model, self.z + self.h, self.d_model], -1)
        shared, r = F.silu(zr).split([self.z, self.h], -1)
        q, k = (shared * self.gamma[i] + self.beta[i] for i in (0, 1))
        out, state = self.attention(q, k, self.hidden_dropout(v), state, mask)
        candidate = self.dropout(F.silu(hx + self.h_proj(out * r)))
        y = torch.lerp(x, candidate, torch.sigmoid(u))
        return (y if self.prenorm else self.norm(y)), state


class TCNCALayer(MegaLayer):
    """The paper's layer: MEGA's with a dilated causal TCN in the place of the moving average (section 2)."""

    def __init__(self, d_model: int, **settings: Any) -> None:
        super().__init__(d_model, "tcn", **settings)


class SimpleTCNCA(MixedLayer):
    """The layer of the associative recall (figure A2): x' = mixer(norm(x)), q, k, v by one linear map of x', softmax.

    No gates, and no skip around it: what crosses chunks does so through the mixer alone.

    Args:
        settings: as in `MixerConfig`.
    """

    attention: ChunkedAttention

    def __init__(self, d_model: int, mixer: str = "tcn", *, chunk: int = 32, **settings: Any) -> None:
        config = MixerConfig(**settings)
        if config.bidirectional:
            raise ValueError("bidirectional must be False for the simple layer, got True")
        super().__init__(d_model, mixer, config)
        self.qkv = nn.Linear(d_model, 3 * d_model)
        self.attention = ChunkedAttention(chunk, d_model, d_model, "softmax", "none", causal=True)

    def combine(
        self, x: Tensor, x_in: Tensor, mixed: Tensor, state: AttentionState | None, mask: Tensor | None
    ) -> tuple[Tensor, AttentionState | None]:
        """Attention of the mixed sequence over itself."""
        q, k, v = self.qkv(mixed).chunk(3, -1)
        return cast(tuple[Tensor, AttentionState], self.attention(q, k, v, state, mask))


class MixerOnly(MixedLayer):
    """x + mixer(norm(x)): what is left of the layer without attention (TCN-MLP, EMA-MLP)."""

    def __init__(self, d_model: int, mixer: str, **settings: Any) -> None:
        super().__init__(d_model, mixer, MixerConfig(**settings))

    def combine(
        self, x: Tensor, x_in: Tensor, mixed: Tensor, state: AttentionState | None, mask: Tensor | None
    ) -> tuple[Tensor, AttentionState | None]:
        """The skip."""
        return x + mixed, None


class Block(nn.Module):
    """A sequence layer, then the feed-forward part."""

    def __init__(self, layer: nn.Module, ffn: FeedForward) -> None:
        super().__init__()
        self.layer, self.ffn = layer, ffn

    def forward(
        self, x: Tensor, state: Any = None, mask: Tensor | None = None, *, return_state: bool = True
    ) -> tuple[Tensor, Any]:
        """The sequence, or a piece that continues one."""
        y, state = self.layer(x, state, mask, return_state=return_state)
        return self.ffn(y), state

    def step(self, x_t: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """One position."""
        y, state = cast(Any, self.layer).step(x_t, state)
        return self.ffn(y.unsqueeze(1)).squeeze(1), state
