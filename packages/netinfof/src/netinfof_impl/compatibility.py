"""The compatibility matrix H of the adjusted similarity s(i, j) = z_i H z_j (section 4.1)."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy import ndarray
from scipy.sparse import coo_array, csr_array
from scipy.sparse.linalg import LinearOperator, cg, lsqr
from sklearn.base import BaseEstimator

from netinfof_impl.graphs import AttributedGraph, as_edges, random_pairs, stream

__all__ = ["CompatibilityMatrix", "PairDesign", "design_matrix", "ridge_compatibility", "training_pairs"]

LARGEST_SAMPLE = 200_000  # edges


def ridge_compatibility(
    z: Float[ndarray, "n d"], edges: Int[ndarray, "2 m"], *, ridge: float = 1.0
) -> Float[ndarray, "d d"]:
    """H0 = (Zi'Zi + ridge I)^{-1} Zi'Zj over both directions of all edges: z_j told from z_i, without negatives."""
    counts = np.bincount(edges.reshape(-1), minlength=len(z)).astype(z.dtype)
    row, col = np.concatenate([edges, edges[::-1]], axis=1)
    neighbours = coo_array((np.ones(len(row), z.dtype), (row, col)), shape=(len(z), len(z))).tocsr() @ z
    gram = z.T @ (counts[:, None] * z) + ridge * np.eye(z.shape[1], dtype=z.dtype)
    solved: ndarray = np.linalg.solve(gram, z.T @ neighbours)
    return solved


def training_pairs(
    graph: AttributedGraph, *, negatives: int = 2, sample: int = LARGEST_SAMPLE, two_core: bool = True, seed: int = 0
) -> tuple[Int[ndarray, "2 pairs"], Float[ndarray, " pairs"]]:
    """Pairs and what z_i H z_j should be: 1 for edges of the first round of the 2-core, 0 for random pairs.

    A graph none of whose edges survive that round (a matching, a star) keeps them all.

    Args:
        negatives: random pairs for each edge.
        sample: at most so many edges.
        two_core: only edges both of whose ends have another neighbour.
    """
    if negatives < 0 or sample < 1:
        raise ValueError(f"negatives must not be negative and sample positive, got {negatives} and {sample}")
    rng = stream(seed, "pairs of H")
    edges = graph.edges
    if two_core:
        degree = np.bincount(edges.reshape(-1), minlength=graph.n)
        core = (degree[edges] >= 2).all(0)
        edges = edges[:, core] if core.any() else edges
    if edges.shape[1] > sample:
        edges = edges[:, rng.choice(edges.shape[1], sample, replace=False)]
    m = edges.shape[1]
    pairs = np.concatenate([edges, random_pairs(graph.n, negatives * m, rng)], axis=1)
    return pairs, np.repeat([1.0, 0.0], [m, negatives * m])


@dataclass(frozen=True)
class PairDesign:
    """The design matrix of pairs over the coefficients of a symmetric H, as an operator: it is never formed.

    The row of (i, j) has z_i[a] z_j[b] + z_i[b] z_j[a] for a < b, and z_i[a] z_j[a] on the diagonal.
    Times coefficients it is z_i H z_j; its transpose times residuals r is Z'RZ with the sparse R of r at (i, j). Both
    cost O(pairs d + n d^2) time and O(pairs d) memory.
    """

    z: Float[ndarray, "n d"]
    pairs: Int[ndarray, "2 pairs"]
    kept: Bool[ndarray, "d d"]
    """upper triangle: the coefficients that may differ from 0"""

    @cached_property
    def places(self) -> tuple[ndarray, ndarray]:
        """(row, column) in H of each coefficient."""
        row, col = np.nonzero(np.triu(self.kept))
        return row, col

    @cached_property
    def rows(self) -> tuple[ndarray, ndarray, ndarray]:
        """The pairs in the order of a sparse matrix, their columns, and where each row starts."""
        order = np.argsort(self.pairs[0] * len(self.z) + self.pairs[1], kind="stable")  # linear where in order
        first, second = self.pairs[:, order]
        return order, second, np.searchsorted(first, np.arange(len(self.z) + 1))

    @property
    def shape(self) -> tuple[int, int]:
        """(pairs, coefficients)."""
        return self.pairs.shape[1], len(self.places[0])

    def matrix(self, coefficients: Float[ndarray, " c"]) -> Float[ndarray, "d d"]:
        """The symmetric H of coefficients."""
        d = self.z.shape[1]
        h = np.zeros((d, d), dtype=self.z.dtype)
        h[self.places] = coefficients
        made: ndarray = h + np.triu(h, 1).T
        return made

    def forward(self, coefficients: Float[ndarray, " c"]) -> Float[ndarray, " pairs"]:
        """z_i H z_j of all pairs."""
        return similarities(self.z @ self.matrix(coefficients), self.z, self.pairs)

    def backward(self, residuals: Float[ndarray, " pairs"]) -> Float[ndarray, " c"]:
        """The transpose: what each coefficient has of the residuals."""
        order, columns, starts = self.rows
        data = residuals.astype(self.z.dtype)[order]
        sparse = csr_array((data, columns, starts), shape=(len(self.z), len(self.z)))
        full = self.z.T @ (sparse @ self.z)
        both = full + full.T
        np.fill_diagonal(both, np.diag(full))
        made: ndarray = both[self.places]
        return made

    def operator(self, weights: Float[ndarray, " c"]) -> LinearOperator:
        """The matrix with each column over a weight, for SciPy's solvers."""
        return LinearOperator(
            self.shape,
            matvec=lambda h: self.forward(h.reshape(-1) / weights),
            rmatvec=lambda r: self.backward(r.reshape(-1)) / weights,
            dtype=np.float64,
        )


def similarities(
    left: Float[ndarray, "n d"], z: Float[ndarray, "n d"], pairs: Int[ndarray, "2 pairs"]
) -> Float[ndarray, " pairs"]:
    """left_i . z_j for each pair, a piece of the pairs at a time."""
    made = np.empty(pairs.shape[1], dtype=z.dtype)
    # pieces that stay in the cache; `take` gathers rows several times as fast as brackets
    for at in range(0, pairs.shape[1], 8192):
        i, j = pairs[:, at : at + 8192]
        np.einsum("pd,pd->p", left.take(i, 0), z.take(j, 0), out=made[at : at + 8192])
    return made


def design_matrix(
    z: Float[ndarray, "n d"], pairs: Int[ndarray, "2 pairs"], kept: Bool[ndarray, "d d"]
) -> Float[ndarray, "pairs c"]:
    """`PairDesign` as the matrix itself, pairs times d (d + 1) / 2 numbers: the obvious form, for tests and timing."""
    row, col = np.nonzero(np.triu(kept))
    left, right = z[pairs[0]], z[pairs[1]]
    made: ndarray = left[:, row] * right[:, col] + left[:, col] * right[:, row]
    made[:, row == col] /= 2
    return made


class CompatibilityMatrix(BaseEstimator):  # type: ignore[misc]
    """A symmetric H with z_i H z_j near 1 on edges and near 0 elsewhere (section 4.1).

    It starts from the upper triangle of ridge regression (`ridge_compatibility`), whose smallest coefficients, that
    together hold a share `drop` of the sum of sizes, are fixed at 0. The others minimise
    sum over edges (z_i H z_j - 1)^2 + sum over random pairs (z_i H z_j)^2 + damp^2 |h - h0|^2.

    Args:
        negatives: random pairs for each edge.
        method: "lsqr" (the paper's), "cg" on the normal equations, "ridge" (the start itself), or "dense" (the matrix
            of pairs formed and solved: the obvious form).
        damp: weight of the penalty.
        tolerance: of lsqr and cg; the paper stops early, at 1e-2.
        drop: share of the start that is fixed at 0.
        start: "triangle" (the paper's: the triangle of a matrix that is not symmetric), or "symmetric" (the mean with
            its transpose).
        towards: "start", that the penalty pulls to the start, as SciPy's lsqr does and so the authors' code; or "zero",
            as the formula of the paper reads.
        penalty: "triangle", each coefficient once; or "frobenius", which counts those off the diagonal twice and does
            not depend on the basis of z.
        two_core, sample: see `training_pairs`.
        seed: of the random pairs.

    Attributes:
        matrix_: (d, d) symmetric.
        n_iter_: steps of the solver.
    """

    def __init__(
        self,
        negatives: int = 2,
        method: Literal["lsqr", "cg", "ridge", "dense"] = "lsqr",
        *,
        damp: float = 1.0,
        tolerance: float = 1e-2,
        max_iterations: int | None = None,
        drop: float = 0.05,
        start: Literal["triangle", "symmetric"] = "triangle",
        towards: Literal["start", "zero"] = "start",
        penalty: Literal["triangle", "frobenius"] = "triangle",
        two_core: bool = True,
        sample: int = LARGEST_SAMPLE,
        seed: int = 0,
    ) -> None:
        for name, value, allowed in (
            ("method", method, ("lsqr", "cg", "ridge", "dense")),
            ("start", start, ("triangle", "symmetric")),
            ("towards", towards, ("start", "zero")),
            ("penalty", penalty, ("triangle", "frobenius")),
        ):
            if value not in allowed:
                raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {value!r}")
        if not damp >= 0 or not tolerance >= 0 or not 0 <= drop < 1:
            raise ValueError(
                f"damp and tolerance must not be negative and drop below 1, got {damp}, {tolerance} and {drop}"
            )
        self.negatives, self.method, self.damp, self.tolerance = negatives, method, damp, tolerance
        self.max_iterations, self.drop, self.start, self.towards = max_iterations, drop, start, towards
        self.penalty, self.two_core, self.sample, self.seed = penalty, two_core, sample, seed

    def fit(self, z: Float[ndarray, "n d"], graph: Any) -> "CompatibilityMatrix":
        """Learn H from the edges of a graph and random pairs.

        Args:
            graph: `AttributedGraph`, `torch_geometric.data.Data`, or integers (2, edges) of either direction.

        Raises:
            ValueError: embeddings of another number of nodes, or not finite; a graph without edges.
        """
        if not isinstance(graph, AttributedGraph):
            graph = AttributedGraph(len(z), as_edges(getattr(graph, "edge_index", graph), len(z)))
        if len(z) != graph.n:
            raise ValueError(f"z must have a row for each of {graph.n} nodes, got {len(z)}")
        pairs, wanted = training_pairs(
            graph, negatives=self.negatives, sample=self.sample, two_core=self.two_core, seed=self.seed
        )
        return self.fit_pairs(z, pairs, wanted, edges=graph.edges)

    def fit_pairs(
        self,
        z: Float[ndarray, "n d"],
        pairs: Int[ndarray, "2 pairs"],
        wanted: Float[ndarray, " pairs"],
        *,
        edges: Int[ndarray, "2 m"],
    ) -> "CompatibilityMatrix":
        """Learn H from given pairs and what z_i H z_j should be for each; `edges`, each once, for the start.

        Raises:
            ValueError: no edges, or embeddings that are not finite.
        """
        if not edges.shape[1]:
            raise ValueError("a graph must have at least one edge, got none")
        if not np.isfinite(z).all():
            raise ValueError("z must be finite, got NaN or an infinite value")
        # the order of target and source, as scikit-learn keeps coefficients and so the authors' code
        h0 = ridge_compatibility(z, edges).T
        if self.start == "symmetric":
            h0 = (h0 + h0.T) / 2
        kept = kept_coefficients(h0, self.drop)
        order = np.argsort(pairs[0] * len(z) + pairs[1])  # neighbours in memory are read together
        pairs, wanted = pairs[:, order], wanted[order]
        design = PairDesign(z, pairs, kept)
        begin = h0[design.places].astype(np.float64)
        if self.method == "ridge":
            self.matrix_, self.n_iter_ = design.matrix(begin), 0
            return self
        off = design.places[0] != design.places[1]
        weights = np.where(off & (self.penalty == "frobenius"), np.sqrt(2.0), 1.0)
        centre = begin * weights if self.towards == "start" else np.zeros_like(begin)
        scaled = self._solve(design, weights, wanted, begin * weights, centre)
        self.matrix_ = design.matrix(scaled / weights)
        return self

    def _solve(self, design: PairDesign, weights: ndarray, wanted: ndarray, begin: ndarray, centre: ndarray) -> ndarray:
        """Minimise |X w^{-1} s - wanted|^2 + damp^2 |s - centre|^2 over s = w h."""
        solved: ndarray
        if self.method == "dense":
            matrix = design_matrix(design.z, design.pairs, design.kept).astype(np.float64) / weights
            augmented = np.concatenate([matrix, self.damp * np.eye(len(weights))])
            solved, self.n_iter_ = np.linalg.lstsq(augmented, np.concatenate([wanted, self.damp * centre]))[0], 1
            return solved
        operator, limit = design.operator(weights), self.max_iterations
        if self.method == "cg":
            square = LinearOperator(
                (len(weights), len(weights)),
                matvec=lambda s: operator.rmatvec(operator.matvec(s)) + self.damp**2 * s.reshape(-1),
                dtype=np.float64,
            )
            steps: list[int] = []
            right = operator.rmatvec(wanted) + self.damp**2 * centre
            options = {"rtol": self.tolerance, "maxiter": limit, "callback": lambda _: steps.append(1)}
            solved, _ = cg(square, right, x0=begin, **options)
            self.n_iter_ = len(steps)
            return solved
        solved, _, self.n_iter_ = lsqr(
            operator, wanted, damp=self.damp, atol=self.tolerance, btol=self.tolerance, iter_lim=limit,
            x0=centre if self.towards == "start" else None,
        )[:3]  # fmt: skip
        return solved

    def transform(self, z: Float[ndarray, "n d"]) -> Float[ndarray, "n d"]:
        """z H: its inner product with z is the adjusted similarity."""
        made: ndarray = z @ self.matrix_.astype(z.dtype)
        return made

    def similarity(self, z: Float[ndarray, "n d"], pairs: Int[ndarray, "2 pairs"]) -> Float[ndarray, " pairs"]:
        """z_i H z_j for each pair."""
        return similarities(self.transform(z), z, pairs)


def kept_coefficients(h0: Float[ndarray, "d d"], drop: float) -> Bool[ndarray, "d d"]:
    """The upper triangle without the smallest coefficients that together hold less than a share `drop` of the sum."""
    triangle = np.triu(np.ones_like(h0, dtype=bool))
    size = np.sort(np.abs(h0[triangle]))
    below = np.flatnonzero(np.cumsum(size) < drop * size.sum())
    if not len(below):
        return triangle
    kept: ndarray = triangle & (np.abs(h0) >= size[below[-1]])
    return kept
