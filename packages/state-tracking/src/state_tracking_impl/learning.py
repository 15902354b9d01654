"""Training on a task, and accuracy by length."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
from rich.console import Console
from torch import Tensor

from shared_impl.train import FitResult, TrainConfig, cosine_with_warmup, fit

from .model import SequenceModel
from .tasks import IGNORED, Task

__all__ = ["accuracy_by_length", "train_on_task"]


def train_on_task(
    model: SequenceModel,
    task: Task,
    *,
    lengths: tuple[int, int] = (3, 40),
    steps: int = 20_000,
    batch_size: int = 256,
    learning_rate: float = 1e-3,
    weight_decay: float = 0.0,
    warmup: float = 0.1,
    mixed_precision: str = "no",
    seed: int = 0,
    max_seconds: float | None = None,
    out_dir: Path | None = None,
    console: Console | None = None,
) -> FitResult:
    """AdamW with linear warm-up and a cosine (section 5.1 and the authors' configuration), fresh sequences each step.

    Raises:
        ValueError: the model has not the task's vocabulary; lengths that the task has not.
    """
    if model.vocab_size != task.vocab_size:
        raise ValueError(f"model must have a vocabulary of {task.vocab_size} for {task.name}, got {model.vocab_size}")
    task.sample(1, lengths, torch.Generator().manual_seed(0))
    device = next(model.parameters()).device
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=weight_decay)
    scheduler = partial(cosine_with_warmup, warmup_steps=int(warmup * steps), min_ratio=1e-3)
    config = TrainConfig(
        steps=steps, log_every=max(1, steps // 10), seed=seed, max_seconds=max_seconds,
        mixed_precision=mixed_precision,  # type: ignore[arg-type]
    )  # fmt: skip

    def draw(generator: torch.Generator) -> tuple[Tensor, Tensor]:
        inputs, targets = task.sample(batch_size, lengths, generator)
        return inputs.to(device), targets.to(device)

    def loss(net: Callable[..., object], batch: tuple[Tensor, Tensor]) -> Tensor:
        return net(batch[0], targets=batch[1]).loss  # type: ignore[attr-defined,no-any-return]

    return fit(
        model, loss, draw, optimizer=optimizer, scheduler=scheduler, config=config, out_dir=out_dir, console=console
    )


@torch.no_grad()
def accuracy_by_length(
    model: SequenceModel, task: Task, lengths: Sequence[int], *, batch_size: int = 256, seed: int = 1
) -> dict[int, float]:
    """Scaled accuracy at each length: 0 is chance, 1 perfect; among the tokens that can be answers, all tokens count.

    Raises:
        ValueError: a length that the task has not.
    """
    device = next(model.parameters()).device
    training = model.training
    model.eval()
    found = {}
    for length in lengths:
        inputs, targets = task.sample(batch_size, (length, length), torch.Generator().manual_seed(seed))
        guess = model(inputs.to(device)).logits.argmax(-1).cpu()
        counted = targets != IGNORED
        if task.name[0] in "SA" and task.name[1:2].isdigit():
            # every element is asked for: the last quarter shows what the length does
            counted[:, : 3 * counted.shape[1] // 4] = False
        found[length] = task.scaled((guess == targets)[counted].double().mean().item())
    model.train(training)
    return found
