"""Link prediction without learning: scores from the neighbourhood alone, with the interface of `LinkPredictor`."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Literal, get_args

import numpy as np
import torch
from jaxtyping import Float, Int64
from numpy.typing import NDArray
from torch import Tensor

from ncnc_impl.csr import CSR
from ncnc_impl.data import as_graph
from ncnc_impl.graph import Graph, as_pairs, check_pairs
from ncnc_impl.overlap import MAX_ENTRIES, common_neighbors
from ncnc_impl.recommend import recommend

__all__ = ["Heuristic", "HeuristicName", "heuristic_scores"]

HeuristicName = Literal["cn", "aa", "ra", "pa", "katz"]


class Heuristic:
    """A heuristic scorer: common neighbours, Adamic-Adar, resource allocation, preferential attachment or Katz.

    cn: |S|, with S = N(i) ∩ N(j).  aa: sum over S of 1 / ln deg(u).  ra: sum over S of 1 / deg(u).
    pa: deg(i) deg(j).  katz: sum over l = 1..max_length of katz_beta^l (A^l)_ij.

    A common neighbour of degree 1 (possible only for a pair of a node with itself) counts 0 in aa.

    Args:
        name: which one.
        katz_beta: attenuation; keep it below 1 / (largest eigenvalue of A) for the series to converge.
        max_length: longest walk that Katz counts.
    """

    def __init__(self, name: HeuristicName, *, katz_beta: float = 0.005, max_length: int = 3) -> None:
        if name not in get_args(HeuristicName):
            raise ValueError(f"name must be one of {get_args(HeuristicName)}, got {name!r}")
        if not katz_beta > 0:
            raise ValueError(f"katz_beta must be positive, got {katz_beta}")
        if max_length < 1:
            raise ValueError(f"max_length must be at least 1, got {max_length}")
        self.name, self.katz_beta, self.max_length = name, katz_beta, max_length
        self.graph_: Graph | None = None

    def score(self, adj: CSR, pairs: Int64[Tensor, "links 2"]) -> Float[Tensor, "links"]:
        """Scores of node pairs on an adjacency matrix."""
        return heuristic_scores(self.name, adj, pairs, katz_beta=self.katz_beta, max_length=self.max_length)

    def fit(self, data: Any) -> "Heuristic":
        """Remember the graph: anything that `as_graph` takes."""
        self.graph_ = as_graph(data)
        return self

    def decision_function(self, pairs: Any) -> NDArray[np.float32]:
        """Scores of node pairs on the graph of `fit`.

        Raises:
            RuntimeError: before `fit`.
            ValueError: for node ids out of range.
        """
        graph = self._graph()
        wanted = as_pairs(pairs)
        check_pairs(wanted, graph.n_nodes)
        return self.score(graph.adj, wanted.to(graph.device)).float().cpu().numpy()

    def recommend(self, node: int, k: int = 10, *, exclude: Sequence[int] = ()) -> list[tuple[int, float]]:
        """The k nodes most likely linked to `node` that are not yet, with their scores."""
        return recommend(self._graph(), self.decision_function, node, k, exclude=exclude)

    def _graph(self) -> Graph:
        if self.graph_ is None:
            raise RuntimeError("call fit before scoring")
        return self.graph_


def heuristic_scores(
    name: HeuristicName,
    adj: CSR,
    pairs: Int64[Tensor, "links 2"],
    *,
    katz_beta: float = 0.005,
    max_length: int = 3,
) -> Float[Tensor, "links"]:
    """What `Heuristic` computes, as a function."""
    degree = adj.counts().float()
    if name == "pa":
        return degree[pairs[:, 0]] * degree[pairs[:, 1]]
    if name == "katz":
        return _katz(adj, pairs, katz_beta, max_length)
    common = common_neighbors(adj, pairs)
    if name == "cn":
        return common.counts().float()
    weight = 1 / degree.clamp(min=1) if name == "ra" else torch.where(degree > 1, 1 / degree.clamp(min=2).log(), 0.0)
    return common.matmul(weight.unsqueeze(1)).squeeze(1)


def _katz(adj: CSR, pairs: Tensor, beta: float, max_length: int) -> Tensor:
    # walks from a few sources at a time: a (nodes x sources) block instead of powers of A
    sources, position = torch.unique(pairs[:, 0], return_inverse=True)
    scores = torch.empty(pairs.shape[0], device=adj.device)
    width = max(1, min(sources.numel(), MAX_ENTRIES // max(adj.n_rows, 1)))
    order = torch.argsort(position)
    bounds = torch.searchsorted(
        position[order], torch.arange(0, sources.numel() + width, width, device=adj.device)
    ).tolist()
    for block, (start, stop) in enumerate(pairwise(bounds)):
        part = sources[block * width : (block + 1) * width]
        walks = torch.zeros(adj.n_rows, part.numel(), device=adj.device)
        walks[part, torch.arange(part.numel(), device=adj.device)] = 1.0
        total = torch.zeros_like(walks)
        for _ in range(max_length):
            walks = beta * adj.matmul(walks)
            total += walks
        mine = order[start:stop]
        scores[mine] = total[pairs[mine, 1], position[mine] - block * width]
    return scores
