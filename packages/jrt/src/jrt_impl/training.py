"""Training on the recall tasks: loss where an answer is asked for, fresh examples at each step."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor

from shared_impl.train import FitResult, TrainConfig, cosine_with_warmup, fit

from .model import JRTForCausalLM
from .synthetic import SetDisjointness

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["METHODS", "RecallTask", "accuracy", "recall_model", "set_disjointness", "train_recall"]

METHODS: Mapping[str, tuple[str, int]] = {
    "causal": ("based", 1), "read twice": ("based", 2), "prefix": ("pla", 1), "transformer": ("attention", 1),
    "gla": ("gla", 1), "ssm": ("ssm", 1),
}  # fmt: skip
"""name of a method to its mixer and how often it reads"""


@runtime_checkable
class RecallTask(Protocol):
    """Sequences, and targets where an answer is asked for (-100 elsewhere)."""

    def sample(self, count: int, *, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw some."""
        ...


def recall_model(method: str, *, vocab_size: int, d_model: int, feature_dim: int, seed: int) -> JRTForCausalLM:
    """The four layers of the paper's synthetic runs: gated convolution and mixer, twice; no MLP.

    Raises:
        ValueError: if there is no such method.
    """
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return JRTForCausalLM(
            vocab_size=vocab_size, d_model=d_model, n_heads=2, layers=["short_conv", METHODS[method][0]] * 2,
            feature_dim=feature_dim, inner=0, init_std=0.1,
        )  # fmt: skip


def train_recall(
    model: JRTForCausalLM,
    tasks: Sequence[RecallTask],
    *,
    steps: int,
    lr: float = 5e-3,
    batch: int = 64,
    seed: int = 0,
    folder: Path | None = None,
    console: "Console | None" = None,
) -> FitResult:
    """AdamW (weight decay .1), warm-up over a twentieth, cosine to 0; each batch is of one task, drawn at random.

    Raises:
        ValueError: if steps, batch or lr is not positive.
    """
    if steps < 1 or batch < 1 or not lr > 0:
        raise ValueError(f"steps, batch and lr must be positive, got {steps}, {batch} and {lr}")
    device = model.embedding.weight.device

    def draw(generator: torch.Generator) -> tuple[Tensor, Tensor]:
        task = tasks[int(torch.randint(len(tasks), (), generator=generator))]
        return task.sample(batch, generator=generator)

    def loss(model: JRTForCausalLM, drawn: tuple[Tensor, Tensor]) -> Tensor:
        ids, targets = (t.to(device) for t in drawn)
        return F.cross_entropy(model(ids).logits.transpose(1, 2), targets)

    schedule: Callable[..., Any] = partial(cosine_with_warmup, warmup_steps=steps // 20)
    return fit(
        model, loss, draw,
        optimizer=torch.optim.AdamW(model.parameters(), lr=lr, betas=(0.9, 0.95), weight_decay=0.1),
        scheduler=schedule, config=TrainConfig(steps=steps, grad_clip=1.0, seed=seed), out_dir=folder, console=console,
    )  # fmt: skip


@torch.no_grad()
def accuracy(model: JRTForCausalLM, task: RecallTask, *, count: int = 1000, seed: int = 10_000) -> float:
    """Share of right answers on examples drawn apart from those of training."""
    ids, targets = task.sample(count, generator=torch.Generator().manual_seed(seed))
    device = model.embedding.weight.device
    asked = targets != -100
    said = model(ids.to(device)).logits.argmax(-1).cpu()
    return (said[asked] == targets[asked]).float().mean().item()


def set_disjointness(
    method: str,
    *,
    sizes: Sequence[Sequence[int]],
    vocab_size: int,
    d_model: int,
    feature_dim: int,
    steps: int,
    lr: float = 5e-3,
    batch: int = 64,
    count: int = 1000,
    seed: int = 0,
    device: torch.device | str = "cpu",
    folder: Path | None = None,
    console: "Console | None" = None,
) -> dict[str, float]:
    """Train a method on both orders of each pair of sizes (the smaller is given first); accuracy by order.

    Raises:
        ValueError: if an option is out of range.
    """
    model = recall_model(method, vocab_size=vocab_size, d_model=d_model, feature_dim=feature_dim, seed=seed).to(device)
    passes = METHODS[method][1]
    short: list[RecallTask] = [SetDisjointness(min(p), max(p), vocab_size, passes) for p in sizes]
    long: list[RecallTask] = [SetDisjointness(max(p), min(p), vocab_size, passes) for p in sizes]
    train_recall(
        model, short + long, steps=steps, lr=lr, batch=batch, seed=seed, folder=folder, console=console
    )  # fmt: skip
    return {
        name: sum(accuracy(model, task, count=count) for task in tasks) / len(tasks)
        for name, tasks in (("short first", short), ("long first", long))
    }
