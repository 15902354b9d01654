"""The NetInfoF score, 2 to the minus conditional entropy: a lower bound of accuracy (section 4.2)."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int, Shaped
from numpy import ndarray

from netinfof_impl.graphs import stream

__all__ = [
    "PermutationTest",
    "accuracy_of_table",
    "conditional_entropy",
    "contingency_table",
    "expected_agreement",
    "netinfof_score",
    "permutation_test",
    "score_of_table",
]


def contingency_table(x: Any, y: Any) -> Int[ndarray, "cells classes"]:
    """How often each value of x meets each value of y, in sorted order.

    Args:
        x, y: discrete values, (n,).

    Raises:
        ValueError: no values, or not equally many, or a missing one.
    """
    x, y = np.asarray(x), np.asarray(y)
    if x.ndim != 1 or x.shape != y.shape:
        raise ValueError(f"x and y must be lists of one length, got shapes {x.shape} and {y.shape}")
    if len(x) == 0:
        raise ValueError("x and y must hold at least one value, got none")
    for name, values in (("x", x), ("y", y)):
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            raise ValueError(f"{name} must be discrete and finite, got NaN or an infinite value")
    cells, row = np.unique(x, return_inverse=True)
    classes, column = np.unique(y, return_inverse=True)
    counts = np.bincount(row * len(classes) + column, minlength=len(cells) * len(classes))
    return counts.reshape(len(cells), len(classes))


def _joint(table: ndarray) -> ndarray:
    weights = np.asarray(table, dtype=np.float64)
    if weights.ndim != 2 or not weights.size:
        raise ValueError(f"table must be cells by classes, got shape {weights.shape}")
    if not np.isfinite(weights).all() or (weights < 0).any() or not weights.any():
        raise ValueError("table must hold counts or probabilities, at least one of them positive")
    weights = weights / weights.max()  # so that no sum is beyond the largest number
    return weights / weights.sum()


def conditional_entropy(table: Shaped[ndarray, "cells classes"]) -> float:
    """H(Y|X) = - sum p(x, y) log2 p(y|x) in bits; conditional probabilities, not joint ones, in the logarithm.

    Args:
        table: counts or probabilities of x (rows) and y (columns).

    Raises:
        ValueError: a table without a positive entry, or with a negative one.
    """
    return float(_entropies(_joint(table)[None])[0])


def score_of_table(table: Shaped[ndarray, "cells classes"]) -> float:
    """2^{-H(Y|X)}: 1 where x tells y, 1 / K where K equally frequent classes do not depend on x."""
    return float(2.0 ** -conditional_entropy(table))


def expected_agreement(table: Shaped[ndarray, "cells classes"]) -> float:
    """sum_x p(x) sum_y p(y|x)^2, between score and accuracy: how often a guess drawn from p(y|x) is right."""
    joint = _joint(table)
    marginal = joint.sum(1)
    there = marginal > 0
    return float(((joint[there] ** 2).sum(1) / marginal[there]).sum())


def accuracy_of_table(table: Shaped[ndarray, "cells classes"]) -> float:
    """sum_x max_y p(x, y): how often the best guess of y from x is right."""
    return float(_joint(table).max(1).sum())


def netinfof_score(x: Any, y: Any) -> float:
    """2^{-H(Y|X)} of two discrete samples: a lower bound of the accuracy of predicting y from x (theorem 2).

    The bound concerns the table that is measured; for other samples both scatter. The more cells a sample is spread
    over, the higher its score by chance alone: `permutation_test` says what chance gives.

    Raises:
        ValueError: no values, or a missing one.
    """
    return score_of_table(contingency_table(x, y))


@dataclass(frozen=True)
class PermutationTest:
    """A score beside what it would be if y did not depend on x, with cells and classes as frequent as they are."""

    score: float
    p_value: float
    """share of the permutations, the observed one among them, that score at least as high"""
    null_mean: float
    null_high: float
    """the 95 % quantile of the permutations"""
    permutations: int

    @property
    def informative(self) -> bool:
        """Whether the score is beyond what one permutation in a hundred gives."""
        return self.p_value <= 0.01


def permutation_test(
    table: Int[ndarray, "cells classes"], *, permutations: int = 999, seed: int = 0
) -> PermutationTest:
    """Compare a table's score with those of random tables of the same margins, which permuted labels give.

    The tables are drawn directly, cell by cell hypergeometric, so that the cost does not depend on the sample's size.

    Raises:
        ValueError: an empty table, or fewer than one permutation.
    """
    if permutations < 1:
        raise ValueError(f"permutations must be positive, got {permutations}")
    score = score_of_table(table)
    rng = stream(seed, "permutations")
    rows, classes = table.sum(1), table.sum(0)
    left = np.broadcast_to(rows, (permutations, len(rows))).copy()
    drawn = np.empty((permutations, *table.shape), dtype=np.int64)
    for k, count in enumerate(classes[:-1]):
        # the labels of class k fall on the places that earlier classes left
        todo = np.full(permutations, count)
        beyond = left.sum(1)
        for cell in range(len(rows)):
            beyond -= left[:, cell]
            drawn[:, cell, k] = rng.hypergeometric(left[:, cell], beyond, todo)
            todo -= drawn[:, cell, k]
        left -= drawn[:, :, k]
    drawn[:, :, -1] = left
    return against_chance(score, scores_of_tables(drawn))


def against_chance(score: float, null: Float[ndarray, " permutations"]) -> PermutationTest:
    """A score beside those of permutations."""
    p_value = (1 + int((null >= score - 1e-12).sum())) / (1 + len(null))
    return PermutationTest(score, p_value, float(null.mean()), float(np.quantile(null, 0.95)), len(null))


def scores_of_tables(tables: Shaped[ndarray, "draws cells classes"]) -> Float[ndarray, " draws"]:
    """`score_of_table` of many tables of counts."""
    made: ndarray = 2.0 ** -_entropies(tables / tables.sum((1, 2), keepdims=True))
    return made


def _entropies(joint: Float[ndarray, "draws cells classes"]) -> Float[ndarray, " draws"]:
    marginal = joint.sum(2, keepdims=True)
    given = np.divide(joint, marginal, out=np.ones_like(joint), where=joint > 0)
    made: ndarray = -(joint * np.log2(given)).sum((1, 2))
    return made
