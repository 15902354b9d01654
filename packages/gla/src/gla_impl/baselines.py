"""What the paper compares with, each behind the interface of `GatedLinearAttention`.

`CausalSelfAttention` (Transformer++: rotary positions, SwiGLU, RMSNorm, no biases), `MultiScaleRetention` (RetNet) and
`SelectiveSSM` (Mamba). Ungated linear attention and the ablations of the gate are options of `GatedLinearAttention`.
"""

import math
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from gla_impl.chunk import gla_chunk
from gla_impl.gates import fixed_gate
from gla_impl.recurrent import gla_step

__all__ = [
    "CausalSelfAttention",
    "KVCache",
    "MultiScaleRetention",
    "RetentionState",
    "SSMState",
    "SelectiveSSM",
    "linear_scan",
    "rotate",
]

Mask = Bool[Tensor, "batch length"] | Int[Tensor, "batch length"]


def rotate(
    x: Float[Tensor, "batch length heads size"], position: Int[Tensor, "batch length"], base: float = 10_000.0
) -> Float[Tensor, "batch length heads size"]:
    """Rotary position embedding (RoFormer, arXiv 2104.09864): channel pairs turn by position * base^(-2i/size).

    Channel i is paired with channel i + size / 2. Angles are computed in float32 at least.

    Raises:
        ValueError: if the head size is odd.
    """
    size = x.shape[-1]
    if size % 2:
        raise ValueError(f"rotary positions need an even head size, got {size}")
    exact = torch.promote_types(x.dtype, torch.float32)
    speed = base ** -(torch.arange(0, size, 2, device=x.device, dtype=exact) / size)
    angle = (position[..., None] * speed)[:, :, None]
    cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, first * sin + second * cos], dim=-1)


def _positions(
    start: Int[Tensor, " batch"], length: int, mask: Mask | None
) -> tuple[Int[Tensor, "batch length"], Int[Tensor, " batch"]]:
    """Positions of the next `length` tokens, of which padding counts none, and where the count stands after."""
    if mask is None:
        steps = torch.arange(length, device=start.device)[None]
        return start[:, None] + steps, start + length
    count = mask.long().cumsum(1)
    return start[:, None] + (count - 1).clamp_min(0), start + count[:, -1]


class KVCache(NamedTuple):
    """Every key and value so far: grows with the sequence, which is the cost that GLA avoids."""

    keys: Float[Tensor, "batch heads past size"]
    values: Float[Tensor, "batch heads past size"]
    real: Bool[Tensor, "batch past"]
    position: Int[Tensor, " batch"]


class CausalSelfAttention(nn.Module):
    """Softmax attention with rotary positions, the mixer of Transformer++ (LLaMA); 4 d^2 parameters."""

    def __init__(self, d_model: int, n_heads: int) -> None:
        super().__init__()
        if d_model % n_heads or (d_model // n_heads) % 2:
            raise ValueError(f"d_model / n_heads must be an even integer, got {d_model} / {n_heads}")
        self.n_heads, self.head_size = n_heads, d_model // n_heads
        self.qkv_proj = nn.Linear(d_model, 3 * d_model, bias=False)
        self.o_proj = nn.Linear(d_model, d_model, bias=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """N(0, 0.02)."""
        nn.init.normal_(self.qkv_proj.weight, std=0.02)
        nn.init.normal_(self.o_proj.weight, std=0.02)

    def forward(
        self,
        x: Float[Tensor, "batch length d_model"],
        state: KVCache | None = None,
        attention_mask: Mask | None = None,
    ) -> tuple[Float[Tensor, "batch length d_model"], KVCache]:
        """As `GatedLinearAttention.forward`; the state is the cache of keys and values."""
        batch, length, _ = x.shape
        q, k, v = self.qkv_proj(x).unflatten(-1, (3, self.n_heads, self.head_size)).unbind(2)
        start = x.new_zeros(batch, dtype=torch.long) if state is None else state.position
        position, end = _positions(start, length, attention_mask)
        q, k, v = rotate(q, position).transpose(1, 2), rotate(k, position).transpose(1, 2), v.transpose(1, 2)
        real = x.new_ones(batch, length, dtype=torch.bool) if attention_mask is None else attention_mask.bool()
        padded = attention_mask is not None
        if state is not None:
            # not asked of the data (all real?), which would make a GPU wait
            padded = True
            k, v = torch.cat([state.keys, k], 2), torch.cat([state.values, v], 2)
            real = torch.cat([state.real, real], 1)
        if not padded:
            o = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        else:
            past = k.shape[2] - length
            row = torch.arange(length, device=x.device)[:, None] + past
            column = torch.arange(past + length, device=x.device)
            # a padded query sees itself, so that no softmax is over nothing
            allowed = ((column <= row) & real[:, None, :]) | (column == row)
            o = F.scaled_dot_product_attention(q, k, v, attn_mask=allowed[:, None])
        return self.o_proj(o.transpose(1, 2).flatten(-2)), KVCache(k, v, real, end)

    def step(
        self, x: Float[Tensor, "batch d_model"], state: KVCache | None = None
    ) -> tuple[Float[Tensor, "batch d_model"], KVCache]:
        """One token against the cache."""
        y, state = self.forward(x[:, None], state)
        return y[:, 0], state


class RetentionState(NamedTuple):
    """The matrix state, and the position that the rotation needs."""

    memory: Float[Tensor, "batch heads key value"]
    position: Int[Tensor, " batch"]


class MultiScaleRetention(nn.Module):
    """RetNet's mixer (arXiv 2307.08621): linear attention with fixed decays 1 - 2^(-5-h) and rotated q and k.

    Head norm without weights, SiLU output gate. The rotation is plain rotary, as in the RetNet authors' code.
    """

    log_decay: Tensor

    def __init__(self, d_model: int, n_heads: int, *, expand_k: float = 1.0, expand_v: float = 2.0) -> None:
        super().__init__()
        key_width, value_width = int(d_model * expand_k), int(d_model * expand_v)
        if key_width % (2 * n_heads) or value_width % n_heads or not key_width or not value_width:
            raise ValueError(
                f"expand_k * d_model must be a multiple of 2 n_heads and expand_v * d_model of n_heads, "
                f"got {key_width} and {value_width} for {n_heads} heads"
            )
        self.n_heads, self.key_size = n_heads, key_width // n_heads
        self.value_size = value_width // n_heads
        self.q_proj = nn.Linear(d_model, key_width, bias=False)
        self.k_proj = nn.Linear(d_model, key_width, bias=False)
        self.v_proj = nn.Linear(d_model, value_width, bias=False)
        self.r_proj = nn.Linear(d_model, value_width, bias=False)
        self.o_proj = nn.Linear(value_width, d_model, bias=False)
        self.norm = nn.RMSNorm(self.value_size, eps=1e-5, elementwise_affine=False)
        self.register_buffer("log_decay", fixed_gate(n_heads), persistent=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Xavier-uniform with gain 2^(-5/2) for what reads, 2^-1 for the way out, as in the RetNet authors' code."""
        for projection in (self.q_proj, self.k_proj, self.v_proj, self.r_proj):
            nn.init.xavier_uniform_(projection.weight, gain=2**-2.5)
        nn.init.xavier_uniform_(self.o_proj.weight, gain=2**-1)

    def forward(
        self,
        x: Float[Tensor, "batch length d_model"],
        state: RetentionState | None = None,
        attention_mask: Mask | None = None,
    ) -> tuple[Float[Tensor, "batch length d_model"], RetentionState]:
        """As `GatedLinearAttention.forward`."""
        batch, length, _ = x.shape
        start = x.new_zeros(batch, dtype=torch.long) if state is None else state.position
        position, end = _positions(start, length, attention_mask)
        q, k, v = self._inputs(x, position)
        log_alpha: Tensor = self.log_decay
        if attention_mask is not None:
            real = attention_mask.bool()[:, :, None, None]
            k, v, log_alpha = k * real, v * real, torch.where(real, log_alpha, 0.0)
        memory = None if state is None else state.memory
        o, memory = gla_chunk(q, k, v, log_alpha, memory, True, validate=False)
        assert memory is not None
        return self._output(o, x), RetentionState(memory, end)

    def step(
        self, x: Float[Tensor, "batch d_model"], state: RetentionState | None = None
    ) -> tuple[Float[Tensor, "batch d_model"], RetentionState]:
        """One token in constant time and memory."""
        memory, position = (None, x.new_zeros(len(x), dtype=torch.long)) if state is None else state
        q, k, v = self._inputs(x[:, None], position[:, None])
        o, memory = gla_step(q[:, 0], k[:, 0], v[:, 0], self.log_decay[:, 0], memory)
        assert memory is not None
        return self._output(o[:, None], x[:, None])[:, 0], RetentionState(memory, position + 1)

    def _inputs(self, x: Tensor, position: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q = self.q_proj(x).unflatten(-1, (self.n_heads, self.key_size))
        k = self.k_proj(x).unflatten(-1, (self.n_heads, self.key_size)) * self.key_size**-0.5
        v = self.v_proj(x).unflatten(-1, (self.n_heads, self.value_size))
        return rotate(q, position), rotate(k, position), v

    def _output(self, o: Tensor, x: Tensor) -> Tensor:
        return self.o_proj(F.silu(self.r_proj(x)) * self.norm(o.to(x.dtype)).flatten(-2))


def linear_scan(
    decay: Float[Tensor, "batch length *channels"],
    update: Float[Tensor, "batch length *channels"],
    initial: Float[Tensor, "batch *channels"] | None = None,
) -> Float[Tensor, "batch length *channels"]:
    """Every h_t = decay_t h_{t-1} + update_t, exactly, in log2(length) vectorised rounds.

    Pairs of neighbours are merged, the half-length problem is solved the same way, and the odd places follow from it:
    about three multiplications an element. The gradient is the same scan run backwards; only decay and h are kept.
    """
    if initial is not None:
        update = torch.cat([update[:, :1] + decay[:, :1] * initial[:, None], update[:, 1:]], dim=1)
    return _LinearScan.apply(decay, update)


class _LinearScan(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, decay: Tensor, update: Tensor) -> Tensor:
        h = _scan(decay, update)
        ctx.save_for_backward(decay, h)
        return h

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        decay, h = ctx.saved_tensors
        # dL/dh_t = gradient_t + decay_{t+1} dL/dh_{t+1}
        later = torch.cat([decay[:, 1:], torch.zeros_like(decay[:, :1])], dim=1)
        dh = _scan(later.flip(1), gradients[0].flip(1)).flip(1)
        before = torch.cat([torch.zeros_like(h[:, :1]), h[:, :-1]], dim=1)
        return dh * before, dh


def _scan(decay: Tensor, update: Tensor) -> Tensor:
    length = decay.shape[1]
    if length == 1:
        return update
    even = length - length % 2
    left, right = decay[:, 0:even:2], decay[:, 1:even:2]
    odd = _scan(left * right, torch.addcmul(update[:, 1:even:2], right, update[:, 0:even:2]))
    h = torch.empty_like(update)
    h[:, 1:even:2] = odd
    h[:, 0] = update[:, 0]
    h[:, 2::2] = torch.addcmul(update[:, 2::2], decay[:, 2::2], odd[:, : (length - 1) // 2])
    return h


class SSMState(NamedTuple):
    """The last inputs of the convolution, and the state of every channel."""

    inputs: Float[Tensor, "batch reach channels"]
    hidden: Float[Tensor, "batch channels states"]


class SelectiveSSM(nn.Module):
    """Mamba's mixer (arXiv 2312.00752, section 3): a diagonal state space model whose step and in- and output maps
    depend on the input, behind a short causal convolution; about 6 d^2 parameters at the default width.

    Args:
        d_model: width of input and output.
        n_channels: width inside; None is 2 d_model.
        n_states: states a channel.
        conv_size: taps of the convolution.
    """

    def __init__(self, d_model: int, *, n_channels: int | None = None, n_states: int = 16, conv_size: int = 4) -> None:
        super().__init__()
        self.n_channels = 2 * d_model if n_channels is None else n_channels
        self.n_states, self.conv_size = n_states, conv_size
        self.rank = math.ceil(d_model / 16)
        self.in_proj = nn.Linear(d_model, 2 * self.n_channels, bias=False)
        self.conv = nn.Conv1d(self.n_channels, self.n_channels, conv_size, groups=self.n_channels)
        self.x_proj = nn.Linear(self.n_channels, self.rank + 2 * n_states, bias=False)
        self.dt_proj = nn.Linear(self.rank, self.n_channels)
        self.log_a = nn.Parameter(torch.empty(self.n_channels, n_states))
        self.skip = nn.Parameter(torch.empty(self.n_channels))
        self.out_proj = nn.Linear(self.n_channels, d_model, bias=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """A = -(1, ..., N) in every channel (S4D-Real), steps log-uniform in [0.001, 0.1]."""
        for projection in (self.in_proj, self.x_proj, self.out_proj):
            nn.init.normal_(projection.weight, std=0.02)
        self.conv.reset_parameters()
        nn.init.uniform_(self.dt_proj.weight, -(self.rank**-0.5), self.rank**-0.5)
        dt = torch.exp(torch.empty(self.n_channels).uniform_(math.log(1e-3), math.log(1e-1)))
        with torch.no_grad():
            # the inverse of softplus
            self.dt_proj.bias.copy_(dt + torch.log(-torch.expm1(-dt)))
            self.log_a.copy_(torch.arange(1, self.n_states + 1).log().expand_as(self.log_a))
            self.skip.fill_(1.0)

    def forward(
        self,
        x: Float[Tensor, "batch length d_model"],
        state: SSMState | None = None,
        attention_mask: Mask | None = None,
    ) -> tuple[Float[Tensor, "batch length d_model"], SSMState]:
        """As `GatedLinearAttention.forward`, but padding may stand at the ends only, not between tokens."""
        batch, length, _ = x.shape
        u, z = self.in_proj(x).chunk(2, dim=-1)
        if attention_mask is not None:
            u = u * attention_mask.bool()[:, :, None]
        reach = self.conv_size - 1
        past = u.new_zeros(batch, reach, self.n_channels) if state is None else state.inputs
        with_past = torch.cat([past, u], dim=1)
        u = F.silu(self.conv(with_past.transpose(1, 2)).transpose(1, 2))
        step, b, c = self.x_proj(u).split([self.rank, self.n_states, self.n_states], dim=-1)
        exact = torch.promote_types(x.dtype, torch.float32)
        step = F.softplus(self.dt_proj(step).to(exact))
        if attention_mask is not None:
            # a step of zero length keeps the state and adds nothing
            step = torch.where(attention_mask.bool()[:, :, None], step, 0.0)
        decay = torch.exp(-step[..., None] * self.log_a.to(exact).exp())
        update = (step * u)[..., None] * b[:, :, None].to(exact)
        hidden = linear_scan(decay, update, None if state is None else state.hidden)
        y = torch.einsum("blcn,bln->blc", hidden, c.to(exact)).to(x.dtype) + self.skip * u
        if attention_mask is None:
            recent = with_past[:, length:]
        else:
            recent = _last_real(with_past, attention_mask.bool(), reach)
        return self.out_proj(y * F.silu(z)), SSMState(recent, hidden[:, -1])

    def step(
        self, x: Float[Tensor, "batch d_model"], state: SSMState | None = None
    ) -> tuple[Float[Tensor, "batch d_model"], SSMState]:
        """One token in constant time and memory."""
        y, state = self.forward(x[:, None], state)
        return y[:, 0], state


def _last_real(with_past: Tensor, real: Tensor, reach: int) -> Tensor:
    """The last `reach` inputs that are not padding, those of the past included."""
    everything = torch.cat([real.new_ones(len(real), reach), real], dim=1)
    order = everything.long().argsort(dim=1, stable=True)[:, everything.shape[1] - reach :]
    return with_past.gather(1, order[:, :, None].expand(-1, -1, with_past.shape[2]))
