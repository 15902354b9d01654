"""What the paper is about, in under a minute: a table and a plot."""

from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from shared_impl.results import plot_curves

from .hawkes import Hawkes, poisson_nll
from .tasks import events
from .training import Plan
from .twins import build_backbone, state_bytes

__all__ = ["demo"]


def demo(*, seed: int, steps: int = 100, device: torch.device, out_dir: Path, console: Console) -> dict[str, float]:
    """Hawkes events: NLL of both models, the Poisson process and the truth; then what each keeps of a stream."""
    process = Hawkes()
    drawn = process.sample(120, seed=seed, max_events=100)
    train, test = drawn[:80], drawn[80:]
    found = {"truth": process.nll(test), "poisson": poisson_nll(train, test, process.n_marks)}
    curves: dict[str, tuple[list[float], list[float]]] = {}
    for name in ("aaren", "transformer"):
        plan = Plan(steps=steps, lr=3e-3, seed=seed, device=device)
        found[name] = events(name, train, test, process.n_marks, plan)[1]["nll"]
        model, state = build_backbone(name).eval().to(device), None
        lengths: list[float] = list(range(32, 513, 32))
        sizes: list[float] = []
        with torch.inference_mode():
            for _ in lengths:
                _, state = model.forward_chunk(torch.zeros(1, 32, 64, device=device), state)
                sizes.append(state_bytes(state) / 1024)
        curves[name] = (lengths, sizes)
        found[f"{name}_state_KiB"] = sizes[-1]

    table = Table("model", "NLL an event", "state after 512 tokens", title="Events of a Hawkes process")
    for name in ("truth", "aaren", "transformer", "poisson"):
        size = f"{found[f'{name}_state_KiB']:.1f} KiB" if f"{name}_state_KiB" in found else ""
        table.add_row(name, f"{found[name]:.3f}", size)
    path = plot_curves(out_dir / "demo.png", curves, xlabel="tokens read", ylabel="state, KiB", logy=True)
    console.print(table)
    console.print(f"plot: {path}", soft_wrap=True)
    return found
