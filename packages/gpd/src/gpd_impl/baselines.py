"""What a forecast is compared with: naive, AR(p), exponential smoothing, trained networks, conditional diffusion."""

from collections.abc import Callable
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from rich.console import Console
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from .data import Series
from .diffusion import GaussianDiffusion
from .network import MLPDenoiser
from .sampler import DDIMSampler, RowNoise
from .training import Recipe, Windows, optimise

__all__ = [
    "AR", "BASELINES", "ETS", "Baseline", "ConditionalDiffusion", "DLinear", "NBeatsMLP", "PatchTSTSmall",
    "SeasonalNaive", "linear_interpolation",
]  # fmt: skip

Histories = Float[np.ndarray, "n history channels"]
Futures = Float[np.ndarray, "n samples horizon channels"]


@runtime_checkable
class Baseline(Protocol):
    """Learn from the training and validation parts of a series, then forecast windows; a point is one sample."""

    def fit(
        self, series: Series, history: int, horizon: int, *, seed: int = 0, console: Console | None = None
    ) -> None: ...

    def forecast(self, histories: Histories, horizon: int, *, n_samples: int = 20, seed: int = 0) -> Futures: ...


class SeasonalNaive:
    """The last period again and again; `period` 1 is the last value."""

    def __init__(self, period: int = 24) -> None:
        if period < 1:
            raise ValueError(f"period must be at least 1, got {period}")
        self.period = period

    def fit(self, series: Series, history: int, horizon: int, *, seed: int = 0, console: Console | None = None) -> None:
        """Take the series' period, or the last value where a history is shorter."""
        self.period = series.period if series.period <= history else 1

    def forecast(self, histories: Histories, horizon: int, *, n_samples: int = 1, seed: int = 0) -> Futures:
        """One sample."""
        last = histories[:, -min(self.period, histories.shape[1]) :]
        times = -(-horizon // last.shape[1])
        return np.tile(last, (1, times, 1))[:, None, :horizon]


class AR:
    """An autoregression of `order` steps for each variable, by least squares; paths with its residuals' noise."""

    def __init__(self, order: int = 48, ridge: float = 1e-3) -> None:
        self.order, self.ridge = order, ridge

    def fit(self, series: Series, history: int, horizon: int, *, seed: int = 0, console: Console | None = None) -> None:
        """Coefficients of each variable, on the training part."""
        p = self.order = min(self.order, history)
        windows = np.lib.stride_tricks.sliding_window_view(series.part("train").astype(float), p + 1, 0)
        self.weights, self.spread = [], []
        for x in windows.transpose(1, 0, 2):
            inputs = np.concatenate([x[:, :p], np.ones((len(x), 1))], 1)
            gram = inputs.T @ inputs + self.ridge * len(x) / 100 * np.eye(p + 1)
            w = np.linalg.solve(gram, inputs.T @ x[:, p])
            self.weights.append(w)
            self.spread.append(float((x[:, p] - inputs @ w).std()))

    def forecast(self, histories: Histories, horizon: int, *, n_samples: int = 20, seed: int = 0) -> Futures:
        """Paths, the mean of which is the forecast."""
        n, _, channels = histories.shape
        rng = np.random.default_rng(seed)
        path = np.repeat(histories[:, None, -self.order :].astype(float), n_samples, 1)
        weights, spread = np.stack(self.weights), np.array(self.spread)
        for _ in range(horizon):
            ahead = np.einsum("nspc,cp->nsc", path[:, :, -self.order :], weights[:, :-1]) + weights[:, -1]
            ahead = ahead + spread * rng.standard_normal((n, n_samples, channels))
            path = np.concatenate([path, ahead[:, :, None]], 2)
        return path[:, :, self.order :]


class ETS:
    """Additive exponential smoothing with a damped trend and a season, each window by itself (statsmodels)."""

    def __init__(self, period: int = 24) -> None:
        self.period = period

    def fit(self, series: Series, history: int, horizon: int, *, seed: int = 0, console: Console | None = None) -> None:
        """Nothing is learnt before the window; the season is left out of histories shorter than two periods."""
        self.period = series.period if 2 * series.period <= history else 1

    def forecast(self, histories: Histories, horizon: int, *, n_samples: int = 20, seed: int = 0) -> Futures:
        """One sample, the point forecast.

        Raises:
            ImportError: statsmodels is not installed.
        """
        import warnings

        from statsmodels.tsa.holtwinters import ExponentialSmoothing

        out = np.empty((len(histories), 1, horizon, histories.shape[2]))
        season = "add" if self.period > 1 else None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for i, window in enumerate(histories.astype(float)):
                for c in range(window.shape[1]):
                    model = ExponentialSmoothing(
                        window[:, c], trend="add", damped_trend=True, seasonal=season,
                        seasonal_periods=self.period if season else None,
                    )  # fmt: skip
                    out[i, 0, :, c] = model.fit().forecast(horizon)
        return out


class _Trained:
    """A network from (rows, history) to (rows, horizon), all variables alike; the best on validation stays."""

    steps, lr, batch_size = 1000, 1e-3, 256

    def __init__(self, steps: int | None = None) -> None:
        self.steps = steps or self.steps

    def build(self, history: int, horizon: int) -> nn.Module:
        raise NotImplementedError

    def fit(self, series: Series, history: int, horizon: int, *, seed: int = 0, console: Console | None = None) -> None:
        """Least squares on windows of the training part."""
        training = Windows([series.part("train")], history + horizon)
        valid = Windows([series.part("valid", before=history)], history + horizon)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.net = self.build(history, horizon)
            held = valid.take(torch.arange(0, len(valid), max(1, len(valid) // 64))).flatten(0, 1)
            recipe = Recipe(self.steps, self.batch_size, self.lr, 1e-5, 1e-4, 0.99, eval_every=100, patience=5)

            def loss(net: nn.Module, generator: torch.Generator) -> Tensor:
                rows = training.draw(self.batch_size, generator, joint=False)[:, 0]
                return mse_loss(net(rows[:, :history]), rows[:, history:])

            def held_out(net: nn.Module) -> float:
                with torch.no_grad():
                    return float(mse_loss(net(held[:, :history]), held[:, history:]))

            optimise(self.net, loss, recipe, seed=seed, held_out=held_out, console=console)

    def forecast(self, histories: Histories, horizon: int, *, n_samples: int = 1, seed: int = 0) -> Futures:
        """One sample."""
        n, history, channels = histories.shape
        rows = torch.from_numpy(histories.transpose(0, 2, 1).reshape(n * channels, history).astype(np.float32))
        with torch.no_grad():
            out = torch.cat([self.net(part) for part in rows.split(2048)]).numpy()
        return out.reshape(n, channels, horizon).transpose(0, 2, 1)[:, None]


class _Decomposed(nn.Module):
    def __init__(self, history: int, horizon: int, kernel: int = 25) -> None:
        super().__init__()
        self.kernel = min(kernel, 2 * ((history - 1) // 2) + 1)
        self.trend, self.rest = nn.Linear(history, horizon), nn.Linear(history, horizon)
        for layer in (self.trend, self.rest):
            nn.init.constant_(layer.weight, 1 / history)

    def forward(self, x: Tensor) -> Tensor:
        half = self.kernel // 2
        padded = torch.cat([x[:, :1].expand(-1, half), x, x[:, -1:].expand(-1, half)], 1)
        trend = nn.functional.avg_pool1d(padded[:, None], self.kernel, 1)[:, 0]
        out: Tensor = self.trend(trend) + self.rest(x - trend)
        return out


class DLinear(_Trained):
    """Two linear maps, of a moving average and of what is left (Zeng et al. 2023); it reads levels as they are."""

    steps, lr = 3000, 2e-3

    def build(self, history: int, horizon: int) -> nn.Module:
        return _Decomposed(history, horizon)


class _ByWindow(nn.Module):
    """A network between normalising by the window and undoing it."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        mean, deviation = x.mean(1, keepdim=True), x.std(1, keepdim=True, correction=0) + 1e-5
        out: Tensor = self.net((x - mean) / deviation) * deviation + mean
        return out


class _Patches(nn.Module):
    def __init__(self, history: int, horizon: int, width: int = 32, patch: int = 16) -> None:
        super().__init__()
        self.patch, self.stride = min(patch, history), max(1, min(patch, history) // 2)
        count = (history - self.patch) // self.stride + 1
        self.embed = nn.Linear(self.patch, width)
        self.place = nn.Parameter(0.02 * torch.randn(count, width))
        layer = nn.TransformerEncoderLayer(width, 4, 4 * width, 0.1, "gelu", batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2)
        self.head = nn.Linear(count * width, horizon)

    def forward(self, x: Tensor) -> Tensor:
        patches = x[:, -(self.patch + (len(self.place) - 1) * self.stride) :].unfold(1, self.patch, self.stride)
        out: Tensor = self.head(self.encoder(self.embed(patches) + self.place).flatten(1))
        return out


class PatchTSTSmall(_Trained):
    """Patches of 16, two layers of attention 32 wide, one head for all (Nie et al. 2023, at a small size)."""

    steps, batch_size = 600, 128

    def build(self, history: int, horizon: int) -> nn.Module:
        return _ByWindow(_Patches(history, horizon))


class _Residual(nn.Module):
    def __init__(self, history: int, horizon: int, width: int = 256, blocks: int = 3) -> None:
        super().__init__()
        self.history = history

        def block() -> nn.Module:
            inner = [nn.Linear(history, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU()]
            return nn.Sequential(*inner, nn.Linear(width, history + horizon))

        self.blocks = nn.ModuleList([block() for _ in range(blocks)])

    def forward(self, x: Tensor) -> Tensor:
        total: Tensor | float = 0.0
        for block in self.blocks:
            out = block(x)
            x, total = x - out[:, : self.history], total + out[:, self.history :]
        assert isinstance(total, Tensor)
        return total


class NBeatsMLP(_Trained):
    """Blocks of an MLP that forecast, and take what they explained out of their input (Oreshkin et al. 2020)."""

    def build(self, history: int, horizon: int) -> nn.Module:
        return _ByWindow(_Residual(history, horizon))


class ConditionalDiffusion:
    """The same network and diffusion, of the future alone, the history beside x_k: trained for one split."""

    def __init__(self, steps: int = 3000, *, hidden: int = 256, depth: int = 6, sampling_steps: int = 25) -> None:
        self.steps, self.hidden, self.depth = steps, hidden, depth
        self.diffusion = GaussianDiffusion()
        self.sampler = DDIMSampler(sampling_steps, 1.0, 10.0)

    def fit(self, series: Series, history: int, horizon: int, *, seed: int = 0, console: Console | None = None) -> None:
        """Noise prediction on windows of the training part, normalised by their history."""
        training = Windows([series.part("train")], history + horizon)
        self.history = history
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.net = MLPDenoiser(history + horizon, self.hidden, self.depth)

        def loss(net: nn.Module, generator: torch.Generator) -> Tensor:
            rows = training.draw(256, generator, joint=False)[:, 0]
            past, mean, deviation = _by_history(rows[:, :history])
            future = ((rows[:, history:] - mean) / deviation).clamp(-10, 10)
            k = torch.randint(1, self.diffusion.levels + 1, (len(rows),), generator=generator)
            eps = torch.randn(future.shape, generator=generator)
            return self.diffusion.loss(self._beside(net, past), future, k, eps)

        optimise(self.net, loss, Recipe(self.steps), seed=seed, console=console)

    def _beside(self, net: nn.Module, past: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
        def model(x: Tensor, k: Tensor) -> Tensor:
            out: Tensor = net(torch.cat([past, x], 1), k)[:, self.history :]
            return out

        return model

    def forecast(self, histories: Histories, horizon: int, *, n_samples: int = 20, seed: int = 0) -> Futures:
        """Samples by DDIM."""
        n, history, channels = histories.shape
        rows = torch.from_numpy(histories.transpose(0, 2, 1).reshape(n * channels, history).astype(np.float32))
        found = []
        for i in range(0, len(rows), 256):
            past, mean, deviation = _by_history(rows[i : i + 256].repeat_interleave(n_samples, 0))
            noise = RowNoise(seed, range(i, i + len(past) // n_samples), n_samples)
            start = noise(past.new_empty(len(past), horizon))
            out = self.sampler(self._beside(self.net, past), self.diffusion, start, noise=noise)
            found.append(out * deviation + mean)
        return torch.cat(found).numpy().reshape(n, channels, n_samples, horizon).transpose(0, 2, 3, 1)


def _by_history(past: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    mean, deviation = past.mean(1, keepdim=True), past.std(1, keepdim=True, correction=0).clamp(min=1e-5)
    return (past - mean) / deviation, mean, deviation


BASELINES: dict[str, Callable[[], Baseline]] = {
    "seasonal naive": SeasonalNaive, "AR": AR, "ETS": ETS, "DLinear": DLinear, "PatchTST small": PatchTSTSmall,
    "N-BEATS MLP": NBeatsMLP, "conditional diffusion": ConditionalDiffusion,
}  # fmt: skip


def linear_interpolation(x: Float[np.ndarray, "steps channels"]) -> Float[np.ndarray, "steps channels"]:
    """NaN filled along straight lines, ends by the nearest number."""
    out, at = x.copy(), np.arange(len(x))
    for c in range(x.shape[1]):
        known = np.isfinite(x[:, c])
        out[:, c] = np.interp(at, at[known], x[known, c])
    return out
