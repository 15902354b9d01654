"""What the paper is about, in under a minute: a table and a plot."""

from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from shared_impl.results import plot_scores

from .training import train_copy

__all__ = ["demo"]

_MODELS = {"tcnca": "TCN + chunked attention", "mega": "EMA + chunked attention (MEGA)", "chunk": "chunked attention"}


def demo(*, seed: int, device: torch.device, out_dir: Path, console: Console, steps: int = 200) -> dict[str, float]:
    """Repeat what stood a chunk and a half before: what crosses the chunks' borders does so through the mixer."""
    table = Table("layer", "accuracy %", title="Symbols of 24 positions before, chunks of 16 (chance 12.5 %)")
    found = {}
    for name, label in _MODELS.items():
        console.print(f"training: {label}", highlight=False)
        _, found[label] = train_copy(name, steps=steps, seed=seed, device=str(device))
        table.add_row(label, f"{100 * found[label]:.1f}")
    path = plot_scores(
        out_dir / "demo.png", {label: [100 * score] for label, score in found.items()}, xlabel="accuracy %"
    )
    console.print(table)
    console.print(f"plot: {path}")
    return found
