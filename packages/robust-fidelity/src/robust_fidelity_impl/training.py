"""Training the classifiers that are explained, on graphs and on the nodes of one graph (section 5)."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool
from rich.console import Console
from torch import Tensor, nn
from torch_geometric.data import Batch, Data

from shared_impl.train import FitResult, TrainConfig, fit

__all__ = ["graph_accuracy", "node_accuracy", "train_on_graphs", "train_on_nodes"]


def train_on_graphs(
    model: nn.Module,
    graphs: Sequence[Data],
    *,
    valid: Sequence[Data] = (),
    steps: int = 1000,
    batch_size: int = 64,
    lr: float = 3e-3,
    clip: float = 2.0,
    seed: int = 0,
    console: Console | None = None,
) -> FitResult:
    """Cross-entropy with Adam at a constant rate. The paper trains 1,000 epochs at 1e-3.

    Args:
        valid: graphs on which the best weights are chosen, by accuracy; without, the last ones stay.

    Raises:
        ValueError: if there are no graphs.
    """
    if not graphs:
        raise ValueError("graphs must not be empty")

    def loss(net: nn.Module, batch: Any) -> Tensor:
        return F.cross_entropy(net(batch.x, batch.edge_index, batch=batch.batch), batch.y)

    config = TrainConfig(
        steps=steps, batch_size=min(batch_size, len(graphs)), eval_every=max(1, steps // 40), grad_clip=clip, seed=seed,
        collate=Batch.from_data_list, monitor="accuracy" if valid else "loss", mode="max" if valid else "min",
        restore_best=bool(valid),
    )  # fmt: skip
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    evaluate = (lambda net: {"accuracy": graph_accuracy(net, valid)}) if valid else None
    return fit(
        model, loss, list(graphs), optimizer=optimizer, evaluate=evaluate, config=config, out_dir=None, console=console
    )


def graph_accuracy(model: nn.Module, graphs: Sequence[Data]) -> float:
    """Share of graphs that are classified right."""
    batch: Any = Batch.from_data_list(list(graphs))
    with _evaluation(model):
        found = model(batch.x, batch.edge_index, batch=batch.batch).argmax(-1)
    return float((found == batch.y).float().mean())


def train_on_nodes(
    model: nn.Module,
    data: Data,
    train: Bool[Tensor, "nodes"],
    *,
    steps: int = 1000,
    lr: float = 3e-3,
    seed: int = 0,
    console: Console | None = None,
) -> FitResult:
    """Cross-entropy on the nodes of `train`, the whole graph in each step."""
    x, edges, y = data.x, data.edge_index, data.y
    assert x is not None
    assert edges is not None
    assert isinstance(y, Tensor)

    def loss(net: nn.Module, batch: Any) -> Tensor:
        return F.cross_entropy(net(x, edges)[train], y[train])

    config = TrainConfig(steps=steps, eval_every=max(1, steps // 10), grad_clip=2.0, seed=seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    return fit(
        model, loss, lambda generator: torch.zeros(1), optimizer=optimizer, config=config, out_dir=None, console=console
    )


def node_accuracy(model: nn.Module, data: Data, nodes: Bool[Tensor, "nodes"]) -> float:
    """Share of nodes that are classified right."""
    with _evaluation(model):
        found = model(data.x, data.edge_index).argmax(-1)
    assert isinstance(data.y, Tensor)
    return float((found == data.y)[nodes].float().mean())


class _evaluation:
    """Evaluation mode without gradients, for a while."""

    def __init__(self, model: nn.Module) -> None:
        self.model, self.training, self.grad = model, model.training, torch.no_grad()

    def __enter__(self) -> None:
        self.model.eval()
        self.grad.__enter__()

    def __exit__(self, *problem: Any) -> None:
        self.grad.__exit__(*problem)
        self.model.train(self.training)
