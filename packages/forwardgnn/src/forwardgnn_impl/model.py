"""Forward learning of node classes: single-forward with and without top-down signals, forward-forward in two forms."""

import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy import ndarray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from .augment import LabelAppender, VirtualNodeAugmenter, side_by_side, wrong_classes
from .baselines import BASELINES, Baseline
from .graphs import NodeTask, as_task
from .local import LocalLayer, Stopper
from .losses import ff_loss, goodness, sf_logits
from .propagation import Features, GraphLayer, Propagation, make_conv, row_norm

__all__ = ["ForwardGNN", "ForwardNodeClassifier", "History"]

Method = Literal["sf", "sf-top2input", "sf-top2loss", "ff-la", "ff-vn", "bp", "mlp", "dfa", "cafo", "pepita"]


@dataclass
class History:
    """What happened in training."""

    loss: list[list[float]] = field(default_factory=list)
    """a list a layer (or one, where layers train together): the loss of each epoch"""
    validation: list[list[float]] = field(default_factory=list)
    """accuracy in % of each validation"""
    epochs: list[int] = field(default_factory=list)
    """epochs until the end of each layer"""
    passes: int = 0
    """forward passes of a layer over a graph, all copies counted, in the last prediction"""


class ForwardGNN(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A graph network whose layers learn by themselves; defaults are the paper's recipe (section 4).

    Args:
        method: "sf" (single-forward: class nodes, cross entropy of inner products), "sf-top2input" and "sf-top2loss"
            (the same with signals from the layers above), "ff-la" and "ff-vn" (forward-forward with labels beside the
            features, or with class nodes), or a baseline: "bp", "mlp", "dfa", "cafo", "pepita".
        conv: "gcn", "sage", "gat", or a function of (inputs, outputs) that gives a module of (x, edge_index).
        layers: how many.
        hidden: width of each.
        theta: of the goodness.
        tau: temperature of single-forward.
        epochs: of each layer; in total where layers train together (top-down and "bp", "dfa", "pepita").
        lr: learning rate of Adam.
        weight_decay: of Adam.
        patience: validations without a better one before a layer stops; -1: none stops. Needs `val_mask`.
        val_every: epochs between validations.
        negatives: wrong classes a node for forward-forward; None: all K - 1.
        goodness: "mean" or "sum" over features in prediction of forward-forward.
        direction: of edges to class nodes: "both", or "to class".
        alternating: "sf-top2input" updates even layers first, then odd ones with the new states; False: all at once.
        time_steps: of prediction by "sf-top2input"; answers of steps 2 to 9 are averaged.
        clip: largest gradient norm of a layer of "sf-top2loss".
        workers: threads that update layers side by side where the method lets them; the result is the same.
        cached: False: the obvious form of each layer at every epoch.
        random_state: seed.

    After `fit`: `classes_`, `layers_`, `history_`, `n_features_in_`, `best_validation_` (%, NaN without `val_mask`).
    """

    layers_: Any

    def __init__(
        self,
        method: Any = "sf",
        conv: Any = "gcn",
        layers: Any = 2,
        *,
        hidden: Any = 128,
        theta: Any = 2.0,
        tau: Any = 1.0,
        epochs: Any = 1000,
        lr: Any = 1e-3,
        weight_decay: Any = 5e-4,
        patience: Any = 100,
        val_every: Any = 2,
        negatives: Any = None,
        goodness: Any = "mean",
        direction: Any = "both",
        alternating: Any = True,
        time_steps: Any = 10,
        clip: Any = 1.0,
        workers: Any = 1,
        cached: Any = True,
        random_state: Any = 0,
    ) -> None:
        self.method = method
        self.conv = conv
        self.layers = layers
        self.hidden = hidden
        self.theta = theta
        self.tau = tau
        self.epochs = epochs
        self.lr = lr
        self.weight_decay = weight_decay
        self.patience = patience
        self.val_every = val_every
        self.negatives = negatives
        self.goodness = goodness
        self.direction = direction
        self.alternating = alternating
        self.time_steps = time_steps
        self.clip = clip
        self.workers = workers
        self.cached = cached
        self.random_state = random_state

    # Interface -------------------------------------------------------------------------------------------------------

    def fit(self, data: Any, y: Any = None) -> "ForwardGNN":
        """Learn the classes of the nodes in `train_mask`.

        Args:
            data: `torch_geometric.data.Data` with x, edge_index, y (-1: unknown), train_mask, val_mask (may be left
                out). Without `train_mask` all nodes with a class are learnt from.
            y: labels instead of `data.y`.

        Raises:
            ValueError: settings out of range, or a graph that cannot be used.
        """
        self._check()
        task = as_task(data, y)
        self._warn(task)
        seed = _seed(self.random_state)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self._fit(task, torch.Generator().manual_seed(seed))
        return self

    def predict_proba(self, data: Any = None) -> ndarray:
        """Probabilities of the classes, (n, K), for all nodes.

        Args:
            data: a graph of as many nodes with the features and labels to read; None: the one of `fit`.
        """
        check_is_fitted(self, "layers_")
        task = self.task_ if data is None else as_task(data, None, like=self.task_)
        with torch.no_grad():
            found: ndarray = self._predict(task).cpu().numpy()
        return found

    def predict(self, data: Any = None) -> ndarray:
        """The likeliest class of each node, (n,)."""
        found: ndarray = self.classes_[self.predict_proba(data).argmax(1)]
        return found

    def score(self, data: Any = None, y: Any = None, sample_weight: Any = None) -> float:
        """Accuracy on `test_mask` of the graph (default: all nodes that were not learnt from)."""
        if y is not None or sample_weight is not None:
            raise ValueError("score reads labels and test_mask from data")
        guess = self.predict(data)
        task = self.task_ if data is None else as_task(data, None, like=self.task_)
        mask = task.test & (task.y >= 0)
        if not bool(mask.any()):
            raise ValueError("test_mask must hold a node with a class")
        right = self.classes_[task.y[mask].cpu().numpy()]
        return float((guess[mask.cpu().numpy()] == right).mean())

    # Checks ----------------------------------------------------------------------------------------------------------

    def _check(self) -> None:
        if self.method not in get_args(Method):
            raise ValueError(f"method must be one of {', '.join(get_args(Method))}, got {self.method!r}")
        for name in ("layers", "hidden", "epochs", "val_every", "time_steps", "workers"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
                raise ValueError(f"{name} must be a positive integer, got {value!r}")
        for name in ("tau", "lr"):
            if not 0 < float(getattr(self, name)) < float("inf"):
                raise ValueError(f"{name} must be positive, got {getattr(self, name)!r}")
        if self.weight_decay < 0:
            raise ValueError(f"weight_decay must not be negative, got {self.weight_decay!r}")
        if self.negatives is not None and self.negatives < 1:
            raise ValueError(f"negatives must be at least 1, got {self.negatives!r}")
        if self.direction not in ("both", "to class"):
            raise ValueError(f"direction must be 'both' or 'to class', got {self.direction!r}")
        if self.goodness not in ("mean", "sum"):
            raise ValueError(f"goodness must be 'mean' or 'sum', got {self.goodness!r}")

    def _warn(self, task: NodeTask) -> None:
        seen = torch.bincount(task.y[task.train], minlength=task.n_classes)
        if bool((seen == 0).any()):
            names = ", ".join(str(c) for c in task.classes[(seen == 0).cpu().numpy()])
            warnings.warn(f"no node to learn from has class {names}", UserWarning, stacklevel=3)

    # Learning --------------------------------------------------------------------------------------------------------

    def _fit(self, task: NodeTask, generator: torch.Generator) -> None:
        self.task_, self.classes_, self.n_features_in_ = task, task.classes, task.x.shape[1]
        self.history_ = History()
        self.best_validation_ = float("nan")
        self.generator_ = generator
        self._known = task.train | task.val
        if self.method in BASELINES:
            self.baseline_ = BASELINES[self.method](self, task)
            self.layers_ = self.baseline_.layers
            self.baseline_.fit()
            return
        self.augmenter_ = VirtualNodeAugmenter(
            task.n_classes, task.x.shape[1], direction=self.direction, seed=generator
        )
        self.appender_ = LabelAppender(task.n_classes)
        self._prepared: dict[Any, Any] = {}
        fit: Callable[[NodeTask], None] = {
            "sf": self._fit_sf, "sf-top2input": self._fit_top2input, "sf-top2loss": self._fit_top2loss,
            "ff-la": self._fit_ff, "ff-vn": self._fit_ff,
        }[self.method]  # fmt: skip
        fit(task)

    def _local(self, inputs: int, *, clip: float | None = None) -> LocalLayer:
        layer = GraphLayer(make_conv(self.conv, inputs, int(self.hidden))).to(self.task_.x.device)
        return LocalLayer(layer, lambda p: torch.optim.Adam(p, lr=self.lr, weight_decay=self.weight_decay), clip=clip)

    def _train(
        self, module: torch.nn.Module, epoch: Callable[[], float], quality: Callable[[], float], has_val: bool
    ) -> None:
        """Epochs until validation has not improved for long; the best weights stay."""
        stopper = Stopper(module, int(self.patience))
        losses: list[float] = []
        found: list[float] = []
        for i in range(int(self.epochs)):
            losses.append(epoch())
            if has_val and (i + 1) % self.val_every == 0:
                with torch.no_grad():
                    found.append(quality())
                if stopper.step(found[-1]):
                    break
        stopper.restore()
        self.history_.loss.append(losses)
        self.history_.validation.append(found)
        self.history_.epochs.append(len(losses))
        self.best_validation_ = stopper.best if found else float("nan")

    # Single-forward --------------------------------------------------------------------------------------------------

    def _class_graph(self, task: NodeTask) -> tuple[Tensor, Propagation, Tensor]:
        """Normalised features, graph with class nodes, and their labels: one-hot, uniform where unknown."""
        augmented = self.augmenter_(task.x, task.edge_index, task.y, task.train)
        labels = torch.cat([self.appender_.labels(task.y, task.train), torch.eye(task.n_classes).to(task.x)])
        graph = Propagation(augmented.edge_index, len(augmented.x), device=task.x.device, dtype=task.x.dtype)
        return row_norm(augmented.x), graph, labels.to(task.x)

    def _logits(self, z: Tensor, rows: Tensor | slice, n: int) -> Tensor:
        return sf_logits(z[:n][rows], z[n:], self.tau)

    def _fit_sf(self, task: NodeTask) -> None:
        x, graph, _ = self._class_graph(task)
        n, y = task.n, task.y
        summed = torch.zeros(n, task.n_classes, device=task.x.device)
        self.layers_ = torch.nn.ModuleList()
        for _ in range(int(self.layers)):
            layer = self._local(x.shape[1])
            self.layers_.append(layer)
            outputs = layer.module.on(Features(x), graph, cached=self.cached)

            def epoch(outputs: Any = outputs, layer: LocalLayer = layer) -> float:
                logits = self._logits(outputs(), task.train, n)
                return layer.update(torch.nn.functional.cross_entropy(logits, y[task.train]))

            def quality(outputs: Any = outputs, summed: Tensor = summed) -> float:
                found = summed[task.val] + self._logits(outputs(), task.val, n).softmax(1)
                return _accuracy(found, y[task.val])

            self._train(layer, epoch, quality, bool(task.val.any()))
            with torch.no_grad():
                z = outputs()
                summed = summed + self._logits(z, slice(None), n).softmax(1)
                x = row_norm(z)

    def _predict_sf(self, task: NodeTask) -> Tensor:
        """One pass: the mean over layers of softmax probabilities."""
        x, graph, _ = self._class_graph(task)
        found = torch.zeros(task.n, task.n_classes, device=task.x.device)
        for layer in self.layers_:
            z = layer(x, graph.edge_index)
            self.history_.passes += 1
            found = found + self._logits(z, slice(None), task.n).softmax(1)
            x = row_norm(z)
        return found / len(self.layers_)

    # Top-down signals ------------------------------------------------------------------------------------------------

    def _bottom_up(self, run: Sequence[Any], x: Tensor, labels: Tensor) -> list[Tensor]:
        """States of a pass with zeros for what would come from above: [x, s_1 .. s_L, labels]."""
        states = [x]
        with torch.no_grad():
            for i, layer in enumerate(run):
                width = labels.shape[1] if i == len(run) - 1 else int(self.hidden)
                states.append(layer(states[-1], x.new_zeros(len(x), width)))
        return [*states, labels]

    def _runs(self, x: Tensor, graph: Propagation) -> list[Any]:
        """For each layer a function of the states below and above (both normalised here)."""
        first = self.layers_[0].module.on(Features(x), graph, cached=self.cached)
        empty = Features(x.new_zeros(len(x), 0))
        others = [layer.module.on(empty, graph, cached=self.cached) for layer in list(self.layers_)[1:]]
        made: list[Any] = [lambda below, above: first(row_norm(above))]
        made += [lambda below, above, f=f: f(torch.cat([row_norm(below), row_norm(above)], 1)) for f in others]
        return made

    def _turns(self) -> list[list[int]]:
        every = list(range(int(self.layers)))
        return [every[::2], every[1::2]] if self.alternating else [every]

    def _fit_top2input(self, task: NodeTask) -> None:
        x, graph, labels = self._class_graph(task)
        n, y, count = task.n, task.y, int(self.layers)
        widths = [x.shape[1], *[int(self.hidden)] * count, task.n_classes]
        self.layers_ = torch.nn.ModuleList([self._local(widths[i] + widths[i + 2]) for i in range(count)])
        run = self._runs(x, graph)
        states = self._bottom_up(run, x, labels)

        def update(i: int, below: Tensor, above: Tensor) -> tuple[Tensor, float]:
            z = run[i](below, above)
            loss = torch.nn.functional.cross_entropy(self._logits(z, task.train, n), y[task.train])
            return z.detach(), self.layers_[i].update(loss)

        with _pool(int(self.workers)) as pool:

            def epoch() -> float:
                nonlocal states
                fresh = list(states)
                total = 0.0
                for turn in self._turns():
                    # layers of a turn see the states of before it
                    seen = list(fresh)
                    made = pool(lambda i, seen=seen: update(i, seen[i], seen[i + 2]), turn)
                    for i, (z, loss) in zip(turn, made, strict=True):
                        fresh[i + 1] = z
                        total += loss
                states = fresh
                return total

            def quality() -> float:
                return _accuracy(self._over_time(run, x, labels, n)[task.val], y[task.val])

            self._train(self.layers_, epoch, quality, bool(task.val.any()))

    def _over_time(self, run: Sequence[Any], x: Tensor, labels: Tensor, n: int) -> Tensor:
        """Probabilities, averaged over layers and the later time steps."""
        states = self._bottom_up(run, x, labels)
        self.history_.passes += len(run)
        found, count = x.new_zeros(n, labels.shape[1]), 0
        for time in range(int(self.time_steps)):
            fresh = list(states)
            for turn in self._turns():
                seen = list(fresh)
                for i in turn:
                    fresh[i + 1] = run[i](seen[i], seen[i + 2])
                    self.history_.passes += 1
                    if 2 <= time <= 9 or self.time_steps <= 2:
                        found = found + self._logits(fresh[i + 1], slice(None), n).softmax(1)
                        count += 1
            states = fresh
        return found / count

    def _predict_top2input(self, task: NodeTask) -> Tensor:
        x, graph, labels = self._class_graph(task)
        return self._over_time(self._runs(x, graph), x, labels, task.n)

    def _fit_top2loss(self, task: NodeTask) -> None:
        x, graph, _ = self._class_graph(task)
        n, y, count = task.n, task.y, int(self.layers)
        widths = [x.shape[1], *[int(self.hidden)] * count]
        self.layers_ = torch.nn.ModuleList([self._local(widths[i], clip=self.clip) for i in range(count)])
        run = self._plain_runs(x, graph)
        with torch.no_grad():
            states = self._upwards(run, x)

        def update(i: int, seen: Sequence[Tensor]) -> tuple[Tensor, float]:
            z = run[i](seen[i])
            logits = self._logits(_with_above(z, seen[i + 2 :]), task.train, n)
            return row_norm(z.detach()), self.layers_[i].update(
                torch.nn.functional.cross_entropy(logits, y[task.train])
            )

        with _pool(int(self.workers)) as pool:

            def epoch() -> float:
                nonlocal states
                seen = list(states)
                made = pool(lambda i: update(i, seen), range(count))
                states = [states[0], *(z for z, _ in made)]
                return sum(loss for _, loss in made)

            def quality() -> float:
                return _accuracy(self._with_upper(run, x, n)[task.val], y[task.val])

            self._train(self.layers_, epoch, quality, bool(task.val.any()))

    def _plain_runs(self, x: Tensor, graph: Propagation) -> list[Any]:
        first = self.layers_[0].module.on(Features(x), graph, cached=self.cached)
        empty = Features(x.new_zeros(len(x), 0))
        others = [layer.module.on(empty, graph, cached=self.cached) for layer in list(self.layers_)[1:]]
        return [lambda _: first(), *others]

    def _upwards(self, run: Sequence[Any], x: Tensor) -> list[Tensor]:
        states = [x]
        for layer in run:
            states.append(row_norm(layer(states[-1])))
        return states

    def _with_upper(self, run: Sequence[Any], x: Tensor, n: int) -> Tensor:
        states = [x]
        raw = []
        for layer in run:
            raw.append(layer(states[-1]))
            self.history_.passes += 1
            states.append(row_norm(raw[-1]))
        found = [self._logits(_with_above(z, states[i + 2 :]), slice(None), n).softmax(1) for i, z in enumerate(raw)]
        return torch.stack(found).mean(0)

    def _predict_top2loss(self, task: NodeTask) -> Tensor:
        x, graph, _ = self._class_graph(task)
        return self._with_upper(self._plain_runs(x, graph), x, task.n)

    # Forward-forward -------------------------------------------------------------------------------------------------

    def _copies(self, task: NodeTask, labels: Sequence[Tensor], mask: Tensor) -> tuple[Tensor, Propagation, int]:
        """A graph for each labelling, side by side: normalised inputs, graph, and nodes of each."""
        if self.method == "ff-la":
            x = torch.cat([self.appender_(task.x, each, mask) for each in labels])
            edges, n = [task.edge_index] * len(labels), task.n
        else:
            made = [self.augmenter_(task.x, task.edge_index, each, mask) for each in labels]
            x, edges, n = torch.cat([one.x for one in made]), [one.edge_index for one in made], len(made[0].x)
        graph = Propagation(side_by_side(edges, n), n * len(labels), device=task.x.device, dtype=task.x.dtype)
        return row_norm(x), graph, n

    def _guesses(self, task: NodeTask, known: Tensor, asked: Tensor) -> list[Tensor]:
        """For each class: known labels, and that class at all nodes that are asked for."""
        made = []
        for c in range(task.n_classes):
            labels = task.y.clone()
            labels[~known] = -1
            labels[asked] = c
            made.append(labels)
        return made

    def _fit_ff(self, task: NodeTask) -> None:
        wrong = wrong_classes(task.y, task.n_classes, self.generator_)
        chosen = wrong[:, : self.negatives or task.n_classes - 1]
        labels = [task.y, *chosen.T]
        x, graph, n = self._copies(task, labels, task.train)
        rows = torch.arange(n, device=x.device)[: task.n][task.train]
        asking = bool(task.val.any())
        if asking:
            x_val, graph_val, _ = self._copies(task, self._guesses(task, task.train, task.val), self._known)
            at_val = torch.arange(n, device=x.device)[: task.n][task.val]
            summed = x.new_zeros(int(task.val.sum()), task.n_classes)
        self.layers_ = torch.nn.ModuleList()
        for _ in range(int(self.layers)):
            layer = self._local(x.shape[1])
            self.layers_.append(layer)
            outputs = layer.module.on(Features(x), graph, cached=self.cached)

            def epoch(outputs: Any = outputs, layer: LocalLayer = layer) -> float:
                z = outputs().view(len(labels), n, -1)[:, rows]
                return layer.update(ff_loss(z[0], z[1:], self.theta))

            quality: Callable[[], float] = lambda: float("nan")  # noqa: E731
            if asking:
                of_val = layer.module.on(Features(x_val), graph_val, cached=self.cached)

                def scores(of_val: Any = of_val) -> Tensor:
                    z = of_val().view(task.n_classes, n, -1)[:, at_val]
                    return goodness(z, self.theta, self.goodness).T

                def quality(scores: Any = scores, summed: Tensor = summed) -> float:
                    return _accuracy(summed + scores(), task.y[task.val])

            self._train(layer, epoch, quality, asking)
            with torch.no_grad():
                z = outputs()
                # with class nodes, all graphs go on with the features of the positive one
                x = row_norm(z if self.method == "ff-la" else z[:n].repeat(len(labels), 1))
                if asking:
                    summed = summed + scores()
                    x_val = row_norm(of_val())

    def _predict_ff(self, task: NodeTask) -> Tensor:
        """Nodes without a known class with what is known at the others; known ones as if they were not."""
        known = self._known if len(self._known) == task.n else task.train | task.val
        found = torch.zeros(task.n, task.n_classes, device=task.x.device)
        nobody = torch.zeros_like(known)
        for asked, told in ((~known, known), (known, nobody)):
            if bool(asked.any()):
                found[asked] = self._good(task, self._guesses(task, told, asked), told | asked)[asked]
        return found.softmax(1)

    def _good(self, task: NodeTask, guesses: Sequence[Tensor], mask: Tensor) -> Tensor:
        z, edges, n = self._first(task, guesses, mask)
        graph = Propagation(side_by_side(edges, n), n * len(guesses), device=task.x.device, dtype=task.x.dtype)
        empty = Features(z.new_zeros(len(z), 0))
        found = torch.zeros(task.n, task.n_classes, device=task.x.device)
        for i, layer in enumerate(self.layers_):
            if i:
                z = layer.module.on(empty, graph, cached=self.cached)(row_norm(z))
            self.history_.passes += len(guesses)
            found += goodness(z.view(len(guesses), n, -1)[:, : task.n], self.theta, self.goodness).T
        return found

    def _first(self, task: NodeTask, guesses: Sequence[Tensor], mask: Tensor) -> tuple[Tensor, list[Tensor], int]:
        """The first layer's outputs for each labelling, the graphs' edges, and nodes of each.

        What the labellings share (features, and norms, as each puts the same numbers beside them) is multiplied as one.
        """
        layer, device, dtype = self.layers_[0].module, task.x.device, task.x.dtype
        if self.method == "ff-la":
            n, edges, x = task.n, [task.edge_index] * len(guesses), task.x
            labels = [self.appender_.labels(each, mask).to(task.x) for each in guesses]
            # every labelling has a one where mask holds and 1 / K everywhere else
            length = torch.cat([x, labels[0]], 1).norm(dim=1, keepdim=True) + 1e-8
            run = layer.on(
                Features(x / length), Propagation(edges[0], n, device=device, dtype=dtype), cached=self.cached
            )
            return torch.cat([run(each / length) for each in labels]), edges, n
        made = [self.augmenter_(task.x, task.edge_index, each, mask) for each in guesses]
        n, edges, fixed = len(made[0].x), [one.edge_index for one in made], Features(row_norm(made[0].x))
        graphs = [Propagation(each, n, device=device, dtype=dtype) for each in edges]
        return torch.cat([layer.on(fixed, graph, cached=self.cached)() for graph in graphs]), edges, n

    def _predict(self, task: NodeTask) -> Tensor:
        self.history_.passes = 0
        if self.method in BASELINES:
            baseline: Baseline = self.baseline_
            return baseline.probabilities(task)
        how = {
            "sf": self._predict_sf, "sf-top2input": self._predict_top2input, "sf-top2loss": self._predict_top2loss,
            "ff-la": self._predict_ff, "ff-vn": self._predict_ff,
        }  # fmt: skip
        return how[self.method](task)


def _with_above(z: Tensor, above: Sequence[Tensor]) -> Tensor:
    """The mean of a layer's own output and the states above it."""
    return torch.stack([z, *above]).mean(0)


def _accuracy(scores: Tensor, y: Tensor) -> float:
    return 100 * float((scores.argmax(1) == y).double().mean())


def _seed(random_state: Any) -> int:
    if random_state is None:
        return int(np.random.SeedSequence().generate_state(1)[0])
    if isinstance(random_state, np.random.RandomState):
        return int(random_state.randint(2**31 - 1))
    return int(random_state)


class _pool:
    """Maps a function over layers, in threads where more than one is asked for."""

    def __init__(self, workers: int) -> None:
        self.threads = ThreadPoolExecutor(workers) if workers > 1 else None

    def __enter__(self) -> Callable[[Callable[[int], Any], Sequence[int]], list[Any]]:
        return lambda f, items: list((self.threads.map if self.threads else map)(f, items))

    def __exit__(self, *_: object) -> None:
        if self.threads:
            self.threads.shutdown()


class ForwardNodeClassifier(ForwardGNN):
    """`ForwardGNN` for graphs of your own: held-out nodes where none are given, a figure of skill, a warning.

    Nodes of `val_mask` (or a fifth of the labelled ones that are not to be tested) stop the training; `skill_` is the
    accuracy there minus that of the most frequent class.
    """

    def fit(self, data: Any, y: Any = None) -> "ForwardNodeClassifier":
        """As `ForwardGNN.fit`."""
        self._check()
        task = as_task(data, y)
        if not bool(task.val.any()):
            task = task.with_held_out(0.2, seed=_seed(self.random_state))
        super().fit(task)
        held = task.y[task.val]
        frequent = torch.bincount(task.y[task.train], minlength=task.n_classes).argmax()
        self.trivial_ = float((held == frequent).double().mean()) if len(held) else float("nan")
        self.skill_ = self.best_validation_ / 100 - self.trivial_
        if len(held) and not self.skill_ > 0:
            warnings.warn(
                f"no better than the most frequent class on {len(held)} held-out nodes "
                f"({self.best_validation_:.1f} % against {100 * self.trivial_:.1f} %)",
                UserWarning,
                stacklevel=2,
            )
        return self
