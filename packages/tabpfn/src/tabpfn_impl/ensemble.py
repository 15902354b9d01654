"""Members of an ensemble: the same network reads the table in several disguises (paper, section 5.2)."""

from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["Member", "class_codes", "combine", "make_members", "one_vs_rest_members"]


@dataclass(frozen=True)
class Member:
    """One disguise of the table."""

    class_shift: int
    """label c is shown as (c + class_shift) modulo the number of classes"""
    feature_shift: int
    """columns are rotated by so many places"""
    power: bool
    """whether columns go through a Yeo-Johnson transform"""
    columns: tuple[int, ...] | None = None
    """the columns that are shown, and in which order, of those that vary; None: all as they are"""
    rows: tuple[int, ...] | None = None
    """the training rows that are shown; None: all"""
    code: tuple[int, ...] | None = None
    """for more classes than the network has: the symbol that stands for each class"""
    positive: int | None = None
    """one against the rest: this class is shown as 1 and all others as 0, before the rotation"""


def make_members(n_classes: int, n_features: int, n_members: int, seed: int) -> list[Member]:
    """The first `n_members` of all pairs of rotations, in random order, each without and with the power transform.

    There are 2 x n_classes x n_features members at most.
    """
    pairs = [(c, f) for c in range(n_classes) for f in range(n_features)]
    rng = np.random.default_rng(seed)
    if len(pairs) > n_members:
        chosen = rng.permutation(len(pairs))[: (n_members + 1) // 2]
    else:
        chosen = rng.permutation(len(pairs))
    members = [Member(pairs[i][0], pairs[i][1], power) for i in chosen for power in (False, True)]
    return members[:n_members]


def one_vs_rest_members(n_classes: int, n_features: int, n_members: int, seed: int) -> list[Member]:
    """Members that tell one class from all others: for each class its share of `n_members`, but at least two."""
    share = max(2, -(-n_members // n_classes))
    return [
        replace(member, positive=k) for k in range(n_classes) for member in make_members(2, n_features, share, seed + k)
    ]


def class_codes(n_classes: int, n_symbols: int, n_codes: int, seed: int) -> NDArray[np.int64]:
    """(n_codes, n_classes) error-correcting output codes: each code shares the classes out among the symbols evenly.

    No two classes have the same symbols throughout: codes are added until that is so.
    """
    rng = np.random.default_rng(seed)
    codes: list[NDArray[np.int64]] = []
    while len(codes) < n_codes or len(np.unique(np.array(codes), axis=1).T) < n_classes:
        codes.append(rng.permutation(np.arange(n_classes) % n_symbols))
    return np.array(codes)


def combine(
    direct: Float[Tensor, "rows classes"] | None, against_rest: Float[Tensor, "rows classes"] | None
) -> Float[Tensor, "rows classes"]:
    """Logits of the classes from the answers to both ways of asking: their geometric mean, if both were asked.

    Args:
        direct: logits of all classes at once.
        against_rest: logit of each class against all others.

    Raises:
        ValueError: nothing was asked.
    """
    # softmax of ln p is p, normalised
    parts = ([] if direct is None else [direct]) + ([] if against_rest is None else [F.logsigmoid(against_rest)])
    if not parts:
        raise ValueError("give the answers to one way of asking at least")
    if len(parts) == 1:
        return parts[0]
    return torch.stack([torch.log_softmax(part, dim=1) for part in parts]).mean(0)
