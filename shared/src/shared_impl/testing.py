"""Assertions that the tests of many papers need."""

import importlib.util
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

import torch
from torch import Tensor

__all__ = [
    "assert_causal",
    "assert_forms_agree",
    "assert_permutation_equivariant",
    "assert_streaming_equals_batch",
    "check_shapes",
]

State = TypeVar("State")


def check_shapes(package: str) -> None:
    """Check the jaxtyping annotations of a package at every call from now on; call it before the package is imported.

    Raises:
        RuntimeError: if one of the package's modules is imported already (its functions would go unchecked).
    """
    from jaxtyping import install_import_hook

    early = [name for name in sys.modules if name.startswith(f"{package}.")]
    if early:
        raise RuntimeError(f"check_shapes must come before the import of {', '.join(sorted(early))}")
    if importlib.util.find_spec(package) is None:
        raise RuntimeError(f"{package} is not installed")
    install_import_hook(package, "beartype.beartype")


def assert_forms_agree(
    forms: Mapping[str, Callable[..., Tensor | tuple[Tensor, ...]]],
    make_inputs: Callable[[int, torch.dtype], Mapping[str, Tensor]],
    *,
    dtype: torch.dtype = torch.float64,
    lengths: Iterable[int] = (1, 2, 63, 64, 65),
    rtol: float = 1e-9,
    atol: float = 1e-9,
    gradients: bool = True,
) -> None:
    """All forms give the first one's values, and the same gradients with respect to every floating input.

    Args:
        forms: name to function of keyword tensors; the first is the oracle.
        make_inputs: from a length and a dtype, the keyword tensors.

    Raises:
        AssertionError: names the form, the length and the tensor that differ.
    """
    oracle, *others = forms
    if not others:
        raise ValueError("forms needs an oracle and at least one other form")
    for length in lengths:
        inputs = make_inputs(length, dtype)
        expected = _outputs_and_gradients(forms[oracle], inputs, gradients)
        for name in others:
            actual = _outputs_and_gradients(forms[name], inputs, gradients)
            assert actual.keys() == expected.keys(), f"{name} returns {[*actual]}, {oracle} returns {[*expected]}"
            for what, value in expected.items():
                torch.testing.assert_close(
                    actual[what],
                    value,
                    rtol=rtol,
                    atol=atol,
                    msg=lambda text, name=name, length=length, what=what: (
                        f"{name} against {oracle}, length {length}, {what}: {text}"
                    ),
                )


def assert_causal(
    fn: Callable[[Tensor], Tensor], x: Tensor, *, dim: int = 1, rtol: float = 1e-4, atol: float = 1e-5
) -> None:
    """No output depends on a later input, by gradients and by values.

    The gradient of an output with respect to later inputs must be exactly 0. As outputs may depend on the future
    without a gradient (by an argmax, a rank, a sign, a detach), later inputs are also replaced: by others, by larger
    ones, by their own in reverse order. Positions checked: first, last but one, and three between.
    """
    length = x.shape[dim]
    assert length > 1, "a sequence of one step cannot show causality"
    x = x.detach().requires_grad_()
    y = fn(x)
    assert y.shape[dim] == length, f"fn maps length {length} to {y.shape[dim]}"
    others = (torch.randn_like, lambda t: 10 * torch.randn_like(t), lambda t: t.flip(dim), torch.zeros_like)
    for position in sorted({0, length // 4, length // 2, 3 * length // 4, length - 2}):
        picked = y.select(dim, position)
        (gradient,) = torch.autograd.grad((picked * torch.randn_like(picked)).sum(), x, retain_graph=True)
        later = gradient.narrow(dim, position + 1, length - position - 1)
        assert torch.count_nonzero(later) == 0, f"output {position} depends on later inputs: {later.abs().max():.3g}"
        now = gradient.narrow(dim, 0, position + 1)
        assert torch.count_nonzero(now) > 0, f"output {position} depends on no input at all"
        for other in others:
            with torch.no_grad():
                changed = x.detach().clone()
                tail = changed.narrow(dim, position + 1, length - position - 1)
                tail.copy_(other(tail.clone()))
                again = fn(changed).narrow(dim, 0, position + 1)
            torch.testing.assert_close(
                again,
                y.detach().narrow(dim, 0, position + 1),
                rtol=rtol,
                atol=atol,
                msg=lambda text, at=position: (
                    f"outputs up to {at} change with later inputs, without a gradient: {text}"
                ),
            )


def assert_permutation_equivariant(
    fn: Callable[[Tensor], Tensor],
    x: Tensor,
    *,
    dim: int,
    rtol: float = 1e-5,
    atol: float = 1e-6,
    seed: int = 0,
) -> None:
    """Permuting the input along `dim` permutes the output alike; outputs that are all the same show nothing."""
    generator = torch.Generator().manual_seed(seed)
    n = x.shape[dim]
    assert n > 1, "one element cannot show equivariance"
    with torch.no_grad():
        y = fn(x)
        assert y.shape[dim] == n, f"fn maps {n} elements to {y.shape[dim]}"
        spread = (y - y.narrow(dim, 0, 1)).abs().max()
        assert spread > atol + rtol * y.abs().max(), "the output is the same for every element: nothing is shown"
        for _ in range(3):
            order = torch.randperm(n, generator=generator)
            if torch.equal(order, torch.arange(n)):
                order = order.roll(1)
            expected = y.index_select(dim, order)
            torch.testing.assert_close(fn(x.index_select(dim, order)), expected, rtol=rtol, atol=atol)


def assert_streaming_equals_batch(
    batch_fn: Callable[[Tensor], Tensor],
    step_fn: Callable[[Tensor, State], tuple[Tensor, State]],
    x: Tensor,
    state: State,
    *,
    dim: int = 1,
    rtol: float = 1e-5,
    atol: float = 1e-6,
) -> None:
    """Feeding `x` step by step from `state` gives the outputs of the whole sequence at once."""
    outputs = []
    with torch.no_grad():
        expected = batch_fn(x)
        for u in x.unbind(dim):
            y, state = step_fn(u, state)
            outputs.append(y)
        torch.testing.assert_close(torch.stack(outputs, dim), expected, rtol=rtol, atol=atol)


def _outputs_and_gradients(
    fn: Callable[..., Tensor | tuple[Tensor, ...]], inputs: Mapping[str, Tensor], gradients: bool
) -> dict[str, Tensor]:
    leaves = {
        name: x.detach().clone().requires_grad_(gradients and x.is_floating_point()) for name, x in inputs.items()
    }
    result = fn(**leaves)
    outputs = [y for y in (result if isinstance(result, tuple) else (result,)) if y is not None]
    found = {f"output {i}": y.detach() for i, y in enumerate(outputs)}
    if not gradients:
        return found
    # the same random weights for every form; outputs alike in shape draw alike
    generator = torch.Generator().manual_seed(0)
    loss = torch.zeros((), dtype=torch.float64)
    for y in outputs:
        weight = torch.randn(y.shape, generator=generator, dtype=torch.float64).to(y.device)
        loss = loss.to(y.device) + (y.double() * weight).sum()
    wanted = [name for name, x in leaves.items() if x.requires_grad]
    values = torch.autograd.grad(loss, [leaves[name] for name in wanted], allow_unused=True)
    for name, value in zip(wanted, values, strict=True):
        found[f"gradient of {name}"] = torch.zeros_like(leaves[name]) if value is None else value
    return found
