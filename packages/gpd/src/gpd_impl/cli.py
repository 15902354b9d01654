"""The command line, `gpd-impl`: its own verbs; torch is imported only when a command runs."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import Positional, arg

from shared_impl.cli import Options, UserError, bad_input, run

if TYPE_CHECKING:
    from .forecaster import GPDForecaster

SLUG = "gpd"
EXPERIMENTS = ("long", "zero-shot", "imputation", "guidance", "gaussian", "network")
BENCHMARKS = ("batch", "guidance", "steps", "conditional", "crps", "official", "defaults")


@dataclass(frozen=True)
class Demo(Options):
    """Forecasts at three splits and a filled gap, by one set of weights that was trained for none of them."""

    def run(self) -> dict[str, float]:
        from .demo import demo

        return demo(seed=self.seed, device=self.torch_device(), out_dir=self.out_dir(SLUG), console=self.console())


@dataclass(frozen=True, kw_only=True)
class Pretrain(Options):
    """Train a model of windows on made series or on your files, and save it."""

    files: Annotated[Positional[tuple[Path, ...]], arg(metavar="FILES")] = ()
    """CSV files of series; none: made series, as for the weights that the package brings"""
    length: int = 192
    """steps of a window"""
    hidden: int = 224
    depth: int = 6
    steps: int = 25_000
    corpus: int = 40_000
    """made windows"""
    clip: float = 4.0
    """bound of the predicted data while sampling, in deviations of what is known"""
    half: bool = False
    """save half-precision numbers"""

    def run(self) -> dict[str, Any]:
        from .data import made_corpus, read_table
        from .forecaster import line, parts_of
        from .model import GPD
        from .training import Recipe

        folder, console = self.out_dir(SLUG) / "model", self.console()
        with bad_input():
            model = GPD(self.length, hidden=self.hidden, depth=self.depth, clip=self.clip).to(self.torch_device())
            found = [part for file in self.files for part, _ in parts_of(read_table(file))[0]]
            series = [line(part.to_numpy(dtype=float)) for part in found]
            series = series or list(made_corpus(self.corpus, 2 * self.length, seed=self.seed))
            half, split = self.length // 2, 0.8 if found else 1.0
            ends = (half, half) if found and max(map(len, series)) // 5 > self.length else None
            try:
                model.fit(series, split, recipe=Recipe(self.steps), calibrate=ends, seed=self.seed, console=console)
            except KeyboardInterrupt:
                model.save_pretrained(folder)
                console.print(f"stopped; what is learnt is in {folder}", highlight=False)
                raise
        if not self.files:
            valid = made_corpus(200, self.length, seed=self.seed + 1)
            model.calibrate_guidance(list(valid / valid.std(1, keepdims=True)), half, half, windows=200)
        (model.half() if self.half else model).save_pretrained(folder)
        console.print(f"{model.history_[-1]}; saved in {folder}", highlight=False)
        return {"path": str(folder), "scale": float(model.guidance_scale), **model.history_[-1]}


@dataclass(frozen=True, kw_only=True)
class _OfFile(Options):
    file: Annotated[Positional[Path], arg(metavar="FILE")]
    """CSV: a column of time stamps and columns of numbers, or unique_id, ds, y; `-`: standard input"""
    fit: bool = False
    """train on the file first (a minute or two) instead of taking the weights that the package brings"""
    model: Path | None = None
    """a folder that `pretrain` saved"""
    level: float = 0.8
    """probability of the intervals"""
    samples: int = 100
    guidance: Literal["dps", "replace", "repaint", "pigdm", "tsdiff"] = "dps"
    scale: float | None = None
    """of dps and tsdiff; default: calibrated"""
    output: Path | None = None
    """CSV to write; default: in --out"""

    def forecaster(self) -> "tuple[GPDForecaster, Any]":
        """Fitted to the file, and the file's table."""
        from .data import read_table
        from .forecaster import GPDForecaster
        from .model import GPD

        if not 0 < self.level < 1:
            raise UserError(f"--level must be between 0 and 1, got {self.level}")
        if self.fit and self.model is not None:
            raise UserError("--fit and --model exclude each other")
        self.torch_device()  # refuses cuda where there is none
        with bad_input():
            table = read_table(self.file)
            found = GPDForecaster(
                weights="fit" if self.fit else "shipped", n_samples=self.samples, guidance=self.guidance,
                scale=self.scale, random_state=self.seed, device=self.device,
            )  # fmt: skip
            other = None if self.model is None else GPD.from_pretrained(self.model)
            found.fit(table, model=other, console=self.console())
        return found, table

    def written(self, table: Any, name: str) -> str:
        """The path of the table, after writing it."""
        path = self.output or self.out_dir(SLUG) / name
        try:
            table.to_csv(path, index="unique_id" not in table.columns)
        except OSError as error:
            raise UserError(f"--output {path}: {error.strerror}") from error
        return str(path)


@dataclass(frozen=True, kw_only=True)
class Forecast(_OfFile):
    """Forecast the series of a file, with intervals, as CSV and a plot."""

    horizon: int = 24
    """steps"""

    def run(self) -> dict[str, Any]:
        from .demo import plot_fan

        forecaster, _ = self.forecaster()
        with bad_input():
            made = forecaster.forecast(self.horizon)
        path = self.written(made.frame(self.level), "forecast.csv")
        past = forecaster.parts_[0][0].to_numpy(dtype=float)[-3 * self.horizon :]
        plot = plot_fan(self.out_dir(SLUG) / "forecast.png", past, made.samples[:, :, 0], level=self.level)
        self.console().print(f"skill on the last steps {forecaster.skill_:.2f}; {path}; {plot}", highlight=False)
        return {"skill": forecaster.skill_, "series": len(made.names), "steps": self.horizon, "path": path}


@dataclass(frozen=True, kw_only=True)
class Impute(_OfFile):
    """Fill the empty cells of a file, with intervals."""

    def run(self) -> dict[str, Any]:
        forecaster, table = self.forecaster()
        missing = int(sum(part.isna().sum() for part, _ in forecaster.parts_))
        with bad_input():
            filled = forecaster.impute(table, level=self.level)
        path = self.written(filled, "filled.csv")
        self.console().print(f"{missing} missing values filled; {path}", highlight=False)
        return {"missing": missing, "path": path}


@dataclass(frozen=True, kw_only=True)
class ZeroShot(Options):
    """Train on one benchmark set, forecast the test part of another; beside repeating the last period."""

    source: str = "ETTh1"
    """a set's name, or `made`: the weights that the package brings"""
    target: str = "ETTh2"
    horizons: tuple[int, ...] = (96,)
    history: int = 96
    steps: int = 2000
    """of pretraining"""
    stride: int = 48
    """every so many test windows"""
    data_dir: Path | None = None
    """folder with weather.csv and the like"""

    def run(self) -> dict[str, Any]:
        from rich.table import Table

        from .experiments import evaluate, trained

        if min(self.history, self.steps, self.stride, *self.horizons) < 1:
            raise UserError("--history, --steps, --stride and --horizons must be at least 1")
        table, found = Table("horizon", "model", "MSE", "MAE", "CRPS", "80 % coverage"), {}
        with bad_input():
            model = trained(self.source, self.seed, self.steps, self.data_dir)
            for horizon in self.horizons:
                for name, one in (("GPD", model), ("seasonal naive", None)):
                    got = evaluate(self.target, one or name, self.history, horizon, self.stride, folder=self.data_dir)
                    table.add_row(str(horizon), name, *[f"{got[k]:.3f}" for k in ("mse", "mae", "crps", "coverage")])
                    found[f"{name} {horizon}"] = got
        self.console().print(table)
        return found


COMMANDS = {"demo": Demo, "pretrain": Pretrain, "forecast": Forecast, "impute": Impute, "zero-shot": ZeroShot}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    return run("gpd_impl", COMMANDS, argv, experiments=EXPERIMENTS, benchmarks=BENCHMARKS)
