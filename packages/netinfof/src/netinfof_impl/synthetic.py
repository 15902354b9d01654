"""The synthetic graphs, of which is known whether structure and features tell anything (section 6)."""

from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy import ndarray
from sklearn.utils.extmath import randomized_svd
from torch_geometric.data import Data

from netinfof_impl.embeddings import walk_counts
from netinfof_impl.graphs import AttributedGraph, as_graph, stream

__all__ = ["synthetic_graph"]

NOISE = {"diag": 2e-4, "offdiag": 1e-4, "uniform": 0.0}


def synthetic_graph(
    features: Literal["random", "global", "local"] = "global",
    edges: Literal["diag", "offdiag", "uniform"] = "diag",
    *,
    n_nodes: int = 4000,
    n_features: int = 800,
    n_classes: int = 4,
    density: float = 0.01,
    edge_noise: float | None = None,
    feature_noise: float = 0.002,
    walks: int = 1000,
    seed: int = 0,
) -> Data:
    """Draw a graph of equal classes, with `x`, `edge_index` in both directions and `y`.

    Args:
        features: "random": fair coins; "global": the decomposed counts of walks, so that features follow the structure;
            "local": the same with fewer columns, each class in columns of its own.
        edges: "diag": cliques within classes (homophily); "offdiag": complete bipartite pieces between the classes of a
            pair (heterophily); "uniform": any pair with probability `density`, labels random (no information).
        density: share of the pairs of a block that are joined.
        edge_noise: probability of an edge between other classes; None: the paper's 2e-4 (diag) or 1e-4 (offdiag).
        feature_noise: share of the features, unless random, that a number from 0 to 1 replaces.

    Raises:
        ValueError: a name that is none; an odd number of classes for "offdiag"; classes of fewer than 8 nodes.
    """
    if features not in ("random", "global", "local") or edges not in NOISE:
        raise ValueError(
            f"features must be random, global or local and edges diag, offdiag or uniform, got {features!r}, {edges!r}"
        )
    if n_classes < 2 or n_nodes // n_classes < 8 or (edges == "offdiag" and n_classes % 2):
        raise ValueError(
            f"n_classes must be at least 2, even for offdiag, of at least 8 nodes each, got {n_classes} of {n_nodes} "
            "nodes"
        )
    if n_features < n_classes or not 0 < density < 1 or not 0 <= feature_noise <= 1:
        raise ValueError(
            f"n_features must be at least {n_classes}, density and feature_noise shares, "
            f"got {n_features}, {density} and {feature_noise}"
        )
    rng = stream(seed, "synthetic graph")
    labels = np.arange(n_nodes) * n_classes // n_nodes
    noise = NOISE[edges] if edge_noise is None else edge_noise
    if edges == "uniform":
        pairs = _bernoulli(np.arange(n_nodes), np.arange(n_nodes), density, rng)
        labels = rng.integers(0, n_classes, n_nodes)
    else:
        blocks = [
            (c, c) if edges == "diag" else (2 * c, 2 * c + 1)
            for c in range(n_classes if edges == "diag" else n_classes // 2)
        ]
        members = [np.flatnonzero(labels == c) for c in range(n_classes)]
        drawn = [_cliques(members[a], members[b], density, rng) for a, b in blocks]
        others = [(a, b) for a in range(n_classes) for b in range(a, n_classes) if (a, b) not in blocks]
        drawn += [_bernoulli(members[a], members[b], noise, rng) for a, b in others]
        pairs = np.concatenate(drawn, axis=1)
    graph = as_graph(Data(edge_index=torch.from_numpy(pairs), num_nodes=n_nodes))
    x = _features(features, graph, labels, n_features, n_classes, walks, seed, rng)
    if features != "random":
        spoilt = rng.random(x.shape) < feature_noise
        x[spoilt] = rng.random(int(spoilt.sum()))
    return Data(
        x=torch.from_numpy(x.astype(np.float32)),
        edge_index=torch.from_numpy(graph.both_ways.copy()),
        y=torch.from_numpy(labels),
    )


def _cliques(left: ndarray, right: ndarray, density: float, rng: np.random.Generator) -> Int[ndarray, "2 e"]:
    """Cliques of 4 to 8 nodes, or complete bipartite pieces of as many on both sides, until they are dense enough and
    every node is in one; nodes that are in one have a tenth of the chance."""
    same = left is right or np.array_equal(left, right)
    sides = [left] if same else [left, right]
    n = len(left)
    pairs_in_all = n * (n - 1) / 2 if same else n * len(right)
    chance = [np.ones(len(side)) for side in sides]
    known: set[int] = set()
    size = int(max(side.max() for side in sides)) + 1
    while len(known) / pairs_in_all <= density or any((p == 1).any() for p in chance):
        chosen = [
            rng.choice(len(side), rng.integers(4, 9), replace=False, p=p / p.sum())
            for side, p in zip(sides, chance, strict=True)
        ]
        for p, picked in zip(chance, chosen, strict=True):
            p[picked] = 0.1
        a, b = (left[chosen[0]], left[chosen[0]]) if same else (left[chosen[0]], right[chosen[1]])
        grid = np.stack(np.meshgrid(a, b), -1).reshape(-1, 2)
        grid = np.sort(grid[grid[:, 0] != grid[:, 1]], axis=1)
        known.update((grid[:, 0] * size + grid[:, 1]).tolist())
    keys = np.fromiter(known, dtype=np.int64)
    return np.stack([keys // size, keys % size])


def _bernoulli(left: ndarray, right: ndarray, chance: float, rng: np.random.Generator) -> Int[ndarray, "2 e"]:
    """Each pair with a probability, drawn by their number."""
    count = rng.binomial(len(left) * len(right), chance)
    return np.stack([rng.choice(left, count), rng.choice(right, count)])


def _features(
    kind: str, graph: AttributedGraph, labels: ndarray, width: int, classes: int, walks: int, seed: int,
    rng: np.random.Generator,
) -> Float[ndarray, "n f"]:  # fmt: skip
    if kind == "random":
        return rng.integers(0, 2, (graph.n, width)).astype(np.float64)
    columns = width if kind == "global" else width // classes
    counts = walk_counts(graph, walks=walks, threshold=0, seed=seed).astype(np.float64)
    u, s, _ = randomized_svd(counts, min(columns, graph.n - 1), n_iter=2, random_state=seed)
    spread = u * np.sqrt(s)
    spread -= spread.min()
    x = np.zeros((graph.n, width))
    if kind == "global":
        x[:, : spread.shape[1]] = spread
        return x
    for c in range(classes):
        mine = labels == c
        x[mine, c * columns : c * columns + spread.shape[1]] = spread[mine]
    return x
