"""What the paper is about, in seconds: four depths, with and without backpropagation, on a graph of four groups."""

from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from shared_impl.results import plot_curves

from .data import sbm
from .experiments import trained_memory
from .graphs import node_splits
from .model import ForwardGNN

__all__ = ["demo"]


def demo(*, seed: int, device: torch.device, out_dir: Path, console: Console) -> dict[str, float]:
    """Accuracy by depth of single-forward and backpropagation, and what autograd keeps; draws the latter."""
    data = sbm(seed=seed).to(device)
    data.update({name: mask.to(device) for name, mask in node_splits(data.num_nodes)[0].items()})
    table = Table("layers", "SF", "BP", "MiB kept, SF", "MiB kept, BP", title="A stochastic block model of 800 nodes")
    found: dict[str, float] = {}
    curves: dict[str, tuple[list[float], list[float]]] = {"single-forward": ([], []), "backpropagation": ([], [])}
    for layers in (1, 2, 4, 8):
        cells = []
        for name, method, curve in (("sf", "sf", "single-forward"), ("bp", "bp", "backpropagation")):
            model = ForwardGNN(method, layers=layers, epochs=150, val_every=5, patience=6, random_state=seed)
            found[f"{name}_{layers}"] = model.fit(data).score(data)
            kept = trained_memory(method, data, layers=layers) / 2**20
            found[f"{name}_{layers}_mib"] = kept
            curves[curve][0].append(layers)
            curves[curve][1].append(kept)
            cells.append((f"{100 * found[f'{name}_{layers}']:.1f} %", f"{kept:.2f}"))
        table.add_row(str(layers), cells[0][0], cells[1][0], cells[0][1], cells[1][1])
    path = plot_curves(
        out_dir / "demo.png", curves, xlabel="layers", ylabel="MiB that autograd keeps", title="Training by layers"
    )
    console.print(table)
    console.print("No gradient crosses a layer of SF: what it keeps does not grow with depth.")
    console.print(f"plot: {path}", highlight=False)
    return found
