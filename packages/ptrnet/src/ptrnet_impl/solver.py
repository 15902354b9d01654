"""A scikit-learn estimator: learn from solved instances, or from generated ones, and answer for new points."""

import json
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

from shared_impl.results import write_atomically

from .data import Batch, collate, numbered_batch, unit_square
from .decoding import CONSTRAINTS, Constraint
from .model import PointerNetwork
from .tasks import TASKS, Task, generate, get_task
from .training import Recipe, train

__all__ = ["PointerSolver"]

_FILE = "solver.json"
_MANY = 5000
"""own examples below which generated ones of the same sizes are mixed in, where the task has a generator"""
_LEAST_EXTENT = 0.5
"""figures smaller than this are scaled up too: the network has seen the unit square"""


class PointerSolver(BaseEstimator):
    """A pointer network with the interface of an estimator.

    `fit()` learns the task from generated instances; `fit(points)` from yours, which are solved exactly; and
    `fit(points, answers)` from your solved examples, with any number of features a point (`task="custom"`). Where a
    task has a generator and your examples are fewer than 5,000, generated ones of the same sizes are mixed in.

    `predict` takes one instance (n, d) or a list of them. Figures outside the unit square, or much smaller than it, are
    moved and scaled: hull, triangles, tour and order stay the same. Custom features are standardised by the examples of
    `fit`.

    After `fit`: `score_` on instances held out, `trivial_score_` of an answer that needs no learning (hull: all points
    by angle; Delaunay: a fan; tsp: the nearest neighbour's tour; sort: as given; custom: the commonest answer), and
    `skill_ = (score - trivial) / (1 - trivial)`; not being positive is warned of.

    Args:
        task: "hull", "delaunay", "tsp", "sort", or "custom".
        n: least and most points of generated instances.
        steps: optimizer steps; default: 3,000, for few examples of your own less.
        max_seconds: the training ends after so many; None: no limit.
        beam_width: of decoding; 1: greedy.
        constraint: of decoding; "task": that of the task (custom: "permutation" if all answers are, "distinct" if no
            answer has a point twice).
        recipe: "fast" (Adam with a cosine), or "paper" (SGD with rate 1.0; slow).

    Example:
        >>> hull = PointerSolver("hull").fit()  # doctest: +SKIP
        >>> hull.predict([[0.1, 0.1], [0.9, 0.2], [0.5, 0.4], [0.4, 0.9]])  # doctest: +SKIP
        array([0, 1, 3])
    """

    def __init__(
        self,
        task: str = "hull",
        *,
        n: tuple[int, int] = (5, 10),
        hidden: int = 128,
        steps: int | None = None,
        batch_size: int = 64,
        lr: float | None = None,
        max_seconds: float | None = 60.0,
        beam_width: int = 3,
        constraint: Constraint = "task",
        recipe: str = "fast",
        device: str = "cpu",
        random_state: int | None = 0,
    ) -> None:
        self.task = task
        self.n = n
        self.hidden = hidden
        self.steps = steps
        self.batch_size = batch_size
        self.lr = lr
        self.max_seconds = max_seconds
        self.beam_width = beam_width
        self.constraint = constraint
        self.recipe = recipe
        self.device = device
        self.random_state = random_state

    # fit

    def fit(self, X: Any = None, y: Any = None, *, console: Console | None = None) -> "PointerSolver":
        """Learn.

        Args:
            X: instances, a list of (n, d) arrays; default: generated.
            y: an answer each, indices from 0; default: the exact ones.
            console: where progress goes.

        Raises:
            ValueError: settings out of range; points that are not finite or too few for the task; answers with indices
                that are no points; fewer than two examples; `task="custom"` without answers.
        """
        self._check_settings()
        task = None if self.task == "custom" else get_task(self.task)
        if X is None and y is not None:
            raise ValueError("X must be given with y")
        if task is None and (X is None or y is None):
            raise ValueError("X and y must be given for task custom: it has no generator")
        seed = 0 if self.random_state is None else int(self.random_state)
        if X is None:
            assert task is not None
            self.input_dim_, self.end_symbol_ = task.input_dim, task.end_symbol
            self.centre_, self.scale_ = np.zeros(task.input_dim), np.ones(())
            self.constraint_ = task.constraint if self.constraint == "task" else self.constraint
            held_points, held_answers = self._generated(task, 300, np.random.default_rng([seed, 1]))
            trivial = [np.asarray(task.trivial(p)) for p in held_points]
            self._train(task, None, int(self.steps or 3000), seed, console)
        else:
            points, answers = self._examples(X, y, task)
            self._learn_shape(points, answers, task)
            order = np.random.default_rng(seed).permutation(len(points))
            held = max(1, len(points) // 6)
            kept, out = order[held:], order[:held]
            held_points, held_answers = [points[i] for i in out], [answers[i] for i in out]
            if task is None:
                common = Counter(tuple(answers[i].tolist()) for i in kept).most_common(1)[0][0]
                trivial = [np.array([c for c in common if c < len(p)], dtype=np.int64) for p in held_points]
            else:
                trivial = [np.asarray(task.trivial(p)) for p in held_points]
            prepared = [self._prepared(points[i]) for i in kept]
            few = task is not None and len(kept) < _MANY and (y is None or _as_labelled(task, points, answers))
            sizes = [len(points[i]) for i in kept]
            batches = partial(
                _drawn,
                points=prepared,
                answers=[answers[i] for i in kept],
                size=self.batch_size,
                end_symbol=self.end_symbol_,
                generated=(task, (min(sizes), max(sizes)), seed) if few and task is not None else None,
            )
            steps = int(self.steps) if self.steps else (3000 if few else int(np.clip(40 * len(kept), 300, 3000)))
            self._train(task, batches, steps, seed, console)
        found = self.predict(held_points)
        self.score_ = self._mean_score(held_points, found, held_answers)
        self.trivial_score_ = self._mean_score(held_points, trivial, held_answers)
        room = 1 - self.trivial_score_
        self.skill_ = (self.score_ - self.trivial_score_) / room if room > 0 else self.score_ - self.trivial_score_
        if not self.skill_ > 0:
            warnings.warn(
                f"the network is not better than an answer that needs no learning: {self.score_:.3f} against "
                f"{self.trivial_score_:.3f} on instances held out; give more examples or steps",
                UserWarning,
                stacklevel=2,
            )
        return self

    def _check_settings(self) -> None:
        if self.task != "custom" and self.task not in TASKS:
            raise ValueError(f"task must be one of {', '.join(TASKS)}, custom, got {self.task!r}")
        for name in ("hidden", "batch_size", "beam_width"):
            value = getattr(self, name)
            if not isinstance(value, int | np.integer) or value < 1:
                raise ValueError(f"{name} must be a positive integer, got {value!r}")
        if self.steps is not None and (not isinstance(self.steps, int | np.integer) or self.steps < 1):
            raise ValueError(f"steps must be a positive integer or None, got {self.steps!r}")
        if not isinstance(self.n, tuple | list) or not 1 <= len(self.n) <= 2 or self.n[0] < 1 or self.n[-1] < self.n[0]:
            raise ValueError(f"n must be a pair (least, most) of numbers of points, got {self.n!r}")
        names = ("task", None, *CONSTRAINTS)
        if not callable(self.constraint) and self.constraint not in names:
            raise ValueError(
                f"constraint must be task, None, {', '.join(CONSTRAINTS)} or a function, got {self.constraint!r}"
            )
        if self.lr is not None and not self.lr > 0:
            raise ValueError(f"lr must be positive or None, got {self.lr}")
        if self.device not in ("auto", "cpu") and not str(self.device).startswith("cuda"):
            raise ValueError(f"device must be auto, cpu or cuda, got {self.device!r}")
        if self.recipe not in ("fast", "paper"):
            raise ValueError(f"recipe must be fast or paper, got {self.recipe!r}")

    def _generated(self, task: Task, size: int, rng: np.random.Generator) -> tuple[list[np.ndarray], list[np.ndarray]]:
        points: list[np.ndarray] = []
        answers: list[np.ndarray] = []
        for n in range(self.n[0], self.n[-1] + 1):
            some, targets = generate(task, n, -(-size // (self.n[-1] - self.n[0] + 1)), rng)
            points += list(some)
            answers += [row[row >= 0] for row in targets]
        return points, answers

    def _examples(self, X: Any, y: Any, task: Task | None) -> tuple[list[np.ndarray], list[np.ndarray]]:
        points = [self._checked(instance, task, f"X[{i}]") for i, instance in enumerate(X)]
        if len(points) < 2:
            raise ValueError(f"X must hold at least 2 instances, got {len(points)}")
        if len({p.shape[1] for p in points}) > 1:
            raise ValueError(f"X must have equally many features in all, got {sorted({p.shape[1] for p in points})}")
        if y is None:
            assert task is not None
            return points, [task.solve(p).reshape(-1) for p in points]
        if len(y) != len(points):
            raise ValueError(f"y must have an answer for each of the {len(points)} instances, got {len(y)}")
        answers = []
        for i, (p, answer) in enumerate(zip(points, y, strict=True)):
            row = np.asarray(answer).reshape(-1)
            if not len(row) or row.dtype.kind not in "iu" or row.min() < 0 or row.max() >= len(p):
                raise ValueError(f"y[{i}] must be indices from 0 to {len(p) - 1}, at least one, got {answer!r}")
            answers.append(row.astype(np.int64))
        return points, answers

    def _learn_shape(self, points: list[np.ndarray], answers: list[np.ndarray], task: Task | None) -> None:
        """What the examples tell of inputs and answers."""
        self.input_dim_ = points[0].shape[1]
        together = np.concatenate(points)
        self.centre_, self.scale_ = np.zeros(self.input_dim_), np.ones(())
        whole = all(np.array_equal(np.sort(a), np.arange(len(p))) for p, a in zip(points, answers, strict=True))
        distinct = all(len(np.unique(a)) == len(a) for a in answers)
        if task is None:
            spread = together.std(axis=0)
            self.centre_ = together.mean(axis=0)
            self.scale_ = np.where(spread > 0, spread, 1.0)
            self.end_symbol_ = not whole
            found: Constraint = "permutation" if whole else "distinct" if distinct else None
        else:
            if not task.end_symbol and not whole:
                raise ValueError(f"y must be permutations of the points for task {task.name}")
            self.end_symbol_, found = task.end_symbol, task.constraint
        self.constraint_ = found if self.constraint == "task" else self.constraint
        self.longest_ = max(len(a) / len(p) for p, a in zip(points, answers, strict=True))

    def _train(
        self,
        task: Task | None,
        batches: Callable[[torch.Generator], Batch] | None,
        steps: int,
        seed: int,
        console: Console | None,
    ) -> None:
        device = "cuda" if self.device == "auto" and torch.cuda.is_available() else self.device.replace("auto", "cpu")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.model_ = PointerNetwork(
                input_dim=self.input_dim_, hidden=int(self.hidden), end_symbol=self.end_symbol_
            ).to(device)
        paper = self.recipe == "paper"
        recipe = Recipe(
            optimizer="sgd" if paper else "adam",
            lr=self.lr or (1.0 if paper else 5e-3),
            schedule="constant" if paper else "cosine",
            batch_size=self.batch_size,
            steps=steps,
        )
        result = train(
            self.model_, task, tuple(self.n), recipe, seed=seed, batches=batches,
            max_seconds=self.max_seconds, console=console, log_every=max(1, steps // 20),
        )  # fmt: skip
        self.history_ = result.history
        self.model_.cpu().eval()

    # predict

    def predict(self, X: Any) -> Any:
        """Answers as indices from 0: an array for one instance (n, d), a list of arrays for a list of them.

        Hull: corners counter-clockwise; Delaunay: (triangles, 3); tsp and sort: a permutation.

        Raises:
            ValueError: points that are not finite, too few for the task, or with other features than in `fit`.
        """
        check_is_fitted(self, "model_")
        task = None if self.task == "custom" else get_task(self.task)
        single = _is_single(X)
        if task is not None and task.input_dim == 1 and isinstance(X, list | tuple) and len(X):
            # a list of rows of numbers to sort is a list of instances
            single = single and (np.ndim(X[0]) != 1 or np.shape(X[0]) == (1,))
        points = [self._checked(p, task, "X" if single else f"X[{i}]") for i, p in enumerate([X] if single else X)]
        for p in points:
            if p.shape[1] != self.input_dim_:
                raise ValueError(f"X must have {self.input_dim_} features a point, as in fit, got {p.shape[1]}")
        answers: list[Any] = [None] * len(points)
        by_length: dict[int, list[int]] = {}
        for i, p in enumerate(points):
            by_length.setdefault(len(p), []).append(i)
        for n, rows in by_length.items():
            for at in range(0, len(rows), 256):
                some = rows[at : at + 256]
                x = torch.from_numpy(np.stack([self._prepared(points[i]) for i in some]))
                longest = task.longest(n) if task is not None else int(np.ceil(self.longest_ * n)) + 1
                decoded = self.model_.decode(
                    x, method="beam" if self.beam_width > 1 else "greedy", width=int(self.beam_width),
                    constraint=self.constraint_, max_steps=longest,
                )  # fmt: skip
                for i, answer in zip(some, decoded.sequences(), strict=True):
                    row = np.array(answer, dtype=np.int64)
                    answers[i] = row[: len(row) // 3 * 3].reshape(-1, 3) if self.task == "delaunay" else row
        return answers[0] if single else answers

    def score(self, X: Any, y: Any = None) -> float:
        """Mean score of the answers to a list of instances: hull, share that are the same polygon; Delaunay, share of
        the triangles; tsp, shortest length over length; sort and custom, share of places that are right."""
        check_is_fitted(self, "model_")
        points, answers = self._examples(X, y, None if self.task == "custom" else get_task(self.task))
        return self._mean_score(points, self.predict(points), answers)

    def _mean_score(self, points: Sequence[Any], found: Sequence[Any], true: Sequence[Any]) -> float:
        score = TASKS["sort" if self.task == "custom" else self.task].score
        return float(np.mean([score(p, f, t) for p, f, t in zip(points, found, true, strict=True)]))

    def _checked(self, instance: Any, task: Task | None, name: str) -> np.ndarray:
        try:
            array = np.asarray(instance, dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{name} must be numbers of shape (n, d): {error}") from None
        if array.ndim == 1 and task is not None and task.input_dim == 1:
            array = array[:, None]
        if array.ndim != 2 or array.shape[1] == 0 or (task is not None and array.shape[1] != task.input_dim):
            width = "d" if task is None else task.input_dim
            raise ValueError(f"{name} must have shape (n, {width}), got {array.shape}")
        least = 1 if task is None else task.least
        if len(array) < least:
            raise ValueError(f"{name} must have at least {least} points, got {len(array)}")
        if not np.isfinite(array).all():
            raise ValueError(f"{name} must be finite, got NaN or infinite values")
        if task is not None and task.name in ("hull", "delaunay"):
            task.solve(array)  # refuses points that have no answer
        return array

    def _prepared(self, points: np.ndarray) -> np.ndarray:
        """As the network is given them."""
        if self.task == "custom":
            return ((points - self.centre_) / self.scale_).astype(np.float32)
        outside = points.min() < 0 or points.max() > 1 or np.ptp(points, axis=0).max() < _LEAST_EXTENT
        return (unit_square(points) if outside else points).astype(np.float32)

    # saving

    def save(self, folder: Path | str) -> Path:
        """Write the fitted solver: weights as safetensors, the rest as JSON.

        Raises:
            NotFittedError: before `fit`. ValueError: a constraint that is a function.
        """
        check_is_fitted(self, "model_")
        if callable(self.constraint_):
            raise ValueError("constraint must be a name or None to be saved, got a function")
        folder = Path(folder)
        self.model_.save_pretrained(folder)
        fitted = {name: getattr(self, name) for name in (*_FITTED, "longest_") if hasattr(self, name)}
        plain = {name: np.asarray(v).tolist() if name in ("centre_", "scale_") else v for name, v in fitted.items()}
        parameters = {k: v.item() if isinstance(v, np.generic) else v for k, v in self.get_params().items()}
        parameters["n"] = [int(size) for size in self.n]
        content = {"parameters": parameters, "fitted": plain}
        write_atomically(folder / _FILE, json.dumps(content, indent=2) + "\n")
        return folder

    @classmethod
    def load(cls, folder: Path | str) -> "PointerSolver":
        """Read what `save` wrote.

        Raises:
            FileNotFoundError: no solver there. ValueError: damaged.
        """
        path = Path(folder) / _FILE
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            solver = cls(**{**content["parameters"], "n": tuple(content["parameters"]["n"])})
            for name, value in content["fitted"].items():
                if name not in (*_FITTED, "longest_"):
                    raise ValueError(f"unknown entry {name}")
                setattr(solver, name, np.array(value) if name in ("centre_", "scale_") else value)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path} is damaged or no solver: {error}") from error
        solver.model_ = PointerNetwork.from_pretrained(folder)
        return solver


_FITTED = (
    "input_dim_", "end_symbol_", "centre_", "scale_", "constraint_", "score_", "trivial_score_", "skill_",
)  # fmt: skip


def _is_single(X: Any) -> bool:
    """Whether this is one instance and not a list of them."""
    if isinstance(X, np.ndarray | torch.Tensor):
        return X.ndim < 3
    if hasattr(X, "to_numpy"):  # a data frame
        return True
    first = X[0] if len(X) else X
    return np.ndim(first) < 2


def _as_labelled(task: Task, points: list[np.ndarray], answers: list[np.ndarray]) -> bool:
    """Whether the first examples' answers are those that the task's own labels would be."""
    pairs = list(zip(points, answers, strict=True))[:20]
    return all(np.array_equal(task.solve(p).reshape(-1), answer) for p, answer in pairs)


def _drawn(
    generator: torch.Generator,
    *,
    points: list[np.ndarray],
    answers: list[np.ndarray],
    size: int,
    end_symbol: bool,
    generated: tuple[Task, tuple[int, int], int] | None,
) -> Batch:
    """A batch of examples; with `generated`, nine times of ten one of new instances."""
    if generated is not None and float(torch.rand((), generator=generator)) < 0.9:
        task, span, seed = generated
        return numbered_batch(task, span, size, seed, int(torch.randint(2**31, (), generator=generator)))
    chosen = torch.randint(len(points), (min(size, max(8, len(points))),), generator=generator).tolist()
    return collate([points[i] for i in chosen], [answers[i] for i in chosen], end_symbol=end_symbol)
