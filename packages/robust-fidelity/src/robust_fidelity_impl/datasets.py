"""Graphs whose explanation is known: generated ones, and MUTAG with its nitro and amino groups (section 5)."""

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor
from torch_geometric.data import Data
from torch_geometric.datasets import ExplainerDataset
from torch_geometric.datasets.graph_generator import BAGraph, TreeGraph
from torch_geometric.datasets.motif_generator import CycleMotif, GridMotif, HouseMotif
from torch_geometric.utils import to_undirected

from shared_impl import datasets

__all__ = ["ba2motifs", "ba_shapes", "mutag", "nitro_and_amino", "tree_cycles", "tree_grid"]

CARBON, NITROGEN, OXYGEN = 2, 5, 6
"""tags of the file"""


def ba2motifs(n_graphs: int = 1000, *, seed: int = 0) -> list[Data]:
    """Barabási-Albert graphs of 20 nodes with a house (class 0) or a cycle of five (class 1), half each;
    ten features of 0.1. `edge_mask` marks the motif's edges, in both directions."""
    with _seeded(seed):
        halves = [
            ExplainerDataset(BAGraph(num_nodes=20, num_edges=1), motif, num_motifs=1, num_graphs=count)
            for motif, count in ((HouseMotif(), (n_graphs + 1) // 2), (CycleMotif(5), n_graphs // 2))
            if count
        ]
        graphs = []
        for label, half in enumerate(halves):
            graphs += [
                Data(
                    x=torch.full((graph.num_nodes, 10), 0.1),
                    edge_index=graph.edge_index,
                    y=torch.tensor([label]),
                    edge_mask=graph.edge_mask.bool(),
                )
                for graph in half
            ]
    order = np.random.default_rng(seed).permutation(len(graphs))
    return [graphs[i] for i in order]


def tree_cycles(*, seed: int = 0, extra: float = 0.1) -> Data:
    """A balanced binary tree of 511 nodes with 60 cycles of six, 871 nodes, and random extra edges."""
    return _tree(CycleMotif(6), 60, seed, extra)


def tree_grid(*, seed: int = 0, extra: float = 0.1) -> Data:
    """A balanced binary tree of 511 nodes with 80 grids of 3 x 3, 1,231 nodes, and random extra edges."""
    return _tree(GridMotif(), 80, seed, extra)


def ba_shapes(*, seed: int = 0, extra: float = 0.1) -> Data:
    """A Barabási-Albert graph of 300 nodes with 80 houses, 700 nodes, four roles, and random extra edges."""
    with _seeded(seed):
        graph = ExplainerDataset(BAGraph(num_nodes=300, num_edges=5), HouseMotif(), num_motifs=80)[0]
    return _with_noise(graph, graph.y, seed, extra)


def _tree(motif: CycleMotif | GridMotif, count: int, seed: int, extra: float) -> Data:
    with _seeded(seed):
        graph = ExplainerDataset(TreeGraph(depth=8), motif, num_motifs=count)[0]
    return _with_noise(graph, (graph.y > 0).long(), seed, extra)


def _with_noise(graph: Data, y: Tensor, seed: int, extra: float) -> Data:
    """Ten features of 1; `extra` random edges for each node; the motifs' edges marked."""
    n = graph.num_nodes
    rng = np.random.default_rng(seed)
    pairs = torch.from_numpy(rng.integers(0, n, (2, round(extra * n))))
    pairs = pairs[:, pairs[0] != pairs[1]]
    edges = torch.cat([graph.edge_index, pairs, pairs.flip(0)], 1)
    truth = torch.cat([graph.edge_mask, torch.zeros(2 * pairs.shape[1])])
    edges, truth = to_undirected(edges, truth, num_nodes=n, reduce="max")
    return Data(x=torch.ones(n, 10), edge_index=edges, y=y, edge_mask=truth.bool())


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """The generators of graphs draw from the global random numbers, which are given back."""
    state = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    try:
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        torch.manual_seed(seed)
        yield
    finally:
        random.setstate(state[0])
        np.random.set_state(state[1])  # noqa: NPY002
        torch.set_rng_state(state[2])


def mutag() -> list[Data]:
    """The 188 molecules of MUTAG: one feature an atom kind, `edge_mask` marks the bonds of NO2 and NH2 groups.

    Hydrogen is not in these graphs, so NH2 is a nitrogen with a single neighbour, a carbon.

    Raises:
        DataError: if the file cannot be had or is damaged.
    """
    graphs = []
    for graph in datasets.tu_graphs("MUTAG"):
        tags = torch.from_numpy(graph.tags)
        edges = torch.from_numpy(graph.edge_index)
        x = torch.nn.functional.one_hot(tags, 7).float()
        truth = nitro_and_amino(tags.tolist(), edges)
        graphs.append(Data(x=x, edge_index=edges, y=torch.tensor([graph.label]), edge_mask=truth))
    return graphs


def nitro_and_amino(atoms: Sequence[int], edge_index: Tensor) -> Bool[Tensor, "edges"]:
    """Which bonds belong to an NO2 group (nitrogen and two oxygens that have no other neighbour) or to an NH2."""
    neighbours: list[set[int]] = [set() for _ in atoms]
    for a, b in edge_index.T.tolist():
        neighbours[a].add(b)
    groups: set[tuple[int, int]] = set()
    for atom, kind in enumerate(atoms):
        if kind != NITROGEN:
            continue
        around = neighbours[atom]
        ends = [b for b in around if atoms[b] == OXYGEN and len(neighbours[b]) == 1]
        if len(ends) >= 2:
            groups |= {pair for b in ends for pair in ((atom, b), (b, atom))}
        elif len(around) == 1:
            (b,) = around
            if atoms[b] == CARBON:
                groups |= {(atom, b), (b, atom)}
    return torch.tensor([(a, b) in groups for a, b in edge_index.T.tolist()], dtype=torch.bool)
