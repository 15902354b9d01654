import pytest
import torch

from gla_impl.chunk import gla_chunk
from gla_impl.gates import fixed_gate, no_gate, outer_gate, scalar_gate, vector_gate
from gla_impl.recurrent import gla_recurrent


def test_fixed_gate_is_retnets_schedule():
    gamma = fixed_gate(4).double().exp().flatten()
    torch.testing.assert_close(
        gamma, torch.tensor([31 / 32, 63 / 64, 127 / 128, 255 / 256], dtype=torch.float64), rtol=1e-7, atol=0
    )


def test_vector_gate_is_a_root_of_a_sigmoid():
    logits = torch.randn(2, 3, 4, 5)
    torch.testing.assert_close(vector_gate(logits, tau=16.0).exp(), logits.sigmoid() ** (1 / 16))
    with pytest.raises(ValueError, match="tau must be positive, got 0"):
        vector_gate(logits, tau=0.0)


def test_scalar_gate_decays_by_rate_times_step():
    step, rate = torch.randn(2, 3, 4), torch.rand(4)
    expected = (-rate * torch.nn.functional.softplus(step)).exp().unsqueeze(-1)
    torch.testing.assert_close(scalar_gate(step, rate.log()).exp(), expected)


@pytest.mark.parametrize("size", [-300.0, 300.0])
def test_gates_are_valid_logarithms_for_extreme_logits(size):
    logits = torch.full((1, 2, 3, 4), size)
    for gate in (vector_gate(logits), scalar_gate(logits[..., 0], torch.zeros(3)), *outer_gate(logits, logits)):
        assert gate.isfinite().all()
        assert (gate <= 0).all()


def test_gates_stay_float32_for_half_precision_logits():
    logits = torch.randn(1, 2, 3, 4, dtype=torch.bfloat16)
    assert vector_gate(logits).dtype == torch.float32
    assert scalar_gate(logits[..., 0], torch.zeros(3)).dtype == torch.float32


def test_gates_keep_every_digit_of_float64_logits():
    logits = torch.randn(1, 2, 3, 4, dtype=torch.float64)
    expected = logits.sigmoid().log() / 16
    torch.testing.assert_close(vector_gate(logits), expected, rtol=1e-14, atol=0)
    assert scalar_gate(logits[..., 0], torch.zeros(3)).dtype == torch.float64


@pytest.mark.parametrize("kind", ["none", "fixed", "scalar", "vector", "outer"])
def test_every_gate_goes_into_every_form(kind):
    q, k, logits = torch.randn(3, 2, 20, 4, 6, dtype=torch.float64).unbind(0)
    v = torch.randn(2, 20, 4, 3, dtype=torch.float64)
    gates = {
        "none": lambda: (no_gate(4), None),
        "fixed": lambda: (fixed_gate(4), None),
        "scalar": lambda: (scalar_gate(logits[..., 0], torch.zeros(4)), None),
        "vector": lambda: (vector_gate(logits), None),
        "outer": lambda: outer_gate(logits, v),
    }
    log_alpha, log_beta = gates[kind]()
    expected, _ = gla_recurrent(q, k, v, log_alpha, log_beta=log_beta)
    output, _ = gla_chunk(q, k, v, log_alpha, log_beta=log_beta, chunk=8, sub=4)
    torch.testing.assert_close(output, expected, rtol=1e-10, atol=1e-10)
    ungated, _ = gla_recurrent(q, k, v, None)
    assert torch.allclose(expected, ungated) == (kind == "none")
