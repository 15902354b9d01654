"""From features and a real target to a table with classes: the wrapper around every prior (paper, appendix C).

Every function works on a group of data sets at once, `(sets, rows, features)`.
"""

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

__all__ = [
    "assign_classes",
    "compact_labels",
    "make_categorical",
    "match_label_sets",
    "squash_outliers",
    "standardise",
]


def standardise(x: Float[Tensor, "sets rows *rest"], limit: float = 100.0) -> Float[Tensor, "sets rows *rest"]:
    """Mean 0 and standard deviation 1 over the rows, cut off at ±limit."""
    std, centred = _deviation(x)
    return centred.div_(std + 1e-6).clamp_(-limit, limit)


def _deviation(x: Tensor) -> tuple[Tensor, Tensor]:
    """Standard deviation over the rows, and x less its mean; ten times as fast here as torch.std_mean."""
    centred = x - x.mean(1, keepdim=True)
    return (centred.square().sum(1, keepdim=True) / (x.shape[1] - 1)).sqrt(), centred


def squash_outliers(
    x: Float[Tensor, "sets rows features"], n_sigma: float = 4.0
) -> Float[Tensor, "sets rows features"]:
    """Bring what lies beyond `n_sigma` deviations near; mean and deviation are taken again without the outliers.

    max(lower - ln(1 + |x|), x), and likewise above.
    """
    std, centred = _deviation(x)
    inside = centred.abs_() <= n_sigma * std
    count = inside.sum(1, keepdim=True).clamp_min(1)
    mean = torch.where(inside, x, 0.0).sum(1, keepdim=True) / count
    square = torch.where(inside, (x - mean).square(), 0.0).sum(1, keepdim=True)
    reach = n_sigma * (square / (count - 1).clamp_min(1)).sqrt()
    x = torch.maximum(mean - reach - torch.log1p(x.abs()), x)
    return torch.minimum(mean + reach + torch.log1p(x.abs()), x)


def make_categorical(
    x: Float[Tensor, "sets rows features"],
    columns: Bool[Tensor, "sets features"],
    rng: np.random.Generator,
    generator: torch.Generator,
    *,
    ordered_p: float = 0.3,
) -> Float[Tensor, "sets rows features"]:
    """Turn the columns marked into categories: ranks among the values of random rows.

    The number of categories is max(round(Gamma(1, 10)), 2); with probability 1 - ordered_p they are permuted.
    """
    at = columns.nonzero()
    if not len(at):
        return x
    values = x[at[:, 0], :, at[:, 1]]
    k = np.maximum(np.rint(rng.gamma(1.0, 10.0, len(at))), 2).astype(np.int64)
    codes = _rank(values, torch.as_tensor(k, device=x.device), generator, ordered_p)
    out = x.clone()
    out[at[:, 0], :, at[:, 1]] = codes.float()
    return out


def assign_classes(
    y: Float[Tensor, "sets rows"],
    n_classes: Int[Tensor, " sets"],
    generator: torch.Generator,
    *,
    ordered_p: float = 0.0,
) -> Int[Tensor, "sets rows"]:
    """Classes 0 .. n_classes - 1: how many of n_classes - 1 random values of y lie below, permuted."""
    return _rank(y, n_classes, generator, ordered_p)


def _rank(
    values: Float[Tensor, "lists rows"], k: Int[Tensor, " lists"], generator: torch.Generator, ordered_p: float
) -> Int[Tensor, "lists rows"]:
    """Ranks among k - 1 of the values chosen at random; permuted unless `ordered_p` says so; reversed half the time."""
    device, (lists, rows) = values.device, values.shape
    most = int(k.max())
    chosen = torch.randint(0, rows, (lists, most - 1), generator=generator, device=device)
    boundaries = values.gather(1, chosen)
    unused = torch.arange(most - 1, device=device) >= (k - 1)[:, None]
    boundaries = boundaries.masked_fill(unused, torch.inf).sort(1).values
    codes = torch.searchsorted(boundaries, values.contiguous())
    keys = torch.rand(lists, most, generator=generator, device=device)
    keys = keys.masked_fill(torch.arange(most, device=device) >= k[:, None], 2.0)
    permuted = torch.rand(lists, 1, generator=generator, device=device) > ordered_p
    codes = torch.where(permuted, keys.argsort(1).gather(1, codes), codes)
    reverse = torch.rand(lists, 1, generator=generator, device=device) > 0.5
    return torch.where(reverse, k[:, None] - 1 - codes, codes)


def compact_labels(
    labels: Int[Tensor, "sets rows"], generator: torch.Generator, n_labels: int = 10
) -> Int[Tensor, "sets rows"]:
    """Number the classes that occur 0, 1, ... in their order, then rotate the numbers by a random step."""
    present = torch.zeros(len(labels), n_labels, dtype=torch.bool, device=labels.device).scatter_(1, labels, True)
    rank = (present.cumsum(1) - 1).gather(1, labels)
    count = present.sum(1, keepdim=True)
    shift = (torch.rand(len(labels), 1, generator=generator, device=labels.device) * count).long()
    return (rank + shift) % count


def match_label_sets(
    labels: Int[Tensor, "sets rows"],
    n_train: int,
    generator: torch.Generator,
    *,
    tries: int = 10,
    n_labels: int = 10,
) -> tuple[Int[Tensor, "sets rows"], Bool[Tensor, " sets"]]:
    """Orders of the rows such that the same classes, at least two, occur before and after row `n_train`.

    Sets for which this is not so are shuffled again, up to `tries` times.

    Returns:
        the order of the rows of each set, and for which sets it was found.
    """
    sets, rows = labels.shape
    order = torch.arange(rows, device=labels.device).repeat(sets, 1)
    valid = _same_label_sets(labels, n_train, n_labels)
    for _ in range(tries):
        open_ = (~valid).nonzero().squeeze(1)
        if not len(open_):
            break
        shuffled = torch.rand(len(open_), rows, generator=generator, device=labels.device).argsort(1)
        order[open_] = shuffled
        valid[open_] = _same_label_sets(labels[open_].gather(1, shuffled), n_train, n_labels)
    return order, valid


def _same_label_sets(labels: Tensor, n_train: int, n_labels: int) -> Tensor:
    seen = torch.zeros(len(labels), n_labels, dtype=torch.bool, device=labels.device)
    train = seen.scatter(1, labels[:, :n_train], True)
    test = seen.scatter(1, labels[:, n_train:], True)
    return (train == test).all(1) & (train.sum(1) > 1)
