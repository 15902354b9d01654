"""The mixers of the paper: linear attention with and without a prefix, gated convolution, sliding window.

Each has `forward(x, state=None, attention_mask=None) -> (y, state)` and `step(x_t, state=None) -> (y_t, state)`. With a
mask, padding stands to the left where the state is used afterwards.
"""

from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from .attention import Compat, Form, PLAState, linear_attention, pla_step, prefix_linear_attention, prefix_mask
from .feature_map import TaylorExp

__all__ = ["BaseConv", "BasedLayer", "PrefixLinearAttention", "ShortConv", "SlidingWindowAttention", "WindowState"]


class BasedLayer(nn.Module):
    """Causal linear attention with the Taylor map; three linear maps without bias, and one back.

    Raises:
        ValueError: if d_model is no multiple of n_heads.
    """

    def __init__(
        self, d_model: int, n_heads: int, *, feature_dim: int = 16, symmetric: bool = False, form: Form = "chunked"
    ) -> None:
        super().__init__()
        if n_heads < 1 or d_model % n_heads:
            raise ValueError(f"d_model must be a multiple of n_heads, got {d_model} and {n_heads}")
        self.n_heads, self.feature_dim, self.symmetric, self.form = n_heads, feature_dim, symmetric, form
        self.d_model, self.compat = d_model, "paper"
        self.proj_q = nn.Linear(d_model, n_heads * feature_dim, bias=False)
        self.proj_k = nn.Linear(d_model, n_heads * feature_dim, bias=False)
        self.proj_v = nn.Linear(d_model, d_model, bias=False)
        self.out_proj = nn.Linear(d_model, d_model, bias=False)

    def initial_state(self, batch_size: int) -> PLAState:
        """Nothing read yet."""
        size = TaylorExp(self.feature_dim, symmetric=self.symmetric).size
        weight = self.proj_q.weight
        # sums are kept as wide as they are taken
        dtype = torch.float64 if weight.dtype == torch.float64 else torch.float32
        shape = (batch_size, self.n_heads, size)
        value = self.d_model // self.n_heads
        return PLAState(weight.new_zeros((*shape, value), dtype=dtype), weight.new_zeros(shape, dtype=dtype))

    def forward(
        self,
        x: Float[Tensor, "batch length d_model"],
        state: PLAState | None = None,
        attention_mask: Bool[Tensor, "batch length"] | None = None,
    ) -> tuple[Float[Tensor, "batch length d_model"], PLAState]:
        """A piece of a sequence; the state continues it."""
        q, k, v = self._heads(self.proj_q(x)), self._heads(self.proj_k(x)), self._heads(self.proj_v(x))
        y, state = linear_attention(
            q, k, v, form=self.form, mask=attention_mask, state=state, symmetric=self.symmetric, compat=self._compat
        )
        return self.out_proj(y.transpose(1, 2).flatten(2)), state

    def step(
        self, x: Float[Tensor, "batch d_model"], state: PLAState | None = None
    ) -> tuple[Float[Tensor, "batch d_model"], PLAState]:
        """One token."""
        state = self.initial_state(len(x)) if state is None else state
        q, k, v = (proj(x).unflatten(-1, (self.n_heads, -1)) for proj in (self.proj_q, self.proj_k, self.proj_v))
        y, state = pla_step(q, k, v, state, symmetric=self.symmetric)
        return self.out_proj(y.flatten(1)), state

    @property
    def _compat(self) -> Compat:
        return "official" if self.compat == "official" else "paper"

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.n_heads, -1)).transpose(1, 2)


class PrefixLinearAttention(BasedLayer):
    """PLA (section 4): a second pair of maps for the keys and values of the first `prefix_len` tokens.

    Without a state, a call reads a sequence from its start, prefix included; with one it goes on causally.

    Args:
        prefix_len: M; None makes all of the first call the prefix.
        projections: "shared" uses the causal keys and values again, as the synthetic code of the paper does.
        compat: "official" for the authors' treatment of padding.

    Raises:
        ValueError: if an option is out of range.
    """

    def __init__(
        self,
        d_model: int,
        n_heads: int,
        *,
        prefix_len: int | None = None,
        feature_dim: int = 16,
        symmetric: bool = False,
        form: Form = "chunked",
        projections: Literal["own", "shared"] = "own",
        compat: Compat = "paper",
    ) -> None:
        super().__init__(d_model, n_heads, feature_dim=feature_dim, symmetric=symmetric, form=form)
        if prefix_len is not None and prefix_len < 0:
            raise ValueError(f"prefix_len must not be negative, got {prefix_len}")
        if projections not in ("own", "shared"):
            raise ValueError(f"projections must be own or shared, got {projections!r}")
        self.prefix_len, self.compat, self.projections = prefix_len, compat, projections
        if projections == "own":
            self.proj_k_enc = nn.Linear(d_model, n_heads * feature_dim, bias=False)
            self.proj_v_enc = nn.Linear(d_model, d_model, bias=False)

    def forward(
        self,
        x: Float[Tensor, "batch length d_model"],
        state: PLAState | None = None,
        attention_mask: Bool[Tensor, "batch length"] | None = None,
    ) -> tuple[Float[Tensor, "batch length d_model"], PLAState]:
        """A sequence from its start, or, given a state, what follows."""
        if state is not None:
            return super().forward(x, state, attention_mask)
        q, k, v = self._heads(self.proj_q(x)), self._heads(self.proj_k(x)), self._heads(self.proj_v(x))
        length = x.shape[1]
        reach = length if self.prefix_len is None else min(self.prefix_len, length)
        if attention_mask is not None and reach and self.compat == "paper":
            within = prefix_mask(attention_mask, reach).any(0).nonzero()
            reach = int(within.max()) + 1 if len(within) else 0
        if self.projections == "own":
            k_enc, v_enc = self._heads(self.proj_k_enc(x[:, :reach])), self._heads(self.proj_v_enc(x[:, :reach]))
        else:
            k_enc, v_enc = k[:, :, :reach], v[:, :, :reach]
        y, state = prefix_linear_attention(
            q, k, v, k_enc, v_enc, self.prefix_len, attention_mask,
            form=self.form, symmetric=self.symmetric, compat=self._compat,
        )  # fmt: skip
        return self.out_proj(y.transpose(1, 2).flatten(2)), state


class BaseConv(nn.Module):
    """Gated short convolution: (u1, u2) = split(W_in x), y = W_out(SiLU(causal depthwise conv(u1)) * u2).

    Args:
        expand: columns of W_in in units of d_model; half of them go each way.
        conv_bias: the authors' CUDA convolution has one.
    """

    def __init__(self, d_model: int, *, kernel_size: int = 3, expand: int = 4, conv_bias: bool = False) -> None:
        super().__init__()
        if kernel_size < 1 or expand < 2 or expand % 2:
            raise ValueError(
                f"kernel_size must be positive and expand a positive even number, got {kernel_size} and {expand}"
            )
        self.width, self.kernel_size = expand * d_model // 2, kernel_size
        self.in_proj = nn.Linear(d_model, 2 * self.width)
        self.conv = nn.Conv1d(self.width, self.width, kernel_size, groups=self.width, bias=conv_bias)
        self.out_proj = nn.Linear(self.width, d_model)

    def initial_state(self, batch_size: int) -> Float[Tensor, "batch width before"]:
        """Zeros for the inputs before the first."""
        return self.in_proj.weight.new_zeros((batch_size, self.width, self.kernel_size - 1))

    def forward(
        self,
        x: Float[Tensor, "batch length d_model"],
        state: Float[Tensor, "batch width before"] | None = None,
        attention_mask: Bool[Tensor, "batch length"] | None = None,
    ) -> tuple[Float[Tensor, "batch length d_model"], Float[Tensor, "batch width before"]]:
        """A piece of a sequence; the last inputs of the convolution continue it."""
        u, gate = self.in_proj(x).chunk(2, dim=-1)
        if attention_mask is not None:
            u = u * attention_mask[..., None]
        before = self.initial_state(len(x)) if state is None else state
        u = torch.cat([before, u.transpose(1, 2)], dim=2)
        after = u[:, :, u.shape[2] - self.kernel_size + 1 :]
        return self.out_proj(F.silu(self.conv(u)).transpose(1, 2) * gate), after

    def step(
        self, x: Float[Tensor, "batch d_model"], state: Float[Tensor, "batch width before"] | None = None
    ) -> tuple[Float[Tensor, "batch d_model"], Float[Tensor, "batch width before"]]:
        """One token."""
        y, state = self(x[:, None], state)
        return y[:, 0], state


class ShortConv(nn.Module):
    """The gated convolution of the synthetic tasks: y = causal depthwise conv(u) * W u + u."""

    def __init__(self, d_model: int, *, kernel_size: int = 3) -> None:
        super().__init__()
        if kernel_size < 1:
            raise ValueError(f"kernel_size must be positive, got {kernel_size}")
        self.width, self.kernel_size = d_model, kernel_size
        self.conv = nn.Conv1d(d_model, d_model, kernel_size, groups=d_model)
        self.projection = nn.Linear(d_model, d_model)

    def initial_state(self, batch_size: int) -> Float[Tensor, "batch width before"]:
        """Zeros for the inputs before the first."""
        return self.projection.weight.new_zeros((batch_size, self.width, self.kernel_size - 1))

    def forward(
        self,
        x: Float[Tensor, "batch length d_model"],
        state: Float[Tensor, "batch width before"] | None = None,
        attention_mask: Bool[Tensor, "batch length"] | None = None,
    ) -> tuple[Float[Tensor, "batch length d_model"], Float[Tensor, "batch width before"]]:
        """A piece of a sequence; the last inputs of the convolution continue it."""
        u = x if attention_mask is None else x * attention_mask[..., None]
        u = torch.cat([self.initial_state(len(x)) if state is None else state, u.transpose(1, 2)], dim=2)
        after = u[:, :, u.shape[2] - self.kernel_size + 1 :]
        return self.conv(u).transpose(1, 2) * self.projection(x) + x, after

    def step(
        self, x: Float[Tensor, "batch d_model"], state: Float[Tensor, "batch width before"] | None = None
    ) -> tuple[Float[Tensor, "batch d_model"], Float[Tensor, "batch width before"]]:
        """One token."""
        y, state = self(x[:, None], state)
        return y[:, 0], state


class WindowState(NamedTuple):
    """Keys (turned), values and validity of what the window may still see, and the number of tokens read."""

    k: Float[Tensor, "batch heads kept head"]
    v: Float[Tensor, "batch heads kept head"]
    valid: Bool[Tensor, "batch kept"]
    position: int


class SlidingWindowAttention(nn.Module):
    """Causal softmax attention to the last `window` tokens (itself among them), with rotary positions.

    `window=None` sees all that came before: the Transformer of the comparisons, whose cache grows.
    """

    def __init__(self, d_model: int, n_heads: int, *, window: int | None = 256) -> None:
        super().__init__()
        if n_heads < 1 or d_model % n_heads or (d_model // n_heads) % 2:
            raise ValueError(f"d_model must be n_heads times an even number, got {d_model} and {n_heads}")
        if window is not None and window < 1:
            raise ValueError(f"window must be at least 1, got {window}")
        self.n_heads, self.window = n_heads, window
        self.Wqkv = nn.Linear(d_model, 3 * d_model, bias=False)
        self.out_proj = nn.Linear(d_model, d_model, bias=False)

    def forward(
        self,
        x: Float[Tensor, "batch length d_model"],
        state: WindowState | None = None,
        attention_mask: Bool[Tensor, "batch length"] | None = None,
    ) -> tuple[Float[Tensor, "batch length d_model"], WindowState]:
        """A piece of a sequence; the keys and values in reach continue it."""
        batch, length = x.shape[:2]
        q, k, v = self.Wqkv(x).unflatten(-1, (3, self.n_heads, -1)).permute(2, 0, 3, 1, 4)
        start = 0 if state is None else state.position
        places = torch.arange(start, start + length, device=x.device)
        q, k = _turn(q, places), _turn(k, places)
        valid = attention_mask if attention_mask is not None else x.new_ones((batch, length), dtype=torch.bool)
        if state is not None:
            k, v = torch.cat([state.k, k], 2), torch.cat([state.v, v], 2)
            valid = torch.cat([state.valid, valid], 1)
        kept = k.shape[2]
        if self.window is not None and length > self.window:
            y = _windows(q, k, v, valid, self.window)
        elif self.window is None and state is None and attention_mask is None:
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        elif self.window is None and length == 1 and attention_mask is None and bool(valid.all()):
            y = F.scaled_dot_product_attention(q, k, v)
        else:
            back = torch.arange(kept - length, kept, device=x.device)[:, None] - torch.arange(kept, device=x.device)
            allowed = (back >= 0) & (back < (kept if self.window is None else self.window))
            # a place of padding sees itself, so that no row of the softmax is empty
            allowed = (allowed & valid[:, None]) | (back == 0)
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=allowed[:, None])
        low = 0 if self.window is None else max(kept - self.window + 1, 0)
        after = WindowState(k[:, :, low:], v[:, :, low:], valid[:, low:], start + length)
        return self.out_proj(y.transpose(1, 2).flatten(2)), after

    def step(
        self, x: Float[Tensor, "batch d_model"], state: WindowState | None = None
    ) -> tuple[Float[Tensor, "batch d_model"], WindowState]:
        """One token."""
        y, state = self(x[:, None], state)
        return y[:, 0], state


def _windows(q: Tensor, k: Tensor, v: Tensor, valid: Tensor, window: int) -> Tensor:
    """Blocks of `window` queries against their own and the block before: linear in the length.

    There are at least as many keys as queries; the last of both stand at the same place.
    """
    batch, length = q.shape[0], q.shape[2]
    before, after = window - (k.shape[2] - length), -length % window
    q = F.pad(q, (0, 0, 0, after))
    k, v = (F.pad(t, (0, 0, before, after)) for t in (k, v))
    valid = F.pad(valid, (before, after))
    blocks = q.shape[2] // window

    def pairs(t: Tensor) -> Tensor:
        t = t.unflatten(2, (blocks + 1, window)).transpose(1, 2)
        return torch.cat([t[:, :-1], t[:, 1:]], 3).flatten(0, 1)

    places = torch.arange(2 * window, device=q.device)
    back = places[window:, None] - places
    seen = valid.unflatten(1, (blocks + 1, window))
    seen = torch.cat([seen[:, :-1], seen[:, 1:]], 2)[:, :, None]
    # a place of padding sees itself, so that no row of the softmax is empty
    allowed = (seen & (back >= 0) & (back < window)) | (back == 0)
    asked = q.unflatten(2, (blocks, window)).transpose(1, 2).flatten(0, 1)
    y = F.scaled_dot_product_attention(asked, pairs(k), pairs(v), attn_mask=allowed.flatten(0, 1)[:, None])
    return y.unflatten(0, (batch, blocks)).transpose(1, 2).flatten(2, 3)[:, :, :length]


def _turn(x: Tensor, places: Tensor) -> Tensor:
    """Rotary embedding: halves paired, base 10,000."""
    half = x.shape[-1] // 2
    rate = 10_000.0 ** (-torch.arange(half, device=x.device, dtype=torch.float32) / half)
    angle = places[:, None] * rate
    cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    a, b = x[..., :half], x[..., half:]
    return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1)
