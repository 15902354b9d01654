"""The operators' contract: layouts, types, states, and one clear error for each thing that does not fit."""

import math
import re

import jaxtyping
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gla_impl.chunk import gla_chunk
from gla_impl.parallel import gla_parallel
from gla_impl.recurrent import gla_recurrent, gla_step
from shared_impl.testing import assert_streaming_equals_batch

FORMS = [gla_recurrent, gla_parallel, gla_chunk]


def operands(length=5, batch=2, heads=3, dk=4, dv=6, dtype=torch.float64):
    q, k, alpha = torch.randn(3, batch, length, heads, dk, dtype=dtype).unbind(0)
    v = torch.randn(batch, length, heads, dv, dtype=dtype)
    return q, k, v, torch.nn.functional.logsigmoid(alpha)


@pytest.fixture
def unchecked_shapes():
    """Bad input as a user meets it: without the shape checks that the tests install on annotations."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def test_recurrent_form_is_the_papers_equation():
    q, k, v, log_alpha = operands()
    output, state = gla_recurrent(q, k, v, log_alpha, None, True)
    for b in range(2):
        for h in range(3):
            S = torch.zeros(4, 6, dtype=torch.float64)
            for t in range(5):
                S = torch.diag(log_alpha[b, t, h].exp()) @ S + torch.outer(k[b, t, h], v[b, t, h])
                torch.testing.assert_close(output[b, t, h], q[b, t, h] @ S)
            torch.testing.assert_close(state[b, h], S)


def test_outer_gate_is_an_outer_product_on_the_state():
    q, k, v, log_alpha = operands()
    log_beta = -torch.rand_like(v)
    output, _ = gla_recurrent(q, k, v, log_alpha, log_beta=log_beta)
    S = torch.zeros(4, 6, dtype=torch.float64)
    for t in range(5):
        gate = torch.outer(log_alpha[1, t, 2].exp(), log_beta[1, t, 2].exp())
        S = gate * S + torch.outer(k[1, t, 2], v[1, t, 2])
        torch.testing.assert_close(output[1, t, 2], q[1, t, 2] @ S)


def test_steps_equal_the_whole_sequence():
    q, k, v, log_alpha = operands(length=9)
    packed = torch.cat((q, k, v, log_alpha), dim=-1)

    def split(x):
        return x.split((4, 4, 6, 4), dim=-1)

    assert_streaming_equals_batch(
        lambda x: gla_chunk(*split(x), chunk=4, sub=2)[0],
        lambda x, state: gla_step(*split(x), state),
        packed,
        torch.zeros(2, 3, 4, 6, dtype=torch.float64),
        rtol=1e-12,
        atol=1e-12,
    )


def test_step_leaves_its_state_alone():
    q, k, v, log_alpha = (x[:, 0] for x in operands())
    state = torch.randn(2, 3, 4, 6, dtype=torch.float64)
    before = state.clone()
    _, after = gla_step(q, k, v, log_alpha, state)
    assert torch.equal(state, before)
    assert not torch.equal(after, before)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("width", [1, 4])
def test_gates_broadcast_over_batch_length_and_channels(form, width):
    q, k, v, _ = operands()
    gate = -torch.rand(1, 1, 3, width, dtype=torch.float64)
    full = gate.expand(2, 5, 3, 4)
    expected, state = gla_recurrent(q, k, v, full, None, True)
    output, final = form(q, k, v, gate, None, True)
    torch.testing.assert_close(output, expected)
    torch.testing.assert_close(final, state)


@pytest.mark.parametrize("form", FORMS)
def test_gradient_of_a_broadcast_gate_has_its_shape(form):
    q, k, v, _ = operands()
    gate = -torch.rand(1, 1, 3, 1, dtype=torch.float64)
    wide = gate.expand(2, 5, 3, 4).clone().requires_grad_()
    gla_recurrent(q, k, v, wide)[0].square().sum().backward()
    gate.requires_grad_()
    form(q, k, v, gate)[0].square().sum().backward()
    torch.testing.assert_close(gate.grad, wide.grad.sum((0, 1, 3)).view(1, 1, 3, 1))


@pytest.mark.parametrize("form", FORMS)
def test_state_is_returned_only_when_asked_for(form):
    q, k, v, log_alpha = operands()
    assert form(q, k, v, log_alpha)[1] is None
    assert form(q, k, v, log_alpha, None, True)[1].shape == (2, 3, 4, 6)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_operands_are_computed_in_float32(form, dtype):
    """The only error against float64 on the same rounded operands is the rounding of the output."""
    q, k, v, log_alpha = operands(length=40, dtype=torch.float32)
    q, k, v = (x.to(dtype) for x in (q, k, v))
    output, state = form(q, k, v, log_alpha, None, True)
    assert output.dtype == dtype
    assert state.dtype == torch.float32
    expected, expected_state = gla_recurrent(q.double(), k.double(), v.double(), log_alpha.double(), None, True)
    epsilon = torch.finfo(dtype).eps
    torch.testing.assert_close(output.double(), expected, rtol=epsilon, atol=1e-4)
    torch.testing.assert_close(state.double(), expected_state, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("form", FORMS)
def test_gradients_come_back_in_the_types_of_the_operands(form):
    q, k, v, log_alpha = (x.requires_grad_() for x in operands(dtype=torch.float32))
    halves = [x.detach().bfloat16().requires_grad_() for x in (q, k, v)]
    state = torch.randn(2, 3, 4, 6, dtype=torch.bfloat16, requires_grad=True)
    output, final = form(*halves, log_alpha, state, True)
    (output.float().sum() + final.sum()).backward()
    assert all(x.grad.dtype == torch.bfloat16 for x in (*halves, state))
    assert log_alpha.grad.dtype == torch.float32


@given(data=st.data())
@settings(max_examples=10, deadline=None)
def test_every_form_takes_any_strides(data):
    """Operands cut out of one projection, as layers do, are not contiguous."""
    length = data.draw(st.integers(1, 20))
    packed = torch.randn(2, length, 3, 18, dtype=torch.float64)
    q, k, v, gate = packed.split((4, 4, 6, 4), dim=-1)
    log_alpha = torch.nn.functional.logsigmoid(gate)
    expected = gla_recurrent(q.contiguous(), k.contiguous(), v.contiguous(), log_alpha)[0]
    for form in FORMS:
        torch.testing.assert_close(form(q, k, v, log_alpha)[0], expected)


BAD = {
    "q must have 4 axes (batch, length, heads, dim), got shape (2, 5, 12)": lambda x: x | {"q": x["q"].flatten(2)},
    "k must have the shape of q, (2, 5, 3, 4), got (2, 4, 3, 4)": lambda x: x | {"k": x["k"][:, 1:]},
    "v must have shape (2, 5, 3, any), got (2, 5, 2, 6)": lambda x: x | {"v": x["v"][:, :, 1:]},
    "log_alpha must have shape (2, 5, 3, 4), or 1 in place of any axis, got (2, 5, 3, 2)": lambda x: (
        x | {"log_alpha": x["log_alpha"][..., :2]}
    ),
    "initial_state must have shape (2, 3, 4, 6) (batch, heads, key dim, value dim), got (3, 4, 6)": (
        lambda x: x | {"initial_state": torch.zeros(3, 4, 6, dtype=torch.float64)}
    ),
    "every axis must have at least one element, got q (2, 0, 3, 4) and v (2, 0, 3, 6)": lambda x: {
        name: tensor[:, :0] for name, tensor in x.items()
    },
    "q, k and v must have one floating-point dtype, got torch.float64, torch.float32 and torch.float64": (
        lambda x: x | {"k": x["k"].float()}
    ),
    "log_alpha is the logarithm of a gate in [0, 1] and must be at most 0, got a value of 0.5": lambda x: (
        x | {"log_alpha": torch.full_like(x["log_alpha"], 0.5)}
    ),
    "log_alpha is the logarithm of a gate in [0, 1] and must be at most 0, got NaN": lambda x: (
        x | {"log_alpha": _with(x["log_alpha"], math.nan)}
    ),
    "q must be finite, got NaN or infinity": lambda x: x | {"q": _with(x["q"], math.nan)},
    "k must be finite, got NaN or infinity": lambda x: x | {"k": _with(x["k"], math.inf)},
    "v must be finite, got NaN or infinity": lambda x: x | {"v": _with(x["v"], -math.inf)},
}


def _with(x, value):
    x = x.clone()
    x.view(-1)[7] = value
    return x


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("message", BAD)
@pytest.mark.usefixtures("unchecked_shapes")
def test_bad_input_is_one_clear_error(form, message):
    arguments = dict(zip(("q", "k", "v", "log_alpha"), operands(), strict=True))
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        form(**BAD[message](arguments))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"chunk": 24, "sub": 16}, "chunk must be a positive multiple of sub = 16, got 24"),
        ({"chunk": 0}, "chunk must be a positive multiple of sub = 16, got 0"),
        ({"sub": 0}, "sub must be a positive integer, got 0"),
        ({"schedule": "random"}, "schedule must be 'materialise' or 'sequential', got 'random'"),
        ({"backend": "cuda"}, "backend must be 'auto', 'torch' or 'triton', got 'cuda'"),
    ],
)
@pytest.mark.usefixtures("unchecked_shapes")
def test_bad_options_are_one_clear_error(options, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        gla_chunk(*operands(), **options)


def test_values_are_not_looked_at_when_told_so():
    q, k, v, log_alpha = operands()
    output, _ = gla_chunk(_with(q, math.nan), k, v, log_alpha, validate=False)
    assert output.isnan().any()


def test_sums_that_overflow_are_not_mistaken_for_infinity():
    q, k, v, log_alpha = operands(dtype=torch.float32)
    output, _ = gla_chunk(q * 1e-30, k, torch.full_like(v, 3e37), log_alpha)
    assert output.isfinite().all()
