"""Series: ETT by name, ECL, Traffic and Weather from a folder, any CSV file, and a generator."""

import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Float

from shared_impl import datasets

__all__ = ["FILES", "Series", "load", "load_ett", "read_csv", "synthetic_series"]

FILES = {"ECL": "electricity.csv", "Traffic": "traffic.csv", "Weather": "weather.csv"}
"""Data sets of the paper that have no stable address: their files in the folder that the user gives."""


@dataclass(frozen=True)
class Series:
    """A series of one or more variables with its time stamps."""

    values: np.ndarray
    """float64, (length, c)"""
    index: pd.DatetimeIndex
    columns: tuple[str, ...]
    name: str

    def frame(self) -> pd.DataFrame:
        """As a pandas frame."""
        return pd.DataFrame(self.values, index=self.index, columns=list(self.columns))

    def __len__(self) -> int:
        return len(self.values)


def load_ett(name: str = "ETTh1", *, target: str | None = "OT") -> Series:
    """ETTh1, ETTh2, ETTm1 or ETTm2: the target alone (as in the paper) or, with None, all seven variables.

    Raises:
        DataError: if the file cannot be had.
    """
    series = datasets.ett(name)  # type: ignore[arg-type]
    columns = series.columns if target is None else (target,)
    places = [series.columns.index(column) for column in columns]
    return Series(series.values[:, places], pd.DatetimeIndex(series.timestamps), columns, name)


def read_csv(path: Path, *, target: str | None = None, time_column: str | None = None) -> Series:
    """A CSV file with a column of time stamps and columns of numbers; empty fields become NaN.

    Args:
        target: the column to take; None: all that are numbers.
        time_column: default: one named date, datetime, time, timestamp or ds, else the first.

    Raises:
        ValueError: if a column is missing, or holds no time stamps or no numbers.
    """
    frame = pd.read_csv(path)
    if not len(frame.columns) or not len(frame):
        raise ValueError(f"{path} has no rows")
    if time_column is None:
        known = {"date", "datetime", "time", "timestamp", "ds"}
        time_column = next((c for c in frame.columns if str(c).lower() in known), frame.columns[0])
    if time_column not in frame.columns:
        raise ValueError(f"time_column must be one of {', '.join(map(str, frame.columns))}, got {time_column!r}")
    raw = frame.pop(time_column)
    if pd.api.types.is_numeric_dtype(raw):
        raise ValueError(f"the column {time_column!r} of {path} must hold time stamps, got numbers")
    try:
        # a column in which no format can be seen is read value by value, and then mostly refused
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            index = pd.DatetimeIndex(pd.to_datetime(raw))
    except (ValueError, TypeError) as error:
        raise ValueError(f"the column {time_column!r} of {path} must hold time stamps: {error}") from error
    if target is not None:
        if target not in frame.columns:
            raise ValueError(f"target must be one of {', '.join(map(str, frame.columns))}, got {target!r}")
        frame = frame[[target]]
        if not pd.api.types.is_numeric_dtype(frame[target]):
            raise ValueError(f"the column {target!r} of {path} must hold numbers")
    else:
        frame = frame.select_dtypes("number")
        if not len(frame.columns):
            raise ValueError(f"{path} has no column of numbers beside {time_column!r}")
    columns = tuple(map(str, frame.columns))
    return Series(frame.to_numpy(np.float64), index, columns, Path(path).stem)


def load(name: str, *, data_dir: Path | None = None, target: str | None = "OT") -> Series:
    """A data set of the paper by name, or any CSV file by its path.

    Raises:
        ValueError: if it is neither, or its file is not in `data_dir`.
        DataError: if ETT cannot be had.
    """
    if name in ("ETTh1", "ETTh2", "ETTm1", "ETTm2"):
        return load_ett(name, target=target)
    if name in FILES:
        if data_dir is None or not (Path(data_dir) / FILES[name]).is_file():
            raise ValueError(f"{name} is read from {FILES[name]} in data_dir, got {data_dir}")
        return read_csv(Path(data_dir) / FILES[name], target=target)
    if Path(name).is_file():
        return read_csv(Path(name), target=target)
    raise ValueError(f"data must be ETTh1, ETTh2, ETTm1, ETTm2, {', '.join(FILES)} or a CSV file, got {name!r}")


def synthetic_series(hours: int = 4000, *, seed: int = 0, start: str = "2020-01-01", level_shifts: int = 4) -> Series:
    """Hourly: a day and a week of drifting amplitude, AR(1) noise, and a few level shifts.

    Raises:
        ValueError: if hours is not positive.
    """
    if hours < 1:
        raise ValueError(f"hours must be at least 1, got {hours}")
    generator = np.random.default_rng(seed)
    t = np.arange(hours)

    def drift(mean: float, period: int) -> Float[np.ndarray, "hours"]:
        return mean * (1 + 0.4 * np.sin(2 * np.pi * t / period + generator.uniform(0, 2 * np.pi)))

    day = drift(1.0, 1500) * np.sin(2 * np.pi * t / 24) + drift(0.4, 1100) * np.sin(4 * np.pi * t / 24 + 1)
    week = drift(0.6, 2300) * np.sin(2 * np.pi * t / 168 + 0.5)
    noise = np.empty(hours)
    shocks = generator.normal(0, 0.15, hours)
    noise[0] = shocks[0]
    for i in range(1, hours):
        noise[i] = 0.8 * noise[i - 1] + shocks[i]
    level = np.zeros(hours)
    for place in generator.integers(0, hours, level_shifts):
        level[place:] += generator.normal(0, 0.4)
    values = 10 + day + week + noise + level
    return Series(values[:, None], pd.date_range(start, periods=hours, freq="h"), ("load",), "synthetic")
