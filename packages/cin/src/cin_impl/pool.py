"""Pools in time at a cost that does not grow with the window: a running sum, and maxima by blocks.

The running maximum is van Herk's: suffix maxima of the last full block, made once a block, and the maximum of the
slices since; three comparisons a slice, as a monotonic queue has, but the same for each element, as tensors need.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .module import Continual, is_due, keep_where

__all__ = ["AvgPool1d", "AvgPool2d", "AvgPool3d", "GlobalAvgPool", "MaxPool1d", "MaxPool2d", "MaxPool3d"]


def _sizes(value: Any, n: int) -> tuple[int, ...]:
    return tuple(value) if isinstance(value, list | tuple) else (int(value),) * n


class _Pool(Continual):
    """Steps of a pool: what is kept are slices that have been pooled in space."""

    _n = 1
    _fill = 0.0
    _maximum = False

    def _settle(self: Any) -> None:
        self._kernel = _sizes(self.kernel_size, self._n)
        self._stride = _sizes(self.stride, self._n)
        self._padding = _sizes(self.padding, self._n)
        self._dilation = _sizes(getattr(self, "dilation", 1), self._n)
        if self.ceil_mode:
            raise ValueError("ceil_mode must be False to be continual: the end of the stream is not known")
        if getattr(self, "return_indices", False):
            raise ValueError("return_indices must be False to be continual")
        if getattr(self, "divisor_override", None) is not None:
            raise ValueError("divisor_override must be None to be continual")
        if not getattr(self, "count_include_pad", True) and any(self._padding):
            raise ValueError("count_include_pad must be True to be continual")
        if 2 * self._padding[0] > self._kernel[0]:
            raise ValueError(f"padding in time must be at most half of {self._kernel[0]}, got {self._padding[0]}")
        self.receptive_field = (self._kernel[0] - 1) * self._dilation[0] + 1
        self.time_stride, self.time_padding = self._stride[0], self._padding[0]

    def _in_space(self: Any, x: Tensor) -> Tensor:
        if x.ndim != 1 + self._n:
            raise ValueError(f"x must be a slice of {1 + self._n} dimensions, got shape {tuple(x.shape)}")
        if self._n == 1:
            return x
        kernel, stride, padding = self._kernel[1:], self._stride[1:], self._padding[1:]
        if self._maximum:
            pool = F.max_pool1d if self._n == 2 else F.max_pool2d
            return pool(x, kernel, stride, padding, self._dilation[1:])  # type: ignore[no-any-return]
        average = F.avg_pool1d if self._n == 2 else F.avg_pool2d
        return average(x, kernel, stride, padding)

    def advance(self: Any, x: Tensor, state: dict[str, Any]) -> Tensor | None:
        return self._push(self._in_space(x), state)  # type: ignore[no-any-return]

    def _push(self: Any, x: Tensor, state: dict[str, Any]) -> Tensor | None:
        k, d = self._kernel[0], self._dilation[0]
        if not state:
            state.update(t=0, shape=tuple(x.shape))
            if self._maximum:
                state["ring"] = x.new_full((k * d, *x.shape), self._fill)
            else:
                state.update(slices=[torch.zeros_like(x)] * (k * d), sums=[torch.zeros_like(x)] * d)
        t = state["t"]
        state["t"] = t + 1
        slot = t % (k * d)
        due = is_due(t, self.delay, self.time_stride)
        if not self._maximum:
            slices, phase = state["slices"], t % d
            total = state["sums"][phase] + x - slices[0]
            del slices[0]
            slices.append(x.clone())
            if slot >= (k - 1) * d:
                # the sum anew once a turn: rounding cannot pile up, and the cost stays constant a slice
                total = torch.stack(slices[d - 1 :: d]).sum(0)
            state["sums"][phase] = total
            return total / k if due else None  # type: ignore[no-any-return]
        ring = state["ring"]
        if d > 1:
            ring[slot] = x
            return ring[slot % d :: d].amax(0) if due else None  # type: ignore[no-any-return]
        since = x if slot == 0 else torch.maximum(state["since"], x)
        # ring: suffix maxima of the block before from `slot` + 1 on, the slices of this block up to `slot`
        y = torch.maximum(since, ring[slot + 1]) if slot + 1 < k else since
        ring[slot] = x
        state["since"] = since.clone()
        if slot == k - 1:
            for i in range(k - 2, -1, -1):
                torch.maximum(ring[i], ring[i + 1], out=ring[i])
        return y if due else None

    def flush(self: Any, state: dict[str, Any]) -> list[Any]:
        if not state:
            return []
        kept = state["ring"] if self._maximum else state["slices"][0]
        fill = kept.new_full(state["shape"], self._fill)
        outputs = [self._push(fill, state) for _ in range(self.time_padding)]
        return [y for y in outputs if y is not None]

    def pure(self: Any, x: Tensor, valid: Tensor, state: Any) -> tuple[Tensor, Tensor, Any]:
        x = self._in_space(x)
        if state is None:
            state = {
                "t": torch.zeros((), dtype=torch.int64, device=x.device),
                "window": x.new_full((self.receptive_field, *x.shape), self._fill),
            }
        window = torch.cat([state["window"][1:], x[None]])
        taps = window[:: self._dilation[0]]
        y = taps.amax(0) if self._maximum else taps.mean(0)
        due = valid & is_due(state["t"], self.delay, self.time_stride)
        return y, due, {"t": state["t"] + valid, "window": keep_where(valid, window, state["window"])}


def _average(n: int, base: type) -> type:
    def __init__(self: Any, *args: Any, time_dilation: int = 1, **kwargs: Any) -> None:
        base.__init__(self, *args, **kwargs)
        if time_dilation < 1:
            raise ValueError(f"time_dilation must be at least 1, got {time_dilation}")
        self.dilation = (time_dilation, *(1,) * (n - 1))
        self._settle()

    def forward(self: Any, x: Tensor) -> Tensor:
        d = getattr(self, "dilation", (1,))[0]
        if d == 1:
            return base.forward(self, x)  # type: ignore[attr-defined,no-any-return]
        k, s, p = self._kernel[0], self._stride[0], self._padding[0]
        if n > 1:
            lead = ((1, *self._kernel[1:]), (1, *self._stride[1:]), (0, *self._padding[1:]))
            x = (F.avg_pool2d if n == 2 else F.avg_pool3d)(x, *lead)
        x = F.pad(x, (0, 0) * (x.ndim - 3) + (p, p))
        return x.unfold(2, (k - 1) * d + 1, s)[..., ::d].mean(-1)

    doc = f"`torch.nn.AvgPool{n}d`, dimension 0 is time; `time_dilation` in addition."
    return type(f"AvgPool{n}d", (_Pool, base), {"__init__": __init__, "forward": forward, "_n": n, "__doc__": doc})


def _max(n: int, base: type) -> type:
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        base.__init__(self, *args, **kwargs)
        self._settle()

    body = {"__init__": __init__, "_n": n, "_maximum": True, "_fill": float("-inf")}
    return type(f"MaxPool{n}d", (_Pool, base), {**body, "__doc__": f"`torch.nn.MaxPool{n}d`, dimension 0 is time."})


AvgPool1d: Any = _average(1, nn.AvgPool1d)
AvgPool2d: Any = _average(2, nn.AvgPool2d)
AvgPool3d: Any = _average(3, nn.AvgPool3d)
MaxPool1d: Any = _max(1, nn.MaxPool1d)
MaxPool2d: Any = _max(2, nn.MaxPool2d)
MaxPool3d: Any = _max(3, nn.MaxPool3d)


class GlobalAvgPool(_Pool, nn.Module):
    """The mean over all of space and a window in time: `(batch, channels, time, *space)` to `(batch, channels, time')`.

    It takes the place of a global pool, which has no end in a stream. Co3D extends the window (to 64) beyond the clip
    that the network was trained on without training anew.
    """

    def __init__(self, window: int) -> None:
        super().__init__()
        if window < 1:
            raise ValueError(f"window must be at least 1, got {window}")
        self.kernel_size, self.stride, self.padding, self.ceil_mode = window, 1, 0, False
        self._settle()

    def _in_space(self, x: Tensor) -> Tensor:
        return x.flatten(2).mean(-1) if x.ndim > 2 else x

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[2] < self.kernel_size:
            raise ValueError(f"x must have at least {self.kernel_size} slices in time (the window), got {x.shape[2]}")
        x = x.flatten(3).mean(-1) if x.ndim > 3 else x
        return F.avg_pool1d(x, self.kernel_size, 1)

    def extra_repr(self) -> str:
        return f"window={self.kernel_size}"
