"""Linear recurrent layers whose transition's eigenvalues lie in a declared range.

All take and give (batch, length, d_model); `forward(x, state=None) -> (y, state)`, `step(x_t, state=None)`.
`eig_range` is a plain attribute: changing it changes the layer, and no parameter with it.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from .checks import Number, check_eig_range, check_positive, check_sequence, check_state, single
from .delta_rule import delta_product, unit
from .scan import gla_recurrent, gla_scan, matrix_scan, selective_scan, spread

__all__ = ["DeltaNet", "FullMatrixRNN", "GLALayer", "LinearRNN", "Mamba", "ShortConv"]

Sequences = Float[Tensor, "batch length d_model"]
Tokens = Float[Tensor, "batch d_model"]


class ShortConv(nn.Module):
    """A depthwise causal convolution over the last `width` tokens; the state is the last width - 1 inputs."""

    def __init__(self, channels: int, width: int = 4, *, bias: bool = False) -> None:
        super().__init__()
        check_positive(channels=channels, width=width)
        self.width = width
        bound = width**-0.5
        self.weight = nn.Parameter(torch.empty(width, channels).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.zeros(channels)) if bias else None

    def forward(
        self, x: Float[Tensor, "batch length channels"], state: Tensor | None = None
    ) -> tuple[Float[Tensor, "batch length channels"], Tensor]:
        """Convolve and return the state that continues it."""
        length = x.shape[1]
        if state is None:
            state = x.new_zeros(x.shape[0], self.width - 1, x.shape[2])
        check_state(state, (x.shape[0], self.width - 1, x.shape[2]))
        x = torch.cat([state, x], 1)
        y = sum(self.weight[i] * x[:, i : i + length] for i in range(self.width))
        assert isinstance(y, Tensor)
        return y if self.bias is None else y + self.bias, x[:, length:]


class LinearRNN(nn.Module):
    """What the layers share: the range, and stepping through a sequence of one token."""

    def __init__(self, d_model: int, eig_range: Sequence[Number]) -> None:
        super().__init__()
        check_positive(d_model=d_model)
        self.d_model = d_model
        self._eig_range = check_eig_range(eig_range)

    @property
    def eig_range(self) -> tuple[float, float]:
        """Range (lo, hi) of the eigenvalues of A(x)."""
        return self._eig_range

    @eig_range.setter
    def eig_range(self, value: Sequence[Number]) -> None:
        self._eig_range = check_eig_range(value)

    def forward(self, x: Sequences, state: Any = None) -> tuple[Sequences, Any]:
        """A piece of a sequence; the state continues it."""
        raise NotImplementedError

    def eigenvalues(self, x: Sequences) -> Tensor:
        """Eigenvalues of A(x_t) that depend on the input, (batch, length, ...); complex where they can be."""
        raise NotImplementedError

    def step(self, x: Tokens, state: Any = None) -> tuple[Tokens, Any]:
        """One token."""
        y, state = self(x[:, None], state)
        return y[:, 0], state

    def initial_state(self, batch_size: int) -> Any:
        """The state before the first token; None has the same effect."""
        weight = next(self.parameters())
        with torch.no_grad():
            _, state = self(torch.zeros(batch_size, 1, self.d_model, dtype=weight.dtype, device=weight.device))
        return tuple(torch.zeros_like(part) for part in state)

    def _checked(self, x: Tensor) -> Tensor:
        check_sequence(x, self.d_model)
        return x


def _heads(d_model: int, n_heads: int) -> int:
    check_positive(d_model=d_model, n_heads=n_heads)
    if d_model % n_heads:
        raise ValueError(f"d_model must be a multiple of n_heads, got {d_model} and {n_heads}")
    return d_model // n_heads


class DeltaNet(LinearRNN):
    """DeltaNet; with `eig_range=(-1, 1)` its transitions are reflections and all between (section 5.1).

    beta = (1 - hi) + (hi - lo) sigmoid(w x), so that 1 - beta is in (lo, hi): for (-1, 1) the paper's 2 sigmoid.

    Args:
        n_householder: factors of each token's transition: products of reflections, hence also rotations.
        short_conv: width of the convolutions before q, k, v; 1 or 0: none.
        chunk: of the WY form; a sequence of one token is always stepped.
    """

    def __init__(
        self,
        d_model: int,
        n_heads: int = 4,
        *,
        eig_range: Sequence[Number] = (-1.0, 1.0),
        n_householder: int = 1,
        short_conv: int = 4,
        chunk: int = 32,
        norm_eps: float = 1e-5,
    ) -> None:
        super().__init__(d_model, eig_range)
        check_positive(n_householder=n_householder, chunk=chunk)
        self.n_heads, self.d_head = n_heads, _heads(d_model, n_heads)
        self.n_householder, self.chunk = n_householder, chunk
        wide = n_householder * d_model
        self.q_proj = nn.Linear(d_model, d_model, bias=False)
        self.k_proj = nn.Linear(d_model, wide, bias=False)
        self.v_proj = nn.Linear(d_model, wide, bias=False)
        self.beta_proj = nn.Linear(d_model, n_householder * n_heads, bias=False)
        self.convs = nn.ModuleList(
            [ShortConv(c, short_conv) for c in (d_model, wide, wide)] if short_conv not in (0, 1) else []
        )
        self.norm = nn.RMSNorm(self.d_head, eps=norm_eps)
        self.o_proj = nn.Linear(d_model, d_model, bias=False)
        for linear in (self.q_proj, self.k_proj, self.v_proj, self.beta_proj, self.o_proj):
            nn.init.xavier_uniform_(linear.weight, gain=2**-2.5)

    def beta(self, x: Sequences) -> Float[Tensor, "batch length steps heads"]:
        """Step sizes."""
        lo, hi = self.eig_range
        gate = torch.sigmoid(self.beta_proj(x)).unflatten(-1, (self.n_householder, self.n_heads))
        return (1 - hi) + (hi - lo) * gate

    def keys(self, x: Sequences) -> Float[Tensor, "batch length steps heads dk"]:
        """Normalised keys of a sequence from its beginning."""
        k = self.k_proj(x)
        if len(self.convs):
            k, _ = self.convs[1](k)
        return self._split(unit(F.silu(k).unflatten(-1, (-1, self.d_head))))

    def forward(self, x: Sequences, state: Any = None) -> tuple[Sequences, Any]:
        """A piece of a sequence; the state holds the matrix memory and the convolutions' last inputs."""
        x = self._checked(x)
        memory, *before = state if state is not None else (None,)
        projected = [self.q_proj(x), self.k_proj(x), self.v_proj(x)]
        after = []
        for i, conv in enumerate(self.convs):
            projected[i], last = conv(projected[i], before[i] if before else None)
            after.append(last)
        q, k, v = (F.silu(part).unflatten(-1, (-1, self.d_head)) for part in projected)
        y, memory = delta_product(
            F.normalize(q, dim=-1), self._split(k), self._split(v), self.beta(x), memory,
            chunk=None if x.shape[1] == 1 else self.chunk, normalize=True, validate=False,
        )  # fmt: skip
        return self.o_proj(self.norm(y.to(self.norm.weight.dtype)).flatten(-2)), (memory, *after)

    def eigenvalues(self, x: Sequences) -> Tensor:
        """1 - beta |k|^2 for one factor (1 where the key is zero); of products all, which may be complex."""
        beta, k = single(self.beta(self._checked(x))), self.keys(x)
        if self.n_householder == 1:
            return (1 - beta * k.square().sum(-1)).flatten(2)
        eye = torch.eye(self.d_head, dtype=k.dtype, device=x.device)
        product = eye
        for i in range(self.n_householder):
            product = (eye - beta[:, :, i, :, None, None] * k[:, :, i, :, :, None] * k[:, :, i, :, None]) @ product
        return torch.linalg.eigvals(product).flatten(2)

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(2, (self.n_householder, self.n_heads))


class Mamba(LinearRNN):
    """Mamba (Gu and Dao 2023); its factors exp(delta A) in (0, 1) are spread over `eig_range`: 2 a - 1 for (-1, 1).

    Args:
        short_conv: width of the convolution; the authors take 1 for the formal languages, 4 for text.
        dt_rank: default ceil(d_model / 16).
    """

    def __init__(
        self,
        d_model: int,
        *,
        d_state: int = 16,
        eig_range: Sequence[Number] = (-1.0, 1.0),
        expand: int = 2,
        short_conv: int = 4,
        dt_rank: int | None = None,
        dt_min: float = 1e-3,
        dt_max: float = 1e-1,
    ) -> None:
        super().__init__(d_model, eig_range)
        check_positive(d_state=d_state, expand=expand)
        if not 0 < dt_min <= dt_max:
            raise ValueError(f"dt_min and dt_max must be positive and in order, got {dt_min} and {dt_max}")
        self.d_inner, self.d_state = expand * d_model, d_state
        self.dt_rank = math.ceil(d_model / 16) if dt_rank is None else dt_rank
        check_positive(dt_rank=self.dt_rank)
        self.in_proj = nn.Linear(d_model, 2 * self.d_inner, bias=False)
        self.conv = ShortConv(self.d_inner, short_conv or 1, bias=True)
        self.x_proj = nn.Linear(self.d_inner, self.dt_rank + 2 * d_state, bias=False)
        self.dt_proj = nn.Linear(self.dt_rank, self.d_inner)
        self.A_log = nn.Parameter(torch.arange(1, d_state + 1).float().log().repeat(self.d_inner, 1))
        self.D = nn.Parameter(torch.ones(self.d_inner))
        self.out_proj = nn.Linear(self.d_inner, d_model, bias=False)
        with torch.no_grad():
            nn.init.uniform_(self.dt_proj.weight, -(self.dt_rank**-0.5), self.dt_rank**-0.5)
            dt = torch.exp(torch.rand(self.d_inner) * math.log(dt_max / dt_min) + math.log(dt_min)).clamp(min=1e-4)
            self.dt_proj.bias.copy_(dt + torch.log(-torch.expm1(-dt)))  # the inverse of softplus

    def forward(self, x: Sequences, state: Any = None) -> tuple[Sequences, Any]:
        """A piece of a sequence; the state holds the recurrence's and the convolution's last inputs."""
        h, before = state if state is not None else (None, None)
        u, delta, b, c, z, after = self._inputs(self._checked(x), before)
        y, h = selective_scan(
            u, delta, -torch.exp(self.A_log), b, c, self.D, h, eig_range=self.eig_range, validate=False
        )
        return self.out_proj(y * F.silu(z)), (h, after)

    def eigenvalues(self, x: Sequences) -> Tensor:
        """The diagonal of A(x_t): channels times states."""
        _, delta, *_ = self._inputs(self._checked(x), None)
        return spread(torch.exp(delta[..., None] * -torch.exp(self.A_log)), *self.eig_range).flatten(2)

    def _inputs(self, x: Tensor, before: Tensor | None) -> tuple[Tensor, ...]:
        u, z = self.in_proj(x).chunk(2, -1)
        u, after = self.conv(u, before)
        u = F.silu(u)
        dt, b, c = self.x_proj(u).split([self.dt_rank, self.d_state, self.d_state], -1)
        return u, F.softplus(self.dt_proj(dt)), b, c, z, after


class GLALayer(LinearRNN):
    """Gated linear attention (Yang et al. 2024) with gates over `eig_range`: alpha' = 2 alpha - 1 for (-1, 1).

    Args:
        tau: alpha = sigmoid(.) ** (1 / tau).
    """

    def __init__(
        self,
        d_model: int,
        n_heads: int = 4,
        *,
        eig_range: Sequence[Number] = (-1.0, 1.0),
        gate_rank: int = 16,
        tau: float = 16.0,
    ) -> None:
        super().__init__(d_model, eig_range)
        check_positive(gate_rank=gate_rank)
        if not tau > 0:
            raise ValueError(f"tau must be positive, got {tau}")
        self.n_heads, self.d_head, self.tau = n_heads, _heads(d_model, n_heads), tau
        self.qkv = nn.Linear(d_model, 3 * d_model, bias=False)
        self.gate = nn.Sequential(nn.Linear(d_model, gate_rank, bias=False), nn.Linear(gate_rank, d_model))
        self.norm = nn.RMSNorm(self.d_head, eps=1e-5)
        self.g_proj = nn.Linear(d_model, d_model, bias=False)
        self.o_proj = nn.Linear(d_model, d_model, bias=False)

    def alpha(self, x: Sequences) -> Float[Tensor, "batch length heads dk"]:
        """The gates."""
        alpha = torch.sigmoid(self.gate(x)).pow(1 / self.tau).unflatten(-1, (-1, self.d_head))
        return spread(alpha, *self.eig_range)

    def forward(self, x: Sequences, state: Any = None) -> tuple[Sequences, Any]:
        """A piece of a sequence; the state is the matrix memory."""
        q, k, v = (part.unflatten(-1, (-1, self.d_head)) for part in self.qkv(self._checked(x)).chunk(3, -1))
        form = gla_recurrent if x.shape[1] == 1 else gla_scan
        y, memory = form(q, k, v, self.alpha(x), state[0] if state is not None else None, validate=False)
        return self.o_proj(self.norm(y.to(self.norm.weight.dtype)).flatten(-2) * F.silu(self.g_proj(x))), (memory,)

    def eigenvalues(self, x: Sequences) -> Tensor:
        """The gates: eigenvalues of the diagonal transition."""
        return self.alpha(self._checked(x)).flatten(2)


class FullMatrixRNN(LinearRNN):
    """A linear recurrence with a full matrix a token and head: what a diagonal gives away, at cubic cost.

    A(x) = (lo + hi) / 2 I + (hi - lo) / 2 M(x) / max(1, |M(x)|) in the spectral norm, so that the eigenvalues lie in
    the disc that has [lo, hi] for its diameter: for (-1, 1) any matrix of norm at most 1, rotations among them.
    """

    def __init__(
        self, d_model: int, n_heads: int = 4, *, eig_range: Sequence[Number] = (-1.0, 1.0), d_state: int = 8
    ) -> None:
        super().__init__(d_model, eig_range)
        check_positive(n_heads=n_heads, d_state=d_state)
        self.n_heads, self.d_state = n_heads, d_state
        self.a_proj = nn.Linear(d_model, n_heads * d_state * d_state)
        self.b_proj = nn.Linear(d_model, n_heads * d_state)
        self.o_proj = nn.Linear(n_heads * d_state, d_model)
        nn.init.normal_(self.a_proj.weight, std=d_model**-0.5)

    def transition(self, x: Sequences) -> Float[Tensor, "batch length heads n n"]:
        """A(x_t), in float32 at least."""
        lo, hi = self.eig_range
        m = single(self.a_proj(x)).unflatten(-1, (self.n_heads, self.d_state, self.d_state))
        norm = torch.linalg.matrix_norm(m, ord=2)[..., None, None]
        eye = torch.eye(self.d_state, dtype=m.dtype, device=x.device)
        return (lo + hi) / 2 * eye + (hi - lo) / 2 * m / norm.clamp(min=1)

    def forward(self, x: Sequences, state: Any = None) -> tuple[Sequences, Any]:
        """A piece of a sequence; the state is a vector a head."""
        a = self.transition(self._checked(x)).transpose(1, 2).flatten(0, 1)
        b = self.b_proj(x).unflatten(-1, (self.n_heads, self.d_state)).transpose(1, 2).flatten(0, 1)[..., None]
        h = matrix_scan(a, b, state[0].flatten(0, 1) if state is not None else None)
        h = h.unflatten(0, (-1, self.n_heads))
        return self.o_proj(h[..., 0].transpose(1, 2).flatten(-2).to(b.dtype)), (h[:, :, -1],)

    def eigenvalues(self, x: Sequences) -> Tensor:
        """All eigenvalues, complex."""
        return torch.linalg.eigvals(self.transition(self._checked(x))).flatten(2)
