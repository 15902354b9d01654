"""Causal and prefix linear attention in their quadratic, chunked and recurrent forms (section 4).

The causal (Based) output is y_i = phi(q_i) sum_{j<=i} phi(k_j)^T v_j / (phi(q_i) . sum_{j<=i} phi(k_j) + eps). The
prefix form adds, above and below, the sums of a second set of keys and values over the prefix: for every i, so the
positions of the prefix see all of it, and what follows decodes from a state of the same size.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from .feature_map import TaylorExp, taylor_kernel

__all__ = ["Compat", "Form", "PLAState", "linear_attention", "pla_step", "prefix_linear_attention", "prefix_mask"]

Form = Literal["quadratic", "chunked", "recurrent"]
Compat = Literal["paper", "official"]
EPS = 1e-12
CHUNK = 128
_CHECKPOINT_FROM = 1024
"""keys from which the chunked form recomputes features in the backward pass instead of keeping (length, D) of them"""


class PLAState(NamedTuple):
    """All that is remembered: D (dv + 1) numbers a head, whatever the length read."""

    kv: Float[Tensor, "batch heads expanded value"]
    k_sum: Float[Tensor, "batch heads expanded"]


def prefix_mask(mask: Bool[Tensor, "batch length"], prefix_len: int) -> Bool[Tensor, "batch length"]:
    """The first `prefix_len` tokens of each row, padding not counted."""
    return mask & (mask.long().cumsum(1) <= prefix_len)


def linear_attention(
    q: Float[Tensor, "batch heads length feature"],
    k: Float[Tensor, "batch heads length feature"],
    v: Float[Tensor, "batch heads length value"],
    *,
    form: Form = "chunked",
    mask: Bool[Tensor, "batch length"] | None = None,
    state: PLAState | None = None,
    symmetric: bool = False,
    eps: float = EPS,
    chunk_size: int = CHUNK,
    compat: Compat = "paper",
) -> tuple[Float[Tensor, "batch heads length value"], PLAState]:
    """Causal linear attention with the Taylor map, the state it leaves, and optionally the one it starts from.

    Args:
        mask: false at padding, which then counts nowhere.
        compat: "official" zeroes the keys of padding before the feature map; as phi(0) = [1, 0, ...] padding still
            adds its value and counts below.

    Raises:
        ValueError: if shapes do not fit or an option is out of range.
    """
    _check(q, k, v, mask, form, chunk_size, compat)
    wide = _wide(q.dtype)
    dtype, phi = q.dtype, TaylorExp(q.shape[-1], symmetric=symmetric).to(q.device)
    q, k, v = q.to(wide), k.to(wide), v.to(wide)
    k, weight = _keys(k, mask, compat)
    if state is None:
        state = _empty(q, v, phi.size)
    elif state.kv.shape != (*q.shape[:2], phi.size, v.shape[-1]):
        raise ValueError(f"state must have kv {(*q.shape[:2], phi.size, v.shape[-1])}, got {tuple(state.kv.shape)}")
    run = {"quadratic": _quadratic, "chunked": _chunked, "recurrent": _recurrent}[form]
    y, after = run(q, k, v, weight, PLAState(state.kv.to(wide), state.k_sum.to(wide)), phi, eps, chunk_size)
    return y.to(dtype), after


def prefix_linear_attention(
    q: Float[Tensor, "batch heads length feature"],
    k: Float[Tensor, "batch heads length feature"],
    v: Float[Tensor, "batch heads length value"],
    k_enc: Float[Tensor, "batch heads prefix feature"],
    v_enc: Float[Tensor, "batch heads prefix value"],
    prefix_len: int | None = None,
    mask: Bool[Tensor, "batch length"] | None = None,
    *,
    form: Form = "chunked",
    symmetric: bool = False,
    eps: float = EPS,
    chunk_size: int = CHUNK,
    compat: Compat = "paper",
) -> tuple[Float[Tensor, "batch heads length value"], PLAState]:
    """Prefix linear attention (PLA): the causal sums plus those of `k_enc`, `v_enc` over the prefix, everywhere.

    Args:
        k_enc, v_enc: keys and values of the first positions; what lies beyond the prefix is not used.
        prefix_len: M, counted in tokens (padding aside); None takes all of `k_enc`; 0 gives causal attention.

    Raises:
        ValueError: if shapes do not fit or an option is out of range.
    """
    _check(q, k, v, mask, form, chunk_size, compat)
    reach = k_enc.shape[2]
    if reach > q.shape[2] or v_enc.shape[2] != reach:
        raise ValueError(
            f"k_enc and v_enc must have one length, at most {q.shape[2]}, got {reach} and {v_enc.shape[2]}"
        )
    if prefix_len is not None and prefix_len < 0:
        raise ValueError(f"prefix_len must not be negative, got {prefix_len}")
    seen = mask if mask is not None else q.new_ones((q.shape[0], q.shape[2]), dtype=torch.bool)
    if compat == "official":
        # the first M places, padding among them
        within = torch.zeros_like(seen)
        within[:, : reach if prefix_len is None else prefix_len] = True
    else:
        within = prefix_mask(seen, reach if prefix_len is None else prefix_len)
    wide = _wide(q.dtype)
    phi = TaylorExp(q.shape[-1], symmetric=symmetric).to(q.device)
    k_enc, v_enc = k_enc.to(wide), v_enc.to(wide)
    if compat == "official":
        k_enc = k_enc * seen[:, None, :reach, None]
    # the prefix enters as the state that causal attention starts from
    start = _sums(k_enc, v_enc, within[:, None, :reach].to(wide), phi, _empty(q, v_enc, phi.size), chunk_size)
    return linear_attention(
        q, k, v, form=form, mask=mask, state=start, symmetric=symmetric, eps=eps, chunk_size=chunk_size, compat=compat
    )


def pla_step(
    q: Float[Tensor, "batch heads feature"],
    k: Float[Tensor, "batch heads feature"],
    v: Float[Tensor, "batch heads value"],
    state: PLAState,
    *,
    symmetric: bool = False,
    eps: float = EPS,
) -> tuple[Float[Tensor, "batch heads value"], PLAState]:
    """One more token: the same cost for the causal and the prefix form."""
    phi = TaylorExp(q.shape[-1], symmetric=symmetric).to(q.device)
    wide = state.kv.dtype
    features = phi(k.to(wide))
    state = PLAState(state.kv + features[..., None] * v.to(wide)[..., None, :], state.k_sum + features)
    asked = phi(q.to(wide))
    above = (asked[..., None, :] @ state.kv)[..., 0, :]
    return (above / ((asked * state.k_sum).sum(-1, keepdim=True) + eps)).to(q.dtype), state


def _quadratic(
    q: Tensor, k: Tensor, v: Tensor, weight: Tensor, state: PLAState, phi: TaylorExp, eps: float, chunk: int
) -> tuple[Tensor, PLAState]:
    """The obvious form: features of every position, all pairs, the lower triangle."""
    asked, kept = phi(q), phi(k) * weight[..., None]
    scores = torch.tril(asked @ kept.transpose(-1, -2))
    below = scores.sum(-1, keepdim=True) + asked @ state.k_sum[..., None] + eps
    after = PLAState(state.kv + kept.transpose(-1, -2) @ v, state.k_sum + kept.sum(2))
    return (scores @ v + asked @ state.kv) / below, after


def _recurrent(
    q: Tensor, k: Tensor, v: Tensor, weight: Tensor, state: PLAState, phi: TaylorExp, eps: float, chunk: int
) -> tuple[Tensor, PLAState]:
    outputs = []
    for i in range(q.shape[2]):
        kept = phi(k[:, :, i]) * weight[:, :, i, None]
        state = PLAState(state.kv + kept[..., None] * v[:, :, i, None, :], state.k_sum + kept)
        asked = phi(q[:, :, i])
        below = (asked * state.k_sum).sum(-1, keepdim=True) + eps
        outputs.append((asked[..., None, :] @ state.kv)[..., 0, :] / below)
    return torch.stack(outputs, 2), state


def _chunked(
    q: Tensor, k: Tensor, v: Tensor, weight: Tensor, state: PLAState, phi: TaylorExp, eps: float, chunk: int
) -> tuple[Tensor, PLAState]:
    """Pairs within a chunk by the kernel (no features), what came before by the state: O(N C d' + N D dv)."""

    def one(q: Tensor, k: Tensor, v: Tensor, sums: Tensor) -> tuple[Tensor, ...]:
        both = torch.tril(taylor_kernel(q, k)) @ v + phi(q) @ sums
        return both[..., :-1] / (both[..., -1:] + eps), sums + phi(k).transpose(-1, -2) @ v

    step = _recomputed(one, q.shape[2])
    outputs = []
    sums = _joined(state)
    for piece in zip(*(t.split(chunk, dim=2) for t in (q, k, _with_count(v, weight))), strict=True):
        y, sums = step(*piece, sums)
        outputs.append(y)
    return torch.cat(outputs, 2), _parted(sums)


def _sums(k: Tensor, v: Tensor, weight: Tensor, phi: TaylorExp, state: PLAState, chunk: int) -> PLAState:
    """The state after keys and values in any order."""
    if not k.shape[2]:
        return state

    def one(k: Tensor, v: Tensor, sums: Tensor) -> tuple[Tensor, ...]:
        return (sums + phi(k).transpose(-1, -2) @ v,)

    step = _recomputed(one, k.shape[2])
    sums = _joined(state)
    for piece in zip(*(t.split(chunk, dim=2) for t in (k, _with_count(v, weight))), strict=True):
        (sums,) = step(*piece, sums)
    return _parted(sums)


def _with_count(v: Tensor, weight: Tensor) -> Tensor:
    """Values with a column of ones, whose sum is the denominator; both 0 where the weight is."""
    return torch.cat([v, torch.ones_like(v[..., :1])], -1) * weight[..., None]


def _joined(state: PLAState) -> Tensor:
    return torch.cat([state.kv, state.k_sum[..., None]], -1)


def _parted(sums: Tensor) -> PLAState:
    return PLAState(sums[..., :-1], sums[..., -1])


def _recomputed(function: Callable[..., tuple[Tensor, ...]], length: int) -> Callable[..., tuple[Tensor, ...]]:
    if length < _CHECKPOINT_FROM or not torch.is_grad_enabled():
        return function
    return lambda *tensors: checkpoint(function, *tensors, use_reentrant=False)


def _keys(k: Tensor, mask: Tensor | None, compat: Compat) -> tuple[Tensor, Tensor]:
    """Keys, and the weight of their features: 0 at padding."""
    ones = k.new_ones((k.shape[0], 1, k.shape[2]))
    if mask is None:
        return k, ones
    if compat == "official":
        return k * mask[:, None, :, None], ones
    return k, mask[:, None].to(k.dtype)


def _empty(q: Tensor, v: Tensor, size: int) -> PLAState:
    wide = _wide(q.dtype)
    shape = (*q.shape[:2], size)
    return PLAState(q.new_zeros((*shape, v.shape[-1]), dtype=wide), q.new_zeros(shape, dtype=wide))


def _wide(dtype: torch.dtype) -> torch.dtype:
    # sums of thousands of features lose the denominator in half precision
    return torch.float64 if dtype == torch.float64 else torch.float32


def _check(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, form: str, chunk: int, compat: str) -> None:
    if form not in ("quadratic", "chunked", "recurrent"):
        raise ValueError(f"form must be quadratic, chunked or recurrent, got {form!r}")
    if compat not in ("paper", "official"):
        raise ValueError(f"compat must be paper or official, got {compat!r}")
    if chunk < 1:
        raise ValueError(f"chunk_size must be at least 1, got {chunk}")
    if q.shape != k.shape or q.shape[:3] != v.shape[:3]:
        raise ValueError(
            "q, k and v must agree in batch, heads and length, "
            f"got {tuple(q.shape)}, {tuple(k.shape)}, {tuple(v.shape)}"
        )
    if q.shape[2] == 0:
        raise ValueError("q must hold at least one position, got length 0")
    if mask is not None and mask.shape != (q.shape[0], q.shape[2]):
        raise ValueError(f"mask must be {(q.shape[0], q.shape[2])}, got {tuple(mask.shape)}")
