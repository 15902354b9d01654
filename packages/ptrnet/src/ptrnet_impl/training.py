"""Learning from solved instances: the paper's recipe (section 4.1) and a fast one, and how a network is measured."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from rich.console import Console
from torch import Tensor

from shared_impl.train import FitResult, TrainConfig, cosine_with_warmup, fit

from .data import Batch, checked_range, numbered_batch
from .decoding import Constraint
from .model import PointerNetwork, Seq2Seq, Seq2SeqAttention
from .tasks import Task, generate, get_task

__all__ = ["FAST", "MODELS", "PAPER", "Model", "Recipe", "answers_of", "build", "evaluate", "train"]

Model = PointerNetwork | Seq2Seq | Seq2SeqAttention

MODELS = ("lstm", "lstm+attention", "ptr-net")

TEST_SEED = 2_015
"""instances to measure with: no training batch has this seed"""


@dataclass(frozen=True)
class Recipe:
    """How a network is trained."""

    optimizer: Literal["adam", "sgd"] = "adam"
    lr: float = 1e-2
    schedule: Literal["cosine", "constant"] = "cosine"
    batch_size: int = 128
    grad_clip: float = 2.0
    steps: int = 2000
    pairs: int | None = None
    """training pairs, of which every pass sees the same; None: every batch is a new one"""


FAST = Recipe()
PAPER = Recipe(optimizer="sgd", lr=1.0, schedule="constant", steps=20 * 1_000_000 // 128, pairs=1_000_000)
"""SGD with rate 1.0, 128 a batch, gradients clipped at 2.0, a million pairs; twenty passes (the paper does not tell)"""


def build(name: str, task: Task | str, *, hidden: int, n_max: int, **options: Any) -> Model:
    """A network for a task, by the name that the tables use.

    Raises:
        ValueError: an unknown name.
    """
    task = get_task(task) if isinstance(task, str) else task
    common: dict[str, Any] = {"input_dim": task.input_dim, "hidden": hidden, "end_symbol": task.end_symbol, **options}
    if name == "ptr-net":
        return PointerNetwork(**common)
    if name == "lstm":
        return Seq2Seq(n_max=n_max, **common)
    if name == "lstm+attention":
        return Seq2SeqAttention(n_max=n_max, **common)
    raise ValueError(f"model must be one of {', '.join(MODELS)}, got {name!r}")


def train(
    model: Model,
    task: Task | str | None,
    n: int | Sequence[int],
    recipe: Recipe = FAST,
    *,
    seed: int = 0,
    batches: Callable[[torch.Generator], Batch] | None = None,
    evaluate: Callable[[Any], Mapping[str, Any]] | None = None,
    out_dir: Path | None = None,
    console: Console | None = None,
    max_seconds: float | None = None,
    **config: Any,
) -> FitResult:
    """Train on generated instances of n points (or, given least and most, of a number drawn for each batch).

    Args:
        batches: other examples: a function of a generator to the next batch; then `task` and `n` do not matter.
        config: further fields of `shared_impl.train.TrainConfig`.

    Raises:
        ValueError: a number of points that the task is not defined for; neither a task nor batches.
    """
    task = get_task(task) if isinstance(task, str) else task
    if batches is None:
        if task is None:
            raise ValueError("task must be given where there are no batches, got None")
        batches = partial(_next_batch, task=task, n=checked_range(n, task), recipe=recipe, seed=seed)
    sgd = recipe.optimizer == "sgd"
    optimizer = (torch.optim.SGD if sgd else torch.optim.Adam)(model.parameters(), lr=recipe.lr)
    scheduler = None
    if recipe.schedule == "cosine":
        scheduler = partial(cosine_with_warmup, warmup_steps=min(100, recipe.steps // 10))
    return fit(
        model,
        _loss,
        batches,
        optimizer=optimizer,
        scheduler=scheduler,
        evaluate=evaluate,
        config=TrainConfig(
            steps=recipe.steps, grad_clip=recipe.grad_clip, seed=seed, max_seconds=max_seconds, **config
        ),
        out_dir=out_dir,
        console=console,
    )


def _next_batch(generator: torch.Generator, *, task: Task, n: tuple[int, int], recipe: Recipe, seed: int) -> Batch:
    batches = 2**31 if recipe.pairs is None else max(1, recipe.pairs // recipe.batch_size)
    number = int(torch.randint(batches, (), generator=generator))
    return numbered_batch(task, n, recipe.batch_size, seed, number)


def _loss(model: Model, batch: Batch) -> Tensor:
    device = model.start.device
    loss: Tensor = model.loss(batch.points.to(device), batch.targets.to(device), batch.lengths.to(device))
    return loss


def answers_of(
    model: Model,
    points: np.ndarray,
    task: Task,
    *,
    width: int = 1,
    constraint: Constraint = "task",
    batch_size: int = 256,
) -> list[list[int]]:
    """Answers to instances of equally many points (size, n, d): greedy, or by a beam.

    Args:
        constraint: "task" for that of the task.
    """
    device = model.start.device
    if constraint == "task":
        constraint = task.constraint
    answers: list[list[int]] = []
    for piece in torch.from_numpy(np.asarray(points, dtype=np.float32)).split(batch_size):
        decoded = model.decode(
            piece.to(device),
            method="greedy" if width == 1 else "beam",
            width=width,
            constraint=constraint,
            max_steps=task.longest(points.shape[1]),
        )
        answers += decoded.sequences()
    return answers


def evaluate(
    model: Model,
    task: Task | str,
    n: int,
    *,
    size: int = 1000,
    width: int = 1,
    constraint: Constraint = "task",
    seed: int = TEST_SEED,
) -> dict[str, float]:
    """The task's numbers on fresh instances of n points, the same for every model."""
    task = get_task(task) if isinstance(task, str) else task
    points, targets = generate(task, n, size, np.random.default_rng([seed, n]))
    true = [row[row >= 0] for row in targets]
    was_training = model.training
    model.eval()
    answers = answers_of(model, points, task, width=width, constraint=constraint)
    model.train(was_training)
    return dict(task.measure(list(points), answers, true))
