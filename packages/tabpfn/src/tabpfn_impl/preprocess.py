"""From a user's table to what the network reads (the released code's prediction interface).

`TableEncoder` makes numbers of whatever the columns hold; `ColumnTransform` scales them by the training rows alone, in
torch, so that gradients reach the inputs.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from sklearn.preprocessing import PowerTransformer
from torch import Tensor

__all__ = ["ColumnTransform", "TableEncoder", "yeo_johnson"]


class TableEncoder:
    """Columns of numbers as they are; dates and durations in seconds; strings, categories, truth values and chosen
    columns as the rank of their value.

    Missing values, and values that the training rows do not have in a column of categories, become NaN.

    Args:
        categorical_features: positions or names of columns to be ranked although they hold numbers.
    """

    def __init__(self, categorical_features: Sequence[int | str] | None = None) -> None:
        self.categorical_features = categorical_features

    def fit(self, X: Any) -> "TableEncoder":
        """Learn the categories.

        Raises:
            ValueError: a column that does not exist among `categorical_features`.
        """
        columns, names = _columns(X)
        chosen = set()
        for which in self.categorical_features or ():
            if isinstance(which, str):
                if which not in names:
                    raise ValueError(f"categorical_features must name columns of X, got {which!r} for {names}")
                chosen.add(names.index(which))
            else:
                if not -len(columns) <= which < len(columns):
                    raise ValueError(f"categorical_features must be positions below {len(columns)}, got {which}")
                chosen.add(int(which) % len(columns))
        self.categories_: list[dict[Any, int] | None] = []
        for i, column in enumerate(columns):
            if i in chosen or not _is_numeric(column):
                self.categories_.append({value: rank for rank, value in enumerate(_sorted_values(column))})
            else:
                self.categories_.append(None)
        return self

    @property
    def is_numeric(self) -> bool:
        """Whether every column is taken as it is."""
        return all(ranks is None for ranks in self.categories_)

    def transform(self, X: Any) -> NDArray[np.float64]:
        """Numbers, with NaN where a value is missing or unknown."""
        columns, _ = _columns(X)
        out = np.empty((len(columns[0]) if columns else 0, len(columns)))
        for i, (column, ranks) in enumerate(zip(columns, self.categories_, strict=True)):
            if ranks is None:
                out[:, i] = np.asarray(column, dtype=np.float64)
            else:
                out[:, i] = [np.nan if _is_missing(v) else ranks.get(_plain(v), np.nan) for v in column]
        return out


def without_dates(X: Any) -> Any:
    """A frame whose dates and durations are seconds; anything else as it is."""
    if not hasattr(X, "iloc") or not hasattr(X, "columns"):
        return X
    dated = [i for i, kind in enumerate(X.dtypes) if getattr(kind, "kind", "O") in "Mm"]
    if not dated:
        return X
    made = X.copy()
    for i in dated:
        made.isetitem(i, _as_array(X.iloc[:, i]))
    return made


def _columns(X: Any) -> tuple[list[Any], list[str]]:
    if hasattr(X, "iloc"):
        return [_as_array(X.iloc[:, i]) for i in range(X.shape[1])], [str(name) for name in X.columns]
    array = np.asarray(X)
    return [_seconds(column) if array.dtype.kind in "Mm" else column for column in array.T], []


def _seconds(column: Any) -> NDArray[np.float64]:
    """Dates, from 1970 on, and durations as seconds; NaN where there is none."""
    whole = np.asarray(column).astype(f"{np.asarray(column).dtype.kind}8[us]")
    return np.where(np.isnat(whole), np.nan, whole.astype(np.int64) / 1e6)


def _as_array(series: Any) -> NDArray[Any]:
    if getattr(series.dtype, "kind", "O") in "Mm":
        return _seconds(series.dt.tz_convert(None) if getattr(series.dtype, "tz", None) is not None else series)
    if getattr(series.dtype, "kind", "O") in "iuf":
        return np.asarray(series.to_numpy(dtype=np.float64, na_value=np.nan))
    return np.asarray(series.astype(object).to_numpy(), dtype=object)


def _is_numeric(column: NDArray[Any]) -> bool:
    if column.dtype.kind in "iuf":
        return True
    if column.dtype.kind in "b":
        return False
    # an array of objects holds numbers unless it is seen to hold others
    return all((isinstance(v, int | float | np.number) and not isinstance(v, bool)) or _is_missing(v) for v in column)


def _is_missing(value: Any) -> bool:
    return value is None or type(value).__name__ in ("NAType", "NaTType") or bool(value != value)


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def _sorted_values(column: NDArray[Any]) -> list[Any]:
    values = {_plain(v) for v in column if not _is_missing(v)}
    try:
        return sorted(values)
    except TypeError:
        return sorted(values, key=lambda v: (type(v).__name__, str(v)))


@dataclass(frozen=True)
class ColumnTransform:
    """Standardise, optionally make more normal, and squash outliers, all by the training rows.

    Constant columns are dropped; missing values become 0, the mean.
    """

    kept: Tensor
    """positions of the columns that vary"""
    mean: Tensor
    std: Tensor
    lambdas: Tensor | None
    """of the Yeo-Johnson transform; 1 leaves a column as it is"""
    power_mean: Tensor
    power_std: Tensor
    low: Tensor
    high: Tensor

    @classmethod
    def fit(cls, x: Float[Tensor, "rows features"], *, power: bool) -> "ColumnTransform":
        """Learn from training rows, in float64.

        Args:
            power: whether each column goes through a Yeo-Johnson transform fitted to it.
        """
        spread = torch.from_numpy(np.array([_varies(c) for c in x.T.numpy()], dtype=bool))
        kept = spread.nonzero().squeeze(1)
        x = _without_extremes(x[:, kept])
        mean, std = _moments(x)
        z = ((x - mean) / std).clamp(-100.0, 100.0).nan_to_num(0.0)
        lambdas, power_mean, power_std = None, torch.zeros_like(mean), torch.ones_like(std)
        if power:
            lambdas = torch.from_numpy(np.array([_best_lambda(column) for column in z.T.numpy()]))
            z = yeo_johnson(z, lambdas)
            power_mean, power_std = _moments(z)
            z = (z - power_mean) / power_std
        # beyond four deviations, the deviation taken again without what lies beyond
        mean4, std4 = _moments(z)
        inside = (z - mean4).abs() <= 4.0 * std4
        mean4, std4 = _moments(torch.where(inside, z, torch.nan))
        return cls(kept, mean, std, lambdas, power_mean, power_std, mean4 - 4.0 * std4, mean4 + 4.0 * std4)

    def __call__(self, x: Float[Tensor, "rows features"]) -> Float[Tensor, "rows kept"]:
        """The columns that vary, transformed; at least one column, of zeros if none varies."""
        x = x[:, self.kept]
        if not x.shape[1]:
            return x.new_zeros(len(x), 1)
        z = ((x - self.mean) / self.std).clamp(-100.0, 100.0)
        z = torch.where(torch.isnan(z), torch.zeros_like(z), z)
        if self.lambdas is not None:
            z = (yeo_johnson(z, self.lambdas) - self.power_mean) / self.power_std
        z = torch.maximum(self.low - torch.log1p(z.abs()), z)
        return torch.minimum(self.high + torch.log1p(z.abs()), z)


def yeo_johnson(
    x: Float[Tensor, "rows features"], lambdas: Float[Tensor, " features"]
) -> Float[Tensor, "rows features"]:
    """((x+1)^l - 1)/l for x >= 0 and -((1-x)^(2-l) - 1)/(2-l) below, with logarithms at l = 0 and l = 2."""
    up, down = torch.log1p(x.clamp_min(0.0)), torch.log1p((-x).clamp_min(0.0))
    near0, near2 = lambdas.abs() < 1e-8, (lambdas - 2.0).abs() < 1e-8
    a = torch.where(near0, torch.ones_like(lambdas), lambdas)
    b = torch.where(near2, torch.ones_like(lambdas), 2.0 - lambdas)
    positive = torch.where(near0, up, torch.expm1(a * up) / a)
    negative = torch.where(near2, down, torch.expm1(b * down) / b)
    return torch.where(x >= 0, positive, -negative)


def _varies(column: NDArray[np.float64]) -> bool:
    present = column[~np.isnan(column)]
    if not len(present):
        return False
    low, high = float(present.min()), float(present.max())
    # a spread of rounding errors is none
    return high - low > 1e-12 * max(abs(low), abs(high))


def _without_extremes(x: Tensor) -> Tensor:
    """NaN in place of cells that lie a thousand times as far from the median as nine tenths of the column lie apart.

    One of them would set the scale, and make all other cells of its column look equal.
    """
    ordinary = x.masked_fill(~torch.isfinite(x), torch.nan)
    if not x.numel():
        return ordinary
    low, middle, high = torch.nanquantile(ordinary, torch.tensor([0.05, 0.5, 0.95], dtype=x.dtype), dim=0)
    # a column that is nearly constant has no range to go by
    far = (high > low) & ((ordinary / 2 - middle / 2).abs() > 500.0 * (high - low))
    return ordinary.masked_fill(far, torch.nan)


def _moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of the columns without missing values; 1 where there is no deviation."""
    present = ~torch.isnan(x)
    count = present.sum(0).clamp_min(1)
    mean = torch.where(present, x, 0.0).sum(0) / count
    square = torch.where(present, (x - mean).square(), 0.0).sum(0)
    std = (square / (count - 1).clamp_min(1)).sqrt()
    return mean, torch.where(std > 0, std, torch.ones_like(std))


def _best_lambda(column: NDArray[np.float64]) -> float:
    """The maximum-likelihood parameter; 1, which changes nothing, where the fit overflows."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            fitted = PowerTransformer(standardize=False).fit(column[:, None])
            value = float(fitted.lambdas_[0])
            ends = yeo_johnson(
                torch.tensor([[column.min()], [column.max()]]), torch.tensor([value], dtype=torch.float64)
            )
        except (ValueError, FloatingPointError, OverflowError):
            return 1.0
    usable = (
        np.isfinite(value) and abs(value) < 20 and bool(torch.isfinite(ends).all()) and float(ends.abs().max()) < 1e6
    )
    return value if usable else 1.0
