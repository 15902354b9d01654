"""scikit-learn estimators: classify sequences with `S4Classifier`, forecast series with `S4Forecaster`."""

import json
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, check_random_state, validate_data

from s4_impl.data import forecasting_windows
from s4_impl.model import S4Model
from s4_impl.optim import adamw
from shared_impl.results import write_atomically
from shared_impl.train import TrainConfig, cosine_with_warmup, fit

__all__ = ["S4Classifier", "S4Forecaster"]

_FILE = "estimator.json"


class _Estimator(BaseEstimator):
    """Training, prediction in batches, and saving without pickle, which both estimators share."""

    model_: S4Model
    mean_: np.ndarray
    scale_: np.ndarray

    def _check_settings(self) -> None:
        for name in ("d_model", "d_state", "n_layers", "epochs", "batch_size"):
            value = getattr(self, name)
            if not isinstance(value, int | np.integer) or value < 1:
                raise ValueError(f"{name} must be a positive integer, got {value!r}")
        for name in ("lr",):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)!r}")

    def _device(self) -> torch.device:
        device: str = self.device  # type: ignore[attr-defined]
        return torch.device("cuda" if device == "auto" and torch.cuda.is_available() else device.replace("auto", "cpu"))

    def _train(self, inputs: np.ndarray, targets: np.ndarray, **model: Any) -> None:
        """Build the model and train it on the inputs, standardised by `mean_` and `scale_`."""
        settings: Any = self
        seed = int(check_random_state(settings.random_state).randint(2**31 - 1))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.model_ = S4Model(
                inputs.shape[2], d_model=settings.d_model, d_state=settings.d_state, n_layers=settings.n_layers,
                n_ssm=1, dropout=settings.dropout, **model,
            ).to(self._device())  # fmt: skip
        optimizer = adamw(self.model_, settings.lr, settings.weight_decay)
        steps = settings.epochs * -(-len(inputs) // settings.batch_size)
        fit(
            self.model_,
            lambda net, batch: net.loss(*batch),
            (self._standardised(inputs), torch.from_numpy(targets)),
            optimizer=optimizer,
            scheduler=cosine_with_warmup(optimizer, steps, warmup_steps=steps // 10),
            config=TrainConfig(epochs=settings.epochs, batch_size=settings.batch_size, seed=seed, grad_clip=1.0),
            out_dir=None,
        )
        self.model_.cpu().eval()

    def _set_scale(self, values: np.ndarray) -> None:
        """Mean and standard deviation of each channel (the last axis); 1 for a channel that is constant."""
        flat = values.reshape(-1, values.shape[-1])
        self.mean_, spread = flat.mean(axis=0), flat.std(axis=0)
        self.scale_ = np.where(spread > 0, spread, 1.0)

    def _standardised(self, inputs: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(((inputs - self.mean_) / self.scale_).astype(np.float32))

    @torch.no_grad()
    def _outputs(self, inputs: np.ndarray) -> np.ndarray:
        batches = self._standardised(inputs).split(256)
        return torch.cat([self.model_(batch) for batch in batches]).double().numpy()

    def save(self, folder: Path | str) -> Path:
        """Write the fitted estimator: weights as safetensors, the rest as JSON.

        Raises:
            NotFittedError: before `fit`.
        """
        check_is_fitted(self, "model_")
        folder = Path(folder)
        self.model_.save_pretrained(folder)
        parameters = self.get_params()
        if isinstance(parameters.get("random_state"), np.random.RandomState):
            parameters["random_state"] = None  # its state belongs to the past fit
        content = {
            "estimator": type(self).__name__,
            "parameters": parameters,
            "mean": self.mean_.tolist(),
            "scale": self.scale_.tolist(),
            **self._fitted(),
        }
        write_atomically(folder / _FILE, json.dumps(content, indent=2) + "\n")
        return folder

    @classmethod
    def load(cls, folder: Path | str) -> Any:
        """Read what `save` wrote.

        Raises:
            ValueError: if the folder holds another estimator.
        """
        content = json.loads((Path(folder) / _FILE).read_text(encoding="utf-8"))
        if content["estimator"] != cls.__name__:
            raise ValueError(f"{folder} holds a {content['estimator']}, not a {cls.__name__}")
        estimator = cls(**content["parameters"])
        estimator.model_ = S4Model.from_pretrained(folder).eval()
        estimator.mean_, estimator.scale_ = np.array(content["mean"]), np.array(content["scale"])
        estimator._restore(content)
        return estimator

    def _fitted(self) -> dict[str, Any]:
        raise NotImplementedError

    def _restore(self, content: dict[str, Any]) -> None:
        raise NotImplementedError


class S4Classifier(ClassifierMixin, _Estimator):
    """Classify sequences of one length: X is (n, length) or (n, length, channels).

    Channels are standardised; the model is an S4 with `n_layers` blocks, mean-pooled. The same `random_state` gives
    the same model.

    Args:
        d_model, d_state, n_layers, dropout, bidirectional: of `S4Model`.
        lr, weight_decay, epochs, batch_size: of the training, AdamW with a cosine schedule.
        device: "cpu", "cuda", or "auto".

    Example:
        >>> from sklearn.datasets import load_digits
        >>> X, y = load_digits(return_X_y=True)
        >>> S4Classifier(epochs=10, random_state=0).fit(X[:1500], y[:1500]).score(X[1500:], y[1500:])  # doctest: +SKIP
    """

    def __init__(
        self,
        *,
        d_model: int = 48,
        d_state: int = 32,
        n_layers: int = 2,
        dropout: float = 0.1,
        bidirectional: bool = True,
        lr: float = 0.01,
        weight_decay: float = 0.01,
        epochs: int = 20,
        batch_size: int = 32,
        device: Literal["auto", "cpu", "cuda"] = "cpu",
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        self.d_model = d_model
        self.d_state = d_state
        self.n_layers = n_layers
        self.dropout = dropout
        self.bidirectional = bidirectional
        self.lr = lr
        self.weight_decay = weight_decay
        self.epochs = epochs
        self.batch_size = batch_size
        self.device = device
        self.random_state = random_state

    def fit(self, X: Any, y: Any) -> "S4Classifier":
        """Train on sequences X and their labels y.

        Raises:
            ValueError: if X is neither (n, length) nor (n, length, channels), has NaN or infinite values, or y has
                fewer than two classes.
        """
        self._check_settings()
        X, y = validate_data(self, X, y, allow_nd=True, dtype=np.float64)
        check_classification_targets(y)
        self.classes_, codes = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(f"y must have at least two classes, got one class: {self.classes_[0]!r}")
        inputs = self._sequences(X)
        self.n_channels_in_ = inputs.shape[2]
        self._set_scale(inputs)
        self._train(inputs, codes.astype(np.int64), d_output=len(self.classes_), bidirectional=self.bidirectional)
        return self

    def decision_function(self, X: Any) -> np.ndarray:
        """Logits, (n, classes); for two classes, as scikit-learn has it, their difference, (n,)."""
        logits = self._logits(X)
        return logits[:, 1] - logits[:, 0] if len(self.classes_) == 2 else logits

    def predict_proba(self, X: Any) -> np.ndarray:
        """Probabilities of the classes in the order of `classes_`, (n, classes)."""
        logits = self._logits(X)
        odds = np.exp(logits - logits.max(axis=1, keepdims=True))
        return odds / odds.sum(axis=1, keepdims=True)

    def predict(self, X: Any) -> np.ndarray:
        """The most probable label of each sequence, (n,)."""
        best = self._logits(X).argmax(axis=1)
        return self.classes_[best]

    def _logits(self, X: Any) -> np.ndarray:
        check_is_fitted(self, "model_")
        X = validate_data(self, X, allow_nd=True, dtype=np.float64, reset=False)
        inputs = self._sequences(X)
        if inputs.shape[2] != self.n_channels_in_:
            raise ValueError(f"X must have {self.n_channels_in_} channels as in fit, got {inputs.shape[2]}")
        return self._outputs(inputs)

    @staticmethod
    def _sequences(X: np.ndarray) -> np.ndarray:
        if X.ndim == 2:
            return X[:, :, None]
        if X.ndim == 3:
            return X
        raise ValueError(f"X must be (n, length) or (n, length, channels), got shape {X.shape}")

    def _fitted(self) -> dict[str, Any]:
        names: Any = getattr(self, "feature_names_in_", None)
        return {
            "classes": self.classes_.tolist(),
            "dtype": "object" if self.classes_.dtype == object else self.classes_.dtype.str,
            "length": self.n_features_in_,
            "channels": self.n_channels_in_,
            "names": None if names is None else names.tolist(),
        }

    def _restore(self, content: dict[str, Any]) -> None:
        self.classes_ = np.array(content["classes"], dtype=content["dtype"])
        self.n_features_in_, self.n_channels_in_ = content["length"], content["channels"]
        if content["names"] is not None:
            self.feature_names_in_ = np.array(content["names"], dtype=object)


class S4Forecaster(_Estimator):
    """Forecast a regularly sampled series: fit on one long series, predict what follows a piece of it.

    Args:
        horizon: steps to forecast.
        context: steps before it that the model sees.
        stride: distance of training windows.
        relative: forecast the change from the last value of the context, not the value: for series whose level wanders.
        d_model, d_state, n_layers, dropout: of `S4Model`.
        lr, weight_decay, epochs, batch_size: of the training, AdamW with a cosine schedule.

    Example:
        >>> t = np.arange(2000)
        >>> model = S4Forecaster(horizon=24, context=96, epochs=3).fit(np.sin(t / 5))  # doctest: +SKIP
        >>> model.predict(np.sin(t / 5)[-96:]).shape  # doctest: +SKIP
        (24,)
    """

    def __init__(
        self,
        *,
        horizon: int = 24,
        context: int = 168,
        stride: int = 1,
        relative: bool = True,
        d_model: int = 32,
        d_state: int = 32,
        n_layers: int = 2,
        dropout: float = 0.1,
        lr: float = 0.004,
        weight_decay: float = 0.01,
        epochs: int = 10,
        batch_size: int = 50,
        device: Literal["auto", "cpu", "cuda"] = "cpu",
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        self.horizon = horizon
        self.context = context
        self.stride = stride
        self.relative = relative
        self.d_model = d_model
        self.d_state = d_state
        self.n_layers = n_layers
        self.dropout = dropout
        self.lr = lr
        self.weight_decay = weight_decay
        self.epochs = epochs
        self.batch_size = batch_size
        self.device = device
        self.random_state = random_state

    def fit(self, X: Any, y: None = None) -> "S4Forecaster":
        """Train on the series X, (length,) or (length, channels); y is ignored.

        Raises:
            ValueError: if the series is shorter than context + horizon, of another shape, or not finite.
        """
        self._check_settings()
        for name in ("horizon", "context", "stride"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)!r}")
        series = self._series(X)
        if len(series) < self.context + self.horizon:
            raise ValueError(
                f"X must have at least context + horizon = {self.context + self.horizon} steps, got {len(series)}"
            )
        self.flat_ = np.ndim(X) == 1
        past, future = forecasting_windows(
            series, 0, len(series), context=self.context, horizon=self.horizon, stride=self.stride
        )
        self._set_scale(series)
        if self.relative:
            self.mean_ = np.zeros_like(self.mean_)  # each window has a level of its own
        targets = ((future - self._level(past)) / self.scale_).astype(np.float32)
        self._train(self._with_blank(past), targets, d_output=series.shape[1], task="regress", horizon=self.horizon)
        return self

    def predict(self, X: Any) -> np.ndarray:
        """The `horizon` steps that follow the series X, of which the last `context` steps are used.

        Returns (horizon,) or (horizon, channels), as the series of `fit`.

        Raises:
            ValueError: if X is shorter than the context or has other channels.
        """
        check_is_fitted(self, "model_")
        series = self._series(X)
        if len(series) < self.context or series.shape[1] != len(self.mean_):
            raise ValueError(
                f"X must be (at least {self.context} steps, {len(self.mean_)} channels), got {series.shape}"
            )
        forecast = self._forecast(series[None, -self.context :])[0]
        return forecast[:, 0] if self.flat_ else forecast

    def score(self, X: Any, y: None = None) -> float:
        """Minus the mean squared error over all forecasts within the series X, in its own units."""
        check_is_fitted(self, "model_")
        series = self._series(X)
        past, future = forecasting_windows(series, 0, len(series), context=self.context, horizon=self.horizon)
        return -float(np.square(self._forecast(past) - future).mean())

    def _forecast(self, past: np.ndarray) -> np.ndarray:
        return self._outputs(self._with_blank(past)) * self.scale_ + self._level(past)

    def _level(self, past: np.ndarray) -> np.ndarray:
        """What the forecast is relative to, (n, 1, channels): each context's last value, or the mean of the series."""
        return past[:, -1:] if self.relative else np.broadcast_to(self.mean_, (len(past), 1, past.shape[2]))

    def _with_blank(self, past: np.ndarray) -> np.ndarray:
        """The context without its level and, where the forecast will stand, 0; `mean_` is put back for `_outputs`."""
        blank = np.zeros((len(past), self.horizon, past.shape[2]))
        return np.concatenate([past - self._level(past), blank], axis=1) + self.mean_

    @staticmethod
    def _series(X: Any) -> np.ndarray:
        series = np.asarray(X, dtype=np.float64)
        if series.ndim not in (1, 2) or series.size == 0:
            raise ValueError(f"X must be a series (length,) or (length, channels), got shape {series.shape}")
        if not np.isfinite(series).all():
            raise ValueError("X must not contain NaN or infinity")
        return series[:, None] if series.ndim == 1 else series

    def _fitted(self) -> dict[str, Any]:
        return {"flat": self.flat_}

    def _restore(self, content: dict[str, Any]) -> None:
        self.flat_ = content["flat"]
