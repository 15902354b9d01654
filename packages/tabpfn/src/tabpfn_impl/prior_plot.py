"""A picture of tables from the prior."""

from pathlib import Path

import numpy as np

from tabpfn_impl.priors import TaskBatch

__all__ = ["plot_tables"]


def plot_tables(path: Path, batch: TaskBatch, *, most: int = 12) -> Path:
    """Each table as a scatter plot of its first two columns (one: against the row's number), coloured by class."""
    from matplotlib.figure import Figure

    n = min(most, len(batch.x))
    columns = min(4, n)
    rows = -(-n // columns)
    figure = Figure(figsize=(2.6 * columns, 2.5 * rows), dpi=110, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for ax in axes[n:]:
        ax.set_visible(False)
    for ax, x, y, width in zip(axes, batch.x.numpy(), batch.y.numpy(), batch.n_features.tolist(), strict=False):
        second = x[:, 1] if width > 1 else np.arange(len(x))
        ax.scatter(x[:, 0], second, c=y, cmap="tab10", vmin=0, vmax=9, s=7, linewidths=0)
        ax.set_xticks([])
        ax.set_yticks([])
        ax.set_title(f"{width} columns, {y.max() + 1} classes", fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    return path
