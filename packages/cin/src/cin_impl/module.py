"""What every continual module has: the bookkeeping of time, explicit state, and three ways to be called.

A module takes `(batch, channels, time, *space)` as a clip and `(batch, channels, *space)` as one slice of it. Two
forms of a step: the eager one keeps its state in place, counts with Python's integers and returns None where no output
is due; the functional one (`step`) is pure, counts with tensors, and says by a boolean whether its output is valid.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

__all__ = ["Continual", "clone_state", "initial_state", "state_bytes", "step"]


def clone_state(state: Any) -> Any:
    """A copy of a state that shares no memory with it."""
    return tree_map(lambda value: value.clone() if isinstance(value, Tensor) else value, state)


def state_bytes(state: Any) -> int:
    """Bytes of all tensors in a state."""
    return sum(value.numel() * value.element_size() for value in tree_leaves(state) if isinstance(value, Tensor))


def _parts(x: Any) -> Any:
    """Streams of a module that takes several, or its only one."""
    return x if isinstance(x, list | tuple) else [x]


def is_due(t: Any, delay: int, stride: int) -> Any:
    """Whether the slice number `t` (from 0; an integer or a tensor) completes an output."""
    if isinstance(t, int):
        return t >= delay and (t - delay) % stride == 0
    return (t >= delay) & ((t - delay) % stride == 0)


class Continual:
    """The interface; a mixin in front of an `nn.Module`. By itself it is pointwise in time: what it does to a clip it
    does to each slice, without state."""

    receptive_field: Any = 1
    """R = k + (k - 1)(d - 1): slices that one output depends on"""
    time_stride: Any = 1
    time_padding: Any = 0
    _state: Any = None
    _like: Any = None

    @property
    def delay(self) -> int:
        """Steps before the first output: R - 1 - p."""
        return int(self.receptive_field - 1 - self.time_padding)

    @property
    def lost(self) -> int:
        """Slices by which a clip grows shorter (without stride): R - 1 - 2 p."""
        return int(self.receptive_field - 1 - 2 * self.time_padding)

    # the parts that a module defines

    def on_slice(self, x: Any) -> Any:
        """What a pointwise module does to one slice."""
        raise NotImplementedError

    def advance(self, x: Any, state: dict[str, Any]) -> Any:
        """One eager step; changes `state` (empty at first) in place; None where no output is due."""
        return self.on_slice(x)

    def flush(self, state: dict[str, Any]) -> list[Any]:
        """The outputs that the padding at the end of a clip completes."""
        return []

    def pure(self, x: Any, valid: Tensor, state: Any) -> tuple[Any, Tensor, Any]:
        """One functional step: (y, valid, new state); `state=None` begins a stream."""
        return self.on_slice(x), valid, {}

    # what a user calls

    @property
    def state(self) -> Any:
        """The state of the stream under way (None before its first slice): nested dictionaries of tensors."""
        return self._state

    def clean_state(self) -> None:
        """Forget the stream: the next slice begins another."""
        self._state = self._like = None

    def forward_step(self, x: Any, update_state: bool = True) -> Any:
        """One slice in, `(batch, channels, *space)`; one slice out, or None before `delay` and between strides.

        Gradients do not flow through the state in place: `cin_impl.step` is the form to differentiate.

        Args:
            update_state: False answers what the next output would be and leaves the state as it was.

        Raises:
            ValueError: the module is in training mode; the slice has another shape or type than the stream began with.
        """
        like = self._check(x)
        return self._run(like, update_state, lambda state: self.advance(x, state))

    def _run(self, like: Any, update_state: bool, run: Callable[[Any], Any]) -> Any:
        """`run(state)`; a stream whose step fails half-way has no state that could be trusted, and is forgotten."""
        state = {} if self._state is None else self._state
        if not update_state:
            state = clone_state(state)
        try:
            with torch.no_grad():
                y = run(state)
        except BaseException:
            if update_state:
                self.clean_state()
            raise
        if update_state:
            self._state, self._like = state, like
        return y

    def forward_steps(self, x: Any, pad_end: bool = False, update_state: bool = True) -> Any:
        """Several slices, `(batch, channels, time, *space)`; their outputs stacked in time, or None if none is due.

        Args:
            pad_end: add the padding at the end that `forward` adds; it does not enter the state.
        """
        parts = _parts(x)
        if any(part.ndim < 3 for part in parts):
            raise ValueError(f"x must be (batch, channels, time, ...), got shape {tuple(parts[0].shape)}")
        length = parts[0].shape[2]
        if not length:
            return None

        def at(t: int) -> Any:
            return [part[:, :, t] for part in x] if isinstance(x, list | tuple) else x[:, :, t]

        def run(state: Any) -> list[Any]:
            outputs = [y for t in range(length) if (y := self.advance(at(t), state)) is not None]
            return outputs + self.flush(clone_state(state)) if pad_end else outputs

        outputs = self._run(self._check(at(0)), update_state, run)
        if not outputs:
            return None
        if isinstance(outputs[0], list):
            return [torch.stack(column, dim=2) for column in zip(*outputs, strict=True)]
        return torch.stack(outputs, dim=2)

    def _check(self, x: Any) -> Any:
        """The shapes and types of a slice that is right for this stream."""
        if isinstance(self, nn.Module) and self.training:
            raise ValueError("steps keep their state in place and need eval(); to train, use forward or cin_impl.step")
        for part in _parts(x):
            if not isinstance(part, Tensor) or part.ndim < 2:
                shape = tuple(part.shape) if isinstance(part, Tensor) else type(part).__name__
                raise ValueError(f"x must be a slice (batch, channels, ...), got {shape}")
        like = _signature(x)
        if self._like is not None and like != self._like:
            raise ValueError(
                f"x must be as the stream began, {_said(self._like)}, got {_said(like)}; "
                "clean_state() begins another stream"
            )
        return like


class Windowed(Continual):
    """What looks at the last `span` slices. In the pure form it keeps them all and moves them by one; eagerly it keeps
    what `_push` needs. Padding is slices of `_fill`."""

    _fill = 0.0

    @property
    def _span(self) -> int:
        return int(self.receptive_field)

    def _keep(self, x: Tensor) -> Tensor:
        """What is kept of a slice."""
        return x

    def _of_window(self, window: Tensor, x: Tensor, t: Tensor) -> Tensor:
        """The output of what was kept of the last slices, `(span, batch, ...)`, oldest first; x is slice number t."""
        raise NotImplementedError

    def _push(self, kept: Tensor, x: Tensor, state: dict[str, Any], due: bool) -> Tensor | None:
        """An eager step; the slice is number `state["t"]`, `_begin` has run at the first."""
        raise NotImplementedError

    def _begin(self, kept: Tensor, state: dict[str, Any]) -> None:
        raise NotImplementedError

    def advance(self, x: Tensor, state: dict[str, Any]) -> Tensor | None:
        return self._advance(self._keep(x), x, state)

    def _advance(self, kept: Tensor, x: Tensor, state: dict[str, Any]) -> Tensor | None:
        if not state:
            state.update(t=0, shape=tuple(kept.shape), edge=kept.new_full((), self._fill))
            self._begin(kept, state)
        y = self._push(kept, x, state, is_due(state["t"], self.delay, self.time_stride))
        state["t"] += 1
        return y

    def flush(self, state: dict[str, Any]) -> list[Any]:
        if not state:
            return []
        edge = state["edge"].expand(state["shape"])
        return [y for _ in range(self.time_padding) if (y := self._advance(edge, edge, state)) is not None]

    def pure(self, x: Tensor, valid: Tensor, state: Any) -> tuple[Tensor, Tensor, Any]:
        kept = self._keep(x)
        if state is None:
            t = torch.zeros((), dtype=torch.int64, device=x.device)
            state = {"t": t, "window": kept.new_full((self._span, *kept.shape), self._fill)}
        t, window = state["t"], torch.cat([state["window"][1:], kept[None]])
        new = {"t": t + valid, "window": torch.where(valid, window, state["window"])}
        return self._of_window(window, x, t), valid & is_due(t, self.delay, self.time_stride), new


class Around(Continual):
    """Takes its time from the module inside, `_inner()`, and is that module in steps."""

    receptive_field = property(lambda self: self._inner().receptive_field)
    time_stride = property(lambda self: self._inner().time_stride)
    time_padding = property(lambda self: self._inner().time_padding)
    delay = property(lambda self: self._inner().delay)
    lost = property(lambda self: self._inner().lost)

    def _inner(self) -> Any:
        raise NotImplementedError

    def advance(self, x: Any, state: dict[str, Any]) -> Any:
        return self._inner().advance(x, state)

    def flush(self, state: dict[str, Any]) -> list[Any]:
        return list(self._inner().flush(state))

    def pure(self, x: Any, valid: Tensor, state: Any) -> tuple[Any, Tensor, Any]:
        y, due, new = self._inner().pure(x, valid, state)
        return y, due, new


def _signature(x: Any) -> Any:
    return [(tuple(part.shape), part.dtype) for part in _parts(x)]


def _said(signature: Any) -> str:
    return " and ".join(f"{shape} {dtype}" for shape, dtype in signature)


def _checked(module: nn.Module) -> Any:
    if not isinstance(module, Continual):
        raise ValueError(f"module must be continual, got {type(module).__name__}; cin_impl.continual converts")
    return module


def initial_state(module: nn.Module, x: Any) -> Any:
    """The state before the first slice, for `step`; `x` is any slice of the right shape."""
    with torch.no_grad():
        return _checked(module).pure(x, torch.zeros((), dtype=torch.bool, device=_parts(x)[0].device), None)[2]


class _Pure(nn.Module):
    """`pure` under the name `forward`, which functional_call runs."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Any, valid: Tensor, state: Any) -> tuple[Any, Tensor, Any]:
        return self.module.pure(x, valid, state)  # type: ignore[operator,no-any-return]


def step(module: nn.Module, params: Any, state: Any, x: Any) -> tuple[tuple[Any, Tensor], Any]:
    """One step as a pure function: `((y, valid), state)`; differentiable, and taken by torch.compile and torch.export.

    Args:
        module: a continual module, in eval mode.
        params: its parameters and buffers by name (`dict(module.named_parameters())` and buffers), or None for its own.
        state: of `initial_state(module, x)` or of the step before.
        x: one slice.

    Returns:
        `valid` is a boolean scalar; where it is false, `y` means nothing.
    """
    if _checked(module).training:
        raise ValueError("step needs a module in eval mode, got one in training mode")
    valid = torch.ones((), dtype=torch.bool, device=_parts(x)[0].device)
    if params is None:
        y, valid, state = _checked(module).pure(x, valid, state)
    else:
        named = {f"module.{name}": value for name, value in params.items()}
        y, valid, state = torch.func.functional_call(_Pure(module), named, (x, valid, state))
    return (y, valid), state
