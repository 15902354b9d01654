"""Judging the judges: do measures rank damaged explanations as their distance from the truth does (section 5)?"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy import ndarray
from scipy.stats import spearmanr
from torch import Tensor

from robust_fidelity_impl.measures import Scores, score_explanations
from robust_fidelity_impl.probe import Probe

__all__ = [
    "Grid",
    "SizeMatched",
    "Subject",
    "agreement",
    "meta_evaluate",
    "perturb_explanation",
    "size_matched_curve",
    "size_matched_delta",
    "swap_explanation",
]

LEVELS = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9)
MEASURES = ("plus", "minus", "delta", "plus_acc", "minus_acc", "delta_acc")
GOLD = ("distance", "auc", "iou")


@dataclass(frozen=True)
class Subject:
    """A graph (or node) under a classifier, with the true explanation and the label."""

    probe: Probe
    truth: Bool[Tensor, "units"]
    label: int

    @property
    def others(self) -> Bool[Tensor, "units"]:
        """The edges beside the truth."""
        return self.probe.domain & ~self.truth


def perturb_explanation(
    truth: Bool[Tensor, "units"],
    others: Bool[Tensor, "units"],
    removed: float,
    added: float,
    n: int,
    generator: torch.Generator,
) -> Bool[Tensor, "n units"]:
    """Drop each edge of the truth with probability `removed`, and add so many others, in the mean, as `added` times the
    truth's edges: each with probability min(1, added |S*| / |C|).

    Raises:
        ValueError: shares that are negative, `removed` above 1, or truth and others that overlap.
    """
    if not 0 <= removed <= 1 or added < 0:
        raise ValueError(f"removed must be from 0 to 1 and added at least 0, got {removed} and {added}")
    if (truth & others).any():
        raise ValueError("an edge cannot be in the truth and among the others")
    chance = min(1.0, added * int(truth.sum()) / max(1, int(others.sum())))
    draw = torch.rand(n, len(truth), generator=generator)
    return (truth & (draw >= removed)) | (others & (draw < chance))


def swap_explanation(
    truth: Bool[Tensor, "units"], others: Bool[Tensor, "units"], swapped: int, n: int, generator: torch.Generator
) -> Bool[Tensor, "n units"]:
    """Exchange `swapped` edges of the truth for as many others: the size stays.

    Raises:
        ValueError: if there are not so many on either side.
    """
    most = min(int(truth.sum()), int(others.sum()))
    if not 0 <= swapped <= most:
        raise ValueError(f"swapped must be from 0 to {most}, got {swapped}")
    draw = torch.rand(n, len(truth), generator=generator)
    out = _smallest(draw, truth, swapped)
    return (truth & ~out) | _smallest(draw, others, swapped)


def _smallest(draw: Tensor, among: Tensor, k: int) -> Tensor:
    """k of the edges `among`, in each row those with the smallest numbers."""
    chosen = torch.zeros_like(draw, dtype=torch.bool)
    if k:
        chosen.scatter_(1, draw.masked_fill(~among, 2.0).argsort(1)[:, :k], True)
    return chosen


@dataclass(frozen=True)
class Grid:
    """Cell means over subjects and draws: rows are shares removed, columns shares added."""

    levels: tuple[float, ...]
    values: dict[str, Float[ndarray, "levels levels"]]
    """measures of fidelity, and distance, auc, iou of the damaged explanations"""

    def spearman(self, measure: str, gold: Literal["distance", "auc", "iou"] = "distance") -> float:
        """Rank correlation over the cells; NaN where all cells of one are equal."""
        return agreement(self.values[measure].ravel(), self.values[gold].ravel())

    def column_spearman(self, measure: str) -> float:
        """Mean over columns (equal shares added) of the correlation with the distance."""
        pairs = zip(self.values[measure].T, self.values["distance"].T, strict=True)
        found = np.array([agreement(a, b) for a, b in pairs])
        return float(np.nanmean(found)) if np.isfinite(found).any() else float("nan")


def agreement(values: Float[ndarray, "n"], gold: Float[ndarray, "n"]) -> float:
    """Spearman's rank correlation; NaN where one side does not vary."""
    if np.ptp(values) < 1e-12 or np.ptp(gold) < 1e-12:
        return float("nan")
    return float(spearmanr(values, gold).statistic)


def meta_evaluate(
    subjects: Sequence[Subject], *, levels: Sequence[float] = LEVELS, draws: int = 10, seed: int = 0, **options: Any
) -> Grid:
    """Score families of damaged explanations of all subjects.

    Args:
        levels: shares removed and added.
        draws: damaged explanations a cell and subject.
        options: of `score_explanations`: alphas, samples.

    Raises:
        ValueError: without subjects, or with a truth that is empty.
    """
    _check(subjects)
    names = (*MEASURES, *GOLD)
    total = {name: np.zeros((len(levels), len(levels))) for name in names}
    for number, subject in enumerate(subjects):
        generator = torch.Generator().manual_seed(seed * 1_000_003 + number)
        family = [
            perturb_explanation(subject.truth, subject.others, removed, added, draws, generator)
            for removed in levels
            for added in levels
        ]
        found = _score(subject, torch.cat(family), seed, options)
        for name in names:
            total[name] += found[name].reshape(len(levels), len(levels), draws).mean(-1).numpy()
    return Grid(tuple(levels), {name: value / len(subjects) for name, value in total.items()})


def size_matched_curve(
    subjects: Sequence[Subject], *, draws: int = 10, seed: int = 0, **options: Any
) -> dict[str, Float[ndarray, "swaps"]]:
    """Means over explanations of the truth's size with 0, 1, 2, ... of its edges exchanged, which alone are comparable.

    Subjects differ in size: a mean at s swaps is over those that have so many edges to swap.
    """
    _check(subjects)
    most = max(min(int(s.truth.sum()), int(s.others.sum())) for s in subjects)
    sums = {name: np.zeros(most + 1) for name in (*MEASURES, *GOLD)}
    counts = np.zeros(most + 1)
    for number, subject in enumerate(subjects):
        generator = torch.Generator().manual_seed(seed * 1_000_003 + number)
        own = min(int(subject.truth.sum()), int(subject.others.sum()))
        family = [swap_explanation(subject.truth, subject.others, s, draws, generator) for s in range(own + 1)]
        found = _score(subject, torch.cat(family), seed, options)
        for name in sums:
            sums[name][: own + 1] += found[name].reshape(own + 1, draws).mean(-1).numpy()
        counts[: own + 1] += 1
    return {name: value / counts for name, value in sums.items()}


@dataclass(frozen=True)
class SizeMatched:
    """An explanation's delta beside random ones of equal size."""

    delta: float
    random_mean: float
    random_std: float
    advantage: float
    """delta less the random mean"""
    share_below: float
    """of the random explanations, how many are worse"""


def size_matched_delta(
    probe: Probe, explanation: Bool[Tensor, "units"], *, label: int, n_random: int = 100, seed: int = 0, **options: Any
) -> SizeMatched:
    """Delta tends to grow with size, whatever is in the explanation: compare it with random ones of the same size,
    under the same random numbers.

    Raises:
        ValueError: if `n_random` is below 2.
    """
    if n_random < 2:
        raise ValueError(f"n_random must be at least 2, got {n_random}")
    generator = torch.Generator().manual_seed(seed)
    draw = torch.rand(n_random, probe.n_units, generator=generator)
    random = _smallest(draw, probe.domain, int((explanation & probe.domain).sum()))
    found = score_explanations(
        probe, torch.cat([(explanation & probe.domain)[None], random]), label=label, seed=seed, **options
    ).delta
    own, others = float(found[0]), found[1:]
    mean = float(others.mean())
    return SizeMatched(own, mean, float(others.std()), own - mean, float((others < own).double().mean()))


def _score(subject: Subject, family: Tensor, seed: int, options: dict[str, Any]) -> dict[str, Tensor]:
    scores: Scores = score_explanations(subject.probe, family, label=subject.label, seed=seed, **options)
    found = {name: getattr(scores, name) for name in MEASURES}
    both = (family & subject.truth).sum(1).double()
    either = (family | subject.truth).sum(1).double()
    right, wrong = both / subject.truth.sum(), (family & subject.others).sum(1) / max(1, int(subject.others.sum()))
    # the area under the curve of a mask of zeros and ones has one corner
    return found | {"distance": either - both, "iou": both / either.clamp(min=1), "auc": (1 + right - wrong) / 2}


def _check(subjects: Sequence[Subject]) -> None:
    if not subjects:
        raise ValueError("subjects must not be empty")
    for number, subject in enumerate(subjects):
        if not subject.truth.any():
            raise ValueError(f"the true explanation of subject {number} is empty")
