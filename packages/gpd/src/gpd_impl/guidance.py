"""Ways to make an unconditional model agree with what is known: each takes one step of the sampler, guided."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import torch
from torch import Tensor

from .diffusion import Denoiser
from .sampler import Step

__all__ = ["DPS", "GUIDANCES", "Guidance", "PiGDM", "RePaint", "Replace", "TSDiffGuidance", "make_guidance"]


@runtime_checkable
class Guidance(Protocol):
    """From x_k to x_k', given data `y` where `mask` is true (zero elsewhere)."""

    def __call__(self, model: Denoiser, x: Tensor, step: Step, y: Tensor, mask: Tensor) -> Tensor: ...


def _known(step: Step, x: Tensor, y: Tensor, mask: Tensor) -> Tensor:
    return torch.where(mask, step.diffusion.noisy(y, step.k, step.side(x)), x)


def _gradient(x: Tensor, energy: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    """Gradient of the sum over rows, so each row's own; and the energy."""
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        value = energy(x)
        (found,) = torch.autograd.grad(value.sum(), x)
    return found, value.detach()


@dataclass(frozen=True)
class Replace:
    """Overwrite what is known by a noisy copy of it, before each step (Song et al. 2021)."""

    def __call__(self, model: Denoiser, x: Tensor, step: Step, y: Tensor, mask: Tensor) -> Tensor:
        return step.plain(model, _known(step, x, y, mask))


@dataclass(frozen=True)
class RePaint:
    """`Replace`, each step `resamples` times, with jumps back between (Lugmayr et al. 2022)."""

    resamples: int = 5

    def __post_init__(self) -> None:
        if self.resamples < 1:
            raise ValueError(f"resamples must be at least 1, got {self.resamples}")

    def __call__(self, model: Denoiser, x: Tensor, step: Step, y: Tensor, mask: Tensor) -> Tensor:
        ratio = step.alpha_bar / step.alpha_bar_to
        for i in range(self.resamples):
            ahead = step.plain(model, _known(step, x, y, mask))
            if step.to == 0 or i + 1 == self.resamples:
                return ahead
            x = ratio**0.5 * ahead + (1 - ratio) ** 0.5 * step.side(x)
        return ahead


@dataclass(frozen=True)
class DPS:
    """A DDIM step, minus `scale` times the gradient of the distance to what is known (Chung et al. 2023).

    The distance is the norm of mask * (y - x0(x_k)) of each row (`power` 1) or its square (2); the gradient goes
    through the network. Where a norm is below `tolerance` its gradient, which has no limit there, is taken as zero.
    """

    scale: float = 0.5
    power: Literal[1, 2] = 1
    tolerance: float = 1e-6

    def __post_init__(self) -> None:
        if not self.scale >= 0:
            raise ValueError(f"scale must not be negative, got {self.scale}")
        if self.power not in (1, 2):
            raise ValueError(f"power must be 1 or 2, got {self.power}")

    def gradient(self, model: Denoiser, x: Tensor, step: Step, y: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Gradient by x of the distance, and the step without it."""
        seen: list[Tensor] = []

        def distance(x: Tensor) -> Tensor:
            x0, eps = step.predict(model, x)
            seen.extend((x0.detach(), eps.detach()))
            squared = torch.where(mask, y - x0, 0.0).square().sum(1)
            if self.power == 2:
                return squared
            far = squared > self.tolerance**2
            return torch.where(far, torch.where(far, squared, 1.0).sqrt(), 0.0)

        found, _ = _gradient(x, distance)
        return found, step.move(seen[0], seen[1])

    def __call__(self, model: Denoiser, x: Tensor, step: Step, y: Tensor, mask: Tensor) -> Tensor:
        found, ahead = self.gradient(model, x, step, y, mask)
        return ahead - self.scale * found


@dataclass(frozen=True)
class TSDiffGuidance:
    """Observation self-guidance of TSDiff (Kollovieh et al. 2023).

    A DDPM step, then plus `scale` times its variance times the gradient of minus the loss, at the new point but the old
    level, as their code has it (form "ddpm"); or the gradient within the noise of a DDIM step ("ddim"). The loss is a
    sum over what is known: squares, or quantiles, sample m of M being the m/(M+1) quantile.
    """

    scale: float = 4.0
    loss: Literal["quantile", "mse"] = "quantile"
    form: Literal["ddpm", "ddim"] = "ddpm"

    def __post_init__(self) -> None:
        if self.loss not in ("quantile", "mse") or self.form not in ("ddpm", "ddim"):
            raise ValueError(f"loss must be quantile or mse and form ddpm or ddim, got {self.loss!r}, {self.form!r}")

    def _score(self, model: Denoiser, x: Tensor, step: Step, y: Tensor, mask: Tensor) -> Tensor:
        def loss(x: Tensor) -> Tensor:
            error = y - step.predict(model, x)[0]
            if self.loss == "mse":
                each = error.square()
            else:
                m = torch.arange(len(x), device=x.device) % step.samples + 1
                q = (m / (step.samples + 1)).to(x)[:, None]
                each = torch.maximum(q * error, (q - 1) * error)
            return torch.where(mask, each, 0.0).sum(1)

        return -_gradient(x, loss)[0]

    def __call__(self, model: Denoiser, x: Tensor, step: Step, y: Tensor, mask: Tensor) -> Tensor:
        if self.form == "ddpm":
            x0, eps = step.predict(model, x)
            ahead = step.move(x0, eps, eta=1.0)
            return ahead + self.scale * step.sigma(1.0) ** 2 * self._score(model, ahead, step, y, mask)
        eps = step.predict(model, x)[1]
        eps = eps - self.scale * (1 - step.alpha_bar) ** 0.5 * self._score(model, x, step, y, mask)
        return step.move(step.diffusion.tweedie(x, step.k, eps), eps)


@dataclass(frozen=True)
class PiGDM:
    """The predicted data moved by their posterior given what is known (Song et al. 2023).

    What x_k leaves open is taken to vary by (1 - ab_k) in each number (`covariance` "isotropic"), or as Tweedie's
    second formula has it, Cov(x0 | x_k) = (1 - ab) / sqrt(ab) dx0/dx_k ("exact": a Jacobian a row, for short windows; a
    model's own `covariance(k)` is used if it has one). On Gaussian data the exact form samples the true posterior.

    Args:
        noise: deviation of what is known from the truth.
    """

    covariance: Literal["isotropic", "exact"] = "isotropic"
    noise: float = 1e-2

    def __post_init__(self) -> None:
        if self.covariance not in ("isotropic", "exact"):
            raise ValueError(f"covariance must be isotropic or exact, got {self.covariance!r}")
        if not self.noise > 0:
            raise ValueError(f"noise must be positive, got {self.noise}")

    def __call__(self, model: Denoiser, x: Tensor, step: Step, y: Tensor, mask: Tensor) -> Tensor:
        ab = step.alpha_bar
        factor = (1 - ab) / ab**0.5
        if self.covariance == "isotropic":
            seen: list[Tensor] = []

            def pulled(x: Tensor) -> Tensor:
                x0 = step.predict(model, x)[0]
                seen.append(x0.detach())
                weight = torch.where(mask, y - x0, 0.0).detach() / (1 - ab + self.noise**2)
                return (x0 * weight).sum(1)

            moved = factor * _gradient(x, pulled)[0]
            x0 = seen[0] + moved
        else:
            x0 = step.predict(model, x)[0]
            x0 = x0 + self._exact(model, x, step, torch.where(mask, y - x0, 0.0), mask, factor)
        return step.move(x0, step.diffusion.noise_of(x, step.k, x0))

    def _exact(self, model: Denoiser, x: Tensor, step: Step, residual: Tensor, mask: Tensor, factor: float) -> Tensor:
        if hasattr(model, "covariance"):
            spread = model.covariance(step.k).to(x)[None]
            if bool((mask == mask[:1]).all()):  # one gain for all rows
                mask = mask[:1]
        else:

            def one(row: Tensor) -> Tensor:
                return step.diffusion.predict(model, row[None], step.k)[0][0]

            spread = factor * torch.func.vmap(torch.func.jacrev(one))(x.detach())
            spread = (spread + spread.transpose(1, 2)) / 2
        known = mask.to(x)
        inner = known[:, :, None] * spread * known[:, None, :] + torch.diag_embed(1 - known + self.noise**2 * known)
        return (spread @ torch.linalg.solve(inner, residual[:, :, None]))[:, :, 0]


GUIDANCES = ("replace", "repaint", "dps", "pigdm", "tsdiff")


def make_guidance(name: str, scale: float | None = None) -> Guidance:
    """A guidance by its name; `scale` is that of "dps" and "tsdiff" (None: their defaults).

    Raises:
        ValueError: no such name, or a scale for one that has none.
    """
    scaled = {"dps": DPS, "tsdiff": TSDiffGuidance}
    plain: dict[str, Callable[[], Guidance]] = {"replace": Replace, "repaint": RePaint, "pigdm": PiGDM}
    if name in scaled:
        return scaled[name]() if scale is None else scaled[name](scale=scale)  # type: ignore[no-any-return]
    if name not in plain:
        raise ValueError(f"guidance must be one of {', '.join(GUIDANCES)}, got {name!r}")
    if scale is not None:
        raise ValueError(f"scale belongs to dps and tsdiff, {name} has none")
    return plain[name]()
