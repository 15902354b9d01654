"""Separating recordings of any length and rate."""

from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from .audio import resample
from .metrics import best_order, reorder

__all__ = ["overlap_add", "separate"]


def separate(
    model: nn.Module, wave: Any, sr: int | None = None, *, chunk_s: float | None = None, overlap: float = 0.5
) -> Any:
    """The speakers of a recording, by a model of this package (with `n_src` and `sample_rate`).

    A recording of another rate is converted and its estimates back; silence gives silence. Whole frames are made by
    padding, so that the last samples are estimates too. With chunks, each is put into the order of the one before by
    their overlap, and they are cross-faded.

    Args:
        wave: (samples,) or (batch, samples), NumPy or torch.
        sr: samples a second; None: the model's.
        chunk_s: seconds at a time; None: all at once.
        overlap: share of a chunk that the next one repeats.

    Returns:
        (n_src, samples) or (batch, n_src, samples), of the kind that came.

    Raises:
        ValueError: another shape, no samples, NaN, a rate, chunk or overlap out of range.
    """
    given = wave if isinstance(wave, Tensor) else torch.from_numpy(np.array(wave))
    if given.ndim not in (1, 2) or given.shape[-1] == 0:
        raise ValueError(f"wave must be (samples,) or (batch, samples) and not empty, got {tuple(given.shape)}")
    if not given.is_floating_point():
        raise ValueError(f"wave must hold floating numbers within -1 and 1, got {given.dtype}")
    if not bool(torch.isfinite(given).all()):
        raise ValueError("wave must be finite, got NaN or infinity")
    if chunk_s is not None and not chunk_s > 0:
        raise ValueError(f"chunk_s must be positive, got {chunk_s}")
    if not 0 < overlap < 1:
        raise ValueError(f"overlap must be between 0 and 1, got {overlap}")
    given = given if isinstance(wave, Tensor) else given.float()
    own: int = model.sample_rate  # type: ignore[assignment]
    rate = own if sr is None else sr
    if not isinstance(rate, int | np.integer) or rate < 1:
        raise ValueError(f"sr must be positive and an integer, got {sr!r}")
    held = next(model.parameters())
    batch = given if given.ndim == 2 else given[None]
    samples = batch.shape[1]
    if rate != own:
        batch = torch.from_numpy(resample(batch.detach().cpu().numpy(), rate, own))
    batch = batch.detach().to(held)
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            if chunk_s is None:
                found = _whole(model, batch)
            else:
                found = overlap_add(model, batch, max(2, round(chunk_s * own)), overlap)
    finally:
        model.train(training)
    if rate != own:
        found = torch.from_numpy(resample(found.cpu().numpy(), own, rate))
    if found.shape[-1] < samples:
        found = nn.functional.pad(found, (0, samples - found.shape[-1]))
    found = found[..., :samples]
    found = found if given.ndim == 2 else found[0]
    return found.to(given) if isinstance(wave, Tensor) else found.cpu().numpy()


def _whole(model: nn.Module, wave: Tensor) -> Tensor:
    """Padded so that frames cover all samples; silence is not asked about."""
    stride = int(getattr(model, "stride", 8))
    samples = wave.shape[1]
    more = max(2 * stride - samples, -(samples - 2 * stride) % stride)
    found: Tensor = model(nn.functional.pad(wave, (0, more)))[..., :samples]
    return found * (wave.abs().amax(1) > 0).to(found)[:, None, None]


def overlap_add(
    model: nn.Module, wave: Float[Tensor, "batch samples"], chunk: int, overlap: float = 0.5
) -> Float[Tensor, "batch n_src samples"]:
    """Estimates by chunks of samples: each in the order that fits the overlap with what stands already, cross-faded."""
    samples = wave.shape[1]
    step = max(1, round(chunk * (1 - overlap)))
    starts = [0] if samples <= chunk else [*range(0, samples - chunk, step), samples - chunk]
    found: Tensor | None = None
    done = 0
    for start in starts:
        part = _whole(model, wave[:, start : start + chunk])
        if found is None:
            found = part.new_zeros(len(wave), part.shape[1], samples)
            found[..., : part.shape[2]] = part
        else:
            both = done - start
            before, now = found[..., start:done], part[..., :both]
            # by inner products: unlike a ratio in dB they do not care for pauses
            part = reorder(part, best_order(now @ before.mT))
            fade = (torch.arange(both, device=wave.device, dtype=part.dtype) + 0.5) / both
            found[..., start:done] = before * (1 - fade) + part[..., :both] * fade
            found[..., done : start + chunk] = part[..., both:]
        done = start + part.shape[2]
    assert found is not None
    return found
