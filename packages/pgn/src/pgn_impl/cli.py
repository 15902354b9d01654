"""The command line, `pgn-impl`; torch is imported only when a command runs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import Positional, arg

from shared_impl.cli import Options, UserError, bad_input, run

if TYPE_CHECKING:
    from pgn_impl.data import Series

SLUG = "pgn"
MODELS = (
    "last", "seasonal", "tpgn", "dlinear", "nlinear", "patchtst", "itransformer", "segrnn", "lstm", "gru", "witran",
)  # fmt: skip
ModelName = Literal[
    "last", "seasonal", "tpgn", "dlinear", "nlinear", "patchtst", "itransformer", "segrnn", "lstm", "gru", "witran"
]
FillName = Literal["linear", "previous", "seasonal"]


@dataclass(frozen=True)
class Demo(Options):
    """A drifting hourly series a week ahead: TPGN, an LSTM, DLinear and naive forecasts, a table and a plot."""

    hours: int = 4000
    """length of the generated series"""
    epochs: int = 8
    """training epochs a model, at most"""

    def run(self) -> Any:
        """Train, print the table, draw the forecasts."""
        from pgn_impl.demo import demo

        if self.epochs < 1:
            raise UserError(f"--epochs must be at least 1, got {self.epochs}")
        if self.hours < 1000:
            raise UserError(f"--hours must be at least 1000, got {self.hours}")
        return demo(
            seed=self.seed, device=self.torch_device(), out_dir=self.out_dir(SLUG), console=self.console(),
            hours=self.hours, epochs=self.epochs,
        )  # fmt: skip


@dataclass(frozen=True)
class Fit(Options):
    """Learn to forecast the series of a CSV file, and save the forecaster."""

    data: Annotated[str, arg(metavar="FILE|NAME")] = "synthetic"
    """CSV file with a column of time stamps, ETTh1, ETTh2, or synthetic (4,000 generated hours)"""
    target: tuple[str, ...] = ()
    """columns to forecast; default: all that hold numbers (ETT: OT)"""
    time_column: str | None = None
    """column of the time stamps; default: date, datetime, time, timestamp or ds, else the first"""
    horizon: int = 168
    """steps to forecast"""
    window: int | None = None
    """steps that a forecast is made from; default: seven periods"""
    period: int | None = None
    """steps of the main cycle; default: a day of hours, a week of days, a year of anything longer"""
    freq: str | None = None
    """frequency of the time stamps, as pandas writes it; default: found"""
    model: ModelName = "tpgn"
    """TPGN, or what to compare it with"""
    d_model: int = 8
    """width of TPGN"""
    norm: bool = True
    """take level and scale out of each window (TPGN)"""
    fill: FillName | None = None
    """how to fill gaps, missing values and irregular stamps; default: refuse them"""
    valid: float = 0.15
    """share of the series that decides when to stop"""
    calibration: float = 0.15
    """share of the series, its end, that calibrates the intervals; 0: no intervals"""
    epochs: int = 25
    """at most so many passes"""
    batch_size: int = 32
    """windows an optimiser step"""
    lr: float = 1e-3
    """learning rate"""

    def run(self) -> Mapping[str, Any]:
        """Fit, save, and say how good the forecasts for the last part were."""
        from pgn_impl.forecaster import TPGNForecaster

        series = _series(self.data, self.target, self.time_column)
        console, out = self.console(), self.out_dir(SLUG)
        forecaster = TPGNForecaster(
            self.horizon, window=self.window, period=self.period, freq=self.freq, d_model=self.d_model, norm=self.norm,
            model=self.model, valid=self.valid, calibration=self.calibration, fill=self.fill, epochs=self.epochs,
            batch_size=self.batch_size, lr=self.lr, random_state=self.seed, device=self.device,
        )  # fmt: skip
        self.torch_device()  # refuses cuda where there is none
        with bad_input():
            forecaster.fit(series, console=console)
        folder = forecaster.save(out / "model")
        result: dict[str, Any] = {
            "model": str(folder),
            "variables": forecaster.columns_,
            "frequency": forecaster.frequency_,
            "period": forecaster.period_,
            "window": forecaster.window_,
            "valid_mse": min(row["mse"] for row in forecaster.history_ if "mse" in row),
        }
        if forecaster.scores_ is not None:
            result["calibration_mae"] = (forecaster.scores_.mean((0, 1)) * forecaster.scale_).tolist()
        for name, value in result.items():
            console.print(f"{name.replace('_', ' ')}: {value}", highlight=False, soft_wrap=True)
        return result


@dataclass(frozen=True)
class Forecast(Options):
    """Forecast with a saved forecaster: a CSV file with intervals, and a plot."""

    model: Path = Path("runs/pgn/model")
    """folder that `fit` saved"""
    data: str | None = None
    """what came last, as for `fit`; default: the end of the series of the fit"""
    time_column: str | None = None
    """column of the time stamps"""
    level: float = 0.9
    """probability of the intervals; 0: none"""

    def run(self) -> Mapping[str, Any]:
        """Write forecast.csv and forecast.png."""
        from pgn_impl.demo import plot_forecasts
        from pgn_impl.forecaster import TPGNForecaster

        if not 0 <= self.level < 1:
            raise UserError(f"--level must be from 0 to below 1, got {self.level}")
        console, out = self.console(), self.out_dir(SLUG)
        with bad_input():
            forecaster = TPGNForecaster.load(self.model)
            level = self.level or None
            if self.data is None:
                recent = forecaster.last_
                table = forecaster.predict(level=level)
            else:
                recent = _series(self.data, tuple(forecaster.columns_), self.time_column).frame()
                table = forecaster.predict(recent, level=level)
        path, first = out / "forecast.csv", forecaster.columns_[0]
        table.to_csv(path, index_label="time")
        band = None if level is None else (table[f"{first}_lower"].to_numpy(), table[f"{first}_upper"].to_numpy())
        plot = plot_forecasts(
            out / "forecast.png", recent[first].iloc[-2 * forecaster.window_ :], {"forecast": table[first].to_numpy()},
            index=table.index, band=band,
        )  # fmt: skip
        for written in (path, plot):
            console.print(str(written), highlight=False, soft_wrap=True)
        return {"forecast": str(path), "plot": str(plot), "steps": len(table), "columns": list(table.columns)}


@dataclass(frozen=True)
class Benchmark(Options):
    """Train models side by side on a series: the same windows, split (60/20/20), recipe and seeds."""

    data: Annotated[str, arg(metavar="FILE|NAME")] = "synthetic"
    """CSV file, ETTh1, ETTh2, ECL, Traffic, Weather, or synthetic"""
    data_dir: Path | None = None
    """folder with electricity.csv, traffic.csv or weather.csv"""
    target: tuple[str, ...] = ()
    """columns to forecast; default: all that hold numbers (named sets: OT)"""
    models: tuple[str, ...] = ("last", "seasonal", "dlinear", "nlinear", "lstm", "tpgn")
    """which"""
    horizons: tuple[int, ...] = (168,)
    """steps to forecast"""
    window: int = 168
    """steps that a forecast is made from"""
    period: int | None = None
    """steps of the main cycle; default: by the frequency"""
    fill: FillName | None = None
    """how to fill gaps, missing values and irregular stamps; default: refuse them"""
    seeds: int = 1
    """runs a model, from --seed on"""
    epochs: int = 25
    """at most so many passes"""

    def run(self) -> Any:
        """Train and measure all, print the table, save the record."""
        from pgn_impl.comparison import compare_models

        _known_models(self.models)
        return _side_by_side(self, compare_models, models=self.models)


@dataclass(frozen=True)
class Ablate(Options):
    """TPGN without one of its branches, and with LSTM, GRU, MLP or attention in PGN's place."""

    data: Annotated[str, arg(metavar="FILE|NAME")] = "synthetic"
    """CSV file, ETTh1, ETTh2, ECL, Traffic, Weather, or synthetic"""
    data_dir: Path | None = None
    """folder with electricity.csv, traffic.csv or weather.csv"""
    target: tuple[str, ...] = ()
    """columns to forecast; default: all that hold numbers (named sets: OT)"""
    horizons: tuple[int, ...] = (168,)
    """steps to forecast"""
    window: int = 168
    """steps that a forecast is made from"""
    period: int | None = None
    """steps of the main cycle; default: by the frequency"""
    fill: FillName | None = None
    """how to fill gaps, missing values and irregular stamps; default: refuse them"""
    seeds: int = 1
    """runs a model, from --seed on"""
    epochs: int = 25
    """at most so many passes"""

    def run(self) -> Any:
        """Train and measure all, print the table, save the record."""
        from pgn_impl.comparison import ablate

        return _side_by_side(self, ablate)


@dataclass(frozen=True)
class Reproduce(Options):
    """The paper's table 1. Runs that are done are kept under --work and not run again."""

    experiment: Positional[Literal["table1"]] = "table1"
    """univariate forecasts of OT, 168 hours to 168, 336, 720 and 1440"""
    preset: Literal["cpu", "paper", "smoke"] = "cpu"
    """paper: all horizons, TPGN with 5 seeds, others 3; cpu: 168 and 720, 2 seeds; smoke: five steps, to see it run"""
    data: tuple[str, ...] = ("ETTh1", "ETTh2")
    """data sets; ECL, Traffic and Weather are read from --data-dir"""
    models: tuple[str, ...] = ("tpgn", "dlinear", "patchtst", "itransformer")
    """models, in the order in which they run"""
    data_dir: Path | None = None
    """folder with electricity.csv, traffic.csv or weather.csv"""
    work: Path = Path("runs/pgn/work")
    """where each finished run is kept"""
    finished_only: bool = False
    """run nothing: record what is done"""

    def run(self) -> Any:
        """Run what is missing, print the table, save the record."""
        from pgn_impl.experiments import reproduce_table1
        from shared_impl.results import rich_table

        _known_models(self.models)
        console = self.console()
        with bad_input():
            record = reproduce_table1(
                preset=self.preset, out_dir=self.out_dir(SLUG), work=self.work, data=self.data, models=self.models,
                data_dir=self.data_dir, device=self.torch_device(), progress=console, first_seed=self.seed,
                finished_only=self.finished_only,
            )  # fmt: skip
        if not self.json:
            console.print(rich_table(record))
        return record


@dataclass(frozen=True)
class Bench(Options):
    """Speed, and how far gradients reach."""

    what: Positional[Literal["step", "forms", "gradient", "official"]] = "step"
    """step: training step and forecast by length of the window, against LSTM, PatchTST, iTransformer, DLinear;
    forms: the forms of HIE; gradient: its norm by distance; official: beside the authors' code (PGN_OFFICIAL_DIR)"""
    quick: bool = False
    """small sizes, to see that it runs"""

    def run(self) -> Any:
        """Measure, print the table, save the record."""
        from pgn_impl.benchmarks import BENCHMARKS
        from shared_impl.results import rich_table

        out = self.out_dir(SLUG)
        record = BENCHMARKS[self.what](out_dir=out, quick=self.quick, seed=self.seed)
        record.save(out)
        if not self.json:
            self.console().print(rich_table(record))
        return record


def _series(data: str, target: Sequence[str], time_column: str | None = None, data_dir: Path | None = None) -> "Series":
    """A series by name or from a file.

    Raises:
        UserError: if it is neither, cannot be read, or lacks a column.
    """
    from pgn_impl.data import FILES, Series, load, read_csv, synthetic_series

    named = data in ("ETTh1", "ETTh2", "ETTm1", "ETTm2", *FILES)
    try:
        with bad_input():
            if data == "synthetic":
                series = synthetic_series()
            elif named:
                series = load(data, data_dir=data_dir, target=None if target else "OT")
            elif Path(data).is_file():
                series = read_csv(Path(data), time_column=time_column)
            else:
                raise UserError(
                    f"--data {data}: no such file, and not one of synthetic, ETTh1, ETTh2, {', '.join(FILES)}"
                )
            missing = [name for name in target if name not in series.columns]
            if missing:
                raise UserError(f"{data} has no column {', '.join(missing)}; there are {', '.join(series.columns)}")
    except UserError as error:
        raise UserError(str(error) if data in str(error) else f"{data}: {error}") from error
    if not target:
        return series
    places = [series.columns.index(name) for name in target]
    return Series(series.values[:, places], series.index, tuple(target), series.name)


def _side_by_side(command: Any, measure: Any, **more: Any) -> Any:
    """Run `compare_models` or `ablate` with the options of a command."""
    from pgn_impl.data import Series
    from pgn_impl.timeline import as_frame, default_period, regular
    from pgn_impl.training import Recipe
    from shared_impl.results import rich_table

    for name in ("seeds", "epochs", "window"):
        if getattr(command, name) < 1:
            raise UserError(f"--{name} must be at least 1, got {getattr(command, name)}")
    console = command.console()
    series = _series(command.data, command.target, data_dir=command.data_dir)
    with bad_input():
        frame, freq = regular(as_frame(series), fill=command.fill, period=command.period)
        period = default_period(freq) if command.period is None else command.period
        record = measure(
            Series(frame.to_numpy(), frame.index, series.columns, series.name),
            freq=freq,
            horizons=command.horizons,
            seeds=range(command.seed, command.seed + command.seeds),
            out_dir=command.out_dir(SLUG),
            window=command.window,
            period=period,
            recipe=Recipe(epochs=command.epochs),
            device=command.torch_device(),
            progress=console,
            **more,
        )
    if not command.json:
        console.print(rich_table(record))
    return record


def _known_models(models: Sequence[str]) -> None:
    for name in models:
        if name not in MODELS:
            raise UserError(f"--models: {name!r} is not one of {', '.join(MODELS)}")


COMMANDS: Mapping[str, type] = {
    "demo": Demo,
    "fit": Fit,
    "forecast": Forecast,
    "benchmark": Benchmark,
    "ablate": Ablate,
    "reproduce": Reproduce,
    "bench": Bench,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    return run("pgn_impl", COMMANDS, argv)
