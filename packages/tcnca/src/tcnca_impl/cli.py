"""The command line, `tcnca-impl`: its own verbs; `info`, `reproduce` and `bench` come from what is declared.

torch is imported only when a command runs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from shared_impl.cli import Options, UserError, bad_input, run

__all__ = ["main"]

SLUG = "tcnca"
EXPERIMENTS = ("recall", "text", "arena")
BENCHMARKS = ("mixer", "layer", "official", "peers")


def _at_least(**least: tuple[int, int]) -> None:
    for name, (value, bound) in least.items():
        if value < bound:
            raise UserError(f"--{name} must be at least {bound}, got {value}")


@dataclass(frozen=True)
class Demo(Options):
    """Repeat symbols across chunks, with the TCN, with MEGA's average, and without a mixer."""

    steps: int = 200
    """optimizer steps of each model"""

    def run(self) -> dict[str, float]:
        """Print a table, draw a plot."""
        from .demo import demo

        _at_least(steps=(self.steps, 2))
        return demo(
            seed=self.seed, device=self.torch_device(), out_dir=self.out_dir(SLUG), console=self.console(),
            steps=self.steps,
        )  # fmt: skip


@dataclass(frozen=True)
class TrainRecall(Options):
    """Train a model on associative recall and keep it."""

    architecture: str = "simple"
    """simple, simple-ema, simple-none, tcnca, mega, transformer, lstm, ..."""
    length: int = 64
    chunk: int = 16
    vocab: int = 10
    steps: int = 600

    def run(self) -> dict[str, float]:
        """Accuracy, and the model under --out."""
        from .training import train_recall

        _at_least(steps=(self.steps, 2))
        folder = self.out_dir(SLUG)
        with bad_input():
            model, result = train_recall(
                self.architecture, length=self.length, chunk=self.chunk, vocab=self.vocab, steps=self.steps,
                seed=self.seed, device=str(self.torch_device()), console=self.console(),
            )  # fmt: skip
        model.save_pretrained(folder / "recall")
        self.console().print({name: round(value, 4) for name, value in result.items()})
        return result


@dataclass(frozen=True)
class TrainLM(Options):
    """Train a language model on the bytes of a file, and keep it."""

    file: Annotated[Path, tyro.conf.Positional] = Path("-")
    """a text file; the last tenth is held out"""
    architecture: str = "tcnca"
    length: int = 256
    steps: int = 300

    def run(self) -> dict[str, float]:
        """Bits a byte on what is held out, and the model under --out."""
        from .config import LMConfig
        from .data import bytes_of
        from .model import TCNCAForCausalLM
        from .training import train_bytes

        _at_least(steps=(self.steps, 2), length=(self.length, 1))
        raw = _read(self.file)
        if len(raw) < 20 * self.length:
            raise UserError(f"{self.file} must hold at least 20 times --length {self.length} bytes, got {len(raw)}")
        folder, cut = self.out_dir(SLUG), len(raw) * 9 // 10
        self.seed_everything()
        with bad_input():
            model = TCNCAForCausalLM(
                LMConfig(architecture=self.architecture, d_model=64, n_layers=2, ffn=128, chunk=64, dilation_factor=4)
            )
        result = train_bytes(
            model.to(self.torch_device()), bytes_of(raw[:cut]), bytes_of(raw[cut:]), length=self.length,
            steps=self.steps, seed=self.seed, console=self.console(),
        )  # fmt: skip
        model.save_pretrained(folder / "lm")
        self.console().print(f"{result['bits']:.3f} bits a byte ({result['unigram']:.3f} by the bytes' frequencies)")
        return result


def _read(file: Path) -> bytes:
    import sys

    try:
        return sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror}") from error


@dataclass(frozen=True)
class Generate(Options):
    """Continue a prompt with a model that train-lm kept."""

    folder: Annotated[Path, tyro.conf.Positional] = Path("lm")
    """the folder "lm" under train-lm's --out"""
    prompt: str = "The "
    tokens: int = 200
    temperature: float = 0.8

    def run(self) -> dict[str, str]:
        """Prompt and continuation, as text."""
        from .data import bytes_of
        from .model import TCNCAForCausalLM

        _at_least(tokens=(self.tokens, 1))
        if not self.prompt:
            raise UserError("--prompt must hold at least one character")
        if not self.folder.is_dir():
            raise UserError(f"{self.folder} is no folder: train-lm makes one, lm under its --out")
        self.seed_everything()
        with bad_input():
            model = TCNCAForCausalLM.from_pretrained(self.folder, map_location=str(self.torch_device()))
            ids = bytes_of(self.prompt.encode()).long().unsqueeze(0).to(self.torch_device())
            found = model.generate(ids, self.tokens, do_sample=True, temperature=self.temperature)
        text = bytes(found[0].tolist()).decode(errors="replace")
        self.console().print(text, markup=False, highlight=False)
        return {"text": text}


@dataclass(frozen=True)
class ListOps(Options):
    """Train a classifier on nested lists by the benchmark's rules, but short, or on its files, and keep it."""

    architecture: str = "tcnca"
    """tcnca, mega, mega-s4d, chunk, tcn-mlp, ema-mlp, transformer, lstm"""
    length: int = 128
    """of the longest expression"""
    examples: int = 4000
    steps: int = 600
    data: Path | None = None
    """the folder with basic_train.tsv, instead of expressions made here"""

    def run(self) -> dict[str, float]:
        """Accuracy on held-out expressions, and the model under --out."""
        from .lra import lra_task
        from .training import listops_config, listops_task, train_task

        _at_least(steps=(self.steps, 2), length=(self.length, 16), examples=(self.examples, 10))
        folder = self.out_dir(SLUG)
        with bad_input():
            config = listops_config(architecture=self.architecture)
            if self.data is None:
                task = listops_task(self.examples, max(10, self.examples // 8), max_length=self.length, seed=self.seed)
            else:
                task = lra_task("listops", self.data, max_length=self.length)
        model, result = train_task(
            config, task, steps=self.steps, seed=self.seed, device=str(self.torch_device()), console=self.console()
        )
        model.save_pretrained(folder / "listops")
        self.console().print(f"accuracy {result['accuracy']:.3f} (most frequent class {result['trivial']:.3f})")
        return result


@dataclass(frozen=True)
class SelectTCN(Options):
    """The search of appendix D: shapes of the TCN whose layer is faster than MEGA's at a length."""

    length: int = 4096
    training: bool = False
    """time forward and backward"""

    def run(self) -> list[dict[str, Any]]:
        """A line a shape, the fastest first."""
        from .search import select_tcn

        with bad_input():
            found = select_tcn(self.length, training=self.training, device=str(self.torch_device()))
        for c in found:
            self.console().print(f"K={c.kernel} D={c.depth} f={c.dilation_factor}: {c.speed:.2f}x, sees {c.seen}")
        return [c.as_dict() for c in found]


COMMANDS: Mapping[str, type] = {
    "demo": Demo, "recall": TrainRecall, "listops": ListOps, "train-lm": TrainLM, "generate": Generate,
    "select-tcn": SelectTCN,
}  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    return run("tcnca_impl", COMMANDS, argv, experiments=EXPERIMENTS, benchmarks=BENCHMARKS)
