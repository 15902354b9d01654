"""What is learnt from: a graph with features, labels and masks, checked once."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy import ndarray
from torch import Tensor

__all__ = ["NodeTask", "as_task", "checked_graph", "node_splits"]


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
    beside: bool = False
    """labels came beside the graph, not in it"""

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


def checked_graph(data: Any) -> tuple[Float[Tensor, "n d"], Int[Tensor, "2 e"]]:
    """Features as float32 and edges as int64 of a `torch_geometric.data.Data`.

    Raises:
        ValueError: what is missing, of a wrong shape, not finite, or out of range.
    """
    x, edge_index = (getattr(data, name, None) for name in ("x", "edge_index"))
    if not isinstance(x, Tensor) or not isinstance(edge_index, Tensor):
        raise ValueError(f"data must have tensors x and edge_index, got {type(data).__name__}")
    x = x.to_dense() if x.layout != torch.strided else x
    if x.ndim != 2 or not x.shape[1] or len(x) < 2 or x.is_complex():
        raise ValueError(f"x must have a row of features for each of at least 2 nodes, got shape {tuple(x.shape)}")
    x = x.detach().float()
    if not bool(torch.isfinite(x).all()):
        raise ValueError("x must be finite in single precision, got NaN or an infinite value")
    n = len(x)
    if edge_index.ndim != 2 or len(edge_index) != 2 or edge_index.is_floating_point() or edge_index.dtype == torch.bool:
        given = f"{edge_index.dtype} of shape {tuple(edge_index.shape)}"
        raise ValueError(f"edge_index must be integers of shape (2, edges), got {given}")
    edge_index = edge_index.long()
    if edge_index.numel() and not 0 <= int(edge_index.min()) <= int(edge_index.max()) < n:
        raise ValueError(f"edge_index must be from 0 to {n - 1}, got {edge_index.min()} to {edge_index.max()}")
    return x, edge_index


def as_task(data: Any, y: Any = None, *, like: NodeTask | None = None) -> NodeTask:
    """Read a `torch_geometric.data.Data`.

    Args:
        y: labels instead of `data.y`.
        like: the graph of `fit`: classes are its own; what a graph of as many nodes lacks of labels and masks too (and
            its labels if those of `fit` came beside the graph).

    Raises:
        ValueError: what is missing, of a wrong shape, not finite, or out of range; masks that share nodes.
    """
    if isinstance(data, NodeTask):
        return data
    x, edge_index = checked_graph(data)
    n = len(x)
    if like is not None and x.shape[1] != like.x.shape[1]:
        raise ValueError(f"x must have {like.x.shape[1]} features as in fit, got {x.shape[1]}")
    same = like if like is not None and like.n == n else None
    given = y if y is not None else getattr(data, "y", None)
    if same is not None and (given is None or same.beside):
        labels, classes = same.y, same.classes
    elif given is None:
        raise ValueError("y must be given, a class for each node (-1: unknown)")
    else:
        labels, classes = _labels(given, n, like)
    labels = labels.to(x.device)
    train, val, test = (_mask(data, f"{name}_mask", n, x.device) for name in ("train", "val", "test"))
    none = torch.zeros(n, dtype=torch.bool, device=x.device)
    if same is not None and train is None and val is None:
        train, val, test = same.train, same.val, same.test if test is None else test
    elif same is not None and train is not None and val is None:
        # nodes that fit held out of those to learn from are held out here too
        val = same.val & train
        train = train & ~val
    elif same is not None and train is None and val is not None:
        train = same.train & ~val
    val = none if val is None else val
    known = labels >= 0
    train = (~(val | (none if test is None else test)) if train is None else train) & known
    val = val & known
    test = ~(train | val) if test is None else test
    for one, other, names in ((train, val, "train_mask and val_mask"), (train | val, test, "test_mask and the others")):
        if bool((one & other).any()):
            raise ValueError(f"{names} must not share nodes")
    if like is None and not bool(train.any()):
        raise ValueError("train_mask must hold at least one node with a class")
    return NodeTask(x, edge_index, labels, train, val, test, classes, y is not None)


def _labels(given: Any, n: int, like: NodeTask | None) -> tuple[Tensor, ndarray]:
    names = given.detach().cpu().numpy() if isinstance(given, Tensor) else np.asarray(given)
    if names.ndim == 2 and names.shape[1] == 1:
        names = names[:, 0]
    if names.shape != (n,):
        raise ValueError(f"y must have a class for each of {n} nodes, got shape {names.shape}")
    unknown = np.zeros(n, dtype=bool)
    if names.dtype.kind in "fO":
        unknown = np.array([name is None or name != name for name in names])  # NaN is not itself
        names = names[~unknown]
        if names.dtype.kind == "f":
            if (names != np.round(names)).any() or not np.isfinite(names).all():
                raise ValueError("y must be classes: integers (-1 or NaN: unknown) or names (None: unknown)")
            names = names.astype(np.int64)
        elif len({type(name) for name in names}) > 1:
            raise ValueError(f"y must be classes of one kind, got {sorted({type(name).__name__ for name in names})}")
        elif len(names):
            names = np.array(names.tolist())
    if names.dtype.kind in "iu":
        unknown[~unknown] = names < 0
        names = names[names >= 0]
    classes = np.unique(names) if like is None else like.classes
    if len(classes) < 2:
        raise ValueError(f"y must have at least 2 classes, got {len(classes)}")
    if len(names) and (names.dtype.kind in "US") != (classes.dtype.kind in "US"):
        raise ValueError(f"y must be classes as in fit, {classes.dtype}, got {names.dtype}")
    place = np.searchsorted(classes, names).clip(max=len(classes) - 1)
    if (classes[place] != names).any():
        raise ValueError("y has a class that fit did not see")
    codes = np.full(n, -1, dtype=np.int64)
    codes[~unknown] = place
    return torch.from_numpy(codes), classes


def _mask(data: Any, name: str, n: int, device: Any) -> Tensor | None:
    mask = getattr(data, name, None)
    if mask is None:
        return None
    mask = torch.as_tensor(mask)
    if mask.dtype != torch.bool or mask.shape != (n,):
        raise ValueError(f"{name} must be {n} booleans, got {mask.dtype} of shape {tuple(mask.shape)}")
    return mask.to(device)


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
