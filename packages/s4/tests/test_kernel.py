"""`S4Kernel`: its forms agree, its parameters behave, its errors say what is wrong."""

import copy
import math

import jaxtyping
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from s4_impl.cauchy_sum import cauchy_naive
from s4_impl.dplr import dplr_kernel
from s4_impl.kernel import S4Kernel
from s4_impl.recurrence import roll_forward, unroll

few = settings(deadline=None, max_examples=25)
EVERY_KIND = [
    *(("dplr", init) for init in ("legs", "legt", "lagt", "fourier", "random")),
    *(("diag", init) for init in ("legs", "lin", "inv", "real")),
    *(("dense", init) for init in ("legs", "legt", "fourier", "random")),
]
kinds = st.sampled_from(EVERY_KIND)


def make(mode: str, init: str, seed: int = 0, **options) -> S4Kernel:
    torch.manual_seed(seed)
    options = {"d_state": 6, "dtype": torch.float64, **options}
    return S4Kernel(options.pop("d_model", 3), mode=mode, init=init, **options)


def written_out(kernel: S4Kernel, L: int, rate: float = 1.0) -> torch.Tensor:
    with torch.no_grad():
        return unroll(*kernel.dense(rate), L)


@few
@given(
    kind=kinds,
    L=st.integers(1, 70),
    half=st.integers(1, 6),
    channels=st.integers(1, 3),
    rate=st.sampled_from([1.0, 0.5, 2.0, 1.37]),
    l_max=st.none() | st.integers(1, 40),
    seed=st.integers(0, 99),
)
def test_every_kernel_is_the_powers_written_out(kind, L, half, channels, rate, l_max, seed):
    kernel = make(*kind, seed, d_state=2 * half, channels=channels, l_max=l_max)
    expected = written_out(kernel, L, rate)
    K, from_state = kernel(L, rate=rate)
    assert from_state is None
    assert K.shape == (channels, 3, L)
    assert (K - expected).abs().max() < 1e-9 * (1 + expected.abs().max())


@pytest.mark.parametrize("backend", ["naive", "blockwise", "fft"])
@pytest.mark.parametrize(("mode", "init"), [("dplr", "legs"), ("dplr", "legt"), ("diag", "lin")])
@pytest.mark.parametrize("L", [1, 15, 16])
def test_every_backend_gives_the_same_kernel_and_gradients(backend, mode, init, L):
    reference, other = (make(mode, init, backend=b, l_max=L) for b in ("naive", backend))
    weight = torch.randn(1, 3, L, dtype=torch.float64)
    for kernel in (reference, other):
        (kernel(L)[0] * weight).sum().backward()
    torch.testing.assert_close(other(L)[0], reference(L)[0], rtol=1e-10, atol=1e-10)
    for (name, p), q in zip(reference.named_parameters(), other.parameters(), strict=True):
        # LegT's poles start 1e-4 dt from the unit circle; next to one, every form loses half of a gradient's digits.
        tolerance = 1e-6 if init == "legt" else 1e-9
        torch.testing.assert_close(
            q.grad, p.grad, rtol=tolerance, atol=tolerance, msg=lambda m, name=name: f"{name}: {m}"
        )


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_a_free_q_of_any_rank_gives_the_powers_written_out(rank):
    kernel = make("dplr", "random", rank=rank, tied=False, channels=2)
    with torch.no_grad():
        kernel.Q.add_(0.1 * torch.randn_like(kernel.Q))
    torch.testing.assert_close(kernel(33)[0], written_out(kernel, 33), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("options", [{}, {"discretisation": "bilinear", "mode": "diag", "init": "inv"}, {"n_ssm": 1}])
def test_gradients_are_those_of_finite_differences(options):
    options = {
        "mode": "dplr",
        "init": "legs",
        "d_model": 2,
        "d_state": 4,
        "l_max": 7,
        "dt_min": 0.1,
        "dt_max": 0.5,
        **options,
    }
    kernel = make(**options)
    names, values = zip(*kernel.named_parameters(), strict=True)

    def taps(*values):
        return torch.func.functional_call(kernel, dict(zip(names, values, strict=True)), (7,))[0]

    assert torch.autograd.gradcheck(taps, values)


@pytest.mark.parametrize("L", [15, 16])
def test_the_textbook_formula_agrees_with_the_stable_one(L):
    stable, textbook = (make("dplr", "legs", l_max=L, textbook=t) for t in (False, True))
    torch.testing.assert_close(textbook(L)[0], stable(L)[0], rtol=1e-10, atol=1e-10)


def test_at_the_highest_frequency_the_stable_sum_is_finite_and_the_textbook_one_is_not():
    v, w = torch.randn(1, 1, 3, dtype=torch.complex128), make("dplr", "legs", d_model=1).continuous().lam
    omega = torch.tensor([-1.0 + 0j], dtype=torch.complex128)
    assert cauchy_naive(v, 2 * (1 - omega), w, 1 + omega).isfinite().all()
    factor = 2 / (1 + omega)
    assert not (factor * cauchy_naive(v, (1 - omega) * factor, w)).isfinite().all()


def test_a_state_adds_what_the_recurrence_makes_of_it():
    kernel = make("dplr", "legs", channels=2)
    A, _, C = kernel.dense()
    state = torch.randn_like(kernel.default_state(4))
    _, from_state = kernel(20, state=state)
    x = torch.view_as_real(state).flatten(-2)
    expected = []
    for _ in range(20):
        x = torch.einsum("hmn,bhn->bhm", A, x)
        expected.append(torch.einsum("chn,bhn->bch", C, x))
    torch.testing.assert_close(from_state, torch.stack(expected, -1), rtol=1e-9, atol=1e-9)


@few
@given(
    kind=kinds,
    L=st.integers(1, 50),
    channels=st.integers(1, 2),
    rate=st.sampled_from([1.0, 2.0]),
    seed=st.integers(0, 99),
)
def test_the_state_after_a_sequence_is_the_recurrence_run_over_it(kind, L, channels, rate, seed):
    kernel = make(*kind, seed, channels=channels)
    u = torch.randn(2, 3, L, dtype=torch.float64)
    state = torch.randn_like(kernel.default_state(2))
    after = kernel.next_state(u, state, rate=rate)
    kernel.setup_step("dense", rate=rate)
    for t in range(L):
        _, state = kernel.step(u[..., t], state)
    torch.testing.assert_close(after, state, rtol=1e-8, atol=1e-8)


def test_rolling_forward_is_the_recurrence_for_every_remainder_of_the_chunk():
    torch.manual_seed(0)
    A, B = 0.3 * torch.randn(2, 4, 4, dtype=torch.float64), torch.randn(2, 4, dtype=torch.float64)
    for length in range(1, 40):
        u, x = torch.randn(3, 2, length, dtype=torch.float64), torch.randn(3, 2, 4, dtype=torch.float64)
        rolled = roll_forward(A, B, u, x)
        for t in range(length):
            x = torch.einsum("hmn,bhn->bhm", A, x) + B * u[..., t, None]
        torch.testing.assert_close(rolled, x)


@pytest.mark.parametrize("mode", ["linear", "dense", "diagonal"])
def test_states_pass_between_forward_and_every_step_mode(mode):
    kernel = make("dplr", "legs")
    u = torch.randn(2, 3, 9, dtype=torch.float64)
    state = kernel.next_state(u[..., :4], kernel.default_state(2))
    kernel.setup_step(mode)
    for t in range(4, 7):
        _, state = kernel.step(u[..., t], state)
    state = kernel.next_state(u[..., 7:], kernel.standard_state(state))
    torch.testing.assert_close(state, kernel.next_state(u, kernel.default_state(2)), rtol=1e-8, atol=1e-8)


def test_a_step_with_changed_weights_is_refused_and_works_again_after_setup():
    kernel = make("dplr", "legs", l_max=8)
    u, state = torch.randn(1, 3, dtype=torch.float64), kernel.default_state(1)
    with pytest.raises(RuntimeError, match=r"step\(\) needs setup_step\(\) first"):
        kernel.step(u, state)
    kernel.setup_step()
    kernel.step(u, state)
    optimizer = torch.optim.SGD(kernel.parameters(), lr=0.1)
    kernel(8)[0].sum().backward()
    optimizer.step()
    with pytest.raises(RuntimeError, match="weights have changed"):
        kernel.step(u, state)
    kernel.setup_step()
    kernel.step(u, state)
    kernel.load_state_dict(copy.deepcopy(kernel.state_dict()))
    with pytest.raises(RuntimeError, match="weights have changed"):
        kernel.step(u, state)


def test_a_step_under_autocast_is_in_single_precision():
    kernel = make("dplr", "legs", dtype=torch.float32, l_max=8)
    kernel.setup_step("dense")
    u, state = torch.randn(2, 3), torch.randn_like(kernel.default_state(2))
    y, after = kernel.step(u, state)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y_autocast, after_autocast = kernel.step(u, state)
    assert torch.equal(y_autocast, y)
    assert torch.equal(after_autocast, after)


def test_eigenvectors_too_nearly_dependent_are_refused():
    kernel = make("dplr", "legs", d_state=64)
    with pytest.raises(ValueError, match=r"too ill-conditioned .* use mode 'linear'"):
        kernel.setup_step("diagonal")


@pytest.mark.parametrize("n_ssm", [1, 2, 4])
def test_features_share_systems_by_turns(n_ssm):
    kernel = make("dplr", "legs", d_model=4, n_ssm=n_ssm)
    assert kernel.log_decay.shape[0] == n_ssm
    with torch.no_grad():
        kernel.frequency.add_(torch.arange(float(n_ssm))[:, None])
    lam = kernel.continuous().lam
    assert all(torch.equal(lam[h], lam[h % n_ssm]) for h in range(4))
    torch.testing.assert_close(kernel(9)[0], written_out(kernel, 9), rtol=1e-9, atol=1e-9)


def test_the_length_doubles_and_travels_with_the_weights():
    kernel = make("dplr", "legs", l_max=10)
    before = written_out(kernel, 35)
    assert kernel.l_kernel.item() == 10
    K = kernel(35)[0]
    assert kernel.l_kernel.item() == 40
    torch.testing.assert_close(K, before, rtol=1e-9, atol=1e-9)
    other = make("dplr", "legs", seed=1)
    other.load_state_dict(kernel.state_dict())
    assert other.l_kernel.item() == 40
    torch.testing.assert_close(other(7)[0], before[..., :7], rtol=1e-9, atol=1e-9)


def test_without_l_max_the_first_length_asked_for_is_taken():
    kernel = make("dplr", "legs")
    kernel(13)
    assert kernel.l_kernel.item() == 13


def test_half_the_sampling_rate_gives_every_second_sample_of_a_smooth_response():
    kernel = make("dplr", "legs", dt_min=1e-4, dt_max=1e-4, l_max=400)
    fine, coarse = kernel(400)[0], kernel(200, rate=2.0)[0]
    torch.testing.assert_close(coarse / 2, fine[..., ::2], rtol=0.02, atol=0.01 * fine.abs().max().item())


def test_the_kernel_stays_in_single_precision_under_autocast_and_half_weights():
    kernel = make("dplr", "legs", dtype=torch.float32, l_max=32)
    plain = kernel(32)[0]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(kernel(32)[0], plain)
    assert kernel.to(torch.bfloat16)(32)[0].dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("mode", "init"), [("dplr", "fourier"), ("dplr", "legt"), ("diag", "real")])
def test_long_kernels_are_finite_and_fade(dtype, mode, init):
    K = make(mode, init, dtype=dtype, d_state=64, l_max=4096, dt_min=1e-2)(4096)[0]
    assert K.isfinite().all()
    assert K[..., -64:].abs().max() < K.abs().max()


def test_ssm_parameters_carry_their_optimiser_settings():
    kernel = make("dplr", "legs", tied=False, lr=2e-3)
    hints = {name: getattr(p, "_optim", None) for name, p in kernel.named_parameters()}
    assert hints.pop("C") is None
    assert set(hints) == {"log_dt", "log_decay", "frequency", "P", "Q", "B"}
    assert all(hint == {"lr": 2e-3, "weight_decay": 0.0} for hint in hints.values())


def test_frozen_parameters_are_not_trained():
    kernel = make("dplr", "legs", frozen=("dt", "A"), l_max=8)
    trained = {name for name, p in kernel.named_parameters() if p.requires_grad}
    assert trained == {"B", "C"}
    kernel(8)[0].sum().backward()


def test_time_steps_start_log_uniform_between_their_bounds():
    kernel = make("diag", "lin", d_model=2000, d_state=2, dt_min=1e-3, dt_max=1e-1)
    decades = kernel.log_dt.detach() / math.log(10)
    assert decades.min() >= -3
    assert decades.max() <= -1
    assert abs(decades.mean() + 2) < 0.05


def test_bandlimit_silences_what_is_above_it():
    open_band, closed = (make("diag", "lin", bandlimit=b, dt_min=0.1, dt_max=0.1) for b in (None, 1e-6))
    assert open_band(20)[0].abs().max() > 0
    # Of the frequencies 0, pi, 2 pi only the zero one is left: a pure decay.
    K = closed(20)[0]
    torch.testing.assert_close(K[..., 1:] / K[..., :-1], torch.full_like(K[..., 1:], math.exp(-0.05)))
    torch.testing.assert_close(K, written_out(closed, 20))


def test_the_last_row_of_inputs_does_not_see_the_others():
    kernel = make("dplr", "legt")
    system = kernel.continuous()
    dt = torch.exp(kernel.log_dt).unsqueeze(-1)
    C = torch.randn(1, 3, 3, dtype=torch.complex128)
    one = dplr_kernel(system, system.B.unsqueeze(0), C, dt, 12)
    two = dplr_kernel(system, torch.stack([torch.randn_like(system.B), system.B]), C, dt, 12)
    torch.testing.assert_close(two[1], one[0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "full"}, "mode must be one of dplr, diag, dense, got 'full'"),
        ({"init": "lin"}, "init must be one of legs, legt, lagt, fourier, random, got 'lin'"),
        ({"mode": "diag", "init": "legt"}, "init must be one of lin, inv, legs, real, got 'legt'"),
        ({"d_state": 5}, "d_state must be a positive even number, got 5"),
        ({"n_ssm": 2}, r"n_ssm must divide d_model \(3\), got 2"),
        ({"l_max": 0}, "l_max must be at least 1, got 0"),
        ({"d_model": 0}, "d_model must be at least 1, got 0"),
        ({"discretisation": "zoh"}, "discretisation must be one of bilinear, got 'zoh'"),
        ({"dt_min": 0.1, "dt_max": 0.01}, "0 < dt_min <= dt_max, got 0.1 and 0.01"),
        ({"backend": "cuda"}, "backend must be one of auto, fft, blockwise, naive, triton, got 'cuda'"),
        ({"frozen": ("C",)}, "frozen must be one of dt, A, B, got 'C'"),
        ({"init": "legt", "rank": 1}, "rank must be at least 2 for 'legt', got 1"),
        ({"bandlimit": 0.5}, "bandlimit is for mode 'diag', got mode 'dplr'"),
    ],
)
def test_a_wrong_option_is_named(options, message, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(ValueError, match=message):
        make(**{"mode": "dplr", "init": "legs", **options})


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda k: k(0), "length must be at least 1, got 0"),
        (lambda k: k(4, rate=0.0), r"rate must be positive, got 0\.0"),
        (lambda k: k(4, state=torch.zeros(2, 3, 6)), r"state must have shape \(batch, 3, 3\), got \(2, 3, 6\)"),
        (lambda k: k.setup_step("fast"), "step mode must be one of linear, dense, diagonal, got 'fast'"),
    ],
)
def test_a_wrong_call_is_named(call, message, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(ValueError, match=message):
        call(make("dplr", "legs"))
