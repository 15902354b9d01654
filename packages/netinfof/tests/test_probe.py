import numpy as np
import pytest
import torch
from torch_geometric.data import Data

from netinfof_impl import (
    CompatibilityMatrix,
    ComponentEmbeddings,
    NetInfoFProbe,
    as_graph,
    contingency_table,
    netinfof_score,
    permutation_test,
    score_of_table,
    split_edges,
    synthetic_graph,
    training_pairs,
    walk_counts,
    walk_counts_loop,
)
from netinfof_impl.embeddings import scaled
from netinfof_impl.probe import quantile_edges


def a_graph(n=40, m=120, features=6, seed=0):
    rng = np.random.default_rng(seed)
    x = torch.from_numpy(rng.random((n, features)).astype(np.float32)) if features else None
    y = torch.from_numpy(rng.integers(0, 3, n))
    return Data(x=x, edge_index=torch.from_numpy(rng.integers(0, n, (2, m))), y=y, num_nodes=n)


def test_walks_all_at_once_and_one_at_a_time_have_the_same_means():
    graph = as_graph(a_graph(12, 30))
    fast = walk_counts(graph, walks=4000, threshold=0).toarray()
    slow = walk_counts_loop(graph, walks=4000, threshold=0, seed=1).toarray()
    # a count of mean m scatters by at most sqrt(m): five of them and both forms
    assert (np.abs(fast - slow) <= 8 * np.sqrt(np.maximum(fast, slow)) + 5).all()
    assert ((fast > 0) == (slow > 0)).mean() > 0.99


def test_walks_are_drawn_in_pieces_alike(monkeypatch):
    graph = as_graph(a_graph())
    monkeypatch.setattr("netinfof_impl.embeddings.CHUNK", 37)
    counts = walk_counts(graph, walks=10, threshold=0)
    assert counts.sum(1).max() <= 20
    assert counts.diagonal().sum() == 0


def test_embeddings_are_scaled_and_lengths_are_one():
    made = ComponentEmbeddings(4).fit_transform(a_graph())
    assert list(made) == ["U", "R", "F", "P", "S"]
    for z in made.values():
        assert z.shape == (40, 4)
        length = np.linalg.norm(z, axis=1)
        np.testing.assert_allclose(length[length > 0], 1, atol=1e-5)


def test_constant_columns_and_zero_rows_stay():
    z = np.array([[1.0, 0.0], [1.0, 0.0], [1.0, 2.0]])
    assert np.isfinite(scaled(z)).all()
    np.testing.assert_array_equal(scaled(np.zeros((3, 2))), np.zeros((3, 2)))


def test_constant_features_are_no_error():
    data = a_graph()
    data.x = torch.ones(40, 5)
    probe = NetInfoFProbe(permutations=99).fit(data)
    assert probe.scores_["F"] == pytest.approx(0.5)


def test_without_features_structure_is_left():
    data = a_graph(features=0)
    assert list(ComponentEmbeddings().fit_transform(data)) == ["U", "R"]
    assert set(NetInfoFProbe(permutations=99).fit(data).scores_) == {"U", "R"}
    with pytest.raises(ValueError, match="no features"):
        ComponentEmbeddings(components=("F",)).fit_transform(data)


def test_the_rank_comes_down_for_few_nodes_and_features():
    assert ComponentEmbeddings().fit_transform(a_graph(10, 30, 50))["U"].shape == (10, 9)
    assert ComponentEmbeddings().fit_transform(a_graph(40, 80, 3))["U"].shape == (40, 3)


@pytest.mark.parametrize("solver", ["exact", "randomized"])
def test_structure_has_the_singular_vectors_of_the_adjacency(solver):
    graph = as_graph(a_graph())
    z = ComponentEmbeddings(3, components=("U",), solver=solver, dtype=np.float64).fit_transform(graph)["U"]
    u, s, _ = np.linalg.svd(graph.adjacency().toarray())
    expected = scaled(u[:, :3] * np.sqrt(s[:3]))
    # signs, and the basis of equal values, are arbitrary
    np.testing.assert_allclose(np.abs(np.diag(z.T @ expected)), np.diag(expected.T @ expected), rtol=0.02)


def test_the_seed_makes_embeddings_repeatable():
    one, two = (ComponentEmbeddings(4, seed=3).fit_transform(a_graph()) for _ in range(2))
    for name in one:
        np.testing.assert_array_equal(one[name], two[name])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"edge_index": torch.tensor([[0], [0]])}, "at least one edge"),
        ({"edge_index": torch.tensor([[0], [99]])}, "from 0 to 39"),
        ({"edge_index": torch.tensor([[0.0], [1.0]])}, "must be integers"),
        ({"x": torch.full((40, 2), torch.nan)}, "x must be finite"),
        ({"x": torch.zeros(3, 2)}, "a row for each"),
        ({"y": torch.zeros(40)}, "y must hold an integer"),
    ],
)
def test_a_graph_that_cannot_be_read_is_named(change, message):
    data = a_graph()
    for name, value in change.items():
        data[name] = value
    with pytest.raises(ValueError, match=message):
        as_graph(data)


def test_directions_loops_and_repeats_go():
    graph = as_graph(Data(edge_index=torch.tensor([[0, 1, 2, 2, 1], [1, 0, 2, 1, 2]])))
    np.testing.assert_array_equal(graph.edges, [[0, 1], [1, 2]])


def test_splits_do_not_share_edges_and_negatives_are_none():
    graph = as_graph(a_graph())
    split = split_edges(graph, seed=2)
    known = {tuple(e) for e in graph.edges.T.tolist()}
    train = {tuple(e) for e in split.train.edges.T.tolist()}
    found = set(train)
    for pairs, labels in ((split.valid_pairs, split.valid_labels), (split.test_pairs, split.test_labels)):
        positive = {tuple(e) for e in pairs[:, labels == 1].T.tolist()}
        assert not found & positive
        found |= positive
        for a, b in pairs[:, labels == 0].T.tolist():
            assert a != b
            assert (min(a, b), max(a, b)) not in known
    assert found == known


def test_a_complete_graph_has_no_negatives():
    n = 5
    index = torch.tensor([[i, j] for i in range(n) for j in range(n)]).T
    with pytest.raises(ValueError, match="complete"):
        split_edges(Data(edge_index=index))


def test_quantile_bins_of_ties_are_merged():
    assert len(quantile_edges(np.array([0.0] * 90 + [1.0] * 10), 8)) <= 1
    assert len(quantile_edges(np.zeros(10), 8)) == 0
    np.testing.assert_array_equal(
        np.bincount(np.searchsorted(quantile_edges(np.arange(80.0), 8), np.arange(80.0), side="right")), [10] * 8
    )


def test_drawn_tables_have_the_margins_and_the_mean_of_permuted_labels():
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 5, 90), rng.choice([0, 0, 1, 2], 90)
    test = permutation_test(contingency_table(x, y), permutations=2000)
    by_hand = [netinfof_score(x, rng.permutation(y)) for _ in range(2000)]
    assert test.null_mean == pytest.approx(np.mean(by_hand), abs=0.003)
    assert test.null_high == pytest.approx(np.quantile(by_hand, 0.95), abs=0.006)


@pytest.mark.parametrize("table", [np.zeros((2, 2)), np.array([[1.0, -1.0]]), np.array([[np.nan, 1.0]])])
def test_tables_that_are_none_are_refused(table):
    with pytest.raises(ValueError, match="table must"):
        score_of_table(table)


def test_nan_is_not_a_value():
    with pytest.raises(ValueError, match="discrete"):
        netinfof_score(np.array([np.nan, 1.0]), np.array([0, 1]))


def test_stars_and_matchings_keep_their_edges():
    star = as_graph(Data(edge_index=torch.tensor([[0, 0, 0], [1, 2, 3]])))
    pairs, wanted = training_pairs(star)
    assert wanted.sum() == 3
    assert pairs.shape == (2, 9)


def test_a_sample_of_edges():
    _, wanted = training_pairs(as_graph(a_graph()), sample=10)
    assert wanted.sum() == 10
    assert len(wanted) == 30


@pytest.mark.parametrize("options", [{"damp": -1.0}, {"drop": 1.0}, {"tolerance": -1.0}])
def test_settings_of_the_matrix_are_checked(options):
    with pytest.raises(ValueError, match="must"):
        CompatibilityMatrix(**options)


def test_nodes_are_probed_by_cells():
    data = synthetic_graph("global", "diag", n_nodes=200, n_features=40)
    probe = NetInfoFProbe("node", permutations=99).fit(data)
    assert probe.base_ == pytest.approx(0.25, abs=1e-6)
    assert probe.scores_["P"] > 0.6
    assert set(probe.cells_.values()) <= {2, 4, 8, 16, 32, 64}
    assert "tells most" in probe.verdict()
    data.y = torch.from_numpy(np.random.default_rng(0).integers(0, 4, 200))
    assert "Nothing here" in NetInfoFProbe("node", permutations=99).fit(data).verdict()


def test_nodes_of_one_class_are_refused():
    data = a_graph()
    data.y = torch.zeros(40, dtype=torch.int64)
    with pytest.raises(ValueError, match="at least two classes"):
        NetInfoFProbe("node").fit(data)
    del data.y
    with pytest.raises(ValueError, match="y, labels"):
        NetInfoFProbe("node").fit(data)


def test_plain_inner_products_can_be_probed():
    probe = NetInfoFProbe(compatibility=None, permutations=99).fit(a_graph())
    assert all(0.5 <= s <= 1 for s in probe.scores_.values())


@pytest.mark.parametrize("edges", ["diag", "offdiag"])
@pytest.mark.parametrize("features", ["random", "global", "local"])
def test_the_generator_joins_what_it_should(features, edges):
    data = synthetic_graph(features, edges, n_nodes=200, n_features=40, walks=50)
    a, b = data.y[data.edge_index]
    within = (a == b) if edges == "diag" else (a // 2 == b // 2) & (a != b)
    assert within.float().mean() > 0.9
    assert data.x.shape == (200, 40)
    if features == "local":
        columns = data.x[data.y == 1][:, 20:]
        assert (columns == 0).float().mean() > 0.98
    again = synthetic_graph(features, edges, n_nodes=200, n_features=40, walks=50)
    assert torch.equal(again.edge_index, data.edge_index)


def test_the_generator_names_what_cannot_be():
    with pytest.raises(ValueError, match="even for offdiag"):
        synthetic_graph("global", "offdiag", n_classes=3)
    with pytest.raises(ValueError, match="at least 8 nodes"):
        synthetic_graph(n_nodes=10)
