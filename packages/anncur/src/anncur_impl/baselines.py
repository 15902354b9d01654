"""What one would do instead: retrieve by something cheap and re-rank, the paper's other matrix methods, brute force."""

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

from anncur_impl.cur import DEFAULT_RCOND, checked_index, truncated_pinv
from anncur_impl.item_index import top_k
from anncur_impl.scorer import CountedScorer, Scorer
from anncur_impl.search import SearchResult, rank_candidates

__all__ = ["BiEncoderRetriever", "BruteForce", "FixItem", "ItemCUR", "RetrieveRerank", "TfidfRetriever"]


@runtime_checkable
class Retriever(Protocol):
    """Cheap scores of all items."""

    def similarity(self, queries: Sequence[Any]) -> Float[ndarray, "queries items"]:
        """Higher is more promising."""


class TfidfRetriever:
    """Cosine of TF-IDF vectors of words."""

    def __init__(self, items: Sequence[str]) -> None:
        from sklearn.feature_extraction.text import TfidfVectorizer

        if not len(items):
            raise ValueError("items must not be empty")
        # one-letter words count; without any word at all there is nothing to compare
        self.vectorizer = TfidfVectorizer(token_pattern=r"(?u)\b\w+\b", sublinear_tf=True)
        self.items = self.vectorizer.fit_transform(items)

    def similarity(self, queries: Sequence[str]) -> Float[ndarray, "queries items"]:
        """Cosines."""
        return np.asarray((self.vectorizer.transform(queries) @ self.items.T).todense())


class BiEncoderRetriever:
    """Dot products of vectors that an encoder makes of queries and items apart.

    Args:
        encode: of a list of queries or items and which they are ("query", "item"), a vector each.
    """

    def __init__(self, encode: Any, items: Sequence[Any]) -> None:
        self.encode = encode
        self.items = np.asarray(encode(items, "item"), dtype=np.float32)

    def similarity(self, queries: Sequence[Any]) -> Float[ndarray, "queries items"]:
        """Dot products."""
        return np.asarray(self.encode(queries, "query"), dtype=np.float32) @ self.items.T


class _Searcher:
    """Budgets and exact scores, shared by the methods below."""

    def __init__(self, scorer: Scorer, items: Sequence[Any], *, batch_size: int = 1024) -> None:
        if not len(items):
            raise ValueError("items must not be empty")
        self.items = list(items)
        self.counted = CountedScorer(scorer, batch_size=batch_size)

    def _check(self, k: int, budget: int) -> None:
        if not 1 <= k <= len(self.items):
            raise ValueError(f"k must be from 1 to the number of items, {len(self.items)}, got {k}")
        if budget < k:
            raise ValueError(f"budget must be at least k, {k}, got {budget}")

    def _score(self, queries: Sequence[Any], index: Int[ndarray, "queries k"]) -> Float[ndarray, "queries k"]:
        return self.counted.chosen(list(queries), self.items, index)


class RetrieveRerank(_Searcher):
    """The best `budget` items of a retriever, scored exactly."""

    def __init__(self, scorer: Scorer, items: Sequence[Any], retriever: Retriever, *, batch_size: int = 1024) -> None:
        super().__init__(scorer, items, batch_size=batch_size)
        self.retriever = retriever

    def search(self, queries: Sequence[Any], k: int = 10, *, budget: int = 200) -> SearchResult:
        """The best k among them."""
        self._check(k, budget)
        index = top_k(self.retriever.similarity(queries), budget)
        return rank_candidates(index, self._score(queries, index), k, index.shape[1])


class BruteForce(_Searcher):
    """Every item scored: the exact answer."""

    def search(self, queries: Sequence[Any], k: int = 10, *, budget: int | None = None) -> SearchResult:
        """The best k of all; a budget changes nothing."""
        self._check(k, k)
        n = len(self.items)
        index = np.broadcast_to(np.arange(n), (len(queries), n))
        return rank_candidates(index, self._score(queries, index), k, n)


class _Anchored(_Searcher):
    """Methods that describe items by their scores with anchor items: they need the scorer on pairs of items.

    Args:
        anchors: numbers of items, each once; None: drawn with `seed`.
        item_scores: what `score_items` would ask the scorer for, if it is at hand.
    """

    def __init__(
        self,
        scorer: Scorer,
        items: Sequence[Any],
        *,
        k_anchor_items: int,
        anchors: Any = None,
        item_scores: Float[ndarray, "anchors items"] | None = None,
        seed: int = 0,
        batch_size: int = 1024,
    ) -> None:
        super().__init__(scorer, items, batch_size=batch_size)
        if not 1 <= k_anchor_items <= len(items):
            raise ValueError(
                f"k_anchor_items must be from 1 to the number of items, {len(items)}, got {k_anchor_items}"
            )
        if anchors is None:
            anchors = np.sort(np.random.default_rng(seed).choice(len(items), k_anchor_items, replace=False))
        self.anchors = checked_index("anchors", anchors, len(items))
        if len(self.anchors) != k_anchor_items:
            raise ValueError(f"anchors must be {k_anchor_items}, got {len(self.anchors)}")
        if item_scores is None:
            item_scores = self.score_items([items[i] for i in self.anchors])
        if item_scores.shape != (k_anchor_items, len(items)):
            raise ValueError(f"item_scores must be ({k_anchor_items}, {len(items)}), got {item_scores.shape}")
        self.vectors = self._vectors(np.asarray(item_scores, dtype=np.float64))

    def score_items(self, anchors: Sequence[Any]) -> Float[ndarray, "anchors items"]:
        """Scores between anchors and all items."""
        raise NotImplementedError

    def _vectors(self, scores: Float[ndarray, "anchors items"]) -> Float[ndarray, "anchors items"]:
        raise NotImplementedError

    def search(self, queries: Sequence[Any], k: int = 10, *, budget: int = 200) -> SearchResult:
        """Anchors first, then the most promising by the product with the items' vectors."""
        self._check(k, budget)
        width = len(self.anchors)
        if not width < budget:
            raise ValueError(f"budget must be greater than the number of anchor items, {width}, got {budget}")
        anchors = np.broadcast_to(self.anchors, (len(queries), width))
        exact = self._score(queries, anchors)
        estimate = exact @ self.vectors
        estimate[:, self.anchors] = -np.inf
        chosen = top_k(estimate, min(budget, len(self.items)) - width)
        index = np.concatenate([anchors, chosen], axis=1)
        return rank_candidates(index, np.concatenate([exact, self._score(queries, chosen)], axis=1), k, index.shape[1])


class FixItem(_Anchored):
    """An item's vector is its own scores, as a query, with fixed anchor items; no matrix between (fixITEM)."""

    def score_items(self, anchors: Sequence[Any]) -> Float[ndarray, "anchors items"]:
        """Every item as a query, with the anchors."""
        return self.counted.matrix(self.items, anchors).T

    def _vectors(self, scores: Float[ndarray, "anchors items"]) -> Float[ndarray, "anchors items"]:
        return scores


class ItemCUR(_Anchored):
    """CUR with anchor items in place of anchor queries (itemCUR)."""

    def score_items(self, anchors: Sequence[Any]) -> Float[ndarray, "anchors items"]:
        """The anchors as queries, with every item."""
        return self.counted.matrix(anchors, self.items)

    def _vectors(self, scores: Float[ndarray, "anchors items"]) -> Float[ndarray, "anchors items"]:
        return truncated_pinv(scores[:, self.anchors], DEFAULT_RCOND) @ scores
