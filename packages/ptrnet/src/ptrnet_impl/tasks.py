"""The problems of section 3, and sorting (section 1): what is given, what the answer is, how it is measured.

Points are drawn uniformly from the unit square (numbers to sort: from the unit interval). Answers are sequences of
indices from 0; `Task.solve` is exact, `Task.labels` makes training targets for many instances at once.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from .decoding import Constraint
from .geometry import checked_points, delaunay_brute_force, delaunay_canonical, hull_ccw, hull_ccw_batch
from .metrics import hull_accuracy, hull_area, sequence_accuracy, tour_length, triangle_coverage
from .tours import EXACT_LIMIT, canonical_tour, held_karp, local_search, nearest_neighbor, tour_lengths

__all__ = ["TASKS", "Task", "generate", "get_task"]

EXACT_LABELS = 10
"""cities up to which training tours are exact; above, 2-opt and Or-opt in turn"""
_BRUTE_FORCE_DELAUNAY = 12


@dataclass(frozen=True)
class Task:
    """One problem."""

    name: str
    input_dim: int
    end_symbol: bool
    """whether the answer's length is part of the answer"""
    least: int
    """the fewest points it is defined for"""
    labels: Callable[[np.ndarray], np.ndarray]
    """(batch, n, input_dim) to targets (batch, m): indices, -1 behind them"""
    solve: Callable[[Any], np.ndarray]
    """one instance, any points, its exact answer (TSP: exact up to 20 cities); raises ValueError where there is none"""
    longest: Callable[[int], int]
    """steps that the longest answer to n points takes, its end included"""
    measure: Callable[[Sequence[Any], Sequence[Any], Sequence[Any]], Mapping[str, float]]
    """points, answers and true answers of many instances to numbers by name"""
    score: Callable[[Any, Any, Any], float]
    """points, answer, true answer of one instance to a number up to 1, which is right"""
    trivial: Callable[[Any], Any]
    """an answer that needs no learning"""
    constraint: Constraint = None
    """of decoding"""


def get_task(name: str) -> Task:
    """The task of a name.

    Raises:
        ValueError: if there is none.
    """
    if name not in TASKS:
        raise ValueError(f"task must be one of {', '.join(TASKS)}, got {name!r}")
    return TASKS[name]


def generate(
    task: Task | str, n: int, size: int, rng: np.random.Generator | int
) -> tuple[Float[np.ndarray, "size n input_dim"], Int[np.ndarray, "size m"]]:
    """Uniform instances of n points and their targets.

    Args:
        rng: generator, or seed of one.

    Raises:
        ValueError: an unknown task, a size below 1, fewer points than the task is defined for.
    """
    task = get_task(task) if isinstance(task, str) else task
    if n < task.least:
        raise ValueError(f"n must be at least {task.least} for {task.name}, got {n}")
    if size < 1:
        raise ValueError(f"size must be at least 1, got {size}")
    # what the network is given is float32: the answers must be those of these very numbers
    points = np.random.default_rng(rng).random((size, n, task.input_dim), dtype=np.float32).astype(np.float64)
    return points, task.labels(points)


def padded(rows: Sequence[Sequence[int]], *, end: bool) -> np.ndarray:
    """Rows of unequal lengths as one array, -1 behind them; with `end`, at least one in each row."""
    longest = max(len(row) for row in rows) + int(end)
    targets = np.full((len(rows), max(longest, 1)), -1, dtype=np.int64)
    for number, row in enumerate(rows):
        targets[number, : len(row)] = row
    return targets


# Hull


def _hull_labels(points: np.ndarray) -> np.ndarray:
    cycles = hull_ccw_batch(points)
    return np.concatenate([cycles, np.full((len(cycles), 1), -1)], axis=1)


def _hull_measure(points: Sequence[Any], answers: Sequence[Any], true: Sequence[Any]) -> Mapping[str, float]:
    area = hull_area(points, answers, true)
    return {"accuracy": hull_accuracy(answers, true), "area": area.coverage, "invalid": area.invalid_rate}


def _all_around(points: Any) -> np.ndarray:
    """All points by their angle about the mean."""
    away = np.asarray(points) - np.mean(points, axis=0)
    return np.argsort(np.arctan2(away[:, 1], away[:, 0]))


# Delaunay


def _delaunay_labels(points: np.ndarray) -> np.ndarray:
    if points.shape[1] <= _BRUTE_FORCE_DELAUNAY:
        found = delaunay_brute_force(points)
    else:
        found = [delaunay_canonical(instance) for instance in points]
    return padded([triangles.reshape(-1).tolist() for triangles in found], end=True)


def _delaunay_measure(points: Sequence[Any], answers: Sequence[Any], true: Sequence[Any]) -> Mapping[str, float]:
    found = triangle_coverage(answers, true)
    return {"accuracy": found.accuracy, "coverage": found.coverage}


def _fan(points: Any) -> np.ndarray:
    """Triangles from the hull's first corner to each of its other edges."""
    hull = hull_ccw(points)
    return np.array([[hull[0], hull[i], hull[i + 1]] for i in range(1, len(hull) - 1)])


# Tours


def _tour_labels(points: np.ndarray) -> np.ndarray:
    return held_karp(points) if points.shape[1] <= EXACT_LABELS else local_search(points)


def _tour_solve(points: Any) -> np.ndarray:
    p = checked_points(points)
    return held_karp(p) if len(p) <= EXACT_LIMIT else local_search(p)


def _tour_measure(points: Sequence[Any], answers: Sequence[Any], true: Sequence[Any]) -> Mapping[str, float]:
    found, best = tour_length(points, answers), tour_length(points, true)
    ratio = [_tour_score(p, a, t) for p, a, t in zip(points, answers, true, strict=True)]
    longer = [1 / r - 1 for r in ratio if r > 0]
    return {
        "length": found.mean,
        "invalid": found.invalid_rate,
        "best": best.mean,
        "longer": float(np.mean(longer)) if longer else float("nan"),
        "accuracy": sequence_accuracy([canonical_tour(a) if len(a) else a for a in answers], true),
    }


def _tour_score(points: Any, answer: Any, true: Any) -> float:
    if not np.array_equal(np.sort(answer), np.arange(len(points))):
        return 0.0
    length = tour_lengths(points, answer)
    return 1.0 if length == 0 else float(tour_lengths(points, true) / length)


# Sorting


def _sort_labels(points: np.ndarray) -> np.ndarray:
    return np.argsort(points[..., 0], axis=1, kind="stable")


def _sort_solve(points: Any) -> np.ndarray:
    values = np.asarray(points, dtype=np.float64)
    values = values[:, 0] if values.ndim == 2 and values.shape[1] == 1 else values
    if values.ndim != 1 or not len(values) or not np.isfinite(values).all():
        raise ValueError(f"points must be finite numbers (n,) or (n, 1), got shape {np.shape(points)}")
    return np.argsort(values, kind="stable")


def _sort_measure(points: Sequence[Any], answers: Sequence[Any], true: Sequence[Any]) -> Mapping[str, float]:
    return {
        "accuracy": sequence_accuracy(answers, true),
        "positions": float(np.mean([_positions(p, a, t) for p, a, t in zip(points, answers, true, strict=True)])),
    }


def _positions(points: Any, answer: Any, true: Any) -> float:
    """Share of places that are right, of the longer of the two."""
    a, b = np.asarray(answer).reshape(-1), np.asarray(true).reshape(-1)
    together = min(len(a), len(b))
    return float((a[:together] == b[:together]).sum() / max(len(a), len(b), 1))


TASKS: Mapping[str, Task] = {
    "hull": Task(
        "hull", 2, True, 3, _hull_labels, hull_ccw, lambda n: n + 1, _hull_measure,
        lambda points, answer, true: hull_accuracy([answer], [true]), _all_around,
    ),
    "delaunay": Task(
        "delaunay", 2, True, 3, _delaunay_labels, delaunay_canonical, lambda n: 3 * max(1, 2 * n - 5) + 1,
        _delaunay_measure, lambda points, answer, true: triangle_coverage([answer], [true]).coverage, _fan,
    ),
    "tsp": Task(
        "tsp", 2, False, 1, _tour_labels, _tour_solve, lambda n: n, _tour_measure, _tour_score, nearest_neighbor,
        constraint="permutation",
    ),
    "sort": Task(
        "sort", 1, False, 1, _sort_labels, _sort_solve, lambda n: n, _sort_measure, _positions,
        lambda points: np.arange(len(points)),
    ),
}  # fmt: skip
