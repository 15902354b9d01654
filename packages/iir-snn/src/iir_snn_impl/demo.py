"""What the paper is about, in under a minute: a table and a plot."""

from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from shared_impl.results import plot_curves

from .data import digits16
from .energy_model import ASSUMPTIONS, energy
from .models import small_conv
from .network import SpikingNet
from .training import Batches, accuracy, iir, train_ann

__all__ = ["demo"]


def demo(*, seed: int, device: torch.device, out_dir: Path, console: Console) -> dict[str, float]:
    """Digits: a ReLU network, converted, and brought from 5 steps to 1; returns accuracies and energy ratios."""
    torch.manual_seed(seed)
    parts = digits16()
    train = Batches(parts.train[0].to(device), parts.train[1].to(device), seed=seed)
    test = Batches(parts.test[0].to(device), parts.test[1].to(device), 500, shuffle=False)
    ann = small_conv().to(device)
    console.print("training the ReLU network, then five stages from 5 steps to 1 ...")
    train_ann(ann, train, epochs=10, lr=0.05)
    converted = SpikingNet.from_ann(ann, [parts.train[0][:512].to(device)])
    networks, _ = iir(converted, train, epochs=3, lr=1e-3)
    found = {"ann": accuracy(ann, test)}
    table = Table(
        "steps",
        "converted only",
        "IIR",
        "spikes a neuron",
        "E_ANN / E_SNN",
        title=f"Digits; the ReLU network: {found['ann']:.1%}",
    )
    curves: dict[str, tuple[list[float], list[float]]] = {"converted only": ([], []), "IIR": ([], [])}
    for T, net in networks.items():
        scores = {"converted only": accuracy(converted, test, T), "IIR": accuracy(net, test, T)}
        cost, rates = energy(net, test, T), net.spike_stats(test, T)
        table.add_row(
            str(T),
            *[f"{s:.1%}" for s in scores.values()],
            f"{sum(rates.values()) / len(rates):.3f}",
            f"{cost.ratio:.1f}",
        )
        for name, score in scores.items():
            curves[name][0].append(T)
            curves[name][1].append(100 * score)
        found |= {f"converted_{T}": scores["converted only"], f"iir_{T}": scores["IIR"], f"ratio_{T}": cost.ratio}
    curves["ReLU network"] = ([1.0, 5.0], [100 * found["ann"]] * 2)
    path = plot_curves(
        out_dir / "demo.png",
        curves,
        xlabel="time steps",
        ylabel="test accuracy %",
        title="Digits: fewer and fewer steps",
    )
    console.print(table)
    console.print(ASSUMPTIONS)
    console.print(f"plot: {path}")
    return found
