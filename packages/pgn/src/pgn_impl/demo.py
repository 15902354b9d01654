"""The demonstration: a drifting hourly series, forecast a week ahead by TPGN and by what one would have used."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from rich.console import Console

from pgn_impl.data import synthetic_series
from pgn_impl.experiments import univariate
from pgn_impl.models import LABELS, UNTRAINED, build, settings
from pgn_impl.training import Recipe, errors, predict, train
from shared_impl.results import Record, Row, rich_table
from shared_impl.train import count_parameters

__all__ = ["demo", "plot_forecasts"]

MODELS: Mapping[str, Mapping[str, Any]] = {
    "last": {},
    "seasonal": {"period": 168},  # the same hour of the week before
    "dlinear": {},
    "lstm": {"d_model": 32},
    "tpgn": {"d_model": 32, "norm": False},
}
SHOWN = ("seasonal", "lstm", "tpgn")


def demo(
    *, seed: int, device: torch.device, out_dir: Path, console: Console, hours: int = 4000, epochs: int = 8
) -> Record:
    """Train the models, show their errors on the last fifth, and draw one forecast of each.

    Raises:
        ValueError: if there are too few hours.
    """
    if device.type == "cpu":
        torch.set_num_threads(1)  # with tensors this small, threads wait for each other more than they work
    series = synthetic_series(hours, seed=seed)
    data = univariate(series, 168)
    record = Record.start("pgn_impl", "demo", preset="demo", seeds=[seed], kind="demo")
    console.print(
        f"{hours} generated hours: a day and a week whose amplitudes drift, noise that lasts, shifts of the level.\n"
        "A week in, a week out; learnt on the first 60 %, measured on the last 20 %, in standard deviations.",
        highlight=False,
    )
    test, forecasts = data.windows("test"), {}
    for name, own in MODELS.items():
        torch.manual_seed(seed)
        options = {**settings(name, pred_len=168), **own}
        model = build(name, seq_len=168, pred_len=168, **options).to(device)
        note = "nothing to learn"
        if name not in UNTRAINED:
            recipe = Recipe(epochs=epochs)
            result = train(model, data.windows("train"), data.windows("valid"), recipe, seed=seed)
            note = f"{count_parameters(model):,} parameters, {result.seconds:.1f} s"
        found = errors(model, test)
        for metric in ("mse", "mae"):
            row = Row("168 to 168", LABELS[name], metric.upper(), found[metric], higher_is_better=False)
            record.add(row if metric == "mae" else Row(**{**vars(row), "note": note}))
        forecasts[name] = predict(model, type(test)(*(part[-1:] for part in test)))[0, :, 0].numpy()
    scale, mean = data.scale[0], data.mean[0]
    shown = {LABELS[name]: forecasts[name] * scale + mean for name in SHOWN}
    recent, future = series.frame().iloc[-336:-168], series.frame().iloc[-168:]
    record.plots.append(plot_forecasts(out_dir / "demo.png", recent["load"], shown, truth=future["load"]).name)
    record.save(out_dir)
    console.print(rich_table(record))
    console.print(f"plot: {out_dir / 'demo.png'}", highlight=False, soft_wrap=True)
    return record


def plot_forecasts(
    path: Path,
    recent: pd.Series,
    forecasts: Mapping[str, np.ndarray],
    *,
    index: pd.DatetimeIndex | None = None,
    truth: pd.Series | None = None,
    band: tuple[np.ndarray, np.ndarray] | None = None,
    title: str = "",
) -> Path:
    """Draw what was known, what came or may come, and forecasts, into a PNG; returns its path.

    Args:
        index: time stamps of the forecasts; default: those of `truth`.
        band: lower and upper end of the intervals of the first forecast.
    """
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
    from matplotlib.figure import Figure

    if index is None:
        if truth is None:
            raise ValueError("index must be given where there is no truth")
        assert isinstance(truth.index, pd.DatetimeIndex)
        index = truth.index
    figure = Figure(figsize=(9, 3.8), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    # plain numbers for the dates: matplotlib's converters know no time zones of pandas
    at = {name: i.tz_localize(None).to_numpy() for name, i in (("past", recent.index), ("future", index))}
    axes.plot(at["past"], recent.to_numpy(), color="0.35", label="known")
    if truth is not None:
        axes.plot(at["future"], truth.to_numpy(), color="0.35", linestyle=":", linewidth=1.4, label="what came")
    for number, (label, values) in enumerate(forecasts.items()):
        axes.plot(at["future"], values, color=f"C{number}", label=label, linewidth=1.3)
    if band is not None:
        axes.fill_between(at["future"], *band, color="C0", alpha=0.2, linewidth=0, label="interval")
    axes.axvline(at["past"][-1], color="0.7", linewidth=0.8)
    locator = AutoDateLocator()
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))
    axes.set(title=title, ylabel=str(recent.name))
    axes.grid(alpha=0.25)
    axes.legend(frameon=False, ncols=2, fontsize="small")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    return path
