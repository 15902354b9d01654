"""`TPGNForecaster`: from a pandas series or frame to a forecast with intervals, in the manner of scikit-learn."""

import inspect
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from rich.console import Console
from safetensors.numpy import load_file as load_arrays
from safetensors.numpy import save_file as save_arrays
from safetensors.torch import load_file, save_file
from sklearn.base import BaseEstimator
from torch import Tensor, nn

from pgn_impl.calendar import feature_names, time_features
from pgn_impl.conformal import radius
from pgn_impl.models import MODELS, UNTRAINED, build, model_class, settings
from pgn_impl.timeline import as_frame, default_period, regular
from pgn_impl.training import Recipe, errors, predict, train
from pgn_impl.windows import Windows, sliding_windows
from shared_impl.results import write_atomically

__all__ = ["TPGNForecaster", "shortest_series"]

_FORMAT = 1
_CONTENT, _WEIGHTS, _STATE = "forecaster.json", "model.safetensors", "state.safetensors"
_GIVEN = {"self", "seq_len", "pred_len", "c_in", "time_features"}  # options that the data decide


def _borders(length: int, valid: float, calibration: float) -> tuple[int, int]:
    """Where validation and calibration begin."""
    last = int(length * calibration + 1e-9)
    return length - last - int(length * valid + 1e-9), length - last


def shortest_series(window: int, horizon: int, valid: float, calibration: float) -> int:
    """Steps that a series needs so that each part has a window to learn, choose, and calibrate from."""
    length = window + horizon
    while True:
        first, second = _borders(length, valid, calibration)
        enough = first >= window + horizon and second - first >= horizon
        if enough and (calibration == 0 or length - second >= horizon):
            return length
        length += 1


class TPGNForecaster(BaseEstimator):
    """Forecast a periodic series from its last window.

    The series is split in time: the first part trains, the next decides when to stop, the last calibrates the
    intervals. Values are standardised by the training part. There are no exogenous inputs, by design: a forecast
    depends on the last `window` values and on what their time stamps tell. The same `random_state` gives the same
    forecasts.

    Intervals are split conformal: around each step ahead, the quantile of the absolute errors that forecasts of the
    calibration part made at that step. They cover as promised where the future behaves as that part did; its windows
    overlap, so that there are fewer independent errors than their number says.

    Args:
        horizon: steps to forecast.
        window: steps that a forecast is made from, at least two periods; None: seven periods.
        period: steps of the main cycle; None: a day of hours or minutes, a week of days, a year of anything longer.
        freq: of the time stamps, as pandas writes it; None: found.
        d_model, norm: of `TPGN`. `norm` takes level and scale out of each window: right where they wander.
        model: "tpgn", or another of `pgn_impl.models.MODELS`, to compare under equal conditions.
        options: more options of the model, for example {"long": "gru"}.
        valid, calibration: shares of the series; `calibration=0` gives no intervals.
        fill: None refuses gaps, missing values and irregular stamps; "linear", "previous" or "seasonal" fills them
            (see `pgn_impl.timeline.regular`).
        epochs, patience, batch_size, lr: of the training (see `pgn_impl.training.Recipe`).
        device: "cpu", "cuda", or "auto".
    """

    def __init__(
        self,
        horizon: int = 168,
        *,
        window: int | None = None,
        period: int | None = None,
        freq: str | None = None,
        d_model: int = 8,
        norm: bool = True,
        model: str = "tpgn",
        options: dict[str, Any] | None = None,
        valid: float = 0.15,
        calibration: float = 0.15,
        fill: str | None = None,
        epochs: int = 25,
        patience: int = 5,
        batch_size: int = 32,
        lr: float = 1e-3,
        random_state: int = 0,
        device: str = "auto",
    ) -> None:
        self.horizon = horizon
        self.window = window
        self.period = period
        self.freq = freq
        self.d_model = d_model
        self.norm = norm
        self.model = model
        self.options = options
        self.valid = valid
        self.calibration = calibration
        self.fill = fill
        self.epochs = epochs
        self.patience = patience
        self.batch_size = batch_size
        self.lr = lr
        self.random_state = random_state
        self.device = device

    def fit(self, series: Any, timestamps: Any = None, *, console: Console | None = None) -> "TPGNForecaster":
        """Learn from a series.

        Args:
            series: a pandas series or frame with a DatetimeIndex, or an array with `timestamps`.
            console: where progress goes.

        Raises:
            ValueError: for a series that is constant, too short, irregular (without `fill`) or not of finite numbers,
                and for settings that cannot be.
        """
        self._check_settings()
        frame, freq = regular(as_frame(series, timestamps), freq=self.freq, fill=self.fill, period=self.period)
        features = feature_names(freq)
        self.frequency_ = freq
        self.period_ = default_period(freq) if self.period is None else self.period
        self.window_ = 7 * self.period_ if self.window is None else self.window
        self.columns_ = [str(name) for name in frame.columns]
        least = shortest_series(self.window_, self.horizon, self.valid, self.calibration)
        if len(frame) < least:
            raise ValueError(
                f"series must have at least {least} steps for a window of {self.window_}, a horizon of {self.horizon}, "
                f"valid {self.valid} and calibration {self.calibration}, got {len(frame)}"
            )
        first, second = _borders(len(frame), self.valid, self.calibration)
        known = frame.to_numpy()[:first]
        flat = (known == known[0]).all(0)
        if flat.all():
            raise ValueError(f"series must not be constant, got {known[0].tolist()} at all of the {first} steps")
        self.mean_, self.scale_ = known.mean(0), np.where(flat, 1.0, known.std(0))
        model = self._build(len(features))
        values, marks = self._inputs(frame)

        def windows(start: int, stop: int) -> Windows:
            return sliding_windows(values[start:stop], marks[start:stop], self.window_, self.horizon)

        training, validation = windows(0, first), windows(first - self.window_, second)
        self.history_: list[dict[str, Any]] = []
        if self.model in UNTRAINED:
            self.history_.append(errors(model, validation))
        else:
            batch_size = min(self.batch_size, training.n)
            recipe = Recipe(epochs=self.epochs, patience=self.patience, batch_size=batch_size, lr=self.lr)
            model = model.to(self._device())
            self.history_ = train(model, training, validation, recipe, seed=self.random_state, console=console).history
        self.model_ = model.cpu().eval()
        self.scores_: NDArray[np.float32] | None = None
        if self.calibration:
            later = windows(second - self.window_, len(frame))
            self.scores_ = (predict(self.model_, later) - later.y).abs().numpy()
        self.last_ = frame.iloc[-self.window_ :]
        return self

    def predict(self, series: Any = None, timestamps: Any = None, *, level: float | None = None) -> pd.DataFrame:
        """Forecast what follows a series.

        Args:
            series: what came last, at least a window of it, as for `fit`; None: the series of the fit.
            level: probability of the intervals; None: without. They are the columns `<name>_lower` and `<name>_upper`.

        Raises:
            RuntimeError: before `fit`.
            ValueError: for a series that is too short, irregular, or of other variables; for a level that the
                calibration part is too short for.
        """
        self._check_fitted("predict")
        if level is not None and self.scores_ is None:
            raise ValueError("level needs a forecaster that was fitted with calibration above 0")
        width = None if level is None or self.scores_ is None else radius(self.scores_, level) * self.scale_
        frame = self.last_ if series is None else self._recent(series, timestamps)
        values, marks = self._inputs(frame)
        index = pd.date_range(frame.index[-1], periods=self.horizon + 1, freq=self.frequency_)[1:]
        future = torch.from_numpy(time_features(index, self.frequency_).astype(np.float32))
        with torch.no_grad():
            found = self.model_(values[None], marks[None], future[None])[0].double().numpy() * self.scale_ + self.mean_
        table = {}
        for i, name in enumerate(self.columns_):
            table[name] = found[:, i]
            if width is not None:
                table[f"{name}_lower"], table[f"{name}_upper"] = found[:, i] - width[:, i], found[:, i] + width[:, i]
        return pd.DataFrame(table, index)

    def save(self, folder: Path | str) -> Path:
        """Write the fitted forecaster: arrays as safetensors, the rest as JSON.

        Raises:
            RuntimeError: before `fit`.
        """
        self._check_fitted("save")
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        save_file({name: value.contiguous() for name, value in self.model_.state_dict().items()}, folder / _WEIGHTS)
        state = {"mean": self.mean_, "scale": self.scale_, "last": self.last_.to_numpy().copy()}
        if self.scores_ is not None:
            state["scores"] = self.scores_
        save_arrays(state, folder / _STATE)
        assert isinstance(self.last_.index, pd.DatetimeIndex)
        content = {
            "format": _FORMAT,
            "parameters": self.get_params(),
            "frequency": self.frequency_,
            "period": self.period_,
            "window": self.window_,
            "columns": self.columns_,
            "end": self.last_.index[-1].isoformat(),
            "zone": None if self.last_.index.tz is None else str(self.last_.index.tz),
            "history": self.history_,
        }
        write_atomically(folder / _CONTENT, json.dumps(content, indent=2) + "\n")
        return folder

    @classmethod
    def load(cls, folder: Path | str) -> "TPGNForecaster":
        """Read what `save` wrote.

        Raises:
            FileNotFoundError: if a file of it is not there.
            ValueError: if it is of another format, or damaged.
        """
        folder = Path(folder)
        for name in (_CONTENT, _WEIGHTS, _STATE):
            if not (folder / name).is_file():
                raise FileNotFoundError(f"{folder} holds no saved forecaster: {name} is missing")
        try:
            content = json.loads((folder / _CONTENT).read_text(encoding="utf-8"))
            if content["format"] != _FORMAT:
                raise ValueError(f"format {content['format']} is not {_FORMAT}")
            self = cls(**content["parameters"])
            state = load_arrays(folder / _STATE)
            self.frequency_, self.period_ = content["frequency"], content["period"]
            self.window_, self.columns_ = content["window"], content["columns"]
            self.history_ = content["history"]
            self.mean_, self.scale_, self.scores_ = state["mean"], state["scale"], state.get("scores")
            end = pd.Timestamp(content["end"])
            end = end if content["zone"] is None else end.tz_convert(content["zone"])
            index = pd.date_range(end=end, periods=self.window_, freq=self.frequency_)
            self.last_ = pd.DataFrame(state["last"], index, self.columns_)
            self.model_ = self._build(len(feature_names(self.frequency_)))
            self.model_.load_state_dict(load_file(folder / _WEIGHTS))
        except (KeyError, TypeError, ValueError, RuntimeError, OSError) as error:
            raise ValueError(f"{folder} holds a forecaster that cannot be read: {error}") from error
        self.model_.eval()
        return self

    def _recent(self, series: Any, timestamps: Any) -> pd.DataFrame:
        """The last window of a series that `predict` got."""
        frame = as_frame(series, timestamps)
        if not hasattr(series, "index") and len(frame.columns) == len(self.columns_):
            frame.columns = pd.Index(self.columns_)  # an array has no names of its own
        missing = [name for name in self.columns_ if name not in frame.columns]
        if missing:
            raise ValueError(f"series must have the columns {', '.join(self.columns_)}; {', '.join(missing)} missing")
        frame, _ = regular(frame[self.columns_], freq=self.frequency_, fill=self.fill, period=self.period_)
        if len(frame) < self.window_:
            raise ValueError(f"series must have at least the window's {self.window_} steps, got {len(frame)}")
        return frame.iloc[-self.window_ :]

    def _inputs(self, frame: pd.DataFrame) -> tuple[Tensor, Tensor]:
        """Standardised values, (length, c), and the features of their time stamps, (length, features)."""
        assert isinstance(frame.index, pd.DatetimeIndex)
        scaled = (frame.to_numpy() - self.mean_) / self.scale_
        marks = time_features(frame.index, self.frequency_)
        return torch.from_numpy(scaled.astype(np.float32)), torch.from_numpy(marks.astype(np.float32))

    def _build(self, n_features: int) -> nn.Module:
        chosen = settings(self.model, pred_len=self.horizon, period=self.period_)
        if self.model == "tpgn":
            chosen |= {"d_model": self.d_model, "norm": self.norm}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.random_state)
            return build(
                self.model,
                seq_len=self.window_,
                pred_len=self.horizon,
                c_in=len(self.columns_),
                time_features=n_features,
                **chosen | (self.options or {}),
            )

    def _device(self) -> torch.device:
        automatic = "cuda" if torch.cuda.is_available() else "cpu"
        return torch.device(automatic if self.device == "auto" else self.device)

    def _check_settings(self) -> None:
        if self.model not in MODELS:
            raise ValueError(f"model must be one of {', '.join(MODELS)}, got {self.model!r}")
        for name in ("horizon", "window", "period"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if not 0 < self.valid < 1:
            raise ValueError(f"valid must be between 0 and 1, got {self.valid}")
        if not 0 <= self.calibration < 1 - self.valid:
            raise ValueError(f"calibration must be from 0 to below 1 - valid, got {self.calibration}")
        known = set(inspect.signature(model_class(self.model).__init__).parameters) - _GIVEN
        unknown = sorted(set(self.options or {}) - known)
        if unknown:
            raise ValueError(
                f"options must be those of {self.model}, got {unknown}; there are {', '.join(sorted(known))}"
            )

    def _check_fitted(self, method: str) -> None:
        if not hasattr(self, "model_"):
            raise RuntimeError(f"call fit before {method}")
