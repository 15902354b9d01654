"""The paper's tables, declared: links, the synthetic grid, nodes, and scores beside what they promise."""

import os
import warnings
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy import ndarray
from sklearn.metrics import roc_auc_score
from torch_geometric.data import Data

from netinfof_impl.act import NetInfoFAct, common_neighbours
from netinfof_impl.baselines import (
    dot_product_scores,
    feature_regression,
    slimg,
    train_network_links,
    train_network_nodes,
)
from netinfof_impl.compatibility import CompatibilityMatrix
from netinfof_impl.data import load_graph
from netinfof_impl.embeddings import COMPONENTS, ComponentEmbeddings
from netinfof_impl.graphs import EdgeSplit, as_graph, hits_at_k, split_edges, stream
from netinfof_impl.probe import NetInfoFProbe
from netinfof_impl.synthetic import synthetic_graph
from shared_impl.experiments import Context, Experiment, Finished, Metric, Plot, Run, Table, grid

__all__ = ["EXPERIMENTS", "graph_by_name"]

NETWORKS = ("GCN", "SAGE", "GAT")
PAPER = {
    "cora": {"GCN": 67.1, "GAT": 66.7, "SlimG": 77.9, "NetInfoF": 81.3},
    "citeseer": {"GCN": 60.4, "GAT": 65.2, "SlimG": 86.8, "NetInfoF": 87.3},
    "pubmed": {"GCN": 47.6, "GAT": 55.1, "SlimG": 55.9, "NetInfoF": 59.7},
    "computers": {"GCN": 22.5, "GAT": 28.3, "SlimG": 25.3, "NetInfoF": 31.1},
    "photo": {"GCN": 39.1, "GAT": 44.2, "SlimG": 40.2, "NetInfoF": 46.8},
    "chameleon": {"GCN": 82.1, "GAT": 84.8, "SlimG": 76.9, "NetInfoF": 86.9},
    "squirrel": {"GCN": 16.5, "GAT": 15.6, "SlimG": 19.6, "NetInfoF": 24.2},
    "actor": {"GCN": 31.1, "GAT": 32.3, "SlimG": 18.7, "NetInfoF": 36.2},
}
SYNTHETIC = [f"{x}-{e}" for e in ("diag", "offdiag") for x in ("random", "global", "local")] + ["random-uniform"]


@lru_cache(maxsize=4)
def graph_by_name(name: str, nodes: int, seed: int) -> Data:
    """A data set, or FEATURES-EDGES of the generator with so many nodes and a fifth as many features.

    Files that are read from a folder are looked for in NETINFOF_DATA_DIR.
    """
    features, dash, edges = name.partition("-")
    if dash and edges in ("diag", "offdiag", "uniform"):
        kinds: Any = {"features": features, "edges": edges}
        return synthetic_graph(**kinds, n_nodes=nodes, n_features=nodes // 5, seed=seed)
    place = os.environ.get("NETINFOF_DATA_DIR")
    return load_graph(name, Path(place) if place else None)


@lru_cache(maxsize=2)
def _split(name: str, nodes: int, walks: int, seed: int) -> tuple[EdgeSplit, dict[str, ndarray]]:
    split = split_edges(graph_by_name(name, nodes, seed), seed=seed, normalise="-" not in name)
    return split, ComponentEmbeddings(walks=walks, seed=seed).fit_transform(split.train)


def links(run: Run, context: Context) -> dict[str, float]:
    """Hits@K and AUC on held-back links."""
    options = run.options
    split, embeddings = _split(run.data, options["nodes"], options["walks"], run.seed)
    pairs, labels = split.test_pairs, split.test_labels
    k = min(options["k"], int((labels == 0).sum()))
    if run.model in NETWORKS:
        scores = train_network_links(split, run.model, k=k, epochs=options["epochs"], seed=run.seed)(pairs)  # type: ignore[arg-type]
    elif run.model in ("features . features", "P . P"):
        scores = dot_product_scores(embeddings[run.model[0].upper()], pairs)
    elif run.model == "P . H P":
        matrix = CompatibilityMatrix(seed=run.seed).fit(embeddings["P"], split.train)
        scores = matrix.similarity(embeddings["P"], pairs)
    elif run.model == "common neighbours":
        scores = common_neighbours(split.train, pairs)
    else:
        model = slimg("link", k=k, seed=run.seed) if run.model == "SlimG" else NetInfoFAct(k=k, random_state=run.seed)
        model.set_params(max_epochs=options["epochs"])
        chosen = model._embed(split.train) if run.model == "SlimG" else embeddings
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # the table says how good it is
            model.fit_links(split.train, chosen, split.valid_pairs, split.valid_labels)
        scores = model.decision_function(pairs)
    return {"hits": hits_at_k(scores, labels, k), "auc": float(roc_auc_score(labels, scores))}


def scores(run: Run, context: Context) -> dict[str, float]:
    """The score of one component, whether it is beyond chance, and Hits@K of a model of that component alone."""
    options = run.options
    split, embeddings = _split(run.data, options["nodes"], options["walks"], run.seed)
    chosen = {run.model: embeddings[run.model]}
    probe = NetInfoFProbe(seed=run.seed).fit_links(split.train, chosen, split.test_pairs, split.test_labels)
    report = probe.reports_[run.model]
    k = min(options["k"], int((split.test_labels == 0).sum()))
    similarity = probe.compatibility_[run.model].similarity(chosen[run.model], split.test_pairs)
    return {
        "score": report.score,
        "accuracy": report.accuracy,
        "p": report.test.p_value,
        "hits": hits_at_k(similarity, split.test_labels, k),
    }


def nodes(run: Run, context: Context) -> dict[str, float]:
    """Accuracy on test nodes; splits of the data set where it has some, else 2.5 % to learn, 2.5 % to choose."""
    data = graph_by_name(run.data, run.options["nodes"], run.seed)
    graph = as_graph(data, normalise="-" not in run.data)
    assert graph.labels is not None
    order = stream(run.seed, "nodes").permutation(graph.n)
    few = max(12, graph.n // 40)
    train, valid, test = np.split(order, [few, 2 * few])
    if "train_mask" in data:
        train, valid, test = (np.flatnonzero(data[f"{part}_mask"].numpy()) for part in ("train", "val", "test"))
    if run.model in NETWORKS:
        epochs = run.options["epochs"]
        guess = train_network_nodes(graph, train, valid, run.model, epochs=epochs, seed=run.seed)  # type: ignore[arg-type]
    elif run.model == "features":
        guess = feature_regression(graph, train, seed=run.seed)
    elif run.model == "majority":
        guess = np.full(graph.n, np.bincount(graph.labels[train]).argmax())
    else:
        model = slimg("node", seed=run.seed) if run.model == "SlimG" else NetInfoFAct("node", random_state=run.seed)
        model.set_params(max_epochs=run.options["epochs"])
        known = np.full(graph.n, -1)
        known[train], known[valid] = graph.labels[train], graph.labels[valid]
        masks = Data(train_mask=np.isin(np.arange(graph.n), train), val_mask=np.isin(np.arange(graph.n), valid))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # the table says how good it is
            guess = model._fit_nodes(graph, masks, known).predict(np.arange(graph.n))
    return {"accuracy": float((guess[test] == graph.labels[test]).mean())}


LINK_MODELS = ("NetInfoF", "SlimG", *NETWORKS, "features . features", "common neighbours")
GRID_MODELS = ("NetInfoF", "SlimG", "GCN", "P . P", "P . H P")


def _options(k: int = 100, nodes_: int = 800, walks: int = 200, epochs: int = 100) -> Mapping[str, Any]:
    return {"k": k, "nodes": nodes_, "walks": walks, "epochs": epochs}


def _correlation(finished: "list[Finished] | tuple[Finished, ...]") -> list[str]:
    from scipy.stats import spearmanr

    pairs = [(one.metrics["score"], one.metrics["hits"]) for one in finished]
    below = sum(one.metrics["score"] <= one.metrics["accuracy"] + 1e-12 for one in finished)
    notes = [f"The score is at most the accuracy of its table in {below} of {len(finished)} runs."]
    if len(pairs) > 2:
        correlation = spearmanr(*zip(*pairs, strict=True)).statistic
        notes.append(f"Spearman's correlation of score and Hits@K: {correlation:.2f}.")
    return notes


HITS = Metric("hits", "Hits@100 %", scale=100)
SMOKE = _options(k=10, nodes_=160, walks=20, epochs=2)

EXPERIMENTS: dict[str, Experiment] = {
    "links": Experiment(
        name="links",
        title="Held-back links, Hits@100",
        runs={
            "cpu": grid(data=["cora", "citeseer"], model=LINK_MODELS, seeds=3, options=_options()),
            "paper": grid(data=list(PAPER), model=LINK_MODELS, seeds=5, options=_options(epochs=1000)),
            "smoke": grid(data=["local-offdiag"], model=LINK_MODELS, options=SMOKE),
        },
        execute=links,
        table=Table(HITS, paper={(data, model): v for data, row in PAPER.items() for model, v in row.items()}),
        plots=(Plot(metric="hits"),),
        notes=["Networks: at most 100 epochs, chosen on validation as all others; the paper's are its authors' own."],
    ),
    "synthetic": Experiment(
        name="synthetic",
        title="Links of synthetic graphs, features-edges",
        runs={
            "cpu": grid(data=SYNTHETIC, model=GRID_MODELS, seeds=3, options=_options()),
            "paper": grid(data=SYNTHETIC, model=GRID_MODELS, seeds=5, options=_options(nodes_=4000, walks=1000)),
            "smoke": grid(data=["local-offdiag"], model=GRID_MODELS, options=SMOKE),
        },
        execute=links,
        table=Table(HITS),
        plots=(Plot(metric="hits"),),
    ),
    "scores": Experiment(
        name="scores",
        title="NetInfoF scores of links, by component",
        runs={
            "cpu": grid(data=[*SYNTHETIC, "cora", "citeseer"], model=list(COMPONENTS), seeds=3, options=_options()),
            "paper": grid(
                data=[*SYNTHETIC, *PAPER], model=list(COMPONENTS), seeds=5, options=_options(nodes_=4000, walks=1000)
            ),
            "smoke": grid(data=["global-diag"], model=list(COMPONENTS), options=SMOKE),
        },
        execute=scores,
        table=Table(Metric("score", "score")),
        plots=(Plot(metric="score"),),
        notes=_correlation,  # type: ignore[arg-type]
    ),
    "nodes": Experiment(
        name="nodes",
        title="Labels of nodes, accuracy",
        runs={
            "cpu": grid(
                data=["cora", "citeseer", "global-diag", "local-offdiag", "random-diag"],
                model=("NetInfoF", "SlimG", "GCN", "features", "majority"),
                seeds=3,
                options=_options(),
            ),
            "paper": grid(
                data=list(PAPER),
                model=("NetInfoF", "SlimG", *NETWORKS, "features", "majority"),
                seeds=5,
                options=_options(epochs=1000),
            ),
            "smoke": grid(data=["global-diag"], model=("NetInfoF", "GCN", "features", "majority"), options=SMOKE),
        },
        execute=nodes,
        table=Table(Metric("accuracy", "accuracy %", scale=100)),
        plots=(Plot(metric="accuracy"),),
    ),
}
