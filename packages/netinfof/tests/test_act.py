import warnings

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.metrics import roc_auc_score
from torch_geometric.data import Data

from netinfof_impl import (
    CompatibilityMatrix,
    GraphNetwork,
    NetInfoFAct,
    SparseGroupLinear,
    common_neighbours,
    hits_at_k,
    split_edges,
    synthetic_graph,
)
from netinfof_impl import train_network_links as train

ONE = [(1e-4, 1e-4)]


@pytest.fixture(scope="module")
def split():
    return split_edges(synthetic_graph("local", "offdiag", n_nodes=200, n_features=40, walks=100))


@pytest.mark.parametrize("options", [{}, {"solver": "adam"}, {"compat": "official"}, {"compatibility": "identity"}])
def test_links_are_learned_and_answered(split, options):
    model = NetInfoFAct(penalties=ONE, max_epochs=20, k=20, **options)
    model.fit(split.train, valid=(split.valid_pairs, split.valid_labels))
    share = model.predict_proba(split.test_pairs)
    np.testing.assert_allclose(share.sum(1), 1)
    assert set(model.predict(split.test_pairs)) <= {0, 1}
    assert model.score(split.test_pairs, split.test_labels) > 0.3
    assert sum(model.weights_.values()) == pytest.approx(1)
    assert model.skill_ > 0


@pytest.mark.parametrize("compat", [None, "official"])
def test_the_order_of_a_pair_matters_to_the_official_code_alone(split, compat):
    model = NetInfoFAct(penalties=ONE, max_epochs=3, compat=compat)
    model.fit(split.train, valid=(split.valid_pairs, split.valid_labels))
    gap = np.abs(model.decision_function(split.test_pairs) - model.decision_function(split.test_pairs[::-1])).max()
    assert gap < 1e-5 if compat is None else gap > 1e-3


def test_the_logit_is_that_of_the_formula(split):
    z = {name: np.random.default_rng(i).standard_normal((200, 3)).astype(np.float32) for i, name in enumerate("UF")}
    model = NetInfoFAct(penalties=ONE, max_epochs=3, random_state=4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.fit_links(split.train, z, split.valid_pairs, split.valid_labels)
    i, j = split.test_pairs
    expected = 0.0
    for one, linear in zip(z.values(), model.model_.maps, strict=True):
        h = CompatibilityMatrix(seed=4).fit(one, split.train).matrix_
        w, b = linear.weight.detach().double().numpy()[0], linear.bias.item()
        left, right = (one @ h)[i] * one[j] @ w, (one @ h)[j] * one[i] @ w
        expected = expected + (left + right) / 2 + b
    np.testing.assert_allclose(model.decision_function(split.test_pairs), expected, atol=1e-4)


def test_adam_never_holds_the_products_of_all_pairs(split, monkeypatch):
    asked = []
    whole = NetInfoFAct._products
    monkeypatch.setattr(NetInfoFAct, "_products", lambda self, pairs: asked.append(len(pairs)) or whole(self, pairs))
    monkeypatch.setattr("netinfof_impl.act.BATCH", 64)
    model = NetInfoFAct(penalties=ONE, max_epochs=1, solver="adam")
    model.fit(split.train, valid=(split.valid_pairs, split.valid_labels))
    assert max(asked) == max(64, len(split.valid_labels))


def test_few_negatives_still_choose(split, monkeypatch):
    # by all held-back negatives nearly every model hits the same
    asked = []
    monkeypatch.setattr("netinfof_impl.act.hits_at_k", lambda s, y, k: asked.append(k) or hits_at_k(s, y, k))
    NetInfoFAct(penalties=ONE, max_epochs=1).fit(split.train, valid=(split.valid_pairs, split.valid_labels))
    assert set(asked) == {(split.valid_labels == 0).sum() // 4}


def test_skill_is_measured_by_what_nothing_was_chosen_by(split):
    parts = NetInfoFAct("node")._known(np.arange(60) % 4 - 1, Data())
    assert [len(part) for part in parts] == [31, 7, 7]
    assert len(np.unique(np.concatenate(parts))) == 45
    model = NetInfoFAct(penalties=ONE, max_epochs=2).fit(split.train)
    held_back = split_edges(split.train, shares=(0.75, 0.125, 0.125))
    scores = model.decision_function(held_back.test_pairs)
    trivial = common_neighbours(held_back.train, held_back.test_pairs)
    auc = [roc_auc_score(held_back.test_labels, one) for one in (scores, trivial)]
    assert model.skill_ == pytest.approx(auc[0] - auc[1])


def test_masks_of_several_splits_are_refused():
    data = synthetic_graph("global", "diag", n_nodes=60, n_features=8, walks=50)
    data.train_mask = data.val_mask = torch.ones(60, 10, dtype=torch.bool)
    with pytest.raises(ValueError, match="train_mask must be a boolean for each of 60 nodes"):
        NetInfoFAct("node").fit(data)
    with pytest.raises(ValueError, match="an integer for each of 60 nodes"):
        NetInfoFAct("node").fit(data, np.array(["a", "b"] * 30))


def test_a_grid_keeps_the_best_and_a_seed_repeats(split):
    valid = (split.valid_pairs, split.valid_labels)
    one = NetInfoFAct(penalties=[(1e-4, 1e-4), (10.0, 10.0)], max_epochs=5, k=20).fit(split.train, valid=valid)
    two = clone(one).fit(split.train, valid=valid)
    assert one.penalties_ == (1e-4, 1e-4)
    np.testing.assert_array_equal(one.decision_function(split.test_pairs), two.decision_function(split.test_pairs))


def test_edges_are_held_back_where_none_are_given(split):
    model = NetInfoFAct(penalties=ONE, max_epochs=5).fit(split.train)
    assert model.skill_ > 0


def test_nodes_are_learned():
    data = synthetic_graph("global", "diag", n_nodes=200, n_features=40, walks=100)
    truth = data.y.numpy().copy()
    data.y[torch.arange(200) % 2 == 0] = -1
    model = NetInfoFAct("node", penalties=ONE, max_epochs=20).fit(data)
    hidden = np.arange(0, 200, 2)
    assert model.score(hidden, truth[hidden]) > 0.8
    assert model.predict_proba(hidden).shape == (100, 4)
    renamed = NetInfoFAct("node", penalties=ONE, max_epochs=20).fit(data, np.where(data.y >= 0, 10 * data.y + 5, -1))
    assert renamed.score(hidden, 10 * truth[hidden] + 5) == model.score(hidden, truth[hidden])


def test_what_is_no_better_than_the_trivial_answer_is_warned_of():
    data = synthetic_graph("random", "uniform", n_nodes=200, n_features=20)
    data.y = torch.zeros(200, dtype=torch.int64)
    data.y[:10] = 1
    data.y = data.y[torch.randperm(200, generator=torch.Generator().manual_seed(0))]
    with pytest.warns(UserWarning, match="not better"):
        NetInfoFAct("node", penalties=[(10.0, 10.0)], max_epochs=2).fit(data)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"task": "graph"}, "task"),
        ({"solver": "sgd"}, "solver"),
        ({"k": 0}, "k must"),
        ({"penalties": [(-1, 0)]}, "penalties"),
    ],
)
def test_settings_are_checked(split, options, message):
    with pytest.raises(ValueError, match=message):
        NetInfoFAct(**options).fit(split.train)


def test_inputs_are_checked(split):
    model = NetInfoFAct(penalties=ONE, max_epochs=1)
    with pytest.raises(ValueError, match="y must not be given"):
        model.fit(split.train, np.zeros(3))
    with pytest.raises(ValueError, match="0 or 1 and both"):
        model.fit(split.train, valid=(split.valid_pairs, np.ones_like(split.valid_labels)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.fit(split.train, valid=(split.valid_pairs, split.valid_labels))
    with pytest.raises(ValueError, match="from 0 to 199"):
        model.predict(np.array([[0], [200]]))
    with pytest.raises(ValueError, match=r"shape \(2, pairs\)"):
        model.predict(np.zeros((3, 2), dtype=int))
    with pytest.raises(ValueError, match="at least two classes"):
        NetInfoFAct("node").fit(split.train, np.zeros(200, dtype=int))


def test_k_beyond_the_negatives_is_refused():
    with pytest.raises(ValueError, match="number of pairs without an edge, 2"):
        hits_at_k(np.arange(4.0), np.array([1, 1, 0, 0]), 3)
    assert hits_at_k(np.array([3.0, 1.0, 2.0, 0.0]), np.array([1, 1, 0, 0]), 1) == 0.5
    assert hits_at_k(np.zeros(4), np.array([1, 1, 0, 0]), 1) == 0
    assert hits_at_k(torch.tensor([3.0, 1.0, 2.0, 0.0]), torch.tensor([1, 1, 0, 0]), 1) == 0.5
    with pytest.raises(ValueError, match="of one length"):
        hits_at_k([0.1, 0.2], [0], 1)


def test_the_penalty_is_that_of_the_formula():
    torch.manual_seed(0)
    model = SparseGroupLinear((3, 2))
    weights = [each.weight for each in model.maps]
    expected = 0.5 * sum(w.abs().sum() for w in weights) + 0.25 * sum(w.norm() for w in weights)
    torch.testing.assert_close(model.penalty(0.5, 0.25), expected)
    x = torch.randn(4, 5)
    torch.testing.assert_close(model(x), model.maps[0](x[:, :3]) + model.maps[1](x[:, 3:]))


def test_common_neighbours_of_a_square():
    from netinfof_impl import as_graph

    square = as_graph(Data(edge_index=torch.tensor([[0, 1, 2, 3], [1, 2, 3, 0]])))
    np.testing.assert_array_equal(common_neighbours(square, np.array([[0, 0], [2, 1]])), [2, 0])


@pytest.mark.parametrize("kind", ["GCN", "SAGE", "GAT"])
def test_networks_train(split, kind):
    scores = train(split, kind, k=10, epochs=3)(split.test_pairs)
    assert np.isfinite(scores).all()
    assert GraphNetwork(kind=kind)(torch.rand(5, 8), torch.tensor([[0, 1], [1, 2]])).shape == (5, 128)
