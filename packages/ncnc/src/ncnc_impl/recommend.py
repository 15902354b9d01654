"""The most likely new neighbours of one node, whatever scores the links."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ncnc_impl.graph import Graph

__all__ = ["recommend"]


def recommend(
    graph: Graph,
    score: Callable[[Any], NDArray[Any]],
    node: int,
    k: int,
    *,
    exclude: Sequence[int] = (),
) -> list[tuple[int, float]]:
    """The k candidates with the highest scores, best first; equal scores come in the order of node ids.

    The node itself, its neighbours and `exclude` are no candidates.

    Raises:
        ValueError: if the node or an excluded one is not in the graph, or k is not positive.
    """
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    for name, ids in (("node", [node]), ("exclude", exclude)):
        for i in ids:
            if not 0 <= int(i) < graph.n_nodes:
                raise ValueError(f"{name} must be from 0 to {graph.n_nodes - 1}, got {i}")
    candidate = torch.ones(graph.n_nodes, dtype=torch.bool)
    candidate[node] = False
    candidate[graph.adj.col[graph.adj.rowptr[node] : graph.adj.rowptr[node + 1]].cpu()] = False
    candidate[torch.tensor([int(i) for i in exclude], dtype=torch.int64)] = False
    others = candidate.nonzero().squeeze(1)
    if others.numel() == 0:
        return []
    scores = score(torch.stack((torch.full_like(others, node), others), 1))
    best = np.argsort(-scores, kind="stable")[:k]
    return [(int(others[b]), float(scores[b])) for b in best]
