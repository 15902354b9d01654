import json

import networkx as nx
import numpy as np
import pytest
import torch

from ncnc_impl import Graph, LinkPredictor, split_edges

QUICK = {"hidden": 16, "epochs": 3}


@pytest.fixture(scope="module")
def fitted(small_geometric):
    return LinkPredictor("ncnc", **QUICK).fit(small_geometric)


def test_probabilities_are_probabilities_and_increase_with_the_logits(fitted):
    pairs = [[0, 5], [3, 9], [7, 7]]
    p, s = fitted.predict_proba(pairs), fitted.decision_function(pairs)
    assert p.shape == (3,)
    assert bool(((p > 0) & (p < 1)).all())
    np.testing.assert_allclose(p, 1 / (1 + np.exp(-s)), rtol=1e-5)


def test_it_learns_from_a_pyg_graph():
    pyg = pytest.importorskip("torch_geometric.data")
    source = nx.random_geometric_graph(300, 0.1, seed=0)
    edges = torch.tensor(list(source.edges))
    split = split_edges(edges, valid=0.0, test=0.1, seed=0)
    both = torch.cat((split.train.edges, split.train.edges.flip(1))).t()
    data = pyg.Data(x=torch.randn(300, 8), edge_index=both)
    predictor = LinkPredictor("ncn", hidden=32, epochs=25, encoder_lr=0.01, head_lr=0.01).fit(data)
    found = predictor.evaluate(split.test.positive, split.test.negative)
    assert found["auc"] > 0.9


@pytest.mark.parametrize("variant", ["gae", "gae_cn", "gae_cnc", "ncn", "ncn2", "ncn_diff"])
def test_every_variant_fits_a_graph_without_features(variant):
    predictor = LinkPredictor(variant, **QUICK).fit(nx.karate_club_graph())
    assert np.isfinite(predictor.decision_function([[0, 33]])).all()


def test_recommendations_leave_out_the_node_its_neighbors_and_what_is_excluded(fitted, small_geometric):
    neighbors = set(small_geometric.edges[(small_geometric.edges == 0).any(1)].flatten().tolist())
    free = next(v for v in range(400) if v not in neighbors and v != 0)
    found = fitted.recommend(0, k=400, exclude=[free])
    nodes = [node for node, _ in found]
    assert len(nodes) == len(set(nodes)) == 400 - len(neighbors | {0}) - 1
    assert not set(nodes) & (neighbors | {0, free})
    probabilities = [p for _, p in found]
    assert probabilities == sorted(probabilities, reverse=True)
    assert fitted.recommend(0, k=3) == fitted.recommend(0, k=400)[:3]


def test_training_stops_early_when_validation_no_longer_improves(small_geometric):
    predictor = LinkPredictor("gae", hidden=8, epochs=200, patience=2).fit(small_geometric)
    assert len(predictor.history_) < 200
    best = max(row["valid_auc"] for row in predictor.history_)
    assert predictor.best_["valid_auc"] == best
    assert predictor.history_[-1]["valid_auc"] <= best


def test_a_saved_predictor_scores_the_same_and_holds_no_pickle(fitted, tmp_path):
    fitted.save(tmp_path / "model")
    files = {path.suffix for path in (tmp_path / "model").iterdir()}
    assert files <= {".json", ".safetensors", ".md"}
    again = LinkPredictor.load(tmp_path / "model")
    pairs = [[0, 5], [3, 9], [100, 399]]
    np.testing.assert_array_equal(again.predict_proba(pairs), fitted.predict_proba(pairs))
    assert again.recommend(4, 3) == fitted.recommend(4, 3)


def test_names_and_sparse_features_survive_saving(tmp_path):
    source = nx.relabel_nodes(nx.karate_club_graph(), {i: f"m{i}" for i in range(34)})
    from ncnc_impl import as_graph

    graph = as_graph(source, x=torch.eye(34))
    predictor = LinkPredictor("ncn", **QUICK).fit(graph)
    again = LinkPredictor.load(predictor.save(tmp_path / "m"))
    assert again.graph_.names[33] == "m33"
    np.testing.assert_array_equal(again.predict_proba([[0, 33]]), predictor.predict_proba([[0, 33]]))


def test_folders_that_hold_no_predictor_are_refused(fitted, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"predictor.json is missing"):
        LinkPredictor.load(tmp_path)
    fitted.save(tmp_path / "m")
    path = tmp_path / "m" / "predictor.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 99}))
    with pytest.raises(ValueError, match="format 99 is not 1"):
        LinkPredictor.load(tmp_path / "m")


def test_a_graph_that_gained_edges_can_be_scored_with_the_same_model(fitted, small_geometric):
    pair = torch.tensor([[0, 1], [0, 2], [1, 3], [2, 3]])
    grown = small_geometric.with_edges(torch.cat((small_geometric.edges, pair)))
    other = fitted.with_graph(grown)
    assert other.predict_proba([[0, 3]])[0] != fitted.predict_proba([[0, 3]])[0]
    with pytest.raises(ValueError, match="not of the kind and width"):
        fitted.with_graph(Graph.from_edges([(0, 1)], x=np.eye(2)))
    with pytest.raises(ValueError, match="not of the kind and width"):
        fitted.with_graph(Graph.from_edges([(0, 1)]))


def test_a_validation_set_of_ones_own_is_used_and_checked(small_geometric):
    split = split_edges(small_geometric, test=0.0)
    sides = (split.valid.positive, split.valid.negative)
    predictor = LinkPredictor("gae", **QUICK).fit(split.train, validation=sides)
    assert predictor.graph_.n_edges == split.train.n_edges
    with pytest.raises(ValueError, match="negative pairs are edges of the graph"):
        LinkPredictor("gae", **QUICK).fit(split.train, validation=(sides[0], split.train.edges[:4]))
    with pytest.raises(ValueError, match="needs positives and negatives"):
        LinkPredictor("gae", **QUICK).fit(split.train, validation=([], sides[1]))


def test_evaluation_draws_negatives_that_are_neither_edges_nor_the_positives(fitted, small_geometric):
    split = split_edges(small_geometric, seed=9)
    other = fitted.with_graph(split.train)
    found = other.evaluate(split.test.positive)
    assert set(found) == {"hits@20", "hits@50", "hits@100", "auc"}
    with pytest.raises(ValueError, match="are edges of the graph"):
        other.evaluate(split.test.positive, split.train.edges[:3])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"monitor": "f1"}, "monitor must be auc"),
        ({"batch_size": -1}, "batch_size must not be negative, got -1"),
        ({"epochs": 0}, "epochs must be at least 1, got 0"),
    ],
)
def test_settings_that_cannot_work_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        LinkPredictor(**options)


def test_bad_calls_are_refused(fitted):
    with pytest.raises(RuntimeError, match="call fit"):
        LinkPredictor().predict_proba([[0, 1]])
    with pytest.raises(ValueError, match=r"pairs must name nodes 0 to 399, got \(0, 400\) at position 1"):
        fitted.predict_proba([[0, 1], [0, 400]])
    with pytest.raises(ValueError, match="transpose it"):
        fitted.predict_proba(np.zeros((2, 5), dtype=int))
    with pytest.raises(ValueError, match="no edges to learn from"):
        LinkPredictor().fit(Graph.from_edges([], 4))
    with pytest.raises(ValueError, match="empty split"):
        LinkPredictor().fit([(0, 1), (1, 2)])
