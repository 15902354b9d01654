"""NetInfoF_Act: links or labels from the same embeddings, by a linear model with a sparse-group penalty (section 5)."""

import itertools
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy import ndarray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.metrics import roc_auc_score
from sklearn.utils.validation import check_is_fitted
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from netinfof_impl.compatibility import CompatibilityMatrix
from netinfof_impl.embeddings import ComponentEmbeddings
from netinfof_impl.graphs import (
    AttributedGraph,
    as_array,
    as_graph,
    as_labels,
    as_pairs,
    hits_at_k,
    labelled_pairs,
    random_pairs,
    split_edges,
    stream,
)

__all__ = ["NetInfoFAct", "SparseGroupLinear", "common_neighbours"]

BATCH = 65_536  # pairs or nodes at a time
LARGEST_BATCH = 2**29  # numbers, 2 GiB
LEAST_GAIN = 1e-3  # of the loss, between equals, that is worth going on for
PAPER_GRID = tuple(itertools.product((1e-4, 1e-5), (1e-3, 1e-4, 1e-5, 1e-6)))


class SparseGroupLinear(nn.Module):
    """One linear map for each group of inputs, summed, with the penalty lambda1 sum |w| + lambda2 sum_groups |w|_2.

    Biases are not penalised. Args: widths of the groups; number of outputs.
    """

    def __init__(self, widths: Sequence[int] = (8,), outputs: int = 1) -> None:
        super().__init__()
        self.maps = nn.ModuleList([nn.Linear(width, outputs) for width in widths])
        self.widths = tuple(widths)

    def forward(self, x: Float[Tensor, "rows inputs"]) -> Float[Tensor, "rows outputs"]:
        """The sum of all groups' maps: inputs are the groups side by side."""
        weight = torch.cat([each.weight for each in self.maps], 1)  # type: ignore[list-item]
        bias = torch.stack([each.bias for each in self.maps]).sum(0)  # type: ignore[list-item,arg-type]
        return x @ weight.T + bias

    def penalty(self, lambda1: float, lambda2: float) -> Float[Tensor, ""]:
        """Lasso of all weights, and group lasso of the maps."""
        weights: list[Any] = [each.weight for each in self.maps]
        small = torch.stack([w.abs().sum() for w in weights]).sum()
        # the gradient of a norm at zero is not finite
        groups = torch.stack([(w.square().sum() + 1e-24).sqrt() for w in weights]).sum()
        return lambda1 * small + lambda2 * groups


@dataclass(frozen=True)
class _Problem:
    """What links and nodes tell the search."""

    draw: Callable[[], tuple[Tensor, Tensor]]
    """what to learn from at one step, and its answers"""
    inputs: Callable[[Tensor], Tensor]
    loss: Callable[[Tensor, Tensor], Tensor]
    metric: Callable[[Tensor], float]
    checked: Tensor
    truth: Tensor


@dataclass(frozen=True)
class _Tried:
    quality: tuple[float, float]
    """Hits@K or accuracy, and minus the loss, which decides between equals"""
    state: Mapping[str, Tensor]
    penalties: tuple[float, float]
    epochs: int


class NetInfoFAct(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Links, or labels of nodes, from the component embeddings (section 5).

    Links: logit(i, j) = sum over components of w_c . ((z_i H_c) * z_j) + b_c, the mean of both orders of i and j.
    Nodes: logistic regression on the embeddings side by side. Both with a sparse-group lasso whose two weights are
    chosen by held-back pairs or nodes.

    Args:
        task: "link" or "node".
        embeddings: `ComponentEmbeddings`; None: those of the paper, with seed `random_state`.
        compatibility: `CompatibilityMatrix` for all components; None: the paper's; "identity": plain inner products.
        penalties: pairs (lambda1, lambda2) to try; None: the paper's grid of eight.
        solver: "lbfgs" (rate 0.1, patience 5), "adam" (rate 0.01, batches of 65,536, patience 100), or "auto": adam
            where lbfgs would hold more than 2 GiB, at d = 128 beyond 400,000 edges.
        max_epochs: most steps of lbfgs (of up to 20 evaluations each) or passes of adam.
        k: of Hits@K. The choice by held-back pairs cuts it to a quarter of those without an edge: beyond, all models
            look alike. Between equals the loss decides.
        compat: "official", as the authors' code, goes on from the weights of the pair of penalties before, draws new
            negatives at every evaluation of the loss, and lets the order of a pair's ends matter; None: new weights for
            each pair of penalties, new negatives for each step, and one answer for both orders.
        normalise: features minus the smallest of all, rows summing to one.
        random_state: seed of splits, negatives, weights.

    Attributes:
        skill_: AUC (links) or accuracy (nodes) minus that of the trivial answer, common neighbours or the majority, on
            what nothing was chosen by; where `valid` or masks are given, on these, by which penalties were chosen.
        weights_: component to the share of the weights' norm.
        penalties_: the pair that was chosen.
    """

    def __init__(
        self,
        task: Any = "link",
        *,
        embeddings: Any = None,
        compatibility: Any = None,
        penalties: Any = None,
        solver: Any = "auto",
        max_epochs: Any = 100,
        k: Any = 100,
        compat: Any = None,
        normalise: Any = True,
        random_state: Any = 0,
    ) -> None:
        self.task = task
        self.embeddings = embeddings
        self.compatibility = compatibility
        self.penalties = penalties
        self.solver = solver
        self.max_epochs = max_epochs
        self.k = k
        self.compat = compat
        self.normalise = normalise
        self.random_state = random_state

    # Learning --------------------------------------------------------------------------------------------------------

    def fit(self, data: Any, y: Any = None, *, valid: tuple[Any, Any] | None = None) -> "NetInfoFAct":
        """Learn from a graph.

        Args:
            data: `torch_geometric.data.Data` with `edge_index`, and `x`, `y` where there are any. Nodes: labels from 0
                on, -1 where not known; `train_mask` and `val_mask` are read if there; else a sixth of the labels
                chooses, and another measures `skill_`.
            y: nodes: labels instead of `data.y`. Links: nothing.
            valid: links: (pairs, 1 for edges and 0 for others) held back, not among the edges of `data`; default: an
                eighth of the edges is held back here to choose by, and another to measure `skill_`.

        Raises:
            ValueError: a setting or a graph that cannot be used.
        """
        self._check_settings()
        graph = as_graph(data, normalise=self.normalise, labels_needed=self.task == "node" and y is None)
        if self.task == "node":
            return self._fit_nodes(graph, data, y)
        if y is not None:
            raise ValueError("y must not be given for task='link': edges are the answers")
        if valid is not None:
            return self.fit_links(graph, self._embed(graph), *labelled_pairs(*valid, graph))
        split = split_edges(graph, shares=(0.75, 0.125, 0.125), seed=self.random_state)
        measured = (split.test_pairs, split.test_labels)
        embeddings = self._embed(split.train)
        return self.fit_links(split.train, embeddings, split.valid_pairs, split.valid_labels, measured)

    def _check_settings(self) -> None:
        allowed = {"task": ("link", "node"), "solver": ("auto", "lbfgs", "adam"), "compat": (None, "official")}
        for name, values in allowed.items():
            if getattr(self, name) not in values:
                raise ValueError(f"{name} must be one of {values}, got {getattr(self, name)!r}")
        if self.max_epochs < 1 or self.k < 1:
            raise ValueError(f"max_epochs and k must be positive, got {self.max_epochs} and {self.k}")
        for pair in self.penalties or ():
            if len(pair) != 2 or min(pair) < 0:
                raise ValueError(f"penalties must be pairs of numbers that are not negative, got {pair}")

    def _embed(self, graph: AttributedGraph) -> dict[str, ndarray]:
        return (self.embeddings or ComponentEmbeddings(seed=self.random_state)).fit_transform(graph)

    def fit_links(
        self,
        graph: AttributedGraph,
        embeddings: Mapping[str, Float[ndarray, "n d"]],
        valid_pairs: Int[ndarray, "2 v"],
        valid_labels: Int[ndarray, " v"],
        measured: tuple[Int[ndarray, "2 p"], Int[ndarray, " p"]] | None = None,
    ) -> "NetInfoFAct":
        """`fit` for links with embeddings that are there already, and pairs to measure `skill_` by."""
        self._check_settings()
        self.classes_ = np.array([0, 1])
        widths = self._read(embeddings)
        if self.compatibility != "identity":
            if isinstance(self.compatibility, str):
                raise ValueError(f"compatibility must be None, 'identity' or an object, got {self.compatibility!r}")
            matrix = self.compatibility or CompatibilityMatrix(seed=self.random_state)
            parts = [np.asarray(z, dtype=np.float32) for z in embeddings.values()]
            self._left = torch.from_numpy(np.concatenate([matrix.fit(z, graph).transform(z) for z in parts], 1))
        m = graph.edges.shape[1]
        k = min(self.k, max(1, int((valid_labels == 0).sum()) // 4))
        rng = stream(self.random_state, "negatives")
        target = torch.cat([torch.ones(m), torch.zeros(m)])

        def draw() -> tuple[Tensor, Tensor]:
            pairs = np.concatenate([graph.edges, random_pairs(graph.n, m, rng)], axis=1)
            return torch.from_numpy(pairs.T.copy()), target

        self._search(
            widths,
            _Problem(
                draw=draw,
                inputs=self._products,
                loss=lambda logits, wanted: binary_cross_entropy_with_logits(logits[:, 0], wanted),
                metric=lambda logits: hits_at_k(logits[:, 0].double().numpy(), valid_labels, k),
                checked=torch.from_numpy(valid_pairs.T.copy()),
                truth=torch.from_numpy(valid_labels.astype(np.float32)),
            ),
            rows=2 * m,
        )
        pairs, labels = measured or (valid_pairs, valid_labels)
        trivial = roc_auc_score(labels, common_neighbours(graph, pairs))
        self.skill_ = float(roc_auc_score(labels, self.decision_function(pairs)) - trivial)
        self._warn("the count of common neighbours")
        return self

    def _read(self, embeddings: Mapping[str, Float[ndarray, "n d"]]) -> list[int]:
        """Keep the embeddings side by side; their widths."""
        parts = [torch.from_numpy(np.asarray(z, dtype=np.float32)) for z in embeddings.values()]
        self.components_, self.n_nodes_ = tuple(embeddings), len(parts[0])
        self._left = self._right = torch.cat(parts, 1)
        return [z.shape[1] for z in parts]

    def _products(self, pairs: Int[Tensor, "p 2"]) -> Float[Tensor, "p inputs"]:
        i, j = pairs.T
        made = self._left[i] * self._right[j]
        if self._left is self._right or self.compat == "official":
            return made
        return made.add_(self._left[j] * self._right[i]).mul_(0.5)

    def _fit_nodes(self, graph: AttributedGraph, data: Any, y: Any) -> "NetInfoFAct":
        labels = graph.labels if y is None else as_labels(y, graph.n)
        if labels is None:
            raise ValueError("y must be given, for nodes")
        train, valid, measured = self._known(labels, data)
        self.classes_ = np.unique(labels[train])
        if len(self.classes_) < 2:
            raise ValueError(f"y must hold at least two classes, got {self.classes_.tolist()}")
        valid, measured = (part[np.isin(labels[part], self.classes_)] for part in (valid, measured))
        if not len(valid) or not len(measured):
            raise ValueError("y must hold, of the classes to learn, labels to choose by")
        widths = self._read(self._embed(graph))
        numbers = torch.from_numpy(np.searchsorted(self.classes_, labels.clip(self.classes_[0], self.classes_[-1])))
        at, checked = torch.from_numpy(train), torch.from_numpy(valid)
        self._search(
            widths,
            _Problem(
                draw=lambda: (at, numbers[at]),
                inputs=lambda nodes: self._right[nodes],
                loss=cross_entropy,
                metric=lambda logits: float((logits.argmax(1) == numbers[checked]).float().mean()),
                checked=checked,
                truth=numbers[checked],
            ),
            outputs=len(self.classes_),
            rows=len(train),
        )
        share = np.bincount(np.searchsorted(self.classes_, labels[train]))
        majority = float((labels[measured] == self.classes_[share.argmax()]).mean())
        self.skill_ = self.score(measured, labels[measured]) - majority
        self._warn("the most frequent class")
        return self

    def _known(self, labels: ndarray, data: Any) -> tuple[ndarray, ndarray, ndarray]:
        """Nodes to learn from, to choose by and to measure by."""
        masks = {name: getattr(data, name, None) for name in ("train_mask", "val_mask")}
        if all(mask is not None for mask in masks.values()):
            parts = []
            for name, mask in masks.items():
                mask = as_array(mask)
                if mask.shape != labels.shape or mask.dtype != bool:
                    raise ValueError(
                        f"{name} must be a boolean for each of {len(labels)} nodes, got {mask.dtype} {mask.shape}; "
                        "where data has several splits, give one"
                    )
                parts.append(np.flatnonzero(mask & (labels >= 0)))
        else:
            order = stream(self.random_state, "labels").permutation(np.flatnonzero(labels >= 0))
            few = max(1, len(order) // 6) if len(order) >= 5 else 0
            parts = list(np.split(order, [len(order) - 2 * few, len(order) - few]))
        if not len(parts[0]) or not len(parts[1]):
            raise ValueError("y must hold labels to learn from and others to choose by, at least five in all")
        return parts[0], parts[1], parts[-1]

    def _search(self, widths: Sequence[int], problem: "_Problem", *, outputs: int = 1, rows: int) -> None:
        """Try all pairs of penalties, and keep the model that is best on what is held back."""
        adam = self.solver == "adam" or (self.solver == "auto" and rows * sum(widths) > LARGEST_BATCH)
        tried: list[_Tried] = []
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.random_state)
            model = SparseGroupLinear(widths, outputs)
            for penalties in self.penalties or PAPER_GRID:
                if self.compat is None:
                    model = SparseGroupLinear(widths, outputs)
                tried.append(self._learned(model, problem, penalties, adam=adam))
                model.load_state_dict(dict(tried[-1].state))
        best = max(tried, key=lambda one: one.quality)
        model.load_state_dict(dict(best.state))
        self.model_, self.penalties_, self.n_iter_ = model, best.penalties, best.epochs
        weights: list[Any] = [each.weight for each in model.maps]
        norms = np.array([float(weight.detach().norm()) for weight in weights])
        self.weights_ = dict(zip(self.components_, (norms / max(norms.sum(), 1e-30)).tolist(), strict=True))

    def _learned(
        self, model: SparseGroupLinear, problem: "_Problem", penalties: tuple[float, float], *, adam: bool
    ) -> _Tried:
        """The best state on what is held back, by full batches and LBFGS or by batches and Adam."""
        optimizer: torch.optim.Optimizer = (
            torch.optim.Adam(model.parameters(), lr=1e-2) if adam else torch.optim.LBFGS(model.parameters(), lr=0.1)
        )
        patience = 100 if adam else 5
        checked = problem.inputs(problem.checked)
        best = _Tried((-1.0, 0.0), _state(model), penalties, 0)
        since = 0
        for epoch in range(self.max_epochs):
            asked, wanted = problem.draw()
            for batch in torch.randperm(len(asked)).split(BATCH) if adam else [slice(None)]:
                x, y = problem.inputs(asked[batch]), wanted[batch]

                def closure(x: Tensor = x, y: Tensor = y) -> Tensor:
                    if self.compat == "official" and not adam:
                        drawn, y = problem.draw()
                        x = problem.inputs(drawn)
                    optimizer.zero_grad()
                    value = problem.loss(model(x), y) + model.penalty(*penalties)
                    value.backward()  # type: ignore[no-untyped-call]
                    return value

                optimizer.step(closure)  # type: ignore[arg-type]
            with torch.no_grad():
                logits = model(checked)
                loss = float(problem.loss(logits, problem.truth))
            if not loss <= 1000:  # diverged, or not a number
                break
            quality = (problem.metric(logits), -loss)
            since = 0 if quality > (best.quality[0], best.quality[1] + LEAST_GAIN) else since + 1
            if quality > best.quality:
                best = _Tried(quality, _state(model), penalties, epoch)
            if since >= patience:
                break
        return best

    def _warn(self, trivial: str) -> None:
        if not self.skill_ > 0:
            warnings.warn(
                f"what was learned is not better on what is held back than {trivial} (by {self.skill_:+.3f}); "
                "NetInfoFProbe says which components tell anything",
                UserWarning,
                stacklevel=4,
            )

    # Answering -------------------------------------------------------------------------------------------------------

    def decision_function(self, asked: Any) -> Float[ndarray, "..."]:
        """Links: logits of pairs (2, p). Nodes: logits (nodes, classes) of node numbers."""
        check_is_fitted(self, "model_")
        with torch.no_grad():
            if self.task == "node":
                nodes = as_array(asked)
                if nodes.ndim != 1 or nodes.dtype.kind not in "iu":
                    raise ValueError(f"nodes must be a list of integers, got {nodes.dtype} {nodes.shape}")
                if nodes.size and (nodes.min() < 0 or nodes.max() >= self.n_nodes_):
                    raise ValueError(f"nodes must be from 0 to {self.n_nodes_ - 1}, got {nodes.min()} to {nodes.max()}")
                made: ndarray = self.model_(self._right[torch.from_numpy(nodes.astype(np.int64))]).numpy()
                return made
            pairs = torch.from_numpy(as_pairs(asked, "pairs", self.n_nodes_).T.copy())
            parts = [self.model_(self._products(part))[:, 0] for part in pairs.split(BATCH)]
            return torch.cat(parts).double().numpy()

    def predict_proba(self, asked: Any) -> Float[ndarray, "asked classes"]:
        """Probabilities of `classes_`; for links: of no edge and of an edge, as if both were equally frequent."""
        logits = torch.from_numpy(self.decision_function(asked))
        if self.task == "link":
            share = torch.sigmoid(logits)
            return torch.stack([1 - share, share], 1).numpy()
        return torch.softmax(logits.double(), 1).numpy()

    def predict(self, asked: Any) -> ndarray:
        """The likelier class of each pair or node."""
        made: ndarray = self.classes_[self.predict_proba(asked).argmax(1)]
        return made

    def score(self, asked: Any, y: Any) -> float:
        """Links: Hits@K. Nodes: accuracy.

        Raises:
            ValueError: fewer than k pairs without an edge.
        """
        y = np.asarray(y)
        if self.task == "link":
            return hits_at_k(self.decision_function(asked), y, self.k)
        return float((self.predict(asked) == y).mean())


def _state(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def common_neighbours(graph: AttributedGraph, pairs: Int[ndarray, "2 p"]) -> Float[ndarray, " p"]:
    """How many neighbours the ends of each pair share: the trivial answer of link prediction."""
    adjacency = graph.adjacency()
    made = np.empty(pairs.shape[1])
    for at in range(0, pairs.shape[1], 65_536):
        i, j = pairs[:, at : at + 65_536]
        made[at : at + 65_536] = adjacency[i].multiply(adjacency[j]).sum(1)
    return made
