"""What the paper is about, in under a minute: two generated talkers at once, taken apart by a network just trained."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from shared_impl.results import plot_curves

from .audio import write_sound
from .baselines import ConvTasNet
from .data import talkers
from .experiments import IRM, TASNET, held_out
from .mixing import MixtureDataset
from .model import MossFormer2
from .training import evaluate, train

__all__ = ["demo"]


def demo(*, seed: int, device: torch.device, out_dir: Path, console: Console, steps: int = 60) -> dict[str, Any]:
    """SI-SDR improvement of a tiny MossFormer2 and a ConvTasNet of its size after equal steps; writes a mixture and its
    estimates as WAV and draws the training."""
    data = MixtureDataset(talkers(40, seed=seed), seconds=1.0, seed=seed)
    items = held_out(talkers(10, seed=seed + 1), 8, seconds=1.5)
    table = Table("model", "parameters", "SI-SDRi, dB", title=f"Two generated talkers, {steps} steps of 4 s each")
    found: dict[str, Any] = {}
    curves: dict[str, tuple[list[float], list[float]]] = {}
    best: Any = None
    for name in ("MossFormer2", "ConvTasNet"):
        torch.manual_seed(seed)
        settings = {"dropout": 0.0} if name == "MossFormer2" else TASNET
        model = (MossFormer2.preset("tiny", **settings) if name == "MossFormer2" else ConvTasNet(**settings)).to(device)
        result = train(model, data, items, steps=steps, lr=3e-3, anneal=True, eval_every=max(1, steps // 6), seed=seed)
        curves[name] = tuple(list(map(float, axis)) for axis in result.curve("si_sdri"))  # type: ignore[assignment]
        found[name] = evaluate(model, items, device=device)["si_sdri"]
        size = sum(p.numel() for p in model.parameters())
        table.add_row(name, f"{size:,}", f"{found[name]:.2f}")
        best = best or model
    found["ideal ratio mask"] = evaluate(IRM, items)["si_sdri"]
    table.add_row("ideal ratio mask (knows the sources)", "", f"{found['ideal ratio mask']:.2f}")
    table.add_row("the mixture itself", "", "0.00")
    mixture, _ = items[0]
    estimates = best.separate(mixture)
    for name, wave in (("mixture", mixture), ("speaker-1", estimates[0]), ("speaker-2", estimates[1])):
        write_sound(out_dir / f"{name}.wav", 0.9 * wave / max(float(np.abs(wave).max()), 1e-9), 8000)
    path = plot_curves(
        out_dir / "demo.png", curves, xlabel="steps", ylabel="SI-SDR improvement, dB", title="Held-out mixtures"
    )
    console.print(table)
    console.print(f"listen: {out_dir / 'mixture.wav'}, speaker-1.wav, speaker-2.wav\nplot: {path}", highlight=False)
    return found
