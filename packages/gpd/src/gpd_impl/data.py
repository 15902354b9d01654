"""Series to learn from: made ones, the benchmark sets, and a user's file."""

import io
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from jaxtyping import Float

from shared_impl.data import DataError

__all__ = [
    "FILES", "Series", "evaluation_windows", "load_m4", "load_series", "made_corpus", "read_table", "sinusoids",
    "two_modes",
]  # fmt: skip

FILES = {
    "weather": ("weather.csv", 144), "electricity": ("electricity.csv", 24), "traffic": ("traffic.csv", 24),
    "exchange": ("exchange_rate.csv", 7), "ili": ("national_illness.csv", 52),
}  # fmt: skip
"""sets that are read from a folder: file and period"""


@dataclass(frozen=True)
class Series:
    """A benchmark series, standardised by its training part, and where its parts end."""

    values: np.ndarray
    """float32, (steps, channels)"""
    ends: tuple[int, int, int]
    """of training, validation, test"""
    period: int

    def part(self, name: Literal["train", "valid", "test"], before: int = 0) -> np.ndarray:
        """Rows of a part, and `before` rows before it."""
        i = ("train", "valid", "test").index(name)
        return self.values[max(0, (0, *self.ends)[i] - before) : self.ends[i]]


def _standardised(values: np.ndarray, ends: tuple[int, int, int], period: int) -> Series:
    train = values[: ends[0]]
    deviation = train.std(0)
    scaled = (values - train.mean(0)) / np.where(deviation > 0, deviation, 1.0)
    return Series(scaled.astype(np.float32), ends, period)


def load_series(name: str, folder: Path | None = None) -> Series:
    """A benchmark set by its name.

    Args:
        name: ETTh1, ETTh2, ETTm1, ETTm2 (12, 4 and 4 months); a name of `FILES` (70, 10 and 20 %) from `folder`;
            "sunspots", "co2" (statsmodels); "made" (a sum of sinusoids, 6,000 steps). With "@n" behind it, means of n
            steps: ETTh1@4 is four-hourly.

    Raises:
        ValueError: no such name, or a folder that is needed.
        DataError: a file that is missing or damaged.
    """
    base, _, factor = name.partition("@")
    if factor and (not factor.isdigit() or int(factor) < 2):
        raise ValueError(f"name must end in @ and a whole number of at least 2, got {name!r}")
    if base in ("ETTh1", "ETTh2", "ETTm1", "ETTm2"):
        from shared_impl.datasets import ett

        values, day = ett(base).values, 24 if base[3] == "h" else 96  # type: ignore[arg-type]
        ends, period = (12 * 30 * day, 16 * 30 * day, 20 * 30 * day), day
    elif base == "made":
        values, period = sinusoids(1, 6000, seed=1).T.astype(float), 24
        ends = _shares(len(values))
    elif base in ("sunspots", "co2"):
        values, period = _of_statsmodels(base)
        ends = _shares(len(values))
    elif base not in FILES:
        known = ("ETTh1", "ETTh2", "ETTm1", "ETTm2", *FILES, "sunspots", "co2", "made")
        raise ValueError(f"name must be one of {', '.join(known)}, got {name!r}")
    elif folder is None:
        raise ValueError(f"{base} is read from a folder: give the one that holds {FILES[base][0]}")
    else:
        file, period = FILES[base]
        values, ends = _numbers(folder / file), (0, 0, 0)
        ends = _shares(len(values))
    if factor:
        n = int(factor)
        whole = len(values) // n
        values = values[: whole * n].reshape(whole, n, -1).mean(1)
        ends = (ends[0] // n, ends[1] // n, ends[2] // n)
        period = max(1, period // n)
    return _standardised(values, ends, period)


def _shares(n: int) -> tuple[int, int, int]:
    test = int(0.2 * n)
    train = int(0.7 * n)
    return train, n - test, n


def _numbers(path: Path) -> np.ndarray:
    """The numeric columns of a CSV whose first column is a date."""
    if not path.is_file():
        raise DataError(f"{path} is missing")
    try:
        found = pd.read_csv(path).iloc[:, 1:].to_numpy(dtype=float)
    except (ValueError, pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise DataError(f"{path} is no table of a date and numbers: {str(error).splitlines()[0]}") from error
    if not found.size or not np.isfinite(found).all():
        raise DataError(f"{path} must have rows, and numbers behind the date")
    return found


def _of_statsmodels(name: str) -> tuple[np.ndarray, int]:
    try:
        from statsmodels import datasets
    except ImportError as error:
        raise DataError(f"{name} comes with statsmodels: pip install 'gpd-impl[ets]'") from error
    if name == "sunspots":
        return datasets.sunspots.load_pandas().data[["SUNACTIVITY"]].to_numpy(dtype=float), 11
    frame = datasets.co2.load_pandas().data.resample("MS").mean().interpolate()
    return frame.to_numpy(dtype=float), 12


def load_m4(folder: Path, frequency: str = "Hourly") -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Histories and futures of the M4 competition, of `Hourly-train.csv` and `Hourly-test.csv`.

    Raises:
        DataError: a file is missing, damaged, or the two differ in their series.
    """
    found, names = [], []
    for part in ("train", "test"):
        path = folder / f"{frequency}-{part}.csv"
        if not path.is_file():
            raise DataError(f"{path} is missing")
        table = pd.read_csv(path, index_col=0)
        names.append(table.index.tolist())
        try:
            rows = [row[~np.isnan(row)] for row in table.to_numpy(dtype=float)]
        except ValueError as error:
            raise DataError(f"{path}: {error}") from error
        if not rows or min(map(len, rows)) == 0:
            raise DataError(f"{path} must have numbers for each series")
        found.append(rows)
    if names[0] != names[1]:
        raise DataError(f"{folder}: the training and the test file of {frequency} must name the same series")
    return found[0], found[1]


def evaluation_windows(
    series: Series, part: Literal["valid", "test"], history: int, horizon: int, stride: int = 1
) -> tuple[Float[np.ndarray, "n history channels"], Float[np.ndarray, "n horizon channels"]]:
    """Histories and futures of a part, every `stride`-th; of stride 1 none is dropped."""
    values = series.part(part, before=history)
    if len(values) < history + horizon:
        raise ValueError(f"{part} must have history + horizon = {history + horizon} rows, got {len(values)}")
    windows = np.lib.stride_tricks.sliding_window_view(values, history + horizon, 0)[::stride].transpose(0, 2, 1)
    return np.ascontiguousarray(windows[:, :history]), np.ascontiguousarray(windows[:, history:])


# Made series ---------------------------------------------------------------------------------------------------------


def _ar1(rng: np.random.Generator, shape: tuple[int, int], phi: np.ndarray) -> np.ndarray:
    noise = rng.standard_normal(shape)
    out = np.empty(shape)
    out[:, 0] = noise[:, 0] / np.sqrt(1 - np.minimum(phi[:, 0], 0.99) ** 2)
    for t in range(1, shape[1]):
        out[:, t] = phi[:, 0] * out[:, t - 1] + noise[:, t]
    return out * np.sqrt(1 - np.minimum(phi, 0.99) ** 2)


def sinusoids(n: int, length: int, *, seed: int = 0) -> Float[np.ndarray, "n length"]:
    """Sums of one to three sinusoids of periods 8 to 48, a trend, and AR(1) noise."""
    rng = np.random.default_rng(seed)
    t = np.arange(length)
    count = rng.integers(1, 4, (n, 1))
    out = np.zeros((n, length))
    for i in range(3):
        period, phase, size = (
            rng.uniform(8, 48, (n, 1)),
            rng.uniform(0, 2 * np.pi, (n, 1)),
            rng.uniform(0.5, 1.5, (n, 1)),
        )
        out += (i < count) * size * np.sin(2 * np.pi * t / period + phase)
    out += rng.normal(0, 1, (n, 1)) * t / max(length, 192)
    return (out + 0.2 * _ar1(rng, (n, length), np.full((n, 1), 0.7))).astype(np.float32)


def two_modes(n: int, length: int = 48, known: int = 32, *, seed: int = 0) -> Float[np.ndarray, "n length"]:
    """A noisy sinusoid up to `known`; then, by a fair coin, a step up or a step down by two."""
    rng = np.random.default_rng(seed)
    t = np.arange(length)
    x = np.sin(2 * np.pi * t / 12 + rng.uniform(0, 2 * np.pi, (n, 1))) + 0.1 * rng.standard_normal((n, length))
    side = rng.choice([-2.0, 2.0], (n, 1))
    return np.where(t >= known, x + side, x).astype(np.float32)


def made_corpus(n: int, length: int, *, seed: int = 0) -> Float[np.ndarray, "n length"]:
    """Series of many kinds to pretrain on: up to three seasons, trends with bends, noise with memory, walks.

    Periods are 4 to `length` / 3, two in five of them 7, 12, 24 or 48; half of the seasons are sinusoids, the others
    sums of up to six harmonics; some grow with time; a few series have a level shift or single far-out values.
    """
    rng = np.random.default_rng(seed)
    t = np.arange(length)

    def often(share: float, *shape: int) -> np.ndarray:
        return rng.random(shape or (n, 1)) < share

    out = np.zeros((n, length))
    for share in (0.9, 0.45, 0.2):
        period = np.exp(rng.uniform(np.log(4), np.log(max(5, length / 3)), (n, 1)))
        period = np.where(often(0.4), rng.choice([7.0, 12.0, 24.0, 24.0, 48.0], (n, 1)), period)
        decay, plain = rng.uniform(0.6, 2.5, (n, 1)), often(0.5)
        shape = np.zeros((n, length))
        for h in range(1, 7):
            size = rng.standard_normal((n, 1)) / h**decay * (period > 2 * h) * (~plain | (h == 1))
            shape += size * np.sin(h * 2 * np.pi * t / period + rng.uniform(0, 2 * np.pi, (n, 1)))
        shape /= shape.std(1, keepdims=True) + 1e-3
        growth = 1 + often(0.2) * rng.uniform(-0.5, 1.0, (n, 1)) * t / length
        out += rng.uniform(0.2, 1.5, (n, 1)) * often(share) * growth * shape
    bend = rng.integers(0, length, (n, 1))
    out += often(0.6) * rng.normal(0, 2, (n, 1)) * t / length
    out += often(0.2) * rng.normal(0, 4, (n, 1)) * np.maximum(0, t - bend) / length
    phi = rng.uniform(0, 0.95, (n, 1)) * often(0.5)
    out += np.exp(rng.uniform(np.log(0.02), np.log(0.7), (n, 1))) * _ar1(rng, (n, length), phi)
    walk = np.cumsum(rng.standard_normal((n, length)), 1) / np.sqrt(length)
    out += often(0.25) * rng.uniform(0.2, 2.0, (n, 1)) * walk
    shift = rng.integers(0, length, (n, 1))
    out += often(0.05) * rng.normal(0, 1.5, (n, 1)) * (t >= shift)
    out += often(0.004, n, length) * often(0.1) * rng.normal(0, 4, (n, length))
    return out.astype(np.float32)


# A user's file -------------------------------------------------------------------------------------------------------


def read_table(path: Path | str) -> pd.DataFrame:
    """A CSV of a user's own: long (unique_id, ds, y) as it is; else stamps in a column of date, ds, time or the like
    (or in the first, if it holds text), and numbers, with cells that may be empty.

    Raises:
        ValueError: it cannot be read, has no rows or no numbers, or a cell that is neither.
    """
    try:
        text = sys.stdin.read() if str(path) == "-" else Path(path).read_text(encoding="utf-8-sig")
        first = text.partition("\n")[0]
        separator = next((mark for mark in (",", ";", "\t") if mark in first), ",")
        table = pd.read_csv(io.StringIO(text), sep=separator)
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ValueError(f"{path} cannot be read: {reason}") from error
    except (pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise ValueError(f"{path} cannot be read as CSV: {str(error).splitlines()[0]}") from error
    if table.empty:
        raise ValueError(f"{path} must have rows below its header")
    if {"unique_id", "ds", "y"} <= set(table.columns):
        return table.assign(ds=_dates(path, table["ds"]))
    named = [c for c in table.columns if str(c).lower() in ("date", "datetime", "time", "timestamp", "ds", "month")]
    stamp = named[0] if named else None
    if stamp is None and not pd.api.types.is_numeric_dtype(table.iloc[:, 0]):
        stamp = table.columns[0]
    if stamp is not None:
        table = table.set_index(pd.DatetimeIndex(_dates(path, table[stamp]), name=str(stamp))).drop(columns=stamp)
    elif str(table.columns[0]).startswith("Unnamed:") and table.shape[1] > 1:
        table = table.set_index(table.columns[0])  # the numbers of rows, as pandas writes them
    wrong = [c for c in table.columns if not pd.api.types.is_numeric_dtype(table[c])]
    if wrong or table.shape[1] == 0:
        what = f"column {wrong[0]!r} holds text" if wrong else "there is no column of numbers"
        raise ValueError(f"{path} must hold numbers beside its stamps: {what}")
    return table.astype(float)


def _dates(path: Path | str, column: pd.Series) -> pd.Series:
    if pd.api.types.is_numeric_dtype(column):
        return column
    try:
        return pd.to_datetime(column)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: column {column.name!r} must hold dates: {str(error).splitlines()[0]}") from error
