"""`S4Layer`: convolution, recurrence and pieces of a sequence are one and the same map."""

import jaxtyping
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from s4_impl.convolution import convolve_direct
from s4_impl.layer import S4Layer

few = settings(deadline=None, max_examples=25)


def make(seed: int = 0, d_model: int = 3, **options) -> S4Layer:
    torch.manual_seed(seed)
    return S4Layer(d_model, **{"d_state": 6, "dtype": torch.float64, **options})


def sequence(length: int, batch: int = 2, d_model: int = 3) -> torch.Tensor:
    return torch.randn(batch, length, d_model, dtype=torch.float64)


@few
@given(
    length=st.integers(1, 50),
    channels=st.integers(1, 2),
    bidirectional=st.booleans(),
    rate=st.sampled_from([1.0, 0.5]),
    transposed=st.booleans(),
    seed=st.integers(0, 99),
)
def test_the_output_is_the_direct_sum_over_the_kernel(length, channels, bidirectional, rate, transposed, seed):
    layer = make(seed, channels=channels, bidirectional=bidirectional, transposed=transposed)
    u = sequence(length)
    K, _ = layer.kernel(length, rate=rate)
    x = u.transpose(1, 2)
    expected = convolve_direct(x, K[:channels], K[channels:] if bidirectional else None)
    expected = (expected + x.unsqueeze(1) * layer.D.unsqueeze(-1)).flatten(1, 2)
    y, state = layer(x if transposed else u, rate=rate)
    assert state is None
    torch.testing.assert_close(y if transposed else y.transpose(1, 2), expected, rtol=1e-9, atol=1e-9)


def test_a_one_directional_layer_is_causal_and_a_bidirectional_one_is_not():
    u = sequence(12)
    later = u.clone()
    later[:, 7:] += 1.0
    for bidirectional in (False, True):
        layer = make(bidirectional=bidirectional)
        change = (layer(later)[0] - layer(u)[0])[:, :7].abs().max()
        assert change > 1e-3 if bidirectional else change < 1e-13


def test_the_backward_half_is_the_forward_half_of_the_reversed_sequence():
    both, ahead = make(bidirectional=True), make()
    with torch.no_grad():
        both.D.zero_()
        ahead.D.zero_()
        ahead.load_state_dict({**both.state_dict(), "kernel.C": both.kernel.C[1:]})
        both.kernel.C[:1] = 0
    u = sequence(17)
    torch.testing.assert_close(both(u)[0], ahead(u.flip(1))[0].flip(1))


def test_reverse_lag_one_shifts_the_backward_half_by_one_sample():
    exact, shifted = make(bidirectional=True), make(bidirectional=True, reverse_lag=1)
    with torch.no_grad():
        for layer in (exact, shifted):
            layer.D.zero_()
            layer.kernel.C[:1] = 0
    u = sequence(11)
    padded = torch.cat([u[:, 1:], torch.zeros_like(u[:, :1])], dim=1)
    torch.testing.assert_close(shifted(u)[0], exact(padded)[0])


@pytest.mark.parametrize("bidirectional", [False, True])
def test_padding_changes_nothing_when_the_lengths_are_given(bidirectional):
    layer = make(bidirectional=bidirectional)
    u = sequence(10)
    lengths = torch.tensor([10, 6])
    y, _ = layer(u, lengths=lengths)
    alone, _ = layer(u[1:, :6])
    torch.testing.assert_close(y[1:, :6], alone)


@few
@given(
    pieces=st.lists(st.integers(1, 12), min_size=1, max_size=4),
    mode=st.sampled_from(["dplr", "diag", "dense"]),
    l_max=st.none() | st.just(9),
)
def test_a_sequence_may_go_through_in_pieces_of_any_length(pieces, mode, l_max):
    layer = make(mode=mode, channels=2, l_max=l_max)
    u = sequence(sum(pieces))
    state = layer.default_state(2)
    parts = []
    for part in u.split(pieces, dim=1):
        y, state = layer(part, state)
        parts.append(y)
    torch.testing.assert_close(torch.cat(parts, 1), layer(u)[0], rtol=1e-8, atol=1e-8)


def test_gradients_flow_through_the_state_from_piece_to_piece():
    layer = make()
    u = sequence(8).requires_grad_()
    _, state = layer(u[:, :4], layer.default_state(2))
    y, _ = layer(u[:, 4:], state)
    (through_pieces,) = torch.autograd.grad(y.square().sum(), u)
    (whole,) = torch.autograd.grad(layer(u)[0][:, 4:].square().sum(), u)
    torch.testing.assert_close(through_pieces, whole, rtol=1e-8, atol=1e-8)


def test_a_prompt_by_convolution_and_the_rest_by_steps():
    layer = make(channels=2)
    u = sequence(15)
    y, state = layer(u[:, :10], layer.default_state(2))
    layer.setup_step()
    outputs = [y]
    for t in range(10, 15):
        y, state = layer.step(u[:, t], state)
        outputs.append(y.unsqueeze(1))
    torch.testing.assert_close(torch.cat(outputs, 1), layer(u)[0], rtol=1e-9, atol=1e-9)


def test_gradients_are_those_of_finite_differences():
    layer = make(d_model=2, d_state=2, bidirectional=True, l_max=5, dt_min=0.1, dt_max=0.5)
    u = sequence(5, d_model=2).requires_grad_()
    names, values = zip(*layer.named_parameters(), strict=True)

    def output(u, *values):
        return torch.func.functional_call(layer, dict(zip(names, values, strict=True)), (u,))[0]

    assert torch.autograd.gradcheck(output, (u, *values))


def test_half_precision_input_comes_back_in_half_precision():
    layer = make(dtype=torch.float32)
    u = sequence(9).to(torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y, _ = layer(u)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), layer(u.float())[0], rtol=0.02, atol=0.02)


def test_the_layer_survives_saving_with_its_kernel_length(tmp_path):
    from safetensors.torch import load_file, save_file

    layer = make(l_max=5)
    u = sequence(12)
    y, _ = layer(u)
    save_file(layer.state_dict(), tmp_path / "layer.safetensors")
    other = make(seed=1)
    other.load_state_dict(load_file(tmp_path / "layer.safetensors"))
    assert torch.equal(other(u)[0], y)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: make(reverse_lag=2), "reverse_lag must be 0 or 1, got 2"),
        (
            lambda: make()(torch.zeros(2, 5, 4)),
            r"u must be \(batch, length, d_model\) with d_model 3, got shape \(2, 5, 4\)",
        ),
        (lambda: make(transposed=True)(torch.zeros(2, 5, 3)), r"u must be \(batch, d_model, length\) with d_model 3"),
        (lambda: make()(torch.zeros(2, 0, 3)), "length must be at least 1, got 0"),
        (
            lambda: make(bidirectional=True)(torch.zeros(2, 5, 3), torch.zeros(2, 3, 3)),
            "state must be None in a bidirectional",
        ),
        (lambda: make(bidirectional=True).setup_step(), "a bidirectional layer cannot be stepped"),
        (
            lambda: make()(torch.zeros(2, 5, 3), torch.zeros(2, 3, 3), lengths=torch.tensor([1, 2])),
            "lengths must be None",
        ),
        (
            lambda: make().step(torch.zeros(2, 4), make().default_state(2)),
            r"u must have shape \(batch, 3\), got \(2, 4\)",
        ),
    ],
)
def test_a_wrong_argument_is_named(call, message, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(ValueError, match=message):
        call()
