"""Graphs that carry labels: class nodes joined to labelled nodes, or labels beside the features (section 3.1)."""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

__all__ = ["AugmentedGraph", "LabelAppender", "VirtualNodeAugmenter", "side_by_side", "wrong_classes"]

Direction = Literal["both", "to class"]


@dataclass(frozen=True)
class AugmentedGraph:
    """n nodes, then one for each of K classes."""

    x: Float[Tensor, "all d"]
    edge_index: Int[Tensor, "2 e"]
    n: int
    """real nodes: rows from n on are the class nodes"""


def _generator(seed: int | torch.Generator) -> torch.Generator:
    return seed if isinstance(seed, torch.Generator) else torch.Generator().manual_seed(seed)


def _checked(classes: Tensor, n_classes: int, where: str = "") -> Tensor:
    if len(classes) and not 0 <= int(classes.min()) <= int(classes.max()) < n_classes:
        raise ValueError(f"y must be from 0 to {n_classes - 1}{where}, got {classes.min()} to {classes.max()}")
    return classes


class VirtualNodeAugmenter:
    """A node for each class, with features drawn once from N(0, 1), joined to the nodes whose class is known.

    Args:
        direction: "both", or "to class": only from labelled nodes to their class.
    """

    def __init__(
        self, n_classes: int, n_features: int, *, direction: Direction = "both", seed: int | torch.Generator = 0
    ) -> None:
        if n_classes < 2:
            raise ValueError(f"n_classes must be at least 2, got {n_classes}")
        if direction not in ("both", "to class"):
            raise ValueError(f"direction must be 'both' or 'to class', got {direction!r}")
        self.n_classes, self.direction = n_classes, direction
        self.features = torch.randn(n_classes, n_features, generator=_generator(seed))

    def __call__(
        self, x: Float[Tensor, "n d"], edge_index: Int[Tensor, "2 e"], y: Int[Tensor, "n"], mask: Bool[Tensor, "n"]
    ) -> AugmentedGraph:
        """The graph with class nodes n to n + K - 1; nodes in `mask` are joined to node n + y."""
        return AugmentedGraph(
            torch.cat([x, self.features.to(x)]), torch.cat([edge_index, self.edges(y, mask)], 1), len(x)
        )

    def edges(self, y: Int[Tensor, "n"], mask: Bool[Tensor, "n"]) -> Int[Tensor, "2 added"]:
        """The edges that are added: one each way, or one."""
        n = len(y)
        real = torch.arange(n, device=y.device)[mask]
        classes = _checked(y[mask], self.n_classes, " where mask holds")
        forth = torch.stack([real, n + classes])
        return forth if self.direction == "to class" else torch.cat([forth, forth.flip(0)], 1)


class LabelAppender:
    """One-hot labels beside the features; where a label is unknown 1/K for each class, or zeros.

    Args:
        unlabelled: "uniform" or "zeros".
    """

    def __init__(self, n_classes: int, *, unlabelled: Literal["uniform", "zeros"] = "uniform") -> None:
        if unlabelled not in ("uniform", "zeros"):
            raise ValueError(f"unlabelled must be 'uniform' or 'zeros', got {unlabelled!r}")
        self.n_classes, self.unlabelled = n_classes, unlabelled

    def labels(self, y: Int[Tensor, "n"], mask: Bool[Tensor, "n"]) -> Float[Tensor, "n classes"]:
        """What is put beside the features."""
        fill = 1 / self.n_classes if self.unlabelled == "uniform" else 0.0
        made = torch.full((len(y), self.n_classes), fill, device=y.device)
        made[mask] = torch.nn.functional.one_hot(
            _checked(y[mask], self.n_classes, " where mask holds"), self.n_classes
        ).to(made)
        return made

    def __call__(
        self, x: Float[Tensor, "n d"], y: Int[Tensor, "n"], mask: Bool[Tensor, "n"]
    ) -> Float[Tensor, "n wider"]:
        """Features, then labels."""
        return torch.cat([x, self.labels(y, mask).to(x)], 1)


def wrong_classes(y: Int[Tensor, "n"], n_classes: int, seed: int | torch.Generator = 0) -> Int[Tensor, "n others"]:
    """The K - 1 wrong classes of each node, in a random order of its own. Where y is -1 the row means nothing."""
    order = torch.rand(len(y), n_classes, generator=_generator(seed)).to(y.device)
    order.scatter_(1, _checked(y.clamp(min=0), n_classes).unsqueeze(1), 2.0)
    return order.argsort(1)[:, :-1]


def side_by_side(edge_indices: list[Tensor], n: int) -> Int[Tensor, "2 all"]:
    """Graphs of n nodes each as one graph without edges between them, nodes of the second from n on."""
    return torch.cat([edges + i * n for i, edges in enumerate(edge_indices)], 1)
