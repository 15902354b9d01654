"""The command line, `state-tracking-impl`: its own verbs; `info`, `reproduce` and `bench` come from what is declared.

torch is imported only when a command runs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from shared_impl.cli import Options, UserError, bad_input, run

__all__ = ["main"]

SLUG = "state-tracking"
EXPERIMENTS = ("parity", "table2", "s5", "text")
BENCHMARKS = ("chunk", "selective", "negative", "householder", "official", "fla")

TaskName = Literal[
    "parity", "arithmetic", "brackets", "s3-swaps", "s3", "s5", "s5-swaps", "s5-3cycles", "s5-4tokens", "a5"
]
MixerName = Literal["deltanet", "mamba", "gla", "full", "lstm", "slstm", "transformer"]


@dataclass(frozen=True)
class Demo(Options):
    """Train DeltaNet on parity with and without negative eigenvalues, and run two constructions."""

    def run(self) -> object:
        """Print the table, and draw it."""
        from .demo import demo

        return demo(seed=self.seed, device=self.torch_device(), out_dir=self.out_dir(SLUG), console=self.console())


@dataclass(frozen=True)
class Train(Options):
    """Train a model on a formal language and save it."""

    task: TaskName = "parity"
    """which language"""
    mixer: MixerName = "deltanet"
    """which layer"""
    lo: float = -1.0
    """lower end of the eigenvalue range"""
    hi: float = 1.0
    """upper end"""
    steps: int = 1000
    """optimizer steps"""
    batch_size: int = 64
    """sequences a step"""
    learning_rate: float = 3e-3
    """peak of the schedule"""
    lengths: tuple[int, int] = (3, 20)
    """shortest and longest sequence"""
    d_model: int = 64
    """width"""
    n_layers: int = 2
    """layers"""
    n_householder: int = 1
    """reflections a token (deltanet)"""

    def run(self) -> object:
        """Train, measure, save."""
        from .learning import accuracy_by_length, train_on_task
        from .model import SequenceModel
        from .tasks import TASKS

        if self.steps < 1 or self.batch_size < 1 or not self.learning_rate > 0:
            raise UserError("--steps and --batch-size must be at least 1 and --learning-rate positive")
        self.seed_everything()
        task, out = TASKS[self.task](), self.out_dir(SLUG)
        with bad_input():
            model = SequenceModel(
                vocab_size=task.vocab_size, d_model=self.d_model, n_layers=self.n_layers, mixer=self.mixer,
                eig_range=(self.lo, self.hi), n_householder=self.n_householder,
            ).to(self.torch_device())  # fmt: skip
            train_on_task(
                model, task, lengths=self.lengths, steps=self.steps, batch_size=self.batch_size,
                learning_rate=self.learning_rate, seed=self.seed, console=self.console(),
            )  # fmt: skip
        long = self.lengths[1]
        scores = accuracy_by_length(model, task, [long, 2 * long, 4 * long])
        model.save_pretrained(out / "model")
        for length, score in scores.items():
            self.console().print(f"length {length}: scaled accuracy {score:.3f}")
        self.console().print(f"saved: {out / 'model'}")
        return {"scaled_accuracy": scores, "model": str(out / "model")}


@dataclass(frozen=True, kw_only=True)
class Eval(Options):
    """Accuracy of a saved model at lengths, and the eigenvalues of its transitions."""

    model: Positional[Path]
    """folder that `train` wrote"""
    task: TaskName = "parity"
    """which language"""
    lengths: tuple[int, ...] = (20, 40, 128, 256)
    """lengths of sequences"""

    def run(self) -> object:
        """Measure."""
        import torch

        from .layers import LinearRNN
        from .learning import accuracy_by_length
        from .model import SequenceModel
        from .spectrum import eigen_report
        from .tasks import TASKS

        if not self.model.is_dir():
            raise UserError(f"{self.model} is no folder with a saved model")
        task = TASKS[self.task]()
        with bad_input():
            model = SequenceModel.from_pretrained(self.model, map_location=str(self.torch_device()))
            if model.vocab_size != task.vocab_size:
                raise UserError(
                    f"{self.model} has a vocabulary of {model.vocab_size}, {self.task} one of {task.vocab_size}"
                )
            scores = accuracy_by_length(model, task, self.lengths, seed=self.seed + 1)
            low = max(task.shortest, min(self.lengths))
            batch, _ = task.sample(16, (low, low), torch.Generator().manual_seed(self.seed))
        for length, score in scores.items():
            self.console().print(f"length {length}: scaled accuracy {score:.3f}")
        if any(isinstance(module, LinearRNN) for module in model.modules()):
            report = eigen_report(model, batch.to(self.torch_device()))
            for layer in report.layers:
                self.console().print(f"{layer.name}: {100 * layer.share_negative:.0f} % of eigenvalues negative")
            self.console().print(f"plot: {report.plot(self.out_dir(SLUG) / 'eigenvalues.png')}")
        return {"scaled_accuracy": scores}


@dataclass(frozen=True, kw_only=True)
class Construct(Options):
    """Write a permutation as reflections, or an automaton as a cascade of linear recurrences, and check it."""

    spec: Positional[str]
    """a permutation (2,0,1) or an automaton's table, states apart by semicolons (0,1;1,0)"""
    length: int = 10_000
    """steps of the check"""

    def run(self) -> object:
        """Build, run, compare with the table."""
        import torch

        from .constructions import automaton_lrnn, permutation_householder, run_automaton

        try:
            rows = [[int(word) for word in row.split(",")] for row in self.spec.split(";")]
        except ValueError:
            raise UserError(f"spec must be integers apart by commas (and semicolons), got {self.spec!r}") from None
        if self.length < 1:
            raise UserError(f"--length must be at least 1, got {self.length}")
        found: dict[str, object]
        with bad_input():
            if len(rows) == 1:
                product = permutation_householder(rows[0])
                found = {"reflections": len(product.beta), "vectors": product.vectors, "matrix": product.matrix()}
            else:
                cascade = automaton_lrnn(rows)
                ids = torch.randint(
                    0, len(rows[0]), (1, self.length), generator=torch.Generator().manual_seed(self.seed)
                )
                wrong = int((cascade(ids)[0] != run_automaton(rows, ids)).sum())
                found = {"layers": cascade.n_layers, "reflections": cascade.reflections, "errors": wrong}
        for key, value in found.items():
            self.console().print(f"{key}: {value}")
        return found


COMMANDS: Mapping[str, type] = {"demo": Demo, "train": Train, "eval": Eval, "construct": Construct}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    return run("state_tracking_impl", COMMANDS, argv, experiments=EXPERIMENTS, benchmarks=BENCHMARKS)
