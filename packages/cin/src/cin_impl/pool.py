"""Pools in time at a cost that does not grow with the window, by van Herk's blocks.

Kept are suffix sums (or maxima) of the last full block, made once a block, and the sum of the slices since: two
additions a slice. Nothing is subtracted, so that no rounding and no NaN outlives its window, as in a plain running sum;
and the same is done for each element, as tensors need, where a monotonic queue compares.
"""

from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .module import Windowed

__all__ = ["AvgPool1d", "AvgPool2d", "AvgPool3d", "GlobalAvgPool", "MaxPool1d", "MaxPool2d", "MaxPool3d"]


def _sizes(value: Any, n: int) -> tuple[int, ...]:
    return tuple(value) if isinstance(value, list | tuple) else (int(value),) * n


class _Pool(Windowed):
    """Steps of a pool: what is kept are slices that have been pooled in space."""

    _n = 1
    _maximum = False

    def _settle(self: Any) -> None:
        self._kernel, self._stride, self._padding, self._dilation = (
            _sizes(getattr(self, name, 1), self._n) for name in ("kernel_size", "stride", "padding", "dilation")
        )
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

    def _keep(self: Any, x: Tensor) -> Tensor:
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

    def _begin(self: Any, kept: Tensor, state: dict[str, Any]) -> None:
        k, d = self._kernel[0], self._dilation[0]
        state["rings"], state["since"] = [[kept.new_full(kept.shape, self._fill)] * k for _ in range(d)], [kept] * d

    def _push(self: Any, kept: Tensor, x: Tensor, state: dict[str, Any], due: bool) -> Tensor | None:
        k, d = self._kernel[0], self._dilation[0]
        slot, phase = state["t"] // d % k, state["t"] % d
        # ring: suffixes of the block before from slot + 1 on, the slices of this block up to slot
        ring, join = state["rings"][phase], torch.maximum if self._maximum else torch.add
        ring[slot] = kept.clone()  # the caller may write into x again
        y = state["since"][phase] = join(state["since"][phase], kept) if slot else ring[slot]
        if due and slot + 1 < k:
            y = join(y, ring[slot + 1])
        if slot == k - 1:
            ring[::-1] = accumulate(ring[::-1], join)
        return (y if self._maximum else y / k) if due else None

    def _of_window(self: Any, window: Tensor, x: Tensor, t: Tensor) -> Tensor:
        taps = window[:: self._dilation[0]]
        return taps.amax(0) if self._maximum else taps.mean(0)


class _Average(_Pool):
    def __init__(self: Any, *args: Any, time_dilation: int = 1, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if time_dilation < 1:
            raise ValueError(f"time_dilation must be at least 1, got {time_dilation}")
        self.dilation = (time_dilation, *(1,) * (self._n - 1))
        self._settle()

    def forward(self: Any, x: Tensor) -> Tensor:
        d = self._dilation[0]
        if d == 1:
            return super().forward(x)  # type: ignore[misc,no-any-return]
        k, s, p = self._kernel[0], self._stride[0], self._padding[0]
        if self._n > 1:
            lead = ((1, *self._kernel[1:]), (1, *self._stride[1:]), (0, *self._padding[1:]))
            x = (F.avg_pool2d if self._n == 2 else F.avg_pool3d)(x, *lead)
        x = F.pad(x, (0, 0) * (x.ndim - 3) + (p, p))
        return x.unfold(2, (k - 1) * d + 1, s)[..., ::d].mean(-1)


class AvgPool1d(_Average, nn.AvgPool1d):
    """`torch.nn.AvgPool1d`; `time_dilation` in addition."""


class AvgPool2d(_Average, nn.AvgPool2d):
    """`torch.nn.AvgPool2d`, dimension 0 is time; `time_dilation` in addition."""

    _n = 2


class AvgPool3d(_Average, nn.AvgPool3d):
    """`torch.nn.AvgPool3d`, dimension 0 is time; `time_dilation` in addition."""

    _n = 3


class _Maximum(_Pool):
    _maximum, _fill = True, float("-inf")

    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._settle()


class MaxPool1d(_Maximum, nn.MaxPool1d):
    """`torch.nn.MaxPool1d`."""


class MaxPool2d(_Maximum, nn.MaxPool2d):
    """`torch.nn.MaxPool2d`, dimension 0 is time."""

    _n = 2


class MaxPool3d(_Maximum, nn.MaxPool3d):
    """`torch.nn.MaxPool3d`, dimension 0 is time."""

    _n = 3


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

    def _keep(self, x: Tensor) -> Tensor:
        return x.flatten(2).mean(-1) if x.ndim > 2 else x

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[2] < self.kernel_size:
            raise ValueError(f"x must have at least {self.kernel_size} slices in time (the window), got {x.shape[2]}")
        x = x.flatten(3).mean(-1) if x.ndim > 3 else x
        return F.avg_pool1d(x, self.kernel_size, 1)

    def extra_repr(self) -> str:
        return f"window={self.kernel_size}"
