"""Train a model on a task by a recipe and measure it: the one path of the experiments, the demo and `train`."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from rich.console import Console
from torch import Tensor
from torch.optim.lr_scheduler import ReduceLROnPlateau

from s4_impl.baselines import MODELS
from s4_impl.configs import Recipe
from s4_impl.data import SequenceTask, Split
from s4_impl.optim import adamw
from s4_impl.sequence import SequenceModel
from shared_impl.train import FitResult, TrainConfig, cosine_with_warmup, count_parameters, fit

__all__ = ["METRICS", "Metric", "Trained", "batch_loss", "build_model", "evaluate", "model_inputs", "train"]


@dataclass(frozen=True)
class Metric:
    """The number by which models of a task are compared."""

    name: str
    label: str
    higher_is_better: bool


METRICS = {
    "classify": Metric("accuracy", "test accuracy %", True),
    "retrieve": Metric("accuracy", "test accuracy %", True),
    "regress": Metric("mse", "test MSE", False),
    "lm": Metric("perplexity", "test perplexity", False),
}


@dataclass(frozen=True)
class Trained:
    """A trained model, the best by validation, and what it reached."""

    model: SequenceModel
    fit: FitResult
    test: dict[str, float]
    n_parameters: int


def _tensors(split: Split) -> tuple[Tensor, ...]:
    """Arrays of a split as tensors that can be indexed (torch cannot index uint16)."""
    arrays = [split.inputs, split.targets] + ([] if split.lengths is None else [split.lengths])
    return tuple(
        torch.from_numpy(a.astype(np.int32) if a.dtype == np.uint16 else np.ascontiguousarray(a)) for a in arrays
    )


def model_inputs(task: SequenceTask, inputs: Tensor) -> Tensor:
    """Stored examples as the model takes them: pixels scaled, tokens as int64."""
    if task.encoder == "embedding":
        return inputs.long()
    if inputs.dtype == torch.uint8:
        mean, std = (
            torch.tensor(v, dtype=torch.float32, device=inputs.device) for v in (task.pixel_mean, task.pixel_std)
        )
        return (inputs.float() / 255 - mean) / std
    return inputs.float()


def _unpack(task: SequenceTask, batch: Any) -> tuple[Tensor, Tensor, Tensor | None]:
    inputs, targets, *rest = batch
    lengths = rest[0].long() if rest else None
    if lengths is not None:
        inputs = inputs[..., : int(lengths.max())]  # no longer than the longest of this batch
    return model_inputs(task, inputs), targets, lengths


def batch_loss(task: SequenceTask) -> Callable[[SequenceModel, Any], Tensor]:
    """Loss of a batch of stored examples, for `shared_impl.train.fit`."""

    def loss(model: SequenceModel, batch: Any) -> Tensor:
        inputs, targets, lengths = _unpack(task, batch)
        return model.loss(inputs, targets, lengths)

    return loss


@torch.no_grad()
def evaluate(
    model: SequenceModel, task: SequenceTask, split: Split, *, batch_size: int = 128, rate: float = 1.0
) -> dict[str, float]:
    """Metrics over a split: accuracy in percent and loss, or mse and mae, or loss and perplexity.

    Args:
        rate: sampling rate of the split relative to training.
    """
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    sums = {"loss": 0.0, "correct": 0.0, "squared": 0.0, "absolute": 0.0}
    count = 0
    tensors = _tensors(split)
    for start in range(0, len(split), batch_size):
        batch = tuple(t[start : start + batch_size].to(device) for t in tensors)
        inputs, targets, lengths = _unpack(task, batch)
        if task.task == "regress":
            error = model(inputs, lengths, rate=rate) - targets
            sums["squared"] += error.square().sum().item()
            sums["absolute"] += error.abs().sum().item()
            count += error.numel()
        elif task.task == "lm":
            sums["loss"] += model.loss(inputs, targets, lengths).item() * targets.numel()
            count += targets.numel()
        else:
            logits = model(inputs, lengths, rate=rate)
            sums["loss"] += F.cross_entropy(logits, targets.long(), reduction="sum").item()
            sums["correct"] += (logits.argmax(dim=-1) == targets).sum().item()
            count += len(targets)
    model.train(was_training)
    if task.task == "regress":
        return {"mse": sums["squared"] / count, "mae": sums["absolute"] / count}
    if task.task == "lm":
        return {"loss": sums["loss"] / count, "perplexity": math.exp(min(sums["loss"] / count, 700.0))}
    return {"accuracy": 100 * sums["correct"] / count, "loss": sums["loss"] / count}


def _class(kind: str) -> Any:
    if kind not in MODELS:
        raise ValueError(f"model must be one of {', '.join(MODELS)}, got {kind!r}")
    return MODELS[kind]


def build_model(kind: str, task: SequenceTask, config: dict[str, Any] | None = None) -> SequenceModel:
    """A model for a task; `config` are further arguments of its class.

    Raises:
        ValueError: if there is no such kind of model.
    """
    arguments: dict[str, Any] = {
        "task": task.task, "encoder": task.encoder, "pooling": task.pooling, "horizon": task.horizon
    }  # fmt: skip
    if kind in ("s4", "lssl") and len(task.train):
        # C is stored for this length from the start, not changed by the first long batch
        arguments["l_max"] = task.train.inputs.shape[1 if task.encoder == "linear" else -1]
    model: SequenceModel = _class(kind)(task.d_input, task.d_output, **{**arguments, **(config or {})})
    return model


def train(
    kind: str,
    task: SequenceTask,
    recipe: Recipe,
    *,
    seed: int = 0,
    device: torch.device | str = "cpu",
    out_dir: Path | None = None,
    resume: bool = True,
    console: Console | None = None,
    model: SequenceModel | None = None,
) -> Trained:
    """Train by the recipe and measure on the test split the weights that were best on the validation split."""
    if model is None:
        torch.manual_seed(seed)
        model = build_model(kind, task, dict(recipe.model))
    model = model.to(device)
    optimizer = adamw(model, recipe.lr, recipe.weight_decay, ssm_lr=recipe.ssm_lr, dt_lr=recipe.dt_lr)
    metric = METRICS[task.task]
    mode: Literal["min", "max"] = "max" if metric.higher_is_better else "min"
    scheduler: Any = None
    if recipe.schedule == "cosine":
        scheduler = partial(_cosine, warmup=recipe.warmup)
    elif recipe.schedule == "plateau":
        scheduler = ReduceLROnPlateau(optimizer, mode=mode, factor=0.2, patience=recipe.plateau_patience)
    config = TrainConfig(
        epochs=recipe.epochs, steps=recipe.steps, batch_size=recipe.batch_size, monitor=metric.name, mode=mode,
        restore_best=True, seed=seed, grad_clip=recipe.grad_clip, mixed_precision=recipe.mixed_precision,
    )  # fmt: skip
    result = fit(
        model, batch_loss(task), _tensors(task.train), optimizer=optimizer, scheduler=scheduler,
        evaluate=lambda m: evaluate(m, task, task.val), config=config, out_dir=out_dir, resume=resume, console=console,
    )  # fmt: skip
    return Trained(model, result, evaluate(model, task, task.test), count_parameters(model))


def _cosine(optimizer: torch.optim.Optimizer, total_steps: int, *, warmup: float) -> Any:
    return cosine_with_warmup(optimizer, total_steps, warmup_steps=int(warmup * total_steps))
