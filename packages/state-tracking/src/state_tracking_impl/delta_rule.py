"""The delta rule with step sizes up to 2: token by token, and in chunks (WY form).

    S_t = (I - beta_t k_t k_t^T) S_{t-1} + beta_t k_t v_t^T,    o_t = S_t^T q_t

Along k_t the transition has the eigenvalue 1 - beta_t |k_t|^2, elsewhere 1: with beta in [0, 1] it is never negative,
with beta up to 2 it reaches -1, a reflection.
Half precision is computed in float32 and the state stays in it: a key rounded to half precision has a norm that is not
1, and beta = 2 would then not reflect but stretch.
"""

from functools import partial, reduce

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from .checks import check_beta, check_keys, check_positive, check_state, single

__all__ = ["delta_product", "delta_rule_chunk", "delta_rule_recurrent"]

Keys = Float[Tensor, "batch length heads dk"]
Values = Float[Tensor, "batch length heads dv"]
Steps = Float[Tensor, "batch length heads"]
State = Float[Tensor, "batch heads dk dv"]

CACHED = 2**16
"""numbers of a query that are worked on at a time on a CPU"""


def delta_rule_recurrent(
    q: Keys,
    k: Keys,
    v: Values,
    beta: Steps,
    initial_state: State | None = None,
    *,
    scale: float | None = None,
    normalize: bool = False,
    validate: bool = True,
) -> tuple[Values, State]:
    """Token by token, as the equation stands (section 2; the oracle, and what generation uses).

    Args:
        initial_state: default zeros.
        scale: of the output, default dk ** -0.5.
        normalize: divide each key by its norm first.
        validate: look at beta and the keys (False saves the look where the caller's construction guarantees them).

    Returns:
        the outputs and the last state, both with gradients.

    Raises:
        ValueError: no token; beta outside [0, 2]; keys that are not normalised so that beta |k|^2 exceeds 2.
    """
    dtype = q.dtype
    q, k, v, beta, state = _prepared(q, k, v, beta, initial_state, scale, normalize, validate)
    outputs = []
    with torch.autocast(q.device.type, enabled=False):
        for t in range(q.shape[1]):
            k_t = k[:, t]
            error = v[:, t] - torch.einsum("bhkv,bhk->bhv", state, k_t)
            state = state + torch.einsum("bhk,bhv->bhkv", beta[:, t, :, None] * k_t, error)
            outputs.append(torch.einsum("bhkv,bhk->bhv", state, q[:, t]))
    return torch.stack(outputs, 1).to(dtype), state


def delta_rule_chunk(
    q: Keys,
    k: Keys,
    v: Values,
    beta: Steps,
    initial_state: State | None = None,
    *,
    scale: float | None = None,
    chunk: int = 32,
    normalize: bool = False,
    validate: bool = True,
) -> tuple[Values, State]:
    """The same in chunks: inside one everything is a matrix product, only states go from chunk to chunk.

    With the rows K, V and D = diag(beta) of a chunk (the WY form of a product of Householder matrices; Bischof and
    Van Loan 1987): T = (I + tril(D K K^T, -1))^-1 D; then with the state S before the chunk U = T (V - K S),
    O = Q S + tril(Q K^T) U, and S + K^T U goes on. Any length.

    Args:
        chunk: tokens a chunk.

    Raises:
        ValueError: as `delta_rule_recurrent`; `chunk` not positive.
    """
    check_positive(chunk=chunk)
    dtype, length = q.dtype, q.shape[1]
    q, k, v, beta, state = _prepared(q, k, v, beta, initial_state, scale, normalize, validate)
    chunk = min(chunk, length)
    # on a CPU some chunks at a time: what stays in cache is faster than one pass over everything
    tokens = length if q.is_cuda else chunk * max(1, CACHED // max(1, chunk * q[:, 0].numel()))
    outputs = []
    # autocast would make the triangular systems half precision, which no solver takes
    with torch.autocast(q.device.type, enabled=False):
        for q_p, k_p, v_p, beta_p in zip(*(x.split(tokens, 1) for x in (q, k, v, beta)), strict=True):
            output, state = _in_chunks(q_p, k_p, v_p, beta_p, state, chunk)
            outputs.append(output)
    return torch.cat(outputs, 1).to(dtype), state


def _in_chunks(q: Tensor, k: Tensor, v: Tensor, beta: Tensor, state: Tensor, chunk: int) -> tuple[Tensor, Tensor]:
    batch, length, heads = beta.shape
    missing = -length % chunk
    if missing:
        # a token with beta = 0 changes nothing, so that padding needs no mask
        q, k, v = (F.pad(x, (0, 0, 0, 0, 0, missing)) for x in (q, k, v))
        beta = F.pad(beta, (0, 0, 0, missing))
    # (chunks, batch x heads, chunk, dim): each chunk is then one batch of matrices
    q, k, v = (x.unflatten(1, (-1, chunk)).permute(1, 0, 3, 2, 4).flatten(1, 2) for x in (q, k, v))
    beta = beta.unflatten(1, (-1, chunk)).permute(1, 0, 3, 2).flatten(1, 2)
    system = torch.tril(beta[..., None] * (k @ k.mT), -1)
    eye = torch.eye(chunk, dtype=k.dtype, device=k.device).expand_as(system)
    t = torch.linalg.solve_triangular(system, eye, upper=False, unitriangular=True) * beta[..., None, :]
    # T and tril(Q K^T) T share one product, K S and Q S another
    mixed = torch.cat([t, torch.tril(q @ k.mT) @ t], -2)
    read = torch.cat([k, q], -2)
    memory = state.flatten(0, 1)
    outputs = []
    for read_c, mixed_c, k_c, v_c in zip(read, mixed, k, v, strict=True):
        found, queried = torch.bmm(read_c, memory).split(chunk, 1)
        written, answered = torch.bmm(mixed_c, v_c - found).split(chunk, 1)
        outputs.append(queried + answered)
        memory = torch.baddbmm(memory, k_c.mT, written)
    y = torch.stack(outputs, 1).unflatten(0, (batch, heads)).flatten(2, 3)[:, :, :length].transpose(1, 2)
    return y, memory.unflatten(0, (batch, heads))


def delta_product(
    q: Keys,
    k: Float[Tensor, "batch length steps heads dk"],
    v: Float[Tensor, "batch length steps heads dv"],
    beta: Float[Tensor, "batch length steps heads"],
    initial_state: State | None = None,
    *,
    chunk: int | None = 32,
    scale: float | None = None,
    normalize: bool = False,
    validate: bool = True,
) -> tuple[Values, State]:
    """Several steps of the delta rule a token, read out after the last: the transition of a token is a product of
    generalised Householder matrices (section 4.2, the set M_k^n).

    Args:
        chunk: micro-steps a chunk; None: token by token.

    Raises:
        ValueError: as `delta_rule_recurrent`.
    """
    if q.dim() != 4 or k.dim() != 5 or k.shape[2] == 0:
        raise ValueError(
            "q must be (batch, length, heads, dk) and k (batch, length, steps, heads, dk) with at least one step, "
            f"got {tuple(q.shape)} and {tuple(k.shape)}"
        )
    steps = k.shape[2]
    # only the last micro-step of a token is read: queries of the others are zeros
    spread = F.pad(q[:, :, None], (0, 0, 0, 0, steps - 1, 0)).flatten(1, 2)
    k, v, beta = k.flatten(1, 2), v.flatten(1, 2), beta.flatten(1, 2)
    form = delta_rule_recurrent if chunk is None else partial(delta_rule_chunk, chunk=chunk)
    y, state = form(spread, k, v, beta, initial_state, scale=scale, normalize=normalize, validate=validate)
    return y[:, steps - 1 :: steps], state


def unit(k: Tensor) -> Tensor:
    """Keys of norm 1, in float32 at least, also where their squares would underflow; a key of zero stays zero."""
    k = single(k)
    # the direction does not depend on the scale, hence no gradient through it
    largest = k.detach().abs().amax(-1, keepdim=True).clamp(min=torch.finfo(k.dtype).tiny)
    return F.normalize(k / largest, dim=-1)


def _prepared(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    state: Tensor | None,
    scale: float | None,
    normalize: bool,
    validate: bool,
) -> tuple[Tensor, ...]:
    """Operands in one precision, float32 at least; q scaled; the state before the first token."""
    if q.dim() != 4 or not q.is_floating_point():
        raise ValueError(f"q must be floating, (batch, length, heads, dk), got {q.dtype} of shape {tuple(q.shape)}")
    if q.shape[1] == 0:
        raise ValueError("q must hold at least one token, got length 0")
    for name, x, shape, wanted in (
        ("k", k, k.shape, q.shape),
        ("v", v, v.shape[:-1], q.shape[:3]),
        ("beta", beta, beta.shape, q.shape[:3]),
    ):
        if shape != wanted:
            raise ValueError(f"{name} must agree with q of shape {tuple(q.shape)}, got {tuple(x.shape)}")
    start = (q.shape[0], q.shape[2], k.shape[3], v.shape[3])
    check_state(state, start)
    if normalize:
        k = unit(k)
    if validate:
        with torch.no_grad():
            check_beta(beta)
            check_keys(k, beta)
    given = [q, k, v, beta, *([] if state is None else [state])]
    dtype = single(torch.empty(0, dtype=reduce(torch.promote_types, (x.dtype for x in given)))).dtype
    q, k, v, beta, *rest = (x.to(dtype) for x in given)
    return q * (k.shape[-1] ** -0.5 if scale is None else scale), k, v, beta, rest[0] if rest else q.new_zeros(start)
