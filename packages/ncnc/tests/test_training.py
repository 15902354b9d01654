import pytest
import torch

from ncnc_impl import NCN, Graph, LinkSplit, split_edges, train_links
from ncnc_impl.training import LinkLoss, link_scorer, predict_logits


@pytest.fixture(scope="module")
def split(small_geometric):
    return split_edges(small_geometric, seed=0)


def fresh(variant="ncn"):
    torch.manual_seed(0)
    return NCN(32, 16, variant=variant, edge_dropout=0.1, dropout=0.1)


def test_training_lowers_the_loss_and_finds_links(split):
    result = train_links(fresh(), split, epochs=12, batch_size=256, seed=0)
    losses = [row["train_loss"] for row in result.history]
    assert losses[-1] < losses[0] - 0.2
    assert result.best["valid_auc"] > 0.8


def test_the_same_seed_gives_the_same_weights(split):
    models = [fresh("ncnc"), fresh("ncnc")]
    for model in models:
        train_links(model, split, epochs=2, batch_size=256, seed=3)
    for a, b in zip(models[0].parameters(), models[1].parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_run_that_was_cut_short_goes_on_to_the_same_end(split, tmp_path):
    whole, parts = fresh(), fresh()
    train_links(whole, split, epochs=4, batch_size=256, seed=1, out_dir=tmp_path / "whole")
    stopped = train_links(parts, split, epochs=4, batch_size=256, seed=1, out_dir=tmp_path / "parts", max_seconds=1e-6)
    assert stopped.stopped == "time"
    parts = fresh()
    train_links(parts, split, epochs=4, batch_size=256, seed=1, out_dir=tmp_path / "parts")
    for a, b in zip(whole.parameters(), parts.parameters(), strict=True):
        assert torch.equal(a, b)


def test_the_head_sees_the_graph_without_the_batch(split, monkeypatch):
    seen = []
    original = NCN.score
    monkeypatch.setattr(NCN, "score", lambda self, h, adj, pairs: seen.append(adj) or original(self, h, adj, pairs))
    graph = split.train
    edge = torch.tensor([0, 5])
    LinkLoss(graph)(fresh(), (graph.edges[edge], edge))
    LinkLoss(graph, remove_targets=False)(fresh(), (graph.edges[edge], edge))
    dense = seen[0].to_dense()
    for i, j in graph.edges[edge].tolist():
        assert dense[i, j] == dense[j, i] == 0
    assert seen[0].nnz == graph.adj.nnz - 4
    assert seen[1].nnz == graph.adj.nnz


def test_target_negatives_keep_the_source(split, monkeypatch):
    loss = LinkLoss(split.train, negatives="targets")
    positive = split.train.edges[:50]
    drawn = loss._draw(positive)
    assert torch.equal(drawn[:, 0], positive[:, 0])
    assert not torch.equal(drawn[:, 1], positive[:, 1])


def test_scores_do_not_depend_on_the_batch_size(split):
    model = fresh("ncnc")
    pairs = split.test.positive[:50]
    a = predict_logits(model, split.train, pairs, batch_size=7)
    torch.testing.assert_close(a, link_scorer(model, split.train)(pairs), rtol=1e-4, atol=1e-5)
    assert model.training
    assert predict_logits(model, split.train, pairs[:0]).shape == (0,)


def test_graphs_that_cannot_be_learned_from_are_refused(split):
    bare = Graph.from_edges([(0, 1)])
    with pytest.raises(ValueError, match="the graph has no features"):
        train_links(fresh(), LinkSplit(bare, None, None))
    empty = Graph.from_edges([], 3, x=torch.randn(3, 32))
    with pytest.raises(ValueError, match="the training graph has no edges"):
        train_links(fresh(), LinkSplit(empty, None, None))
    with pytest.raises(ValueError, match=r"split.positives must be edges of split.train"):
        train_links(fresh(), LinkSplit(split.train, None, None, positives=split.test.positive))
