"""Diagonal and full linear recurrences h_t = A_t h_{t-1} + b_t whose factors may be negative.

Scans in log space (cumulative sums of log a) need a > 0. These combine pairs (a, b) by the associative rule
(a2, b2) o (a1, b1) = (a2 a1, a2 b1 + b2) and so take any sign. Half precision is computed in float32, and states stay
in it.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from .checks import Number, check_eig_range, check_state, single

__all__ = [
    "gla_recurrent",
    "gla_scan",
    "linear_scan",
    "linear_scan_recurrent",
    "matrix_scan",
    "selective_scan",
    "selective_scan_recurrent",
]

BLOCK = 16
"""steps that are taken one after the other at each level of the tree"""


def linear_scan_recurrent(
    a: Float[Tensor, "batch length *rest"],
    b: Float[Tensor, "batch length *rest"],
    initial: Float[Tensor, "batch *rest"] | None = None,
) -> Float[Tensor, "batch length *rest"]:
    """h_t = a_t h_{t-1} + b_t, one step after the other (the oracle)."""
    check_state(initial, b[:, 0].shape)
    h = torch.zeros_like(b[:, 0]) if initial is None else initial
    states = []
    for a_t, b_t in zip(a.unbind(1), b.unbind(1), strict=True):
        h = a_t * h + b_t
        states.append(h)
    return torch.stack(states, 1)


def linear_scan(
    a: Float[Tensor, "batch length *rest"],
    b: Float[Tensor, "batch length *rest"],
    initial: Float[Tensor, "batch *rest"] | None = None,
) -> Float[Tensor, "batch length *rest"]:
    """The same by an associative scan: about 16 log_16(length) vectorised steps; factors of any sign, zero included.

    Raises:
        ValueError: no step; a and b of different shapes; a factor above 1 in size, as products of such factors overflow
            where the states need not.
    """
    with torch.no_grad():
        if not bool((a.abs() <= 1).all()):
            raise ValueError(f"a must be in [-1, 1], got {a.min().item():g} to {a.max().item():g}")
    return _linear_scan(a, b, initial)


def _linear_scan(a: Tensor, b: Tensor, initial: Tensor | None) -> Tensor:
    if a.shape[1] == 0:
        raise ValueError("a must hold at least one step, got length 0")
    if a.shape != b.shape:
        raise ValueError(f"a and b must have one shape, got {tuple(a.shape)} and {tuple(b.shape)}")
    check_state(initial, b[:, 0].shape)
    if initial is not None:
        b = torch.cat([b[:, :1] + a[:, :1] * initial[:, None], b[:, 1:]], 1)
    return _LinearScan.apply(a, b)  # type: ignore[no-any-return]


class _LinearScan(torch.autograd.Function):
    """Its gradient runs backwards: g_t = dL/dh_t + a_{t+1} g_{t+1}; da_t = g_t h_{t-1}, db_t = g_t."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor) -> Tensor:
        h = _scan(a, b)
        ctx.save_for_backward(a, h)
        return h

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        a, h = ctx.saved_tensors
        following = torch.cat([a[:, 1:], torch.zeros_like(a[:, :1])], 1)
        g = _linear_scan(following.flip(1), grad.flip(1), None).flip(1)
        before = torch.cat([torch.zeros_like(h[:, :1]), h[:, :-1]], 1)
        return g * before, g


def _scan(a: Tensor, b: Tensor) -> Tensor:
    length = a.shape[1]
    if length <= BLOCK:
        h = torch.empty_like(b)
        h[:, 0] = b[:, 0]
        for t in range(1, length):
            torch.addcmul(b[:, t], a[:, t], h[:, t - 1], out=h[:, t])
        return h
    missing = -length % BLOCK
    if missing:
        a = torch.cat([a, a.new_ones(a.shape[0], missing, *a.shape[2:])], 1)
        b = torch.cat([b, b.new_zeros(b.shape[0], missing, *b.shape[2:])], 1)
    a, b = a.unflatten(1, (-1, BLOCK)), b.unflatten(1, (-1, BLOCK))
    product, h = torch.empty_like(a), torch.empty_like(b)
    product[:, :, 0], h[:, :, 0] = a[:, :, 0], b[:, :, 0]
    for t in range(1, BLOCK):
        torch.mul(a[:, :, t], product[:, :, t - 1], out=product[:, :, t])
        torch.addcmul(b[:, :, t], a[:, :, t], h[:, :, t - 1], out=h[:, :, t])
    ends = _scan(product[:, :, -1], h[:, :, -1])
    h[:, 1:].addcmul_(product[:, 1:], ends[:, :-1, None])
    return h.flatten(1, 2)[:, :length]


def matrix_scan(
    a: Float[Tensor, "batch length n n"],
    b: Float[Tensor, "batch length n m"],
    initial: Float[Tensor, "batch n m"] | None = None,
) -> Float[Tensor, "batch length n m"]:
    """H_t = A_t H_{t-1} + B_t with full matrices of norm at most 1, by an associative scan, in float32 at least.

    Raises:
        ValueError: no step; shapes that do not fit.
    """
    if a.shape[1] == 0:
        raise ValueError("a must hold at least one step, got length 0")
    if a.shape != (*b.shape[:3], b.shape[2]):
        raise ValueError(f"a must be (batch, length, n, n) for b of {tuple(b.shape)}, got {tuple(a.shape)}")
    check_state(initial, (b.shape[0], *b.shape[2:]))
    a, b = single(a), single(b)
    with torch.autocast(a.device.type, enabled=False):
        if initial is not None:
            b = torch.cat([b[:, :1] + a[:, :1] @ initial[:, None].to(b.dtype), b[:, 1:]], 1)
        return _matrix_scan(a, b)


def _matrix_scan(a: Tensor, b: Tensor) -> Tensor:
    length = a.shape[1]
    if length <= BLOCK:
        states = [b[:, 0]]
        for t in range(1, length):
            states.append(a[:, t] @ states[-1] + b[:, t])
        return torch.stack(states, 1)
    missing = -length % BLOCK
    if missing:
        eye = torch.eye(a.shape[-1], dtype=a.dtype, device=a.device)
        a = torch.cat([a, eye.expand(a.shape[0], missing, -1, -1)], 1)
        b = torch.cat([b, b.new_zeros(b.shape[0], missing, *b.shape[2:])], 1)
    a, b = a.unflatten(1, (-1, BLOCK)), b.unflatten(1, (-1, BLOCK))
    products, states = [a[:, :, 0]], [b[:, :, 0]]
    for t in range(1, BLOCK):
        products.append(a[:, :, t] @ products[-1])
        states.append(a[:, :, t] @ states[-1] + b[:, :, t])
    ends = _matrix_scan(products[-1], states[-1])
    before = torch.cat([torch.zeros_like(ends[:, :1]), ends[:, :-1]], 1)
    h = torch.stack(states, 2) + torch.stack(products, 2) @ before[:, :, None]
    return h.flatten(1, 2)[:, :length]


Channels = Float[Tensor, "batch length channels"]
Projections = Float[Tensor, "batch length states"]
ChannelState = Float[Tensor, "batch channels states"]


def selective_scan(
    u: Channels,
    delta: Channels,
    A: Float[Tensor, "channels states"],
    B: Projections,
    C: Projections,
    D: Float[Tensor, " channels"] | None = None,
    initial_state: ChannelState | None = None,
    *,
    negative: bool = False,
    eig_range: Sequence[Number] | None = None,
    validate: bool = True,
) -> tuple[Channels, ChannelState]:
    """Mamba's scan; `negative` spreads its factors from (0, 1) over (-1, 1).

    a_t = exp(delta_t A), h_t = a_t h_{t-1} + delta_t B_t u_t, y_t = C_t . h_t + D u_t; with `negative` a_t becomes
    2 a_t - 1 (section 3; the gradient with respect to delta A is then a_t + 1). The input term stays as it is.

    Args:
        delta: step sizes, positive.
        A: negative.
        eig_range: any other range (lo, hi) within [-1, 1], in place of `negative`: lo + (hi - lo) exp(delta A).
        validate: look at A and delta (False saves the look where the caller's construction guarantees them).

    Raises:
        ValueError: no token; A positive or delta negative (the factor would exceed 1); a range that is none.
    """
    return _selective(_linear_scan, (u, delta, A, B, C, D, initial_state), negative, eig_range, validate)


def selective_scan_recurrent(
    u: Channels,
    delta: Channels,
    A: Float[Tensor, "channels states"],
    B: Projections,
    C: Projections,
    D: Float[Tensor, " channels"] | None = None,
    initial_state: ChannelState | None = None,
    *,
    negative: bool = False,
    eig_range: Sequence[Number] | None = None,
) -> tuple[Channels, ChannelState]:
    """`selective_scan` one step after the other (the oracle)."""
    return _selective(linear_scan_recurrent, (u, delta, A, B, C, D, initial_state), negative, eig_range, True)


def _selective(
    scan: Callable[..., Tensor],
    operands: tuple[Any, ...],
    negative: bool,
    eig_range: Sequence[Number] | None,
    validate: bool,
) -> tuple[Tensor, Tensor]:
    dtype = operands[0].dtype
    u, delta, A, B, C = (single(x) for x in operands[:5])
    D, state = (None if x is None else single(x) for x in operands[5:])
    if u.shape[1] == 0:
        raise ValueError("u must hold at least one token, got length 0")
    with torch.no_grad():
        if validate and not bool((A <= 0).all()):
            raise ValueError(f"A must be at most 0, so that exp(delta A) is at most 1; got up to {A.max().item():g}")
        if validate and not bool((delta >= 0).all()):
            raise ValueError(f"delta must not be negative nor NaN, got down to {delta.min().item():g}")
    lo, hi = check_eig_range(eig_range if eig_range is not None else (-1.0 if negative else 0.0, 1.0))
    with torch.autocast(u.device.type, enabled=False):
        a = spread(torch.exp(delta[..., None] * A), lo, hi)
        h = scan(a, (delta * u)[..., None] * B[:, :, None], state)
        y = torch.einsum("blcn,bln->blc", h, C)
    return (y if D is None else y + D * u).to(dtype), h[:, -1]


def spread(a: Tensor, lo: float, hi: float) -> Tensor:
    """Factors in [0, 1] over [lo, hi]; nothing is rounded beyond an end."""
    if (lo, hi) == (0.0, 1.0):
        return a
    a = lo + (hi - lo) * a
    return a if (lo, hi) == (-1.0, 1.0) else a.clamp(lo, hi)


Keys = Float[Tensor, "batch length heads dk"]
Values = Float[Tensor, "batch length heads dv"]
HeadState = Float[Tensor, "batch heads dk dv"]


def gla_scan(
    q: Keys,
    k: Keys,
    v: Values,
    alpha: Keys,
    initial_state: HeadState | None = None,
    *,
    scale: float | None = None,
    validate: bool = True,
) -> tuple[Values, HeadState]:
    """Gated linear attention with gates of either sign: S_t = diag(alpha_t) S_{t-1} + k_t v_t^T, o_t = S_t^T q_t.

    Holds all states at once (length x dk x dv), the price of gates that have no logarithm.

    Args:
        validate: look at the gates.

    Raises:
        ValueError: gates outside [-1, 1]; no token.
    """
    return _gla(_linear_scan, (q, k, v, alpha), initial_state, scale, validate)


def gla_recurrent(
    q: Keys,
    k: Keys,
    v: Values,
    alpha: Keys,
    initial_state: HeadState | None = None,
    *,
    scale: float | None = None,
    validate: bool = True,
) -> tuple[Values, HeadState]:
    """`gla_scan` token by token (the oracle)."""
    return _gla(linear_scan_recurrent, (q, k, v, alpha), initial_state, scale, validate)


def _gla(
    scan: Callable[..., Tensor],
    operands: tuple[Tensor, Tensor, Tensor, Tensor],
    state: Tensor | None,
    scale: float | None,
    validate: bool,
) -> tuple[Tensor, Tensor]:
    dtype = operands[0].dtype
    q, k, v, alpha = (single(x) for x in operands)
    if q.shape[1] == 0:
        raise ValueError("q must hold at least one token, got length 0")
    with torch.no_grad():
        if validate and not bool((alpha.abs() <= 1).all()):
            raise ValueError(f"alpha must be in [-1, 1], got {alpha.min().item():g} to {alpha.max().item():g}")
    scale = float(k.shape[-1]) ** -0.5 if scale is None else scale
    with torch.autocast(q.device.type, enabled=False):
        b = k[..., None] * v[..., None, :]
        h = scan(alpha[..., None].expand_as(b), b, None if state is None else single(state))
        y = torch.einsum("blhkv,blhk->blhv", h, scale * q)
    return y.to(dtype), h[:, -1]
