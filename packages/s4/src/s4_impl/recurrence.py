"""The recurrent view x_t = Abar x_{t-1} + Bbar u_t, y_t = C x_t: powers, kernels from powers, and single steps.

Everything here is the definition, computed directly: it is the oracle for the fast kernels, and the generator at
inference. `DenseStep`, `LinearStep` and `DiagonalStep` are three ways to take the same step.
"""

from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from s4_impl.discretise import DPLR, real_vector

__all__ = [
    "DenseStep",
    "DiagonalStep",
    "LinearStep",
    "Step",
    "StepMode",
    "diagonalise",
    "in_precision",
    "krylov",
    "roll_forward",
    "unroll",
]

StepMode = Literal["linear", "dense", "diagonal"]


def unroll(
    A: Float[Tensor, "heads state state"],
    B: Float[Tensor, "heads state"],
    C: Float[Tensor, "channels heads state"],
    L: int,
) -> Float[Tensor, "channels heads {L}"]:
    """K_l = C A^l B, one matrix-vector product after the other (eq. 5): the slow oracle."""
    taps = []
    x = B
    for _ in range(L):
        taps.append(torch.einsum("chn,hn->ch", C, x))
        x = torch.einsum("hmn,hn->hm", A, x)
    return torch.stack(taps, dim=-1)


def krylov(
    A: Float[Tensor, "heads state state"], B: Float[Tensor, "heads state"], L: int
) -> Float[Tensor, "heads state {L}"]:
    """The columns B, A B, ..., A^(L-1) B by repeated squaring: log2(L) matrix products, and N L numbers a head."""
    columns = B.unsqueeze(-1)
    while columns.shape[-1] < L:
        more = min(columns.shape[-1], L - columns.shape[-1])
        columns = torch.cat([columns, A @ columns[..., :more]], dim=-1)
        if columns.shape[-1] < L:
            A = A @ A
    return columns


def roll_forward(
    A: Float[Tensor, "heads state state"],
    B: Float[Tensor, "heads state"],
    u: Float[Tensor, "batch heads length"],
    state: Float[Tensor, "batch heads state"],
) -> Float[Tensor, "batch heads state"]:
    """A^L x + sum_l A^(L-1-l) B u_l: the state after a whole sequence, in chunks of about sqrt(L) samples."""
    length = u.shape[-1]
    chunk = min(length, 2 ** (length.bit_length() // 2 + 1))
    columns = krylov(A, B, chunk).flip(-1)
    first = length % chunk
    if first:
        state = torch.einsum("hmn,bhn->bhm", torch.linalg.matrix_power(A, first), state)
        state = state + torch.einsum("hnl,bhl->bhn", columns[..., chunk - first :], u[..., :first])
    over = torch.linalg.matrix_power(A, chunk)
    collected = torch.einsum("hnl,bhpl->pbhn", columns, u[..., first:].unflatten(-1, (-1, chunk)))
    for part in collected:
        state = torch.einsum("hmn,bhn->bhm", over, state) + part
    return state


def diagonalise(
    A: Float[Tensor, "heads state state"],
) -> tuple[Complex[Tensor, "heads state"], Complex[Tensor, "heads state state"], Complex[Tensor, "heads state state"]]:
    """Eigenvalues, eigenvectors V and V^-1.

    Raises:
        ValueError: if the eigenvectors are so nearly dependent that V diag V^-1 is not A (HiPPO-LegS's are, from a
            state of about 32 on: lemma 3.2 of the paper, and the reason for S4).
    """
    eigenvalues, V = torch.linalg.eig(A)
    inverse = torch.linalg.inv(V)
    error = float(((V * eigenvalues.unsqueeze(-2)) @ inverse - A).abs().max())
    if not error < 1e-6:
        raise ValueError(
            f"mode 'diagonal' cannot be used: the eigenvectors of Abar are too ill-conditioned (V diag V^-1 is off "
            f"by {error:.1e}); use mode 'linear' or 'dense'"
        )
    return eigenvalues, V, inverse


@dataclass(frozen=True)
class DenseStep:
    """x <- Abar x + Bbar u with the full matrix, O(N^2); states are real or conjugate pairs (`paired`)."""

    A: Float[Tensor, "heads state state"]
    B: Float[Tensor, "heads state"]
    C: Float[Tensor, "channels heads state"]
    paired: bool

    def __call__(self, u: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        x = real_vector(state) if self.paired else state
        x = torch.einsum("hmn,bhn->bhm", self.A, x) + self.B * u.unsqueeze(-1)
        y = torch.einsum("chn,bhn->bch", self.C, x)
        return y, torch.view_as_complex(x.unflatten(-1, (-1, 2))) if self.paired else x


@dataclass(frozen=True)
class LinearStep:
    """The same step in O(N): Abar is diagonal minus low rank (rank 0: S4D), states are conjugate pairs."""

    lam: Complex[Tensor, "heads half"]
    P: Complex[Tensor, "rank heads half"]
    Q: Float[Tensor, "rank heads state"]
    B: Complex[Tensor, "heads half"]
    C: Float[Tensor, "channels heads state"]

    @classmethod
    def of(cls, system: DPLR, C: Float[Tensor, "channels heads state"]) -> "LinearStep":
        """From a discrete system; Q* x over whole conjugate pairs is 2 Re(conj(q) . z), a real scalar product."""
        lam, P, Q, B = system
        return cls(lam, P, 2 * real_vector(Q), B, C)

    def __call__(self, u: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        x = self.lam * state + self.B * u.unsqueeze(-1)
        for p, q in zip(self.P, self.Q, strict=True):
            x = x - p * (q * real_vector(state)).sum(-1, keepdim=True)
        return (self.C * real_vector(x).unsqueeze(1)).sum(-1), x


@dataclass(frozen=True)
class DiagonalStep:
    """The step in the basis of Abar's eigenvectors: O(N), but the state lives in that basis (`encode`, `decode`)."""

    eigenvalues: Complex[Tensor, "heads state"]
    B: Complex[Tensor, "heads state"]
    C: Complex[Tensor, "channels heads state"]
    V: Complex[Tensor, "heads state state"]
    inverse: Complex[Tensor, "heads state state"]
    paired: bool

    def __call__(self, u: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        x = self.eigenvalues * state + self.B * u.unsqueeze(-1)
        return torch.einsum("chn,bhn->bch", self.C, x).real, x

    def encode(self, state: Tensor) -> Tensor:
        x = real_vector(state) if self.paired else state
        return torch.einsum("hmn,bhn->bhm", self.inverse, x.to(self.inverse.dtype))

    def decode(self, state: Tensor) -> Tensor:
        x = torch.einsum("hmn,bhn->bhm", self.V, state).real
        return torch.view_as_complex(x.unflatten(-1, (-1, 2)).contiguous()) if self.paired else x


Step = DenseStep | LinearStep | DiagonalStep


def in_precision(step: Step, dtype: torch.dtype) -> Step:
    """The step with its tensors detached and in the real dtype `dtype`, or the complex one that goes with it."""

    def cast(value: Any) -> Any:
        if isinstance(value, Tensor):
            value = value.detach()
            return value.to(dtype.to_complex() if value.is_complex() else dtype).contiguous()
        return value

    return replace(step, **{name: cast(value) for name, value in vars(step).items()})
