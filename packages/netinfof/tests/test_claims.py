"""The claims of the paper, a test each."""

import numpy as np
import pytest
import torch
from torch_geometric.data import Data

from netinfof_impl import (
    CompatibilityMatrix,
    ComponentEmbeddings,
    NetInfoFAct,
    NetInfoFProbe,
    PairDesign,
    accuracy_of_table,
    as_graph,
    design_matrix,
    dot_product_scores,
    expected_agreement,
    hits_at_k,
    netinfof_score,
    ridge_compatibility,
    score_of_table,
    split_edges,
    synthetic_graph,
    train_network_links,
    training_pairs,
    walk_counts,
)


def a_graph(n=60, m=200, seed=0):
    index = np.random.default_rng(seed).integers(0, n, (2, m))
    return as_graph(Data(edge_index=torch.from_numpy(index), num_nodes=n))


def an_embedding(n=60, d=8, seed=0):
    z = np.random.default_rng(seed).standard_normal((n, d))
    return z / np.linalg.norm(z, axis=1, keepdims=True)


def test_claim_1_the_score_bounds_accuracy_from_below():
    rng = np.random.default_rng(0)
    for _ in range(10_000):
        table = rng.random((rng.integers(1, 7), rng.integers(1, 6))) ** rng.integers(1, 9)
        table[rng.random(table.shape) < 0.2] = 0
        table[0, 0] += 1e-3
        low, middle, high = score_of_table(table), expected_agreement(table), accuracy_of_table(table)
        assert low <= middle + 1e-12
        assert middle <= high + 1e-12


def test_claim_1_equality_where_y_is_told_or_uniform():
    told = np.array([[3, 0, 0], [0, 5, 0], [2, 0, 0], [0, 0, 1]])
    assert score_of_table(told) == expected_agreement(told) == accuracy_of_table(told) == 1
    for k in range(1, 6):
        uniform = np.outer(np.arange(1, 5), np.ones(k))
        assert score_of_table(uniform) == pytest.approx(1 / k, abs=1e-12)
        assert accuracy_of_table(uniform) == pytest.approx(1 / k, abs=1e-12)


def test_claim_2_ridge_solves_the_normal_equations():
    graph, z = a_graph(), an_embedding()
    i, j = graph.both_ways
    expected = np.linalg.solve(z[i].T @ z[i] + np.eye(8), z[i].T @ z[j])
    np.testing.assert_allclose(ridge_compatibility(z, graph.edges), expected, atol=1e-12)


@pytest.mark.parametrize("method", ["lsqr", "cg"])
@pytest.mark.parametrize("towards", ["start", "zero"])
@pytest.mark.parametrize("penalty", ["triangle", "frobenius"])
def test_claim_2_the_least_squares_matrix_is_that_of_a_dense_solve(method, towards, penalty):
    graph, z = a_graph(), an_embedding()
    options = {"towards": towards, "penalty": penalty}
    found = CompatibilityMatrix(method=method, tolerance=1e-12, **options).fit(z, graph).matrix_
    dense = CompatibilityMatrix(method="dense", **options).fit(z, graph).matrix_
    np.testing.assert_allclose(found, dense, atol=1e-6)


def test_claim_3_similarity_is_symmetric():
    graph, z = a_graph(), an_embedding()
    matrix = CompatibilityMatrix().fit(z, graph)
    pairs = np.random.default_rng(1).integers(0, 60, (2, 500))
    np.testing.assert_allclose(matrix.similarity(z, pairs), matrix.similarity(z, pairs[::-1]), atol=1e-12)


def test_claim_4_the_order_of_nodes_does_not_matter():
    graph, z = a_graph(), an_embedding()
    order = np.random.default_rng(1).permutation(60)
    place = np.argsort(order)
    pairs, wanted = training_pairs(graph)
    other = CompatibilityMatrix().fit_pairs(z[order], place[pairs], wanted, edges=place[graph.edges])
    matrix = CompatibilityMatrix().fit_pairs(z, pairs, wanted, edges=graph.edges)
    np.testing.assert_allclose(other.matrix_, matrix.matrix_, atol=1e-9)


@pytest.mark.parametrize("penalty", ["frobenius", "triangle"])
def test_claim_4_only_the_frobenius_penalty_does_not_depend_on_the_basis(penalty):
    graph, z = a_graph(), an_embedding()
    q, _ = np.linalg.qr(np.random.default_rng(1).standard_normal((8, 8)))
    options = {"method": "dense", "penalty": penalty, "start": "symmetric", "drop": 0.0}
    pairs = np.random.default_rng(2).integers(0, 60, (2, 500))
    one = CompatibilityMatrix(**options).fit(z, graph).similarity(z, pairs)
    turned = CompatibilityMatrix(**options).fit(z @ q, graph).similarity(z @ q, pairs)
    gap = np.abs(one - turned).max()
    assert gap < 1e-9 if penalty == "frobenius" else gap > 1e-4


def test_claim_5_the_operator_is_the_matrix_of_pairs():
    graph, z = a_graph(), an_embedding()
    rng = np.random.default_rng(3)
    kept = np.triu(rng.random((8, 8)) < 0.8)
    pairs, _ = training_pairs(graph)
    design, matrix = PairDesign(z, pairs, kept), design_matrix(z, pairs, kept)
    assert design.shape == matrix.shape
    h, r = rng.standard_normal(matrix.shape[1]), rng.standard_normal(matrix.shape[0])
    np.testing.assert_allclose(design.forward(h), matrix @ h, atol=1e-12)
    np.testing.assert_allclose(design.backward(r), matrix.T @ r, atol=1e-12)


def test_claim_6_walks_are_counted_and_do_not_turn_back():
    graph = a_graph(40, 60)
    counts = walk_counts(graph, walks=50, threshold=0)
    degree = graph.adjacency().sum(1)
    total = counts.sum(1)
    assert (total <= 100).all()
    assert (total[degree > 0] >= 50).all()
    assert (counts.diagonal() == 0).all()
    # a path: from its end the second step goes on, from its middle it ends
    path = as_graph(Data(edge_index=torch.tensor([[0, 1], [1, 2]])))
    np.testing.assert_array_equal(walk_counts(path, walks=9, threshold=0).toarray()[0], [0, 9, 9])
    assert walk_counts(path, walks=9, threshold=0).toarray()[1].sum() == 9


def test_claim_7_no_information_scores_a_half_and_all_of_it_one():
    rng = np.random.default_rng(0)
    y = np.repeat([0, 1], 50_000)
    assert netinfof_score(rng.integers(0, 8, 100_000), y) == pytest.approx(0.5, abs=1e-3)
    assert netinfof_score(y + 2, y) == 1


def test_claim_8_informative_components_score_high_and_random_features_half():
    split = split_edges(synthetic_graph("random", "diag", n_nodes=800, n_features=160))
    embeddings = ComponentEmbeddings().fit_transform(split.train)
    probe = NetInfoFProbe().fit_links(split.train, embeddings, split.test_pairs, split.test_labels)
    assert min(probe.scores_[name] for name in "URPS") >= 0.7
    assert 0.5 <= probe.scores_["F"] <= 0.55
    assert not probe.reports_["F"].test.informative
    assert all(probe.reports_[name].test.informative for name in "URPS")


def test_claim_9_inner_products_fail_where_unlike_nodes_are_joined_and_the_adjustment_does_not():
    split = split_edges(synthetic_graph("local", "offdiag", n_nodes=800, n_features=160))
    embeddings = ComponentEmbeddings(components=("F", "P")).fit_transform(split.train)
    for z in embeddings.values():
        plain = hits_at_k(dot_product_scores(z, split.test_pairs), split.test_labels)
        matrix = CompatibilityMatrix().fit(z, split.train)
        adjusted = hits_at_k(matrix.similarity(z, split.test_pairs).astype(np.float64), split.test_labels)
        chance = 100 / (split.test_labels == 0).sum()
        assert plain < 2 * chance
        assert adjusted > 0.8


@pytest.mark.slow
def test_claim_10_act_is_ahead_of_a_gcn_where_unlike_nodes_are_joined():
    split = split_edges(synthetic_graph("local", "offdiag", n_nodes=800, n_features=160))
    embeddings = ComponentEmbeddings().fit_transform(split.train)
    act = NetInfoFAct().fit_links(split.train, embeddings, split.valid_pairs, split.valid_labels)
    network = train_network_links(split, "GCN")
    gcn = hits_at_k(network(split.test_pairs), split.test_labels)
    assert act.score(split.test_pairs, split.test_labels) >= gcn + 0.1


def test_claim_permutations_are_calibrated_without_information():
    rng = np.random.default_rng(0)
    from netinfof_impl import contingency_table, permutation_test

    y = np.repeat([0, 1], 200)
    values = [
        permutation_test(contingency_table(rng.integers(0, 8, 400), y), permutations=199, seed=i).p_value
        for i in range(300)
    ]
    # with 300 draws the share below .05 is within .05 +- .04 all but once in a thousand times
    assert 0.01 <= np.mean(np.array(values) <= 0.05) <= 0.09


def test_claim_8_without_information_nothing_is_beyond_chance():
    split = split_edges(synthetic_graph("random", "uniform", n_nodes=800, n_features=160, seed=1))
    embeddings = ComponentEmbeddings().fit_transform(split.train)
    probe = NetInfoFProbe().fit_links(split.train, embeddings, split.test_pairs, split.test_labels)
    assert max(probe.scores_.values()) < 0.52
