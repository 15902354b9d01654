"""The two-part loss (section 4): next tokens after the prefix, masked tokens within it."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from .attention import Compat

__all__ = ["jrt_loss", "mask_prefix", "training_pair"]


def mask_prefix(
    tokens: Int[Tensor, "batch prefix"],
    p: float = 0.15,
    *,
    mask_token_id: int,
    generator: torch.Generator | None = None,
) -> tuple[Int[Tensor, "batch prefix"], Int[Tensor, "batch prefix"]]:
    """Replace each token by the mask id with probability p; labels are the hidden tokens, -100 elsewhere.

    Raises:
        ValueError: if p is not in [0, 1], or the mask id occurs among the tokens (it could not be told apart).
    """
    if not 0 <= p <= 1:
        raise ValueError(f"p must be in [0, 1], got {p}")
    if mask_token_id < 0:
        raise ValueError(f"mask_token_id must not be negative, got {mask_token_id}")
    if bool((tokens == mask_token_id).any()):
        raise ValueError(f"mask_token_id must be no token of the text, but {mask_token_id} occurs in it")
    hidden = torch.rand(tokens.shape, generator=generator, device=tokens.device) < p
    return tokens.masked_fill(hidden, mask_token_id), tokens.masked_fill(~hidden, -100)


def training_pair(
    sample: Int[Tensor, "batch longer"],
    prefix_len: int,
    *,
    mask_token_id: int,
    p: float = 0.15,
    generator: torch.Generator | None = None,
) -> tuple[Int[Tensor, "batch length"], Int[Tensor, "batch length"]]:
    """Inputs and targets: unshifted masked tokens in the prefix, next tokens after it.

    Raises:
        ValueError: if the prefix leaves no next token.
    """
    if not 0 <= prefix_len < sample.shape[1] - 1:
        raise ValueError(f"prefix_len must be in 0..{sample.shape[1] - 2}, got {prefix_len}")
    read, labels = mask_prefix(sample[:, :prefix_len], p, mask_token_id=mask_token_id, generator=generator)
    return torch.cat([read, sample[:, prefix_len:-1]], 1), torch.cat([labels, sample[:, prefix_len + 1 :]], 1)


def jrt_loss(
    logits: Float[Tensor, "batch length vocab"],
    labels: Int[Tensor, "batch length"],
    prefix_len: int,
    mlm_weight: float = 0.25,
    *,
    normalised: bool = False,
    compat: Compat = "paper",
) -> Float[Tensor, ""]:
    """NTP after the prefix + mlm_weight * MLM within it; no next tokens inside the prefix, which would leak.

    Labels are -100 where none counts; a part without labels counts nothing.

    Args:
        normalised: the weighted mean of the paper's text, (NTP + w MLM) / (1 + w), not the sum of its code.
        compat: "official" selects MLM labels by label > 0, and so drops token 0.

    Raises:
        ValueError: if no label counts, or one is outside the vocabulary.
    """
    if labels.shape != logits.shape[:2]:
        raise ValueError(f"labels must be {tuple(logits.shape[:2])}, got {tuple(labels.shape)}")
    if not 0 <= prefix_len <= labels.shape[1]:
        raise ValueError(f"prefix_len must be in 0..{labels.shape[1]}, got {prefix_len}")
    inside = torch.arange(labels.shape[1], device=labels.device) < prefix_len
    counted = labels != -100
    if not bool(counted.any()):
        raise ValueError("labels must hold at least one that counts, got only -100")
    values = labels[counted]
    if bool(((values < 0) | (values >= logits.shape[-1])).any()):
        raise ValueError(f"labels must be -100 or in 0..{logits.shape[-1] - 1}")
    masked = counted & inside & ((labels > 0) if compat == "official" else True)
    total = logits.new_zeros(())
    for part, weight in ((counted & ~inside, 1.0), (masked, mlm_weight)):
        if bool(part.any()):
            total = total + weight * F.cross_entropy(logits[part].float(), labels[part])
    return total / (1 + mlm_weight) if normalised else total
