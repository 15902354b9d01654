"""What the paper states about the mathematics, one test a claim (1 to 7)."""

import math

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from s4_impl.hippo_matrix import hippo, low_rank, nplr
from s4_impl.kernel import S4Kernel
from s4_impl.layer import S4Layer
from s4_impl.recurrence import unroll


def relative(value: torch.Tensor, exact: torch.Tensor) -> float:
    return ((value - exact).abs().max() / exact.abs().max()).item()


@pytest.mark.parametrize("N", [4, 64, 256])
def test_claim_1_hippo_is_normal_plus_low_rank(N):
    """Theorem 1: S + I/2 is skew-symmetric, and V (diag - p p*) V* is A again."""
    A, _ = hippo("legs", N)
    (P,) = low_rank("legs", N)
    S = A + torch.outer(P, P)
    shifted = S + 0.5 * torch.eye(N)
    assert (shifted + shifted.T).abs().max() < 1e-12 * max(1.0, S.abs().max().item())
    # Both members of each conjugate pair, so that V is square.
    form = nplr("legs", N)
    V, lam = torch.cat([form.V, form.V.conj()], dim=1), torch.cat([form.lam, form.lam.conj()])
    p = torch.cat([form.P[0], form.P[0].conj()])
    assert (V.mH @ V - torch.eye(N)).abs().max() < 1e-11
    assert relative(V @ (torch.diag(lam) - torch.outer(p, p.conj())) @ V.mH, A + 0j) < 1e-12


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-4)])
@pytest.mark.parametrize("backend", ["fft", "blockwise", "naive"])
@pytest.mark.parametrize("init", ["legs", "legt", "fourier"])
def test_claim_2_the_cauchy_kernel_is_the_kernel_of_dense_powers(dtype, tolerance, backend, init):
    """Algorithm 1 gives C Abar^l Bbar (N = 64, L = 1024)."""
    torch.manual_seed(0)
    kernel = S4Kernel(8, d_state=64, l_max=1024, init=init, dtype=dtype, backend=backend)
    with torch.no_grad():
        K, _ = kernel(1024)
        assert K.dtype == dtype
        assert relative(K.double(), unroll(*kernel.dense(), 1024)) < tolerance


@pytest.mark.parametrize(
    ("step_mode", "mode", "d_state"),
    [
        ("linear", "dplr", 64),
        ("dense", "dplr", 64),
        ("diagonal", "dplr", 8),
        ("linear", "diag", 64),
        ("dense", "diag", 64),
        ("dense", "dense", 64),
    ],
)
def test_claim_3_the_convolution_is_each_step_mode(step_mode, mode, d_state):
    """One layer, two views: trained as a convolution, run as a recurrence (L = 200, odd and even)."""
    for length in (200, 199):
        torch.manual_seed(length)
        layer = S4Layer(4, d_state=d_state, mode=mode, l_max=length, dtype=torch.float64)
        u = torch.randn(2, length, 4, dtype=torch.float64)
        with torch.no_grad():
            whole, _ = layer(u)
            layer.setup_step(step_mode)
            state, outputs = layer.default_state(2), []
            for t in range(length):
                y, state = layer.step(u[:, t], state)
                outputs.append(y)
        assert (torch.stack(outputs, dim=1) - whole).abs().max() < 1e-8


@pytest.mark.parametrize("mode", ["dplr", "diag", "dense"])
def test_claim_4_a_sequence_in_chunks_with_state_is_the_sequence_in_one_pass(mode):
    torch.manual_seed(0)
    layer = S4Layer(4, d_state=64, mode=mode, l_max=100, dtype=torch.float64)
    u = torch.randn(2, 300, 4, dtype=torch.float64)
    with torch.no_grad():
        state, parts = layer.default_state(2), []
        for chunk in u.split([100, 1, 64, 100, 35], dim=1):
            y, state = layer(chunk, state)
            parts.append(y)
        assert (torch.cat(parts, dim=1) - layer(u)[0]).abs().max() < 1e-8


@pytest.mark.parametrize("init", ["legs", "legt", "fourier"])
def test_claim_5_c_comes_back_from_the_stored_form_and_doubling_keeps_the_kernel(init):
    """The parameter is C (I - Abar^L); C is recovered by a solve, and (I + Abar^L) doubles L."""
    torch.manual_seed(0)
    kernel = S4Kernel(4, d_state=64, init=init, dtype=torch.float64)
    _, _, C = kernel.dense()
    exact = unroll(*kernel.dense(), 700)
    for length in (100, 200, 400, 800):
        kernel(length)
        assert kernel.l_kernel.item() == length
        if length == 100:
            assert relative(2 * kernel.C[..., 0], C[..., ::2]) > 1e-3, "C (I - Abar^L) is not C itself"
        assert relative(kernel.dense()[2], C) < 1e-8
    assert relative(kernel(700)[0], exact) < 1e-8


def test_claim_6_the_recurrence_stays_stable_whatever_the_weights_are():
    """Re lam < 0 by construction and the tied low-rank part only damps: |eig Abar| < 1 after any updates."""
    torch.manual_seed(0)
    for seed in range(20):
        for options in ({"init": "legs"}, {"init": "random", "rank": 2}, {"mode": "diag", "init": "lin"}):
            kernel = S4Kernel(4, d_state=16, dtype=torch.float64, **options)
            with torch.no_grad():
                for parameter in kernel.parameters():
                    parameter.add_(torch.randn_like(parameter) * (1 + seed / 5))
            assert torch.linalg.eigvals(kernel.dense()[0]).abs().max() < 1


def test_claim_6_a_free_low_rank_part_can_become_unstable():
    """The reason for tying Q to P: the first release's free Q has no such guarantee."""
    torch.manual_seed(0)
    kernel = S4Kernel(4, d_state=16, tied=False, dtype=torch.float64)
    with torch.no_grad():
        kernel.Q.neg_()
    assert torch.linalg.eigvals(kernel.dense()[0]).abs().max() > 1


def test_claim_7_the_memory_of_the_kernel_does_not_grow_with_the_state():
    """Forward and backward at L = 4096, counted: what autograd keeps, and the largest tensor that any operation makes.
    16 times the state adds next to nothing to them, and 16 times to those of the written-out form."""

    class Largest(TorchDispatchMode):
        numbers = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            made = func(*args, **(kwargs or {}))
            sizes = [t.numel() for t in torch.utils._pytree.tree_leaves(made) if torch.is_tensor(t)]
            self.numbers = max(self.numbers, *sizes, 0)
            return made

    def memory(backend: str, N: int) -> tuple[int, int]:
        kernel = S4Kernel(8, d_state=N, l_max=4096, backend=backend)
        kept: dict[int, int] = {}

        def keep(tensor):
            storage = tensor.untyped_storage()
            kept[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), Largest() as largest:
            kernel(4096)[0].sum().backward()
        return sum(kept.values()), largest.numbers

    few, many = memory("naive", 16), memory("naive", 256)
    added = [b - a for a, b in zip(few, many, strict=True)]
    assert all(b > 6 * a for a, b in zip(few, many, strict=True))
    for backend in ("fft", "blockwise"):
        few, many = memory(backend, 16), memory(backend, 256)
        assert all(b - a < 0.1 * most for a, b, most in zip(few, many, added, strict=True))


def test_claim_7_a_linear_step_costs_in_proportion_to_the_state():
    """Numbers read by all operations of one step: twice as many for twice the state; four times for a dense matrix."""

    class Traffic(TorchDispatchMode):
        numbers = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            self.numbers += sum(a.numel() for a in torch.utils._pytree.tree_leaves(args) if torch.is_tensor(a))
            return func(*args, **(kwargs or {}))

    def cost(mode: str, N: int) -> int:
        kernel = S4Kernel(4, d_state=N, l_max=16)
        kernel.setup_step(mode)
        u, state = torch.ones(1, 4), kernel.default_state(1)
        with torch.no_grad(), Traffic() as traffic:
            kernel.step(u, state)
        return traffic.numbers

    def growth(mode: str) -> float:
        return math.log2(cost(mode, 512) / cost(mode, 256))

    assert growth("linear") == pytest.approx(1, abs=0.05)
    assert growth("dense") == pytest.approx(2, abs=0.1)
