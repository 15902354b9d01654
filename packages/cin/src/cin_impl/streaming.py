"""What the command line does: a file read as a live stream, a network described as one."""

import io
import math
import sys
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import nn
from torch.nn import functional as F

from shared_impl.bench import module_from_file
from shared_impl.cli import UserError
from shared_impl.experiments import Context

from .container import continual
from .cost import parameters, tally
from .data import log_mel, read_wav, spoken_digits
from .experiments import digit_network, full_network, train_digits

__all__ = ["describe", "describe_own", "stream_digits"]


def describe(name: str) -> dict[str, float | int]:
    """A published network as a stream; nothing is computed."""
    clip, stream, shape = full_network(name)
    return _described(clip, stream, shape)


def _described(clip: nn.Module, stream: Any, shape: tuple[int, ...]) -> dict[str, float | int]:
    whole, one = tally(clip, shape), tally(stream, shape, "step")
    return {
        "parameters": parameters(clip),
        "receptive field": stream.receptive_field,
        "delay": stream.delay,
        "stride": stream.time_stride,
        "multiply-adds of a clip": whole["products"],
        "multiply-adds of a step": one["products"],
        "times fewer": whole["products"] / one["products"] if one["products"] else float("nan"),
    }


def describe_own(
    file: Path, name: str, shape: tuple[int, ...], window: int | None, *, seed: int
) -> dict[str, float | int]:
    """A user's network as a stream, and the largest difference between a random clip and its steps.

    Raises:
        UserError: no such file or name; what its code raises; a layer that cannot be continual; a shape that it
            refuses.
    """
    if not file.is_file():
        raise UserError(f"{file}: no such file")
    torch.manual_seed(seed)
    try:
        module = getattr(module_from_file(file, "own_network"), name)
        module = module if isinstance(module, nn.Module) else module()
    except Exception as error:
        raise UserError(f"{file}:{name}: {type(error).__name__}: {error}") from error
    if not isinstance(module, nn.Module):
        raise UserError(f"{file}:{name} must be a torch.nn.Module or make one, got {type(module).__name__}")
    try:
        stream: Any = continual(module, window=window).eval()
        x = torch.randn(shape, dtype=next((p.dtype for p in stream.parameters()), None))
        with torch.no_grad():
            clip = stream(x)
        steps = stream.forward_steps(x, pad_end=True)
        stream.clean_state()
        found = _described(stream, stream, shape)
    except (ValueError, RuntimeError) as error:
        raise UserError(f"{file}:{name}: {error}") from error
    if steps is None or steps.shape != clip.shape:
        raise UserError(f"--shape: {shape[2]} slices are too few for a receptive field of {stream.receptive_field}")
    return {**found, "largest difference of steps and clip": float((clip - steps).abs().max())}


def stream_digits(
    file: Path, recordings: Path | None, *, network: str, steps: int, seed: int, console: Console
) -> list[dict[str, float]]:
    """Train on recordings, then step through the file; an entry whenever the most likely digit changes.

    Raises:
        ValueError: a file that is no 16-bit mono WAV at 8 kHz.
        FileNotFoundError: no recordings to train on.
    """
    samples, rate = read_wav(io.BytesIO(sys.stdin.buffer.read()) if str(file) == "-" else file)
    if rate != 8000:
        raise ValueError(f"{file}: the rate must be 8000 Hz, got {rate}")
    if not len(samples):
        raise ValueError(f"{file}: no samples")
    torch.manual_seed(seed)
    model = digit_network(network)
    train = spoken_digits("train", folder=recordings)
    train_digits(model, network, train, steps=steps, context=Context(console=console), seed=seed)
    # the stream begins in quiet, as the clips do
    quiet = torch.full((40, 64), math.log(1e-6))
    heard = torch.cat([quiet, log_mel(samples, rate)], 1) / 8 + 1
    found: list[dict[str, float]] = []
    for t in range(heard.shape[1]):
        y = model.forward_step(heard[None, :, t])
        if y is None or t < 64:
            continue
        chance, digit = F.softmax(y[0], 0).max(0)
        if not found or found[-1]["digit"] != int(digit):
            found.append({"seconds": (t - 64) * 128 / rate, "digit": int(digit), "probability": float(chance)})
            console.print(f"{found[-1]['seconds']:6.2f} s  digit {int(digit)}  ({float(chance):.2f})", highlight=False)
    return found
