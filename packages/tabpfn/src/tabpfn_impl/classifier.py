"""`TabPFNClassifier`: the network behind scikit-learn's interface."""

import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, check_random_state, validate_data
from torch import Tensor

from tabpfn_impl.checkpoints import Checkpoint, load_checkpoint, shipped_checkpoint
from tabpfn_impl.ensemble import Member, class_codes, combine, make_members, one_vs_rest_members
from tabpfn_impl.preprocess import ColumnTransform, TableEncoder, without_dates
from tabpfn_impl.transformer import ContextCache

__all__ = ["TabPFNClassifier"]

CHUNK = 64
"""queries that are answered together; a smaller batch is filled up, so that an answer does not depend, not even in its
last digit, on how many others are asked for"""


class TabPFNClassifier(ClassifierMixin, BaseEstimator):
    """Classify a small table with a network that was trained once, on synthetic tables.

    Nothing is trained in `fit`: it stores the rows, which are then the network's context. Strings, categories and truth
    values are replaced by their rank, missing values by the mean, constant columns are dropped.

    Args:
        n_estimators: members of the ensemble: rotations of classes and columns, every second with a power transform;
            for a network that reads several columns in one token the columns are shuffled.
        softmax_temperature: the members' mean logits are divided by it; None: the value chosen with the weights.
        multiclass: what is asked of the network where there are more than two classes. "direct": all classes at
            once, as in the paper; "one-vs-rest": each class against all others, with at least two members a class;
            "both": the geometric mean of the two; "auto": what was chosen with the weights.
        model: "shipped", a folder that `tabpfn-impl train` wrote, or a `Checkpoint`.
        categorical_features: positions or names of columns with numbers that are to be ranked.
        max_rows: training rows that a member reads; of more, each member draws as many, by class, with a warning.
        max_features: columns that a member reads; of more, each member draws as many.
        cache_context: keep what was read of the training rows, for repeated predictions.
        batch_size: members that go through the network together.
        device: "auto", "cpu" or "cuda".
        random_state: seed of rotations and draws; the same seed gives the same predictions.

    More classes than the network has (10), asked directly, are coded: each member maps the classes to symbols (an
    error-correcting output code), and a class's logit is the mean of its symbols' log-probabilities.

    Attributes:
        classes_: the labels.
        n_features_in_: columns.
        members_: the ensemble.
    """

    def __init__(
        self,
        n_estimators: Any = 8,
        *,
        softmax_temperature: Any = None,
        multiclass: Any = "auto",
        model: Any = "shipped",
        categorical_features: Any = None,
        max_rows: Any = 1024,
        max_features: Any = 100,
        cache_context: Any = False,
        batch_size: Any = 4,
        device: Any = "auto",
        random_state: Any = 0,
    ) -> None:
        self.n_estimators = n_estimators
        self.softmax_temperature = softmax_temperature
        self.multiclass = multiclass
        self.model = model
        self.categorical_features = categorical_features
        self.max_rows = max_rows
        self.max_features = max_features
        self.cache_context = cache_context
        self.batch_size = batch_size
        self.device = device
        self.random_state = random_state

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.input_tags.categorical = True
        tags.input_tags.string = True
        return tags

    # Fitting ---------------------------------------------------------------------------------------------------------

    def fit(self, X: Any, y: Any) -> "TabPFNClassifier":
        """Store the training rows and make the members' disguises.

        Raises:
            ValueError: a setting or a table that cannot be used.
        """
        self._check_settings()
        X = without_dates(X)
        # the encoder sees the table as it is given: a frame's columns have types
        checked, y = validate_data(self, X, y, dtype=None, ensure_all_finite="allow-nan")
        check_classification_targets(y)
        self.classes_, labels = np.unique(y, return_inverse=True)
        self.encoder_ = TableEncoder(self.categorical_features).fit(_typed(X, checked))
        values = self._numbers(_typed(X, checked))
        checkpoint = self._checkpoint()
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        self.X_, self.y_ = values, labels.astype(np.int64)
        table = torch.from_numpy(values)
        self.transforms_ = {power: ColumnTransform.fit(table, power=power) for power in (False, True)}
        n_features = max(1, len(self.transforms_[False].kept))
        self.members_ = self._members(n_features, checkpoint, seed)
        self._contexts: list[ContextCache] | None = None
        if self.cache_context and len(self.classes_) > 1:
            self._contexts = list(self._read_context())
        return self

    def _check_settings(self) -> None:
        for name in ("n_estimators", "max_rows", "max_features", "batch_size"):
            value = getattr(self, name)
            if not isinstance(value, int | np.integer) or value < 1:
                raise ValueError(f"{name} must be a positive integer, got {value!r}")
        if self.softmax_temperature is not None and not self.softmax_temperature > 0:
            raise ValueError(f"softmax_temperature must be positive, got {self.softmax_temperature!r}")
        if self.multiclass not in ("auto", "direct", "one-vs-rest", "both"):
            raise ValueError(f"multiclass must be auto, direct, one-vs-rest or both, got {self.multiclass!r}")
        if self.device not in ("auto", "cpu", "cuda"):
            raise ValueError(f"device must be 'auto', 'cpu' or 'cuda', got {self.device!r}")

    def _members(self, n_features: int, checkpoint: Checkpoint, seed: int) -> list[Member]:
        n_classes, n_rows, n_symbols = len(self.classes_), len(self.y_), checkpoint.model.max_classes
        asked = checkpoint.multiclass if self.multiclass == "auto" else self.multiclass
        rng = np.random.default_rng(seed)
        members: list[Member] = []
        if n_classes > 2 and asked in ("one-vs-rest", "both"):
            members += one_vs_rest_members(n_classes, n_features, self.n_estimators, seed)
        if n_classes > 2 and asked == "one-vs-rest":
            pass
        elif n_classes > n_symbols:
            codes = class_codes(n_classes, n_symbols, self.n_estimators, seed)
            shifts = rng.integers(0, n_features, len(codes))
            members += [
                Member(0, int(shift), i % 2 == 1, code=tuple(code.tolist()))
                for i, (code, shift) in enumerate(zip(codes, shifts, strict=True))
            ]
        else:
            members += make_members(n_classes, n_features, self.n_estimators, seed)
        # a network that reads several columns in one token sees other pairs in every member; the order of tokens does
        # not matter to it, so that rotations alone would give it two disguises
        mixed = getattr(checkpoint.model, "features_per_token", 1) > 1 and n_features > 2
        if mixed or n_features > self.max_features:
            # each way of asking has its own stream: its members are the same beside others
            streams = [np.random.default_rng((seed, way)) for way in range(2)]
            orders = [streams[m.positive is not None].permutation(n_features)[: self.max_features] for m in members]
            members = [
                _with(m, columns=tuple((order if mixed else np.sort(order)).tolist()))
                for m, order in zip(members, orders, strict=True)
            ]
        if n_rows > self.max_rows:
            warnings.warn(
                f"X has {n_rows} rows, but the network reads max_rows={self.max_rows} at a time: each of "
                f"{len(members)} members draws as many",
                UserWarning,
                stacklevel=3,
            )
            members = [_with(m, rows=_draw_rows(self.y_, self.max_rows, rng)) for m in members]
        return members

    # Prediction ------------------------------------------------------------------------------------------------------

    def predict_proba(self, X: Any) -> NDArray[np.float64]:
        """(n, classes) probabilities, in the order of `classes_`.

        Raises:
            ValueError: X does not have the columns of the training table.
            NotFittedError: before `fit`.
        """
        check_is_fitted(self)
        X = without_dates(X)
        checked = validate_data(self, X, dtype=None, ensure_all_finite="allow-nan", reset=False)
        values = torch.from_numpy(self._numbers(_typed(X, checked)))
        if len(self.classes_) == 1:
            return np.ones((len(values), 1))
        with torch.no_grad():
            logits = self._logits(values)
        return torch.softmax(logits, dim=1).numpy()

    def predict(self, X: Any) -> NDArray[Any]:
        """The likeliest class of each row."""
        best = self.predict_proba(X).argmax(1)
        chosen: NDArray[Any] = self.classes_[best]
        return chosen

    def input_gradient(self, X: Any, label: Any = None) -> NDArray[np.float64]:
        """d ln p(label | x) / d x for each row: which way, and how much, each input moves the prediction.

        Args:
            label: a class, or one for each row; None: the class that is predicted.

        Raises:
            ValueError: a column that is not of numbers, a missing value, or a label that was not seen.
        """
        check_is_fitted(self)
        if not self.encoder_.is_numeric:
            raise ValueError(
                "input_gradient needs a table of numbers: some columns of the training table are categories"
            )
        checked = validate_data(self, X, dtype=np.float64, reset=False)
        values = torch.from_numpy(np.ascontiguousarray(checked)).requires_grad_()
        if len(self.classes_) == 1:
            return np.zeros(checked.shape)
        log_p = torch.log_softmax(self._logits(values), dim=1)
        if label is None:
            index = log_p.argmax(1)
        else:
            labels = np.broadcast_to(np.asarray(label), (len(checked),))
            unknown = sorted(set(labels.tolist()) - set(self.classes_.tolist()))
            if unknown:
                raise ValueError(f"label must be among the classes {self.classes_.tolist()}, got {unknown[0]!r}")
            index = torch.from_numpy(np.searchsorted(self.classes_, labels))
        log_p.gather(1, index[:, None]).sum().backward()
        assert values.grad is not None
        return values.grad.numpy()

    def _logits(self, values: Tensor) -> Tensor:
        """(rows, classes) logits of the ensemble, float64."""
        temperature = self.softmax_temperature or self._checkpoint().temperature
        direct, against_rest = self.member_means(values)
        return combine(
            None if direct is None else direct / temperature,
            None if against_rest is None else against_rest / temperature,
        )

    def member_means(self, values: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """What the members answer before the temperature, each (rows, classes) and a mean over members.

        Returns:
            the logits of the members that were asked for all classes at once, and each class's logit against the rest;
            None for what was not asked.
        """
        contexts = self._contexts if self._contexts is not None else self._read_context()
        model = self._checkpoint().model
        device = next(model.parameters()).device
        transformed = self._transform(values)
        tables = [_show(member, transformed) for member in self.members_]
        direct = torch.zeros(len(values), len(self.classes_), dtype=torch.float64)
        against_rest = [torch.zeros(len(values), dtype=torch.float64) for _ in self.classes_]
        for first, context in zip(range(0, len(tables), self.batch_size), contexts, strict=True):
            members = self.members_[first : first + self.batch_size]
            x = torch.stack(tables[first : first + self.batch_size]).float()
            answers = []
            for chunk in x.split(CHUNK, dim=1):
                filled = torch.nn.functional.pad(chunk, (0, 0, 0, CHUNK - chunk.shape[1]))
                answers.append(model.query(context, filled.to(device))[:, : chunk.shape[1]].cpu())
            for member, own in zip(members, torch.cat(answers, dim=1).double(), strict=True):
                if member.positive is None:
                    direct = direct + self._undisguise(member, own)
                else:
                    no, yes = own[:, :2].roll(-member.class_shift, dims=1).unbind(1)
                    against_rest[member.positive] = against_rest[member.positive] + (yes - no)
        n_rest = sum(m.positive is not None for m in self.members_)
        n_direct, share = len(self.members_) - n_rest, n_rest // len(self.classes_)
        return direct / n_direct if n_direct else None, torch.stack(against_rest, dim=1) / share if n_rest else None

    def _undisguise(self, member: Member, logits: Tensor) -> Tensor:
        if member.code is not None:
            return torch.log_softmax(logits, dim=1)[:, list(member.code)]
        return logits[:, : len(self.classes_)].roll(-member.class_shift, dims=1)

    def _read_context(self) -> Iterator[ContextCache]:
        """What the network keeps of the training rows, for one batch of members after the other: it is much."""
        model = self._checkpoint().model
        device = next(model.parameters()).device
        transformed = self._transform(torch.from_numpy(self.X_))
        for first in range(0, len(self.members_), self.batch_size):
            members = self.members_[first : first + self.batch_size]
            shown, labels = [], []
            for m in members:
                x, y = _show(m, transformed), torch.from_numpy(self.y_)
                if m.rows is not None:
                    x, y = x[list(m.rows)], y[list(m.rows)]
                if m.code is not None:
                    y = torch.tensor(m.code)[y]
                elif m.positive is not None:
                    y = ((y == m.positive).long() + m.class_shift) % 2
                else:
                    y = (y + m.class_shift) % len(self.classes_)
                shown.append(x)
                labels.append(y)
            with torch.no_grad():
                context = model.context(torch.stack(shown).float().to(device), torch.stack(labels).to(device))
            yield context

    def _transform(self, values: Tensor) -> dict[bool, Tensor]:
        """The columns without and with the power transform, so far as members need them."""
        return {power: self.transforms_[power](values) for power in {m.power for m in self.members_}}

    def _numbers(self, X: Any) -> NDArray[np.float64]:
        values = self.encoder_.transform(X)
        if np.isinf(values).any():
            raise ValueError(f"Input X contains infinity or a value too large for {values.dtype!r}.")
        return values

    def _checkpoint(self) -> Checkpoint:
        if isinstance(self.model, Checkpoint):
            checkpoint = self.model
        elif self.model == "shipped":
            checkpoint = shipped_checkpoint()
        else:
            # read once for each estimator
            loaded = getattr(self, "_loaded", None)
            if loaded is None or loaded[0] != str(self.model):
                loaded = (str(self.model), load_checkpoint(Path(self.model)))
                self._loaded = loaded
            checkpoint = loaded[1]
        use_cuda = self.device == "cuda" or (self.device == "auto" and torch.cuda.is_available())
        checkpoint.model.to("cuda" if use_cuda else "cpu")
        return checkpoint


def _show(member: Member, transformed: Mapping[bool, Tensor]) -> Tensor:
    """The table as a member sees it."""
    x = transformed[member.power]
    if member.columns is not None:
        x = x[:, list(member.columns)]
    return x.roll(member.feature_shift, dims=1)


def _typed(X: Any, checked: NDArray[Any]) -> Any:
    """The table with its columns' types: the frame itself, else the checked array."""
    return X if hasattr(X, "iloc") else checked


def _with(member: Member, **changes: Any) -> Member:
    from dataclasses import replace

    return replace(member, **changes)


def _draw_rows(labels: NDArray[np.int64], n_rows: int, rng: np.random.Generator) -> tuple[int, ...]:
    """Rows drawn without replacement, each class with its share but at least one row."""
    order = rng.permutation(len(labels))
    shuffled = labels[order]
    # position within the class over the class's size: the first rows by it have all classes in their shares
    rank = np.empty(len(labels))
    for c in np.unique(labels):
        mask = shuffled == c
        rank[mask] = (np.arange(mask.sum()) + rng.uniform()) / mask.sum()
        rank[np.flatnonzero(mask)[0]] = -1.0
    return tuple(np.sort(order[np.argsort(rank, kind="stable")[:n_rows]]).tolist())
