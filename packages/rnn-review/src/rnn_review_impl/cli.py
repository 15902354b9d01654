"""The command line, `rnn-review-impl`: its own verbs; `info`, `reproduce` and `bench` come from what is declared.

torch is imported only when a command runs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro import MISSING
from tyro.conf import Positional, arg

from shared_impl.cli import Options, UserError, run

__all__ = ["main"]

SLUG = "rnn-review"
EXPERIMENTS = ("adding", "copying", "reber", "xor", "ntm", "speech", "ctc", "shakespeare", "dates")
BENCHMARKS = ("throughput", "rtrl", "memory", "ntm", "defaults")


@dataclass(frozen=True)
class Demo(Options):
    """Gradient flow and the adding problem, Elman net against LSTM: a table and a plot."""

    steps: int = 1200
    """of training, each network"""

    def run(self) -> dict[str, float]:
        """Print the table, draw the flow."""
        from .demo import demo

        if self.steps < 1:
            raise UserError(f"--steps must be positive, got {self.steps}")
        return demo(
            seed=self.seed, device=self.torch_device(), out_dir=self.out_dir(SLUG), console=self.console(),
            steps=self.steps,
        )  # fmt: skip


@dataclass(frozen=True)
class Gradients(Options):
    """Draw the survey's figures that can be computed: gradients, the unfolded net, reach, a gate, squashing."""

    length: int = 50
    """steps"""
    hidden: int = 32
    """units"""

    def run(self) -> Any:
        """Draw the figures, return their numbers."""
        from shared_impl.cli import bad_input

        from .figures import draw_figures

        with bad_input():
            numbers, files = draw_figures(self.out_dir(SLUG), length=self.length, hidden=self.hidden, seed=self.seed)
        for path in files:
            self.console().print(f"plot: {path}", highlight=False, soft_wrap=True)
        return numbers


@dataclass(frozen=True)
class Train(Options):
    """Train on a file of your own, or on one of the historical tasks, and say how good it is."""

    file: Annotated[Positional[str | None], arg(metavar="FILE")] = None
    """a text, or lines of JSON {"sequence": [...], "label": ...}; - for standard input; none for a historical task"""
    task: Literal["text", "sequences", "adding", "copying", "reber", "xor", "ntm", "dates"] = "adding"
    """what is learned; text and sequences need FILE"""
    cell: Literal["elman", "elman-sigmoid", "irnn", "lstm", "lstm-1997", "lstm-peephole", "gru"] = "lstm"
    """of the network"""
    hidden: int = 64
    """units"""
    steps: int = 1000
    """updates, at most"""
    length: int = 30
    """of the sequences of adding, copying and ntm"""

    def run(self) -> Any:
        """Train, save what came from a file, print what is measured."""
        from shared_impl.cli import bad_input

        from .practice import train_on_file, train_on_task

        for name in ("hidden", "steps", "length"):
            if getattr(self, name) < 1:
                raise UserError(f"--{name} must be positive, got {getattr(self, name)}")
        own = self.task in ("text", "sequences")
        if own != (self.file is not None):
            raise UserError(f"--task {self.task} {'needs a FILE' if own else f'takes no FILE, got {self.file}'}")
        common: Any = {"cell": self.cell, "hidden": self.hidden, "steps": self.steps, "seed": self.seed}
        common["device"] = str(self.torch_device())
        with bad_input():
            if self.file is None:
                found = train_on_task(self.task, length=self.length, **common)
            else:
                folder = self.out_dir(SLUG) / self.task
                found = train_on_file(self.task, self.file, folder, console=self.console(), **common)
        for name, value in found.items():
            self.console().print(f"{name}: {value}", highlight=False, soft_wrap=True)
        return found


@dataclass(frozen=True)
class Generate(Options):
    """Write on from a prompt with a model that `train --task text` saved."""

    model: Positional[Path] = Path("runs/rnn-review/text")
    """folder of the model"""
    prompt: str = "\n"
    """what comes before"""
    tokens: int = 300
    """symbols to write"""
    temperature: float = 0.8
    """below 1 more likely ones"""

    def run(self) -> Mapping[str, str]:
        """Print prompt and continuation."""
        from shared_impl.cli import bad_input

        from .practice import generate_text

        with bad_input():
            text = generate_text(
                self.model, self.prompt, tokens=self.tokens, temperature=self.temperature, seed=self.seed
            )
        self.console().print(text, highlight=False, markup=False, soft_wrap=True)
        return {"text": text}


@dataclass(frozen=True)
class Predict(Options):
    """Label the sequences of a file with a model that `train --task sequences` saved."""

    file: Annotated[Positional[str], arg(metavar="FILE")] = MISSING
    """lines of JSON {"sequence": [...]}; - for standard input"""
    model: Path = Path("runs/rnn-review/sequences")
    """folder of the model"""

    def run(self) -> Mapping[str, Any]:
        """Print a label a line."""
        from shared_impl.cli import bad_input

        from .practice import predict_file

        with bad_input():
            labels = predict_file(self.file, self.model)
        for label in labels:
            self.console().print(str(label), highlight=False, markup=False, soft_wrap=True)
        return {"labels": labels}


@dataclass(frozen=True, kw_only=True)
class Bleu(Options):
    """Corpus BLEU of a file of hypotheses, a line each, against files of references; tokens stand between blanks."""

    hypotheses: Positional[Path]
    """text file"""
    references: Positional[tuple[Path, ...]]
    """one or more text files of as many lines"""
    smoothing: Literal["none", "floor", "add-k", "exp"] = "none"
    """of counts that are 0"""

    def run(self) -> dict[str, object]:
        """Print the score and its parts."""
        from shared_impl.cli import bad_input

        from .metrics import bleu

        if not self.references:
            raise UserError("references must be at least one file, got none")
        try:
            texts = [path.read_text(encoding="utf-8").splitlines() for path in (self.hypotheses, *self.references)]
        except (UnicodeDecodeError, IsADirectoryError, PermissionError) as error:
            raise UserError(f"cannot read a text file: {error}") from error
        for path, lines in zip(self.references, texts[1:], strict=True):
            if len(lines) != len(texts[0]):
                raise UserError(
                    f"{path}: hypotheses and references must be equally many, got {len(texts[0])} and {len(lines)}"
                )
        with bad_input():
            score = bleu(texts[0], list(map(list, zip(*texts[1:], strict=True))), smoothing=self.smoothing)
        self.console().print(f"BLEU {score:.2f}, brevity penalty {score.brevity_penalty:.3f}")
        return {"bleu": float(score), "precisions": score.precisions, "brevity_penalty": score.brevity_penalty}


COMMANDS: Mapping[str, type] = {
    "demo": Demo, "train": Train, "generate": Generate, "predict": Predict, "gradients": Gradients, "bleu": Bleu
}  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    return run("rnn_review_impl", COMMANDS, argv, experiments=EXPERIMENTS, benchmarks=BENCHMARKS)
