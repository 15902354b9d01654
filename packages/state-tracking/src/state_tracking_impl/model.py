"""A stack of layers over tokens: for the formal languages and for text."""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from shared_impl.pretrained import Pretrained

from .baselines import LSTM, SLSTM, Attention
from .checks import Number, check_eig_range, check_positive, check_token_ids
from .layers import DeltaNet, FullMatrixRNN, GLALayer, LinearRNN, Mamba

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
        eig_range: of the linear recurrences; baselines have none.
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
        eig_range: Sequence[Number] = (-1.0, 1.0),
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
        if ffn_ratio < 0:
            raise ValueError(f"ffn_ratio must not be negative, got {ffn_ratio}")
        self.vocab_size = vocab_size
        self.embedding = nn.Embedding(vocab_size, d_model)

        def layer() -> nn.Module:
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

        self.blocks = nn.ModuleList([Block(layer(), d_model, ffn_ratio) for _ in range(n_layers)])
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
        if targets is not None and targets.shape != input_ids.shape:
            raise ValueError(f"targets must be {tuple(input_ids.shape)}, got {tuple(targets.shape)}")
        x = self.embedding(input_ids)
        after = []
        for i, block in enumerate(self.blocks):
            x, last = block(x, None if state is None else state[i])
            after.append(last)
        logits = self.lm_head(self.norm(x))
        loss = None if targets is None else F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())
        return Output(logits, loss, tuple(after))

    def step(
        self, token: Int[Tensor, " batch"], state: tuple[Any, ...] | None = None
    ) -> tuple[Float[Tensor, "batch vocab"], tuple[Any, ...]]:
        """Read one token a row."""
        output = self(token[:, None], state)
        return output.logits[:, 0], output.state

    def generate(
        self,
        input_ids: Int[Tensor, "batch length"],
        *,
        max_new_tokens: int = 100,
        do_sample: bool = False,
        temperature: float = 1.0,
        top_k: int | None = None,
        eos_token_id: int | None = None,
        generator: torch.Generator | None = None,
    ) -> Int[Tensor, "batch longer"]:
        """The prompt and what the model adds: the most probable token each time, or a drawn one.

        Raises:
            ValueError: an option out of range.
        """
        if max_new_tokens < 0:
            raise ValueError(f"max_new_tokens must not be negative, got {max_new_tokens}")
        if not temperature > 0:
            raise ValueError(f"temperature must be positive, got {temperature}")
        if top_k is not None and top_k < 1:
            raise ValueError(f"top_k must be at least 1, got {top_k}")
        tokens = [input_ids]
        done = torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)
        with torch.no_grad():
            output = self(input_ids)
            logits, state = output.logits[:, -1], output.state
            for count in range(max_new_tokens):
                if count:
                    logits, state = self.step(tokens[-1][:, 0], state)
                scores = logits / temperature
                if top_k is not None and top_k < scores.shape[-1]:
                    scores = scores.masked_fill(scores < scores.topk(top_k).values[:, -1:], -torch.inf)
                if do_sample:
                    token = torch.multinomial(scores.softmax(-1), 1, generator=generator)
                else:
                    token = scores.argmax(-1, keepdim=True)
                if eos_token_id is not None:
                    token = torch.where(done[:, None], eos_token_id, token)
                    done = done | (token[:, 0] == eos_token_id)
                tokens.append(token)
                if bool(done.all()):
                    break
        return torch.cat(tokens, 1)


def set_eigenvalue_range(model: nn.Module, lo: Number, hi: Number) -> int:
    """Give every linear recurrence of a model another range, in place; weights and their number stay.

    What `save_pretrained` writes afterwards has the new range.

    Returns:
        the number of layers changed.

    Raises:
        ValueError: unless -1 <= lo < hi <= 1; a model without such a layer.
    """
    check_eig_range((lo, hi))
    layers = [module for module in model.modules() if isinstance(module, LinearRNN)]
    if not layers:
        raise ValueError(f"model must have a layer with an eigenvalue range, {type(model).__name__} has none")
    for layer in layers:
        layer.eig_range = (lo, hi)
    config = getattr(model, "_hub_mixin_config", None)
    if isinstance(config, dict):
        config["eig_range"] = [float(lo), float(hi)]
    return len(layers)
