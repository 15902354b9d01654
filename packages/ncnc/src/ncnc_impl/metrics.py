"""Ranking metrics with the Open Graph Benchmark's handling of ties."""

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["auc", "hits_at_k", "mrr"]


def hits_at_k(positive: Float[Tensor, "positives"], negative: Float[Tensor, "negatives"], k: int) -> float:
    """Share of positives that score strictly above the k-th highest negative; 1 where there are fewer than k.

    Raises:
        ValueError: if k is not positive, there is no positive, or a score is NaN.
    """
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    _check(positive, negative)
    if negative.numel() < k:
        return 1.0
    threshold = torch.topk(negative, k).values[-1]
    return (positive > threshold).double().mean().item()


def mrr(positive: Float[Tensor, "positives"], negative: Float[Tensor, "positives negatives"]) -> float:
    """Mean reciprocal rank of each positive among its own negatives; a tie counts half a place.

    Raises:
        ValueError: if there is no positive, or a score is NaN.
    """
    _check(positive, negative)
    own = positive.unsqueeze(1)
    above = (negative > own).sum(1).double()
    not_below = (negative >= own).sum(1).double()
    rank = (above + not_below) / 2 + 1
    return (1 / rank).mean().item()


def auc(positive: Float[Tensor, "positives"], negative: Float[Tensor, "negatives"]) -> float:
    """Probability that a positive scores above a negative, ties counting half.

    Raises:
        ValueError: if either side is empty, or a score is NaN.
    """
    _check(positive, negative)
    if negative.numel() == 0:
        raise ValueError("auc needs at least one negative")
    ordered = negative.sort().values
    below = torch.searchsorted(ordered, positive).double()
    not_above = torch.searchsorted(ordered, positive, right=True).double()
    return ((below + not_above) / 2).mean().item() / negative.numel()


def _check(positive: Tensor, negative: Tensor) -> None:
    if positive.numel() == 0:
        raise ValueError("there are no positive scores")
    if bool(positive.isnan().any()) or bool(negative.isnan().any()):
        raise ValueError("scores must not be NaN")
