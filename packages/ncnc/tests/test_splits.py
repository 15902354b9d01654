import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ncnc_impl import EvaluationSet, Graph, split_edges
from ncnc_impl.graph import is_edge
from ncnc_impl.splits import check_evaluation


def as_set(pairs):
    return {tuple(sorted(pair)) for pair in pairs.tolist()}


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10**6), st.floats(0.05, 0.3), st.floats(0.05, 0.3))
def test_no_held_out_link_is_in_the_training_graph_and_no_negative_is_a_link(seed, valid, test):
    generator = torch.Generator().manual_seed(seed)
    graph = Graph.from_edges(torch.randint(30, (120, 2), generator=generator), 30)
    split = split_edges(graph, valid=valid, test=test, seed=seed)
    train, held, found = as_set(split.train.edges), as_set(split.valid.positive), as_set(split.test.positive)
    assert train | held | found == as_set(graph.edges)
    assert len(train) + len(held) + len(found) == graph.n_edges
    negatives = torch.cat((split.valid.negative, split.test.negative))
    assert len(as_set(negatives)) == negatives.shape[0]
    assert not is_edge(graph, negatives).any()
    assert split.train.adj.nnz == 2 * len(train)


def test_the_share_of_each_side_and_the_number_of_negatives_are_as_asked(small_geometric):
    split = split_edges(small_geometric, valid_negatives=7)
    m = small_geometric.n_edges
    assert (split.valid.positive.shape[0], split.test.positive.shape[0]) == (int(0.1 * m), int(0.2 * m))
    assert (split.valid.negative.shape[0], split.test.negative.shape[0]) == (7, int(0.2 * m))
    assert torch.equal(split.train.x, small_geometric.x)


def test_the_same_seed_gives_the_same_split_and_another_does_not(small_geometric):
    a, b, c = (split_edges(small_geometric, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(a.test.positive, b.test.positive)
    assert torch.equal(a.test.negative, b.test.negative)
    assert not torch.equal(a.test.positive, c.test.positive)


def test_a_side_can_be_left_out(small_geometric):
    split = split_edges(small_geometric, test=0.0)
    assert split.test is None
    assert split.valid is not None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"valid": 0.01}, "of 20 edges is an empty split"),
        ({"valid": 1.0}, "valid must be at least 0 and below 1, got 1.0"),
        ({"valid": 0.6, "test": 0.5}, "valid \\+ test must be below 1"),
        ({"test_negatives": 10**6}, "pairs of nodes are not edges"),
        ({"valid_negatives": 0}, "needs positives and negatives, got 2 and 0"),
    ],
)
def test_splits_that_cannot_be_are_refused(options, message):
    graph = Graph.from_edges([(i, i + 1) for i in range(20)])
    with pytest.raises(ValueError, match=message):
        split_edges(graph, **options)


def test_metrics_by_target_score_each_positive_among_its_own_candidates():
    scores = torch.arange(5.0) * 10 + torch.arange(5.0)[:, None]
    sides = EvaluationSet(torch.tensor([[0, 1], [2, 3]]), negative_targets=torch.tensor([[0, 2], [0, 1]]))
    # node 1 is second to 2 among {0, 1, 2}; node 3 is first among {0, 1, 3}
    assert sides.metrics(lambda pairs: scores[pairs[:, 0], pairs[:, 1]]) == {"mrr": pytest.approx((0.5 + 1) / 2)}


def test_negatives_that_are_links_are_refused(small_geometric):
    positive = torch.tensor([[0, 1]])
    edge = small_geometric.edges[:1]
    with pytest.raises(ValueError, match="1 of 1 negative pairs are edges of the graph"):
        check_evaluation(small_geometric, (positive, edge))
    other = torch.tensor([[5, 9]])
    assert not is_edge(small_geometric, other).any()
    with pytest.raises(ValueError, match="1 of 1 negative pairs are positives as well"):
        check_evaluation(small_geometric, (other, other.flip(1)))
    with pytest.raises(ValueError, match="positive must name nodes 0 to 399"):
        check_evaluation(small_geometric, ([[0, 400]], other))
    with pytest.raises(ValueError, match="give either negative or negative_targets"):
        EvaluationSet(positive)
