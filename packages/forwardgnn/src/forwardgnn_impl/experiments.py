"""The paper's tables, declared: node classes by depth and method, links, and the memory of training."""

import os
import warnings
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from torch_geometric.data import Data

from shared_impl.experiments import Context, Experiment, Metric, Plot, Run, Table, grid

from .data import load_graph
from .graphs import node_splits
from .links import ForwardLinkPredictor, split_links
from .local import saved_bytes
from .model import ForwardGNN

__all__ = ["EXPERIMENTS", "METHODS", "trained_memory"]

METHODS: Mapping[str, str] = {
    "SF": "sf", "SF-Top-To-Input": "sf-top2input", "SF-Top-To-Loss": "sf-top2loss", "FF-LA": "ff-la", "FF-VN": "ff-vn",
    "BP": "bp", "DFA": "dfa", "CaFo": "cafo", "PEPITA": "pepita", "MLP": "mlp",
}  # fmt: skip
FOLDER = "FORWARDGNN_DATA_DIR"
"""environment variable: where the files of the paper's own sets are"""


@lru_cache(maxsize=4)
def graph(name: str) -> Data:
    """A data set by its name."""
    place = os.environ.get(FOLDER)
    return load_graph(name, Path(place) if place else None)


def nodes(run: Run, context: Context) -> dict[str, float]:
    """Accuracy on the test nodes of split `seed`; the best weights of each layer by validation."""
    options = dict(run.options)
    more = options.pop("together", 1)
    if run.model in TOGETHER and "epochs" in options:
        options["epochs"] *= more
    data = graph(run.data).clone().to(context.device)
    data.update(node_splits(data.num_nodes)[run.seed % 5])
    model = ForwardGNN(METHODS[run.model], random_state=100 * 101 + 3 * run.seed, **options).fit(data)
    accuracy = model.score(data)
    return {"accuracy": accuracy, "epochs": float(sum(model.history_.epochs)), "passes": float(model.history_.passes)}


def links(run: Run, context: Context) -> dict[str, float]:
    """Area under the ROC curve on test pairs."""
    train, val, test = split_links(graph(run.data), seed=101 * run.seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # the table says how good it is
        model = ForwardLinkPredictor(random_state=run.seed, **LINKS[run.model], **run.options).fit(
            train.to(context.device), val.to(context.device)
        )
    return {"auc": model.score(test.to(context.device)), "epochs": float(sum(model.history_.epochs))}


def trained_memory(method: str, data: Data, **settings: Any) -> int:
    """The most bytes that autograd keeps in three epochs of training, weights, features and graph not counted."""
    model = ForwardGNN(method, epochs=3, **settings)
    return saved_bytes(lambda: model.fit(data), ignore=[data.x, data.edge_index])


def memory(run: Run, context: Context) -> dict[str, float]:
    """MiB that autograd keeps."""
    data = graph(run.data).clone()
    data.train_mask = node_splits(data.num_nodes)[0]["train_mask"]
    return {"mib": trained_memory(METHODS[run.model], data, **run.options) / 2**20}


PAPER = ["cora_ml", "citeseer_full", "pubmed_full", "photo", "github"]
CONVS = ("gcn", "sage", "gat")
TOGETHER = ("SF-Top-To-Input", "SF-Top-To-Loss", "BP", "DFA", "PEPITA", "MLP")
"""methods whose layers train in the same epochs: those are in total, not for each layer"""
SHORT = {"epochs": 200, "val_every": 5, "patience": 20, "together": 3}
LONGER = {"epochs": 300, "val_every": 5, "patience": 40, "together": 3}
TABLE_3E = {"BP": (31.72, 86.84, 88.65, 86.61), "SF": (87.75, 87.95, 88.15, 88.48)}
LINKS: Mapping[str, Mapping[str, Any]] = {
    "CE": {"loss": "ce"}, "CE, top-down": {"loss": "ce", "topdown": True}, "FF": {"loss": "ff"}, "BP": {"loss": "bp"},
}  # fmt: skip


def _row(run: Run) -> str:
    """Rows named after the data, a convolution that is not GCN, and the depth."""
    conv = run.options.get("conv", "gcn")
    return f"{run.data}, {run.options['layers']} layers" + ("" if conv == "gcn" else f" of {conv}")


def _depths(data: list[str], models: list[str], depths: tuple[int, ...], seeds: int, **options: Any) -> list[Run]:
    many = [grid(data=data, model=models, seeds=seeds, options={"layers": depth, **options}) for depth in depths]
    return [run for runs in many for run in runs]


def _depth(run: Run) -> float:
    return float(run.options["layers"])


EXPERIMENTS: Mapping[str, Experiment] = {
    "depth": Experiment(
        name="depth",
        title="Node classes by the number of layers",
        runs={
            "cpu": _depths(["cora", "citeseer"], ["SF", "BP"], (1, 2, 3, 4), 5, **LONGER),
            "paper": [r for c in CONVS for r in _depths(PAPER, list(METHODS)[:6], (1, 2, 3, 4), 5, conv=c)],
            "smoke": _depths(["sbm"], ["SF", "BP"], (1, 2), 1, epochs=4, hidden=8),
        },
        execute=nodes,
        table=Table(
            Metric("accuracy", "accuracy %", scale=100), row=_row,
            paper={(f"cora_ml, {i + 1} layers", name): value for name, row in TABLE_3E.items()
                   for i, value in enumerate(row)},
        ),
        plots=(Plot("curves", x=_depth, xlabel="layers", only=lambda run: run.data in ("cora", "cora_ml", "sbm")),),
        notes=("the paper's splits (64, 16, 20 %); 300 epochs a layer of SF and 900 of BP, patience of 200 epochs",),
    ),
    "methods": Experiment(
        name="methods",
        title="All ways of training, two layers",
        runs={
            "cpu": [r for x, n in (("cora", 3), ("sbm", 5)) for r in _depths([x], list(METHODS), (2,), n, **SHORT)],
            "paper": _depths(["cora_ml"], list(METHODS), (2,), 5),
            "smoke": _depths(["sbm"], list(METHODS), (2,), 1, epochs=2, hidden=8),
        },
        execute=nodes,
        table=Table(Metric("accuracy", "accuracy %", scale=100)),
        plots=(Plot(metric="accuracy"),),
    ),
    "convs": Experiment(
        name="convs",
        title="GCN, GraphSAGE and GAT",
        runs={
            "cpu": [
                run
                for data, conv in (("cora", "gcn"), ("cora", "sage"), ("sbm", "gat"))
                for run in _depths([data], ["SF", "FF-LA", "BP"], (2,), 3, conv=conv, **SHORT)
            ],
            "paper": [r for c in CONVS for r in _depths(["cora_ml"], list(METHODS)[:6], (2,), 5, conv=c)],
            "smoke": _depths(["sbm"], ["SF"], (1,), 1, conv="gat", epochs=2, hidden=8),
        },
        execute=nodes,
        table=Table(Metric("accuracy", "accuracy %", scale=100), row=lambda run: f"{run.data}, {run.options['conv']}"),
        plots=(Plot(),),
    ),
    "links": Experiment(
        name="links",
        title="Links: each layer by itself, and the whole network",
        runs={
            "cpu": _depths(["cora", "citeseer"], list(LINKS), (2,), 3, epochs=400, val_every=5, patience=20),
            "paper": _depths(PAPER, list(LINKS), (2,), 5),
            "smoke": _depths(["sbm"], list(LINKS), (2,), 1, epochs=2, hidden=8),
        },
        execute=links,
        table=Table(Metric("auc", "ROC AUC %", scale=100)),
        plots=(Plot(metric="auc"),),
    ),
    "memory": Experiment(
        name="memory",
        title="What autograd keeps, by depth",
        runs={
            "cpu": _depths(["cora"], ["SF", "FF-LA", "BP"], (1, 2, 4, 8, 16), 1),
            "paper": _depths(["cora_ml"], ["SF", "FF-LA", "BP"], (1, 2, 3, 4), 1),
            "smoke": _depths(["sbm"], ["SF", "BP"], (1, 2), 1, hidden=8),
        },
        execute=memory,
        table=Table(Metric("mib", "MiB", higher_is_better=False), row=_row),
        plots=(Plot("curves", x=_depth, xlabel="layers", logx=True, logy=True),),
    ),
}  # fmt: skip
