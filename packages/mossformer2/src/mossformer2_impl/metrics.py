"""How good estimates are: SI-SDR, SDR, improvements, and the loss that does not ask which estimate is whose."""

from itertools import permutations
from typing import Literal

import numpy as np
import scipy.linalg
import torch
from jaxtyping import Float, Int
from numpy import ndarray
from scipy.optimize import linear_sum_assignment
from torch import Tensor

__all__ = [
    "best_order",
    "pairwise_si_sdr",
    "pit_loss",
    "reorder",
    "sdr",
    "sdr_improvement",
    "si_sdr",
    "si_sdr_improvement",
]

LIMIT = 1e-14
"""the smallest share of the estimate's energy that counts: 140 dB either way"""
SILENT = 1e-6
"""share of a signal's mean that its largest deviation must be beyond"""


def si_sdr(
    estimate: Float[Tensor, "*batch samples"], target: Float[Tensor, "*batch samples"]
) -> Float[Tensor, "*batch"]:
    """Scale-invariant signal-to-distortion ratio in dB: both centred, 10 log10(|s_t|^2 / |e - s_t|^2) with
    s_t = <e, s> s / |s|^2. Within ±140; an estimate of silence has -140; a silent target gives NaN.

    Raises:
        ValueError: no samples, or shapes that do not fit.
    """
    if estimate.shape[-1] != target.shape[-1]:
        raise ValueError(f"estimate and target must be of one length, got {estimate.shape[-1]} and {target.shape[-1]}")
    if target.shape[-1] == 0:
        raise ValueError("target must have at least one sample, got none")
    if estimate.dtype in (torch.float16, torch.bfloat16):
        estimate, target = estimate.float(), target.float()
    silent = _silent(target)
    e, s = (_centred(x) for x in (estimate, target))
    tiny = torch.finfo(e.dtype).tiny
    scale = (e * s).sum(-1, keepdim=True) / s.square().sum(-1, keepdim=True).clamp(min=tiny)
    along = scale * s
    signal, noise = along.square().sum(-1), (e - along).square().sum(-1)
    whole = signal + noise
    floor = LIMIT * whole + tiny
    found = 10 * torch.log10(torch.maximum(signal, floor) / torch.maximum(noise, floor))
    found = torch.where(whole == 0, torch.full_like(found, -140.0), found)
    return torch.where(silent, torch.full_like(found, float("nan")), found)


def _centred(x: Tensor) -> Tensor:
    """Without its mean, and with a largest number of one, so that no square is lost to rounding."""
    x = x - x.mean(-1, keepdim=True)
    largest = x.detach().abs().amax(-1, keepdim=True)
    return x / torch.where(largest == 0, torch.ones_like(largest), largest)


def _silent(target: Tensor) -> Tensor:
    """Targets that are constant."""
    mean = target.mean(-1, keepdim=True)
    return (target - mean).abs().amax(-1) <= SILENT * mean.abs().squeeze(-1)


def pairwise_si_sdr(
    estimates: Float[Tensor, "batch n samples"], targets: Float[Tensor, "batch m samples"]
) -> Float[Tensor, "batch n m"]:
    """SI-SDR of each estimate for each target."""
    n, m = estimates.shape[1], targets.shape[1]
    return si_sdr(
        estimates[:, :, None].expand(-1, -1, m, -1).contiguous(), targets[:, None].expand(-1, n, -1, -1).contiguous()
    )


def best_order(
    scores: Float[Tensor, "batch n m"], *, method: Literal["auto", "brute", "hungarian"] = "auto"
) -> Int[Tensor, "batch m"]:
    """The estimate of each target such that the sum of scores is largest; NaN (a silent target) does not count.

    Args:
        scores: at least as many estimates as targets.
        method: "brute" tries every order, "hungarian" scales to many; "auto": brute force up to three.

    Raises:
        ValueError: fewer estimates than targets; an unknown method.
    """
    _, n, m = scores.shape
    if n < m:
        raise ValueError(f"there must be an estimate for each of {m} targets, got {n}")
    if method not in ("auto", "brute", "hungarian"):
        raise ValueError(f"method must be auto, brute or hungarian, got {method!r}")
    held = scores.detach().nan_to_num(0.0)
    if method == "hungarian" or (method == "auto" and n > 3):
        found = [linear_sum_assignment(one.T, maximize=True)[1] for one in held.double().cpu().numpy()]
        return (
            torch.from_numpy(np.stack(found)).to(scores.device) if found else scores.new_zeros(0, m, dtype=torch.long)
        )
    orders = torch.tensor(list(permutations(range(n), m)), device=scores.device).view(-1, m)
    sums = held[:, orders, torch.arange(m, device=scores.device)].sum(-1)
    return orders[sums.argmax(1)]


def reorder(
    estimates: Float[Tensor, "batch n samples"], order: Int[Tensor, "batch m"]
) -> Float[Tensor, "batch m samples"]:
    """Estimates in the order of the targets."""
    return torch.gather(estimates, 1, order[..., None].expand(-1, -1, estimates.shape[2]))


def pit_loss(
    estimates: Float[Tensor, "batch n samples"], targets: Float[Tensor, "batch m samples"], *,
    method: Literal["auto", "brute", "hungarian"] = "auto",
) -> tuple[Float[Tensor, ""], Int[Tensor, "batch m"]]:  # fmt: skip
    """Minus the mean SI-SDR under the best order of each item, and that order; silent targets are left out.

    Raises:
        ValueError: more targets than estimates, other lengths or batches, or nothing but silent targets.
    """
    if estimates.shape[0] != targets.shape[0] or estimates.shape[2] != targets.shape[2]:
        shapes = f"{tuple(estimates.shape)} and {tuple(targets.shape)}"
        raise ValueError(f"estimates and targets must be of one batch and length, got {shapes}")
    scores = pairwise_si_sdr(estimates, targets)
    order = best_order(scores, method=method)
    chosen = torch.gather(scores, 1, order[:, None])[:, 0]
    heard = ~torch.isnan(chosen) | _unclear(estimates)
    if not bool(heard.any()):
        raise ValueError("targets must not all be silent")
    return -chosen[heard].mean(), order


def _unclear(estimates: Tensor) -> Tensor:
    """Items whose estimates are not finite: their NaN is no silence, and must be seen in the loss."""
    return (~torch.isfinite(estimates)).any(-1).any(-1, keepdim=True)


def si_sdr_improvement(
    estimates: Float[Tensor, "batch n samples"], targets: Float[Tensor, "batch n samples"],
    mixture: Float[Tensor, "batch samples"],
) -> Float[Tensor, "batch n"]:  # fmt: skip
    """SI-SDR of the estimates in their best order, minus that of the mixture itself."""
    scores = pairwise_si_sdr(estimates, targets)
    chosen = torch.gather(scores, 1, best_order(scores)[:, None])[:, 0]
    return chosen - si_sdr(mixture[:, None].expand_as(targets).contiguous(), targets)


def sdr(estimate: ndarray, target: ndarray, *, taps: int = 512) -> float:
    """Signal-to-distortion ratio in dB of BSS-eval version 3: what a filter of `taps` makes of the target counts as it.

    Raises:
        ValueError: other shapes, or a silent target.
    """
    e, s = np.asarray(estimate, np.float64).ravel(), np.asarray(target, np.float64).ravel()
    if e.shape != s.shape or not len(s):
        raise ValueError(f"estimate and target must be of one length, got {len(e)} and {len(s)}")
    if not s.any():
        raise ValueError("target must not be silent")
    size = 1 << (len(s) + taps - 1).bit_length()
    spectrum = np.fft.rfft(s, size)
    own = np.fft.irfft(np.abs(spectrum) ** 2, size)[:taps]
    cross = np.fft.irfft(spectrum.conj() * np.fft.rfft(e, size), size)[:taps]
    own[0] *= 1 + 1e-12  # a target of few frequencies has no inverse
    share = float(cross @ scipy.linalg.solve_toeplitz(own, cross)) / max(float(e @ e), np.finfo(np.float64).tiny)
    share = min(max(share, LIMIT), 1 - LIMIT)
    return float(10 * np.log10(share / (1 - share)))


def sdr_improvement(estimates: ndarray, targets: ndarray, mixture: ndarray) -> ndarray:
    """SDR of the estimates (n, samples) in their best order, minus that of the mixture, for each target."""
    scores = np.array([[sdr(e, s) for s in targets] for e in estimates])
    which, whose = linear_sum_assignment(scores, maximize=True)
    found: ndarray = np.zeros(len(targets))
    found[whose] = scores[which, whose] - [sdr(mixture, targets[i]) for i in whose]
    return found
