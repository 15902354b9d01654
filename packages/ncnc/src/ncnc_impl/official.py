"""The authors' code beside ours: their modules, imported from a checkout, with our weights in them.

Their code needs torch_sparse and torch_scatter, which have no wheels for current versions of torch but can be built.
"""

import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ncnc_impl.csr import CSR
from ncnc_impl.graph import Graph, sample_negatives
from ncnc_impl.model import NCN
from ncnc_impl.recipes import Recipe
from shared_impl.cli import UserError

__all__ = ["OFFICIAL_NAMES", "OfficialModel", "load_official"]

OFFICIAL_NAMES = {"gae": "cn0", "ncn": "cn1", "ncnc": "incn1cn1"}


def load_official(folder: Path) -> Any:
    """Their `model.py`, imported.

    Raises:
        UserError: if `folder` is no checkout of GraphPKU/NeuralCommonNeighbor, or a library that it imports is missing.
    """
    if not (folder / "model.py").is_file() or not (folder / "NeighborOverlap.py").is_file():
        raise UserError(f"{folder} is not a checkout of GraphPKU/NeuralCommonNeighbor: it has no NeighborOverlap.py")
    with _first_on_path(folder, "model", "utils"):
        try:
            return importlib.import_module("model")
        except ImportError as error:
            raise UserError(f"the official code needs a library that is not installed: {error}") from error


class OfficialModel:
    """Their encoder and head with a recipe of the citation graphs, and their training epoch.

    Args:
        official: what `load_official` returned.
        variant: one of `OFFICIAL_NAMES`.
        x: dense features.
    """

    def __init__(self, official: Any, recipe: Recipe, variant: str, graph: Graph, x: Tensor) -> None:
        self._sparse = importlib.import_module("torch_sparse").SparseTensor
        self.graph, self.x = graph, x
        m = recipe.model
        hidden = m["hidden"]
        self.encoder = official.GCN(
            x.shape[1],
            hidden,
            hidden,
            m["n_layers"],
            m["encoder_dropout"],
            True,
            False,
            -1,
            m["conv"],
            m["jumping"],
            0.0,
            xdropout=m["x_dropout"],
            taildropout=m["tail_dropout"],
        )
        options: dict[str, Any] = {}
        if variant != "gae":
            options = {
                "cndeg": -1,
                "use_xlin": m["transform_nodes"],
                "tailact": m["tail_act"],
                "twolayerlin": m["two_layer_out"],
                "beta": 1.0,
            }
        if variant == "ncnc":
            options |= {**recipe.completion, "depth": 1, "splitsize": -1, "trainresdeg": -1, "testresdeg": -1}
        head = official.predictor_dict[OFFICIAL_NAMES[variant]]
        self.head = head(hidden, hidden, 1, 3, m["dropout"], m["edge_dropout"], True, **options)

    def take_weights(self, ours: NCN) -> None:
        """Copy the weights of a model of the same recipe."""
        _copy(self.encoder.xemb, ours.encoder.input)
        with torch.no_grad():
            self.encoder.jkparams.copy_(ours.encoder.jumping)  # type: ignore[arg-type]
            self.head.beta.copy_(ours.head.beta)
        for name in ("xlin", "xcnlin", "xijlin", "lin"):
            _copy(getattr(self.head, name), getattr(ours.head, name))

    def adjacency(self, adj: CSR) -> Any:
        """A graph as they store it."""
        return self._sparse(rowptr=adj.rowptr, col=adj.col, sparse_sizes=(adj.n_rows, adj.n_cols), is_sorted=True)

    @torch.no_grad()
    def logits(self, pairs: Tensor) -> Tensor:
        """Scores in evaluation mode."""
        self.encoder.eval()
        self.head.eval()
        adj = self.adjacency(self.graph.adj)
        found: Tensor = self.head(self.encoder(self.x, adj), adj, pairs.t()).squeeze(1)
        return found

    def epoch(self, batch_size: int) -> Callable[[], None]:
        """A function that trains an epoch as their loop does: negatives once, a new matrix for each batch."""
        edges, n = self.graph.edges.t(), self.graph.n_nodes
        parameters = [*self.encoder.parameters(), *self.head.parameters()]
        optimizer = torch.optim.Adam(parameters, lr=1e-3)

        def run() -> None:
            self.encoder.train()
            self.head.train()
            negatives = sample_negatives(self.graph, edges.shape[1]).t()
            keep = torch.ones(edges.shape[1], dtype=torch.bool)
            order = torch.randperm(edges.shape[1])
            for start in range(0, edges.shape[1] - batch_size + 1, batch_size):
                batch = order[start : start + batch_size]
                optimizer.zero_grad()
                keep[batch] = False
                adj = self._sparse.from_edge_index(edges[:, keep], sparse_sizes=(n, n)).to_symmetric()
                keep[batch] = True
                h = self.encoder(self.x, adj)
                positive = self.head.multidomainforward(h, adj, edges[:, batch], cndropprobs=[])
                negative = self.head.multidomainforward(h, adj, negatives[:, batch], cndropprobs=[])
                (-F.logsigmoid(positive).mean() - F.logsigmoid(-negative).mean()).backward()
                optimizer.step()

        return run


def _copy(theirs: nn.Module, ours: nn.Module | None) -> None:
    """Weights in order: what has weights stands in the same order in both."""
    assert ours is not None
    with torch.no_grad():
        for target, source in zip(theirs.parameters(), ours.parameters(), strict=True):
            target.copy_(source)


@contextmanager
def _first_on_path(folder: Path, *names: str) -> Iterator[None]:
    """Let modules of these names be found in the folder, and forget them afterwards."""
    before = {name: sys.modules.pop(name, None) for name in names}
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        for name, module in before.items():
            sys.modules.pop(name, None)
            if module is not None:
                sys.modules[name] = module
