"""Classification of sequences with scikit-learn's interface."""

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_array, check_consistent_length, check_is_fitted, validate_data
from torch import Tensor

from .heads import ClassifierNet
from .training import Plan, train
from .twins import BACKBONES

__all__ = ["Classifier"]

RECIPES = ("own", "paper")
# Of the classification scripts of the library that the paper builds on, for every UEA set
PAPER = {"n_layers": 3, "d_model": 128, "d_ff": 256, "n_heads": 8}


class Classifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Sequences into classes; works with its defaults on small data.

    X is (n, length), (n, length, channels), or a list of (length, channels) or (length,) arrays of any lengths.

    Args:
        model: "aaren", or a baseline: "transformer", "linear", "gru", "lstm".
        n_layers, d_model: of the stack.
        steps: optimiser steps; None: at most 1,000, and no more once the held-out loss fell by less than 0.01 in 300.
        learning_rate: at its largest.
        batch_size: sequences a step; None: a quarter of them, 8 to 32.
        recipe: "own", or "paper": three layers of 128, learning rate 1e-3, batches of 16, 100 epochs, patience 10; the
            sizes, rate and batch given are not used then.
        max_seconds: no step begins later.
        random_state: seed.

    After `fit`: `net_`, `classes_`, `n_steps_`, and `skill_`, the accuracy on a held-out fifth less that of the most
    frequent class; a warning where it is not positive. With fewer than 20 sequences none is held out, and `skill_` is
    NaN.
    """

    def __init__(
        self,
        *,
        model: Any = "aaren",
        n_layers: Any = 2,
        d_model: Any = 32,
        steps: Any = None,
        learning_rate: Any = 3e-3,
        batch_size: Any = None,
        recipe: Any = "own",
        max_seconds: Any = 120.0,
        random_state: Any = 0,
    ) -> None:
        self.model = model
        self.n_layers = n_layers
        self.d_model = d_model
        self.steps = steps
        self.learning_rate = learning_rate
        self.batch_size = batch_size
        self.recipe = recipe
        self.max_seconds = max_seconds
        self.random_state = random_state

    def fit(self, X: Any, y: Any) -> "Classifier":
        """Train.

        Raises:
            ValueError: for data that is no set of labelled sequences, one class, or an argument that cannot be.
        """
        self._check_arguments()
        if ragged(X):
            sequences, y = self._sequences(X), np.asarray(y)
            check_consistent_length(sequences, y)
            self.n_features_in_ = sequences[0].shape[1]
        else:
            X, y = validate_data(self, X, y, dtype=np.float32)
            sequences = list(X[..., None])
        check_classification_targets(y)
        self.classes_, codes = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(f"y must hold at least 2 classes, got 1 class: {self.classes_[0]!r}")
        values = np.concatenate(sequences)
        self.mean_, self.scale_ = values.mean(0), np.maximum(values.std(0), 1e-6)
        x, mask, target = *self._padded(sequences), torch.from_numpy(codes.astype(np.int64))
        rng = np.random.default_rng(self.random_state)
        kept, held = _split(codes, rng)
        seed = int(rng.integers(2**31))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self._train(x, mask, target, kept, held, seed)
        self.skill_ = float("nan")
        if len(held):
            right = (self._logits(x[held], mask[held]).argmax(-1) == target[held]).double().mean().item()
            usual = torch.bincount(target[kept], minlength=len(self.classes_)).argmax()
            self.skill_ = right - (target[held] == usual).double().mean().item()
            if self.skill_ <= 0:
                warnings.warn(
                    f"no better than the most frequent class on held-out data ({self.skill_:+.2f})", stacklevel=2
                )
        return self

    def predict_proba(self, X: Any) -> np.ndarray:
        """Probabilities in the order of `classes_`."""
        check_is_fitted(self)
        if ragged(X):
            sequences = self._sequences(X)
        else:
            sequences = list(validate_data(self, X, dtype=np.float32, reset=False)[..., None])
        if sequences[0].shape[1] != len(self.mean_):
            raise ValueError(f"X must have {len(self.mean_)} channels, got {sequences[0].shape[1]}")
        return torch.softmax(self._logits(*self._padded(sequences)).double(), -1).numpy()

    def predict(self, X: Any) -> np.ndarray:
        """The most likely class of each sequence."""
        found = self.predict_proba(X).argmax(-1)
        return np.asarray(self.classes_[found])

    def _check_arguments(self) -> None:
        if self.model not in BACKBONES:
            raise ValueError(f"model must be one of {', '.join(BACKBONES)}, got {self.model!r}")
        if self.recipe not in RECIPES:
            raise ValueError(f"recipe must be one of {', '.join(RECIPES)}, got {self.recipe!r}")
        for name in ("n_layers", "d_model", "steps", "batch_size", "learning_rate", "max_seconds"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name} must be positive, got {value}")

    def _train(self, x: Tensor, mask: Tensor, target: Tensor, kept: Tensor, held: Tensor, seed: int) -> None:
        paper = self.recipe == "paper"
        sizes = PAPER if paper else {"n_layers": self.n_layers, "d_model": self.d_model}
        self.net_ = ClassifierNet(n_channels=x.shape[-1], n_classes=len(self.classes_), model=self.model, **sizes)
        batch = 16 if paper else self.batch_size or int(np.clip(len(kept) // 4, 8, 32))
        epoch = -(-len(kept) // batch)
        steps = self.steps or (100 * epoch if paper else 1000)

        def draw(generator: torch.Generator) -> Any:
            index = kept[torch.randint(len(kept), (batch,), generator=generator)]
            return x[index], mask[index], target[index]

        def loss(net: Any, batch: Any) -> Tensor:
            return F.cross_entropy(net(*batch[:2]), batch[2])

        def held_out(net: Any) -> float:
            # In hundredths: what falls by less is not waited for
            return round(loss(net, (x[held], mask[held], target[held])).item(), 2)

        lr, patience = (1e-3, 10) if paper else (self.learning_rate, 6)
        each = epoch if paper else min(50, steps)
        plan = Plan(steps=steps, lr=lr, seed=seed, eval_every=each, patience=patience, max_seconds=self.max_seconds)
        result = train(self.net_, loss, draw, plan, held_out if len(held) else None)
        self.n_steps_ = result.steps

    def _sequences(self, X: Any) -> list[np.ndarray]:
        if len(X) == 0:
            raise ValueError("X must hold at least 1 sequence, got 0 sample(s)")
        options: dict[str, Any] = {"dtype": np.float32, "ensure_2d": False, "input_name": "X"}
        found = [check_array(s, **options) for s in X]
        found = [s[:, None] if s.ndim == 1 else s for s in found]
        if len({s.shape[1] for s in found}) > 1 or found[0].shape[1] == 0:
            raise ValueError("X must hold sequences of the same number of channels, at least 1")
        return found

    def _padded(self, sequences: Sequence[np.ndarray]) -> tuple[Tensor, Tensor]:
        longest = max(len(s) for s in sequences)
        x = np.zeros((len(sequences), longest, len(self.mean_)), np.float32)
        mask = np.zeros((len(sequences), longest), bool)
        for i, s in enumerate(sequences):
            x[i, : len(s)], mask[i, : len(s)] = (s - self.mean_) / self.scale_, True
        return torch.from_numpy(x), torch.from_numpy(mask)

    @torch.no_grad()
    def _logits(self, x: Tensor, mask: Tensor) -> Tensor:
        parts = zip(x.split(256), mask.split(256), strict=True)
        return torch.cat([self.net_(*part) for part in parts])


def ragged(X: Any) -> bool:
    """Whether X is sequences with channels or of their own lengths, not a table of one row a sequence."""
    if isinstance(X, np.ndarray) and X.dtype != object:
        return bool(X.ndim == 3)
    if isinstance(X, list | tuple | np.ndarray):
        return len(X) == 0 or np.ndim(X[0]) == 2 or (np.ndim(X[0]) == 1 and len({len(s) for s in X if np.ndim(s)}) > 1)
    return False


def _split(codes: np.ndarray, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Indices to train on and a fifth of each class, and at least one example, held out; none of fewer than 20."""
    held: list[int] = []
    if len(codes) >= 20:
        for c in range(codes.max() + 1):
            members = rng.permutation(np.flatnonzero(codes == c))
            held += members[: max(len(members) // 5, int(len(members) > 2))].tolist()
    kept = np.setdiff1d(np.arange(len(codes)), held)
    return torch.from_numpy(kept), torch.tensor(sorted(held), dtype=torch.long)
