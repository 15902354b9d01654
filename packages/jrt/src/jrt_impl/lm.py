"""Language models of text: training as in section 4, perplexity within and after the prefix."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Int
from torch import Tensor

from shared_impl.train import FitResult, TrainConfig, cosine_with_warmup, fit

from .config import JRTConfig
from .loss import mask_prefix, training_pair
from .model import JRTForCausalLM
from .text import ByteTokenizer, corpus

if TYPE_CHECKING:
    from rich.console import Console

__all__ = [
    "LMRecipe",
    "Mixer",
    "continue_text",
    "lm_config",
    "optimizer_of",
    "perplexity",
    "train_and_save",
    "train_lm",
]

Mixer = Literal["jrt", "based", "gla", "ssm", "transformer"]


@dataclass(frozen=True, kw_only=True)
class LMRecipe:
    """How to train; the defaults are small. The paper: 60,000 steps of 256 x 2048 tokens, prefix 1024, lr 8e-4."""

    steps: int = 300
    batch_size: int = 8
    seq_len: int = 256
    prefix_len: int = 128
    """M of the prefix model; the causal ones are judged after the same place"""
    lr: float = 3e-3
    weight_decay: float = 0.1
    mask_probability: float = 0.15
    mlm_weight: float = 0.25
    eval_tokens: int = 65_536

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "seq_len"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not 0 <= self.prefix_len < self.seq_len:
            raise ValueError(f"prefix_len must be in 0..{self.seq_len - 1}, got {self.prefix_len}")
        if not self.lr > 0:
            raise ValueError(f"lr must be positive, got {self.lr}")


def lm_config(mixer: Mixer, recipe: LMRecipe, *, d_model: int = 96, n_layers: int = 4, n_heads: int = 2) -> JRTConfig:
    """A byte model of the paper's blocks: convolution, the mixer, a window, and so on.

    The Transformer has full attention in every layer.

    Raises:
        ValueError: if there is no such mixer.
    """
    names = {"jrt": "pla", "based": "based", "gla": "gla", "ssm": "ssm", "transformer": "attention"}
    if mixer not in names:
        raise ValueError(f"mixer must be one of {', '.join(names)}, got {mixer!r}")
    if mixer == "transformer":
        layers = ["attention"] * n_layers
    else:
        layers = [("conv", names[mixer], "window")[i % 3] for i in range(n_layers)]
    return JRTConfig(
        vocab_size=ByteTokenizer.vocab_size, mask_token_id=ByteTokenizer.mask_token_id, d_model=d_model,
        n_heads=n_heads, layers=tuple(layers), prefix_len=recipe.prefix_len if mixer == "jrt" else 0, window=32,
        symmetric=True,
    )  # fmt: skip


def optimizer_of(model: JRTForCausalLM, recipe: LMRecipe) -> torch.optim.AdamW:
    """AdamW with betas (.9, .95), decay on matrices only (not on biases and norms)."""
    groups: tuple[list[Tensor], list[Tensor]] = ([], [])
    for parameter in model.parameters():
        groups[parameter.dim() < 2].append(parameter)
    decayed, plain = groups
    return torch.optim.AdamW(
        [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": plain, "weight_decay": 0.0}],
        lr=recipe.lr, betas=(0.9, 0.95),
    )  # fmt: skip


def train_lm(
    model: JRTForCausalLM,
    train: Int[Tensor, " tokens"],
    recipe: LMRecipe,
    *,
    held_out: Int[Tensor, " more"] | None = None,
    seed: int = 0,
    out_dir: Path | None = None,
    console: "Console | None" = None,
) -> FitResult:
    """Train on pieces of the text drawn anew each step; a model with prefix 0 learns next tokens everywhere.

    Raises:
        ValueError: if the text is shorter than one piece, or holds the mask id.
    """
    longer = recipe.seq_len + 1
    if len(train) <= longer:
        raise ValueError(f"train must hold more than {longer} tokens, got {len(train)}")
    mask_id, device = model.mask_token_id, model.embedding.weight.device
    prefix = 0 if model.prefix_len == 0 else recipe.prefix_len
    if mask_id is None:
        raise ValueError("model must have a mask_token_id, got None")

    def draw(generator: torch.Generator) -> tuple[Tensor, Tensor]:
        starts = torch.randint(len(train) - longer, (recipe.batch_size, 1), generator=generator)
        sample = train[starts + torch.arange(longer)]
        return training_pair(sample, prefix, mask_token_id=mask_id, p=recipe.mask_probability, generator=generator)

    def loss(model: JRTForCausalLM, batch: tuple[Tensor, Tensor]) -> Tensor:
        ids, targets = (t.to(device) for t in batch)
        found = model(ids, targets=targets, mlm_weight=recipe.mlm_weight).loss
        assert found is not None
        return found

    def evaluate(model: Any) -> Mapping[str, float]:
        assert held_out is not None
        return perplexity(model, held_out[: min(len(held_out), 8 * recipe.seq_len)], recipe)

    return fit(
        model, loss, draw, optimizer=optimizer_of(model, recipe),
        scheduler=partial(cosine_with_warmup, warmup_steps=recipe.steps // 100, min_ratio=0.1),
        evaluate=None if held_out is None else evaluate,
        config=TrainConfig(
            steps=recipe.steps, grad_clip=1.0, seed=seed, eval_every=max(1, recipe.steps // 4),
            monitor="after prefix" if held_out is not None else "loss",
        ),
        out_dir=out_dir, console=console,
    )  # fmt: skip


@torch.no_grad()
def perplexity(model: JRTForCausalLM, tokens: Int[Tensor, " tokens"], recipe: LMRecipe) -> dict[str, float]:
    """Perplexity a token (a byte): "after prefix" of next tokens, and "within prefix".

    Within the prefix a prefix model is asked for masked tokens, which it sees both sides of; a causal one for next
    tokens. The two figures are of different questions. The prefix is not masked when next tokens are judged.

    Raises:
        ValueError: if there are fewer tokens than one piece.
    """
    piece = recipe.seq_len + 1
    count = min(len(tokens), recipe.eval_tokens) // piece
    if count < 1:
        raise ValueError(f"tokens must be at least {piece}, got {len(tokens)}")
    device, mask_id = model.embedding.weight.device, model.mask_token_id
    causal = model.prefix_len == 0
    generator = torch.Generator().manual_seed(0)
    after, within = _Mean(), _Mean()
    for part in tokens[: count * piece].view(count, piece).split(max(1, recipe.batch_size)):
        read = part[:, :-1].to(device)
        nats = F.cross_entropy(model(read).logits.float().transpose(1, 2), part[:, 1:].to(device), reduction="none")
        after.add(nats[:, recipe.prefix_len :])
        if causal:
            within.add(nats[:, : recipe.prefix_len])
        elif mask_id is not None and recipe.prefix_len:
            hidden, labels = mask_prefix(
                part[:, : recipe.prefix_len], recipe.mask_probability, mask_token_id=mask_id, generator=generator
            )
            logits = model(torch.cat([hidden.to(device), read[:, recipe.prefix_len :]], 1)).logits.float()
            asked = labels.to(device) != -100
            within.add(
                F.cross_entropy(logits[:, : recipe.prefix_len][asked], labels.to(device)[asked], reduction="none")
            )
    found = {"after prefix": after.perplexity}
    return found | ({"within prefix": within.perplexity} if within.count else {})


def train_and_save(
    source: str,
    mixer: Mixer,
    recipe: LMRecipe,
    *,
    d_model: int,
    n_layers: int,
    seed: int,
    device: torch.device,
    out_dir: Path,
    console: "Console",
) -> dict[str, Any]:
    """Train on a text, judge on its held-out part, save under `out_dir`; an interrupted run goes on.

    Raises:
        ValueError: if an option is out of range or the text too short.
        OSError: if the text cannot be read.
    """
    train, held_out = corpus(source)
    if len(held_out) <= recipe.seq_len:  # too short to be judged at full length
        raise ValueError(f"{source}: {len(held_out)} bytes held out, must be more than seq_len {recipe.seq_len}")
    torch.manual_seed(seed)
    model = JRTForCausalLM.from_config(lm_config(mixer, recipe, d_model=d_model, n_layers=n_layers)).to(device)
    result = train_lm(
        model, train, recipe, held_out=held_out, seed=seed, out_dir=out_dir / "checkpoints" / mixer, console=console
    )
    folder = out_dir / mixer
    model.save_pretrained(folder)
    found = perplexity(model, held_out, recipe)
    for name, value in found.items():
        console.print(f"perplexity a byte, {name}: {value:.3f}", highlight=False)
    console.print(f"saved: {folder}", highlight=False, soft_wrap=True)
    return {"model": str(folder), "steps": result.steps, **found}


def continue_text(
    folder: Path, prompt: str, *, max_new_tokens: int, temperature: float, seed: int, device: torch.device
) -> str:
    """What a saved model writes after a prompt; temperature 0 is greedy.

    Raises:
        ValueError: if an option is out of range.
        OSError: if the folder holds no model.
    """
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(2, "no folder of a saved model", str(folder))
    model, tokenizer = JRTForCausalLM.from_pretrained(folder).to(device).eval(), ByteTokenizer()
    ids = tokenizer(prompt, return_tensors="pt")["input_ids"].to(device)
    out = model.generate(
        ids, max_new_tokens=max_new_tokens, do_sample=temperature != 0, temperature=temperature or 1.0,
        generator=torch.Generator(device).manual_seed(seed),
    )  # fmt: skip
    return tokenizer.decode(out[0, ids.shape[1] :])


class _Mean:
    def __init__(self) -> None:
        self.total, self.count = 0.0, 0

    def add(self, nats: Tensor) -> None:
        self.total, self.count = self.total + nats.double().sum().item(), self.count + nats.numel()

    @property
    def perplexity(self) -> float:
        return math.exp(self.total / self.count) if self.count else math.nan
