"""Explanations to be scored: random, the truth, and the two explainers of the paper, through PyG."""

import warnings
from collections.abc import Sequence
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch_geometric.data import Data
from torch_geometric.explain import Explainer, Explanation, GNNExplainer, PGExplainer
from torch_geometric.explain.config import ModelConfig

from robust_fidelity_impl.measures import FidelityScore, robust_fidelity

__all__ = ["RobustFidelity", "explain_graphs"]


def explain_graphs(
    name: Literal["truth", "random", "GNNExplainer", "PGExplainer"],
    model: nn.Module,
    graphs: Sequence[Data],
    *,
    train: Sequence[Data] = (),
    epochs: int = 100,
    lr: float | None = None,
    seed: int = 0,
) -> list[Float[Tensor, "edges"]]:
    """Edge weights for each graph; larger is more important.

    Args:
        train: graphs to train PGExplainer on.
        epochs: of GNNExplainer for each graph; of PGExplainer in all.

    Raises:
        ValueError: an unknown explainer, `truth` for graphs without one, or PGExplainer without graphs to train on.
    """
    if name == "truth":
        if any("edge_mask" not in graph for graph in graphs):
            raise ValueError("'truth' needs graphs with edge_mask")
        return [graph.edge_mask.float() for graph in graphs]
    generator = torch.Generator().manual_seed(seed)
    if name == "random":
        return [torch.rand(graph.edge_index.shape[1], generator=generator) for graph in graphs]
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Converting a tensor with requires_grad")  # PyG, of its own loss
        torch.manual_seed(seed)
        if name == "GNNExplainer":
            algorithm: Any = GNNExplainer(epochs=epochs, lr=lr or 0.01)
        elif name == "PGExplainer":
            if not train:
                raise ValueError("PGExplainer needs graphs to train on")
            algorithm = PGExplainer(epochs=epochs, lr=lr or 3e-3)
        else:
            raise ValueError(f"name must be truth, random, GNNExplainer or PGExplainer, got {name!r}")
        explainer = Explainer(
            model, algorithm=algorithm, explanation_type="phenomenon", edge_mask_type="object",
            model_config=ModelConfig(mode="multiclass_classification", task_level="graph", return_type="raw"),
        )  # fmt: skip
        if name == "PGExplainer":
            for epoch in range(epochs):
                for graph in train:
                    algorithm.train(epoch, model, graph.x, graph.edge_index, target=graph.y, batch=_one(graph))
        found = []
        for graph in graphs:
            explanation = explainer(graph.x, graph.edge_index, target=graph.y, batch=_one(graph))
            found.append(explanation.edge_mask.detach())
    return found


def _one(graph: Data) -> Tensor:
    return torch.zeros(graph.num_nodes, dtype=torch.int64)


class RobustFidelity:
    """Robust fidelity in the place of `torch_geometric.explain.metric.fidelity`: of (explainer, explanation).

    Options are those of `robust_fidelity`; soft masks need `threshold` or `top_k`.
    """

    def __init__(self, **options: Any) -> None:
        self.options = options

    def __call__(self, explainer: Explainer, explanation: Explanation) -> FidelityScore:
        """The score of an explanation of one graph or one node.

        Raises:
            ValueError: an explanation without an edge mask, or of several nodes.
        """
        mask = explanation.get("edge_mask")
        if mask is None:
            raise ValueError("the explanation has no edge_mask; fidelity is about edges")
        task = explainer.model_config.task_level.value
        if task not in ("graph", "node"):
            raise ValueError(f"explanations of {task}s cannot be scored")
        target: Any = self.options.get("target", "true")
        data = Data(x=explanation.x, edge_index=explanation.edge_index, edge_attr=explanation.get("edge_attr"))
        index = explanation.get("index")
        if task == "node":
            if index is None or torch.as_tensor(index).numel() != 1:
                raise ValueError("a node task needs an explanation of one node (index)")
            index = int(torch.as_tensor(index))
        if target == "true":
            labels = torch.as_tensor(explanation.target).reshape(-1)
            target = int(labels[index] if task == "node" else labels[0])
        kind = {"raw": "logits", "probs": "probs", "log_probs": "log_probs"}
        options: dict[str, Any] = {
            "output": kind[explainer.model_config.return_type.value],
            **self.options,
            "target": target,
            "task": task,
            "index": index if task == "node" else None,
        }
        return robust_fidelity(explainer.model, data, mask, **options)
