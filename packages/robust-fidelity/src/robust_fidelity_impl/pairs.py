"""Edges as units: both directions of an undirected edge share their fate (section 4)."""

import torch
from jaxtyping import Bool, Int, Shaped
from torch import Tensor

__all__ = ["edge_units", "explanation_units"]


def edge_units(edge_index: Int[Tensor, "2 edges"]) -> tuple[Int[Tensor, "edges"], int]:
    """The number of each edge's unit, and how many units there are.

    Both directions of an edge have one number. A loop, and an edge in one direction only, is a unit of its own.

    Raises:
        ValueError: if a node's number is negative.
    """
    if edge_index.numel() == 0:
        return torch.zeros(0, dtype=torch.int64, device=edge_index.device), 0
    if int(edge_index.min()) < 0:
        raise ValueError(f"edge_index must not be negative, got {int(edge_index.min())}")
    low, high = edge_index.min(0).values, edge_index.max(0).values
    units, ids = torch.unique(low * (high.max() + 1) + high, return_inverse=True)
    return ids, len(units)


def explanation_units(
    mask: Shaped[Tensor, "mask"],
    ids: Int[Tensor, "edges"],
    n_units: int,
    *,
    threshold: float | None = None,
    top_k: int | None = None,
    symmetrise: str | None = None,
    among: Bool[Tensor, "units"] | None = None,
) -> Bool[Tensor, "units"]:
    """The explanation as a set of units, from a mask over directed edges.

    Args:
        mask: zeros and ones, or weights; then `threshold` (weight at or above it) or `top_k` (so many units with the
            largest weights, ties by the lower number) must say what belongs to it, as scores move with that.
        among: the units that `top_k` chooses from (of a node: its computation graph); default: all.
        symmetrise: "mean" or "max" of both directions; without it the directions of a mask must agree.

    Raises:
        ValueError: another length, values that are not finite, weights without a rule, or directions that differ.
    """
    if mask.shape != ids.shape:
        raise ValueError(
            f"edge_mask must have one value for each of the {len(ids)} edges, got shape {tuple(mask.shape)}"
        )
    values = mask.detach().to(torch.float64).to(ids.device)
    if not torch.isfinite(values).all():
        raise ValueError(f"edge_mask must be finite, got {float(values[~torch.isfinite(values)][0])}")
    if threshold is not None and top_k is not None:
        raise ValueError("give threshold or top_k, not both")
    if symmetrise not in (None, "mean", "max"):
        raise ValueError(f"symmetrise must be 'mean' or 'max', got {symmetrise!r}")
    low = torch.full((n_units,), torch.inf, dtype=torch.float64, device=ids.device).scatter_reduce(
        0, ids, values, "amin"
    )
    high = torch.full_like(low, -torch.inf).scatter_reduce(0, ids, values, "amax")
    if symmetrise is None:
        if (high - low > 1e-6).any():
            raise ValueError("edge_mask differs between the directions of an edge: give symmetrise='mean' or 'max'")
        weights = high
    elif symmetrise == "max":
        weights = high
    else:
        weights = torch.zeros_like(low).scatter_reduce(0, ids, values, "mean", include_self=False)
    if threshold is not None:
        return weights >= threshold
    if top_k is not None:
        most = n_units if among is None else int(among.sum())
        if not 0 <= top_k <= most:
            raise ValueError(f"top_k must be from 0 to the number of undirected edges, {most}, got {top_k}")
        chosen = torch.zeros(n_units, dtype=torch.bool, device=ids.device)
        ranked = weights if among is None else weights.masked_fill(~among, -torch.inf)
        chosen[torch.argsort(-ranked, stable=True)[:top_k]] = True
        return chosen
    if ((weights != 0) & (weights != 1)).any():
        raise ValueError("edge_mask holds weights, not zeros and ones: give threshold or top_k")
    return weights == 1
