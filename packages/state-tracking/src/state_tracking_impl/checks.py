"""What an argument must be, said once."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = [
    "Number",
    "check_beta",
    "check_eig_range",
    "check_keys",
    "check_positive",
    "check_sequence",
    "check_state",
    "check_token_ids",
    "single",
]

Number = float | int

SLACK = 1e-3
"""by how much |k|^2 may exceed 1: rounding of a normalised key (bfloat16 leaves more, and is refused near beta = 2)"""


def check_eig_range(eig_range: Sequence[Number]) -> tuple[float, float]:
    """The range as a pair of floats.

    Raises:
        ValueError: unless it is (lo, hi) with -1 <= lo < hi <= 1.
    """
    try:
        lo, hi = (float(value) for value in eig_range)
    except (TypeError, ValueError):
        raise ValueError(f"eig_range must be a pair of numbers (lo, hi), got {eig_range!r}") from None
    if not -1 <= lo < hi <= 1:
        raise ValueError(f"eig_range must be (lo, hi) with -1 <= lo < hi <= 1, got ({lo:g}, {hi:g})")
    return lo, hi


def check_positive(**sizes: int) -> None:
    """Raises ValueError for the first size that is not at least 1."""
    for name, size in sizes.items():
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise ValueError(f"{name} must be an integer of at least 1, got {size!r}")


def check_sequence(x: Tensor, features: int) -> None:
    """Raises ValueError unless x is floating and (batch, length of at least 1, features)."""
    if x.dim() != 3 or x.shape[2] != features:
        raise ValueError(f"x must have shape (batch, length, {features}), got {tuple(x.shape)}")
    if not x.is_floating_point():
        raise ValueError(f"x must be floating, got {x.dtype}")
    if x.shape[1] == 0:
        raise ValueError("x must hold at least one token, got length 0")


def single(x: Tensor) -> Tensor:
    """Half precision as float32, anything else as it is."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def check_state(state: Tensor | None, shape: Sequence[int]) -> None:
    """Raises ValueError for a state of another shape: one of batch 1, say, would be read for all sequences."""
    if state is not None and tuple(state.shape) != tuple(shape):
        raise ValueError(f"the state must have shape {tuple(shape)}, got {tuple(state.shape)}")


def check_beta(beta: Tensor) -> None:
    """Raises ValueError unless every step size is in [0, 2] (NaN is not)."""
    if beta.numel() and not bool(((beta >= 0) & (beta <= 2)).all()):
        low, high = beta.min().item(), beta.max().item()
        what = "NaN" if math.isnan(low) or math.isnan(high) else f"values from {low:g} to {high:g}"
        raise ValueError(f"beta must be in [0, 2], got {what}")


def check_keys(k: Tensor, beta: Tensor) -> None:
    """Raises ValueError if a key makes I - beta k k^T expand: beta |k|^2 above 2, or a key that is not finite."""
    strength = beta * k.float().square().sum(-1)
    if strength.numel() and not bool((strength <= 2 * (1 + SLACK)).all()):
        norm = k.float().norm(dim=-1).max().item()
        raise ValueError(
            "k must be normalised: beta * |k|^2 must be at most 2, or the state grows without bound; "
            f"got keys of norm up to {norm:.4g} (normalize=True divides by it)"
        )


def check_token_ids(ids: Tensor, vocab_size: int, name: str = "input_ids") -> None:
    """Raises ValueError unless ids are integers within the vocabulary, (batch, length of at least 1)."""
    if ids.dim() != 2:
        raise ValueError(f"{name} must have shape (batch, length), got {tuple(ids.shape)}")
    if ids.is_floating_point() or ids.dtype == torch.bool:
        raise ValueError(f"{name} must be integers, got {ids.dtype}")
    if ids.numel() == 0:
        raise ValueError(f"{name} must hold at least one token, got shape {tuple(ids.shape)}")
    low, high = int(ids.min()), int(ids.max())
    if low < 0 or high >= vocab_size:
        raise ValueError(f"{name} must be within 0 and {vocab_size - 1}, got {low if low < 0 else high}")
