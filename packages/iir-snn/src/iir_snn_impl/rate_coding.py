"""The baseline that needs many steps: conversion by rates, where a neuron's rate stands for its activation."""

from collections.abc import Iterable
from typing import Literal

import torch
from torch import Tensor, nn

from .architecture import Residual, describe, fold_batch_norm, spiking_layers
from .network import ZERO_THRESHOLD, Batch, SpikingNet, first_batch, kth_percentile
from .tracing import as_sequential

__all__ = ["rate_coded"]


def rate_coded(
    module: nn.Module,
    calibration_loader: Iterable[Batch],
    percentile: float | int = 99.9,
    *,
    T: int = 32,
    max_pool: Literal["error", "average"] = "error",
) -> SpikingNet:
    """A ReLU network whose activations are rates of integrate-and-fire neurons (Rueckauer et al., 2017).

    A threshold is a percentile of the ReLU's own activations, and a spike stands for that much: as spikes here have
    amplitude 1, the weights after a neuron are multiplied by its threshold. logits / T tends to the ReLU network's
    logits, up to the activations above the percentile.

    Raises:
        ValueError: what `SpikingNet.from_ann` refuses.
    """
    images = first_batch(calibration_loader)
    plain = fold_batch_norm(as_sequential(module)).eval()
    for layer in plain.modules():
        if isinstance(layer, nn.Dropout):
            layer.p = 0.0
    # checked before the weights are changed
    spiking_layers(describe(plain), max_pool=max_pool)
    found: list[float] = []
    with torch.no_grad():
        _rescale(plain, images, 1.0, percentile, found)
    net = SpikingNet.of(spiking_layers(describe(plain), max_pool=max_pool, learn=False), T, plain)
    for layer, value in zip(net.neurons(), found, strict=True):
        layer.threshold.fill_(value)
    return net.eval()


def _rescale(
    layers: nn.Sequential, x: Tensor, amplitude: float, percentile: float, found: list[float]
) -> tuple[Tensor, float]:
    """Go through with the ReLU network's own activations; amplitude: what a spike stands for at this place."""
    for layer in layers:
        if isinstance(layer, Residual):
            (body, _), (shortcut, left) = (
                _rescale(way, x, amplitude, percentile, found) for way in (layer.body, layer.shortcut)
            )
            if left != 1.0:
                layer.shortcut.append(_times(left, shortcut))
            x, amplitude = body + shortcut, 1.0
            continue
        x = layer(x)
        if isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Linear):
            layer.weight.mul_(amplitude)
            amplitude = 1.0
        elif isinstance(layer, nn.ReLU):
            value = kth_percentile(x, percentile)
            amplitude = value if value > 0 else ZERO_THRESHOLD
            found.append(amplitude)
    return x, amplitude


def _times(factor: float, like: Tensor) -> nn.Module:
    """A layer that multiplies by a number, for a shortcut that has no weights."""
    n = like.shape[1]
    layer = nn.Conv2d(n, n, 1, groups=n, bias=False) if like.ndim == 4 else nn.Linear(n, n, bias=False)
    layer.to(device=like.device, dtype=like.dtype)
    layer.weight.copy_(torch.full_like(layer.weight, factor) if like.ndim == 4 else factor * torch.eye(n))
    return layer
