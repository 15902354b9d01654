import numpy as np
import pytest
import torch
from sklearn.base import clone
from torch_geometric.data import Data

from netinfof_impl import (
    CompatibilityMatrix,
    ComponentEmbeddings,
    NetInfoFProbe,
    accuracy_of_table,
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
from netinfof_impl.graphs import stream
from netinfof_impl.probe import _Choice, quantile_edges
from netinfof_impl.score import against_chance


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
    probe = NetInfoFProbe(permutations=99).fit(data)
    assert set(probe.scores_) == {"U", "R"}
    assert "Features alone" not in probe.verdict()
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


@pytest.mark.parametrize("y", [torch.rand(40), torch.zeros(40, 3), torch.tensor([1])])
def test_links_do_not_ask_for_labels_of_nodes(y):
    data = a_graph()
    data.y = y
    assert set(NetInfoFProbe(permutations=99).fit(data).scores_) == set("URFPS")
    with pytest.raises(ValueError, match="y must hold an integer"):
        NetInfoFProbe("node").fit(data)


def test_splits_of_torch_geometric_are_read():
    data = synthetic_graph("global", "diag", n_nodes=120, n_features=24, walks=50)
    edges = data.edge_index[:, data.edge_index[0] < data.edge_index[1]]
    held_back, kept = edges[:, ::4], edges[:, torch.arange(edges.shape[1]) % 4 > 0]
    # as RandomLinkSplit gives them: tensors, labels as floats
    others = torch.from_numpy(np.random.default_rng(0).integers(0, 120, (2, held_back.shape[1])))
    pairs = torch.cat([held_back, others], 1)
    labels = torch.cat([torch.ones(held_back.shape[1]), torch.zeros(held_back.shape[1])])
    train = Data(x=data.x, edge_index=kept, num_nodes=120)
    assert NetInfoFProbe(permutations=99).fit(train, pairs, labels).scores_["F"] > 0.6
    with pytest.raises(ValueError, match="nodes from 0 to 119"):
        NetInfoFProbe().fit(train, pairs + 100, labels)
    with pytest.raises(ValueError, match="0 or 1 and both"):
        NetInfoFProbe().fit(train, pairs, labels + 1)
    with pytest.raises(ValueError, match="held back must not be among"):
        NetInfoFProbe().fit(data, pairs, labels)


def test_a_nearly_complete_graph_is_split_at_once():
    low, high = np.triu_indices(400, 1)
    split = split_edges(Data(edge_index=torch.from_numpy(np.stack([low, high]))[:, :-1]))
    assert set(map(tuple, split.test_pairs[:, split.test_labels == 0].T.tolist())) == {(398, 399)}


def test_structure_does_not_depend_on_the_order_of_nodes_where_edges_join_two_sides():
    rng = np.random.default_rng(0)
    ends = np.stack([rng.integers(0, 30, 150), rng.integers(30, 60, 150)])
    place = np.argsort(rng.permutation(60))
    x = rng.random((60, 5))
    made = []
    for index, features in ((ends, x), (place[ends], x[np.argsort(place)])):
        data = Data(x=torch.from_numpy(features), edge_index=torch.from_numpy(index))
        made.append(ComponentEmbeddings(components=("U", "P"), dtype=np.float64).fit_transform(data))
    for one, other in zip(made[0].values(), made[1].values(), strict=True):
        np.testing.assert_allclose(one @ one.T, (other @ other.T)[np.ix_(place, place)], atol=1e-8)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_directions_without_weight_are_not_blown_up(dtype):
    graph = as_graph(a_graph(), normalise=True)  # rows sum to one: of six columns five are free
    made = ComponentEmbeddings(components=("F", "P"), dtype=dtype).fit_transform(graph)
    assert (made["F"][:, -1] == 0).all()
    assert (made["P"][:, -1] == 0).all()
    assert made["F"][:, :-1].std(0).min() > 0.1


def test_spread_features_are_those_of_dense_matrices():
    graph = as_graph(a_graph())
    made = ComponentEmbeddings(4, components=("F", "P", "S"), dtype=np.float64).fit_transform(graph)
    a, x = graph.adjacency().toarray().astype(np.float64), graph.features.astype(np.float64)
    for name, matrix in (("F", None), ("P", a), ("S", a + np.eye(40))):
        spread = x if matrix is None else np.linalg.matrix_power(matrix / np.maximum(matrix.sum(1), 1)[:, None], 2) @ x
        u, s, _ = np.linalg.svd(spread - spread.mean(0), full_matrices=False)
        expected = u[:, :4] * s[:4]
        expected = expected / expected.std(0)
        expected /= np.linalg.norm(expected, axis=1, keepdims=True)
        np.testing.assert_allclose(made[name] @ made[name].T, expected @ expected.T, atol=1e-8)


def test_counts_that_are_all_dropped_tell_nothing():
    assert (ComponentEmbeddings(3, walks=1, components=("R",)).fit_transform(a_graph())["R"] == 0).all()


def test_estimators_can_be_cloned_and_searched():
    probe = NetInfoFProbe(embeddings=ComponentEmbeddings(5), compatibility=CompatibilityMatrix(drop=0.1))
    other = clone(probe).set_params(embeddings__d=3, compatibility__damp=2.0)
    assert (probe.embeddings.d, other.embeddings.d, other.compatibility.drop) == (5, 3, 0.1)
    graph, z = as_graph(a_graph()), np.random.default_rng(0).random((40, 3))
    expected = CompatibilityMatrix().fit(z, graph).matrix_
    np.testing.assert_array_equal(CompatibilityMatrix().fit(z, a_graph()).matrix_, expected)
    np.testing.assert_array_equal(CompatibilityMatrix().fit(z, a_graph().edge_index).matrix_, expected)


def test_too_few_permutations_are_refused():
    # of 20 the smallest p-value is 0.048: all would be called noise
    with pytest.raises(ValueError, match="at least 99"):
        NetInfoFProbe(permutations=20)


def test_the_choice_of_cells_is_the_best_of_each_and_is_not_taken_for_information():
    rng = np.random.default_rng(0)
    cells = [rng.integers(0, c, 45) for c in (2, 4, 8, 16, 32)]
    p_values = []
    for _ in range(200):
        labels = rng.integers(0, 3, 45)
        choice = _Choice(cells, 3)
        score, best = choice.scores(labels[:, None])
        assert score[0] == pytest.approx(netinfof_score(cells[best[0]], labels))
        null = np.concatenate([choice.scores(block)[0] for block in choice.permuted(labels, 99, rng)])
        p_values.append(against_chance(float(score[0]), null).p_value)
    # of 200 draws at 5 % fewer than 22 all but once in a thousand times; without the choice in the test it is 28
    assert sum(p <= 0.05 for p in p_values) < 22


def test_more_labels_than_choose_are_scored_apart(monkeypatch):
    monkeypatch.setattr("netinfof_impl.probe.LARGEST_CHOICE", 50)
    data = synthetic_graph("global", "diag", n_nodes=200, n_features=40, walks=50)
    data.y = data.y * 10**12 + 5  # any integers
    probe = NetInfoFProbe("node", permutations=99).fit(data)
    assert probe.reports_["P"].table.sum() == 150
    assert probe.reports_["P"].test.informative


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
    with pytest.raises(ValueError, match="one length"):
        netinfof_score(np.array([1]), np.array([0, 1, 1, 0]))
    assert netinfof_score(["a", "b"], [1, 0]) == 1


def test_counts_may_be_as_large_as_numbers_go():
    huge = np.full((2, 2), 1e308)
    assert score_of_table(huge) == pytest.approx(0.5)
    assert accuracy_of_table(huge) == 0.5


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
    said = []
    for seed in range(4):
        data.y = torch.from_numpy(np.random.default_rng(seed).integers(0, 4, 200))
        probe = NetInfoFProbe("node", permutations=199, embeddings=ComponentEmbeddings(8, walks=20))
        said.append("Nothing here" in probe.fit(data).verdict())
    assert sum(said) >= 3  # each is wrong once in twenty times


def test_what_is_drawn_does_not_go_with_data_made_by_the_same_seed():
    # with bare seeds, R of a random graph made and probed by one seed had p <= 0.05 in 27 of 60 cases
    by_hand = np.random.default_rng(3).random(200)
    drawn = [stream(3, purpose).random(200) for purpose in ("split", "walks")]
    assert np.abs(np.corrcoef([by_hand, *drawn]) - np.eye(3)).max() < 0.3
    graph = as_graph(a_graph())
    order = np.random.default_rng(3).permutation(graph.edges.shape[1])
    held_back = {tuple(e) for e in split_edges(graph, seed=3).test_pairs.T[: len(order) // 5].tolist()}
    assert held_back != {tuple(e) for e in graph.edges[:, order[: len(order) // 5]].T.tolist()}


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
