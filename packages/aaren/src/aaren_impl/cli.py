"""The command line, `aaren-impl`: its own verbs; `info`, `reproduce` and `bench` come from what is declared.

torch is imported only when a command runs.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro import MISSING
from tyro.conf import Positional, arg

from shared_impl.cli import Options, UserError, bad_input, run

__all__ = ["main"]

SLUG = "aaren"
EXPERIMENTS = ("ett", "events", "uea", "rl")
BENCHMARKS = ("scan", "stream", "defaults", "peer")
ModelName = Literal["aaren", "transformer", "linear", "gru", "lstm"]


@dataclass(frozen=True)
class Demo(Options):
    """Event sequences: Aaren against its Transformer twin, a Poisson process and the truth; then a long stream."""

    steps: int = 100
    """optimiser steps a model"""

    def run(self) -> Mapping[str, Any]:
        """Print the table, and draw the memory of the stream."""
        if self.steps < 1:
            raise UserError(f"--steps must be at least 1, got {self.steps}")
        self.seed_everything()
        from .demo import demo

        options: dict[str, Any] = {"device": self.torch_device(), "out_dir": self.out_dir(SLUG)}
        return demo(seed=self.seed, steps=self.steps, console=self.console(), **options)


@dataclass(frozen=True)
class Train(Options):
    """Train a model and save it; on a file of your own, or on made data."""

    file: Annotated[Positional[str], arg(metavar="FILE")] = ""
    """event: CSV with sequence id, time, mark; classify: .ts file; forecast: CSV of numbers; - for standard input"""
    task: Literal["rl", "event", "forecast", "classify"] = "event"
    """what to learn"""
    model: ModelName = "aaren"
    """Aaren or one of the baselines"""
    steps: int | None = None
    """optimiser steps (default: 300; classify: at most 1,000)"""
    horizon: int = 0
    """forecast: rows ahead (default: a twelfth of the series, at most 96)"""

    def run(self) -> Mapping[str, Any]:
        """Train, report the figures on held-out data, save the weights."""
        if self.steps is not None and self.steps < 1:
            raise UserError(f"--steps must be at least 1, got {self.steps}")
        if self.horizon < 0:
            raise UserError(f"--horizon must not be negative, got {self.horizon}")
        if self.file and self.task == "rl":
            raise UserError("FILE: the task rl makes its own data; D4RL sets are read by aaren_impl.offline")
        device, out_dir, console = self.torch_device(), self.out_dir(SLUG), self.console()
        self.seed_everything()
        from .saved import train_task

        with bad_input():
            figures = train_task(
                self.task, self.model, data=self.file or None, steps=self.steps, horizon=self.horizon, seed=self.seed,
                device=device, out_dir=out_dir, console=console,
            )  # fmt: skip
        for name, value in figures.items():
            shown = f"{value:.4g}" if isinstance(value, float) else value
            console.print(f"{name}: {shown}", highlight=False, soft_wrap=True)
        return figures


@dataclass(frozen=True)
class Predict(Options):
    """Ask a saved model about a file: events line by line as they come, the next rows of a series, or classes."""

    file: Annotated[Positional[str], arg(metavar="FILE")] = MISSING
    """as for `train`; - for standard input, events of which are answered one by one"""
    task: Literal["event", "forecast", "classify"] = "event"
    """which kind of model"""
    model: Path | None = None
    """folder that `train` wrote (default: runs/aaren/TASK)"""

    def run(self) -> Any:
        """Print CSV."""
        folder = self.model or Path("runs") / SLUG / self.task
        from . import saved

        with bad_input():
            if self.task == "event":
                return self._answered(saved.event_lines(folder, self.file))
            frame = (saved.forecast_file if self.task == "forecast" else saved.classify_file)(folder, self.file)
        if not self.json:
            print(frame.to_csv(index=self.task == "forecast", index_label="row"), end="")
        return frame.to_dict(orient="records")

    def _answered(self, lines: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
        kept: list[Mapping[str, Any]] = []
        header = True
        for line in lines:
            if self.json:
                kept.append(line)
                continue
            if header:
                print(",".join(line))
                header = False
            print(",".join(f"{v:.6g}" if isinstance(v, float) else v for v in line.values()), flush=True)
        return kept


@dataclass(frozen=True)
class Simulate(Options):
    """Write Hawkes event sequences as CSV (sequence, time, mark), for `train FILE --task event`."""

    file: Positional[Path] = Path("events.csv")
    """where to"""
    sequences: int = 200
    """how many"""

    def run(self) -> Mapping[str, Any]:
        """Draw and write them."""
        if self.sequences < 1:
            raise UserError(f"--sequences must be at least 1, got {self.sequences}")
        from shared_impl.results import write_atomically

        from .hawkes import Hawkes

        drawn = Hawkes().sample(self.sequences, seed=self.seed)
        lines = [f"{i},{float(t)!r},{int(k)}" for i, s in enumerate(drawn) for t, k in zip(*s, strict=True)]
        try:
            write_atomically(self.file, "sequence,time,mark\n" + "\n".join(lines) + "\n")
        except OSError as error:
            raise UserError(f"{self.file} cannot be written: {error.strerror}") from error
        self.console().print(f"{len(lines)} events: {self.file}", soft_wrap=True)
        return {"events": len(lines), "file": str(self.file)}


COMMANDS: Mapping[str, type] = {"demo": Demo, "train": Train, "predict": Predict, "simulate": Simulate}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    return run("aaren_impl", COMMANDS, argv, experiments=EXPERIMENTS, benchmarks=BENCHMARKS)
