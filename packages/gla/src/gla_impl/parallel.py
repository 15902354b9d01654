"""The parallel form in log space: all pairs of positions at once, quadratic in length."""

import torch
from jaxtyping import Float
from torch import Tensor

from .checks import check_operands

__all__ = ["gla_parallel"]

# Below this a gate is zero in every floating-point type, so clamping changes no value; sums stay finite.
LOWEST_LOG_GATE = -1000.0


def gla_parallel(
    q: Float[Tensor, "batch length heads dk"],
    k: Float[Tensor, "batch length heads dk"],
    v: Float[Tensor, "batch length heads dv"],
    log_alpha: Float[Tensor, "#batch #length #heads #dk"] | None,
    initial_state: Float[Tensor, "batch heads dk dv"] | None = None,
    output_final_state: bool = False,
    *,
    log_beta: Float[Tensor, "#batch #length #heads #dv"] | None = None,
    rows: int = 32,
    validate: bool = True,
) -> tuple[Float[Tensor, "batch length heads dv"], Float[Tensor, "batch heads dk dv"] | None]:
    """Evaluate `P_ij = sum_c q_ic k_jc exp(log b_ic - log b_jc)`, `i >= j`, and `O = P V` (section 4.2).

    The differences are taken before the exponential, so nothing overflows however strong the decay. `rows`
    queries are worked on at a time, which bounds the memory of a forward pass to `rows * length * dk` a head;
    under autograd all of it is kept. Arguments, gates and errors are those of `gla_recurrent`.
    """
    operands = check_operands(q, k, v, log_alpha, log_beta, initial_state, values=validate)
    if rows < 1:
        raise ValueError(f"rows must be a positive integer, got {rows}")
    dtype, (batch, length, heads, key_dim), value_dim = q.dtype, q.shape, v.shape[-1]
    compute = torch.promote_types(dtype, torch.float32)
    q, k, v = (x.to(compute).transpose(1, 2) for x in operands[:3])
    log_b = _cumulative_log(operands.log_alpha, q)
    log_c = _cumulative_log(operands.log_beta, v)
    state = operands.initial_state
    state = q.new_zeros(batch, heads, key_dim, value_dim) if state is None else state.to(compute)

    outputs = []
    for start in range(0, length, rows):
        stop = min(start + rows, length)
        row = slice(start, stop)
        mask = torch.ones(stop - start, stop, dtype=torch.bool, device=q.device).tril(start)
        decay_k = _pairwise_decay(log_b, row, mask, compute)
        scores = torch.einsum("bhik,bhjk,bhijk->bhij", q[:, :, row], k[:, :, :stop], decay_k)
        carried = (q[:, :, row] * log_b[:, :, row].exp().to(compute)) @ state
        if operands.log_beta is None:
            output = scores @ v[:, :, :stop] + carried
        else:
            decay_v = _pairwise_decay(log_c, row, mask, compute)
            output = torch.einsum("bhij,bhjv,bhijv->bhiv", scores, v[:, :, :stop], decay_v)
            output = output + carried * log_c[:, :, row].exp().to(compute)
        outputs.append(output)
    output = torch.cat(outputs, dim=2).transpose(1, 2).to(dtype)
    if not output_final_state:
        return output, None
    to_end_k, to_end_v = ((x[:, :, -1:] - x).exp().to(compute) for x in (log_b, log_c))
    total = log_b[:, :, -1, :, None].exp() * log_c[:, :, -1, None, :].exp()
    return output, total.to(compute) * state + (k * to_end_k).transpose(-1, -2) @ (v * to_end_v)


def _cumulative_log(log_gate: Tensor | None, like: Tensor) -> Tensor:
    """`log b_t`, in float64: over a long sequence the differences of float32 sums would lose digits."""
    if log_gate is None:
        return like.new_zeros((*like.shape[:3], 1), dtype=torch.float64)
    return log_gate.transpose(1, 2).double().clamp(min=LOWEST_LOG_GATE).cumsum(dim=2)


def _pairwise_decay(log_b: Tensor, row: slice, mask: Tensor, dtype: torch.dtype) -> Tensor:
    """`exp(log b_i - log b_j)` for the rows i asked for and every j up to the last; zero where j > i."""
    difference = log_b[:, :, row, None] - log_b[:, :, None, : row.stop]
    return difference.masked_fill(~mask[..., None], float("-inf")).exp().to(dtype)
