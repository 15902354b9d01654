"""Mixtures of recordings, drawn anew each time: who speaks, pauses, loudness, speed."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy import ndarray
from torch import Tensor
from torch.utils.data import Dataset

from .audio import resample

__all__ = ["MixtureDataset", "mix"]

QUIET = 1e-4
"""root mean square below which a crop counts as silent"""


def mix(
    sources: Sequence[ndarray], gains_db: Sequence[float] | None = None, *, peak: float = 0.9
) -> tuple[ndarray, ndarray]:
    """Sources of equal loudness (root mean square), changed by `gains_db`, added; mixture and sources scaled together
    so that no sample of either is beyond `peak`.

    Raises:
        ValueError: other lengths, silence, or another number of gains.
    """
    if not sources or len({len(s) for s in sources}) != 1 or not len(sources[0]):
        raise ValueError(f"sources must be of one length and not empty, got {[len(s) for s in sources]}")
    held = np.stack([np.asarray(s, np.float32) for s in sources])
    if not np.isfinite(held).all():
        raise ValueError("sources must be finite")
    gains = np.zeros(len(held)) if gains_db is None else np.asarray(gains_db, np.float64)
    if gains.shape != (len(held),):
        raise ValueError(f"gains_db must be one for each of {len(held)} sources, got {len(gains)}")
    level = np.sqrt((held.astype(np.float64) ** 2).mean(1))
    if (level == 0).any():
        raise ValueError(f"source {int(np.argmin(level))} is silent")
    held = (held * (10 ** (gains / 20) / level)[:, None]).astype(np.float32)
    mixed = held.sum(0)
    scale = np.float32(peak / max(float(np.abs(mixed).max()), float(np.abs(held).max())))
    return mixed * scale, held * scale


class MixtureDataset(Dataset[dict[str, Tensor]]):
    """`n` mixtures of different speakers, the i-th always the same; `draw` gives new ones without end.

    Args:
        speakers: name to recordings.
        seconds: of a mixture; recordings of a speaker follow each other until it is full.
        gain_db: sources differ by up to so much.
        gaps: shortest and longest pause between recordings, in seconds.
        speed: slowest and fastest speed of a source (0.95 and 1.05 in the paper's recipe); None: as recorded.

    Raises:
        ValueError: fewer speakers than sources, empty recordings, numbers out of range.
    """

    def __init__(
        self, speakers: Mapping[str, Sequence[ndarray]], n: int = 1000, *, n_src: int = 2, seconds: float = 2.0,
        sr: int = 8000, gain_db: float = 5.0, gaps: tuple[float, float] = (0.05, 0.15),
        speed: tuple[float, float] | None = None, seed: int = 0,
    ) -> None:  # fmt: skip
        if n_src < 1 or n < 1 or sr < 1 or not seconds > 0:
            raise ValueError(f"n_src, n, sr and seconds must be positive, got {n_src}, {n}, {sr} and {seconds}")
        if len(speakers) < n_src:
            raise ValueError(f"speakers must be at least n_src = {n_src}, got {len(speakers)}")
        if not 0 <= gaps[0] <= gaps[1]:
            raise ValueError(f"gaps must be from 0 on and rise, got {gaps}")
        if gain_db < 0:
            raise ValueError(f"gain_db must not be negative, got {gain_db}")
        if speed is not None and not 0.5 <= speed[0] <= speed[1] <= 2:
            raise ValueError(f"speed must be from 0.5 to 2 and rise, got {speed}")
        for name, own in speakers.items():
            if not any(np.asarray(wave).any() for wave in own):
                raise ValueError(f"speaker {name} has no recording that is not silent")
            if not all(np.isfinite(wave).all() for wave in own):
                raise ValueError(f"speaker {name}: recordings must be finite")
        self.speakers = {name: [np.asarray(wave, np.float32) for wave in own] for name, own in speakers.items()}
        self.n, self.n_src, self.samples, self.sr = n, n_src, max(1, round(seconds * sr)), sr
        self.gain_db, self.gaps, self.speed, self.seed = gain_db, gaps, speed, seed

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """mixture (samples,) and sources (n_src, samples)."""
        if not -self.n <= index < self.n:
            raise IndexError(f"index must be below {self.n}, got {index}")
        mixed, sources = self.one(np.random.default_rng((self.seed, index % self.n)))
        return {"mixture": torch.from_numpy(mixed), "sources": torch.from_numpy(sources)}

    def one(self, rng: np.random.Generator) -> tuple[ndarray, ndarray]:
        """A mixture and its sources; draws in which a source is silent are made again."""
        names = list(self.speakers)
        for _ in range(100):
            who = rng.choice(len(names), self.n_src, replace=False)
            sources = [self._speech(self.speakers[names[i]], rng) for i in who]
            if min(float(np.sqrt((s**2).mean())) for s in sources) > QUIET:
                gains = rng.uniform(-self.gain_db / 2, self.gain_db / 2, self.n_src)
                return mix(sources, gains.tolist())
        raise ValueError("a hundred draws had a silent source: recordings must hold speech")

    def _speech(self, recordings: Sequence[ndarray], rng: np.random.Generator) -> ndarray:
        percent = 100 if self.speed is None else round(100 * rng.uniform(*self.speed))
        needed = -(-self.samples * percent // 100) + 8
        parts: list[ndarray] = []
        have = -int(rng.integers(0, max(1, len(recordings[0]))))  # mixtures begin within a word
        start = -have
        while have < needed:
            wave = recordings[int(rng.integers(len(recordings)))]
            gap = np.zeros(round(rng.uniform(*self.gaps) * self.sr), np.float32)
            parts += [wave, gap]
            have += len(wave) + len(gap) or 1
        speech = np.concatenate(parts)[start : start + needed]
        return resample(speech, percent, 100)[: self.samples]

    def draw(self, generator: torch.Generator, batch: int) -> dict[str, Tensor]:
        """A batch of new mixtures."""
        seeds = torch.randint(0, 2**62, (batch,), generator=generator).tolist()
        return stack([self.one(np.random.default_rng(seed)) for seed in seeds])


def stack(items: Sequence[tuple[ndarray, ndarray]]) -> dict[str, Any]:
    """Mixtures and sources of one length as a batch."""
    mixed, sources = zip(*items, strict=True)
    return {"mixture": torch.from_numpy(np.stack(mixed)), "sources": torch.from_numpy(np.stack(sources))}
