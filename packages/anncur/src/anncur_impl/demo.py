"""What the paper is about, in seconds: the ten nearest of 1,397 digits under a kernel, for a tenth of the calls."""

from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from anncur_impl.data import digits_rbf
from anncur_impl.experiments import budget_curve
from shared_impl.results import plot_lines

__all__ = ["demo"]

METHODS = {"ANNCUR": "ANNCUR", "ANNCUR, 4 rounds": "in four rounds", "random": "random candidates"}
BUDGETS = (20, 40, 80, 140, 280, 560)


def demo(*, seed: int, device: torch.device, out_dir: Path, console: Console) -> dict[str, Any]:
    """Recall of the ten best at growing budgets; returns it by method and budget."""
    problem = digits_rbf(tests=100, seed=seed)
    n = problem.test_scores.shape[1]
    curves = {label: budget_curve(method, problem, BUDGETS, seed=seed) for method, label in METHODS.items()}
    table = Table("calls of the scorer", *curves, title=f"Share of the ten best of {n:,} digits that is found")
    for i, budget in enumerate(BUDGETS):
        table.add_row(f"{budget} ({budget / n:.0%})", *(f"{curve[i]:.3f}" for curve in curves.values()))
    path = plot_lines(
        out_dir / "demo.png",
        {label: list(zip(BUDGETS, curve, strict=True)) for label, curve in curves.items()},
        xlabel=f"calls a query (brute force: {n:,})",
        ylabel="recall of the ten best",
        title="Nearest digits under a Gaussian kernel",
        logx=True,
    )
    console.print(table)
    console.print(f"plot: {path}", highlight=False)
    return {label: dict(zip(map(str, BUDGETS), curve, strict=True)) for label, curve in curves.items()}
