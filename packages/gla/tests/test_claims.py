"""The paper's statements about the operator, one test each. Tolerances were set before the first run."""

import pytest
import torch

from gla_impl.chunk import gla_chunk
from gla_impl.gates import fixed_gate
from gla_impl.parallel import gla_parallel
from gla_impl.recurrent import gla_recurrent, gla_step
from shared_impl.testing import assert_causal, assert_forms_agree

CHUNKS = [(64, 16), (16, 16), (48, 12)]
LENGTHS = (1, 63, 64, 65, 160)


def make(length, dtype, *, dk=16, dv=24, heads=2):
    """Operands of the size that a layer gives: keys scaled, gates like a layer's at the start of training."""
    q, k, logits = torch.randn(3, 1, length, heads, dk, dtype=dtype).unbind(0)
    return {
        "q": q * dk**-0.5,
        "k": k,
        "v": torch.randn(1, length, heads, dv, dtype=dtype),
        "log_alpha": torch.nn.functional.logsigmoid(logits) / 16,
        "initial_state": torch.randn(1, heads, dk, dv, dtype=dtype),
    }


def form(function, **options):
    return lambda **inputs: function(**inputs, output_final_state=True, **options)


def every_form():
    forms = {"recurrent": form(gla_recurrent), "parallel": form(gla_parallel)}
    for chunk, sub in CHUNKS:
        for schedule in ("materialise", "sequential"):
            forms[f"chunk {chunk}/{sub} {schedule}"] = form(gla_chunk, chunk=chunk, sub=sub, schedule=schedule)
    return forms


def test_claim_1_recurrent_parallel_and_chunked_forms_agree():
    """Values to 1e-10 in float64 and 2e-5 in float32, whether or not chunk and sub-block divide the length."""
    assert_forms_agree(every_form(), make, lengths=LENGTHS, rtol=1e-10, atol=1e-10, gradients=False)
    assert_forms_agree(
        every_form(),
        make,
        dtype=torch.float32,
        lengths=LENGTHS,
        rtol=2e-5,
        atol=2e-5,
        gradients=False,
    )


def test_claim_2_closed_form_gradients_equal_autograd_and_finite_differences():
    assert_forms_agree(every_form(), make, lengths=(65,), rtol=1e-8, atol=1e-8)
    inputs = [x.requires_grad_() for x in make(5, torch.float64, dk=2, dv=2, heads=1).values()]

    def run(*inputs):
        return gla_chunk(*inputs, True, chunk=4, sub=2)

    assert torch.autograd.gradcheck(run, inputs, eps=1e-6, atol=1e-8)


def test_claim_3_gates_of_one_give_linear_attention_and_a_fixed_scalar_gives_retnet():
    """Against both written as attention matrices: (QK^T . M) V and (QK^T . D) V with D_ij = gamma^(i-j)."""
    inputs = make(70, torch.float64, heads=4)
    q, k, v = (inputs[name].transpose(1, 2) for name in ("q", "k", "v"))
    scores = q @ k.mT
    position = torch.arange(70, dtype=torch.float64)
    distance = position[:, None] - position
    linear = (scores * (distance >= 0)) @ v
    gamma = (1 - 2.0 ** (-5 - torch.arange(4, dtype=torch.float64)))[:, None, None]
    retention = (scores * torch.where(distance >= 0, gamma ** distance.clamp(min=0), 0)) @ v
    for function in (gla_recurrent, gla_parallel, gla_chunk):
        for gate in (None, torch.zeros(1, 70, 4, 16, dtype=torch.float64)):
            output = function(inputs["q"], inputs["k"], inputs["v"], gate)[0].transpose(1, 2)
            torch.testing.assert_close(output, linear, rtol=1e-10, atol=1e-10)
        output = function(inputs["q"], inputs["k"], inputs["v"], fixed_gate(4))[0].transpose(1, 2)
        # fixed_gate is float32
        torch.testing.assert_close(output, retention, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("function", [gla_recurrent, gla_parallel, gla_chunk])
def test_claim_4_splitting_a_sequence_with_carried_state_changes_nothing(function):
    """Neither outputs nor gradients, wherever the cuts are."""
    inputs = make(100, torch.float64)
    results = []
    for cuts in ((100,), (1, 62, 37), (64, 36), (50, 50)):
        leaves = {name: x.clone().requires_grad_() for name, x in inputs.items()}
        state, outputs = leaves["initial_state"], []
        pieces = zip(*(leaves[name].split(cuts, dim=1) for name in ("q", "k", "v", "log_alpha")), strict=True)
        for piece in pieces:
            output, state = function(*piece, state, True)
            outputs.append(output)
        output = torch.cat(outputs, dim=1)
        (output.square().sum() + state.square().sum()).backward()
        results.append([output, state, *(x.grad for x in leaves.values())])
    for result in results[1:]:
        for actual, expected in zip(result, results[0], strict=True):
            torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("log_gate", [-30.0, 0.0, "mixed"])
def test_claim_5_extreme_gates_stay_finite_and_exact(dtype, log_gate):
    """log alpha = -30 and 0 in every channel, and both beside each other, forward and backward."""
    inputs = make(130, torch.float64)
    if log_gate == "mixed":
        inputs["log_alpha"] = torch.where(torch.rand_like(inputs["log_alpha"]) < 0.5, -30.0, 0.0)
    else:
        inputs["log_alpha"] = torch.full_like(inputs["log_alpha"], log_gate)
    results = []
    for function, used in ((gla_recurrent, torch.float64), (gla_chunk, dtype), (gla_parallel, dtype)):
        leaves = {name: x.detach().to(used).requires_grad_() for name, x in inputs.items()}
        output, state = function(**leaves, output_final_state=True)
        (output.sum() + state.sum()).backward()
        results.append([output, state, *(x.grad for x in leaves.values())])
    for result in results[1:]:
        for actual, expected in zip(result, results[0], strict=True):
            assert actual.isfinite().all()
            error = (actual.double() - expected).norm() / expected.norm().clamp(min=1e-3)
            assert error < (1e-10 if dtype == torch.float64 else 2e-5)


def test_claim_5_dividing_by_cumulative_gates_overflows_where_the_chunked_form_does_not():
    """The form with K / B at length 2048, gates of a layer at the start of training."""
    inputs = make(2048, torch.float32, dk=8, dv=4, heads=1)
    q, k, v, log_alpha = (inputs[name][0, :, 0] for name in ("q", "k", "v", "log_alpha"))
    b = log_alpha.cumsum(0).exp()
    naive = ((q * b) @ (k / b).T).tril() @ v
    assert not naive.isfinite().all()
    del inputs["initial_state"]
    output, _ = gla_chunk(**inputs)
    expected, _ = gla_recurrent(**{name: x.double() for name, x in inputs.items()})
    torch.testing.assert_close(output.double(), expected, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("function", [gla_recurrent, gla_parallel, gla_chunk])
def test_claim_6_no_output_depends_on_later_inputs(function):
    inputs = make(70, torch.float64)
    sizes = [inputs[name].shape[-1] for name in ("q", "k", "v", "log_alpha")]

    def run(packed):
        q, k, v, gate = packed.split(sizes, dim=-1)
        return function(q, k, v, -gate.abs())[0]

    assert_causal(run, torch.cat([inputs[name] for name in ("q", "k", "v", "log_alpha")], dim=-1))


def test_claim_7_state_bytes_do_not_depend_on_the_length():
    sizes = set()
    for length in (1, 64, 2048):
        inputs = make(length, torch.float32)
        _, state = gla_chunk(**inputs, output_final_state=True)
        steps = {name: x[:, 0] for name, x in inputs.items() if name != "initial_state"}
        _, stepped = gla_step(**steps, initial_state=state)
        sizes |= {x.untyped_storage().nbytes() for x in (state, stepped)}
    assert sizes == {2 * 16 * 24 * 4}  # heads, dk, dv, bytes
