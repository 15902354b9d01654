"""From continuous to discrete time, for dense, diagonal and diagonal-plus-low-rank state matrices.

Complex systems keep one state of each conjugate pair, z in C^(N/2); the whole state is (z, conj z). Seen as 2 (N/2)
real numbers (Re z_1, Im z_1, Re z_2, ...) the same system is an ordinary real one: `real_system`.
"""

from typing import NamedTuple

import torch
from jaxtyping import Complex, Float
from torch import Tensor

__all__ = [
    "DPLR",
    "bilinear",
    "bilinear_diagonal",
    "bilinear_dplr",
    "real_matrix",
    "real_output",
    "real_vector",
    "zoh_diagonal",
]


class DPLR(NamedTuple):
    """x -> (diag(lam) - P Q*) x + B u on conjugate pairs, one system a head; discrete or continuous."""

    lam: Complex[Tensor, "heads half"]
    P: Complex[Tensor, "rank heads half"]
    Q: Complex[Tensor, "rank heads half"]
    B: Complex[Tensor, "heads half"]


def bilinear(
    A: Float[Tensor, "*heads state state"], B: Float[Tensor, "*heads state"], dt: Float[Tensor, "*heads"]
) -> tuple[Float[Tensor, "*heads state state"], Float[Tensor, "*heads state"]]:
    """Abar = (I - dt/2 A)^-1 (I + dt/2 A), Bbar = (I - dt/2 A)^-1 dt B (eq. 3)."""
    identity = torch.eye(A.shape[-1], dtype=A.dtype, device=A.device)
    half_step = 0.5 * dt[..., None, None] * A
    both = torch.cat([identity + half_step, (dt[..., None] * B).unsqueeze(-1)], dim=-1)
    solved = torch.linalg.solve(identity - half_step, both)
    return solved[..., :-1], solved[..., -1]


def bilinear_diagonal(
    lam: Complex[Tensor, "heads half"], dt: Float[Tensor, "heads 1"]
) -> tuple[Complex[Tensor, "heads half"], Complex[Tensor, "heads half"]]:
    """The discrete eigenvalues, and the factor that B is multiplied by."""
    a = dt * lam
    return (2 + a) / (2 - a), 2 * dt / (2 - a)


def zoh_diagonal(
    lam: Complex[Tensor, "heads half"], dt: Float[Tensor, "heads 1"]
) -> tuple[Complex[Tensor, "heads half"], Complex[Tensor, "heads half"]]:
    """Zero-order hold: exp(dt lam), and (exp(dt lam) - 1) / lam. Needs lam != 0."""
    a = dt * lam
    return torch.exp(a), torch.expm1(a) / lam


def bilinear_dplr(system: DPLR, dt: Float[Tensor, "heads 1"]) -> DPLR:
    """The bilinear transform of a diagonal-plus-low-rank system is one of the same rank (appendix C.2).

    With D = (2/dt - lam)^-1 the Woodbury identity gives (2/dt - A)^-1 = D - D P W Q* D, W = (I + Q* D P)^-1, and
    since (2/dt - lam) + (2/dt + lam) = 4/dt everything collects into

        Abar = diag((2/dt + lam) D) - (4/dt) D P W Q* D,    Bbar = 2 (2/dt - A)^-1 B.
    """
    lam, P, Q, B = system
    D = 1 / (2 / dt - lam)
    # Q* D P runs over whole conjugate pairs, so it is real: (heads, rank, rank).
    middle = 2 * torch.einsum("rhn,hn,shn->hrs", Q.conj(), D, P).real
    W = torch.linalg.inv(torch.eye(len(P), dtype=dt.dtype, device=dt.device) + middle)
    DPW = torch.einsum("hn,rhn,hrs->shn", D, P, W.to(D.dtype))
    QD = Q * D.conj()
    DB = D * B
    correction = 2 * torch.einsum("rhn,hn->rh", Q.conj(), DB).real
    Bbar = 2 * (DB - torch.einsum("rhn,rh->hn", DPW, correction.to(D.dtype)))
    return DPLR((2 / dt + lam) * D, (4 / dt) * DPW, QD, Bbar)


def real_vector(z: Complex[Tensor, "*batch half"]) -> Float[Tensor, "*batch state"]:
    """A state in C^(N/2) as N real numbers."""
    return torch.view_as_real(z.resolve_conj()).flatten(-2)


def real_output(C: Complex[Tensor, "*batch half"]) -> Float[Tensor, "*batch state"]:
    """The real row c with c . real_vector(z) = 2 Re(C . z)."""
    return 2 * real_vector(C.conj())


def real_matrix(system: DPLR) -> Float[Tensor, "heads state state"]:
    """The real matrix that acts on real_vector(z) as diag(lam) - P Q* acts on the conjugate pairs."""
    lam, P, Q, _ = system
    block = torch.stack([torch.stack([lam.real, -lam.imag], -1), torch.stack([lam.imag, lam.real], -1)], -2)
    heads, half = lam.shape
    turn = lam.real.new_zeros(heads, half, 2, half, 2)
    index = torch.arange(half, device=lam.device)
    turn[:, index, :, index, :] = block.transpose(0, 1)
    low_rank = torch.einsum("rhi,rhj->hij", real_vector(P), 2 * real_vector(Q))
    return turn.flatten(3, 4).flatten(1, 2) - low_rank
