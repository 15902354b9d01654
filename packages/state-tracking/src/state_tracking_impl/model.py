"""A stack of layers over tokens: for the formal languages and for text."""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from shared_impl.pretrained import Pretrained

from .baselines import LSTM, SLSTM, Attention
from .checks import Number, check_eig_range, check_positive, check_token_ids
from .layers import DeltaNet, FullMatrixRNN, GLALayer, LinearRNN, Mamba
from .tasks import IGNORED

__all__ = ["MIXERS", "Output", "SequenceModel", "set_eigenvalue_range"]

Mixer = Literal["deltanet", "mamba", "gla", "full", "lstm", "slstm", "transformer"]
MIXERS: tuple[str, ...] = ("deltanet", "mamba", "gla", "full", "lstm", "slstm", "transformer")


class Output(NamedTuple):
    """What the model returns."""

    logits: Float[Tensor, "batch length vocab"]
    loss: Float[Tensor, ""] | None
    state: tuple[Any, ...]


class SwiGLU(nn.Module):
    """(SiLU(x W1) * x W2) W3."""

    def __init__(self, d_model: int, ratio: int) -> None:
        super().__init__()
        # two thirds, so that three matrices have the parameters of an MLP of this ratio
        width = max(8, (2 * ratio * d_model // 3 + 7) // 8 * 8)
        self.in_proj = nn.Linear(d_model, 2 * width, bias=False)
        self.out_proj = nn.Linear(width, d_model, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Each token by itself."""
        gate, value = self.in_proj(x).chunk(2, -1)
        return self.out_proj(F.silu(gate) * value)  # type: ignore[no-any-return]


class Block(nn.Module):
    """x + mixer(norm(x)), then, if there is one, x + SwiGLU(norm(x))."""

    def __init__(self, mixer: nn.Module, d_model: int, ffn_ratio: int) -> None:
        super().__init__()
        self.mixer_norm = nn.RMSNorm(d_model, eps=1e-5)
        self.mixer = mixer
        self.ffn_norm = nn.RMSNorm(d_model, eps=1e-5) if ffn_ratio else None
        self.ffn = SwiGLU(d_model, ffn_ratio) if ffn_ratio else None

    def forward(self, x: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """A piece of a sequence; the state is the mixer's."""
        y, state = self.mixer(self.mixer_norm(x), state)
        x = x + y
        if self.ffn is not None and self.ffn_norm is not None:
            x = x + self.ffn(self.ffn_norm(x))
        return x, state


class SequenceModel(nn.Module, Pretrained):
    """Embedding, blocks, norm, head.

    Args:
        mixer: the layer: deltanet, mamba, gla, full (matrices) or a baseline.
        eig_range: of the linear recurrences, one pair (lo, hi) or a pair a layer; baselines have none.
        n_householder: of DeltaNet.
        short_conv: width of convolutions in DeltaNet and Mamba; 1 is the authors' choice for Mamba on formal languages.
        ffn_ratio: of the SwiGLU after each mixer; None: 4, for Mamba 0 (no SwiGLU).

    Raises:
        ValueError: a size that cannot be, a mixer that is none, a range that is none.
    """

    def __init__(
        self,
        *,
        vocab_size: int = 3,
        d_model: int = 64,
        n_layers: int = 2,
        mixer: Mixer = "deltanet",
        eig_range: Sequence[Number] | Sequence[Sequence[Number]] = (-1.0, 1.0),
        n_heads: int = 4,
        n_householder: int = 1,
        short_conv: int = 4,
        d_state: int = 16,
        ffn_ratio: int | None = None,
    ) -> None:
        super().__init__()
        check_positive(vocab_size=vocab_size, d_model=d_model, n_layers=n_layers)
        if ffn_ratio is None:
            ffn_ratio = 0 if mixer == "mamba" else 4
        if not isinstance(ffn_ratio, int) or ffn_ratio < 0:
            raise ValueError(f"ffn_ratio must be an integer and not negative, got {ffn_ratio}")
        nested = isinstance(eig_range, list | tuple) and any(isinstance(pair, list | tuple) for pair in eig_range)
        ranges: Any = list(eig_range) if nested else [eig_range] * n_layers
        if len(ranges) != n_layers:
            raise ValueError(f"eig_range must be one pair (lo, hi) or one for each of {n_layers} layers, got {ranges}")
        self.vocab_size = vocab_size
        self.embedding = nn.Embedding(vocab_size, d_model)

        def layer(eig_range: Sequence[Number]) -> nn.Module:
            if mixer == "deltanet":
                return DeltaNet(
                    d_model, n_heads, eig_range=eig_range, n_householder=n_householder, short_conv=short_conv
                )
            if mixer == "mamba":
                return Mamba(d_model, d_state=d_state, eig_range=eig_range, short_conv=short_conv)
            if mixer == "gla":
                return GLALayer(d_model, n_heads, eig_range=eig_range)
            if mixer == "full":
                return FullMatrixRNN(d_model, n_heads, eig_range=eig_range)
            if mixer == "lstm":
                return LSTM(d_model)
            if mixer == "slstm":
                return SLSTM(d_model, n_heads)
            if mixer == "transformer":
                return Attention(d_model, n_heads)
            raise ValueError(f"mixer must be one of {', '.join(MIXERS)}, got {mixer!r}")

        self.blocks = nn.ModuleList([Block(layer(pair), d_model, ffn_ratio) for pair in ranges])
        self.norm = nn.RMSNorm(d_model, eps=1e-5)
        self.lm_head = nn.Linear(d_model, vocab_size, bias=False)
        nn.init.normal_(self.embedding.weight, std=0.5)

    def forward(
        self,
        input_ids: Int[Tensor, "batch length"],
        state: tuple[Any, ...] | None = None,
        targets: Int[Tensor, "batch length"] | None = None,
    ) -> Output:
        """Logits at every place; given targets (-100 where none counts) also the mean cross-entropy.

        Padding belongs on the right: the layers are causal, so that it cannot reach what is before it.

        Raises:
            ValueError: ids outside the vocabulary; shapes or a state that do not fit.
        """
        check_token_ids(input_ids, self.vocab_size)
        if state is not None and len(state) != len(self.blocks):
            raise ValueError(f"state must have {len(self.blocks)} layers, got {len(state)}")
        if targets is not None:
            if targets.shape != input_ids.shape:
                raise ValueError(f"targets must be {tuple(input_ids.shape)}, got {tuple(targets.shape)}")
            check_token_ids(targets.where(targets != IGNORED, 0), self.vocab_size, "targets")
        x = self.embedding(input_ids)
        after = []
        for i, block in enumerate(self.blocks):
            x, last = block(x, None if state is None else state[i])
            after.append(last)
        logits = self.lm_head(self.norm(x))
        loss = None if targets is None else F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())
        return Output(logits, loss, tuple(after))

    def _saved_config(self) -> dict[str, Any]:
        """With the ranges that the layers have now, whoever changed them."""
        ranges = [list(b.mixer.eig_range) for b in self.blocks if isinstance(b.mixer, LinearRNN)]
        if ranges and isinstance(self._hub_mixin_config, dict):
            self._hub_mixin_config["eig_range"] = ranges if any(r != ranges[0] for r in ranges) else ranges[0]
        return super()._saved_config()

    def step(
        self, token: Int[Tensor, " batch"], state: tuple[Any, ...] | None = None
    ) -> tuple[Float[Tensor, "batch vocab"], tuple[Any, ...]]:
        """Read one token a row."""
        output = self(token[:, None], state)
        return output.logits[:, 0], output.state

    @torch.no_grad()
    def generate(
        self,
        input_ids: Int[Tensor, "batch length"],
        *,
        max_new_tokens: int = 100,
        do_sample: bool = False,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        repetition_penalty: float = 1.0,
        eos_token_id: int | None = None,
        pad_token_id: int | None = None,
        attention_mask: Int[Tensor, "batch length"] | Bool[Tensor, "batch length"] | None = None,
        generator: torch.Generator | None = None,
    ) -> Int[Tensor, "batch longer"]:
        """The prompt and what the model adds: the most probable token each time, or a drawn one.

        Args:
            pad_token_id: what follows the end of a row; default `eos_token_id`.
            attention_mask: 1 where there is a token, for prompts of different lengths, which are read one by one.

        Raises:
            ValueError: an option out of range.
        """
        if max_new_tokens < 0:
            raise ValueError(f"max_new_tokens must not be negative, got {max_new_tokens}")
        for name, value in (("temperature", temperature), ("repetition_penalty", repetition_penalty)):
            if not value > 0:
                raise ValueError(f"{name} must be positive, got {value}")
        if top_k is not None and top_k < 1:
            raise ValueError(f"top_k must be at least 1, got {top_k}")
        if top_p is not None and not 0 < top_p <= 1:
            raise ValueError(f"top_p must be in (0, 1], got {top_p}")
        fill = eos_token_id if pad_token_id is None else pad_token_id
        if attention_mask is not None:
            real = attention_mask.bool()
            if real.shape != input_ids.shape or not bool(real.any(1).all()):
                raise ValueError(f"attention_mask must be {tuple(input_ids.shape)} with a token in every row")
            rows = [ids[here][None] for ids, here in zip(input_ids, real, strict=True)]
            new = [
                self.generate(
                    row, max_new_tokens=max_new_tokens, do_sample=do_sample, temperature=temperature, top_k=top_k,
                    top_p=top_p, repetition_penalty=repetition_penalty, eos_token_id=eos_token_id, generator=generator,
                )[0, row.shape[1] :]
                for row in rows
            ]  # fmt: skip
            return torch.cat([input_ids, nn.utils.rnn.pad_sequence(new, True, fill or 0)], 1)
        ids, state = input_ids, None
        done = torch.zeros(len(ids), dtype=torch.bool, device=ids.device)
        for _ in range(max_new_tokens):
            output = self(ids if state is None else ids[:, -1:], state)
            scores, state = output.logits[:, -1] / temperature, output.state
            if repetition_penalty != 1:
                seen = torch.zeros_like(scores, dtype=torch.bool).scatter(1, ids, True)
                lower = torch.where(scores > 0, scores / repetition_penalty, scores * repetition_penalty)
                scores = torch.where(seen, lower, scores)
            if top_k is not None and top_k < scores.shape[-1]:
                scores = scores.masked_fill(scores < scores.topk(top_k).values[:, -1:], -torch.inf)
            if top_p is not None:
                ordered, place = scores.sort(-1, descending=True)
                # a token stays while those before it do not reach p
                beyond = ordered.softmax(-1).cumsum(-1) - ordered.softmax(-1) >= top_p
                scores = scores.masked_fill(beyond.scatter(1, place, beyond), -torch.inf)
            if do_sample:
                token = torch.multinomial(scores.softmax(-1), 1, generator=generator)
            else:
                token = scores.argmax(-1, keepdim=True)
            if eos_token_id is not None and fill is not None:
                token = torch.where(done[:, None], fill, token)
                done = done | (token[:, 0] == eos_token_id)
            ids = torch.cat([ids, token], 1)
            if bool(done.all()):
                break
        return ids


def set_eigenvalue_range(model: nn.Module, lo: Number, hi: Number) -> int:
    """Give every linear recurrence of a model another range, in place; weights and their number stay.

    What `save_pretrained` writes afterwards has the new range; a bare `state_dict` has none.

    Returns:
        the number of layers changed.

    Raises:
        ValueError: unless -1 <= lo < hi <= 1; a model without such a layer.
    """
    check_eig_range((lo, hi))  # before any layer is changed
    layers = [module for module in model.modules() if isinstance(module, LinearRNN)]
    if not layers:
        raise ValueError(f"model must have a layer with an eigenvalue range, {type(model).__name__} has none")
    for layer in layers:
        layer.eig_range = (lo, hi)
    return len(layers)
