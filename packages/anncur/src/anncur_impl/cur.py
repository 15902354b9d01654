"""CUR decomposition: a matrix from some of its rows and columns (section 2.2, equations 1 to 3)."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

__all__ = [
    "CURDecomposition",
    "apply_pinv",
    "checked_index",
    "choose_ridge",
    "energy",
    "kept_rank",
    "ridge_inverse",
    "truncated_pinv",
]

DEFAULT_RCOND = 1e-2
"""Relative cut-off of singular values: far above rounding, so that a square block of anchors does no harm."""


def truncated_pinv(
    matrix: Float[ndarray, "rows columns"], rcond: float | None = DEFAULT_RCOND
) -> Float[ndarray, "columns rows"]:
    """Pseudo-inverse without the singular values below `rcond` times the largest, in double precision.

    With the default a matrix of rank r is recovered only up to what lies below the cut-off: exactness asks for
    `rcond=None` or one near rounding. With `rcond=None` the cut-off is NumPy's, max(rows, columns) times the rounding
    error, as in the authors' code: the error then peaks where rows and columns are equally many. The default has such a
    peak too where noise is large (half the spread of the scores); `ridge_inverse` has none.

    Raises:
        ValueError: if the matrix is empty or has values that are not finite, or rcond is outside [0, 1).
    """
    matrix = _finite("matrix", matrix)
    if rcond is not None and not 0 <= rcond < 1:
        raise ValueError(f"rcond must be None or from 0 to below 1, got {rcond}")
    left, values, right = np.linalg.svd(matrix, full_matrices=False)
    cut = np.finfo(np.float64).eps * max(matrix.shape) if rcond is None else rcond
    kept = values > cut * values[0] if values[0] > 0 else np.zeros(len(values), dtype=bool)
    return (right[kept].T / values[kept]) @ left[:, kept].T


def apply_pinv(
    scores: Float[ndarray, "batch columns"],
    blocks: Float[ndarray, "batch rows columns"],
    rcond: float | None,
    penalty: float | None = None,
) -> Float[ndarray, "batch rows"]:
    """Each row times the pseudo-inverse of its own block, as `truncated_pinv` makes it, all at once.

    With a `penalty` it is the ridge inverse, as `ridge_inverse` makes it.
    """
    left, values, right = np.linalg.svd(blocks, full_matrices=False)
    largest = values[:, :1]
    if penalty is None:
        cut = np.finfo(np.float64).eps * max(blocks.shape[1:]) if rcond is None else rcond
        kept = (values > cut * largest) & (values > 0)
        inverse = np.where(kept, 1 / np.where(kept, values, 1), 0)
    else:
        shares = values / np.where(largest > 0, largest, 1)
        inverse = np.where(largest > 0, shares / (shares**2 + penalty) / np.where(largest > 0, largest, 1), 0)
    weights = np.einsum("bc,bvc->bv", scores, right) * inverse
    return np.einsum("bv,brv->br", weights, left)


def ridge_inverse(matrix: Float[ndarray, "rows columns"], penalty: float) -> Float[ndarray, "columns rows"]:
    """(AᵀA + λI)⁻¹Aᵀ with λ = `penalty` times the largest squared singular value.

    Raises:
        ValueError: if the penalty is not positive, or the matrix is empty or not finite.
    """
    matrix = _finite("matrix", matrix)
    if not penalty > 0:
        raise ValueError(f"penalty must be positive, got {penalty}")
    left, values, right = np.linalg.svd(matrix, full_matrices=False)
    if values[0] == 0:
        return np.zeros(matrix.shape[::-1])
    shares = values / values[0]  # squares of the values themselves could leave the range of numbers
    return (right.T * (shares / (shares**2 + penalty) / values[0])) @ left.T


def choose_ridge(
    rows: Float[ndarray, "queries items"],
    anchor_items: Int[ndarray, "anchors"],
    *,
    penalties: tuple[float, ...] = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2),
    held_out: float = 0.2,
    seed: int = 0,
) -> float:
    """The penalty with the least squared error on anchor queries that are kept back.

    Raises:
        ValueError: if there are fewer than two queries.
    """
    if len(rows) < 2:
        raise ValueError(f"rows must have at least 2 queries to keep one back, got {len(rows)}")
    order = np.random.default_rng(seed).permutation(len(rows))
    cut = min(max(1, round(held_out * len(rows))), len(rows) - 1)
    test, train = rows[order[:cut]], rows[order[cut:]]
    errors = []
    for penalty in penalties:
        middle = ridge_inverse(train[:, anchor_items], penalty)
        errors.append(float(np.square(test[:, anchor_items] @ middle @ train - test).sum()))
    return penalties[int(np.argmin(errors))]


@dataclass(frozen=True)
class CURDecomposition:
    """M ≈ C U R from the columns C, the rows R, and a small matrix U between them."""

    columns: Float[ndarray, "m anchor_columns"]
    middle: Float[ndarray, "anchor_columns anchor_rows"]
    rows: Float[ndarray, "anchor_rows n"]

    @classmethod
    def fit(
        cls,
        matrix: Float[ndarray, "m n"],
        row_index: Any,
        column_index: Any,
        *,
        method: Literal["pinv", "ridge", "oracle"] = "pinv",
        rcond: float | None = DEFAULT_RCOND,
        penalty: float = 1e-4,
    ) -> "CURDecomposition":
        """Decompose a matrix that is at hand; `pinv` and `ridge` look at the chosen rows and columns only.

        Args:
            row_index: whole numbers, each once, (anchor_rows,).
            column_index: likewise, (anchor_columns,).
            method: `pinv`: U is the pseudo-inverse of the block where rows and columns meet; `ridge`: its ridge
                inverse; `oracle`: U = C⁺ M R⁺, the best there is, which needs the whole matrix.

        Raises:
            ValueError: if an index is out of range or empty, or the matrix is not finite.
        """
        matrix = _finite("matrix", matrix)
        row_index = checked_index("row_index", row_index, matrix.shape[0])
        column_index = checked_index("column_index", column_index, matrix.shape[1])
        columns, rows = matrix[:, column_index], matrix[row_index]
        block = rows[:, column_index]
        if method == "oracle":
            middle = truncated_pinv(columns, None) @ matrix @ truncated_pinv(rows, None)
        elif method == "ridge":
            middle = ridge_inverse(block, penalty)
        elif method == "pinv":
            middle = truncated_pinv(block, rcond)
        else:
            raise ValueError(f"method must be pinv, ridge or oracle, got {method!r}")
        return cls(columns, middle, rows)

    def item_vectors(self) -> Float[ndarray, "anchor_columns n"]:
        """U R: an item's latent vector is a column; a query's is its scores against the anchor columns (equation 2)."""
        return self.middle @ self.rows

    def query_vectors(self) -> Float[ndarray, "m anchor_rows"]:
        """C U: the other way to split the product, for which an item's vector is its scores against anchor queries."""
        return self.columns @ self.middle

    def reconstruct(self) -> Float[ndarray, "m n"]:
        """C U R."""
        return self.columns @ self.item_vectors()

    def relative_error(self, matrix: Float[ndarray, "m n"]) -> float:
        """Frobenius norm of what is missed over that of the matrix; of a matrix of zeros nothing is missed, or all."""
        missed, whole = np.linalg.norm(self.reconstruct() - matrix), np.linalg.norm(matrix)
        return float(missed / whole) if whole else float("inf") if missed else 0.0


def energy(matrix: Float[ndarray, "m n"], ranks: Int[ndarray, "k"]) -> Float[ndarray, "k"]:
    """Share of the squared Frobenius norm in the first singular values, for each number of them (0: nothing).

    Raises:
        ValueError: if the matrix is empty or not finite, or a number is negative.
    """
    ranks = np.asarray(ranks)
    if (ranks < 0).any():
        raise ValueError(f"ranks must not be negative, got {ranks.min()}")
    squares = np.square(np.linalg.svd(_finite("matrix", matrix), compute_uv=False))
    total = np.concatenate([[0.0], np.cumsum(squares) / max(squares.sum(), np.finfo(np.float64).tiny)])
    return total[np.minimum(ranks, len(squares))]


def checked_index(name: str, index: Any, size: int) -> Int[ndarray, "chosen"]:
    """Numbers from 0 to size - 1, each once.

    Raises:
        ValueError: others, or none.
    """
    index = np.asarray(index)
    if index.ndim != 1 or index.dtype.kind not in "iu" or not len(index) or index.min() < 0 or index.max() >= size:
        raise ValueError(f"{name} must hold whole numbers from 0 to {size - 1}, at least one")
    if len(np.unique(index)) < len(index):
        raise ValueError(f"{name} must hold each number once")
    return index


def kept_rank(values: Float[ndarray, "k"], rcond: float | None, shape: tuple[int, int]) -> int:
    """How many singular values `truncated_pinv` keeps."""
    cut = np.finfo(np.float64).eps * max(shape) if rcond is None else rcond
    return int((values > cut * values[0]).sum()) if values[0] > 0 else 0


def _finite(name: str, matrix: ndarray) -> ndarray:
    matrix = np.asarray(matrix, dtype=np.float64)
    if matrix.ndim != 2 or 0 in matrix.shape:
        raise ValueError(f"{name} must have two dimensions and at least one value, got shape {matrix.shape}")
    if not np.isfinite(matrix).all():
        row, column = np.argwhere(~np.isfinite(matrix))[0]
        raise ValueError(f"{name} must be finite, got {matrix[row, column]} at row {row}, column {column}")
    return matrix
