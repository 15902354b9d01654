"""`SpikingClassifier`: scikit-learn's interface from images or rows to spikes in T steps."""

import itertools
import time
import warnings
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, check_random_state, validate_data
from torch import Tensor, nn

from .energy_model import EnergyTable, energy
from .models import small_conv
from .network import SpikingNet
from .training import Batches, iir, train_ann

__all__ = ["SpikingClassifier"]


class SpikingClassifier(ClassifierMixin, BaseEstimator):
    """A ReLU network trained, converted, and brought down to few time steps; works with its defaults on small data.

    Args:
        schedule: falling numbers of steps; the last is what predicts.
        image_shape: (channels, height, width) of a row, for a convolutional network; None: rows are features.
        hidden: width of the two hidden layers of rows without an image shape.
        steps: optimiser steps to train the ReLU network; each stage of the schedule has a third of them.
        recipe: "paper": its learning rates and numbers of epochs (300, and 500 a stage), whatever `steps` says.
        percentile: of `SpikingNet.from_ann`.
        max_seconds: after it the stages in between are left out; the last number of steps is always what is fitted.
        random_state: seed.

    After `fit`: `net_`, `classes_`, `ann_score_` and `score_held_out_` on a held-out fifth, `skill_` (0: as good as
    the most frequent class, 1: without fault), with a warning where it is not positive.
    """

    def __init__(
        self,
        schedule: Sequence[int] = (5, 3, 1),
        *,
        image_shape: Sequence[int] | None = None,
        hidden: int = 64,
        steps: int = 600,
        recipe: Literal["small data", "paper"] = "small data",
        percentile: float | int = 90.0,
        max_seconds: float | int = 120.0,
        random_state: int | None = 0,
    ) -> None:
        self.schedule = schedule
        self.image_shape = image_shape
        self.hidden = hidden
        self.steps = steps
        self.recipe = recipe
        self.percentile = percentile
        self.max_seconds = max_seconds
        self.random_state = random_state

    def fit(self, X: Any, y: Any) -> "SpikingClassifier":
        """Train, convert, reduce the steps.

        Raises:
            ValueError: data that scikit-learn refuses; one class; a shape that does not fit.
        """
        began = time.monotonic()
        X, y = validate_data(self, X, y, dtype=np.float32, ensure_min_samples=2)
        check_classification_targets(y)
        if not isinstance(self.steps, int | np.integer) or self.steps < 1:
            raise ValueError(f"steps must be a positive integer, got {self.steps!r}")
        if self.recipe not in ("small data", "paper"):
            raise ValueError(f"recipe must be 'small data' or 'paper', got {self.recipe!r}")
        schedule = list(self.schedule)
        if not schedule or min(schedule) < 1 or any(a <= b for a, b in itertools.pairwise(schedule)):
            raise ValueError(f"schedule must be falling numbers of steps, each at least 1, got {schedule}")
        self.classes_, labels = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(f"y must have at least 2 classes, got 1 class: {self.classes_[0]!r}")
        self.mean_, spread = X.mean(0), X.std(0)
        self.scale_ = np.where(spread > 1e-7, spread, 1.0)
        if self.image_shape is not None:
            # pixels share their scale, or a rare pixel would count as much as a common one
            self.mean_, self.scale_ = np.array(X.mean()), np.array(max(X.std(), 1e-7))
        images = self._tensor(X)
        targets = torch.from_numpy(labels.astype(np.int64))
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        train, held = _held_out(labels, seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            ann = self._network(images, len(self.classes_))
            batch_size = min(64, max(8, len(train) // 4))
            batches = Batches(images[train], targets[train], batch_size, seed=seed)
            paper = self.recipe == "paper"
            epochs = max(1, round(self.steps / len(batches)))
            train_ann(ann, batches, epochs=300 if paper else epochs, lr=0.01 if paper else 0.05)
            net = SpikingNet.from_ann(ann, [images[train][:512]], self.percentile, T=schedule[0])
            for T in schedule:
                if schedule[-1] != T and time.monotonic() - began > self.max_seconds:
                    continue
                stage, _ = iir(net, batches, [T], 500 if paper else max(1, epochs // 3), lr=1e-4 if paper else 1e-2)
                net = stage[T]
        self.net_ = net.eval()
        with torch.no_grad():
            right = targets[held].numpy()
            self.ann_score_ = float((ann(images[held]).argmax(-1).numpy() == right).mean())
            self.score_held_out_ = float((net(images[held]).argmax(-1).numpy() == right).mean())
        trivial = float((right == np.bincount(labels[train]).argmax()).mean())
        self.skill_ = 0.0 if trivial == 1 else (self.score_held_out_ - trivial) / (1 - trivial)
        if self.skill_ <= 0:
            warnings.warn(
                f"SpikingClassifier is no better than the most frequent class on held-out data "
                f"({self.score_held_out_:.2f} against {trivial:.2f})",
                UserWarning,
                stacklevel=2,
            )
        return self

    def _network(self, images: Tensor, n_classes: int) -> nn.Sequential:
        if self.image_shape is not None:
            channels, height, width = self.image_shape
            if height != width:
                raise ValueError(f"image_shape must be square, got {tuple(self.image_shape)}")
            return small_conv(in_channels=channels, n_classes=n_classes, size=height)
        layers: list[nn.Module] = []
        before = images.shape[1]
        for _ in range(2):
            layers += [nn.Linear(before, self.hidden), nn.BatchNorm1d(self.hidden), nn.ReLU()]
            before = self.hidden
        return nn.Sequential(*layers, nn.Linear(before, n_classes))

    def _tensor(self, X: np.ndarray) -> Tensor:
        x = torch.from_numpy(((X - self.mean_) / self.scale_).astype(np.float32))
        if self.image_shape is None:
            return x
        shape = tuple(self.image_shape)
        if len(shape) != 3 or x.shape[1] != int(np.prod(shape)):
            raise ValueError(f"image_shape must be (channels, height, width) of {x.shape[1]} features, got {shape}")
        return x.view(-1, *shape)

    def _logits(self, X: Any) -> Tensor:
        check_is_fitted(self, "net_")
        X = validate_data(self, X, dtype=np.float32, reset=False)
        with torch.no_grad():
            return torch.cat([self.net_(batch) for batch in self._tensor(X).split(512)])

    def predict_proba(self, X: Any) -> np.ndarray:
        """Softmax of the summed logits, (n, classes)."""
        return self._logits(X).double().softmax(-1).numpy()

    def predict(self, X: Any) -> np.ndarray:
        """Classes."""
        best = self._logits(X).argmax(-1).numpy()
        return self.classes_[best]

    def energy(self, X: Any) -> EnergyTable:
        """The energy model on these rows."""
        check_is_fitted(self, "net_")
        X = validate_data(self, X, dtype=np.float32, reset=False)
        return energy(self.net_, self._tensor(X).split(512))


def _held_out(labels: np.ndarray, seed: int) -> tuple[Tensor, Tensor]:
    """A fifth of each class, and at least one of each stays to train on."""
    generator = np.random.default_rng(seed)
    held: list[int] = []
    for c in range(labels.max() + 1):
        members = generator.permutation(np.flatnonzero(labels == c))
        held += members[: len(members) // 5].tolist()
    if not held:
        held = list(range(len(labels)))  # too few to hold any out
        return torch.arange(len(labels)), torch.tensor(held)
    return torch.tensor(sorted(set(range(len(labels))) - set(held))), torch.tensor(held)
