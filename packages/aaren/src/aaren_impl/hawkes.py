"""A multivariate Hawkes process: sequences by Ogata's thinning, and their true likelihood."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

__all__ = ["EventSequence", "Hawkes", "check_sequences", "poisson_nll"]


class EventSequence(NamedTuple):
    """Events of one sequence, times not falling, marks from 0."""

    times: np.ndarray
    marks: np.ndarray


def check_sequences(sequences: Sequence[EventSequence], n_marks: int | None = None) -> None:
    """Refuse what is no set of event sequences.

    Raises:
        ValueError: if there is none, one is empty, times are not finite, negative or go back, or a mark is not known.
    """
    if len(sequences) == 0:
        raise ValueError("sequences must hold at least one sequence, got 0")
    for i, (times, marks) in enumerate(sequences):
        if len(times) == 0 or len(times) != len(marks):
            raise ValueError(
                f"sequence {i} must have at least one event, and a mark for each, got {len(times)} times and "
                f"{len(marks)} marks"
            )
        if not np.isfinite(times).all() or times[0] < 0:
            raise ValueError(f"sequence {i}: times must be finite and not negative")
        if (np.diff(times) < 0).any():
            raise ValueError(
                f"sequence {i}: times must not go back, they do after event {int(np.diff(times).argmin())}"
            )
        if not np.issubdtype(np.asarray(marks).dtype, np.integer):
            raise ValueError(f"sequence {i}: marks must be whole numbers from 0, got {np.asarray(marks).dtype}")
        if (marks < 0).any() or (n_marks is not None and (marks >= n_marks).any()):
            raise ValueError(
                f"sequence {i}: marks must lie in 0 to {n_marks}, exclusive, got {marks.min()} to {marks.max()}"
            )


@dataclass(frozen=True)
class Hawkes:
    """Intensity of mark k: mu_k + sum over past events j of alpha[k][mark_j] exp(-beta (t - t_j)).

    Raises:
        ValueError: if sizes differ, a rate is not positive, or the process explodes.
    """

    mu: tuple[float, ...] = (0.2, 0.1, 0.1)
    alpha: tuple[tuple[float, ...], ...] = ((1.2, 0.2, 0.0), (0.4, 1.0, 0.2), (0.0, 0.4, 1.0))
    beta: float = 2.0

    def __post_init__(self) -> None:
        a = np.asarray(self.alpha)
        if a.shape != (len(self.mu), len(self.mu)):
            raise ValueError(f"alpha must be {len(self.mu)} x {len(self.mu)}, got {a.shape}")
        if self.beta <= 0 or min(self.mu) <= 0 or a.min() < 0:
            raise ValueError("mu and beta must be positive, alpha not negative")
        if (radius := max(abs(np.linalg.eigvals(a / self.beta)))) >= 1:
            raise ValueError(
                f"alpha / beta must have a spectral radius below 1, got {radius:.3f}: the process explodes"
            )

    @property
    def n_marks(self) -> int:
        """K."""
        return len(self.mu)

    def sample(self, n: int, *, seed: int = 0, min_events: int = 50, max_events: int = 200) -> list[EventSequence]:
        """Sequences from time 0, each until its number of events, drawn uniformly, is reached; all side by side.

        Raises:
            ValueError: if a number is not positive or the two bounds are the wrong way round.
        """
        if n < 1 or not 1 <= min_events <= max_events:
            raise ValueError(
                f"n and min_events must be positive and max_events no less, got {n}, {min_events} and {max_events}"
            )
        rng = np.random.default_rng(seed)
        mu, alpha = np.asarray(self.mu), np.asarray(self.alpha)
        wanted = rng.integers(min_events, max_events + 1, n)
        times, marks = np.zeros((n, max_events)), np.zeros((n, max_events), np.int64)
        count, t, excited = np.zeros(n, np.int64), np.zeros(n), np.zeros((n, len(mu)))
        while len(live := np.flatnonzero(count < wanted)):
            # Intensity only falls until the next event: what it is now bounds it
            bound = (mu + excited[live]).sum(1)
            wait = rng.exponential(1 / bound)
            t[live] += wait
            excited[live] *= np.exp(-self.beta * wait)[:, None]
            rate = mu + excited[live]
            share = rng.uniform(size=len(live)) * bound
            happens = share <= rate.sum(1)
            # Given that it is accepted, the draw lies evenly below the total rate: it picks the mark as well
            mark = (share[:, None] > rate.cumsum(1)).sum(1)[happens]
            who = live[happens]
            times[who, count[who]], marks[who, count[who]] = t[who], mark
            excited[who] += alpha[:, mark].T
            count[who] += 1
        return [EventSequence(times[i, :k].copy(), marks[i, :k].copy()) for i, k in enumerate(wanted)]

    def nll(self, sequences: Sequence[EventSequence]) -> float:
        """Mean over events of -log p(time, mark | past), exact."""
        check_sequences(sequences, self.n_marks)
        mu, alpha = np.asarray(self.mu), np.asarray(self.alpha)
        lengths = np.array([len(s.times) for s in sequences])
        excited, before, total = np.zeros((len(sequences), len(mu))), np.zeros(len(sequences)), 0.0
        for i in range(lengths.max()):
            live = np.flatnonzero(lengths > i)
            t, k = (np.array([sequences[int(j)][part][i] for j in live]) for part in (0, 1))
            gap = t - before[live]
            faded = excited[live] * np.exp(-self.beta * gap)[:, None]
            compensator = mu.sum() * gap + (excited[live] - faded).sum(1) / self.beta
            total += float((compensator - np.log((mu + faded)[np.arange(len(live)), k])).sum())
            excited[live], before[live] = faded + alpha[:, k].T, t
        return total / int(lengths.sum())


def poisson_nll(train: Sequence[EventSequence], test: Sequence[EventSequence], n_marks: int) -> float:
    """The trivial model: a constant rate a mark, counted on `train`; mean over events of -log p on `test`."""
    check_sequences(train, n_marks)
    check_sequences(test, n_marks)
    duration = max(sum(s.times[-1] for s in train), 1e-12)
    counts = np.bincount(np.concatenate([s.marks for s in train]), minlength=n_marks) + 0.5
    rate = counts / duration
    n = sum(len(s.times) for s in test)
    logs = sum(np.log(rate[s.marks]).sum() for s in test)
    return float((rate.sum() * sum(s.times[-1] for s in test) - logs) / n)
