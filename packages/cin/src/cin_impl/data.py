"""Streams to try the networks on: spoken digits (real), moving shapes and skeleton gestures (made)."""

import math
import os
import wave
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from .skeleton import NTU_BONES

__all__ = ["Clips", "gestures", "log_mel", "moving_shapes", "read_wav", "spoken_digits"]


class Clips(NamedTuple):
    """Clips of equal length with a class each."""

    x: Float[Tensor, "clips channels time ..."]
    y: Int[Tensor, "clips"]


def moving_shapes(clips: int, *, frames: int = 24, side: int = 16, noise: float = 0.3, seed: int = 0) -> Clips:
    """Squares of 3 to 5 pixels that move in one of 8 directions and come in again on the other side, in noise."""
    if clips < 1 or frames < 2 or side < 8:
        raise ValueError(f"clips >= 1, frames >= 2 and side >= 8 are needed, got {clips}, {frames}, {side}")
    rng = torch.Generator().manual_seed(seed)
    y = torch.randint(8, (clips,), generator=rng)
    angle = y * math.pi / 4
    speed = 0.6 + 0.6 * torch.rand(clips, generator=rng)
    size = torch.randint(3, 6, (clips,), generator=rng)
    start = side * torch.rand(clips, 2, generator=rng)
    t = torch.arange(frames)
    heading = torch.stack([angle.cos(), angle.sin()], 1)
    place = start[:, None] + speed[:, None, None] * heading[:, None] * t[None, :, None]
    grid = torch.arange(side)
    inside = [((grid - place[..., i, None]) % side < size[:, None, None]).float() for i in range(2)]
    x = inside[0][..., :, None] * inside[1][..., None, :]
    x = x + noise * torch.randn(x.shape, generator=rng)
    return Clips(x[:, None], y)


def gestures(clips: int, *, frames: int = 32, classes: int = 8, noise: float = 0.05, seed: int = 0) -> Clips:
    """Skeletons of 25 joints that swing one of four limbs at one of two rhythms: `(clips, 3, frames, 25, 1)`."""
    if clips < 1 or frames < 2 or not 1 <= classes <= 8:
        raise ValueError(f"clips >= 1, frames >= 2 and classes 1 to 8 are needed, got {clips}, {frames}, {classes}")
    rng = torch.Generator().manual_seed(seed)
    limbs = ((5, 6, 7, 8, 22, 23), (9, 10, 11, 12, 24, 25), (13, 14, 15, 16), (17, 18, 19, 20))
    rest = torch.zeros(25, 3)
    for _ in range(12):
        for outer, inner in NTU_BONES:
            side = -1.0 if any(outer in limb for limb in limbs[::2]) else 1.0
            rest[outer - 1] = rest[inner - 1] + torch.tensor([0.2 * side, -0.2 if outer > 12 else 0.1, 0.0])
    y = torch.randint(classes, (clips,), generator=rng)
    t = torch.arange(frames)
    phase = 2 * math.pi * torch.rand(clips, generator=rng)
    rhythm = torch.where(y >= 4, 0.9, 0.4)
    swing = 0.3 * torch.sin(rhythm[:, None] * t + phase[:, None])
    x = rest.T[None, :, None, :].repeat(clips, 1, frames, 1)
    for clip in range(clips):
        for depth, joint in enumerate(limbs[int(y[clip]) % 4]):
            x[clip, 1, :, joint - 1] += swing[clip] * (1 + depth) / 4
    x = x + noise * torch.randn(x.shape, generator=rng)
    return Clips(x[..., None], y)


def read_wav(path: Path | BinaryIO) -> tuple[np.ndarray, int]:
    """Samples in [-1, 1] and their rate, of a 16-bit mono file.

    Raises:
        ValueError: the file is damaged or of another kind.
    """
    name = path if isinstance(path, Path) else "standard input"
    try:
        with wave.open(str(path) if isinstance(path, Path) else path, "rb") as file:
            if file.getsampwidth() != 2 or file.getnchannels() != 1:
                raise ValueError(f"{name}: must be 16-bit mono")
            rate, data = file.getframerate(), file.readframes(file.getnframes())
    except (wave.Error, EOFError) as error:
        raise ValueError(f"{name}: no WAV file: {str(error) or 'it ends too early'}") from error
    return np.frombuffer(data[: len(data) // 2 * 2], dtype="<i2").astype(np.float32) / 32768, rate


def log_mel(
    samples: np.ndarray, rate: int = 8000, *, bands: int = 40, window: int = 256, hop: int = 128
) -> Float[Tensor, "bands frames"]:
    """Log of mel-band energies, a frame every `hop` samples."""
    if len(samples) < window:
        samples = np.pad(samples, (0, window - len(samples)))
    frames = torch.from_numpy(samples.copy()).unfold(0, window, hop) * torch.hann_window(window)
    power = torch.fft.rfft(frames).abs().square()
    top = 2595 * math.log10(1 + rate / 2 / 700)
    edges = 700 * (10 ** (torch.linspace(0, top, bands + 2) / 2595) - 1)
    f = torch.linspace(0, rate / 2, power.shape[1])
    rising = (f[None] - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    falling = (edges[2:, None] - f[None]) / (edges[2:] - edges[1:-1])[:, None]
    filters = torch.minimum(rising, falling).clamp(min=0)
    return (power @ filters.T + 1e-6).log().T


def spoken_digits(split: str, *, frames: int = 64, folder: Path | None = None) -> Clips:
    """Free Spoken Digit Dataset as log-mel clips `(clips, 40, frames)`: the word at the end, quiet before.

    Args:
        split: "train" (recordings 5 and up) or "test" (0 to 4), as the data set's authors split it.
        folder: of `{digit}_{speaker}_{index}.wav`; default: `fsdd_small/recordings` under IMPL_DATA_DIR.

    Raises:
        ValueError: an unknown split; a file that is no WAV.
        FileNotFoundError: no recordings there.
    """
    if split not in ("train", "test"):
        raise ValueError(f"split must be train or test, got {split!r}")
    folder = folder or Path(os.environ.get("IMPL_DATA_DIR", "data")) / "fsdd_small" / "recordings"
    clips, labels = [], []
    for path in sorted(folder.glob("*_*_*.wav")):
        digit, _, index = path.stem.split("_")
        if (int(index) < 5) != (split == "test"):
            continue
        mel = log_mel(*read_wav(path))[:, -frames:]
        clips.append(torch.nn.functional.pad(mel, (frames - mel.shape[1], 0), value=math.log(1e-6)))
        labels.append(int(digit))
    if not clips:
        raise FileNotFoundError(f"no recordings of the {split} split in {folder}; set IMPL_DATA_DIR or give folder")
    return Clips(torch.stack(clips) / 8 + 1, torch.tensor(labels))
