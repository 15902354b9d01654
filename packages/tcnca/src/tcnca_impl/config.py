"""Settings: of a mixer, of a layer, of a stack of layers, and of the two models; each written once, checked once."""

from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

__all__ = [
    "ARCHITECTURES",
    "MIXERS",
    "ClassifierConfig",
    "LMConfig",
    "LayerConfig",
    "MixerConfig",
    "StackConfig",
]

AttentionFunction = Literal["softmax", "laplace", "relu2"]
RelativeBias = Literal["simple", "rotary", "none"]
MIXERS = ("tcn", "ema", "s4d", "none")
NORMS = ("layernorm", "scalenorm", "rmsnorm", "batchnorm", "none")
ACTIVATIONS = ("silu", "gelu", "relu", "tanh", "none")
ARCHITECTURES = ("tcnca", "mega", "mega-s4d", "chunk", "tcn-mlp", "ema-mlp", "simple", "simple-ema", "simple-none",
                 "transformer", "lstm")  # fmt: skip
"""TCNCA; MEGA; MEGA with S4D; MEGA without mixer; no attention; the simple layer with and without mixer; baselines."""


@dataclass(frozen=True, kw_only=True)
class MixerConfig:
    """Of the TCN (kernel K, dilation f^i, depth D) and of the averages that it is compared with."""

    kernel: int = 17
    dilation_factor: int = 8
    depth: int = 4
    convs_per_block: int = 1
    activation: str = "silu"
    """of the TCN"""
    groups: int | None = None
    """of the TCN's convolutions; None: depthwise, as in the paper"""
    n_states: int = 16
    """of the average and of S4D"""
    truncation: int | None = None
    """longest kernel of the average; None: the length"""
    norm: str = "layernorm"
    """of the TCN, and of the layer around it"""
    bidirectional: bool = False

    def __post_init__(self) -> None:
        self._at_least_one("kernel", "dilation_factor", "depth", "convs_per_block", "groups", "n_states", "truncation")
        self._among("norm", NORMS)
        self._among("activation", ACTIVATIONS)

    def _at_least_one(self, *names: str) -> None:
        for name in names:
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise ValueError(f"{name} must be an integer of at least 1, got {value!r}")

    def _among(self, name: str, allowed: tuple[str, ...]) -> None:
        if getattr(self, name) not in allowed:
            raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {getattr(self, name)!r}")

    def only(self, kind: type) -> dict[str, Any]:
        """The settings that a wider or narrower kind of this family has too."""
        names = {field.name for field in fields(kind)}
        return {field.name: getattr(self, field.name) for field in fields(self) if field.name in names}


@dataclass(frozen=True, kw_only=True)
class LayerConfig(MixerConfig):
    """Of MEGA's gated attention over chunks, whatever its mixer."""

    z: int | None = None
    """width of queries and keys; None: a quarter of d_model, even"""
    h: int | None = None
    """width of values; None: 2 d_model"""
    chunk: int = 128
    attn_fn: AttentionFunction = "softmax"
    rel_bias: RelativeBias = "rotary"
    prenorm: bool = True
    dropout: float | int = 0.0
    attention_dropout: float | int = 0.0
    hidden_dropout: float | int = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self._at_least_one("z", "h", "chunk")
        self._among("attn_fn", get_args(AttentionFunction))
        self._among("rel_bias", get_args(RelativeBias))
        for name in ("dropout", "attention_dropout", "hidden_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be from 0 to below 1, got {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True)
class StackConfig(LayerConfig):
    """Of layers one upon the other, each with its feed-forward part."""

    architecture: str = "tcnca"
    d_model: int = 128
    n_layers: int = 4
    ffn: int = 256

    def __post_init__(self) -> None:
        super().__post_init__()
        self._at_least_one("d_model", "n_layers", "ffn")
        self._among("architecture", ARCHITECTURES)
        if self.bidirectional and (self.architecture == "lstm" or self.architecture.startswith("simple")):
            raise ValueError(f"architecture {self.architecture} has no bidirectional form")


@dataclass(frozen=True, kw_only=True)
class LMConfig(StackConfig):
    """Of `TCNCAForCausalLM`; bytes by default."""

    vocab_size: int = 256

    def __post_init__(self) -> None:
        super().__post_init__()
        self._at_least_one("vocab_size")
        if self.bidirectional:
            raise ValueError("bidirectional must be False for a causal language model, got True")


@dataclass(frozen=True, kw_only=True)
class ClassifierConfig(StackConfig):
    """Of `TCNCAClassifier`: MEGA's encoder of the Long Range Arena."""

    d_model: int = 64
    n_layers: int = 2
    ffn: int = 128
    bidirectional: bool = True
    """both directions, and attention without a causal mask"""
    n_classes: int = 10
    vocab_size: int | None = 256
    """of tokens; None: inputs are vectors of `in_features`"""
    in_features: int | None = None
    pool: Literal["mean", "last"] = "mean"
    """mean over what is not padding, or the last position"""
    head_width: int | None = None
    """of a layer between the pooled features and the classes (MEGA: 2 d_model); None: there is none"""
    pairs: bool = False
    """two sequences in, their features side by side (the Retrieval task)"""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._at_least_one("vocab_size", "in_features", "head_width")
        self._among("pool", ("mean", "last"))
        if (self.vocab_size is None) == (self.in_features is None):
            raise ValueError(f"give either vocab_size or in_features, got {self.vocab_size} and {self.in_features}")
        if self.n_classes < 2:
            raise ValueError(f"n_classes must be at least 2, got {self.n_classes}")
