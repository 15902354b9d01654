"""One way to train all heads: AdamW on drawn batches, clipped, best weights by a held-out loss where there is one."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from shared_impl.train import FitResult, TrainConfig, fit

__all__ = ["Plan", "train"]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How to train, and where."""

    steps: int = 300
    lr: float = 1e-3
    seed: int = 0
    device: torch.device | str = "cpu"
    weight_decay: float = 1e-4
    eval_every: int | None = None
    """steps between looks at the held-out loss; None: a tenth of the steps"""
    patience: int | None = None
    """looks without a better one after which to stop"""
    schedule: Callable[[int], float] | None = None
    """of the step, a factor for the learning rate; None: a short warm-up and a cosine down to a tenth"""
    max_seconds: float | int | None = None
    folder: Path | None = None
    """where checkpoints go"""
    console: Console | None = None

    def factor(self, step: int) -> float:
        """Of the learning rate."""
        if self.schedule is not None:
            return self.schedule(step)
        warm = max(1, min(50, self.steps // 10))
        return min(1.0, (step + 1) / warm) * (0.55 + 0.45 * math.cos(math.pi * min(1.0, step / self.steps)))


def train(
    net: nn.Module,
    loss: Callable[[Any, Any], Tensor],
    draw: Callable[[torch.Generator], Any],
    plan: Plan,
    held_out: Callable[[Any], float] | None = None,
) -> FitResult:
    """Train `net` in place and leave it in evaluation mode; the weights that do best by `held_out` are those that stay.

    Without gradients of its own, `held_out` is a loss of the network.
    """
    optimizer = torch.optim.AdamW(net.parameters(), lr=plan.lr, weight_decay=plan.weight_decay)
    config = TrainConfig(
        steps=plan.steps, grad_clip=1.0, seed=plan.seed, eval_every=plan.eval_every or max(1, plan.steps // 10),
        patience=plan.patience, max_seconds=plan.max_seconds, restore_best=held_out is not None,
    )  # fmt: skip
    evaluate = None if held_out is None else lambda model: {"loss": held_out(model)}
    # A function of its own, which a checkpoint leaves out; a method it would try to keep
    scheduler = LambdaLR(optimizer, lambda step: plan.factor(step))
    result = fit(
        net, loss, draw, optimizer=optimizer, scheduler=scheduler, evaluate=evaluate, config=config,
        out_dir=plan.folder, console=plan.console,
    )  # fmt: skip
    net.eval()
    return result
