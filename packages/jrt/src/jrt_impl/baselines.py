"""Recurrent baselines of the comparisons: gated linear attention and a selective state-space model, both causal."""

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

__all__ = ["GatedRecurrence", "scan", "scan_step_by_step"]

CHUNK = 32


def scan_step_by_step(
    decay: Float[Tensor, "batch length *state"],
    update: Float[Tensor, "batch length *state"],
    state: Float[Tensor, "batch *state"],
) -> Float[Tensor, "batch length *state"]:
    """All states of S_t = a_t S_{t-1} + u_t, one after the other: the oracle of `scan`."""
    states = []
    for i in range(update.shape[1]):
        state = decay[:, i] * state + update[:, i]
        states.append(state)
    return torch.stack(states, 1)


def scan(
    decay: Float[Tensor, "batch length *state"],
    update: Float[Tensor, "batch length *state"],
    state: Float[Tensor, "batch *state"],
) -> Float[Tensor, "batch length *state"]:
    """The same in a number of steps that is the logarithm of the length: spans of 1, 2, 4, ... are joined."""
    total = torch.cat([(update[:, 0] + decay[:, 0] * state)[:, None], update[:, 1:]], 1)
    span = 1
    while span < total.shape[1]:
        total = torch.cat([total[:, :span], total[:, span:] + decay[:, span:] * total[:, :-span]], 1)
        decay = torch.cat([decay[:, :span], decay[:, span:] * decay[:, :-span]], 1)
        span *= 2
    return total


class GatedRecurrence(nn.Module):
    """S_t = a_t S_{t-1} + k_t^T v_t, y_t = q_t S_t, with a decay a_t that depends on the input.

    Args:
        kind: "gla" decays each key channel, sigmoid(W x)^(1/16); "ssm" each value channel and state, exp(-dt A), with
            the step dt also on the input, as Mamba does (no convolution of its own: the blocks have one).
        feature_dim: of a key: the state of a head is feature_dim x value.
        form: "chunked" joins spans within chunks; "recurrent" goes token after token.

    Raises:
        ValueError: if an option is out of range.
    """

    def __init__(
        self,
        d_model: int,
        n_heads: int,
        *,
        kind: str = "gla",
        feature_dim: int = 16,
        form: Literal["chunked", "recurrent"] = "chunked",
    ) -> None:
        super().__init__()
        if kind not in ("gla", "ssm"):
            raise ValueError(f"kind must be gla or ssm, got {kind!r}")
        if n_heads < 1 or d_model % n_heads:
            raise ValueError(f"d_model must be a multiple of n_heads, got {d_model} and {n_heads}")
        self.kind, self.form = kind, form
        self.n_heads, self.feature_dim, self.value = n_heads, feature_dim, d_model // n_heads
        width = n_heads * feature_dim
        self.proj_q = nn.Linear(d_model, width, bias=False)
        self.proj_k = nn.Linear(d_model, width, bias=False)
        self.proj_v = nn.Linear(d_model, d_model, bias=False)
        self.proj_decay = nn.Linear(d_model, width if kind == "gla" else d_model)
        if kind == "ssm":
            rates = torch.arange(1, feature_dim + 1, dtype=torch.float32).log()
            self.log_rate = nn.Parameter(rates[:, None].repeat(n_heads, 1, self.value))
        self.norm = nn.RMSNorm(self.value, eps=1e-5)
        self.proj_gate = nn.Linear(d_model, d_model, bias=False)
        self.out_proj = nn.Linear(d_model, d_model, bias=False)

    def initial_state(self, batch_size: int) -> Float[Tensor, "batch heads feature value"]:
        """Nothing read yet."""
        return self.proj_q.weight.new_zeros((batch_size, self.n_heads, self.feature_dim, self.value))

    def forward(
        self,
        x: Float[Tensor, "batch length d_model"],
        state: Float[Tensor, "batch heads feature value"] | None = None,
        attention_mask: Bool[Tensor, "batch length"] | None = None,
    ) -> tuple[Float[Tensor, "batch length d_model"], Float[Tensor, "batch heads feature value"]]:
        """A piece of a sequence; the state continues it."""
        state = self.initial_state(len(x)) if state is None else state
        q, k, v, d = (
            proj(x).unflatten(-1, (self.n_heads, -1))
            for proj in (self.proj_q, self.proj_k, self.proj_v, self.proj_decay)
        )
        seen = x.new_ones(x.shape[:2]) if attention_mask is None else attention_mask.to(x.dtype)
        run = scan if self.form == "chunked" else scan_step_by_step
        parameters = (self.log_rate,) if self.kind == "ssm" else ()

        def piece(
            q: Tensor, k: Tensor, v: Tensor, d: Tensor, seen: Tensor, state: Tensor, *rate: Tensor
        ) -> tuple[Tensor, Tensor]:
            if self.kind == "gla":
                log_decay = (F.logsigmoid(d) / 16)[..., None].expand(*d.shape, self.value)
                update = k[..., None] * v[..., None, :]
            else:
                dt = F.softplus(d)[..., None, :]
                log_decay, update = -dt * rate[0].exp(), k[..., None] * (dt * v[..., None, :])
            # padding neither decays nor adds
            counts = seen[:, :, None, None, None]
            states = run((log_decay * counts).exp(), update * counts, state)
            return (q[..., None, :] @ states)[..., 0, :], states[:, -1]

        outputs = []
        for part in zip(*(t.split(CHUNK, 1) for t in (q, k, v, d, seen)), strict=True):
            if torch.is_grad_enabled() and x.shape[1] > CHUNK:
                y, state = checkpoint(piece, *part, state, *parameters, use_reentrant=False)
            else:
                y, state = piece(*part, state, *parameters)
            outputs.append(y)
        y = self.norm(torch.cat(outputs, 1)).flatten(2)
        assert state is not None
        return self.out_proj(y * F.silu(self.proj_gate(x))), state

    def step(
        self, x: Float[Tensor, "batch d_model"], state: Float[Tensor, "batch heads feature value"] | None = None
    ) -> tuple[Float[Tensor, "batch d_model"], Float[Tensor, "batch heads feature value"]]:
        """One token."""
        y, state = self(x[:, None], state)
        return y[:, 0], state
