"""Configurations: which mixer stands in which layer, and the sizes of the paper."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

__all__ = [
    "BASED_1_3B",
    "BASED_360M",
    "JRT_1_3B",
    "JRT_360M",
    "JRTConfig",
    "LayerType",
    "check_layers",
    "hybrid_layers",
]

LayerType = Literal["conv", "short_conv", "pla", "based", "window", "attention", "gla", "ssm"]

_PLA = {26: (1, 6, 11, 16, 21), 36: (1, 6, 11, 16, 21, 27, 33)}


def hybrid_layers(n_layers: int, attention: LayerType = "pla", at: tuple[int, ...] | None = None) -> list[str]:
    """Gated convolutions everywhere, linear attention at the given layers and a sliding window right after each.

    Raises:
        ValueError: if a place leaves no room for the window.
    """
    at = _PLA.get(n_layers, tuple(range(1, n_layers - 1, 5))) if at is None else at
    layers = ["conv"] * n_layers
    for place in at:
        if not 0 <= place < n_layers - 1:
            raise ValueError(f"at must lie in 0..{n_layers - 2}, got {place}")
        layers[place], layers[place + 1] = attention, "window"
    return layers


def check_layers(layers: Sequence[str]) -> None:
    """Refuse what is no mixer.

    Raises:
        ValueError: if there is no layer, or one has an unknown name.
    """
    if not layers:
        raise ValueError("layers must name at least one mixer, got none")
    for layer in layers:
        if layer not in get_args(LayerType):
            raise ValueError(f"layers must be among {', '.join(get_args(LayerType))}, got {layer!r}")


@dataclass(frozen=True, kw_only=True)
class JRTConfig:
    """All that makes a `JRTForCausalLM`; the values are checked where the model is built.

    The default vocabulary is the authors': GPT-2's 50,257 with room for the mask id 50,263, in multiples of 8.
    """

    vocab_size: int = 50_264
    d_model: int = 64
    n_heads: int = 2
    layers: tuple[str, ...] = tuple(hybrid_layers(8))
    """the mixer of each layer: conv, short_conv, pla, based, window, attention (full), gla, ssm"""
    prefix_len: int | None = None
    """M; None makes all of a prompt the prefix"""
    feature_dim: int = 16
    """d'"""
    window: int = 256
    """tokens a sliding window sees, the token itself among them"""
    inner: int | None = None
    """width of the SwiGLU; None: 2 d_model, the paper's; 0: no SwiGLU"""
    mask_token_id: int | None = None
    symmetric: bool = False
    """merge the symmetric part of the feature map: the same outputs from a smaller state"""
    projections: Literal["own", "shared"] = "own"
    """whether the prefix has its own keys and values; the paper's synthetic code shares them"""
    conv_bias: bool = False
    init_std: float = 0.02
    """of linear maps and embeddings; those that end a branch are divided by sqrt(2 layers)"""
    compat: Literal["paper", "official"] = "paper"

    def __post_init__(self) -> None:
        object.__setattr__(self, "layers", tuple(self.layers))
        check_layers(self.layers)


_LM: dict[str, Any] = {"mask_token_id": 50_263, "n_heads": 16, "prefix_len": 1024, "window": 129}
# `window` counts the token itself: the authors' window_size 256 reaches 128 back
JRT_360M = JRTConfig(**_LM, d_model=1024, layers=tuple(hybrid_layers(26)))
BASED_360M = JRTConfig(**_LM, d_model=1024, layers=tuple(hybrid_layers(26, "based")))
JRT_1_3B = JRTConfig(**_LM, d_model=1792, layers=tuple(hybrid_layers(36)))
BASED_1_3B = JRTConfig(**_LM, d_model=1792, layers=tuple(hybrid_layers(36, "based")))
