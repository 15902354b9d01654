"""HiPPO matrices and their normal-plus-low-rank form."""

import math

import jaxtyping
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from s4_impl.hippo_matrix import diagonal, hippo, low_rank, nplr

KINDS = ["legs", "legt", "lagt", "fourier"]
few = settings(deadline=None, max_examples=15)
even = st.integers(1, 40).map(lambda n: 2 * n)


def test_legs_is_the_matrix_of_equation_2():
    A, B = hippo("legs", 8)
    for n in range(8):
        for k in range(8):
            expected = -math.sqrt((2 * n + 1) * (2 * k + 1)) if n > k else -(n + 1) if n == k else 0.0
            assert A[n, k].item() == pytest.approx(expected, abs=1e-14)
        assert B[n].item() == pytest.approx(math.sqrt(2 * n + 1))


def test_legs_eigenvalues_are_the_first_negative_integers():
    A, _ = hippo("legs", 6)
    assert torch.allclose(torch.linalg.eigvals(A).real.sort().values, -torch.arange(6.0, 0, -1, dtype=A.dtype))


@pytest.mark.parametrize("kind", KINDS)
def test_a_hippo_system_is_stable(kind):
    A, _ = hippo(kind, 16)
    assert torch.linalg.eigvals(A).real.max() < 1e-10


@pytest.mark.parametrize("kind", KINDS)
@given(N=even)
@few
def test_adding_the_low_rank_part_leaves_a_multiple_of_the_identity_plus_a_skew_matrix(kind, N):
    A, _ = hippo(kind, N)
    P = low_rank(kind, N)
    S = A + P.T @ P
    diagonal_part = S.diagonal()
    assert (diagonal_part - diagonal_part[0]).abs().max() < 1e-12 * N
    skew = S - torch.diag(diagonal_part)
    assert (skew + skew.T).abs().max() < 1e-12 * N


@pytest.mark.parametrize("kind", KINDS)
@given(N=even)
@few
def test_the_half_spectrum_gives_back_the_matrix_and_the_vectors(kind, N):
    A, B = hippo(kind, N)
    P = low_rank(kind, N)
    form = nplr(kind, N)
    assert ((form.V.mH @ form.V) - torch.eye(N // 2)).abs().max() < 1e-11
    S = 2 * (form.V @ torch.diag(form.lam) @ form.V.mH).real
    assert (S - P.T @ P - A).abs().max() < 1e-11 * N * N
    assert (2 * (form.V @ form.B).real - B).abs().max() < 1e-10
    assert (2 * (form.P @ form.V.T).real - P).abs().max() < 1e-10


@pytest.mark.parametrize("kind", KINDS)
def test_one_eigenvalue_of_each_pair_is_kept_and_its_phase_makes_b_positive(kind):
    form = nplr(kind, 16)
    assert (form.lam.imag <= 0).all()
    assert (form.lam.imag.diff() >= 0).all()
    assert form.B.imag.abs().max() < 1e-12
    assert (form.B.real > 0).all()


def test_the_least_rank_is_two_for_legt_and_one_for_the_others():
    assert [nplr(kind, 8).P.shape[0] for kind in KINDS] == [1, 2, 1, 1]


def test_a_larger_rank_adds_zero_rows():
    assert torch.equal(nplr("legs", 8, rank=3).P[1:], torch.zeros(2, 4, dtype=torch.complex128))


def test_diagonal_inits_follow_their_formulas():
    N = 8
    n = torch.arange(4, dtype=torch.float64)
    lam, B = diagonal("lin", N)
    assert torch.allclose(lam, torch.complex(torch.full((4,), -0.5).double(), -math.pi * n))
    assert torch.equal(B, torch.ones(4, dtype=torch.complex128))
    lam, _ = diagonal("inv", N)
    assert torch.allclose(lam.imag, -(N / math.pi) * (N / (2 * n + 1) - 1))
    lam, _ = diagonal("real", N)
    assert torch.equal(lam, torch.complex(-(n + 1), torch.zeros_like(n)))
    lam, B = diagonal("legs", N)
    assert torch.equal(lam, nplr("legs", N).lam)
    assert torch.equal(B, nplr("legs", N).B)


def test_inv_approximates_the_spectrum_of_legs():
    exact, _ = diagonal("legs", 64)
    formula, _ = diagonal("inv", 64)
    largest = exact.imag.abs().argmax()
    assert formula.imag.abs().max() == pytest.approx(exact.imag.abs()[largest].item(), rel=0.1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: hippo("chebyshev", 8), r"init must be one of legs, legt, lagt, fourier, got 'chebyshev'"),
        (lambda: nplr("legs", 7), r"d_state must be a positive even number, got 7"),
        (lambda: diagonal("lin", 0), r"d_state must be a positive even number, got 0"),
        (lambda: nplr("legt", 8, rank=1), r"rank must be at least 2 for 'legt', got 1"),
    ],
)
def test_a_wrong_argument_is_named(call, message, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(ValueError, match=message):
        call()
