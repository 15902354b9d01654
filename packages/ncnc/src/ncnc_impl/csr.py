"""Sparse rows: the one sparse format of this package, with the products that message passing and overlaps need.

Products go through `embedding_bag`, which sums rows of a dense matrix without first copying one row per entry: the
(entries x width) gather that bounds the memory of other formulations is never made, forward or backward.
"""

from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import scipy.sparse as sp
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.autograd.function import once_differentiable

__all__ = ["CSR", "gather_rows", "max_rows", "select_entries"]


@dataclass(frozen=True, eq=False)
class CSR:
    """A sparse matrix as compressed rows: the columns of row `r` are `col[rowptr[r]:rowptr[r + 1]]`, ascending.

    Attributes:
        value: one number an entry; None where every entry is 1.
        symmetric: whether the pattern is its own transpose (spares the backward pass a transposition).
    """

    rowptr: Int64[Tensor, "rows_plus_one"]
    col: Int64[Tensor, "entries"]
    n_cols: int
    value: Float[Tensor, "entries"] | None = None
    symmetric: bool = False

    @property
    def n_rows(self) -> int:
        """Number of rows."""
        return self.rowptr.numel() - 1

    @property
    def nnz(self) -> int:
        """Number of entries."""
        return self.col.numel()

    @property
    def device(self) -> torch.device:
        """Where the entries are."""
        return self.col.device

    def counts(self) -> Int64[Tensor, "rows"]:
        """Entries in each row; of an adjacency matrix, the degrees."""
        return self.rowptr.diff()

    def rows(self) -> Int64[Tensor, "entries"]:
        """The row of each entry."""
        return torch.repeat_interleave(
            torch.arange(self.n_rows, device=self.device), self.counts(), output_size=self.nnz
        )

    def row_sums(self) -> Float[Tensor, "rows"]:
        """Sum of the values of each row (float32 where values are not given)."""
        if self.value is None:
            return self.counts().float()
        return torch.zeros(self.n_rows, dtype=self.value.dtype, device=self.device).index_add(
            0, self.rows(), self.value
        )

    def matmul(self, dense: Float[Tensor, "cols width"]) -> Float[Tensor, "rows width"]:
        """The product with a dense matrix; differentiable in the dense matrix and in the values."""
        if dense.shape[0] != self.n_cols:
            raise ValueError(f"dense must have {self.n_cols} rows, one a column of the matrix, got {dense.shape[0]}")
        value = None if self.value is None else self.value.to(dense.dtype)
        return cast(Tensor, _SumRows.apply(dense, value, self.rowptr, self.col, self.symmetric))

    def with_value(self, value: Float[Tensor, "entries"] | None) -> "CSR":
        """The same pattern with other values."""
        return CSR(self.rowptr, self.col, self.n_cols, value, self.symmetric)

    def to(self, device: torch.device | str) -> "CSR":
        """A copy on another device."""
        value = None if self.value is None else self.value.to(device)
        return CSR(self.rowptr.to(device), self.col.to(device), self.n_cols, value, self.symmetric)

    def to_scipy(self) -> sp.csr_array:
        """As a SciPy matrix (ones where there are no values)."""
        data = np.ones(self.nnz, dtype=np.float32) if self.value is None else self.value.detach().cpu().numpy()
        return sp.csr_array((data, self.col.cpu().numpy(), self.rowptr.cpu().numpy()), shape=(self.n_rows, self.n_cols))

    @classmethod
    def from_scipy(cls, matrix: Any, *, pattern: bool = False) -> "CSR":
        """From any SciPy sparse matrix; duplicates are summed and columns sorted.

        Args:
            pattern: forget the values.
        """
        rows = sp.csr_array(matrix)
        if not rows.has_canonical_format:
            rows = rows.copy()
            rows.sum_duplicates()
        value = None if pattern else torch.from_numpy(rows.data.astype(np.float32, copy=False))
        return cls(
            torch.from_numpy(rows.indptr.astype(np.int64)),
            torch.from_numpy(rows.indices.astype(np.int64)),
            int(rows.shape[1]),
            value,
        )

    def to_dense(self) -> Float[Tensor, "rows cols"]:
        """As a dense matrix; for small ones."""
        value = torch.ones(self.nnz, device=self.device) if self.value is None else self.value
        dense = torch.zeros(self.n_rows, self.n_cols, dtype=value.dtype, device=self.device)
        return dense.index_put((self.rows(), self.col), value, accumulate=True)


def gather_rows(matrix: CSR, rows: Int64[Tensor, "picked"]) -> CSR:
    """The rows asked for, in that order, repeats allowed."""
    counts = matrix.counts()[rows]
    rowptr = _offsets(counts)
    entry = _entries_of(matrix, rows, rowptr, counts)
    value = None if matrix.value is None else matrix.value[entry]
    return CSR(rowptr, matrix.col[entry], matrix.n_cols, value)


def _entries_of(matrix: CSR, rows: Tensor, rowptr: Tensor, counts: Tensor) -> Tensor:
    total = int(rowptr[-1])
    shift = torch.repeat_interleave(matrix.rowptr[rows] - rowptr[:-1], counts, output_size=total)
    return shift.add_(torch.arange(total, device=matrix.device))


def select_entries(matrix: CSR, keep: Bool[Tensor, "entries"], *, symmetric: bool = False) -> CSR:
    """Only the entries where `keep` is true.

    Args:
        symmetric: promise that the result's pattern is its own transpose.
    """
    rowptr = _offsets(keep)[matrix.rowptr]
    value = None if matrix.value is None else matrix.value[keep]
    return CSR(rowptr, matrix.col[keep], matrix.n_cols, value, symmetric)


def max_rows(matrix: CSR, dense: Float[Tensor, "cols width"]) -> Float[Tensor, "rows width"]:
    """Largest of `value * dense[col]` over each row's entries, by component; 0 where a row is empty."""
    if matrix.value is None:
        return F.embedding_bag(matrix.col, dense, matrix.rowptr, mode="max", include_last_offset=True)
    messages = dense[matrix.col] * matrix.value.to(dense.dtype).unsqueeze(1)
    index = matrix.rows().unsqueeze(1).expand_as(messages)
    empty = dense.new_zeros(matrix.n_rows, dense.shape[1])
    return empty.scatter_reduce(0, index, messages, "amax", include_self=False)


def _offsets(counts: Tensor) -> Tensor:
    """Where each run starts, and the end of the last: cumulative sums with a leading 0."""
    offsets = torch.zeros(counts.numel() + 1, dtype=torch.int64, device=counts.device)
    torch.cumsum(counts, 0, out=offsets[1:])
    return offsets


def _transpose(rowptr: Tensor, col: Tensor, value: Tensor | None, n_cols: int) -> tuple[Tensor, Tensor, Tensor | None]:
    n_rows = rowptr.numel() - 1
    if col.device.type == "cpu":
        # a counting sort; torch has none, and its comparison sort takes several times as long
        order = sp.csr_array(
            (np.arange(col.numel()), col.numpy(), rowptr.numpy()), shape=(n_rows, n_cols), copy=False
        ).tocsc()
        entry = torch.from_numpy(order.data)
        rows = torch.from_numpy(order.indices.astype(np.int64, copy=False))
        colptr = torch.from_numpy(order.indptr.astype(np.int64, copy=False))
    else:
        entry = torch.argsort(col, stable=True)
        rows = torch.repeat_interleave(torch.arange(n_rows, device=col.device), rowptr.diff())[entry]
        colptr = _offsets(torch.bincount(col, minlength=n_cols))
    return colptr, rows, None if value is None else value[entry]


def _sum_rows(dense: Tensor, value: Tensor | None, rowptr: Tensor, col: Tensor) -> Tensor:
    if col.numel() == 0:
        return dense.new_zeros(rowptr.numel() - 1, dense.shape[1])
    return F.embedding_bag(col, dense, rowptr, mode="sum", per_sample_weights=value, include_last_offset=True)


class _SumRows(torch.autograd.Function):
    """Sparse times dense; the gradient is the transposed product, also without an (entries x width) gather."""

    @staticmethod
    def forward(ctx: Any, dense: Tensor, value: Tensor | None, rowptr: Tensor, col: Tensor, symmetric: bool) -> Tensor:
        ctx.save_for_backward(dense, value, rowptr, col)
        ctx.symmetric = symmetric
        return _sum_rows(dense.detach(), None if value is None else value.detach(), rowptr, col)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        dense, value, rowptr, col = ctx.saved_tensors
        grad = grad.contiguous()
        grad_dense = grad_value = None
        if ctx.needs_input_grad[0]:
            if ctx.symmetric and value is None:
                grad_dense = _sum_rows(grad, None, rowptr, col)
            else:
                colptr, rows, transposed = _transpose(rowptr, col, value, dense.shape[0])
                grad_dense = _sum_rows(grad, transposed, colptr, rows)
        if value is not None and ctx.needs_input_grad[1]:
            rows = torch.repeat_interleave(torch.arange(rowptr.numel() - 1, device=col.device), rowptr.diff())
            grad_value = torch.empty_like(value)
            step = max(1, 2**24 // max(1, dense.shape[1]))
            for start in range(0, col.numel(), step):
                part = slice(start, start + step)
                grad_value[part] = (grad[rows[part]] * dense[col[part]]).sum(1)
        return grad_dense, grad_value, None, None, None
