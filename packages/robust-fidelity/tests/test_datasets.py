import numpy as np
import pytest
import torch

from robust_fidelity_impl.datasets import ba2motifs, ba_shapes, mutag, nitro_and_amino, tree_cycles, tree_grid


def undirected(graph):
    return {tuple(sorted(pair)) for pair in graph.edge_index.T.tolist()}


def test_graphs_with_a_house_or_a_cycle():
    before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    graphs = ba2motifs(10)
    assert torch.equal(before[0], torch.get_rng_state())
    assert (before[1] == np.random.get_state()[1]).all()  # noqa: NPY002
    assert sum(int(graph.y) for graph in graphs) == 5
    for graph in graphs:
        assert graph.x.shape == (25, 10)
        assert int(graph.edge_mask.sum()) == (10 if int(graph.y) else 12)
        ends = graph.edge_index[:, graph.edge_mask].unique()
        assert len(ends) == 5
    assert undirected(ba2motifs(10)[3]) == undirected(graphs[3])
    assert undirected(ba2motifs(10, seed=1)[3]) != undirected(graphs[3])


@pytest.mark.parametrize(
    ("make", "nodes", "motif_edges"), [(tree_cycles, 871, 60 * 6), (tree_grid, 1231, 80 * 12), (ba_shapes, 700, 80 * 6)]
)
def test_graphs_of_nodes_have_the_published_sizes(make, nodes, motif_edges):
    graph = make()
    assert graph.num_nodes == nodes
    assert int(graph.edge_mask.sum()) == 2 * motif_edges
    assert graph.is_undirected()
    assert int(graph.y.max()) == (3 if make is ba_shapes else 1)


def test_nitro_and_amino_groups_are_found():
    # C - N(=O)O, C - N, C - N - C, N - C - O
    atoms = [2, 5, 6, 6, 2, 5, 2, 5, 2]
    bonds = [(0, 1), (1, 2), (1, 3), (0, 4), (4, 5), (4, 6), (6, 7), (7, 8)]
    edges = torch.tensor([*bonds, *[(b, a) for a, b in bonds]]).T
    mask = nitro_and_amino(atoms, edges)
    assert {tuple(sorted(p)) for p in edges[:, mask].T.tolist()} == {(1, 2), (1, 3), (4, 5)}


@pytest.mark.data("tu_graphs_txt")
def test_mutag_and_its_groups():
    graphs = mutag()
    assert len(graphs) == 188
    assert sum(int(graph.y) for graph in graphs) == 125
    mutagenic = [bool(graph.edge_mask.any()) for graph in graphs if int(graph.y)]
    assert np.mean(mutagenic) > 0.9
