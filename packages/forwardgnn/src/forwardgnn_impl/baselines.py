"""What forward learning is compared with: backpropagation, an MLP, and three other ways without it."""

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, one_hot
from torch_geometric.nn import GATConv

from .graphs import NodeTask
from .local import LocalLayer
from .propagation import HEADS, GraphLayer, Propagation, make_conv

__all__ = ["BASELINES", "Baseline"]


class _Linear(nn.Linear):
    """A linear layer that ignores the graph."""

    def forward(self, x: Tensor, _: Tensor | None = None) -> Tensor:
        return super().forward(x)


class Baseline:
    """A network with an output for each class: layers with ReLU, the last one without.

    Args:
        model: `ForwardGNN`, which has the settings and gets `layers_`.
        task: what is learnt from.
    """

    def __init__(self, model: Any, task: NodeTask) -> None:
        self.model, self.task, many = model, task, int(model.layers)
        self.widths = [task.x.shape[1], *[int(model.hidden)] * (many - 1), task.n_classes]
        self.own([
            GraphLayer(self.conv(a, b, last=i == many - 1), relu=i < many - 1)
            for i, (a, b) in enumerate(pairwise(self.widths))
        ])  # fmt: skip

    def own(self, layers: Sequence[nn.Module]) -> None:
        """What is trained."""
        adam = self.model._adam(self.model.weight_decay)
        self.model.layers_ = nn.ModuleList([LocalLayer(layer.to(self.task.x.device), adam) for layer in layers])

    def conv(self, inputs: int, outputs: int, *, last: bool = False) -> nn.Module:
        """A convolution; the last of GAT averages its heads."""
        if last and self.model.conv == "gat":
            return GATConv(inputs, outputs, heads=HEADS, concat=False)
        return make_conv(self.model.conv, inputs, outputs)

    def runs(self, task: NodeTask) -> list[Any]:
        """A function of the outputs below for each layer."""
        graph = Propagation(task.edge_index, task.n, device=task.x.device, dtype=task.x.dtype)
        made: list[Any] = self.model._plain(task.x, graph)
        return made

    def fit(self) -> None:
        """Train on the task."""
        task, model, runs = self.task, self.model, self.runs(self.task)
        model._train(model.layers_, self.trainer(runs), model._quality(task, lambda: model._through(runs)))

    def trainer(self, runs: list[Any]) -> Callable[[], float]:
        """What an epoch does."""
        raise NotImplementedError

    def probabilities(self, task: NodeTask) -> Tensor:
        """Of the classes, for all nodes."""
        found: Tensor = self.model._through(self.runs(task)).softmax(1)
        return found

    def loss(self, logits: Tensor) -> Tensor:
        """Cross entropy at training nodes."""
        return cross_entropy(logits[self.task.train], self.task.y[self.task.train])

    def error(self, logits: Tensor) -> Tensor:
        """Of training nodes, probability minus one-hot class over their number; zero elsewhere."""
        task, found = self.task, torch.zeros_like(logits)
        wanted = one_hot(task.y[task.train], task.n_classes)
        found[task.train] = (logits[task.train].softmax(1) - wanted) / int(task.train.sum())
        return found


class Backpropagation(Baseline):
    """The whole network by one loss, with torch_geometric's networks' shape: no norms, the last layer linear."""

    def trainer(self, runs: list[Any]) -> Callable[[], float]:
        whole = LocalLayer(self.model.layers_, self.model._adam(self.model.weight_decay))
        return lambda: whole.update(self.loss(self.model._through(runs)))


class MLP(Backpropagation):
    """The same without the graph."""

    def conv(self, inputs: int, outputs: int, *, last: bool = False) -> nn.Module:
        return _Linear(inputs, outputs)


class DirectFeedback(Baseline):
    """Direct feedback alignment: the error at the output reaches each hidden layer through a fixed random matrix."""

    def trainer(self, runs: list[Any]) -> Callable[[], float]:
        task = self.task
        feedback = [torch.randn(task.n_classes, w, device=task.x.device) / w**0.5 for w in self.widths[1:-1]]

        def epoch() -> float:
            outputs: list[Tensor] = []
            for run in runs:
                outputs.append(run(outputs[-1].detach() if outputs else None))
            error = self.error(outputs[-1].detach())
            for layer, z, b in zip(self.model.layers_, outputs, feedback, strict=False):
                layer.update((z * (error @ b)).sum())
            return float(self.model.layers_[-1].update(self.loss(outputs[-1])))

        return epoch


class CascadedForward(Baseline):
    """CaFo: random layers that stay as they are, and a linear predictor trained on each; their outputs are summed."""

    def __init__(self, model: Any, task: NodeTask) -> None:
        self.model, self.task = model, task
        widths = [task.x.shape[1], *[int(model.hidden)] * int(model.layers)]
        self.blocks = nn.ModuleList([GraphLayer(self.conv(a, b)) for a, b in pairwise(widths)])
        self.blocks.requires_grad_(False).to(task.x.device)
        self.own([nn.Linear(width, task.n_classes) for width in widths[1:]])

    def fit(self) -> None:
        x, summed = self.task.x, torch.zeros(self.task.n, self.task.n_classes, device=self.task.x.device)
        for block, layer in zip(self.blocks, self.model.layers_, strict=True):
            with torch.no_grad():
                x = block(x, self.task.edge_index)
            self._fit_one(layer, x, summed)
            with torch.no_grad():
                summed = summed + layer(x).softmax(1)

    def _fit_one(self, layer: Any, x: Tensor, summed: Tensor) -> None:
        quality = self.model._quality(self.task, lambda: summed + layer(x).softmax(1))
        self.model._train(layer, lambda: layer.update(self.loss(layer(x))), quality)

    def probabilities(self, task: NodeTask) -> Tensor:
        x, found = task.x, []
        for block, layer in zip(self.blocks, self.model.layers_, strict=True):
            x = block(x, task.edge_index)
            found.append(layer(x).softmax(1))
        self.model.history_.passes += len(found)
        return torch.stack(found).mean(0)


class Pepita(Baseline):
    """PEPITA: a second pass on an input shifted by the projected error; weights learn from the difference."""

    SCALE = 0.05
    """of the projection, times the square root of 2 / features (the rule's authors')"""

    def trainer(self, runs: list[Any]) -> Callable[[], float]:
        task, width = self.task, self.widths[0]
        back = torch.randn(task.n_classes, width, device=task.x.device) * self.SCALE * (2 / width) ** 0.5
        many = int(task.train.sum())

        def epoch() -> float:
            outputs: list[Tensor] = []
            with torch.no_grad():
                for run in runs:
                    outputs.append(run(outputs[-1] if outputs else None))
            error = self.error(outputs[-1])
            # the shift is as large as a node's own error
            x = task.x + many * error @ back
            for z, layer in zip(outputs, self.model.layers_, strict=True):
                before = layer.module.conv(x, task.edge_index)
                x = layer.module.ended(before).detach()
                upstream = error if z is outputs[-1] else (z - x) / many
                layer.update((before * upstream).sum())
            return float(self.loss(outputs[-1]))

        return epoch


BASELINES: Mapping[str, type[Baseline]] = {
    "bp": Backpropagation, "mlp": MLP, "dfa": DirectFeedback, "cafo": CascadedForward, "pepita": Pepita,
}  # fmt: skip
