"""scikit-learn estimators over sequences of unequal lengths: `SequenceClassifier` and `SequenceTagger`."""

import copy
import json
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, check_random_state, column_or_1d, validate_data
from torch import Tensor, nn

from shared_impl.pretrained import Pretrained
from shared_impl.results import write_atomically

from .rnn import RNN

__all__ = ["SequenceClassifier", "SequenceNetwork", "SequenceTagger"]

_FILE = "estimator.json"


class SequenceNetwork(nn.Module, Pretrained):
    """Recurrent layers with a softmax over each step, or one over a sequence (its last states and its mean)."""

    def __init__(
        self,
        *,
        features: int = 1,
        classes: int = 2,
        cell: str = "lstm",
        hidden_size: int = 64,
        layers: int = 1,
        bidirectional: bool = True,
        dropout: float = 0.0,
        tag: bool = False,
    ) -> None:
        super().__init__()
        self.tag, self.features = tag, features
        self.rnn = RNN(
            cell=cell, input_size=features, hidden_size=hidden_size, layers=layers, bidirectional=bidirectional,
            dropout=dropout,
        )  # fmt: skip
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(self.rnn.output_size * (1 if tag else 2), classes)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """Logits, (batch, length, classes) or (batch, classes)."""
        y, state = self.rnn(x, lengths=lengths)
        if not self.tag:
            last = torch.cat([own[0] for own in state[-self.rnn.directions :]], 1)
            y = torch.cat([last, y.sum(1) / lengths.clamp_min(1)[:, None]], 1)
        return self.output(self.dropout(y))


def _pad(sequences: Sequence[np.ndarray], dtype: Any = np.float32) -> tuple[Tensor, Tensor]:
    lengths = torch.tensor([len(s) for s in sequences])
    padded = np.zeros((len(sequences), int(lengths.max()), sequences[0].shape[1]), dtype=dtype)
    for row, s in zip(padded, sequences, strict=True):
        row[: len(s)] = s
    return torch.from_numpy(padded), lengths


def _batches(sequences: Sequence[np.ndarray], size: int, rng: np.random.Generator | None) -> list[np.ndarray]:
    """Indices by batches; sequences of like lengths stand together, so that little is padding."""
    lengths = np.array([len(s) for s in sequences], dtype=np.float64)
    if rng is not None:
        lengths = lengths * rng.uniform(0.9, 1.1, len(lengths)) + rng.uniform(0, 1e-3, len(lengths))
    order = np.argsort(lengths, kind="stable")
    cut = [order[a : a + size] for a in range(0, len(order), size)]
    return cut if rng is None else [cut[i] for i in rng.permutation(len(cut))]


class _SequenceEstimator(ClassifierMixin, BaseEstimator):
    """Standardising, training with early stopping, saving without pickle, which both estimators share."""

    _tag = False
    model_: SequenceNetwork
    classes_: np.ndarray
    mean_: np.ndarray
    scale_: np.ndarray

    def __init__(
        self,
        *,
        cell: str = "lstm",
        hidden_size: int = 64,
        layers: int = 1,
        bidirectional: bool = True,
        dropout: float = 0.2,
        lr: float | None = None,
        batch_size: int | None = None,
        max_steps: int = 2000,
        patience: int = 8,
        max_seconds: float = 300.0,
        recipe: str = "default",
        device: str = "cpu",
        random_state: Any = None,
    ) -> None:
        self.cell = cell
        self.hidden_size = hidden_size
        self.layers = layers
        self.bidirectional = bidirectional
        self.dropout = dropout
        self.lr = lr
        self.batch_size = batch_size
        self.max_steps = max_steps
        self.patience = patience
        self.max_seconds = max_seconds
        self.recipe = recipe
        self.device = device
        self.random_state = random_state

    def _check_settings(self) -> None:
        for name in ("hidden_size", "layers", "max_steps", "patience"):
            value = getattr(self, name)
            if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < 1:
                raise ValueError(f"{name} must be a positive integer, got {value!r}")
        for name in ("lr", "batch_size", "max_seconds"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name} must be positive, got {value!r}")
        if self.recipe not in ("default", "paper"):
            raise ValueError(f"recipe must be one of default, paper, got {self.recipe!r}")

    # What is given ------------------------------------------------------------------------------------------------

    def _given(self, X: Any, y: Any = None) -> tuple[list[np.ndarray], Any, bool]:
        """Sequences of X, y, and whether X is one table; with y it is the first time.

        Raises:
            ValueError: sequences of other features, empty ones, NaN or infinities: the number of the sequence is named.
        """
        reset = y is not None
        if reset:
            for name in ("n_features_in_", "feature_names_in_"):
                if hasattr(self, name):
                    delattr(self, name)
        if not _is_list(X):
            if reset:
                X, y = validate_data(self, X, y, allow_nd=True, dtype=np.float64)
            else:
                X = validate_data(self, X, allow_nd=True, dtype=np.float64, reset=False)
            return self._cut(X, reset), y, True
        return self._listed(X, reset), y, False

    def _cut(self, X: np.ndarray, reset: bool) -> list[np.ndarray]:
        raise NotImplementedError

    def _listed(self, X: Sequence[Any], reset: bool) -> list[np.ndarray]:
        found = []
        for number, given in enumerate(X):
            try:
                s = np.asarray(given, dtype=np.float64)
            except (TypeError, ValueError) as error:
                raise ValueError(f"X[{number}] must be a table of numbers: {error}") from error
            s = s[:, None] if s.ndim == 1 else s
            if s.ndim != 2 or not len(s) or not s.shape[1]:
                raise ValueError(f"X[{number}] must be (steps, features) with at least one step, got shape {s.shape}")
            if not np.isfinite(s).all():
                raise ValueError(f"X[{number}] must be finite, got NaN or infinity")
            found.append(s)
        self._same_channels(found, reset)
        return found

    def _same_channels(self, found: Sequence[np.ndarray], reset: bool) -> None:
        if reset:
            self.n_channels_in_ = found[0].shape[1]
        for number, s in enumerate(found):
            if s.shape[1] != self.n_channels_in_:
                raise ValueError(f"X[{number}] must have {self.n_channels_in_} features a step, got {s.shape[1]}")

    # Training -----------------------------------------------------------------------------------------------------

    def _train(self, sequences: list[np.ndarray], codes: list[np.ndarray], groups: np.ndarray) -> None:
        """Train on all but a tenth to a fifth, which says when to stop; `groups` are classes to draw it evenly from."""
        random = check_random_state(self.random_state)
        rng = np.random.default_rng(int(random.randint(2**31 - 1)))
        flat = np.concatenate(sequences)
        self.mean_, spread = flat.mean(0), flat.std(0)
        self.scale_ = np.where(spread > 1e-12 * (1 + np.abs(self.mean_)), spread, 1.0)
        n, paper = len(sequences), self.recipe == "paper"
        held = self._held_out(n, groups, rng)
        # too few to hold any out: the same say when to stop
        train = np.setdiff1d(np.arange(n), held) if len(held) < n else np.arange(n)
        size = int(self.batch_size or (32 if paper else np.clip(n // 8, 4, 64)))
        lr = self.lr or (2e-3 if paper else 5e-3)
        given = [((s - self.mean_) / self.scale_).astype(np.float32) for s in sequences]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(rng.integers(2**31 - 1)))
            self.model_ = SequenceNetwork(
                features=self.n_channels_in_, classes=len(self.classes_), cell=self.cell, hidden_size=self.hidden_size,
                layers=self.layers, bidirectional=self.bidirectional, dropout=self.dropout, tag=self._tag,
            ).to(self.device)  # fmt: skip
            optimizer = torch.optim.Adam(self.model_.parameters(), lr)
            epoch = -(-len(train) // size)
            every, best, kept, waited, step = max(25, epoch), np.inf, None, 0, 0
            begun = time.monotonic()
            while step < self.max_steps and waited < self.patience:
                for batch in _batches([given[i] for i in train], size, rng):
                    chosen = train[batch]
                    loss = self._loss([given[i] for i in chosen], [codes[i] for i in chosen])
                    optimizer.zero_grad()
                    loss.backward()
                    nn.utils.clip_grad_norm_(self.model_.parameters(), 1.0)
                    optimizer.step()
                    step += 1
                    if step % every and step < self.max_steps:
                        continue
                    now = self._held_loss([given[i] for i in held], [codes[i] for i in held])
                    if now < best - 1e-4:
                        best, waited = now, 0
                        kept = {name: v.detach().clone() for name, v in self.model_.state_dict().items()}
                    else:
                        waited += 1
                    if step >= self.max_steps or waited >= self.patience:
                        break
                if time.monotonic() - begun > self.max_seconds:
                    break
            if kept is not None:
                self.model_.load_state_dict(kept)
            self.n_iter_ = step
        self.model_.to("cpu").eval()
        self._judge([sequences[i] for i in held], [codes[i] for i in held], [codes[i] for i in train])

    @staticmethod
    def _held_out(n: int, groups: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """A fifth (at most 500), of every class alike where it has several; all, where there are fewer than 5."""
        if n < 5:
            return np.arange(n)
        take = max(1, min(n // 5, 500))
        order = rng.permutation(n)
        # every second, third, ... of the sequences sorted by class
        arranged = order[np.argsort(groups[order], kind="stable")]
        return np.sort(arranged[np.linspace(0, n - 1, take + 2).round().astype(int)[1:-1]])

    def _loss(self, sequences: Sequence[np.ndarray], codes: Sequence[np.ndarray]) -> Tensor:
        x, lengths = _pad(sequences)
        logits = self.model_(x.to(self._where), lengths.to(self._where))
        if not self._tag:
            return F.cross_entropy(logits, torch.from_numpy(np.stack(codes)).to(self._where))
        targets = nn.utils.rnn.pad_sequence([torch.from_numpy(c) for c in codes], batch_first=True, padding_value=-100)
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten().to(self._where))

    @property
    def _where(self) -> torch.device:
        return self.model_.output.weight.device

    @torch.no_grad()
    def _held_loss(self, sequences: Sequence[np.ndarray], codes: Sequence[np.ndarray]) -> float:
        self.model_.eval()
        parts = [
            (len(b), float(self._loss([sequences[i] for i in b], [codes[i] for i in b])))
            for b in _batches(sequences, 256, None)
        ]
        self.model_.train()
        return sum(n * v for n, v in parts) / sum(n for n, _ in parts)

    def _judge(self, held: list[np.ndarray], codes: list[np.ndarray], trained: list[np.ndarray]) -> None:
        """Accuracy on the part held out, and how much of the way from the most frequent class to all right it is."""
        truth = np.concatenate([np.atleast_1d(c) for c in codes])
        found = np.concatenate([np.atleast_1d(a) for a in (p.argmax(-1) for p in self._logits(held))])
        known = np.concatenate([np.atleast_1d(c) for c in (trained or codes)])
        self.trivial_score_ = float((truth == np.bincount(known).argmax()).mean())
        self.validation_score_ = float((truth == found).mean())
        left = 1 - self.trivial_score_
        self.skill_ = (self.validation_score_ - self.trivial_score_) / left if left > 0 else 0.0
        if self.validation_score_ < self.trivial_score_:
            warnings.warn(
                f"accuracy on held-out sequences is {self.validation_score_:.3f}, no better than the most frequent "
                f"class's {self.trivial_score_:.3f}: more sequences or another cell may help", stacklevel=4,
            )  # fmt: skip

    @torch.no_grad()
    def _logits(self, sequences: Sequence[np.ndarray]) -> list[np.ndarray]:
        """For each sequence (classes,) or (steps, classes); in float64, so that no batch changes a digit."""
        net = copy.deepcopy(self.model_).double()
        found: list[np.ndarray] = [np.empty(0)] * len(sequences)
        for batch in _batches(sequences, 256, None):
            x, lengths = _pad([(sequences[i] - self.mean_) / self.scale_ for i in batch], np.float64)
            logits = net(x, lengths).numpy()
            for i, own, steps in zip(batch, logits, lengths.tolist(), strict=True):
                found[i] = own[:steps] if self._tag else own
        return found

    # Saving -------------------------------------------------------------------------------------------------------

    def save(self, folder: Path | str) -> Path:
        """Write the fitted estimator: weights as safetensors, the rest as JSON.

        Raises:
            NotFittedError: before `fit`.
        """
        check_is_fitted(self, "model_")
        folder = Path(folder)
        self.model_.save_pretrained(folder)
        parameters = self.get_params()
        if isinstance(parameters["random_state"], np.random.RandomState):
            parameters["random_state"] = None  # its state belongs to the past fit
        names: Any = getattr(self, "feature_names_in_", None)
        content = {
            "estimator": type(self).__name__, "parameters": parameters, "classes": self.classes_.tolist(),
            "dtype": "object" if self.classes_.dtype == object else self.classes_.dtype.str,
            "mean": self.mean_.tolist(), "scale": self.scale_.tolist(), "channels": self.n_channels_in_,
            "features": getattr(self, "n_features_in_", None), "names": None if names is None else names.tolist(),
            "scores": [self.validation_score_, self.trivial_score_, self.skill_, self.n_iter_],
        }  # fmt: skip
        write_atomically(folder / _FILE, json.dumps(content, indent=2) + "\n")
        return folder

    @classmethod
    def load(cls, folder: Path | str) -> Any:
        """Read what `save` wrote.

        Raises:
            ValueError: if the folder holds none, another estimator or a damaged one.
        """
        try:
            content = json.loads((Path(folder) / _FILE).read_text(encoding="utf-8"))
            if content["estimator"] != cls.__name__:
                raise ValueError(f"it holds a {content['estimator']}")
            new = cls(**content["parameters"])
            new.classes_ = np.array(content["classes"], dtype=content["dtype"])
            new.mean_, new.scale_ = np.array(content["mean"]), np.array(content["scale"])
            new.n_channels_in_ = int(content["channels"])
            new.validation_score_, new.trivial_score_, new.skill_, new.n_iter_ = content["scores"]
            if content["features"] is not None:
                new.n_features_in_ = int(content["features"])
            if content["names"] is not None:
                new.feature_names_in_ = np.array(content["names"], dtype=object)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{folder} must be a folder that {cls.__name__}.save wrote: {error}") from error
        new.model_ = SequenceNetwork.from_pretrained(folder).eval()
        return new


class SequenceClassifier(_SequenceEstimator):
    """One label for each sequence.

    X is a list of arrays (steps, features) or (steps,), of unequal lengths; or a table (n, steps) or (n, steps,
    features), a data frame among them: a row is a sequence. Features are standardised; a fifth of the sequences is
    held out to stop the training, and `skill_` says how far on it the way from the most frequent class to all right.

    Args:
        cell: elman, irnn, lstm, lstm-1997, lstm-peephole, gru.
        bidirectional: the BRNN of section 4.2.
        lr, batch_size: by default 0.005, and an eighth of the sequences within 4 and 64.
        max_steps, patience, max_seconds: when training ends, at the latest; the best weights are kept.
        recipe: "paper" takes the brief's learning rate 0.002 and batches of 32.

    Example:
        >>> X = [np.sin(np.arange(n) * w) for n, w in [(20, 0.3), (30, 1.2)] * 30]
        >>> SequenceClassifier(random_state=0).fit(X, ["slow", "fast"] * 30).predict(X[:2])  # doctest: +SKIP
        array(['slow', 'fast'], dtype='<U4')
    """

    def _cut(self, X: np.ndarray, reset: bool) -> list[np.ndarray]:
        if X.ndim not in (2, 3):
            raise ValueError(f"X must be (n, steps) or (n, steps, features), got shape {X.shape}")
        found = list(X[:, :, None] if X.ndim == 2 else X)
        self._same_channels(found, reset)
        return found

    def fit(self, X: Any, y: Any) -> "SequenceClassifier":
        """Train on sequences and their labels.

        Raises:
            ValueError: X or y of a wrong form, unequal numbers, NaN, or fewer than two classes.
        """
        self._check_settings()
        if y is None:
            raise ValueError("requires y to be passed, but the target y is None")
        sequences, y, _ = self._given(X, y)
        y = column_or_1d(np.asarray(y), warn=True)
        check_classification_targets(y)
        if len(y) != len(sequences):
            raise ValueError(f"y must be {len(sequences)} labels, one a sequence, got {len(y)}")
        self.classes_, codes = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(f"y must have at least two classes, got one class: {self.classes_[0]!r}")
        self._train(sequences, [np.asarray(code) for code in codes.astype(np.int64)], codes)
        return self

    def decision_function(self, X: Any) -> np.ndarray:
        """Logits, (n, classes); for two classes, as scikit-learn has it, their difference, (n,)."""
        check_is_fitted(self, "model_")
        logits = np.stack(self._logits(self._given(X)[0]))
        return logits[:, 1] - logits[:, 0] if len(self.classes_) == 2 else logits

    def predict_proba(self, X: Any) -> np.ndarray:
        """Probabilities of the classes in the order of `classes_`, (n, classes)."""
        check_is_fitted(self, "model_")
        return _softmax(np.stack(self._logits(self._given(X)[0])))

    def predict(self, X: Any) -> np.ndarray:
        """The most probable label of each sequence, (n,)."""
        check_is_fitted(self, "model_")
        found: np.ndarray = self.classes_[np.stack(self._logits(self._given(X)[0])).argmax(1)]
        return found


class SequenceTagger(_SequenceEstimator):
    """A label for each step of a sequence.

    X is a list of arrays (steps, features) or (steps,) with y a list of as many labels each; or one table
    (steps, features) with y (steps,), which is one sequence, cut into pieces of 50 at most to train.
    Arguments are those of `SequenceClassifier`.
    """

    _tag = True

    def _cut(self, X: np.ndarray, reset: bool) -> list[np.ndarray]:
        if X.ndim != 2:
            raise ValueError(f"X must be a list of sequences or one of (steps, features), got shape {X.shape}")
        self._same_channels([X], reset)
        return [X]

    def fit(self, X: Any, y: Any) -> "SequenceTagger":
        """Train on sequences and the labels of their steps.

        Raises:
            ValueError: X or y of a wrong form, unequal numbers, NaN, or fewer than two classes.
        """
        self._check_settings()
        if y is None:
            raise ValueError("requires y to be passed, but the target y is None")
        sequences, y, alone = self._given(X, y)
        given = [y] if alone else list(y)
        if len(given) != len(sequences):
            raise ValueError(f"y must be {len(sequences)} lists of labels, one a sequence, got {len(given)}")
        labels = []
        for number, (own, s) in enumerate(zip(given, sequences, strict=True)):
            tags = np.asarray(own)
            tags = tags.ravel() if tags.ndim == 2 and tags.shape[1] == 1 else tags
            if tags.shape != (len(s),):
                name = "y" if alone else f"y[{number}]"
                raise ValueError(f"{name} must be {len(s)} labels, one a step, got shape {tags.shape}")
            labels.append(tags)
        check_classification_targets(np.concatenate(labels))
        self.classes_, codes = np.unique(np.concatenate(labels), return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(f"y must have at least two classes, got one class: {self.classes_[0]!r}")
        cut = np.split(codes.astype(np.int64), np.cumsum([len(s) for s in sequences])[:-1])
        if alone:
            # pieces of 50 steps, shorter ones of a short table, so that some can be held out
            piece = int(np.clip(len(sequences[0]) // 8, 2, 50))
            places = range(0, len(sequences[0]), piece)
            sequences, cut = ([whole[0][a : a + piece] for a in places] for whole in (sequences, cut))
        self._train(sequences, cut, np.zeros(len(cut), dtype=np.int64))
        return self

    def predict_proba(self, X: Any) -> Any:
        """Probabilities, (steps, classes), of each sequence, as a list; of one table, (steps, classes)."""
        check_is_fitted(self, "model_")
        sequences, _, alone = self._given(X)
        found = [_softmax(own) for own in self._logits(sequences)]
        return found[0] if alone else found

    def predict(self, X: Any) -> Any:
        """The most probable label of each step: a list of arrays, or one for one table."""
        check_is_fitted(self, "model_")
        sequences, _, alone = self._given(X)
        found = [self.classes_[own.argmax(1)] for own in self._logits(sequences)]
        return found[0] if alone else found

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Share of the steps that are right."""
        found = self.predict(X)
        if not isinstance(found, list):
            return float(super().score(X, y, sample_weight))
        return float((np.concatenate(found) == np.concatenate([np.asarray(own) for own in y])).mean())


def _is_list(X: Any) -> bool:
    """Whether X is a list of sequences, and not one table of numbers."""
    if isinstance(X, np.ndarray):
        return X.dtype == object and X.ndim == 1 and len(X) > 0 and np.ndim(X[0]) > 0
    if not isinstance(X, list | tuple) or not len(X):
        return False
    if any(hasattr(s, "shape") and np.ndim(s) for s in X):
        return True
    nested = [s for s in X if isinstance(s, list | tuple)]
    unequal = len({len(s) for s in nested}) > 1
    return len(nested) == len(X) and (unequal or any(isinstance(v, list | tuple | np.ndarray) for v in nested[0][:1]))


def _softmax(logits: np.ndarray) -> np.ndarray:
    odds = np.exp(logits - logits.max(1, keepdims=True))
    found: np.ndarray = odds / odds.sum(1, keepdims=True)
    return found
