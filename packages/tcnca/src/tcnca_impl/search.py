"""The search of appendix D: shapes of the TCN whose layer runs faster than MEGA's at a length."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import torch

from shared_impl.bench import compare

from .layer import MegaLayer
from .tcn import receptive_field, seen_positions, tcn_for_length

__all__ = ["Candidate", "select_tcn"]


@dataclass(frozen=True)
class Candidate:
    """A shape, how far it sees, and how many times as fast as MEGA's layer it runs."""

    kernel: int
    depth: int
    dilation_factor: int
    receptive_field: int
    seen: int
    speed: float

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def select_tcn(
    length: int,
    *,
    d_model: int = 64,
    chunk: int = 128,
    kernels: Iterable[int] = (5, 9, 17),
    depths: Iterable[int] = (3, 4, 6),
    rounds: int = 3,
    training: bool = False,
    device: str = "cpu",
) -> list[Candidate]:
    """Every shape that reaches `length`, the fastest first; the paper keeps those with a speed above 1.

    Args:
        training: time forward and backward instead of forward alone.

    Raises:
        ValueError: no shape that can reach the length, or a number below 1.
    """
    import warnings

    if length < 1:
        raise ValueError(f"length must be at least 1, got {length}")
    shapes = [(k, d, tcn_for_length(length, k, d)) for k in kernels for d in depths]
    if not shapes:
        raise ValueError("kernels and depths must not be empty")
    x = torch.randn(1, length, d_model, device=device)
    layers = {"mega": MegaLayer(d_model, "ema", chunk=chunk).to(device)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for k, d, f in shapes:
            settings: dict[str, Any] = {"kernel": k, "depth": d, "dilation_factor": f}
            layers[f"{k}-{d}"] = MegaLayer(d_model, "tcn", chunk=chunk, **settings).to(device)

    def form(layer: MegaLayer) -> object:
        with torch.set_grad_enabled(training):
            y, _ = layer(x, return_state=False)
        return torch.autograd.grad(y.sum(), list(layer.parameters())) if training else y

    timings = compare({n: lambda m=m: form(m) for n, m in layers.items()}, baseline="mega", rounds=rounds)
    found = [
        Candidate(k, d, f, receptive_field(k, f, d), seen_positions(k, f, d), timings[f"{k}-{d}"].ratio)
        for k, d, f in shapes
    ]
    return sorted(found, key=lambda candidate: -candidate.speed)
