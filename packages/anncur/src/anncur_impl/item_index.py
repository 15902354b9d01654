"""Maximum inner product over item vectors: all of them at once, or by a graph (HNSW) that looks at few."""

from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

__all__ = ["FlatIndex", "HNSWIndex", "top_k"]

CHUNK_BYTES = 64 * 2**20


def top_k(scores: Float[ndarray, "queries n"], k: int) -> Int[ndarray, "queries k"]:
    """Places of the k largest of each row, largest first, the lower place first among equals."""
    k = min(k, scores.shape[1])
    if k == 0:
        return np.empty((len(scores), 0), dtype=np.int64)
    if k >= scores.shape[1]:
        return np.argsort(-scores, axis=1, kind="stable")[:, :k]
    n = scores.shape[1]
    part = np.argpartition(scores, n - k, axis=1)[:, n - k :]
    values = np.take_along_axis(scores, part, axis=1)
    # among equals at the border the partition takes any: take the lowest places instead
    for i in np.flatnonzero(np.count_nonzero(scores >= values.min(axis=1, keepdims=True), axis=1) > k):
        part[i] = np.argsort(-scores[i], kind="stable")[:k]
    part.sort(axis=1)
    order = np.argsort(-np.take_along_axis(scores, part, axis=1), axis=1, kind="stable")
    return np.take_along_axis(part, order, axis=1)


class FlatIndex:
    """Exact search: one matrix product. Vectors in half precision are widened chunk by chunk."""

    def __init__(self, vectors: Float[ndarray, "width n"]) -> None:
        self.vectors = vectors

    def scores(self, queries: Float[ndarray, "queries width"]) -> Float[ndarray, "queries n"]:
        """Approximate scores of all items (equation 3)."""
        queries = queries.astype(np.float32)
        if self.vectors.dtype == np.float32:
            return queries @ self.vectors
        width, n = self.vectors.shape
        step = max(1, CHUNK_BYTES // (4 * width))
        parts = [queries @ self.vectors[:, i : i + step].astype(np.float32) for i in range(0, n, step)]
        return np.concatenate(parts, axis=1)

    def search(
        self, queries: Float[ndarray, "queries width"], k: int, excluded: Int[ndarray, "out"]
    ) -> Int[ndarray, "queries k"]:
        """Places of the k best items of each query, without those that are excluded."""
        step = max(1, 4 * CHUNK_BYTES // (4 * self.vectors.shape[1]))
        found = []
        for start in range(0, len(queries), step):
            scores = self.scores(queries[start : start + step])
            scores[:, excluded] = -np.inf
            found.append(top_k(scores, k))
        return np.concatenate(found) if found else np.empty((0, k), dtype=np.int64)

    def add(self, vectors: Float[ndarray, "width more"]) -> None:
        """More items, behind the others."""
        self.vectors = np.concatenate([self.vectors, vectors.astype(self.vectors.dtype)], axis=1)


class HNSWIndex:
    """Approximate search by hnswlib (extra `hnsw`): sublinear, for millions of items."""

    def __init__(
        self, vectors: Float[ndarray, "width n"], *, links: int = 32, build_width: int = 200, search_width: int = 200
    ) -> None:
        try:
            import hnswlib
        except ImportError as error:
            raise ValueError("index='hnsw' needs hnswlib: install the extra anncur-impl[hnsw]") from error
        width, n = vectors.shape
        self.vectors, self.search_width = vectors, search_width
        self.graph: Any = hnswlib.Index(space="ip", dim=width)
        self.graph.init_index(max_elements=n, M=links, ef_construction=build_width, random_seed=0)
        self.graph.add_items(vectors.T.astype(np.float32), num_threads=1)

    def search(
        self, queries: Float[ndarray, "queries width"], k: int, excluded: Int[ndarray, "out"]
    ) -> Int[ndarray, "queries k"]:
        """Places of about the k best items of each query, without those that are excluded."""
        n = self.vectors.shape[1]
        asked = min(n, k + len(excluded))
        self.graph.set_ef(max(self.search_width, asked))
        try:
            found, _ = self.graph.knn_query(queries.astype(np.float32), k=asked, num_threads=1)
        except RuntimeError:
            # the graph does not reach so many items: all of them, then
            return FlatIndex(self.vectors).search(queries, k, excluded)
        out = np.isin(found, excluded)
        # those that stay, in their order, in front
        order = np.argsort(out, axis=1, kind="stable")
        return np.take_along_axis(found.astype(np.int64), order, axis=1)[:, :k]

    def add(self, vectors: Float[ndarray, "width more"]) -> None:
        """More items, behind the others."""
        self.vectors = np.concatenate([self.vectors, vectors.astype(self.vectors.dtype)], axis=1)
        self.graph.resize_index(self.vectors.shape[1])
        self.graph.add_items(vectors.T.astype(np.float32), num_threads=1)


def make_index(kind: Literal["flat", "hnsw"], vectors: Float[ndarray, "width n"]) -> FlatIndex | HNSWIndex:
    """The index by its name.

    Raises:
        ValueError: if there is no such index.
    """
    if kind == "flat":
        return FlatIndex(vectors)
    if kind == "hnsw":
        return HNSWIndex(vectors)
    raise ValueError(f"index must be flat or hnsw, got {kind!r}")
