"""What eigenvalues a model's transitions have on a batch."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from shared_impl.results import plot_curves

from .layers import LinearRNN

__all__ = ["EigenReport", "LayerSpectrum", "eigen_report"]


@dataclass(frozen=True)
class LayerSpectrum:
    """Eigenvalues of one layer over a batch."""

    name: str
    eig_range: tuple[float, float]
    real: Float[Tensor, " count"]
    """real parts"""
    largest_modulus: float
    largest_imaginary: float

    @property
    def share_negative(self) -> float:
        """How many have a negative real part."""
        return float((self.real < 0).double().mean())

    def histogram(self, bins: int = 40) -> tuple[list[float], list[float]]:
        """Middles of bins over [-1, 1], and the share of eigenvalues in each."""
        counts = torch.histc(self.real.float().clamp(-1, 1), bins, -1, 1)
        middles = (torch.arange(bins) + 0.5) * 2 / bins - 1
        return middles.tolist(), (counts / counts.sum()).tolist()


@dataclass(frozen=True)
class EigenReport:
    """One spectrum a layer."""

    layers: list[LayerSpectrum]

    def plot(self, path: Path | str, *, title: str = "Eigenvalues of A(x)") -> Path:
        """Draw the histograms into a PNG."""
        curves = {f"{one.name} in [{one.eig_range[0]:g}, {one.eig_range[1]:g}]": one.histogram() for one in self.layers}
        return plot_curves(Path(path), curves, xlabel="real part", ylabel="share", title=title)


def eigen_report(
    model: nn.Module, batch: Int[Tensor, "batch length"] | Float[Tensor, "batch length d_model"]
) -> EigenReport:
    """Run the model on a batch and collect, layer by layer, the eigenvalues that depend on the input.

    Of DeltaNet that is 1 - beta a head and token (the other d - 1 are 1); of products of several reflections, and of
    full matrices, all of them.

    Raises:
        ValueError: the model has no layer with an eigenvalue range.
    """
    found: list[LayerSpectrum] = []
    handles = []

    def watch(name: str) -> Any:
        def hook(module: Any, args: Any, kwargs: Any) -> None:
            values = module.eigenvalues(args[0] if args else kwargs["x"]).flatten()
            imaginary = values.imag.abs().max().item() if values.is_complex() else 0.0
            real = values.real if values.is_complex() else values
            found.append(LayerSpectrum(name, module.eig_range, real.cpu(), values.abs().max().item(), imaginary))

        return hook

    for name, module in model.named_modules():
        if isinstance(module, LinearRNN):
            handles.append(module.register_forward_pre_hook(watch(name or type(module).__name__), with_kwargs=True))
    if not handles:
        raise ValueError(f"model must have a layer with an eigenvalue range, {type(model).__name__} has none")
    try:
        with torch.no_grad():
            model(batch)
    finally:
        for handle in handles:
            handle.remove()
    return EigenReport(found)
