"""The paper's tables as experiments: what to run, at which scale, beside which published numbers."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.console import Console

from pgn_impl.data import Series, load
from pgn_impl.models import HORIZONS, LABELS, UNTRAINED, build, settings
from pgn_impl.training import Recipe, errors, train
from pgn_impl.windows import ForecastData
from shared_impl.results import Record, Row, kept_run, plot_curves, summarise
from shared_impl.train import count_parameters

__all__ = ["MAIN", "PAPER", "SCALES", "Scale", "reproduce_table1", "run_once", "univariate"]

SEQ_LEN = 168
MAIN = ("tpgn", "dlinear", "patchtst", "itransformer")


def _pairs(*numbers: float) -> dict[int, tuple[float, float]]:
    return {h: (numbers[2 * i], numbers[2 * i + 1]) for i, h in enumerate(HORIZONS)}


# Table 1: data, model, horizon -> (MSE, MAE); input length 168, univariate
PAPER: Mapping[str, Mapping[str, Mapping[int, tuple[float, float]]]] = {
    "ETTh1": {
        "tpgn": _pairs(0.1061, 0.2533, 0.1110, 0.2625, 0.1346, 0.2908, 0.1343, 0.2941),
        "witran": _pairs(0.1105, 0.2589, 0.1189, 0.2714, 0.1566, 0.3150, 0.1541, 0.3157),
        "segrnn": _pairs(0.1189, 0.2705, 0.1378, 0.2972, 0.2134, 0.3697, 0.4033, 0.5296),
        "dlinear": _pairs(0.1122, 0.2605, 0.1251, 0.2794, 0.1919, 0.3465, 0.3606, 0.4939),
        "itransformer": _pairs(0.1112, 0.2598, 0.1203, 0.2709, 0.1423, 0.3020, 0.1520, 0.3107),
        "patchtst": _pairs(0.1212, 0.2704, 0.1287, 0.2808, 0.1727, 0.3297, 0.3206, 0.4561),
    },
    "ETTh2": {
        "tpgn": _pairs(0.2174, 0.3623, 0.2237, 0.3769, 0.2356, 0.3898, 0.2514, 0.4070),
        "witran": _pairs(0.2389, 0.3813, 0.2277, 0.3778, 0.2718, 0.4146, 0.3350, 0.4624),
        "segrnn": _pairs(0.2566, 0.4013, 0.3017, 0.4398, 0.3897, 0.4988, 0.8067, 0.7307),
        "dlinear": _pairs(0.2556, 0.3944, 0.2891, 0.4256, 0.4090, 0.5090, 0.7921, 0.7262),
        "itransformer": _pairs(0.2630, 0.4053, 0.2658, 0.4092, 0.2951, 0.4312, 0.3806, 0.4894),
        "patchtst": _pairs(0.2582, 0.3983, 0.3206, 0.4514, 0.4398, 0.5304, 0.8339, 0.7330),
    },
    "ECL": {
        "tpgn": _pairs(0.2107, 0.3264, 0.2276, 0.3446, 0.2303, 0.3550, 0.2484, 0.3775),
        "witran": _pairs(0.2397, 0.3519, 0.2607, 0.3721, 0.2906, 0.3965, 0.3255, 0.4302),
        "segrnn": _pairs(0.2600, 0.3622, 0.3166, 0.4017, 0.3964, 0.4660, 0.7574, 0.6547),
        "dlinear": _pairs(0.2606, 0.3579, 0.3080, 0.3946, 0.3515, 0.4374, 0.5300, 0.5681),
        "itransformer": _pairs(0.2479, 0.3516, 0.3128, 0.3974, 0.3660, 0.4438, 0.7028, 0.6348),
        "patchtst": _pairs(0.2980, 0.3832, 0.3446, 0.4094, 0.4324, 0.4782, 0.7349, 0.6464),
    },
    "Traffic": {
        "tpgn": _pairs(0.1196, 0.1857, 0.1156, 0.1868, 0.1293, 0.2057, 0.1390, 0.2114),
        "witran": _pairs(0.1377, 0.2051, 0.1321, 0.2059, 0.1439, 0.2226, 0.1611, 0.2369),
        "segrnn": _pairs(0.1901, 0.2816, 0.2227, 0.3129, 0.2674, 0.3436, 0.3453, 0.3929),
        "dlinear": _pairs(0.1519, 0.2195, 0.1468, 0.2210, 0.1629, 0.2389, 0.1890, 0.2640),
        "itransformer": _pairs(0.1343, 0.2083, 0.1366, 0.2221, 0.1402, 0.2265, 0.1519, 0.2321),
        "patchtst": _pairs(0.1622, 0.2320, 0.1641, 0.2364, 0.1770, 0.2548, 0.2139, 0.2875),
    },
    "Weather": {
        "tpgn": _pairs(0.1877, 0.3166, 0.1978, 0.3278, 0.1925, 0.3255, 0.1786, 0.3184),
        "witran": _pairs(0.2050, 0.3338, 0.2197, 0.3470, 0.2538, 0.3796, 0.2695, 0.3966),
        "segrnn": _pairs(0.2165, 0.3405, 0.2693, 0.3868, 0.3478, 0.4519, 0.6456, 0.6484),
        "dlinear": _pairs(0.2421, 0.3578, 0.2918, 0.3975, 0.3915, 0.4739, 0.5837, 0.6177),
        "itransformer": _pairs(0.2636, 0.4056, 0.2658, 0.4092, 0.2754, 0.3900, 0.3007, 0.4113),
        "patchtst": _pairs(0.2469, 0.3597, 0.3040, 0.4049, 0.4023, 0.4662, 0.7150, 0.6336),
    },
}


@dataclass(frozen=True)
class Scale:
    """How much of the table to run."""

    horizons: tuple[int, ...] = HORIZONS
    seeds: int = 3
    tpgn_seeds: int = 5
    recipe: Recipe = field(default_factory=Recipe)

    def seeds_of(self, model: str) -> int:
        """Seeds of a model: one where nothing is random."""
        return 1 if model in UNTRAINED else self.tpgn_seeds if model == "tpgn" else self.seeds


SCALES: Mapping[str, Scale] = {
    "paper": Scale(),
    "cpu": Scale((168, 720), 2, 2),
    "smoke": Scale((168,), 1, 1, Recipe(max_steps=5)),
}


def univariate(series: Series, pred_len: int, seq_len: int = SEQ_LEN, freq: str = "h") -> ForecastData:
    """The paper's split and scaling of a series."""
    return ForecastData.from_series(
        series.values, series.index, freq=freq, seq_len=seq_len, pred_len=pred_len, name=series.name
    )


def run_once(
    data: ForecastData,
    model: str,
    seed: int,
    *,
    recipe: Recipe | None = None,
    device: torch.device | str = "cpu",
    **changes: Any,
) -> dict[str, Any]:
    """Train a model by name once and measure it on the test windows.

    Args:
        changes: options of the model that differ from the table's.

    Returns:
        mse and mae over the windows in full batches, as in the paper's table, and over all of them (`all_mse`,
        `all_mae`); valid_mse, epochs, best_epoch, parameters, seconds.
    """
    recipe = Recipe() if recipe is None else recipe
    begun = time.perf_counter()
    torch.manual_seed(seed)
    options = {**settings(model, data=data.name, pred_len=data.pred_len), **changes}
    net = build(
        model,
        seq_len=data.seq_len,
        pred_len=data.pred_len,
        c_in=data.values.shape[1],
        time_features=data.marks.shape[1],
        **options,
    ).to(device)
    found: dict[str, Any] = {"parameters": count_parameters(net)}
    valid = data.windows("valid")
    if model in UNTRAINED:
        found["valid_mse"] = errors(net, valid)["mse"]
    else:
        result = train(net, data.windows("train"), valid, recipe, seed=seed)
        found |= {
            "valid_mse": result.best["mse"],
            "best_epoch": round(result.best["epoch"], 2),
            "epochs": round(result.history[-1]["epoch"], 2),
        }
    test = data.windows("test")
    found |= errors(net, test, drop_last=recipe.batch_size)
    found |= {f"all_{name}": value for name, value in errors(net, test).items()}
    return {**found, "seconds": round(time.perf_counter() - begun, 1)}


def reproduce_table1(
    *,
    preset: str,
    out_dir: Path,
    work: Path,
    data: Sequence[str] = ("ETTh1", "ETTh2"),
    models: Sequence[str] = MAIN,
    data_dir: Path | None = None,
    device: torch.device | str = "cpu",
    progress: Console | None = None,
    first_seed: int = 0,
    finished_only: bool = False,
) -> Record:
    """Every model on every data set and horizon with several seeds, beside the paper's numbers.

    A run that is done is not run again, and the record is written anew after each: what was interrupted is a record of
    all that is done.

    Args:
        work: each finished run lies here, under a name that depends on all settings.
        finished_only: run nothing; record what is done.

    Raises:
        ValueError: if nothing is done and nothing is to be run.
    """
    scale = SCALES[preset]
    most = max(scale.seeds_of(model) for model in models)
    record = Record.start(
        "pgn_impl",
        "table1",
        preset=preset,
        seeds=range(first_seed, first_seed + most),
        config={"seq_len": SEQ_LEN, "recipe": asdict(scale.recipe)},
    )
    plan = list(_plan(models, data, scale, first_seed))
    wanted = {
        run: {
            "data": run.data,
            "pred_len": run.horizon,
            "model": run.model,
            "seed": run.seed,
            "options": settings(run.model, data=run.data, pred_len=run.horizon),
            "recipe": asdict(scale.recipe),
        }
        for run in plan
    }
    found = {run: kept_run(work, run.file, wanted[run], None) for run in plan}
    done = {run: result for run, result in found.items() if result is not None}
    missing = [run for run in plan if run not in done]
    if finished_only:
        if not done:
            raise ValueError(f"finished_only needs finished runs of the preset {preset}, got none in {work}")
        missing = []
    loaded = {run.data: load(run.data, data_dir=data_dir) for run in missing}
    if done:
        _fill(record, done, plan)
        _plot(record, done, out_dir)
        record.save(out_dir)
    if progress is not None:
        progress.print(f"{len(done)} of {len(plan)} runs are done", highlight=False)
    for run in missing:

        def make(run: _Run = run) -> dict[str, Any]:
            series = univariate(loaded[run.data], run.horizon)
            return run_once(series, run.model, run.seed, recipe=scale.recipe, device=device)

        result = kept_run(work, run.file, wanted[run], make)
        assert result is not None
        done[run] = result
        _fill(record, done, plan)
        _plot(record, done, out_dir)
        record.save(out_dir)
        if progress is not None:
            progress.print(
                f"{len(done)}/{len(plan)} {run.data} {SEQ_LEN} to {run.horizon}, {LABELS[run.model]}, seed {run.seed}: "
                f"MSE {result['mse']:.4f} ({result['seconds']} s)",
                highlight=False,
            )
    return record


def _plot(record: Record, done: Mapping["_Run", Mapping[str, Any]], out_dir: Path) -> None:
    """Squared error by horizon, a picture for each data set."""
    record.plots = []
    for name in sorted({run.data for run in done}):
        curves: dict[str, tuple[list[int], list[float]]] = {}
        for model in dict.fromkeys(run.model for run in done):
            by_horizon: dict[int, list[float]] = {}
            for run, result in done.items():
                if (run.model, run.data) == (model, name):
                    by_horizon.setdefault(run.horizon, []).append(result["mse"])
            if by_horizon:
                horizons = sorted(by_horizon)
                curves[LABELS[model]] = (horizons, [summarise(by_horizon[h])[0] for h in horizons])
                if published := PAPER.get(name, {}).get(model):
                    curves[f"{LABELS[model]}, paper"] = (horizons, [published[h][0] for h in horizons])
        plot = plot_curves(
            out_dir / f"{record.experiment}-{record.preset}-{name}.png",
            curves,
            xlabel="hours ahead",
            ylabel="mean squared error",
            title=f"{name}, {SEQ_LEN} hours in",
        )
        record.plots.append(plot.name)


class _Run(NamedTuple):
    model: str
    data: str
    horizon: int
    seed: int

    @property
    def file(self) -> str:
        """What the name of its result's file begins with."""
        return f"{self.data}-{self.horizon}-{self.model}-seed{self.seed}"


def _plan(models: Sequence[str], data: Sequence[str], scale: Scale, first_seed: int) -> Iterator[_Run]:
    # seeds last: what is interrupted has the same number of seeds almost everywhere
    for offset in range(max(scale.seeds_of(model) for model in models)):
        for model in models:
            if offset < scale.seeds_of(model):
                for name in data:
                    for horizon in scale.horizons:
                        yield _Run(model, name, horizon, first_seed + offset)


def _fill(record: Record, done: Mapping[_Run, Mapping[str, Any]], plan: Sequence[_Run]) -> None:
    """Rows in the order data, horizon, model; notes on what ran."""
    groups: dict[tuple[str, int, str], list[Mapping[str, Any]]] = {}
    for run in plan:
        if run in done:
            groups.setdefault((run.data, run.horizon, run.model), []).append(done[run])
    names = list(dict.fromkeys(run.data for run in plan))
    order = sorted(groups, key=lambda key: (names.index(key[0]), key[1]))
    record.rows, record.notes = [], []
    for key in order:
        name, horizon, model = key
        published = PAPER.get(name, {}).get(model, {}).get(horizon)
        for place, metric in enumerate(("mse", "mae")):
            value, spread = summarise([result[metric] for result in groups[key]])
            paper = None if published is None else published[place]
            record.add(
                Row(
                    task=f"{name}, {SEQ_LEN} to {horizon}",
                    model=LABELS[model],
                    metric=metric.upper(),
                    value=value,
                    spread=spread,
                    n=len(groups[key]),
                    paper=paper,
                    higher_is_better=False,
                    note="" if paper is None else f"{100 * (value / paper - 1):+.1f} %",
                )
            )
    minutes = sum(result["seconds"] for result in done.values()) / 60
    record.config["runs"] = {
        f"{name} {horizon} {model}": groups[name, horizon, model] for name, horizon, model in order
    }
    record.notes.append(
        f"{len(done)} training runs, {minutes:.0f} minutes in all; test windows in full batches of 32, as in the "
        "paper's table. The note is the distance from the paper's number."
    )
    if len(done) < len(plan):
        record.notes.append(
            f"Interrupted: {len(plan) - len(done)} of the preset's {len(plan)} runs are missing; the same command goes "
            "on."
        )
