"""The chunkwise form: every path through it gives the oracle's values and gradients."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gla_impl import chunk as chunk_module
from gla_impl import decay
from gla_impl.chunk import gla_chunk
from gla_impl.recurrent import gla_recurrent
from shared_impl.testing import assert_forms_agree

GATES = {
    "mild": lambda x: -0.2 * torch.rand_like(x),
    "strong": lambda x: -8 * torch.rand_like(x),
    "mixed": lambda x: -30 * torch.rand_like(x) ** 8,
    "forgetful": lambda x: torch.where(torch.rand_like(x) < 0.1, -torch.inf, -0.1),
}


def make(length, dtype, *, gate="mild", beta=None, width=None, dk=6, dv=5, heads=2, batch=2):
    keys = torch.randn(3, batch, length, heads, dk, dtype=dtype)
    v = torch.randn(batch, length, heads, dv, dtype=dtype)
    inputs = {"q": keys[0], "k": keys[1], "v": v, "log_alpha": GATES[gate](keys[2][..., :width])}
    if beta:
        inputs["log_beta"] = GATES[beta](v)
    return inputs | {"initial_state": torch.randn(batch, heads, dk, dv, dtype=dtype)}


def form(function, **options):
    return lambda **inputs: function(**inputs, output_final_state=True, **options)


def agree(make_inputs, *, lengths, chunk, sub, **tolerances):
    forms = {"recurrent": form(gla_recurrent)}
    for schedule in ("materialise", "sequential"):
        forms[schedule] = form(gla_chunk, chunk=chunk, sub=sub, schedule=schedule)
    assert_forms_agree(forms, make_inputs, lengths=lengths, **tolerances)


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("beta", [None, "mild", "mixed"])
def test_gates_of_any_strength_agree_with_the_oracle(gate, beta):
    agree(
        lambda length, dtype: make(length, dtype, gate=gate, beta=beta),
        lengths=(1, 33),
        chunk=16,
        sub=4,
        rtol=1e-10,
        atol=1e-10,
    )


@pytest.mark.parametrize("gate", ["mild", "mixed"])
def test_scalar_gates_agree_with_the_oracle(gate):
    agree(
        lambda length, dtype: make(length, dtype, gate=gate, width=1),
        lengths=(1, 33),
        chunk=16,
        sub=4,
        rtol=1e-10,
        atol=1e-10,
    )


def test_scalar_path_equals_the_vector_path_with_equal_channels():
    inputs = make(50, torch.float64, width=1)
    narrow = gla_chunk(**inputs, chunk=16, sub=8)[0]
    inputs["log_alpha"] = inputs["log_alpha"].expand(2, 50, 2, 6)
    torch.testing.assert_close(gla_chunk(**inputs, chunk=16, sub=8)[0], narrow, rtol=1e-12, atol=1e-12)


@given(
    length=st.integers(1, 70),
    blocks=st.integers(1, 4),
    sub=st.integers(1, 9),
    dk=st.integers(1, 9),
    dv=st.integers(1, 9),
    gate=st.sampled_from(list(GATES)),
)
@settings(max_examples=15, deadline=None)
def test_any_length_chunk_and_head_size_agree(length, blocks, sub, dk, dv, gate):
    agree(
        lambda length, dtype: make(length, dtype, gate=gate, dk=dk, dv=dv, batch=1),
        lengths=(length,),
        chunk=blocks * sub,
        sub=sub,
        rtol=1e-10,
        atol=1e-10,
    )


@pytest.mark.parametrize(("dk", "dv"), [(60, 24), (24, 60)])
def test_awkward_head_sizes_agree_in_float32(dk, dv):
    agree(
        lambda length, dtype: make(length, dtype, dk=dk, dv=dv, batch=1),
        lengths=(65,),
        chunk=64,
        sub=16,
        dtype=torch.float32,
        rtol=2e-5,
        atol=5e-4,  # dlog alpha sums q dq - k dk over positions and 60 channels: values of order 100
    )


@pytest.mark.parametrize("chunks_at_a_time", [1, 2, 3])
def test_long_sequences_are_worked_on_a_few_chunks_at_a_time(chunks_at_a_time, monkeypatch):
    """How many depends on the size of a chunk, to stay in a processor's cache; here a chunk is 2 x 2 x 4 x 6."""
    monkeypatch.setattr(chunk_module, "_SPAN_ELEMENTS", 96 * chunks_at_a_time)
    agree(
        lambda length, dtype: make(length, dtype, gate="mixed", beta="mild"),
        lengths=(19,),
        chunk=4,
        sub=2,
        rtol=1e-10,
        atol=1e-10,
    )


def test_the_three_ways_through_a_chunk_are_all_taken(monkeypatch):
    """Which factorisation runs is decided by the gates; the agreement tests above must reach each."""
    taken = []
    for name in ("ScalarDecay", "MildDecay", "StrongDecay", "_exact_scores"):
        original = getattr(decay, name)

        def record(*arguments, original=original, name=name):
            taken.append(name)
            return original(*arguments)

        monkeypatch.setattr(decay, name, record)
    for gate, width, expected in (
        ("mild", 1, {"ScalarDecay"}),
        ("mild", None, {"MildDecay"}),
        ("strong", None, {"StrongDecay"}),
        ("mixed", None, {"StrongDecay", "_exact_scores"}),
    ):
        taken.clear()
        torch.manual_seed(1)
        gla_chunk(**make(64, torch.float64, gate=gate, width=width), chunk=64, sub=4)
        assert set(taken) == expected, gate


@pytest.mark.parametrize(("gate", "schedule"), [("mixed", "materialise"), ("mild", "sequential")])
def test_gradients_pass_finite_differences(gate, schedule):
    inputs = make(5, torch.float64, gate=gate, beta="mild", dk=2, dv=2, heads=1, batch=1)
    log_alpha, log_beta = inputs.pop("log_alpha"), inputs.pop("log_beta")
    names = [*inputs, "log_alpha", "log_beta"]
    tensors = [x.requires_grad_() for x in (*inputs.values(), log_alpha, log_beta)]

    def run(*tensors):
        return gla_chunk(
            **dict(zip(names, tensors, strict=True)),
            output_final_state=True,
            chunk=4,
            sub=2,
            schedule=schedule,
            validate=False,  # a finite difference may push a gate above 1
        )

    assert torch.autograd.gradcheck(run, tensors, eps=1e-6, atol=1e-8)


def test_gradient_through_the_final_state_alone():
    inputs = make(9, torch.float64)
    found = {}
    for name, function in (("recurrent", gla_recurrent), ("chunk", gla_chunk)):
        leaves = {key: x.clone().requires_grad_() for key, x in inputs.items()}
        function(**leaves, output_final_state=True)[1].square().sum().backward()
        found[name] = {key: x.grad for key, x in leaves.items() if x.grad is not None}
    assert not found["chunk"].pop("q").any()
    found["recurrent"].pop("q", None)
    assert found["chunk"].keys() == found["recurrent"].keys()
    for key, expected in found["recurrent"].items():
        torch.testing.assert_close(found["chunk"][key], expected)


def test_operands_that_need_no_gradient_get_none():
    inputs = make(9, torch.float64)
    inputs["k"].requires_grad_()
    output, _ = gla_chunk(**inputs)
    output.sum().backward()
    assert inputs["k"].grad.any()
    assert all(inputs[name].grad is None for name in inputs if name != "k")


def test_second_derivative_is_refused_with_the_reason():
    inputs = {name: x.requires_grad_() for name, x in make(5, torch.float64).items()}
    output, _ = gla_chunk(**inputs)
    (first,) = torch.autograd.grad(output.square().sum(), inputs["q"], create_graph=True)
    with pytest.raises(RuntimeError, match="first derivatives only; for second derivatives use gla_recurrent"):
        torch.autograd.grad(first.sum(), inputs["k"])


def test_no_state_is_kept_for_the_backward_pass():
    """What the graph holds is the operands: nothing of size (chunks, dk, dv)."""
    inputs = {name: x.requires_grad_() for name, x in make(64, torch.float64, dk=8, dv=8).items()}
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x):
        gla_chunk(**inputs, chunk=4, sub=4)
    assert sum(x.numel() for x in kept) <= sum(x.numel() for x in inputs.values())


def test_results_of_both_schedules_are_the_same_in_float32():
    inputs = make(100, torch.float32)
    batched = gla_chunk(**inputs, chunk=16, sub=8)[0]
    torch.testing.assert_close(gla_chunk(**inputs, chunk=16, sub=8, schedule="sequential")[0], batched)
