"""A series on a regular time axis: its frequency is found; gaps and missing values are refused, or filled if asked."""

import warnings
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pandas.tseries.frequencies import to_offset

from pgn_impl.data import Series

__all__ = ["Fill", "as_frame", "default_period", "detect_frequency", "regular"]

Fill = Literal["linear", "previous", "seasonal"]
# steps of one cycle that such series mostly have: day, week, year
_CYCLES = {
    "Second": 60, "Minute": 24 * 60, "Hour": 24, "Day": 7, "BusinessDay": 5, "Week": 52,
    "MonthBegin": 12, "MonthEnd": 12, "QuarterBegin": 4, "QuarterEnd": 4,
}  # fmt: skip


def as_frame(series: Any, timestamps: Any = None) -> pd.DataFrame:
    """A pandas series or frame, a `Series` of this package, or an array with its time stamps, as a frame of floats.

    Args:
        series: of shape (length,) or (length, variables) where it is an array.
        timestamps: one a row, where the index of `series` is none.

    Raises:
        ValueError: without time stamps, for columns that hold no numbers, or no rows.
    """
    if isinstance(series, Series):
        frame = series.frame()
    elif isinstance(series, pd.Series):
        frame = series.to_frame("value" if series.name is None else series.name)
    elif isinstance(series, pd.DataFrame):
        frame = series.copy()
    else:
        values = np.asarray(series, np.float64)
        if values.ndim not in (1, 2):
            raise ValueError(f"series must have one or two dimensions, got {values.ndim}")
        values = values.reshape(len(values), -1)
        names = ["value"] if values.shape[1] == 1 else [f"value {i}" for i in range(values.shape[1])]
        frame = pd.DataFrame(values, columns=names)
    if timestamps is not None:
        stamps = pd.DatetimeIndex(pd.to_datetime(timestamps))
        if len(stamps) != len(frame):
            raise ValueError(f"timestamps must be as many as the series has rows, {len(frame)}, got {len(stamps)}")
        frame.index = stamps
    if isinstance(frame.index, pd.PeriodIndex):
        frame.index = frame.index.to_timestamp()
    if not isinstance(frame.index, pd.DatetimeIndex):
        raise ValueError("timestamps must be given where the series has no DatetimeIndex")
    if not len(frame) or not len(frame.columns):
        raise ValueError(f"series must have rows and columns, got shape {frame.shape}")
    strange = [str(name) for name, kind in frame.dtypes.items() if not pd.api.types.is_numeric_dtype(kind)]
    if strange:
        raise ValueError(f"series must hold numbers only, got others in {', '.join(strange)}")
    frame = frame.astype(np.float64)
    frame.columns = pd.Index([str(name) for name in frame.columns])
    return frame


def detect_frequency(index: pd.DatetimeIndex) -> str:
    """The frequency of time stamps in order: what pandas infers, or else the step that most of them have.

    Raises:
        ValueError: if there are fewer than three, or most steps differ.
    """
    if len(index) < 3:
        raise ValueError(f"freq must be given where there are fewer than three time stamps, got {len(index)}")
    with warnings.catch_warnings():
        # pandas 3.1 announces that later versions return an offset; both are understood
        warnings.simplefilter("ignore")
        inferred = pd.infer_freq(index)
    if inferred is not None:
        return str(getattr(inferred, "freqstr", inferred))
    counts = pd.Series(index[1:] - index[:-1]).value_counts()
    if counts.iloc[0] * 2 < len(index) - 1:
        raise ValueError(
            f"freq must be given: the most frequent step, {counts.index[0]}, is that of only {counts.iloc[0]} of "
            f"{len(index) - 1}"
        )
    return str(to_offset(counts.index[0]).freqstr)


def default_period(freq: str) -> int:
    """Steps of the usual cycle: a day of hours or minutes, a week of days, a year of weeks, months or quarters.

    Raises:
        ValueError: if the frequency has none, or the cycle is no whole number of steps.
    """
    offset = to_offset(freq)
    cycle = _CYCLES.get(type(offset).__name__, 0)
    if cycle == 0 or cycle % offset.n or cycle // offset.n < 2:
        raise ValueError(f"period must be given for a series of frequency {freq!r}")
    return cycle // int(offset.n)


def regular(
    frame: pd.DataFrame, *, freq: str | None = None, fill: str | None = None, period: int | None = None
) -> tuple[pd.DataFrame, str]:
    """The series with a value at every step of its frequency, and the frequency.

    Args:
        freq: as pandas writes it; None: found.
        fill: None refuses gaps, missing values and stamps off the grid. "linear" draws a line in time between what
            is known, and goes on with the last value; "previous" takes the value before; "seasonal" takes that of a
            period before (at the start, a period after). "linear" and "previous" also bring stamps onto the grid.
        period: for "seasonal".

    Raises:
        ValueError: for stamps that are missing, twice there, or out of order; values that are infinite; what `fill`
            does not cover; or when more than half of the steps would be made up.
    """
    if fill is not None and fill not in get_args(Fill):
        raise ValueError(f"fill must be None or one of {', '.join(get_args(Fill))}, got {fill!r}")
    index = frame.index
    assert isinstance(index, pd.DatetimeIndex)
    if index.hasnans:
        raise ValueError(f"timestamps must all be there, got {int(index.isna().sum())} that are missing")
    twice = index[index.duplicated()]
    if len(twice):
        raise ValueError(f"timestamps must differ, got {len(twice)} that are there already, the first {twice[0]}")
    if not index.is_monotonic_increasing:
        raise ValueError("timestamps must be in order: sort the series by time first")
    if np.isinf(frame.to_numpy()).any():
        raise ValueError(f"values must be finite, got {int(np.isinf(frame.to_numpy()).sum())} that are infinite")
    freq = detect_frequency(index) if freq is None else freq
    try:
        grid = pd.date_range(index[0], index[-1], freq=freq)
    except ValueError as error:
        raise ValueError(f"freq must be one that pandas knows, as 'h', '15min' or 'D', got {freq!r}") from error
    off = index[~index.isin(grid)]
    absent = grid[~grid.isin(index)]
    missing = int(frame.isna().to_numpy().sum())
    if fill is None:
        if len(off):
            raise ValueError(
                f"timestamps must lie {freq!r} apart, got {len(off)} of {len(index)} that do not, the first {off[0]}; "
                "fill='linear' or 'previous' resamples them"
            )
        if len(absent):
            raise ValueError(
                f"timestamps must have no gaps, got {len(absent)} of {len(grid)} steps ({freq!r}) missing, the first "
                f"{absent[0]}; fill='linear', 'previous' or 'seasonal' fills them"
            )
        if missing:
            row, column = np.argwhere(frame.isna().to_numpy())[0]
            raise ValueError(
                f"values must be there, got {missing} missing, the first of {frame.columns[column]} at {index[row]}; "
                "fill='linear', 'previous' or 'seasonal' fills them"
            )
        return frame.set_axis(grid), freq
    if len(off) and fill == "seasonal":
        raise ValueError(f"fill='seasonal' needs stamps {freq!r} apart, got {len(off)} that are not, as {off[0]}")
    if not len(off):
        for name, known in frame.notna().sum().items():
            if known * 2 < len(grid):
                raise ValueError(f"{name} must be known at half of the steps or more, got {known} of {len(grid)}")
            first = frame[name].first_valid_index()
            if fill != "seasonal" and first != grid[0]:
                raise ValueError(f"{name} must be known at the start: cut the series to begin at {first}")
    values = np.empty((len(grid), len(frame.columns)))
    if fill == "seasonal":
        if period is None:
            period = default_period(freq)
        values = _seasonal(frame.reindex(grid).to_numpy(), period)
        if np.isnan(values).any():
            raise ValueError(f"fill='seasonal' needs every phase of the period of {period} at least once")
    elif fill == "previous":
        values = frame.ffill().reindex(grid, method="ffill").to_numpy()
    else:
        at, wanted = _seconds(index, index[0]), _seconds(grid, index[0])
        for i, name in enumerate(frame.columns):
            known = frame[name].notna().to_numpy()
            values[:, i] = np.interp(wanted, at[known], frame[name].to_numpy()[known])
    return pd.DataFrame(values, grid, frame.columns), freq


def _seconds(index: pd.DatetimeIndex, origin: pd.Timestamp) -> NDArray[np.float64]:
    return np.asarray((index - origin).total_seconds(), np.float64)


def _seasonal(values: NDArray[np.float64], period: int) -> NDArray[np.float64]:
    length, c = values.shape
    rows = -(-length // period)
    padded = np.full((rows * period, c), np.nan)
    padded[:length] = values
    # a column a phase: what is known goes down, then up
    phases = pd.DataFrame(padded.reshape(rows, period * c)).ffill().bfill().to_numpy()
    return phases.reshape(rows * period, c)[:length]
