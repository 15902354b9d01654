"""The classifiers that are explained (section 5): three layers of 20 units, each normalised; graphs and nodes."""

from typing import Literal, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch_geometric.nn import GCNConv, MessagePassing, global_max_pool, global_mean_pool

from shared_impl.pretrained import Pretrained

__all__ = ["GCN", "GIN", "OutsideFlipped"]


class _SumConv(MessagePassing):
    """GIN's layer, with weights for edges: MLP((1 + eps) x + sum of w x_j)."""

    def __init__(self, d_in: int, d_out: int) -> None:
        super().__init__(aggr="add")
        self.mlp = nn.Sequential(nn.Linear(d_in, d_out), nn.ReLU(), nn.Linear(d_out, d_out))
        self.eps = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor, edge_index: Tensor, edge_weight: Tensor | None = None) -> Tensor:
        if edge_weight is None:
            edge_weight = x.new_ones(edge_index.shape[1])
        mixed = self.propagate(edge_index, x=x, edge_weight=edge_weight)
        return cast(Tensor, self.mlp((1 + self.eps) * x + mixed))

    def message(self, x_j: Tensor, edge_weight: Tensor) -> Tensor:
        return edge_weight[:, None] * x_j


class _Classifier(nn.Module, Pretrained):
    """Three layers, each output L2-normalised and then ReLU; graphs: maximum and mean, one linear map; nodes: all three
    layers, one linear map."""

    def __init__(
        self, *, in_features: int, classes: int, task: Literal["graph", "node"] = "graph", hidden: int = 20
    ) -> None:
        super().__init__()
        if task not in ("graph", "node"):
            raise ValueError(f"task must be graph or node, got {task!r}")
        for name, value in (("in_features", in_features), ("hidden", hidden)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if classes < 2:
            raise ValueError(f"classes must be at least 2, got {classes}")
        self.task = task
        self.convs = nn.ModuleList(self.conv(in_features if i == 0 else hidden, hidden) for i in range(3))
        self.head = nn.Linear((2 if task == "graph" else 3) * hidden, classes)
        for name, parameter in self.named_parameters():
            # Where all nodes have equal features, a first layer without bias differs between nodes by a factor only,
            # which normalising takes away: they would all look the same, and nothing could be learnt.
            if name.startswith("convs.") and parameter.ndim == 1:
                nn.init.uniform_(parameter, -0.05, 0.05)

    def conv(self, d_in: int, d_out: int) -> nn.Module:
        """One message-passing layer."""
        raise NotImplementedError

    def forward(
        self,
        x: Float[Tensor, "nodes in_features"],
        edge_index: Int[Tensor, "2 edges"],
        edge_weight: Float[Tensor, "edges"] | None = None,
        batch: Int[Tensor, "nodes"] | None = None,
    ) -> Float[Tensor, "rows classes"]:
        """Logits: a row for each graph of the batch, or for each node."""
        layers = []
        for conv in self.convs:
            x = F.relu(F.normalize(conv(x, edge_index, edge_weight), p=2.0, dim=-1))
            layers.append(x)
        if self.task == "node":
            return cast(Tensor, self.head(torch.cat(layers, -1)))
        if batch is None:
            batch = torch.zeros(len(x), dtype=torch.int64, device=x.device)
        pooled = torch.cat([global_max_pool(x, batch), global_mean_pool(x, batch)], -1)
        return cast(Tensor, self.head(pooled))


class GCN(_Classifier):
    """Graph convolutions."""

    def __init__(
        self, *, in_features: int, classes: int, task: Literal["graph", "node"] = "graph", hidden: int = 20
    ) -> None:
        super().__init__(in_features=in_features, classes=classes, task=task, hidden=hidden)

    def conv(self, d_in: int, d_out: int) -> nn.Module:
        """A graph convolution, which adds loops and normalises by degrees."""
        return GCNConv(d_in, d_out)


class GIN(_Classifier):
    """Graph isomorphism layers."""

    def __init__(
        self, *, in_features: int, classes: int, task: Literal["graph", "node"] = "graph", hidden: int = 20
    ) -> None:
        super().__init__(in_features=in_features, classes=classes, task=task, hidden=hidden)

    def conv(self, d_in: int, d_out: int) -> nn.Module:
        """A sum over neighbours and two linear maps."""
        return _SumConv(d_in, d_out)


class OutsideFlipped(nn.Module):
    """A classifier of graphs that is right on the data and wrong off it: where fewer than a share of a graph's edges
    remain, the two classes' logits are exchanged (section 3's construction, made plain).

    Args:
        edges: directed edges of the whole graph.
    """

    def __init__(self, model: nn.Module, edges: int, share: float = 0.6) -> None:
        super().__init__()
        self.model, self.edges, self.share = model, edges, share

    def forward(self, x: Tensor, edge_index: Tensor, batch: Tensor) -> Tensor:
        """Logits, exchanged where too few edges are left."""
        logits = self.model(x, edge_index, batch=batch)
        left = torch.bincount(batch[edge_index[0]], minlength=len(logits))
        return torch.where((left < self.share * self.edges)[:, None], logits.flip(-1), logits)
