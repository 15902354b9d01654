"""Command line: `s4-impl demo | info | train | evaluate | generate | reproduce | bench`; no torch until one runs."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import tyro

from shared_impl.cli import Options, UserError, bad_input, run

if TYPE_CHECKING:
    from s4_impl.data import SequenceTask
    from s4_impl.sequence import SequenceModel
    from shared_impl.results import Record

__all__ = ["main"]

TaskName = Literal["digits", "mnist", "pmnist", "listops", "ett", "chars", "delay", "adding", "copying", "pathfinder"]
ModelName = Literal["s4", "lstm", "transformer", "tcn", "lssl"]
TableName = Literal[
    "digits", "mnist", "pmnist", "listops", "ett", "pathfinder", "scifar",
    "lra", "text", "retrieval", "image", "pathx", "sc10", "wikitext103",
]  # fmt: skip
_INFO = "task.json"


def _make_task(name: str, *, seed: int, length: int | None, lag: int) -> "SequenceTask":
    from s4_impl import data
    from s4_impl.listops import ListOpsRules

    makers: dict[str, Any] = {
        "digits": lambda: data.digits_task(seed),
        "mnist": lambda: data.pixel_mnist(seed=seed),
        "pmnist": lambda: data.pixel_mnist(permuted=True, seed=seed),
        "listops": lambda: data.listops_task(
            ListOpsRules(seed=seed)
            if length is None
            else ListOpsRules(
                n_train=8000, n_val=1000, n_test=1000, min_length=length // 6, max_length=length, seed=seed
            )
        ),
        "ett": lambda: data.etth1_task(context=length or 168),
        "chars": lambda: data.character_text(length=length or 256),
        "delay": lambda: data.delay_task(length=length or 512, lag=lag, seed=seed),
        "adding": lambda: data.adding_task(length=length or 1000, seed=seed),
        "copying": lambda: data.copying_task(length=length or 100, seed=seed),
        "pathfinder": lambda: data.mini_pathfinder_task(size=length or 16, seed=seed),
    }
    task: SequenceTask = makers[name]()
    return task


@dataclass(frozen=True)
class Demo(Options):
    """Digits read pixel by pixel: S4 against an LSTM of the same size, then one digit as a stream (under a minute)."""

    epochs: int = 10
    """passes over the digits"""

    def run(self) -> "Record":
        if self.epochs < 1:
            raise UserError(f"--epochs must be at least 1, got {self.epochs}")
        device, out_dir = self.torch_device(), self.out_dir("s4")
        self.seed_everything()
        from s4_impl.demo import demo

        return demo(seed=self.seed, device=device, out_dir=out_dir, console=self.console(), epochs=self.epochs)


@dataclass(frozen=True)
class Train(Options):
    """Train a model on a task; it is saved under --out, and a run that was interrupted goes on."""

    task: TaskName = "digits"
    """what to learn"""
    model: ModelName = "s4"
    """S4 or one of the baselines"""
    n_layers: int = 2
    """blocks"""
    d_model: int = 64
    """features"""
    d_state: int = 64
    """N, the state of each feature (s4, lssl)"""
    epochs: int = 10
    """passes over the training examples"""
    batch_size: int = 32
    """examples an optimiser step"""
    lr: float = 0.004
    """learning rate; S4's own parameters learn at 0.001 at most"""
    weight_decay: float = 0.01
    """weight decay; none for S4's own parameters"""
    dropout: float = 0.1
    """dropout"""
    length: int | None = None
    """sequence length (ett: context, listops: longest, pathfinder: side); default by the task"""
    lag: int = 200
    """steps to remember (delay)"""
    limit: int | None = None
    """use only so many training examples"""
    restart: bool = False
    """start anew instead of going on where a run in --out stopped"""

    def run(self) -> "Record":
        for name in ("n_layers", "d_model", "d_state", "epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise UserError(f"--{name.replace('_', '-')} must be at least 1, got {getattr(self, name)}")
        if not self.lr > 0:
            raise UserError(f"--lr must be positive, got {self.lr}")
        if not 0 <= self.dropout < 1:
            raise UserError(f"--dropout must lie in [0, 1), got {self.dropout}")
        device, out_dir, console = self.torch_device(), self.out_dir("s4"), self.console()
        self.seed_everything()
        from s4_impl.configs import Recipe
        from s4_impl.training import METRICS, train
        from shared_impl.results import Record, Row, plot_curves, rich_table, write_atomically

        with bad_input():
            task = _make_task(self.task, seed=self.seed, length=self.length, lag=self.lag).limited(self.limit)
            shape: dict[str, Any] = {"n_layers": self.n_layers, "d_model": self.d_model, "dropout": self.dropout}
            if self.model in ("s4", "lssl"):
                shape["d_state"] = self.d_state
            recipe = Recipe(
                task=self.task, model=shape, lr=self.lr, weight_decay=self.weight_decay, batch_size=self.batch_size,
                epochs=self.epochs, grad_clip=None if self.model == "s4" else 1.0,
            )  # fmt: skip
            config = {"task": self.task, "model": self.model, **shape, "lr": self.lr, "epochs": self.epochs}
            record = Record.start(
                "s4_impl", self.task, preset=self.model, seeds=[self.seed], kind="train", config=config
            )
            result = train(
                self.model, task, recipe, seed=self.seed, device=device, out_dir=out_dir / "checkpoints",
                resume=not self.restart, console=console,
            )  # fmt: skip
        result.model.save_pretrained(out_dir / "model")
        info = {
            "task": self.task, "model": self.model, "seed": self.seed, "length": self.length, "lag": self.lag,
            "vocabulary": task.vocabulary,
        }  # fmt: skip
        write_atomically(out_dir / "model" / _INFO, json.dumps(info) + "\n")
        metric = METRICS[task.task]
        record.add(
            Row(
                task=task.name, model=self.model, metric=metric.label, value=result.test[metric.name],
                higher_is_better=metric.higher_is_better,
                note=f"{result.n_parameters:,} parameters, {result.fit.seconds:.0f} s",
            )
        )  # fmt: skip
        record.plots.append(
            plot_curves(
                out_dir / f"train-{self.task}.png",
                {self.model: result.fit.curve(metric.name)},
                xlabel="step", ylabel=metric.label.replace("test", "validation"), title=task.name,
            ).name
        )  # fmt: skip
        record.save(out_dir)
        console.print(rich_table(record))
        console.print(f"model: {out_dir / 'model'}", soft_wrap=True)
        return record


def _load(folder: Path) -> "tuple[SequenceModel, dict[str, Any]]":
    """A model that `train` saved.

    Raises:
        UserError: if the folder holds none.
    """
    from safetensors import SafetensorError

    from s4_impl.baselines import MODELS

    folder = folder / "model" if (folder / "model").is_dir() else folder
    if not (folder / _INFO).is_file():
        raise UserError(f"{folder} holds no model: there is no {_INFO}; make one with: s4-impl train --out DIR")
    try:
        info = json.loads((folder / _INFO).read_text(encoding="utf-8"))
        model: SequenceModel = MODELS[info["model"]].from_pretrained(folder)
    except (ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        raise UserError(f"{folder} cannot be read: {type(error).__name__}: {error}") from error
    return model.eval(), info


@dataclass(frozen=True)
class Evaluate(Options):
    """Measure a trained model on the test examples of its task."""

    checkpoint: tyro.conf.Positional[Path] = Path("runs/s4")
    """folder that `train` wrote"""

    def run(self) -> Mapping[str, Any]:
        device, console = self.torch_device(), self.console()
        model, info = _load(self.checkpoint)
        from s4_impl.training import evaluate

        task = _make_task(info["task"], seed=info["seed"], length=info["length"], lag=info["lag"])
        metrics = evaluate(model.to(device), task, task.test)
        for name, value in metrics.items():
            console.print(f"{name}: {value:.4g}", highlight=False)
        return {"task": info["task"], "model": info["model"], **metrics}


@dataclass(frozen=True)
class Generate(Options):
    """Write text with a model trained on the task chars, one character a step in constant memory."""

    checkpoint: tyro.conf.Positional[Path] = Path("runs/s4")
    """folder that `train --task chars` wrote"""
    prompt: str = "\n"
    """text to go on from"""
    length: int = 200
    """characters to write"""
    temperature: float = 0.8
    """0 takes the likeliest character"""
    top_k: int | None = None
    """choose among the k likeliest"""
    top_p: float | None = None
    """choose among the likeliest that together have this probability"""

    def run(self) -> Mapping[str, Any]:
        device = self.torch_device()
        model, info = _load(self.checkpoint)
        if model.task != "lm" or not info["vocabulary"]:
            raise UserError(f"{self.checkpoint} was trained on {info['task']}: generate needs a model of --task chars")
        if not self.prompt:
            raise UserError("--prompt must have at least one character")
        import torch

        from s4_impl.data import encode_text

        vocabulary = info["vocabulary"]
        prompt = torch.from_numpy(encode_text(self.prompt, vocabulary))[None].to(device)
        generator = torch.Generator(device=device).manual_seed(self.seed)
        with bad_input():
            tokens = model.to(device).generate(
                prompt, self.length, temperature=self.temperature, top_k=self.top_k, top_p=self.top_p,
                generator=generator,
            )  # fmt: skip
        text = "".join(vocabulary[token] for token in tokens[0].tolist())
        self.console().print(text, highlight=False, markup=False, soft_wrap=True)
        return {"text": text}


@dataclass(frozen=True)
class Reproduce(Options):
    """Run one of the paper's experiments and record our numbers beside the paper's."""

    experiment: tyro.conf.Positional[TableName] = "digits"
    """which one; those after pathfinder need data that you bring and a GPU"""
    preset: Literal["cpu", "paper"] = "cpu"
    """cpu: minutes on two cores, reduced scale; paper: the full recipe"""

    def run(self) -> "Record":
        device, out_dir, console = self.torch_device(), self.out_dir("s4"), self.console()
        self.seed_everything()
        from s4_impl import experiments
        from shared_impl.results import rich_table

        record = experiments.run(
            experiments.TABLES[self.experiment],
            self.preset,
            seed=self.seed,
            device=device,
            out_dir=out_dir,
            console=console,
        )
        console.print(rich_table(record))
        for note in record.notes:
            console.print(f"- {note}", highlight=False)
        return record


@dataclass(frozen=True)
class Bench(Options):
    """Time the fast forms against the slow ones and against the baselines."""

    what: tyro.conf.Positional[Literal["kernel", "layer", "step", "official"]] = "kernel"
    """kernel: forms of the kernel; layer: S4 against LSTM and attention; step: S4 against a Transformer with a cache;
    official: beside the authors' code (its location in S4_OFFICIAL_DIR)"""
    quick: bool = False
    """short sequences only"""

    def run(self) -> "Record":
        device, out_dir, console = self.torch_device(), self.out_dir("s4"), self.console()
        self.seed_everything()
        from s4_impl import benchmarks
        from shared_impl.results import rich_table

        record: Record = benchmarks.run(self.what, device=device, quick=self.quick, seed=self.seed)
        record.save(out_dir)
        console.print(rich_table(record))
        return record


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; the exit code."""
    commands = {
        "demo": Demo, "train": Train, "evaluate": Evaluate, "generate": Generate, "reproduce": Reproduce, "bench": Bench
    }  # fmt: skip
    return run("s4_impl", commands, argv)
