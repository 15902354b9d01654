"""Time stamps: their frequency, a grid without gaps, and the period that a frequency suggests."""

import warnings

import numpy as np
import pandas as pd
from pandas.tseries.frequencies import to_offset

__all__ = ["default_period", "on_grid", "stamps_after"]

_PERIODS = {"Second": 60, "Minute": 60, "Hour": 24, "Day": 7, "BusinessDay": 5, "Week": 52, "MonthEnd": 12,
            "MonthBegin": 12, "QuarterEnd": 4, "QuarterBegin": 4}  # fmt: skip


def default_period(frequency: str | None, values: np.ndarray | None = None) -> int:
    """A day of hours or parts of one, a week of days, a year of anything longer; else the strongest autocorrelation."""
    if frequency is not None:
        offset = to_offset(frequency)
        kind, n = type(offset).__name__, int(offset.n)
        if kind in ("Second", "Minute", "Hour"):
            day = {"Second": 86400, "Minute": 1440, "Hour": 24}[kind]
            return max(1, day // n) if day // n <= 1440 else 60
        return max(1, _PERIODS.get(kind, 1) // n) if kind in _PERIODS else 1
    if values is None or len(values) < 8:
        return 1
    x = values - np.nanmean(values)
    x = np.where(np.isfinite(x), x, 0.0)
    lags = np.array([np.dot(x[:-lag], x[lag:]) / max(np.dot(x, x), 1e-12) for lag in range(1, len(x) // 2)])
    peaks = [i for i in range(1, len(lags) - 1) if lags[i] > lags[i - 1] and lags[i] >= lags[i + 1] and lags[i] > 0.2]
    return int(max(peaks, key=lambda i: lags[i])) + 1 if peaks else 1


def on_grid(frame: pd.DataFrame, name: str = "series") -> tuple[pd.DataFrame, str | None]:
    """The frame on a regular grid, steps that lack as NaN, and the frequency (None for a plain numbering); periods
    become the stamps of their beginnings.

    Raises:
        ValueError: no rows, stamps that repeat, go back or lie off a grid.
    """
    if frame.empty:
        raise ValueError(f"{name} must have rows and columns, got shape {frame.shape}")
    index = frame.index
    if isinstance(index, pd.PeriodIndex):
        frame = frame.set_axis(index.to_timestamp())
        index = frame.index
    if not isinstance(index, pd.DatetimeIndex):
        if pd.api.types.is_integer_dtype(index) and not index.equals(pd.RangeIndex(len(index))):
            if not index.is_monotonic_increasing or index.has_duplicates:
                raise ValueError(f"{name}: the numbers of its steps must grow")
            gaps = np.diff(index.to_numpy())
            if (gaps != gaps[0]).any() and len(gaps):
                raise ValueError(f"{name}: steps must be numbered evenly, got {index[int((gaps != gaps[0]).argmax())]} "
                                 f"followed by {index[int((gaps != gaps[0]).argmax()) + 1]}")  # fmt: skip
        return frame, None
    if index.hasnans or index.has_duplicates:
        raise ValueError(f"{name}: each time stamp must be there once")
    frame = frame.sort_index()
    index = frame.index
    assert isinstance(index, pd.DatetimeIndex)
    if len(index) < 3:
        raise ValueError(f"{name} must have at least 3 time stamps to tell their frequency, got {len(index)}")
    frequency = index.freqstr or _inferred(index)
    if frequency is None:
        for candidate in (_commonest(index), "MS", "ME", "QS", "QE", "B"):
            grid = pd.date_range(index[0], index[-1], freq=candidate)
            if 0 < len(grid) <= 2 * len(index) and index.isin(grid).all():
                return frame.reindex(grid), candidate
        apart = np.diff(index.to_numpy())
        usual = pd.Series(apart).mode()[0]
        place = int((apart != usual).argmax())
        raise ValueError(f"{name}: time stamps must lie evenly (whole steps may lack), got {index[place]} followed by "
                         f"{index[place + 1]} where {usual} is usual")  # fmt: skip
    return frame, frequency


def _inferred(index: pd.DatetimeIndex) -> str | None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what a later pandas returns instead of text
        found = pd.infer_freq(index)
    return found if found is None or isinstance(found, str) else str(found.freqstr)


def _commonest(index: pd.DatetimeIndex) -> str:
    step = pd.Series(np.diff(index.to_numpy())).mode()[0]
    return str(to_offset(pd.Timedelta(step)).freqstr)


def stamps_after(index: pd.Index, frequency: str | None, horizon: int) -> pd.Index:
    """The stamps, or numbers, of the steps that follow."""
    if frequency is not None:
        return pd.date_range(index[-1], periods=horizon + 1, freq=frequency)[1:]
    step = int(index[-1] - index[-2]) if len(index) > 1 else 1
    return pd.Index(np.arange(1, horizon + 1) * step + int(index[-1]))
