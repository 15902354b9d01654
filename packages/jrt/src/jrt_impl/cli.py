"""The command line, `jrt-impl`: its own verbs; `info`, `reproduce` and `bench` come from what is declared.

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

SLUG = "jrt"
EXPERIMENTS = ("set-disjointness", "documents", "wikitext2")
BENCHMARKS = ("prefix", "prefill", "state", "official")

Method = Literal["causal", "read twice", "prefix", "transformer", "gla", "ssm"]


@contextmanager
def user_errors() -> Iterator[None]:
    """What is wrong with the user's input is told in one line."""
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot read {error.filename}: {error.strerror}" if error.filename else str(error)) from error
    except (ValueError, ImportError) as error:
        raise UserError(" ".join(str(error).split())) from error


@dataclass(frozen=True)
class Demo(Options):
    """Find the token that is in both of two sets: causal, read twice, and with a prefix."""

    steps: int = 400
    """training steps of each method"""

    def run(self) -> dict[str, float]:
        """Train three small models, print their accuracies and draw them."""
        from .demo import demo

        if self.steps < 1:
            raise UserError(f"--steps must be at least 1, got {self.steps}")
        out, console = self.out_dir(SLUG), self.console()
        return demo(seed=self.seed, device=self.torch_device(), out_dir=out, console=console, steps=self.steps)


@dataclass(frozen=True)
class SD(Options):
    """Train one model on set disjointness and say how often it names the shared token, by order of the sets."""

    method: Method = "prefix"
    """causal; the same reading twice; with a prefix; or a baseline"""
    sizes: tuple[int, int] = (4, 16)
    """elements of the two sets; both orders are trained"""
    vocab: int = 64
    """tokens, four of them marks"""
    feature_dim: int = 8
    """d': the state of a head has 1 + d' + d'^2 rows"""
    d_model: int = 48
    steps: int = 2000
    lr: float = 5e-3

    def run(self) -> Mapping[str, float]:
        """Train and measure on fresh examples."""
        from .training import set_disjointness

        with user_errors():
            found = set_disjointness(
                self.method, sizes=[self.sizes], vocab_size=self.vocab, d_model=self.d_model, steps=self.steps,
                feature_dim=self.feature_dim, lr=self.lr, seed=self.seed, device=self.torch_device(),
                console=self.console(),
            )  # fmt: skip
        self.console().print(", ".join(f"{name}: {value:.1%}" for name, value in found.items()), highlight=False)
        return found


@dataclass(frozen=True)
class TrainLM(Options):
    """Train a small language model of bytes on a text, by the two-part loss, and save it."""

    text: Annotated[Positional[str], arg(metavar="TEXT")] = "wikitext2"
    """a text file, or wikitext2, or tinyshakespeare"""
    mixer: Literal["jrt", "based", "gla", "ssm", "transformer"] = "jrt"
    steps: int = 300
    seq_len: int = 256
    prefix_len: int = 128
    """tokens of each piece that are read without order"""
    batch_size: int = 8
    d_model: int = 96
    n_layers: int = 4
    lr: float = 3e-3

    def run(self) -> Mapping[str, Any]:
        """Train, judge on held-out text, save."""
        from .lm import LMRecipe, train_and_save

        with user_errors():
            recipe = LMRecipe(
                steps=self.steps, batch_size=self.batch_size, seq_len=self.seq_len, prefix_len=self.prefix_len,
                lr=self.lr,
            )  # fmt: skip
            return train_and_save(
                self.text, self.mixer, recipe, d_model=self.d_model, n_layers=self.n_layers, seed=self.seed,
                device=self.torch_device(), out_dir=self.out_dir(SLUG), console=self.console(),
            )  # fmt: skip


@dataclass(frozen=True)
class Generate(Options):
    """Continue a text with a model that train-lm saved; the state does not grow."""

    model: Annotated[Positional[Path], arg(metavar="MODEL")] = MISSING
    """folder of the model"""
    prompt: str = "The "
    max_new_tokens: int = 200
    temperature: float = 0.8
    """0 takes the most probable byte"""

    def run(self) -> Mapping[str, Any]:
        """Read the prompt as a prefix, then decode."""
        from .lm import continue_text

        if not self.prompt:
            raise UserError("--prompt must not be empty")
        with user_errors():
            text = continue_text(
                self.model, self.prompt, max_new_tokens=self.max_new_tokens, temperature=self.temperature,
                seed=self.seed, device=self.torch_device(),
            )  # fmt: skip
        self.console().print(self.prompt + text, markup=False, highlight=False, soft_wrap=True)
        return {"prompt": self.prompt, "text": text}


@dataclass(frozen=True)
class PromptEval(Options):
    """Ask a pretrained model about documents that it reads once and twice: JRT-Prompt on your own file."""

    file: Annotated[Positional[Path], arg(metavar="FILE")] = MISSING
    """a JSON object a line: the fields of the task, or context, question, answer"""
    model: str = ""
    """folder that train-lm saved, or a name or folder of transformers (extra)"""
    task: Literal["fda", "swde", "squad", "nq", "triviaqa", "drop"] = "squad"
    """whose prompt to use"""
    limit: int | None = None
    """documents at most"""
    max_new_tokens: int = 48

    def run(self) -> Mapping[str, Any]:
        """Answer greedily and compare."""
        from .asking import ask_file

        if not self.model:
            raise UserError("--model must name a folder or a pretrained model")
        with user_errors():
            return ask_file(
                self.file, self.model, self.task, limit=self.limit, max_new_tokens=self.max_new_tokens,
                device=self.torch_device(), console=self.console(),
            )  # fmt: skip


COMMANDS: Mapping[str, type] = {
    "demo": Demo, "sd": SD, "train-lm": TrainLM, "generate": Generate, "prompt-eval": PromptEval,
}  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    return run("jrt_impl", COMMANDS, argv, experiments=EXPERIMENTS, benchmarks=BENCHMARKS)
