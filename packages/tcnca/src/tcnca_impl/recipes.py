"""The paper's configurations by name: the EnWik8 model and the Long Range Arena (appendix D; MEGA's scripts)."""

from dataclasses import dataclass
from typing import Generic, TypeVar

from .config import ClassifierConfig, LMConfig
from .tcn import tcn_for_length

__all__ = ["ENWIK8", "LRA", "Recipe"]


Config = TypeVar("Config", ClassifierConfig, LMConfig)


@dataclass(frozen=True)
class Recipe(Generic[Config]):
    """Settings of the model and how to train it: Adam (0.9, 0.98), linear warm-up and linear decay."""

    model: Config
    length: int
    lr: float
    weight_decay: float
    batch: int
    steps: int
    warmup: int
    grad_clip: float = 1.0


def _lra(length: int, layers: int, d: int, z: int, attn_fn: str, norm: str, **settings: object) -> ClassifierConfig:
    """MEGA's sizes; the TCN's shape was not published: kernel 17, depth 4, and the factor that reaches the length."""
    images = norm == "batchnorm"
    # an image is read as grey values, a text as bytes with 0 for padding
    inputs: dict[str, object] = {"vocab_size": None, "in_features": 1} if images else {"vocab_size": 257}
    return ClassifierConfig(**{
        "n_layers": layers, "d_model": d, "h": 2 * d, "ffn": 2 * d, "z": z, "attn_fn": attn_fn, "norm": norm,
        "prenorm": images, "chunk": 128, "rel_bias": "simple", "dropout": 0.0 if images else 0.1, "truncation": 1024,
        "dilation_factor": tcn_for_length(length), "n_classes": 2, "head_width": 2 * d, **inputs, **settings,
    })  # type: ignore[arg-type]  # fmt: skip


LRA: dict[str, Recipe[ClassifierConfig]] = {
    "listops": Recipe(
        _lra(2000, 6, 80, 64, "softmax", "layernorm", vocab_size=16, n_classes=10),
        2000, 1e-3, 0.01, 64, 90_000, 3_000,
    ),
    "text": Recipe(_lra(4000, 4, 128, 64, "softmax", "scalenorm"), 4000, 4e-3, 0.01, 50, 25_000, 10_000),
    "retrieval": Recipe(
        _lra(4000, 6, 128, 64, "softmax", "scalenorm", pairs=True), 4000, 3e-3, 0.04, 64, 91_960, 10_000
    ),
    "image": Recipe(
        _lra(1024, 8, 160, 96, "laplace", "batchnorm", n_classes=10), 1024, 1e-2, 0.02, 50, 180_000, 9_000
    ),
    "pathfinder": Recipe(_lra(1024, 6, 128, 64, "laplace", "batchnorm"), 1024, 1e-2, 0.01, 128, 250_000, 50_000),
    "path-x": Recipe(
        _lra(16_384, 4, 64, 32, "laplace", "batchnorm", chunk=4096, truncation=4096),
        16_384, 1e-2, 0.01, 128, 125_000, 25_000,
    ),
}  # fmt: skip

ENWIK8 = Recipe(
    LMConfig(n_layers=12, d_model=512, h=1024, ffn=1024, z=128, chunk=2048, dropout=0.1),
    8192, 5e-3, 0.2, 8, 400_000, 24_000, 0.25,
)  # fmt: skip
"""250 epochs in the paper, windows of 2, 3 or 4 chunks (`length` is the longest), tested with chunks of 4096 and
windows of 3; batch, steps and warm-up are MEGA's, unconfirmed for TCNCA."""
