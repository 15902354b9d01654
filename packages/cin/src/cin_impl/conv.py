"""Continual convolution: a k-tap convolution in time as one slice's worth of work (Co3D, section 3).

Two forms of one sum, y_t = b + sum_i w_i * x_{t - (k-1-i) d}. `partial` convolves the new slice with all taps and adds
the products to the outputs that will need them (the paper's form); `inputs` keeps the last slices and convolves them at
once, taps as channels. They differ in what is kept: output slices or input slices.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .module import Windowed

__all__ = ["Conv1d", "Conv2d", "Conv3d", "continual_conv_oracle"]


def continual_conv_oracle(module: Any, history: Tensor) -> Tensor:
    """The obvious form: the clip convolution over the whole history, in float64, its last output slice.

    Args:
        history: all slices so far, `(batch, channels, time, *space)`, at least as many as the receptive field.
    """
    reach = module.dilation[0] * (module.kernel_size[0] - 1) + 1
    if history.shape[2] < reach:
        raise ValueError(f"history must have at least {reach} slices, got {history.shape[2]}")
    convolve = {3: F.conv1d, 4: F.conv2d, 5: F.conv3d}[history.ndim]
    bias = None if module.bias is None else module.bias.double()
    space = (0,) * (history.ndim - 2)
    padding = (0, *(module.padding[1:] or ())) if len(space) > 1 else 0
    window = history[:, :, -reach:].double()
    weight = module.weight.double()
    stride = (1, *module.stride[1:])
    y = convolve(window, weight, bias, stride, padding, module.dilation, module.groups)
    return y[:, :, -1]


class _Conv(Windowed):
    """The steps of the three; dimension 0 of kernel, stride, padding and dilation is time."""

    form: Any = "auto"

    def __init__(self: Any, *args: Any, form: str = "auto", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._settle(form)

    def _settle(self: Any, form: str = "auto") -> None:
        if form not in ("auto", "partial", "inputs"):
            raise ValueError(f"form must be auto, partial or inputs, got {form!r}")
        if self.padding_mode != "zeros":
            raise ValueError(f"padding_mode must be 'zeros' to be continual, got {self.padding_mode!r}")
        reach = [(k - 1) * d for k, d in zip(self.kernel_size, self.dilation, strict=True)]
        if isinstance(self.padding, str):
            if self.padding == "same" and any(r % 2 for r in reach):
                raise ValueError(
                    f"padding='same' needs an odd kernel (pads one side more), got kernel_size={self.kernel_size}"
                )
            self.padding = tuple(r // 2 for r in reach) if self.padding == "same" else (0,) * len(reach)
        if self.padding[0] > reach[0]:
            raise ValueError(f"padding in time must be at most {reach[0]} (receptive field - 1), got {self.padding[0]}")
        if form == "auto":
            # less state wins; a stride in time computes only outputs that are due in the form of inputs
            smaller = self.out_channels < self.in_channels * math.prod(self.stride[1:])
            partial = smaller and self.groups == 1 and self.stride[0] == 1
            form = "partial" if partial else "inputs"
        self.form, self.receptive_field = form, reach[0] + 1
        self.time_stride, self.time_padding = self.stride[0], self.padding[0]

    def _keep(self: Any, x: Tensor) -> Tensor:
        space = len(self.kernel_size) - 1
        if x.ndim != 2 + space or x.shape[1] != self.in_channels:
            wanted = ", ".join(("batch", f"{self.in_channels} channels", *("height", "width")[2 - space :]))
            raise ValueError(f"x must be a slice ({wanted}), got {tuple(x.shape)}")
        return x

    def _in_space(self: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """A convolution of one slice, all taps as channels; flat ones if there is no space."""
        if x.ndim > 2:
            convolve = F.conv1d if x.ndim == 3 else F.conv2d
            return convolve(x, weight, bias, self.stride[1:], self.padding[1:], self.dilation[1:], self.groups)
        if self.groups == 1:
            return F.linear(x, weight, bias)
        return F.conv1d(x[..., None], weight[..., None], bias, groups=self.groups)[..., 0]

    def _of_taps(self: Any, taps: Tensor) -> Tensor:
        """Of `(batch, in, taps, *space)`; the weight is a view, as it is at this moment."""
        return self._in_space(taps.flatten(1, 2), self.weight.flatten(1, 2), self.bias)  # type: ignore[no-any-return]

    def _begin(self: Any, kept: Tensor, state: dict[str, Any]) -> None:
        d, k, n = self.dilation[0], self.kernel_size[0], self.out_channels
        if self.receptive_field > 1 and self.form == "inputs":
            state["windows"] = [kept.new_zeros(*kept.shape[:2], k, *kept.shape[2:])] * d
        elif self.receptive_field > 1:
            like = self._in_space(kept, self.weight[:, :, 0], None)
            state["sums"] = [like.new_zeros(like.shape[0], n, k - 1, *like.shape[2:])] * d

    def _push(self: Any, kept: Tensor, x: Tensor, state: dict[str, Any], due: bool) -> Tensor | None:
        phase = state["t"] % self.dilation[0]
        if self.receptive_field == 1 or self.form == "inputs":
            window = kept[:, :, None]
            if self.receptive_field > 1:
                window = state["windows"][phase] = torch.cat([state["windows"][phase][:, :, 1:], window], 2)
            return self._of_taps(window) if due else None  # type: ignore[no-any-return]
        # (batch, out, k, *space): what x adds to the output due now (last), to the next one of its phase, ...
        taps = self.weight.transpose(1, 2).flatten(0, 1)
        products = self._in_space(kept, taps, None).unflatten(1, (-1, self.kernel_size[0]))
        y, after, before = products[:, :, -1], products[:, :, :-1], state["sums"][phase]
        y = y + before[:, :, -1]
        after[:, :, 1:] += before[:, :, :-1]
        state["sums"][phase] = after
        if not due or self.bias is None:
            return y if due else None  # type: ignore[no-any-return]
        return y + self.bias.reshape(-1, *(1,) * (y.ndim - 2))  # type: ignore[no-any-return]

    def _of_window(self: Any, window: Tensor, x: Tensor, t: Tensor) -> Tensor:
        return self._of_taps(window[:: self.dilation[0]].movedim(0, 2))  # type: ignore[no-any-return]


class Conv1d(_Conv, nn.Conv1d):
    """`torch.nn.Conv1d` over time. `form`: auto, partial or inputs (see above)."""


class Conv2d(_Conv, nn.Conv2d):
    """`torch.nn.Conv2d` over (time, space)."""


class Conv3d(_Conv, nn.Conv3d):
    """`torch.nn.Conv3d` over (time, height, width)."""
