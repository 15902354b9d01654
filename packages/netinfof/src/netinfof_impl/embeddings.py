"""The five component embeddings of section 3.2: structure, neighbourhood, features, and features spread twice."""

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np
import scipy.sparse
from jaxtyping import Float
from numpy import ndarray
from scipy.sparse.linalg import eigsh, svds
from sklearn.base import BaseEstimator
from sklearn.decomposition import PCA
from sklearn.utils.extmath import randomized_svd

from netinfof_impl.graphs import AttributedGraph, as_graph, stream

__all__ = ["COMPONENTS", "ComponentEmbeddings", "scaled", "walk_counts", "walk_counts_loop"]

COMPONENTS = {
    "U": "structure",
    "R": "neighbourhood",
    "F": "features",
    "P": "features spread over two steps",
    "S": "features spread over two steps, with loops",
}

CHUNK = 4_000_000  # walks at a time


def walk_counts(
    graph: AttributedGraph, *, walks: int = 200, threshold: int = 1, seed: int = 0
) -> "scipy.sparse.csr_array":
    """How often `walks` walks of two steps from each node visit each other node; the second step does not go back.

    Walks are drawn all at once: a step that must not return draws from one place fewer and jumps over the place of
    where it came from. A walk that cannot go on stops.

    Args:
        threshold: counts up to this are dropped (the paper keeps counts above 1).

    Returns:
        (n, n) counts.
    """
    _check_walks(walks, threshold)
    adjacency = graph.adjacency()
    start_of, neighbours = adjacency.indptr.astype(np.int64), adjacency.indices.astype(np.int64)
    degree = np.diff(start_of)
    # where the reverse of each directed edge stands, which a second step jumps over
    source = np.repeat(np.arange(graph.n), degree)
    back = np.searchsorted(source * graph.n + neighbours, neighbours * graph.n + source)
    rng = stream(seed, "walks")
    rows = np.flatnonzero(degree)
    parts: list[Any] = []
    for first in range(0, len(rows), max(1, CHUNK // walks)):
        nodes = np.repeat(rows[first : first + max(1, CHUNK // walks)], walks)
        edge = start_of[nodes] + rng.integers(0, degree[nodes])
        middle = neighbours[edge]
        onward = degree[middle] > 1
        choice = rng.integers(0, degree[middle][onward] - 1)
        choice += choice >= back[edge[onward]] - start_of[middle[onward]]
        end = neighbours[start_of[middle[onward]] + choice]
        row = np.concatenate([nodes, nodes[onward]])
        col = np.concatenate([middle, end])
        keys, counts = np.unique(row * graph.n + col, return_counts=True)
        kept = counts > threshold
        parts.append((keys[kept], counts[kept]))
    keys = np.concatenate([part[0] for part in parts])
    values = np.concatenate([part[1] for part in parts]).astype(np.float32)
    made = scipy.sparse.coo_array((values, (keys // graph.n, keys % graph.n)), shape=(graph.n, graph.n))
    return made.tocsr()


def walk_counts_loop(
    graph: AttributedGraph, *, walks: int = 200, threshold: int = 1, seed: int = 0
) -> "scipy.sparse.csr_array":
    """`walk_counts` a walk at a time: the obvious form."""
    _check_walks(walks, threshold)
    adjacency = graph.adjacency()
    rng = stream(seed, "walks")
    counts: dict[tuple[int, int], int] = {}
    for node in range(graph.n):
        neighbours = adjacency.indices[adjacency.indptr[node] : adjacency.indptr[node + 1]]
        for _ in range(walks if len(neighbours) else 0):
            middle = int(rng.choice(neighbours))
            counts[node, middle] = counts.get((node, middle), 0) + 1
            onward = adjacency.indices[adjacency.indptr[middle] : adjacency.indptr[middle + 1]]
            onward = onward[onward != node]
            if len(onward):
                end = int(rng.choice(onward))
                counts[node, end] = counts.get((node, end), 0) + 1
    kept = [(row, col, value) for (row, col), value in counts.items() if value > threshold]
    row, col, value = np.array(kept, dtype=np.int64).reshape(-1, 3).T
    return scipy.sparse.coo_array((value.astype(np.float32), (row, col)), shape=(graph.n, graph.n)).tocsr()


def _check_walks(walks: int, threshold: int) -> None:
    if walks < 1 or threshold < 0:
        raise ValueError(f"walks must be positive and threshold not negative, got {walks} and {threshold}")


def scaled(z: Float[ndarray, "n d"]) -> Float[ndarray, "n d"]:
    """Each column over its standard deviation, without centring, then each row to length one.

    Columns without deviation and rows of zeros stay as they are.
    """
    std = z.std(0)
    z = z / np.where(std > 0, std, 1)
    length = np.linalg.norm(z, axis=1, keepdims=True)
    return z / np.where(length > 0, length, 1)


def _weighty(z: Float[ndarray, "n d"], s: Float[ndarray, " d"]) -> Float[ndarray, "n d"]:
    """Zero for the directions without weight: they are arbitrary, and scaling would blow them up."""
    return z * (s > s.max(initial=0) * 1e-5)


class ComponentEmbeddings(BaseEstimator):  # type: ignore[misc]
    """U, R, F, P and S of a graph: what linear graph networks read, without training (section 3.2).

    Args:
        d: the rank; it comes down to the number of features, and to n - 1.
        walks: walks from each node for R.
        threshold: visit counts up to this are dropped.
        components: which of U, R, F, P, S; those of features are left out where a graph has none.
        solver: "exact" (Lanczos) or "randomized" singular vectors of U and R; "auto": randomized beyond 50,000 nodes.
        symmetric: S with D^{-1/2} (A + I) D^{-1/2} instead of the authors' D^{-1} (A + I).
        dtype: of the embeddings.
        seed: of walks and randomised decompositions.
    """

    def __init__(
        self,
        d: int = 128,
        *,
        walks: int = 200,
        threshold: int = 1,
        components: Sequence[str] = tuple(COMPONENTS),
        solver: Literal["auto", "exact", "randomized"] = "auto",
        symmetric: bool = False,
        dtype: Any = np.float32,
        seed: int = 0,
    ) -> None:
        if d < 1:
            raise ValueError(f"d must be positive, got {d}")
        _check_walks(walks, threshold)
        if not components or not set(components) <= set(COMPONENTS):
            raise ValueError(f"components must name at least one of {', '.join(COMPONENTS)}, got {components}")
        if solver not in ("auto", "exact", "randomized"):
            raise ValueError(f"solver must be 'auto', 'exact' or 'randomized', got {solver!r}")
        self.d, self.walks, self.threshold, self.seed = d, walks, threshold, seed
        self.components, self.solver, self.symmetric, self.dtype = components, solver, symmetric, dtype

    def fit_transform(self, data: Any) -> dict[str, Float[ndarray, "n rank"]]:
        """Embeddings by component; only the edges of `data` are read, so give training edges only.

        Raises:
            ValueError: a graph without edges, or without features when only F, P, S are asked for.
        """
        graph = as_graph(data, labels_needed=False)
        rank = min(self.d, graph.n - 1)
        if graph.features is not None:
            rank = min(rank, graph.features.shape[1])
        made = {name: scaled(z).astype(self.dtype) for name, z in self._raw(graph, rank)}
        if not made:
            raise ValueError(
                f"x must be given for the components {', '.join(self.components)}: the graph has no features"
            )
        return made

    def _raw(self, graph: AttributedGraph, rank: int) -> Iterator[tuple[str, ndarray]]:
        for name in self.components:
            if name == "U":
                yield name, self._left(graph.adjacency(), rank, symmetric=True)
            elif name == "R":
                counts = walk_counts(graph, walks=self.walks, threshold=self.threshold, seed=self.seed)
                yield name, self._left(counts, rank)
            elif graph.features is not None:
                x = graph.features.astype(self.dtype)
                if name != "F":
                    spread = self._spread(graph, loops=name == "S")
                    x = spread @ (spread @ x)
                yield name, self._principal(x, rank)

    def _principal(self, x: Float[ndarray, "n f"], rank: int) -> ndarray:
        """The first principal components."""
        if not (x != x[0]).any():
            return np.zeros((len(x), rank))
        model = PCA(rank, random_state=self.seed)
        # in single precision the covariance hides directions below a thousandth of the first
        made = model.fit_transform(x.astype(np.float64))
        return _weighty(made, model.singular_values_)

    def _left(self, matrix: "scipy.sparse.csr_array", rank: int, *, symmetric: bool = False) -> ndarray:
        """U S^{1/2} of the truncated singular value decomposition."""
        if not matrix.nnz:
            return np.zeros((matrix.shape[0], rank))
        if self.solver == "exact" or (self.solver == "auto" and matrix.shape[0] <= 50_000):
            start = stream(self.seed, "first vector").standard_normal(min(matrix.shape))
            if symmetric:  # where edges join two sides values come as s and -s, whose singular vectors are arbitrary
                values, u = eigsh(matrix.astype(np.float64), k=min(rank + 1, len(start) - 1), v0=start)
                s = np.abs(values)
                order = np.lexsort((values, np.round(s, 8)))[::-1][:rank]
            else:
                u, s, _ = svds(matrix.astype(np.float64), k=rank, v0=start)
                order = np.arange(rank)[::-1]
            u, s = u[:, order], s[order]
        else:
            u, s, _ = randomized_svd(matrix.astype(self.dtype), rank, n_iter=4, random_state=self.seed)
        return _weighty(u * np.sqrt(s.clip(0)), s)

    def _spread(self, graph: AttributedGraph, *, loops: bool) -> "scipy.sparse.csr_array":
        adjacency = graph.adjacency(loops=loops).astype(self.dtype)
        degree = adjacency.sum(1)
        if loops and self.symmetric:
            half = scipy.sparse.diags_array(degree**-0.5)
            return (half @ adjacency @ half).tocsr()
        inverse = np.divide(1, degree, out=np.zeros_like(degree), where=degree > 0)
        return (scipy.sparse.diags_array(inverse) @ adjacency).tocsr()
