import sys

import pytest
import torch
from torch.nn import functional as F

from shared_impl.testing import (
    assert_causal,
    assert_forms_agree,
    assert_permutation_equivariant,
    assert_streaming_equals_batch,
    check_shapes,
)


def inputs(length, dtype):
    generator = torch.Generator().manual_seed(length)
    return {"x": torch.randn(2, length, 3, generator=generator, dtype=dtype)}


def test_equal_forms_agree_and_others_are_named():
    forms = {"slow": lambda x: x * x, "fast": lambda x: x.square()}
    assert_forms_agree(forms, inputs)
    with pytest.raises(AssertionError, match="wrong against slow, length 1, output 0"):
        assert_forms_agree({**forms, "wrong": lambda x: x * x + 1e-6}, inputs)


def test_a_wrong_gradient_is_seen_though_the_values_agree():
    forms = {"slow": lambda x: x * x, "detached": lambda x: x * x.detach()}
    with pytest.raises(AssertionError, match="gradient of x"):
        assert_forms_agree(forms, inputs)
    assert_forms_agree(forms, inputs, gradients=False)


def test_forms_with_two_outputs_are_compared_in_both():
    slow = {"slow": lambda x: (x, x.sum(1)), "fast": lambda x: (x, x.cumsum(1)[:, -1])}
    assert_forms_agree(slow, inputs)
    with pytest.raises(AssertionError, match="output 1"):
        assert_forms_agree({**slow, "wrong": lambda x: (x, 2 * x.sum(1))}, inputs)
    with pytest.raises(ValueError, match="an oracle and at least one other"):
        assert_forms_agree({"slow": lambda x: x}, inputs)


def test_causality():
    x = torch.randn(2, 9, 3)
    assert_causal(lambda x: x.cumsum(1), x)
    with pytest.raises(AssertionError, match="depends on later inputs"):
        assert_causal(lambda x: x.cumsum(1).flip(1), x)
    with pytest.raises(AssertionError, match="later"):
        assert_causal(lambda x: x + 1e-9 * x.roll(-1, 1), x)
    with pytest.raises(AssertionError, match="no input at all"):
        assert_causal(lambda x: x * 0, x)


@pytest.mark.parametrize(
    "peek",
    [
        lambda x: x.flip(1).argmax(1, keepdim=True).to(x),
        lambda x: x.argsort(1).to(x),
        lambda x: x.roll(-1, 1).sign(),
        lambda x: x.mean(1, keepdim=True).detach(),
        lambda x: (x.roll(-1, 1) - x).detach() + x,
    ],
    ids=["argmax", "rank", "sign", "detach", "straight-through"],
)
def test_what_depends_on_the_future_without_a_gradient_is_not_causal(peek):
    torch.manual_seed(0)
    with pytest.raises(AssertionError, match="without a gradient"):
        assert_causal(lambda x: x + peek(x), torch.randn(2, 9, 3))


def test_permutation_equivariance():
    x = torch.randn(5, 3)
    assert_permutation_equivariant(lambda x: F.softmax(x @ x.T, -1) @ x, x, dim=0)
    with pytest.raises(AssertionError):
        assert_permutation_equivariant(lambda x: x.cumsum(0), x, dim=0)
    with pytest.raises(AssertionError, match="nothing is shown"):
        assert_permutation_equivariant(lambda x: torch.ones(5, 2), x, dim=0)
    with pytest.raises(AssertionError, match="nothing is shown"):
        assert_permutation_equivariant(lambda x: x.mean(0, keepdim=True).expand(5, 3), x, dim=0)
    with pytest.raises(AssertionError, match="one element"):
        assert_permutation_equivariant(lambda x: x, x[:1], dim=0)


def test_streaming():
    x = torch.randn(2, 7, 3)

    def step(u, state):
        state = state + u
        return state, state

    assert_streaming_equals_batch(lambda x: x.cumsum(1), step, x, torch.zeros(2, 3))
    with pytest.raises(AssertionError):
        assert_streaming_equals_batch(lambda x: x.cumsum(1), step, x, torch.ones(2, 3))


MODULE = """
from jaxtyping import Float
from torch import Tensor

def double(x: Float[Tensor, "a b"]) -> Float[Tensor, "a b"]:
    return x + x
"""


def test_shapes_are_checked_in_a_package_that_asked_for_it(tmp_path, monkeypatch):
    package = tmp_path / "shapely_impl"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "maths.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    check_shapes("shapely_impl")
    from shapely_impl.maths import double

    assert double(torch.ones(1, 2)).shape == (1, 2)
    with pytest.raises(Exception, match=r"(?i)type-check error.*double"):
        double(torch.ones(3))
    with pytest.raises(RuntimeError, match=r"before the import of shapely_impl\.maths"):
        check_shapes("shapely_impl")
    for name in ("shapely_impl", "shapely_impl.maths"):
        sys.modules.pop(name)
    with pytest.raises(RuntimeError, match="nowhere_impl is not installed"):
        check_shapes("nowhere_impl")
