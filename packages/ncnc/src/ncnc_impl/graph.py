"""The graph a link predictor works on: undirected, unweighted, each edge once, no self-loops."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from ncnc_impl.csr import CSR, select_entries

__all__ = ["Graph", "as_pairs", "check_pairs", "is_edge", "sample_negatives"]

MAX_NODES = 2**31 - 1


@dataclass(frozen=True, eq=False)
class Graph:
    """An undirected graph with optional node features.

    Make it with `Graph.from_edges`, which cleans the edges.

    Attributes:
        edges: each edge once, the smaller node first, sorted.
        adj: symmetric adjacency matrix.
        edge_of: for each entry of `adj`, the row of `edges` it comes from.
        x: dense features, sparse features, or one category a node (`Int64[Tensor, "nodes"]`); None without features.
        names: what the nodes are called in the source; None where they are numbered.
        cleaned: how many self-loops and repeated edges were left out on the way in.
    """

    edges: Int64[Tensor, "edges 2"]
    adj: CSR
    edge_of: Int64[Tensor, "entries"]
    x: Float[Tensor, "nodes features"] | Int64[Tensor, "nodes"] | CSR | None = None
    names: Sequence[Any] | None = None
    cleaned: dict[str, int] = field(default_factory=dict)

    @classmethod
    def from_edges(
        cls,
        pairs: Any,
        n_nodes: int | None = None,
        *,
        x: Any = None,
        names: Sequence[Any] | None = None,
    ) -> "Graph":
        """From node pairs (n, 2), in any order and direction.

        A pair given twice or in both directions is one edge; self-loops are left out; both are counted in `cleaned`.

        Args:
            n_nodes: also counts nodes without any edge; default: the features' number of rows, else the largest id + 1.
            x: dense array or tensor, SciPy sparse matrix, `CSR`, or integer categories.

        Raises:
            ValueError: for ids out of range, a wrong shape, or features that do not match the nodes.
        """
        pairs = as_pairs(pairs, "edges")
        features = _as_features(x)
        rows = None if features is None else (features.n_rows if isinstance(features, CSR) else features.shape[0])
        largest = int(pairs.max()) + 1 if pairs.numel() else 0
        if n_nodes is None:
            n_nodes = rows if rows is not None else largest
        if rows is not None and rows != n_nodes:
            raise ValueError(f"x must have one row a node: got {rows} rows for {n_nodes} nodes")
        if not 1 <= n_nodes <= MAX_NODES:
            raise ValueError(f"n_nodes must be from 1 to {MAX_NODES}, got {n_nodes}")
        check_pairs(pairs, n_nodes, "edges")
        if names is not None and len(names) != n_nodes:
            raise ValueError(f"names must name every node: got {len(names)} for {n_nodes} nodes")
        low, high = pairs.min(1).values, pairs.max(1).values
        loops = low == high
        keys = torch.unique((low * n_nodes + high)[~loops])
        edges = torch.stack((keys // n_nodes, keys % n_nodes), 1)
        n_loops = int(loops.sum())
        cleaned = {"self_loops": n_loops, "repeats": pairs.shape[0] - n_loops - edges.shape[0]}
        adj, edge_of = _adjacency(edges, n_nodes)
        return cls(edges, adj, edge_of, features, names, cleaned)

    @property
    def n_nodes(self) -> int:
        """Number of nodes, isolated ones included."""
        return self.adj.n_rows

    @property
    def n_edges(self) -> int:
        """Number of undirected edges."""
        return self.edges.shape[0]

    @property
    def device(self) -> torch.device:
        """Where the graph is."""
        return self.edges.device

    @cached_property
    def keys(self) -> Int64[Tensor, "entries"]:
        """The entries of the adjacency matrix as sorted numbers row * n + column, for looking edges up."""
        return self.adj.rows().mul_(self.n_nodes).add_(self.adj.col)

    def without(self, removed: Bool[Tensor, "edges"]) -> CSR:
        """The adjacency matrix lacking some edges, both directions of each (target link removal, section 4)."""
        return select_entries(self.adj, ~removed[self.edge_of], symmetric=True)

    def with_edges(self, pairs: Int64[Tensor, "edges 2"]) -> "Graph":
        """The same nodes with other edges."""
        return Graph.from_edges(pairs.cpu(), self.n_nodes, x=self.x, names=self.names).to(self.device)

    def with_features(self, x: Any) -> "Graph":
        """The same edges with other node features."""
        return Graph(self.edges, self.adj, self.edge_of, _as_features(x), self.names, self.cleaned)

    def to(self, device: torch.device | str) -> "Graph":
        """A copy on another device."""
        x = None if self.x is None else self.x.to(device)
        return Graph(self.edges.to(device), self.adj.to(device), self.edge_of.to(device), x, self.names, self.cleaned)


def as_pairs(pairs: Any, name: str = "pairs") -> Int64[Tensor, "n 2"]:
    """Node pairs from a tensor, array or list as an (n, 2) tensor of int64.

    Raises:
        ValueError: for another shape, or numbers that are not integers.
    """
    if not isinstance(pairs, Tensor):
        array = np.asarray(pairs)
        if array.size == 0:
            array = array.reshape(-1, 2).astype(np.int64)
        if array.dtype.kind not in "iu":
            raise ValueError(f"{name} must be integer node ids, got {array.dtype}")
        pairs = torch.from_numpy(np.ascontiguousarray(array.astype(np.int64)))
    if pairs.is_floating_point() or pairs.is_complex() or pairs.dtype == torch.bool:
        raise ValueError(f"{name} must be integer node ids, got {pairs.dtype}")
    if pairs.ndim != 2 or pairs.shape[1] != 2:
        hint = "; transpose it" if pairs.ndim == 2 and pairs.shape[0] == 2 else ""
        raise ValueError(f"{name} must have shape (n, 2), got {tuple(pairs.shape)}{hint}")
    return pairs.long()


def check_pairs(pairs: Int64[Tensor, "n 2"], n_nodes: int, name: str = "pairs") -> None:
    """Refuse node ids outside 0..n_nodes-1.

    Raises:
        ValueError: naming the first bad pair.
    """
    bad = ((pairs < 0) | (pairs >= n_nodes)).any(1)
    if bad.any():
        first = int(bad.nonzero()[0])
        raise ValueError(
            f"{name} must name nodes 0 to {n_nodes - 1}, got {tuple(pairs[first].tolist())} "
            f"at position {first} ({int(bad.sum())} such)"
        )


def is_edge(graph: Graph, pairs: Int64[Tensor, "n 2"]) -> Bool[Tensor, "n"]:
    """Whether each pair is joined by an edge."""
    if graph.adj.nnz == 0:
        return torch.zeros(pairs.shape[0], dtype=torch.bool, device=pairs.device)
    wanted = pairs[:, 0] * graph.n_nodes + pairs[:, 1]
    at = torch.searchsorted(graph.keys, wanted).clamp_(max=graph.adj.nnz - 1)
    return graph.keys[at] == wanted


def sample_negatives(
    graph: Graph,
    n: int,
    *,
    generator: torch.Generator | None = None,
    known: Graph | None = None,
    unique: bool = False,
) -> Int64[Tensor, "n 2"]:
    """Uniformly drawn pairs of different nodes that no edge joins, in random order.

    Args:
        known: edges to avoid, where they are more than `graph` shows (for evaluation: the whole graph).
        unique: no pair twice, in either direction, and the smaller node first.

    Raises:
        ValueError: if there are not enough such pairs.
    """
    reference = graph if known is None else known
    n_nodes = graph.n_nodes
    room = n_nodes * (n_nodes - 1) // 2 - reference.n_edges
    if (room < n) if unique else (room <= 0 < n):
        raise ValueError(f"{n} negative pairs asked for, but only {room} pairs of nodes are not edges")
    if unique and n > room // 2:
        return _all_negatives(reference)[torch.randperm(room, generator=generator)[:n]].to(graph.device)
    found = torch.empty(0, 2, dtype=torch.int64, device=graph.device)
    while found.shape[0] < n:
        wanted = int((n - found.shape[0]) * 1.1) + 16
        draw = torch.randint(n_nodes, (wanted, 2), generator=generator).to(graph.device)
        draw = draw[(draw[:, 0] != draw[:, 1])]
        draw = draw[~is_edge(reference, draw)]
        if unique:
            draw = draw.sort(1).values
        found = torch.cat((found, draw))
        if unique:
            found = _first_of_each(found, n_nodes)
    return found[:n]


def _first_of_each(pairs: Tensor, n_nodes: int) -> Tensor:
    """Without repeats, in the order drawn."""
    _, inverse = torch.unique(pairs[:, 0] * n_nodes + pairs[:, 1], return_inverse=True)
    first = torch.full((pairs.shape[0],), pairs.shape[0], dtype=torch.int64, device=pairs.device)
    first = first.scatter_reduce(0, inverse, torch.arange(pairs.shape[0], device=pairs.device), "amin")
    return pairs[first[first < pairs.shape[0]].sort().values]


def _all_negatives(graph: Graph) -> Tensor:
    absent = torch.ones(graph.n_nodes, graph.n_nodes, dtype=torch.bool).triu(1)
    absent[graph.edges[:, 0].cpu(), graph.edges[:, 1].cpu()] = False
    return absent.nonzero()


def _adjacency(edges: Tensor, n_nodes: int) -> tuple[CSR, Tensor]:
    low, high = edges.unbind(1)
    n_edges = edges.shape[0]
    keys, order = torch.sort(torch.cat((low * n_nodes + high, high * n_nodes + low)))
    rowptr = torch.zeros(n_nodes + 1, dtype=torch.int64)
    degrees = torch.bincount(low, minlength=n_nodes) + torch.bincount(high, minlength=n_nodes)
    torch.cumsum(degrees, 0, out=rowptr[1:])
    # in place: at ten million edges every temporary counts
    edge_of = order.remainder_(max(n_edges, 1))
    return CSR(rowptr, keys.remainder_(n_nodes), n_nodes, symmetric=True), edge_of


def _as_features(x: Any) -> Any:
    """Dense float32, int64 categories, or CSR."""
    if x is None or isinstance(x, CSR):
        return x
    if hasattr(x, "tocsr"):
        return CSR.from_scipy(x)
    tensor = x if isinstance(x, Tensor) else torch.from_numpy(np.ascontiguousarray(np.asarray(x)))
    if tensor.is_floating_point():
        if tensor.ndim != 2:
            raise ValueError(f"x must have shape (nodes, features), got {tuple(tensor.shape)}")
        if not torch.isfinite(tensor).all():
            raise ValueError("x must be finite, got NaN or infinite features")
        return tensor.float()
    if tensor.ndim == 2:
        return _as_features(tensor.float())
    if tensor.ndim != 1 or (tensor.numel() and int(tensor.min()) < 0):
        raise ValueError("x of integers must be one category from 0 a node, or a matrix of features")
    return tensor.long()
