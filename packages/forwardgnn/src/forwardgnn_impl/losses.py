"""Goodness and losses of one layer: forward-forward (equation 3), single-forward (equation 6), links (equation 9)."""

from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

__all__ = ["ff_loss", "goodness", "link_logits", "link_loss", "sf_logits", "sf_loss"]

Reduction = Literal["sum", "mean"]


def goodness(y: Float[Tensor, "*rows d"], theta: float = 2.0, reduction: Reduction = "sum") -> Float[Tensor, "*rows"]:
    """The sum (training) or mean (the official code's prediction) of squares over features, minus theta."""
    if reduction not in ("sum", "mean"):
        raise ValueError(f"reduction must be 'sum' or 'mean', got {reduction!r}")
    squares = y.square()
    return (squares.sum(-1) if reduction == "sum" else squares.mean(-1)) - theta


def ff_loss(
    positive: Float[Tensor, "n d"], negative: Float[Tensor, "negatives m d"], theta: float = 2.0
) -> Float[Tensor, ""]:
    """log(1 + e^-g) over positive rows, plus the mean over negatives of log(1 + e^g): each a mean over its rows."""
    g, h = goodness(positive, theta), goodness(negative, theta)
    return binary_cross_entropy_with_logits(g, torch.ones_like(g)) + binary_cross_entropy_with_logits(
        h, torch.zeros_like(h)
    )


def sf_logits(nodes: Float[Tensor, "n d"], classes: Float[Tensor, "k d"], tau: float = 1.0) -> Float[Tensor, "n k"]:
    """Inner products of nodes and class nodes over the temperature."""
    return nodes @ classes.T / tau


def sf_loss(
    nodes: Float[Tensor, "n d"], classes: Float[Tensor, "k d"], y: Int[Tensor, "n"], tau: float = 1.0
) -> Float[Tensor, ""]:
    """Cross entropy of the classes' inner products."""
    return cross_entropy(sf_logits(nodes, classes, tau), y)


def link_logits(
    z: Float[Tensor, "n d"], pairs: Int[Tensor, "2 m"], loss: Literal["ce", "ff"] = "ce", theta: float = 2.0
) -> Float[Tensor, "m"]:
    """Of the product q of two nodes' outputs: the sum of q ("ce"), or the sum of its squares minus theta ("ff")."""
    q = z[pairs[0]] * z[pairs[1]]
    return q.sum(1) if loss == "ce" else goodness(q, theta)


def link_loss(
    z: Float[Tensor, "n d"], pairs: Int[Tensor, "2 m"], labels: Float[Tensor, "m"], loss: Literal["ce", "ff"] = "ce",
    theta: float = 2.0,
) -> Float[Tensor, ""]:  # fmt: skip
    """Cross entropy over pairs ("ce": one mean over all; "ff": a mean over links plus a mean over others)."""
    logits = link_logits(z, pairs, loss, theta)
    if loss == "ce":
        return binary_cross_entropy_with_logits(logits, labels)
    positive, negative = logits[labels == 1], logits[labels == 0]
    return binary_cross_entropy_with_logits(positive, torch.ones_like(positive)) + binary_cross_entropy_with_logits(
        negative, torch.zeros_like(negative)
    )
