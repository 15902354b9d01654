"""Asking a classifier about many subgraphs of one graph at once: copies in one disjoint union, cut into chunks."""

import hashlib
import inspect
import warnings
from collections.abc import Callable, Iterator
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
MAX_VALUES = 50_000_000
"""Numbers of a chunk's features."""


def receptive_field(model: nn.Module, run: Callable[[], object]) -> int | None:
    """How many hops a prediction looks at most: the messages that are passed on while `run` calls the model once.

    Layers that are called twice, and those that pass messages on several times (TAGConv, APPNP), count as often.
    None if no message is passed by torch_geometric's means, so that it cannot be told.
    """
    count = 0

    def one_more(*_: object) -> None:
        nonlocal count
        count += 1

    layers = [module for module in model.modules() if isinstance(module, MessagePassing)]
    hooks = [layer.register_propagate_forward_pre_hook(one_more) for layer in layers]
    try:
        run()
    finally:
        for hook in hooks:
            hook.remove()
    # a layer that keeps what it has propagated (SGConv with cached=True) passes nothing on: it may have looked anywhere
    return None if any(getattr(layer, "cached", False) for layer in layers) else count or None


class Probe:
    """A classifier and a graph, ready to be asked about subsets of the graph's edges.

    Args:
        model: called as `model(x, edge_index)`, with `batch=` for graphs, `edge_weight=` or `edge_weights=` in weight
            mode, and `edge_attr=` if the graph has some and the model takes it. It runs in evaluation mode without
            gradients, and its mode is given back.
        task: `graph`: one prediction for the graph; `node`: the prediction for the node `index`.
        hops: for nodes: the radius of the computation graph, whose edges alone are kept or deleted (default: how often
            the model passes messages on; if that cannot be told, the whole graph).
        mode: `delete`: edges are taken out, right for every model; `weight`: they get weight 0, as the authors do.
            A graph's own `edge_weight` is given to a model that takes one.
        output: what the model returns.
        max_edges: edges in one forward pass.

    Copies of a graph go through the model together where that changes nothing, else (norms over all nodes) one by one.

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
        if getattr(data, "num_graphs", 1) != 1:
            raise ValueError(f"data must be one graph, got a batch of {data.num_graphs}")
        if data.x is None or data.edge_index is None:
            raise ValueError("the graph must have x and edge_index")
        if hops is not None and (isinstance(hops, bool) or hops < 1):
            raise ValueError(f"hops must be at least 1, got {hops}")
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
        x, edges, attr = data.x, data.edge_index, data.edge_attr
        weight = getattr(data, "edge_weight", None)
        if weight is not None and weight.shape != (edges.shape[1],):
            raise ValueError(f"edge_weight must have one value for each of the {edges.shape[1]} edges")
        self.kept_edges = torch.ones(edges.shape[1], dtype=torch.bool)
        self.domain_edges = torch.ones(edges.shape[1], dtype=torch.bool)
        self.target = 0
        self.x, self.edge_index, self.edge_attr, self.edge_weight = x, edges, attr, weight
        if task == "node":
            assert index is not None
            radius = hops
            if hops is None:
                with self._evaluating():
                    radius = receptive_field(model, lambda: self._forward(edges, weight, attr, 1))
            if radius is not None:
                # one hop more than the prediction looks: degrees of its outermost nodes are normalised by theirs
                nodes, edges, place, kept = k_hop_subgraph(
                    index, radius + 1, data.edge_index, relabel_nodes=True, num_nodes=n
                )
                inner = k_hop_subgraph(index, radius, data.edge_index, num_nodes=n)[3]
                x, attr = x[nodes], None if attr is None else attr[kept]
                weight = None if weight is None else weight[kept]
                self.kept_edges, self.domain_edges, self.target = kept.cpu(), inner[kept].cpu(), int(place)
            else:
                self.target = index
        self.x, self.edge_index, self.edge_attr, self.edge_weight = x, edges, attr, weight
        # sets of units stay on the processor, wherever the model is
        ids, count = edge_units(data.edge_index.cpu())
        # units by their numbers in the whole graph, then those that are left
        self.units_of_graph = ids
        own, self.ids = torch.unique(ids[self.kept_edges], return_inverse=True)
        self.unit_names, self.n_units, self.n_units_of_graph = own, len(own), count
        self.domain = torch.zeros(self.n_units, dtype=torch.bool)
        self.domain[self.ids[self.domain_edges]] = True
        content = (data.edge_index, data.x, torch.tensor(-1 if index is None else index))
        digest = hashlib.blake2b(digest_size=6)
        for part in content:
            digest.update(part.detach().cpu().contiguous().numpy().tobytes())
        self.fingerprint = int.from_bytes(digest.digest(), "big")
        """a number of the graph (and node): other graphs draw other random numbers from one seed"""
        self.together = True
        self._check_copies()
        if mode == "weight":
            self._check_weights()

    def _check_copies(self) -> None:
        """Whether a copy's answer depends on the copies beside it, as under norms over all nodes."""
        if not self.n_units:
            return
        draw = torch.rand(self.n_units, generator=torch.Generator().manual_seed(0)) < 0.5
        both = torch.stack([self.everything(), draw])
        with self._evaluating():
            apart = torch.cat([self._ask(both[:1]), self._ask(both[1:])])
            self.together = torch.allclose(self._ask(both), apart, rtol=1e-4, atol=1e-5)

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
        copies = min(self.max_edges // max(1, self.edge_index.shape[1]), MAX_VALUES // max(1, self.x.numel()))
        copies = max(1, copies) if self.together else 1
        with self._evaluating():
            return torch.cat([self._ask(part) for part in keep.split(copies)])

    def _ask(self, keep: Bool[Tensor, "subsets units"]) -> Float[Tensor, "subsets classes"]:
        k, n, device = len(keep), len(self.x), self.x.device
        per_edge = keep[:, self.ids].to(device)  # (subsets, edges)
        offset = torch.arange(k, device=device) * n
        if self.mode == "delete":
            copy, edge = per_edge.nonzero(as_tuple=True)
            edges = self.edge_index[:, edge] + offset[copy]
            weight = None if self.edge_weight is None else self.edge_weight[edge]
            attr = None if self.edge_attr is None else self.edge_attr[edge]
        else:
            edges = (self.edge_index[:, None, :] + offset[:, None]).reshape(2, -1)
            weight = (per_edge.to(self.x.dtype) * (1 if self.edge_weight is None else self.edge_weight)).reshape(-1)
            attr = None if self.edge_attr is None else self.edge_attr.repeat(k, *[1] * (self.edge_attr.ndim - 1))
        return self._forward(edges, weight, attr, k)

    def _forward(self, edges: Tensor, weight: Tensor | None, attr: Tensor | None, k: int) -> Tensor:
        n = len(self.x)
        options: dict[str, Any] = {}
        if self.task == "graph":
            options["batch"] = torch.arange(k, device=self.x.device).repeat_interleave(n)
        if weight is not None and (self.weight_name in self.names or self.anything):
            options[self.weight_name] = weight
        if attr is not None and ("edge_attr" in self.names or self.anything):
            options["edge_attr"] = attr
        out = self.model(self.x.repeat(k, *[1] * (self.x.ndim - 1)), edges, **options)
        rows = k if self.task == "graph" else k * n
        if out.ndim != 2 or len(out) != rows or out.shape[1] < 2:
            raise ValueError(f"the model must return ({rows}, classes), two classes or more, got {tuple(out.shape)}")
        if self.task == "node":
            out = out[torch.arange(k, device=out.device) * n + self.target]
        return self._as_probabilities(out.double().cpu())

    def _as_probabilities(self, out: Float[Tensor, "rows classes"]) -> Float[Tensor, "rows classes"]:
        bad = torch.isnan(out) if self.output == "log_probs" else ~torch.isfinite(out)
        if bad.any():
            raise ValueError("the model returns values that are not finite")
        if self.output == "logits":
            if bool((out >= 0).all()) and torch.allclose(out.sum(1), torch.ones(len(out), dtype=out.dtype), atol=1e-4):
                warnings.warn("the model seems to return probabilities: give output='probs'", UserWarning, stacklevel=2)
            return out.softmax(-1)
        made = out.exp() if self.output == "log_probs" else out
        if bool((made < -1e-6).any()) or not torch.allclose(
            made.sum(1), torch.ones(len(made), dtype=made.dtype), atol=1e-3
        ):
            raise ValueError(f"the model's outputs are no {self.output}: rows must sum to 1 as probabilities")
        return made

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
            ones = torch.ones(self.edge_index.shape[1], dtype=self.x.dtype, device=self.x.device)
            plain = self._forward(self.edge_index, ones, self.edge_attr, 1)
            other = torch.rand(len(ones), generator=generator).to(ones)
            changed = self._forward(self.edge_index, other, self.edge_attr, 1)
            half = (torch.rand(1, self.n_units, generator=generator) < 0.5) | ~self.domain
            by_weight, self.mode = self._ask(half), "delete"
            by_deletion, self.mode = self._ask(half), "weight"
        if torch.equal(plain, changed):
            raise ValueError("the model ignores edge_weight: use mode='delete'")
        if not torch.allclose(by_weight, by_deletion, rtol=1e-3, atol=1e-4):
            warnings.warn(
                "edges of weight 0 still count in this model (taken out, they give other answers): some of its layers "
                "ignore edge_weight, or read edges without it; mode='delete' is right for every model",
                UserWarning, stacklevel=3,
            )  # fmt: skip
