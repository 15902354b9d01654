"""What the paper is about, in seconds: one set of weights, three splits into history and horizon, and a gap."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from .baselines import SeasonalNaive, linear_interpolation
from .data import sinusoids
from .metrics import scores
from .model import GPD
from .timeline import default_period

__all__ = ["demo", "plot_fan"]


def plot_fan(
    path: Path, past: np.ndarray, samples: np.ndarray, *, level: float = 0.8, truth: np.ndarray | None = None,
    others: Mapping[str, np.ndarray] | None = None,
) -> Path:  # fmt: skip
    """Draw a history, the samples' mean and interval, and what came, into a PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.4), layout="constrained")
    axes = figure.add_subplot()
    at = np.arange(len(past), len(past) + samples.shape[1])
    low, high = np.quantile(samples, [(1 - level) / 2, (1 + level) / 2], axis=0)
    axes.plot(np.arange(len(past)), past, color="0.3", label="history")
    axes.fill_between(at, low, high, color="C0", alpha=0.25, linewidth=0, label=f"{100 * level:.0f} % of samples")
    axes.plot(at, samples.mean(0), color="C0", label="mean")
    if truth is not None:
        axes.plot(at, truth, color="0.3", linestyle=":", label="what came")
    for i, (label, line) in enumerate((others or {}).items()):
        axes.plot(at, line, color=f"C{i + 1}", linewidth=1, label=label)
    axes.grid(alpha=0.25)
    axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=9)
    axes.set(xlabel="step")
    figure.savefig(path, dpi=110)
    return path


def demo(*, seed: int, device: torch.device, out_dir: Path, console: Console) -> dict[str, float]:
    """Forecasts and filled gaps of fresh made series by the weights of the package, beside what needs no model."""
    model = GPD.pretrained().to(device)
    x = sinusoids(24, 192, seed=seed + 1000)[:, :, None]
    table = Table(
        "history",
        "horizon",
        "MSE",
        "naive MSE",
        "CRPS",
        "naive CRPS",
        "80 % coverage",
        title="24 fresh series",
    )
    found: dict[str, float] = {}
    for history in (96, 144, 168):
        truth = x[:, history:]
        # the last period, that of the strongest autocorrelation of each history
        naive = np.concatenate(
            [
                SeasonalNaive(default_period(None, one[:history, 0])).forecast(one[None, :history], 192 - history)
                for one in x
            ]
        )
        drawn = model.forecast_many(x[:, :history], 192 - history, n_samples=20, steps=25, seed=seed)
        got, plain = (scores(d.transpose(1, 0, 2, 3), truth) for d in (drawn, naive))
        table.add_row(
            str(history), str(192 - history), f"{got['mse']:.3f}", f"{plain['mse']:.3f}", f"{got['crps']:.3f}",
            f"{plain['crps']:.3f}", f"{100 * got['coverage']:.0f} %",
        )  # fmt: skip
        for key in ("mse", "crps"):
            found[f"{key}_{192 - history}"], found[f"naive_{key}_{192 - history}"] = got[key], plain[key]
        if history == 144:
            path = plot_fan(
                out_dir / "demo.png", x[0, :history, 0], drawn[0, :, :, 0], truth=truth[0, :, 0],
                others={"last period": naive[0, 0, :, 0]},
            )  # fmt: skip
    console.print(table)
    holes = x[:8].copy()
    holes[:, 60:90] = np.nan
    filled = np.stack([model.impute(one, n_samples=20, steps=25, seed=seed).mean(0) for one in holes])
    lines = np.stack([linear_interpolation(one.astype(float)) for one in holes])
    found["gap_mse"], found["line_gap_mse"] = (float(np.mean((f - x[:8])[:, 60:90] ** 2)) for f in (filled, lines))
    console.print(f"A gap of 30 steps: MSE {found['gap_mse']:.3f}, a straight line {found['line_gap_mse']:.3f}.")
    console.print(f"plot: {path}", highlight=False)
    return found
