"""Blocks and the causal language model (sections 4.4 and 5.1)."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from gla_impl.baselines import CausalSelfAttention, MultiScaleRetention, SelectiveSSM
from gla_impl.config import GLAConfig
from gla_impl.generation import next_token
from gla_impl.layer import GatedLinearAttention
from shared_impl.pretrained import Pretrained

__all__ = ["Block", "GLAForCausalLM", "LMOutput", "SwiGLU", "build_mixer", "detach", "state_bytes"]

State = tuple[Any, ...]
"""One entry a layer, each what that layer's mixer returned."""


class LMOutput(NamedTuple):
    """What the model returns."""

    logits: Float[Tensor, "batch length vocab"] | None
    state: State
    loss: Float[Tensor, ""] | None = None


class SwiGLU(nn.Module):
    """(SiLU(x W1) * x W3) W2."""

    def __init__(self, d_model: int, width: int) -> None:
        super().__init__()
        self.in_proj = nn.Linear(d_model, 2 * width, bias=False)
        self.out_proj = nn.Linear(width, d_model, bias=False)

    def forward(self, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
        """Applied to every token by itself."""
        gate, value = self.in_proj(x).chunk(2, dim=-1)
        return self.out_proj(F.silu(gate) * value)


def build_mixer(config: GLAConfig) -> nn.Module:
    """The sequence mixer that a configuration names."""
    if config.mixer == "attention":
        return CausalSelfAttention(config.d_model, config.n_heads)
    if config.mixer == "retention":
        return MultiScaleRetention(config.d_model, config.n_heads, expand_k=config.expand_k, expand_v=config.expand_v)
    if config.mixer == "selective_ssm":
        return SelectiveSSM(config.d_model, n_channels=config.ssm_channels, n_states=config.ssm_state)
    return GatedLinearAttention(
        config.d_model,
        config.n_heads,
        expand_k=config.expand_k,
        expand_v=config.expand_v,
        gate_rank=config.gate_rank,
        tau=config.tau,
        gate=config.gate,
        variant=config.variant,
        norm_eps=config.norm_eps,
    )


class Block(nn.Module):
    """x + mixer(norm(x)), then x + SwiGLU(norm(x))."""

    def __init__(self, config: GLAConfig) -> None:
        super().__init__()
        self.mixer_norm = nn.RMSNorm(config.d_model, eps=config.norm_eps)
        self.mixer = build_mixer(config)
        self.ffn: nn.Module | None = None
        if config.feedforward_width:
            self.ffn_norm = nn.RMSNorm(config.d_model, eps=config.norm_eps)
            self.ffn = SwiGLU(config.d_model, config.feedforward_width)

    def forward(
        self, x: Float[Tensor, "batch length d_model"], state: Any = None, attention_mask: Tensor | None = None
    ) -> tuple[Float[Tensor, "batch length d_model"], Any]:
        """A piece of a sequence; the state continues it."""
        y, state = self.mixer(self.mixer_norm(x), state, attention_mask)
        return self._feed_forward(x + y), state

    def step(self, x: Float[Tensor, "batch d_model"], state: Any = None) -> tuple[Float[Tensor, "batch d_model"], Any]:
        """One token."""
        y, state = cast(Any, self.mixer).step(self.mixer_norm(x), state)
        return self._feed_forward(x + y), state

    def _feed_forward(self, x: Tensor) -> Tensor:
        return x if self.ffn is None else x + self.ffn(self.ffn_norm(x))


class GLAForCausalLM(nn.Module, Pretrained):
    """A language model that predicts each next token.

    The state is all that it remembers of a sequence: pass it on to continue one over several calls, for training
    (detach it between segments: truncated backpropagation through time) as for generation. With the gla mixer its size
    does not depend on how much was read.

    `save_pretrained(folder)` and `from_pretrained(folder or hub name)` write and read safetensors and JSON.
    """

    def __init__(self, config: GLAConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.d_model)
        self.blocks = nn.ModuleList([Block(config) for _ in range(config.n_layers)])
        self.norm = nn.RMSNorm(config.d_model, eps=config.norm_eps)
        self.lm_head = nn.Linear(config.d_model, config.vocab_size, bias=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Matrices and embedding N(0, 0.02); each mixer has its own rule."""
        nn.init.normal_(self.embedding.weight, std=0.02)
        nn.init.normal_(self.lm_head.weight, std=0.02)
        for block in self.blocks:
            cast(Any, block.mixer).reset_parameters()
            if isinstance(block.ffn, SwiGLU):
                nn.init.normal_(block.ffn.in_proj.weight, std=0.02)
                nn.init.normal_(block.ffn.out_proj.weight, std=0.02)

    def backbone(
        self,
        input_ids: Int[Tensor, "batch length"],
        state: State | None = None,
        attention_mask: Bool[Tensor, "batch length"] | Int[Tensor, "batch length"] | None = None,
    ) -> tuple[Float[Tensor, "batch length d_model"], State]:
        """Everything below the head: normed hidden states, and the state.

        Raises:
            ValueError: if there is no token, or the state has another number of layers.
        """
        if input_ids.shape[1] == 0:
            raise ValueError("input_ids must hold at least one token, got length 0")
        x = self.embedding(input_ids)
        states: list[Any] = []
        for block, before in zip(self.blocks, self._layers(state), strict=True):
            x, after = block(x, before, attention_mask)
            states.append(after)
        return self.norm(x), tuple(states)

    def forward(
        self,
        input_ids: Int[Tensor, "batch length"],
        state: State | None = None,
        attention_mask: Bool[Tensor, "batch length"] | Int[Tensor, "batch length"] | None = None,
        targets: Int[Tensor, "batch length"] | None = None,
    ) -> LMOutput:
        """Logits of the next token at every place, or, given targets, only the loss.

        Args:
            state: what an earlier call returned for the tokens before these.
            attention_mask: true or 1 where there is a token, on either side of the padding.
            targets: the token that should follow each place, -100 where none counts. The head then runs at counted
                places alone, and `logits` is None: with a large vocabulary the logits are most of a step's memory.

        Raises:
            ValueError: if there is no token, shapes do not fit, or the state has another number of layers.
        """
        hidden, state = self.backbone(input_ids, state, attention_mask)
        if targets is None:
            return LMOutput(self.lm_head(hidden), state)
        if targets.shape != input_ids.shape:
            raise ValueError(f"targets must be {tuple(input_ids.shape)}, got {tuple(targets.shape)}")
        counted = targets != -100
        loss = F.cross_entropy(self.lm_head(hidden[counted]).float(), targets[counted])
        return LMOutput(None, state, loss)

    def step(
        self, token: Int[Tensor, " batch"], state: State | None = None
    ) -> tuple[Float[Tensor, "batch vocab"], State]:
        """Read one token a row: logits of the next, and the state."""
        x = self.embedding(token)
        states: list[Any] = []
        for block, before in zip(self.blocks, self._layers(state), strict=True):
            x, after = cast(Block, block).step(x, before)
            states.append(after)
        return self.lm_head(self.norm(x)), tuple(states)

    def stream(
        self,
        input_ids: Int[Tensor, "batch length"],
        *,
        max_new_tokens: int = 100,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        repetition_penalty: float = 1.0,
        eos_token_id: int | None = None,
        attention_mask: Bool[Tensor, "batch length"] | Int[Tensor, "batch length"] | None = None,
        generator: torch.Generator | None = None,
    ) -> Iterator[Int[Tensor, " batch"]]:
        """Yield the new tokens one by one (a number for each row); see `generate`.

        Raises:
            ValueError: if an option is out of range.
        """
        if max_new_tokens < 0:
            raise ValueError(f"max_new_tokens must not be negative, got {max_new_tokens}")
        if attention_mask is not None:
            if attention_mask.shape != input_ids.shape:
                raise ValueError(f"attention_mask must be {tuple(input_ids.shape)}, got {tuple(attention_mask.shape)}")
            if not attention_mask.bool().any(1).all():
                raise ValueError("attention_mask must leave at least one token in every row")
            # padding to the left, so that the last place is a token in every row
            order = attention_mask.long().argsort(dim=1, stable=True)
            input_ids, attention_mask = input_ids.gather(1, order), attention_mask.gather(1, order)
        batch, vocabulary = len(input_ids), self.config.vocab_size
        seen = None
        if repetition_penalty != 1:
            seen = input_ids.new_zeros(batch, vocabulary, dtype=torch.bool)
            read = torch.ones_like(input_ids) if attention_mask is None else attention_mask.long()
            seen = seen.long().scatter_reduce(1, input_ids, read, "amax").bool()
        done = input_ids.new_zeros(batch, dtype=torch.bool)
        token = input_ids[:, -1]
        with torch.no_grad():
            hidden, state = self.backbone(input_ids, None, attention_mask)
            logits = self.lm_head(hidden[:, -1])
            for count in range(max_new_tokens):
                if count:
                    logits, state = self.step(token, state)
                token = next_token(
                    logits,
                    temperature=temperature,
                    top_k=top_k,
                    top_p=top_p,
                    repetition_penalty=repetition_penalty,
                    seen=seen,
                    generator=generator,
                )
                if seen is not None:
                    seen.scatter_(1, token[:, None], True)
                if eos_token_id is not None:
                    token = torch.where(done, eos_token_id, token)
                    done = done | (token == eos_token_id)
                yield token
                if eos_token_id is not None and bool(done.all()):
                    return

    def generate(
        self,
        input_ids: Int[Tensor, "batch length"],
        *,
        max_new_tokens: int = 100,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        repetition_penalty: float = 1.0,
        eos_token_id: int | None = None,
        attention_mask: Bool[Tensor, "batch length"] | Int[Tensor, "batch length"] | None = None,
        generator: torch.Generator | None = None,
    ) -> Int[Tensor, "batch longer"]:
        """The prompt and what the model adds to it.

        The prompt is read in parallel; then each token costs the same time and memory, however many came before (with
        the attention mixer the cache grows instead).

        Args:
            max_new_tokens: at most this many are added.
            temperature: divides the logits; 0 takes the most probable token.
            top_k: draw among the k most probable tokens.
            top_p: draw among the most probable tokens whose probabilities reach p.
            repetition_penalty: above 1 makes tokens that occurred less likely.
            eos_token_id: a row that draws it is finished and filled with it; stops when all rows are.
            attention_mask: true or 1 where there is a token, for prompts of different lengths.
            generator: source of randomness, on the model's device.

        Raises:
            ValueError: if an option is out of range.
        """
        new = list(
            self.stream(
                input_ids,
                max_new_tokens=max_new_tokens,
                temperature=temperature,
                top_k=top_k,
                top_p=top_p,
                repetition_penalty=repetition_penalty,
                eos_token_id=eos_token_id,
                attention_mask=attention_mask,
                generator=generator,
            )
        )
        return torch.cat([input_ids, *(token[:, None] for token in new)], dim=1)

    def _layers(self, state: State | None) -> State:
        if state is None:
            return (None,) * len(self.blocks)
        if len(state) != len(self.blocks):
            raise ValueError(f"state must have {len(self.blocks)} layers, got {len(state)}")
        return state


def _map_state(state: Any, function: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(state, Tensor):
        return function(state)
    if isinstance(state, tuple):
        items = [_map_state(item, function) for item in state]
        return type(state)(*items) if hasattr(state, "_fields") else tuple(items)
    return state


def detach(state: State) -> State:
    """The same state without its history: gradients stop here (truncated backpropagation through time)."""
    return _map_state(state, Tensor.detach)


def state_bytes(state: State) -> int:
    """Memory that a state takes."""
    total = 0

    def count(tensor: Tensor) -> Tensor:
        nonlocal total
        total += tensor.numel() * tensor.element_size()
        return tensor

    _map_state(state, count)
    return total
