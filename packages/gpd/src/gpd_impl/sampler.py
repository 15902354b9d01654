"""From noise to data: DDIM steps (Song et al. 2021), of which DDPM is a case, and noise that belongs to its row."""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from .diffusion import Denoiser, GaussianDiffusion

if TYPE_CHECKING:
    from .guidance import Guidance

__all__ = ["DDIMSampler", "Noise", "RowNoise", "Step"]

Noise = Callable[[Tensor], Tensor]
"""standard normal numbers of a tensor's shape, type and place"""


class RowNoise:
    """Normal draws for series times samples, a stream a series: what one gets does not depend on its neighbours.

    Args:
        seed: of all.
        keys: a number a series.
        samples: rows that a series has, one after the other.
    """

    def __init__(self, seed: int, keys: Sequence[int], samples: int = 1) -> None:
        if seed < 0:
            raise ValueError(f"seed must not be negative, got {seed}")
        self.streams = [np.random.default_rng([seed, key]) for key in keys]
        self.samples = samples

    def __call__(self, like: Tensor) -> Tensor:
        shape = (self.samples, *like.shape[1:])
        drawn = np.concatenate([stream.standard_normal(shape, dtype=np.float32) for stream in self.streams])
        return torch.from_numpy(drawn).to(like)


@dataclass(frozen=True)
class Step:
    """One step of a sampler, from level `k` to level `to`."""

    diffusion: GaussianDiffusion
    k: int
    to: int
    noise: Noise
    eta: float = 0.0
    clip: float | None = None
    """bound of the predicted data"""
    side: Noise = field(default=lambda like: torch.randn_like(like))
    """noise of a guidance: the sampler's own draws do not depend on it"""
    samples: int = 1
    """rows of a series, which lie one after the other"""

    @property
    def alpha_bar(self) -> float:
        """ab_k."""
        return float(self.diffusion.alpha_bar[self.k])

    @property
    def alpha_bar_to(self) -> float:
        """ab_k'."""
        return float(self.diffusion.alpha_bar[self.to])

    def sigma(self, eta: float | None = None) -> float:
        """Deviation of the noise that the step adds."""
        ab, to = self.alpha_bar, self.alpha_bar_to
        return (self.eta if eta is None else eta) * math.sqrt((1 - to) / (1 - ab) * (1 - ab / to))

    def predict(self, model: Denoiser, x: Tensor) -> tuple[Tensor, Tensor]:
        """Data and noise that the network sees, the data within the bound."""
        x0, eps = self.diffusion.predict(model, x, self.k)
        if self.clip is not None:
            x0 = x0.clamp(-self.clip, self.clip)
            eps = self.diffusion.noise_of(x, self.k, x0)
        return x0, eps

    def move(self, x0: Tensor, eps: Tensor, eta: float | None = None) -> Tensor:
        """x_k' of data and noise."""
        sigma = self.sigma(eta)
        found = math.sqrt(self.alpha_bar_to) * x0 + math.sqrt(max(0.0, 1 - self.alpha_bar_to - sigma**2)) * eps
        return found + sigma * self.noise(x0) if sigma else found

    def plain(self, model: Denoiser, x: Tensor) -> Tensor:
        """The step without guidance."""
        return self.move(*self.predict(model, x))


@dataclass(frozen=True)
class DDIMSampler:
    """`steps` of the K levels, evenly; `eta` = 1 on all of them is DDPM, 0 draws nothing after the first noise."""

    steps: int = 50
    eta: float = 0.0
    clip: float | None = None

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps must be at least 1, got {self.steps}")
        if not 0 <= self.eta <= 1:
            raise ValueError(f"eta must be from 0 to 1, got {self.eta}")

    def levels(self, diffusion: GaussianDiffusion) -> list[int]:
        """The levels that are visited, from K down to 0."""
        if self.steps > diffusion.levels:
            raise ValueError(f"steps must be at most the {diffusion.levels} levels, got {self.steps}")
        return [round(level) for level in np.linspace(diffusion.levels, 0, self.steps + 1)]

    def __call__(
        self,
        model: Denoiser,
        diffusion: GaussianDiffusion,
        start: Float[Tensor, "rows length"],
        y: Float[Tensor, "rows length"] | None = None,
        mask: Bool[Tensor, "rows length"] | None = None,
        guidance: "Guidance | None" = None,
        *,
        noise: Noise | None = None,
        side: Noise | None = None,
        samples: int = 1,
        overwrite: bool = True,
    ) -> Float[Tensor, "rows length"]:
        """Data from noise `start`; with `y`, `mask` (true where y is known) and a guidance, data that agree with y.

        Args:
            noise, side: draws of the steps and of the guidance; torch's global generator where none is given.
            samples: rows of a series.
            overwrite: put y where it is known, in the end.

        Raises:
            ValueError: y, mask and guidance must come together, of the shape of `start`.
        """
        given = [item is not None for item in (y, mask, guidance)]
        if any(given) and not all(given):
            raise ValueError("y, mask and guidance must be given together")
        if y is not None and mask is not None and not y.shape == mask.shape == start.shape:
            raise ValueError(
                f"y and mask must have the shape of start, {tuple(start.shape)}, got {tuple(y.shape)}, "
                f"{tuple(mask.shape)}"
            )
        draw, aside = noise or torch.randn_like, side or torch.randn_like
        guided = guidance is not None and mask is not None and bool(mask.any())
        if guided and mask is not None and y is not None:
            y = torch.where(mask, y, 0.0)
        levels = self.levels(diffusion)
        x = start
        with torch.no_grad():
            for k, to in itertools.pairwise(levels):
                step = Step(diffusion, k, to, draw, self.eta, self.clip, aside, samples)
                if guided:
                    assert guidance is not None
                    assert y is not None
                    assert mask is not None
                    x = guidance(model, x, step, y, mask)
                else:
                    x = step.plain(model, x)
            if guided and overwrite:
                assert y is not None
                assert mask is not None
                x = torch.where(mask, y, x)
        return x
