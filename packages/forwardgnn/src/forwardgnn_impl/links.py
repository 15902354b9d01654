"""Forward learning of links: each layer scores pairs by itself (section 3.4), with or without signals from above."""

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy import ndarray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.metrics import roc_auc_score
from sklearn.utils.validation import check_is_fitted
from torch import Tensor
from torch_geometric.data import Data
from torch_geometric.transforms import RandomLinkSplit
from torch_geometric.utils import is_undirected

from .local import LocalLayer, Stopper
from .losses import link_logits, link_loss
from .model import History, _seed
from .propagation import Features, GraphLayer, Propagation, make_conv, row_norm

__all__ = ["ForwardLinkPredictor", "split_links"]


def split_links(data: Data, *, seed: int = 0, val: float = 0.16, test: float = 0.2) -> tuple[Data, Data, Data]:
    """The paper's split: 64, 16 and 20 % of the links, each part with as many pairs that are none.

    Raises:
        ValueError: a directed graph.
    """
    if not is_undirected(data.edge_index, num_nodes=data.num_nodes):
        raise ValueError("edge_index must hold each edge in both directions: links are pairs without a direction")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        split = RandomLinkSplit(is_undirected=True, num_val=val, num_test=test, neg_sampling_ratio=1.0)
        found: tuple[Data, Data, Data] = split(data)
    return found


class ForwardLinkPredictor(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Links between nodes, by layers that learn by themselves.

    Args:
        loss: of a layer: "ce" (cross entropy of z_i . z_j), "ff" (goodness of z_i * z_j), or "bp": the baseline, one
            loss for the whole network.
        topdown: each layer also reads the outputs of the one above ("ce" only); layers train together.
        conv, layers, hidden, theta, epochs, lr, patience, val_every, alternating, cached, random_state: as
            `ForwardGNN`.
        weight_decay: None: 5e-4, and 0 with `topdown`, as in the official code.
        time_steps: of prediction with `topdown`; steps 2 to 9 are averaged.

    After `fit`: `layers_`, `history_`, `classes_`, `best_validation_` (AUC in %).
    """

    layers_: Any

    def __init__(
        self,
        loss: Any = "ce",
        conv: Any = "gcn",
        layers: Any = 2,
        *,
        topdown: Any = False,
        hidden: Any = 128,
        theta: Any = 2.0,
        epochs: Any = 1000,
        lr: Any = 1e-3,
        weight_decay: Any = None,
        patience: Any = 100,
        val_every: Any = 2,
        alternating: Any = True,
        time_steps: Any = 10,
        cached: Any = True,
        random_state: Any = 0,
    ) -> None:
        self.loss = loss
        self.conv = conv
        self.layers = layers
        self.topdown = topdown
        self.hidden = hidden
        self.theta = theta
        self.epochs = epochs
        self.lr = lr
        self.weight_decay = weight_decay
        self.patience = patience
        self.val_every = val_every
        self.alternating = alternating
        self.time_steps = time_steps
        self.cached = cached
        self.random_state = random_state

    def fit(self, train: Data, val: Data | None = None) -> "ForwardLinkPredictor":
        """Learn links.

        Args:
            train: x, edge_index, and pairs `edge_label_index` with `edge_label` (1: link, 0: none), as of
                `split_links`. A graph without pairs is split here; a quarter of what is left validates.
            val: pairs to stop by.

        Raises:
            ValueError: settings out of range, or a graph that cannot be used.
        """
        if self.loss not in ("ce", "ff", "bp"):
            raise ValueError(f"loss must be ce, ff or bp, got {self.loss!r}")
        if self.topdown and self.loss != "ce":
            raise ValueError(f"topdown needs loss='ce', got {self.loss!r}")
        for name in ("layers", "hidden", "epochs", "val_every", "time_steps"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
                raise ValueError(f"{name} must be a positive integer, got {value!r}")
        seed = _seed(self.random_state)
        if getattr(train, "edge_label_index", None) is None:
            train, val, _ = split_links(train, seed=seed, val=0.2, test=0.0)
        for part in (train, val):
            if part is not None:
                _check(part)
        self.classes_ = np.array([0, 1])
        self.history_, self.train_, self.best_validation_ = History(), train, float("nan")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self._fit(train, val)
        if val is not None and self.best_validation_ <= 50:
            warnings.warn(
                f"no better than chance on held-out pairs (AUC {self.best_validation_ / 100:.3f})", UserWarning,
                stacklevel=2,
            )  # fmt: skip
        return self

    def _fit(self, train: Data, val: Data | None) -> None:
        x = train.x if self.loss == "bp" else row_norm(train.x)
        count, hidden = int(self.layers), int(self.hidden)
        widths = [x.shape[1], *[hidden] * count]
        if self.topdown:
            inputs = [widths[i] + (hidden if i < count - 1 else 0) for i in range(count)]
        else:
            inputs = widths[:-1]
        decay = (0.0 if self.topdown else 5e-4) if self.weight_decay is None else self.weight_decay

        def adam(parameters: Any) -> torch.optim.Optimizer:
            return torch.optim.Adam(parameters, lr=self.lr, weight_decay=decay)

        made = [
            GraphLayer(make_conv(self.conv, inputs[i], hidden), relu=self.loss != "bp" or i < count - 1)
            for i in range(count)
        ]
        self.layers_ = torch.nn.ModuleList([LocalLayer(layer, adam) for layer in made]).to(x.device)
        graph = Propagation(train.edge_index, len(x), device=x.device, dtype=x.dtype)
        if self.topdown:
            self._fit_topdown(train, val, x, graph)
        elif self.loss == "bp":
            self._fit_whole(train, val, x, graph, adam)
        else:
            self._fit_greedy(train, val, x, graph)

    def _stop(self, module: torch.nn.Module, epoch: Any, quality: Any) -> None:
        stopper = Stopper(module, int(self.patience))
        losses, found = [], []
        for i in range(int(self.epochs)):
            losses.append(epoch())
            if quality is not None and (i + 1) % self.val_every == 0:
                with torch.no_grad():
                    found.append(quality())
                if stopper.step(found[-1]):
                    break
        stopper.restore()
        self.history_.loss.append(losses)
        self.history_.validation.append(found)
        self.history_.epochs.append(len(losses))
        self.best_validation_ = stopper.best if found else float("nan")

    def _fit_greedy(self, train: Data, val: Data | None, x: Tensor, graph: Propagation) -> None:
        summed = None if val is None else torch.zeros(val.edge_label_index.shape[1], device=x.device)
        layers: list[Any] = list(self.layers_)
        for layer in layers:
            outputs = layer.module.on(Features(x), graph, cached=self.cached)

            def epoch(outputs: Any = outputs, layer: Any = layer) -> float:
                value = link_loss(outputs(), train.edge_label_index, train.edge_label.float(), self.loss, self.theta)
                return float(layer.update(value))

            def scores(outputs: Any = outputs) -> Tensor:
                assert val is not None
                return link_logits(outputs(), val.edge_label_index, self.loss, self.theta).sigmoid()

            def quality(scores: Any = scores, summed: Any = summed) -> float:
                assert val is not None
                return _auc(val.edge_label, summed + scores())

            self._stop(layer, epoch, None if val is None else quality)
            with torch.no_grad():
                if summed is not None:
                    summed = summed + scores()
                x = row_norm(outputs())

    def _fit_whole(self, train: Data, val: Data | None, x: Tensor, graph: Propagation, adam: Any) -> None:
        layers: list[Any] = [layer.module for layer in self.layers_]  # type: ignore[union-attr]
        first = layers[0].on(Features(x), graph, cached=self.cached)
        empty = Features(x.new_zeros(len(x), 0))
        rest = [layer.on(empty, graph, cached=self.cached) for layer in layers[1:]]
        optimizer = adam(self.layers_.parameters())

        def outputs() -> Tensor:
            z = first()
            for run in rest:
                z = run(z)
            return z  # type: ignore[no-any-return]

        def epoch() -> float:
            optimizer.zero_grad()
            loss = link_loss(outputs(), train.edge_label_index, train.edge_label.float())
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            return float(loss.detach())

        def quality() -> float:
            assert val is not None
            return _auc(val.edge_label, link_logits(outputs(), val.edge_label_index))

        self._stop(self.layers_, epoch, None if val is None else quality)

    def _runs(self, x: Tensor, graph: Propagation) -> list[Any]:
        """Of each layer a function of what is below and above; the top layer reads nothing from above."""
        layers: list[Any] = [layer.module for layer in self.layers_]  # type: ignore[union-attr]
        first = layers[0].on(Features(x), graph, cached=self.cached)
        empty = Features(x.new_zeros(len(x), 0))
        rest = [layer.on(empty, graph, cached=self.cached) for layer in layers[1:]]

        def above(state: Tensor | None) -> list[Tensor]:
            return [] if state is None else [row_norm(state)]

        made: list[Any] = [lambda _, up: first(*above(up))]
        made += [lambda down, up, f=f: f(torch.cat([row_norm(down), *above(up)], 1)) for f in rest]
        return made

    def _turns(self) -> list[list[int]]:
        every = list(range(int(self.layers)))
        return [every[::2], every[1::2]] if self.alternating else [every]

    def _states(self, run: Sequence[Any], x: Tensor) -> list[Any]:
        states: list[Any] = [x]
        with torch.no_grad():
            for i, layer in enumerate(run):
                up = x.new_zeros(len(x), int(self.hidden)) if i < len(run) - 1 else None
                states.append(layer(states[-1], up))
        return [*states, None]

    def _fit_topdown(self, train: Data, val: Data | None, x: Tensor, graph: Propagation) -> None:
        run = self._runs(x, graph)
        states = self._states(run, x)
        labels = train.edge_label.float()
        layers: list[Any] = list(self.layers_)

        def epoch() -> float:
            total = 0.0
            for turn in self._turns():
                seen = list(states)
                for i in turn:
                    z = run[i](seen[i], seen[i + 2])
                    total += layers[i].update(link_loss(z, train.edge_label_index, labels))
                    states[i + 1] = z.detach()
            return total

        def quality() -> float:
            assert val is not None
            return _auc(val.edge_label, self._over_time(run, x, val.edge_label_index))

        self._stop(self.layers_, epoch, None if val is None else quality)

    def _over_time(self, run: Sequence[Any], x: Tensor, pairs: Tensor) -> Tensor:
        states, found, count = self._states(run, x), torch.zeros(pairs.shape[1], device=x.device), 0
        for time in range(int(self.time_steps)):
            fresh = list(states)
            for turn in self._turns():
                seen = list(fresh)
                for i in turn:
                    fresh[i + 1] = run[i](seen[i], seen[i + 2])
                    if 2 <= time <= 9 or self.time_steps <= 2:
                        found, count = found + link_logits(fresh[i + 1], pairs).sigmoid(), count + 1
            states = fresh
        return found / count

    @torch.no_grad()
    def predict_proba(self, pairs: Any) -> ndarray:
        """Probabilities (m, 2) that there is no link, and that there is one.

        Args:
            pairs: (2, m) node numbers, or a `Data` with `edge_label_index`.
        """
        check_is_fitted(self, "layers_")
        data = self.train_
        rows = torch.as_tensor(np.asarray(getattr(pairs, "edge_label_index", pairs)), device=data.x.device)
        if rows.ndim != 2 or len(rows) != 2 or rows.is_floating_point():
            raise ValueError(f"pairs must be node numbers of shape (2, m), got {tuple(rows.shape)}")
        if rows.numel() and not 0 <= int(rows.min()) <= int(rows.max()) < len(data.x):
            raise ValueError(f"pairs must be from 0 to {len(data.x) - 1}, got {rows.min()} to {rows.max()}")
        # what is known of the graph at prediction may be more than in training
        edges = data.edge_index if getattr(pairs, "edge_index", None) is None else pairs.edge_index
        x = data.x if self.loss == "bp" else row_norm(data.x)
        graph = Propagation(edges, len(x), device=x.device, dtype=x.dtype)
        if self.topdown:
            chance = self._over_time(self._runs(x, graph), x, rows)
        else:
            chance = torch.zeros(rows.shape[1], device=x.device)
            z = x
            for layer in self.layers_:
                z = layer(z, edges)
                chance = chance + link_logits(z, rows, "ce" if self.loss == "bp" else self.loss, self.theta).sigmoid()
                if self.loss == "bp":
                    chance = link_logits(z, rows).sigmoid()
                else:
                    z = row_norm(z)
            chance = chance if self.loss == "bp" else chance / len(self.layers_)
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
        return _auc(data.edge_label, torch.from_numpy(self.predict_proba(data)[:, 1])) / 100


def _check(data: Data) -> None:
    for name in ("x", "edge_index", "edge_label_index", "edge_label"):
        if getattr(data, name, None) is None:
            raise ValueError(f"data must have {name}")
    if not bool(torch.isfinite(data.x).all()):
        raise ValueError("x must be finite, got NaN or an infinite value")
    labels = torch.unique(data.edge_label).tolist()
    if labels != [0, 1]:
        raise ValueError(f"edge_label must hold links (1) and others (0), got {labels}")


def _auc(labels: Tensor, scores: Tensor) -> float:
    return 100 * float(roc_auc_score(labels.cpu().numpy(), scores.detach().cpu().numpy()))
