"""Vandermonde sums K_l = 2 Re sum_n v_n x_n^l: the convolution kernel of a diagonal state space (S4D, eq. 4).

The obvious form writes down all powers, H N L numbers. The fast one splits l = T p + q, so that

    K_{Tp+q} = 2 Re sum_n (v_n x_n^{Tp}) (x_n^q)

is, for each head, a real matrix product of (L/T, N) and (N, T): 2 N L multiplications at the speed of a matrix product,
and tables of about sqrt(L) powers. Heads are taken a few at a time and the tables are made anew in the backward pass,
so the memory beyond inputs and result is bounded by `_BUDGET`, whatever N is.
"""

import math
from typing import Any

import torch
from jaxtyping import Complex, Float
from torch import Tensor
from torch.autograd.function import once_differentiable

__all__ = ["powers", "vandermonde", "vandermonde_naive", "vandermonde_transpose"]

_BUDGET = 1 << 18
"""Complex numbers in the tables of one block of heads: 4 MB in double precision, about a core's cache."""


def vandermonde_naive(
    v: Complex[Tensor, "channels heads half"], x: Complex[Tensor, "heads half"], L: int
) -> Float[Tensor, "channels heads {L}"]:
    """2 Re sum_n v_n x_n^l for l < L with every power written down: the oracle."""
    table = x.unsqueeze(-1) ** torch.arange(L, device=x.device)
    return 2 * torch.einsum("chn,hnl->chl", v, table).real


def vandermonde(
    v: Complex[Tensor, "channels heads half"], x: Complex[Tensor, "heads half"], L: int
) -> Float[Tensor, "channels heads {L}"]:
    """2 Re sum_n v_n x_n^l for l < L, as matrix products, in memory that does not grow with the number of terms.

    In single precision the phase of x_n^l is off by about 1e-7 l: pass complex128 where l is long, as `S4Kernel` does.
    Differentiable once.

    Raises:
        ValueError: if L is not positive.
    """
    if L < 1:
        raise ValueError(f"L must be at least 1, got {L}")
    result: Tensor = _Vandermonde.apply(v, x, L)
    return result


def vandermonde_transpose(
    u: Float[Tensor, "batch heads length"], x: Complex[Tensor, "heads half"]
) -> Complex[Tensor, "batch heads half"]:
    """sum_l x_n^l u_l: what a diagonal state has collected of u, the newest sample at l = 0."""
    batch, heads, length = u.shape
    tile = math.isqrt(length - 1) + 1
    rows = -(-length // tile)
    tiles = torch.nn.functional.pad(u, (0, rows * tile - length)).reshape(batch, heads, rows, tile)
    near = torch.einsum("bhpq,hqn->bhpn", tiles.to(x.dtype), powers(x, tile))
    return torch.einsum("bhpn,hpn->bhn", near, powers(x**tile, rows))


def powers(x: Complex[Tensor, "heads half"], count: int) -> Complex[Tensor, "heads {count} half"]:
    """x^0, ..., x^(count-1) by repeated doubling: exact in x = 0, and no logarithm."""
    table = torch.ones_like(x).unsqueeze(-2)
    step = x.unsqueeze(-2)
    while table.shape[-2] < count:
        more = min(table.shape[-2], count - table.shape[-2])
        table = torch.cat([table, table[..., :more, :] * step], dim=-2)
        step = step * step
    return table


class _Vandermonde(torch.autograd.Function):
    """The tiled product and its gradient, a block of heads at a time."""

    @staticmethod
    def forward(ctx: Any, v: Tensor, x: Tensor, L: int) -> Tensor:
        ctx.save_for_backward(v, x)
        ctx.length = L
        channels, heads, _ = v.shape
        tile, rows = _tiling(L, channels)
        K = v.real.new_empty(heads, channels, L)
        for block in _blocks(v, tile, rows):
            _, left, right = _tables(v[:, block], x[block], tile, rows)
            # Re(left right): real products with the rows (Re, -Im) and (Re, Im).
            tiles = _interleave(left.conj()) @ _interleave(right).mT
            K[block] = tiles.reshape(-1, channels, rows * tile)[..., :L]
        return K.transpose(0, 1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        v, x = ctx.saved_tensors
        channels, _, half = v.shape
        tile, rows = _tiling(ctx.length, channels)
        grad = torch.nn.functional.pad(grad.transpose(0, 1), (0, rows * tile - ctx.length))
        grad_v, grad_x = torch.empty_like(v), torch.empty_like(x)
        row_index = torch.arange(rows, device=x.device)[:, None]
        tile_index = torch.arange(tile, device=x.device)[:, None]
        for block in _blocks(v, tile, rows):
            far, left, right = _tables(v[:, block], x[block], tile, rows)
            g = grad[block].reshape(-1, channels * rows, tile)
            grad_left = torch.view_as_complex((g @ _interleave(right)).unflatten(-1, (half, 2))).conj()
            grad_right = torch.view_as_complex((g.mT @ _interleave(left)).unflatten(-1, (half, 2))).conj()
            grad_left = grad_left.unflatten(1, (channels, rows))
            grad_v[:, block] = 2 * (grad_left * far.conj().unsqueeze(1)).sum(2).transpose(0, 1)
            grad_far = 2 * (grad_left * v[:, block].transpose(0, 1).conj().unsqueeze(2)).sum(1)
            # d x^n / dx = n x^(n-1); x^(T p - 1) = x^(T (p-1)) x^(T-1), so nothing is divided by x.
            inner = (tile_index[1:] * right[:, :-1].conj() * grad_right[:, 1:]).sum(1)
            outer = (row_index[1:] * far[:, :-1].conj() * grad_far[:, 1:]).sum(1)
            grad_x[block] = inner + tile * right[:, -1].conj() * outer
        return grad_v, grad_x, None


def _tiling(L: int, channels: int) -> tuple[int, int]:
    """Length of a tile and number of tiles: the two tables, tile and channels x rows, of about equal size."""
    tile = min(L, math.isqrt(channels * L - 1) + 1)
    return tile, -(-L // tile)


def _blocks(v: Tensor, tile: int, rows: int) -> list[slice]:
    channels, heads, half = v.shape
    size = max(1, _BUDGET // ((tile + channels * rows) * half))
    return [slice(start, min(start + size, heads)) for start in range(0, heads, size)]


def _tables(v: Tensor, x: Tensor, tile: int, rows: int) -> tuple[Tensor, Tensor, Tensor]:
    """x^(Tp); 2 v x^(Tp) with channels and rows in one axis; x^q."""
    near = powers(x, tile)
    far = powers(near[:, -1] * x, rows)
    left = 2 * v.transpose(0, 1).unsqueeze(2) * far.unsqueeze(1)
    return far, left.flatten(1, 2), near


def _interleave(z: Tensor) -> Tensor:
    """(..., half) complex to (..., 2 half) real: Re, Im, Re, Im, ..."""
    return torch.view_as_real(z.resolve_conj()).flatten(-2)
