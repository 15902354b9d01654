"""What Aaren is compared with, sharing its hyperparameters: a causal Transformer, linear attention, GRU and LSTM."""

from typing import Any, Literal, NamedTuple, cast

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from shared_impl.pretrained import Pretrained

from .layer import Aaren, EncoderLayer, HeadedAttention, SequenceModel, SequenceStack, StackState, check_state

__all__ = ["BACKBONES", "CausalSelfAttention", "CausalTransformer", "LinearAttention", "LinearTransformer",
           "RecurrentStack", "build_backbone", "state_bytes"]  # fmt: skip

BACKBONES = ("aaren", "transformer", "linear", "gru", "lstm")


class KVCache(NamedTuple):
    """Keys and values, (batch, heads, length, d_head), and which of them count (None: all): grows with every token."""

    keys: Tensor
    values: Tensor
    counts: Tensor | None


class CausalSelfAttention(HeadedAttention):
    """Softmax self-attention with a cache of keys and values."""

    def initial_state(self, batch_size: int) -> KVCache:
        """An empty cache."""
        empty = self.in_proj.weight.new_zeros(batch_size, self.n_heads, 0, self.d_head)
        return KVCache(empty, empty, None)

    def forward(
        self,
        x: Float[Tensor, "batch length d_model"],
        state: KVCache | None = None,
        *,
        key_padding_mask: Bool[Tensor, "batch length"] | None = None,
    ) -> tuple[Float[Tensor, "batch length d_model"], KVCache]:
        """A piece of a sequence after what the cache holds.

        Raises:
            ValueError: if the state is of another batch or dtype.
        """
        state = self.initial_state(len(x)) if state is None else state
        check_state(state.keys, len(x), x.dtype)
        q, k, v = self.split_heads(self.in_proj(x), 3)
        seen, n, counts = state.keys.shape[2], x.shape[1], state.counts
        if key_padding_mask is not None:
            before = torch.ones(len(x), seen, dtype=torch.bool, device=x.device) if counts is None else counts
            counts = torch.cat([before, ~key_padding_mask], 1)
        elif counts is not None:
            counts = F.pad(counts, (0, n), value=True)
        k, v = torch.cat([state.keys, k], 2), torch.cat([state.values, v], 2)
        if counts is None and (seen == 0 or n == 1):
            y = F.scaled_dot_product_attention(q, k, v, is_causal=seen == 0)
        else:
            mask = torch.ones(n, seen + n, dtype=torch.bool, device=x.device).tril(seen)
            mask = mask if counts is None else mask & counts[:, None, None, :]
            nothing = ~mask.any(-1, keepdim=True)
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask | nothing).masked_fill(nothing, 0.0)
        return self.merge_heads(y), KVCache(k, v, counts)


class LinearState(NamedTuple):
    """Sums of k v' and k; constant in size, d_head times larger than Aaren's."""

    memory: Tensor
    normaliser: Tensor


class LinearAttention(HeadedAttention):
    """Attention with the kernel elu + 1 instead of exp (Katharopoulos et al., 2020); an RNN with a matrix state."""

    def initial_state(self, batch_size: int) -> LinearState:
        """Nothing read yet."""
        zeros = self.in_proj.weight.new_zeros(batch_size, self.n_heads, self.d_head, self.d_head)
        return LinearState(zeros, zeros[..., 0])

    def forward(
        self,
        x: Float[Tensor, "batch length d_model"],
        state: LinearState | None = None,
        *,
        key_padding_mask: Bool[Tensor, "batch length"] | None = None,
    ) -> tuple[Float[Tensor, "batch length d_model"], LinearState]:
        """A piece of a sequence (quadratic in its length), and the state that continues it.

        Raises:
            ValueError: if the state is of another batch or dtype.
        """
        state = self.initial_state(len(x)) if state is None else state
        check_state(state.memory, len(x), x.dtype)
        q, k, v = self.split_heads(self.in_proj(x), 3)
        q, k = F.elu(q) + 1, F.elu(k) + 1
        if key_padding_mask is not None:
            k = k.masked_fill(key_padding_mask[:, None, :, None], 0.0)
        p = (q @ k.transpose(-1, -2)).tril()
        norm = p.sum(-1, keepdim=True) + q @ state.normaliser.unsqueeze(-1)
        y = (p @ v + q @ state.memory) / (norm + 1e-6)
        state = LinearState(state.memory + k.transpose(-1, -2) @ v, state.normaliser + k.sum(-2))
        return self.merge_heads(y), state


class _AttentionStack(SequenceStack):
    attention: type[HeadedAttention]

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
        positions: Literal["none", "sinusoidal"] = "none",
    ) -> None:
        options: dict[str, Any] = {"dropout": dropout, "activation": activation, "norm_first": norm_first}
        layers = [EncoderLayer(self.attention(d_model, n_heads), d_ff, **options) for _ in range(n_layers)]
        super().__init__(layers, d_model, positions)


class CausalTransformer(_AttentionStack, Pretrained):
    """The twin baseline: Aaren's stack with self-attention and a cache that grows with the stream."""

    attention = CausalSelfAttention


class LinearTransformer(_AttentionStack, Pretrained):
    """Aaren's stack with linear attention."""

    attention = LinearAttention


class RecurrentStack(SequenceModel, Pretrained):
    """GRU or LSTM with the interface of the stacks."""

    def __init__(
        self, *, kind: Literal["gru", "lstm"] = "gru", n_layers: int = 2, d_model: int = 64, dropout: float = 0.0
    ) -> None:
        super().__init__()
        if kind not in ("gru", "lstm"):
            raise ValueError(f"kind must be gru or lstm, got {kind!r}")
        if n_layers < 1 or d_model < 1:
            raise ValueError(f"n_layers and d_model must be at least 1, got {n_layers} and {d_model}")
        self.d_model, self.n_layers, self.kind = d_model, n_layers, kind
        cell = nn.GRU if kind == "gru" else nn.LSTM
        self.rnn = cell(d_model, d_model, n_layers, batch_first=True, dropout=dropout if n_layers > 1 else 0.0)

    def initial_state(self, batch_size: int) -> StackState:
        """Nothing read yet; a tensor a layer, or two of an LSTM."""
        h = next(self.rnn.parameters()).new_zeros(self.n_layers, batch_size, self.d_model)
        return self._kept((h,) if self.kind == "gru" else (h, h), 0)

    def forward(
        self,
        x: Float[Tensor, "batch length d_model"],
        state: StackState | None = None,
        *,
        key_padding_mask: Bool[Tensor, "batch length"] | None = None,
    ) -> tuple[Float[Tensor, "batch length d_model"], StackState]:
        """A piece of a sequence; padding is read like any token, so it belongs at the end.

        Raises:
            ValueError: if shapes do not fit, or the state is of another batch, dtype or number of layers.
        """
        layers, position = self.checked(x, state, key_padding_mask)
        check_state(layers[0][0], len(x), x.dtype)
        if x.shape[1] == 0:
            return x, StackState(layers, position)
        h = tuple(torch.stack(part) for part in zip(*layers, strict=True))
        y, after = self.rnn(x, h[0] if self.kind == "gru" else h)
        return y, self._kept((after,) if self.kind == "gru" else after, position + x.shape[1])

    @staticmethod
    def _kept(h: tuple[Tensor, ...], position: int) -> StackState:
        return StackState(tuple(zip(*(part.unbind(0) for part in h), strict=True)), position)


def build_backbone(kind: str, **settings: Any) -> SequenceModel:
    """A stack by name, all with the same settings (n_layers, d_model, n_heads, d_ff, dropout, positions).

    GRU and LSTM have no heads, feed-forward or positions: these settings are left out.

    Raises:
        ValueError: if the name is not known.
    """
    if kind in ("gru", "lstm"):
        own = {k: v for k, v in settings.items() if k in ("n_layers", "d_model", "dropout")}
        return RecurrentStack(kind=cast(Literal["gru", "lstm"], kind), **own)
    makers = {"aaren": Aaren, "transformer": CausalTransformer, "linear": LinearTransformer}
    if kind not in makers:
        raise ValueError(f"model must be one of {', '.join(BACKBONES)}, got {kind!r}")
    return makers[kind](**settings)


def state_bytes(state: StackState) -> int:
    """Memory of the state of any stack."""
    return sum(t.numel() * t.element_size() for layer in state.layers for t in layer if t is not None)
