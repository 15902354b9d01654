"""Pretraining: windows at random, levels at random, the weights' moving average."""

import copy
import math
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from rich.console import Console
from rich.progress import Progress, TimeRemainingColumn
from torch import Tensor, nn

from .diffusion import GaussianDiffusion
from .normalise import prompt_statistics

__all__ = ["Normalise", "Recipe", "Windows", "normalised", "optimise", "pretrain"]

Normalise = Literal["prefix", "window", "none"]


@dataclass(frozen=True)
class Recipe:
    """How a network is trained; the defaults are this package's choice, the paper's could not be read."""

    steps: int = 5000
    batch_size: int = 256
    lr: float = 1e-3
    min_lr: float = 1e-5
    weight_decay: float = 1e-4
    ema: float = 0.999
    loss: Literal["l2", "l1"] = "l2"
    eval_every: int = 500
    patience: int | None = None
    """evaluations on held-out windows without a gain before training stops; None: never"""

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "eval_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not 0 <= self.ema < 1:
            raise ValueError(f"ema must be from 0 to below 1, got {self.ema}")

    @classmethod
    def diffae(cls, steps: int = 5000) -> "Recipe":
        """That of the reference network's latent model: constant rate, L1; with betas of 0.008 and 20 DDIM steps."""
        return cls(steps=steps, lr=1e-4, min_lr=1e-4, weight_decay=0.01, ema=0.9999, loss="l1")


class Windows:
    """All windows of `length` steps of some series, (steps, channels) each; a draw copies what it takes.

    Raises:
        ValueError: no series is as long as a window.
    """

    def __init__(self, series: Sequence[np.ndarray], length: int) -> None:
        long = [np.asarray(s, dtype=np.float32).reshape(len(s), -1) for s in series if len(s) >= length]
        if not long:
            longest = max((len(s) for s in series), default=0)
            raise ValueError(f"series must have at least the window's {length} steps, the longest has {longest}")
        self.values = torch.from_numpy(np.concatenate(long))
        begin = np.cumsum([0, *[len(s) for s in long]])[:-1]
        starts = [np.arange(b, b + len(s) - length + 1) for b, s in zip(begin, long, strict=True)]
        self.starts, self.length = torch.from_numpy(np.concatenate(starts)), length

    def __len__(self) -> int:
        return len(self.starts)

    def take(self, index: Tensor) -> Tensor:
        """Windows by number, (n, channels, length)."""
        at = self.starts[index][:, None] + torch.arange(self.length)
        return self.values[at].transpose(1, 2)

    def draw(self, n: int, generator: torch.Generator, *, joint: bool) -> Float[Tensor, "n channels length"]:
        """Windows at random; unless `joint`, of one random channel each."""
        window = self.take(torch.randint(len(self), (n,), generator=generator))
        if joint:
            return window
        channel = torch.randint(window.shape[1], (n,), generator=generator)
        return window[torch.arange(n), channel][:, None]


def normalised(
    x: Float[Tensor, "n channels length"], how: Normalise, floor: float, generator: torch.Generator, bound: float = 10.0
) -> Float[Tensor, "n width"]:
    """Windows by the statistics of a random prefix (at least an eighth), as a forecast will be; channels joined.

    What the prefix does not foretell can lie far out: numbers are cut off at `bound`.
    """
    n, channels, length = x.shape
    if how != "none":
        first = torch.randint(max(2, length // 8), length + 1, (n, 1), generator=generator)
        seen = torch.arange(length) < (first if how == "prefix" else length)
        mask = seen.expand(n, length).repeat_interleave(channels, 0)
        rows = x.reshape(n * channels, length)
        mean, deviation = prompt_statistics(rows, mask, floor)
        x = ((rows - mean) / deviation.clamp(min=floor)).float().view(n, channels, length)
    return x.clamp(-bound, bound).reshape(n, channels * length)


def optimise(
    net: nn.Module,
    loss: Callable[[nn.Module, torch.Generator], Tensor],
    recipe: Recipe,
    *,
    seed: int = 0,
    held_out: Callable[[nn.Module], float] | None = None,
    console: Console | None = None,
    what: str = "training",
) -> list[dict[str, Any]]:
    """AdamW, the rate on half a cosine; leaves the moving average of the weights, the best by `held_out` where given.

    Returns:
        step, loss since the last row, and held-out loss.

    Raises:
        ValueError: a loss that is not finite.
    """
    generator = torch.Generator().manual_seed(seed)
    average = copy.deepcopy(net).eval().requires_grad_(False)
    optimiser = torch.optim.AdamW(net.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay)
    parameters: list[Tensor] = list(net.parameters())
    averaged: list[Tensor] = list(average.parameters())
    history: list[dict[str, Any]] = []
    best, kept, since, total = math.inf, None, 0, 0.0
    began = time.monotonic()
    progress = Progress(*Progress.get_default_columns()[:-1], TimeRemainingColumn(), console=console)
    try:
        with progress if console is not None else nullcontext():
            task = progress.add_task(what, total=recipe.steps)
            for step in range(1, recipe.steps + 1):
                rate = recipe.min_lr + (recipe.lr - recipe.min_lr) * (1 + math.cos(math.pi * step / recipe.steps)) / 2
                optimiser.param_groups[0]["lr"] = rate
                net.train()
                value = loss(net, generator)
                optimiser.zero_grad(set_to_none=True)
                value.backward()  # type: ignore[no-untyped-call]
                nn.utils.clip_grad_norm_(parameters, 1.0)
                optimiser.step()
                with torch.no_grad():
                    torch._foreach_lerp_(averaged, parameters, 1 - min(recipe.ema, (1 + step) / (10 + step)))
                total += float(value.detach())
                progress.update(task, completed=step)
                if step % recipe.eval_every and step != recipe.steps:
                    continue
                row = {"step": step, "loss": total / ((step - 1) % recipe.eval_every + 1)}
                total = 0.0
                if held_out is not None:
                    row["held_out"] = held_out(average)
                    since += 1
                    if row["held_out"] < best:
                        best, since, kept = row["held_out"], 0, copy.deepcopy(average.state_dict())
                if not math.isfinite(row["loss"]):
                    raise ValueError(f"the loss is {row['loss']} by step {step}: lr = {recipe.lr} is too large")
                history.append({**row, "seconds": round(time.monotonic() - began, 2)})
                if recipe.patience is not None and since >= recipe.patience:
                    break
    finally:  # also when it is stopped: what is learnt stays
        net.load_state_dict(kept or average.state_dict())
        net.eval()
    return history


def pretrain(
    net: nn.Module,
    diffusion: GaussianDiffusion,
    windows: Windows,
    recipe: Recipe,
    *,
    normalise: Normalise = "prefix",
    floor: float = 1e-5,
    joint: bool = False,
    valid: Windows | None = None,
    seed: int = 0,
    console: Console | None = None,
) -> list[dict[str, Any]]:
    """Train a noise network on windows; held-out windows at fixed levels and noise choose the weights."""
    device = next(net.parameters()).device

    def batch(source: Windows, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        x = normalised(source.draw(n, generator, joint=joint), normalise, floor, generator)
        k = torch.randint(1, diffusion.levels + 1, (n,), generator=generator)
        eps = torch.randn(x.shape, generator=generator)
        return x.to(device), k.to(device), eps.to(device)

    def loss(net: nn.Module, generator: torch.Generator) -> Tensor:
        return diffusion.loss(net, *batch(windows, recipe.batch_size, generator), recipe.loss)

    held = batch(valid, 2048, torch.Generator().manual_seed(seed + 1)) if valid is not None else None

    def held_out(net: nn.Module) -> float:
        assert held is not None
        with torch.no_grad():
            return float(diffusion.loss(net, *held, recipe.loss))

    return optimise(
        net, loss, recipe, seed=seed, held_out=held_out if held else None, console=console, what="pretraining"
    )
