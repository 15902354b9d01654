"""Containers that keep time (stacks, residuals, branches whose delays are aligned), and `continual(module)`: a tree of
torch.nn modules as the same network in steps, with the same parameters."""

import copy
import math
from collections import OrderedDict
from collections.abc import Callable, Mapping
from functools import partial
from functools import reduce as fold
from itertools import accumulate
from operator import mul
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from . import conv, pointwise, pool
from .module import Around, Continual
from .pointwise import Delay, Flatten, Lambda, Pointwise

__all__ = [
    "Broadcast", "BroadcastReduce", "CannotBeContinual", "Conditional", "Parallel", "Reduce", "Residual", "Sequential",
    "continual", "load_in_order",
]  # fmt: skip


class Sequential(Continual, nn.Sequential):
    """Modules one after another; plain torch.nn modules are converted."""

    def add_module(self, name: str, module: nn.Module | None) -> None:
        super().add_module(name, continual(module))  # type: ignore[arg-type]

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
        strides = accumulate((module.time_stride for module in self._parts()), mul, initial=1)
        return sum(getattr(module, of) * stride for module, stride in zip(self._parts(), strides))  # noqa: B905

    time_padding = property(lambda self: self._along("time_padding"))
    delay = property(lambda self: self._along("delay"))
    lost = property(lambda self: self._along("lost"))

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
        return self._sum(y, x if self.skip is None else self.skip(x))

    @staticmethod
    def _sum(y: Tensor, x: Tensor) -> Tensor:
        if y.shape != x.shape:
            raise ValueError(f"module must keep the shape {tuple(x.shape)}, got {tuple(y.shape)}; give a fitting skip=")
        return y + x

    @property
    def _held(self) -> int:
        return self.delay - self._offset

    def _add(self, x: Tensor, y: Tensor) -> Tensor:
        return self._sum(y, x if self.skip is None else self.skip.advance(x, {}))

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
        new = {"window": torch.where(valid, window, state["window"]), "module": inner}
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


_REDUCTIONS: dict[str, Callable[[Any], Tensor]] = {
    "sum": partial(fold, torch.add),
    "mul": partial(fold, torch.mul),
    "max": partial(fold, torch.maximum),
    "concat": partial(torch.cat, dim=1),
}


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
        if reduce not in _REDUCTIONS:
            raise ValueError(f"reduce must be one of {', '.join(_REDUCTIONS)}, got {reduce!r}")
        self.reduce = reduce

    def forward(self, x: Any) -> Tensor:
        return _REDUCTIONS[self.reduce](x)

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


class CannotBeContinual(ValueError):
    """The module depends on the whole clip in a way that no finite state can follow."""


_TWINS: dict[type, Any] = {
    getattr(nn, name): getattr(module, name)
    for module in (conv, pool, pointwise)
    for name in module.__all__
    if hasattr(nn, name) and name != "Flatten"
}

_ELEMENTWISE = (
    nn.Identity, nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.CELU, nn.SELU, nn.GELU, nn.SiLU, nn.Mish, nn.Tanh,
    nn.Sigmoid, nn.Hardswish, nn.Hardsigmoid, nn.Hardtanh, nn.Softplus, nn.Softsign, nn.Dropout, nn.Dropout1d,
    nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout, nn.Threshold, nn.LogSigmoid, nn.Hardshrink,
    nn.Softshrink, nn.Tanhshrink, nn.RReLU,
)  # fmt: skip

_OVER_A_DIMENSION = (nn.Softmax, nn.LogSoftmax, nn.GLU)

_GLOBAL = (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d)

_REFUSED: dict[Any, str] = {
    (nn.GroupNorm, nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d): "its statistics are of the whole clip",
    (nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d): "its window is the whole clip",
    (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d): "it gives several slices for one",
    (nn.MultiheadAttention, nn.TransformerEncoderLayer, nn.TransformerEncoder): "its window is the whole clip; take "
    "SingleOutputMHA or RetroactiveMHA, which load its weights",
    _OVER_A_DIMENSION: "its dimension is not 1, the channels; take Lambda with a function of slices",
}


def continual(module: nn.Module, *, window: int | None = None) -> nn.Module:
    """The module in steps. Parameters are shared with what came in, so their names and values stay.

    In a tree the layout is `(batch, channels, time, *space)`: `nn.Linear` and `nn.LayerNorm` act on the channels,
    `nn.Flatten` takes space into the channels.

    Args:
        window: slices that a global average pool over time takes from then on.

    Raises:
        CannotBeContinual: a layer needs the whole clip; the message has its place in the tree and the reason.
        ValueError: options of a layer that a stream cannot have.
    """
    return _convert(module, window, "module")


def _convert(module: nn.Module, window: int | None, place: str) -> nn.Module:
    if isinstance(module, Continual):
        return module
    if not isinstance(module, nn.Module):
        raise ValueError(f"{place} must be a torch.nn.Module, got {type(module).__name__}")
    made = _made(module, window, place)
    made.training = module.training
    return made


def _made(module: nn.Module, window: int | None, place: str) -> nn.Module:
    kind = type(module)

    def refusal(reason: str) -> CannotBeContinual:
        return CannotBeContinual(f"{place} ({kind.__name__}) cannot be continual: {reason}")

    if is_parametrized(module):
        raise refusal(
            "its weight is computed at each call; fold it with torch.nn.utils.parametrize.remove_parametrizations"
        )
    if module._forward_pre_hooks or module._forward_hooks:
        raise refusal("it has hooks (weight_norm's is one), which steps do not run; remove them first")
    if kind in _TWINS:
        twin = copy.copy(module)
        twin.__dict__ = dict(module.__dict__)
        twin.__class__ = _TWINS[kind]
        if hasattr(twin, "_settle"):
            try:
                twin._settle()  # type: ignore[operator]
            except ValueError as error:
                raise refusal(str(error)) from error
        if kind in (nn.LayerNorm, nn.RMSNorm) and len(twin.normalized_shape) > 1:  # type: ignore[arg-type]
            raise refusal(f"it normalises over time or space: {twin.normalized_shape}")
        if isinstance(twin, pointwise._Norm) and twin.running_mean is None:
            raise refusal("without running statistics it needs the whole clip")
        return twin
    if kind in _ELEMENTWISE or (kind in _OVER_A_DIMENSION and module.dim == 1):
        return Pointwise(module)
    if kind is nn.Flatten:
        if module.start_dim != 1 or module.end_dim != -1:
            raise refusal(f"it must take all of space into the channels, got {module}")
        return Flatten()
    if kind in _GLOBAL:
        given: Any = module.output_size
        sizes = list(given) if isinstance(given, list | tuple) else [given] * int(kind.__name__[-2])
        if any(size != 1 for size in sizes[1:]) or sizes[0] not in (1, None):
            raise refusal(f"output_size must be 1, or None in time, got {given}")
        if sizes[0] is None:
            return Lambda(partial(_over_space, len(sizes) - 1))
        if window is None:
            raise refusal("its window is the whole clip; give window=")
        return pool.GlobalAvgPool(window)
    if kind is nn.Sequential:
        # _modules, not named_children: that leaves out the second place of a module that stands in two
        parts = {name: _convert(part, window, f"{place}.{name}") for name, part in module._modules.items()}  # type: ignore[arg-type]
        return Sequential(OrderedDict(parts))
    for kinds, reason in _REFUSED.items():
        if isinstance(module, kinds):
            raise refusal(reason)
    raise CannotBeContinual(
        f"{place} ({kind.__name__}) is not known; compose it of cin_impl.nn, or wrap it in Pointwise if it acts on "
        "each slice alone"
    )


def _over_space(n: int, x: Tensor) -> Tensor:
    return x.mean(tuple(range(-n, 0)), keepdim=True)


def load_in_order(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Load weights of the same network under other names (the authors', pytorchvideo's), tensor after tensor.

    Each tensor takes the first of the next two that are left and have its shape, sizes of one aside; counters of batch
    norms are passed over. That is right where both networks list their parts in the order in which they run; whether
    they do, the numbers of a known input tell.

    Raises:
        ValueError: tensors that do not fit one another, or a different number of them; nothing is loaded then.
    """
    own = {name: value for name, value in module.state_dict().items() if not name.endswith("num_batches_tracked")}
    left = [(name, value) for name, value in state.items() if not name.endswith("num_batches_tracked")]
    if len(left) != len(own):
        raise ValueError(f"state must have {len(own)} tensors, got {len(left)}")
    taken: dict[str, Tensor] = {}
    for name, value in own.items():
        shape = [size for size in value.shape if size > 1]
        fits = [i for i, (_, other) in enumerate(left[:2]) if [size for size in other.shape if size > 1] == shape]
        if not fits:
            other, found = left[0]
            raise ValueError(f"state's {other} {tuple(found.shape)} must fit {name} {tuple(value.shape)}")
        taken[name] = left.pop(fits[0])[1].reshape(value.shape)
    with torch.no_grad():
        for name, value in own.items():
            value.copy_(taken[name])
