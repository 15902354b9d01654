import pytest
import torch

from shared_impl.testing import assert_forms_agree
from state_tracking_impl import (
    gla_recurrent,
    gla_scan,
    linear_scan,
    matrix_scan,
    selective_scan,
    selective_scan_recurrent,
)
from state_tracking_impl.scan import linear_scan_recurrent

LENGTHS = (1, 2, 16, 17, 60, 300)


def draw(*shape, dtype=torch.float64, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def test_the_scan_agrees_with_its_oracle_for_factors_of_any_sign_and_zero():
    def make(length, dtype):
        a = torch.tanh(draw(2, length, 3, dtype=dtype))
        a[:, ::5] = 0
        return {"a": a, "b": draw(2, length, 3, dtype=dtype, seed=1), "initial": draw(2, 3, dtype=dtype, seed=2)}

    assert_forms_agree({"recurrent": linear_scan_recurrent, "scan": linear_scan}, make, lengths=LENGTHS)


def test_the_scan_of_matrices_agrees_with_stepping():
    a, b, h = 0.5 * draw(2, 70, 3, 3), draw(2, 70, 3, 1, seed=1), draw(2, 3, 1, seed=2)
    y = matrix_scan(a, b, h)
    for t in range(70):
        h = a[:, t] @ h + b[:, t]
        torch.testing.assert_close(y[:, t], h)


@pytest.mark.parametrize("negative", [False, True])
def test_both_forms_of_the_selective_scan_agree_with_gradients(negative):
    def make(length, dtype):
        return {
            "u": draw(2, length, 3, dtype=dtype),
            "delta": draw(2, length, 3, dtype=dtype, seed=1).abs(),
            "A": -draw(3, 4, dtype=dtype, seed=2).abs(),
            "B": draw(2, length, 4, dtype=dtype, seed=3),
            "C": draw(2, length, 4, dtype=dtype, seed=4),
            "D": draw(3, dtype=dtype, seed=5),
            "initial_state": draw(2, 3, 4, dtype=dtype, seed=6),
        }

    forms = {
        "recurrent": lambda **x: selective_scan_recurrent(**x, negative=negative),
        "scan": lambda **x: selective_scan(**x, negative=negative),
    }
    assert_forms_agree(forms, make, lengths=(1, 2, 17, 40))


def test_the_gradient_of_a_negative_factor_is_the_factor_plus_one():
    log_a = torch.tensor([-0.3, -2.0], dtype=torch.float64, requires_grad=True)
    one, u = torch.ones(1, 1, 2, dtype=torch.float64), torch.zeros(1, 1, 2, dtype=torch.float64)
    state = torch.ones(1, 2, 1, dtype=torch.float64)
    _, h = selective_scan(u, one, log_a[:, None], one[..., :1], one[..., :1], None, state, negative=True)
    (gradient,) = torch.autograd.grad(h.sum(), log_a)
    torch.testing.assert_close(gradient, h.flatten() + 1)


def test_gates_of_either_sign_agree_in_both_forms():
    def make(length, dtype):
        q, k = draw(2, 1, length, 2, 3, dtype=dtype).unbind(0)
        return {
            "q": q,
            "k": k,
            "v": draw(1, length, 2, 4, dtype=dtype, seed=1),
            "alpha": torch.tanh(draw(1, length, 2, 3, dtype=dtype, seed=2)),
            "initial_state": draw(1, 2, 3, 4, dtype=dtype, seed=3),
        }

    assert_forms_agree({"recurrent": gla_recurrent, "scan": gla_scan}, make, lengths=(1, 2, 17, 40))


def test_bad_operands_are_refused():
    u = torch.zeros(1, 2, 3)
    with pytest.raises(ValueError, match="A must be at most 0"):
        selective_scan(u, u, torch.ones(3, 1), u[..., :1], u[..., :1])
    with pytest.raises(ValueError, match="delta must not be negative"):
        selective_scan(u, u - 1, -torch.ones(3, 1), u[..., :1], u[..., :1])
    with pytest.raises(ValueError, match="eig_range must be"):
        selective_scan(u, u, -torch.ones(3, 1), u[..., :1], u[..., :1], eig_range=(1.0, -1.0))
    with pytest.raises(ValueError, match="at least one token"):
        selective_scan(u[:, :0], u[:, :0], -torch.ones(3, 1), u[:, :0, :1], u[:, :0, :1])
    x = torch.zeros(1, 2, 1, 3)
    with pytest.raises(ValueError, match=r"alpha must be in \[-1, 1\]"):
        gla_scan(x, x, x, x + 1.5)
