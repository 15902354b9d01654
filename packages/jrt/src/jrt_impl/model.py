"""The language model: hybrid blocks, the prompt read as a prefix, decoding from a state of constant size."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Literal, NamedTuple, cast

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from shared_impl.pretrained import Pretrained

from .attention import Compat
from .baselines import GatedRecurrence
from .config import JRTConfig, check_layers, hybrid_layers
from .layers import BaseConv, BasedLayer, PrefixLinearAttention, ShortConv, SlidingWindowAttention
from .loss import jrt_loss

__all__ = ["Block", "JRTForCausalLM", "LMOutput", "state_bytes"]


class LMOutput(NamedTuple):
    """What the model returns."""

    logits: Float[Tensor, "batch length vocab"]
    loss: Float[Tensor, ""] | None
    state: tuple[Any, ...]


class Block(nn.Module):
    """x + mixer(norm(x)), then x + SwiGLU(norm(x)); the residual stays in float32 or wider."""

    def __init__(self, d_model: int, mixer: nn.Module, inner: int) -> None:
        super().__init__()
        self.norm1, self.mixer, self.inner = nn.RMSNorm(d_model, eps=1e-5), mixer, inner
        if inner:
            self.norm2 = nn.RMSNorm(d_model, eps=1e-5)
            self.fc1 = nn.Linear(d_model, 2 * inner, bias=False)
            self.fc2 = nn.Linear(inner, d_model, bias=False)

    def forward(self, x: Tensor, state: Any = None, attention_mask: Tensor | None = None) -> tuple[Tensor, Any]:
        """A piece of a sequence."""
        dtype = self.norm1.weight.dtype
        y, state = self.mixer(self.norm1(x.to(dtype)), state, attention_mask)
        x = x + y
        if self.inner:
            value, gate = self.fc1(self.norm2(x.to(dtype))).chunk(2, dim=-1)
            x = x + self.fc2(F.silu(gate) * value)
        return x, state


class JRTForCausalLM(nn.Module, Pretrained):
    """A language model that reads the first `prefix_len` tokens of its prompt without order, then decodes recurrently.

    The arguments are those of `JRTConfig`, where each is explained; `layers=None` takes the paper's places in eight
    layers.

    Raises:
        ValueError: if an option is out of range.
    """

    def __init__(
        self,
        *,
        vocab_size: int = 50_264,
        d_model: int = 64,
        n_heads: int = 2,
        layers: Sequence[str] | None = None,
        prefix_len: int | None = None,
        feature_dim: int = 16,
        window: int = 256,
        inner: int | None = None,
        mask_token_id: int | None = None,
        symmetric: bool = False,
        projections: Literal["own", "shared"] = "own",
        conv_bias: bool = False,
        init_std: float = 0.02,
        compat: Compat = "paper",
    ) -> None:
        super().__init__()
        layers = hybrid_layers(8) if layers is None else list(layers)
        check_layers(layers)
        if vocab_size < 1:
            raise ValueError(f"vocab_size must be at least 1, got {vocab_size}")
        if mask_token_id is not None and not 0 <= mask_token_id < vocab_size:
            raise ValueError(f"mask_token_id must be in 0..{vocab_size - 1}, got {mask_token_id}")
        self.vocab_size, self.prefix_len, self.mask_token_id, self.compat = (
            vocab_size, prefix_len, mask_token_id, compat,
        )  # fmt: skip

        def mixer(name: str) -> nn.Module:
            if name == "conv":
                return BaseConv(d_model, conv_bias=conv_bias)
            if name == "short_conv":
                return ShortConv(d_model)
            if name == "pla":
                return PrefixLinearAttention(
                    d_model, n_heads, prefix_len=prefix_len, feature_dim=feature_dim, symmetric=symmetric,
                    projections=projections, compat=compat,
                )  # fmt: skip
            if name == "based":
                return BasedLayer(d_model, n_heads, feature_dim=feature_dim, symmetric=symmetric)
            if name in ("window", "attention"):
                return SlidingWindowAttention(d_model, n_heads, window=window if name == "window" else None)
            return GatedRecurrence(d_model, n_heads, kind=name, feature_dim=feature_dim)

        width = 2 * d_model if inner is None else inner
        self.embedding = nn.Embedding(vocab_size, d_model)
        self.blocks = nn.ModuleList(Block(d_model, mixer(name), width) for name in layers)
        self.norm = nn.RMSNorm(d_model, eps=1e-5)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=init_std)
                if isinstance(module, nn.Linear) and module.bias is not None:
                    nn.init.zeros_(module.bias)
        for name, parameter in self.named_parameters():
            if name.endswith(("out_proj.weight", "fc2.weight")):
                with torch.no_grad():
                    parameter /= (2 * len(layers)) ** 0.5

    @classmethod
    def from_config(cls, config: JRTConfig) -> "JRTForCausalLM":
        """A model with fresh weights."""
        return cls(**asdict(config))

    def forward(
        self,
        ids: Int[Tensor, "batch length"],
        state: tuple[Any, ...] | None = None,
        targets: Int[Tensor, "batch length"] | None = None,
        attention_mask: Bool[Tensor, "batch length"] | Int[Tensor, "batch length"] | None = None,
        *,
        mlm_weight: float = 0.25,
    ) -> LMOutput:
        """Logits at every place; given `targets` (as `training_pair` of `loss` makes them), the two-part loss.

        Raises:
            ValueError: if there is no token, an id is outside the vocabulary, or shapes do not fit.
        """
        hidden, state = self._hidden(ids, state, attention_mask)
        logits = F.linear(hidden, self.embedding.weight)
        loss = None
        if targets is not None:
            prefix = ids.shape[1] if self.prefix_len is None else min(self.prefix_len, ids.shape[1])
            loss = jrt_loss(logits, targets, prefix, mlm_weight, compat=self.compat)
        return LMOutput(logits, loss, state)

    def prefill(
        self,
        ids: Int[Tensor, "batch length"],
        attention_mask: Bool[Tensor, "batch length"] | Int[Tensor, "batch length"] | None = None,
    ) -> tuple[Float[Tensor, "batch vocab"], tuple[Any, ...]]:
        """Read a prompt: logits of the next token, and the state to go on from. Padding is moved to the left."""
        if attention_mask is not None:
            _check_mask(ids, attention_mask)
            order = attention_mask.long().argsort(dim=1, stable=True)
            ids, attention_mask = ids.gather(1, order), attention_mask.gather(1, order)
        hidden, state = self._hidden(ids, None, attention_mask)
        return F.linear(hidden[:, -1], self.embedding.weight), state

    def step(
        self, token: Int[Tensor, " batch"], state: tuple[Any, ...]
    ) -> tuple[Float[Tensor, "batch vocab"], tuple[Any, ...]]:
        """One more token a row."""
        hidden, state = self._hidden(token[:, None], state, None)
        return F.linear(hidden[:, 0], self.embedding.weight), state

    @torch.no_grad()
    def generate(
        self,
        ids: Int[Tensor, "batch length"],
        *,
        max_new_tokens: int = 48,
        do_sample: bool = False,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        repetition_penalty: float = 1.0,
        eos_token_id: int | None = None,
        pad_token_id: int | None = None,
        attention_mask: Bool[Tensor, "batch length"] | Int[Tensor, "batch length"] | None = None,
        generator: torch.Generator | None = None,
    ) -> Int[Tensor, "batch longer"]:
        """The prompt and what follows; options as Hugging Face names them.

        Raises:
            ValueError: if an option is out of range.
        """
        if max_new_tokens < 0:
            raise ValueError(f"max_new_tokens must not be negative, got {max_new_tokens}")
        if not temperature > 0 or not repetition_penalty > 0:
            raise ValueError(
                f"temperature and repetition_penalty must be positive, got {temperature} and {repetition_penalty}"
            )
        if top_k is not None and top_k < 1:
            raise ValueError(f"top_k must be at least 1, got {top_k}")
        if top_p is not None and not 0 < top_p <= 1:
            raise ValueError(f"top_p must be in (0, 1], got {top_p}")
        pad = eos_token_id if pad_token_id is None else pad_token_id
        logits, state = self.prefill(ids, attention_mask)
        counted = torch.ones_like(ids) if attention_mask is None else attention_mask.long()
        seen = logits.new_zeros(logits.shape).scatter_reduce(1, ids, counted.to(logits.dtype), "amax") > 0
        done = torch.zeros_like(ids[:, 0], dtype=torch.bool)
        new = []
        for i in range(max_new_tokens):
            scores = logits.float()
            hit = torch.where(scores > 0, scores / repetition_penalty, scores * repetition_penalty)
            scores = torch.where(seen, hit, scores)
            token = _draw(scores, temperature, top_k, top_p, generator) if do_sample else scores.argmax(-1)
            if eos_token_id is not None:
                token = torch.where(done, cast(int, pad), token)
                done = done | (token == eos_token_id)
            new.append(token)
            seen[torch.arange(len(token), device=token.device), token] = True
            if i + 1 == max_new_tokens or bool(done.all()):
                break
            logits, state = self.step(token, state)
        return torch.cat([ids, *(t[:, None] for t in new)], dim=1)

    def _hidden(
        self, ids: Tensor, state: tuple[Any, ...] | None, attention_mask: Tensor | None
    ) -> tuple[Tensor, tuple[Any, ...]]:
        if ids.shape[1] == 0:
            raise ValueError("ids must hold at least one token, got length 0")
        low, high = int(ids.min()), int(ids.max())
        if low < 0 or high >= self.vocab_size:
            raise ValueError(f"ids must be in 0..{self.vocab_size - 1}, got {low if low < 0 else high}")
        if attention_mask is not None:
            _check_mask(ids, attention_mask)
            attention_mask = attention_mask.bool()
        if state is not None and len(state) != len(self.blocks):
            raise ValueError(f"state must have {len(self.blocks)} layers, got {len(state)}")
        x = self.embedding(ids)
        x = x.to(torch.promote_types(x.dtype, torch.float32))
        states = []
        for i, block in enumerate(self.blocks):
            mask = attention_mask
            mixer = cast(Block, block).mixer
            if self.compat == "official" and not self._official_masks(mixer, ids.shape[1]):
                mask = None
            x, after = block(x, None if state is None else state[i], mask)
            states.append(after)
        return self.norm(x.to(self.norm.weight.dtype)), tuple(states)

    @staticmethod
    def _official_masks(mixer: nn.Module, length: int) -> bool:
        # the authors' code knows of padding in prefix attention only, and there for prompts within the prefix
        return isinstance(mixer, PrefixLinearAttention) and (mixer.prefix_len is None or length <= mixer.prefix_len)


def state_bytes(state: tuple[Any, ...]) -> int:
    """Memory that a state takes."""
    total = 0
    for item in state:
        if isinstance(item, Tensor):
            total += item.numel() * item.element_size()
        elif isinstance(item, tuple):
            total += state_bytes(item)
    return total


def _draw(
    scores: Tensor, temperature: float, top_k: int | None, top_p: float | None, generator: torch.Generator | None
) -> Tensor:
    scores = scores / temperature
    if top_k is not None and top_k < scores.shape[-1]:
        scores = scores.masked_fill(scores < scores.topk(top_k).values[:, -1:], -torch.inf)
    if top_p is not None:
        ordered, order = scores.sort(descending=True)
        probability = ordered.softmax(-1)
        beyond = probability.cumsum(-1) - probability >= top_p
        scores = scores.masked_fill(beyond.scatter(-1, order, beyond), -torch.inf)
    return torch.multinomial(scores.softmax(-1), 1, generator=generator)[:, 0]


def _check_mask(ids: Tensor, mask: Tensor) -> None:
    if mask.shape != ids.shape:
        raise ValueError(f"attention_mask must be {tuple(ids.shape)}, got {tuple(mask.shape)}")
    if not mask.bool().any(1).all():
        raise ValueError("attention_mask must leave at least one token in every row")
