"""From logits to tokens, by the names that Hugging Face gives the options."""

from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

if TYPE_CHECKING:
    from .model import TCNCAForCausalLM

__all__ = ["generate", "next_token"]


def next_token(
    logits: Float[Tensor, "batch vocab"],
    *,
    do_sample: bool = False,
    temperature: float | int = 1.0,
    top_k: int | None = None,
    top_p: float | int | None = None,
    generator: torch.Generator | None = None,
) -> Int[Tensor, " batch"]:
    """The most probable token of each row, or one that is drawn from the most probable `top_k`, `top_p` of the mass."""
    if not do_sample:
        return logits.argmax(-1)
    scores, order = (logits.float() / temperature).sort(descending=True)
    if top_k is not None:
        scores[:, top_k:] = -torch.inf
    if top_p is not None:
        mass = scores.softmax(-1)
        scores = scores.masked_fill(mass.cumsum(-1) - mass >= top_p, -torch.inf)
    place = torch.multinomial(scores.softmax(-1), 1, generator=generator)
    return order.gather(1, place).squeeze(1)


@torch.no_grad()
def generate(
    model: "TCNCAForCausalLM",
    ids: Int[Tensor, "batch length"],
    max_new_tokens: int,
    *,
    repetition_penalty: float | int = 1.0,
    eos_token_id: int | None = None,
    pad_token_id: int | None = None,
    attention_mask: Int[Tensor, "batch length"] | Bool[Tensor, "batch length"] | None = None,
    **sampling: Any,
) -> Int[Tensor, "batch longer"]:
    """The prompts and what follows them.

    A chunk begins at the first token of a prompt, so prompts of different lengths are run apart: each gives what it
    gives alone.

    Args:
        repetition_penalty: scores of tokens that were seen are divided by it where positive, multiplied where not.
        eos_token_id: after it, a row is filled with `pad_token_id` (by default the same).
        attention_mask: 0 for padding on the left.
        sampling: as in `next_token`.

    Raises:
        ValueError: an option out of range, or a mask that is no left padding.
    """
    vocab = model.config.vocab_size
    for name, value in (("max_new_tokens", max_new_tokens), ("repetition_penalty", repetition_penalty),
                        ("temperature", sampling.get("temperature")), ("top_k", sampling.get("top_k")),
                        ("top_p", sampling.get("top_p"))):  # fmt: skip
        if value is not None and not value > 0:
            raise ValueError(f"{name} must be positive, got {value}")
    for name, value in (("eos_token_id", eos_token_id), ("pad_token_id", pad_token_id)):
        if value is not None and not 0 <= value < vocab:
            raise ValueError(f"{name} must lie in 0 .. {vocab - 1}, got {value}")
    present = torch.ones_like(ids, dtype=torch.bool) if attention_mask is None else attention_mask.bool()
    if bool((present[:, :-1] & ~present[:, 1:]).any()) or not bool(present[:, -1:].all()):
        raise ValueError("attention_mask must be 0 on the left only, and 1 at the last token")
    training = model.training
    model.eval()
    try:
        starts = ids.shape[1] - present.sum(1)
        filler = pad_token_id if pad_token_id is not None else eos_token_id
        new = ids.new_full((ids.shape[0], max_new_tokens), 0 if filler is None else filler)
        for start in starts.unique().tolist():
            rows = (starts == start).nonzero().squeeze(1)
            new[rows] = _continue(
                model, ids[rows, start:], max_new_tokens, repetition_penalty, eos_token_id, new[rows], sampling
            )
    finally:
        model.train(training)
    return torch.cat([ids, new], 1)


def _continue(
    model: "TCNCAForCausalLM",
    ids: Tensor,
    max_new_tokens: int,
    penalty: float | int,
    eos: int | None,
    new: Tensor,
    sampling: dict[str, Any],
) -> Tensor:
    out = model(ids)
    logits, state = out.logits[:, -1], out.state
    seen = torch.zeros_like(logits, dtype=torch.bool).scatter(1, ids.long(), True)
    going = torch.ones(len(ids), dtype=torch.bool, device=ids.device)
    for i in range(max_new_tokens):
        if penalty != 1:
            logits = torch.where(seen, torch.where(logits > 0, logits / penalty, logits * penalty), logits)
        token = torch.where(going, next_token(logits, **sampling).to(new.dtype), new[:, i])
        new[:, i] = token
        if eos is not None:
            going = going & (token != eos)
        if i + 1 == max_new_tokens or not bool(going.any()):
            break
        seen = seen.scatter(1, token.long().unsqueeze(1), True)
        logits, state = model.step(token, state)
    return new
