"""The recurrent form: one step at a time, the definition that every other form is held against."""

import torch
from jaxtyping import Float
from torch import Tensor

from .checks import check_operands

__all__ = ["gla_recurrent", "gla_step"]


def gla_step(
    q: Float[Tensor, "batch heads dk"],
    k: Float[Tensor, "batch heads dk"],
    v: Float[Tensor, "batch heads dv"],
    log_alpha: Float[Tensor, "#batch #heads #dk"] | None,
    initial_state: Float[Tensor, "batch heads dk dv"] | None = None,
    output_final_state: bool = True,
    *,
    log_beta: Float[Tensor, "#batch #heads #dv"] | None = None,
) -> tuple[Float[Tensor, "batch heads dv"], Float[Tensor, "batch heads dk dv"] | None]:
    """Take in one token: `S_t = G_t * S_{t-1} + k_t^T v_t`, `o_t = q_t S_t` (section 4.1).

    `G_t` is `alpha_t^T beta_t`; a gate of None is 1. The state is float32 or better; time and memory do not
    depend on how many tokens came before. Nothing is changed in place. Values are not checked.
    """
    compute = torch.promote_types(q.dtype, torch.float32)
    key, value = k.to(compute), v.to(compute)
    state = key[..., :, None] * value[..., None, :]
    if initial_state is not None:
        state = _decay(initial_state.to(compute), log_alpha, log_beta) + state
    output = (q.to(compute)[..., None, :] @ state).squeeze(-2).to(q.dtype)
    return output, state if output_final_state else None


def gla_recurrent(
    q: Float[Tensor, "batch length heads dk"],
    k: Float[Tensor, "batch length heads dk"],
    v: Float[Tensor, "batch length heads dv"],
    log_alpha: Float[Tensor, "#batch #length #heads #dk"] | None,
    initial_state: Float[Tensor, "batch heads dk dv"] | None = None,
    output_final_state: bool = False,
    *,
    log_beta: Float[Tensor, "#batch #length #heads #dv"] | None = None,
    validate: bool = True,
) -> tuple[Float[Tensor, "batch length heads dv"], Float[Tensor, "batch heads dk dv"] | None]:
    """Run the recurrence over a sequence, one step after another (section 4.1): slow, exact, the oracle.

    No scale is applied to `q`: multiply it by `dk**-0.5` first if that is wanted. Gates are logarithms
    (at most 0, minus infinity forgets everything); None is no decay; a last axis of 1 is one decay for all
    channels. Any derivative of any order goes through autograd, which keeps every state in memory.
    Raises ValueError for operands that do not fit; `validate=False` skips the checks that read values.
    """
    q, k, v, log_alpha, log_beta, state = check_operands(q, k, v, log_alpha, log_beta, initial_state, values=validate)
    # unbind, not q[:, t]: its gradient is one stack instead of a full-size tensor of zeros for every t.
    steps = (x.unbind(dim=1) for x in (q, k, v))
    alphas, betas = ([None] * q.shape[1] if g is None else g.unbind(dim=1) for g in (log_alpha, log_beta))
    outputs = []
    for q_t, k_t, v_t, alpha_t, beta_t in zip(*steps, alphas, betas, strict=True):
        output, state = gla_step(q_t, k_t, v_t, alpha_t, state, log_beta=beta_t)
        outputs.append(output)
    return torch.stack(outputs, dim=1), state if output_final_state else None


def _decay(state: Tensor, log_alpha: Tensor | None, log_beta: Tensor | None) -> Tensor:
    """`(alpha^T beta) * state` for gates given as logarithms over key and value channels."""
    if log_alpha is not None:
        state = log_alpha.to(state.dtype).exp()[..., :, None] * state
    if log_beta is not None:
        state = log_beta.to(state.dtype).exp()[..., None, :] * state
    return state
