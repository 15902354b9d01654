"""NetInfoF_Probe: how much each component tells about links or labels, measured without training (section 4)."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray
from scipy.sparse import csr_array
from sklearn.base import BaseEstimator, clone
from sklearn.cluster import MiniBatchKMeans

from netinfof_impl.compatibility import CompatibilityMatrix, similarities
from netinfof_impl.embeddings import COMPONENTS, ComponentEmbeddings
from netinfof_impl.graphs import AttributedGraph, as_graph, labelled_pairs, random_pairs, split_edges, stream
from netinfof_impl.score import (
    PermutationTest,
    accuracy_of_table,
    against_chance,
    contingency_table,
    permutation_test,
    scores_of_tables,
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


LARGEST_CHOICE = 20_000  # labels; of more the others are scored
LEAST_PERMUTATIONS = 99  # of fewer none could reach the level of 1 %


class NetInfoFProbe(BaseEstimator):  # type: ignore[misc]
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
        cells: numbers of k-means cells, of which the one is taken that tells held-back labels best; the test of
            permutations repeats that choice.
        permutations: of the test that says whether a score is beyond chance; at least 99.
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
        if permutations < LEAST_PERMUTATIONS:
            raise ValueError(f"permutations must be at least {LEAST_PERMUTATIONS}, got {permutations}")
        self.task, self.bins, self.cells, self.permutations = task, bins, cells, permutations
        self.embeddings, self.compatibility, self.normalise, self.seed = embeddings, compatibility, normalise, seed

    def fit(self, data: Any, pairs: Any = None, pair_labels: Any = None) -> "NetInfoFProbe":
        """Measure a graph.

        Args:
            data: `torch_geometric.data.Data`. For nodes with integers `y`, -1 where a label is not known.
            pairs, pair_labels: links: pairs (2, p) held back, and 1 for edges, 0 for others, as `RandomLinkSplit` of
                torch_geometric has them in `edge_label_index` and `edge_label`; then `data` must not hold these edges.
                Default: a quarter of the edges is held back here, with as many pairs that are none.

        Raises:
            ValueError: a graph that cannot be read; nodes without labels, or with one class.
        """
        graph = as_graph(data, normalise=self.normalise, labels_needed=self.task == "node")
        if self.task == "node":
            return self._fit_nodes(graph)
        if (pairs is None) != (pair_labels is None):
            raise ValueError("pairs and pair_labels must be given together")
        if pairs is None:
            split = split_edges(graph, shares=(0.75, 0.125, 0.125), seed=self.seed)
            graph = split.train
            pairs = np.concatenate([split.valid_pairs, split.test_pairs], axis=1)
            pair_labels = np.concatenate([split.valid_labels, split.test_labels])
        pairs, pair_labels = labelled_pairs(pairs, pair_labels, graph)
        self.embeddings_ = self._embed(graph)
        return self.fit_links(graph, self.embeddings_, pairs, pair_labels)

    def fit_links(
        self,
        graph: AttributedGraph,
        embeddings: dict[str, Float[ndarray, "n d"]],
        pairs: Int[ndarray, "2 p"],
        labels: Int[ndarray, " p"],
    ) -> "NetInfoFProbe":
        """The scores of embeddings that are there already; see `fit`."""
        m = graph.edges.shape[1]
        drawn = random_pairs(graph.n, 2 * m, stream(self.seed, "pairs of bins"))
        known = np.concatenate([graph.edges, drawn], axis=1)
        self.reports_: dict[str, ComponentReport] = {}
        self.compatibility_: dict[str, CompatibilityMatrix] = {}
        for name, z in embeddings.items():
            left = z
            if self.compatibility is not None:
                default = self.compatibility == "default"
                matrix = CompatibilityMatrix(seed=self.seed) if default else clone(self.compatibility)
                self.compatibility_[name] = matrix.fit(z, graph)
                left = matrix.transform(z)
            edges = quantile_edges(similarities(left, z, known), self.bins)
            cells = np.searchsorted(edges, similarities(left, z, pairs), side="right")
            table = contingency_table(cells, labels)
            test = permutation_test(table, permutations=self.permutations, seed=self.seed)
            self.reports_[name] = ComponentReport(test.score, accuracy_of_table(table), test, table)
        return self._done(labels)

    def _embed(self, graph: AttributedGraph) -> dict[str, ndarray]:
        return (self.embeddings or ComponentEmbeddings(seed=self.seed)).fit_transform(graph)

    def _fit_nodes(self, graph: AttributedGraph) -> "NetInfoFProbe":
        labels = graph.labels
        if labels is None:
            raise ValueError("data must have y, labels of the nodes, for task='node'")
        known = np.flatnonzero(labels >= 0)
        classes, numbers = np.unique(labels[known], return_inverse=True)
        if len(classes) < 2:
            raise ValueError("y must hold at least two classes")
        labels = labels.copy()
        labels[known] = numbers
        self.embeddings_ = self._embed(graph)
        self.reports_ = {}
        self.cells_: dict[str, int] = {}
        rng = stream(self.seed, "choice of cells")
        chosen_by = rng.permutation(known)[:LARGEST_CHOICE]
        scored = np.setdiff1d(known, chosen_by)
        for name, z in self.embeddings_.items():
            found = {}
            for cells in sorted({min(c, len(known)) for c in self.cells}):
                means = MiniBatchKMeans(cells, n_init=3, random_state=self.seed, batch_size=4096)
                found[cells] = means.fit_predict(z)
            choice = _Choice([cell[chosen_by] for cell in found.values()], len(classes))
            score, best = choice.scores(labels[chosen_by][:, None])
            self.cells_[name] = list(found)[best[0]]
            cell = found[self.cells_[name]]
            of = scored if len(scored) else known
            table = contingency_table(cell[of], labels[of])
            if len(scored):
                test = permutation_test(table, permutations=self.permutations, seed=self.seed)
            else:
                draws = choice.permuted(labels[chosen_by], self.permutations, rng)
                test = against_chance(float(score[0]), np.concatenate([choice.scores(drawn)[0] for drawn in draws]))
            self.reports_[name] = ComponentReport(test.score, accuracy_of_table(table), test, table)
        return self._done(labels[known])

    def _done(self, labels: ndarray) -> "NetInfoFProbe":
        self.scores_ = {name: report.score for name, report in self.reports_.items()}
        shares = np.bincount(labels)[np.unique(labels)] / len(labels)
        self.base_ = float(2.0 ** (shares * np.log2(shares)).sum())
        return self

    def verdict(self) -> str:
        """What the scores say, in words."""
        informative = {n: r.score for n, r in self.reports_.items() if r.test.informative}
        beyond = {
            n: s - self.reports_[n].test.null_mean for n, s in informative.items()
        }  # cells differ, so does chance
        if not informative:
            return (
                f"Nothing here tells about {self.task}s beyond chance ({self.base_:.2f}): neither a graph model nor "
                "one of features has anything to learn."
            )
        best = max(informative, key=lambda name: beyond[name])
        words = [
            f"{COMPONENTS[best].capitalize()} ({best}) tells most: {informative[best]:.2f} of {self.base_:.2f} to 1."
        ]
        features, graph = beyond.get("F"), max((s for n, s in beyond.items() if n != "F"), default=None)
        if "F" not in self.reports_:
            words.append("There are no features: use a model of the graph.")
        elif features is None and graph is not None:
            words.append("Features alone tell nothing: use a model of the graph.")
        elif features is not None and graph is None:
            words.append("The graph adds nothing: use a model of features alone.")
        elif features is not None and graph is not None:
            gain = graph - features
            words.append(
                f"The graph is worth {gain:+.2f} over features alone ({informative['F']:.2f}): "
                + ("use a model of the graph." if gain > 0.02 else "a model of features alone may do.")
            )
        if silent := [name for name in self.reports_ if name not in informative]:
            words.append(f"Not beyond chance: {', '.join(silent)}.")
        return " ".join(words)


class _Choice:
    """The number of cells that tells held-back labels best, and its score, for many labellings at once.

    With chance it must be compared as a whole: the best of several numbers of cells is better than chance.
    """

    def __init__(self, cells: list[Int[ndarray, " n"]], classes: int) -> None:
        n, self.classes = len(cells[0]), classes
        self.ends = np.cumsum([0, *(int(cell.max()) + 1 for cell in cells)])
        row = np.concatenate([cell + start for cell, start in zip(cells, self.ends[:-1], strict=True)])
        column = np.tile(np.arange(n), len(cells))
        members = csr_array((np.ones(len(row), np.float32), (row, column)), shape=(int(self.ends[-1]), n))
        self.few = max(1, n // 3)
        self.held_back, self.told = members[:, : self.few], members[:, self.few :]

    def scores(self, labels: Int[ndarray, "n draws"]) -> tuple[Float[ndarray, " draws"], Int[ndarray, " draws"]]:
        """Score, and place of the number of cells, by draw."""
        which = (labels[:, :, None] == np.arange(self.classes)).astype(np.float32).reshape(len(labels), -1)
        shape = (-1, labels.shape[1], self.classes)
        held_back, told = (
            (part @ side).reshape(shape).transpose(1, 0, 2).astype(np.float64)
            for part, side in ((self.held_back, which[: self.few]), (self.told, which[self.few :]))
        )
        losses, scores = [], []
        for start, end in itertools.pairwise(self.ends):
            asked, known = held_back[:, start:end], told[:, start:end]
            count = known.sum(1, keepdims=True)
            prior = (count + 1) / (count.sum(2, keepdims=True) + self.classes)
            given = (known + prior) / (known.sum(2, keepdims=True) + 1)
            losses.append(-(asked * np.log2(given)).sum((1, 2)))
            scores.append(scores_of_tables(asked + known))
        best = np.argmin(losses, axis=0)
        return np.take_along_axis(np.array(scores), best[None], 0)[0], best

    def permuted(self, labels: Int[ndarray, " n"], count: int, rng: np.random.Generator) -> Iterator[ndarray]:
        """Labels in random orders, (n, draws), a block at a time."""
        size = max(1, 4_000_000 // (len(labels) * self.classes))
        for done in range(0, count, size):
            yield rng.permuted(np.tile(labels[:, None], (1, min(size, count - done))), axis=0)
