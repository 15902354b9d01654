"""What NetInfoF is compared with: graph networks, SlimG, inner products, logistic regression on features."""

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy import ndarray
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, dropout, elu
from torch_geometric.nn import GATConv, GCNConv, SAGEConv

from netinfof_impl.act import NetInfoFAct
from netinfof_impl.embeddings import ComponentEmbeddings
from netinfof_impl.graphs import AttributedGraph, EdgeSplit, hits_at_k, random_pairs, stream
from shared_impl.pretrained import Pretrained

__all__ = [
    "GraphNetwork",
    "dot_product_scores",
    "feature_regression",
    "slimg",
    "train_network_links",
    "train_network_nodes",
]


class GraphNetwork(nn.Module, Pretrained):
    """Two convolutions of GCN, GraphSAGE or GAT, with dropout between.

    Args:
        inputs: features of a node.
        outputs: width of what comes out: classes, or the embedding that links are scored by.
        kind: "GCN", "SAGE" or "GAT".
        hidden: width between.
        heads: of GAT.
        rate: of dropout.
    """

    def __init__(
        self,
        *,
        inputs: int = 8,
        outputs: int = 128,
        kind: Literal["GCN", "SAGE", "GAT"] = "GCN",
        hidden: int = 128,
        heads: int = 8,
        rate: float = 0.5,
    ) -> None:
        super().__init__()
        kinds: dict[str, Callable[[int, int], nn.Module]] = {
            "GCN": GCNConv,
            "SAGE": SAGEConv,
            "GAT": lambda i, o: GATConv(i, o // heads, heads=heads) if o % heads == 0 else GATConv(i, o),
        }
        if kind not in kinds:
            raise ValueError(f"kind must be GCN, SAGE or GAT, got {kind!r}")
        self.first, self.second, self.rate = kinds[kind](inputs, hidden), kinds[kind](hidden, outputs), rate

    def forward(self, x: Float[Tensor, "n inputs"], edge_index: Int[Tensor, "2 e"]) -> Float[Tensor, "n outputs"]:
        """Outputs of all nodes."""
        hidden = dropout(elu(self.first(x, edge_index)), self.rate, self.training)
        made: Tensor = self.second(hidden, edge_index)
        return made


def _inputs(graph: AttributedGraph) -> Tensor:
    if graph.features is None:
        raise ValueError("x must be given: a graph network reads features")
    return torch.from_numpy(graph.features.astype(np.float32))


def _trained(
    model: nn.Module,
    loss: Callable[[], Tensor],
    quality: Callable[[], float],
    *,
    epochs: int,
    patience: int,
    decay: float,
) -> None:
    """Adam until what is held back has not improved for `patience` steps; the best state stays."""
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2, weight_decay=decay)
    best, since, state = -1.0, 0, {k: v.clone() for k, v in model.state_dict().items()}
    for _ in range(epochs):
        model.train()
        optimizer.zero_grad()
        loss().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        model.eval()
        with torch.no_grad():
            found = quality()
        if found > best:
            best, since, state = found, 0, {k: v.clone() for k, v in model.state_dict().items()}
        elif (since := since + 1) >= patience:
            break
    model.load_state_dict(state)
    model.eval()


def train_network_links(
    split: EdgeSplit,
    kind: Literal["GCN", "SAGE", "GAT"] = "GCN",
    *,
    k: int = 100,
    epochs: int = 200,
    patience: int = 40,
    seed: int = 0,
) -> Callable[[Int[ndarray, "2 p"]], Float[ndarray, " p"]]:
    """Train a graph network to score links by inner products of its outputs, on full batches.

    Returns:
        scores of pairs.

    Raises:
        ValueError: a graph without features.
    """
    graph = split.train
    x, edge_index = _inputs(graph), torch.from_numpy(graph.both_ways.copy())
    edges, rng = torch.from_numpy(graph.edges), stream(seed, "negatives")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = GraphNetwork(inputs=x.shape[1], kind=kind)

        def scores(z: Tensor, pairs: Tensor) -> Tensor:
            return (z[pairs[0]] * z[pairs[1]]).sum(1)

        def loss() -> Tensor:
            z = model(x, edge_index)
            drawn = torch.from_numpy(random_pairs(graph.n, edges.shape[1], rng))
            logits = torch.cat([scores(z, edges), scores(z, drawn)])
            wanted = torch.cat([torch.ones(edges.shape[1]), torch.zeros(edges.shape[1])])
            return binary_cross_entropy_with_logits(logits, wanted)

        valid = torch.from_numpy(split.valid_pairs)
        k = min(k, int((split.valid_labels == 0).sum()))

        def quality() -> float:
            found = scores(model(x, edge_index), valid).double().numpy()
            return hits_at_k(found, split.valid_labels, k)

        _trained(model, loss, quality, epochs=epochs, patience=patience, decay=0.0)
    with torch.no_grad():
        z = model(x, edge_index)
    return lambda pairs: scores(z, torch.from_numpy(pairs)).double().numpy()


def train_network_nodes(
    graph: AttributedGraph,
    train: Int[ndarray, " t"],
    valid: Int[ndarray, " v"],
    kind: Literal["GCN", "SAGE", "GAT"] = "GCN",
    *,
    epochs: int = 300,
    patience: int = 50,
    seed: int = 0,
) -> Int[ndarray, " n"]:
    """Train a graph network on labels of some nodes; its guess for each node.

    Raises:
        ValueError: a graph without features or labels.
    """
    if graph.labels is None:
        raise ValueError("y must be given")
    x, edge_index = _inputs(graph), torch.from_numpy(graph.both_ways.copy())
    labels = torch.from_numpy(graph.labels)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = GraphNetwork(inputs=x.shape[1], outputs=int(labels.max()) + 1, kind=kind, hidden=64)
        at, checked = torch.from_numpy(train), torch.from_numpy(valid)

        def loss() -> Tensor:
            return cross_entropy(model(x, edge_index)[at], labels[at])

        def quality() -> float:
            return float((model(x, edge_index)[checked].argmax(1) == labels[checked]).float().mean())

        _trained(model, loss, quality, epochs=epochs, patience=patience, decay=5e-4)
    with torch.no_grad():
        made: ndarray = model(x, edge_index).argmax(1).numpy()
    return made


def slimg(task: Literal["link", "node"] = "link", *, k: int = 100, seed: int = 0) -> NetInfoFAct:
    """SlimG: structure, features, features spread with and without loops, and no adjustment of similarity."""
    embeddings = ComponentEmbeddings(components=("U", "F", "P", "S"), symmetric=True, seed=seed)
    return NetInfoFAct(task, embeddings=embeddings, compatibility="identity", k=k, random_state=seed)


def dot_product_scores(z: Float[ndarray, "n d"], pairs: Int[ndarray, "2 p"]) -> Float[ndarray, " p"]:
    """z_i . z_j of each pair: similarity as it is without adjustment."""
    made: ndarray = np.einsum("pd,pd->p", z[pairs[0]], z[pairs[1]]).astype(np.float64)
    return made


def feature_regression(graph: AttributedGraph, train: Int[ndarray, " t"], *, seed: int = 0) -> Int[ndarray, " n"]:
    """Logistic regression on the features alone; its guess for each node.

    Raises:
        ValueError: a graph without features or labels.
    """
    if graph.labels is None or graph.features is None:
        raise ValueError("x and y must be given")
    x: Any = StandardScaler(with_mean=False).fit_transform(graph.features)
    model = LogisticRegression(max_iter=500, C=0.1, random_state=seed).fit(x[train], graph.labels[train])
    made: ndarray = model.predict(x)
    return made
