"""The command line, `iir-snn-impl`: its own verbs; `info`, `reproduce` and `bench` come from what is declared.

torch is imported only when a command runs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from shared_impl.cli import Options, UserError, bad_input, run

if TYPE_CHECKING:
    from .training import Batches

__all__ = ["main"]

SLUG = "iir-snn"
EXPERIMENTS = ("steps", "deep", "energy", "rl")
BENCHMARKS = ("training", "inference", "still", "official", "defaults")


def _batches(path: Path, seed: int, *, labels: bool) -> "Batches":
    import torch

    from .data import load_npz
    from .training import Batches

    with bad_input():
        x, y = load_npz(path)
    if labels and y is None:
        raise UserError(f"{path} must have an array y (classes from 0) beside x")
    return Batches(x, torch.zeros(len(x), dtype=torch.long) if y is None else y, 512 if not labels else 64, seed=seed)


@dataclass(frozen=True)
class Demo(Options):
    """Digits: a ReLU network to spikes, from 5 time steps to 1."""

    def run(self) -> dict[str, float]:
        """Print a table, and draw it."""
        from .demo import demo

        return demo(seed=self.seed, device=self.torch_device(), out_dir=self.out_dir(SLUG), console=self.console())


@dataclass(frozen=True)
class Convert(Options):
    """A ReLU network of your own to a spiking one (not trained): thresholds from your images."""

    weights: Annotated[Path | None, tyro.conf.Positional] = None
    """safetensors, named as of an nn.Sequential; or a folder with model.safetensors and config.json"""
    config: Path | None = None
    """JSON with `layers` (default: config.json beside the weights)"""
    data: Path | None = None
    """.npz with images x (and classes y)"""
    percentile: float = 90.0
    T: int = 5
    """time steps"""

    def run(self) -> dict[str, Any]:
        """Write the spiking network into the output folder."""
        if self.weights is None or self.data is None:
            raise UserError("convert needs the weights, and --data FILE.npz to set thresholds by")
        from .architecture import load_ann
        from .network import SpikingNet

        batches = _batches(self.data, self.seed, labels=False)
        with bad_input():
            ann = load_ann(self.weights, self.config)
            _fits(ann, batches)
            net = SpikingNet.from_ann(ann, [batches.images[:512]], self.percentile, T=self.T)
        folder = self.out_dir(SLUG)
        net.save_pretrained(folder)
        thresholds = [float(layer.threshold.detach()) for layer in net.neurons()]
        self.console().print(f"thresholds {', '.join(f'{v:.4g}' for v in thresholds)}; written to {folder}")
        return {"folder": str(folder), "thresholds": thresholds}


@dataclass(frozen=True)
class Iir(Options):
    """Train a converted network down to one step, stage by stage."""

    model: Annotated[Path | None, tyro.conf.Positional] = None
    """folder that convert wrote"""
    data: Path | None = None
    """.npz with images x and classes y"""
    schedule: Annotated[tuple[int, ...], tyro.conf.arg(metavar="T ...")] = field(default=(5, 4, 3, 2, 1))
    epochs: int = 10
    lr: float = 1e-4

    def run(self) -> dict[str, Any]:
        """Write each stage's network into a folder of its own."""
        net, batches = _opened(self.model, self.data, self.seed, labels=True)
        from .training import accuracy, iir

        folder, console, scores = self.out_dir(SLUG), self.console(), {}

        def keep(T: int, stage: Any) -> None:
            stage.save_pretrained(folder / f"T{T}")
            scores[f"T={T}"] = accuracy(stage, batches, T)
            console.print(f"T = {T}: {scores[f'T={T}']:.1%} of the training data; written to {folder / f'T{T}'}")

        with bad_input():
            iir(net, batches, self.schedule, self.epochs, lr=self.lr, on_stage=keep)
        return scores


@dataclass(frozen=True)
class Energy(Options):
    """Operations and modelled energy of a spiking network on images."""

    model: Annotated[Path | None, tyro.conf.Positional] = None
    """folder that convert or iir wrote"""
    data: Path | None = None
    """.npz with images x"""
    T: int = 1
    """time steps"""

    def run(self) -> dict[str, Any]:
        """Print the table and its assumptions."""
        net, batches = _opened(self.model, self.data, self.seed, labels=False)
        from rich.table import Table

        from .energy_model import energy

        with bad_input():
            cost = energy(net, batches, self.T)
        table = Table("layer", "MACs", "fed by spikes a neuron", "operations", "pJ")
        for row in cost.layers:
            rate = "image" if row.rate is None else f"{row.rate:.3f}"
            table.add_row(row.name, f"{row.macs:,}", rate, f"{row.operations:,.0f}", f"{row.snn_pj:,.0f}")
        console = self.console()
        console.print(table)
        console.print(f"T = {self.T}: {cost.ratio:.2f} times less than the ReLU network; {cost.assumptions}")
        return {"ratio": cost.ratio, "ann_pj": cost.ann_pj, "snn_pj": cost.snn_pj, "assumptions": cost.assumptions}


@dataclass(frozen=True)
class Rl(Options):
    """CartPole by a spiking Q-network (needs gymnasium)."""

    env: str = "CartPole-v1"
    ann_steps: int = 10_000
    steps: int = 2_000
    """of each stage"""

    def run(self) -> dict[str, float]:
        """The mean return of the ReLU network and of T = 5, 3, 1."""
        try:
            import gymnasium
        except ImportError:
            raise UserError("rl needs gymnasium: pip install 'iir-snn-impl[rl]'") from None
        from .rl import train_chain

        try:
            env = gymnasium.make(self.env)
        except gymnasium.error.Error as error:
            raise UserError(f"--env {self.env}: {error}") from error
        if not hasattr(env.action_space, "n") or len(env.observation_space.shape or ()) != 1:
            raise UserError(f"--env {self.env}: must have discrete actions and vectors as observations")
        scores = train_chain(env, ann_steps=self.ann_steps, steps=self.steps, seed=self.seed)
        for name, score in scores.items():
            self.console().print(f"{name}: mean return {score:.1f}")
        return scores


def _opened(model: Path | None, data: Path | None, seed: int, *, labels: bool) -> tuple[Any, "Batches"]:
    if model is None or data is None:
        raise UserError("give the folder of a spiking network, and --data FILE.npz")
    from .network import SpikingNet

    with bad_input():
        if not model.is_dir():
            raise ValueError(f"{model} is no folder with a spiking network")
        net = SpikingNet.from_pretrained(model)
    batches = _batches(data, seed, labels=labels)
    _fits(net, batches)
    return net, batches


def _fits(model: Any, batches: "Batches") -> None:
    try:
        logits = model.eval()(batches.images[:2])
    except (RuntimeError, ValueError) as error:
        raise UserError(
            f"x {tuple(batches.images.shape)} does not fit the network: {str(error).splitlines()[0]}"
        ) from error
    if int(batches.labels.max()) >= logits.shape[-1]:
        raise UserError(f"y must be below the network's {logits.shape[-1]} outputs, got {int(batches.labels.max())}")


COMMANDS: Mapping[str, type] = {"demo": Demo, "convert": Convert, "iir": Iir, "energy": Energy, "rl": Rl}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    return run("iir_snn_impl", COMMANDS, argv, experiments=EXPERIMENTS, benchmarks=BENCHMARKS)
