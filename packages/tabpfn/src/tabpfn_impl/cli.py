"""Command line: `tabpfn-impl demo | info | train | export | predict | evaluate | prior | reproduce | bench`."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import tyro

from shared_impl.cli import Options, UserError, bad_input, run

if TYPE_CHECKING:
    from shared_impl.results import Record
    from tabpfn_impl.checkpoints import Checkpoint
    from tabpfn_impl.classifier import TabPFNClassifier

__all__ = ["main"]


def _checkpoint(folder: Path | None) -> "Checkpoint":
    from tabpfn_impl.checkpoints import load_checkpoint, shipped_checkpoint

    with bad_input():
        return shipped_checkpoint() if folder is None else load_checkpoint(_model_folder(folder))


def _model_folder(folder: Path) -> Path:
    return folder / "model" if (folder / "model").is_dir() else folder


def _positive(**values: float | int | None) -> None:
    for name, value in values.items():
        if value is not None and not value > 0:
            raise UserError(f"--{name.replace('_', '-')} must be positive, got {value}")


@dataclass(frozen=True)
class Demo(Options):
    """Decision boundaries and AUC on real tables, the shipped network beside a random forest (under a minute)."""

    def run(self) -> "Record":
        device, out_dir, console = self.torch_device(), self.out_dir("tabpfn"), self.console()
        self.seed_everything()
        from shared_impl.results import rich_table
        from tabpfn_impl.demo import demo

        record = demo(seed=self.seed, device=device.type, out_dir=out_dir, console=console)
        console.print(rich_table(record))
        console.print(f"plot: {out_dir / record.plots[0]}", soft_wrap=True)
        return record


@dataclass(frozen=True)
class Train(Options):
    """Fit a network to the prior; it is saved under --out, and a run that was interrupted goes on."""

    recipe: Literal["cpu", "gpu", "paper", "tiny"] = "cpu"
    """cpu: that of the shipped network; gpu: a row network of 4 M weights; paper: of 26 M; tiny: seconds"""
    minutes: float | None = None
    """length of the run by the clock (the learning rate falls to 0 at its end)"""
    steps: int | None = None
    """length of the run in optimiser steps (exactly repeatable)"""
    architecture: Literal["row", "cell"] | None = None
    """row: a token a row, as in the paper; cell: a token a cell; default by the recipe"""
    d_model: int | None = None
    """width"""
    n_layers: int | None = None
    """depth"""
    lr: float | None = None
    """largest learning rate"""
    precision: Literal["float32", "bfloat16"] | None = None
    """of activations"""
    eval_every: int | None = None
    """steps between validations"""
    workers: int | None = None
    """processes that draw from the prior"""
    restart: bool = False
    """start anew instead of going on where a run in --out stopped"""

    def run(self) -> "Record":
        _positive(minutes=self.minutes, steps=self.steps, lr=self.lr, eval_every=self.eval_every)
        if self.minutes is not None and self.steps is not None:
            raise UserError("give either --minutes or --steps, not both")
        device, out_dir, console = self.torch_device(), self.out_dir("tabpfn"), self.console()
        from dataclasses import asdict, replace

        from shared_impl.results import Record, Row, plot_curves, rich_table
        from tabpfn_impl.checkpoints import save_checkpoint
        from tabpfn_impl.recipes import RECIPES
        from tabpfn_impl.training import train_pfn

        base = RECIPES[self.recipe]
        architecture = self.architecture or base.architecture
        model = dict(base.model) if architecture == base.architecture else {}
        model |= {k: v for k, v in (("d_model", self.d_model), ("n_layers", self.n_layers)) if v is not None}
        changes: dict[str, Any] = {
            name: getattr(self, name)
            for name in ("lr", "precision", "eval_every", "workers")
            if getattr(self, name) is not None
        }
        if self.minutes is not None or self.steps is not None:
            changes |= {"minutes": self.minutes, "steps": self.steps}
        with bad_input():
            recipe = replace(base, architecture=architecture, model=model, seed=self.seed, **changes)
            record = Record.start(
                "tabpfn_impl", "train", preset=self.recipe, seeds=[self.seed], kind="train", config=asdict(recipe)
            )
            network, result = train_pfn(
                recipe, out_dir=out_dir / "checkpoints", device=device, resume=not self.restart, console=console
            )
        if os.environ.get("RANK", "0") != "0":
            return record  # the first process writes
        processes = int(os.environ.get("WORLD_SIZE", "1"))
        command, by = record.command, ""
        if processes > 1:
            arguments = command.partition(" ")[2]
            command = f"torchrun --nproc-per-node {processes} -m tabpfn_impl {arguments}"
            by = f" by {processes} processes"
        info = {
            "recipe": asdict(recipe),
            "command": command,
            "trained": f"{result.steps:,} steps in {result.seconds / 60:.0f} minutes{by}",
            "validation": result.best,
        }
        save_checkpoint(out_dir / "model", network, recipe.architecture, dict(recipe.model), info=info)
        for metric, higher in (("loss", False), ("auc", True), ("accuracy", True)):
            record.add(
                Row(
                    "held-out tables of the prior", recipe.architecture, metric, result.best[metric],
                    higher_is_better=higher, note=f"{result.steps:,} steps, {result.seconds:.0f} s",
                )
            )  # fmt: skip
        record.plots.append(
            plot_curves(
                out_dir / "train.png", {"AUC": result.curve("auc")}, xlabel="step", ylabel="AUC",
                title="Validation on held-out tables",
            ).name
        )  # fmt: skip
        record.save(out_dir)
        console.print(rich_table(record))
        console.print(f"network: {out_dir / 'model'}", soft_wrap=True)
        return record


@dataclass(frozen=True)
class Export(Options):
    """Make the network of a training run ready to be used and shipped: temperature and way of asking are chosen on
    synthetic tables, weights are halved, the training log lies beside them."""

    run_dir: tyro.conf.Positional[Path] = tyro.MISSING
    """folder that `train` wrote"""
    to: Path = tyro.MISSING
    """folder for the network"""

    def run(self) -> Mapping[str, Any]:
        device, console = self.torch_device(), self.console()
        from shared_impl.results import write_atomically
        from tabpfn_impl.checkpoints import load_checkpoint, save_checkpoint
        from tabpfn_impl.tuning import TEMPERATURES, choose_prediction, cluster_tables, prior_tables

        log = self.run_dir / "checkpoints" / "metrics.jsonl"
        try:
            checkpoint = load_checkpoint(_model_folder(self.run_dir))
            recipe = checkpoint.recipe
            history = log.read_text(encoding="utf-8")
        except (ValueError, OSError) as error:
            raise UserError(f"{self.run_dir} is no run of `tabpfn-impl train`: {error}") from error
        families = [prior_tables(recipe), cluster_tables()]
        choice = choose_prediction(checkpoint, families, device=device.type)
        for way in ("direct", "one-vs-rest", "both"):
            values = "  ".join(f"{t}: {choice.losses[way, t]:.4f}" for t in TEMPERATURES)
            console.print(f"log-loss, {way}: {values}", highlight=False)
        chosen = {
            "softmax_temperature": choice.temperature,
            "multiclass": choice.multiclass,
            "chosen": f"softmax_temperature and multiclass: the least log-loss, over {len(TEMPERATURES)} temperatures "
            f"and three ways, on {len(families[0])} tables of the prior that the run did not see and "
            f"{len(families[1])} tables of Gaussian clusters",
        }
        info = checkpoint.info | chosen
        save_checkpoint(self.to, checkpoint.model, checkpoint.architecture, checkpoint.config, info=info, half=True)
        write_atomically(self.to / "training_log.jsonl", history)
        console.print(f"network: {self.to}", soft_wrap=True)
        return {"path": str(self.to), **chosen}


@dataclass(frozen=True)
class _Table(Options):
    """A table and a network."""

    target: str | None = None
    """column with the labels (default: the last)"""
    model: Path | None = None
    """folder that `train` wrote (default: the shipped network)"""
    n_estimators: int = 8
    """members of the ensemble"""

    def _classifier(self, checkpoint: "Checkpoint") -> "TabPFNClassifier":
        from tabpfn_impl.classifier import TabPFNClassifier

        return TabPFNClassifier(self.n_estimators, model=checkpoint, device=self.device, random_state=self.seed)


@dataclass(frozen=True)
class Predict(_Table):
    """Read two CSV files, rows with labels and rows without, and write the second's classes and probabilities."""

    train: tyro.conf.Positional[Path] = tyro.MISSING
    """CSV with labels"""
    test: tyro.conf.Positional[Path] = tyro.MISSING
    """CSV without labels"""
    to: Path | None = None
    """CSV to write (default: predictions.csv under --out)"""

    def run(self) -> Mapping[str, Any]:
        _positive(n_estimators=self.n_estimators)
        self.torch_device()
        import pandas as pd

        from shared_impl.results import write_atomically
        from tabpfn_impl.data import read_csv

        with bad_input():
            X, y = read_csv(self.train, self.target)
            rows, _ = read_csv(self.test, self.target or _last_column(self.train), labelled=False)
            absent = [name for name in X.columns if name not in rows.columns]
            if absent:
                raise UserError(f"{self.test} lacks the column {absent[0]!r} of {self.train}")
            classifier = self._classifier(_checkpoint(self.model)).fit(X, y)
            probabilities = classifier.predict_proba(rows[list(X.columns)])
        frame = pd.DataFrame(probabilities, columns=[f"p({c})" for c in classifier.classes_])
        frame.insert(0, "prediction", classifier.classes_[probabilities.argmax(1)])
        path = self.to or self.out_dir("tabpfn") / "predictions.csv"
        write_atomically(path, frame.to_csv(index=False))
        self.console().print(f"{len(frame)} predictions: {path}", soft_wrap=True)
        return {"rows": len(frame), "classes": classifier.classes_.tolist(), "path": str(path)}


def _last_column(path: Path) -> str:
    with path.open(encoding="utf-8") as file:
        return file.readline().strip().split(",")[-1]


@dataclass(frozen=True)
class Evaluate(_Table):
    """Score the network on splits of a CSV file, beside scikit-learn's classifiers and installed peers."""

    table: tyro.conf.Positional[Path] = tyro.MISSING
    """CSV with labels"""
    splits: int = 5
    """stratified splits"""
    train_size: float = 0.5
    """share of the rows for training"""
    baselines: bool = True
    """whether to score the others too"""

    def run(self) -> "Record":
        _positive(n_estimators=self.n_estimators, splits=self.splits)
        if not 0 < self.train_size < 1:
            raise UserError(f"--train-size must lie between 0 and 1, got {self.train_size}")
        self.torch_device()
        import warnings
        from functools import partial

        from shared_impl.results import Record, rich_table
        from tabpfn_impl.baselines import BASELINES, available_peers, make_baseline
        from tabpfn_impl.data import Table, read_csv
        from tabpfn_impl.evaluation import evaluate
        from tabpfn_impl.experiments import score_rows

        with bad_input():
            X, y = read_csv(self.table, self.target)
        assert y is not None
        checkpoint = _checkpoint(self.model)
        record = Record.start("tabpfn_impl", "evaluate", preset=self.table.stem, seeds=[self.seed], kind="demo")
        models: dict[str, Any] = {"TabPFN": lambda seed: self._classifier(checkpoint)}
        if self.baselines:
            models |= {name: partial(make_baseline, name) for name in [*BASELINES, *available_peers()]}
        with bad_input(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            outcomes = evaluate(
                Table(self.table.stem, X, y), models, n_splits=self.splits, seed=self.seed,
                train_size=self.train_size,
            )  # fmt: skip
        for row in score_rows(outcomes, task=self.table.stem):
            record.add(row)
        self.console().print(rich_table(record))
        if self.out is not None:
            record.save(self.out_dir("tabpfn"))
        return record


@dataclass(frozen=True)
class Prior(Options):
    """Draw tables from the prior, save them as one .npz file, and plot some."""

    sets: int = 12
    """tables"""
    rows: int = 256
    """rows of each"""
    features: int | None = None
    """columns (default: drawn)"""
    components: tuple[Literal["scm", "bnn", "gp"], ...] = ("scm", "bnn", "gp")
    """priors of the mixture"""
    plot: bool = True
    """whether to draw them"""

    def run(self) -> Mapping[str, Any]:
        _positive(sets=self.sets, features=self.features)
        out_dir, device = self.out_dir("tabpfn"), self.torch_device()
        import numpy as np

        from tabpfn_impl.priors import PriorConfig, TabularPrior

        with bad_input():
            prior = TabularPrior(PriorConfig(components=tuple(self.components), group_size=2))
            batch = prior.sample(
                self.sets, self.rows, n_train=self.rows // 2, features=self.features, seed=self.seed, device=device
            ).to("cpu")
        path = out_dir / "prior.npz"
        np.savez_compressed(path, x=batch.x.numpy(), y=batch.y.numpy(), n_features=batch.n_features.numpy())
        result: dict[str, Any] = {
            "path": str(path),
            "shape": list(batch.x.shape),
            "classes": (batch.y.amax(1) + 1).tolist(),
            "features": batch.n_features.tolist(),
        }
        if self.plot:
            from tabpfn_impl.prior_plot import plot_tables

            result["plot"] = str(plot_tables(out_dir / "prior.png", batch))
        console = self.console()
        console.print(f"tables: {path}", soft_wrap=True, highlight=False)
        if self.plot:
            console.print(f"plot: {result['plot']}", soft_wrap=True, highlight=False)
        return result


@dataclass(frozen=True)
class Reproduce(Options):
    """Run one of the evaluations and record our numbers beside the paper's and the baselines'."""

    experiment: tyro.conf.Positional[Literal["table1", "offline", "made-up", "held-out", "ensemble", "posterior"]] = (
        "offline"
    )
    """table1: the paper's 18 sets (needs --data-dir or the extra openml); offline: scikit-learn's four sets"""
    preset: Literal["cpu", "paper"] = "cpu"
    """cpu: fewer splits and members; paper: five splits, 32 members"""
    data_dir: Path | None = None
    """table1: folder with the sets' files, or the file of test sets that the authors released"""
    model: Path | None = None
    """folder that `train` wrote (default: the shipped network)"""

    def run(self) -> "Record":
        device, out_dir, console = self.torch_device(), self.out_dir("tabpfn"), self.console()
        self.seed_everything()
        from shared_impl.data import DataError
        from shared_impl.results import rich_table
        from tabpfn_impl import experiments

        checkpoint = _checkpoint(self.model)
        try:
            record = experiments.run(
                self.experiment, self.preset, seed=self.seed, device=device, out_dir=out_dir, console=console,
                data_dir=self.data_dir, checkpoint=checkpoint,
            )  # fmt: skip
        except DataError as error:
            raise UserError(str(error)) from error
        console.print(rich_table(record))
        for note in record.notes:
            console.print(f"- {note}", highlight=False)
        return record


@dataclass(frozen=True)
class Bench(Options):
    """Time a fast form against the plain one, or a prediction against its peers."""

    what: tyro.conf.Positional[Literal["prior", "predict", "cache", "attention", "train", "official"]] = "prior"
    """which one; official: beside the authors' code, a checkout of which TABPFN_OFFICIAL_DIR names"""
    quick: bool = False
    """one small size only"""

    def run(self) -> "Record":
        device, out_dir, console = self.torch_device(), self.out_dir("tabpfn"), self.console()
        self.seed_everything()
        from shared_impl.results import rich_table
        from tabpfn_impl import benchmarks

        record = benchmarks.run(self.what, device=device, quick=self.quick, seed=self.seed)
        record.save(out_dir)
        console.print(rich_table(record))
        for note in record.notes:
            console.print(f"- {note}", highlight=False)
        return record


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of `tabpfn-impl`."""
    commands = {
        "demo": Demo,
        "train": Train,
        "export": Export,
        "predict": Predict,
        "evaluate": Evaluate,
        "prior": Prior,
        "reproduce": Reproduce,
        "bench": Bench,
    }
    return run("tabpfn_impl", commands, argv)
