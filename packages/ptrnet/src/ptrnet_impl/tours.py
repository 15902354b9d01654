"""Travelling salesman tours: exact by dynamic programming, and approximations.

Points are (n, 2), or (batch, n, 2) for many instances at once; tours likewise (n,) or (batch, n). A tour is canonical
when it begins at city 0 and its second city has a lower index than its last.
"""

from itertools import combinations, permutations
from typing import Any

import numpy as np
from jaxtyping import Float, Int

__all__ = [
    "brute_force_tour",
    "canonical_tour",
    "christofides",
    "distance_matrix",
    "held_karp",
    "held_karp_loop",
    "local_search",
    "nearest_neighbor",
    "or_opt",
    "tour_lengths",
    "two_opt",
]

EXACT_LIMIT = 20
"""cities: held_karp keeps 2^(n - 1) (n - 1) numbers"""
_BATCH_NUMBERS = 2**22
_RELAXED = 2**16
"""sums at a time"""
_LEAST_GAIN = 1e-12


def _as_batch(points: Any, least: int = 1) -> tuple[np.ndarray, bool]:
    array = np.asarray(points, dtype=np.float64)
    if array.ndim not in (2, 3) or array.shape[-1] != 2:
        raise ValueError(f"points must have shape (n, 2) or (batch, n, 2), got {array.shape}")
    if array.shape[-2] < least:
        raise ValueError(f"points must be at least {least}, got {array.shape[-2]}")
    if not np.isfinite(array).all():
        raise ValueError("points must be finite, got NaN or infinite coordinates")
    return (array[None], True) if array.ndim == 2 else (array, False)


def _as_tours(tour: Any, shape: tuple[int, ...]) -> np.ndarray:
    tours = np.atleast_2d(np.asarray(tour))
    if tours.shape != shape or not (np.sort(tours, axis=1) == np.arange(shape[1])).all():
        raise ValueError(f"tour must be a permutation of 0 to {shape[1] - 1} for each instance, got {tour!r}")
    return tours.astype(np.int64)


def distance_matrix(points: Float[np.ndarray, "*batch n 2"]) -> Float[np.ndarray, "*batch n n"]:
    """Euclidean distances of all pairs."""
    return np.linalg.norm(points[..., :, None, :] - points[..., None, :, :], axis=-1)


def tour_lengths(points: Any, tours: Any) -> np.ndarray:
    """Length of each closed tour: a number for one instance, (batch,) for many.

    Raises:
        ValueError: what is no permutation of the cities.
    """
    batch, single = _as_batch(points)
    order = _as_tours(tours, batch.shape[:2])
    there = np.take_along_axis(batch, order[..., None], axis=1)
    lengths = np.linalg.norm(there - np.roll(there, -1, axis=1), axis=2).sum(axis=1)
    return np.asarray(lengths[0] if single else lengths)


def canonical_tour(tour: Any) -> np.ndarray:
    """The same tour from city 0, in the direction whose second city is lower than its last."""
    tours = np.asarray(tour)
    if tours.ndim == 1:
        tours = np.roll(tours, -int(tours.argmin()))
        return np.concatenate([tours[:1], tours[:0:-1]]) if len(tours) > 2 and tours[1] > tours[-1] else tours
    rows, n = tours.shape
    turned = tours[np.arange(rows)[:, None], (np.arange(n) + tours.argmin(axis=1)[:, None]) % n]
    if n < 3:
        return np.asarray(turned)
    backwards = np.concatenate([turned[:, :1], turned[:, :0:-1]], axis=1)
    return np.where((turned[:, 1] > turned[:, -1])[:, None], backwards, turned)


# Exact ----------------------------------------------------------------------------------------------------------------


def brute_force_tour(points: Float[np.ndarray, "n 2"]) -> Int[np.ndarray, "n"]:
    """The shortest of all tours: the oracle, for up to nine cities or so."""
    n = len(points)
    if n < 4:
        return np.arange(n)
    rest = np.array([p for p in permutations(range(1, n)) if p[0] < p[-1]])
    tours = np.concatenate([np.zeros((len(rest), 1), dtype=np.int64), rest], axis=1)
    there = points[tours]
    lengths = np.linalg.norm(there - np.roll(there, -1, axis=1), axis=2).sum(axis=1)
    return np.asarray(tours[lengths.argmin()])


def held_karp_loop(points: Float[np.ndarray, "n 2"]) -> Int[np.ndarray, "n"]:
    """The dynamic programme of Held and Karp (1962) over sets of cities, one entry at a time."""
    n = len(points)
    if n < 4:
        return np.arange(n)
    distance = distance_matrix(points).tolist()
    best = {(frozenset([j]), j): (distance[0][j], 0) for j in range(1, n)}
    for size in range(2, n):
        for subset in map(frozenset, combinations(range(1, n), size)):
            for j in subset:
                rest = subset - {j}
                best[subset, j] = min((best[rest, k][0] + distance[k][j], k) for k in rest)
    left = frozenset(range(1, n))
    last = min(left, key=lambda j: best[left, j][0] + distance[j][0])
    tour = []
    while left:
        tour.append(last)
        left, last = left - {last}, best[left, last][1]
    return canonical_tour(np.array([0, *reversed(tour)]))


def held_karp(points: Any, *, distance: Any = None) -> np.ndarray:
    """Shortest tours, canonical: the same programme over all instances and all sets of one size at once.

    2^(n - 1) (n - 1)^2 sums an instance; instances go in pieces of bounded memory.

    Args:
        distance: (n, n) or (batch, n, n) symmetric distances in place of the Euclidean ones.

    Raises:
        ValueError: more than 20 cities; points of another shape or not finite; distances that are not finite, not
            symmetric, or of another shape.
    """
    batch, single = _as_batch(points)
    n = batch.shape[1]
    if not len(batch):
        return np.empty((0, n), dtype=np.int64)
    if n > EXACT_LIMIT:
        raise ValueError(f"points must be at most {EXACT_LIMIT} for an exact tour, got {n}; see local_search")
    if distance is None:
        lengths = distance_matrix(batch)
    else:
        lengths = np.asarray(distance, dtype=np.float64)
        if lengths.shape not in ((n, n), (len(batch), n, n)):
            raise ValueError(f"distance must have shape {(n, n)} or {(len(batch), n, n)}, got {lengths.shape}")
        lengths = np.broadcast_to(lengths, (len(batch), n, n))
        if not np.allclose(lengths, lengths.transpose(0, 2, 1), equal_nan=True):
            raise ValueError("distance must be symmetric")
    if not np.isfinite(lengths).all():
        raise ValueError("distances must be finite: they are not, or the points lie too far apart for float64")
    if n < 4:
        tours = np.tile(np.arange(n), (len(batch), 1))
    else:
        together = max(1, _BATCH_NUMBERS // (2 ** (n - 1) * (n - 1)))
        tours = np.concatenate([_held_karp(lengths[i : i + together]) for i in range(0, len(batch), together)])
    return np.asarray(tours[0] if single else tours)


def _held_karp(distance: np.ndarray) -> np.ndarray:
    """Tours of instances (batch, n, n). `cost[set, j, b]`: the shortest way from 0 through a set, ending at j in it."""
    batch, n, _ = distance.shape
    cities = n - 1
    bits = (np.arange(2**cities)[:, None] >> np.arange(cities)) & 1
    sizes = bits.sum(axis=1)
    between = np.ascontiguousarray(distance[:, 1:, 1:].transpose(1, 2, 0))
    cost = np.full((2**cities, cities, batch), np.inf)
    cost[1 << np.arange(cities), np.arange(cities)] = distance[:, 0, 1:].T
    for size in range(2, cities + 1):
        layer = np.flatnonzero(sizes == size)
        members = np.nonzero(bits[layer])[1].reshape(-1, size)
        # for each member, the others: the city before it is one of them
        others = np.array([[a for a in range(size) if a != last] for last in range(size)])
        piece = max(1, _RELAXED // (size * size * batch))
        for at in range(0, len(layer), piece):
            sets, last = layer[at : at + piece], members[at : at + piece]
            before = last[:, others]
            rest = sets[:, None] ^ (1 << last)
            ways = cost[rest[..., None], before] + between[before, last[..., None]]
            cost[sets[:, None], last] = ways.min(axis=2)
    rows = np.arange(batch)
    left = np.full(batch, 2**cities - 1)
    ends = cost[-1] + distance[:, 0, 1:].T
    tours = np.zeros((batch, n), dtype=np.int64)
    for place in range(n - 1, 0, -1):
        last = ends.argmin(axis=0)
        tours[:, place] = last + 1
        left = left ^ (1 << last)
        ends = cost[left, :, rows].T + between[:, last, rows]
    return canonical_tour(tours)


# Approximate ----------------------------------------------------------------------------------------------------------


def nearest_neighbor(points: Any, *, start: int = 0) -> np.ndarray:
    """From `start`, always to the nearest city not yet visited. O(n^2); canonical."""
    batch, single = _as_batch(points)
    size, n, _ = batch.shape
    if not 0 <= start < n:
        raise ValueError(f"start must be from 0 to {n - 1}, got {start}")
    rows, at = np.arange(size), np.full(size, start)
    visited = np.zeros((size, n), dtype=bool)
    tours = np.empty((size, n), dtype=np.int64)
    for place in range(n):
        tours[:, place] = at
        visited[rows, at] = True
        away = np.square(batch - batch[rows, at][:, None]).sum(axis=2)
        at = np.where(visited, np.inf, away).argmin(axis=1)
    tours = canonical_tour(tours)
    return tours[0] if single else tours


def two_opt(points: Any, tour: Any, *, max_moves: int | None = None) -> np.ndarray:
    """Turn pieces of the tour round while that shortens it, the best of all turns first (Croes 1958); canonical.

    A move looks at n^2 pairs of edges; the result is never longer than what was given.

    Raises:
        ValueError: if the tour is no permutation.
    """
    return _improve(points, tour, _best_reversal, max_moves)


def or_opt(points: Any, tour: Any, *, max_moves: int | None = None) -> np.ndarray:
    """Move pieces of one to three cities elsewhere, either way round, while that helps (Or 1976); canonical.

    Raises:
        ValueError: if the tour is no permutation.
    """
    return _improve(points, tour, _best_relocation, max_moves)


def local_search(points: Any, tour: Any = None) -> np.ndarray:
    """2-opt and Or-opt in turn until neither shortens the tour (default: from the nearest neighbour's); canonical."""
    batch, single = _as_batch(points)
    tours = nearest_neighbor(batch) if tour is None else _as_tours(tour, batch.shape[:2])
    lengths = tour_lengths(batch, tours)
    open_ = np.arange(len(batch))
    while len(open_):
        tours[open_] = or_opt(batch[open_], two_opt(batch[open_], tours[open_]))
        found = tour_lengths(batch[open_], tours[open_])
        shorter = found < lengths[open_] - _LEAST_GAIN
        lengths[open_] = found
        open_ = open_[shorter]
    return np.asarray(tours[0] if single else tours)


def _improve(points: Any, tour: Any, best_move: Any, max_moves: int | None) -> np.ndarray:
    batch, single = _as_batch(points)
    tours = _as_tours(tour, batch.shape[:2])
    n = tours.shape[1]
    moves = 0
    open_ = np.arange(len(batch)) if n > 3 else np.arange(0)
    while len(open_) and (max_moves is None or moves < max_moves):
        order = tours[open_]
        there = np.take_along_axis(batch[open_], order[..., None], axis=1)
        gain, places = best_move(distance_matrix(there))
        better = gain > _LEAST_GAIN
        open_ = open_[better]
        tours[open_] = np.take_along_axis(order[better], places[better], axis=1)
        moves += 1
    tours = canonical_tour(tours)
    return np.asarray(tours[0] if single else tours)


def _best_reversal(distance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Gain of the best 2-opt move, and the tour after it as places of the tour before it."""
    batch, n, _ = distance.shape
    i, j = np.triu_indices(n, 1)
    after_i, after_j = (i + 1) % n, (j + 1) % n
    gains = distance[:, i, after_i] + distance[:, j, after_j] - distance[:, i, j] - distance[:, after_i, after_j]
    best = gains.argmax(axis=1)
    rows = np.arange(batch)
    first, last = i[best][:, None] + 1, j[best][:, None]
    places = np.tile(np.arange(n), (batch, 1))
    places = np.where((places >= first) & (places <= last), first + last - places, places)
    return gains[rows, best], places


def _best_relocation(distance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Likewise for the best Or-opt move."""
    batch, n, _ = distance.shape
    rows = np.arange(batch)
    best_gain, best = np.full(batch, -np.inf), np.zeros((batch, 4), dtype=np.int64)
    edge = distance[:, np.arange(n), (np.arange(n) + 1) % n]
    for size in range(1, min(3, n - 3) + 1):
        first = np.repeat(np.arange(n), n)
        target = np.tile(np.arange(n), n)
        # the piece is first .. last (round the end too); it goes between target and the city after it
        last = (first + size - 1) % n
        before, after, onward = (first - 1) % n, (last + 1) % n, (target + 1) % n
        outside = (target - first) % n >= size
        outside &= target != before
        first, target, last, before, after, onward = (v[outside] for v in (first, target, last, before, after, onward))
        freed = distance[:, before, first] + distance[:, last, after] - distance[:, before, after] + edge[:, target]
        for turned in (0, 1):
            head, tail = (last, first) if turned else (first, last)
            gains = freed - distance[:, target, head] - distance[:, tail, onward]
            at = gains.argmax(axis=1)
            found = gains[rows, at]
            better = found > best_gain
            best_gain = np.where(better, found, best_gain)
            move = np.stack([first[at], target[at], np.full(batch, size), np.full(batch, turned)], axis=1)
            best = np.where(better[:, None], move, best)
    return best_gain, _relocated(best, n)


def _relocated(moves: np.ndarray, n: int) -> np.ndarray:
    """Places after a move: the piece begins the list, the rest follows from the city behind the target."""
    first, target, size, turned = (column[:, None] for column in moves.T)
    k = np.arange(n)[None]
    piece = (first + np.where(turned == 1, size - 1 - k, k)) % n
    # the rest of the circle, from behind the piece, has n - size places; the target's place in it says where to begin
    offset = (target - (first + size)) % n + 1
    rest = (first + size + (k - size + offset) % (n - size)) % n
    return np.where(k < size, piece, rest)


def christofides(points: Any) -> np.ndarray:
    """At most 1.5 times the shortest tour (Christofides 1976): spanning tree, matching of its odd cities, Euler tour.

    Canonical; one instance after the other. O(n^3).
    """
    batch, single = _as_batch(points)
    tours = np.stack([_christofides(instance) for instance in batch])
    return tours[0] if single else tours


def _christofides(points: np.ndarray) -> np.ndarray:
    import networkx as nx

    n = len(points)
    if n < 4:
        return np.arange(n)
    distance = distance_matrix(points)
    complete: Any = nx.Graph()
    complete.add_weighted_edges_from((i, j, distance[i, j]) for i, j in combinations(range(n), 2))
    tree: Any = nx.minimum_spanning_tree(complete)
    odd = [city for city, degree in tree.degree if degree % 2]
    walk: Any = nx.MultiGraph(tree.edges)
    walk.add_edges_from(nx.min_weight_matching(complete.subgraph(odd)))
    seen: dict[int, None] = dict.fromkeys(city for city, _ in nx.eulerian_circuit(walk, source=0))
    return canonical_tour(np.array(list(seen)))
