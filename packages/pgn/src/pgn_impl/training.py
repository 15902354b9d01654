"""Training and measuring a forecaster: the recipe of section 4 (and of the official code's defaults)."""

import math
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from rich.console import Console
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from pgn_impl.windows import Windows
from shared_impl.train import FitResult, TrainConfig, fit

__all__ = ["Recipe", "errors", "predict", "train"]


@dataclass(frozen=True)
class Recipe:
    """How to train; the defaults are the paper's for every data set."""

    epochs: int = 25
    patience: int = 5
    batch_size: int = 32
    lr: float = 1e-3
    decay: float = 0.9
    """of the learning rate an epoch, from the third epoch on: the first two have the full rate"""
    max_steps: int | None = None
    """optimizer steps after which to stop anyway"""

    def __post_init__(self) -> None:
        for name in ("epochs", "patience", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not self.lr > 0:
            raise ValueError(f"lr must be positive, got {self.lr}")
        if not 0 < self.decay <= 1:
            raise ValueError(f"decay must be above 0 and at most 1, got {self.decay}")


def _loss(model: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
    x, marks, y, future_marks = batch
    return F.mse_loss(model(x, marks, future_marks), y)


@torch.no_grad()
def errors(model: nn.Module, windows: Windows, *, drop_last: int | None = None) -> dict[str, float]:
    """Mean squared and absolute error over all windows, steps and variables.

    Args:
        drop_last: leave out the windows after the last full batch of this size, as the paper's table does.
    """
    n = windows.n if drop_last is None else windows.n // drop_last * drop_last
    squared = absolute = 0.0
    chunk = max(1, 2**19 // (windows.y.shape[1] * windows.y.shape[2]))
    device = next(model.parameters(), windows.x).device
    was = model.training
    model.eval()
    for start in range(0, n, chunk):
        x, marks, y, future = (t[start : min(start + chunk, n)].to(device) for t in windows)
        difference = model(x, marks, future) - y
        squared += difference.square().sum(dtype=torch.float64).item()
        absolute += difference.abs().sum(dtype=torch.float64).item()
    model.train(was)
    numbers = n * windows.y.shape[1] * windows.y.shape[2]
    if not numbers:
        raise ValueError(f"windows must fill at least one batch of {drop_last}, got {windows.n}")
    return {"mse": squared / numbers, "mae": absolute / numbers}


@torch.no_grad()
def predict(model: nn.Module, windows: Windows, batch_size: int = 256) -> Tensor:
    """The forecasts of all windows, (n, pred_len, c), on the CPU."""
    was = model.training
    model.eval()
    device = next(model.parameters(), windows.x).device
    parts = []
    for start in range(0, windows.n, batch_size):
        x, marks, _, future = (t[start : start + batch_size].to(device) for t in windows)
        parts.append(model(x, marks, future).cpu())
    model.train(was)
    return torch.cat(parts)


def train(
    model: nn.Module,
    train_windows: Windows,
    valid_windows: Windows,
    recipe: Recipe,
    *,
    seed: int = 0,
    out_dir: Path | None = None,
    console: Console | None = None,
) -> FitResult:
    """Adam on the squared error; the model ends with the weights that were best on the validation windows.

    Raises:
        ValueError: if there are fewer training windows than a batch holds.
    """
    n = train_windows.n
    per_epoch = n // recipe.batch_size
    if per_epoch < 1:
        raise ValueError(f"batch_size must be at most the {n} training windows, got {recipe.batch_size}")
    device = next(model.parameters()).device
    optimizer = torch.optim.Adam(model.parameters(), lr=recipe.lr, fused=True)
    scheduler = LambdaLR(optimizer, lambda step: recipe.decay ** max(0, step // per_epoch - 1))
    steps = per_epoch * recipe.epochs
    limit = {"epochs": recipe.epochs} if recipe.max_steps is None else {"steps": min(steps, recipe.max_steps)}
    return fit(
        model,
        _loss,
        tuple(t.to(device) for t in train_windows),
        optimizer=optimizer,
        scheduler=scheduler,
        evaluate=lambda net: errors(net, valid_windows),
        config=TrainConfig(
            **limit,  # type: ignore[arg-type]
            batch_size=recipe.batch_size,
            eval_every=per_epoch if recipe.max_steps is None else min(per_epoch, math.ceil(recipe.max_steps / 5)),
            patience=recipe.patience,
            monitor="mse",
            restore_best=True,
            drop_last=True,
            seed=seed,
        ),
        out_dir=out_dir,
        console=console,
    )
