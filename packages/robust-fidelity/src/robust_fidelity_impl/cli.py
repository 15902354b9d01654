"""The command line, `robust-fidelity-impl`: its own verb; `info`, `reproduce` and `bench` come from what is declared.

torch is imported only when a command runs.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import Positional, arg

from shared_impl.cli import Options, UserError, bad_input, run

__all__ = ["main"]

SLUG = "robust-fidelity"
EXPERIMENTS = ("meta", "cells", "outside", "alphas", "explainers")
BENCHMARKS = ("batched", "enumeration", "error", "official")


@dataclass(frozen=True)
class Demo(Options):
    """Explanations with more and more wrong edges, judged by both measures: a table and a plot."""

    def run(self) -> Any:
        from robust_fidelity_impl.demo import demo

        return demo(seed=self.seed, device=self.torch_device(), out_dir=self.out_dir(SLUG), console=self.console())


@dataclass(frozen=True, kw_only=True)
class Score(Options):
    """Score explanations of graphs: robust and original fidelity of each, and the means."""

    model: Annotated[Positional[Path], arg(metavar="MODEL")]
    """folder with config.json and model.safetensors, or the latter itself"""
    graphs: Annotated[Positional[Path], arg(metavar="GRAPHS")]
    """JSON: a list of {"x": rows of features, "edges": pairs of nodes, "y": label}; with "index" that node is explained
    (y then holds the labels of all nodes)"""
    masks: Annotated[Positional[Path], arg(metavar="MASKS")]
    """JSON: a list of lists, a number for each of a graph's edges"""
    kind: str = "GCN"
    """GCN, GIN, or MODULE:CLASS of your own with from_pretrained"""
    alpha1: float = 0.1
    """share of the explanation that Fid+ deletes"""
    alpha2: float = 0.9
    """share of the other edges that Fid- keeps"""
    samples: int = 50
    target: Literal["true", "pred"] = "true"
    """the label whose score counts"""
    mode: Literal["delete", "weight"] = "delete"
    """whether edges are taken out or get weight 0"""
    threshold: float | None = None
    """of masks that hold weights: what belongs to the explanation"""
    top_k: int | None = None
    """of masks that hold weights: so many edges"""
    symmetrise: Literal["mean", "max"] | None = None
    """of masks whose directions differ: which number an edge gets"""
    output: Literal["logits", "log_probs", "probs"] = "logits"
    """what the model returns"""

    def run(self) -> Any:
        from robust_fidelity_impl.measures import fidelity, robust_fidelity

        graphs, masks = _graphs(self.graphs), _json(self.masks)
        if not isinstance(masks, list) or len(masks) != len(graphs):
            raise UserError(f"{self.masks} must hold a list of {len(graphs)} masks, one for each graph")
        model = _model(self.kind, self.model)
        rows = []
        options: dict[str, Any] = {
            "target": self.target, "mode": self.mode, "threshold": self.threshold, "top_k": self.top_k,
            "symmetrise": self.symmetrise, "output": self.output,
        }  # fmt: skip
        for number, (graph, mask) in enumerate(zip(graphs, masks, strict=True)):
            with bad_input(f"graph {number}"):
                values = _mask(mask, graph)
                index = graph.get("index")
                options |= {"task": "graph" if index is None else "node", "index": index}
                robust = robust_fidelity(
                    model, graph, values, alpha1=self.alpha1, alpha2=self.alpha2, n_samples=self.samples,
                    seed=self.seed, **options,
                )  # fmt: skip
                original = fidelity(model, graph, values, **options)
            rows.append({"robust": robust, "original": original})
        means = {
            kind: {
                name: sum(getattr(row[kind], name) for row in rows) / len(rows) for name in ("plus", "minus", "delta")
            }
            for kind in ("robust", "original")
        }
        if not self.json:
            self._print(rows, means)
        return {"graphs": rows, "means": means}

    def _print(self, rows: Sequence[Mapping[str, Any]], means: Mapping[str, Mapping[str, float]]) -> None:
        from rich.table import Table

        table = Table("graph", "edges", "Fid+", "Fid-", "delta", "original Fid+", "Fid-", "delta")
        for number, row in enumerate(rows):
            robust, original = row["robust"], row["original"]
            table.add_row(
                str(number), f"{robust.size} of {robust.edges}", f"{robust.plus:.4f} ± {robust.plus_se:.4f}",
                f"{robust.minus:.4f} ± {robust.minus_se:.4f}", f"{robust.delta:.4f} ± {robust.delta_se:.4f}",
                f"{original.plus:.4f}", f"{original.minus:.4f}", f"{original.delta:.4f}",
            )  # fmt: skip
        table.add_row("mean", "", *[f"{value:.4f}" for kind in means.values() for value in kind.values()])
        console = self.console()
        console.print(table)
        if len({row["robust"].size for row in rows}) > 1:
            console.print("Sizes differ: delta tends to grow with size, whatever is in it; compare equal sizes only.")


def _json(path: Path) -> Any:
    try:
        return json.loads(sys.stdin.read() if str(path) == "-" else path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not JSON: {error}") from error
    except IsADirectoryError as error:
        raise UserError(f"{path} is a folder, not a file") from error


def _graphs(path: Path) -> list[Any]:
    import torch
    from torch_geometric.data import Data

    entries = _json(path)
    if not isinstance(entries, list) or not entries:
        raise UserError(f"{path} must hold a list of graphs, at least one")
    graphs = []
    for number, entry in enumerate(entries):
        try:
            pairs = torch.tensor(entry["edges"], dtype=torch.int64).reshape(len(entry["edges"]), -1)
            if len(pairs) and pairs.shape[1] != 2:
                raise ValueError(f"edges must be pairs, [[0, 1], [1, 0], ...], got rows of {pairs.shape[1]}")
            edges = pairs.reshape(-1, 2).T
            x = torch.tensor(entry["x"], dtype=torch.float32)
            label, index = entry.get("y"), entry.get("index")
            y = None if label is None else torch.tensor([int(label)] if index is None else label)
            more = {} if index is None else {"index": int(index)}
        except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
            raise UserError(
                f"{path}, graph {number}: expected x (rows), edges (pairs) and y, got {type(error).__name__}: {error}"
            ) from error
        if x.ndim != 2:
            raise UserError(f"{path}, graph {number}: x must be rows of numbers")
        graphs.append(Data(x=x, edge_index=edges, y=y, **more))
    return graphs


def _mask(mask: Any, graph: Any) -> Any:
    import torch

    try:
        return torch.tensor(mask, dtype=torch.float64).reshape(-1)
    except (TypeError, ValueError) as error:
        raise UserError(f"a mask must be a list of {graph.edge_index.shape[1]} numbers: {error}") from error


def _model(kind: str, path: Path) -> Any:
    import importlib

    from robust_fidelity_impl import models

    module, colon, name = kind.partition(":")
    if colon:
        sys.path.insert(0, "")
        try:
            found: Any = getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError) as error:
            raise UserError(f"--kind {kind}: {error}") from error
    elif kind in ("GCN", "GIN"):
        found = getattr(models, kind)
    else:
        raise UserError(f"--kind must be GCN, GIN or MODULE:CLASS, got {kind!r}")
    folder = path.parent if path.name == "model.safetensors" else path
    if not folder.is_dir():
        raise UserError(f"{path} is no folder of a saved model")
    with bad_input():
        return found.from_pretrained(folder)


COMMANDS: Mapping[str, type] = {"demo": Demo, "score": Score}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    return run("robust_fidelity_impl", COMMANDS, argv, experiments=EXPERIMENTS, benchmarks=BENCHMARKS)
