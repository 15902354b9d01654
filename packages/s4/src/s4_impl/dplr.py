"""The convolution kernel of a diagonal-plus-low-rank state space: algorithm 1 of the paper.

The kernel K_l = C Abar^l Bbar is never computed from powers of Abar. Its transform at the roots of unity is a
resolvent, the Woodbury identity makes that four Cauchy sums, and one inverse FFT brings it back.
"""

from collections.abc import Callable
from typing import Literal

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from s4_impl.cauchy_sum import cauchy, cauchy_at_roots, cauchy_naive, roots_of_unity
from s4_impl.discretise import DPLR

__all__ = ["Backend", "dplr_kernel"]

Backend = Literal["auto", "fft", "blockwise", "naive", "triton"]


def dplr_kernel(
    system: DPLR,
    inputs: Complex[Tensor, "rows heads half"],
    C_tilde: Complex[Tensor, "channels heads half"],
    dt: Float[Tensor, "heads 1"],
    L: int,
    *,
    backend: Backend = "fft",
    textbook: bool = False,
) -> Float[Tensor, "rows channels heads {L}"]:
    """K_l = C Abar^l Bbar for l < L, for each row of `inputs` in the place of B.

    `C_tilde` is C (I - Abar^L), the parameter that S4 learns: with it the sum over l < L telescopes at omega^L = 1.
    With c(v) = sum_n v_n / (2 (1 - omega) - (1 + omega) dt lam_n),

        Khat(omega) = 2 [ c(Ct b) - (1 + omega) c(Ct p) (I + (1 + omega) c(q* p))^-1 c(q* b) ],

    in which no term has a pole. `textbook=True` takes the paper's formula as it stands: for even L it divides by
    1 + omega = 0 at the highest frequency.
    """
    lam, P, Q, _ = system
    rank = len(P)
    w = dt * lam
    right = torch.cat([inputs, P])
    left = torch.cat([C_tilde, Q.conj()])
    v = (right.unsqueeze(1) * left.unsqueeze(0) * dt).flatten(0, 1)
    omega = roots_of_unity(L, dtype=w.dtype, device=w.device)
    if textbook:
        sums = _direct_sum("naive")(v, 2 * (1 - omega) / (1 + omega), w, torch.ones_like(omega))
        weight, factor = torch.ones_like(omega), 2 / (1 + omega)
    else:
        if backend == "fft":
            sums = cauchy_at_roots(v, w, L)
        else:
            sums = _direct_sum(backend)(v, 2 * (1 - omega), w, 1 + omega)
        weight, factor = 1 + omega, 2 * torch.ones_like(omega)

    above, below = sums.unflatten(0, (len(right), len(left))).split([len(inputs), rank])
    c00, c10 = above.split([len(C_tilde), rank], dim=1)
    c01, c11 = below.split([len(C_tilde), rank], dim=1)
    if rank == 1:
        correction = c10 * (c01 * (weight / (1 + weight * c11)))
    else:
        correction = _woodbury(c01, c10, c11, weight)
    transform = factor * (c00 - correction)
    return torch.fft.irfft(transform, n=L)


def _direct_sum(backend: Backend) -> Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]:
    if backend == "naive":
        return cauchy_naive
    if backend == "blockwise":
        return cauchy
    from s4_impl.kernels_triton import cauchy_triton

    return cauchy_triton


def _woodbury(c01: Tensor, c10: Tensor, c11: Tensor, weight: Tensor) -> Tensor:
    """weight c01 (I + weight c11)^-1 c10 for rank above one.

    c01: (rank of p, channels, heads, frequencies); c10: (rows, rank of q, ...); c11: (rank of p, rank of q, ...).
    """
    rank = len(c11)
    M = (weight * c11).permute(2, 3, 1, 0) + torch.eye(rank, dtype=c11.dtype, device=c11.device)
    right = c10.permute(2, 3, 1, 0)
    if rank == 2:
        # Cramer's rule: a batch of two-by-two systems is far faster written out.
        determinant = M[..., 0, 0] * M[..., 1, 1] - M[..., 0, 1] * M[..., 1, 0]
        first = M[..., 1, 1, None] * right[..., 0, :] - M[..., 0, 1, None] * right[..., 1, :]
        second = M[..., 0, 0, None] * right[..., 1, :] - M[..., 1, 0, None] * right[..., 0, :]
        solved = torch.stack([first, second], dim=-2) / determinant[..., None, None]
    else:
        solved = torch.linalg.solve(M, right)
    return weight * torch.einsum("pchf,hfpr->rchf", c01, solved)
