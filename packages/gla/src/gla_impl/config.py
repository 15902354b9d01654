"""The shape of a language model; no torch here, so that a command line can build one without waiting."""

import math
from dataclasses import dataclass
from typing import Literal, get_args

__all__ = ["GATES", "MIXERS", "GLAConfig", "Gate", "Mixer", "Variant", "swiglu_width"]

Gate = Literal["vector", "scalar", "fixed", "none", "outer"]
Mixer = Literal["gla", "attention", "retention", "selective_ssm"]
Variant = Literal["fla", "paper"]

GATES: tuple[Gate, ...] = get_args(Gate)
MIXERS: tuple[Mixer, ...] = get_args(Mixer)


def swiglu_width(d_model: int) -> int:
    """Hidden width of the feed-forward network: 8 d / 3 rounded up to a multiple of 256."""
    return 256 * math.ceil(8 * d_model / 3 / 256)


@dataclass(frozen=True)
class GLAConfig:
    """A causal language model: embedding, `n_layers` blocks of mixer and SwiGLU, final norm, untied head.

    The paper's baselines are the same skeleton with another `mixer`, so one class trains, saves and generates all.
    The defaults of everything but the sizes are the paper's.
    """

    vocab_size: int
    d_model: int = 256
    n_layers: int = 4
    n_heads: int = 4
    mixer: Mixer = "gla"
    """gla, or a baseline: attention (Transformer++), retention (RetNet), selective_ssm (Mamba)"""
    gate: Gate = "vector"
    """of the gla mixer: vector is the paper's; scalar, fixed, none and outer are its ablations"""
    variant: Variant = "fla"
    """of the gla mixer: fla (RMSNorm with weights, q scaled) or paper (LayerNorm without weights, k scaled)"""
    expand_k: float = 0.5
    """total key width over d_model (gla and retention)"""
    expand_v: float = 1.0
    """total value width over d_model (gla and retention)"""
    gate_rank: int = 16
    """width of the low-rank projection that gives the gate"""
    tau: float = 16.0
    """the gate is sigmoid(.)^(1/tau): larger means slower forgetting at the start of training"""
    ffn_width: int | None = None
    """hidden width of the SwiGLU; None is 8 d / 3 rounded up to a multiple of 256, 0 leaves the network out"""
    ssm_state: int = 16
    """states per channel of the selective SSM"""
    ssm_width: int | None = None
    """channels of the selective SSM; None is 2 d_model"""
    norm_eps: float = 1e-5

    def __post_init__(self) -> None:
        for name in ("vocab_size", "d_model", "n_layers", "n_heads", "gate_rank", "ssm_state"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.mixer not in MIXERS:
            raise ValueError(f"mixer must be one of {', '.join(MIXERS)}, got {self.mixer!r}")
        if self.gate not in GATES:
            raise ValueError(f"gate must be one of {', '.join(GATES)}, got {self.gate!r}")
        if self.variant not in get_args(Variant):
            raise ValueError(f"variant must be fla or paper, got {self.variant!r}")
        if self.ffn_width is not None and self.ffn_width < 0:
            raise ValueError(f"ffn_width must not be negative, got {self.ffn_width}")

    @property
    def feedforward_width(self) -> int:
        """The SwiGLU's hidden width with the default filled in."""
        return swiglu_width(self.d_model) if self.ffn_width is None else self.ffn_width

    @property
    def ssm_channels(self) -> int:
        """The selective SSM's channels with the default filled in."""
        return 2 * self.d_model if self.ssm_width is None else self.ssm_width
