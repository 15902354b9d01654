"""Forward learning of node classes: single-forward with and without top-down signals, forward-forward in two forms."""

import warnings
from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import torch
from numpy import ndarray
from sklearn.utils.validation import check_is_fitted
from torch import Tensor
from torch.nn.functional import cross_entropy

from .augment import LabelAppender, VirtualNodeAugmenter, side_by_side, wrong_classes
from .baselines import BASELINES, Baseline
from .graphs import NodeTask, as_task
from .learner import History, Learner, seed_of
from .losses import ff_loss, goodness, sf_logits
from .propagation import Features, Propagation, row_norm

__all__ = ["ForwardGNN", "ForwardNodeClassifier", "History"]

Method = Literal["sf", "sf-top2input", "sf-top2loss", "ff-la", "ff-vn", "bp", "mlp", "dfa", "cafo", "pepita"]
WAYS = {
    "sf": ("_fit_sf", "_predict_sf"), "sf-top2input": ("_fit_top2input", "_predict_top2input"),
    "sf-top2loss": ("_fit_top2loss", "_predict_top2loss"), "ff-la": ("_fit_ff", "_predict_ff"),
    "ff-vn": ("_fit_ff", "_predict_ff"),
}  # fmt: skip


class ForwardGNN(Learner):
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
        time_steps: of prediction by "sf-top2input"; answers of all but the first two are averaged.
        clip: largest gradient norm of a layer of "sf-top2loss".
        workers: threads that update layers side by side where the method lets them; the result is the same.
        cached: False: the obvious form of each layer at every epoch.
        compat: "official": "sf-top2loss" begins, and predicts, by a pass without norms between its layers.
        random_state: seed, or a generator of numpy.

    After `fit`: `classes_`, `layers_`, `history_`, `n_features_in_`, `best_validation_` (%, NaN without `val_mask`).
    """

    may_be_none = ("negatives",)

    def __init__(
        self, method: Any = "sf", conv: Any = "gcn", layers: Any = 2, *, hidden: Any = 128, theta: Any = 2.0,
        tau: Any = 1.0, epochs: Any = 1000, lr: Any = 1e-3, weight_decay: Any = 5e-4, patience: Any = 100,
        val_every: Any = 2, negatives: Any = None, goodness: Any = "mean", direction: Any = "both",
        alternating: Any = True, time_steps: Any = 10, clip: Any = 1.0, workers: Any = 1, cached: Any = True,
        compat: Any = None, random_state: Any = 0,
    ) -> None:  # fmt: skip
        self.method, self.conv, self.layers, self.hidden = method, conv, layers, hidden
        self.theta, self.tau, self.epochs, self.lr = theta, tau, epochs, lr
        self.weight_decay, self.patience, self.val_every = weight_decay, patience, val_every
        self.negatives, self.goodness, self.direction = negatives, goodness, direction
        self.alternating, self.time_steps, self.clip = alternating, time_steps, clip
        self.workers, self.cached, self.compat, self.random_state = workers, cached, compat, random_state

    # Interface -------------------------------------------------------------------------------------------------------

    def fit(self, data: Any, y: Any = None) -> "ForwardGNN":
        """Learn the classes of the nodes in `train_mask`.

        Args:
            data: `torch_geometric.data.Data` with x, edge_index, y (-1: unknown), train_mask, val_mask (may be left
                out). Without `train_mask` all nodes with a class are learnt from.
            y: labels instead of `data.y`.

        Raises:
            ValueError: settings out of range, a graph that cannot be used, or a loss that is not finite.
        """
        self._check()
        task = as_task(data, y)
        self._warn(task)
        seed = seed_of(self.random_state)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self._fit(task, torch.Generator().manual_seed(seed))
        return self

    def predict_proba(self, data: Any = None) -> ndarray:
        """Probabilities of the classes, (n, K), for all nodes.

        Args:
            data: the features, edges, labels and masks to read, as of `fit`; None: the graph of `fit`. What a graph of
                as many nodes lacks of labels and masks is taken from there.
        """
        check_is_fitted(self, "layers_")
        return self._answer(self._task(data))

    def _task(self, data: Any) -> NodeTask:
        return self.task_ if data is None else as_task(data, None, like=self.task_)

    @torch.no_grad()
    def _answer(self, task: NodeTask) -> ndarray:
        self.history_.passes = 0
        if self.method in BASELINES:
            proba = self.baseline_.probabilities(task)
        else:
            proba = getattr(self, WAYS[self.method][1])(task)
        if not bool(torch.isfinite(proba).all()):
            raise ValueError(f"probabilities are not finite: x is too large, or lr = {self.lr} was")
        found: ndarray = proba.cpu().numpy()
        return found

    def predict(self, data: Any = None) -> ndarray:
        """The likeliest class of each node, (n,)."""
        found: ndarray = self.classes_[self.predict_proba(data).argmax(1)]
        return found

    def score(self, data: Any = None, y: Any = None, sample_weight: Any = None) -> float:
        """Accuracy on `test_mask` of the graph (default: all nodes that were not learnt from)."""
        if y is not None or sample_weight is not None:
            raise ValueError("score reads labels and test_mask from data")
        check_is_fitted(self, "layers_")
        task = self._task(data)
        mask = (task.test & (task.y >= 0)).cpu().numpy()
        if not mask.any():
            raise ValueError("test_mask must hold a node with a class")
        return float((self._answer(task).argmax(1) == task.y.cpu().numpy())[mask].mean())

    def _check(self) -> None:
        if self.method not in get_args(Method):
            raise ValueError(f"method must be one of {', '.join(get_args(Method))}, got {self.method!r}")
        self._check_numbers()
        if self.direction not in ("both", "to class"):
            raise ValueError(f"direction must be 'both' or 'to class', got {self.direction!r}")
        if self.compat not in (None, "official"):
            raise ValueError(f"compat must be None or 'official', got {self.compat!r}")
        if self.goodness not in ("mean", "sum"):
            raise ValueError(f"goodness must be 'mean' or 'sum', got {self.goodness!r}")

    def _warn(self, task: NodeTask) -> None:
        seen = torch.bincount(task.y[task.train], minlength=task.n_classes)
        if bool((seen == 0).any()):
            names = ", ".join(str(c) for c in task.classes[(seen == 0).cpu().numpy()])
            warnings.warn(f"no node to learn from has class {names}", UserWarning, stacklevel=3)

    def _fit(self, task: NodeTask, generator: torch.Generator) -> None:
        self.task_, self.classes_, self.n_features_in_ = task, task.classes, task.x.shape[1]
        self.history_, self.best_validation_ = History(), float("nan")
        if self.method in BASELINES:
            self.baseline_: Baseline = BASELINES[self.method](self, task)
            self.baseline_.fit()
            return
        many, self.generator_ = task.n_classes, generator
        self.augmenter_ = VirtualNodeAugmenter(many, task.x.shape[1], direction=self.direction, seed=generator)
        self.appender_ = LabelAppender(many)
        getattr(self, WAYS[self.method][0])(task)

    def _layers(self, task: NodeTask, inputs: int, *above: int, clip: Any = None) -> None:
        """Layers that read the ones below and, where widths above are given, the ones two above them."""
        widths = [inputs, *[int(self.hidden)] * int(self.layers), *above]
        reads = [widths[i] + (widths[i + 2] if above else 0) for i in range(int(self.layers))]
        self._make(reads, task.x.device, self.weight_decay, clip=clip)

    # Single-forward --------------------------------------------------------------------------------------------------

    def _class_graph(self, task: NodeTask) -> tuple[Tensor, Propagation, Tensor]:
        """Normalised features, graph with class nodes, and their labels: one-hot, uniform where unknown."""
        augmented = self.augmenter_(task.x, task.edge_index, task.y, task.train)
        labels = torch.cat([self.appender_.labels(task.y, task.train).to(task.x), torch.eye(task.n_classes).to(task.x)])
        graph = Propagation(augmented.edge_index, len(augmented.x), device=task.x.device, dtype=task.x.dtype)
        return row_norm(augmented.x), graph, labels

    def _logits(self, z: Tensor, rows: Tensor | slice, n: int) -> Tensor:
        return sf_logits(z[:n][rows], z[n:], self.tau)

    def _proba(self, task: NodeTask, rows: Tensor | slice = slice(None)) -> Callable[[Tensor], Tensor]:
        return lambda z: self._logits(z, rows, task.n).softmax(1)

    def _loss(self, task: NodeTask) -> Callable[[Tensor], Tensor]:
        return lambda z: cross_entropy(self._logits(z, task.train, task.n), task.y[task.train])

    def _quality(self, task: NodeTask, scores: Callable[[], Tensor]) -> Callable[[], float] | None:
        """Accuracy in % of scores of all nodes on those held out."""
        return (lambda: _accuracy(scores()[task.val], task.y[task.val])) if bool(task.val.any()) else None

    def _fit_sf(self, task: NodeTask) -> None:
        x, graph, _ = self._class_graph(task)
        self._layers(task, x.shape[1])
        wanted = task.y[task.val]
        self._greedy(
            x, graph, self._loss(task), scores=self._proba(task, task.val),
            quality=(lambda found: _accuracy(found, wanted)) if len(wanted) else None,
        )  # fmt: skip

    def _predict_sf(self, task: NodeTask) -> Tensor:
        """One pass: the mean over layers of softmax probabilities."""
        x, graph, _ = self._class_graph(task)
        found = []
        for layer in self.layers_:
            z = layer(x, graph.edge_index)
            self.history_.passes += 1
            found.append(self._proba(task)(z))
            x = row_norm(z)
        return torch.stack(found).mean(0)

    # Signals from above ----------------------------------------------------------------------------------------------

    def _fit_top2input(self, task: NodeTask) -> None:
        x, graph, labels = self._class_graph(task)
        self._layers(task, x.shape[1], task.n_classes)
        run = self._runs(x, graph)
        quality = self._quality(task, lambda: self._over_time(run, x, labels, self._proba(task)))
        self._fit_in_time(run, x, labels, self._loss(task), quality)

    def _predict_top2input(self, task: NodeTask) -> Tensor:
        x, graph, labels = self._class_graph(task)
        return self._over_time(self._runs(x, graph), x, labels, self._proba(task))

    def _fit_top2loss(self, task: NodeTask) -> None:
        x, graph, _ = self._class_graph(task)
        self._layers(task, x.shape[1], clip=self.clip)
        run, loss, loose = self._plain(x, graph), self._loss(task), self._loose(task, graph)
        with torch.no_grad():
            states = self._upwards(run, loose, x)[0]

        def update(i: int) -> tuple[Tensor, float]:
            z = run[i](states[i])
            return row_norm(z.detach()), self.layers_[i].update(loss(_with_above(z, states[i + 2 :])))

        with self._pool() as each:

            def epoch() -> float:
                nonlocal states
                made = list(each(update, range(len(run))))
                states = [x, *(z for z, _ in made)]
                return sum(value for _, value in made)

            self._train(self.layers_, epoch, self._quality(task, lambda: self._with_upper(run, loose, x, task)))

    def _loose(self, task: NodeTask, graph: Propagation) -> list[Any] | None:
        """Layers on the features as they are, for the official code's pass without norms."""
        whole = self.augmenter_(task.x, task.edge_index, task.y, task.train)
        return self._plain(whole.x, graph) if self.compat else None

    def _upwards(self, run: Sequence[Any], loose: Sequence[Any] | None, x: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Normalised states of a pass, the features first, and each layer's output on the state below."""
        states, raw, z = [x], [], x
        for layer in loose or run:
            z = layer(z if loose else states[-1])
            states.append(row_norm(z))
            raw.append(z)
        self.history_.passes += len(run) * (2 if loose else 1)
        return states, [layer(below) for layer, below in zip(run, states, strict=False)] if loose else raw

    def _with_upper(self, run: Sequence[Any], loose: Sequence[Any] | None, x: Tensor, task: NodeTask) -> Tensor:
        states, raw = self._upwards(run, loose, x)
        return torch.stack([self._proba(task)(_with_above(z, states[i + 2 :])) for i, z in enumerate(raw)]).mean(0)

    def _predict_top2loss(self, task: NodeTask) -> Tensor:
        x, graph, _ = self._class_graph(task)
        return self._with_upper(self._plain(x, graph), self._loose(task, graph), x, task)

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
        labels = [task.y, *wrong[:, : self.negatives or task.n_classes - 1].T]
        x, graph, n = self._copies(task, labels, task.train)
        self._layers(task, x.shape[1])

        def parts(z: Tensor, copies: int, rows: Tensor) -> Tensor:
            return z.view(copies, n, -1)[:, : task.n][:, rows]

        def loss(z: Tensor) -> Tensor:
            held = parts(z, len(labels), task.train)
            return ff_loss(held[0], held[1:], self.theta)

        def scores(z: Tensor) -> Tensor:
            return goodness(parts(z, task.n_classes, task.val), self.theta, self.goodness).T

        wanted, held = task.y[task.val], None
        if len(wanted):
            held = self._copies(task, self._guesses(task, task.train, task.val), task.train | task.val)[:2]
        self._greedy(
            x, graph, loss, scores=scores, held=held,
            quality=(lambda found: _accuracy(found, wanted)) if len(wanted) else None,
            # with class nodes, all graphs go on with the features of the positive one
            carry=None if self.method == "ff-la" else lambda z: z[:n].repeat(len(labels), 1),
        )  # fmt: skip

    def _predict_ff(self, task: NodeTask) -> Tensor:
        """Nodes without a known class with what is known at the others; known ones as if they were not."""
        known = task.train | task.val
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
            graph = Propagation(edges[0], n, device=device, dtype=dtype)
            run = layer.on(Features(x / length), graph, cached=self.cached)
            return torch.cat([run(each / length) for each in labels]), edges, n
        made = [self.augmenter_(task.x, task.edge_index, each, mask) for each in guesses]
        n, edges, fixed = len(made[0].x), [one.edge_index for one in made], Features(row_norm(made[0].x))
        graphs = [Propagation(each, n, device=device, dtype=dtype) for each in edges]
        return torch.cat([layer.on(fixed, graph, cached=self.cached)() for graph in graphs]), edges, n


def _with_above(z: Tensor, above: Sequence[Tensor]) -> Tensor:
    """The mean of a layer's own output and the states above it."""
    return torch.stack([z, *above]).mean(0)


def _accuracy(scores: Tensor, y: Tensor) -> float:
    return 100 * float((scores.argmax(1) == y).double().mean())


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
            task = task.with_held_out(0.2, seed=seed_of(self.random_state))
        super().fit(task)
        held = task.y[task.val]
        frequent = torch.bincount(task.y[task.train], minlength=task.n_classes).argmax()
        self.trivial_ = float((held == frequent).double().mean()) if len(held) else float("nan")
        self.skill_ = self.best_validation_ / 100 - self.trivial_
        if len(held) and not self.skill_ > 0:
            against = f"({self.best_validation_:.1f} % against {100 * self.trivial_:.1f} %)"
            said = f"no better than the most frequent class on {len(held)} held-out nodes {against}"
            warnings.warn(said, UserWarning, stacklevel=2)
        return self
