"""Cauchy and Vandermonde sums, and the FFT convolution: fast forms against written-out ones."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from s4_impl import cauchy_sum as cauchy_module
from s4_impl import vandermonde_sum as vandermonde_module
from s4_impl.cauchy_sum import cauchy, cauchy_at_roots, cauchy_naive, roots_of_unity
from s4_impl.convolution import convolve, convolve_direct, fast_length, rfft
from s4_impl.vandermonde_sum import powers, vandermonde, vandermonde_naive, vandermonde_transpose

few = settings(deadline=None, max_examples=25)
CPU = torch.device("cpu")
sizes = st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(1, 9))


def poles(heads: int, half: int, dtype: torch.dtype = torch.complex128) -> torch.Tensor:
    return torch.complex(-0.05 - torch.rand(heads, half), 2 * torch.randn(heads, half)).to(dtype)


def complex_normal(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.complex128)


def stable_points(L: int) -> tuple[torch.Tensor, torch.Tensor]:
    omega = roots_of_unity(L, dtype=torch.complex128, device=CPU)
    return 2 * (1 - omega), 1 + omega


@few
@given(size=sizes, L=st.integers(1, 130), seed=st.integers(0, 1000))
def test_all_cauchy_forms_agree_at_the_roots_of_unity(size, L, seed):
    torch.manual_seed(seed)
    channels, heads, half = size
    v, w = complex_normal(channels, heads, half), poles(heads, half)
    z, s = stable_points(L)
    exact = cauchy_naive(v, z, w, s)
    torch.testing.assert_close(cauchy(v, z, w, s), exact, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(cauchy_at_roots(v, w, L), exact, rtol=1e-9, atol=1e-9)


@few
@given(size=sizes, points=st.integers(1, 40), seed=st.integers(0, 1000))
def test_blockwise_cauchy_takes_any_points(size, points, seed):
    torch.manual_seed(seed)
    channels, heads, half = size
    v, w, z = (
        complex_normal(channels, heads, half),
        poles(heads, half),
        1 + complex_normal(points).abs().to(torch.complex128),
    )
    torch.testing.assert_close(cauchy(v, z, w), cauchy_naive(v, z, w), rtol=1e-9, atol=1e-9)


def test_cauchy_and_vandermonde_do_not_depend_on_the_block_size(monkeypatch):
    torch.manual_seed(0)
    v, w = complex_normal(2, 5, 7), poles(5, 7)
    z, s = stable_points(50)
    x = (2 + w) / (2 - w)
    whole = cauchy(v, z, w, s), vandermonde(v, x, 50)
    monkeypatch.setattr(cauchy_module, "_BUDGET", 30)
    monkeypatch.setattr(vandermonde_module, "_BUDGET", 30)
    torch.testing.assert_close(cauchy(v, z, w, s), whole[0], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(vandermonde(v, x, 50), whole[1], rtol=1e-12, atol=1e-12)


@few
@given(size=sizes, L=st.integers(1, 130), seed=st.integers(0, 1000))
def test_both_vandermonde_forms_agree(size, L, seed):
    torch.manual_seed(seed)
    channels, heads, half = size
    v, w = complex_normal(channels, heads, half), poles(heads, half)
    x = (2 + w) / (2 - w)
    torch.testing.assert_close(vandermonde(v, x, L), vandermonde_naive(v, x, L), rtol=1e-9, atol=1e-9)


def test_vandermonde_takes_a_node_at_zero():
    v = torch.ones(1, 1, 1, dtype=torch.complex128)
    x = torch.zeros(1, 1, dtype=torch.complex128, requires_grad=True)
    K = vandermonde(v, x, 5)
    assert K.tolist() == [[[2.0, 0.0, 0.0, 0.0, 0.0]]]
    (K * torch.arange(5)).sum().backward()
    assert x.grad is not None
    assert x.grad.item() == 2.0


@few
@given(length=st.integers(1, 70), seed=st.integers(0, 1000))
def test_the_transposed_sum_is_the_adjoint(length, seed):
    torch.manual_seed(seed)
    x, u = torch.exp(poles(3, 4)), torch.randn(2, 3, length, dtype=torch.float64)
    table = x.unsqueeze(-1) ** torch.arange(length)
    torch.testing.assert_close(
        vandermonde_transpose(u, x), torch.einsum("hnl,bhl->bhn", table, u + 0j), rtol=1e-9, atol=1e-9
    )


@few
@given(count=st.integers(1, 50))
def test_powers_are_powers(count):
    x = torch.exp(poles(2, 3))
    torch.testing.assert_close(
        powers(x, count), torch.stack([x**n for n in range(count)], dim=1), rtol=1e-12, atol=1e-12
    )


@pytest.mark.parametrize("L", [1, 2, 9, 16])
def test_gradients_of_the_sums_are_those_of_finite_differences(L):
    torch.manual_seed(L)
    v, w = complex_normal(2, 2, 3).requires_grad_(), poles(2, 3).requires_grad_()
    z, s = stable_points(L)
    assert torch.autograd.gradcheck(lambda v, w: cauchy(v, z, w, s), (v, w))
    assert torch.autograd.gradcheck(lambda v, w: cauchy_at_roots(v, w, L), (v, w))
    assert torch.autograd.gradcheck(lambda v, w: vandermonde(v, torch.exp(w), L), (v, w))


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
def test_the_sums_keep_the_precision_they_are_given(dtype):
    v, w = complex_normal(1, 2, 3).to(dtype), poles(2, 3, dtype)
    z, s = (value.to(dtype) for value in stable_points(64))
    exact = cauchy_naive(v.to(torch.complex128), z.to(torch.complex128), w.to(torch.complex128), s.to(torch.complex128))
    for k in (cauchy(v, z, w, s), cauchy_at_roots(v, w, 64)):
        assert k.dtype == dtype
        tolerance = 1e-4 if dtype == torch.complex64 else 1e-12
        assert (k - exact).abs().max() < tolerance * exact.abs().max()


@few
@given(
    length=st.integers(1, 40),
    taps=st.integers(1, 40),
    channels=st.integers(1, 2),
    both=st.booleans(),
    seed=st.integers(0, 99),
)
def test_fft_convolution_is_the_direct_sum_in_both_directions(length, taps, channels, both, seed):
    torch.manual_seed(seed)
    u = torch.randn(2, 3, length, dtype=torch.float64)
    k, r = torch.randn(2, channels, 3, taps, dtype=torch.float64)
    r = r if both else None
    torch.testing.assert_close(convolve(u, k, r), convolve_direct(u, k, r), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("n", [1, 2, 5, 8, 9])
def test_the_real_transform_has_the_gradients_of_finite_differences(n):
    x = torch.randn(2, min(n, 4), dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(rfft(x, n), torch.fft.rfft(x, n=n))
    assert torch.autograd.gradcheck(lambda x: rfft(x, n), x)
    assert torch.autograd.gradgradcheck(lambda x: rfft(x, n), x)


@few
@given(n=st.integers(1, 5000))
def test_a_fast_length_is_even_smooth_and_not_much_longer(n):
    length = fast_length(n)
    assert n <= length <= max(2, 1.3 * n + 2)
    assert length % 2 == 0
    while length % 2 == 0:
        length //= 2
    while length % 3 == 0:
        length //= 3
    while length % 5 == 0:
        length //= 5
    assert length == 1


def test_an_empty_sum_is_refused():
    with pytest.raises(ValueError, match="L must be at least 1, got 0"):
        vandermonde(complex_normal(1, 1, 1), poles(1, 1), 0)
