"""Common and residual neighbours of many node pairs at once (sections 3 and 4 of the paper).

Two methods give the same result. "merge" walks through N(i) and N(j) of each pair together, in SciPy's compiled loops;
it is several times as fast, and for the CPU only. "search" lays the rows of all pairs side by side as sorted numbers
`pair * n_nodes + neighbour`, and one binary search of the shorter list in the longer finds all common neighbours; it is
the official code's way, in plain torch operations, and runs on a GPU.
Pairs are taken in chunks, so that memory is bounded by `max_entries` gathered neighbours, not by the number of pairs.
"""

from collections.abc import Iterator
from typing import Any, Literal, overload

import numpy as np
import scipy.sparse as sp
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from ncnc_impl.csr import CSR, gather_rows, select_entries

__all__ = [
    "common_neighbors",
    "common_neighbors_naive",
    "overlap_parts",
    "residual_neighbors",
    "residual_neighbors_naive",
    "sample_entries",
    "two_step_neighbors",
]

MAX_ENTRIES = 2**23
Method = Literal["auto", "merge", "search"]


@overload
def common_neighbors(adj: CSR, pairs: Tensor, *, max_entries: int = ..., method: Method = ...) -> CSR: ...
@overload
def common_neighbors(adj: sp.sparray, pairs: Any, *, max_entries: int = ..., method: Method = ...) -> sp.csr_array: ...
def common_neighbors(adj: Any, pairs: Any, *, max_entries: int = MAX_ENTRIES, method: Method = "auto") -> Any:
    """N(i) ∩ N(j) of every pair: row b of the result lists the common neighbours of `pairs[b]`.

    Args:
        adj: adjacency matrix, as `CSR` or as any SciPy sparse matrix (then the result is a `scipy.sparse.csr_array`).
        pairs: (n, 2) node ids.
        max_entries: at most about this many neighbours are gathered at a time (some 40 bytes each at the peak).
        method: "auto" merges on the CPU and searches elsewhere.

    Raises:
        ValueError: if a node id is out of range.
    """
    if not isinstance(adj, CSR):
        found = common_neighbors(
            CSR.from_scipy(adj, pattern=True), torch.as_tensor(pairs).long(), max_entries=max_entries, method=method
        )
        return found.to_scipy()
    _check(adj, pairs)
    chunks = _chunks(adj, pairs, max_entries)
    if _merges(adj, method):
        matrix = _pattern(adj)
        return _stack([_merge_common(matrix, part) for part in chunks], adj.n_cols)
    return _stack([_common(adj, part) for part in chunks], adj.n_cols)


def residual_neighbors(adj: Any, pairs: Any, *, max_entries: int = MAX_ENTRIES) -> tuple[Any, Any]:
    """N(i) \\ N(j) and N(j) \\ N(i) of every pair: what completion may add to the common neighbours (section 5).

    Arguments as for `common_neighbors`.
    """
    if not isinstance(adj, CSR):
        parts = overlap_parts(CSR.from_scipy(adj, pattern=True), torch.as_tensor(pairs).long(), max_entries=max_entries)
        return parts[1].to_scipy(), parts[2].to_scipy()
    _, only_i, only_j = overlap_parts(adj, pairs, max_entries=max_entries)
    return only_i, only_j


def overlap_parts(
    adj: CSR, pairs: Int64[Tensor, "batch 2"], *, max_entries: int = MAX_ENTRIES, method: Method = "auto"
) -> tuple[CSR, CSR, CSR]:
    """Common neighbours, N(i) \\ N(j) and N(j) \\ N(i), found together."""
    _check(adj, pairs)
    chunks = _chunks(adj, pairs, max_entries)
    if _merges(adj, method):
        matrix = _pattern(adj)
        parts = [_merge_parts(matrix, part) for part in chunks]
    else:
        parts = [_parts(adj, part) for part in chunks]
    common, only_i, only_j = ([part[k] for part in parts] for k in range(3))
    return _stack(common, adj.n_cols), _stack(only_i, adj.n_cols), _stack(only_j, adj.n_cols)


def two_step_neighbors(adj: CSR, pairs: Int64[Tensor, "batch 2"], *, max_entries: int = MAX_ENTRIES) -> CSR:
    """N(i) ∩ N2(j), where N2(j) is what two steps from j reach (the support of the squared adjacency matrix).

    A² is never formed: u in N(i) belongs when u and j have a common neighbour.
    """
    _check(adj, pairs)
    near = gather_rows(adj, pairs[:, 0])
    candidates = torch.stack((near.col, pairs[:, 1][near.rows()]), 1)
    return select_entries(near, common_neighbors(adj, candidates, max_entries=max_entries).counts() > 0)


def sample_entries(matrix: CSR, limit: int, *, generator: torch.Generator | None = None) -> CSR:
    """At most `limit` entries a row: longer rows are drawn from with replacement, each draw weighing count / limit.

    Row sums stay the same in expectation; an entry drawn several times carries the sum of its weights.

    Raises:
        ValueError: if limit is not positive.
    """
    if limit < 1:
        raise ValueError(f"limit must be at least 1, got {limit}")
    counts = matrix.counts()
    long = counts > limit
    if not bool(long.any()):
        return matrix
    picked = long.nonzero().squeeze(1)
    width = counts[picked].unsqueeze(1)
    uniform = torch.rand(picked.numel(), limit, generator=generator, device=matrix.device)
    # float32 rounds up to 1 now and then
    drawn = (uniform * width).long().clamp_(max=width - 1) + matrix.rowptr[picked].unsqueeze(1)
    weight = torch.ones(matrix.nnz, device=matrix.device)
    weight[torch.repeat_interleave(long, counts, output_size=matrix.nnz)] = 0.0
    share = (width / limit).expand(-1, limit).reshape(-1)
    weight.index_add_(0, drawn.reshape(-1), share)
    if matrix.value is not None:
        weight = weight * matrix.value
    return select_entries(matrix.with_value(weight), weight != 0)


def common_neighbors_naive(adj: CSR, pairs: Int64[Tensor, "batch 2"]) -> CSR:
    """The same as `common_neighbors`, pair by pair with Python sets: the oracle of the tests."""
    return _from_lists([sorted(a & b) for a, b in _neighbor_sets(adj, pairs)], adj.n_cols)


def residual_neighbors_naive(adj: CSR, pairs: Int64[Tensor, "batch 2"]) -> tuple[CSR, CSR]:
    """The same as `residual_neighbors`, pair by pair with Python sets."""
    sets = list(_neighbor_sets(adj, pairs))
    return (
        _from_lists([sorted(a - b) for a, b in sets], adj.n_cols),
        _from_lists([sorted(b - a) for a, b in sets], adj.n_cols),
    )


def _check(adj: CSR, pairs: Float[Tensor, "..."] | Int64[Tensor, "..."]) -> None:
    if pairs.ndim != 2 or pairs.shape[1] != 2:
        raise ValueError(f"pairs must have shape (n, 2), got {tuple(pairs.shape)}")
    if pairs.numel() and (int(pairs.min()) < 0 or int(pairs.max()) >= adj.n_rows):
        raise ValueError(f"pairs must name nodes 0 to {adj.n_rows - 1}, got ids up to {int(pairs.max())}")


def _chunks(adj: CSR, pairs: Tensor, max_entries: int) -> Iterator[Tensor]:
    """Runs of pairs whose neighbour lists have about `max_entries` entries together (at least one pair each)."""
    if max_entries < 1:
        raise ValueError(f"max_entries must be positive, got {max_entries}")
    sizes = adj.counts()[pairs].sum(1)
    total = int(sizes.sum())
    if total <= max_entries:
        yield pairs
        return
    ends = torch.cumsum(sizes, 0)
    bounds = torch.arange(1, total // max_entries + 1, device=pairs.device) * max_entries
    cuts = torch.unique(torch.searchsorted(ends, bounds, right=True).clamp_(min=1))
    start = 0
    for stop in [*cuts.tolist(), pairs.shape[0]]:
        if stop > start:
            yield pairs[start:stop]
            start = stop


def _merges(adj: CSR, method: Method) -> bool:
    if method == "merge" and adj.device.type != "cpu":
        raise ValueError(f"method merge is for the CPU, the matrix is on {adj.device}")
    return method == "merge" or (method == "auto" and adj.device.type == "cpu")


def _pattern(adj: CSR) -> sp.csr_array:
    """As a SciPy matrix of ones, as small as can be."""
    ones = np.ones(adj.nnz, dtype=np.int8)
    return sp.csr_array((ones, adj.col.numpy(), adj.rowptr.numpy()), shape=(adj.n_rows, adj.n_cols))


def _merge_common(matrix: sp.csr_array, pairs: Tensor) -> CSR:
    i, j = pairs.numpy().T
    return CSR.from_scipy(matrix[i].multiply(matrix[j]), pattern=True)


def _merge_parts(matrix: sp.csr_array, pairs: Tensor) -> tuple[CSR, CSR, CSR]:
    i, j = pairs.numpy().T
    of_i, of_j = matrix[i], matrix[j]
    common = of_i.multiply(of_j)
    # differences of patterns: SciPy leaves out entries that come to zero
    parts = (common, of_i - common, of_j - common)
    first, second, third = (CSR.from_scipy(part, pattern=True) for part in parts)
    return first, second, third


def _keys(rows: CSR) -> Tensor:
    return rows.rows().mul_(rows.n_cols).add_(rows.col)


def _hits(table: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """For each of `wanted` its place in the sorted `table` and whether it is there."""
    if table.numel() == 0:
        return torch.zeros_like(wanted), torch.zeros_like(wanted, dtype=torch.bool)
    # the last entry need not be searched: what is larger than all others lands on it
    at = torch.searchsorted(table[:-1], wanted)
    return at, table[at] == wanted


def _common(adj: CSR, pairs: Tensor) -> CSR:
    first, second = gather_rows(adj, pairs[:, 0]), gather_rows(adj, pairs[:, 1])
    if first.nnz < second.nnz:
        first, second = second, first
    _, hit = _hits(_keys(first), _keys(second))
    return select_entries(second.with_value(None), hit)


def _parts(adj: CSR, pairs: Tensor) -> tuple[CSR, CSR, CSR]:
    of_i, of_j = gather_rows(adj, pairs[:, 0]).with_value(None), gather_rows(adj, pairs[:, 1]).with_value(None)
    swapped = of_i.nnz < of_j.nnz
    longer, shorter = (of_j, of_i) if swapped else (of_i, of_j)
    at, hit = _hits(_keys(longer), _keys(shorter))
    rest = torch.ones(longer.nnz, dtype=torch.bool, device=adj.device)
    rest[at[hit]] = False
    only_longer, only_shorter = select_entries(longer, rest), select_entries(shorter, ~hit)
    only_i, only_j = (only_shorter, only_longer) if swapped else (only_longer, only_shorter)
    return select_entries(shorter, hit), only_i, only_j


def _stack(parts: list[CSR], n_cols: int) -> CSR:
    if len(parts) == 1:
        return parts[0]
    ends = [0]
    for part in parts:
        ends.append(ends[-1] + part.nnz)
    rowptr = torch.cat([parts[0].rowptr[:1], *(p.rowptr[1:] + end for p, end in zip(parts, ends, strict=False))])
    return CSR(rowptr, torch.cat([part.col for part in parts]), n_cols)


def _neighbor_sets(adj: CSR, pairs: Tensor) -> Iterator[tuple[set[int], set[int]]]:
    rowptr, col = adj.rowptr.tolist(), adj.col.tolist()
    for i, j in pairs.tolist():
        yield set(col[rowptr[i] : rowptr[i + 1]]), set(col[rowptr[j] : rowptr[j + 1]])


def _from_lists(lists: list[list[int]], n_cols: int) -> CSR:
    counts = torch.tensor([0, *(len(row) for row in lists)], dtype=torch.int64)
    flat = torch.tensor([u for row in lists for u in row], dtype=torch.int64)
    return CSR(torch.cumsum(counts, 0), flat, n_cols)
