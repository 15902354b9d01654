"""What forward learning is compared with: backpropagation, an MLP, and three other ways without it."""

import itertools
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, one_hot
from torch_geometric.nn import GATConv

from .graphs import NodeTask
from .local import LocalLayer
from .propagation import HEADS, Features, GraphLayer, Propagation, make_conv

__all__ = ["BASELINES", "Baseline"]


class _Linear(nn.Module):
    """A linear layer that ignores the graph."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, outputs)

    def forward(self, x: Tensor, _: Tensor) -> Tensor:
        return self.linear(x)  # type: ignore[no-any-return]


class Baseline:
    """A network with an output for each class; `model` has the settings.

    Args:
        model: `ForwardGNN`.
        task: what is learnt from.
    """

    def __init__(self, model: Any, task: NodeTask) -> None:
        self.model, self.task = model, task
        self.layers = nn.ModuleList(self.make()).to(task.x.device)
        self.graph = Propagation(task.edge_index, task.n, device=task.x.device, dtype=task.x.dtype)

    def conv(self, inputs: int, outputs: int, *, last: bool = False) -> nn.Module:
        """A convolution; the last of GAT averages its heads."""
        if last and self.model.conv == "gat":
            return GATConv(inputs, outputs, heads=HEADS, concat=False)
        return make_conv(self.model.conv, inputs, outputs)

    def widths(self) -> list[int]:
        """Of inputs, hidden layers and outputs."""
        return [self.task.x.shape[1], *[int(self.model.hidden)] * (int(self.model.layers) - 1), self.task.n_classes]

    def make(self) -> list[nn.Module]:
        """Layers with ReLU, and one without at the end."""
        widths = self.widths()
        last = len(widths) - 2
        return [GraphLayer(self.conv(widths[i], widths[i + 1], last=i == last), relu=i < last) for i in range(last + 1)]

    def adam(self, module: nn.Module) -> torch.optim.Optimizer:
        """The recipe's."""
        return torch.optim.Adam(module.parameters(), lr=self.model.lr, weight_decay=self.model.weight_decay)

    def runs(self, task: NodeTask, graph: Propagation) -> list[Callable[..., Tensor]]:
        """A function of the outputs below for each layer."""
        layers: list[Any] = list(self.layers)
        first = layers[0].on(Features(task.x), graph, cached=self.model.cached)
        empty = Features(task.x.new_zeros(task.n, 0))
        rest = [layer.on(empty, graph, cached=self.model.cached) for layer in layers[1:]]
        return [lambda _=None: first(), *rest]

    def logits(self, runs: list[Callable[..., Tensor]]) -> Tensor:
        """Outputs of all nodes."""
        x: Any = None
        for run in runs:
            x = run(x)
            self.model.history_.passes += 1
        return x  # type: ignore[no-any-return]

    def fit(self) -> None:
        """Train on the task."""
        task, runs = self.task, self.runs(self.task, self.graph)
        epoch = self.trainer(runs)

        def quality() -> float:
            logits = self.logits(runs)[task.val]
            return 100 * float((logits.argmax(1) == task.y[task.val]).double().mean())

        self.model._train(self.layers, epoch, quality, bool(task.val.any()))

    def trainer(self, runs: list[Callable[..., Tensor]]) -> Callable[[], float]:
        """What an epoch does."""
        raise NotImplementedError

    def probabilities(self, task: NodeTask) -> Tensor:
        """Of the classes, for all nodes."""
        graph = self.graph if task is self.task else Propagation(
            task.edge_index, task.n, device=task.x.device, dtype=task.x.dtype
        )  # fmt: skip
        return self.logits(self.runs(task, graph)).softmax(1)

    def error(self, logits: Tensor) -> Tensor:
        """Of training nodes, probability minus one-hot class over their number; zero elsewhere."""
        task, found = self.task, torch.zeros_like(logits)
        wanted = one_hot(task.y[task.train], task.n_classes)
        found[task.train] = (logits[task.train].softmax(1) - wanted) / int(task.train.sum())
        return found


class Backpropagation(Baseline):
    """The whole network by one loss, with torch_geometric's networks' shape: no norms, the last layer linear."""

    def trainer(self, runs: list[Callable[..., Tensor]]) -> Callable[[], float]:
        optimizer, task = self.adam(self.layers), self.task

        def epoch() -> float:
            optimizer.zero_grad()
            loss = cross_entropy(self.logits(runs)[task.train], task.y[task.train])
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            return float(loss.detach())

        return epoch


class MLP(Backpropagation):
    """The same without the graph."""

    def conv(self, inputs: int, outputs: int, *, last: bool = False) -> nn.Module:
        return _Linear(inputs, outputs)


class DirectFeedback(Baseline):
    """Direct feedback alignment: the error at the output reaches each hidden layer through a fixed random matrix."""

    def trainer(self, runs: list[Callable[..., Tensor]]) -> Callable[[], float]:
        task = self.task
        optimizers = [self.adam(layer) for layer in self.layers]
        widths = self.widths()[1:-1]
        feedback = [torch.randn(task.n_classes, w, device=task.x.device) / w**0.5 for w in widths]

        def epoch() -> float:
            outputs: list[Tensor] = []
            for run in runs:
                outputs.append(run(outputs[-1].detach() if outputs else None))
            error = self.error(outputs[-1].detach())
            loss = cross_entropy(outputs[-1][task.train], task.y[task.train])
            losses = [(z * (error @ b)).sum() for z, b in zip(outputs[:-1], feedback, strict=True)]
            for optimizer, value in zip(optimizers, [*losses, loss], strict=True):
                optimizer.zero_grad()
                value.backward()
                optimizer.step()
            return float(loss.detach())

        return epoch


class CascadedForward(Baseline):
    """CaFo: random layers that stay as they are, and a linear predictor trained on each; their outputs are summed."""

    def make(self) -> list[nn.Module]:
        widths = [self.task.x.shape[1], *[int(self.model.hidden)] * int(self.model.layers)]
        self.blocks = nn.ModuleList([GraphLayer(self.conv(a, b)) for a, b in itertools.pairwise(widths)])
        self.blocks.requires_grad_(False).to(self.task.x.device)
        return [LocalLayer(nn.Linear(w, self.task.n_classes), self._adam) for w in widths[1:]]

    def _adam(self, parameters: Any) -> torch.optim.Optimizer:
        return torch.optim.Adam(parameters, lr=self.model.lr, weight_decay=self.model.weight_decay)

    def fit(self) -> None:
        task, x = self.task, self.task.x
        summed = torch.zeros(task.n, task.n_classes, device=x.device)
        layers: list[Any] = list(self.layers)
        for block, layer in zip(self.blocks, layers, strict=True):
            with torch.no_grad():
                x = block(x, task.edge_index)

            def epoch(x: Tensor = x, layer: Any = layer) -> float:
                return float(layer.update(cross_entropy(layer(x[task.train]), task.y[task.train])))

            def quality(x: Tensor = x, layer: Any = layer, summed: Tensor = summed) -> float:
                found = (summed + layer(x).softmax(1))[task.val]
                return 100 * float((found.argmax(1) == task.y[task.val]).double().mean())

            self.model._train(layer, epoch, quality, bool(task.val.any()))
            with torch.no_grad():
                summed = summed + layer(x).softmax(1)

    def probabilities(self, task: NodeTask) -> Tensor:
        x, found = task.x, []
        for block, layer in zip(self.blocks, self.layers, strict=True):
            x = block(x, task.edge_index)
            self.model.history_.passes += 1
            found.append(layer(x).softmax(1))
        return torch.stack(found).mean(0)


class Pepita(Baseline):
    """PEPITA: a second pass on an input shifted by the projected error; weights learn from the difference."""

    SCALE = 0.05
    """of the projection, times the square root of 2 / features (the rule's authors')"""

    def trainer(self, runs: list[Callable[..., Tensor]]) -> Callable[[], float]:
        task, count = self.task, len(runs)
        optimizers = [self.adam(layer) for layer in self.layers]
        width = task.x.shape[1]
        back = torch.randn(task.n_classes, width, device=task.x.device) * self.SCALE * (2 / width) ** 0.5
        layers: list[Any] = list(self.layers)
        many = int(task.train.sum())

        def epoch() -> float:
            outputs: list[Tensor] = []
            with torch.no_grad():
                for run in runs:
                    outputs.append(run(outputs[-1] if outputs else None))
            error = self.error(outputs[-1])
            loss = float(cross_entropy(outputs[-1][task.train], task.y[task.train]))
            # the shift is as large as a node's own error
            x = task.x + many * error @ back
            for i, layer in enumerate(layers):
                before = layer.conv(x, task.edge_index)
                x = layer._ended(before).detach()
                upstream = error if i == count - 1 else (outputs[i] - x) / many
                optimizers[i].zero_grad()
                (before * upstream).sum().backward()
                optimizers[i].step()
            return loss

        return epoch


BASELINES: Mapping[str, type[Baseline]] = {
    "bp": Backpropagation, "mlp": MLP, "dfa": DirectFeedback, "cafo": CascadedForward, "pepita": Pepita,
}  # fmt: skip
