"""Training a separator and measuring it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy import ndarray
from rich.console import Console
from torch import Tensor, nn
from torch.optim.lr_scheduler import ReduceLROnPlateau

from shared_impl.train import FitResult, TrainConfig, fit

from .metrics import best_order, pairwise_si_sdr, pit_loss, reorder, sdr, si_sdr
from .mixing import MixtureDataset

__all__ = ["Score", "evaluate", "separation_loss", "train"]

Score = dict[str, float]
SILENT = 1e-10
"""mean square below which a source counts as silent and its item is left out"""


def separation_loss(model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
    """Minus the SI-SDR of a batch under its best orders; items with a silent source are left out."""
    heard = (batch["sources"].square().mean(-1) > SILENT).all(1)
    if not bool(heard.any()):
        return 0 * model(batch["mixture"]).sum()  # type: ignore[no-any-return]
    loss, _ = pit_loss(model(batch["mixture"][heard]), batch["sources"][heard])
    return loss


def evaluate(
    model: Any, items: Sequence[tuple[ndarray, ndarray]], *, with_sdr: bool = False, device: torch.device | str = "cpu"
) -> Score:
    """Means over whole mixtures: SI-SDR, its improvement, and the same of SDR where asked.

    Args:
        model: of a mixture (1, samples) to estimates, or of (mixture, sources) for an oracle (`oracle = True`).
        items: mixture (samples,) and sources (n_src, samples) each.

    Raises:
        ValueError: nothing to evaluate, or a source that is silent throughout.
    """
    if not items:
        raise ValueError("items must not be empty")
    names = ("si_sdr", "si_sdri", "sdr", "sdri") if with_sdr else ("si_sdr", "si_sdri")
    found: dict[str, list[float]] = {name: [] for name in names}
    training = getattr(model, "training", False)
    if isinstance(model, nn.Module):
        model.eval()
    try:
        for number, (mixture, sources) in enumerate(items):
            if (np.ptp(sources, axis=1) == 0).any():
                raise ValueError(f"item {number}: a source is silent, its SI-SDR is not defined")
            m, s = torch.from_numpy(mixture)[None].to(device), torch.from_numpy(sources)[None].to(device)
            with torch.no_grad():
                estimates = model(m, s) if getattr(model, "oracle", False) else model(m)
                scores = pairwise_si_sdr(estimates, s)
                order = best_order(scores)
                own = torch.gather(scores, 1, order[:, None])[0, 0]
                before = si_sdr(m[:, None].expand_as(s).contiguous(), s)[0]
            found["si_sdr"].append(float(own.mean()))
            found["si_sdri"].append(float((own - before).mean()))
            if with_sdr:
                ours = reorder(estimates, order)[0].cpu().numpy()
                each = [sdr(e, t) for e, t in zip(ours, sources, strict=True)]
                found["sdr"].append(float(np.mean(each)))
                found["sdri"].append(found["sdr"][-1] - float(np.mean([sdr(mixture, t) for t in sources])))
    finally:
        if isinstance(model, nn.Module):
            model.train(training)
    return {name: float(np.mean(values)) for name, values in found.items()}


def train(
    model: nn.Module,
    data: MixtureDataset | Sequence[tuple[ndarray, ndarray]],
    held_out: Sequence[tuple[ndarray, ndarray]] = (),
    *,
    steps: int,
    batch: int = 4,
    crop_s: float | None = None,
    lr: float = 1.5e-4,
    clip: float = 5.0,
    eval_every: int | None = None,
    halve_after: int = 5,
    stop_after: int | None = None,
    anneal: bool = False,
    seed: int = 0,
    out_dir: Path | None = None,
    resume: bool = True,
    max_seconds: float | None = None,
    console: Console | None = None,
) -> FitResult:
    """Adam on mixtures drawn without end, or on crops of given ones; ends with the best weights by `held_out`.

    Args:
        data: mixtures to draw, or (mixture, sources) of which crops are taken.
        held_out: whole mixtures; the rate is halved after `halve_after` evaluations without a new best, training ends
            after `stop_after`.
        crop_s: seconds of a crop of given mixtures; default 2 s, and a shorter mixture is padded.
        clip: largest norm of the gradient.
        anneal: the rate falls to zero by a half cosine instead.

    Raises:
        ValueError: nothing to learn from, or a rate that is not positive.
    """
    if not lr > 0:
        raise ValueError(f"lr must be positive, got {lr}")
    sr = int(getattr(model, "sample_rate", 8000))
    if isinstance(data, MixtureDataset):
        mixtures = data

        def draw(generator: torch.Generator) -> dict[str, Tensor]:
            return mixtures.draw(generator, batch)

    else:
        items = data
        if not items:
            raise ValueError("data must not be empty")
        length = max(2, round((crop_s or 2.0) * sr))

        def draw(generator: torch.Generator) -> dict[str, Tensor]:
            return _crops(items, length, batch, generator)

    device = next(model.parameters()).device
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    plateau = ReduceLROnPlateau(optimizer, "max", factor=0.5, patience=halve_after - 1) if held_out else None
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps) if anneal else None
    measure = (lambda m: evaluate(m, held_out, device=device)) if held_out else None
    how = TrainConfig(
        steps=steps, grad_clip=clip, seed=seed, eval_every=eval_every, patience=stop_after, max_seconds=max_seconds,
        monitor="si_sdri" if held_out else "loss", mode="max" if held_out else "min", restore_best=bool(held_out),
    )  # fmt: skip
    return fit(
        model, separation_loss, draw, optimizer=optimizer, scheduler=cosine or plateau, evaluate=measure, config=how,
        out_dir=out_dir, resume=resume, console=console,
    )  # fmt: skip


def _crops(
    items: Sequence[tuple[ndarray, ndarray]], length: int, batch: int, generator: torch.Generator
) -> dict[str, Tensor]:
    mixed, sources = [], []
    for index in torch.randint(len(items), (batch,), generator=generator).tolist():
        mixture, own = items[index]
        room = max(0, len(mixture) - length)
        start = int(torch.randint(room + 1, (), generator=generator))
        both = np.concatenate([mixture[None], own])[:, start : start + length]
        both = np.pad(both, ((0, 0), (0, length - both.shape[1])))
        mixed.append(torch.from_numpy(both[0]))
        sources.append(torch.from_numpy(both[1:]))
    return {"mixture": torch.stack(mixed), "sources": torch.stack(sources)}
