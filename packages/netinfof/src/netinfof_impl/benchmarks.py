"""What is timed: operator against matrix, walks against a loop, growth, probing against training, the authors' code."""

import os
import warnings
from collections.abc import Callable, Generator, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy import ndarray
from scipy.sparse.linalg import lsqr as lsqr_of_scipy
from sklearn.metrics import roc_auc_score
from torch_geometric.data import Data

from netinfof_impl.act import NetInfoFAct, common_neighbours
from netinfof_impl.baselines import train_network_links
from netinfof_impl.compatibility import (
    CompatibilityMatrix,
    design_matrix,
    kept_coefficients,
    ridge_compatibility,
    training_pairs,
)
from netinfof_impl.embeddings import ComponentEmbeddings, walk_counts, walk_counts_loop
from netinfof_impl.graphs import AttributedGraph, as_graph, split_edges
from netinfof_impl.probe import NetInfoFProbe
from netinfof_impl.score import conditional_entropy
from netinfof_impl.synthetic import synthetic_graph
from shared_impl.bench import Benchmark, Case, Setting, Timing, checkout_revision, fitted_slope, module_from_file
from shared_impl.cli import UserError
from shared_impl.results import Row

__all__ = ["BENCHMARKS"]

Features, Edges = Literal["random", "global", "local"], Literal["diag", "offdiag", "uniform"]
KINDS: tuple[tuple[Features, Edges], ...] = (("global", "diag"), ("local", "offdiag"), ("random", "diag"))


def _random_graph(n: int, m: int, features: int, seed: int) -> AttributedGraph:
    rng = np.random.default_rng(seed)
    graph = as_graph(Data(edge_index=torch.from_numpy(rng.integers(0, n, (2, m))), num_nodes=n))
    x = rng.standard_normal((n, features)).astype(np.float32)
    return AttributedGraph(graph.n, graph.edges, x)


def _embedding(n: int, d: int, seed: int) -> ndarray:
    z = np.random.default_rng(seed).standard_normal((n, d)).astype(np.float32)
    made: ndarray = z / np.linalg.norm(z, axis=1, keepdims=True)
    return made


def lsqr(setting: Setting) -> Iterator[Case | Row | str]:
    """The compatibility matrix by the operator, against the matrix of pairs formed and handed to the same solver."""
    for m, d in [(1_000, 16)] if setting.quick else [(5_000, 32), (20_000, 64), (50_000, 64)]:
        graph, z = _random_graph(m // 4, m, 4, setting.seed), _embedding(m // 4, d, setting.seed)
        forms: dict[str, Callable[[], object]] = {
            "matrix of pairs": partial(_dense_lsqr, z, graph, setting.seed),
            "operator": partial(CompatibilityMatrix(seed=setting.seed).fit, z, graph),
        }
        yield Case(f"{m} edges, d = {d}", forms, baseline="matrix of pairs", rounds=3, size=m, memory=True)
    yield "both by SciPy's lsqr to 1e-2; memory above what the inputs take"


def _dense_lsqr(z: ndarray, graph: AttributedGraph, seed: int) -> object:
    h0 = ridge_compatibility(z, graph.edges).T
    kept = kept_coefficients(h0, 0.05)
    pairs, wanted = training_pairs(graph, seed=seed)
    start = h0[np.nonzero(kept)].astype(np.float64)
    return lsqr_of_scipy(design_matrix(z, pairs, kept), wanted, damp=1, atol=1e-2, btol=1e-2, x0=start)


def walks(setting: Setting) -> Iterator[Case | Row | str]:
    """Counts of walks, all at once, against a walk at a time."""
    for n in (50,) if setting.quick else (100, 300, 1000):
        graph = _random_graph(n, 4 * n, 4, setting.seed)
        forms: dict[str, Callable[[], object]] = {
            "one at a time": partial(walk_counts_loop, graph, walks=20),
            "all at once": partial(walk_counts, graph, walks=20),
        }
        yield Case(f"{n} nodes, 20 walks each", forms, baseline="one at a time", rounds=3, size=n)


def growth(setting: Setting) -> Generator[Case | Row | str, Mapping[str, Timing] | None, None]:
    """Embeddings and scores over the number of edges; the slope in logarithms, 1 if linear."""
    sizes = (2_000, 4_000) if setting.quick else (30_000, 100_000, 300_000, 1_000_000)
    seconds = []
    for m in sizes:
        graph = _random_graph(m // 5, m, 64, setting.seed)

        def whole(graph: AttributedGraph = graph) -> object:
            embeddings = ComponentEmbeddings(32, walks=20, solver="randomized", seed=setting.seed)
            return NetInfoFProbe(embeddings=embeddings, permutations=99, seed=setting.seed).fit(graph)

        found = yield Case(f"{m} edges", {"probe": whole}, baseline="probe", rounds=1, size=m)
        if found:
            seconds.append(found["probe"].median_s)
    if len(seconds) == len(sizes):
        slope = fitted_slope(sizes, seconds)
        yield Row("growth", "probe", "slope", slope, higher_is_better=False, note="of log time over log edges")


def probe(setting: Setting) -> Iterator[Case | Row | str]:
    """The probe, with its embeddings, against training one GCN."""
    n = 160 if setting.quick else 800
    for features, edges in KINDS[:2]:
        graph = synthetic_graph(features, edges, n_nodes=n, n_features=n // 5, seed=setting.seed)
        split = split_edges(graph, seed=setting.seed)
        epochs = 5 if setting.quick else 200
        forms: dict[str, Callable[[], object]] = {
            "train a GCN": partial(train_network_links, split, k=50, epochs=epochs, patience=epochs, seed=setting.seed),
            "probe": partial(NetInfoFProbe(seed=setting.seed).fit, split.train, split.valid_pairs, split.valid_labels),
        }
        yield Case(f"{features}-{edges}, {n} nodes", forms, baseline="train a GCN", rounds=3)
    yield f"the GCN: {epochs} steps on full batches"


def official(setting: Setting) -> Iterator[Case | Row | str]:
    """H and scores beside the authors' code, with equal embeddings, pairs and seeds."""
    place = Path(os.environ.get("NETINFOF_OFFICIAL_DIR", "") or "missing")
    if not (place / "src" / "models" / "cm.py").is_file():
        raise UserError(
            "bench official needs NETINFOF_OFFICIAL_DIR: a checkout of amazon-science/Network-Usable-Info-Framework"
        )
    theirs = module_from_file(place / "src" / "models" / "cm.py", "official_cm")
    nui = module_from_file(place / "src" / "models" / "nui.py", "official_nui")
    for m, d in [(500, 8)] if setting.quick else [(2_000, 16), (5_000, 32)]:
        graph, z = _random_graph(m // 4, m, 4, setting.seed), _embedding(m // 4, d, setting.seed)
        tensor, index = torch.from_numpy(z), torch.from_numpy(graph.both_ways.copy())
        pairs, wanted = _their_pairs(graph, setting.seed)

        def official_h(tensor: torch.Tensor = tensor, index: torch.Tensor = index) -> ndarray:
            np.random.seed(setting.seed)  # noqa: NPY002  (what their code draws from)
            made: ndarray = theirs.compatibility(tensor, index).numpy()
            return made

        def ours(
            z: ndarray = z, pairs: ndarray = pairs, wanted: ndarray = wanted, g: AttributedGraph = graph
        ) -> ndarray:
            return CompatibilityMatrix().fit_pairs(z, pairs, wanted, edges=g.edges).transform(z)

        theirs_zh, ours_zh = official_h(), ours()
        gap = float(np.abs(theirs_zh - ours_zh).max() / np.abs(theirs_zh).max())
        label = f"{m} edges, d = {d}"
        yield Row(label, "ours", "largest difference of z H over its largest value", gap, higher_is_better=False)
        yield Case(label, {"official": official_h, "ours": ours}, baseline="official", rounds=3)
        table = np.random.default_rng(setting.seed).integers(0, 50, (8, 2))
        gap = abs(float(nui.conditional_entropy(table)) - conditional_entropy(table))
        yield Row(label, "ours", "difference of conditional entropy", gap, higher_is_better=False)
    yield f"amazon-science/Network-Usable-Info-Framework at {checkout_revision(place)}: models/cm.py, models/nui.py"


def _their_pairs(graph: AttributedGraph, seed: int) -> tuple[ndarray, ndarray]:
    """The pairs that the authors' code draws from NumPy's global generator."""
    degree = np.bincount(graph.edges.reshape(-1), minlength=graph.n)
    # their edges come in the order of both directions; those whose first end is smaller are ours, in ours
    edges = graph.edges[:, (degree[graph.edges] >= 2).all(0)]
    state = np.random.RandomState(seed)
    count = 2 * edges.shape[1]
    drawn = np.stack([state.randint(0, graph.n, count), state.randint(0, graph.n, count)])
    wanted = np.repeat([1.0, 0.0], [edges.shape[1], count])
    return np.concatenate([edges, drawn.astype(np.int64)], axis=1), wanted


def defaults(setting: Setting) -> Iterator[Case | Row | str]:
    """The estimator as it comes, beside common neighbours and a GCN: AUC of held-back links."""
    import networkx

    graphs: dict[str, Data] = {}
    named = {"karate club (34 nodes)": "karate_club_graph", "les miserables (77)": "les_miserables_graph"}
    for name, maker in named.items():
        made = networkx.convert_node_labels_to_integers(getattr(networkx, maker)())
        index = torch.tensor(list(made.edges)).T
        graphs[name] = Data(edge_index=index, num_nodes=len(made), x=torch.eye(len(made)))
    for features, edges in () if setting.quick else KINDS:
        data = synthetic_graph(features, edges, n_nodes=400, n_features=80, seed=setting.seed)
        graphs[f"{features}-{edges} (400)"] = data
    for name, data in graphs.items():
        split = split_edges(data, seed=setting.seed)
        pairs, labels = split.test_pairs, split.test_labels
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            act = NetInfoFAct(max_epochs=2 if setting.quick else 100, random_state=setting.seed).fit(
                split.train, valid=(split.valid_pairs, split.valid_labels)
            )
        network = train_network_links(split, epochs=5 if setting.quick else 100, seed=setting.seed)
        found = {
            "NetInfoF_Act": act.decision_function(pairs),
            "GCN": network(pairs),
            "common neighbours": common_neighbours(split.train, pairs),
        }
        for model, scores in found.items():
            note = "warned" if model == "NetInfoF_Act" and any("not better" in str(w.message) for w in said) else ""
            yield Row(name, model, "AUC", float(roc_auc_score(labels, scores)), note=note)


BENCHMARKS: Mapping[str, Benchmark] = {
    "lsqr": Benchmark("The compatibility matrix without the matrix of pairs", lsqr, xlabel="edges"),
    "walks": Benchmark("Counts of walks", walks, xlabel="nodes"),
    "growth": Benchmark("Time over edges", growth, xlabel="edges"),
    "probe": Benchmark("Measuring against training", probe),
    "official": Benchmark("Beside the authors' code", official),
    "defaults": Benchmark("The estimator as it comes, AUC of held-back links", defaults),
}
