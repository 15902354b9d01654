"""What a time stamp tells: position in the hour, day, week, month and year, each scaled to [-0.5, 0.5]."""

import numpy as np
import pandas as pd
from jaxtyping import Float
from pandas.tseries.frequencies import to_offset

__all__ = ["feature_names", "time_features"]

# name: (how to read it from an index, its largest value)
_READ = {
    "second of minute": (lambda i: i.second, 59),
    "minute of hour": (lambda i: i.minute, 59),
    "hour of day": (lambda i: i.hour, 23),
    "day of week": (lambda i: i.day_of_week, 6),
    "day of month": (lambda i: i.day - 1, 30),
    "day of year": (lambda i: i.day_of_year - 1, 365),
    "week of year": (lambda i: i.isocalendar().week.to_numpy(np.int64) - 1, 52),
    "month of year": (lambda i: i.month - 1, 11),
}
_DAILY = ("day of week", "day of month", "day of year")
_NAMES: dict[str, tuple[str, ...]] = {
    "Second": ("second of minute", "minute of hour", "hour of day", *_DAILY),
    "Minute": ("minute of hour", "hour of day", *_DAILY),
    "Hour": ("hour of day", *_DAILY),
    "Day": _DAILY,
    "BusinessDay": _DAILY,
    "Week": ("day of month", "week of year"),
    "MonthEnd": ("month of year",),
    "MonthBegin": ("month of year",),
    "QuarterEnd": ("month of year",),
    "QuarterBegin": ("month of year",),
    "YearEnd": (),
    "YearBegin": (),
}


def feature_names(freq: str) -> tuple[str, ...]:
    """The features of time stamps of a frequency: five for minutes, four for hours, three for days.

    Args:
        freq: as pandas writes it, with or without a number: "h", "15min", "D".

    Raises:
        ValueError: for a frequency that is not known.
    """
    try:
        kind = type(to_offset(freq)).__name__
    except ValueError as error:
        raise ValueError(f"freq must be one that pandas knows, as 'h', '15min' or 'D', got {freq!r}") from error
    if kind not in _NAMES:
        raise ValueError(f"freq must be of {', '.join(sorted(_NAMES))}, got {freq!r} ({kind})")
    return _NAMES[kind]


def time_features(index: pd.DatetimeIndex, freq: str) -> Float[np.ndarray, "length features"]:
    """The features of each time stamp, in the order of `feature_names`; the stamps as they are, without time zones'
    changes undone.

    Raises:
        ValueError: for a frequency that is not known.
    """
    names = feature_names(freq)
    columns = [np.asarray(_READ[name][0](index), np.float64) / _READ[name][1] - 0.5 for name in names]
    return np.stack(columns, 1) if columns else np.empty((len(index), 0))
