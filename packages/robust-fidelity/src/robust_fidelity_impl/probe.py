"""Asking a classifier about many subgraphs of one graph at once: copies in one disjoint union, cut into chunks."""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch_geometric.data import Data
from torch_geometric.nn import MessagePassing
from torch_geometric.utils import k_hop_subgraph

from robust_fidelity_impl.pairs import edge_units

__all__ = ["Probe", "receptive_field"]

MAX_EDGES = 1_000_000
"""Edges of a chunk; a chunk is one forward pass."""


def receptive_field(model: nn.Module) -> int | None:
    """How many hops a prediction looks: the number of message-passing layers, None if there are none to count."""
    return sum(isinstance(module, MessagePassing) for module in model.modules()) or None


class Probe:
    """A classifier and a graph, ready to be asked about subsets of the graph's edges.

    Args:
        model: called as `model(x, edge_index)`, with `batch=` for graphs, `edge_weight=` or `edge_weights=` in weight
            mode, and `edge_attr=` if the graph has some and the model takes it. It runs in evaluation mode without
            gradients, and its mode is given back.
        task: `graph`: one prediction for the graph; `node`: the prediction for the node `index`.
        hops: for nodes: the radius of the computation graph, whose edges alone are kept or deleted (default: the number
            of the model's message-passing layers; if that cannot be told, the whole graph).
        mode: `delete`: edges are taken out, right for every model; `weight`: they get weight 0, as the authors do.
        output: what the model returns.
        max_edges: edges in one forward pass.

    Raises:
        ValueError: a graph without features, an index out of range, a model that takes no weights or ignores them.
    """

    def __init__(
        self,
        model: nn.Module,
        data: Data,
        *,
        task: Literal["graph", "node"] = "graph",
        index: int | None = None,
        hops: int | None = None,
        mode: Literal["delete", "weight"] = "delete",
        output: Literal["logits", "log_probs", "probs"] = "logits",
        max_edges: int = MAX_EDGES,
    ) -> None:
        for name, value, known in (
            ("task", task, ("graph", "node")),
            ("mode", mode, ("delete", "weight")),
            ("output", output, ("logits", "log_probs", "probs")),
        ):
            if value not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, got {value!r}")
        if data.x is None or data.edge_index is None:
            raise ValueError("the graph must have x and edge_index")
        n = len(data.x)
        if n == 0:
            raise ValueError("the graph has no nodes")
        if data.edge_index.numel() and int(data.edge_index.max()) >= n:
            raise ValueError(f"edge_index names node {int(data.edge_index.max())} of a graph with {n} nodes")
        if task == "node" and (index is None or not 0 <= index < n):
            raise ValueError(f"a node task needs an index from 0 to {n - 1}, got {index}")
        if max_edges < 1:
            raise ValueError(f"max_edges must be at least 1, got {max_edges}")
        self.model, self.task, self.mode, self.output, self.max_edges = model, task, mode, output, max_edges
        names = inspect.signature(model.forward).parameters
        self.anything = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in names.values())
        self.names = set(names)
        if task == "graph" and "batch" not in self.names and not self.anything:
            raise ValueError("a model of graphs must take batch=, the graph of each node")
        self.weight_name = "edge_weights" if "edge_weights" in self.names else "edge_weight"
        if mode == "weight" and self.weight_name not in self.names and not self.anything:
            raise ValueError("the model takes no edge_weight: use mode='delete'")
        self.full_edges = data.edge_index
        self.kept_edges = torch.ones(data.edge_index.shape[1], dtype=torch.bool)
        x, edges, attr = data.x, data.edge_index, data.edge_attr
        self.domain_edges = torch.ones(edges.shape[1], dtype=torch.bool)
        self.target = 0
        if task == "node":
            assert index is not None
            radius = receptive_field(model) if hops is None else hops
            if radius is not None:
                # one hop more than the prediction looks: degrees of its outermost nodes are normalised by theirs
                nodes, edges, place, kept = k_hop_subgraph(
                    index, radius + 1, data.edge_index, relabel_nodes=True, num_nodes=n
                )
                inner = k_hop_subgraph(index, radius, data.edge_index, num_nodes=n)[3]
                x, attr = x[nodes], None if attr is None else attr[kept]
                self.kept_edges, self.domain_edges, self.target = kept, inner[kept], int(place)
            else:
                self.target = index
        self.x, self.edge_index, self.edge_attr = x, edges, attr
        ids, count = edge_units(data.edge_index)
        # units by their numbers in the whole graph, then those that are left
        self.units_of_graph = ids
        own, self.ids = torch.unique(ids[self.kept_edges], return_inverse=True)
        self.unit_names, self.n_units, self.n_units_of_graph = own, len(own), count
        self.domain = torch.zeros(self.n_units, dtype=torch.bool)
        self.domain[self.ids[self.domain_edges]] = True
        if mode == "weight":
            self._check_weights()

    def units(self, chosen: Bool[Tensor, "all_units"]) -> Bool[Tensor, "units"]:
        """A set of units of the whole graph, as far as they may be kept or deleted here."""
        return chosen[self.unit_names] & self.domain

    def everything(self) -> Bool[Tensor, "units"]:
        """All units."""
        return torch.ones(self.n_units, dtype=torch.bool)

    def probabilities(self, keep: Bool[Tensor, "subsets units"]) -> Float[Tensor, "subsets classes"]:
        """Class probabilities for each set of units that stays.

        Raises:
            ValueError: if the model returns another shape than one row a graph (or node), or NaN.
        """
        copies = max(1, self.max_edges // max(1, self.edge_index.shape[1]))
        with self._evaluating():
            return torch.cat([self._ask(part) for part in keep.split(copies)])

    def _ask(self, keep: Bool[Tensor, "subsets units"]) -> Float[Tensor, "subsets classes"]:
        k, n = len(keep), len(self.x)
        per_edge = keep[:, self.ids]  # (subsets, edges)
        offset = torch.arange(k) * n
        if self.mode == "delete":
            copy, edge = per_edge.nonzero(as_tuple=True)
            edges, weight = self.edge_index[:, edge] + offset[copy], None
            attr = None if self.edge_attr is None else self.edge_attr[edge]
        else:
            edges = (self.edge_index[:, None, :] + offset[:, None]).reshape(2, -1)
            weight = per_edge.reshape(-1).to(self.x.dtype)
            attr = None if self.edge_attr is None else self.edge_attr.repeat(k, *[1] * (self.edge_attr.ndim - 1))
        return self._forward(edges, weight, attr, k)

    def _forward(self, edges: Tensor, weight: Tensor | None, attr: Tensor | None, k: int) -> Tensor:
        n = len(self.x)
        options: dict[str, Any] = {}
        if self.task == "graph":
            options["batch"] = torch.arange(k).repeat_interleave(n)
        if weight is not None:
            options[self.weight_name] = weight
        if attr is not None and ("edge_attr" in self.names or self.anything):
            options["edge_attr"] = attr
        out = self.model(self.x.repeat(k, *[1] * (self.x.ndim - 1)), edges, **options)
        rows = k if self.task == "graph" else k * n
        if out.ndim != 2 or len(out) != rows or out.shape[1] < 2:
            raise ValueError(f"the model must return ({rows}, classes), two classes or more, got {tuple(out.shape)}")
        if self.task == "node":
            out = out[torch.arange(k) * n + self.target]
        out = out.double()
        if not torch.isfinite(out).all() and self.output != "log_probs":
            raise ValueError("the model returns values that are not finite")
        return out.softmax(-1) if self.output == "logits" else out.exp() if self.output == "log_probs" else out

    @contextmanager
    def _evaluating(self) -> Iterator[None]:
        modes = {module: module.training for module in self.model.modules()}
        self.model.eval()
        try:
            with torch.no_grad():
                yield
        finally:
            for module, training in modes.items():
                module.training = training

    def _check_weights(self) -> None:
        """A convolution that ignores weights would make every explanation look alike."""
        if not self.edge_index.numel():
            return
        generator = torch.Generator().manual_seed(0)
        with self._evaluating():
            plain = self._forward(
                self.edge_index, torch.ones(self.edge_index.shape[1], dtype=self.x.dtype), self.edge_attr, 1
            )
            other = torch.rand(self.edge_index.shape[1], generator=generator).to(self.x.dtype)
            changed = self._forward(self.edge_index, other, self.edge_attr, 1)
        if torch.equal(plain, changed):
            raise ValueError("the model ignores edge_weight: use mode='delete'")
