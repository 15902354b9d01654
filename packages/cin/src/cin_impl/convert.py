"""`continual(module)`: a tree of torch.nn modules as the same network in steps, with the same parameters."""

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from . import conv, pointwise, pool
from .module import Continual

__all__ = ["CONTAINERS", "CannotBeContinual", "continual", "load_in_order"]


class CannotBeContinual(ValueError):
    """The module depends on the whole clip in a way that no finite state can follow."""


_TWINS: dict[type, Any] = {
    nn.Conv1d: conv.Conv1d,
    nn.Conv2d: conv.Conv2d,
    nn.Conv3d: conv.Conv3d,
    nn.AvgPool1d: pool.AvgPool1d,
    nn.AvgPool2d: pool.AvgPool2d,
    nn.AvgPool3d: pool.AvgPool3d,
    nn.MaxPool1d: pool.MaxPool1d,
    nn.MaxPool2d: pool.MaxPool2d,
    nn.MaxPool3d: pool.MaxPool3d,
    nn.Linear: pointwise.Linear,
    nn.LayerNorm: pointwise.LayerNorm,
    nn.BatchNorm1d: pointwise.BatchNorm1d,
    nn.BatchNorm2d: pointwise.BatchNorm2d,
    nn.BatchNorm3d: pointwise.BatchNorm3d,
    nn.RNN: pointwise.RNN,
    nn.LSTM: pointwise.LSTM,
    nn.GRU: pointwise.GRU,
}

CONTAINERS: dict[type, Any] = {}
"""containers that other modules know how to build from (name, converted child)"""

_ELEMENTWISE = (
    nn.Identity, nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.CELU, nn.SELU, nn.GELU, nn.SiLU, nn.Mish, nn.Tanh,
    nn.Sigmoid, nn.Hardswish, nn.Hardsigmoid, nn.Hardtanh, nn.Softplus, nn.Softsign, nn.Dropout, nn.Dropout1d,
    nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout,
)  # fmt: skip

_GLOBAL = (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d)

_REFUSED: dict[Any, str] = {
    (nn.GroupNorm, nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d): "its statistics are of the whole clip",
    (nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d): "its window is the whole clip",
    (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d): "it gives several slices for one",
    (nn.MultiheadAttention, nn.TransformerEncoderLayer, nn.TransformerEncoder): "its window is the whole clip; take "
    "SingleOutputMHA or RetroactiveMHA, which load its weights",
    (nn.Softmax, nn.LogSoftmax): "its dimension may be time; take Lambda with a function of slices",
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
    kind = type(module)
    if kind in _TWINS:
        twin = copy.copy(module)
        twin.__dict__ = dict(module.__dict__)
        twin.__class__ = _TWINS[kind]
        if hasattr(twin, "_settle"):
            try:
                twin._settle()  # type: ignore[operator]
            except ValueError as error:
                raise CannotBeContinual(f"{place} ({kind.__name__}): {error}") from error
        if kind is nn.LayerNorm and len(twin.normalized_shape) > 1:  # type: ignore[arg-type]
            raise CannotBeContinual(f"{place} (LayerNorm): it normalises over time or space: {twin.normalized_shape}")
        if isinstance(twin, pointwise._Norm) and twin.running_mean is None:
            raise CannotBeContinual(f"{place} ({kind.__name__}): without running statistics it needs the whole clip")
        return twin
    if kind in _ELEMENTWISE:
        return pointwise.Pointwise(module)
    if kind is nn.Flatten:
        return pointwise.Flatten()
    if kind in _GLOBAL:
        sizes: Any = module.output_size
        if any(size != 1 for size in (sizes if isinstance(sizes, list | tuple) else [sizes])):
            raise CannotBeContinual(f"{place} ({kind.__name__}): output_size must be 1, got {sizes}")
        if window is None:
            raise CannotBeContinual(f"{place} ({kind.__name__}): its window is the whole clip; give window=")
        return pool.GlobalAvgPool(window)
    if kind in CONTAINERS:
        return CONTAINERS[kind]([(n, _convert(m, window, f"{place}.{n}")) for n, m in module.named_children()])
    for kinds, reason in _REFUSED.items():
        if isinstance(module, kinds):
            raise CannotBeContinual(f"{place} ({kind.__name__}) cannot be continual: {reason}")
    raise CannotBeContinual(
        f"{place} ({kind.__name__}) is not known; compose it of cin_impl.nn, or wrap it in Pointwise if it acts on "
        "each slice alone"
    )


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
