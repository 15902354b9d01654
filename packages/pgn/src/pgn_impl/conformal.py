"""Split conformal prediction: intervals from the errors on a part that training has not seen (Vovk et al. 2005)."""

import math

import numpy as np
from jaxtyping import Float

__all__ = ["radius"]


def radius(scores: Float[np.ndarray, "n *shape"], level: float) -> Float[np.ndarray, "*shape"]:
    """How far from the forecast the truth lies with probability `level`, from n absolute errors.

    The ceil((n + 1) level)-th smallest error: where a new error is exchangeable with them, it is at most that with
    probability of at least `level`, and below level + 1 / (n + 1) where no two are equal. Errors of windows that
    overlap, and series that change, are exchangeable only roughly.

    Raises:
        ValueError: if level is not between 0 and 1, or so high that n errors cannot show it.
    """
    if not 0 < level < 1:
        raise ValueError(f"level must be between 0 and 1, got {level}")
    n = len(scores)
    # a little less, so that rounding of the product does not take the next one
    rank = math.ceil((n + 1) * level - 1e-9)
    if rank > n:
        raise ValueError(f"level must be at most n / (n + 1) = {n / (n + 1):.4f} with {n} errors, got {level}")
    return np.partition(scores, rank - 1, axis=0)[rank - 1]
