"""Graphs as the rest of the package reads them: undirected, without loops and repeats; their splits and negatives."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import scipy.sparse
import torch
from jaxtyping import Bool, Float, Int
from numpy import ndarray
from torch_geometric.data import Data

__all__ = ["AttributedGraph", "EdgeSplit", "as_graph", "hits_at_k", "random_pairs", "split_edges", "uniform_non_edges"]


@dataclass(frozen=True)
class AttributedGraph:
    """n nodes, m undirected edges, and what is known of the nodes."""

    n: int
    edges: Int[ndarray, "2 m"]
    """each edge once, the smaller end first, sorted"""
    features: Float[ndarray, "n f"] | None = None
    labels: ndarray | None = None
    """integers, (n,); -1 where a label is missing"""

    @property
    def both_ways(self) -> Int[ndarray, "2 twice"]:
        """Each edge in both directions."""
        return np.concatenate([self.edges, self.edges[::-1]], axis=1)

    def adjacency(self, *, loops: bool = False) -> "scipy.sparse.csr_array":
        """(n, n) of ones, with sorted columns."""
        row, col = self.both_ways
        if loops:
            row, col = np.concatenate([row, np.arange(self.n)]), np.concatenate([col, np.arange(self.n)])
        made = scipy.sparse.coo_array((np.ones(len(row), np.float32), (row, col)), shape=(self.n, self.n)).tocsr()
        made.sort_indices()
        return made

    def has(self, pairs: Int[ndarray, "2 p"]) -> Bool[ndarray, " p"]:
        """Whether each pair is an edge, in either order."""
        known = self.edges[0] * self.n + self.edges[1]
        keys = pairs.min(0) * self.n + pairs.max(0)
        made: ndarray = known[np.searchsorted(known, keys).clip(max=len(known) - 1)] == keys
        return made


def as_graph(data: Any, *, normalise: bool = False, labels_needed: bool = True) -> AttributedGraph:
    """Read a `torch_geometric.data.Data` (`edge_index`, and `x`, `y`, `num_nodes` where there are any).

    Directions, loops and repeats go. Features may be a dense or sparse tensor or array.

    Args:
        normalise: subtract the smallest feature of all from all, then let each row sum to one, as the paper does.
        labels_needed: refuse a `y` that is not an integer for each node; else it is left out.

    Raises:
        ValueError: no nodes or edges; indices out of range; features or labels of another length, or not finite.
    """
    if isinstance(data, AttributedGraph):
        features = data.features
        return replace(data, features=_row_normalised(features)) if normalise and features is not None else data
    edge_index = getattr(data, "edge_index", None)
    if edge_index is None:
        raise ValueError(f"data must have edge_index, got {type(data).__name__} without one")
    pairs = as_pairs(edge_index, "edge_index")
    features, labels = getattr(data, "x", None), getattr(data, "y", None)
    if features is not None:
        features = as_array(features)
        features = features.astype(np.float64 if features.dtype == np.float64 else np.float32)
    # asked for a number that was not given, torch_geometric would guess it, and warn
    given = getattr(data, "num_nodes", None) if not isinstance(data, Data) or "num_nodes" in data else None
    n = int(pairs.max(initial=-1)) + 1
    known = features if features is not None else labels
    if given is not None:
        n = int(given)
    elif known is not None and (labels_needed or features is not None or np.shape(known)[:1] >= (n,)):
        n = len(known)
    edges = as_edges(pairs, n)
    if features is not None:
        if features.ndim != 2 or len(features) != n:
            raise ValueError(f"x must have a row for each of {n} nodes, got shape {features.shape}")
        if not np.isfinite(features).all():
            raise ValueError("x must be finite, got NaN or an infinite value")
        if not features.shape[1]:
            features = None
    labels = None if labels is None else as_labels(labels, n, needed=labels_needed)
    if normalise and features is not None:
        features = _row_normalised(features)
    return AttributedGraph(n, edges, features, labels)


def as_pairs(pairs: Any, name: str, n: int | None = None) -> Int[ndarray, "2 p"]:
    """Integers (2, p) of a tensor or an array, each from 0 to n - 1."""
    found = as_array(pairs)
    if found.ndim != 2 or found.shape[0] != 2 or found.dtype.kind not in "iu":
        raise ValueError(f"{name} must be integers of shape (2, pairs), got {found.dtype} {found.shape}")
    if n is not None and found.size and (found.min() < 0 or found.max() >= n):
        raise ValueError(f"{name} must be nodes from 0 to {n - 1}, got {found.min()} to {found.max()}")
    return found.astype(np.int64)


def labelled_pairs(pairs: Any, labels: Any, graph: AttributedGraph) -> tuple[Int[ndarray, "2 p"], Int[ndarray, " p"]]:
    """Pairs of nodes and whether they are edges, as arrays; no edge that the graph tells is asked for."""
    found = as_pairs(pairs, "pairs", graph.n)
    truth = as_array(labels).reshape(-1)
    if len(truth) != found.shape[1] or set(np.unique(truth).tolist()) != {0, 1}:
        raise ValueError(f"labels must hold 0 or 1 and both of them, one for each of {found.shape[1]} pairs")
    if told := int(graph.has(found[:, truth == 1]).sum()):
        raise ValueError(f"edges held back must not be among those of data, got {told} that are")
    return found, truth.astype(np.int64)


def as_edges(pairs: Any, n: int) -> Int[ndarray, "2 m"]:
    """Each undirected edge between two of n nodes once, the smaller end first, sorted."""
    if n < 2:
        raise ValueError(f"a graph must have at least 2 nodes, got {n}")
    ends = np.sort(as_pairs(pairs, "edge_index", n), axis=0)
    keys = np.unique((ends[0] * n + ends[1])[ends[0] < ends[1]])
    if not len(keys):
        raise ValueError("a graph must have at least one edge between two nodes, got none")
    return np.stack([keys // n, keys % n])


def as_labels(labels: Any, n: int, *, needed: bool = True) -> Int[ndarray, " n"] | None:
    """An integer for each node, or None where these are others and not needed."""
    found = as_array(labels)
    if found.ndim == 2 and found.shape[1] == 1:
        found = found[:, 0]
    if found.shape == (n,) and found.dtype.kind in "iub":
        return found.astype(np.int64)
    if needed:
        what = f"an integer for each of {n} nodes, -1 where unknown"
        raise ValueError(f"y must hold {what}, got {found.dtype} {found.shape}")
    return None


def as_array(x: Any) -> ndarray:
    """The numbers of a tensor or array, dense or sparse, on whatever device."""
    if isinstance(x, torch.Tensor):
        x = (x.to_dense() if x.layout != torch.strided else x).detach().cpu().numpy()
    return np.asarray(x.toarray() if scipy.sparse.issparse(x) else x)


def _row_normalised(x: ndarray) -> ndarray:
    x = x / max(np.abs(x).max(), np.finfo(x.dtype).tiny)  # no sum is beyond the largest number then
    shifted = x - x.min()
    sums = shifted.sum(1, keepdims=True)
    made: ndarray = np.divide(shifted, sums, out=np.zeros_like(shifted), where=sums > 0)
    return made


@dataclass(frozen=True)
class EdgeSplit:
    """Edges to learn from, and pairs with the answer whether they are edges, as many of each kind."""

    train: AttributedGraph
    valid_pairs: Int[ndarray, "2 v"]
    valid_labels: Int[ndarray, " v"]
    test_pairs: Int[ndarray, "2 t"]
    test_labels: Int[ndarray, " t"]


def split_edges(
    graph: Any, *, shares: tuple[float, float, float] = (0.7, 0.1, 0.2), seed: int = 0, normalise: bool = False
) -> EdgeSplit:
    """Draw edges for training, validation and test; the latter two with as many pairs that are no edges.

    Args:
        graph: `torch_geometric.data.Data` or `AttributedGraph`.
        shares: of training, validation and test; the paper's are 70, 10 and 20 %.

    Raises:
        ValueError: shares that do not sum to one or leave a part empty; too few pairs that are no edges.
    """
    graph = as_graph(graph, normalise=normalise, labels_needed=False)
    if len(shares) != 3 or min(shares) <= 0 or abs(sum(shares) - 1) > 1e-9:
        raise ValueError(f"shares must be three positive numbers that sum to 1, got {shares}")
    m = graph.edges.shape[1]
    rng = stream(seed, "split")
    order = rng.permutation(m)
    n_test, n_valid = round(m * shares[2]), round(m * shares[1])
    if min(n_test, n_valid, m - n_test - n_valid) < 1:
        raise ValueError(f"{m} edges are too few for a split by {shares}")
    test, valid, train = np.split(graph.edges[:, order], [n_test, n_test + n_valid], axis=1)
    negatives = uniform_non_edges(graph, n_test + n_valid, rng)
    kept = train[:, np.lexsort(train[::-1])]
    return EdgeSplit(
        replace(graph, edges=kept),
        np.concatenate([valid, negatives[:, :n_valid]], axis=1),
        np.repeat([1, 0], n_valid),
        np.concatenate([test, negatives[:, n_valid:]], axis=1),
        np.repeat([1, 0], n_test),
    )


def stream(seed: int, purpose: str) -> np.random.Generator:
    """Random numbers for one purpose. With bare seeds a split would go with the very numbers that made the graph."""
    return np.random.default_rng([seed, *purpose.encode()])


def random_pairs(n: int, count: int, rng: np.random.Generator) -> Int[ndarray, "2 count"]:
    """Pairs of nodes drawn uniformly; edges and equal ends may be among them, as in the paper."""
    return rng.integers(0, n, (2, count))


def uniform_non_edges(graph: AttributedGraph, count: int, rng: np.random.Generator) -> Int[ndarray, "2 count"]:
    """Pairs that are no edges and have different ends, uniformly, with repeats as they come.

    Raises:
        ValueError: a complete graph.
    """
    n, known = graph.n, graph.edges[0] * graph.n + graph.edges[1]
    every = n * (n - 1) // 2
    if len(known) == every:
        raise ValueError("the graph is complete: no pair of its nodes is without an edge")
    if len(known) > every // 2:  # few are left: they are listed
        low, high = np.triu_indices(n, 1)
        left = np.setdiff1d(low * n + high, known, assume_unique=True)
        drawn = left[rng.integers(0, len(left), count)]
        return np.stack([drawn // n, drawn % n])
    found = np.empty((2, 0), dtype=np.int64)
    while found.shape[1] < count:
        pairs = random_pairs(n, 2 * (count - found.shape[1]) + 16, rng)
        found = np.concatenate([found, pairs[:, (pairs[0] != pairs[1]) & ~graph.has(pairs)]], axis=1)
    return found[:, :count]


def hits_at_k(scores: Any, labels: Any, k: int = 100) -> float:
    """Share of the edges that score higher than the k-th best of the pairs that are none (OGB's Hits@K).

    Args:
        scores: (pairs,); labels: (pairs,), 1 for edges and 0 for others.

    Raises:
        ValueError: fewer than k pairs without an edge, no edge, or a score that is not finite.
    """
    scores, labels = np.asarray(scores), np.asarray(labels)
    if scores.shape != labels.shape or scores.ndim != 1:
        raise ValueError(f"scores and labels must be of one length, got {scores.shape} and {labels.shape}")
    negatives, positives = scores[labels == 0], scores[labels == 1]
    if not 1 <= k <= len(negatives):
        raise ValueError(f"k must be from 1 to the number of pairs without an edge, {len(negatives)}, got {k}")
    if not len(positives):
        raise ValueError("labels must hold at least one edge (1)")
    if not np.isfinite(scores).all():
        raise ValueError("scores must be finite")
    return float((positives > np.partition(negatives, -k)[-k]).mean())
