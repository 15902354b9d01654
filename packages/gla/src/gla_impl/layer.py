"""The gated linear attention layer (section 4.4) and its gate variants."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from gla_impl.chunk import gla_chunk
from gla_impl.config import GATES, Gate, Variant
from gla_impl.gates import fixed_gate, vector_gate
from gla_impl.recurrent import gla_step

__all__ = ["GatedLinearAttention"]


class GatedLinearAttention(nn.Module):
    """Linear attention whose matrix state forgets at a rate that the data decides (section 4.4).

    With heads of key size dk = expand_k d / H and value size dv = expand_v d / H, each head computes
    `S_t = diag(alpha_t) S_{t-1} + k_t^T v_t` and `o_t = q_t S_t`, where `alpha_t = sigmoid(x_t W1 W2 + b)^(1/tau)`.
    The heads are normalised, gated by SiLU(x_t Wr), concatenated and projected. No position enters anywhere.

    Args:
        d_model: width of input and output.
        n_heads: H; divides both expand_k d_model and expand_v d_model.
        expand_k: width of all keys together over d_model.
        expand_v: width of all values together over d_model.
        gate_rank: inner width of W1 W2.
        tau: the larger, the slower the forgetting at the start of training.
        gate: what decays the state: `vector` (the paper), `scalar` (one data-dependent number a head),
            `fixed` (1 - 2^(-5-h) for head h, as in RetNet), `none` (linear attention),
            `outer` (alpha_t^T beta_t: value channels decay too, section 4.1).
        variant: `fla` normalises heads by RMSNorm with a weight and scales q by dk^(-1/2); `paper`, as the authors'
            first code, by LayerNorm without one, scales k by (d/H)^(-1/2), and gives Wr a bias.
        norm_eps: of the head norm.

    Raises:
        ValueError: if sizes do not divide, or gate or variant is unknown.
    """

    log_decay: Tensor
    """of the fixed gate"""

    def __init__(
        self,
        d_model: int,
        n_heads: int = 4,
        *,
        expand_k: float = 0.5,
        expand_v: float = 1.0,
        gate_rank: int = 16,
        tau: float = 16.0,
        gate: Gate = "vector",
        variant: Variant = "fla",
        norm_eps: float = 1e-5,
    ) -> None:
        super().__init__()
        if gate not in GATES:
            raise ValueError(f"gate must be one of {', '.join(GATES)}, got {gate!r}")
        if variant not in ("fla", "paper"):
            raise ValueError(f"variant must be fla or paper, got {variant!r}")
        if tau <= 0:
            raise ValueError(f"tau must be positive, got {tau}")
        key_width, value_width = int(d_model * expand_k), int(d_model * expand_v)
        for name, expand, width in (("expand_k", expand_k, key_width), ("expand_v", expand_v, value_width)):
            if width < n_heads or width % n_heads:
                raise ValueError(
                    f"{name} * d_model must be a positive multiple of n_heads, "
                    f"got {expand} * {d_model} = {width} for {n_heads} heads"
                )
        self.d_model, self.n_heads = d_model, n_heads
        self.key_size, self.value_size = key_width // n_heads, value_width // n_heads
        self.gate, self.variant, self.tau = gate, variant, tau

        self.q_proj = nn.Linear(d_model, key_width, bias=False)
        self.k_proj = nn.Linear(d_model, key_width, bias=False)
        self.v_proj = nn.Linear(d_model, value_width, bias=False)
        self.gate_proj: nn.Module | None = None
        self.value_gate_proj: nn.Module | None = None
        if gate in ("vector", "outer"):
            self.gate_proj = _low_rank(d_model, gate_rank, key_width)
        if gate == "outer":
            self.value_gate_proj = _low_rank(d_model, gate_rank, value_width)
        if gate == "scalar":
            self.gate_proj = nn.Linear(d_model, n_heads)
        if gate == "fixed":
            self.register_buffer("log_decay", fixed_gate(n_heads), persistent=False)

        self.norm: nn.Module
        if variant == "paper":
            self.norm = nn.LayerNorm(self.value_size, eps=norm_eps, elementwise_affine=False)
        else:
            self.norm = nn.RMSNorm(self.value_size, eps=norm_eps)
        self.r_proj = nn.Linear(d_model, value_width, bias=variant == "paper")
        self.o_proj = nn.Linear(value_width, d_model, bias=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Matrices N(0, 0.02), biases 0; q, k and the gate matrices Xavier-uniform with gain 2^(-5/2)."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for projection in (self.q_proj, self.k_proj, self.gate_proj, self.value_gate_proj):
            for module in projection.modules() if projection is not None else ():
                if isinstance(module, nn.Linear):
                    nn.init.xavier_uniform_(module.weight, gain=2**-2.5)

    @property
    def state_shape(self) -> tuple[int, int, int]:
        """Heads, key size, value size: all that a sequence leaves behind, however long it was."""
        return self.n_heads, self.key_size, self.value_size

    def forward(
        self,
        x: Float[Tensor, "batch length d_model"],
        state: Float[Tensor, "batch heads key value"] | None = None,
        attention_mask: Bool[Tensor, "batch length"] | Int[Tensor, "batch length"] | None = None,
    ) -> tuple[Float[Tensor, "batch length d_model"], Float[Tensor, "batch heads key value"]]:
        """Mix a (piece of a) sequence; the state that comes back continues it.

        Args:
            state: what an earlier piece returned; None starts a sequence. Gradients flow into it.
            attention_mask: true or 1 where there is a token. Padding writes nothing into the state and does not
                decay it, so it may stand on either side; outputs at padding mean nothing.

        Raises:
            ValueError: if shapes do not fit.
        """
        self._check(x, state, attention_mask)
        q, k, v, log_alpha, log_beta = self._inputs(x)
        if attention_mask is not None:
            real = attention_mask.bool()[:, :, None, None]
            k, v = k * real, v * real
            # torch.where, not a product: padding may hold anything, and -inf * 0 is NaN
            log_alpha = None if log_alpha is None else torch.where(real, log_alpha, 0.0)
            log_beta = None if log_beta is None else torch.where(real, log_beta, 0.0)
        # shapes are checked above and gates are log-sigmoids, so the passes that look for bad values are spared
        o, final = gla_chunk(q, k, v, log_alpha, state, True, log_beta=log_beta, validate=False)
        assert final is not None
        return self._output(o, x), final

    def step(
        self, x: Float[Tensor, "batch d_model"], state: Float[Tensor, "batch heads key value"] | None = None
    ) -> tuple[Float[Tensor, "batch d_model"], Float[Tensor, "batch heads key value"]]:
        """One token: the same as `forward` on a length of one, in constant time and memory."""
        q, k, v, log_alpha, log_beta = self._inputs(x[:, None])
        log_alpha, log_beta = (None if gate is None else gate[:, 0] for gate in (log_alpha, log_beta))
        o, final = gla_step(q[:, 0], k[:, 0], v[:, 0], log_alpha, state, log_beta=log_beta)
        assert final is not None
        return self._output(o[:, None], x[:, None])[:, 0], final

    def initial_state(
        self, batch_size: int, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
    ) -> Float[Tensor, "batch heads key value"]:
        """The empty state."""
        return torch.zeros(batch_size, *self.state_shape, device=device, dtype=dtype)

    def _inputs(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor | None]:
        """q, k, v, log alpha (None is no gate) and, for the outer gate, log beta; gates are float32 at least."""
        q = self.q_proj(x).unflatten(-1, (self.n_heads, self.key_size))
        k = self.k_proj(x).unflatten(-1, (self.n_heads, self.key_size))
        v = self.v_proj(x).unflatten(-1, (self.n_heads, self.value_size))
        if self.variant == "paper":
            k = k * math.sqrt(self.n_heads / self.d_model)
        else:
            q = q * self.key_size**-0.5
        log_alpha: Tensor | None = self.log_decay if self.gate == "fixed" else None
        log_beta: Tensor | None = None
        if self.gate_proj is not None:
            # a scalar gate has a last axis of one
            log_alpha = vector_gate(self.gate_proj(x).unflatten(-1, (self.n_heads, -1)), tau=self.tau)
        if self.value_gate_proj is not None:
            log_beta = vector_gate(self.value_gate_proj(x).unflatten(-1, (self.n_heads, -1)), tau=self.tau)
        return q, k, v, log_alpha, log_beta

    def _output(self, o: Tensor, x: Tensor) -> Tensor:
        """Head norm, output gate r = SiLU(x Wr), and the projection back: y = (r * concat) Wo."""
        return self.o_proj(F.silu(self.r_proj(x)) * self.norm(o.to(x.dtype)).flatten(-2))

    def _check(self, x: Tensor, state: Tensor | None, attention_mask: Tensor | None) -> None:
        if x.ndim != 3 or x.shape[-1] != self.d_model:
            raise ValueError(f"x must be (batch, length, {self.d_model}), got {tuple(x.shape)}")
        if x.shape[1] == 0:
            raise ValueError("x must hold at least one token, got length 0")
        if state is not None and tuple(state.shape) != (len(x), *self.state_shape):
            raise ValueError(f"state must be {(len(x), *self.state_shape)}, got {tuple(state.shape)}")
        if attention_mask is not None and attention_mask.shape != x.shape[:2]:
            raise ValueError(f"attention_mask must be {tuple(x.shape[:2])}, got {tuple(attention_mask.shape)}")


def _low_rank(d_in: int, rank: int, d_out: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(d_in, rank, bias=False), nn.Linear(rank, d_out))
