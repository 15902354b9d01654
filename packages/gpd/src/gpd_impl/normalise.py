"""Level and scale from what is known of a window, never from what is asked for."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

__all__ = ["prompt_statistics"]


def prompt_statistics(
    x: Float[Tensor, "rows length"], mask: Bool[Tensor, "rows length"], floor: float = 1e-5
) -> tuple[Float[Tensor, "rows 1"], Float[Tensor, "rows 1"]]:
    """Mean and deviation of each row where `mask` is true; float64.

    A deviation within rounding of zero, that of a constant or of a single number, becomes `floor`. Where nothing is
    known they are 0 and 1.
    """
    values = torch.where(mask, x, 0.0).double()
    count = mask.sum(1, keepdim=True).clamp(min=1)
    mean = values.sum(1, keepdim=True) / count
    away = torch.where(mask, values - mean, 0.0)
    deviation = (away.square().sum(1, keepdim=True) / count).sqrt()
    flat = deviation <= 1e-12 * values.abs().amax(1, keepdim=True)
    deviation = torch.where(flat, floor, deviation)
    return mean, torch.where(mask.any(1, keepdim=True), deviation, 1.0)
