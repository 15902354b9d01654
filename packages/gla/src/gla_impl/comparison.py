"""The models that the paper compares, at equal size."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch

from gla_impl.config import GLAConfig
from gla_impl.model import GLAForCausalLM

__all__ = ["MODELS", "comparison_config"]


@dataclass(frozen=True)
class _Model:
    """How a baseline differs from a GLA model, and the width that brings it to the same size."""

    change: Callable[[GLAConfig], dict[str, Any]]
    free_width: str = "ffn_width"


MODELS: dict[str, _Model] = {
    "gla": _Model(lambda c: {"gate": "vector"}),
    "gla-scalar": _Model(lambda c: {"gate": "scalar"}),
    "gla-fixed": _Model(lambda c: {"gate": "fixed"}),
    "gla-outer": _Model(lambda c: {"gate": "outer"}),
    "linear-attention": _Model(lambda c: {"gate": "none"}),
    "transformer++": _Model(lambda c: {"mixer": "attention"}),
    "retnet": _Model(lambda c: {"mixer": "retention", "expand_k": 1.0, "expand_v": 2.0}),
    # Mamba has no feed-forward network but twice the layers
    "mamba": _Model(lambda c: {"mixer": "selective_ssm", "n_layers": 2 * c.n_layers, "ffn_width": 0}, "ssm_width"),
}


def comparison_config(name: str, like: GLAConfig) -> GLAConfig:
    """The configuration of a baseline with as many parameters as `like` (within about 1 %).

    Embedding, depth and d_model stay (Mamba has twice the layers and no feed-forward network); the width of the
    feed-forward network, for Mamba the channels of the SSM, is what makes the sizes equal. Nothing changes for a
    model of exactly the same size, and a model without feed-forward network (`ffn_width=0`) is left as it comes.

    Args:
        name: a key of `MODELS`.
        like: a model with the gla mixer.

    Raises:
        ValueError: if the name is unknown.
    """
    if name not in MODELS:
        raise ValueError(f"model must be one of {', '.join(MODELS)}, got {name!r}")
    baseline = MODELS[name]
    config = replace(like, **baseline.change(like))
    if config == like:
        return like
    if baseline.free_width == "ffn_width" and like.feedforward_width == 0:
        return config

    def size(candidate: GLAConfig) -> int:
        with torch.device("meta"):
            return sum(p.numel() for p in GLAForCausalLM(candidate).parameters())

    wanted = size(like)

    def with_width(width: int) -> GLAConfig:
        options: dict[str, Any] = {baseline.free_width: width}
        return replace(config, **options)

    # parameters grow linearly with the width, so two sizes give the line
    small, large = size(with_width(8)), size(with_width(16))
    width = 8 + 8 * (wanted - small) / (large - small)
    return with_width(max(8, 8 * round(width / 8)))
