import numpy as np
import pytest
import scipy.sparse as sp
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ncnc_impl import Graph, common_neighbors, residual_neighbors
from ncnc_impl.csr import gather_rows
from ncnc_impl.overlap import (
    common_neighbors_naive,
    overlap_parts,
    residual_neighbors_naive,
    sample_entries,
    two_step_neighbors,
)


def same(a, b):
    return torch.equal(a.rowptr, b.rowptr) and torch.equal(a.col, b.col)


@st.composite
def graphs_and_pairs(draw):
    n = draw(st.integers(1, 12))
    node = st.integers(0, n - 1)
    edges = draw(st.lists(st.tuples(node, node), max_size=40))
    pairs = draw(st.lists(st.tuples(node, node), max_size=15))
    return Graph.from_edges(edges, n), torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2)


@settings(deadline=None, max_examples=80)
@given(graphs_and_pairs(), st.integers(1, 40))
def test_overlaps_equal_set_operations_for_any_graph_and_any_chunk(sample, max_entries):
    graph, pairs = sample
    common = common_neighbors_naive(graph.adj, pairs)
    expected = (common, *residual_neighbors_naive(graph.adj, pairs))
    for method in ("merge", "search"):
        assert same(common_neighbors(graph.adj, pairs, max_entries=max_entries, method=method), common)
        found = overlap_parts(graph.adj, pairs, max_entries=max_entries, method=method)
        for ours, theirs in zip(found, expected, strict=True):
            assert same(ours, theirs)


def test_common_and_residual_neighbors_make_up_the_neighborhoods(random_graph, all_pairs):
    graph = random_graph(0)
    pairs = all_pairs(graph.n_nodes)
    common, only_i, only_j = overlap_parts(graph.adj, pairs)
    degree = graph.adj.counts()
    assert torch.equal(common.counts() + only_i.counts(), degree[pairs[:, 0]])
    assert torch.equal(common.counts() + only_j.counts(), degree[pairs[:, 1]])


def test_scipy_matrices_are_taken_and_given_back(random_graph, all_pairs):
    graph = random_graph(1)
    pairs = all_pairs(graph.n_nodes)
    matrix = graph.adj.to_scipy()
    found = common_neighbors(matrix, pairs.numpy())
    assert isinstance(found, sp.csr_array)
    i, j = pairs.numpy().T
    assert (found != matrix[i].multiply(matrix[j])).nnz == 0
    only_i, only_j = residual_neighbors(sp.coo_matrix(matrix), pairs.numpy())
    ours = residual_neighbors(graph.adj, pairs)
    assert np.array_equal(only_i.toarray(), ours[0].to_dense().numpy())
    assert np.array_equal(only_j.toarray(), ours[1].to_dense().numpy())


def test_an_empty_graph_has_no_neighbors_at_all():
    graph = Graph.from_edges([], 5)
    pairs = torch.tensor([[0, 1], [2, 2]])
    for method in ("merge", "search"):
        for part in overlap_parts(graph.adj, pairs, method=method):
            assert part.nnz == 0
            assert part.n_rows == 2
        assert common_neighbors(graph.adj, torch.empty(0, 2, dtype=torch.int64), method=method).n_rows == 0


def test_ids_out_of_range_are_refused(random_graph):
    with pytest.raises(ValueError, match="nodes 0 to 24"):
        common_neighbors(random_graph(0).adj, torch.tensor([[0, 25]]))


def test_two_step_neighbors_are_those_of_the_squared_adjacency_matrix(random_graph, all_pairs):
    graph = random_graph(3)
    pairs = all_pairs(graph.n_nodes)
    dense = graph.adj.to_dense()
    expected = dense[pairs[:, 0]] * (dense @ dense > 0).float()[pairs[:, 1]]
    for max_entries in (500, 2**20):
        found = two_step_neighbors(graph.adj, pairs, max_entries=max_entries)
        assert torch.equal(found.to_dense(), expected)


def test_sampling_keeps_short_rows_and_the_expected_sum_of_long_ones(random_graph):
    graph = random_graph(4, n_nodes=30, n_pairs=200)
    rows = gather_rows(graph.adj, torch.arange(30))
    limit = 4
    generator = torch.Generator().manual_seed(0)
    total = torch.zeros(30, 30)
    rounds = 500
    for _ in range(rounds):
        drawn = sample_entries(rows, limit, generator=generator)
        assert int(drawn.counts().max()) <= limit
        torch.testing.assert_close(drawn.row_sums(), rows.counts().float(), rtol=1e-5, atol=1e-5)
        total += drawn.to_dense()
    # the standard error of an entry's mean is at most sqrt(degree / limit / rounds) < 0.1; five of them
    torch.testing.assert_close(total / rounds, rows.to_dense(), rtol=0, atol=0.5)
    short = rows.counts() <= limit
    assert bool(short.any())
    assert torch.equal(drawn.to_dense()[short], rows.to_dense()[short])


def test_a_sample_of_none_is_refused(random_graph):
    with pytest.raises(ValueError, match="limit must be at least 1, got 0"):
        sample_entries(random_graph(0).adj, 0)
