"""What the paper is about, in under a minute: a table and a plot."""

import time
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from shared_impl.experiments import Context
from shared_impl.results import plot_curves

from .cost import flops
from .data import moving_shapes
from .experiments import train_classifier
from .video import SmallCo3D

__all__ = ["demo"]


def demo(*, seed: int, device: torch.device, out_dir: Path, console: Console, steps: int = 300) -> dict[str, float]:
    """Train a small video network on clips, then run it on a stream: as a sliding window, and one step a frame."""
    torch.manual_seed(seed)
    frames, length = 16, 64
    model: Any = SmallCo3D(frames=frames).to(device)
    train = moving_shapes(1000, frames=frames, seed=seed)
    train_classifier(model, train, steps=steps, context=Context(console=console), seed=seed)
    test = moving_shapes(32, frames=length, seed=seed + 1)
    stream, label = test.x.to(device), test.y.to(device)
    seconds = {"sliding window": 0.0, "step": 0.0}
    right: dict[str, list[float]] = {"sliding window": [], "step": []}
    worst = 0.0
    for t in range(length):
        begun = time.perf_counter()
        y = model.forward_step(stream[:, :, t])
        between = time.perf_counter()
        if t < frames - 1:
            assert y is None
            continue
        with torch.no_grad():
            whole = model(stream[:, :, t - frames + 1 : t + 1])[:, :, 0]
        seconds["step"] += between - begun
        seconds["sliding window"] += time.perf_counter() - between
        worst = max(worst, float((y - whole).abs().max()))
        for name, logits in (("sliding window", whole), ("step", y)):
            right[name].append(float((logits.argmax(1) == label).float().mean()))

    shape = (1, *stream.shape[1:2], frames, *stream.shape[3:])
    work = {"sliding window": flops(model, shape), "step": flops(model, shape, "step")}
    model.clean_state()
    table = Table("form", "accuracy %", "kFLOPs a frame", "ms a frame (32 streams)", title="Moving shapes as a stream")
    for name in right:
        mean = sum(right[name]) / len(right[name])
        spent = 1e3 * seconds[name] / len(right[name])
        table.add_row(name, f"{100 * mean:.1f}", f"{work[name] / 1e3:.0f}", f"{spent:.2f}")
    times = list(range(frames - 1, length))
    curves = {name: (times, [100 * value for value in values]) for name, values in right.items()}
    path = plot_curves(out_dir / "demo.png", curves, xlabel="frame", ylabel="accuracy %")
    console.print(table)
    console.print(f"largest difference of the two: {worst:.1e}; chance is 12.5 %")
    console.print(f"plot: {path}")
    return {
        "accuracy": sum(right["step"]) / len(right["step"]),
        "difference": worst,
        "speedup": seconds["sliding window"] / seconds["step"],
        "flops_ratio": work["sliding window"] / work["step"],
    }
