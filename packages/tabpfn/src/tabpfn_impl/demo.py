"""The demonstration: decision boundaries in the plane, and real tables, beside a random forest."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from shared_impl.results import Record, Row
from tabpfn_impl.baselines import make_baseline
from tabpfn_impl.classifier import TabPFNClassifier
from tabpfn_impl.data import sklearn_tables
from tabpfn_impl.evaluation import evaluate

__all__ = ["demo", "plane_sets", "plot_boundaries"]


def plane_sets(seed: int = 0, rows: int = 100) -> list[tuple[str, NDArray[np.float64], NDArray[np.int64]]]:
    """Two moons, two circles, three blobs: points in the plane."""
    from sklearn.datasets import make_blobs, make_circles, make_moons

    return [
        ("moons", *make_moons(rows, noise=0.25, random_state=seed)),
        ("circles", *make_circles(rows, noise=0.12, factor=0.5, random_state=seed)),
        ("blobs", *make_blobs(rows, centers=3, cluster_std=2.2, random_state=seed)),
    ]


def plot_boundaries(path: Path, models: dict[str, Any], *, seed: int = 0, resolution: int = 45) -> Path:
    """Draw, for each set and model, the probability of the likeliest class over the plane."""
    from matplotlib.figure import Figure

    colours = np.array([[0.23, 0.45, 0.75], [0.85, 0.37, 0.25], [0.30, 0.62, 0.35]])
    sets = plane_sets(seed)
    figure = Figure(figsize=(3.0 * len(sets), 3.1 * len(models)), dpi=110, layout="constrained")
    axes = figure.subplots(len(models), len(sets), squeeze=False)
    for column, (name, X, y) in enumerate(sets):
        low, high = X.min(0) - 0.5, X.max(0) + 0.5
        grid = np.stack(
            np.meshgrid(np.linspace(low[0], high[0], resolution), np.linspace(low[1], high[1], resolution)), axis=-1
        )
        for row, (label, model) in enumerate(models.items()):
            p = model.fit(X, y).predict_proba(grid.reshape(-1, 2)).reshape(resolution, resolution, -1)
            # white where nothing is known, the class's colour where it is certain
            image = 1.0 - p @ (1.0 - colours[: p.shape[2]])
            ax = axes[row, column]
            ax.imshow(
                np.clip(0.35 + 0.65 * image, 0, 1), origin="lower", aspect="auto", interpolation="bilinear",
                extent=(low[0], high[0], low[1], high[1]),
            )  # fmt: skip
            ax.scatter(X[:, 0], X[:, 1], c=colours[y], s=14, edgecolors="white", linewidths=0.6)
            ax.set_xticks([])
            ax.set_yticks([])
            ax.set_title(f"{label}: {name}", fontsize=10)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    return path


def demo(*, seed: int, device: str, out_dir: Path, console: Console) -> Record:
    """Decision boundaries as a plot, and a table of AUC on scikit-learn's four sets."""
    record = Record.start("tabpfn_impl", "demo", preset="cpu", seeds=[seed], kind="demo")

    def tabpfn(seed: int) -> TabPFNClassifier:
        return TabPFNClassifier(n_estimators=4, device=device, random_state=seed)

    console.print("decision boundaries ...", highlight=False)
    plot = plot_boundaries(
        out_dir / "demo.png",
        {"TabPFN": tabpfn(seed), "random forest": make_baseline("random forest", seed)},
        seed=seed,
    )
    record.plots.append(plot.name)
    for table in sklearn_tables():
        console.print(f"{table.name} ...", highlight=False)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            outcomes = evaluate(
                table,
                {"TabPFN": tabpfn, "random forest": lambda s: make_baseline("random forest", s)},
                n_splits=1,
                seed=seed,
            )
        for o in outcomes:
            record.add(
                Row(
                    f"{table.name} ({table.X.shape[0]} x {table.X.shape[1]})", o.model, "AUC (OVO)", o.scores.auc,
                    note=f"log-loss {o.scores.log_loss:.3f}, {o.fit_s + o.predict_s:.2f} s",
                )
            )  # fmt: skip
    record.save(out_dir)
    return record
