import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from gla_impl import GatedLinearAttention, gla_recurrent
from shared_impl.testing import assert_causal, assert_streaming_equals_batch

GATES = ("vector", "scalar", "fixed", "none", "outer")


def make(gate="vector", variant="fla", d_model=32, n_heads=2, **options):
    return GatedLinearAttention(d_model, n_heads, gate=gate, variant=variant, **options).double()


@pytest.mark.parametrize("variant", ["fla", "paper"])
def test_layer_is_the_equations_of_section_4_4_written_out(variant):
    layer = make(variant=variant, d_model=32, n_heads=2)
    x = torch.randn(2, 21, 32, dtype=torch.float64)
    alpha = torch.sigmoid(x @ layer.gate_proj[0].weight.T @ layer.gate_proj[1].weight.T + layer.gate_proj[1].bias) ** (
        1 / 16
    )
    q, k, v = x @ layer.q_proj.weight.T, x @ layer.k_proj.weight.T, x @ layer.v_proj.weight.T
    q, k = (q / 8**0.5, k) if variant == "fla" else (q, k / 16**0.5)
    heads = []
    for head in range(2):
        key, value = slice(8 * head, 8 * head + 8), slice(16 * head, 16 * head + 16)
        state = torch.zeros(2, 8, 16, dtype=torch.float64)
        outputs = []
        for t in range(21):
            state = alpha[:, t, key, None] * state + k[:, t, key, None] * v[:, t, None, value]
            outputs.append((q[:, t, None, key] @ state)[:, 0])
        o = torch.stack(outputs, 1)
        if variant == "fla":
            heads.append(o / (o.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt())
        else:
            o = o - o.mean(-1, keepdim=True)
            heads.append(o / (o.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt())
    r = x @ layer.r_proj.weight.T + (layer.r_proj.bias if variant == "paper" else 0)
    expected = (F.silu(r) * torch.cat(heads, -1)) @ layer.o_proj.weight.T
    # a head norm multiplies rounding by the inverse of the small norms before it
    torch.testing.assert_close(layer(x)[0], expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("variant", ["fla", "paper"])
def test_reading_token_by_token_gives_what_reading_at_once_gives(gate, variant):
    layer = make(gate, variant)
    x = torch.randn(2, 70, 32, dtype=torch.float64)
    y, final = layer(x)
    state, outputs = None, []
    for t in range(70):
        out, state = layer.step(x[:, t], state)
        outputs.append(out)
    torch.testing.assert_close(torch.stack(outputs, 1), y, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(state, final, rtol=1e-11, atol=1e-11)


@settings(max_examples=15, deadline=None)
@given(length=st.integers(2, 150), data=st.data(), gate=st.sampled_from(GATES))
def test_a_sequence_may_be_cut_anywhere(length, data, gate):
    cut = data.draw(st.integers(1, length - 1))
    layer = make(gate)
    x = torch.randn(1, length, 32, dtype=torch.float64)
    y, final = layer(x)
    first, state = layer(x[:, :cut])
    second, state = layer(x[:, cut:], state)
    torch.testing.assert_close(torch.cat([first, second], 1), y, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(state, final, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("gate", GATES)
def test_no_output_depends_on_a_later_input(gate):
    layer = make(gate)
    assert_causal(lambda x: layer(x)[0], torch.randn(1, 40, 32, dtype=torch.float64))


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_on_either_side_changes_neither_outputs_nor_state(gate, side):
    layer = make(gate)
    short = torch.randn(1, 20, 32, dtype=torch.float64)
    padding = torch.full((1, 13, 32), 7.0, dtype=torch.float64)
    parts = [padding, short] if side == "left" else [short, padding]
    mask = torch.zeros(1, 33, dtype=torch.bool)
    real = slice(13, 33) if side == "left" else slice(0, 20)
    mask[:, real] = True
    y, state = layer(torch.cat(parts, 1), attention_mask=mask)
    expected, expected_state = layer(short)
    torch.testing.assert_close(y[:, real], expected, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(state, expected_state, rtol=1e-11, atol=1e-11)


def test_infinite_padding_does_not_leak():
    layer = make()
    x = torch.randn(1, 6, 32, dtype=torch.float64)
    mask = torch.tensor([[1, 1, 1, 1, 0, 0]])
    _, state = layer(x, attention_mask=mask)
    torch.testing.assert_close(state, layer(x[:, :4])[1])


def test_parameters_are_about_four_d_squared():
    d = 1024
    layer = GatedLinearAttention(d, 4)
    count = sum(p.numel() for p in layer.parameters())
    # q and k: d^2 / 2 each; v, output gate, output: d^2 each; the low-rank gate: 16 d + 16 d/2 + d/2
    assert count == 4 * d**2 + 16 * d + 16 * d // 2 + d // 2 + d // 4
    assert 1.0 < count / (4 * d**2) < 1.01


def test_state_does_not_grow_with_the_sequence():
    layer = GatedLinearAttention(32, 2)
    sizes = {layer(torch.randn(1, length, 32))[1].numel() for length in (1, 10, 300)}
    assert sizes == {2 * 8 * 16}


def test_gates_begin_at_the_memory_that_tau_sets():
    layer = GatedLinearAttention(64, 2)
    with torch.no_grad():
        log_alpha = layer._inputs(torch.zeros(1, 1, 64))[3]
    # sigmoid(0)^(1/16) = 0.958: half-life 16 steps, 1/e after 23
    torch.testing.assert_close(log_alpha.exp(), torch.full_like(log_alpha, 0.5 ** (1 / 16)))


def test_fixed_gate_is_the_retention_recurrence():
    layer = make("fixed", d_model=32, n_heads=2)
    x = torch.randn(1, 30, 32, dtype=torch.float64)
    q, k, v, _, _ = layer._inputs(x)
    gamma = torch.tensor([1 - 2**-5, 1 - 2**-6], dtype=torch.float64)
    steps = torch.arange(30)
    lag = (steps[:, None] - steps).clamp_min(0)
    decay = gamma[:, None, None] ** lag * torch.ones(30, 30, dtype=torch.float64).tril()
    o = torch.einsum("bihd,bjhd,hij,bjhv->bihv", q, k, decay, v)
    torch.testing.assert_close(layer._output(o, x), layer(x)[0], rtol=1e-5, atol=1e-8)


def test_no_gate_is_linear_attention():
    layer = make("none")
    x = torch.randn(2, 30, 32, dtype=torch.float64)
    q, k, v, log_alpha, _ = layer._inputs(x)
    assert log_alpha is None
    o = torch.einsum("bihd,bjhd,bjhv->bihv", q, k, v * 1.0) * 0
    scores = torch.einsum("bihd,bjhd->bhij", q, k).tril()
    o = o + torch.einsum("bhij,bjhv->bihv", scores, v)
    torch.testing.assert_close(layer._output(o, x), layer(x)[0], rtol=1e-11, atol=1e-11)


def test_outer_gate_decays_keys_and_values():
    layer = make("outer")
    x = torch.randn(1, 30, 32, dtype=torch.float64)
    q, k, v, log_alpha, log_beta = layer._inputs(x)
    state = torch.zeros(1, 2, 8, 16, dtype=torch.float64)
    outputs = []
    for t in range(30):
        gate = log_alpha[:, t].exp()[..., :, None] * log_beta[:, t].exp()[..., None, :]
        state = gate * state + k[:, t, :, :, None] * v[:, t, :, None, :]
        outputs.append((q[:, t, :, None] @ state)[:, :, 0])
    torch.testing.assert_close(layer._output(torch.stack(outputs, 1), x), layer(x)[0], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("gate", GATES)
def test_every_parameter_gets_a_gradient(gate):
    layer = GatedLinearAttention(32, 2, gate=gate)
    layer(torch.randn(2, 40, 32))[0].square().sum().backward()
    for name, parameter in layer.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_gradient_flows_through_the_carried_state():
    layer = make()
    x = torch.randn(1, 10, 32, dtype=torch.float64, requires_grad=True)
    _, state = layer(x)
    y, _ = layer(torch.randn(1, 5, 32, dtype=torch.float64), state)
    y.sum().backward()
    assert x.grad.abs().sum() > 0


def test_gradients_are_those_of_the_recurrent_form(monkeypatch):
    layer = make()
    x = torch.randn(2, 50, 32, dtype=torch.float64, requires_grad=True)
    layer(x)[0].square().sum().backward()
    fast = [p.grad.clone() for p in (x, *layer.parameters())]
    for p in (x, *layer.parameters()):
        p.grad = None
    monkeypatch.setattr("gla_impl.layer.gla_chunk", gla_recurrent)
    layer(x)[0].square().sum().backward()
    for a, p in zip(fast, (x, *layer.parameters()), strict=True):
        torch.testing.assert_close(a, p.grad, rtol=1e-5, atol=1e-8)


def test_bfloat16_stays_close_to_float32():
    layer = GatedLinearAttention(64, 2)
    with torch.no_grad():
        for p in layer.parameters():
            p.copy_(p.bfloat16())
        x = torch.randn(1, 200, 64).bfloat16()
        exact, _ = layer(x.float())
        rough, state = layer.bfloat16()(x)
    assert rough.dtype == torch.bfloat16
    assert state.dtype == torch.float32
    assert (rough.float() - exact).norm() / exact.norm() < 0.02


def test_initial_weights_have_the_spread_that_the_paper_gives():
    layer = GatedLinearAttention(256, 4)
    bound = 2**-2.5 * (6 / (256 + 128)) ** 0.5
    assert layer.q_proj.weight.abs().max() <= bound
    assert layer.q_proj.weight.abs().max() > 0.95 * bound
    assert abs(layer.v_proj.weight.std().item() - 0.02) < 0.001
    assert isinstance(layer.gate_proj, nn.Sequential)
    assert layer.gate_proj[1].bias.abs().max() == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gate": "sigmoid"}, "gate must be one of vector, scalar, fixed, none, outer, got 'sigmoid'"),
        ({"variant": "other"}, "variant must be fla or paper, got 'other'"),
        ({"n_heads": 5}, "expand_k \\* d_model must be a positive multiple of n_heads"),
        ({"expand_v": 0.01}, "expand_v \\* d_model must be a positive multiple"),
        ({"tau": 0.0}, "tau must be positive, got 0.0"),
    ],
)
def test_bad_settings_are_named(options, message):
    from jaxtyping import TypeCheckError

    with pytest.raises((ValueError, TypeCheckError)) as caught:
        GatedLinearAttention(**{"d_model": 32, "n_heads": 4, **options})
    if isinstance(caught.value, ValueError):
        import re

        assert re.search(message, str(caught.value))


def test_bad_inputs_are_named():
    layer = GatedLinearAttention(32, 2)
    with pytest.raises(ValueError, match=r"x must be \(batch, length, 32\), got \(1, 4, 31\)"):
        layer(torch.randn(1, 4, 31))
    with pytest.raises(ValueError, match="length 0"):
        layer(torch.randn(1, 0, 32))
    with pytest.raises(ValueError, match=r"state must be \(1, 2, 8, 16\), got \(1, 2, 8, 15\)"):
        layer(torch.randn(1, 4, 32), torch.zeros(1, 2, 8, 15))


def test_streaming_helper_agrees_for_the_default_layer():
    layer = make()
    x = torch.randn(2, 33, 32, dtype=torch.float64)
    assert_streaming_equals_batch(
        lambda z: layer(z)[0], layer.step, x, layer.initial_state(2, dtype=torch.float64), rtol=1e-11, atol=1e-11
    )
