"""Training and judging a language model: the loss, batches, evaluation, and one call that does it all."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from rich.console import Console
from torch import Tensor

from gla_impl.model import GLAForCausalLM, detach
from gla_impl.text import Corpus
from shared_impl.train import FitResult, TrainConfig, cosine_with_warmup, fit

__all__ = ["LMRecipe", "evaluate_loss", "lm_loss", "loss_by_position", "random_crops", "train_lm"]


@dataclass(frozen=True, kw_only=True)
class LMRecipe:
    """How a language model is trained (section 5.1 at any size): AdamW, warm-up, cosine to a tenth, clipping."""

    steps: int = 1000
    batch_size: int = 16
    """sequences a step"""
    seq_len: int = 256
    """tokens of a segment, the reach of the gradient"""
    segments: int = 1
    """segments a sequence, with the state carried from one to the next and detached there"""
    lr: float = 3e-3
    final_lr_ratio: float = 0.1
    warmup_ratio: float = 0.05
    weight_decay: float = 0.01
    grad_clip: float = 1.0
    eval_every: int | None = None
    """steps between evaluations; None is a tenth of the run"""
    max_eval_tokens: int = 65_536
    """how much of the held-out text the evaluations during training read"""


def lm_loss(
    model: GLAForCausalLM, tokens: Int[Tensor, "batch length"], *, seq_len: int | None = None
) -> Float[Tensor, ""]:
    """Mean loss (nats) of predicting each token but the first.

    Args:
        seq_len: cut the sequence into segments of this length, carry the state over and stop the gradient there:
            truncated backpropagation through time (section 5.1 trains 24K tokens as 12 segments of 2K). None: no cut.
    """
    inputs, targets = tokens[:, :-1], tokens[:, 1:]
    length = inputs.shape[1]
    state, total = None, tokens.new_zeros((), dtype=torch.float32)
    for start in range(0, length, seq_len or length):
        piece = slice(start, start + (seq_len or length))
        output = model(inputs[:, piece], state, targets=targets[:, piece])
        state = detach(output.state)
        total = total + output.loss * (targets[:, piece].shape[1] / length)
    return total


def random_crops(ids: np.ndarray, batch_size: int, length: int) -> Callable[[torch.Generator], Tensor]:
    """Batches of `length` successive tokens from random places.

    Raises:
        ValueError: if the text is shorter than that.
    """
    if len(ids) < length:
        raise ValueError(f"the text has {len(ids)} tokens, but a sequence needs {length}")
    text = torch.from_numpy(ids)
    offsets = torch.arange(length)

    def draw(generator: torch.Generator) -> Tensor:
        start = torch.randint(len(text) - length + 1, (batch_size, 1), generator=generator)
        return text[start + offsets]

    return draw


@torch.no_grad()
def loss_by_position(
    model: GLAForCausalLM,
    ids: np.ndarray,
    *,
    length: int,
    batch_size: int = 8,
    piece: int = 512,
    max_tokens: int | None = None,
) -> Float[Tensor, " length"]:
    """Mean loss (nats) at each place of sequences of `length`, over as many as the text has end to end.

    The sequences are read piece by piece with the state carried on, which changes nothing but the memory needed.

    Raises:
        ValueError: if the text is shorter than one sequence.
    """
    count = (len(ids) - 1) // length
    if max_tokens is not None:
        count = max(1, min(count, max_tokens // length))
    if (len(ids) - 1) // length < 1:
        raise ValueError(f"the text has {len(ids)} tokens, but a sequence needs {length + 1}")
    device = model.lm_head.weight.device
    text = torch.from_numpy(ids[: count * length + 1]).to(device)
    inputs, targets = text[:-1].view(count, length), text[1:].view(count, length)
    training = model.training
    model.eval()
    total = torch.zeros(length, dtype=torch.float64, device=device)
    for first in range(0, count, batch_size):
        rows = slice(first, first + batch_size)
        state = None
        for start in range(0, length, piece):
            columns = slice(start, start + piece)
            logits, state, _ = model(inputs[rows, columns], state)
            assert logits is not None
            loss = F.cross_entropy(logits.transpose(1, 2).float(), targets[rows, columns], reduction="none")
            total[columns] += loss.sum(0)
    model.train(training)
    return (total / count).cpu()


def evaluate_loss(
    model: GLAForCausalLM,
    ids: np.ndarray,
    *,
    seq_len: int,
    batch_size: int = 16,
    max_tokens: int | None = None,
) -> dict[str, float]:
    """Mean loss (nats) and perplexity a token over a text in sequences of `seq_len`, each from an empty state."""
    length = min(seq_len, len(ids) - 1)
    loss = loss_by_position(model, ids, length=length, batch_size=batch_size, piece=length, max_tokens=max_tokens)
    mean = float(loss.mean())
    return {"loss": mean, "perplexity": math.exp(min(mean, 700.0))}


def train_lm(
    model: GLAForCausalLM,
    corpus: Corpus,
    recipe: LMRecipe,
    *,
    seed: int = 0,
    mixed_precision: str = "no",
    out_dir: Path | None = None,
    console: Console | None = None,
    resume: bool = False,
) -> FitResult:
    """Train a model on a corpus; it ends with the weights of the best evaluation.

    Raises:
        ValueError: if the corpus is shorter than a sequence.
    """
    length = recipe.segments * recipe.seq_len + 1
    return fit(
        model,
        partial(_step_loss, seq_len=recipe.seq_len),
        random_crops(corpus.train, recipe.batch_size, length),
        optimizer=torch.optim.AdamW(
            model.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay, betas=(0.9, 0.95)
        ),
        scheduler=partial(
            cosine_with_warmup,
            warmup_steps=int(recipe.warmup_ratio * recipe.steps),
            min_ratio=recipe.final_lr_ratio,
        ),
        evaluate=partial(
            evaluate_loss,
            ids=corpus.valid,
            seq_len=recipe.seq_len,
            batch_size=recipe.batch_size,
            max_tokens=recipe.max_eval_tokens,
        ),
        config=TrainConfig(
            steps=recipe.steps,
            eval_every=recipe.eval_every,
            grad_clip=recipe.grad_clip,
            seed=seed,
            mixed_precision=mixed_precision,  # type: ignore[arg-type]
            restore_best=True,
        ),
        out_dir=out_dir,
        console=console,
        resume=resume,
    )


def _step_loss(model: GLAForCausalLM, tokens: Tensor, *, seq_len: int) -> Tensor:
    return lm_loss(model, tokens, seq_len=seq_len)
