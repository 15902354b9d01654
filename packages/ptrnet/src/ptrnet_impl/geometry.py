"""Convex hulls, Delaunay triangulations and polygons in the plane, with the orders of section 3.

Points are arrays (n, 2); indices are from 0. An order is what makes a target unique: a hull runs counter-clockwise from
its vertex of lowest index, a triangulation lists its triangles by their incenters.
"""

from itertools import combinations
from typing import Any

import numpy as np
from jaxtyping import Float, Int

__all__ = [
    "canonical_hull",
    "canonical_triangles",
    "checked_points",
    "delaunay_brute_force",
    "delaunay_canonical",
    "hull_ccw",
    "hull_ccw_batch",
    "incenters",
    "is_simple_polygon",
    "polygon_area",
]

TOLERANCE = 1e-12
"""areas below this share of the square of the extent count as none"""


def checked_points(points: Any, *, least: int = 1, name: str = "points") -> np.ndarray:
    """Points as a float64 array (n, 2).

    Raises:
        ValueError: another shape, fewer than `least` points, coordinates that are no finite numbers.
    """
    try:
        array = np.asarray(points, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} must be numbers of shape (n, 2): {error}") from None
    if array.ndim != 2 or array.shape[1] != 2:
        raise ValueError(f"{name} must have shape (n, 2), got {array.shape}")
    if len(array) < least:
        raise ValueError(f"{name} must be at least {least}, got {len(array)}")
    if not np.isfinite(array).all():
        row = int(np.flatnonzero(~np.isfinite(array).all(axis=1))[0])
        raise ValueError(f"{name} must be finite, got {array[row].tolist()} at index {row}")
    return array


def polygon_area(vertices: Float[np.ndarray, "k 2"]) -> float:
    """Signed area, positive if counter-clockwise (shoelace formula)."""
    v = vertices - vertices[:1] if len(vertices) else vertices
    x, y = v[:, 0], v[:, 1]
    return float(0.5 * (x @ np.roll(y, -1) - y @ np.roll(x, -1)))


def is_simple_polygon(vertices: Float[np.ndarray, "k 2"]) -> bool:
    """Whether the closed line through the vertices meets itself nowhere but where neighbouring edges join.

    Fewer than three vertices, repeated vertices, and edges that run back over the one before are not simple.
    """
    v = checked_points(vertices, least=0, name="vertices")
    k = len(v)
    if k < 3:
        return False
    a, b = v, np.roll(v, -1, axis=0)
    if (a == b).all(axis=1).any():
        return False
    i, j = np.triu_indices(k, 1)
    apart = ~((j == i + 1) | ((i == 0) & (j == k - 1)))
    far_i, far_j = i[apart], j[apart]
    if _meet(a[far_i], b[far_i], a[far_j], b[far_j]).any():
        return False
    # neighbours share a vertex; they must not run back along one line
    before, after = v - np.roll(v, 1, axis=0), b - v
    straight = _cross(before, after) == 0
    return not bool((straight & ((before * after).sum(axis=1) < 0)).any())


def _cross(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    return np.asarray(p[..., 0] * q[..., 1] - p[..., 1] * q[..., 0])


def _meet(a: np.ndarray, b: np.ndarray, c: np.ndarray, d: np.ndarray) -> np.ndarray:
    """Whether the closed segments ab and cd have a point in common, row by row."""
    sides = [np.sign(_cross(q - p, r - p)) for p, q, r in ((a, b, c), (a, b, d), (c, d, a), (c, d, b))]
    crossing = (sides[0] * sides[1] < 0) & (sides[2] * sides[3] < 0)
    for side, (p, q, r) in zip(sides, ((a, b, c), (a, b, d), (c, d, a), (c, d, b)), strict=True):
        low, high = np.minimum(p, q), np.maximum(p, q)
        crossing |= (side == 0) & ((r >= low) & (r <= high)).all(axis=1)
    return np.asarray(crossing)


# Hulls ----------------------------------------------------------------------------------------------------------------


def canonical_hull(cycle: Int[np.ndarray, "k"]) -> Int[np.ndarray, "k"]:
    """The same counter-clockwise cycle, begun at its lowest index."""
    return np.roll(cycle, -int(cycle.argmin())) if len(cycle) else cycle


def hull_ccw(points: Any) -> Int[np.ndarray, "k"]:
    """Vertices of the convex hull, counter-clockwise from the one of lowest index (Andrew's monotone chain).

    Points within an edge are no vertices; of equal points, the one of lowest index may be.

    Raises:
        ValueError: fewer than three points, all on one line, not finite.
    """
    p = checked_points(points, least=3)
    p = p - p.min(axis=0)
    order = np.lexsort((np.arange(len(p)), p[:, 1], p[:, 0]))
    fresh = np.concatenate([[True], (np.diff(p[order], axis=0) != 0).any(axis=1)])
    order = order[fresh]
    rounding = 8 * np.finfo(float).eps * max(float(p.max()), np.finfo(float).tiny)
    chains = []
    for run in (order, order[::-1]):
        chain: list[int] = []
        for index in run:
            while len(chain) > 1:
                side, further = p[chain[-1]] - p[chain[-2]], p[index] - p[chain[-2]]
                a, b = float(np.hypot(*side)), float(np.hypot(*further))
                # by the angle, and what rounding of the coordinates makes of it: far points blind nobody to near ones
                if _cross(side, further) > TOLERANCE * a * b + rounding * (a + b):
                    break
                chain.pop()
            chain.append(int(index))
        chains.append(chain[:-1])
    cycle = np.array(chains[0] + chains[1])
    if len(cycle) < 3:
        raise ValueError(f"points must not all lie on one line: no hull of {len(p)} points")
    return canonical_hull(cycle)


def hull_ccw_batch(points: Float[np.ndarray, "batch n 2"]) -> Int[np.ndarray, "batch m"]:
    """Hulls of many instances at once, -1 behind the last vertex (gift wrapping: a pass over all points a vertex).

    For points in general position, as drawn from a density; `hull_ccw` takes any.
    """
    batch, n, _ = points.shape
    rows = np.arange(batch)
    start = np.lexsort((points[..., 1], points[..., 0]), axis=-1)[:, 0]
    at, heading = start.copy(), np.full(batch, -np.pi / 2)
    found = [start]
    for _ in range(n):
        steps = points - points[rows, at][:, None]
        angles = np.arctan2(steps[..., 1], steps[..., 0])
        turns = np.mod(angles - heading[:, None] + TOLERANCE, 2 * np.pi)
        turns[rows, at] = np.inf
        following = turns.argmin(axis=1)
        heading = angles[rows, following]
        done = (found[-1] == -1) | (following == start) if len(found) > 1 else following == start
        at = np.where(done, at, following)
        if done.all():
            break
        found.append(np.where(done, -1, following))
    cycles = np.stack(found, axis=1)
    first = np.where(cycles < 0, n, cycles).argmin(axis=1)
    sizes = (cycles >= 0).sum(axis=1)
    columns = np.arange(cycles.shape[1])
    turned = cycles[rows[:, None], (columns + first[:, None]) % sizes[:, None]]
    return np.where(columns < sizes[:, None], turned, -1)


# Triangulations -------------------------------------------------------------------------------------------------------


def incenters(points: Float[np.ndarray, "n 2"], triangles: Int[np.ndarray, "t 3"]) -> Float[np.ndarray, "t 2"]:
    """Centres of the inscribed circles: corners weighed by the lengths of the opposite sides."""
    corners = points[triangles]
    sides = np.linalg.norm(np.roll(corners, -1, axis=1) - np.roll(corners, -2, axis=1), axis=2)
    return np.asarray((corners * sides[..., None]).sum(axis=1) / sides.sum(axis=1, keepdims=True))


def canonical_triangles(points: Float[np.ndarray, "n 2"], triangles: Int[np.ndarray, "t 3"]) -> Int[np.ndarray, "t 3"]:
    """Each triple increasing, triples by their incenters (first coordinate, then second)."""
    triples = np.sort(np.asarray(triangles), axis=1)
    centres = incenters(points, triples)
    return np.asarray(triples[np.lexsort((centres[:, 1], centres[:, 0]))])


def delaunay_canonical(points: Any) -> Int[np.ndarray, "t 3"]:
    """The Delaunay triangulation in canonical order, by Qhull.

    Raises:
        ValueError: fewer than three points, not finite, equal points, all on one line, or four on one circle: then
            there is no triangulation, or more than one.
    """
    from scipy.spatial import Delaunay, QhullError

    p = checked_points(points, least=3)
    if len(np.unique(p, axis=0)) < len(p):
        raise ValueError("points must differ: two of them are equal, which leaves the triangulation open")
    unit = (p - p.min(axis=0)) / max(float(np.ptp(p, axis=0).max()), np.finfo(float).tiny)
    hull_ccw(unit)  # refuses points on one line
    try:
        found = Delaunay(unit)
    except QhullError as error:
        raise ValueError(f"points have no triangulation: {str(error).splitlines()[0]}") from None
    flat = np.abs(_doubled_area(unit, found.simplices)) <= TOLERANCE
    triangles = found.simplices[~flat]
    if len(found.coplanar) or _on_one_circle(unit, found.simplices, found.neighbors):
        raise ValueError("points must not lie four on one circle: the triangulation is not unique")
    return canonical_triangles(p, triangles)


def _doubled_area(p: np.ndarray, triangles: np.ndarray) -> np.ndarray:
    corners = p[triangles]
    return _cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])


def _in_circle(p: np.ndarray, triangles: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Positive where a point lies inside the circle through a triangle; (t,) triangles against (t, k) points."""
    a, b, c = (p[triangles[:, i], None] - p[others] for i in range(3))
    squares = [(v * v).sum(axis=-1) for v in (a, b, c)]
    determinant = squares[0] * _cross(b, c) - squares[1] * _cross(a, c) + squares[2] * _cross(a, b)
    return np.asarray(determinant * np.sign(_doubled_area(p, triangles))[:, None])


def _on_one_circle(p: np.ndarray, triangles: np.ndarray, neighbors: np.ndarray) -> bool:
    rows, sides = np.nonzero(neighbors >= 0)
    beside = triangles[neighbors[rows, sides]]
    own = triangles[rows]
    foreign = np.array([next(i for i in t if i not in s) for t, s in zip(beside, own, strict=True)], dtype=int)
    if not len(foreign):
        return False
    # the determinant grows with the fourth power of the figure: small triangles are no more doubtful than large ones
    four = p[np.concatenate([own, foreign[:, None]], axis=1)]
    extent = np.ptp(four, axis=1).max(axis=1)
    return bool((np.abs(_in_circle(p, own, foreign[:, None]))[:, 0] <= TOLERANCE * extent**4).any())


def delaunay_brute_force(points: Float[np.ndarray, "batch n 2"]) -> list[np.ndarray]:
    """Triangulations by their definition: the triangles whose circle holds no further point. O(n^4), the oracle.

    For points in general position; many small instances at once.
    """
    batch, n, _ = points.shape
    triples = np.array(list(combinations(range(n), 3)))
    empty = np.ones((batch, len(triples)), dtype=bool)
    a, b, c = (points[:, triples[:, i]] for i in range(3))
    orientation = np.sign(_cross(b - a, c - a))
    for other in range(n):
        pa, pb, pc = (v - points[:, other, None] for v in (a, b, c))
        squares = [(v * v).sum(axis=-1) for v in (pa, pb, pc)]
        inside = squares[0] * _cross(pb, pc) - squares[1] * _cross(pa, pc) + squares[2] * _cross(pa, pb)
        empty &= (inside * orientation <= 0) | (triples == other).any(axis=1)
    empty &= orientation != 0
    return [canonical_triangles(p, triples[kept]) for p, kept in zip(points, empty, strict=True)]
