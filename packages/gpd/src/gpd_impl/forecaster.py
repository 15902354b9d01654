"""`GPDForecaster`: from a pandas series or frame to forecasts with intervals and to filled gaps."""

import json
import warnings
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from rich.console import Console
from sklearn.base import BaseEstimator

from shared_impl.results import write_atomically

from .model import GPD
from .timeline import default_period, on_grid, stamps_after
from .training import Recipe

__all__ = ["Forecast", "GPDForecaster", "line", "parts_of"]

_CONTENT, _LAST = "forecaster.json", "last.csv"
_ENDS = ("_lower", "_upper")


@dataclass(frozen=True)
class Forecast:
    """Samples of what follows, and what a reader wants of them."""

    samples: NDArray[np.float64]
    """(samples, horizon, series)"""
    index: Sequence[pd.Index]
    """stamps of each series"""
    names: Sequence[str]
    long: bool = False
    """tables as rows of unique_id, ds and y"""

    def _mean(self) -> NDArray[np.float64]:
        """Exact where all samples are one number."""
        first = self.samples[0]
        mean: NDArray[np.float64] = first + (self.samples - first).mean(0)
        return mean

    def table(self, values: dict[str, NDArray[np.float64]]) -> pd.DataFrame:
        """A frame of (horizon, series) arrays; the key is put behind the name."""
        if self.long:
            parts = [
                pd.DataFrame(
                    {"unique_id": name, "ds": self.index[i], **{f"y{key}": v[:, i] for key, v in values.items()}}
                )
                for i, name in enumerate(self.names)
            ]
            return pd.concat(parts, ignore_index=True)
        columns = {f"{name}{key}": v[:, i] for i, name in enumerate(self.names) for key, v in values.items()}
        return pd.DataFrame(columns, self.index[0])

    @property
    def mean(self) -> pd.DataFrame:
        """Best by squared error."""
        return self.table({"": self._mean()})

    @property
    def median(self) -> pd.DataFrame:
        """Best by absolute error."""
        return self.quantile(0.5)

    def quantile(self, q: float) -> pd.DataFrame:
        """A quantile of each step.

        Raises:
            ValueError: q is not from 0 to 1.
        """
        if not 0 <= q <= 1:
            raise ValueError(f"q must be from 0 to 1, got {q}")
        return self.table({"": np.quantile(self.samples, q, axis=0)})

    def frame(self, level: float | None = None) -> pd.DataFrame:
        """The mean, and with `level` the central interval as `<name>_lower` and `<name>_upper`.

        Raises:
            ValueError: a level that is not between 0 and 1.
        """
        values = {"": self._mean()}
        if level is not None:
            if not 0 < level < 1:
                raise ValueError(f"level must be between 0 and 1, got {level}")
            low, high = np.quantile(self.samples, [(1 - level) / 2, (1 + level) / 2], axis=0)
            taken = {name for name in self.names if not self.long} & {f"{n}{e}" for n in self.names for e in _ENDS}
            if taken:
                raise ValueError(f"names of series must not be those of intervals, got {', '.join(sorted(taken))}")
            values |= dict(zip(_ENDS, (low, high), strict=True))
        return self.table(values)


class GPDForecaster(BaseEstimator):
    """Forecast series and fill their gaps with one diffusion model of windows.

    `fit` pretrains on the series themselves where they are long enough (ten windows of steps in all), otherwise it
    takes the weights that the package brings; either way it measures itself on the last steps against repeating the
    last period, keeps the figure (`skill_`, 1 minus the ratio of squared errors) and warns where it is not positive.
    Missing values are not known, and nothing more. The same `random_state` gives the same samples; those of a series
    do not depend on the others.

    Args:
        weights: "auto", "shipped" (train nothing), or "fit" (train always).
        length: steps of a window, if one is trained.
        period: steps of the main cycle, for the comparison; None: by the frequency.
        n_samples: draws of a forecast.
        guidance, scale: as `GPD.forecast_many`; scale None: calibrated on the held-out steps.
        steps: of pretraining, at most; a batch is 256 windows.
        hidden, depth: of the network.
        stretch: a series that fills half of the shipped weights' window or less is stretched to fill it, since what was
            learnt of short periods is least.
        recipe: "default", or "diffae" for the reference's rates and loss.
    """

    def __init__(
        self,
        *,
        weights: Literal["auto", "shipped", "fit"] = "auto",
        length: int = 192,
        period: int | None = None,
        n_samples: int = 100,
        guidance: str = "dps",
        scale: float | None = None,
        steps: int = 3000,
        hidden: int = 256,
        depth: int = 6,
        sampling_steps: int = 50,
        stretch: bool = True,
        recipe: Literal["default", "diffae"] = "default",
        valid: float = 0.2,
        random_state: int = 0,
        device: str = "auto",
    ) -> None:
        self.weights = weights
        self.length = length
        self.period = period
        self.n_samples = n_samples
        self.guidance = guidance
        self.scale = scale
        self.steps = steps
        self.hidden = hidden
        self.depth = depth
        self.sampling_steps = sampling_steps
        self.stretch = stretch
        self.recipe = recipe
        self.valid = valid
        self.random_state = random_state
        self.device = device

    def fit(self, series: Any, *, model: GPD | None = None, console: Console | None = None) -> "GPDForecaster":
        """Learn from series: a pandas series, a wide frame (a column a series), or a long one (unique_id, ds, y).

        Args:
            model: a trained model to take instead.

        Raises:
            ValueError: stamps that are not even, a series without a number, settings that cannot be.
        """
        self._check()
        self.parts_, self.long_ = parts_of(series)
        values = [part.to_numpy(dtype=float) for part, _ in self.parts_]
        total = sum(len(v) for v in values)
        enough = total >= 10 * self.length and max(map(len, values)) >= 2 * self.length
        train = model is None and (self.weights == "fit" or (self.weights == "auto" and enough))
        self.trained_ = train
        held = [max(1, min(int(self.valid * len(v)), self.length // 2)) for v in values]
        if train:
            longest, share = max(map(len, values)), 1 - self.valid
            if int(longest * share) < self.length:
                raise ValueError(
                    f"series must have at least {int(self.length / share) + 1} steps to train on windows of "
                    f"{self.length}, the longest has {longest}; weights='shipped' needs no more than a few"
                )
            recipe = Recipe.diffae(self.steps) if self.recipe == "diffae" else Recipe(steps=self.steps, patience=3)
            self.model_ = GPD(
                self.length, hidden=self.hidden, depth=self.depth, steps=self.sampling_steps,
                schedule="constant" if self.recipe == "diffae" else "linear",
            ).to(self._device())  # fmt: skip
            half, free = self.length // 2, self.guidance == "dps" and self.scale is None
            self.model_.fit(
                [line(v) for v in values], share, recipe=recipe, seed=self.random_state, console=console,
                calibrate=(half, half) if free and longest - int(longest * share) >= self.length else None,
            )  # fmt: skip
            self.history_ = self.model_.history_
        else:
            self.model_ = (model or GPD.pretrained()).to(self._device())
        self._measure(values, held)
        return self

    def _measure(self, values: list[NDArray[np.float64]], held: list[int]) -> None:
        """Squared errors on the last steps, from up to three origins, against repeating the last period."""
        errors, count = np.zeros(2), 0
        for (part, frequency), v, h in zip(self.parts_, values, held, strict=True):
            unit, period = np.nanvar(v) or 1.0, self.period or default_period(frequency, v)
            # three origins, where training has seen none of them
            turns = max(1, min(3, (int(self.valid * len(v)) if self.trained_ else len(v) // 2) // h))
            for end in range(len(v), len(v) - turns * h, -h):
                known, truth = v[: end - h], v[end - h : end]
                there = np.isfinite(truth)
                if not there.any() or not np.isfinite(known[h - self.model_.length :]).any():
                    continue
                naive = np.resize(line(known)[-min(period, len(known)) :], h)
                drawn = self._draw([known], h, min(self.n_samples, 20), [str(part.name)])[0]
                count += int(there.sum())
                for i, found in enumerate((drawn.mean(0), naive)):
                    errors[i] += ((found - truth)[there] ** 2).sum() / unit
        # a naive forecast that is all but perfect leaves nothing to gain
        self.skill_ = float(1 - errors[0] / max(errors[1], 1e-3 * count)) if count else float("nan")
        if not self.skill_ > 0:
            warnings.warn(
                f"no better than the last period again on the held-out steps (skill {self.skill_:.2f})", UserWarning,
                stacklevel=3,
            )  # fmt: skip

    def forecast(self, horizon: int, series: Any = None, *, n_samples: int | None = None) -> Forecast:
        """Samples of the next `horizon` steps of each series.

        Args:
            series: others than those of `fit`, in the same forms.

        Raises:
            ValueError: a horizon below 1, series that cannot be.
        """
        self._check_fitted()
        parts, long = (self.parts_, self.long_) if series is None else parts_of(series)
        names = [str(part.name) for part, _ in parts]
        count = self.n_samples if n_samples is None else n_samples
        drawn = self._draw([part.to_numpy(dtype=float) for part, _ in parts], horizon, count, names)
        index = [stamps_after(part.index, frequency, horizon) for part, frequency in parts]
        return Forecast(np.stack(drawn, 2), index, names, long)

    def predict(self, horizon: int, series: Any = None, *, level: float | None = None) -> pd.DataFrame:
        """The mean forecast as a frame, with the central interval of probability `level`."""
        return self.forecast(horizon, series).frame(level)

    def sample(self, n: int, horizon: int, series: Any = None) -> NDArray[np.float64]:
        """Draws of the future, (n, horizon, series)."""
        return self.forecast(horizon, series, n_samples=n).samples

    def impute(self, frame: Any, *, level: float | None = None) -> pd.DataFrame:
        """The frame on its grid with gaps filled by the samples' mean; what is known stays.

        Args:
            level: adds the central interval's columns.
        """
        self._check_fitted()
        parts, long = parts_of(frame)
        drawn = []
        for part, _ in parts:
            values = part.to_numpy(dtype=float)
            with _named(str(part.name)):
                drawn.append(
                    self.model_.impute(
                        values, n_samples=self.n_samples, guidance=self.guidance, scale=self.scale,
                        steps=self.sampling_steps, seed=self._seed(str(part.name)),
                    )[:, :, 0]
                )  # fmt: skip
        names, index = [str(part.name) for part, _ in parts], [part.index for part, _ in parts]
        if not long:
            return Forecast(np.stack(drawn, 2), index, names).frame(level)
        made = [
            Forecast(d[:, :, None], [i], [n], True).frame(level) for d, i, n in zip(drawn, index, names, strict=True)
        ]
        return pd.concat(made, ignore_index=True)

    def save(self, folder: Path | str) -> Path:
        """Write the model and the series' last steps."""
        self._check_fitted()
        folder = Path(folder)
        self.model_.save_pretrained(folder)
        rows = []
        for part, frequency in self.parts_:
            last = part.iloc[-max(self.model_.length, 3) :]
            rows.append(pd.DataFrame({"unique_id": str(part.name), "ds": last.index, "y": last.to_numpy()}))
            rows[-1]["frequency"] = frequency
        pd.concat(rows).to_csv(folder / _LAST, index=False)
        content = {"parameters": self.get_params(), "long": self.long_, "skill": self.skill_, "trained": self.trained_}
        write_atomically(folder / _CONTENT, json.dumps(content, indent=2) + "\n")
        return folder

    @classmethod
    def load(cls, folder: Path | str) -> "GPDForecaster":
        """Read what `save` wrote.

        Raises:
            ValueError: a file is missing or damaged.
        """
        folder = Path(folder)
        try:
            content = json.loads((folder / _CONTENT).read_text(encoding="utf-8"))
            self = cls(**content["parameters"])
            self.long_, self.skill_, self.trained_ = content["long"], content["skill"], content["trained"]
            table = pd.read_csv(folder / _LAST, dtype={"unique_id": str})
            self.parts_ = []
            for name, rows in table.groupby("unique_id", sort=False):
                frequency = None if rows["frequency"].isna().all() else str(rows["frequency"].iloc[0])
                stamps = rows["ds"] if frequency is None else pd.to_datetime(rows["ds"])
                self.parts_.append((pd.Series(rows["y"].to_numpy(), pd.Index(stamps), name=name), frequency))
        except (OSError, KeyError, TypeError, json.JSONDecodeError, pd.errors.ParserError) as error:
            raise ValueError(f"{folder} holds no saved forecaster: {error}") from error
        self.model_ = GPD.from_pretrained(folder).to(self._device())
        return self

    def _draw(
        self, values: list[NDArray[np.float64]], horizon: int, n_samples: int, names: list[str]
    ) -> list[NDArray[np.float64]]:
        """(samples, horizon) of each series; those of equal length in one batch."""
        found: list[Any] = [None] * len(values)
        keep = [v[-self.model_.length :] for v in values]
        for v, name in zip(keep, names, strict=True):
            if not np.isfinite(v).any():
                raise ValueError(
                    f"{name} must have a number among its last {self.model_.length} steps, all are missing"
                )
        for size in sorted({len(v) for v in keep}):
            at = [i for i, v in enumerate(keep) if len(v) == size]
            times = 1 if self.trained_ or not self.stretch else max(1, self.model_.length // (size + horizon))
            drawn = self.model_.forecast_many(
                np.stack([_stretched(keep[i], times) for i in at])[:, :, None], horizon * times,
                n_samples=n_samples, guidance=self.guidance,
                scale=self.scale, steps=self.sampling_steps, seed=self.random_state,
                keys=[zlib.crc32(names[i].encode()) for i in at],
            )  # fmt: skip
            for i, d in zip(at, drawn, strict=True):
                found[i] = d[:, times - 1 :: times, 0]
        return found

    def _seed(self, name: str) -> int:
        return int(np.random.SeedSequence([self.random_state, zlib.crc32(name.encode())]).generate_state(1)[0])

    def _device(self) -> torch.device:
        automatic = "cuda" if torch.cuda.is_available() else "cpu"
        return torch.device(automatic if self.device == "auto" else self.device)

    def _check(self) -> None:
        if self.weights not in ("auto", "shipped", "fit"):
            raise ValueError(f"weights must be auto, shipped or fit, got {self.weights!r}")
        if self.recipe not in ("default", "diffae"):
            raise ValueError(f"recipe must be default or diffae, got {self.recipe!r}")
        if not 0 < self.valid < 1:
            raise ValueError(f"valid must be between 0 and 1, got {self.valid}")
        for name in ("length", "n_samples", "steps", "sampling_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")

    def _check_fitted(self) -> None:
        if not hasattr(self, "model_"):
            raise RuntimeError("call fit first; weights='shipped' trains nothing")


class _named:
    """The series' name before a refusal."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if isinstance(error, ValueError):
            raise ValueError(f"{self.name}: {error}") from error


def _stretched(values: NDArray[np.float64], times: int) -> NDArray[np.float64]:
    """Each step `times` steps long, by straight lines between neighbours; what touches a gap is a gap."""
    if times == 1:
        return values
    return np.interp(np.arange((len(values) - 1) * times + 1) / times, np.arange(len(values)), values)


def line(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The series with its gaps as straight lines."""
    at, known = np.arange(len(values)), np.isfinite(values)
    return np.interp(at, at[known], values[known])


def parts_of(series: Any) -> tuple[list[tuple[pd.Series, str | None]], bool]:
    """Each series on its grid, with its frequency; and whether they came as a long table."""
    if isinstance(series, pd.Series):
        series = series.to_frame(name=series.name if series.name is not None else "y")
    if not isinstance(series, pd.DataFrame):
        array = np.asarray(series)
        if array.ndim not in (1, 2) or array.dtype.kind not in "biuf":
            raise ValueError(f"series must be pandas, or numbers of one or two dimensions, got {type(series).__name__}")
        array = array[:, None] if array.ndim == 1 else array
        series = pd.DataFrame(array, columns=["y"] if array.shape[1] == 1 else [f"y{i}" for i in range(array.shape[1])])
    long = {"unique_id", "ds", "y"} <= set(series.columns)
    found: list[tuple[pd.Series, str | None]] = []
    if long:
        for name, rows in series.groupby("unique_id", sort=False):
            frame, frequency = on_grid(rows.set_index("ds")[["y"]], str(name))
            found.append((frame["y"].rename(str(name)), frequency))
    else:
        names = [str(column) for column in series.columns]
        if len(set(names)) < len(names):
            raise ValueError(f"series must have names of their own, got {', '.join(names)}")
        frame, frequency = on_grid(series)
        found = [(frame[column].rename(str(column)), frequency) for column in frame.columns]
    for part, _ in found:
        try:
            values = part.to_numpy(dtype=float)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{part.name} must hold numbers: {error}") from error
        if np.isinf(values).any():
            raise ValueError(f"{part.name} must be finite; empty cells mark what is missing")
        if not np.isfinite(values).any():
            raise ValueError(f"{part.name} must have at least one number, all {len(values)} are missing")
    if not found:
        raise ValueError("series must hold at least one series")
    return found, long
