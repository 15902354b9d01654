"""A module of one's own as the flat `nn.Sequential` that conversion reads: its forward pass is traced, not guessed."""

import operator
from collections.abc import Mapping
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import fx, nn

from .architecture import Residual, flat

__all__ = ["as_sequential"]

_RELU = {torch.relu, F.relu, "relu", "relu_", torch.relu_, F.relu_}
_ADD = {operator.add, operator.iadd, torch.add, "add", "add_"}


def as_sequential(module: nn.Module) -> nn.Sequential:
    """The layers of a module in the order in which they run, sums of two branches as `Residual`; weights are shared.

    An `nn.Sequential` is flattened; any other module is traced by `torch.fx`.

    Raises:
        ValueError: a forward pass that branches on its data, or an operation without a layer that does the same.
    """
    layers = flat(module)
    if not any(_own(layer) for layer in layers):
        return nn.Sequential(*layers)
    found: list[nn.Module] = []
    for layer in layers:
        found += _Traced(layer).layers if _own(layer) else [layer]
    return nn.Sequential(*found)


def _own(layer: nn.Module) -> bool:
    """Whether a module is neither of torch's nor ours, so that its forward pass has to be looked at."""
    return not isinstance(layer, Residual) and not type(layer).__module__.startswith("torch.nn.")


class _Tracer(fx.Tracer):  # type: ignore[misc]
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return not _own(m) and not isinstance(m, nn.Sequential)


class _Traced:
    """The graph of one module, read from its output backwards."""

    def __init__(self, module: nn.Module) -> None:
        self.name = type(module).__name__
        try:
            graph = _Tracer().trace(module)
        except Exception as error:  # whatever the user's own code raises on a stand-in
            raise ValueError(f"module must have a forward pass that can be traced: {self.name}: {error}") from error
        self.modules = dict(module.named_modules())
        given = [node for node in graph.nodes if node.op == "placeholder"]
        if len(given) != 1:
            raise ValueError(f"module must take the images only: {self.name} takes {len(given)} arguments")
        end = next(node for node in graph.nodes if node.op == "output").args[0]
        if not isinstance(end, fx.Node):
            raise ValueError(f"module must return one tensor: {self.name} returns {type(end).__name__}")
        self.layers = self._chain(end, given[0])

    def _chain(self, node: fx.Node, stop: fx.Node) -> list[nn.Module]:
        layers: list[nn.Module] = []
        while node is not stop:
            layers = self._layers(node) + layers
            node = self._before(node)
        return layers

    def _before(self, node: fx.Node) -> fx.Node:
        """The node that everything on the way to this one has gone through."""
        inputs = [a for a in node.args if isinstance(a, fx.Node)]
        if node.op == "placeholder" or not inputs:
            raise ValueError(f"module must be a chain of layers from its input: {self.name} has {node.format_node()}")
        if node.target not in _ADD or len(inputs) == 1:
            return inputs[0]
        first = self._path(inputs[0])
        return next(n for n in self._path(inputs[1]) if n in first)

    def _path(self, node: fx.Node) -> list[fx.Node]:
        path = [node]
        while path[-1].op != "placeholder":
            path.append(self._before(path[-1]))
        return path

    def _layers(self, node: fx.Node) -> list[nn.Module]:
        if node.op == "call_module":
            module = self.modules[cast(str, node.target)]
            return flat(module)
        given = dict(node.kwargs)
        target, args = node.target, list(node.args[1:])
        if target in _RELU:
            return [nn.ReLU()]
        if target in _ADD and len(node.args) == 2 and all(isinstance(a, fx.Node) for a in node.args) and not given:
            start = self._before(node)
            body, shortcut = (self._chain(cast(fx.Node, branch), start) for branch in node.args)
            if len(body) < len(shortcut):
                body, shortcut = shortcut, body
            return [Residual(nn.Sequential(*body), nn.Sequential(*shortcut))]
        if target in (torch.flatten, "flatten"):
            return [nn.Flatten(*_bound(("start_dim", "end_dim"), (0, -1), args, given))]
        if target in ("view", "reshape") and len(args) == 2 and args[1] == -1 and _is_batch(args[0]):
            return [nn.Flatten(1)]
        if target is F.adaptive_avg_pool2d:
            return [nn.AdaptiveAvgPool2d(*_bound(("output_size",), (1,), args, given))]
        if target is F.dropout:
            return [nn.Dropout(_bound(("p",), (0.5,), args, given)[0])]
        if target in (F.avg_pool2d, F.max_pool2d):
            kind = nn.AvgPool2d if target is F.avg_pool2d else nn.MaxPool2d
            return [kind(*_bound(("kernel_size", "stride", "padding"), (None, None, 0), args, given))]
        raise ValueError(
            f"module must be made of layers, ReLU, pooling, flatten, dropout and sums of two branches: {self.name} has "
            f"{node.format_node()}"
        )


def _bound(names: tuple[str, ...], defaults: tuple[Any, ...], args: list[Any], given: Mapping[str, Any]) -> list[Any]:
    """The settings that a layer has; others must be off."""
    others = args[len(names) :] + [v for name, v in given.items() if name not in (*names, "training", "inplace")]
    if any(others) and names != ("p",):
        raise ValueError(f"module: only {', '.join(names)} can be given to a function that a layer stands for")
    values = dict(zip(names, defaults, strict=True)) | dict(zip(names, args, strict=False))
    return list((values | {name: value for name, value in given.items() if name in names}).values())


def _is_batch(size: Any) -> bool:
    """x.size(0), x.shape[0]."""
    if not isinstance(size, fx.Node):
        return False
    asked = size.args[1:]
    return asked == (0,) and size.target in ("size", operator.getitem)
