"""All prefixes of attention with a fixed query: one function, four methods, one closed-form backward (section 3.2).

With p_ti = exp(s_i - m_t) / u_t the gradients are suffix sums, dv_i = sum_{t>=i} p_ti do_t and
ds_i = sum_{t>=i} p_ti (v_i - o_t).do_t; exp(s_i - m_t) = exp(s_i - m_i) exp(m_i - m_t) makes them a scan from the right
in which no factor exceeds 1, whatever the scores. The maximum m is a constant: the output does not depend on it.
"""

import math
from typing import Any, Literal, overload

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from .cell import AttentionState, combine, decay, identity_state, read

__all__ = ["METHODS", "attention_scan", "masked_softmax_attention"]

Method = Literal["chunk", "hillis", "blelloch", "sequential"]
METHODS: tuple[Method, ...] = ("chunk", "hillis", "blelloch", "sequential")
CHUNK = 16


def masked_softmax_attention(
    s: Float[Tensor, "*batch length"],
    v: Float[Tensor, "*batch length d_head"],
    mask: Bool[Tensor, "*batch length"] | None = None,
) -> Float[Tensor, "*batch length d_head"]:
    """The obvious form, O(N^2): the softmax of a lower triangular matrix of scores, times the values. The oracle."""
    n = s.shape[-1]
    seen = torch.ones(n, n, dtype=torch.bool, device=s.device).tril()
    if mask is not None:
        seen = seen & mask.unsqueeze(-2)
    scores = s.unsqueeze(-2).expand(*s.shape, n).masked_fill(~seen, -math.inf)
    empty = (scores == -math.inf).all(-1, keepdim=True)
    p = torch.softmax(scores.masked_fill(empty, 0.0), dim=-1).masked_fill(empty, 0.0)
    return p @ torch.where((s == -math.inf).unsqueeze(-1), torch.zeros_like(v), v)


@overload
def attention_scan(
    s: Tensor, v: Tensor, mask: Tensor | None = None, method: Method = "chunk",
    initial: AttentionState | None = None, return_final: Literal[False] = False,
) -> Tensor: ...  # fmt: skip
@overload
def attention_scan(
    s: Tensor, v: Tensor, mask: Tensor | None = None, method: Method = "chunk",
    initial: AttentionState | None = None, *, return_final: Literal[True],
) -> tuple[Tensor, AttentionState]: ...  # fmt: skip
def attention_scan(
    s: Float[Tensor, "*batch length"],
    v: Float[Tensor, "*batch length d_head"],
    mask: Bool[Tensor, "*#batch length"] | None = None,
    method: Method = "chunk",
    initial: AttentionState | None = None,
    return_final: bool = False,
) -> Any:
    """o_t, the softmax average of the values 1 to t with scores 1 to t, for all t (section 3.2).

    Args:
        mask: True where a token counts. A score of -inf hides a token as well; before the first that counts, o_t is 0.
        method: "chunk" (O(N d), triangular products), "hillis" (the paper's Algorithm, ceil(log2 N) rounds),
            "blelloch" (O(N) work, up and down sweep), "sequential" (a loop over the cell).
        initial: the state of tokens read before.
        return_final: return (o, state after the last token) instead of o. Gradients flow through the state as long as
            it is used as attention uses it (w / u, or a further scan).

    Half precision is computed in float32, and so is its state.

    Raises:
        ValueError: if shapes or dtypes do not fit, the method is not known, a score that counts is NaN or +inf, or the
            value of a token that counts is not finite.
    """
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
    if v.ndim < 2 or v.shape[:-1] != s.shape:
        raise ValueError(f"v must have the shape of s and one more axis, got s {tuple(s.shape)}, v {tuple(v.shape)}")
    if not s.is_floating_point() or s.dtype != v.dtype:
        raise ValueError(f"s and v must be floating point of one dtype, got {s.dtype} and {v.dtype}")
    if mask is not None:
        if mask.dtype != torch.bool:
            raise ValueError(f"mask must be bool (True: counts), got {mask.dtype}")
        if mask.ndim != s.ndim or mask.shape[-1] != s.shape[-1]:
            raise ValueError(f"mask must have the shape of s, {tuple(s.shape)}, got {tuple(mask.shape)}")
        s = s.masked_fill(~mask, -math.inf)
    if bool((s.isnan() | (s == math.inf)).any()):
        raise ValueError("s must be finite, or -inf to hide a token; got NaN or +inf where a token counts")
    dtype = v.dtype
    if dtype in (torch.float16, torch.bfloat16):
        s, v = s.float(), v.float()
    # A hidden value may be anything, NaN too
    v = v.masked_fill((s == -math.inf).unsqueeze(-1), 0.0)
    if not bool(v.isfinite().all()):
        raise ValueError("v must be finite where a token counts, got NaN or infinities")
    if initial is None:
        initial = identity_state(*s.shape[:-1], d_head=v.shape[-1], dtype=v.dtype, device=v.device)
    else:
        if initial.numerator.shape != (*s.shape[:-1], v.shape[-1]) or initial.maximum.shape != s.shape[:-1]:
            raise ValueError(
                f"initial must be a state of batch {tuple(s.shape[:-1])} with {v.shape[-1]} values, got "
                f"{tuple(initial.maximum.shape)} with {tuple(initial.numerator.shape)}"
            )
        if initial.numerator.dtype != v.dtype:
            raise ValueError(f"initial must be of dtype {v.dtype}, got {initial.numerator.dtype}")
    if s.shape[-1] == 0:
        return (v.to(dtype), initial) if return_final else v.to(dtype)
    o, m, u, w = _Scan.apply(s, v, *initial, method)
    o = o.to(dtype)
    return (o, AttentionState(m, u, w)) if return_final else o


class _Scan(torch.autograd.Function):
    """Prefixes by a method, gradients in closed form."""

    @staticmethod
    def forward(ctx: Any, s: Tensor, v: Tensor, m0: Tensor, u0: Tensor, w0: Tensor, method: Method) -> Any:
        leaves = AttentionState(s, (s != -math.inf).to(s.dtype), v)
        prefixes = _PREFIXES[method](leaves)
        start = AttentionState(m0.unsqueeze(-1), u0.unsqueeze(-1), w0.unsqueeze(-2))
        prefixes = combine(start, prefixes)
        o = read(prefixes)
        m, u = prefixes.maximum, prefixes.denominator
        ctx.save_for_backward(s, v, m0, m, u, o)
        last = m[..., -1].clone()
        ctx.mark_non_differentiable(last)
        return o, last, u[..., -1].clone(), prefixes.numerator[..., -1, :].clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, do: Tensor, dm: Tensor, du: Tensor, dw: Tensor) -> Any:
        s, v, m0, m, u, o = ctx.saved_tensors
        weight = torch.where(u == 0, torch.zeros_like(u), 1 / torch.where(u == 0, torch.ones_like(u), u)).unsqueeze(-1)
        # The last channel carries o.do, which ds needs beside do
        g = torch.cat([do, (o * do).sum(-1, keepdim=True)], -1) * weight
        g[..., -1, :-1] += dw
        g[..., -1, -1] -= du
        suffix = _decayed_suffix_sums(m, g)
        p = decay(s, m)
        dv = p.unsqueeze(-1) * suffix[..., :-1]
        ds = p * ((v * suffix[..., :-1]).sum(-1) - suffix[..., -1])
        first = decay(m0, m[..., 0])
        dw0 = first.unsqueeze(-1) * suffix[..., 0, :-1]
        du0 = -first * suffix[..., 0, -1]
        return ds, dv, None, du0, dw0, None


def _sequential(x: AttentionState) -> AttentionState:
    found = [AttentionState(x.maximum[..., 0], x.denominator[..., 0], x.numerator[..., 0, :])]
    for t in range(1, x.maximum.shape[-1]):
        found.append(combine(found[-1], _at(x, slice(t, t + 1), squeeze=True)))
    m, u, w = zip(*found, strict=True)
    return AttentionState(torch.stack(m, -1), torch.stack(u, -1), torch.stack(w, -2))


def _hillis(x: AttentionState) -> AttentionState:
    """Round j combines element i with element i - 2^j."""
    n, step = x.maximum.shape[-1], 1
    while step < n:
        x = _join(_at(x, slice(0, step)), combine(_at(x, slice(0, n - step)), _at(x, slice(step, n))))
        step *= 2
    return x


def _blelloch(x: AttentionState) -> AttentionState:
    """Pairs up, their prefixes by recursion, then down again: 2N combinations."""
    n = x.maximum.shape[-1]
    if n == 1:
        return x
    even, odd = _at(x, slice(0, n, 2)), _at(x, slice(1, n, 2))
    pairs = _blelloch(combine(_at(even, slice(0, n // 2)), odd))
    # Prefix 2i is prefix 2i - 1, which is pair i - 1, with leaf 2i
    evens = _join(_at(even, slice(0, 1)), combine(_at(pairs, slice(0, (n - 1) // 2)), _at(even, slice(1, None))))
    m, u, w = (torch.empty_like(t, memory_format=torch.contiguous_format) for t in x)
    for target, a, b in ((m, evens.maximum, pairs.maximum), (u, evens.denominator, pairs.denominator)):
        target[..., 0::2], target[..., 1::2] = a, b
    w[..., 0::2, :], w[..., 1::2, :] = evens.numerator, pairs.numerator
    return AttentionState(m, u, w)


def _chunk(x: AttentionState) -> AttentionState:
    """A triangular product in each chunk; the chunks' totals are the leaves of the same problem, 16 times shorter."""
    n, size = x.maximum.shape[-1], min(CHUNK, x.maximum.shape[-1])
    short = -n % size
    leaf = AttentionState(
        _cut(x.maximum, short, size, -math.inf),
        _cut(x.denominator, short, size, 0.0),
        _cut_rows(x.numerator, short, size),
    )
    m = leaf.maximum.cummax(-1).values
    later = torch.ones(size, size, dtype=torch.bool, device=m.device).triu(1)
    # Masked before the exponential: a later, larger score would overflow
    difference = leaf.maximum.unsqueeze(-2) - m.masked_fill(m == -math.inf, 0.0).unsqueeze(-1)
    p = difference.masked_fill_(later, -math.inf).exp_()
    u = (p @ leaf.denominator.unsqueeze(-1)).squeeze(-1)
    inside = AttentionState(m, u, p @ leaf.numerator)
    if m.shape[-2] > 1:
        totals = _chunk(AttentionState(m[..., :-1, -1], u[..., :-1, -1], inside.numerator[..., :-1, -1, :]))
        empty = identity_state(*m.shape[:-2], 1, d_head=x.numerator.shape[-1], dtype=m.dtype, device=m.device)
        before = _join(empty, totals)
        inside = combine(
            AttentionState(
                before.maximum.unsqueeze(-1), before.denominator.unsqueeze(-1), before.numerator.unsqueeze(-2)
            ),
            inside,
        )
    return AttentionState(
        inside.maximum.flatten(-2)[..., :n],
        inside.denominator.flatten(-2)[..., :n],
        inside.numerator.flatten(-3, -2)[..., :n, :],
    )


_PREFIXES = {"chunk": _chunk, "hillis": _hillis, "blelloch": _blelloch, "sequential": _sequential}


def _decayed_suffix_sums(m: Tensor, g: Tensor) -> Tensor:
    """x_i = sum_{t>=i} exp(m_i - m_t) g_t for a non-decreasing m, by chunks as in the forward."""
    n, size = m.shape[-1], min(CHUNK, m.shape[-1])
    short = -n % size
    # Behind the end nothing counts: g is 0 there, and an m of +inf keeps the order
    level, parts = _cut(m, short, size, math.inf), _cut_rows(g, short, size)
    earlier = torch.ones(size, size, dtype=torch.bool, device=m.device).tril(-1)
    difference = level.unsqueeze(-1) - level.masked_fill(level == -math.inf, 0.0).unsqueeze(-2)
    p = difference.masked_fill_(earlier | (level == math.inf).unsqueeze(-2), -math.inf).exp_()
    x = p @ parts
    if level.shape[-2] > 1:
        starts = level[..., 1:, 0]
        after = _decayed_suffix_sums(starts, x[..., 1:, 0, :])
        carried = decay(level[..., :-1, :], starts.unsqueeze(-1)).nan_to_num(posinf=0.0).unsqueeze(-1)
        x = torch.cat([x[..., :-1, :, :] + carried * after.unsqueeze(-2), x[..., -1:, :, :]], -3)
    return x.flatten(-3, -2)[..., :n, :]


def _cut(t: Tensor, short: int, size: int, value: float) -> Tensor:
    return torch.nn.functional.pad(t, (0, short), value=value).unflatten(-1, (-1, size))


def _cut_rows(t: Tensor, short: int, size: int) -> Tensor:
    return torch.nn.functional.pad(t, (0, 0, 0, short)).unflatten(-2, (-1, size))


def _at(x: AttentionState, part: slice, *, squeeze: bool = False) -> AttentionState:
    m, u, w = x.maximum[..., part], x.denominator[..., part], x.numerator[..., part, :]
    return AttentionState(m.squeeze(-1), u.squeeze(-1), w.squeeze(-2)) if squeeze else AttentionState(m, u, w)


def _join(a: AttentionState, b: AttentionState) -> AttentionState:
    return AttentionState(
        torch.cat([a.maximum, b.maximum], -1),
        torch.cat([a.denominator, b.denominator], -1),
        torch.cat([a.numerator, b.numerator], -2),
    )
