"""NetInfoF_Probe: how much each component tells about links or labels, measured without training (section 4)."""

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray
from sklearn.cluster import MiniBatchKMeans

from netinfof_impl.compatibility import CompatibilityMatrix
from netinfof_impl.embeddings import COMPONENTS, ComponentEmbeddings
from netinfof_impl.graphs import AttributedGraph, as_graph, random_pairs, split_edges
from netinfof_impl.score import (
    PermutationTest,
    accuracy_of_table,
    contingency_table,
    permutation_test,
)

__all__ = ["ComponentReport", "NetInfoFProbe", "quantile_edges"]


@dataclass(frozen=True)
class ComponentReport:
    """What one component tells."""

    score: float
    """the NetInfoF score"""
    accuracy: float
    """of the best guess from the same table; never below the score"""
    test: PermutationTest
    table: Int[ndarray, "cells classes"] = field(repr=False)


def quantile_edges(values: Float[ndarray, " n"], bins: int) -> Float[ndarray, " edges"]:
    """Inner edges of `bins` intervals with equally many values; intervals that ties leave empty are merged."""
    if bins < 2:
        raise ValueError(f"bins must be at least 2, got {bins}")
    inner = np.unique(np.quantile(values, np.linspace(0, 1, bins + 1)[1:-1]))
    edges: ndarray = inner[inner > values.min()]
    return edges


class NetInfoFProbe:
    """Scores in (0, 1] of the five components, before anything is trained (section 4).

    Links: the adjusted similarity of training edges and twice as many random pairs is cut into 8 quantile bins; how
    often pairs held back, edges and others in equal numbers, fall into each bin is the table of the score, which is 1/2
    without information. Nodes: k-means cells of an embedding against the labels; the score is at least the 2^{-H(Y)} of
    the labels.

    Args:
        task: "link" or "node".
        embeddings: how components are made; default: `ComponentEmbeddings(seed=seed)`.
        compatibility: how similarity is adjusted; default: `CompatibilityMatrix(seed=seed)`; None: plain products.
        bins: quantile bins of similarities.
        cells: numbers of k-means cells, of which the one is taken that tells held-back labels best.
        permutations: of the test that says whether a score is beyond chance.
        normalise: features minus the smallest of all, rows summing to one, as the paper prepares them.
        seed: of everything that is drawn.

    Attributes:
        scores_: component to score.
        reports_: component to `ComponentReport`, with the permutation test.
        base_: the score without information.
        cells_: component to number of cells (nodes).
    """

    def __init__(
        self,
        task: Literal["link", "node"] = "link",
        *,
        embeddings: ComponentEmbeddings | None = None,
        compatibility: CompatibilityMatrix | Literal["default"] | None = "default",
        bins: int = 8,
        cells: tuple[int, ...] = (2, 4, 8, 16, 32, 64),
        permutations: int = 999,
        normalise: bool = True,
        seed: int = 0,
    ) -> None:
        if task not in ("link", "node"):
            raise ValueError(f"task must be 'link' or 'node', got {task!r}")
        if bins < 2 or not cells or min(cells) < 1:
            raise ValueError(f"bins must be at least 2 and cells positive, got {bins} and {cells}")
        self.task, self.bins, self.cells, self.permutations = task, bins, tuple(cells), permutations
        self.normalise, self.seed = normalise, seed
        self.embeddings = embeddings or ComponentEmbeddings(seed=seed)
        self.compatibility = CompatibilityMatrix(seed=seed) if compatibility == "default" else compatibility

    def fit(
        self,
        data: Any,
        pairs: Int[ndarray, "2 p"] | None = None,
        pair_labels: Int[ndarray, " p"] | None = None,
    ) -> "NetInfoFProbe":
        """Measure a graph.

        Args:
            data: `torch_geometric.data.Data`. For nodes with integers `y`, -1 where a label is not known.
            pairs, pair_labels: links: pairs held back, and 1 for edges, 0 for others; then `data` must not hold these
                edges. Default: a quarter of the edges of `data` is held back here, with as many pairs that are none.

        Raises:
            ValueError: a graph that cannot be read; nodes without labels, or with one class.
        """
        graph = as_graph(data, normalise=self.normalise)
        if self.task == "node":
            return self._fit_nodes(graph)
        if (pairs is None) != (pair_labels is None):
            raise ValueError("pairs and pair_labels must be given together")
        if pairs is None or pair_labels is None:
            split = split_edges(graph, shares=(0.75, 0.125, 0.125), seed=self.seed)
            graph = split.train
            pairs = np.concatenate([split.valid_pairs, split.test_pairs], axis=1)
            pair_labels = np.concatenate([split.valid_labels, split.test_labels])
        self.embeddings_ = self.embeddings.fit_transform(graph)
        return self.fit_links(graph, self.embeddings_, pairs, pair_labels)

    def fit_links(
        self,
        graph: AttributedGraph,
        embeddings: dict[str, Float[ndarray, "n d"]],
        pairs: Int[ndarray, "2 p"],
        labels: Int[ndarray, " p"],
    ) -> "NetInfoFProbe":
        """The scores of embeddings that are there already; see `fit`."""
        if len(np.unique(labels)) < 2:
            raise ValueError("pair_labels must hold both edges (1) and other pairs (0)")
        m = graph.edges.shape[1]
        drawn = random_pairs(graph.n, 2 * m, np.random.default_rng(self.seed))
        known = np.concatenate([graph.edges, drawn], axis=1)
        self.reports_: dict[str, ComponentReport] = {}
        self.compatibility_: dict[str, CompatibilityMatrix] = {}
        for name, z in embeddings.items():
            similarity = self._similarity(name, z, graph)
            edges = quantile_edges(similarity(known), self.bins)
            self._report(name, np.searchsorted(edges, similarity(pairs), side="right"), labels)
        return self._done(labels)

    def _similarity(self, name: str, z: ndarray, graph: AttributedGraph) -> Any:
        if self.compatibility is None:
            return lambda pairs: np.einsum("pd,pd->p", z[pairs[0]], z[pairs[1]])
        matrix = CompatibilityMatrix(**vars_of(self.compatibility)).fit(z, graph)
        self.compatibility_[name] = matrix
        return lambda pairs: matrix.similarity(z, pairs)

    def _fit_nodes(self, graph: AttributedGraph) -> "NetInfoFProbe":
        labels = graph.labels
        if labels is None:
            raise ValueError("data must have y, labels of the nodes, for task='node'")
        known = np.flatnonzero(labels >= 0)
        if len(np.unique(labels[known])) < 2:
            raise ValueError("y must hold at least two classes")
        self.embeddings_ = self.embeddings.fit_transform(graph)
        self.reports_ = {}
        self.cells_: dict[str, int] = {}
        order = np.random.default_rng(self.seed).permutation(known)
        held_back, told = np.split(order, [max(1, len(order) // 3)])
        for name, z in self.embeddings_.items():
            found = {}
            for cells in sorted({min(c, len(known)) for c in self.cells}):
                means = MiniBatchKMeans(cells, n_init=3, random_state=self.seed, batch_size=4096)
                found[cells] = means.fit_predict(z)
            loss = {
                c: _surprise(cell[told], labels[told], cell[held_back], labels[held_back]) for c, cell in found.items()
            }
            self.cells_[name] = min(loss, key=lambda c: (loss[c], c))
            self._report(name, found[self.cells_[name]][known], labels[known])
        return self._done(labels[known])

    def _report(self, name: str, cells: ndarray, labels: ndarray) -> None:
        table = contingency_table(cells, labels)
        test = permutation_test(table, permutations=self.permutations, seed=self.seed)
        self.reports_[name] = ComponentReport(test.score, accuracy_of_table(table), test, table)

    def _done(self, labels: ndarray) -> "NetInfoFProbe":
        self.scores_ = {name: report.score for name, report in self.reports_.items()}
        shares = np.bincount(labels)[np.unique(labels)] / len(labels)
        self.base_ = float(2.0 ** (shares * np.log2(shares)).sum())
        return self

    def verdict(self) -> str:
        """What the scores say, in words."""
        informative = {n: r.score for n, r in self.reports_.items() if r.test.informative}
        if not informative:
            return (
                f"Nothing here tells about {self.task}s beyond chance ({self.base_:.2f}): neither a graph model nor "
                "one of features has anything to learn."
            )
        best = max(informative, key=lambda name: informative[name])
        words = [
            f"{COMPONENTS[best].capitalize()} ({best}) tells most: {informative[best]:.2f} of {self.base_:.2f} to 1."
        ]
        features, graph = informative.get("F"), max((s for n, s in informative.items() if n != "F"), default=None)
        if features is None and graph is not None:
            words.append("Features alone tell nothing: use a model of the graph.")
        elif features is not None and graph is None:
            words.append("The graph adds nothing: use a model of features alone.")
        elif features is not None and graph is not None:
            gain = graph - features
            words.append(
                f"The graph is worth {gain:+.2f} over features alone ({features:.2f}): "
                + ("use a model of the graph." if gain > 0.02 else "a model of features alone may do.")
            )
        silent = [name for name in self.reports_ if name not in informative]
        if silent:
            words.append(f"Not beyond chance: {', '.join(silent)}.")
        return " ".join(words)


def vars_of(estimator: CompatibilityMatrix) -> dict[str, Any]:
    """Its settings, without what it has learned."""
    return {name: value for name, value in vars(estimator).items() if not name.endswith("_")}


def _surprise(told: ndarray, told_labels: ndarray, asked: ndarray, asked_labels: ndarray) -> float:
    """Mean bits by which labels surprise who knows p(y|cell), smoothed, from others."""
    classes = int(max(told_labels.max(), asked_labels.max())) + 1
    cells = int(max(told.max(), asked.max())) + 1
    table = np.bincount(told * classes + told_labels, minlength=cells * classes).reshape(cells, classes)
    prior = (np.bincount(told_labels, minlength=classes) + 1) / (len(told_labels) + classes)
    given = (table + prior) / (table.sum(1, keepdims=True) + 1)
    return float(-np.log2(given[asked, asked_labels]).mean())
