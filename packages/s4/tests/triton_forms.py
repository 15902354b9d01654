"""The Triton kernels against the written-out sums, on a GPU or in Triton's interpreter; run by test_kernels_triton.py.

Not collected by itself: the interpreter is chosen when triton is first imported, so it needs a process of its own.
"""

import pytest
import torch

from s4_impl import kernels_triton as kernels
from s4_impl.cauchy_sum import cauchy_naive, roots_of_unity
from s4_impl.kernel import S4Kernel
from s4_impl.vandermonde_sum import vandermonde_naive


@pytest.fixture
def device():
    return "cuda" if torch.cuda.is_available() else "cpu"


def values_and_gradients(form, *inputs):
    inputs = [value.detach().clone().requires_grad_() for value in inputs]
    result = form(*inputs)
    torch.manual_seed(1)
    weight = torch.randn(result.shape, dtype=result.dtype, device=result.device)
    return result.detach(), *torch.autograd.grad((result * weight.conj()).real.sum(), inputs)


def random_system(channels, heads, half, dtype, device):
    torch.manual_seed(0)
    v = torch.randn(channels, heads, half, dtype=dtype, device=device)
    w = torch.complex(-0.1 - torch.rand(heads, half), torch.randn(heads, half)).to(device=device, dtype=dtype)
    return v, w


# More points than a block has, odd lengths, one point, more channels than a program takes at once.
@pytest.mark.parametrize(
    ("channels", "heads", "half", "L"), [(1, 1, 1, 1), (3, 2, 3, 131), (4, 1, 2, 32), (18, 1, 2, 9)]
)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.complex128, 1e-11), (torch.complex64, 1e-4)])
def test_both_kernels_give_the_sums_and_their_gradients(device, channels, heads, half, L, dtype, tolerance):
    v, w = random_system(channels, heads, half, dtype, device)
    omega = roots_of_unity(L, dtype=dtype, device=torch.device(device))
    z, s = 2 * (1 - omega), 1 + omega
    pairs = [
        (lambda v, w: kernels.cauchy_triton(v, z, w, s), lambda v, w: cauchy_naive(v, z, w, s), (v, w)),
        (
            lambda v, x: kernels.vandermonde_triton(v, x, L),
            lambda v, x: vandermonde_naive(v, x, L),
            (v, torch.exp(w)),
        ),
    ]
    for fast, oracle, inputs in pairs:
        for got, expected in zip(
            values_and_gradients(fast, *inputs), values_and_gradients(oracle, *inputs), strict=True
        ):
            assert got.dtype == expected.dtype
            assert (got - expected).abs().max() <= tolerance * expected.abs().max()


def test_a_node_at_zero_has_its_value_and_gradient(device):
    v = torch.ones(1, 1, 1, dtype=torch.complex128, device=device)
    x = torch.zeros(1, 1, dtype=torch.complex128, device=device, requires_grad=True)
    K = kernels.vandermonde_triton(v, x, 4)
    assert K.tolist() == [[[2.0, 0.0, 0.0, 0.0]]]
    (K * torch.arange(4, device=device)).sum().backward()
    assert x.grad.item() == 2.0


@pytest.mark.parametrize(("mode", "init"), [("dplr", "legs"), ("dplr", "legt"), ("diag", "lin")])
def test_the_kernel_with_the_triton_backend_is_the_one_with_the_fft_backend(device, mode, init):
    results = []
    for backend in ("triton", "fft"):
        torch.manual_seed(0)
        kernel = S4Kernel(2, d_state=4, l_max=9, mode=mode, init=init, backend=backend, dtype=torch.float64)
        kernel = kernel.to(device)
        K, _ = kernel(9)
        K.square().sum().backward()
        results.append((K, kernel.C.grad, kernel.B.grad))
    for got, expected in zip(*results, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-9)
