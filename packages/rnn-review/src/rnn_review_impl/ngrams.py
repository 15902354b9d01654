"""Counting as a baseline: n-gram models of symbols, interpolated over orders by Witten and Bell's rule."""

import numpy as np

from .checks import check_positive

__all__ = ["NGram"]

IdArray = np.ndarray


class NGram:
    """p(symbol | last order - 1 symbols): (c(context, symbol) + t(context) p_shorter) / (c(context) + t(context)).

    c counts and t is how many kinds of symbol followed the context; below the unigrams stands the uniform.

    Args:
        order: symbols looked at, the predicted one included; 1 is the unigram.
        vocabulary: kinds of symbol.
    """

    def __init__(self, order: int, vocabulary: int) -> None:
        check_positive(order=order, vocabulary=vocabulary)
        if order * np.log2(vocabulary + 1) > 62:
            raise ValueError(f"order must be small enough for {vocabulary} symbols in 62 bits, got {order}")
        self.order, self.vocabulary = order, vocabulary
        self.tables: list[tuple[IdArray, ...]] = []

    def _codes(self, ids: IdArray, n: int) -> IdArray:
        """Each n symbols in a row as one number."""
        code = np.zeros(len(ids) - n + 1, dtype=np.int64)
        for k in range(n):
            code = code * self.vocabulary + ids[k : len(ids) - n + 1 + k]
        return code

    def fit(self, ids: IdArray) -> "NGram":
        """Count.

        Raises:
            ValueError: fewer symbols than the order, or ids outside the vocabulary.
        """
        ids = self._checked(ids)
        self.tables = []
        for n in range(1, self.order + 1):
            grams, counts = np.unique(self._codes(ids, n), return_counts=True)
            contexts, first = np.unique(grams // self.vocabulary, return_index=True)
            totals = np.add.reduceat(counts, first)
            kinds = np.diff(np.append(first, len(grams)))
            self.tables.append((grams, counts, contexts, totals, kinds))
        return self

    def nll(self, ids: IdArray) -> float:
        """Negative log-likelihood in nats a symbol, of all symbols that have a full context.

        Raises:
            ValueError: before `fit`, fewer symbols than the order, or ids outside the vocabulary.
        """
        if not self.tables:
            raise ValueError("fit must come before nll")
        ids = self._checked(ids)
        last = ids[self.order - 1 :]
        p = np.full(len(last), 1 / self.vocabulary)
        for n, (grams, counts, contexts, totals, kinds) in enumerate(self.tables, 1):
            codes = self._codes(ids[self.order - n :], n)
            hits = _look_up(codes, grams, counts)
            seen = _look_up(codes // self.vocabulary, contexts, totals)
            variety = _look_up(codes // self.vocabulary, contexts, kinds)
            p = np.where(seen > 0, (hits + variety * p) / np.maximum(seen + variety, 1), p)
        return float(-np.log(p).mean())

    def _checked(self, ids: IdArray) -> IdArray:
        ids = np.asarray(ids, dtype=np.int64)
        if ids.ndim != 1 or len(ids) < self.order:
            raise ValueError(f"ids must be a row of at least {self.order} symbols, got shape {ids.shape}")
        if ids.min() < 0 or ids.max() >= self.vocabulary:
            raise ValueError(f"ids must be from 0 to {self.vocabulary - 1}, got {ids.min()} to {ids.max()}")
        return ids


def _look_up(codes: IdArray, keys: IdArray, values: IdArray) -> IdArray:
    """values[codes], 0 for what is not among the keys (which are sorted)."""
    at = np.minimum(np.searchsorted(keys, codes), len(keys) - 1)
    return np.where(keys[at] == codes, values[at], 0)
