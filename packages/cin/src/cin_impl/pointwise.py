"""Layers that are continual by nature (channels, norms in eval mode, activations, recurrence), delays, and
squeeze-and-excitation over a finite window."""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .module import Continual, Windowed

__all__ = [
    "GRU", "LSTM", "RNN", "BatchNorm1d", "BatchNorm2d", "BatchNorm3d", "Delay", "Flatten", "Lambda", "LayerNorm",
    "Linear", "PReLU", "Pointwise", "RMSNorm", "SqueezeExcite",
]  # fmt: skip


class Pointwise(Continual, nn.Module):
    """An elementwise module (an activation, dropout in eval mode) as it is, but never in place: what it is given may be
    in a shortcut or in the caller's hands too."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        if getattr(module, "inplace", False):
            module = copy.copy(module)
            module.inplace = False  # type: ignore[assignment]
        self.module = module

    def forward(self, x: Tensor) -> Tensor:
        return self.module(x)  # type: ignore[no-any-return]

    on_slice = forward


class PReLU(Continual, nn.PReLU):
    """`torch.nn.PReLU`, a slope a channel."""

    on_slice: Any = nn.PReLU.forward


class Lambda(Continual, nn.Module):
    """A function that acts on each slice alone; it is given clips and slices."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Any) -> Any:
        return self.function(x)

    on_slice = forward


class _Channels(Continual):
    """What torch.nn does to the last dimension, done to the channels (dimension 1) at each time and place."""

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim == 2:
            return super().forward(x)  # type: ignore[misc,no-any-return]
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)  # type: ignore[misc,no-any-return]

    on_slice = forward


class Linear(_Channels, nn.Linear):
    """`torch.nn.Linear` over the channels."""


class LayerNorm(_Channels, nn.LayerNorm):
    """`torch.nn.LayerNorm` over the channels."""


class RMSNorm(_Channels, nn.RMSNorm):
    """`torch.nn.RMSNorm` over the channels."""


class _Norm(Continual):
    def on_slice(self: Any, x: Tensor) -> Tensor:
        if self.running_mean is None:
            raise ValueError("track_running_stats must be True: statistics of a batch need the whole clip")
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps)


class BatchNorm1d(_Norm, nn.BatchNorm1d):
    """`torch.nn.BatchNorm1d` with its running statistics."""


class BatchNorm2d(_Norm, nn.BatchNorm2d):
    """`torch.nn.BatchNorm2d` with its running statistics."""


class BatchNorm3d(_Norm, nn.BatchNorm3d):
    """`torch.nn.BatchNorm3d` with its running statistics."""


class _Recurrent(Continual):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._settle()

    def _settle(self: Any) -> None:
        if self.bidirectional:
            raise ValueError("bidirectional must be False to be continual: the way back starts at the stream's end")
        self.batch_first = True

    def forward(self: Any, x: Tensor) -> Tensor:
        y, _ = super().forward(x.transpose(1, 2))  # type: ignore[misc]
        return y.transpose(1, 2)  # type: ignore[no-any-return]

    def advance(self: Any, x: Tensor, state: dict[str, Any]) -> Tensor:
        y, state["h"] = super().forward(x[:, None], state.get("h"))  # type: ignore[misc]
        return y[:, 0]  # type: ignore[no-any-return]

    def pure(self: Any, x: Tensor, valid: Tensor, state: Any) -> tuple[Tensor, Tensor, Any]:
        if state is None:
            h = x.new_zeros(self.num_layers, x.shape[0], self.proj_size or self.hidden_size)
            c = x.new_zeros(self.num_layers, x.shape[0], self.hidden_size)
            state = {"h": (h, c) if isinstance(self, nn.LSTM) else h}
        y, h = super().forward(x[:, None], state["h"])  # type: ignore[misc]
        if isinstance(h, tuple):
            return y[:, 0], valid, {"h": tuple(map(torch.where, (valid, valid), h, state["h"]))}
        return y[:, 0], valid, {"h": torch.where(valid, h, state["h"])}


class RNN(_Recurrent, nn.RNN):
    """`torch.nn.RNN` on `(batch, channels, time)`; gives the top layer's hidden states."""


class LSTM(_Recurrent, nn.LSTM):
    """`torch.nn.LSTM` on `(batch, channels, time)`."""


class GRU(_Recurrent, nn.GRU):
    """`torch.nn.GRU` on `(batch, channels, time)`."""


class Flatten(Continual, nn.Module):
    """All of space into the channels: `(batch, channels, time, *space)` to `(batch, channels', time)`."""

    def forward(self, x: Tensor) -> Tensor:
        return x if x.ndim == 3 else x.movedim(2, -1).flatten(1, -2)

    def on_slice(self, x: Tensor) -> Tensor:
        return x.flatten(1)


class Delay(Windowed, nn.Module):
    """Gives each slice `steps` steps later; a clip goes through as it is."""

    delay: Any = 0
    lost: Any = 0

    def __init__(self, steps: int) -> None:
        super().__init__()
        if steps < 0:
            raise ValueError(f"steps must not be negative, got {steps}")
        self.steps = self.delay = steps

    @property
    def _span(self) -> int:
        return self.steps + 1

    def forward(self, x: Tensor) -> Tensor:
        return x

    def advance(self, x: Tensor, state: dict[str, Any]) -> Tensor | None:
        return super().advance(x, state) if self.steps else x

    def _begin(self, kept: Tensor, state: dict[str, Any]) -> None:
        state["ring"] = kept.new_zeros(self.steps, *kept.shape)

    def _push(self, kept: Tensor, x: Tensor, state: dict[str, Any], due: bool) -> Tensor | None:
        place = state["ring"][state["t"] % self.steps]
        y = place.clone() if due else None
        place.copy_(kept)
        return y

    def flush(self, state: dict[str, Any]) -> list[Any]:
        t = state.get("t", 0)
        return [state["ring"][i % self.steps] for i in range(max(0, t - self.steps), t)]

    def _of_window(self, window: Tensor, x: Tensor, t: Tensor) -> Tensor:
        return window[0]

    def extra_repr(self) -> str:
        return f"steps={self.steps}"


class SqueezeExcite(Windowed, nn.Module):
    """Channels weighed by what was seen: `x * sigmoid(W2 relu(W1 mean(x)))`, the mean over space and a window in time.

    The clip network takes the mean of its whole clip, which a stream does not have. Here it is of the slices seen so
    far, the last `window` at most; equal in clips and steps. `clip=True`: the clip network's own, for `forward` alone.
    """

    delay: Any = 0
    lost: Any = 0

    def __init__(self, channels: int, squeezed: int, window: int, *, clip: bool = False) -> None:
        super().__init__()
        if window < 1:
            raise ValueError(f"window must be at least 1, got {window}")
        self.window = self.receptive_field = window
        self.clip = clip
        self.reduce = nn.Linear(channels, squeezed)
        self.expand = nn.Linear(squeezed, channels)

    def _weigh(self, x: Tensor, mean: Tensor) -> Tensor:
        scale = torch.sigmoid(self.expand(F.relu(self.reduce(mean))))
        scale = scale.transpose(1, 2) if mean.ndim > 2 else scale
        return x * scale.reshape(*scale.shape, *(1,) * (x.ndim - scale.ndim))

    def forward(self, x: Tensor) -> Tensor:
        mean = x.flatten(3).mean(-1) if x.ndim > 3 else x
        if self.clip:
            return self._weigh(x, mean.mean(2, keepdim=True).transpose(1, 2))
        sums = F.pad(mean, (self.window - 1, 0)).unfold(2, self.window, 1).sum(-1)
        seen = torch.arange(1, x.shape[2] + 1, device=x.device).clamp(max=self.window)
        return self._weigh(x, (sums / seen).transpose(1, 2))

    def _keep(self, x: Tensor) -> Tensor:
        if self.clip:
            raise ValueError("clip must be False for steps: a stream has no mean of its whole clip")
        return x.flatten(2).mean(-1) if x.ndim > 2 else x

    def _begin(self, kept: Tensor, state: dict[str, Any]) -> None:
        state["ring"] = kept.new_zeros(self.window, *kept.shape)

    def _push(self, kept: Tensor, x: Tensor, state: dict[str, Any], due: bool) -> Tensor:
        state["ring"][state["t"] % self.window] = kept
        return self._weigh(x, state["ring"].sum(0) / min(state["t"] + 1, self.window))

    def _of_window(self, window: Tensor, x: Tensor, t: Tensor) -> Tensor:
        return self._weigh(x, window.sum(0) / (t + 1).clamp(max=self.window))
