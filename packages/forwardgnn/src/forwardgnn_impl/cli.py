"""The command line, `forwardgnn-impl`: its own verbs; `info`, `reproduce` and `bench` come from what is declared.

torch is imported only when a command runs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import Positional, arg

from shared_impl.cli import Options, UserError, bad_input, run

__all__ = ["main"]

SLUG = "forwardgnn"
EXPERIMENTS = ("depth", "methods", "convs", "links", "memory")
BENCHMARKS = ("layer", "depth", "classes", "augment", "official", "defaults")


@dataclass(frozen=True)
class Demo(Options):
    """Accuracy and kept memory by depth, layer by layer and by backpropagation."""

    def run(self) -> dict[str, float]:
        from .demo import demo

        return demo(seed=self.seed, device=self.torch_device(), out_dir=self.out_dir(SLUG), console=self.console())


@dataclass(frozen=True, kw_only=True)
class Train(Options):
    """Learn the labels of some nodes of your graph, and write those of all as CSV."""

    edges: Annotated[Positional[Path], arg(metavar="EDGES")]
    """CSV with a header, source and target in the first two columns; `-`: standard input"""
    features: Path
    """CSV: node, and numbers"""
    labels: Path
    """CSV: node, label; nodes without a label are predicted"""
    method: Literal["sf", "sf-top2input", "sf-top2loss", "ff-la", "ff-vn", "bp", "mlp", "dfa", "cafo", "pepita"] = "sf"
    conv: Literal["gcn", "sage", "gat"] = "gcn"
    layers: int = 2
    hidden: int = 128
    epochs: int = 1000
    """of each layer"""
    output: Path | None = None
    """CSV to write; default: answers.csv in --out"""

    def run(self) -> dict[str, Any]:
        import pandas as pd

        from .files import read_graph
        from .model import ForwardNodeClassifier

        data, names, classes = read_graph(self.edges, self.features, self.labels)
        with bad_input():
            model = ForwardNodeClassifier(
                self.method, self.conv, self.layers, hidden=self.hidden, epochs=self.epochs, random_state=self.seed
            ).fit(data.to(self.torch_device()))
        proba = model.predict_proba()
        guess = proba.argmax(1)
        known = data.y.cpu().numpy() >= 0
        table = pd.DataFrame(
            {"node": names, "label": [classes[int(model.classes_[c])] for c in guess], "probability": proba.max(1),
             "given": [classes[int(c)] if c >= 0 else "" for c in data.y.cpu().numpy()]}
        )  # fmt: skip
        path = self.output or self.out_dir(SLUG) / "answers.csv"
        table.to_csv(path, index=False)
        console = self.console()
        console.print(
            f"held-out accuracy {model.best_validation_:.1f} %, the most frequent class {100 * model.trivial_:.1f} %"
        )
        console.print(f"{int((~known).sum())} nodes without a label, {len(table)} rows: {path}", highlight=False)
        return {
            "held_out_accuracy": model.best_validation_, "most_frequent": 100 * model.trivial_, "rows": len(table),
            "path": str(path),
        }  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Links(Options):
    """Learn the links of your graph, and write the likeliest new ones as CSV."""

    edges: Annotated[Positional[Path], arg(metavar="EDGES")]
    """CSV with a header, source and target in the first two columns; `-`: standard input"""
    features: Path
    """CSV: node, and numbers"""
    loss: Literal["ce", "ff", "bp"] = "ce"
    conv: Literal["gcn", "sage", "gat"] = "gcn"
    layers: int = 2
    epochs: int = 1000
    top: int = 100
    output: Path | None = None
    """CSV to write; default: links.csv in --out"""

    def run(self) -> dict[str, Any]:
        import pandas as pd

        from .files import candidate_pairs, read_graph
        from .links import ForwardLinkPredictor

        if self.top < 1:
            raise UserError(f"--top must be positive, got {self.top}")
        data, names, _ = read_graph(self.edges, self.features)
        with bad_input():
            model = ForwardLinkPredictor(
                self.loss, self.conv, self.layers, epochs=self.epochs, random_state=self.seed
            ).fit(data.to(self.torch_device()))
        pairs = candidate_pairs(data)
        chance = model.predict_proba(pairs)[:, 1]
        best = (-chance).argsort(kind="stable")[: self.top]
        table = pd.DataFrame(
            {"source": [names[i] for i in pairs[0][best]], "target": [names[i] for i in pairs[1][best]],
             "probability": chance[best]}
        )  # fmt: skip
        path = self.output or self.out_dir(SLUG) / "links.csv"
        table.to_csv(path, index=False)
        self.console().print(f"AUC on held-out links {model.best_validation_:.1f} %; {len(table)} rows: {path}")
        return {"auc": model.best_validation_, "rows": len(table), "path": str(path)}


@dataclass(frozen=True, kw_only=True)
class Memory(Options):
    """What autograd keeps while training, by depth, on a generated graph or a data set."""

    data: str = "sbm"
    """sbm, cora, citeseer"""
    depths: tuple[int, ...] = (1, 2, 4, 8)
    hidden: int = 128

    def run(self) -> dict[str, Any]:
        from rich.table import Table

        from .data import load_graph
        from .experiments import trained_memory

        if not self.depths or min(self.depths) < 1:
            raise UserError(f"--depths must be positive, got {self.depths}")
        with bad_input():
            data = load_graph(self.data)
        table, found = Table("layers", "SF, MiB", "BP, MiB"), {}
        for layers in self.depths:
            kept = [trained_memory(m, data, layers=layers, hidden=self.hidden) / 2**20 for m in ("sf", "bp")]
            table.add_row(str(layers), *[f"{value:.2f}" for value in kept])
            found[str(layers)] = dict(zip(("sf", "bp"), kept, strict=True))
        self.console().print(table)
        return found


COMMANDS: Mapping[str, type] = {"demo": Demo, "train": Train, "links": Links, "memory": Memory}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    return run("forwardgnn_impl", COMMANDS, argv, experiments=EXPERIMENTS, benchmarks=BENCHMARKS)
