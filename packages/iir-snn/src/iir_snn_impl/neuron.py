"""The leaky integrate-and-fire neuron: the step loop as the paper writes it (`lif_reference`), and one fused pass.

    m_t = leak * u_{t-1} + I_t          membrane before the spike, u_0 = 0
    s_t = 1[m_t > v]                    spike of amplitude 1
    u_t = m_t - v * s_t                 soft reset, or m_t * (1 - s_t), hard reset

The spike's derivative is a surrogate of z = m / v - 1; the reset's indicator is not differentiated.
"""

import math
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

__all__ = ["LIF", "BinaryActivation", "Reset", "Surrogate", "lif", "lif_reference", "surrogate_derivative"]

Reset = Literal["soft", "hard"]
Surrogate = Literal["linear", "atan", "sigmoid", "stdb"]

GAMMA = 0.3
"""height of the linear surrogate (the authors' code), and the alpha of STDB"""
STDB_BETA = 0.01
NEVER = 1000.0
"""steps since the last spike of a neuron that has not fired (hybrid conversion's code)"""
MIN_THRESHOLD = 1e-3


def surrogate_derivative(
    z: Float[Tensor, "*shape"], surrogate: Surrogate = "linear", since: Float[Tensor, "*shape"] | None = None
) -> Float[Tensor, "*shape"]:
    """What stands for ds/dz.

    linear: 0.3 max(0, 1 - |z|); atan: 1 / (1 + (pi z)^2); sigmoid: 4 e^{-4|z|} / (1 + e^{-4|z|})^2;
    stdb: 0.3 exp(-0.01 since), with the steps since the last spike (Rathi et al., 2020), 1000 before the first.

    Raises:
        ValueError: an unknown surrogate; stdb without `since`.
    """
    if surrogate == "linear":
        return GAMMA * (1 - z.abs()).clamp_min(0)
    if surrogate == "atan":
        return 1 / (1 + (math.pi * z).square())
    if surrogate == "sigmoid":
        half = torch.sigmoid(4 * z)
        return 4 * half * (1 - half)
    if surrogate == "stdb":
        if since is None:
            raise ValueError("since must be given for the stdb surrogate: the steps since the last spike")
        return GAMMA * torch.exp(-STDB_BETA * since)
    raise ValueError(f"surrogate must be linear, atan, sigmoid or stdb, got {surrogate!r}")


class _Spike(torch.autograd.Function):
    """A step forward, the surrogate backward."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, fired: Tensor, surrogate: Surrogate, since: Tensor | None) -> Tensor:
        ctx.surrogate = surrogate
        ctx.save_for_backward(z, since)
        return fired.to(z.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        z, since = ctx.saved_tensors
        return grads[0] * surrogate_derivative(z, ctx.surrogate, since), None, None, None


def lif_reference(
    currents: Float[Tensor, "time batch *neurons"],
    threshold: Tensor,
    leak: Tensor,
    *,
    reset: Reset = "soft",
    surrogate: Surrogate = "linear",
) -> tuple[Float[Tensor, "time batch *neurons"], Float[Tensor, "batch *neurons"]]:
    """The obvious form, a step at a time through autograd: spikes, and the membrane after the last step."""
    u = torch.zeros_like(currents[0])
    since = torch.full_like(u, NEVER - 1)
    spikes = []
    for current in currents:
        m = leak * u + current
        z = m / threshold - 1
        fired = (m > threshold).detach()
        spikes.append(_Spike.apply(z, fired, surrogate, since if surrogate == "stdb" else None))
        u = m - threshold * fired if reset == "soft" else m * ~fired
        since = torch.where(fired, 0.0, since) + 1
    return torch.stack(spikes), u


BLOCK = 2**17
"""neurons at once on a CPU, so that what one step leaves is still in the cache at the next"""


def _blocks(like: Tensor) -> list[slice]:
    """Parts of the batch."""
    n, neurons = like.shape[0], max(1, like[0].numel())
    rows = n if like.is_cuda else max(1, BLOCK // neurons)
    return [slice(i, i + rows) for i in range(0, n, rows)]


class _FusedLIF(torch.autograd.Function):
    """All steps at once; saves the membranes before the spikes, and the spikes, which are given out as well."""

    @staticmethod
    def forward(
        ctx: Any, currents: Tensor, threshold: Tensor, leak: Tensor, steps: int, reset: Reset, surrogate: Surrogate,
        compiled: bool,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        ctx.how = steps, reset, surrogate, len(currents), compiled
        if compiled:
            spikes, before, end = _compiled(_forward_steps)(currents, threshold, leak, steps, reset)
            ctx.save_for_backward(before, spikes, threshold, leak)
            return spikes, end
        # all in the order of the currents' memory, channels last or not
        spikes = torch.empty_like(currents.expand(steps, *currents.shape[1:]))
        before = torch.empty_like(spikes) if steps > 1 else currents
        end = torch.empty_like(spikes[0])
        for rows in _blocks(end):
            u: Tensor | None = None
            for t in range(steps):
                current = currents[t if len(currents) > 1 else 0, rows]
                m, s = before[t, rows], spikes[t, rows]
                if u is not None:
                    torch.addcmul(current, u, leak, out=m)
                elif steps > 1:  # the membrane is empty, so the leak is not even read
                    m.copy_(current)
                torch.gt(m, threshold, out=s)
                u = end[rows] if u is None else u
                if reset == "soft":
                    torch.addcmul(m, s, threshold, value=-1, out=u)
                else:
                    torch.addcmul(m, m, s, value=-1, out=u)
        ctx.save_for_backward(before, spikes, threshold, leak)
        return spikes, end

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        before, spikes, v, leak = ctx.saved_tensors
        steps, reset, surrogate, given, compiled = ctx.how
        grad_spikes, grad_u = grads
        if compiled:
            how = steps, given < steps, reset, surrogate
            return (*_compiled(_backward_steps)(before, spikes, v, leak, grad_spikes, grad_u, *how), *[None] * 4)
        soft = reset == "soft"
        grad_v, grad_leak = torch.zeros_like(v), torch.zeros_like(leak)
        grad_currents = torch.zeros_like(before[:1]) if given < steps else torch.empty_like(before)
        since = _steps_since_spike(spikes) if surrogate == "stdb" else None
        for rows in _blocks(grad_u):
            gu = grad_u[rows]
            for t in reversed(range(steps)):
                m, s, gs = before[t, rows], spikes[t, rows], grad_spikes[t, rows]
                through = _through(gs, m, v, surrogate, None if since is None else since[t, rows])
                if ctx.needs_input_grad[1]:
                    # through z = m / v - 1, and (soft) through the height of the reset
                    grad_v -= _sum_of_products(through, m, v) / v
                    if soft:
                        grad_v -= _sum_of_products(gu, s, v)
                gm = through.add_(gu if soft else gu * (1 - s))
                if given < steps:
                    grad_currents[0, rows] += gm
                else:
                    grad_currents[t, rows] = gm
                if t:
                    if ctx.needs_input_grad[2]:
                        was, fired = before[t - 1, rows], spikes[t - 1, rows]
                        if soft:
                            grad_leak += _sum_of_products(gm, was, leak) - _sum_of_products(gm, v * fired, leak)
                        else:
                            grad_leak += _sum_of_products(gm, was - was * fired, leak)
                    gu = gm.mul_(leak)
        return grad_currents, grad_v, grad_leak, *[None] * 4


@cache
def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    return torch.compile(function, dynamic=True)


def _forward_steps(
    currents: Tensor, v: Tensor, leak: Tensor, steps: int, reset: Reset
) -> tuple[Tensor, Tensor, Tensor]:
    """What `_FusedLIF.forward` does, for a compiler that makes one pass of it."""
    u = torch.zeros_like(currents[0])
    spikes, before = [], []
    for t in range(steps):
        m = torch.addcmul(currents[t if len(currents) > 1 else 0], u, leak)
        s = (m > v).to(m.dtype)
        u = m - v * s if reset == "soft" else m - m * s
        spikes.append(s)
        before.append(m)
    return torch.stack(spikes), torch.stack(before), u


def _backward_steps(
    before: Tensor, spikes: Tensor, v: Tensor, leak: Tensor, grad_spikes: Tensor, gu: Tensor, steps: int, still: bool,
    reset: Reset, surrogate: Surrogate,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Likewise, of `_FusedLIF.backward`."""
    grads, parts_v, parts_leak = [], torch.zeros_like(gu), torch.zeros_like(gu)
    for t in reversed(range(steps)):
        m, s = before[t], spikes[t]
        z = m / v - 1
        through = grad_spikes[t] * surrogate_derivative(z, surrogate) / v
        parts_v = parts_v - through * (z + 1) - (gu * s if reset == "soft" else 0)
        gm = through + (gu if reset == "soft" else gu * (1 - s))
        grads.append(gm)
        if t:
            was, fired = before[t - 1], spikes[t - 1]
            parts_leak = parts_leak + gm * (was - (v if reset == "soft" else was) * fired)
            gu = leak * gm
    currents = torch.stack(grads).sum(0, keepdim=True) if still else torch.stack(grads[::-1])
    return currents, parts_v.sum_to_size(v.shape), parts_leak.sum_to_size(leak.shape)


def _through(gs: Tensor, m: Tensor, v: Tensor, surrogate: Surrogate, since: Tensor | None) -> Tensor:
    """The gradient of the membrane through the spike: gs times the surrogate of z = m / v - 1, over v."""
    z = m / v
    z -= 1
    if surrogate == "linear":
        # gs (1 - min(1, |z|)), in place
        return torch.addcmul(gs, gs, z.abs_().clamp_(max=1.0), value=-1).mul_(GAMMA / v)
    return gs * surrogate_derivative(z, surrogate, since) / v


def _sum_of_products(a: Tensor, b: Tensor, like: Tensor) -> Tensor:
    """sum of a b, to the shape of a parameter: of the layer, or of each neuron."""
    if like.ndim:
        return (a * b).sum_to_size(like.shape)
    if a.stride() == b.stride() and not a.is_contiguous():
        order = sorted(range(a.ndim), key=a.stride, reverse=True)
        a, b = a.permute(order), b.permute(order)
    return torch.dot(a.reshape(-1), b.reshape(-1))


def _steps_since_spike(spikes: Tensor) -> Tensor:
    since = torch.empty_like(spikes)
    since[0] = NEVER - 1
    for t in range(1, len(spikes)):
        since[t] = torch.where(spikes[t - 1] > 0, 0.0, since[t - 1]) + 1
    return since


def lif(
    currents: Float[Tensor, "given batch *neurons"],
    threshold: Tensor,
    leak: Tensor,
    *,
    steps: int | None = None,
    reset: Reset = "soft",
    surrogate: Surrogate = "linear",
    compiled: bool = False,
) -> tuple[Float[Tensor, "time batch *neurons"], Float[Tensor, "batch *neurons"]]:
    """The fast form of `lif_reference`, with its own backward pass (equal values and gradients).

    Args:
        currents: one a step; or a single one that is the same at every step (an image that stands still).
        steps: how many steps (default: as many as currents).
        compiled: by `torch.compile` in one pass over memory; needs a C++ compiler and half a minute at the first call.

    Raises:
        ValueError: no step; or several currents, but not one a step; the stdb surrogate compiled.
    """
    steps = len(currents) if steps is None else steps
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    if len(currents) not in (1, steps):
        raise ValueError(f"currents must be 1 or {steps} (one a step), got {len(currents)}")
    if compiled and surrogate == "stdb":
        raise ValueError("compiled must be False for the stdb surrogate")
    spikes, u = _FusedLIF.apply(currents, threshold, leak, steps, reset, surrogate, compiled)
    return spikes, u


class LIF(nn.Module):
    """Spiking neurons with a learnable threshold and leak, of one layer or each.

    Args:
        threshold: positive; a tensor gives one a neuron.
        leak: at most 1; 1 is an integrate-and-fire neuron.
        learn: threshold and leak are parameters, else buffers.
        per_neuron: a threshold and leak for each neuron; needs `shape` where the threshold is one number.
        shape: of the neurons, without the batch.

    Raises:
        ValueError: a setting out of range.
    """

    threshold: Tensor
    leak: Tensor

    def __init__(
        self,
        threshold: float | int | Tensor = 1.0,
        leak: float | int = 1.0,
        learn: bool = True,
        per_neuron: bool = False,
        reset: Reset = "soft",
        surrogate: Surrogate = "linear",
        *,
        shape: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        value = torch.as_tensor(threshold, dtype=torch.get_default_dtype()).detach().clone()
        if not bool((torch.isfinite(value) & (value > 0)).all()):
            raise ValueError(f"threshold must be positive and finite, got {threshold}")
        if not (math.isfinite(leak) and leak <= 1):
            raise ValueError(f"leak must be at most 1 and finite, got {leak}")
        if reset not in ("soft", "hard"):
            raise ValueError(f"reset must be soft or hard, got {reset!r}")
        if surrogate not in ("linear", "atan", "sigmoid", "stdb"):
            raise ValueError(f"surrogate must be linear, atan, sigmoid or stdb, got {surrogate!r}")
        if per_neuron and value.ndim == 0:
            if shape is None:
                raise ValueError("shape must be given with per_neuron: the layer's shape without the batch")
            value = value.expand(tuple(shape)).clone()
        if not per_neuron and value.ndim:
            raise ValueError(f"threshold must be one number without per_neuron, got shape {tuple(value.shape)}")
        self.reset: Reset = reset
        self.surrogate: Surrogate = surrogate
        self.compiled = False
        start = torch.full_like(value, leak)
        if learn:
            self.threshold, self.leak = nn.Parameter(value), nn.Parameter(start)
        else:
            self.register_buffer("threshold", value)
            self.register_buffer("leak", start)

    def forward(
        self, currents: Float[Tensor, "given batch *neurons"], steps: int | None = None
    ) -> Float[Tensor, "time batch *neurons"]:
        """Spikes of all steps, from an empty membrane."""
        if (steps in (None, 1)) and len(currents) == 1 and not torch.is_grad_enabled():
            return _above(currents, self.threshold)
        return self.run(currents, steps)[0]

    def run(
        self, currents: Float[Tensor, "given batch *neurons"], steps: int | None = None
    ) -> tuple[Float[Tensor, "time batch *neurons"], Float[Tensor, "batch *neurons"]]:
        """Spikes of all steps and the membrane after the last."""
        how: Any = {"reset": self.reset, "surrogate": self.surrogate, "compiled": self.compiled}
        return lif(currents, self.threshold, self.leak, steps=steps, **how)

    @torch.no_grad()
    def clamp_(self, *, threshold: bool = True) -> None:
        """After an optimiser step: leak at most 1 (the authors' code), threshold at least 0.001 (ours)."""
        self.leak.clamp_(max=1.0)
        if threshold:
            self.threshold.clamp_(min=MIN_THRESHOLD)

    def extra_repr(self) -> str:
        """For people."""
        return f"reset={self.reset}, surrogate={self.surrogate}, shape={tuple(self.threshold.shape)}"


class BinaryActivation(nn.Module):
    """1 where the input is above the threshold, else 0: all that is left of a neuron at one time step."""

    threshold: Tensor

    def __init__(self, threshold: Tensor) -> None:
        super().__init__()
        self.register_buffer("threshold", threshold.detach().clone())

    def forward(self, x: Float[Tensor, "batch *neurons"]) -> Float[Tensor, "batch *neurons"]:
        """Zeros and ones."""
        return _above(x, self.threshold)


def _above(x: Tensor, threshold: Tensor) -> Tensor:
    """1[x > threshold] in the numbers of x, written once."""
    return torch.gt(x, threshold, out=torch.empty_like(x))
