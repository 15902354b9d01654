"""The spiking network: conversion of a ReLU network, inference over T steps, and the plain network that T = 1 is."""

import copy
import math
import warnings
from collections.abc import Iterable, Sequence
from typing import Any, Literal, NamedTuple, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from shared_impl.pretrained import Pretrained

from .architecture import Residual, Spec, build, describe, fold_batch_norm, spiking_layers
from .models import small_conv
from .neuron import LIF, BinaryActivation, Reset, Surrogate, lif_reference
from .tracing import as_sequential

__all__ = ["Prediction", "SpikingNet", "Trace", "kth_percentile"]

ZERO_THRESHOLD = 0.1
"""what takes the place of a percentile that is not positive (`find_threshold` of the authors' code)"""

Batch = tuple[Tensor, Tensor] | Tensor


def kth_percentile(values: Float[Tensor, "*shape"], q: float | int) -> float:
    """The k-th smallest of N values, k = 1 + round(q (N - 1) / 100).

    Raises:
        ValueError: q outside of 0 to 100; no value.
    """
    if not 0 <= q <= 100:
        raise ValueError(f"percentile must be between 0 and 100, got {q}")
    if values.numel() == 0:
        raise ValueError("values must not be empty")
    flat = values.reshape(-1)
    k = 1 + round(0.01 * float(q) * (flat.numel() - 1))
    return float(flat.kthvalue(k).values)


class Prediction(NamedTuple):
    """What early exit answers."""

    classes: Int[Tensor, "batch"]
    steps: Int[Tensor, "batch"]
    """how many steps each sample took"""


class Trace:
    """What is seen on the way through a network, layer after layer; rates are means over the batch."""

    def __init__(self) -> None:
        self.rates: dict[str, float] = {}
        """neuron layer to spikes a neuron, summed over the steps"""
        self.sizes: dict[str, int] = {}
        """neuron layer to neurons"""
        self.macs: dict[str, int] = {}
        """weight layer to multiply-accumulates of one sample at one step"""
        self.fed_by: dict[str, float | None] = {}
        """weight layer to the rate of the spikes that feed it; None: numbers, from the image or another weight layer"""
        self.still: set[str] = set()
        """weight layers whose input is the same at every step"""


class SpikingNet(nn.Module, Pretrained):
    """A network of LIF neurons that sees an analogue image at every step and sums its output over the steps.

    Made by `from_ann`; `layers` is a description as `describe` and `spiking_layers` give it (default: those of
    `small_conv`), T the number of steps where `forward` is not told.
    """

    layers: nn.Sequential

    def __init__(self, *, layers: Sequence[Spec] | None = None, T: int = 1) -> None:
        super().__init__()
        self.T = _at_least_one(T)
        if layers is None:
            layers = spiking_layers(describe(fold_batch_norm(small_conv())))
        self.layers = build(layers)
        places = [i for i, layer in enumerate(self.layers) if isinstance(layer, LIF)]
        if not places:
            raise ValueError("layers must have at least one neuron layer (kind lif)")
        self._tail = places[-1] + 1
        """layers from here on are affine: they see the sum over the steps"""

    @classmethod
    def from_ann(
        cls,
        module: nn.Module,
        calibration_loader: Iterable[Batch],
        percentile: float | int = 90.0,
        *,
        T: int = 5,
        calibration_steps: int = 20,
        scaling_factor: float | int = 1.0,
        max_pool: Literal["error", "average"] = "error",
        dropout: float | int | None = None,
        leak: float | int = 1.0,
        learn: bool = True,
        per_neuron: bool = False,
        reset: Reset = "soft",
        surrogate: Surrogate = "linear",
    ) -> "SpikingNet":
        """Convert a ReLU network: batch norm folded, neurons for ReLU, thresholds layer after layer.

        Args:
            module: convolutions, linear layers, batch norm, ReLU, mean pooling, dropout and sums of two branches, as an
                `nn.Sequential` (with `Residual`) or as a module of your own, which `as_sequential` reads.
            calibration_loader: batches of images, or (images, labels); the first is used (the paper: 512 images).
            percentile: of the pre-activations of a layer that becomes its threshold.
            calibration_steps: a threshold is the largest percentile over so many steps.
            dropout: takes the place of the network's own rates (the paper: 0.2 for fine-tuning).

        Raises:
            ValueError: a layer without a spiking form, weights or images that are not finite, a setting out of range.
        """
        for name, value in module.state_dict().items():
            if value.is_floating_point() and not bool(torch.isfinite(value).all()):
                raise ValueError(f"module must have finite weights: {name} has NaN or infinite values")
        images = first_batch(calibration_loader)
        plain = as_sequential(module)
        describe(plain)  # refuses what cannot be converted before anything is copied
        folded = fold_batch_norm(plain)
        how = {"leak": leak, "learn": learn, "reset": reset, "surrogate": surrogate}
        layers = spiking_layers(describe(folded), max_pool=max_pool, **how)
        if dropout is not None:
            layers = _with_dropout(layers, dropout)
        net = cls.of(layers, T, folded)
        net.calibrate(images, percentile, steps=calibration_steps, scaling_factor=scaling_factor)
        if per_neuron:
            shapes = net._neuron_shapes(images[:1])
            values = [float(layer.threshold.detach()) for layer in net.neurons()]
            each = iter(shapes)
            net = cls.of(_per_neuron(layers, each), T, folded)
            with torch.no_grad():
                for layer, value in zip(net.neurons(), values, strict=True):
                    layer.threshold.fill_(value)
        return net.train(module.training)

    @classmethod
    def of(cls, layers: Sequence[Spec], T: int, weights: nn.Sequential) -> "SpikingNet":
        """Layers with the weights of the ReLU network that they were made of."""
        net = cls(layers=layers, T=T)
        like = next(weights.parameters())
        net.to(device=like.device, dtype=like.dtype)
        # a ReLU has no weights, so the names of all others are the same
        net.layers.load_state_dict(weights.state_dict(), strict=False)
        return net

    def neurons(self) -> list[LIF]:
        """The neuron layers in order."""
        return [layer for layer in self.modules() if isinstance(layer, LIF)]

    @torch.no_grad()
    def calibrate(
        self,
        images: Float[Tensor, "batch *image"],
        percentile: float | int = 90.0,
        *,
        steps: int = 20,
        scaling_factor: float | int = 1.0,
    ) -> list[float]:
        """Set the thresholds one after the other, each with those before it in place and leaks of 1.

        All are multiplied by `scaling_factor` when the last is found.

        Raises:
            ValueError: images that are empty or not finite; percentile, steps or scaling_factor out of range.
        """
        if len(images) == 0:
            raise ValueError("images must not be empty")
        if not bool(torch.isfinite(images).all()):
            raise ValueError("images must be finite, got NaN or infinite values")
        if not (scaling_factor > 0 and math.isfinite(scaling_factor)):
            raise ValueError(f"scaling_factor must be positive and finite, got {scaling_factor}")
        if steps < 1:
            raise ValueError(f"steps must be at least 1, got {steps}")
        training = self.training
        self.eval()
        leaks = [layer.leak.clone() for layer in self.neurons()]
        found = []

        def set_threshold(layer: LIF, currents: Tensor) -> None:
            layer.leak.fill_(1.0)
            value = max(kth_percentile(current, percentile) for current in currents)
            # a threshold that is zero or below would fire for ever
            value = value if value > 0 else ZERO_THRESHOLD
            layer.threshold.fill_(value)
            found.append(value)

        self._run(self._front, images.unsqueeze(0), steps, before_neuron=set_threshold)
        for layer, leak in zip(self.neurons(), leaks, strict=True):
            layer.leak.copy_(leak)
            layer.threshold.mul_(scaling_factor)
        self.train(training)
        return [scaling_factor * value for value in found]

    def forward(self, x: Float[Tensor, "batch *image"], T: int | None = None) -> Float[Tensor, "batch classes"]:
        """Logits: the output layer summed over T steps.

        Raises:
            ValueError: T below 1.
        """
        steps = self._steps(T)
        spikes = self._run(self._front, x.unsqueeze(0), steps)
        return self._output(spikes.sum(0) if steps > 1 else spikes[0], steps)

    def forward_steps(
        self, x: Float[Tensor, "batch *image"], T: int | None = None
    ) -> Float[Tensor, "time batch classes"]:
        """Logits after each of the steps 1 to T, in one pass: all exits."""
        steps = self._steps(T)
        spikes = self._run(self._front, x.unsqueeze(0), steps)
        return self._run(self._back, spikes, steps).cumsum(0)

    def forward_reference(
        self, x: Float[Tensor, "batch *image"], T: int | None = None
    ) -> Float[Tensor, "batch classes"]:
        """The obvious form: every layer at every step, and the step loop of `lif_reference`; the tests' oracle."""
        steps = self._steps(T)
        still = x.unsqueeze(0).expand(steps, *x.shape)
        return self._run(self.layers, still, steps, reference=True).sum(0)

    @torch.no_grad()
    def predict(
        self, x: Float[Tensor, "batch *image"], threshold: float | int | None = None, T: int | None = None
    ) -> Prediction:
        """Classes, and the steps they took: a sample leaves at the first step whose probability reaches `threshold`.

        Args:
            threshold: of the largest softmax probability; None: all samples take T steps.
        """
        return self.exits(self.forward_steps(x, T), threshold)

    @staticmethod
    def exits(logits: Float[Tensor, "time batch classes"], threshold: float | int | None = None) -> "Prediction":
        """What `predict` makes of the logits after each step."""
        sure = logits.softmax(-1).amax(-1) >= (2.0 if threshold is None else threshold)
        sure[-1] = True
        first = sure.int().argmax(0)
        classes = logits[first, torch.arange(logits.shape[1], device=logits.device)].argmax(-1)
        return Prediction(classes, first + 1)

    def to_single_step(self) -> nn.Sequential:
        """The plain feed-forward network of binary activations that this one is at T = 1, equal bit for bit."""
        return _plain_network(self.layers).eval()

    @torch.no_grad()
    def trace(self, x: Float[Tensor, "batch *image"], T: int | None = None) -> Trace:
        """Rates and operation counts of a batch."""
        training = self.training
        trace = Trace()
        self.eval()._run(self.layers, x.unsqueeze(0), self._steps(T), trace=trace)
        self.train(training)
        return trace

    @torch.no_grad()
    def spike_stats(self, loader: Iterable[Batch], T: int | None = None) -> dict[str, float]:
        """Spikes a neuron and inference of each neuron layer; warns of layers that never spike."""
        rates: dict[str, float] = {}
        n = 0
        for batch in loader:
            x = _images(batch)
            for name, rate in self.trace(x, T).rates.items():
                rates[name] = rates.get(name, 0.0) + rate * len(x)
            n += len(x)
        if not n:
            raise ValueError("loader must give at least one image")
        rates = {name: rate / n for name, rate in rates.items()}
        if dead := [name for name, rate in rates.items() if rate == 0]:
            warnings.warn(
                f"layer {', '.join(dead)} never spikes: no gradient passes it; lower its threshold or calibrate again",
                UserWarning,
                stacklevel=2,
            )
        return rates

    def compile_neurons(self, on: bool = True) -> "SpikingNet":
        """Let `torch.compile` make one pass of each layer's steps, forward and backward; needs a C++ compiler.

        Raises:
            ValueError: neurons of the stdb surrogate.
        """
        for layer in self.neurons():
            if on and layer.surrogate == "stdb":
                raise ValueError("neurons of the stdb surrogate cannot be compiled")
            layer.compiled = on
        return self

    @torch.no_grad()
    def clamp_(self, *, threshold: bool = True) -> None:
        """`LIF.clamp_` of all layers."""
        for layer in self.neurons():
            layer.clamp_(threshold=threshold)

    def _steps(self, T: int | None) -> int:
        return self.T if T is None else _at_least_one(T)

    @property
    def _front(self) -> list[nn.Module]:
        return list(self.layers)[: self._tail]

    @property
    def _back(self) -> list[nn.Module]:
        return list(self.layers)[self._tail :]

    def _output(self, total: Tensor, steps: int) -> Tensor:
        tail = self._back
        y = self._run(tail, total.unsqueeze(0), 1)[0]
        if steps > 1:
            # sum_t A(s_t) = A(sum_t s_t) + (T - 1) A(0) for an affine A
            y = y + (steps - 1) * self._run(tail, torch.zeros_like(total[:1]).unsqueeze(0), 1)[0]
        return y

    def _neuron_shapes(self, x: Tensor) -> list[list[int]]:
        shapes: list[list[int]] = []
        with torch.no_grad():
            self._run(self._front, x.unsqueeze(0), 1, before_neuron=lambda _, c: shapes.append([*c.shape[2:]]))
        return shapes

    def _run(
        self,
        layers: Iterable[nn.Module],
        x: Tensor,
        steps: int,
        *,
        trace: Trace | None = None,
        before_neuron: Any = None,
        reference: bool = False,
        prefix: str = "",
        rate: float | None = None,
    ) -> Tensor:
        """x is (steps, batch, ...), or (1, batch, ...) as long as nothing has changed over the steps."""
        for i, layer in enumerate(layers):
            name = f"{prefix}{i}"
            if isinstance(layer, LIF):
                if before_neuron is not None:
                    before_neuron(layer, x)
                if reference:
                    x = lif_reference(x, layer.threshold, layer.leak, reset=layer.reset, surrogate=layer.surrogate)[0]
                else:
                    x = layer(x, steps)
                if trace is not None:
                    rate = trace.rates[name] = float(x.sum(0).double().mean())
                    trace.sizes[name] = x[0, 0].numel()
            elif isinstance(layer, Residual):
                more: dict[str, Any] = {
                    "trace": trace, "before_neuron": before_neuron, "reference": reference, "rate": rate
                }  # fmt: skip
                body = self._run(layer.body, x, steps, prefix=f"{name}.body.", **more)
                x = body + self._run(layer.shortcut, x, steps, prefix=f"{name}.shortcut.", **more)
                rate = None
            elif isinstance(layer, nn.Dropout):
                if self.training and layer.p:
                    # one mask for all steps (`neuron_init` of the authors' code)
                    x = x * F.dropout(torch.ones_like(x[:1]), layer.p)
            else:
                y = cast(Tensor, layer(x.flatten(0, 1)))
                y = y.unflatten(0, (x.shape[0], x.shape[1]))
                if trace is not None and isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Linear):
                    # each output is one row of the weights times its inputs
                    trace.macs[name] = y[0, 0].numel() * layer.weight[0].numel()
                    trace.fed_by[name] = rate
                    if len(x) < steps or steps == 1:
                        trace.still.add(name)
                    rate = None  # what follows without a neuron between is fed by numbers, not by spikes
                x = y
        return x


def _at_least_one(T: int) -> int:
    if isinstance(T, bool) or not isinstance(T, int) or T < 1:
        raise ValueError(f"T must be at least 1 step, got {T}")
    return T


def _plain_network(layers: Iterable[nn.Module]) -> nn.Sequential:
    plain: list[nn.Module] = []
    for layer in layers:
        if isinstance(layer, LIF):
            plain.append(BinaryActivation(layer.threshold))
        elif isinstance(layer, Residual):
            plain.append(Residual(_plain_network(layer.body), _plain_network(layer.shortcut)))
        elif not isinstance(layer, nn.Dropout):
            plain.append(copy.deepcopy(layer))
    return nn.Sequential(*plain)


def _with_dropout(layers: list[Spec], p: float) -> list[Spec]:
    if not 0 <= p < 1:
        raise ValueError(f"dropout must be at least 0 and below 1, got {p}")
    changed = []
    for spec in layers:
        if spec["kind"] == "residual":
            spec = {**spec, "body": _with_dropout(spec["body"], p), "shortcut": _with_dropout(spec["shortcut"], p)}
        changed.append({**spec, "p": p} if spec["kind"] == "dropout" else spec)
    return changed


def _per_neuron(layers: list[Spec], shapes: Any) -> list[Spec]:
    changed = []
    for spec in layers:
        if spec["kind"] == "residual":
            body = _per_neuron(spec["body"], shapes)
            spec = {**spec, "body": body, "shortcut": _per_neuron(spec["shortcut"], shapes)}
        elif spec["kind"] == "lif":
            spec = {**spec, "per_neuron": True, "shape": next(shapes)}
        changed.append(spec)
    return changed


def _images(batch: Batch) -> Tensor:
    return batch if isinstance(batch, Tensor) else batch[0]


def first_batch(loader: Iterable[Batch]) -> Tensor:
    """The images of the first batch; warns if they are all of one class.

    Raises:
        ValueError: a loader without a batch.
    """
    batch = next(iter([loader] if isinstance(loader, Tensor) else loader), None)
    if batch is None:
        raise ValueError("calibration_loader must give at least one batch, got none")
    if not isinstance(batch, Tensor):
        labels = batch[1]
        if len(labels) > 1 and len(torch.unique(labels)) == 1:
            warnings.warn(
                "calibration_loader: all labels of the first batch are one class; thresholds will fit that class only "
                "(shuffle the data)",
                UserWarning,
                stacklevel=3,
            )
    return _images(batch)
