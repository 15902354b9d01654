import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ncnc_impl import Graph, sample_negatives
from ncnc_impl.graph import is_edge

EDGES = [(0, 1), (1, 0), (0, 1), (2, 2), (3, 1)]


def test_self_loops_repeats_and_directions_are_cleaned_and_counted():
    graph = Graph.from_edges(EDGES, 5)
    assert graph.edges.tolist() == [[0, 1], [1, 3]]
    assert graph.cleaned == {"self_loops": 1, "repeats": 2}
    assert graph.n_nodes == 5
    dense = graph.adj.to_dense()
    assert torch.equal(dense, dense.t())
    assert torch.equal(dense.diagonal(), torch.zeros(5))


@settings(deadline=None)
@given(st.integers(2, 12), st.data())
def test_adjacency_is_symmetric_sorted_and_knows_its_edges(n, data):
    node = st.integers(0, n - 1)
    graph = Graph.from_edges(data.draw(st.lists(st.tuples(node, node), max_size=30)), n)
    assert graph.adj.nnz == 2 * graph.n_edges
    rows, cols = graph.adj.rows(), graph.adj.col
    assert torch.equal(graph.edges[graph.edge_of], torch.stack((rows, cols), 1).sort(1).values)
    assert bool((graph.keys.diff() > 0).all())


def test_removing_edges_takes_both_directions(random_graph):
    graph = random_graph(0)
    removed = torch.arange(graph.n_edges) % 2 == 0
    rest = graph.without(removed)
    expected = graph.with_edges(graph.edges[~removed])
    assert torch.equal(rest.to_dense(), expected.adj.to_dense())
    assert rest.symmetric


@pytest.mark.parametrize(
    ("pairs", "options", "message"),
    [
        ([(0, 7)], {"n_nodes": 5}, r"edges must name nodes 0 to 4, got \(0, 7\) at position 0"),
        ([(0, -1)], {"n_nodes": 5}, "edges must name nodes 0 to 4"),
        ([(0, 1, 2)], {}, r"edges must have shape \(n, 2\)"),
        (np.zeros((2, 9), dtype=int), {}, "transpose it"),
        ([(0.5, 1.0)], {}, "edges must be integer node ids"),
        (torch.tensor([[0.5, 1.0]]), {}, "edges must be integer node ids"),
        ([], {}, "n_nodes must be from 1"),
        ([(0, 1)], {"x": np.zeros((3, 2)), "n_nodes": 2}, "x must have one row a node"),
        ([(0, 1)], {"x": np.array([[1.0], [np.nan]])}, "x must be finite"),
        ([(0, 1)], {"x": np.array([0, -1])}, "one category from 0"),
        ([(0, 1)], {"names": ["a"]}, "names must name every node"),
    ],
)
def test_malformed_graphs_are_refused(pairs, options, message):
    with pytest.raises(ValueError, match=message):
        Graph.from_edges(pairs, **options)


def test_negatives_are_neither_edges_nor_loops(random_graph):
    graph = random_graph(1)
    drawn = sample_negatives(graph, 500, generator=torch.Generator().manual_seed(0))
    assert drawn.shape == (500, 2)
    assert not is_edge(graph, drawn).any()
    assert bool((drawn[:, 0] != drawn[:, 1]).all())


def test_unique_negatives_can_be_all_that_there_are():
    graph = Graph.from_edges([(0, 1), (1, 2)], 5)
    drawn = sample_negatives(graph, 8, unique=True)
    assert len({tuple(pair) for pair in drawn.tolist()}) == 8
    assert bool((drawn[:, 0] < drawn[:, 1]).all())
    with pytest.raises(ValueError, match="only 8 pairs of nodes are not edges"):
        sample_negatives(graph, 9, unique=True)


def test_negatives_are_uniform_over_the_pairs_that_are_no_edges():
    graph = Graph.from_edges([(0, 1), (1, 2)], 4)
    drawn = sample_negatives(graph, 8000, generator=torch.Generator().manual_seed(1)).sort(1).values
    counts = torch.unique(drawn, dim=0, return_counts=True)[1]
    # four pairs, 2000 each; the standard deviation of a count is 39
    assert counts.tolist() == pytest.approx([2000] * 4, abs=200)


def test_a_complete_graph_has_no_negatives():
    graph = Graph.from_edges([(0, 1), (0, 2), (1, 2)])
    with pytest.raises(ValueError, match="only 0 pairs"):
        sample_negatives(graph, 1)
