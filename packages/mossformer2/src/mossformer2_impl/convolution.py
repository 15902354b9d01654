"""Convolutions over time of tensors that keep channels last: (batch, frames, channels)."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

__all__ = ["depthwise", "depthwise_naive", "grouped"]

BLOCK = 1 << 21
"""numbers that are worked on at a time where a gradient sums over frames: what a cache holds"""


def depthwise_naive(
    x: Float[Tensor, "batch frames channels"], kernel: Float[Tensor, "channels taps"], *, dilation: int = 1,
    causal: bool = False,
) -> Float[Tensor, "batch frames channels"]:  # fmt: skip
    """Each channel with a kernel of its own, the sum over taps as it is written: the oracle of `depthwise`.

    Args:
        causal: the last tap is the present frame; else the middle one is, and taps are odd in number.
    """
    taps = kernel.shape[1]
    reach = (taps - 1) * dilation
    left = reach if causal else reach // 2
    padded = F.pad(x, (0, 0, left, reach - left))
    frames = x.shape[1]
    shifted = [padded[:, tap * dilation : tap * dilation + frames] * kernel[:, tap] for tap in range(taps)]
    return torch.stack(shifted).sum(0)


class _ChannelsLast(torch.autograd.Function):
    """Symmetric padding. A picture one pixel high whose channels are last in memory is the tensor as it lies there, and
    its depthwise convolution has a kernel of its own on the CPU; the one of the gradient of weights is slow, so that
    it is a sum over frames for each tap here."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, kernel: Tensor, padding: int) -> Tensor:
        ctx.save_for_backward(x, kernel)
        ctx.padding = padding
        return _picture(x, kernel, padding)

    @staticmethod
    @torch.autograd.function.once_differentiable  # type: ignore[no-untyped-call, untyped-decorator]
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x, kernel = ctx.saved_tensors
        grad = grad.contiguous()
        back = kernel.shape[1] - 1 - ctx.padding
        for_x = _picture(_padded(grad, back), kernel.flip(1), max(back, 0)) if ctx.needs_input_grad[0] else None
        if not ctx.needs_input_grad[1]:
            return for_x, None, None
        padded = F.pad(x, (0, 0, ctx.padding, ctx.padding))
        _, frames, channels = grad.shape
        step = max(1, BLOCK // max(1, channels))
        for_kernel = kernel.new_zeros(kernel.shape[1], channels)
        for item in range(len(grad)):
            for start in range(0, frames, step):
                part = grad[item, start : start + step]
                held = torch.empty_like(part)
                for tap in range(kernel.shape[1]):
                    torch.mul(part, padded[item, start + tap : start + tap + len(part)], out=held)
                    for_kernel[tap] += held.sum(0)
        return for_x, for_kernel.T, None


def _padded(x: Tensor, padding: int) -> Tensor:
    """Cut where padding is negative."""
    return x[:, -padding : x.shape[1] + padding] if padding < 0 else x


def _picture(x: Tensor, kernel: Tensor, padding: int) -> Tensor:
    x = x.contiguous()
    picture = x.transpose(1, 2).unsqueeze(2)
    y = F.conv2d(picture, kernel[:, None, None], padding=(0, padding), groups=len(kernel))
    return y.squeeze(2).transpose(1, 2)


def depthwise(
    x: Float[Tensor, "batch frames channels"], kernel: Float[Tensor, "channels taps"], *, dilation: int = 1,
    causal: bool = False,
) -> Float[Tensor, "batch frames channels"]:  # fmt: skip
    """`depthwise_naive`, fast: with a dilation of d, every d-th frame is a sequence of its own."""
    batch, frames, channels = x.shape
    if dilation > 1:
        more = -frames % dilation
        apart = F.pad(x, (0, 0, 0, more)).view(batch, -1, dilation, channels).transpose(1, 2)
        apart = apart.reshape(batch * dilation, -1, channels).contiguous()
        y = depthwise(apart, kernel, causal=causal)
        return y.view(batch, dilation, -1, channels).transpose(1, 2).reshape(batch, -1, channels)[:, :frames]
    padding = kernel.shape[1] - 1 if causal else kernel.shape[1] // 2
    if x.device.type == "cpu" and x.dtype == torch.float32:
        y = _ChannelsLast.apply(x, kernel, padding)
    else:
        y = F.conv1d(x.transpose(1, 2), kernel[:, None], padding=padding, groups=len(kernel)).transpose(1, 2)
    return y[:, :frames]


def grouped(
    x: Float[Tensor, "batch frames channels"], kernel: Float[Tensor, "groups width taps"], *, dilation: int = 1,
    causal: bool = False,
) -> Float[Tensor, "batch frames groups"]:  # fmt: skip
    """An output for each group of `width` neighbouring channels: a depthwise convolution whose channels are added."""
    groups, width, taps = kernel.shape
    y = depthwise(x, kernel.reshape(groups * width, taps), dilation=dilation, causal=causal)
    return y if width == 1 else y.unflatten(2, (groups, width)).sum(3)
