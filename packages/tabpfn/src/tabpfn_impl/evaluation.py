"""Fit, predict and score classifiers on splits of tables."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tabpfn_impl.data import Table
from tabpfn_impl.metrics import Scores, score

__all__ = ["Outcome", "evaluate", "half_splits"]


@dataclass(frozen=True)
class Outcome:
    """One classifier on one split of one table."""

    table: str
    model: str
    split: int
    scores: Scores
    fit_s: float
    predict_s: float


def half_splits(
    y: NDArray[Any], n_splits: int, seed: int, *, train_size: float = 0.5
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """(train, test) positions, stratified, so that every class is in the test part.

    Raises:
        ValueError: a class with one row only.
    """
    from sklearn.model_selection import StratifiedShuffleSplit

    splitter = StratifiedShuffleSplit(n_splits, train_size=train_size, random_state=seed)
    yield from splitter.split(np.zeros(len(y)), y)


def evaluate(
    table: Table,
    models: Mapping[str, Callable[[int], Any]],
    *,
    n_splits: int = 5,
    seed: int = 0,
    splits: Sequence[tuple[NDArray[np.int64], NDArray[np.int64]]] | None = None,
    train_size: float = 0.5,
) -> list[Outcome]:
    """Every model on the same splits; `models` maps a name to a function of a seed that makes a classifier."""
    classes, labels = np.unique(table.y, return_inverse=True)
    if splits is None:
        splits = list(half_splits(labels, n_splits, seed, train_size=train_size))
    outcomes = []
    for i, (train, test) in enumerate(splits):
        X_train, X_test = _rows(table.X, train), _rows(table.X, test)
        for name, make in models.items():
            model = make(seed + i)
            start = time.perf_counter()
            model.fit(X_train, labels[train])
            fitted = time.perf_counter()
            own = model.predict_proba(X_test)
            done = time.perf_counter()
            probabilities = np.zeros((len(test), len(classes)))
            probabilities[:, np.unique(labels[train])] = own
            scores = score(labels[test], probabilities)
            outcomes.append(Outcome(table.name, name, i, scores, fitted - start, done - fitted))
    return outcomes


def _rows(X: Any, index: NDArray[np.int64]) -> Any:
    return X.iloc[index] if hasattr(X, "iloc") else X[index]
