"""Data whose every answer is known: a Gaussian process, its exact noise network, its conditional distribution."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from .diffusion import GaussianDiffusion

__all__ = ["AnalyticGaussianDenoiser", "conditional", "draw_gaussian", "seasonal_covariance"]


def seasonal_covariance(length: int = 48, period: float = 12.0) -> Float[Tensor, "length length"]:
    """0.8 cos(2 pi (i - j) / period) + 0.2 * 0.7^|i - j|, and 1e-4 on the diagonal; float64."""
    at = torch.arange(length, dtype=torch.float64)
    lag = at[:, None] - at[None]
    season = 0.8 * torch.cos(2 * torch.pi * lag / period)
    return season + 0.2 * 0.7 ** lag.abs() + 1e-4 * torch.eye(length, dtype=torch.float64)


def draw_gaussian(covariance: Float[Tensor, "length length"], n: int, seed: int = 0) -> Float[Tensor, "n length"]:
    """Draws of N(0, covariance)."""
    root = torch.linalg.cholesky(covariance)
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, len(covariance), generator=generator, dtype=covariance.dtype) @ root.T


def conditional(
    covariance: Float[Tensor, "length length"], y: Float[Tensor, "rows length"], mask: Bool[Tensor, "length"]
) -> tuple[Float[Tensor, "rows unknown"], Float[Tensor, "unknown unknown"]]:
    """Mean and covariance of what is not known, given y where mask is true, of N(0, covariance)."""
    known, unknown = covariance[mask][:, mask], covariance[~mask][:, mask]
    gain = torch.linalg.solve(known, unknown.T).T
    return y[:, mask] @ gain.T, covariance[~mask][:, ~mask] - gain @ unknown.T


class AnalyticGaussianDenoiser:
    """The network that training on N(0, covariance) would end at: the exact mean of the target given x_k."""

    def __init__(self, covariance: Float[Tensor, "length length"], diffusion: GaussianDiffusion) -> None:
        self.values, self.vectors = torch.linalg.eigh(covariance.double())
        self.diffusion = diffusion

    def __call__(self, x: Float[Tensor, "rows length"], k: Float[Tensor, "rows"]) -> Float[Tensor, "rows length"]:
        ab = self.diffusion.alpha_bar[k.long() + 1]
        values, vectors = self.values.to(x), self.vectors.to(x)
        signal, rest = ab.sqrt().to(x)[:, None], (1 - ab).to(x)[:, None]
        turned = x @ vectors / (signal**2 * values + rest)
        eps, x0 = turned * rest.sqrt(), turned * signal * values
        found = {"eps": eps, "x0": x0, "v": signal * eps - rest.sqrt() * x0}[self.diffusion.target]
        return found @ vectors.T

    def covariance(self, k: int) -> Float[Tensor, "length length"]:
        """Covariance of the data given x_k."""
        ab = self.diffusion.alpha_bar[k]
        left = self.values * (1 - ab) / (ab * self.values + 1 - ab)
        return (self.vectors * left) @ self.vectors.T
