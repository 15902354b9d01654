"""Distributions over the hyper-parameters of the prior (paper, appendix C; each value has a distribution whose own
parameters are drawn first).

All draw `size` values at once from a numpy generator, one outer draw a value.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

__all__ = [
    "MetaBeta",
    "MetaChoice",
    "MetaGamma",
    "MetaTruncatedNormal",
    "UniformInt",
    "softmax_choice",
    "truncated_normal",
]


@dataclass(frozen=True)
class MetaGamma:
    """lower_bound + round(Gamma(shape e^a, scale s / e^a)) with a ~ U(0, ln max_alpha) and s ~ U(0, max_scale).

    The mean of the Gamma is s whatever a is: a says how peaked it is.
    """

    max_alpha: float
    max_scale: float
    lower_bound: int

    def sample(self, rng: np.random.Generator, size: int) -> NDArray[np.int64]:
        shape = np.exp(rng.uniform(0.0, math.log(self.max_alpha), size))
        scale = rng.uniform(0.0, self.max_scale, size)
        return self.lower_bound + np.rint(rng.gamma(shape, scale / shape)).astype(np.int64)


@dataclass(frozen=True)
class MetaBeta:
    """scale * Beta(b, k) with b, k ~ U(low, high)."""

    scale: float
    low: float
    high: float

    def sample(self, rng: np.random.Generator, size: int) -> NDArray[np.float64]:
        b, k = rng.uniform(self.low, self.high, (2, size))
        return self.scale * rng.beta(b, k)


@dataclass(frozen=True)
class MetaTruncatedNormal:
    """Normal(m, m s) cut off below 0, with ln m ~ U(ln min_mean, ln max_mean) and ln s ~ U(ln min_std, ln max_std)."""

    min_mean: float
    max_mean: float
    min_std: float = 0.01
    max_std: float = 1.0

    def sample(self, rng: np.random.Generator, size: int) -> NDArray[np.float64]:
        mean = np.exp(rng.uniform(math.log(self.min_mean), math.log(self.max_mean), size))
        std = mean * np.exp(rng.uniform(math.log(self.min_std), math.log(self.max_std), size))
        return truncated_normal(rng, mean, std)


@dataclass(frozen=True)
class MetaChoice:
    """One of `values`, with probabilities softmax([1, U(low, high), ...]): the first is the reference."""

    values: Sequence[Any] = (True, False)
    low: float = -3.0
    high: float = 5.0

    def sample(self, rng: np.random.Generator, size: int) -> NDArray[Any]:
        logits = np.concatenate(
            [np.ones((size, 1)), rng.uniform(self.low, self.high, (size, len(self.values) - 1))], axis=1
        )
        return np.asarray(self.values)[softmax_choice(rng, logits)]


@dataclass(frozen=True)
class UniformInt:
    """round(U(low, high)): the two ends have half the probability of the others."""

    low: int
    high: int

    def sample(self, rng: np.random.Generator, size: int) -> NDArray[np.int64]:
        return np.rint(rng.uniform(self.low, self.high, size)).astype(np.int64)


def softmax_choice(rng: np.random.Generator, logits: NDArray[np.float64]) -> NDArray[np.int64]:
    """Indices drawn with probabilities softmax(logits), one a row (by the Gumbel maximum)."""
    return np.argmax(logits + rng.gumbel(size=logits.shape), axis=1)


def truncated_normal(
    rng: np.random.Generator, mean: NDArray[np.float64], std: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Normal(mean, std) given that it is positive, by inversion of the distribution function."""
    below = ndtr(-mean / std)
    u = below + (1.0 - below) * rng.uniform(size=np.shape(mean))
    # u can round to 1, where the inverse is infinite
    return np.maximum(mean + std * ndtri(np.minimum(u, 1.0 - 1e-12)), 0.0)
