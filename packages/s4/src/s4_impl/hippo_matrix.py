"""HiPPO state matrices and their normal-plus-low-rank form (paper: section 2.1, theorem 1, appendix C).

A HiPPO matrix makes the state of x' = A x + B u the coefficients of u's history in an orthogonal basis. None of them
is normal, so none can be diagonalised stably; but each is a normal matrix minus a low-rank one, A = S - P P^T, and a
normal matrix has unitary eigenvectors. That is what makes S4 computable.
"""

import math
from typing import Literal, NamedTuple, get_args

import torch
from jaxtyping import Complex128, Float64
from torch import Tensor

__all__ = ["NPLR", "DiagonalInit", "HippoKind", "diagonal", "hippo", "low_rank", "nplr"]

HippoKind = Literal["legs", "legt", "lagt", "fourier"]
DiagonalInit = Literal["lin", "inv", "legs", "real"]


class NPLR(NamedTuple):
    """A = 2 Re(V diag(lam) V*) - P P^T, written in the basis V with one eigenvalue of each conjugate pair."""

    lam: Complex128[Tensor, "half"]
    """Eigenvalues of the normal part, imaginary parts ascending and at most zero."""
    P: Complex128[Tensor, "rank half"]
    """V* times the low-rank factor."""
    B: Complex128[Tensor, "half"]
    """V* times HiPPO's input vector."""
    V: Complex128[Tensor, "state half"]
    """Orthonormal eigenvectors: the real state is x = 2 Re(V z)."""


def hippo(kind: HippoKind, N: int) -> tuple[Float64[Tensor, "N N"], Float64[Tensor, "N"]]:
    """HiPPO's A and B for a state of size N.

    - `legs`, scaled Legendre: all of the past, at a resolution that fades with its age (eq. 2).
    - `legt`, translated Legendre: a sliding window of length 2.
    - `lagt`, translated Laguerre: an exponentially fading past.
    - `fourier`, truncated Fourier series: a sliding window of length 2.

    Raises:
        ValueError: for an unknown kind, or an N that is not positive and even.
    """
    _check(kind, get_args(HippoKind), N)
    n = torch.arange(N, dtype=torch.float64)
    row, column = n[:, None], n[None, :]
    scale = torch.sqrt(2 * n + 1)
    if kind == "legs":
        below = torch.where(row > column, -scale[:, None] * scale, 0.0)
        return below - torch.diag(n + 1), scale
    if kind == "legt":
        sign = torch.where(row < column, (-1.0) ** (row - column), 1.0)
        return -0.5 * scale[:, None] * sign * scale, 0.5 * scale
    if kind == "lagt":
        return -torch.tril(torch.ones(N, N, dtype=torch.float64)) + 0.5 * torch.eye(N), torch.ones_like(n)
    # Fourier: rows (2k, 2k+1) for the pair k turn with frequency k; the rank-one part forgets what leaves the window.
    turn = torch.zeros(N - 1, dtype=torch.float64)
    turn[0::2] = math.pi * torch.arange(N // 2)
    (P,) = low_rank(kind, N)
    return torch.diag(turn, -1) - torch.diag(turn, 1) - torch.outer(P, P), P


def low_rank(kind: HippoKind, N: int) -> Float64[Tensor, "rank N"]:
    """P, of the least rank, for which A + P^T P is normal: a multiple of the identity plus a skew-symmetric matrix.

    Raises:
        ValueError: for an unknown kind, or an N that is not positive and even.
    """
    _check(kind, get_args(HippoKind), N)
    n = torch.arange(N, dtype=torch.float64)
    if kind == "legs":
        return torch.sqrt(n + 0.5)[None]
    if kind == "lagt":
        return torch.full((1, N), math.sqrt(0.5), dtype=torch.float64)
    if kind == "legt":
        even = n % 2 == 0
        return torch.sqrt(n + 0.5) * torch.stack([~even, even])
    P = math.sqrt(2) * (n % 2 == 0).to(torch.float64)
    P[0] = 1.0
    return P[None]


def nplr(kind: HippoKind, N: int, rank: int | None = None) -> NPLR:
    """The normal-plus-low-rank form of a HiPPO matrix, in double precision (theorem 1).

    `rank` defaults to the least that works (2 for `legt`, else 1); a larger one adds zero rows to P.
    The phase of each eigenvector, which nothing determines, is chosen so that B is real and non-negative.

    Raises:
        ValueError: for an unknown kind, an N that is not positive and even, or too small a rank.
    """
    A, B = hippo(kind, N)
    P = low_rank(kind, N)
    least = P.shape[0]
    if rank is None:
        rank = least
    if rank < least:
        raise ValueError(f"rank must be at least {least} for {kind!r}, got {rank}")
    P = torch.cat([P, P.new_zeros(rank - least, N)])

    S = A + P.T @ P
    real = S.diagonal().mean()
    # S - real I is skew-symmetric, so -i times it is Hermitian: real eigenvalues, unitary eigenvectors.
    frequencies, vectors = torch.linalg.eigh(-1j * (S - real * torch.eye(N)))
    half = N // 2
    imaginary, V = frequencies[:half].clone(), vectors[:, :half]

    # Where the frequency zero is a double eigenvalue (Fourier), eigh returns any two vectors of its eigenspace; a
    # conjugate pair is made of a real orthonormal basis r, s of that space: (r + i s) / sqrt 2.
    still = frequencies.abs() < 1e-9 * max(1.0, float(frequencies.abs().max()))
    pairs = int(still.sum()) // 2
    if pairs:
        space = vectors[:, still]
        basis = torch.linalg.svd((space @ space.mH).real).U[:, : 2 * pairs]
        V = torch.cat([V[:, : half - pairs], torch.complex(basis[:, ::2], basis[:, 1::2]) / math.sqrt(2)], dim=1)
        imaginary[half - pairs :] = 0.0

    projected = V.mH @ B.to(V.dtype)
    V = V * torch.where(projected.abs() > 1e-12, torch.sgn(projected), torch.ones_like(projected))
    return NPLR(torch.complex(real.expand(half), imaginary), P.to(V.dtype) @ V.conj(), V.mH @ B.to(V.dtype), V)


def diagonal(kind: DiagonalInit, N: int) -> tuple[Complex128[Tensor, "half"], Complex128[Tensor, "half"]]:
    """Eigenvalues and input vector of S4D's four initialisations (arXiv 2206.11893, section 4).

    - `legs`: the normal part of HiPPO-LegS, and its B.
    - `inv`: -1/2 - i (N/pi) (N/(2n+1) - 1), an approximation of it in closed form.
    - `lin`: -1/2 - i pi n, damped Fourier modes.
    - `real`: -(n+1).

    Raises:
        ValueError: for an unknown kind, or an N that is not positive and even.
    """
    _check(kind, get_args(DiagonalInit), N)
    n = torch.arange(N // 2, dtype=torch.float64)
    half = torch.full_like(n, -0.5)
    if kind == "legs":
        form = nplr("legs", N)
        return form.lam, form.B
    ones = torch.ones(N // 2, dtype=torch.complex128)
    if kind == "inv":
        return torch.complex(half, -N / math.pi * (N / (2 * n + 1) - 1)), ones
    if kind == "lin":
        return torch.complex(half, -math.pi * n), ones
    return torch.complex(-(n + 1), torch.zeros_like(n)), ones


def _check(kind: str, allowed: tuple[str, ...], N: int) -> None:
    if kind not in allowed:
        raise ValueError(f"init must be one of {', '.join(allowed)}, got {kind!r}")
    if N < 2 or N % 2:
        raise ValueError(f"d_state must be a positive even number, got {N}")
