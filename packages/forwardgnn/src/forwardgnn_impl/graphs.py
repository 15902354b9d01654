"""What is learnt from: a graph with features, labels and masks, checked once."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy import ndarray
from torch import Tensor

__all__ = ["NodeTask", "as_task", "node_splits"]


@dataclass(frozen=True)
class NodeTask:
    """n nodes, their features and classes (from 0 on, -1: unknown), and who is for what."""

    x: Float[Tensor, "n d"]
    edge_index: Int[Tensor, "2 e"]
    y: Int[Tensor, "n"]
    train: Bool[Tensor, "n"]
    val: Bool[Tensor, "n"]
    test: Bool[Tensor, "n"]
    classes: ndarray
    """names of the classes, (K,)"""

    @property
    def n(self) -> int:
        return len(self.x)

    @property
    def n_classes(self) -> int:
        return len(self.classes)

    def with_held_out(self, share: float, *, seed: int = 0) -> "NodeTask":
        """A share of each class's training nodes moved to validation; a class with one node keeps it."""
        generator = torch.Generator().manual_seed(seed)
        val = torch.zeros_like(self.train)
        for c in range(self.n_classes):
            rows = torch.nonzero(self.train & (self.y == c))[:, 0]
            order = rows[torch.randperm(len(rows), generator=generator).to(rows.device)]
            val[order[: int(share * len(rows))]] = True
        return replace(self, train=self.train & ~val, val=val)


def as_task(data: Any, y: Any = None, *, like: NodeTask | None = None) -> NodeTask:
    """Read a `torch_geometric.data.Data`.

    Args:
        y: labels instead of `data.y`.
        like: the graph of `fit`: classes are its own, and what `data` lacks of labels and masks too.

    Raises:
        ValueError: what is missing, of a wrong shape, not finite, or out of range.
    """
    if isinstance(data, NodeTask):
        return data
    x, edge_index = (getattr(data, name, None) for name in ("x", "edge_index"))
    if not isinstance(x, Tensor) or not isinstance(edge_index, Tensor):
        raise ValueError(f"data must have tensors x and edge_index, got {type(data).__name__}")
    x = x.to_dense() if x.layout != torch.strided else x
    if x.ndim != 2 or not x.shape[1] or len(x) < 2:
        raise ValueError(f"x must have a row of features for each of at least 2 nodes, got shape {tuple(x.shape)}")
    x = x if x.is_floating_point() else x.float()
    if not bool(torch.isfinite(x).all()):
        raise ValueError("x must be finite, got NaN or an infinite value")
    n = len(x)
    if edge_index.ndim != 2 or len(edge_index) != 2 or edge_index.is_floating_point():
        raise ValueError(f"edge_index must be integers of shape (2, edges), got {tuple(edge_index.shape)}")
    edge_index = edge_index.long()
    if edge_index.numel() and not 0 <= int(edge_index.min()) <= int(edge_index.max()) < n:
        raise ValueError(f"edge_index must be from 0 to {n - 1}, got {edge_index.min()} to {edge_index.max()}")
    if like is not None and x.shape[1] != like.x.shape[1]:
        raise ValueError(f"x must have {like.x.shape[1]} features as in fit, got {x.shape[1]}")
    given = y if y is not None else getattr(data, "y", None)
    if given is None:
        if like is None or like.n != n:
            raise ValueError("y must be given, a class for each node (-1: unknown)")
        labels, classes = like.y, like.classes
    else:
        labels, classes = _labels(given, n, like)
    labels = labels.to(x.device)
    masks = {name: _mask(data, f"{name}_mask", n) for name in ("train", "val", "test")}
    if like is not None and like.n == n:
        masks = {name: getattr(like, name) if mask is None else mask for name, mask in masks.items()}
    none = torch.zeros(n, dtype=torch.bool, device=x.device)
    val = none if masks["val"] is None else masks["val"]
    train = masks["train"]
    if train is None:
        train = ~(val | (none if masks["test"] is None else masks["test"]))
    known = labels >= 0
    train, val = train.to(x.device) & known, val.to(x.device) & known
    if bool((train & val).any()):
        raise ValueError("train_mask and val_mask must not share nodes")
    if like is None and not bool(train.any()):
        raise ValueError("train_mask must hold at least one node with a class")
    test = ~(train | val) if masks["test"] is None else masks["test"].to(x.device)
    return NodeTask(x, edge_index, labels, train, val, test, classes)


def _labels(given: Any, n: int, like: NodeTask | None) -> tuple[Tensor, ndarray]:
    names = given.detach().cpu().numpy() if isinstance(given, Tensor) else np.asarray(given)
    if names.ndim == 2 and names.shape[1] == 1:
        names = names[:, 0]
    if names.shape != (n,):
        raise ValueError(f"y must have a class for each of {n} nodes, got shape {names.shape}")
    if names.dtype.kind == "f":
        if not np.isfinite(names).all() or (names != np.round(names)).any():
            raise ValueError("y must be classes: integers (-1: unknown) or names")
        names = names.astype(np.int64)
    unknown = names < 0 if names.dtype.kind in "iu" else np.zeros(n, dtype=bool)
    classes = np.unique(names[~unknown]) if like is None else like.classes
    if len(classes) < 2:
        raise ValueError(f"y must have at least 2 classes, got {len(classes)}")
    place = np.searchsorted(classes, names[~unknown]).clip(max=len(classes) - 1)
    if (classes[place] != names[~unknown]).any():
        raise ValueError("y has a class that fit did not see")
    codes = np.full(n, -1, dtype=np.int64)
    codes[~unknown] = place
    return torch.from_numpy(codes), classes


def _mask(data: Any, name: str, n: int) -> Tensor | None:
    mask = getattr(data, name, None)
    if mask is None:
        return None
    mask = torch.as_tensor(mask)
    if mask.dtype != torch.bool or mask.shape != (n,):
        raise ValueError(f"{name} must be {n} booleans, got {mask.dtype} of shape {tuple(mask.shape)}")
    return mask


def node_splits(n: int, *, folds: int = 5, seed: int = 101) -> list[dict[str, Bool[Tensor, "n"]]]:
    """The paper's splits: folds for testing, a fifth of the rest for validation: 64, 16 and 20 %.

    Raises:
        ValueError: fewer nodes than folds.
    """
    from sklearn.model_selection import KFold, train_test_split

    if n < 2 * folds:
        raise ValueError(f"n must be at least {2 * folds} for {folds} folds, got {n}")
    made = []
    for i, (rest, test) in enumerate(KFold(folds, shuffle=True, random_state=seed).split(np.arange(n))):
        train, val = train_test_split(rest, test_size=0.2, random_state=127 * i)
        masks = {}
        for name, rows in (("train_mask", train), ("val_mask", val), ("test_mask", test)):
            masks[name] = torch.zeros(n, dtype=torch.bool)
            masks[name][torch.from_numpy(rows)] = True
        made.append(masks)
    return made
