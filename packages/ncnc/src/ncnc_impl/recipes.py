"""The settings of the official code, by data set (its README), in this package's names."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ncnc_impl.predictor import Variant

__all__ = ["RECIPES", "Recipe"]


@dataclass(frozen=True)
class Recipe:
    """How one data set is trained on.

    Attributes:
        model: arguments of `NCN`, without its input width and variant.
        training: arguments of `train_links`.
        completion: further arguments of `NCN` for variants that complete.
        from_ncn: what replaces `training` for variants that complete, where those start from the weights of a trained
            NCN whose encoder is then frozen.
        completes_embeddings: in that second stage the encoder is replaced by a linear layer on NCN's node vectors.
        extra_categories: rows of the embedding beyond the largest category (the official ddi model has one).
        metric: what the benchmark counts.
    """

    model: Mapping[str, Any]
    training: Mapping[str, Any]
    completion: Mapping[str, Any]
    metric: str
    from_ncn: Mapping[str, Any] | None = None
    from_ncn_model: Mapping[str, Any] = field(default_factory=dict)
    completes_embeddings: bool = False
    extra_categories: int = 0

    def model_options(self, variant: Variant, **changes: Any) -> dict[str, Any]:
        """Arguments of `NCN` for a variant.

        As in the official code, the plain GAE head keeps its last linear layers and has one output layer.
        """
        options = {**self.model, "variant": variant}
        if variant in ("ncnc", "gae_cnc"):
            options |= self.completion
        if variant == "gae":
            options |= {"tail_act": False, "two_layer_out": False}
        return options | changes

    def scaled(self, *, epochs: int) -> "Recipe":
        """The same recipe with fewer epochs."""
        return replace(self, training={**self.training, "epochs": epochs})


def _planetoid(
    *,
    x_dropout: float,
    tail_dropout: float,
    encoder_dropout: float,
    edge_dropout: float,
    dropout: float,
    encoder_lr: float,
    head_lr: float,
    batch_size: int,
    completion: tuple[float, float, float, float],
    two_layer_out: bool = False,
    eval_batch_size: int = 8192,
) -> Recipe:
    scale, offset, pt, alpha = completion
    return Recipe(
        model={
            "hidden": 256,
            "conv": "puregcn",
            "n_layers": 1,
            "jumping": True,
            "x_dropout": x_dropout,
            "tail_dropout": tail_dropout,
            "encoder_dropout": encoder_dropout,
            "edge_dropout": edge_dropout,
            "dropout": dropout,
            "transform_nodes": True,
            "tail_act": True,
            "two_layer_out": two_layer_out,
        },
        training={
            "epochs": 100,
            "batch_size": batch_size,
            "encoder_lr": encoder_lr,
            "head_lr": head_lr,
            "eval_batch_size": eval_batch_size,
        },
        completion={"scale": scale, "offset": offset, "pt": pt, "alpha": alpha},
        metric="hits@100",
    )


RECIPES: Mapping[str, Recipe] = {
    "cora": _planetoid(
        x_dropout=0.7,
        tail_dropout=0.3,
        encoder_dropout=0.05,
        edge_dropout=0.4,
        dropout=0.05,
        encoder_lr=0.0043,
        head_lr=0.0024,
        batch_size=1152,
        completion=(4.3, 2.8, 0.75, 1.0),
    ),
    "citeseer": _planetoid(
        x_dropout=0.4,
        tail_dropout=0.0,
        encoder_dropout=0.75,
        edge_dropout=0.0,
        dropout=0.55,
        encoder_lr=0.0085,
        head_lr=0.0078,
        batch_size=384,
        completion=(6.5, 4.4, 0.75, 0.4),
        two_layer_out=True,
        eval_batch_size=4096,
    ),
    "pubmed": _planetoid(
        x_dropout=0.3,
        tail_dropout=0.0,
        encoder_dropout=0.1,
        edge_dropout=0.0,
        dropout=0.05,
        encoder_lr=0.0097,
        head_lr=0.002,
        batch_size=2048,
        completion=(5.3, 0.5, 0.5, 0.3),
    ),
    "collab": Recipe(
        model={
            "hidden": 64,
            "conv": "gcn",
            "n_layers": 1,
            "residual": True,
            "encoder_edge_dropout": 0.25,
            "x_dropout": 0.25,
            "tail_dropout": 0.05,
            "encoder_dropout": 0.1,
            "dropout": 0.3,
            "transform_nodes": True,
            "tail_act": True,
        },
        training={
            "epochs": 100,
            "batch_size": 65536,
            "encoder_lr": 0.0082,
            "head_lr": 0.0037,
            "eval_batch_size": 131072,
            "monitor": "valid_hits@50",
        },
        completion={"scale": 2.5, "offset": 6.0, "pt": 0.1, "alpha": 1.05},
        metric="hits@50",
    ),
    "ppa": Recipe(
        model={
            "hidden": 64,
            "conv": "gcn",
            "n_layers": 3,
            "residual": True,
            "encoder_edge_dropout": 0.1,
            "dropout": 0.1,
            "transform_nodes": False,
            "tail_act": True,
        },
        training={
            "epochs": 25,
            "batch_size": 16384,
            "encoder_lr": 0.0013,
            "head_lr": 0.0013,
            "eval_batch_size": 65536,
            "monitor": "valid_hits@100",
        },
        completion={"scale": 4.0, "offset": 8.5, "pt": 0.1, "alpha": 0.9, "chunk_size": 131072},
        metric="hits@100",
    ),
    "citation2": Recipe(
        model={
            "hidden": 64,
            "conv": "puregcn",
            "n_layers": 3,
            "residual": True,
            "tail_dropout": 0.3,
            "encoder_dropout": 0.2,
            "dropout": 0.2,
            "transform_nodes": True,
            "tail_act": True,
        },
        training={
            "epochs": 20,
            "batch_size": 32768,
            "encoder_lr": 0.0088,
            "head_lr": 0.0058,
            "eval_batch_size": 65536,
            "negatives": "targets",
            "grad_clip": 1.0,
            "monitor": "valid_mrr",
        },
        completion={
            "scale": 1.4,
            "offset": -0.3,
            "pt": 0.25,
            "alpha": 1.0,
            "train_degree": 96,
            "test_degree": 96,
        },
        metric="mrr",
        from_ncn={"epochs": 20, "batch_size": 24576, "encoder_lr": 0.0088, "head_lr": 0.001},
        from_ncn_model={"conv": "none", "n_layers": 0, "tail_dropout": 0.3},
        completes_embeddings=True,
    ),
    "ddi": Recipe(
        model={
            "hidden": 224,
            "conv": "puresum",
            "n_layers": 1,
            "residual": True,
            "x_dropout": 0.05,
            "encoder_dropout": 0.4,
            "dropout": 0.6,
            "transform_nodes": True,
            "tail_act": False,
            "two_layer_out": True,
        },
        training={
            "epochs": 100,
            "batch_size": 24576,
            "encoder_lr": 0.0021,
            "head_lr": 0.0018,
            "eval_batch_size": 131072,
            "monitor": "valid_hits@20",
        },
        completion={"scale": 10.0, "offset": 3.0, "pt": 0.1, "alpha": 0.5, "chunk_size": 262144},
        metric="hits@20",
        from_ncn={"epochs": 2, "batch_size": 24576, "encoder_lr": 0.0, "head_lr": 0.0025, "eval_batch_size": 24576},
        extra_categories=1,
    ),
}
