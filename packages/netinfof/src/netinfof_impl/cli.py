"""The command line, `netinfof-impl`: its own verbs; `info`, `reproduce` and `bench` come from what is declared.

torch is imported only when a command runs.
"""

import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import Positional, arg

from shared_impl.cli import Options, UserError, bad_input, run

__all__ = ["main"]

SLUG = "netinfof"
EXPERIMENTS = ("links", "synthetic", "scores", "nodes")
BENCHMARKS = ("lsqr", "walks", "growth", "probe", "official", "defaults")


@dataclass(frozen=True)
class Demo(Options):
    """A graph whose links join unlike nodes: inner products fail, the adjusted similarity does not."""

    def run(self) -> Any:
        from netinfof_impl.demo import demo

        return demo(seed=self.seed, device=self.torch_device(), out_dir=self.out_dir(SLUG), console=self.console())


@dataclass(frozen=True, kw_only=True)
class _OfAGraph(Options):
    edges: Annotated[Positional[Path], arg(metavar="EDGES")]
    """CSV with a header, source and target in the first two columns; `-`: standard input"""
    features: Path | None = None
    """CSV: node, and numbers"""
    labels: Path | None = None
    """CSV: node, label"""
    task: Literal["link", "node"] = "link"

    def graph(self) -> Any:
        """Graph, names of nodes, names of classes."""
        from netinfof_impl.files import read_graph

        if self.task == "node" and self.labels is None:
            raise UserError("--task node needs --labels")
        return read_graph(self.edges, self.features, self.labels)


@dataclass(frozen=True, kw_only=True)
class Probe(_OfAGraph):
    """Measure before any training what structure and features tell about links or labels: verdict, table, plot."""

    walks: int = 200
    bins: int = 8
    permutations: int = 999

    def run(self) -> Any:
        from rich.table import Table

        from netinfof_impl.drawing import draw_scores
        from netinfof_impl.embeddings import COMPONENTS, ComponentEmbeddings
        from netinfof_impl.probe import NetInfoFProbe

        data, _, _ = self.graph()
        with bad_input():
            probe = NetInfoFProbe(
                self.task, embeddings=ComponentEmbeddings(walks=self.walks, seed=self.seed), bins=self.bins,
                permutations=self.permutations, seed=self.seed,
            ).fit(data)  # fmt: skip
        rows: dict[str, dict[str, Any]] = {
            name: {"component": COMPONENTS[name], "score": r.score, "accuracy": r.accuracy, "p_value": r.test.p_value,
                   "chance_95": r.test.null_high}
            for name, r in probe.reports_.items()
        }  # fmt: skip
        bars = {name: (r.score, r.test.null_high) for name, r in probe.reports_.items()}
        path = draw_scores(bars, probe.base_, self.out_dir(SLUG) / "probe.png")
        if not self.json:
            table = Table("", "component", "score", "chance reaches (95 %)", "p", "accuracy of its table")
            for name, row in rows.items():
                numbers = (row["score"], row["chance_95"], row["p_value"], row["accuracy"])
                table.add_row(name, row["component"], *(f"{number:.3f}" for number in numbers))
            self.console().print(table)
            self.console().print(probe.verdict())
            self.console().print(f"plot: {path}", highlight=False)
        return {"verdict": probe.verdict(), "base": probe.base_, "components": rows, "plot": str(path)}


@dataclass(frozen=True, kw_only=True)
class Act(_OfAGraph):
    """Learn links or labels, and write the likeliest new links, or each node's label, as CSV."""

    output: Path | None = None
    """CSV to write; default: answers.csv in --out"""
    top: int = 100
    """so many new links, of all pairs that share a neighbour (or of all, where these are fewer)"""

    def run(self) -> Any:
        from netinfof_impl.act import NetInfoFAct
        from netinfof_impl.answers import label_all, likeliest_links

        data, names, classes = self.graph()
        if self.top < 1:
            raise UserError(f"--top must be positive, got {self.top}")
        path = self.output or self.out_dir(SLUG) / "answers.csv"
        if not path.parent.is_dir():
            raise UserError(f"--output {path}: there is no folder {path.parent}")
        with bad_input(), warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always", UserWarning)
            model = NetInfoFAct(self.task, random_state=self.seed).fit(data)
        for warning in said:
            print(f"{SLUG}-impl: {warning.message}", file=sys.stderr)
        if self.task == "link":
            table = likeliest_links(model, data, names, self.top)
        else:
            table = label_all(model, data, names, classes)
        table.to_csv(path, index=False)
        if not self.json:
            what = "AUC" if self.task == "link" else "accuracy"
            self.console().print(f"{what} on what was held back: {model.skill_:+.3f} over the trivial answer")
            self.console().print(f"weights: {', '.join(f'{n} {w:.2f}' for n, w in model.weights_.items())}")
            self.console().print(f"{len(table)} rows: {path}", highlight=False)
        return {"skill": model.skill_, "weights": model.weights_, "rows": len(table), "path": str(path)}


@dataclass(frozen=True, kw_only=True)
class Synthetic(Options):
    """Write a graph of the paper's generator as edges.csv, features.csv and labels.csv."""

    features: Literal["random", "global", "local"] = "global"
    edges: Literal["diag", "offdiag", "uniform"] = "diag"
    nodes: int = 800
    columns: int = 160

    def run(self) -> Any:
        import pandas as pd

        from netinfof_impl.synthetic import synthetic_graph

        sizes = {"n_nodes": self.nodes, "n_features": self.columns}
        with bad_input():
            data = synthetic_graph(self.features, self.edges, **sizes, seed=self.seed)
        assert data.x is not None
        assert data.edge_index is not None
        folder = self.out_dir(SLUG)
        once = data.edge_index[:, data.edge_index[0] < data.edge_index[1]].T.numpy()
        tables = {
            "edges": pd.DataFrame(once, columns=["source", "target"]),
            "features": pd.DataFrame(data.x.numpy()).rename_axis("node").reset_index(),
            "labels": pd.DataFrame({"node": range(self.nodes), "label": data.y}),
        }
        for name, table in tables.items():
            table.to_csv(folder / f"{name}.csv", index=False)
        if not self.json:
            self.console().print(f"{len(once)} edges of {self.nodes} nodes: {folder}", highlight=False)
        return {"edges": len(once), "nodes": self.nodes, "folder": str(folder)}


COMMANDS: Mapping[str, type] = {"demo": Demo, "probe": Probe, "act": Act, "synthetic": Synthetic}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    return run("netinfof_impl", COMMANDS, argv, experiments=EXPERIMENTS, benchmarks=BENCHMARKS)
