"""Models, and TPGN's ablations, side by side on any series: the same windows, split, recipe and seeds."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from pgn_impl.data import Series
from pgn_impl.experiments import run_once
from pgn_impl.models import LABELS, MODELS, UNTRAINED, settings
from pgn_impl.training import Recipe
from pgn_impl.windows import ForecastData
from shared_impl.results import Record, Row, summarise

__all__ = ["ABLATIONS", "ablate", "compare_models"]

ABLATIONS: Mapping[str, Mapping[str, Any]] = {
    "TPGN": {},
    "without the long branch": {"long": "none"},
    "without the short branch": {"short": False},
    "LSTM for PGN": {"long": "lstm"},
    "GRU for PGN": {"long": "gru"},
    "MLP for PGN": {"long": "mlp"},
    "attention for PGN": {"long": "attn"},
}


def compare_models(
    series: Series,
    *,
    freq: str,
    models: Sequence[str],
    horizons: Sequence[int],
    seeds: Sequence[int],
    out_dir: Path,
    window: int = 168,
    period: int = 24,
    recipe: Recipe | None = None,
    device: torch.device | str = "cpu",
    progress: Console | None = None,
) -> Record:
    """Train each model on 60 % of the series for each horizon and seed; its errors on the last 20 %, all windows.

    Raises:
        ValueError: for an unknown model, or a series that is too short.
    """
    for name in models:
        if name not in MODELS:
            raise ValueError(f"models must be of {', '.join(MODELS)}, got {name!r}")
    runs: dict[str, tuple[str, dict[str, Any]]] = {LABELS[name]: (name, {}) for name in models}
    return _measure(
        "benchmark", runs, series, freq, horizons, seeds, out_dir, window, period, recipe or Recipe(), device, progress
    )


def ablate(
    series: Series,
    *,
    freq: str,
    horizons: Sequence[int],
    seeds: Sequence[int],
    out_dir: Path,
    window: int = 168,
    period: int = 24,
    recipe: Recipe | None = None,
    device: torch.device | str = "cpu",
    progress: Console | None = None,
) -> Record:
    """TPGN without one of its branches, and with another layer in the place of PGN; as `compare_models`."""
    runs = {label: ("tpgn", changes) for label, changes in ABLATIONS.items()}
    return _measure(
        "ablation", runs, series, freq, horizons, seeds, out_dir, window, period, recipe or Recipe(), device, progress
    )


def _measure(
    experiment: str,
    runs: Mapping[str, tuple[str, Mapping[str, Any]]],
    series: Series,
    freq: str,
    horizons: Sequence[int],
    seeds: Sequence[int],
    out_dir: Path,
    window: int,
    period: int,
    recipe: Recipe,
    device: torch.device | str,
    progress: Console | None,
) -> Record:
    record = Record.start("pgn_impl", experiment, preset=series.name, seeds=seeds, kind="train")
    for horizon in horizons:
        data = ForecastData.from_series(
            series.values, series.index, freq=freq, seq_len=window, pred_len=horizon, name=series.name
        )
        for label, (model, changes) in runs.items():
            options = {**settings(model, data=series.name, pred_len=horizon, period=period), **changes}
            own_seeds = list(seeds)[:1] if model in UNTRAINED else seeds
            found = [run_once(data, model, seed, recipe=recipe, device=device, **options) for seed in own_seeds]
            seconds = sum(run["seconds"] for run in found) / len(found)
            for metric in ("mse", "mae"):
                value, spread = summarise([run[f"all_{metric}"] for run in found])
                record.add(
                    Row(
                        task=f"{series.name}, {window} to {horizon}",
                        model=label,
                        metric=metric.upper(),
                        value=value,
                        spread=spread,
                        n=len(found),
                        higher_is_better=False,
                        note=f"{found[0]['parameters']:,} parameters, {seconds:.1f} s" if metric == "mse" else "",
                    )
                )
            if progress is not None:
                mse = record.rows[-2].value
                progress.print(f"{series.name}, {window} to {horizon}, {label}: MSE {mse:.4f}", highlight=False)
            record.save(out_dir)
    return record
