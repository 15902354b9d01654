"""The command line, `cin-impl`: its own verbs; `info`, `reproduce` and `bench` come from what is declared.

torch is imported only when a command runs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import Positional, arg

from shared_impl.cli import Options, UserError, run

__all__ = ["main"]

SLUG = "cin"
EXPERIMENTS = ("flops", "co3d", "costgcn", "oadtr", "spa", "drift")
BENCHMARKS = ("steps", "window", "models", "attention", "functional", "official")


@dataclass(frozen=True)
class Demo(Options):
    """Run a small video network on a stream, as a sliding window and one step a frame: equal answers, less work."""

    steps: int = 300
    """of training"""

    def run(self) -> dict[str, float]:
        """Print the table, and draw accuracy over time."""
        from .demo import demo

        if self.steps < 1:
            raise UserError(f"--steps must be at least 1, got {self.steps}")
        device, folder = self.torch_device(), self.out_dir(SLUG)
        return demo(seed=self.seed, steps=self.steps, device=device, out_dir=folder, console=self.console())


NAMES = {
    "x3d-s": "CoX3D-S", "x3d-m": "CoX3D-M", "x3d-l": "CoX3D-L", "slow": "CoSlow", "i3d": "CoI3D", "st-gcn": "CoST-GCN",
    "a-gcn": "CoA-GCN", "s-tr": "CoS-TR", "oadtr-b1": "CoOadTR-b1", "oadtr-b2": "CoOadTR-b2",
}  # fmt: skip


@dataclass(frozen=True)
class Convert(Options):
    """Say what a network is as a stream: receptive field, delay, stride, FLOPs of a clip and of a step.

    Of a network of your own, FILE.py:NAME, steps are compared with clips too; the file is run.
    """

    model: Positional[str] = "x3d-s"
    """x3d-s, x3d-m, x3d-l, slow, i3d, st-gcn, a-gcn, s-tr, oadtr-b1, oadtr-b2, or FILE.py:NAME of a module or of a
    function that makes one"""
    shape: tuple[int, ...] = ()
    """of a clip for a network of your own: batch, channels, time and space"""
    window: int | None = None
    """slices of its global average pool"""

    def run(self) -> dict[str, float | int]:
        """Convert and count."""
        from .streaming import describe, describe_own

        if self.model in NAMES:
            if self.shape or self.window is not None:
                raise UserError("--shape and --window are for a network of your own, FILE.py:NAME")
            found = describe(NAMES[self.model])
        else:
            file, _, name = self.model.rpartition(":")
            if not file.endswith(".py"):
                raise UserError(f"model must be one of {', '.join(NAMES)} or FILE.py:NAME, got {self.model!r}")
            if len(self.shape) < 3 or min(self.shape) < 1:
                raise UserError("--shape must be batch, channels, time and sizes of space, e.g. --shape 1 3 16 112 112")
            if self.window is not None and self.window < 1:
                raise UserError(f"--window must be at least 1, got {self.window}")
            found = describe_own(Path(file), name, self.shape, self.window, seed=self.seed)
        if not self.json:
            for key, value in found.items():
                self.console().print(f"{key}: {value:.6g}", highlight=False)
        return found


@dataclass(frozen=True)
class Stream(Options):
    """Train a network for spoken digits, then read a WAV file as a stream: a digit a frame, as soon as it is heard."""

    file: Annotated[Positional[Path | None], arg(metavar="WAV")] = None
    """16-bit mono, 8 kHz; - is standard input"""
    recordings: Path | None = None
    """folder of {digit}_{speaker}_{index}.wav to train on (default: fsdd_small/recordings under IMPL_DATA_DIR)"""
    network: Literal["conv", "lstm", "encoder-b1", "encoder-b2"] = "conv"
    steps: int = 300
    """of training"""

    def run(self) -> list[dict[str, float]]:
        """A line a change of mind."""
        if self.file is None:
            raise UserError("stream needs a WAV file")
        if str(self.file) != "-" and not self.file.is_file():
            raise UserError(f"{self.file}: {'not a file' if self.file.exists() else 'no such file'}")
        if self.steps < 1:
            raise UserError(f"--steps must be at least 1, got {self.steps}")
        from .streaming import stream_digits

        try:
            options: dict[str, Any] = {"network": self.network, "steps": self.steps, "seed": self.seed}
            return stream_digits(self.file, self.recordings, console=self.console(), **options)
        except (ValueError, FileNotFoundError) as error:
            raise UserError(str(error)) from error


COMMANDS: Mapping[str, type] = {"demo": Demo, "convert": Convert, "stream": Stream}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    return run("cin_impl", COMMANDS, argv, experiments=EXPERIMENTS, benchmarks=BENCHMARKS)
