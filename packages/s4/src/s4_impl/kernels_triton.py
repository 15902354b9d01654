"""Cauchy and Vandermonde sums as Triton kernels, forward and backward: nothing of size N L is ever stored.

Imported only where they are used: on CUDA, or on the CPU in Triton's interpreter (TRITON_INTERPRET=1), which is how
the tests run them without a GPU. They compute in the precision of their arguments.

Forward, one program a head and block of points goes through the N/2 conjugate pairs; backward, one a head and pair goes
through the points. The reciprocal or the power is made once and serves all channels.
"""

from typing import Any, no_type_check

import torch
import triton
import triton.language as tl
from jaxtyping import Complex, Float
from torch import Tensor
from torch.autograd.function import once_differentiable

__all__ = ["cauchy_triton", "vandermonde_triton"]

_POINTS = 128
"""Points a program works on at once."""
_CHANNELS = 16
"""Channels a program works on at most; more are done in turns, so that their sums stay in registers."""


def cauchy_triton(
    v: Complex[Tensor, "channels heads half"],
    z: Complex[Tensor, "points"],
    w: Complex[Tensor, "heads half"],
    s: Complex[Tensor, "points"] | None = None,
) -> Complex[Tensor, "channels heads points"]:
    """`cauchy_sum.cauchy` on the GPU. Differentiable once, in v and w."""
    s = torch.ones_like(z) if s is None else s
    return torch.cat([_Cauchy.apply(part, z, w, s) for part in v.split(_CHANNELS)])


def vandermonde_triton(
    v: Complex[Tensor, "channels heads half"], x: Complex[Tensor, "heads half"], L: int
) -> Float[Tensor, "channels heads {L}"]:
    """`vandermonde_sum.vandermonde` on the GPU. Differentiable once.

    Raises:
        ValueError: if L is not positive.
    """
    if L < 1:
        raise ValueError(f"L must be at least 1, got {L}")
    return torch.cat([_Vandermonde.apply(part, x, L) for part in v.split(_CHANNELS)])


@triton.jit
@no_type_check
def _cauchy_forward(v, z, w, s, k, channels, heads, half, points, CHANNELS: tl.constexpr, POINTS: tl.constexpr):
    # Complex arrays are read as pairs of reals. A pair of poles: 2 (z Re v - s Re(v conj w)) / q with
    # q = (z - s w)(z - s conj w).
    head = tl.program_id(0)
    point = tl.program_id(1) * POINTS + tl.arange(0, POINTS)
    inside = point < points
    z_re = tl.load(z + 2 * point, mask=inside, other=1.0)
    z_im = tl.load(z + 2 * point + 1, mask=inside, other=0.0)
    s_re = tl.load(s + 2 * point, mask=inside, other=0.0)
    s_im = tl.load(s + 2 * point + 1, mask=inside, other=0.0)
    channel = tl.arange(0, CHANNELS)
    there = channel < channels
    plain_re = tl.zeros((CHANNELS, POINTS), dtype=z.dtype.element_ty)
    plain_im = tl.zeros((CHANNELS, POINTS), dtype=z.dtype.element_ty)
    cross_re = tl.zeros((CHANNELS, POINTS), dtype=z.dtype.element_ty)
    cross_im = tl.zeros((CHANNELS, POINTS), dtype=z.dtype.element_ty)
    for n in range(half):
        w_re = tl.load(w + 2 * (head * half + n))
        w_im = tl.load(w + 2 * (head * half + n) + 1)
        at = 2 * ((channel * heads + head) * half + n)
        v_re = tl.load(v + at, mask=there, other=0.0)
        v_im = tl.load(v + at + 1, mask=there, other=0.0)
        a_re = z_re - s_re * w_re + s_im * w_im
        a_im = z_im - s_re * w_im - s_im * w_re
        b_re = z_re - s_re * w_re - s_im * w_im
        b_im = z_im + s_re * w_im - s_im * w_re
        q_re = a_re * b_re - a_im * b_im
        q_im = a_re * b_im + a_im * b_re
        scale = 1.0 / (q_re * q_re + q_im * q_im)
        r_re = (q_re * scale)[None, :]
        r_im = (-q_im * scale)[None, :]
        weight = v_re[:, None]
        both = (v_re * w_re + v_im * w_im)[:, None]
        plain_re += weight * r_re
        plain_im += weight * r_im
        cross_re += both * r_re
        cross_im += both * r_im
    k_re = 2 * (
        z_re[None, :] * plain_re - z_im[None, :] * plain_im - s_re[None, :] * cross_re + s_im[None, :] * cross_im
    )
    k_im = 2 * (
        z_re[None, :] * plain_im + z_im[None, :] * plain_re - s_re[None, :] * cross_im - s_im[None, :] * cross_re
    )
    out = 2 * ((channel * heads + head)[:, None] * points + point[None, :])
    mask = there[:, None] & inside[None, :]
    tl.store(k + out, k_re, mask=mask)
    tl.store(k + out + 1, k_im, mask=mask)


@triton.jit
@no_type_check
def _cauchy_backward(
    v, z, w, s, grad, to_plain, to_cross, to_re, to_square,
    channels, heads, half, points, CHANNELS: tl.constexpr, POINTS: tl.constexpr,
):  # fmt: skip
    # Gradients of Re v and Re(v conj w), which the sum is linear in, and of Re w and |w|^2 through q.
    head = tl.program_id(0)
    n = tl.program_id(1)
    channel = tl.arange(0, CHANNELS)
    there = channel < channels
    at = (channel * heads + head) * half + n
    v_re = tl.load(v + 2 * at, mask=there, other=0.0)
    v_im = tl.load(v + 2 * at + 1, mask=there, other=0.0)
    w_re = tl.load(w + 2 * (head * half + n))
    w_im = tl.load(w + 2 * (head * half + n) + 1)
    weight = v_re[:, None]
    both = (v_re * w_re + v_im * w_im)[:, None]
    plain = tl.zeros((CHANNELS, POINTS), dtype=z.dtype.element_ty)
    cross = tl.zeros((CHANNELS, POINTS), dtype=z.dtype.element_ty)
    re = tl.zeros((POINTS,), dtype=z.dtype.element_ty)
    square = tl.zeros((POINTS,), dtype=z.dtype.element_ty)
    for start in range(0, points, POINTS):
        point = start + tl.arange(0, POINTS)
        inside = point < points
        z_re = tl.load(z + 2 * point, mask=inside, other=1.0)
        z_im = tl.load(z + 2 * point + 1, mask=inside, other=0.0)
        s_re = tl.load(s + 2 * point, mask=inside, other=0.0)
        s_im = tl.load(s + 2 * point + 1, mask=inside, other=0.0)
        mask = there[:, None] & inside[None, :]
        where = 2 * ((channel * heads + head)[:, None] * points + point[None, :])
        g_re = tl.load(grad + where, mask=mask, other=0.0)
        g_im = tl.load(grad + where + 1, mask=mask, other=0.0)
        a_re = z_re - s_re * w_re + s_im * w_im
        a_im = z_im - s_re * w_im - s_im * w_re
        b_re = z_re - s_re * w_re - s_im * w_im
        b_im = z_im + s_re * w_im - s_im * w_re
        q_re = a_re * b_re - a_im * b_im
        q_im = a_re * b_im + a_im * b_re
        scale = 1.0 / (q_re * q_re + q_im * q_im)
        r_re = q_re * scale
        r_im = -q_im * scale
        # k = 2 (z plain - s cross) r: what reaches plain and cross before r.
        gp_re = 2 * (z_re[None, :] * g_re + z_im[None, :] * g_im)
        gp_im = 2 * (z_re[None, :] * g_im - z_im[None, :] * g_re)
        gc_re = -2 * (s_re[None, :] * g_re + s_im[None, :] * g_im)
        gc_im = -2 * (s_re[None, :] * g_im - s_im[None, :] * g_re)
        plain += r_re[None, :] * gp_re + r_im[None, :] * gp_im
        cross += r_re[None, :] * gc_re + r_im[None, :] * gc_im
        gr_re = tl.sum(weight * gp_re + both * gc_re, axis=0)
        gr_im = tl.sum(weight * gp_im + both * gc_im, axis=0)
        # dr = -r^2 dq
        rr_re = r_re * r_re - r_im * r_im
        rr_im = 2 * r_re * r_im
        gq_re = -(rr_re * gr_re + rr_im * gr_im)
        gq_im = -(rr_re * gr_im - rr_im * gr_re)
        # dq = -2 z s d(Re w) + s^2 d|w|^2
        zs_re = z_re * s_re - z_im * s_im
        zs_im = z_re * s_im + z_im * s_re
        re += -2 * (zs_re * gq_re + zs_im * gq_im)
        square += (s_re * s_re - s_im * s_im) * gq_re + 2 * s_re * s_im * gq_im
    tl.store(to_plain + at, tl.sum(plain, axis=1), mask=there)
    tl.store(to_cross + at, tl.sum(cross, axis=1), mask=there)
    tl.store(to_re + head * half + n, tl.sum(re, axis=0))
    tl.store(to_square + head * half + n, tl.sum(square, axis=0))


@triton.jit
@no_type_check
def _vandermonde_forward(
    v, log_x, turn, k, channels, heads, half, length, CHANNELS: tl.constexpr, POINTS: tl.constexpr
):
    head = tl.program_id(0)
    step = tl.program_id(1) * POINTS + tl.arange(0, POINTS)
    exponent = step.to(log_x.dtype.element_ty)
    channel = tl.arange(0, CHANNELS)
    there = channel < channels
    total = tl.zeros((CHANNELS, POINTS), dtype=log_x.dtype.element_ty)
    for n in range(half):
        log_size = tl.load(log_x + head * half + n)
        angle = tl.load(turn + head * half + n)
        at = 2 * ((channel * heads + head) * half + n)
        v_re = tl.load(v + at, mask=there, other=0.0)[:, None]
        v_im = tl.load(v + at + 1, mask=there, other=0.0)[:, None]
        # x^0 = 1 even where log|x| is -inf.
        size = tl.where(step == 0, 1.0, tl.exp(tl.where(step == 0, 0.0, log_size) * exponent))
        total += v_re * (size * tl.cos(angle * exponent))[None, :]
        total -= v_im * (size * tl.sin(angle * exponent))[None, :]
    mask = there[:, None] & (step < length)[None, :]
    tl.store(k + (channel * heads + head)[:, None] * length + step[None, :], 2 * total, mask=mask)


@triton.jit
@no_type_check
def _vandermonde_backward(
    v, log_x, turn, grad, to_v, to_x, channels, heads, half, length, CHANNELS: tl.constexpr, POINTS: tl.constexpr
):
    head = tl.program_id(0)
    n = tl.program_id(1)
    channel = tl.arange(0, CHANNELS)
    there = channel < channels
    at = 2 * ((channel * heads + head) * half + n)
    v_re = tl.load(v + at, mask=there, other=0.0)[:, None]
    v_im = tl.load(v + at + 1, mask=there, other=0.0)[:, None]
    log_size = tl.load(log_x + head * half + n)
    angle = tl.load(turn + head * half + n)
    v_grad_re = tl.zeros((CHANNELS, POINTS), dtype=log_x.dtype.element_ty)
    v_grad_im = tl.zeros((CHANNELS, POINTS), dtype=log_x.dtype.element_ty)
    x_grad_re = tl.zeros((POINTS,), dtype=log_x.dtype.element_ty)
    x_grad_im = tl.zeros((POINTS,), dtype=log_x.dtype.element_ty)
    for start in range(0, length, POINTS):
        step = start + tl.arange(0, POINTS)
        exponent = step.to(log_x.dtype.element_ty)
        mask = there[:, None] & (step < length)[None, :]
        g = tl.load(grad + (channel * heads + head)[:, None] * length + step[None, :], mask=mask, other=0.0)
        size = tl.where(step == 0, 1.0, tl.exp(tl.where(step == 0, 0.0, log_size) * exponent))
        v_grad_re += g * (size * tl.cos(angle * exponent))[None, :]
        v_grad_im -= g * (size * tl.sin(angle * exponent))[None, :]
        # d x^l / dx = l x^(l-1)
        below = exponent - 1
        slope = exponent * tl.where(step <= 1, 1.0, tl.exp(tl.where(step <= 1, 0.0, log_size) * below))
        p_re = slope * tl.cos(angle * below)
        p_im = slope * tl.sin(angle * below)
        gv_re = tl.sum(g * v_re, axis=0)
        gv_im = tl.sum(g * v_im, axis=0)
        x_grad_re += p_re * gv_re - p_im * gv_im
        x_grad_im -= p_re * gv_im + p_im * gv_re
    tl.store(to_v + at, 2 * tl.sum(v_grad_re, axis=1), mask=there)
    tl.store(to_v + at + 1, 2 * tl.sum(v_grad_im, axis=1), mask=there)
    tl.store(to_x + 2 * (head * half + n), 2 * tl.sum(x_grad_re, axis=0))
    tl.store(to_x + 2 * (head * half + n) + 1, 2 * tl.sum(x_grad_im, axis=0))


class _Cauchy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, v: Tensor, z: Tensor, w: Tensor, s: Tensor) -> Tensor:
        v, z, w, s = (value.resolve_conj().contiguous() for value in (v, z, w, s))
        ctx.save_for_backward(v, z, w, s)
        channels, heads, half = v.shape
        points = z.shape[0]
        k = v.new_empty(channels, heads, points)
        grid = (heads, triton.cdiv(points, _POINTS))
        pairs = (torch.view_as_real(value) for value in (v, z, w, s, k))
        _cauchy_forward[grid](*pairs, channels, heads, half, points, **_blocks(channels))
        return k

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, Tensor, None]:
        v, z, w, s = ctx.saved_tensors
        channels, heads, half = v.shape
        pairs = [torch.view_as_real(value) for value in (v, z, w, s, grad.resolve_conj().contiguous())]
        plain, cross = torch.empty_like(v.real), torch.empty_like(v.real)
        re, square = torch.empty_like(w.real), torch.empty_like(w.real)
        sizes = (channels, heads, half, z.shape[0])
        _cauchy_backward[heads, half](*pairs, plain, cross, re, square, *sizes, **_blocks(channels))
        # Re(v conj w) = Re v Re w + Im v Im w.
        grad_v = torch.complex(plain + cross * w.real, cross * w.imag)
        grad_re = re + 2 * square * w.real + (cross * v.real).sum(0)
        grad_im = 2 * square * w.imag + (cross * v.imag).sum(0)
        return grad_v, None, torch.complex(grad_re, grad_im), None


class _Vandermonde(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, v: Tensor, x: Tensor, L: int) -> Tensor:
        v = v.resolve_conj().contiguous()
        log_x, turn = x.abs().log().contiguous(), x.angle().contiguous()
        ctx.save_for_backward(v, log_x, turn)
        channels, heads, half = v.shape
        k = log_x.new_empty(channels, heads, L)
        grid = (heads, triton.cdiv(L, _POINTS))
        _vandermonde_forward[grid](torch.view_as_real(v), log_x, turn, k, channels, heads, half, L, **_blocks(channels))
        return k

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        v, log_x, turn = ctx.saved_tensors
        channels, heads, half = v.shape
        grad_v, grad_x = torch.empty_like(v), v.new_empty(heads, half)
        _vandermonde_backward[heads, half](
            torch.view_as_real(v), log_x, turn, grad.contiguous(), torch.view_as_real(grad_v),
            torch.view_as_real(grad_x), channels, heads, half, grad.shape[-1], **_blocks(channels),
        )  # fmt: skip
        return grad_v, grad_x, None


def _blocks(channels: int) -> dict[str, int]:
    return {"CHANNELS": triton.next_power_of_2(channels), "POINTS": _POINTS}
