"""What networks are trained on (sections 2 and 5): losses over sequences of unequal lengths, and CTC.

Each sums over the valid steps, so that pieces of a sequence add up; `mean=True` divides by their number.
"""

import itertools

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from .checks import check_lengths

__all__ = ["ctc_loss", "gaussian", "multilabel", "softmax_cross_entropy", "squared"]


def _total(each: Tensor, lengths: Tensor | None, mean: bool) -> Tensor:
    batch, length = each.shape
    if lengths is None:
        return each.mean() if mean else each.sum()
    check_lengths(lengths, batch, length)
    valid = torch.arange(length, device=each.device) < lengths[:, None]
    total = torch.where(valid, each, 0.0).sum()
    return total / valid.sum().clamp_min(1) if mean else total


def softmax_cross_entropy(
    logits: Float[Tensor, "batch length classes"],
    targets: Int[Tensor, "batch length"],
    lengths: Tensor | None = None,
    *,
    mean: bool = False,
) -> Tensor:
    """-log softmax(logits)[target]: one class a step."""
    return _total(F.cross_entropy(logits.transpose(1, 2), targets, reduction="none"), lengths, mean)


def multilabel(
    logits: Float[Tensor, "batch length labels"],
    targets: Float[Tensor, "batch length labels"],
    lengths: Tensor | None = None,
    *,
    mean: bool = False,
) -> Tensor:
    """A sigmoid and a cross-entropy for each label: several may hold at once."""
    return _total(F.binary_cross_entropy_with_logits(logits, targets, reduction="none").sum(2), lengths, mean)


def squared(
    y: Float[Tensor, "batch length outputs"],
    targets: Float[Tensor, "batch length outputs"],
    lengths: Tensor | None = None,
    *,
    mean: bool = False,
) -> Tensor:
    """Half the squared error: the negative log-likelihood of a Gaussian of variance 1, without its constant."""
    return _total((y - targets).square().sum(2) / 2, lengths, mean)


def gaussian(
    y: Float[Tensor, "batch length twice_outputs"],
    targets: Float[Tensor, "batch length outputs"],
    lengths: Tensor | None = None,
    *,
    mean: bool = False,
) -> Tensor:
    """Negative log-likelihood of Gaussians whose means and log-variances are the two halves of y.

    Raises:
        ValueError: y is not twice as wide as the targets.
    """
    if y.shape[2] != 2 * targets.shape[2]:
        raise ValueError(f"y must have {2 * targets.shape[2]} outputs, means and log-variances, got {y.shape[2]}")
    centre, spread = y.chunk(2, 2)
    each = ((targets - centre).square() * (-spread).exp() + spread + torch.log(torch.tensor(2 * torch.pi))) / 2
    return _total(each.sum(2), lengths, mean)


def ctc_loss(
    logits: Float[Tensor, "batch length symbols"],
    labels: list[list[int]],
    lengths: Tensor | None = None,
    *,
    blank: int = 0,
    mean: bool = False,
) -> Tensor:
    """-log of the sum over all paths that join to the labels (Graves 2006); with `mean`, over the labels' number.

    Raises:
        ValueError: labels that are blank or no symbol, or longer (repetitions counted twice) than their sequence.
    """
    batch, length, symbols = logits.shape
    if len(labels) != batch:
        raise ValueError(f"labels must be {batch} lists, got {len(labels)}")
    if lengths is None:
        lengths = torch.full((batch,), length)
    check_lengths(lengths, batch, length)
    for number, (own, steps) in enumerate(zip(labels, lengths.tolist(), strict=True)):
        if any(not 0 <= label < symbols or label == blank for label in own):
            raise ValueError(f"labels must be below {symbols} and not the blank {blank}, got {own} for number {number}")
        needed = len(own) + sum(a == b for a, b in itertools.pairwise(own))
        if needed > steps:
            raise ValueError(f"labels of number {number} need {needed} steps, the sequence has {steps}")
    flat = torch.tensor([label for own in labels for label in own], dtype=torch.long)
    sizes = torch.tensor([len(own) for own in labels])
    log_probs = logits.log_softmax(2).transpose(0, 1)
    # a sequence of no steps has one path, the empty one, of probability 1
    each = F.ctc_loss(log_probs, flat, lengths.cpu().clamp_min(1), sizes, blank=blank, reduction="none")
    each = torch.where(lengths.to(each.device) > 0, each, 0.0)
    return each.sum() / max(1, len(flat)) if mean else each.sum()
