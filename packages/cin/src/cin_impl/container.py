"""Containers that keep time: stacks, residuals, branches whose delays are aligned."""

import math
from collections import OrderedDict
from collections.abc import Callable
from functools import reduce as fold
from typing import Any

import torch
from torch import Tensor, nn

from .convert import CONTAINERS, continual
from .module import Around, Continual, keep_where
from .pointwise import Delay

__all__ = ["Broadcast", "BroadcastReduce", "Conditional", "Parallel", "Reduce", "Residual", "Sequential", "continual"]


class Sequential(Continual, nn.Sequential):
    """Modules one after another; plain torch.nn modules are converted."""

    def __init__(self, *modules: Any) -> None:
        if len(modules) == 1 and isinstance(modules[0], OrderedDict):
            super().__init__(OrderedDict((name, continual(module)) for name, module in modules[0].items()))
        else:
            super().__init__(*[continual(module) for module in modules])

    def _parts(self) -> list[Any]:
        # _modules, not named_children: that leaves out the second place of a module that stands in two
        return list(self._modules.values())

    @property
    def receptive_field(self) -> int:  # type: ignore[override]
        reach = 1
        for module in reversed(self._parts()):
            reach = module.time_stride * reach + module.receptive_field - module.time_stride
        return reach

    @property
    def time_stride(self) -> int:  # type: ignore[override]
        return math.prod(module.time_stride for module in self._parts())

    def _along(self, of: str) -> int:
        total, stride = 0, 1
        for module in self._parts():
            total += getattr(module, of) * stride
            stride *= module.time_stride
        return total

    @property
    def time_padding(self) -> int:  # type: ignore[override]
        return self._along("time_padding")

    @property
    def delay(self) -> int:
        return self._along("delay")

    @property
    def lost(self) -> int:
        return self._along("lost")

    def advance(self, x: Any, state: dict[str, Any]) -> Any:
        for name, module in self._modules.items():
            x = module.advance(x, state.setdefault(name, {}))  # type: ignore[operator]
            if x is None:
                return None
        return x

    def flush(self, state: dict[str, Any]) -> list[Any]:
        late: list[Any] = []
        for name, module in self._modules.items():
            own = state.setdefault(name, {})
            outputs = [module.advance(x, own) for x in late]  # type: ignore[operator]
            late = [y for y in outputs if y is not None] + module.flush(own)  # type: ignore[operator]
        return late

    def pure(self, x: Any, valid: Tensor, state: Any) -> tuple[Any, Tensor, Any]:
        new = {}
        for name, module in self._modules.items():
            own = None if state is None else state[name]
            x, valid, new[name] = module.pure(x, valid, own)  # type: ignore[operator]
        return x, valid, new


CONTAINERS[nn.Sequential] = lambda children: Sequential(OrderedDict(children))


class Residual(Around, nn.Module):
    """`skip(x) + module(x)`, the skip path delayed until its place is due.

    Args:
        shrink: for modules without padding, whose output is shorter: "centred" adds the middle of the receptive field,
            "lagging" the newest slice of it.
        skip: what the skip path does to a slice, without state (a 1x1 convolution, say); None: nothing.

    Raises:
        ValueError: the module's padding does not keep the length (an even kernel cannot), and no `shrink` is given.
    """

    def __init__(self, module: nn.Module, *, shrink: str | None = None, skip: nn.Module | None = None) -> None:
        super().__init__()
        inner: Any = continual(module)
        self.skip: Any = None if skip is None else continual(skip)
        self.module: Any = inner
        if self.skip is not None and (self.skip.receptive_field, self.skip.time_stride) != (1, 1):
            raise ValueError("skip must act on each slice alone; BroadcastReduce aligns branches with a state")
        lost, reach, padding = inner.lost, inner.receptive_field, inner.time_padding
        if shrink not in (None, "centred", "lagging"):
            raise ValueError(f"shrink must be None, 'centred' or 'lagging', got {shrink!r}")
        if shrink is None and lost:
            raise ValueError(
                f"a residual needs equal padding: receptive field {reach} (odd) and padding {(reach - 1) / 2:g}, "
                f"got padding {padding}; or shrink="
            )
        if shrink == "centred" and lost % 2:
            raise ValueError(f"shrink='centred' needs an odd receptive field, got {reach}")
        if shrink == "lagging" and padding:
            raise ValueError(f"shrink='lagging' needs a module without padding, got {padding}")
        self.shrink = shrink
        self._offset = {None: 0, "centred": lost // 2, "lagging": inner.delay}[shrink]

    def _inner(self) -> Any:
        return self.module

    def forward(self, x: Tensor) -> Tensor:
        y = self.module(x)
        x = x[:, :, self._offset :: self.time_stride][:, :, : y.shape[2]]
        return y + (x if self.skip is None else self.skip(x))  # type: ignore[no-any-return]

    @property
    def _held(self) -> int:
        return self.delay - self._offset

    def _add(self, x: Tensor, y: Tensor) -> Tensor:
        return y + (x if self.skip is None else self.skip.advance(x, {}))  # type: ignore[no-any-return]

    def advance(self, x: Tensor, state: dict[str, Any]) -> Tensor | None:
        held = self._held
        if not state:
            state.update(t=0, out=0, module={})
            if held:
                state["ring"] = x.new_zeros(held + 1, *x.shape)
        if held:
            state["ring"][state["t"] % (held + 1)] = x
        state["t"] += 1
        y = self.module.advance(x, state["module"])
        if y is None:
            return None
        state["out"] += 1
        return self._add(state["ring"][(state["t"] - 1 - held) % (held + 1)] if held else x, y)

    def flush(self, state: dict[str, Any]) -> list[Any]:
        if not state:
            return []
        late = self.module.flush(state["module"])
        places = [(state["out"] + i) * self.time_stride + self._offset for i in range(len(late))]
        return [self._add(state["ring"][i % (self._held + 1)], y) for i, y in zip(places, late, strict=True)]

    def pure(self, x: Tensor, valid: Tensor, state: Any) -> tuple[Tensor, Tensor, Any]:
        if state is None:
            state = {"window": x.new_zeros(self._held + 1, *x.shape), "module": None}
        window = torch.cat([state["window"][1:], x[None]])
        y, due, inner = self.module.pure(x, valid, state["module"])
        new = {"window": keep_where(valid, window, state["window"]), "module": inner}
        return self._add(window[0], y), due, new


def _aligned(branches: Any) -> list[Sequential]:
    """Branches behind delays such that all give their outputs at once.

    Raises:
        ValueError: branches differ in stride, or in what they add to the length of a clip.
    """
    modules: list[Any] = [continual(branch) for branch in branches]
    if not modules:
        raise ValueError("branches must not be empty")
    strides = [module.time_stride for module in modules]
    if len(set(strides)) > 1:
        raise ValueError(f"branches must have equal strides in time, got {strides}")
    lengths = [module.lost for module in modules]
    if len(set(lengths)) > 1:
        raise ValueError(f"branches must shorten a clip equally (padding (R - 1) / 2 keeps its length), got {lengths}")
    most = max(module.delay for module in modules)
    return [Sequential(Delay(most - module.delay), module) for module in modules]


_REDUCTIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "sum": torch.add,
    "mul": torch.mul,
    "max": torch.maximum,
    "concat": lambda a, b: torch.cat([a, b], 1),
}


def _reduction(name: str) -> Callable[[Any], Any]:
    if name not in _REDUCTIONS:
        raise ValueError(f"reduce must be one of {', '.join(_REDUCTIONS)}, got {name!r}")
    if name == "concat":
        return lambda parts: torch.cat(list(parts), 1)
    return lambda parts: fold(_REDUCTIONS[name], parts)


class Broadcast(Continual, nn.Module):
    """One stream to `n` equal ones."""

    def __init__(self, n: int) -> None:
        super().__init__()
        if n < 1:
            raise ValueError(f"n must be at least 1, got {n}")
        self.n = n

    def forward(self, x: Tensor) -> list[Tensor]:
        return [x] * self.n

    on_slice = forward


class Reduce(Continual, nn.Module):
    """Several streams to one: sum, mul, max or concat (over channels)."""

    def __init__(self, reduce: str = "sum") -> None:
        super().__init__()
        self.reduce = reduce
        self._function = _reduction(reduce)

    def forward(self, x: Any) -> Tensor:
        return self._function(x)  # type: ignore[no-any-return]

    on_slice = forward


class Parallel(Around, nn.Module):
    """A branch for each of several streams; delays are aligned by themselves."""

    def __init__(self, *branches: nn.Module) -> None:
        super().__init__()
        self.branches = nn.ModuleList(_aligned(branches))

    def _inner(self) -> Any:
        return max(self.branches, key=lambda branch: branch.receptive_field)  # type: ignore[arg-type,return-value]

    @property
    def time_padding(self) -> int:  # type: ignore[override]
        return int(self.receptive_field - 1 - self.delay)

    def _inputs(self, x: Any) -> Any:
        if not isinstance(x, list | tuple) or len(x) != len(self.branches):
            got = len(x) if isinstance(x, list | tuple) else type(x).__name__
            raise ValueError(f"x must be a list of {len(self.branches)} streams, got {got}")
        return x

    def forward(self, x: Any) -> Any:
        return [branch(part) for branch, part in zip(self.branches, self._inputs(x), strict=True)]

    def advance(self, x: Any, state: dict[str, Any]) -> Any:
        outputs = []
        for i, (branch, part) in enumerate(zip(self.branches, self._inputs(x), strict=True)):
            outputs.append(branch.advance(part, state.setdefault(str(i), {})))  # type: ignore[operator]
        return None if outputs[0] is None else outputs

    def flush(self, state: dict[str, Any]) -> list[Any]:
        late = [branch.flush(state.setdefault(str(i), {})) for i, branch in enumerate(self.branches)]  # type: ignore[operator]
        return [list(parts) for parts in zip(*late, strict=True)]

    def pure(self, x: Any, valid: Tensor, state: Any) -> tuple[Any, Tensor, Any]:
        outputs, new, due = [], {}, valid
        for i, (branch, part) in enumerate(zip(self.branches, self._inputs(x), strict=True)):
            y, due, new[str(i)] = branch.pure(part, valid, None if state is None else state[str(i)])  # type: ignore[operator]
            outputs.append(y)
        return outputs, due, new


class BroadcastReduce(Sequential):
    """Branches of one stream, reduced to one: `Sequential(Broadcast, Parallel, Reduce)`."""

    def __init__(self, *branches: nn.Module, reduce: str = "sum") -> None:
        super().__init__(Broadcast(len(branches)), Parallel(*branches), Reduce(reduce))


class Conditional(Around, nn.Module):
    """One of two modules, as `predicate(x)` says of each clip or slice.

    Both are stepped, so that neither has a stale state when its turn comes; the output is the chosen one's.
    """

    def __init__(self, predicate: Callable[[Tensor], bool], on_true: nn.Module, on_false: nn.Module) -> None:
        super().__init__()
        self.predicate = predicate
        self.both = Parallel(on_true, on_false)

    def _inner(self) -> Any:
        return self.both

    def forward(self, x: Tensor) -> Tensor:
        return self.both.branches[0 if self.predicate(x) else 1](x)  # type: ignore[no-any-return]

    def advance(self, x: Tensor, state: dict[str, Any]) -> Any:
        state["chosen"] = 0 if self.predicate(x) else 1
        outputs = self.both.advance([x, x], state.setdefault("both", {}))
        return None if outputs is None else outputs[state["chosen"]]

    def flush(self, state: dict[str, Any]) -> list[Any]:
        return [parts[state["chosen"]] for parts in self.both.flush(state["both"])] if state else []

    def pure(self, x: Tensor, valid: Tensor, state: Any) -> tuple[Any, Tensor, Any]:
        (a, b), due, new = self.both.pure([x, x], valid, state)
        return torch.where(torch.as_tensor(self.predicate(x), device=x.device), a, b), due, new
