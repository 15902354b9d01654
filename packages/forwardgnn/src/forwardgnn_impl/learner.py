"""What models of nodes and of links share: settings, layers one after the other or together, states over time."""

import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from numbers import Real
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassifierMixin
from torch import Tensor

from .local import LocalLayer, Stopper
from .propagation import Features, GraphLayer, Propagation, make_conv, row_norm

__all__ = ["History", "Learner", "seed_of"]


@dataclass
class History:
    """What happened in training."""

    loss: list[list[float]] = field(default_factory=list)
    """a list a layer (or one, where layers train together): the loss of each epoch"""
    validation: list[list[float]] = field(default_factory=list)
    """accuracy in % (of links: area under the ROC curve) of each validation"""
    epochs: list[int] = field(default_factory=list)
    """epochs until the end of each layer"""
    passes: int = 0
    """forward passes of a layer over a graph, all copies counted, in the last prediction"""


def seed_of(random_state: Any) -> int:
    """A seed: a whole number as it is, or drawn from a generator of numpy (None: from the system)."""
    if random_state is None:
        random_state = np.random.default_rng()
    if isinstance(random_state, np.random.RandomState):
        return int(random_state.randint(2**31 - 1))
    if isinstance(random_state, np.random.Generator):
        return int(random_state.integers(2**31 - 1))
    whole = isinstance(random_state, int | np.integer) and not isinstance(random_state, bool)
    if not whole or not 0 <= random_state < 2**63:
        raise ValueError(f"random_state must be a whole number from 0 on, a generator or None, got {random_state!r}")
    return int(random_state)


class Learner(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Settings are attributes, as scikit-learn has them; one that a model lacks is not looked at."""

    layers_: Any
    may_be_none: tuple[str, ...] = ()
    watch: Callable[[float], None] | None = None
    """called after each epoch with the share of training that is done, if none stops early"""

    def _check_numbers(self) -> None:
        """Refuse numbers out of range."""
        for name in ("layers", "hidden", "epochs", "val_every", "time_steps", "workers", "patience", "negatives"):
            value, least = getattr(self, name, 1), -1 if name == "patience" else 1
            if value is None and name in self.may_be_none:
                continue
            whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
            if not whole or value < least:
                what = f"at least {least}" if name in ("patience", "negatives") else "a positive integer"
                raise ValueError(f"{name} must be {what}, got {value!r}")
        limits = {"tau": "positive", "lr": "positive", "clip": "positive", "weight_decay": "not negative", "theta": ""}
        for name, limit in limits.items():
            value = getattr(self, name, 1.0)
            if value is None and name in self.may_be_none:
                continue
            number = isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
            if not number or (limit and value < 0) or (limit == "positive" and value == 0):
                what = "must not be negative" if limit == "not negative" else f"must be {limit or 'a number'}"
                raise ValueError(f"{name} {what}, got {value!r}")

    def _adam(self, decay: float) -> Callable[[Any], torch.optim.Optimizer]:
        """The recipe's optimiser."""
        return partial(torch.optim.Adam, lr=self.lr, weight_decay=decay)

    def _make(
        self, inputs: Sequence[int], device: Any, decay: Any, *, clip: Any = None, last_relu: bool = True
    ) -> None:
        """Layers that read so many numbers each."""
        self.layers_ = torch.nn.ModuleList()
        for i, width in enumerate(inputs):
            conv = make_conv(self.conv, width, int(self.hidden))
            layer = GraphLayer(conv, relu=last_relu or i < len(inputs) - 1).to(device)
            self.layers_.append(LocalLayer(layer, self._adam(decay), clip=clip))

    def _train(self, module: torch.nn.Module, epoch: Callable[[], float], quality: Callable[[], float] | None) -> None:
        """Epochs until validation has not improved for long; the best weights stay."""
        stopper = Stopper(module, int(self.patience))
        losses: list[float] = []
        found: list[float] = []
        many, parts = int(self.epochs), 1 if module is self.layers_ else int(self.layers)
        for i in range(many):
            losses.append(epoch())
            if self.watch is not None:
                self.watch((len(self.history_.loss) + (i + 1) / many) / parts)
            if not math.isfinite(losses[-1]):
                raise ValueError(f"the loss of epoch {i + 1} is {losses[-1]}: lr = {self.lr} is too large")
            if quality is not None and ((i + 1) % self.val_every == 0 or (i + 1 == many and not found)):
                with torch.no_grad():
                    found.append(quality())
                if stopper.step(found[-1]):
                    break
        stopper.restore()
        self.history_.loss.append(losses)
        self.history_.validation.append(found)
        self.history_.epochs.append(len(losses))
        self.best_validation_ = stopper.best if found else float("nan")

    def _greedy(
        self, x: Tensor, graph: Propagation, loss: Callable[[Tensor], Tensor], *, scores: Callable[[Tensor], Tensor],
        quality: Callable[[Tensor], float] | None, held: tuple[Tensor, Propagation] | None = None,
        carry: Callable[[Tensor], Tensor] | None = None,
    ) -> None:  # fmt: skip
        """Each layer by itself, the lowest first.

        Args:
            loss: of a layer's outputs.
            scores: of a layer's outputs, summed over layers for `quality`.
            held: inputs and graph of those outputs, where they are not the ones of training.
            carry: what of the outputs the next layer reads.
        """

        def one(layer: Any, x: Tensor, x_held: Tensor, summed: Any) -> tuple[Tensor, Tensor, Any]:
            outputs = asked = layer.module.on(Features(x), graph, cached=self.cached)
            if held is not None:
                asked = layer.module.on(Features(x_held), held[1], cached=self.cached)
            found = None if quality is None else (lambda: quality(summed + scores(asked())))
            self._train(layer, lambda: layer.update(loss(outputs())), found)
            with torch.no_grad():
                if quality is not None:
                    z = asked()
                    x_held, summed = row_norm(z), summed + scores(z)
                z = outputs()
                return row_norm(z if carry is None else carry(z)), x_held, summed

        x_held, summed = x if held is None else held[0], 0.0
        for layer in self.layers_:
            x, x_held, summed = one(layer, x, x_held, summed)

    # Signals from above ----------------------------------------------------------------------------------------------

    def _chain(self, x: Tensor, graph: Propagation) -> list[Any]:
        """For each layer a function of what stands beside its fixed inputs: x of the first, none of the others."""
        first, empty = Features(x), Features(x.new_zeros(len(x), 0))
        return [
            layer.module.on(empty if i else first, graph, cached=self.cached) for i, layer in enumerate(self.layers_)
        ]

    def _plain(self, x: Tensor, graph: Propagation) -> list[Any]:
        """For each layer a function of the outputs below; the first's are not looked at."""
        first, *rest = self._chain(x, graph)
        return [lambda _: first(), *rest]

    def _through(self, runs: Sequence[Any]) -> Tensor:
        """Outputs of the last layer."""
        z: Any = None
        for run in runs:
            z = run(z)
        self.history_.passes += len(runs)
        return z  # type: ignore[no-any-return]

    def _runs(self, x: Tensor, graph: Propagation) -> list[Any]:
        """For each layer a function of the states below and above (None: it reads nothing from there)."""
        first, *rest = self._chain(x, graph)

        def beside(above: Tensor | None) -> list[Tensor]:
            return [] if above is None else [row_norm(above)]

        made: list[Any] = [lambda below, above: first(*beside(above))]
        made += [lambda below, above, f=f: f(torch.cat([row_norm(below), *beside(above)], 1)) for f in rest]
        return made

    def _bottom_up(self, run: Sequence[Any], x: Tensor, top: Tensor | None) -> list[Any]:
        """States of a pass with zeros for what would come from above: [x, s_1 .. s_L, top]."""
        states, widths = [x], [int(self.hidden)] * (len(run) - 1) + [0 if top is None else top.shape[1]]
        with torch.no_grad():
            for layer, width in zip(run, widths, strict=True):
                states.append(layer(states[-1], x.new_zeros(len(x), width) if width else None))
        self.history_.passes += len(run)
        return [*states, top]

    def _sweep(self, states: Sequence[Any], visit: Callable[[int, Any, Any], Tensor], each: Any = map) -> list[Any]:
        """One time step: layers of a turn see the states of before it."""
        fresh, places = list(states), list(range(int(self.layers)))
        for turn in [places[::2], places[1::2]] if self.alternating else [places]:
            seen = list(fresh)
            made = list(each(lambda i, seen=seen: visit(i, seen[i], seen[i + 2]), turn))
            for i, z in zip(turn, made, strict=True):
                fresh[i + 1] = z
        return fresh

    def _fit_in_time(
        self, run: Sequence[Any], x: Tensor, top: Tensor | None, loss: Callable[[Tensor], Tensor],
        quality: Callable[[], float] | None,
    ) -> None:  # fmt: skip
        """All layers in the same epochs, a time step each."""
        states = self._bottom_up(run, x, top)
        losses = [0.0] * len(run)

        def visit(i: int, below: Any, above: Any) -> Tensor:
            z: Tensor = run[i](below, above)
            losses[i] = self.layers_[i].update(loss(z))
            return z.detach()

        with self._pool() as each:

            def epoch() -> float:
                nonlocal states
                states = self._sweep(states, visit, each)
                return sum(losses)

            self._train(self.layers_, epoch, quality)

    def _over_time(
        self, run: Sequence[Any], x: Tensor, top: Tensor | None, score: Callable[[Tensor], Tensor]
    ) -> Tensor:
        """Scores, averaged over layers and time steps without the first two."""
        states, found, count = self._bottom_up(run, x, top), x.new_zeros(()), 0
        for time in range(int(self.time_steps)):
            states = self._sweep(states, lambda i, below, above: run[i](below, above))
            self.history_.passes += len(run)
            if time >= 2 or self.time_steps <= 2:
                for z in states[1:-1]:
                    found, count = found + score(z), count + 1
        return found / count

    @contextmanager
    def _pool(self) -> Iterator[Any]:
        """A map, in threads where more than one is asked for."""
        workers = int(getattr(self, "workers", 1))
        if workers == 1:
            yield map
        else:
            with ThreadPoolExecutor(workers) as threads:
                yield threads.map
