"""How much of the exact answer is found (section 3)."""

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

__all__ = ["exact_top_k", "recall_at_k"]


def exact_top_k(scores: Float[ndarray, "queries items"], k: int) -> Int[ndarray, "queries k"]:
    """The exact answer: the k best items, equal ones by the lower id."""
    if not 1 <= k <= scores.shape[1]:
        raise ValueError(f"k must be from 1 to the number of items, {scores.shape[1]}, got {k}")
    if np.isnan(scores).any():
        raise ValueError("scores must not hold NaN")
    return np.argsort(-scores, axis=1, kind="stable")[:, :k]


def recall_at_k(truth: Int[ndarray, "queries k"], found: Int[ndarray, "queries any"]) -> float:
    """Share of the exact k best that is among those found, mean over queries (Top-k-Recall).

    Raises:
        ValueError: if there are no queries, or they are not equally many.
    """
    if not len(truth) or len(truth) != len(found):
        raise ValueError(
            f"truth and found must have equally many queries, at least one, got {len(truth)} and {len(found)}"
        )
    return float(np.mean([np.isin(t, f).mean() for t, f in zip(truth, found, strict=True)]))
