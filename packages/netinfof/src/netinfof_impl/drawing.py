"""The picture of a probe: scores by component, with what chance reaches."""

from collections.abc import Mapping
from pathlib import Path

__all__ = ["draw_scores"]


def draw_scores(scores: Mapping[str, tuple[float, float]], base: float, path: Path) -> Path:
    """A bar a component from the score without information up, and a line where chance ends (95 %)."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    names = list(scores)
    axes.bar(names, [score - base for score, _ in scores.values()], bottom=base, color="tab:blue", width=0.6)
    for i, (_, chance) in enumerate(scores.values()):
        axes.plot([i - 0.4, i + 0.4], [chance, chance], color="tab:red", label="chance, 95 %" if i == 0 else None)
    lowest = min(base, *(score for score, _ in scores.values()))
    axes.set(ylim=(lowest, 1), ylabel="NetInfoF score", title="What each component tells")
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    return path
