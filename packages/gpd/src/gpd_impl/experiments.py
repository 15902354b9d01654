"""The paper's experimental section, declared: one model in its own domain, in others, for gaps; and the closed form."""

import os
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from shared_impl.experiments import Context, Experiment, Metric, Plot, Run, Table, grid

from .baselines import BASELINES, linear_interpolation
from .data import evaluation_windows, load_series, sinusoids
from .diffusion import GaussianDiffusion
from .gaussian import AnalyticGaussianDenoiser, conditional, draw_gaussian, seasonal_covariance
from .guidance import DPS, PiGDM, RePaint, Replace, TSDiffGuidance
from .metrics import scores
from .model import GPD
from .sampler import DDIMSampler, RowNoise
from .training import Recipe

__all__ = ["EXPERIMENTS", "evaluate", "trained"]

FOLDER = "GPD_DATA_DIR"
"""environment variable: where weather.csv, electricity.csv and the like are"""
HISTORY = 96


def _folder() -> Path | None:
    place = os.environ.get(FOLDER)
    return Path(place) if place else None


@lru_cache(maxsize=8)
def trained(
    source: str, seed: int, steps: int, folder: Path | None = None, length: int = 192, hidden: int = 256,
    depth: int = 6, calibrated: int = 48,
) -> GPD:  # fmt: skip
    """A model of the training part of a set, its scale chosen on the validation part; "made": the package's weights."""
    if source == "made":
        return GPD.pretrained()
    series = load_series(source, folder or _folder())
    model = GPD(length, hidden=hidden, depth=depth)
    values = series.values[: series.ends[1]]
    model.fit(values, split=series.ends[0], recipe=Recipe(steps=steps, eval_every=max(1, min(500, steps))), seed=seed)
    half = length // 2
    model.calibrate_guidance(series.part("valid", before=half), half, half, windows=calibrated, steps=25, seed=seed)
    return model


def evaluate(
    target: str, model: GPD | str, history: int, horizon: int, stride: int, *, seed: int = 0, n_samples: int = 16,
    steps: int = 25, folder: Path | None = None, train_steps: int | None = None, **options: Any,
) -> dict[str, float]:  # fmt: skip
    """Scores on test windows of a set, in units of its training part: of a model, or of a baseline by its name."""
    series = load_series(target, folder or _folder())
    x, y = evaluation_windows(series, "test", history, horizon, stride)
    if isinstance(model, GPD):
        drawn = model.forecast_many(x, horizon, n_samples=n_samples, steps=steps, seed=seed, **options)
        drawn = drawn.transpose(1, 0, 2, 3)
    else:
        baseline: Any = BASELINES[model]()
        if train_steps is not None and hasattr(baseline, "steps"):
            baseline.steps = train_steps
        baseline.fit(series, history, horizon, seed=seed)
        drawn = baseline.forecast(x, horizon, n_samples=n_samples, seed=seed).transpose(1, 0, 2, 3)
    return scores(drawn, y) | {"windows": float(len(x))}


GPD_OF: Mapping[str, Callable[[str], str]] = {
    "GPD": lambda data: data,
    "GPD of the other": lambda data: data[:-1] + {"1": "2", "2": "1"}.get(data[-1], data[-1]),
    "GPD of made series": lambda data: "made",
}
"""which series a column's model was trained on, by the set it is asked about"""


def forecasts(run: Run, context: Context) -> dict[str, float]:
    """One model for all horizons, or a baseline trained for this one."""
    options = dict(run.options)
    horizon, stride = options.pop("horizon"), options.pop("stride", 1)
    steps, train_steps = options.pop("steps", 1500), options.pop("train_steps", None)
    size = {key: options.pop(key) for key in ("length", "hidden", "depth", "calibrated") if key in options}
    model: GPD | str = run.model
    if run.model in GPD_OF:
        model = trained(GPD_OF[run.model](run.data.partition("@")[0]), run.seed, steps, None, **size)
        model = model.to(context.device)
    history = options.pop("history", HISTORY)
    found = evaluate(run.data, model, history, horizon, stride, seed=run.seed, train_steps=train_steps, **options)
    return found | ({"scale": float(model.guidance_scale)} if isinstance(model, GPD) else {})


def gaps(run: Run, context: Context) -> dict[str, float]:
    """Errors where test windows lack numbers: at random, or in blocks of 12 steps."""
    options = dict(run.options)
    share, blocks = options.pop("missing"), options.pop("blocks", False)
    count, steps, size = options.pop("windows", 40), options.pop("steps", 1500), options.pop("size", {})
    series = load_series(run.data, _folder())
    length = size.get("length", 192)
    x = evaluation_windows(series, "test", length - 1, 1, max(1, 2880 // count))
    truth = np.concatenate(x, 1)[:count].astype(float)
    rng = np.random.default_rng(1000 + run.seed)
    holes = rng.random((len(truth), -(-length // 12), truth.shape[2])) < share if blocks else None
    lost = rng.random(truth.shape) < share if holes is None else holes.repeat(12, 1)[:, :length]
    lost[:, [0, -1]] = False
    given = np.where(lost, np.nan, truth)
    if run.model == "straight line":
        drawn = np.stack([linear_interpolation(one) for one in given])[None]
    elif run.model == "last period":
        drawn = np.stack([_by_period(one, series.period) for one in given])[None]
    else:
        model = trained(GPD_OF[run.model](run.data), run.seed, steps, None, **size).to(context.device)
        each = [model.impute(one, n_samples=16, steps=25, seed=run.seed + 7 * i) for i, one in enumerate(given)]
        drawn = np.stack(each, 1)
    return scores(drawn[:, lost], truth[lost])


def _by_period(x: np.ndarray, period: int) -> np.ndarray:
    """What was known a period before, else after, else a straight line."""
    out = x.copy()
    for shift in (period, -period):
        moved = np.full_like(x, np.nan)
        if shift > 0:
            moved[shift:] = out[:-shift]
        else:
            moved[:shift] = out[-shift:]
        out = np.where(np.isnan(out), moved, out)
    return linear_interpolation(out)


GUIDED: Mapping[str, Callable[[float], Any]] = {
    "replace": lambda scale: Replace(), "repaint": lambda scale: RePaint(5), "dps": DPS,
    "dps, squared": lambda scale: DPS(0.1, 2), "pigdm": lambda scale: PiGDM(),
    "tsdiff": lambda scale: TSDiffGuidance(1.0),
    "tsdiff, squares": lambda scale: TSDiffGuidance(1.0, "mse"),
}  # fmt: skip


def guided(run: Run, context: Context) -> dict[str, float]:
    """Ways of prompting the same model, in its own domain."""
    options = dict(run.options)
    size = {key: options.pop(key) for key in ("length", "hidden", "depth", "calibrated") if key in options}
    model = trained(run.data, run.seed, options.pop("train", 1500), None, **size).to(context.device)
    guidance = GUIDED[run.model](float(model.guidance_scale))
    history = options.pop("history", HISTORY)
    return evaluate(run.data, model, history, seed=run.seed, guidance=guidance, **options)


EXACT: Mapping[str, Any] = {
    "replace": Replace(), "repaint": RePaint(5), "dps, 0.5": DPS(0.5), "dps, 1": DPS(1.0), "dps, 3": DPS(3.0),
    "pigdm": PiGDM(), "exact covariance": PiGDM("exact", 1e-4), "tsdiff, squares": TSDiffGuidance(4.0, "mse"),
}  # fmt: skip


def gaussian(run: Run, context: Context) -> dict[str, float]:
    """A Gaussian process whose posterior is known, the exact network: how far samples are from that posterior."""
    options = run.options
    series, m, known = options["series"], options["samples"], options["history"]
    covariance = seasonal_covariance(options["length"])
    diffusion = GaussianDiffusion(options["levels"], betas=(1e-4, 0.04))
    model = AnalyticGaussianDenoiser(covariance, diffusion)
    x = draw_gaussian(covariance, series, run.seed + 1)
    mask = torch.arange(len(covariance)) < known
    mean, spread = conditional(covariance, x, mask)
    if run.model == "true posterior":
        drawn = mean[:, None] + draw_gaussian(spread, series * m, run.seed + 2).view(series, m, -1)
    else:
        y = x.repeat_interleave(m, 0)
        noise, side = (RowNoise(run.seed, range(i * series, (i + 1) * series), m) for i in (0, 1))
        sampler = DDIMSampler(options["steps"], options["eta"])
        out = sampler(
            model, diffusion, noise(y), y, mask.expand(len(y), -1), EXACT[run.model], noise=noise, side=side, samples=m
        )
        drawn = out.view(series, m, -1)[:, :, known:]
    away = drawn - drawn.mean(1, keepdim=True)
    found = torch.einsum("smi,smj->ij", away, away) / (series * (m - 1))
    return {
        "to_mean": float((drawn.mean(1) - mean).square().mean()),
        "covariance": float((found - spread).norm() / spread.norm()),
        "variance": float(found.diagonal().mean() / spread.diagonal().mean()),
        "floor": float(spread.diagonal().mean() / m),
    }


VARIANTS: Mapping[str, dict[str, Any]] = {
    "input skips, eps": {}, "U-Net skips": {"skip": "unet"}, "no skips": {"skip": "none"},
    "residual": {"residual": True}, "predicts x0": {"target": "x0"}, "predicts v": {"target": "v"},
    "cosine": {"schedule": "cosine"}, "whole-window normalisation": {"normalise": "window"},
}  # fmt: skip


def network(run: Run, context: Context) -> dict[str, float]:
    """Networks, targets, schedules and normalisation on made series, forecast half a window."""
    options = run.options
    length = options["length"]
    values = sinusoids(options["series"], 2 * length, seed=50 + run.seed)
    model = GPD(length, hidden=options["hidden"], depth=6, **VARIANTS[run.model]).to(context.device)
    recipe = Recipe(steps=options["steps"], eval_every=options["steps"])
    model.fit(list(values), split=1.0, recipe=recipe, seed=run.seed)
    test = sinusoids(options["test"], length, seed=99)[:, :, None]
    half = length // 2
    few, draws = min(32, options["test"]), options.get("draws", 25)
    model.calibrate_guidance(list(sinusoids(few, length, seed=98)), half, half, windows=few, steps=draws)
    drawn = model.forecast_many(test[:, :half], half, n_samples=16, steps=draws, seed=run.seed)
    return scores(drawn.transpose(1, 0, 2, 3), test[:, half:])


def _row(run: Run) -> str:
    return f"{run.data}, {run.options['horizon']}"


def _missing(run: Run) -> str:
    how = "in blocks" if run.options.get("blocks") else "at random"
    return f"{run.data}, {100 * run.options['missing']:.0f} % {how}"


FOUR = (
    Metric("mse", "MSE", higher_is_better=False), Metric("mae", "MAE", higher_is_better=False),
    Metric("crps", "CRPS", higher_is_better=False),
)  # fmt: skip
COVERED = Metric("coverage", "coverage % of 80", scale=100)
ETT = ("ETTh1", "ETTh2")
POINT = ("seasonal naive", "AR", "DLinear", "PatchTST small", "N-BEATS MLP")
TINY = {"length": 24, "hidden": 16, "depth": 3, "calibrated": 4, "steps": 4}
CPU = {"stride": 96, "steps": 1500}
LARGE = {"hidden": 1024, "depth": 10, "steps": 100_000}


def _long_cpu() -> list[Run]:
    runs = []
    for horizon in (96, 192, 336, 720):
        how = {"horizon": horizon, **CPU}
        seeds = 3 if horizon < 336 else 1
        runs += grid(data=ETT, model=("GPD",), seeds=seeds, options=how)
        runs += grid(data=ETT, model=POINT, options={"horizon": horizon, "stride": 96})
    runs += grid(data=ETT, model=("conditional diffusion",), options={"horizon": 96, "stride": 96, "train_steps": 1500})
    return runs


def _zero_shot_cpu() -> list[Run]:
    runs = []
    for data in (*ETT, "ETTh1@2", "ETTh2@2"):
        how = {"horizon": 96, "stride": 96 if "@" not in data else 48, "steps": 1500}
        runs += grid(data=[data], model=("GPD of the other",), seeds=3, options=how)
        runs += grid(data=[data], model=("GPD of made series",), seeds=3, options=how)
        runs += grid(data=[data], model=POINT[:2], options={"horizon": 96, "stride": how["stride"]})
    return runs


EXPERIMENTS: Mapping[str, Experiment] = {
    "long": Experiment(
        name="long",
        title="In its own domain: one model for all horizons, others trained for each",
        runs={
            "cpu": _long_cpu,
            "paper": [
                run
                for horizon in (96, 192, 336, 720)
                for run in [
                    *grid(data=(*ETT, "ETTm1", "ETTm2", "weather", "electricity", "traffic", "exchange"), seeds=3,
                          model=("GPD",), options={"horizon": horizon, "n_samples": 20, **LARGE}),
                    *grid(data=(*ETT, "ETTm1", "ETTm2", "weather", "electricity", "traffic", "exchange"), seeds=3,
                          model=(*POINT, "ETS", "conditional diffusion"), options={"horizon": horizon}),
                ]
            ],
            "smoke": [
                *grid(data=["made"], model=["GPD"], options={"horizon": 12, "history": 12, "stride": 900, **TINY}),
                *grid(data=["made"], model=["seasonal naive", "AR", "DLinear", "conditional diffusion"],
                      options={"horizon": 12, "history": 12, "stride": 900, "train_steps": 3}),
            ],
        },
        execute=forecasts,
        table=Table((*FOUR, COVERED), row=_row),
        plots=(Plot(metric="mse"), Plot(metric="crps", name="crps")),
        notes=("history 96, every 96th test window, 16 samples of 25 steps (eta 1); one seed of the others, and of "
               "horizons of 336 and more; CRPS of a point forecast is its MAE",),
    ),
    "zero-shot": Experiment(
        name="zero-shot",
        title="In other domains: no training on the set that is asked about",
        runs={
            "cpu": _zero_shot_cpu,
            "paper": [
                run
                for data in (*ETT, "ETTm1", "ETTm2")
                for horizon in (96, 192, 336, 720)
                for run in grid(data=[data], model=("GPD of the other", "GPD of made series", *POINT[:2]), seeds=3,
                                options={"horizon": horizon, **LARGE})
            ],
            "smoke": grid(data=["made"], model=["GPD of made series", "AR"],
                          options={"horizon": 12, "history": 12, "stride": 900}),
        },
        execute=forecasts,
        table=Table((*FOUR, COVERED), row=_row),
        plots=(Plot(metric="mse"),),
        notes=("history 96; @2: means of two hours; AR is trained on the set itself",),
    ),
    "imputation": Experiment(
        name="imputation",
        title="Gaps: the same model, windows of 192 with missing numbers",
        runs={
            "cpu": [
                run
                for blocks in (False, True)
                for share in (0.1, 0.3, 0.5)
                for run in [
                    *grid(data=["ETTh1"], model=["GPD", "GPD of made series"], seeds=3,
                          options={"missing": share, "blocks": blocks, "windows": 20}),
                    *grid(data=["ETTh1"], model=["straight line", "last period"], seeds=3,
                          options={"missing": share, "blocks": blocks, "windows": 20}),
                ]
            ],
            "paper": [
                run
                for blocks in (False, True)
                for share in (0.1, 0.2, 0.3, 0.4, 0.5)
                for run in grid(data=(*ETT, "ETTm1", "ETTm2"), seeds=3,
                                model=["GPD", "GPD of made series", "straight line", "last period"],
                                options={"missing": share, "blocks": blocks, "windows": 200, "steps": 100_000})
            ],
            "smoke": grid(data=["made"], model=["GPD", "straight line", "last period"],
                          options={"missing": 0.3, "windows": 2, "steps": 4,
                                   "size": {k: v for k, v in TINY.items() if k != "steps"}}),
        },
        execute=gaps,
        table=Table(FOUR, row=_missing),
        plots=(Plot(metric="mae"),),
    ),
    "guidance": Experiment(
        name="guidance",
        title="Ways of prompting one trained model",
        runs={
            "cpu": grid(data=["ETTh1"], model=GUIDED, seeds=3,
                        options={"horizon": 96, "stride": 96, "steps": 50, "n_samples": 8}),
            "paper": grid(data=ETT, model=GUIDED, seeds=3, options={"horizon": 96, "stride": 1, "steps": 50,
                                                                      "hidden": 1024, "depth": 10, "train": 100_000}),
            "smoke": grid(data=["made"], model=GUIDED, options={"horizon": 12, "history": 12, "stride": 900, "steps": 4,
                                                                "train": 4, **{k: TINY[k] for k in list(TINY)[:4]}}),
        },
        execute=guided,
        table=Table((*FOUR, COVERED)),
        plots=(Plot(metric="crps"),),
        notes=("history 96, horizon 96, 8 samples of 50 steps; the scale of dps chosen on validation, those of the "
               "others fixed beforehand",),
    ),
    "gaussian": Experiment(
        name="gaussian",
        title="The closed form: a Gaussian process, the exact network",
        runs={
            "cpu": grid(data=["Gaussian process"], model=["true posterior", *EXACT], seeds=3,
                        options={"length": 48, "history": 32, "levels": 200, "steps": 200, "eta": 1.0, "series": 200,
                                 "samples": 20}),
            "paper": grid(data=["Gaussian process"], model=["true posterior", *EXACT], seeds=10,
                          options={"length": 48, "history": 32, "levels": 1000, "steps": 1000, "eta": 1.0,
                                   "series": 1000, "samples": 20}),
            "smoke": grid(data=["Gaussian process"], model=["true posterior", *EXACT],
                          options={"length": 12, "history": 8, "levels": 10, "steps": 10, "eta": 1.0, "series": 4,
                                   "samples": 4}),
        },
        execute=gaussian,
        table=Table((Metric("to_mean", "squared distance to the true mean", higher_is_better=False),
                     Metric("covariance", "error of the covariance", higher_is_better=False),
                     Metric("variance", "variance, of the true one"))),
        plots=(Plot(metric="to_mean"),),
        notes=("the floor of the squared distance is that of the true posterior's 20 samples",),
    ),
    "network": Experiment(
        name="network",
        title="Networks, targets, schedules and normalisation, on made series",
        runs={
            "cpu": grid(data=["sums of sinusoids"], model=VARIANTS, seeds=3,
                        options={"length": 96, "hidden": 128, "steps": 1000, "series": 2000, "test": 60}),
            "paper": grid(data=["sums of sinusoids"], model=VARIANTS, seeds=3,
                          options={"length": 192, "hidden": 1024, "steps": 50_000, "series": 20_000, "test": 1000}),
            "smoke": grid(data=["sums of sinusoids"], model=VARIANTS,
                          options={"length": 16, "hidden": 8, "steps": 2, "series": 20, "test": 3, "draws": 2}),
        },
        execute=network,
        table=Table((*FOUR, COVERED)),
        plots=(Plot(metric="crps"),),
    ),
}  # fmt: skip
