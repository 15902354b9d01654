"""Cauchy sums: the transform of a diagonal state space at the roots of unity (paper: section 3.2, lemma C.2).

    k(z) = sum_n [ v_n / (z - s w_n) + conj(v_n) / (z - s conj(w_n)) ]

With s = 1 this is the paper's sum. With z = 2 (1 - omega) and s = 1 + omega it is the same one multiplied by
1 / (1 + omega), and then it has no pole at omega = -1: the form that S4 uses here.

Three ways to it, all equal up to rounding:
- `cauchy_naive` writes down every term: the oracle.
- `cauchy` takes a block of heads and points at a time, forward and backward, in memory that does not grow with N.
- `cauchy_at_roots` is for z and s on the grid of the FFT only, and far the fastest: there the sum is the Fourier
  transform of a Vandermonde sum, because sum_{l<L} x^l omega^l = (1 - x^L) / (1 - omega x) when omega^L = 1.
"""

from typing import Any

import torch
from jaxtyping import Complex
from torch import Tensor
from torch.autograd.function import once_differentiable

from s4_impl.convolution import rfft
from s4_impl.vandermonde_sum import vandermonde

__all__ = ["cauchy", "cauchy_at_roots", "cauchy_naive", "roots_of_unity"]

_BUDGET = 1 << 17
"""Complex numbers in one block of reciprocals: 2 MB in double precision."""


def roots_of_unity(L: int, *, dtype: torch.dtype, device: torch.device) -> Complex[Tensor, "frequencies"]:
    """omega_j = exp(-2 pi i j / L) for j = 0 .. L // 2: the frequencies of a real transform of length L."""
    angle = torch.arange(L // 2 + 1, dtype=torch.float64, device=device) * (-2 * torch.pi / L)
    return torch.polar(torch.ones_like(angle), angle).to(dtype)


def cauchy_naive(
    v: Complex[Tensor, "channels heads half"],
    z: Complex[Tensor, "points"],
    w: Complex[Tensor, "heads half"],
    s: Complex[Tensor, "points"] | None = None,
) -> Complex[Tensor, "channels heads points"]:
    """sum_n v_n / (z - s w_n) over the conjugate pairs (v_n, w_n), every term written down: the oracle."""
    s = torch.ones_like(z) if s is None else s
    v, w = torch.cat([v, v.conj()], dim=-1), torch.cat([w, w.conj()], dim=-1)
    return torch.einsum("chn,hnp->chp", v, 1 / (z - s * w.unsqueeze(-1)))


def cauchy(
    v: Complex[Tensor, "channels heads half"],
    z: Complex[Tensor, "points"],
    w: Complex[Tensor, "heads half"],
    s: Complex[Tensor, "points"] | None = None,
) -> Complex[Tensor, "channels heads points"]:
    """sum_n v_n / (z - s w_n) over the conjugate pairs (v_n, w_n), block by block.

    A pair together is 2 (z Re v - s Re(v conj(w))) / ((z - s w)(z - s conj(w))): the reciprocals are shared by all
    channels, and what multiplies them is real, so a block is one real matrix product.
    Differentiable once, in v and w.
    """
    result: Tensor = _Cauchy.apply(v, z, w, torch.ones_like(z) if s is None else s)
    return result


def cauchy_at_roots(
    v: Complex[Tensor, "channels heads half"], w: Complex[Tensor, "heads half"], L: int
) -> Complex[Tensor, "channels heads frequencies"]:
    """sum_n v_n / (2 (1 - omega) - (1 + omega) w_n) over the conjugate pairs, at the roots of unity of order L.

    The denominator is (2 - w)(1 - omega x) with x = (2 + w) / (2 - w), the bilinear image of w; the geometric series
    then makes it the transform of 2 Re sum_n c_n x_n^l with c_n = v_n / ((2 - w_n)(1 - x_n^L)).
    Needs Re w < 0. Where |x|^L is close to 1 the division loses digits: pass complex128.
    """
    x = (2 + w) / (2 - w)
    c = v / ((2 - w) * (1 - x**L))
    return rfft(vandermonde(c, x, L), L)


class _Cauchy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, v: Tensor, z: Tensor, w: Tensor, s: Tensor) -> Tensor:
        ctx.save_for_backward(v, z, w, s)
        k = v.new_empty(*v.shape[:-1], z.shape[0])
        for heads, points in _blocks(w, z):
            weights = _pair_weights(v[:, heads], w[heads])
            reciprocal = 1 / _pair_product(z[points], w[heads], s[points])
            parts = _real_product(weights, reciprocal)
            k[:, heads, points] = 2 * (z[points] * parts[0] - s[points] * parts[1])
        return k

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, Tensor, None]:
        # k is linear in the real weights (Re v, Re v conj w) and depends on w once more through the reciprocals.
        v, z, w, s = ctx.saved_tensors
        channels = v.shape[0]
        grad_v, grad_w = torch.zeros_like(v), torch.zeros_like(w)
        for heads, points in _blocks(w, z):
            zb, sb, vb, wb = z[points], s[points], v[:, heads], w[heads]
            weights = _pair_weights(vb, wb)
            reciprocal = 1 / _pair_product(zb, wb, sb)
            g = grad[:, heads, points]
            # Gradients of the two sums of reciprocals: (heads, 2 channels, points).
            g_parts = torch.stack([2 * zb.conj() * g, -2 * sb.conj() * g]).permute(2, 0, 1, 3).flatten(1, 2)
            # Real weights: Re sum_p conj(reciprocal) g.
            g_weights = _interleave(g_parts) @ _interleave(reciprocal).mT
            g_re, g_cross = g_weights.unflatten(1, (2, channels)).unbind(1)
            g_re, g_cross = g_re.transpose(0, 1), g_cross.transpose(0, 1)
            # Re(v conj w) = Re v Re w + Im v Im w.
            grad_v[:, heads] += torch.complex(g_re + g_cross * wb.real, g_cross * wb.imag)
            cross = torch.complex(g_cross * vb.real, g_cross * vb.imag).sum(0)
            # d(1/q) = -dq / q^2, with dq = -2 z s d(Re w) + s^2 d|w|^2.
            g_reciprocal = _spread(weights, g_parts)
            g_q = -(reciprocal * reciprocal).conj() * g_reciprocal
            d_re = (g_q * (-2 * zb * sb).conj()).real.sum(-1)
            d_square = (g_q * (sb * sb).conj()).real.sum(-1)
            grad_w[heads] += cross + torch.complex(d_re + 2 * d_square * wb.real, 2 * d_square * wb.imag)
        return grad_v, None, grad_w, None


def _blocks(w: Tensor, z: Tensor) -> list[tuple[slice, slice]]:
    heads, half = w.shape
    points = z.shape[0]
    wide = max(1, min(points, _BUDGET // half))
    tall = max(1, min(heads, _BUDGET // (half * wide)))
    return [
        (slice(h, min(h + tall, heads)), slice(p, min(p + wide, points)))
        for h in range(0, heads, tall)
        for p in range(0, points, wide)
    ]


def _pair_product(z: Tensor, w: Tensor, s: Tensor) -> Tensor:
    """(z - s w)(z - s conj w): (heads, half, points). As a product of differences it keeps its digits near a pole."""
    w = w.unsqueeze(-1)
    return (z - s * w) * (z - s * w.conj())


def _pair_weights(v: Tensor, w: Tensor) -> Tensor:
    """Re v and Re(v conj w): (heads, 2 channels, half)."""
    return torch.stack([v.real, (v * w.conj()).real]).permute(2, 0, 1, 3).flatten(1, 2)


def _real_product(weights: Tensor, values: Tensor) -> Tensor:
    """Real (heads, 2 channels, half) times complex (heads, half, points): (2, channels, heads, points)."""
    product = torch.view_as_complex((weights @ _interleave(values)).unflatten(-1, (-1, 2)))
    return product.unflatten(1, (2, -1)).permute(1, 2, 0, 3)


def _spread(weights: Tensor, values: Tensor) -> Tensor:
    """Transposed weights times complex (heads, 2 channels, points): (heads, half, points)."""
    return torch.view_as_complex((weights.mT @ _interleave(values)).unflatten(-1, (-1, 2)))


def _interleave(values: Tensor) -> Tensor:
    return torch.view_as_real(values.resolve_conj().contiguous()).flatten(-2)
