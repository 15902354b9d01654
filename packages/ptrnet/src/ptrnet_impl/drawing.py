"""Pictures of points and answers: panels in a PNG, and letters in a terminal."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["ascii_picture", "draw_answers"]


def _edges(answer: Any, task: str) -> list[tuple[int, int]]:
    """Pairs of points to be joined."""
    flat = np.asarray(answer, dtype=np.int64).reshape(-1).tolist()
    if task == "delaunay":
        triples = [flat[i : i + 3] for i in range(0, len(flat) - 2, 3)]
        pairs = [pair for a, b, c in triples for pair in ((a, b), (b, c), (a, c))]
        return sorted({(min(p), max(p)) for p in pairs})
    return list(zip(flat, flat[1:] + flat[:1], strict=True)) if len(flat) > 1 else []


def draw_answers(path: Path, panels: Sequence[tuple[str, Any, Mapping[str, Any]]], *, task: str) -> Path:
    """Draw instances with their answers: a panel for each (title, points, {label: answer}); returns the path.

    The first label is drawn wide and grey (the exact answer), the others over it.
    """
    from matplotlib.figure import Figure

    count = len(panels)
    columns = min(4, count)
    rows = -(-count // columns)
    figure = Figure(figsize=(2.6 * columns, 2.8 * rows + 0.4), dpi=120, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for spare in axes.flat[count:]:
        spare.axis("off")
    for axis, (title, points, answers) in zip(axes.flat, panels, strict=False):
        p = np.asarray(points, dtype=np.float64)
        if p.shape[1] == 1:  # numbers to sort: where each stands, over its place in the answer
            for i, (label, answer) in enumerate(answers.items()):
                style = {"color": "0.75", "linewidth": 6} if i == 0 else {"color": f"C{i - 1}", "marker": "o"}
                axis.plot(p[np.asarray(answer, dtype=np.int64), 0], label=label, **style)
        else:
            for i, (label, answer) in enumerate(answers.items()):
                style = {"color": "0.78", "linewidth": 6} if i == 0 else {"color": f"C{i - 1}", "linewidth": 1.4}
                for k, (a, b) in enumerate(_edges(answer, task)):
                    axis.plot(p[[a, b], 0], p[[a, b], 1], label=label if k == 0 else "_", **style)
            axis.plot(p[:, 0], p[:, 1], "o", color="black", markersize=3.5)
            axis.set_aspect("equal")
        axis.set_title(title, fontsize=9)
        axis.set_xticks([])
        axis.set_yticks([])
    handles, labels = axes.flat[0].get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    return path


def ascii_picture(points: Any, answer: Any, *, task: str, width: int = 50, height: int = 20) -> str:
    """Points by their index (modulo 10), joined by dots as the answer says."""
    p = np.asarray(points, dtype=np.float64)
    if p.shape[1] == 1:
        p = np.concatenate([p, np.zeros_like(p)], axis=1)
    extent = np.where(np.ptp(p, axis=0) > 0, np.ptp(p, axis=0), 1.0)
    place = np.rint((p - p.min(axis=0)) / extent * [width - 1, height - 1]).astype(int)
    canvas = [[" "] * width for _ in range(height)]
    for a, b in _edges(answer, task):
        steps = max(abs(place[a] - place[b]).max(), 1)
        for t in np.linspace(0, 1, steps + 1):
            x, y = np.rint(place[a] + t * (place[b] - place[a])).astype(int)
            canvas[height - 1 - y][x] = "."
    for i, (x, y) in enumerate(place):
        canvas[height - 1 - y][x] = str(i % 10)
    return "\n".join("".join(row).rstrip() for row in canvas)
