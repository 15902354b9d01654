"""The measures of the paper's tables (section 4): accuracy and area of hulls, coverage of triangles, lengths of tours.

Answers are sequences of indices from 0, without an end; a batch is a list of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .geometry import checked_points, hull_ccw, is_simple_polygon, polygon_area
from .tours import tour_lengths

__all__ = [
    "FAIL_RATE",
    "HullArea",
    "TourLength",
    "TriangleCoverage",
    "hull_accuracy",
    "hull_area",
    "same_cycle",
    "sequence_accuracy",
    "tour_length",
    "triangle_coverage",
]

FAIL_RATE = 0.01
"""the share of answers that are no simple polygons above which the paper's tables say FAIL"""

Sequences = Sequence[Any]


def _paired(first: Sequences, second: Sequences, names: tuple[str, str]) -> list[tuple[Any, Any]]:
    if len(first) != len(second) or not len(first):
        raise ValueError(
            f"{names[0]} and {names[1]} must be as many, and at least one, got {len(first)} and {len(second)}"
        )
    return list(zip(first, second, strict=True))


def _indices(sequence: Any, n: int | None = None, name: str = "predicted") -> np.ndarray:
    array = np.asarray(sequence)
    if array.size == 0:
        return np.zeros(0, dtype=np.int64)
    if array.dtype.kind not in "iu":
        raise ValueError(f"{name} must be whole numbers, got {array.dtype}")
    if array.min() < 0 or (n is not None and array.max() >= n):
        top = "" if n is None else f" to {n - 1}"
        raise ValueError(f"{name} must be indices from 0{top}, got {array.min()} to {array.max()}")
    return array.reshape(-1)


def sequence_accuracy(predicted: Sequences, true: Sequences) -> float:
    """Share of answers that are equal, element by element."""
    pairs = _paired(predicted, true, ("predicted", "true"))
    return float(np.mean([np.array_equal(_indices(p), _indices(t, name="true")) for p, t in pairs]))


def same_cycle(first: Any, second: Any) -> bool:
    """Whether two sequences of different indices are one cycle, begun at any place, in the same direction."""
    a, b = _indices(first), _indices(second)
    if len(a) != len(b) or len(set(a.tolist())) < len(a):
        return False
    if not len(a):
        return True
    at = np.flatnonzero(a == b[0])
    return bool(len(at)) and bool((np.roll(a, -int(at[0])) == b).all())


def hull_accuracy(predicted: Sequences, true: Sequences) -> float:
    """Share of answers that are the same polygon: equal as counter-clockwise cycles."""
    return float(np.mean([same_cycle(p, t) for p, t in _paired(predicted, true, ("predicted", "true"))]))


@dataclass(frozen=True)
class HullArea:
    """How much of the hulls is covered."""

    coverage: float
    """mean share of the true area over the answers that are simple polygons; NaN if there are none"""
    invalid_rate: float
    """share of answers that are not: self-crossing, a point twice, or fewer than three points"""
    fail: bool
    """more than 1 % are not: the paper's tables say FAIL"""


def hull_area(points: Sequences, predicted: Sequences, true: Sequences | None = None) -> HullArea:
    """Share of the true hull's area that predicted polygons cover; they lie within it, as their corners do.

    Args:
        points: an (n, 2) array an instance.
        predicted: indices of corners, in their order.
        true: the hulls; default: computed.

    Raises:
        ValueError: unequal numbers of instances, an index that is no point, points that have no hull.
    """
    pairs = _paired(points, predicted, ("points", "predicted"))
    if true is not None:
        _paired(points, true, ("points", "true"))
    shares = []
    for number, (instance, answer) in enumerate(pairs):
        p = checked_points(instance, least=3)
        corners = p[_indices(answer, len(p))]
        if not is_simple_polygon(corners):
            continue
        hull = hull_ccw(p) if true is None else _indices(true[number], len(p), "true")
        shares.append(abs(polygon_area(corners)) / abs(polygon_area(p[hull])))
    invalid = (len(pairs) - len(shares)) / len(pairs)
    return HullArea(float(np.mean(shares)) if shares else float("nan"), invalid, invalid > FAIL_RATE)


@dataclass(frozen=True)
class TriangleCoverage:
    """How many of the triangles are found."""

    accuracy: float
    """share of answers that have exactly the true triangles, in any order"""
    coverage: float
    """share of true triangles that the answers have, the mean over instances"""


def triangle_coverage(predicted: Sequences, true: Sequences) -> TriangleCoverage:
    """Compare sets of triangles; an answer is indices in triples, (t, 3) or flat.

    Whole triples count, in any order of triples and of corners. What is left of an incomplete last triple makes an
    answer wrong and is otherwise passed over, as are triples that name a point twice.
    """
    exact, shares = [], []
    for answer, truth in _paired(predicted, true, ("predicted", "true")):
        found, whole = _triangles(answer)
        wanted, right = _triangles(truth)
        if not wanted or not right:
            raise ValueError(f"true must be triples of different indices, got {truth!r}")
        exact.append(whole and found == wanted)
        shares.append(len(found & wanted) / len(wanted))
    return TriangleCoverage(float(np.mean(exact)), float(np.mean(shares)))


def _triangles(sequence: Any) -> tuple[set[frozenset[int]], bool]:
    flat = _indices(sequence)
    triples = flat[: len(flat) // 3 * 3].reshape(-1, 3).tolist()
    sets = [frozenset(triple) for triple in triples]
    whole = len(flat) % 3 == 0 and all(len(s) == 3 for s in sets) and len(set(sets)) == len(sets)
    return {s for s in sets if len(s) == 3}, whole


@dataclass(frozen=True)
class TourLength:
    """Lengths of tours."""

    mean: float
    """over the answers that visit each city once; NaN if there are none"""
    invalid_rate: float
    """share of answers that do not: they are in no mean, so it is told beside it"""


def tour_length(points: Sequences, predicted: Sequences) -> TourLength:
    """Mean length of the closed tours that are permutations of their cities, and the share that are not."""
    lengths = []
    pairs = _paired(points, predicted, ("points", "predicted"))
    for instance, answer in pairs:
        p = checked_points(instance)
        tour = _indices(answer, len(p))
        if len(tour) == len(p) and len(np.unique(tour)) == len(p):
            lengths.append(float(tour_lengths(p, tour)))
    return TourLength(float(np.mean(lengths)) if lengths else float("nan"), (len(pairs) - len(lengths)) / len(pairs))
