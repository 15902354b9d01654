"""The command line, `forwardgnn-impl`: its own verbs; `info`, `reproduce` and `bench` come from what is declared.

torch is imported only when a command runs.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import Positional, arg

from shared_impl.cli import Options, UserError, bad_input, run

__all__ = ["main"]

SLUG = "forwardgnn"
EXPERIMENTS = ("depth", "methods", "convs", "links", "memory")
BENCHMARKS = ("layer", "depth", "classes", "official", "defaults")


@dataclass(frozen=True)
class Demo(Options):
    """Accuracy and kept memory by depth, layer by layer and by backpropagation."""

    def run(self) -> dict[str, float]:
        from .demo import demo

        return demo(seed=self.seed, device=self.torch_device(), out_dir=self.out_dir(SLUG), console=self.console())


@contextmanager
def _progress(model: Any, command: Options) -> Iterator[None]:
    """A bar with the time left, on a terminal; refusals of the model are bad input."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    console = command.console()
    columns = (TextColumn("training"), BarColumn(), TimeRemainingColumn())
    with bad_input(), Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("training", total=1.0)
        model.watch = lambda share: bar.update(task, completed=share)
        yield
    del model.watch


def _target(command: Any, name: str) -> Path:
    """Where the answers go, looked at before the work begins."""
    path: Path = command.output or command.out_dir(SLUG) / name
    if path.is_dir() or not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        raise UserError(f"--output {path}: no file can be written there")
    return path


@dataclass(frozen=True, kw_only=True)
class _OfTables(Options):
    edges: Annotated[Positional[Path], arg(metavar="EDGES")]
    """CSV with a header, source and target in the first two columns; `-`: standard input"""
    features: Path
    """CSV: node, and numbers"""
    conv: Literal["gcn", "sage", "gat"] = "gcn"
    layers: int = 2
    hidden: int = 128
    epochs: int = 1000
    """of each layer"""
    output: Path | None = None
    """CSV to write; default: answers.csv (train) or links.csv (links) in --out"""


@dataclass(frozen=True, kw_only=True)
class Train(_OfTables):
    """Learn the labels of some nodes of your graph, and write those of all as CSV."""

    labels: Path
    """CSV: node, label; nodes without a label are predicted"""
    method: Literal["sf", "sf-top2input", "sf-top2loss", "ff-la", "ff-vn", "bp", "mlp", "dfa", "cafo", "pepita"] = "sf"

    def run(self) -> dict[str, Any]:
        import pandas as pd

        from .files import read_graph, write_table
        from .model import ForwardNodeClassifier

        path = _target(self, "answers.csv")
        data, names, classes = read_graph(self.edges, self.features, self.labels)
        model = ForwardNodeClassifier(
            self.method, self.conv, self.layers, hidden=self.hidden, epochs=self.epochs, random_state=self.seed
        )
        with _progress(model, self):
            proba = model.fit(data.to(self.torch_device())).predict_proba()
        guess = proba.argmax(1)
        known = data.y.cpu().numpy() >= 0
        table = pd.DataFrame(
            {"node": names, "label": [classes[int(model.classes_[c])] for c in guess], "probability": proba.max(1),
             "given": [classes[int(c)] if c >= 0 else "" for c in data.y.cpu().numpy()]}
        )  # fmt: skip
        write_table(table, path)
        console = self.console()
        held = model.best_validation_ == model.best_validation_
        skill = f"{model.best_validation_:.1f} %, the most frequent class {100 * model.trivial_:.1f} %"
        console.print(f"held-out accuracy {skill if held else 'unknown: too few labels to hold any out'}")
        console.print(f"{int((~known).sum())} nodes without a label, {len(table)} rows: {path}", highlight=False)
        return {
            "held_out_accuracy": model.best_validation_ if held else None,
            "most_frequent": 100 * model.trivial_ if held else None, "rows": len(table), "path": str(path),
        }  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Links(_OfTables):
    """Learn the links of your graph, and write the likeliest new ones as CSV."""

    loss: Literal["ce", "ff", "bp"] = "ce"
    top: int = 100

    def run(self) -> dict[str, Any]:
        import pandas as pd
        from torch import from_numpy
        from torch_geometric.data import Data

        from .files import candidate_pairs, read_graph, write_table
        from .links import ForwardLinkPredictor

        if self.top < 1:
            raise UserError(f"--top must be positive, got {self.top}")
        path = _target(self, "links.csv")
        data, names, _ = read_graph(self.edges, self.features)
        model = ForwardLinkPredictor(
            self.loss, self.conv, self.layers, hidden=self.hidden, epochs=self.epochs, random_state=self.seed
        )
        with _progress(model, self):
            model.fit(data.to(self.torch_device()))
        pairs = candidate_pairs(data)
        # links that were held out are known by now
        chance = model.predict_proba(Data(edge_index=data.edge_index, edge_label_index=from_numpy(pairs)))[:, 1]
        best = (-chance).argsort(kind="stable")[: self.top]
        table = pd.DataFrame(
            {"source": [names[i] for i in pairs[0][best]], "target": [names[i] for i in pairs[1][best]],
             "probability": chance[best]}
        )  # fmt: skip
        write_table(table, path)
        self.console().print(f"AUC on held-out links {model.best_validation_:.1f} %; {len(table)} rows: {path}")
        return {"auc": model.best_validation_, "rows": len(table), "path": str(path)}


@dataclass(frozen=True, kw_only=True)
class Memory(Options):
    """What autograd keeps while training, by depth, on a generated graph or a data set."""

    data: str = "sbm"
    """sbm, cora, citeseer, pubmed; those of the paper with their files in FORWARDGNN_DATA_DIR"""
    depths: tuple[int, ...] = (1, 2, 4, 8)
    hidden: int = 128

    def run(self) -> dict[str, Any]:
        from rich.table import Table

        from .data import load_graph
        from .experiments import FOLDER, trained_memory

        if not self.depths or min(self.depths) < 1:
            raise UserError(f"--depths must be positive, got {self.depths}")
        with bad_input():
            data = load_graph(self.data, os.environ.get(FOLDER))
        table, found = Table("layers", "SF, MiB", "BP, MiB"), {}
        for layers in self.depths:
            with bad_input():
                kept = [trained_memory(m, data, layers=layers, hidden=self.hidden) / 2**20 for m in ("sf", "bp")]
            table.add_row(str(layers), *[f"{value:.2f}" for value in kept])
            found[str(layers)] = dict(zip(("sf", "bp"), kept, strict=True))
        self.console().print(table)
        return found


COMMANDS: Mapping[str, type] = {"demo": Demo, "train": Train, "links": Links, "memory": Memory}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    return run("forwardgnn_impl", COMMANDS, argv, experiments=EXPERIMENTS, benchmarks=BENCHMARKS)
