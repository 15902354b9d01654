"""`GPD`: one network of windows, asked for any future, any gap, or nothing at all."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from numpy.typing import ArrayLike, NDArray
from rich.console import Console
from torch import Tensor, nn

from shared_impl.pretrained import Pretrained

from .diffusion import Denoiser, GaussianDiffusion, Schedule, Target
from .guidance import DPS, Guidance, make_guidance
from .metrics import crps
from .network import MLPDenoiser, Skip
from .normalise import prompt_statistics
from .sampler import DDIMSampler, RowNoise
from .training import Normalise, Recipe, Windows, pretrain

__all__ = ["GPD", "SCALES", "JointDenoiser", "Long"]

SCALES = (0.3, 0.5, 1.0, 2.0)
"""guidance scales that calibration chooses from"""
Long = Literal["auto", "window", "rolling", "joint"]
WEIGHTS = Path(__file__).parent / "weights"


class JointDenoiser:
    """A network of windows on longer ones: overlapping windows side by side, predictions averaged where they overlap.

    Data and noise are linear in each other for a given x_k, so that averaging one averages the other.
    """

    def __init__(self, model: Denoiser, length: int, total: int, stride: int, channels: int = 1) -> None:
        if not 1 <= stride <= length <= total:
            raise ValueError(f"stride, length, total must grow, from 1 on, got {stride}, {length}, {total}")
        self.model, self.length, self.channels = model, length, channels
        self.starts = [*range(0, total - length, stride), total - length]
        self.at = torch.tensor(self.starts)[:, None] + torch.arange(length)
        self.count = torch.zeros(total).index_add(0, self.at.flatten(), torch.ones(self.at.numel()))

    def __call__(self, x: Tensor, k: Tensor) -> Tensor:
        rows, windows = len(x), len(self.starts)
        series = x.view(rows, self.channels, -1)
        parts = series[:, :, self.at].transpose(1, 2).reshape(rows * windows, -1)
        out = self.model(parts, k.repeat_interleave(windows))
        out = out.view(rows, windows, self.channels, self.length).transpose(1, 2).reshape(rows, self.channels, -1)
        summed = torch.zeros_like(series).index_add(2, self.at.flatten().to(x.device), out)
        return (summed / self.count.to(x)).reshape(rows, -1)


class GPD(nn.Module, Pretrained):
    """A diffusion model of windows; forecasts and gaps are filled by guidance, without training for them.

    Args:
        length: steps of a window.
        channels: 1: each variable by itself; C: windows of all C variables jointly.
        hidden, depth, skip, residual: of the `MLPDenoiser`; 1024 and 10 are this package's choice for a GPU.
        target, levels, schedule, betas: of the `GaussianDiffusion`.
        normalise: windows in training by the statistics of a random prefix, of the whole window, or not at all; what is
            known of a window normalises it afterwards in the first two.
        steps, eta: of the DDIM sampler; eta = 1 adds noise at each step, as the reference code of "dps" does.
        clip: bound of the predicted data while sampling, in normalised units; None: none.
    """

    def __init__(
        self, length: int = 192, *, channels: int = 1, hidden: int = 512, depth: int = 6, skip: Skip = "input",
        residual: bool = False, target: Target = "eps", levels: int = 1000, schedule: Schedule = "linear",
        betas: Sequence[float] | None = None, normalise: Normalise = "prefix", floor: float = 1e-5, steps: int = 50,
        eta: float = 1.0, clip: float | None = 10.0,
    ) -> None:  # fmt: skip
        super().__init__()
        if length < 2:
            raise ValueError(f"length must be at least 2, got {length}")
        if channels < 1:
            raise ValueError(f"channels must be at least 1, got {channels}")
        if normalise not in ("prefix", "window", "none"):
            raise ValueError(f"normalise must be prefix, window or none, got {normalise!r}")
        if betas is not None and len(betas) != 2:
            raise ValueError(f"betas must be the first and the last, got {betas}")
        self.length, self.channels, self.normalise, self.floor = length, channels, normalise, floor
        self._network: dict[str, Any] = {"hidden": hidden, "depth": depth, "skip": skip, "residual": residual}
        self.net = MLPDenoiser(length * channels, **self._network)
        pair = None if betas is None else (float(betas[0]), float(betas[1]))
        self.diffusion = GaussianDiffusion(levels, schedule, target, betas=pair)
        self.sampler = DDIMSampler(steps, eta, clip)
        self.sampler.levels(self.diffusion)
        self.guidance_scale: Tensor
        self.register_buffer("guidance_scale", torch.tensor(0.5))

    @classmethod
    def pretrained(cls) -> "GPD":
        """The weights that this package brings: trained by `gpd-impl pretrain` on made series alone, windows of 192."""
        return cls.from_pretrained(WEIGHTS)

    @classmethod
    def preset(cls, name: Literal["cpu", "gpu", "diffae"], length: int = 192, **more: Any) -> "GPD":
        """Sizes by name: 512 wide and 6 deep, 1024 and 10, or the reference's 2048 and 10 with its constant betas."""
        sizes: dict[str, dict[str, Any]] = {
            "cpu": {"hidden": 512, "depth": 6}, "gpu": {"hidden": 1024, "depth": 10},
            "diffae": {"hidden": 2048, "depth": 10, "schedule": "constant", "steps": 20},
        }  # fmt: skip
        if name not in sizes:
            raise ValueError(f"name must be one of {', '.join(sizes)}, got {name!r}")
        return cls(length, **(sizes[name] | more))

    # Training --------------------------------------------------------------------------------------------------------

    def fit(
        self, series: Any, split: float | int = 0.8, *, recipe: Recipe | None = None, seed: int = 0,
        calibrate: tuple[int, int] | None = None, console: Console | None = None,
    ) -> "GPD":  # fmt: skip
        """Pretrain on series, a window at a time; the steps from `split` on choose the weights.

        Args:
            series: (steps,) or (steps, channels) as an array or a frame, or a list of them. Give them standardised, or
                at least of like scale, where `normalise` is "none".
            split: share of each series, or its number of steps, to learn from; 1.0: all, nothing held out.
            calibrate: history and horizon to choose the guidance scale for, on the held-out steps.

        Raises:
            ValueError: no series is as long as a window, a number is missing or infinite, other channels than the
                model's.
        """
        given = series if isinstance(series, (list, tuple)) else [series]
        arrays = [_array("series", one) for one in given]
        for one in arrays:
            if not np.isfinite(one).all():
                raise ValueError(
                    f"series must be finite to learn from, got {int((~np.isfinite(one)).sum())} that are not"
                )
            if self.channels > 1 and one.shape[1] != self.channels:
                raise ValueError(f"series must have the model's {self.channels} channels, got {one.shape[1]}")
        if self.channels == 1:
            arrays = [one[:, [c]] for one in arrays for c in range(one.shape[1])]
        fraction = isinstance(split, float)
        if not (0 < split <= 1 if fraction else split >= 1):
            raise ValueError(f"split must be a share above 0 and up to 1, or a number of steps, got {split}")
        ends = [int(len(one) * split) if fraction else min(int(split), len(one)) for one in arrays]
        # scaled as a whole, so that what prefixes lack is noticed in one unit
        if self.normalise != "none":
            arrays = [_scaled(one, end) for one, end in zip(arrays, ends, strict=True)]
        training = Windows([one[:end] for one, end in zip(arrays, ends, strict=True)], self.length)
        later = [one[end:] for one, end in zip(arrays, ends, strict=True) if len(one) - end >= self.length]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            fresh = MLPDenoiser(length=self.length * self.channels, **self._network)
        self.net.load_state_dict(fresh.state_dict())
        self.net.requires_grad_(True)
        self.history_ = pretrain(
            self.net, self.diffusion, training, recipe or Recipe(), normalise=self.normalise, floor=self.floor,
            joint=self.channels > 1, valid=Windows(later, self.length) if later else None, seed=seed, console=console,
        )  # fmt: skip
        self.eval()
        if calibrate is not None:
            if not later:
                raise ValueError(f"calibrate needs {self.length} held-out steps or more behind split")
            self.calibrate_guidance(later, *calibrate, seed=seed)
        return self

    def calibrate_guidance(
        self, valid: Any, history: int, horizon: int, *, scales: Sequence[float] = SCALES, windows: int = 48,
        n_samples: int = 8, steps: int | None = None, seed: int = 0,
    ) -> dict[float, float]:  # fmt: skip
        """Choose the scale of "dps" by the CRPS of forecasts of held-out series; never of test ones.

        Returns:
            scale to CRPS.
        """
        given = valid if isinstance(valid, (list, tuple)) else [valid]
        pairs = []
        for one in (_array("valid", v) for v in given):
            if len(one) >= history + horizon:
                starts = np.linspace(0, len(one) - history - horizon, max(1, windows // len(given))).astype(int)
                pairs += [one[s : s + history + horizon] for s in np.unique(starts)]
        if not pairs:
            raise ValueError(f"valid must have history + horizon = {history + horizon} steps or more")
        # one variable each, so that series of other widths go together
        if self.channels == 1:
            pairs = [p[:, [c]] for p in pairs for c in range(p.shape[1])][: 8 * windows]
        stacked = np.stack(pairs)
        found = {}
        for scale in scales:
            drawn = self.forecast_many(
                stacked[:, :history], horizon, n_samples=n_samples, guidance=DPS(scale), steps=steps, seed=seed
            )
            found[float(scale)] = crps(drawn.transpose(1, 0, 2, 3), stacked[:, history:])
        self.guidance_scale.fill_(min(found, key=lambda s: found[s]))
        return found

    # Sampling --------------------------------------------------------------------------------------------------------

    def sample(self, n: int = 1, *, steps: int | None = None, seed: int = 0) -> NDArray[np.float32]:
        """Windows without any prompt, in normalised units, (n, length, channels)."""
        if n < 1:
            raise ValueError(f"n must be at least 1, got {n}")
        noise = RowNoise(seed, range(n))
        like = torch.empty(n, self.length * self.channels, device=self.guidance_scale.device)
        out = self._sampler(steps)(self.net, self.diffusion, noise(like), noise=noise)
        return out.view(n, self.channels, self.length).transpose(1, 2).cpu().numpy()

    def forecast(
        self, history: ArrayLike | pd.DataFrame | pd.Series, horizon: int, n_samples: int = 20, **options: Any
    ) -> Float[np.ndarray, "samples horizon channels"]:
        """Samples of what follows a history, (steps,) or (steps, channels); NaN in it is not known.

        Args:
            options: of `forecast_many`.
        """
        return self.forecast_many(_array("history", history)[None], horizon, n_samples=n_samples, **options)[0]

    def forecast_many(
        self, histories: ArrayLike, horizon: int, *, n_samples: int = 20, guidance: str | Guidance = "dps",
        scale: float | None = None, long: Long = "auto", stride: int | None = None, steps: int | None = None,
        seed: int = 0, keys: Sequence[int] | None = None, max_rows: int = 8192,
    ) -> Float[np.ndarray, "n samples horizon channels"]:  # fmt: skip
        """Samples of what follows each history, (n, steps, channels), all windows in one batch.

        Args:
            guidance: a name of `GUIDANCES` or a guidance; `scale` is that of "dps" or "tsdiff" (None: calibrated).
            long: "window": history and horizon in one window; "rolling": a block of `stride` steps after the other,
                each sample going on from itself; "joint": overlapping windows, `stride` apart, denoised together;
                "auto": a window if what is known and asked for fits, or the horizon is at most half of it.
            steps: of the sampler.
            keys: a number a series for its random stream (default: its place); the same seed, key and history give the
                same samples, whatever else is in the batch.
            max_rows: windows times samples in one batch.

        A history longer than what a window has left for it is cut to its end.

        Raises:
            ValueError: a horizon below 1, an empty history, one without a single number, infinities.
        """
        x = np.asarray(histories, dtype=np.float64)
        if x.ndim != 3 or 0 in x.shape:
            raise ValueError(f"histories must be (n, steps, channels), none of them 0, got {x.shape}")
        _positive(horizon=horizon, n_samples=n_samples, max_rows=max_rows)
        if long not in ("auto", "window", "rolling", "joint"):
            raise ValueError(f"long must be auto, window, rolling or joint, got {long!r}")
        if np.isinf(x).any():
            raise ValueError("history must be finite; NaN marks what is not known")
        if np.isnan(x).all(1).any():
            raise ValueError("history must have at least one number of each variable, all are missing")
        if long == "auto":
            long = "window" if x.shape[1] + horizon <= self.length or 2 * horizon <= self.length else "rolling"
        if long == "window" and horizon >= self.length:
            raise ValueError(
                f"horizon must be below the window's {self.length} steps, got {horizon}; use long='rolling'"
            )
        self._check_channels(x.shape[2])
        n, channels = x.shape[0], x.shape[2]
        streams = list(range(n)) if keys is None else list(keys)
        if len(streams) != n:
            raise ValueError(f"keys must be {n}, one a series, got {len(streams)}")
        rows = self._rows(x)  # (series of rows, model channels, steps)
        each = channels // self.channels
        streams = [key * each + c for key in streams for c in range(each)]
        chosen = self._guidance(guidance, scale)
        chunk = max(1, max_rows // n_samples)
        found = []
        for i in range(0, len(rows), chunk):
            part = rows[i : i + chunk].repeat_interleave(n_samples, 0)
            drawn = self._ahead(
                part, horizon, chosen, long, stride, self._sampler(steps), streams[i : i + chunk], n_samples, seed
            )
            found.append(drawn.view(-1, n_samples, self.channels, horizon))
        out = torch.cat(found).view(n, each, n_samples, self.channels, horizon)
        return out.permute(0, 2, 4, 1, 3).reshape(n, n_samples, horizon, channels).cpu().numpy()

    def impute(
        self, x: ArrayLike | pd.DataFrame | pd.Series, mask: ArrayLike | None = None, *, n_samples: int = 20,
        guidance: str | Guidance = "dps", scale: float | None = None, steps: int | None = None, seed: int = 0,
        max_rows: int = 8192,
    ) -> Float[np.ndarray, "samples steps channels"]:  # fmt: skip
        """Samples of a series whose known numbers (`mask` true, or not NaN) stay as they are.

        A series longer than a window is cut into windows that overlap by half, of which the middles are kept.

        Raises:
            ValueError: nothing is known, a mask of another shape, a gap as long as a window.
        """
        values = _array("x", x)
        known = np.isfinite(values)
        if np.isinf(values).any():
            raise ValueError("x must be finite; NaN marks what is missing")
        if mask is not None:
            told = np.asarray(mask)
            told = told[:, None] if told.ndim == 1 else told
            if told.shape != values.shape or told.dtype != bool:
                raise ValueError(f"mask must be booleans of the shape {values.shape}, got {told.dtype} {told.shape}")
            if (told & ~known).any():
                raise ValueError("mask must not be true where x is missing")
            known = told
        if not known.any(0).all():
            raise ValueError("x must have at least one known number of each variable")
        _positive(n_samples=n_samples, max_rows=max_rows)
        self._check_channels(values.shape[1])
        steps_in, length = len(values), self.length
        values = np.where(known, values, np.nan)
        padded = np.full((max(length, steps_in), values.shape[1]), np.nan)
        padded[:steps_in] = values
        starts = [*range(0, len(padded) - length, max(1, length // 2)), len(padded) - length]
        # of each step the window in whose middle it is
        middle = np.array(starts) + (length - 1) / 2
        owner = np.abs(np.arange(len(padded))[:, None] - middle).argmin(1)
        windows = np.stack([padded[s : s + length] for s in starts])
        if not np.isfinite(windows).any(1).all():
            raise ValueError(f"x must have no gap as long as the window's {length} steps")
        # only windows that have something to fill
        asked = [i for i in range(len(starts)) if np.isnan(windows[i][: steps_in - starts[i]]).any()]
        out = np.broadcast_to(padded, (n_samples, *padded.shape)).copy()
        rows = self._rows(windows[asked]) if asked else torch.empty(0)
        each = values.shape[1] // self.channels
        chosen, chunk, found = self._guidance(guidance, scale), max(1, max_rows // n_samples), []
        for i in range(0, len(rows), chunk):
            part = rows[i : i + chunk].repeat_interleave(n_samples, 0)
            streams = list(range(i, min(i + chunk, len(rows))))
            found.append(self._fill(part, chosen, self._sampler(steps), streams, n_samples, seed, 0))
        if found:
            filled = torch.cat(found).view(len(asked), each, n_samples, self.channels, length)
            table = filled.permute(0, 2, 4, 1, 3).reshape(len(asked), n_samples, length, -1).cpu().numpy()
            for place, i in enumerate(asked):
                own = np.flatnonzero(owner == i)
                out[:, own] = table[place][:, own - starts[i]]
        return np.where(known, values, out[:, :steps_in])

    def save(self, folder: Path | str) -> Path:
        """As `save_pretrained`."""
        self.save_pretrained(folder)
        return Path(folder)

    # Inside ----------------------------------------------------------------------------------------------------------

    def _sampler(self, steps: int | None) -> DDIMSampler:
        return self.sampler if steps is None else DDIMSampler(steps, self.sampler.eta, self.sampler.clip)

    def _guidance(self, guidance: str | Guidance, scale: float | None) -> Guidance:
        if not isinstance(guidance, str):
            if scale is not None:
                raise ValueError("scale belongs to a guidance's name, a guidance has its own")
            return guidance
        if guidance == "dps" and scale is None:
            scale = float(self.guidance_scale)
        return make_guidance(guidance, scale)

    def _check_channels(self, channels: int) -> None:
        if self.channels > 1 and channels != self.channels:
            raise ValueError(f"series must have the model's {self.channels} channels, got {channels}")

    def _rows(self, x: NDArray[np.float64]) -> Tensor:
        """(n, steps, variables) to (n times variables / channels, channels, steps); float64 with NaN."""
        n, steps, variables = x.shape
        rows = torch.from_numpy(np.ascontiguousarray(x.transpose(0, 2, 1)))
        return rows.reshape(n * variables // self.channels, self.channels, steps)

    def _ahead(
        self, x: Tensor, horizon: int, guidance: Guidance, long: str, stride: int | None, sampler: DDIMSampler,
        streams: Sequence[int], samples: int, seed: int,
    ) -> Tensor:  # fmt: skip
        """What follows rows of histories, (rows, channels, steps)."""
        length = self.length
        if long == "joint":
            history = x[:, :, -length:]
            missing = max(0, length - history.shape[2] - horizon)
            asked = history.new_full((*history.shape[:2], horizon + missing), float("nan"))
            whole = torch.cat([history, asked], 2)
            out = self._fill(whole, guidance, sampler, streams, samples, seed, 0, stride or max(1, length // 2))
            return out[:, :, history.shape[2] : history.shape[2] + horizon]
        block = horizon if long == "window" else min(horizon, stride or max(1, length // 2))
        if block >= length:
            raise ValueError(f"stride must be below the window's {length} steps, got {block}")
        found = x
        for turn in range(-(-horizon // block)):
            history = found[:, :, -(length - block) :]
            asked = history.new_full((*history.shape[:2], length - history.shape[2]), float("nan"))
            out = self._fill(torch.cat([history, asked], 2), guidance, sampler, streams, samples, seed, turn)
            found = torch.cat([found, out[:, :, history.shape[2] : history.shape[2] + block]], 2)
        return found[:, :, x.shape[2] : x.shape[2] + horizon]

    def _fill(
        self, x: Tensor, guidance: Guidance, sampler: DDIMSampler, streams: Sequence[int], samples: int, seed: int,
        turn: int, stride: int | None = None,
    ) -> Tensor:  # fmt: skip
        """Rows of windows with NaN, normalised by what is known, filled, and put back."""
        rows, channels, length = x.shape
        flat = x.reshape(rows * channels, length)
        mask = ~flat.isnan()
        if not bool(mask.any(1).all()):
            raise ValueError("history must have a number among the steps that its window holds, all are missing")
        mean, deviation = (flat.new_zeros(len(flat), 1), flat.new_ones(len(flat), 1))
        if self.normalise != "none":
            mean, deviation = prompt_statistics(flat, mask, self.floor)
        device = self.guidance_scale.device
        y = torch.where(mask, (flat - mean) / deviation, 0.0).float().view(rows, -1).to(device)
        seen = mask.view(rows, -1).to(device)
        model: Denoiser = self.net.requires_grad_(False)
        if length > self.length:
            model = JointDenoiser(self.net, self.length, length, stride or max(1, self.length // 2), channels)
        noise, side = (RowNoise(seed, [2 * (4096 * s + turn) + i for s in streams], samples) for i in (0, 1))
        out = sampler(model, self.diffusion, noise(y), y, seen, guidance, noise=noise, side=side, samples=samples)
        back = out.view(rows * channels, length).cpu().double() * deviation + mean
        return torch.where(mask, flat, back).view(rows, channels, length)


def _array(name: str, x: Any) -> NDArray[np.float64]:
    """(steps,) or (steps, channels) as float64 in two dimensions."""
    try:
        found = np.asarray(x, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} must hold numbers, got {type(x).__name__}: {error}") from error
    found = found[:, None] if found.ndim == 1 else found
    if found.ndim != 2 or 0 in found.shape:
        raise ValueError(f"{name} must be (steps,) or (steps, channels), not empty, got shape {found.shape}")
    return found


def _scaled(x: NDArray[np.float64], end: int) -> NDArray[np.float64]:
    deviation = x[:end].std(0)
    scaled: NDArray[np.float64] = (x - x[:end].mean(0)) / np.where(deviation > 0, deviation, 1.0)
    return scaled


def _positive(**numbers: int) -> None:
    for name, value in numbers.items():
        if isinstance(value, bool) or int(value) != value or value < 1:
            raise ValueError(f"{name} must be a whole number of at least 1, got {value}")
