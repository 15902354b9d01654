"""The command line, `ptrnet-impl`: its own verbs; `info`, `reproduce` and `bench` come from what is declared.

torch is imported only when a command runs.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro import MISSING
from tyro.conf import Positional, arg

from shared_impl.cli import Options, UserError, run

__all__ = ["main"]

SLUG = "ptrnet"
EXPERIMENTS = ("table1", "table2", "delaunay", "sort")
BENCHMARKS = ("training", "scores", "decoding", "held_karp", "official", "defaults")

TaskName = Literal["hull", "delaunay", "tsp", "sort"]


@contextmanager
def user_errors() -> Iterator[None]:
    """What is wrong with the user's input is told in one line."""
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot read {error.filename}: {error.strerror}") from error
    except ValueError as error:
        raise UserError(str(error)) from error


@dataclass(frozen=True)
class Demo(Options):
    """Hulls by a pointer network and by an LSTM with a fixed dictionary: a table, a plot, a picture in letters."""

    steps: int = 1400
    """training steps a network, at most"""

    def run(self) -> Any:
        """Train both, print the table, draw the answers."""
        from .demo import demo

        if self.steps < 1:
            raise UserError(f"--steps must be at least 1, got {self.steps}")
        out, console = self.out_dir(SLUG), self.console()
        return demo(seed=self.seed, device=self.torch_device(), out_dir=out, console=console, steps=self.steps)


@dataclass(frozen=True)
class Train(Options):
    """Train a solver on generated instances, or on a file in the authors' format, and save it."""

    task: TaskName = "hull"
    """what is to be solved"""
    n: tuple[int, int] = (5, 10)
    """least and most points"""
    file: Path | None = None
    """solved instances: a line each, coordinates, the word output, indices from 1"""
    hidden: int = 128
    """width of both LSTMs"""
    steps: int | None = None
    """optimizer steps (default: 3,000)"""
    minutes: float | None = 1.0
    """at most so long"""

    def run(self) -> Mapping[str, Any]:
        """Train, save, and say how good it is."""
        from .answering import fit_solver

        console, out, device = self.console(), self.out_dir(SLUG), str(self.torch_device())
        with user_errors():
            solver = fit_solver(
                self.task, file=self.file, minutes=self.minutes, console=console, n=self.n, hidden=self.hidden,
                steps=self.steps, random_state=self.seed, device=device,
            )  # fmt: skip
        folder = solver.save(out / self.task)
        console.print(f"saved: {folder}", highlight=False, soft_wrap=True)
        scores = {"score": solver.score_, "trivial_score": solver.trivial_score_, "skill": solver.skill_}
        for name, value in scores.items():
            console.print(f"{name.replace('_', ' ')}: {value:.4f}", highlight=False)
        return {"model": str(folder), **scores}


@dataclass(frozen=True)
class Solve(Options):
    """Answer for points of a file with a trained solver, and draw the answer beside the exact one."""

    file: Annotated[Positional[str], arg(metavar="FILE")] = MISSING
    """points: a line each, numbers with commas or blanks between; - for standard input; or a .tsp file of TSPLIB"""
    task: TaskName = "hull"
    """what is to be solved"""
    model: Path | None = None
    """folder that `train` saved (default: runs/ptrnet/<task>; without one, a solver is trained there first)"""

    def run(self) -> Mapping[str, Any]:
        """Print indices (from 0) and measure; draw solve.png."""
        from .answering import answer_file

        out, device = self.out_dir(SLUG), str(self.torch_device())
        with user_errors():
            return answer_file(
                self.file, self.task, model=self.model, out=out, console=self.console(), random_state=self.seed,
                device=device,
            )  # fmt: skip


@dataclass(frozen=True)
class Generate(Options):
    """Write solved instances in the authors' format."""

    task: TaskName = "hull"
    """what is to be solved"""
    n: int = 10
    """points an instance"""
    size: int = 1000
    """instances"""

    def run(self) -> Mapping[str, Any]:
        """Generate, solve and write."""
        from .data import write_vinyals_file
        from .tasks import generate

        out = self.out_dir(SLUG)
        names = {"hull": "convex_hull", "delaunay": "delaunay", "tsp": "tsp", "sort": "sort"}
        with user_errors():
            points, targets = generate(self.task, self.n, self.size, self.seed)
        answers = [row[row >= 0] for row in targets]
        path = write_vinyals_file(out / f"{names[self.task]}_{self.n}.txt", list(points), answers, self.task)
        self.console().print(f"{self.size} instances: {path}", highlight=False, soft_wrap=True)
        return {"file": str(path), "instances": self.size, "mean_answer": sum(map(len, answers)) / len(answers)}


COMMANDS: Mapping[str, type] = {"demo": Demo, "train": Train, "solve": Solve, "generate": Generate}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    return run("ptrnet_impl", COMMANDS, argv, experiments=EXPERIMENTS, benchmarks=BENCHMARKS)
