"""The paper's training recipes under their names: `LRA["listops"]`, `LRA_V1["text"]`, `SCIFAR`, `SC10`, `WIKITEXT103`.

`LRA` holds the current recipes (the paper's updated results: bidirectional, GLU, cosine schedule), `LRA_V1` those of
the first release (unidirectional, linear mixing, schedule that waits for a plateau). Importing this needs no torch.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

__all__ = ["LRA", "LRA_V1", "PMNIST", "SC10", "SCIFAR", "SMNIST", "WIKITEXT103", "Recipe"]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How one model is trained on one task."""

    task: str
    model: Mapping[str, Any] = field(default_factory=dict)
    """arguments of `S4Model`"""
    lr: float
    ssm_lr: float = 1e-3
    """A, B, P and dt learn at min(lr, ssm_lr)"""
    dt_lr: float | None = None
    """of dt alone, where the recipe sets it apart"""
    weight_decay: float = 0.0
    batch_size: int
    epochs: int | None = None
    steps: int | None = None
    schedule: Literal["cosine", "plateau", "constant"] = "cosine"
    warmup: float = 0.1
    """share of the steps in which the learning rate rises"""
    plateau_patience: int = 10
    """epochs without improvement before the learning rate is multiplied by 0.2"""
    grad_clip: float | None = None
    """none in S4's recipes; the LSTM needs it"""
    mixed_precision: Literal["no", "bf16"] = "no"

    def __post_init__(self) -> None:
        if (self.epochs is None) == (self.steps is None):
            raise ValueError(f"a recipe has either epochs or steps, got epochs={self.epochs} and steps={self.steps}")
        object.__setattr__(self, "model", MappingProxyType(dict(self.model)))


def _current(task: str, *, lr: float, batch_size: int, epochs: int, dt_at_lr: bool = False, **model: Any) -> Recipe:
    shape = {"n_layers": 6, "norm": "batch", "bidirectional": True, "init": "legs", "n_ssm": 1, **model}
    return Recipe(
        task=task, model=shape, lr=lr, dt_lr=lr if dt_at_lr else None,
        weight_decay=0.05, batch_size=batch_size, epochs=epochs,
    )  # fmt: skip


LRA: Mapping[str, Recipe] = MappingProxyType(
    {
        "listops": _current(
            "listops", lr=0.01, batch_size=32, epochs=40, dt_at_lr=True,
            d_model=256, d_state=4, prenorm=False, dropout=0.0,
        ),
        "text": _current(
            "text", lr=0.01, batch_size=16, epochs=32, dt_at_lr=True,
            d_model=256, d_state=4, prenorm=True, dropout=0.0,
        ),
        "retrieval": _current(
            "retrieval", lr=0.01, batch_size=64, epochs=20, dt_at_lr=True,
            d_model=256, d_state=4, prenorm=True, dropout=0.0,
        ),
        "image": _current(
            "image", lr=0.01, batch_size=50, epochs=200,
            d_model=512, d_state=64, prenorm=False, dropout=0.1,
        ),
        "pathfinder": _current(
            "pathfinder", lr=0.004, batch_size=64, epochs=200,
            d_model=256, d_state=64, prenorm=True, dropout=0.0, n_ssm=None,
        ),
        "pathx": _current(
            "pathx", lr=0.001, batch_size=16, epochs=50,
            d_model=256, d_state=64, prenorm=True, dropout=0.0, n_ssm=None, dt_min=1e-4,
        ),
    }
)  # fmt: skip


def _v1(
    task: str, *, lr: float, batch_size: int, epochs: int, patience: int, weight_decay: float = 0.0, **model: Any
) -> Recipe:
    shape = {"n_layers": 6, "norm": "batch", "version": "v1", "init": "legs", "n_ssm": 1, **model}
    return Recipe(
        task=task, model=shape, lr=lr, weight_decay=weight_decay, batch_size=batch_size, epochs=epochs,
        schedule="plateau", plateau_patience=patience,
    )  # fmt: skip


LRA_V1: Mapping[str, Recipe] = MappingProxyType(
    {
        "listops": _v1(
            "listops", lr=0.01, batch_size=50, epochs=50, patience=5, weight_decay=0.01,
            d_model=128, prenorm=False, dropout=0.0,
        ),
        "text": _v1(
            "text", lr=0.01, batch_size=50, epochs=40, patience=10,
            n_layers=4, d_model=128, prenorm=True, dropout=0.0, pooling="last",
        ),
        "retrieval": _v1(
            "retrieval", lr=0.002, batch_size=64, epochs=25, patience=20,
            d_model=256, prenorm=True, dropout=0.0,
        ),
        "image": _v1(
            "image", lr=0.004, batch_size=50, epochs=100, patience=10, weight_decay=0.01,
            d_model=512, prenorm=False, dropout=0.2,
        ),
        "pathfinder": _v1(
            "pathfinder", lr=0.004, batch_size=100, epochs=200, patience=10,
            d_model=256, prenorm=True, dropout=0.1, pooling="last",
        ),
        "pathx": _v1(
            "pathx", lr=0.0005, batch_size=32, epochs=100, patience=40,
            d_model=256, prenorm=True, dropout=0.0,
        ),
    }
)  # fmt: skip

SCIFAR = Recipe(
    task="scifar",
    model={"n_layers": 6, "d_model": 512, "dropout": 0.1, "prenorm": False, "norm": "layer", "n_ssm": 2},
    lr=0.01, weight_decay=0.05, batch_size=50, epochs=200, warmup=0.005,
)  # fmt: skip

SMNIST = Recipe(
    task="mnist",
    model={"n_layers": 6, "d_model": 512, "dropout": 0.1, "prenorm": False, "norm": "layer", "n_ssm": 2},
    lr=0.01, weight_decay=0.05, batch_size=50, epochs=100, warmup=0.01,
)  # fmt: skip
"""sCIFAR's recipe: the paper gives none for pixel MNIST beyond the size of the model."""

PMNIST = Recipe(
    task="pmnist", model=SMNIST.model, lr=0.01, weight_decay=0.05, batch_size=50, epochs=100, warmup=0.01
)  # fmt: skip

SC10 = Recipe(
    task="sc10",
    model={
        "n_layers": 6, "d_model": 128, "dropout": 0.1, "norm": "batch", "prenorm": True, "version": "v1", "n_ssm": 1
    },
    lr=0.01, batch_size=20, epochs=200, schedule="plateau", plateau_patience=20,
)  # fmt: skip

WIKITEXT103 = Recipe(
    task="wikitext103",
    model={
        "n_layers": 16, "d_model": 1024, "dropout": 0.25, "tie_dropout": False, "prenorm": True, "norm": "layer",
        "task": "lm", "block": ("s4", "s4", "ff"), "n_ssm": 1, "dropout_embedding": 0.25,
        "adaptive_cutoffs": (19_997, 39_997, 199_997),
    },
    lr=5e-4, ssm_lr=5e-4, weight_decay=0.1, batch_size=8, steps=800_000, warmup=1000 / 800_000, mixed_precision="bf16",
)  # fmt: skip
