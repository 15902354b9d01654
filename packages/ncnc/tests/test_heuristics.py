import math

import networkx as nx
import numpy as np
import pytest
import torch

from ncnc_impl import Heuristic, LinkPredictor


@pytest.fixture
def karate():
    graph = nx.karate_club_graph()
    pairs = list(nx.non_edges(graph))
    return graph, pairs


@pytest.mark.parametrize(
    ("name", "oracle"),
    [
        ("ra", nx.resource_allocation_index),
        ("aa", nx.adamic_adar_index),
        ("pa", nx.preferential_attachment),
        ("cn", lambda g, ps: ((u, v, len(list(nx.common_neighbors(g, u, v)))) for u, v in ps)),
    ],
)
def test_heuristics_agree_with_networkx(karate, name, oracle):
    graph, pairs = karate
    expected = [score for _, _, score in oracle(graph, pairs)]
    np.testing.assert_allclose(Heuristic(name).fit(graph).decision_function(pairs), expected, rtol=1e-5)


@pytest.mark.parametrize("max_length", [1, 2, 4])
def test_katz_is_the_truncated_series_of_walks(random_graph, all_pairs, max_length, monkeypatch):
    graph = random_graph(0)
    pairs = all_pairs(graph.n_nodes)
    a = 0.1 * graph.adj.to_dense()
    power, total = torch.eye(len(a)), torch.zeros_like(a)
    for _ in range(max_length):
        power = power @ a
        total += power
    scorer = Heuristic("katz", katz_beta=0.1, max_length=max_length)
    expected = total[pairs[:, 0], pairs[:, 1]]
    torch.testing.assert_close(scorer.score(graph.adj, pairs), expected, rtol=1e-5, atol=1e-6)
    # a few sources at a time
    monkeypatch.setattr("ncnc_impl.heuristics.MAX_ENTRIES", 3 * graph.n_nodes)
    torch.testing.assert_close(scorer.score(graph.adj, pairs), expected, rtol=1e-5, atol=1e-6)


def test_a_common_neighbor_of_degree_one_counts_nothing_in_adamic_adar():
    graph = nx.path_graph(2)
    assert Heuristic("aa").fit(graph).decision_function([(0, 0)]).tolist() == [0.0]
    assert Heuristic("aa").fit(nx.path_graph(3)).decision_function([(0, 2)])[0] == pytest.approx(1 / math.log(2))


def test_scorers_share_one_interface():
    for method in ("fit", "decision_function", "recommend"):
        assert callable(getattr(Heuristic, method))
        assert callable(getattr(LinkPredictor, method))


def test_recommendations_are_the_best_strangers(karate):
    graph, _ = karate
    scorer = Heuristic("ra").fit(graph)
    found = scorer.recommend(0, k=5, exclude=[9])
    strangers = [v for v in graph if v not in graph[0] and v not in (0, 9)]
    scores = scorer.decision_function([(0, v) for v in strangers])
    expected = sorted(zip(-scores, strangers, strict=True))[:5]
    assert [node for node, _ in found] == [node for _, node in expected]
    assert [score for _, score in found] == pytest.approx([-s for s, _ in expected])


def test_a_node_linked_to_all_others_gets_no_recommendation():
    assert Heuristic("cn").fit(nx.star_graph(3)).recommend(0) == []


def test_bad_arguments_are_refused(karate):
    graph, _ = karate
    with pytest.raises(RuntimeError, match="call fit"):
        Heuristic("cn").decision_function([(0, 1)])
    scorer = Heuristic("cn").fit(graph)
    with pytest.raises(ValueError, match="node must be from 0 to 33, got 34"):
        scorer.recommend(34)
    with pytest.raises(ValueError, match="k must be at least 1, got 0"):
        scorer.recommend(0, k=0)
    with pytest.raises(ValueError, match="pairs must name nodes 0 to 33"):
        scorer.decision_function([(0, 99)])
    with pytest.raises(ValueError, match="katz_beta must be positive"):
        Heuristic("katz", katz_beta=0.0)
