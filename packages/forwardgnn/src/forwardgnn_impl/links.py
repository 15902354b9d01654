"""Forward learning of links: each layer scores pairs by itself (section 3.4), with or without signals from above."""

import random
import warnings
from typing import Any

import numpy as np
import torch
from numpy import ndarray
from sklearn.metrics import roc_auc_score
from sklearn.utils.validation import check_is_fitted
from torch import Tensor
from torch_geometric.data import Data
from torch_geometric.transforms import RandomLinkSplit
from torch_geometric.utils import coalesce, is_undirected, remove_self_loops

from .graphs import checked_graph
from .learner import History, Learner, seed_of
from .local import LocalLayer
from .losses import link_logits, link_loss
from .propagation import Propagation, row_norm

__all__ = ["ForwardLinkPredictor", "split_links"]


def split_links(data: Data, *, seed: int = 0, val: float = 0.16, test: float = 0.2) -> tuple[Data, Data, Data]:
    """The paper's split: 64, 16 and 20 % of the links, each part with as many pairs that are none.

    An edge that is listed twice is one link, and no node is a link to itself.

    Raises:
        ValueError: a directed graph, one of too few links or too few other pairs, or shares that leave nothing.
    """
    x, edges = checked_graph(data)
    if not is_undirected(edges, num_nodes=len(x)):
        raise ValueError("edge_index must hold each edge in both directions: links are pairs without a direction")
    if min(val, test) < 0 or not val + test < 1:
        raise ValueError(f"val and test must be shares of the links that leave some, got {val} and {test}")
    of_nodes = {name: value for name, value in data if data.is_node_attr(name)}
    plain = Data(**of_nodes | {"x": x, "edge_index": remove_self_loops(coalesce(edges, num_nodes=len(x)))[0]})
    many = plain.edge_index.shape[1] // 2
    others = len(x) * (len(x) - 1) // 2 - many
    if min(int(share * many) for share in (val, test, 1.0) if share) < 1 or not others:
        raise ValueError(f"edge_index must hold links to divide, and not all pairs, got {many} and {others} others")
    before = random.getstate()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        random.seed(seed)  # torch_geometric draws the pairs that are no links from Python's own generator
        try:
            split = RandomLinkSplit(is_undirected=True, num_val=val, num_test=test, neg_sampling_ratio=1.0)
            found: tuple[Data, Data, Data] = split(plain)
        finally:
            random.setstate(before)
    return found


class ForwardLinkPredictor(Learner):
    """Links between nodes, by layers that learn by themselves.

    Args:
        loss: of a layer: "ce" (cross entropy of z_i . z_j), "ff" (goodness of z_i * z_j), or "bp": the baseline, one
            loss for the whole network.
        topdown: each layer also reads the outputs of the one above ("ce" only); layers train together.
        conv, layers, hidden, theta, epochs, lr, patience, val_every, alternating, time_steps, cached, random_state: as
            `ForwardGNN`.
        weight_decay: None: 5e-4, and 0 with `topdown`, as in the official code.

    After `fit`: `layers_`, `history_`, `classes_`, `best_validation_` (AUC in %).
    """

    may_be_none = ("weight_decay",)

    def __init__(
        self, loss: Any = "ce", conv: Any = "gcn", layers: Any = 2, *, topdown: Any = False, hidden: Any = 128,
        theta: Any = 2.0, epochs: Any = 1000, lr: Any = 1e-3, weight_decay: Any = None, patience: Any = 100,
        val_every: Any = 2, alternating: Any = True, time_steps: Any = 10, cached: Any = True, random_state: Any = 0,
    ) -> None:  # fmt: skip
        self.loss, self.conv, self.layers, self.topdown = loss, conv, layers, topdown
        self.hidden, self.theta, self.epochs, self.lr = hidden, theta, epochs, lr
        self.weight_decay, self.patience, self.val_every = weight_decay, patience, val_every
        self.alternating, self.time_steps, self.cached = alternating, time_steps, cached
        self.random_state = random_state

    def fit(self, train: Data, val: Data | None = None) -> "ForwardLinkPredictor":
        """Learn links.

        Args:
            train: x, edge_index, and pairs `edge_label_index` with `edge_label` (1: link, 0: none), as of
                `split_links`. Of a graph without pairs a fifth of the links is held out to stop by.
            val: pairs to stop by.

        Raises:
            ValueError: settings out of range, a graph that cannot be used, or a loss that is not finite.
        """
        if self.loss not in ("ce", "ff", "bp"):
            raise ValueError(f"loss must be ce, ff or bp, got {self.loss!r}")
        if self.topdown and self.loss != "ce":
            raise ValueError(f"topdown needs loss='ce', got {self.loss!r}")
        self._check_numbers()
        seed = seed_of(self.random_state)
        if getattr(train, "edge_label_index", None) is None:
            if val is not None:
                raise ValueError("train must have edge_label_index where val is given: see split_links")
            train, val, _ = split_links(train, seed=seed, val=0.2, test=0.0)
        self.x_, self.edge_index_ = checked_graph(train)
        held = None if val is None else _pairs(val, len(self.x_), labelled=True)
        self.classes_, self.history_, self.best_validation_ = np.array([0, 1]), History(), float("nan")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self._fit(_pairs(train, len(self.x_), labelled=True), held)
        if held is not None and self.best_validation_ <= 50:
            said = f"no better than chance on held-out pairs (AUC {self.best_validation_ / 100:.3f})"
            warnings.warn(said, UserWarning, stacklevel=2)
        return self

    def _fit(self, train: tuple[Tensor, Tensor], held: tuple[Tensor, Tensor] | None) -> None:
        x, graph = self._inputs(self.edge_index_)
        count, hidden = int(self.layers), int(self.hidden)
        inputs = [x.shape[1], *[hidden] * (count - 1)]
        if self.topdown:
            inputs = [width + (hidden if i < count - 1 else 0) for i, width in enumerate(inputs)]
        decay = (0.0 if self.topdown else 5e-4) if self.weight_decay is None else self.weight_decay
        self._make(inputs, x.device, decay, last_relu=self.loss != "bp")
        pairs, labels = train

        def loss(z: Tensor) -> Tensor:
            return link_loss(z, pairs, labels, "ff" if self.loss == "ff" else "ce", self.theta)

        def quality(scores: Tensor) -> float:
            assert held is not None
            return _auc(held[1], scores)

        def scores(z: Tensor) -> Tensor:
            assert held is not None
            return self._score(z, held[0])

        if self.topdown:
            run = self._runs(x, graph)
            found = held and (lambda: quality(self._over_time(run, x, None, scores)))
            self._fit_in_time(run, x, None, loss, found)
        elif self.loss == "bp":
            runs, whole = self._plain(x, graph), LocalLayer(self.layers_, self._adam(decay))
            found = held and (lambda: quality(scores(self._through(runs))))
            self._train(self.layers_, lambda: whole.update(loss(self._through(runs))), found)
        else:
            self._greedy(x, graph, loss, scores=scores, quality=held and quality)

    def _inputs(self, edges: Tensor) -> tuple[Tensor, Propagation]:
        x = self.x_ if self.loss == "bp" else row_norm(self.x_)
        return x, Propagation(edges, len(x), device=x.device, dtype=x.dtype)

    def _score(self, z: Tensor, pairs: Tensor) -> Tensor:
        return link_logits(z, pairs, "ff" if self.loss == "ff" else "ce", self.theta).sigmoid()

    @torch.no_grad()
    def predict_proba(self, pairs: Any) -> ndarray:
        """Probabilities (m, 2) that there is no link, and that there is one.

        Args:
            pairs: (2, m) node numbers, or a `Data` with `edge_label_index` and what is known of the graph by now as
                `edge_index` (default: the edges of `fit`).
        """
        check_is_fitted(self, "layers_")
        rows, _ = _pairs(pairs, len(self.x_), device=self.x_.device)
        edges = self.edge_index_
        if getattr(pairs, "edge_index", None) is not None:
            edges = checked_graph(Data(x=self.x_, edge_index=pairs.edge_index))[1]
        z, graph = self._inputs(edges)
        if self.topdown:
            chance = self._over_time(self._runs(z, graph), z, None, lambda z: self._score(z, rows))
        elif self.loss == "bp":
            for layer in self.layers_:
                z = layer(z, edges)
            chance = self._score(z, rows)
        else:
            chance = z.new_zeros(rows.shape[1])
            for layer in self.layers_:
                z = layer(z, edges)
                chance, z = chance + self._score(z, rows), row_norm(z)
            chance = chance / len(self.layers_)
        found: ndarray = torch.stack([1 - chance, chance], 1).cpu().numpy()
        return found

    def predict(self, pairs: Any) -> ndarray:
        """Whether each pair is a link, 0 or 1."""
        found: ndarray = self.predict_proba(pairs)[:, 1] > 0.5
        return found.astype(np.int64)

    def score(self, data: Any, y: Any = None, sample_weight: Any = None) -> float:
        """Area under the ROC curve over the pairs of `data` (`edge_label_index`, `edge_label`)."""
        if y is not None or sample_weight is not None:
            raise ValueError("score reads pairs and labels from data")
        check_is_fitted(self, "layers_")
        labels = _pairs(data, len(self.x_), labelled=True)[1]
        return _auc(labels, torch.from_numpy(self.predict_proba(data)[:, 1])) / 100


def _pairs(data: Any, n: int, *, labelled: bool = False, device: Any = None) -> tuple[Tensor, Tensor]:
    """Pairs of nodes, checked, and their labels as floats (none where they are not asked for)."""
    rows, labels = getattr(data, "edge_label_index", data), getattr(data, "edge_label", None)
    if labelled and (rows is data or rows is None or labels is None):
        raise ValueError("data must have edge_label_index and edge_label")
    rows = rows if isinstance(rows, Tensor) else torch.as_tensor(np.asarray(rows))
    if rows.ndim != 2 or len(rows) != 2 or rows.is_floating_point() or rows.dtype == torch.bool:
        raise ValueError(f"pairs must be node numbers of shape (2, m), got {rows.dtype} of shape {tuple(rows.shape)}")
    if rows.numel() and not 0 <= int(rows.min()) <= int(rows.max()) < n:
        raise ValueError(f"pairs must be from 0 to {n - 1}, got {rows.min()} to {rows.max()}")
    rows = rows.long().to(device)
    if not labelled:
        return rows, rows.new_zeros(0)
    labels = torch.as_tensor(labels)
    if labels.shape != rows.shape[1:]:
        raise ValueError(f"edge_label must have a label for each of {rows.shape[1]} pairs, got {tuple(labels.shape)}")
    kinds = torch.unique(labels).tolist()
    if kinds != [0, 1]:
        raise ValueError(f"edge_label must hold links (1) and others (0), got {kinds[:5]}")
    return rows, labels.float()


def _auc(labels: Tensor, scores: Tensor) -> float:
    if not bool(torch.isfinite(scores).all()):
        raise ValueError("scores are not finite: lr is too large, or x")
    return 100 * float(roc_auc_score(labels.cpu().numpy(), scores.detach().cpu().numpy()))
