"""The energy model of the paper: counted operations at 45 nm prices, not measured energy."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from .network import SpikingNet

__all__ = ["AC_PJ", "ASSUMPTIONS", "MAC_PJ", "EnergyTable", "LayerCost", "energy", "energy_ratio"]

MAC_PJ = 4.6
AC_PJ = 0.9
ASSUMPTIONS = (
    "operations are counted, energy is not measured: 45 nm CMOS, 32 bit, 4.6 pJ a multiply-accumulate (ANN and the "
    "first layer), 0.9 pJ an accumulate (a spike through a weight); memory, membranes, leaks, resets, biases and "
    "pooling cost nothing; a spike costs the mean fan-out of its layer"
)


@dataclass(frozen=True)
class LayerCost:
    """One weight layer."""

    name: str
    macs: int
    """multiply-accumulates of the ANN"""
    rate: float | None
    """spikes a neuron and inference of the layer that feeds it, summed over the steps; None: analogue input (the image,
    or the output of a weight layer with no neuron between)"""
    operations: float
    """of the SNN: multiply-accumulates for analogue input, else accumulates"""
    snn_pj: float


@dataclass(frozen=True)
class EnergyTable:
    """Operations and energy of one inference."""

    layers: tuple[LayerCost, ...]
    T: int
    ann_pj: float
    snn_pj: float
    spikes: float
    """spikes of all neurons"""
    assumptions: str = ASSUMPTIONS

    @property
    def ratio(self) -> float:
        """E_ANN / E_SNN."""
        return self.ann_pj / self.snn_pj


def energy_ratio(
    macs: Iterable[float | int],
    rates: Iterable[float | int],
    T: int = 1,
    *,
    first_layer: Literal["every_step", "once"] = "every_step",
) -> float:
    """E_ANN / E_SNN = 4.6 sum O_l / (4.6 T O_1 + 0.9 sum_{l > 1} r_l O_l).

    Args:
        macs: O_l of all layers, the first sees the image.
        rates: r_l of the layers from the second on.
        first_layer: paid at every step, or once as it is computed here (the same at T = 1).

    Raises:
        ValueError: unequal numbers, or a negative one; T below 1.
    """
    counts, spikes = list(macs), list(rates)
    if len(counts) != len(spikes) + 1:
        raise ValueError(f"rates must be one fewer than macs ({len(counts)}), got {len(spikes)}")
    if T < 1 or min(counts + spikes) < 0 or not counts[0] > 0:
        raise ValueError(f"T must be at least 1 and macs and rates not negative, got T={T}, {counts}, {spikes}")
    first = counts[0] * (T if first_layer == "every_step" else 1)
    below = MAC_PJ * first + AC_PJ * sum(r * o for r, o in zip(spikes, counts[1:], strict=True))
    return MAC_PJ * sum(counts) / below


def energy(
    net: SpikingNet,
    loader: Iterable[tuple[Tensor, Tensor] | Tensor],
    T: int | None = None,
    *,
    first_layer: Literal["every_step", "once"] = "every_step",
) -> EnergyTable:
    """The table of a network on data.

    Raises:
        ValueError: no image; T below 1; an unknown `first_layer`.
    """
    if first_layer not in ("every_step", "once"):
        raise ValueError(f"first_layer must be every_step or once, got {first_layer!r}")
    steps = net.T if T is None else T
    n, macs, still = 0, {}, set()
    fed: dict[str, float | None] = {}
    spikes = 0.0
    for batch in loader:
        x = batch if isinstance(batch, Tensor) else batch[0]
        trace = net.trace(x, steps)
        macs, still = trace.macs, trace.still
        spikes += len(x) * sum(rate * trace.sizes[name] for name, rate in trace.rates.items())
        for name, rate in trace.fed_by.items():
            fed[name] = None if rate is None else (fed.get(name) or 0.0) + rate * len(x)
        n += len(x)
    if not n:
        raise ValueError("loader must give at least one image")
    layers = []
    for name, count in macs.items():
        total = fed[name]
        if total is None:
            once = first_layer == "once" and name in still
            operations = float(count * (1 if once else steps))
            layers.append(LayerCost(name, count, None, operations, MAC_PJ * operations))
        else:
            rate = total / n
            layers.append(LayerCost(name, count, rate, rate * count, AC_PJ * rate * count))
    ann = MAC_PJ * sum(macs.values())
    return EnergyTable(tuple(layers), steps, ann, sum(layer.snn_pj for layer in layers), spikes / n)
