"""Data sets whose target is a draw of a Gaussian process with an RBF kernel (a small part of the released prior)."""

from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from tabpfn_impl.hyperpriors import MetaChoice, MetaTruncatedNormal

__all__ = ["GPConfig", "GPPrior"]


@dataclass(frozen=True, kw_only=True)
class GPConfig:
    """The distributions of the kernel's parameters."""

    outputscale: MetaTruncatedNormal = field(default_factory=lambda: MetaTruncatedNormal(1e-5, 10.0))
    lengthscale: MetaTruncatedNormal = field(default_factory=lambda: MetaTruncatedNormal(1e-5, 10.0))
    noise: MetaChoice = field(default_factory=lambda: MetaChoice((1e-5, 1e-4, 1e-2)))
    """variance of the noise"""


class GPPrior:
    """x ~ N(0, 1); y ~ N(0, outputscale exp(-|x - x'|² / 2 lengthscale²) + noise)."""

    def __init__(self, config: GPConfig | None = None) -> None:
        self.config = config or GPConfig()

    def sample(
        self,
        sets: int,
        rows: int,
        features: int,
        rng: np.random.Generator,
        generator: torch.Generator,
    ) -> tuple[Float[Tensor, "sets rows features"], Float[Tensor, "sets rows"]]:
        """Features and real-valued targets; where the covariance is not positive definite even in float64, NaN."""
        c, device = self.config, generator.device
        lengthscale, outputscale, noise = (
            torch.as_tensor(d.sample(rng, sets).astype(np.float64), device=device)[:, None, None]
            for d in (c.lengthscale, c.outputscale, c.noise)
        )
        x = torch.randn(sets, rows, features, generator=generator, device=device)
        scaled = x.double() / lengthscale.clamp_min(1e-12)
        square = scaled.square().sum(-1)
        distance = (square[:, :, None] + square[:, None, :] - 2.0 * scaled @ scaled.mT).clamp_min_(0.0)
        kernel = outputscale * torch.exp(-0.5 * distance)
        kernel.diagonal(dim1=1, dim2=2).copy_((outputscale + noise).squeeze(-1))
        factor, failed = torch.linalg.cholesky_ex(kernel)
        z = torch.randn(sets, rows, 1, generator=generator, device=device, dtype=torch.float64)
        y = (factor @ z).squeeze(-1)
        return x, torch.where((failed > 0)[:, None], torch.nan, y).float()
