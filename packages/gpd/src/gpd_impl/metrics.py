"""How good samples are: errors of their mean and median, CRPS, and how often an interval holds the truth."""

import numpy as np
from jaxtyping import Float

__all__ = ["coverage", "crps", "crps_by_pairs", "mae", "mse", "scores"]

Samples = Float[np.ndarray, "samples *shape"]
Truth = Float[np.ndarray, "*shape"]


def mse(samples: Samples, truth: Truth) -> float:
    """Mean squared error of the samples' mean."""
    return float(np.mean((samples.mean(0) - truth) ** 2))


def mae(samples: Samples, truth: Truth) -> float:
    """Mean absolute error of the samples' median."""
    return float(np.mean(np.abs(np.median(samples, axis=0) - truth)))


def crps(samples: Samples, truth: Truth) -> float:
    """Continuous ranked probability score of the samples' distribution: mean |X - y| - mean |X - X'| / 2.

    All pairs come from one sort; of a single sample it is the absolute error.
    """
    m = len(samples)
    weights = (2 * np.arange(1, m + 1) - m - 1).reshape(-1, *[1] * truth.ndim)
    spread = (np.sort(samples, axis=0) * weights).sum(0) / m**2
    return float(np.mean(np.abs(samples - truth).mean(0) - spread))


def crps_by_pairs(samples: Samples, truth: Truth) -> float:
    """The same, pair by pair: the obvious form."""
    pairs = np.abs(samples[:, None] - samples[None]).mean((0, 1))
    return float(np.mean(np.abs(samples - truth).mean(0) - pairs / 2))


def coverage(samples: Samples, truth: Truth, level: float = 0.8) -> float:
    """Share of the truth within the central interval of the samples."""
    if not 0 < level < 1:
        raise ValueError(f"level must be between 0 and 1, got {level}")
    low, high = np.quantile(samples, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return float(np.mean((low <= truth) & (truth <= high)))


def scores(samples: Samples, truth: Truth) -> dict[str, float]:
    """All of them; the 80 % interval."""
    return {
        "mse": mse(samples, truth), "mae": mae(samples, truth), "crps": crps(samples, truth),
        "coverage": coverage(samples, truth),
    }  # fmt: skip
