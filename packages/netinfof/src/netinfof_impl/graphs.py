"""Graphs as the rest of the package reads them: undirected, without loops and repeats; their splits and negatives."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import scipy.sparse
import torch
from jaxtyping import Float, Int
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

    def with_edges(self, edges: Int[ndarray, "2 m"]) -> "AttributedGraph":
        """The same nodes with other edges."""
        return replace(self, edges=edges)


def as_graph(data: Any, *, normalise: bool = False) -> AttributedGraph:
    """Read a `torch_geometric.data.Data` (`edge_index`, and `x`, `y`, `num_nodes` where there are any).

    Directions, loops and repeats go. Features may be a dense or sparse tensor or array.

    Args:
        normalise: subtract the smallest feature of all from all, then let each row sum to one, as the paper does.

    Raises:
        ValueError: no nodes or edges; indices out of range; features or labels of another length, or not finite.
    """
    if isinstance(data, AttributedGraph):
        return (
            replace(data, features=_row_normalised(data.features)) if normalise and data.features is not None else data
        )
    edge_index = getattr(data, "edge_index", None)
    if edge_index is None:
        raise ValueError(f"data must have edge_index, got {type(data).__name__} without one")
    pairs = np.asarray(edge_index)
    if pairs.ndim != 2 or pairs.shape[0] != 2 or pairs.dtype.kind not in "iu":
        raise ValueError(f"edge_index must be integers of shape (2, edges), got {pairs.dtype} {tuple(pairs.shape)}")
    features = _dense(getattr(data, "x", None))
    labels = getattr(data, "y", None)
    # asked for a number that was not given, torch_geometric would guess it, and warn
    given = getattr(data, "num_nodes", None) if not isinstance(data, Data) or "num_nodes" in data else None
    known = features if features is not None else labels
    n = int(given if given is not None else len(known) if known is not None else pairs.max(initial=-1) + 1)
    if n < 2:
        raise ValueError(f"a graph must have at least 2 nodes, got {n}")
    if pairs.size and (pairs.min() < 0 or pairs.max() >= n):
        raise ValueError(f"edge_index must be from 0 to {n - 1}, got {pairs.min()} to {pairs.max()}")
    if features is not None:
        if features.ndim != 2 or len(features) != n:
            raise ValueError(f"x must have a row for each of {n} nodes, got shape {features.shape}")
        if not np.isfinite(features).all():
            raise ValueError("x must be finite, got NaN or an infinite value")
        if not features.shape[1]:
            features = None
    if labels is not None:
        labels = np.asarray(labels)
        if labels.ndim == 2 and labels.shape[1] == 1:
            labels = labels[:, 0]
        if labels.shape != (n,) or labels.dtype.kind not in "iub":
            raise ValueError(f"y must hold an integer for each of {n} nodes, got {labels.dtype} {labels.shape}")
        labels = labels.astype(np.int64)
    edges = _undirected(pairs.astype(np.int64), n)
    if not edges.shape[1]:
        raise ValueError("a graph must have at least one edge between two nodes, got none")
    if normalise and features is not None:
        features = _row_normalised(features)
    return AttributedGraph(n, edges, features, labels)


def _dense(x: Any) -> ndarray | None:
    if x is None:
        return None
    if isinstance(x, torch.Tensor):
        x = (x.to_dense() if x.layout != torch.strided else x).detach().cpu().numpy()
    if scipy.sparse.issparse(x):
        x = x.toarray()
    array = np.asarray(x)
    return array.astype(np.float64 if array.dtype == np.float64 else np.float32)


def _row_normalised(x: ndarray) -> ndarray:
    shifted = x - x.min()
    sums = shifted.sum(1, keepdims=True)
    made: ndarray = np.divide(shifted, sums, out=np.zeros_like(shifted), where=sums > 0)
    return made


def _undirected(pairs: Int[ndarray, "2 e"], n: int) -> Int[ndarray, "2 m"]:
    low, high = pairs.min(0), pairs.max(0)
    keys = np.unique((low * n + high)[low < high])
    return np.stack([keys // n, keys % n])


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
    graph = as_graph(graph, normalise=normalise)
    if len(shares) != 3 or min(shares) <= 0 or abs(sum(shares) - 1) > 1e-9:
        raise ValueError(f"shares must be three positive numbers that sum to 1, got {shares}")
    m = graph.edges.shape[1]
    rng = np.random.default_rng(seed)
    order = rng.permutation(m)
    n_test, n_valid = round(m * shares[2]), round(m * shares[1])
    if min(n_test, n_valid, m - n_test - n_valid) < 1:
        raise ValueError(f"{m} edges are too few for a split by {shares}")
    test, valid, train = np.split(graph.edges[:, order], [n_test, n_test + n_valid], axis=1)
    negatives = uniform_non_edges(graph, n_test + n_valid, rng)
    kept = train[:, np.lexsort(train[::-1])]
    return EdgeSplit(
        graph.with_edges(kept),
        np.concatenate([valid, negatives[:, :n_valid]], axis=1),
        np.repeat([1, 0], n_valid),
        np.concatenate([test, negatives[:, n_valid:]], axis=1),
        np.repeat([1, 0], n_test),
    )


def random_pairs(n: int, count: int, rng: np.random.Generator) -> Int[ndarray, "2 count"]:
    """Pairs of nodes drawn uniformly; edges and equal ends may be among them, as in the paper."""
    return rng.integers(0, n, (2, count))


def uniform_non_edges(graph: AttributedGraph, count: int, rng: np.random.Generator) -> Int[ndarray, "2 count"]:
    """Pairs that are no edges and have different ends, uniformly, with repeats as they come.

    Raises:
        ValueError: a complete graph.
    """
    n, known = graph.n, graph.edges[0] * graph.n + graph.edges[1]
    if len(known) == n * (n - 1) // 2:
        raise ValueError("the graph is complete: no pair of its nodes is without an edge")
    found = np.empty((2, 0), dtype=np.int64)
    while found.shape[1] < count:
        pairs = random_pairs(n, 2 * (count - found.shape[1]) + 16, rng)
        keys = pairs.min(0) * n + pairs.max(0)
        at = np.searchsorted(known, keys).clip(max=max(len(known) - 1, 0))
        right = (pairs[0] != pairs[1]) & (known[at] != keys)
        found = np.concatenate([found, pairs[:, right]], axis=1)
    return found[:, :count]


def hits_at_k(scores: Float[ndarray, " pairs"], labels: Int[ndarray, " pairs"], k: int = 100) -> float:
    """Share of the edges that score higher than the k-th best of the pairs that are none (OGB's Hits@K).

    Raises:
        ValueError: fewer than k pairs without an edge, no edge, or a score that is not finite.
    """
    negatives, positives = scores[labels == 0], scores[labels == 1]
    if not 1 <= k <= len(negatives):
        raise ValueError(f"k must be from 1 to the number of pairs without an edge, {len(negatives)}, got {k}")
    if not len(positives):
        raise ValueError("labels must hold at least one edge (1)")
    if not np.isfinite(scores).all():
        raise ValueError("scores must be finite")
    return float((positives > np.partition(negatives, -k)[-k]).mean())
