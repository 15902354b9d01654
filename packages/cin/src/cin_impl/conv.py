"""Continual convolution: a k-tap convolution in time as one slice's worth of work (Co3D, section 3).

Two forms of one sum, y_t = b + sum_i w_i * x_{t - (k-1-i) d}. `partial` convolves the new slice with all taps and adds
the products to the outputs that will need them (the paper's form); `inputs` keeps the last slices and convolves them at
once, taps as channels. They differ in what is kept: output slices or input slices.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .module import Continual, is_due, keep_where

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


class _Conv(Continual):
    """The steps of the three; dimension 0 of kernel, stride, padding and dilation is time."""

    form: Any = "auto"
    _flat: Any = None

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
        self.form, self._flat = form, None
        self.receptive_field = reach[0] + 1
        self.time_stride, self.time_padding = self.stride[0], self.padding[0]

    def _chosen(self: Any, x: Tensor) -> str:
        if self.form != "auto":
            return str(self.form)
        # less state wins; a stride in time computes only outputs that are due in the form of inputs
        space = 1
        for s in self.stride[1:]:
            space *= s
        smaller = self.out_channels < self.in_channels * space
        return "partial" if smaller and self.groups == 1 and self.stride[0] == 1 else "inputs"

    def _weight(self: Any, form: str) -> Tensor:
        """Taps as channels: (out, k * in, *space); for partial products, last tap first, (k * out, in, *space), with
        groups (out * k, in / groups, *space)."""
        w = self.weight.transpose(1, 2)
        if form == "inputs":
            return w.reshape(w.shape[0], -1, *w.shape[3:])  # type: ignore[no-any-return]
        w = w.flip(1)
        return (w.transpose(0, 1) if self.groups == 1 else w).reshape(-1, *w.shape[2:])  # type: ignore[no-any-return]

    def _kept_weight(self: Any, form: str) -> Tensor:
        key = (form, self.weight.data_ptr(), self.weight._version, self.weight.dtype)
        if self._flat is None or self._flat[0] != key:
            self._flat = (key, self._weight(form).contiguous())
        return self._flat[1]  # type: ignore[no-any-return]

    def _in_space(self: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        stride, padding, dilation = self.stride[1:], self.padding[1:], self.dilation[1:]
        if x.ndim == 2:
            if self.groups == 1:
                return F.linear(x, weight, bias)
            return F.conv1d(x[..., None], weight[..., None], bias, groups=self.groups)[..., 0]
        convolve = F.conv1d if x.ndim == 3 else F.conv2d
        return convolve(x, weight, bias, stride, padding, dilation, self.groups)

    def _taps(self: Any, window: Tensor) -> Tensor:
        """(batch, k, in, *space) to (batch, k * in, *space), groups first."""
        b, k, c, *space = window.shape
        if self.groups == 1:
            return window.reshape(b, k * c, *space)
        return window.reshape(b, k, self.groups, c // self.groups, *space).transpose(1, 2).reshape(b, k * c, *space)

    def _check_slice(self: Any, x: Tensor) -> None:
        space = len(self.kernel_size) - 1
        if x.ndim != 2 + space or x.shape[1] != self.in_channels:
            shape = ("batch", self.in_channels, *("height", "width")[-space:]) if space else ("batch", self.in_channels)
            raise ValueError(f"x must be a slice {shape}, got {tuple(x.shape)}")

    def advance(self: Any, x: Tensor, state: dict[str, Any]) -> Tensor | None:
        reach = self.receptive_field
        if not state:
            self._check_slice(x)
            state.update(t=0, form=self._chosen(x), shape=tuple(x.shape))
        t, form = state["t"], state["form"]
        state["t"] = t + 1
        due = is_due(t, self.delay, self.time_stride)
        weight = self._kept_weight(form)
        if form == "inputs":
            if "slices" not in state:
                state["slices"] = [x.new_zeros(x.shape)] * reach
            # a copy, since the caller may write into x again; the list moves, the slices do not
            slices = state["slices"]
            del slices[0]
            slices.append(x.clone())
            if not due:
                return None
            taps = slices[:: self.dilation[0]]
            window = torch.cat(taps, 1) if self.groups == 1 else self._taps(torch.stack(taps, 1))
            return self._in_space(window, weight, self.bias)  # type: ignore[no-any-return]
        k, phase = self.kernel_size[0], t % self.dilation[0]
        products = self._in_space(x, weight, None)
        # (batch, k, out, *space): what x adds to the output due now, to the next one of its phase, ...
        if self.groups == 1:
            products = products.unflatten(1, (k, -1))
        else:
            products = products.unflatten(1, (-1, k)).transpose(1, 2)
        y = products[:, 0]
        if k > 1:
            if "sums" not in state:
                state["sums"] = [products.new_zeros(products[:, 1:].shape)] * self.dilation[0]
            before, after = state["sums"][phase], products[:, 1:]
            after[:, :-1] += before[:, 1:]
            state["sums"][phase] = after
            y = y + before[:, 0] if due else y
        if not due or self.bias is None:
            return y if due else None  # type: ignore[no-any-return]
        return y + self.bias.reshape(-1, *(1,) * (y.ndim - 2))  # type: ignore[no-any-return]

    def flush(self: Any, state: dict[str, Any]) -> list[Any]:
        if not state:
            return []
        outputs = [self.advance(self._zero(state), state) for _ in range(self.time_padding)]
        return [y for y in outputs if y is not None]

    def _zero(self: Any, state: dict[str, Any]) -> Tensor:
        return torch.zeros(state["shape"], dtype=self.weight.dtype, device=self.weight.device)

    def pure(self: Any, x: Tensor, valid: Tensor, state: Any) -> tuple[Tensor, Tensor, Any]:
        reach = self.receptive_field
        if state is None:
            self._check_slice(x)
            state = {
                "t": torch.zeros((), dtype=torch.int64, device=x.device),
                "window": x.new_zeros(x.shape[0], reach, *x.shape[1:]),
            }
        window = torch.cat([state["window"][:, 1:], x[:, None]], 1)
        y = self._in_space(self._taps(window[:, :: self.dilation[0]]), self._weight("inputs"), self.bias)
        due = valid & is_due(state["t"], self.delay, self.time_stride)
        return y, due, {"t": state["t"] + valid, "window": keep_where(valid, window, state["window"])}


class Conv1d(_Conv, nn.Conv1d):
    """`torch.nn.Conv1d` over time. `form`: auto, partial or inputs (see above)."""

    def __init__(self, *args: Any, form: str = "auto", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._settle(form)


class Conv2d(_Conv, nn.Conv2d):
    """`torch.nn.Conv2d` over (time, space)."""

    def __init__(self, *args: Any, form: str = "auto", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._settle(form)


class Conv3d(_Conv, nn.Conv3d):
    """`torch.nn.Conv3d` over (time, height, width)."""

    def __init__(self, *args: Any, form: str = "auto", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._settle(form)
