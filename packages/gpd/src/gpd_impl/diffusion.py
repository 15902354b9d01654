"""The forward process, what a network may predict of it, and its exact formulas (Ho et al. 2020)."""

import math
from collections.abc import Callable
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["Denoiser", "GaussianDiffusion", "Schedule", "Target"]

Denoiser = Callable[[Tensor, Tensor], Tensor]
Schedule = Literal["linear", "cosine", "constant"]
Target = Literal["eps", "x0", "v"]


def _betas(schedule: str, levels: int, given: tuple[float, float] | None) -> Tensor:
    stretch = 1000 / levels
    if schedule == "linear":
        first, last = given or (1e-4 * stretch, 0.02 * stretch)
        betas = torch.linspace(first, last, levels, dtype=torch.float64)
    elif schedule == "constant":
        first, _ = given or (0.008 * stretch, 0.0)
        betas = torch.full((levels,), first, dtype=torch.float64)
    elif schedule == "cosine":
        at = (torch.arange(levels + 1, dtype=torch.float64) / levels + 0.008) / 1.008
        kept = (at * math.pi / 2).cos().square()
        betas = (1 - kept[1:] / kept[:-1]).clamp(max=0.999)
    else:
        raise ValueError(f"schedule must be linear, cosine or constant, got {schedule!r}")
    if not bool(((betas > 0) & (betas < 1)).all()):
        raise ValueError(f"betas must be between 0 and 1, got {float(betas.min())} to {float(betas.max())}")
    return betas


class GaussianDiffusion:
    """x_k = sqrt(ab_k) x_0 + sqrt(1 - ab_k) eps for levels k = 1 ... K, and what a network says of it.

    Level 0 is the data, `alpha_bar[0]` = 1. Networks count levels from zero, as the reference code does: they are given
    k - 1.

    Args:
        levels: K.
        schedule: of the betas: "linear" (1e-4 to 0.02 for K = 1000, times 1000 / K for others), "cosine", or "constant"
            (0.008, likewise).
        betas: first and last of them (of "constant" the first alone), instead.
        target: what the network predicts: the noise, the data, or v = sqrt(ab) eps - sqrt(1 - ab) x_0.
    """

    def __init__(
        self, levels: int = 1000, schedule: Schedule = "linear", target: Target = "eps", *,
        betas: tuple[float, float] | None = None,
    ) -> None:  # fmt: skip
        if levels < 2:
            raise ValueError(f"levels must be at least 2, got {levels}")
        if target not in ("eps", "x0", "v"):
            raise ValueError(f"target must be eps, x0 or v, got {target!r}")
        self.levels, self.target = levels, target
        self.betas = _betas(schedule, levels, betas)
        self.alpha_bar = torch.cat([torch.ones(1, dtype=torch.float64), torch.cumprod(1 - self.betas, 0)])

    def rates(self, k: int | Tensor, like: Tensor) -> tuple[Any, Any]:
        """sqrt(ab_k) and sqrt(1 - ab_k): numbers for one level, columns for a level a row."""
        if isinstance(k, int):
            ab = float(self.alpha_bar[k])
            return math.sqrt(ab), math.sqrt(1 - ab)
        ab_rows = self.alpha_bar.to(k.device)[k]
        return ab_rows.sqrt().to(like)[:, None], (1 - ab_rows).sqrt().to(like)[:, None]

    def noisy(
        self, x0: Float[Tensor, "rows length"], k: int | Tensor, eps: Float[Tensor, "rows length"]
    ) -> Float[Tensor, "rows length"]:
        """Data at level k, with the noise that is given."""
        signal, noise = self.rates(k, x0)
        return signal * x0 + noise * eps

    def tweedie(
        self, x: Float[Tensor, "rows length"], k: int | Tensor, eps: Float[Tensor, "rows length"]
    ) -> Float[Tensor, "rows length"]:
        """The mean of the data given x_k, where eps is the mean of the noise (Tweedie)."""
        signal, noise = self.rates(k, x)
        return (x - noise * eps) / signal

    def noise_of(
        self, x: Float[Tensor, "rows length"], k: int | Tensor, x0: Float[Tensor, "rows length"]
    ) -> Float[Tensor, "rows length"]:
        """The noise that makes x_k of x_0."""
        signal, noise = self.rates(k, x)
        return (x - signal * x0) / noise

    def predict(
        self, model: Denoiser, x: Float[Tensor, "rows length"], k: int | Tensor
    ) -> tuple[Float[Tensor, "rows length"], Float[Tensor, "rows length"]]:
        """Data and noise that the network sees in x_k."""
        level = torch.full((len(x),), k, device=x.device) if isinstance(k, int) else k
        out = model(x, (level - 1).float())
        if self.target == "eps":
            return self.tweedie(x, k, out), out
        if self.target == "x0":
            return out, self.noise_of(x, k, out)
        signal, noise = self.rates(k, x)
        return signal * x - noise * out, noise * x + signal * out

    def loss(
        self, model: Denoiser, x0: Float[Tensor, "rows length"], k: Tensor, eps: Float[Tensor, "rows length"],
        kind: Literal["l2", "l1"] = "l2",
    ) -> Float[Tensor, ""]:  # fmt: skip
        """Mean error of the network's prediction at levels k (1 ... K) for noise eps."""
        x = self.noisy(x0, k, eps)
        signal, noise = self.rates(k, x0)
        wanted = {"eps": eps, "x0": x0, "v": signal * eps - noise * x0}[self.target]
        error = model(x, (k - 1).float()) - wanted
        return error.abs().mean() if kind == "l1" else error.square().mean()

    def posterior(
        self, x: Float[Tensor, "rows length"], k: int, x0: Float[Tensor, "rows length"]
    ) -> tuple[Float[Tensor, "rows length"], float]:
        """Mean and variance of x_{k-1} given x_k and x_0 (Ho et al., equations 6 and 7)."""
        ab, before, beta = float(self.alpha_bar[k]), float(self.alpha_bar[k - 1]), float(self.betas[k - 1])
        mean = math.sqrt(before) * beta / (1 - ab) * x0 + math.sqrt(1 - beta) * (1 - before) / (1 - ab) * x
        return mean, (1 - before) / (1 - ab) * beta
