"""Layers that are continual by nature (channels, norms in eval mode, activations, recurrence), delays, and
squeeze-and-excitation over a finite window."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .module import Continual, is_due, keep_where

__all__ = [
    "GRU",
    "LSTM",
    "RNN",
    "BatchNorm1d",
    "BatchNorm2d",
    "BatchNorm3d",
    "Delay",
    "Flatten",
    "Lambda",
    "LayerNorm",
    "Linear",
    "Pointwise",
    "SqueezeExcite",
]


class Pointwise(Continual, nn.Module):
    """An elementwise module (an activation, dropout in eval mode) as it is."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> Tensor:
        return self.module(x)  # type: ignore[no-any-return]

    def on_slice(self, x: Any) -> Any:
        return self.module(x)


class Lambda(Continual, nn.Module):
    """A function that acts on each slice alone; it is given clips and slices."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Any) -> Any:
        return self.function(x)

    def on_slice(self, x: Any) -> Any:
        return self.function(x)


class Linear(Continual, nn.Linear):
    """`torch.nn.Linear` over the channels (dimension 1), at each time and place."""

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim == 2:
            return F.linear(x, self.weight, self.bias)
        return F.linear(x.movedim(1, -1), self.weight, self.bias).movedim(-1, 1)

    on_slice = forward


class LayerNorm(Continual, nn.LayerNorm):
    """`torch.nn.LayerNorm` over the channels (dimension 1), at each time and place."""

    def forward(self, x: Tensor) -> Tensor:
        y = F.layer_norm(x.movedim(1, -1), self.normalized_shape, self.weight, self.bias, self.eps)
        return y.movedim(-1, 1)

    on_slice = forward


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
            kept: Any = tuple(keep_where(valid, a, b) for a, b in zip(h, state["h"], strict=True))
        else:
            kept = keep_where(valid, h, state["h"])
        return y[:, 0], valid, {"h": kept}


class RNN(_Recurrent, nn.RNN):
    """`torch.nn.RNN` on `(batch, channels, time)`; gives the top layer's hidden states."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._settle()


class LSTM(_Recurrent, nn.LSTM):
    """`torch.nn.LSTM` on `(batch, channels, time)`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._settle()


class GRU(_Recurrent, nn.GRU):
    """`torch.nn.GRU` on `(batch, channels, time)`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._settle()


class Flatten(Continual, nn.Module):
    """All of space into the channels: `(batch, channels, time, *space)` to `(batch, channels', time)`."""

    def forward(self, x: Tensor) -> Tensor:
        return x if x.ndim == 3 else x.movedim(2, -1).flatten(1, -2)

    def on_slice(self, x: Tensor) -> Tensor:
        return x.flatten(1)


class Delay(Continual, nn.Module):
    """Gives each slice `steps` steps later; a clip goes through as it is."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        if steps < 0:
            raise ValueError(f"steps must not be negative, got {steps}")
        self.steps = steps

    @property
    def delay(self) -> int:
        return self.steps

    @property
    def lost(self) -> int:
        return 0

    def forward(self, x: Tensor) -> Tensor:
        return x

    def advance(self, x: Tensor, state: dict[str, Any]) -> Tensor | None:
        if not self.steps:
            return x
        if not state:
            state.update(t=0, ring=x.new_zeros(self.steps, *x.shape))
        t, ring = state["t"], state["ring"]
        y = ring[t % self.steps].clone() if t >= self.steps else None
        ring[t % self.steps] = x
        state["t"] = t + 1
        return y

    def flush(self, state: dict[str, Any]) -> list[Any]:
        if not state:
            return []
        t = state["t"]
        return [state["ring"][i % self.steps] for i in range(max(0, t - self.steps), t)]

    def pure(self, x: Tensor, valid: Tensor, state: Any) -> tuple[Tensor, Tensor, Any]:
        if not self.steps:
            return x, valid, {}
        if state is None:
            t = torch.zeros((), dtype=torch.int64, device=x.device)
            state = {"t": t, "window": x.new_zeros(self.steps, *x.shape)}
        y, due = state["window"][0], valid & is_due(state["t"], self.steps, 1)
        window = torch.cat([state["window"][1:], x[None]])
        return y, due, {"t": state["t"] + valid, "window": keep_where(valid, window, state["window"])}

    def extra_repr(self) -> str:
        return f"steps={self.steps}"


class SqueezeExcite(Continual, nn.Module):
    """Channels weighed by what was seen: `x * sigmoid(W2 relu(W1 mean(x)))`, the mean over space and a window in time.

    The clip network takes the mean of its whole clip, which a stream does not have. Here it is of the slices seen so
    far, the last `window` at most; equal in clips and steps. `clip=True`: the clip network's own, for `forward` alone.
    """

    def __init__(self, channels: int, squeezed: int, window: int, *, clip: bool = False) -> None:
        super().__init__()
        if window < 1:
            raise ValueError(f"window must be at least 1, got {window}")
        self.window, self.clip = window, clip
        self.reduce = nn.Linear(channels, squeezed)
        self.expand = nn.Linear(squeezed, channels)

    @property
    def receptive_field(self) -> int:  # type: ignore[override]
        return self.window

    @property
    def delay(self) -> int:
        return 0

    @property
    def lost(self) -> int:
        return 0

    def _scale(self, mean: Tensor) -> Tensor:
        return torch.sigmoid(self.expand(F.relu(self.reduce(mean))))

    def forward(self, x: Tensor) -> Tensor:
        mean = x.flatten(3).mean(-1) if x.ndim > 3 else x
        if self.clip:
            scale = self._scale(mean.mean(2))[:, :, None]
        else:
            length = x.shape[2]
            sums = F.pad(mean, (self.window - 1, 0)).unfold(2, self.window, 1).sum(-1)
            seen = torch.arange(1, length + 1, device=x.device).clamp(max=self.window)
            scale = self._scale((sums / seen).transpose(1, 2)).transpose(1, 2)
        return x * scale.reshape(*scale.shape, *(1,) * (x.ndim - 3))

    def advance(self, x: Tensor, state: dict[str, Any]) -> Tensor:
        if self.clip:
            raise ValueError("clip must be False for steps: a stream has no mean of its whole clip")
        now = x.flatten(2).mean(-1) if x.ndim > 2 else x
        if not state:
            state.update(t=0, ring=now.new_zeros(self.window, *now.shape))
        state["ring"][state["t"] % self.window] = now
        state["t"] += 1
        mean = state["ring"].sum(0) / min(state["t"], self.window)
        return x * self._scale(mean).reshape(*now.shape, *(1,) * (x.ndim - 2))

    def pure(self, x: Tensor, valid: Tensor, state: Any) -> tuple[Tensor, Tensor, Any]:
        if self.clip:
            raise ValueError("clip must be False for steps: a stream has no mean of its whole clip")
        now = x.flatten(2).mean(-1) if x.ndim > 2 else x
        if state is None:
            t = torch.zeros((), dtype=torch.int64, device=x.device)
            state = {"t": t, "window": now.new_zeros(self.window, *now.shape)}
        window = torch.cat([state["window"][1:], now[None]])
        mean = window.sum(0) / (state["t"] + 1).clamp(max=self.window)
        y = x * self._scale(mean).reshape(*now.shape, *(1,) * (x.ndim - 2))
        return y, valid, {"t": state["t"] + valid, "window": keep_where(valid, window, state["window"])}
