"""What the paper is about, in under a minute: the same layer learns parity or not, for the sign of an eigenvalue."""

from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from shared_impl.results import plot_curves

from .constructions import modm_two_layer, parity_lrnn
from .learning import accuracy_by_length, train_on_task
from .model import SequenceModel, set_eigenvalue_range
from .tasks import parity

__all__ = ["demo"]

LENGTHS = (10, 20, 40, 64, 128, 256)


def demo(
    *, seed: int, device: torch.device, out_dir: Path, console: Console, steps: int = 400
) -> dict[str, dict[int, float]]:
    """Train DeltaNet on parity of 3 to 20 bits in both ranges, and ask it for up to 256; returns scaled accuracies."""
    task, found = parity(), {}
    for name, eig_range in {"DeltaNet [0,1]": (0.0, 1.0), "DeltaNet [-1,1]": (-1.0, 1.0)}.items():
        torch.manual_seed(seed)
        model = SequenceModel(vocab_size=3, d_model=32, n_layers=2, n_heads=2, eig_range=eig_range).to(device)
        train_on_task(model, task, lengths=(3, 20), steps=steps, batch_size=64, learning_rate=3e-3, seed=seed)
        found[name] = accuracy_by_length(model, task, LENGTHS)
        if eig_range[0] < 0:
            set_eigenvalue_range(model, 0.0, 1.0)
            found["the same weights, switched to [0,1]"] = accuracy_by_length(model, task, LENGTHS)
    table = Table("model", *map(str, LENGTHS), title="Parity: scaled accuracy by length (trained on 3 to 20)")
    for name, curve in found.items():
        table.add_row(name, *(f"{value:.2f}" for value in curve.values()))
    console.print(table)
    generator = torch.Generator().manual_seed(seed)
    bits = torch.randint(0, 2, (1, 100_000), generator=generator)
    digits = torch.randint(0, 7, (1, 100_000), generator=generator)
    wrong = int((parity_lrnn()(bits)[0] != bits.cumsum(1) % 2).sum())
    missed = int((modm_two_layer(7)(digits)[0] != digits.cumsum(1) % 7).sum())
    console.print(f"By hand: parity in one layer, {wrong} errors in 100,000 steps; sums modulo 7 in two, {missed}.")
    curves = {name: (list(curve), list(curve.values())) for name, curve in found.items()}
    path = plot_curves(
        out_dir / "demo.png", curves, xlabel="length", ylabel="scaled accuracy", title="Parity", logx=True
    )
    console.print(f"plot: {path}")
    return found
