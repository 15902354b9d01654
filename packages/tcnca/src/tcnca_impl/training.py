"""Training on recall, on classification tasks, and on bytes."""

import math
import warnings
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from rich.console import Console
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from shared_impl.train import TrainConfig, count_parameters, fit

from .config import ClassifierConfig, LMConfig
from .data import LISTOPS_TOKENS, associative_recall, byte_windows, delayed_copy, listops, unigram_bits
from .lra import LRATask, Split
from .model import TCNCAClassifier, TCNCAForCausalLM
from .tcn import tcn_for_length

__all__ = [
    "at_equal_parameters",
    "linear_decay",
    "listops_config",
    "listops_task",
    "train_bytes",
    "train_copy",
    "train_recall",
    "train_task",
]

Config = TypeVar("Config", LMConfig, ClassifierConfig)


def linear_decay(optimizer: Optimizer, total_steps: int, warmup_steps: int) -> LambdaLR:
    """A rate that rises linearly over `warmup_steps`, then falls linearly to 0 (MEGA's schedule)."""

    def ratio(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / (warmup_steps + 1)
        return max(0.0, (total_steps - step) / max(1, total_steps - warmup_steps))

    return LambdaLR(optimizer, ratio)


def _optimizer(model: nn.Module, lr: float | int, weight_decay: float | int) -> Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=lr, betas=(0.9, 0.98), weight_decay=weight_decay)


def _schedule(steps: int, warmup: int | None = None) -> Any:
    return partial(linear_decay, warmup_steps=min(steps // 10 if warmup is None else warmup, max(0, steps - 1)))


def train_recall(
    architecture: str,
    *,
    length: int = 64,
    chunk: int = 16,
    vocab: int = 10,
    d_model: int = 32,
    kernel: int = 5,
    depth: int = 3,
    steps: int = 600,
    batch: int = 64,
    lr: float | int = 3e-3,
    dropout: float | int = 0.0,
    seed: int = 0,
    device: str = "cpu",
    folder: Path | None = None,
    console: Console | None = None,
    **settings: Any,
) -> tuple[TCNCAClassifier, dict[str, float]]:
    """Train two layers on associative recall; accuracy on fresh ones, and where the pair is in another chunk."""
    torch.manual_seed(seed)
    config = ClassifierConfig(
        n_classes=vocab, vocab_size=vocab, architecture=architecture, d_model=d_model, ffn=2 * d_model, chunk=chunk,
        kernel=kernel, depth=depth, dilation_factor=tcn_for_length(length, kernel, depth), bidirectional=False,
        pool="last", dropout=dropout, **settings,
    )  # fmt: skip
    model = TCNCAClassifier(config).to(device)

    def stream(generator: torch.Generator) -> tuple[Tensor, Tensor]:
        sample = associative_recall(batch, length, vocab=vocab, chunk=chunk, generator=generator)
        return sample.ids.to(device), sample.targets.to(device)

    fit(
        model,
        lambda m, b: F.cross_entropy(m(b[0]), b[1]),
        stream,
        optimizer=_optimizer(model, lr, 0.01),
        scheduler=_schedule(steps),
        config=TrainConfig(steps=steps, grad_clip=1.0, seed=seed),
        out_dir=folder,
        console=console,
    )
    model.eval()
    result = {"chance": 2 / vocab}
    for part, first in (("validation", 10_000), ("accuracy", 20_000)):
        generator = torch.Generator().manual_seed(seed + first)
        hits, far = [], []
        with torch.no_grad():
            for _ in range(16):
                sample = associative_recall(64, length, vocab=vocab, chunk=chunk, generator=generator)
                hits.append((model(sample.ids.to(device)).argmax(1).cpu() == sample.targets).float())
                far.append(sample.far)
        hit, away = torch.cat(hits), torch.cat(far)
        result[part] = hit.mean().item()
        if part == "accuracy" and away.any():
            result["far"], result["far_share"] = hit[away].mean().item(), away.float().mean().item()
    return model, result


def train_copy(
    architecture: str,
    *,
    length: int = 64,
    delay: int = 24,
    chunk: int = 16,
    vocab: int = 8,
    d_model: int = 32,
    steps: int = 200,
    batch: int = 16,
    lr: float | int = 1e-2,
    seed: int = 0,
    device: str = "cpu",
    console: Console | None = None,
) -> tuple[TCNCAForCausalLM, float]:
    """Train one layer to repeat what stood `delay` positions before; its accuracy on fresh symbols."""
    torch.manual_seed(seed)
    config = LMConfig(
        vocab_size=vocab, architecture=architecture, d_model=d_model, n_layers=1, ffn=2 * d_model, chunk=chunk,
        kernel=5, depth=3, dilation_factor=tcn_for_length(length, 5, 3),
    )  # fmt: skip
    model = TCNCAForCausalLM(config).to(device)

    def stream(generator: torch.Generator) -> tuple[Tensor, ...]:
        return tuple(t.to(device) for t in delayed_copy(batch, length, delay, vocab=vocab, generator=generator))

    fit(
        model, lambda m, b: m(b[0], targets=b[1]).loss, stream, optimizer=_optimizer(model, lr, 0.0),
        scheduler=_schedule(steps), config=TrainConfig(steps=steps, grad_clip=1.0, seed=seed), out_dir=None,
        console=console,
    )  # fmt: skip
    model.eval()
    ids, targets = stream(torch.Generator().manual_seed(seed + 10_000))
    with torch.no_grad():
        hits = model(ids).logits.argmax(-1)[:, delay:] == targets[:, delay:]
    return model, hits.float().mean().item()


def listops_task(n_train: int = 8000, n_test: int = 1000, *, max_length: int = 128, seed: int = 0) -> LRATask:
    """Expressions by the benchmark's rules, but short; no expression is in two parts."""
    made = listops(n_train + 2 * n_test, max_length=max_length, seed=seed)
    x, y, lengths = made.ids.numpy().astype(np.uint16), made.values.numpy(), made.lengths.numpy()
    cuts = (n_train, n_train + n_test)
    xs, ys, every = (np.split(whole, cuts) for whole in (x, y, lengths))
    train, val, test = (Split(*part) for part in zip(xs, ys, every, strict=True))
    return LRATask("listops", train, val, test)


def listops_config(**settings: Any) -> ClassifierConfig:
    """A small classifier of expressions; an LSTM reads in one direction."""
    defaults: dict[str, Any] = {
        "d_model": 64, "n_layers": 2, "ffn": 128, "chunk": 32, "kernel": 5, "depth": 3, "dilation_factor": 5,
        "bidirectional": settings.get("architecture") != "lstm",
    }  # fmt: skip
    return ClassifierConfig(**{**defaults, "n_classes": 10, "vocab_size": len(LISTOPS_TOKENS), **settings})


def train_task(
    config: ClassifierConfig,
    task: LRATask,
    *,
    steps: int,
    batch: int = 32,
    lr: float | int = 2e-3,
    weight_decay: float | int = 0.01,
    warmup: int | None = None,
    evaluations: int = 5,
    seed: int = 0,
    device: str = "cpu",
    folder: Path | None = None,
    console: Console | None = None,
) -> tuple[TCNCAClassifier, dict[str, float]]:
    """Train a classifier; its accuracy on the test part with the weights that were best on the validation part.

    Also `trivial`, that of the most frequent class; a warning where the model is not better.
    """
    torch.manual_seed(seed)
    model = TCNCAClassifier(config).to(device)

    def inputs(split: Split, index: Any) -> tuple[Tensor, Tensor | None]:
        x = torch.from_numpy(split.x[index].astype(np.int64)).to(device)
        x = x if config.vocab_size is not None else (x / 255.0 - task.mean) / task.std
        if split.lengths is None:
            return x, None
        lengths = torch.from_numpy(split.lengths[index]).to(device)
        return x[..., : int(lengths.max())], lengths

    def loss(net: TCNCAClassifier, batch: tuple[Tensor]) -> Tensor:
        index = batch[0].cpu().numpy()
        return F.cross_entropy(net(*inputs(task.train, index)), torch.from_numpy(task.train.y[index]).to(device))

    def accuracy(net: TCNCAClassifier, split: Split) -> float:
        longest = np.zeros(len(split)) if split.lengths is None else split.lengths.reshape(len(split), -1).max(1)
        hits = 0
        with torch.no_grad():
            for index in np.array_split(longest.argsort(), -(-len(split) // (2 * batch))):
                hits += int((net(*inputs(split, index)).argmax(1).cpu().numpy() == split.y[index]).sum())
        return hits / len(split)

    result = fit(
        model, loss, (torch.arange(len(task.train)),),
        optimizer=_optimizer(model, lr, weight_decay), scheduler=_schedule(steps, warmup),
        evaluate=lambda net: {"accuracy": accuracy(net, task.val)},
        config=TrainConfig(
            steps=steps, batch_size=min(batch, len(task.train)), grad_clip=1.0, seed=seed, monitor="accuracy",
            mode="max", restore_best=True, eval_every=max(1, steps // evaluations),
        ),
        out_dir=folder, console=console,
    )  # fmt: skip
    model.eval()
    usual = np.bincount(task.train.y).argmax()
    found = {
        "accuracy": accuracy(model, task.test),
        "validation": float(result.best["accuracy"]),
        "trivial": float((task.test.y == usual).mean()),
        "parameters": float(count_parameters(model)),
    }
    if found["accuracy"] <= found["trivial"]:
        warnings.warn(
            f"accuracy {found['accuracy']:.3f} is not above {found['trivial']:.3f}, that of the most frequent class: "
            "train for more steps",
            stacklevel=2,
        )
    return model, found


def at_equal_parameters(config: Config, parameters: int) -> Config:
    """The configuration with the feed-forward width that brings the model closest to so many parameters.

    Raises:
        ValueError: too few for the rest of the model.
    """

    def count(ffn: int) -> int:
        other = replace(config, ffn=ffn)
        with torch.device("meta"):
            model = TCNCAForCausalLM(other) if isinstance(other, LMConfig) else TCNCAClassifier(other)
        return count_parameters(model)

    slim = count(1)
    ffn = 1 + round((parameters - slim) / (count(2) - slim))
    if ffn < 1:
        raise ValueError(f"parameters must be at least {slim} for this model, got {parameters}")
    return replace(config, ffn=ffn)


def train_bytes(
    model: TCNCAForCausalLM,
    train: Tensor,
    test: Tensor,
    *,
    length: int = 256,
    batch: int = 16,
    steps: int = 300,
    lr: float | int = 3e-3,
    weight_decay: float | int = 0.1,
    warmup: int | None = None,
    grad_clip: float | int = 0.25,
    window_chunks: Sequence[int] | None = None,
    test_chunk: int | None = None,
    test_length: int | None = None,
    seed: int = 0,
    windows: int = 64,
    folder: Path | None = None,
    console: Console | None = None,
) -> dict[str, float]:
    """Train on random windows; bits a byte on windows spread evenly over the test bytes.

    Also `unigram`, the bits of the training text's byte frequencies; a warning where the model is not better.

    Args:
        window_chunks: windows of so many chunks, drawn between the two for each batch, instead of `length`.
        test_chunk, test_length: the attention chunk and the windows of the test, if others than in training.
    """
    device, chunk = next(model.parameters()).device, model.config.chunk

    def stream(generator: torch.Generator) -> tuple[Tensor, Tensor]:
        width = length
        if window_chunks is not None:
            width = chunk * int(torch.randint(window_chunks[0], window_chunks[1] + 1, (), generator=generator))
        x, y = byte_windows(train, batch, width, generator)
        return x.to(device), y.to(device)

    def loss(m: TCNCAForCausalLM, b: tuple[Tensor, Tensor]) -> Tensor:
        out = m(b[0], targets=b[1]).loss
        assert out is not None
        return out

    fit(
        model, loss, stream,
        optimizer=_optimizer(model, lr, weight_decay), scheduler=_schedule(steps, warmup),
        config=TrainConfig(steps=steps, grad_clip=grad_clip, seed=seed), out_dir=folder, console=console,
    )  # fmt: skip
    model.eval()
    width = length if test_length is None else test_length
    if len(test) <= width:
        raise ValueError(f"test must be longer than {width}, got {len(test)} bytes")
    if test_chunk is not None:
        model.set_chunk(test_chunk)
    starts = torch.linspace(0, len(test) - width - 1, min(windows, len(test) - width)).long()
    at = starts.unsqueeze(1) + torch.arange(width)
    x, y = test[at].long(), test[at + 1].long()
    with torch.no_grad():
        losses = [
            loss(model, (a.to(device), b.to(device))).item() * len(a)
            for a, b in zip(x.split(16), y.split(16), strict=True)
        ]
    model.set_chunk(chunk)
    bits = sum(losses) / len(x) / math.log(2)
    trivial = unigram_bits(train, test)
    if bits >= trivial:
        warnings.warn(
            f"{bits:.3f} bits a byte are not below {trivial:.3f}, by their frequencies: train for more steps",
            stacklevel=2,
        )
    return {"bits": bits, "unigram": trivial, "parameters": float(count_parameters(model))}
