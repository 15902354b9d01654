"""Windows of a series, its splits in time order, and scaling without looking ahead."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from pgn_impl.calendar import time_features

__all__ = ["ForecastData", "Part", "Windows", "sliding_windows", "split_borders"]

Part = Literal["train", "valid", "test"]


class Windows(NamedTuple):
    """Examples along the first dimension. Views of the series: nothing is copied until a batch is taken."""

    x: Tensor
    """(n, seq_len, c)"""
    marks: Tensor
    """(n, seq_len, features)"""
    y: Tensor
    """(n, pred_len, c)"""
    future_marks: Tensor
    """(n, pred_len, features)"""

    @property
    def n(self) -> int:
        """Number of windows."""
        return self.x.shape[0]


def sliding_windows(
    values: Float[Tensor, "length c"], marks: Float[Tensor, "length features"], seq_len: int, pred_len: int
) -> Windows:
    """All windows of `seq_len` steps and the `pred_len` steps after them, one a step.

    Raises:
        ValueError: if the series is shorter than one of them.
    """
    for name, size in {"seq_len": seq_len, "pred_len": pred_len}.items():
        if size < 1:
            raise ValueError(f"{name} must be at least 1, got {size}")
    length = values.shape[0]
    if length < seq_len + pred_len:
        raise ValueError(f"values must have at least seq_len + pred_len = {seq_len + pred_len} steps, got {length}")

    def past(series: Tensor) -> Tensor:
        return series[: length - pred_len].unfold(0, seq_len, 1).transpose(1, 2)

    def future(series: Tensor) -> Tensor:
        return series[seq_len:].unfold(0, pred_len, 1).transpose(1, 2)

    return Windows(past(values), past(marks), future(values), future(marks))


def split_borders(length: int, train: float = 0.6, test: float = 0.2) -> tuple[int, int]:
    """Where validation and test begin: shares of the length, rounded down, and what is left to validation.

    Raises:
        ValueError: if the shares leave nothing.
    """
    if not (0 < train < 1 and 0 < test < 1 and train + test < 1):
        raise ValueError(f"train and test must be positive and below 1 in sum, got {train} and {test}")
    return int(length * train), length - int(length * test)


@dataclass(frozen=True)
class ForecastData:
    """A series with its time features, split in time order and standardised by its training part alone.

    The windows of validation and test may begin in the part before, as in the paper; what is forecast lies in the part.
    """

    values: Tensor
    """(length, c), standardised"""
    marks: Tensor
    """(length, features)"""
    seq_len: int
    pred_len: int
    borders: tuple[int, int]
    """where validation and test begin"""
    mean: np.ndarray
    scale: np.ndarray
    name: str = "series"

    @classmethod
    def from_series(
        cls,
        values: Float[np.ndarray, "length c"],
        index: pd.DatetimeIndex,
        *,
        freq: str,
        seq_len: int,
        pred_len: int,
        train: float = 0.6,
        test: float = 0.2,
        name: str = "series",
    ) -> "ForecastData":
        """Split and scale a series.

        Raises:
            ValueError: if a part is too short for a window, or a value is not finite.
        """
        if not np.isfinite(values).all():
            raise ValueError(f"values must be finite, got {int((~np.isfinite(values)).sum())} that are not")
        borders = split_borders(len(values), train, test)
        parts = {"train": borders[0] - seq_len, "valid": borders[1] - borders[0], "test": len(values) - borders[1]}
        for part, steps in parts.items():
            if steps < pred_len:
                raise ValueError(
                    f"{part} has {steps} steps to forecast, fewer than pred_len {pred_len}: {name} is too short"
                )
        known = values[: borders[0]]
        mean, scale = known.mean(0), known.std(0)
        scale = np.where(scale > 0, scale, 1.0)  # a constant is only centred
        return cls(
            torch.from_numpy(((values - mean) / scale).astype(np.float32)),
            torch.from_numpy(time_features(index, freq).astype(np.float32)),
            seq_len,
            pred_len,
            borders,
            mean,
            scale,
            name,
        )

    def windows(self, part: Part) -> Windows:
        """The windows of a part."""
        first, second = self.borders
        start, stop = {
            "train": (0, first),
            "valid": (first - self.seq_len, second),
            "test": (second - self.seq_len, len(self.values)),
        }[part]
        return sliding_windows(self.values[start:stop], self.marks[start:stop], self.seq_len, self.pred_len)
