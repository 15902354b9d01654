"""From files to answers: a solver trained on generated instances or on a file, and what it says to points of a file."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from .data import read_points, read_tsplib, read_vinyals_file
from .drawing import ascii_picture, draw_answers
from .solver import PointerSolver
from .tasks import get_task
from .tours import EXACT_LIMIT

__all__ = ["answer_file", "fit_solver", "points_of_file"]

_MOST_POINTS = 20
"""points of generated instances, where a file has more: above, labels and training take long"""


def fit_solver(
    task: str, *, file: Path | None = None, minutes: float | None = 1.0, console: Console | None = None, **settings: Any
) -> PointerSolver:
    """A solver trained on generated instances, or on a file in the authors' format.

    Args:
        settings: of `PointerSolver`.

    Raises:
        ValueError: a setting out of range, a broken file. OSError: a file that cannot be read.
    """
    if minutes is not None and not minutes > 0:
        raise ValueError(f"--minutes must be positive, got {minutes}")
    solver = PointerSolver(task, max_seconds=None if minutes is None else 60 * minutes, **settings)
    if file is None:
        return solver.fit(console=console)
    instances = read_vinyals_file(file, task)
    return solver.fit([points for points, _ in instances], [answer for _, answer in instances], console=console)


def points_of_file(file: str, dim: int) -> np.ndarray:
    """Points of a text file, of standard input (-), or of a .tsp file of TSPLIB.

    Raises:
        ValueError: a broken file. OSError: one that cannot be read.
    """
    if file.lower().endswith(".tsp"):
        instance = read_tsplib(file)
        if instance.edge_weight_type not in ("EUC_2D", "CEIL_2D"):
            raise ValueError(
                f"{file} has distances of kind {instance.edge_weight_type}; the solver knows points of a plane only"
            )
        return instance.points
    try:
        text = sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is no text in UTF-8: {error.reason}") from error
    return read_points(text, dim, name=file)


def answer_file(
    file: str, task_name: str, *, model: Path | None, out: Path, console: Console, **settings: Any
) -> Mapping[str, Any]:
    """Answer for points of a file with a saved solver, print and draw the answer beside the exact one.

    Args:
        model: folder of the solver; None: `out`/task, where one is trained first if there is none, for instances of up
            to as many points as the file has (at most 20).
        settings: of `PointerSolver`, where one is trained.

    Raises:
        ValueError: as `points_of_file`; points without an answer; a solver of another task. OSError: likewise.
    """
    task = get_task(task_name)
    points = points_of_file(file, task.input_dim)
    exact = task.solve(points)
    folder = model or out / task_name
    if model is None and not (folder / "solver.json").is_file():
        console.print(f"no solver in {folder}: training one for a minute at most", highlight=False)
        sizes = (min(5, max(task.least, len(points))), min(max(10, len(points)), _MOST_POINTS))
        solver = fit_solver(task_name, n=sizes, console=console, **settings)
        solver.save(folder)
    else:
        solver = PointerSolver.load(folder)
    if solver.task != task_name:
        raise ValueError(f"--model {folder} is a solver of {solver.task}, not of {task_name}")
    answer = solver.predict(points)
    # of more points the shortest tour is not computed: a search gives the one to compare with
    reference = "exact" if task_name != "tsp" or len(points) <= EXACT_LIMIT else "2-opt and Or-opt"
    measured = dict(task.measure([points], [answer], [exact]))
    plot = draw_answers(out / "solve.png", [("", points, {reference: exact, "Ptr-Net": answer})], task=task_name)
    console.print(ascii_picture(points, answer, task=task_name), highlight=False, markup=False)
    for label, sequence in (("Ptr-Net", answer), (reference, exact)):
        console.print(f"{label}: {sequence.tolist()}", highlight=False, markup=False)
    console.print(", ".join(f"{name} {value:.4g}" for name, value in measured.items()), highlight=False)
    own, trivial = (task.score(points, a, exact) for a in (answer, task.trivial(points)))
    if own < trivial:
        told = f"an answer that needs no learning is better here: score {trivial:.3f} against {own:.3f}"
        console.print(f"warning: {told}; the solver learnt from up to {solver.n[-1]} points", highlight=False)
    console.print(f"plot: {plot}", highlight=False, soft_wrap=True)
    return {
        "answer": answer.tolist(), "exact": exact.tolist(), "score": own, "trivial_score": trivial, "plot": str(plot),
        **measured,
    }  # fmt: skip
