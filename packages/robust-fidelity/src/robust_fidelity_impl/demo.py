"""What the paper is about, in seconds: a classifier that is wrong off the data makes the original Fid- prefer noise."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from robust_fidelity_impl.experiments import ALPHAS, classifier, of_graph
from robust_fidelity_impl.meta import size_matched_curve
from robust_fidelity_impl.models import OutsideFlipped
from robust_fidelity_impl.probe import Probe
from shared_impl.results import plot_lines

__all__ = ["demo"]


def demo(*, seed: int, device: torch.device, out_dir: Path, console: Console) -> dict[str, Any]:
    """Fid- of explanations of the truth's size with more and more wrong edges, original and robust."""
    model, tested, accuracy = classifier("BA-2motifs", "GIN", 200, 400, seed)
    found = []
    for graph in tested[:8]:
        wrong_off_the_data = OutsideFlipped(model, graph.edge_index.shape[1])
        found.append(of_graph(Probe(wrong_off_the_data, graph), graph))
    curves = {
        name: size_matched_curve(found, draws=2, seed=seed, alpha1=alpha1, alpha2=alpha2, n_samples=30)["minus"]
        for name, (alpha1, alpha2) in ALPHAS.items()
    }
    table = Table(
        "wrong edges in the explanation", *(f"{name} Fid-" for name in curves),
        title=f"Lower should be better; classifier {100 * accuracy:.0f} % right, wrong below 60 % of the edges",
    )  # fmt: skip
    swaps = np.arange(len(curves["robust"]))
    for s in swaps:
        table.add_row(str(s), *(f"{curve[s]:.3f}" for curve in curves.values()))
    path = plot_lines(
        out_dir / "demo.png",
        {name: list(zip(swaps.tolist(), curve.tolist(), strict=True)) for name, curve in curves.items()},
        xlabel="wrong edges in an explanation of equal size",
        ylabel="Fid- (lower should be better)",
        title="House or cycle, classifier wrong off the data",
    )
    console.print(table)
    console.print(f"plot: {path}", highlight=False)
    return {name: curve.tolist() for name, curve in curves.items()}
