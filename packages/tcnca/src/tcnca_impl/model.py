"""The causal language model and the classifier, with the paper's layer or any baseline's."""

from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from shared_impl.pretrained import Pretrained

from .attention import ChunkedAttention
from .baselines import LSTMLayer, TransformerAttention
from .config import ClassifierConfig, LayerConfig, LMConfig, MixerConfig, StackConfig
from .generation import generate
from .layer import Block, FeedForward, MegaLayer, MixerOnly, SimpleTCNCA
from .norms import SequenceNorm

__all__ = ["LMOutput", "TCNCAClassifier", "TCNCAForCausalLM"]

_MIXER = {"tcnca": "tcn", "mega": "ema", "mega-s4d": "s4d", "chunk": "none", "simple": "tcn", "simple-ema": "ema",
          "simple-none": "none", "tcn-mlp": "tcn", "ema-mlp": "ema"}  # fmt: skip


class LMOutput(NamedTuple):
    """What the language model returns."""

    logits: Float[Tensor, "batch length vocab"]
    loss: Float[Tensor, ""] | None
    state: tuple[Any, ...] | None


def _sequence_layer(config: StackConfig) -> nn.Module:
    architecture, d_model = config.architecture, config.d_model
    if architecture == "transformer":
        return TransformerAttention(d_model, causal=not config.bidirectional)
    if architecture == "lstm":
        return LSTMLayer(d_model)
    mixer = _MIXER[architecture]
    if architecture.startswith("simple"):
        return SimpleTCNCA(d_model, mixer, chunk=config.chunk, **config.only(MixerConfig))
    if architecture.endswith("-mlp"):
        return MixerOnly(d_model, mixer, **config.only(MixerConfig))
    return MegaLayer(d_model, mixer, **config.only(LayerConfig))


def _blocks(config: StackConfig) -> nn.ModuleList:
    """The layers, each with its feed-forward part."""
    return nn.ModuleList(
        Block(
            _sequence_layer(config),
            FeedForward(
                config.d_model, config.ffn, norm=config.norm, prenorm=config.prenorm, dropout=config.dropout,
                hidden_dropout=config.hidden_dropout,
            ),
        )
        for _ in range(config.n_layers)
    )  # fmt: skip


def _last_norm(config: StackConfig, *, affine: bool) -> SequenceNorm:
    # layers that end with a norm need no other
    return SequenceNorm(config.norm if config.prenorm else "none", config.d_model, affine=affine)


def _check_ids(ids: Tensor, vocab_size: int) -> None:
    if ids.ndim != 2 or ids.shape[1] == 0:
        raise ValueError(f"ids must have shape (batch, length) with at least one token, got {tuple(ids.shape)}")
    if ids.dtype not in (torch.int64, torch.int32):
        raise ValueError(f"ids must be int64 or int32, got {ids.dtype}")
    if ids.numel() and (int(ids.min()) < 0 or int(ids.max()) >= vocab_size):
        raise ValueError(f"ids must lie in 0 .. {vocab_size - 1}, got {int(ids.min())} .. {int(ids.max())}")


class TCNCAForCausalLM(nn.Module, Pretrained):
    """Embedding times sqrt(d), layers, a last norm without weights, a tied head: MEGA's language model.

    The state continues a sequence at any split.
    """

    def __init__(self, config: LMConfig = LMConfig()) -> None:  # noqa: B008  (frozen)
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.d_model)
        nn.init.normal_(self.embedding.weight, std=config.d_model**-0.5)
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = _blocks(config)
        self.norm = _last_norm(config, affine=False)

    def set_chunk(self, chunk: int) -> None:
        """Another attention chunk in all layers, as the paper tests EnWik8 with 4096 after training with 2048.

        Raises:
            ValueError: below 1, or longer than a simple bias was made for.
        """
        for module in self.modules():
            if isinstance(module, ChunkedAttention):
                module.set_chunk(chunk)

    def forward(
        self,
        ids: Int[Tensor, "batch length"],
        state: tuple[Any, ...] | None = None,
        targets: Int[Tensor, "batch length"] | None = None,
    ) -> LMOutput:
        """Logits of the next token, the mean loss if there are targets (-100 is left out), and, without, the state.

        Raises:
            ValueError: ids outside the vocabulary, empty, or of another shape; a state of another depth.
        """
        _check_ids(ids, self.config.vocab_size)
        self._check_state(state)
        x, states = self._embed(ids), []
        for i, block in enumerate(self.blocks):
            x, after = block(x, None if state is None else state[i], return_state=targets is None)
            states.append(after)
        logits = self.norm(x) @ self.embedding.weight.T
        if targets is None:
            return LMOutput(logits, None, tuple(states))
        return LMOutput(logits, F.cross_entropy(logits.flatten(0, 1), targets.flatten().long()), None)

    def step(self, ids: Int[Tensor, "batch"], state: tuple[Any, ...] | None = None) -> tuple[Tensor, tuple[Any, ...]]:
        """One token: logits of the next, and the state."""
        _check_ids(ids.unsqueeze(1), self.config.vocab_size)
        self._check_state(state)
        x, states = self._embed(ids), []
        for i, block in enumerate(self.blocks):
            x, after = cast(Any, block).step(x, None if state is None else state[i])
            states.append(after)
        return self.norm(x.unsqueeze(1)).squeeze(1) @ self.embedding.weight.T, tuple(states)

    def generate(
        self,
        ids: Int[Tensor, "batch length"],
        max_new_tokens: int,
        *,
        do_sample: bool = False,
        temperature: float | int = 1.0,
        top_k: int | None = None,
        top_p: float | int | None = None,
        repetition_penalty: float | int = 1.0,
        eos_token_id: int | None = None,
        pad_token_id: int | None = None,
        attention_mask: Int[Tensor, "batch length"] | Bool[Tensor, "batch length"] | None = None,
        generator: torch.Generator | None = None,
    ) -> Int[Tensor, "batch longer"]:
        """The prompt and what follows it, one step at a time with a state of constant size; see `generation.generate`.

        Raises:
            ValueError: an option out of range, or a mask that is no left padding.
        """
        return generate(
            self, ids, max_new_tokens, do_sample=do_sample, temperature=temperature, top_k=top_k, top_p=top_p,
            repetition_penalty=repetition_penalty, eos_token_id=eos_token_id, pad_token_id=pad_token_id,
            attention_mask=attention_mask, generator=generator,
        )  # fmt: skip

    def _embed(self, ids: Tensor) -> Tensor:
        return self.dropout(self.embedding(ids) * self.config.d_model**0.5)

    def _check_state(self, state: tuple[Any, ...] | None) -> None:
        if state is not None and len(state) != len(self.blocks):
            raise ValueError(f"state must have {len(self.blocks)} layers, got {len(state)}")


class TCNCAClassifier(nn.Module, Pretrained):
    """Tokens or vectors in, classes out, by the mean over positions (MEGA's LRA encoder) or the last one."""

    def __init__(self, config: ClassifierConfig = ClassifierConfig()) -> None:  # noqa: B008  (frozen)
        super().__init__()
        self.config = config
        self.inputs: nn.Module
        if config.vocab_size is not None:
            self.inputs = nn.Embedding(config.vocab_size, config.d_model)
            nn.init.normal_(self.inputs.weight, std=config.d_model**-0.5)
        else:
            self.inputs = nn.Linear(cast(int, config.in_features), config.d_model)
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = _blocks(config)
        self.norm = _last_norm(config, affine=True)
        width = config.d_model * (2 if config.pairs else 1)
        self.hidden = None if config.head_width is None else nn.Linear(width, config.head_width)
        self.head = nn.Linear(width if config.head_width is None else config.head_width, config.n_classes)

    def forward(self, x: Tensor, lengths: Sequence[int] | Tensor | None = None) -> Float[Tensor, "batch classes"]:
        """Logits.

        Args:
            x: ids (batch, length), or (batch, length, in_features); with `pairs`, a dimension of 2 after the first.
            lengths: of each sequence, (batch,) or, with `pairs`, (batch, 2); what follows is padding and has no
                influence.

        Raises:
            ValueError: a wrong shape, values that are not finite, or lengths outside 1 .. length.
        """
        if not self.config.pairs:
            features = self.features(x, lengths)
        else:
            if x.ndim < 3 or x.shape[1] != 2:
                raise ValueError(f"x must have shape (batch, 2, length, ...) for pairs, got {tuple(x.shape)}")
            both = None if lengths is None else torch.as_tensor(lengths)
            if both is not None and both.shape != x.shape[:2]:
                raise ValueError(f"lengths must have shape {tuple(x.shape[:2])}, got {tuple(both.shape)}")
            each = self.features(x.flatten(0, 1), None if both is None else both.flatten())
            # the second sequence first, as in MEGA's code
            features = each.unflatten(0, (-1, 2)).flip(1).flatten(1)
        if self.hidden is not None:
            features = F.gelu(self.dropout(self.hidden(features)))
        return self.head(features)

    def features(self, x: Tensor, lengths: Sequence[int] | Tensor | None = None) -> Float[Tensor, "batch d_model"]:
        """What is pooled, before the classes: of single sequences."""
        config = self.config
        if config.vocab_size is not None:
            _check_ids(x, config.vocab_size)
        elif x.ndim != 3 or x.shape[2] != config.in_features or x.shape[1] == 0:
            raise ValueError(f"x must have shape (batch, length, {config.in_features}), got {tuple(x.shape)}")
        elif not bool(torch.isfinite(x).all()):
            raise ValueError("x must be finite, got NaN or infinity")
        mask: Bool[Tensor, "batch length"] | None = None
        total = torch.full((x.shape[0],), x.shape[1], device=x.device)
        if lengths is not None:
            total = torch.as_tensor(lengths, device=x.device)
            if total.shape != (x.shape[0],) or bool((total < 1).any()) or bool((total > x.shape[1]).any()):
                raise ValueError(f"lengths must be {x.shape[0]} numbers in 1 .. {x.shape[1]}, got {total.tolist()}")
            mask = torch.arange(x.shape[1], device=x.device) < total.unsqueeze(1)
        hidden = self.dropout(self.inputs(x))
        for block in self.blocks:
            hidden, _ = block(hidden, None, mask, return_state=False)
        hidden = self.norm(hidden)
        if config.pool == "last":
            return hidden[torch.arange(len(hidden), device=x.device), total - 1]
        if mask is None:
            return hidden.mean(1)
        return (hidden * mask.unsqueeze(-1)).sum(1) / total.unsqueeze(1)
