"""What is left to choose once a network is trained, on synthetic tables: how to ask it, and how sure it may be."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from tabpfn_impl.checkpoints import Checkpoint
from tabpfn_impl.classifier import TabPFNClassifier
from tabpfn_impl.ensemble import combine
from tabpfn_impl.metrics import log_loss
from tabpfn_impl.training import TrainRecipe, held_out_tasks

__all__ = ["TEMPERATURES", "Choice", "Table", "choose_prediction", "cluster_tables", "prior_tables"]

TEMPERATURES = (0.6, 0.7, 0.8, 0.9, 1.0, 1.15)
"""softmax temperatures that are tried; the paper's code has 0.8"""

Table = tuple[NDArray[np.float64], NDArray[np.int64], int]
"""columns, labels, and how many rows are for training"""


@dataclass(frozen=True)
class Choice:
    """How to ask a network."""

    temperature: float
    multiclass: str
    """direct, one-vs-rest or both"""
    log_loss: float
    losses: dict[tuple[str, float], float]
    """of every way and temperature"""


def prior_tables(recipe: TrainRecipe, each: int = 6) -> list[Table]:
    """Tables of the recipe's prior that neither its training nor its validation has: `each` of eight sizes."""
    batches = held_out_tasks(replace(recipe, seed=recipe.seed + 1, held_out=each))
    return [
        (x.double().numpy(), y.numpy(), batch.n_train)
        for batch in batches
        for x, y in zip(batch.x, batch.y, strict=True)
    ]


def cluster_tables(seed: int = 2) -> list[Table]:
    """Tables of Gaussian clusters with many classes, which the prior makes rarely, half of each for training."""
    sizes = [  # classes, columns, training rows, distance of the centres
        (10, 4, 200, 1.2), (10, 16, 200, 0.7), (5, 16, 200, 0.7), (3, 8, 100, 0.8), (3, 4, 75, 1.0),
        (4, 18, 200, 0.6), (7, 27, 300, 0.6), (2, 10, 100, 0.5),
    ]  # fmt: skip
    tables = []
    for classes, columns, n, distance in sizes:
        rng = np.random.default_rng(seed)
        centres = distance * rng.normal(size=(classes, columns))
        y = np.arange(2 * n) % classes
        rng.shuffle(y)
        tables.append((centres[y] + rng.normal(size=(2 * n, columns)), y, n))
    return tables


def choose_prediction(
    checkpoint: Checkpoint, families: Sequence[Sequence[Table]], *, n_estimators: int = 8, device: str = "cpu"
) -> Choice:
    """The temperature and the way to ask about several classes that give the least log-loss.

    Args:
        families: kinds of tables, which weigh alike.
    """
    losses: dict[tuple[str, float], float] = {}
    for tables in families:
        for X, y, n in tables:
            model = TabPFNClassifier(n_estimators, multiclass="both", model=checkpoint, device=device)
            model.fit(X[:n], y[:n])
            with torch.no_grad():
                direct, rest = model.member_means(torch.from_numpy(X[n:]))
            codes = np.searchsorted(model.classes_, y[n:])
            for temperature in TEMPERATURES:
                d = None if direct is None else direct / temperature
                r = None if rest is None else rest / temperature
                for way, parts in (("direct", (d, None)), ("one-vs-rest", (None, r)), ("both", (d, r))):
                    # two classes are asked directly in any case
                    logits = combine(*parts) if r is not None else combine(d, None)
                    loss = log_loss(codes, torch.softmax(logits, dim=1).numpy())
                    key = (way, temperature)
                    losses[key] = losses.get(key, 0.0) + loss / len(tables) / len(families)
    way, temperature = min(losses, key=lambda key: losses[key])
    return Choice(temperature, way, losses[way, temperature], losses)
