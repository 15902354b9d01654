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
from netinfof_impl.graphs import AttributedGraph, as_graph, hits_at_k, random_pairs, split_edges

__all__ = ["NetInfoFAct", "SparseGroupLinear", "common_neighbours"]

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
class _Tried:
    quality: float
    state: Mapping[str, Tensor]
    penalties: tuple[float, float]
    epochs: int


class NetInfoFAct(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Links, or labels of nodes, from the component embeddings (section 5).

    Links: logit(i, j) = sum over components of w_c . ((z_i H_c) * z_j) + b_c. Nodes: logistic regression on the
    embeddings side by side. Both with a sparse-group lasso whose two weights are chosen by held-back pairs or nodes.

    Args:
        task: "link" or "node".
        embeddings: `ComponentEmbeddings`; None: those of the paper, with seed `random_state`.
        compatibility: `CompatibilityMatrix` for all components; None: the paper's; "identity": plain inner products.
        penalties: pairs (lambda1, lambda2) to try; None: the paper's grid of eight.
        solver: "lbfgs" (rate 0.1, patience 5), "adam" (rate 0.01, batches of 65,536, patience 100), or "auto": adam
            beyond a million edges.
        max_epochs: most steps of lbfgs (of up to 20 evaluations each) or passes of adam.
        k: of the Hits@K that chooses, cut to the number of negatives held back.
        compat: "official" goes on from the weights of the pair of penalties before, and draws new negatives at every
            evaluation of the loss, as the authors' code; None: new weights for each pair, new negatives for each step.
        normalise: features minus the smallest of all, rows summing to one.
        random_state: seed of splits, negatives, weights.

    Attributes:
        skill_: AUC (links) or accuracy (nodes) on what is held back, minus that of the trivial answer: common
            neighbours, or the majority.
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
                on, -1 where not known; `train_mask` and `val_mask` are read if there.
            y: nodes: labels instead of `data.y`. Links: nothing.
            valid: links: (pairs, 1 for edges and 0 for others) held back, not among the edges of `data`; default: a
                quarter of the edges is held back here to choose, and is not learned from.

        Raises:
            ValueError: a setting or a graph that cannot be used.
        """
        self._check_settings()
        graph = as_graph(data, normalise=self.normalise)
        if self.task == "node":
            return self._fit_nodes(graph, data, y)
        if y is not None:
            raise ValueError("y must not be given for task='link': edges are the answers")
        if valid is None:
            split = split_edges(graph, shares=(0.75, 0.125, 0.125), seed=self.random_state)
            graph = split.train
            pairs = np.concatenate([split.valid_pairs, split.test_pairs], axis=1)
            labels = np.concatenate([split.valid_labels, split.test_labels])
        else:
            pairs, labels = self._pairs(valid[0], graph.n), np.asarray(valid[1]).reshape(-1)
            if len(labels) != pairs.shape[1] or set(np.unique(labels).tolist()) != {0, 1}:
                raise ValueError(
                    f"valid must hold a label, 0 or 1 and both of them, for each of {pairs.shape[1]} pairs"
                )
        return self.fit_links(graph, self._embed(graph), pairs, labels)

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
        adjusted: Mapping[str, Float[ndarray, "n d"]] | None = None,
    ) -> "NetInfoFAct":
        """`fit` for links with embeddings, and z H where given, that are there already."""
        self._check_settings()
        self.n_nodes_, self.classes_ = graph.n, np.array([0, 1])
        self.components_ = tuple(embeddings)
        right = [np.asarray(z, dtype=np.float32) for z in embeddings.values()]
        left = [self._adjusted(z, graph) for z in right] if adjusted is None else list(adjusted.values())
        self._left = torch.from_numpy(np.concatenate(left, 1).astype(np.float32))
        self._right = torch.from_numpy(np.concatenate(right, 1))
        widths = [z.shape[1] for z in right]
        edges = torch.from_numpy(graph.edges)
        m = edges.shape[1]
        k = min(self.k, int((valid_labels == 0).sum()))
        checked = self._products(torch.from_numpy(valid_pairs))
        truth = torch.from_numpy(valid_labels.astype(np.float32))

        def quality(model: SparseGroupLinear) -> tuple[float, float]:
            logits = model(checked)[:, 0]
            loss = float(binary_cross_entropy_with_logits(logits, truth))
            return hits_at_k(logits.numpy().astype(np.float64), valid_labels, k), loss

        positive = self._products(edges)
        rng = np.random.default_rng(self.random_state)
        target = torch.cat([torch.ones(m), torch.zeros(m)])

        def draw() -> tuple[Tensor, Tensor]:
            negative = self._products(torch.from_numpy(random_pairs(graph.n, m, rng)))
            return torch.cat([positive, negative]), target

        def loss(logits: Tensor, wanted: Tensor) -> Tensor:
            return binary_cross_entropy_with_logits(logits[:, 0], wanted)

        self._search(widths, 1, draw, loss, quality, adam=self._by_adam(m))
        scores = self.decision_function(valid_pairs)
        trivial = common_neighbours(graph, valid_pairs)
        self.skill_ = float(roc_auc_score(valid_labels, scores) - roc_auc_score(valid_labels, trivial))
        self._warn("the count of common neighbours")
        return self

    def _adjusted(self, z: ndarray, graph: AttributedGraph) -> ndarray:
        if isinstance(self.compatibility, str):
            if self.compatibility != "identity":
                raise ValueError(f"compatibility must be None, 'identity' or an object, got {self.compatibility!r}")
            return z
        matrix = self.compatibility or CompatibilityMatrix(seed=self.random_state)
        fitted: ndarray = matrix.fit(z, graph).transform(z)
        return fitted

    def _by_adam(self, m: int) -> bool:
        return self.solver == "adam" or (self.solver == "auto" and m > 1_000_000)

    def _products(self, pairs: Int[Tensor, "2 p"]) -> Float[Tensor, "p inputs"]:
        return self._left[pairs[0]] * self._right[pairs[1]]

    def _fit_nodes(self, graph: AttributedGraph, data: Any, y: Any) -> "NetInfoFAct":
        labels = graph.labels if y is None else np.asarray(y).reshape(-1)
        if labels is None or len(labels) != graph.n:
            raise ValueError(f"y must hold a label for each of {graph.n} nodes, -1 where it is not known")
        train, valid = self._known(labels, data)
        self.classes_ = np.unique(labels[train])
        if len(self.classes_) < 2:
            raise ValueError(f"y must hold at least two classes, got {self.classes_.tolist()}")
        valid = valid[np.isin(labels[valid], self.classes_)]
        self.n_nodes_ = graph.n
        embeddings = self._embed(graph)
        self.components_ = tuple(embeddings)
        parts = [np.asarray(z, dtype=np.float32) for z in embeddings.values()]
        self._right = torch.from_numpy(np.concatenate(parts, 1))
        numbers = torch.from_numpy(np.searchsorted(self.classes_, labels.clip(self.classes_[0], self.classes_[-1])))
        at, checked = torch.from_numpy(train), torch.from_numpy(valid)

        def quality(model: SparseGroupLinear) -> tuple[float, float]:
            logits = model(self._right[checked])
            right = float((logits.argmax(1) == numbers[checked]).float().mean())
            return right, float(cross_entropy(logits, numbers[checked]))

        def draw() -> tuple[Tensor, Tensor]:
            return self._right[at], numbers[at]

        widths, few = [z.shape[1] for z in parts], len(self.classes_)
        self._search(widths, few, draw, cross_entropy, quality, adam=self._by_adam(len(train)))
        share = np.bincount(np.searchsorted(self.classes_, labels[train]))
        majority = float((labels[valid] == self.classes_[share.argmax()]).mean())
        with torch.no_grad():
            self.skill_ = quality(self.model_)[0] - majority
        self._warn("the most frequent class")
        return self

    def _known(self, labels: ndarray, data: Any) -> tuple[ndarray, ndarray]:
        masks = [getattr(data, name, None) for name in ("train_mask", "val_mask")]
        if masks[0] is not None and masks[1] is not None:
            parts = [np.flatnonzero(np.asarray(mask) & (labels >= 0)) for mask in masks]
        else:
            order = np.random.default_rng(self.random_state).permutation(np.flatnonzero(labels >= 0))
            parts = list(np.split(order, [len(order) - len(order) // 5]))
        if not len(parts[0]) or not len(parts[1]):
            raise ValueError("y must hold labels to learn from and others to choose by, at least five in all")
        return parts[0], parts[1]

    def _search(
        self,
        widths: Sequence[int],
        outputs: int,
        draw: Callable[[], tuple[Tensor, Tensor]],
        loss: Callable[[Tensor, Tensor], Tensor],
        quality: Callable[[SparseGroupLinear], tuple[float, float]],
        *,
        adam: bool,
    ) -> None:
        """Try all pairs of penalties, and keep the model that is best on what is held back."""
        best: _Tried | None = None
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.random_state)
            model = SparseGroupLinear(widths, outputs)
            for penalties in self.penalties or PAPER_GRID:
                if self.compat is None:
                    model = SparseGroupLinear(widths, outputs)
                tried = (self._adam if adam else self._lbfgs)(model, draw, loss, quality, penalties)
                model.load_state_dict(dict(tried.state))
                if best is None or tried.quality > best.quality:
                    best = tried
        assert best is not None
        model.load_state_dict(dict(best.state))
        self.model_, self.penalties_, self.n_iter_ = model, best.penalties, best.epochs
        weights: list[Any] = [each.weight for each in model.maps]
        norms = np.array([float(weight.detach().norm()) for weight in weights])
        self.weights_ = dict(zip(self.components_, (norms / max(norms.sum(), 1e-30)).tolist(), strict=True))

    def _lbfgs(
        self,
        model: SparseGroupLinear,
        draw: Callable[[], tuple[Tensor, Tensor]],
        loss: Callable[[Tensor, Tensor], Tensor],
        quality: Callable[[SparseGroupLinear], tuple[float, float]],
        penalties: tuple[float, float],
    ) -> _Tried:
        optimizer = torch.optim.LBFGS(model.parameters(), lr=0.1)
        watch = _Watch(model, penalties, patience=5)
        for epoch in range(self.max_epochs + 1):
            x, wanted = draw()

            def closure(x: Tensor = x, wanted: Tensor = wanted) -> Tensor:
                if self.compat == "official":
                    x, wanted = draw()
                optimizer.zero_grad()
                value = loss(model(x), wanted) + model.penalty(*penalties)
                value.backward()  # type: ignore[no-untyped-call]
                return value

            optimizer.step(closure)  # type: ignore[arg-type,no-untyped-call]
            with torch.no_grad():
                if watch.done(epoch, *quality(model)):
                    break
        return watch.best

    def _adam(
        self,
        model: SparseGroupLinear,
        draw: Callable[[], tuple[Tensor, Tensor]],
        loss: Callable[[Tensor, Tensor], Tensor],
        quality: Callable[[SparseGroupLinear], tuple[float, float]],
        penalties: tuple[float, float],
    ) -> _Tried:
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
        watch = _Watch(model, penalties, patience=100)
        for epoch in range(self.max_epochs):
            x, wanted = draw()
            for batch in torch.randperm(len(x)).split(65_536):
                optimizer.zero_grad()
                value = loss(model(x[batch]), wanted[batch]) + model.penalty(*penalties)
                value.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
            with torch.no_grad():
                if watch.done(epoch, *quality(model)):
                    break
        return watch.best

    def _warn(self, trivial: str) -> None:
        if not self.skill_ > 0:
            warnings.warn(
                f"what was learned is not better on what is held back than {trivial} (by {self.skill_:+.3f}); "
                "NetInfoFProbe says which components tell anything",
                UserWarning,
                stacklevel=4,
            )

    # Answering -------------------------------------------------------------------------------------------------------

    @staticmethod
    def _pairs(pairs: Any, n: int) -> Int[ndarray, "2 p"]:
        found = np.asarray(pairs)
        if found.ndim != 2 or found.shape[0] != 2 or found.dtype.kind not in "iu":
            raise ValueError(f"pairs must be integers of shape (2, pairs), got {found.dtype} {found.shape}")
        if found.size and (found.min() < 0 or found.max() >= n):
            raise ValueError(f"pairs must be nodes from 0 to {n - 1}, got {found.min()} to {found.max()}")
        return found.astype(np.int64)

    def decision_function(self, asked: Any) -> Float[ndarray, "..."]:
        """Links: logits of pairs (2, p). Nodes: logits (nodes, classes) of node numbers."""
        check_is_fitted(self, "model_")
        with torch.no_grad():
            if self.task == "node":
                nodes = np.asarray(asked)
                if nodes.ndim != 1 or nodes.dtype.kind not in "iu":
                    raise ValueError(f"nodes must be a list of integers, got {nodes.dtype} {nodes.shape}")
                if nodes.size and (nodes.min() < 0 or nodes.max() >= self.n_nodes_):
                    raise ValueError(f"nodes must be from 0 to {self.n_nodes_ - 1}, got {nodes.min()} to {nodes.max()}")
                made: ndarray = self.model_(self._right[torch.from_numpy(nodes.astype(np.int64))]).numpy()
                return made
            pairs = torch.from_numpy(self._pairs(asked, self.n_nodes_))
            parts = [self.model_(self._products(part))[:, 0] for part in pairs.split(65_536, dim=1)]
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


class _Watch:
    """Keeps the best state, and says when to stop."""

    def __init__(self, model: SparseGroupLinear, penalties: tuple[float, float], *, patience: int) -> None:
        self.model, self.patience = model, patience
        self.best = _Tried(-1.0, self._state(), penalties, 0)

    def _state(self) -> dict[str, Tensor]:
        return {name: value.detach().clone() for name, value in self.model.state_dict().items()}

    def done(self, epoch: int, quality: float, loss: float) -> bool:
        if np.isfinite(loss) and quality > self.best.quality:
            self.best = _Tried(quality, self._state(), self.best.penalties, epoch)
            return False
        return not np.isfinite(loss) or loss > 1000 or epoch >= self.best.epochs + self.patience


def common_neighbours(graph: AttributedGraph, pairs: Int[ndarray, "2 p"]) -> Float[ndarray, " p"]:
    """How many neighbours the ends of each pair share: the trivial answer of link prediction."""
    adjacency = graph.adjacency()
    made = np.empty(pairs.shape[1])
    for at in range(0, pairs.shape[1], 65_536):
        i, j = pairs[:, at : at + 65_536]
        made[at : at + 65_536] = adjacency[i].multiply(adjacency[j]).sum(1)
    return made
