"""Multiply-adds of a network, as a clip or a step: counted from the operations that run, not from formulas."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode

from .attention import RetroactiveMHA
from .module import Continual

__all__ = ["flops", "parameters", "tally"]


def parameters(module: nn.Module) -> int:
    """Number of parameters."""
    return sum(p.numel() for p in module.parameters())


def _convolution(out: Any, args: Any) -> tuple[int, int]:
    return out.numel() * math.prod(args[1].shape[1:]), 0 if args[2] is None else out.numel()


# operation: (multiply-adds, what the papers' counter adds for bias, norm, ReLU and pool) of its result and arguments
_PRODUCTS: dict[str, Callable[[Any, Any], tuple[int, int]]] = {
    "convolution": _convolution,
    "addmm": lambda out, args: (out.numel() * args[1].shape[1], out.numel()),
    "mm": lambda out, args: (out.numel() * args[0].shape[1], 0),
    "bmm": lambda out, args: (out.numel() * args[0].shape[2], 0),
    "baddbmm": lambda out, args: (out.numel() * args[1].shape[2], 0),
    # of an LSTM on a CPU: input, weights of input and of state
    "mkldnn_rnn_layer": lambda _, args: (
        args[0].numel() // args[0].shape[-1] * (args[1].numel() + args[2].numel()),
        args[0].numel() // args[0].shape[-1] * 2 * args[1].shape[0],
    ),
    "native_batch_norm": lambda out, _: (0, 2 * out[0].numel()),
    "relu": lambda out, _: (0, out.numel()),
}
_PRODUCTS |= {
    name: lambda _, args: (0, args[0].numel())
    for name in ("mean", "avg_pool2d", "avg_pool3d", "max_pool2d_with_indices", "max_pool3d_with_indices")
}
_FUNCTIONAL = ("mm", "bmm", "baddbmm")


class _Counter(TorchDispatchMode):
    """Adds up what runs inside."""

    def __init__(self) -> None:
        super().__init__()
        self.products = self.elementwise = self.functional = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if name in _PRODUCTS:
            products, elementwise = _PRODUCTS[name](out, args)
            self.products += products
            self.elementwise += elementwise
            self.functional += products if name in _FUNCTIONAL else 0
        return out


@contextmanager
def _plain_kernels() -> Iterator[None]:
    """Attention and encoder layers of torch.nn as the products they are made of, not as one operation each."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


def flops(module: nn.Module, clip_shape: tuple[int, ...], mode: str = "clip", *, count: str = "products") -> float:
    """Multiply-adds (what the papers call FLOPs) of one clip or of one step.

    On the meta device nothing is computed, so that a whole video network costs seconds.

    Args:
        clip_shape: `(batch, channels, time, *space)`; a step takes a slice of it.
        mode: "clip" of one `forward`, "step" of the mean step over one cycle of the strides, when the state is full.
        count: "products": convolutions and matrix products. "papers": as the papers' counter does, which looks at
            layers: biases, norms (2 a number), ReLU and pools (1 each) too, but no products between activations, such
            as with a graph or in attention.

    Raises:
        ValueError: an unknown mode or count; a module that is not continual, counted in steps.
    """
    if count not in ("products", "papers"):
        raise ValueError(f"count must be products or papers, got {count!r}")
    return tally(module, clip_shape, mode)[count]


def tally(module: nn.Module, clip_shape: tuple[int, ...], mode: str = "clip") -> dict[str, float]:
    """Both counts of `flops` from one run."""
    if mode not in ("clip", "step"):
        raise ValueError(f"mode must be clip or step, got {mode!r}")
    if len(clip_shape) < 3:
        raise ValueError(f"clip_shape must be (batch, channels, time, ...), got {clip_shape}")
    if mode == "step" and not isinstance(module, Continual):
        raise ValueError(f"module must be continual to be counted in steps, got {type(module).__name__}")
    first = next(module.parameters(), None)
    device, dtype = (first.device, first.dtype) if first is not None else (torch.device("cpu"), torch.float32)
    shape = clip_shape if mode == "clip" else (*clip_shape[:2], *clip_shape[3:])
    training, cycle, counter, stream = module.training, 1, _Counter(), cast(Any, module)
    state: dict[str, Any]
    module.eval()
    try:
        with torch.no_grad():
            x = torch.zeros(shape, device=device, dtype=dtype)
            if mode == "clip":
                with counter, _plain_kernels():
                    module(x)
            else:
                cycle, state = int(stream.time_stride), {}
                if cycle == 1 and not any(isinstance(part, RetroactiveMHA) for part in module.modules()):
                    # the functional step does the same work from its first slice on; nothing has to fill up
                    with counter, _plain_kernels():
                        stream.pure(x, torch.ones((), dtype=torch.bool, device=device), None)
                else:
                    for _ in range(stream.delay + 1):
                        stream.advance(x, state)
                    with counter, _plain_kernels():
                        for _ in range(cycle):
                            stream.advance(x, state)
    finally:
        module.train(training)
    papers = counter.products + counter.elementwise - counter.functional
    return {"products": counter.products / cycle, "papers": papers / cycle}
