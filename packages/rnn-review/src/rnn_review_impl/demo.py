"""The gradient's way through time in an Elman net and an LSTM, and what each learns of the adding problem."""

from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from shared_impl.experiments import Context, Run
from shared_impl.results import plot_curves

from .experiments import run_adding
from .figures import gradient_flow

__all__ = ["demo"]


def demo(*, seed: int, device: torch.device, out_dir: Path, console: Console, steps: int = 1200) -> dict[str, float]:
    """Print both, draw the first; returns the norms at lag 30 and the errors."""
    flow = gradient_flow(["elman", "lstm", "lstm-1997"], 31, 32, seed)
    table = Table("network", "gradient at lag 30", "adding T=30: squared error", title="Elman against LSTM")
    result = {"baseline": 1 / 6}
    for name in ("elman", "lstm"):
        options = {"length": 30, "hidden": 48, "steps": steps}
        mse = run_adding(Run("adding", name, seed, options), Context(device=str(device)))["mse"]
        table.add_row(name, f"{flow[name][30]:.1e}", f"{mse:.4f}")
        result |= {f"{name} gradient": flow[name][30], f"{name} mse": mse}
    table.add_row("the mean", "", f"{1 / 6:.4f}")
    path = plot_curves(
        out_dir / "demo.png",
        {name: (list(range(len(norms))), norms) for name, norms in flow.items()},
        xlabel="lag", ylabel="norm of the Jacobian product", title="How far the gradient flows", logy=True,
    )  # fmt: skip
    console.print(table)
    console.print(f"plot: {path}")
    return result
