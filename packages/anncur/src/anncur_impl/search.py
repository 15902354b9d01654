"""ANNCUR: nearest neighbours under an expensive scorer, from the scores of a few anchors (sections 2.2 and 2.3)."""

import itertools
import json
import operator
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, SupportsIndex

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

from anncur_impl.cur import (
    DEFAULT_RCOND,
    apply_pinv,
    checked_index,
    choose_ridge,
    kept_rank,
    ridge_inverse,
    truncated_pinv,
)
from anncur_impl.item_index import FlatIndex, HNSWIndex, make_index, top_k
from anncur_impl.metrics import recall_at_k
from anncur_impl.scorer import CountedScorer, MatrixScorer, Scorer

__all__ = ["ANNCUR", "SearchResult", "rank_candidates"]

BLOCK_VALUES = 2**23
"""Numbers in the blocks that are factorised at once."""
SHARES = (0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9)
"""Shares of the budget for anchors that `split="auto"` tries."""


@dataclass(frozen=True)
class SearchResult:
    """What was found for each query."""

    ids: Int[ndarray, "queries k"]
    """items, best first; equal scores by the lower id"""
    scores: Float[ndarray, "queries k"]
    """exact scores"""
    calls: int
    """calls of the scorer for each query"""


class ANNCUR:
    """Search among fixed items with an expensive scorer, at a budget of calls a query.

    `fit` scores anchor queries against all items once. A search scores a query with `k_anchor_items` random items,
    estimates all other scores by one product, scores the most promising of them exactly and returns the best: with the
    anchors exactly `budget` calls. Estimates never enter the result.

    Args:
        scorer: of (queries, items), a score a pair.
        budget: calls a query.
        k_anchor_items: how many of the calls go to anchors; default: by `split`.
        split: `half` of the budget for anchors, or `auto`: what finds most on anchor queries that are kept back.
        method: `pinv` with the cut-off `rcond` (None: NumPy's, as in the authors' code), or `ridge` with a penalty that
            is chosen on anchor queries that are kept back.
        centre: factorise the scores minus their mean; a constant that a scorer adds to all its scores then changes
            nothing. False: equation 3 as the paper has it; the constant is then the largest singular value, and the
            cut-off leaves out what differs between items.
        index: `flat` or `hnsw` (extra).
        dtype: of the item vectors, and of the anchor queries' scores that are kept (half precision: these in single).
        seed: of the draw of anchor items.

    After `fit`: `anchors_`, `rank_` (singular values kept) and `condition_` of the block of anchors, `offset_`.
    """

    def __init__(
        self,
        scorer: Scorer | None = None,
        *,
        budget: int = 200,
        k_anchor_items: int | None = None,
        split: Literal["half", "auto"] = "half",
        method: Literal["pinv", "ridge"] = "pinv",
        rcond: float | None = DEFAULT_RCOND,
        centre: bool = True,
        index: Literal["flat", "hnsw"] = "flat",
        dtype: Literal["float32", "float16"] = "float32",
        batch_size: int = 1024,
        seed: int = 0,
    ) -> None:
        for name, value in (("budget", budget), ("k_anchor_items", k_anchor_items), ("batch_size", batch_size)):
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        for name, given, known in (
            ("split", split, ("half", "auto")),
            ("method", method, ("pinv", "ridge")),
            ("index", index, ("flat", "hnsw")),
            ("dtype", dtype, ("float32", "float16")),
        ):
            if given not in known:
                raise ValueError(f"{name} must be {' or '.join(known)}, got {given!r}")
        if rcond is not None and not 0 <= rcond < 1:
            raise ValueError(f"rcond must be None or from 0 to below 1, got {rcond}")
        if seed < 0:
            raise ValueError(f"seed must not be negative, got {seed}")
        self.scorer = scorer
        self.budget, self.k_anchor_items, self.split = budget, k_anchor_items, split
        self.method, self.rcond, self.centre, self.index, self.dtype = method, rcond, centre, index, dtype
        self.batch_size, self.seed = batch_size, seed
        self.items_: list[Any] | None = None

    # Building ---------------------------------------------------------------------------------------------------------

    def fit(self, anchor_queries: Sequence[Any], items: Sequence[Any]) -> "ANNCUR":
        """Score the anchor queries against all items (that is the cost of the index) and factorise.

        Anchor queries must not be those that are searched for later.

        Raises:
            ValueError: if there are too few queries or items, or the scorer returns nonsense.
        """
        if self.scorer is None:
            raise ValueError("fit needs a scorer; from_matrix takes scores that are at hand")
        for name, given in (("anchor_queries", anchor_queries), ("items", items)):
            if isinstance(given, str):
                raise ValueError(f"{name} must be a list of things to score, got one text, {given[:30]!r}")
        if not len(anchor_queries) or not len(items):
            raise ValueError(f"anchor_queries and items must not be empty, got {len(anchor_queries)} and {len(items)}")
        if self.k_anchor_items is not None and self.k_anchor_items > len(items):
            raise ValueError(
                f"k_anchor_items must be at most the number of items, {len(items)}, got {self.k_anchor_items}"
            )
        counted = CountedScorer(self.scorer, batch_size=self.batch_size)
        rows = counted.matrix(anchor_queries, items)
        self.indexing_calls_ = counted.calls
        return self._factorise(rows, list(items), list(anchor_queries))

    @classmethod
    def from_matrix(
        cls,
        rows: Float[ndarray, "queries items"],
        *,
        scorer: Scorer | None = None,
        items: Sequence[Any] | None = None,
        anchor_queries: Sequence[Any] | None = None,
        **options: Any,
    ) -> "ANNCUR":
        """From the scores of anchor queries that are at hand; items are numbers unless they are given."""
        rows = np.array(rows, dtype=np.float64)
        if rows.ndim != 2 or 0 in rows.shape or not np.isfinite(rows).all():
            raise ValueError(f"rows must be a finite matrix (queries, items), got shape {rows.shape}")
        made = cls(scorer, **options)
        made.indexing_calls_ = 0
        named = list(range(rows.shape[1])) if items is None else list(items)
        if len(named) != rows.shape[1]:
            raise ValueError(f"items must be as many as columns of rows, {rows.shape[1]}, got {len(named)}")
        return made._factorise(rows, named, None if anchor_queries is None else list(anchor_queries))

    def _factorise(self, rows: ndarray, items: list[Any], queries: list[Any] | None) -> "ANNCUR":
        n = len(items)
        if self.k_anchor_items is not None:
            width = self.k_anchor_items
        elif self.split == "auto":
            width = self._best_split(rows)
        else:
            width = max(1, min(self.budget, n) // 2)
        if width > n:
            raise ValueError(f"k_anchor_items must be at most the number of items, {n}, got {width}")
        self.items_, self.queries_ = items, queries
        # double precision beside vectors of half would be eight times their size
        self.rows_ = rows.astype(np.float32) if self.dtype == "float16" and np.abs(rows).max() < 1e30 else rows
        self.anchors_ = np.sort(np.random.default_rng(self.seed).choice(n, width, replace=False))
        self.removed_ = np.zeros(n, dtype=bool)
        self._centre(float(rows.mean()) if self.centre else 0.0)
        block = self._centred(self.rows_[:, self.anchors_])
        if self.method == "ridge":
            self.middle_ = ridge_inverse(block, self.penalty_)
        else:
            self.middle_ = truncated_pinv(block, self.rcond)
        self._index()
        return self

    def _centre(self, offset: float) -> None:
        """Set what follows from the rows, the anchors and the mean alone."""
        self.offset_ = offset
        centred = self._centred(self.rows_)
        self.scale_ = float(np.abs(centred).max()) or 1.0
        values = np.linalg.svd(centred[:, self.anchors_], compute_uv=False)
        self.rank_ = kept_rank(values, self.rcond, (len(self.rows_), len(self.anchors_)))
        self.condition_ = float(values[0] / values[-1]) if values[-1] > 0 else float("inf")
        if self.method == "ridge":
            self.penalty_ = choose_ridge(centred, self.anchors_, seed=self.seed) if len(centred) > 1 else 1e-4

    def _centred(self, scores: ndarray) -> ndarray:
        return scores.astype(np.float64) - self.offset_

    def _vectors(self, rows: ndarray) -> ndarray:
        return (self.middle_ @ self._centred(rows)).astype(np.float32)

    def _index(self) -> None:
        vectors = self._vectors(self.rows_)
        if self.dtype == "float16":
            with np.errstate(over="ignore"):
                half = vectors.astype(np.float16)
            if not np.isfinite(half).all():
                warnings.warn("item vectors exceed half precision; kept in single", stacklevel=3)
            else:
                vectors = half
        self.index_: FlatIndex | HNSWIndex = make_index(self.index, vectors)

    def _best_split(self, rows: ndarray) -> int:
        """The number of anchors that finds most of the best ten of anchor queries that are kept back."""
        n = rows.shape[1]
        if len(rows) < 5:
            return max(1, min(self.budget, n) // 2)
        rng = np.random.default_rng(self.seed)
        order = rng.permutation(len(rows))
        cut = max(1, len(rows) // 5)
        test, train = rows[order[:cut]], rows[order[cut:]]
        depth = min(10, n, self.budget)
        truth = top_k(test, depth)
        found = {}
        for width in dict.fromkeys(max(1, min(n, round(share * self.budget), self.budget - 1)) for share in SHARES):
            made = ANNCUR.from_matrix(
                train, scorer=MatrixScorer(test), budget=self.budget, k_anchor_items=width, method=self.method,
                rcond=self.rcond, centre=self.centre, seed=self.seed,
            )  # fmt: skip
            result = made.search(range(len(test)), k=depth, budget=min(self.budget, n))
            found[width] = recall_at_k(truth, result.ids)
        return max(found, key=lambda width: (found[width], -width))

    # Searching --------------------------------------------------------------------------------------------------------

    def search(
        self, queries: Sequence[Any], k: int = 10, *, budget: int | None = None, rounds: int = 1
    ) -> SearchResult:
        """The best k items of each query, with their exact scores.

        Args:
            budget: calls a query, anchors included; with as many as there are items the search is exhaustive.
            rounds: with more than one, what the budget leaves after the anchors is spent in so many rounds, each of
                which takes all scores so far as anchors and refits the query (ADACUR, a later paper).

        Raises:
            ValueError: an unfitted index, k or a budget that cannot be, or a scorer that returns nonsense.
        """
        items = self._fitted()
        if self.scorer is None:
            raise ValueError("search needs a scorer: give one to from_matrix or set .scorer")
        alive = np.flatnonzero(~self.removed_)
        budget = self.budget if budget is None else budget
        if not 1 <= k <= len(alive):
            raise ValueError(f"k must be from 1 to the number of items, {len(alive)}, got {k}")
        if budget < k:
            raise ValueError(f"budget must be at least k, {k}, got {budget}")
        if rounds < 1:
            raise ValueError(f"rounds must be at least 1, got {rounds}")
        if isinstance(queries, str):
            raise ValueError(f"queries must be a list, got one text, {queries[:30]!r}: search([query])")
        counted = CountedScorer(self.scorer, batch_size=self.batch_size)
        queries = list(queries)
        if not queries:
            return SearchResult(np.empty((0, k), dtype=np.int64), np.empty((0, k)), 0)
        if budget >= len(alive):
            scores = counted.chosen(queries, items, np.broadcast_to(alive, (len(queries), len(alive))))
            return rank_candidates(np.broadcast_to(alive, scores.shape), scores, k, len(alive))
        width = len(self.anchors_)
        if budget <= width:
            raise ValueError(f"budget must be greater than the number of anchor items, {width}, got {budget}")
        gone = int(self.removed_[self.anchors_].sum())
        if budget - gone < k:
            raise ValueError(f"budget must be at least k and the {gone} removed anchors, {k + gone}, got {budget}")
        index = np.broadcast_to(self.anchors_, (len(queries), width))
        exact = counted.chosen(queries, items, index)
        for share in _shares(budget - width, rounds):
            if index.shape[1] == width:
                chosen = self._promising(exact, share)
            else:
                chosen = self._promising_again(index, exact, share)
            scored = counted.chosen(queries, items, chosen)
            index, exact = np.concatenate([index, chosen], axis=1), np.concatenate([exact, scored], axis=1)
        exact = np.where(self.removed_[index], -np.inf, exact)
        return rank_candidates(index, exact, k, index.shape[1])

    def approximate_scores(self, queries: Sequence[Any]) -> Float[ndarray, "queries items"]:
        """Estimates of all scores from those of the anchors (equation 3); not comparable with exact ones."""
        items = self._fitted()
        if self.scorer is None:
            raise ValueError("approximate_scores needs a scorer")
        counted = CountedScorer(self.scorer, batch_size=self.batch_size)
        index = np.broadcast_to(self.anchors_, (len(queries), len(self.anchors_)))
        exact = counted.chosen(list(queries), items, index)
        return self._centred(exact) @ self.index_.vectors.astype(np.float64) + self.offset_

    def _promising(self, exact: ndarray, k: int) -> ndarray:
        out = np.union1d(self.anchors_, np.flatnonzero(self.removed_))
        # vectors have no unit; scores may be of any size that double precision holds
        return self.index_.search(self._centred(exact) / self.scale_, min(k, len(self.removed_) - len(out)), out)

    def _promising_again(self, index: ndarray, exact: ndarray, k: int) -> ndarray:
        """The best estimates of what is not scored yet, each query with its own anchors."""
        chosen = []
        rows, exact = self._centred(self.rows_), self._centred(exact)
        step = max(1, BLOCK_VALUES // (len(rows) * index.shape[1]))
        for start in range(0, len(index), step):
            own = index[start : start + step]
            blocks = rows[:, own].transpose(1, 0, 2)
            penalty = self.penalty_ if self.method == "ridge" else None
            estimate = apply_pinv(exact[start : start + step], blocks, self.rcond, penalty) @ rows
            np.put_along_axis(estimate, own, -np.inf, axis=1)
            estimate[:, self.removed_] = -np.inf
            chosen.append(top_k(estimate, k))
        return np.concatenate(chosen)

    # Changing ---------------------------------------------------------------------------------------------------------

    def add(self, items: Sequence[Any]) -> Int[ndarray, "added"]:
        """Add items: each is scored with the anchor queries; returns their ids. The anchors stay.

        Raises:
            ValueError: if the index is not fitted, or was made from a matrix without queries.
        """
        known = self._fitted()
        if self.scorer is None or self.queries_ is None:
            raise ValueError("add needs the scorer and the anchor queries: fit with them, or give them to from_matrix")
        if not len(items):
            return np.empty(0, dtype=np.int64)
        counted = CountedScorer(self.scorer, batch_size=self.batch_size)
        columns = counted.matrix(self.queries_, items)
        self.indexing_calls_ += counted.calls
        first = len(known)
        self.rows_ = np.concatenate([self.rows_, columns.astype(self.rows_.dtype)], axis=1)
        self.items_ = [*known, *items]
        self.removed_ = np.concatenate([self.removed_, np.zeros(len(items), dtype=bool)])
        vectors = self._vectors(columns)
        if self.index_.vectors.dtype == np.float16 and np.abs(vectors).max() > np.finfo(np.float16).max:
            self._index()
        else:
            self.index_.add(vectors)
        return np.arange(first, first + len(items))

    def remove(self, ids: Sequence[SupportsIndex]) -> None:
        """Items that are not found any more; one that is an anchor goes on serving as that.

        Raises:
            ValueError: if one is not there, or was removed already; then none is removed.
        """
        known = self._fitted()
        removed = self.removed_.copy()
        for i in map(operator.index, ids):
            if not 0 <= i < len(known) or removed[i]:
                raise ValueError(
                    f"there is no item {i} to remove ({len(known)} items, {int(removed.sum())} removed so far)"
                )
            removed[i] = True
        self.removed_ = removed

    # Keeping ----------------------------------------------------------------------------------------------------------

    def save(self, path: Path | str) -> None:
        """Write the index into one .npz file; the scorer is not in it. Items and queries must be text or numbers."""
        items = self._fitted()
        options = {
            "budget": self.budget, "split": self.split, "method": self.method, "rcond": self.rcond,
            "centre": self.centre, "index": self.index, "dtype": self.dtype, "batch_size": self.batch_size,
            "seed": self.seed,
        }  # fmt: skip
        try:
            queries = None if self.queries_ is None else [_packed(query) for query in self.queries_]
            text = json.dumps({"options": options, "items": [_packed(item) for item in items], "queries": queries})
        except TypeError as error:
            raise ValueError(f"items and queries must be text or numbers to be saved: {error}") from error
        path = Path(path)
        temporary = path.with_name(f".{path.name}.part")
        with temporary.open("wb") as file:
            np.savez(
                file, text=np.frombuffer(text.encode(), dtype=np.uint8), rows=self.rows_, middle=self.middle_,
                anchors=self.anchors_, removed=self.removed_, offset=np.array(self.offset_),
            )  # fmt: skip
        temporary.replace(path)

    @classmethod
    def load(cls, path: Path | str, scorer: Scorer | None = None) -> "ANNCUR":
        """Read what `save` wrote; nothing is unpickled.

        Raises:
            ValueError: if the file is none, damaged or incomplete.
        """
        try:
            # opened here: NumPy leaves a damaged file open
            with Path(path).open("rb") as stream, np.load(stream, allow_pickle=False) as file:
                kept = json.loads(file["text"].tobytes().decode())
                rows, middle = file["rows"], file["middle"]
                anchors, removed = file["anchors"], file["removed"]
                offset = float(file["offset"]) if "offset" in file else 0.0
            made = cls(scorer, k_anchor_items=len(anchors), **{"centre": False, **kept["options"]})
            made.items_ = [_unpacked(item) for item in kept["items"]]
            made.queries_ = None if kept["queries"] is None else [_unpacked(query) for query in kept["queries"]]
            n = len(kept["items"])
            if rows.shape[1] != n or removed.shape != (n,) or middle.shape != (len(anchors), len(rows)):
                raise ValueError("its parts do not fit together")
            if made.queries_ is not None and len(made.queries_) != len(rows):
                raise ValueError("its parts do not fit together")
            checked_index("anchors", anchors, n)
            if removed.dtype != bool or not all(np.isfinite(part).all() for part in (rows, middle, offset)):
                raise ValueError("it holds numbers that are none")
        except FileNotFoundError:
            raise
        except Exception as error:
            raise ValueError(f"{path} is not an index of anncur: {error}") from error
        made.rows_, made.middle_, made.anchors_, made.removed_ = rows, middle, anchors, removed
        made.indexing_calls_ = 0
        made._centre(offset)
        made._index()
        return made

    def _fitted(self) -> list[Any]:
        if self.items_ is None:
            raise ValueError("the index is not fitted yet: call fit first")
        return self.items_


TUPLE = "a tuple of"


def _packed(value: Any) -> Any:
    """What JSON can keep, and `_unpacked` makes the same of: tuples stay tuples, NumPy's numbers become Python's."""
    if isinstance(value, tuple):
        return {TUPLE: [_packed(part) for part in value]}
    if isinstance(value, list):
        return [_packed(part) for part in value]
    if isinstance(value, dict):
        return {key: _packed(part) for key, part in value.items()}
    return value.item() if isinstance(value, np.generic) else value


def _unpacked(value: Any) -> Any:
    if isinstance(value, list):
        return [_unpacked(part) for part in value]
    if isinstance(value, dict):
        if set(value) == {TUPLE}:
            return tuple(_unpacked(part) for part in value[TUPLE])
        return {key: _unpacked(part) for key, part in value.items()}
    return value


def rank_candidates(
    ids: Int[ndarray, "queries candidates"], scores: Float[ndarray, "queries candidates"], k: int, calls: int
) -> SearchResult:
    """The k best by exact score, equal ones by the lower id."""
    order = np.lexsort((ids, -scores), axis=1)[:, :k]
    return SearchResult(np.take_along_axis(ids, order, axis=1), np.take_along_axis(scores, order, axis=1), calls)


def _shares(total: int, rounds: int) -> list[int]:
    """`total` in so many parts that differ by one at most; empty ones are left out."""
    edges = [round(i * total / rounds) for i in range(rounds + 1)]
    return [b - a for a, b in itertools.pairwise(edges) if b > a]
