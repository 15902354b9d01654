import numpy as np
import pytest
import torch
from sklearn.base import clone
from torch_geometric.data import Data
from torch_geometric.nn import GATv2Conv, GraphConv

from forwardgnn_impl import (
    Features,
    ForwardGNN,
    ForwardLinkPredictor,
    ForwardNodeClassifier,
    LabelAppender,
    LocalLayer,
    as_task,
    link_logits,
    link_loss,
    load_graph,
    make_conv,
    node_splits,
    row_norm,
    sbm,
    split_links,
)
from forwardgnn_impl.data import read_npz_graph
from shared_impl.data import DataError

METHODS = ["sf", "sf-top2input", "sf-top2loss", "ff-la", "ff-vn", "bp", "mlp", "dfa", "cafo", "pepita"]


def easy(n: int = 120, **more) -> Data:
    data = sbm(n, 3, p_in=0.2, p_out=0.01, n_features=8, distance=3.0, **more)
    data.update(node_splits(n)[0])
    return data


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("conv", ["gcn", "sage", "gat"])
def test_every_method_learns_with_every_layer_and_repeats(method, conv):
    data = easy()
    how = {"layers": 2, "hidden": 16, "epochs": 60, "lr": 0.02, "val_every": 5, "patience": 5}
    model = ForwardGNN(method, conv, **how).fit(data)
    proba = model.predict_proba()
    assert proba.shape == (120, 3)
    assert np.allclose(proba.sum(1), 1, atol=1e-5)
    # with class nodes forward-forward learns little: the authors' code as little
    assert model.score(data) > (0.2 if method == "ff-vn" else 0.6)
    again = clone(model).fit(data)
    assert np.array_equal(again.predict_proba(), proba)


@pytest.mark.parametrize("method", ["sf", "sf-top2input", "sf-top2loss", "ff-la", "bp", "dfa"])
def test_fast_and_obvious_layers_train_alike(method):
    data = easy()
    found = [ForwardGNN(method, hidden=8, epochs=5, cached=c).fit(data).predict_proba() for c in (True, False)]
    assert abs(found[0] - found[1]).max() < 1e-4


@pytest.mark.parametrize("conv", [GATv2Conv, lambda i, o: GraphConv(i, o)])
def test_layers_of_a_users_own(conv):
    data = easy()
    model = ForwardGNN("sf", conv, hidden=16, epochs=40, lr=0.02).fit(data)
    assert model.score(data) > 0.7


def test_what_a_layer_learns_is_restored_at_its_best_validation():
    data = easy()
    model = ForwardGNN("sf", layers=1, hidden=8, epochs=60, lr=0.05, val_every=1, patience=-1).fit(data)
    held = model.predict()[data.val_mask.numpy()] == data.y[data.val_mask].numpy()
    assert 100 * held.mean() == pytest.approx(max(model.history_.validation[0]))
    stopped = ForwardGNN("sf", layers=1, hidden=8, epochs=500, lr=0.05, val_every=1, patience=3).fit(data)
    assert stopped.history_.epochs[0] < 500


def test_names_of_classes_and_unknown_labels_and_no_masks():
    data = easy()
    names = np.array(["a", "b", "c"])[data.y.numpy()]
    plain = Data(x=data.x, edge_index=data.edge_index)
    model = ForwardNodeClassifier(hidden=16, epochs=60, lr=0.02).fit(plain, names)
    assert set(model.predict()) <= {"a", "b", "c"}
    assert model.skill_ > 0.3
    codes = data.y * 10
    codes[::2] = -1
    model = ForwardNodeClassifier(hidden=16, epochs=60, lr=0.02).fit(
        Data(x=data.x, edge_index=data.edge_index, y=codes)
    )
    assert list(model.classes_) == [0, 10, 20]
    assert (model.predict()[::2] == 10 * data.y[::2].numpy()).mean() > 0.7


def test_a_model_answers_for_another_graph_of_the_same_nodes():
    data = easy()
    model = ForwardGNN("sf", hidden=16, epochs=40, lr=0.02).fit(data)
    fewer = data.clone()
    fewer.edge_index = data.edge_index[:, ::2]
    assert abs(model.predict_proba(fewer) - model.predict_proba()).max() > 1e-4
    assert np.array_equal(model.predict_proba(data), model.predict_proba())


def test_skill_that_is_none_is_warned_of():
    g = torch.Generator().manual_seed(0)
    y = (torch.arange(60) % 10 == 0).long()
    data = Data(x=torch.randn(60, 4, generator=g), edge_index=torch.randint(0, 60, (2, 100), generator=g), y=y)
    with pytest.warns(UserWarning, match="no better than the most frequent class"):
        ForwardNodeClassifier(hidden=8, epochs=4).fit(data)


def test_a_class_that_nobody_has_is_warned_of_and_never_joined():
    data = easy()
    data.train_mask = data.train_mask & (data.y != 2)
    with pytest.warns(UserWarning, match="no node to learn from has class 2"):
        model = ForwardGNN("sf", hidden=8, epochs=3).fit(data)
    assert model.predict_proba().shape == (120, 3)


def test_isolated_nodes_and_zero_features_are_answered():
    data = easy()
    data.x[:5] = 0
    data.edge_index = data.edge_index[:, (data.edge_index >= 10).all(0)]
    for method in METHODS:
        model = ForwardGNN(method, hidden=8, epochs=3).fit(data)
        assert np.isfinite(model.predict_proba()).all(), method


BAD = [
    ({"method": "x"}, "method must be one of"),
    ({"conv": "x"}, "conv must be gcn, sage, gat"),
    ({"conv": "gat", "hidden": 10}, "hidden must be a multiple of 4"),
    ({"layers": 0}, "layers must be a positive integer, got 0"),
    ({"epochs": 2.5}, "epochs must be a positive integer"),
    ({"tau": 0}, "tau must be positive"),
    ({"negatives": 0}, "negatives must be at least 1"),
    ({"goodness": "max"}, "goodness must be 'mean' or 'sum'"),
    ({"weight_decay": -1}, "weight_decay must not be negative"),
    ({"direction": "up"}, "direction must be 'both'"),
]


@pytest.mark.parametrize(("settings", "message"), BAD)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        ForwardGNN(**{"epochs": 1, **settings}).fit(easy(30))


def broken(**more) -> Data:
    data = easy(30)
    for name, value in more.items():
        setattr(data, name, value)
    return data


GRAPHS = [
    (Data(x=torch.ones(3, 2)), "tensors x and edge_index"),
    (broken(x=torch.full((30, 2), float("nan"))), "x must be finite"),
    (broken(x=torch.ones(30)), "x must have a row"),
    (broken(edge_index=torch.tensor([[0], [30]])), "edge_index must be from 0 to 29"),
    (broken(edge_index=torch.zeros(3, 4, dtype=torch.long)), r"shape \(2, edges\)"),
    (broken(y=torch.zeros(30, dtype=torch.long)), "at least 2 classes"),
    (broken(y=torch.zeros(29, dtype=torch.long)), "a class for each of 30 nodes"),
    (broken(train_mask=torch.zeros(30, dtype=torch.bool)), "train_mask must hold at least one node"),
    (broken(train_mask=torch.ones(30, dtype=torch.bool)), "must not share nodes"),
    (broken(train_mask=torch.ones(30)), "must be 30 booleans"),
    (broken(y=torch.full((30,), 0.5)), "y must be classes"),
]


@pytest.mark.parametrize(("data", "message"), GRAPHS)
def test_graphs_that_cannot_be_used_are_refused(data, message):
    with pytest.raises(ValueError, match=message):
        ForwardGNN("sf", epochs=1).fit(data)


def test_what_fit_did_not_see_is_refused():
    data = easy()
    model = ForwardGNN("sf", hidden=8, epochs=1).fit(data)
    other = data.clone()
    other.x = data.x[:, :4]
    with pytest.raises(ValueError, match="8 features as in fit"):
        model.predict(other)
    other = data.clone()
    other.y = data.y + 7
    with pytest.raises(ValueError, match="a class that fit did not see"):
        model.predict(other)
    with pytest.raises(ValueError, match="score reads labels"):
        model.score(data, data.y)


# Links ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("loss", "topdown"), [("ce", False), ("ce", True), ("ff", False), ("bp", False)])
@pytest.mark.parametrize("conv", ["gcn", "sage"])
def test_links_are_learnt_and_repeat(loss, topdown, conv):
    train, val, test = split_links(easy(150))
    how = {"topdown": topdown, "hidden": 16, "epochs": 60, "lr": 0.01, "val_every": 5}
    model = ForwardLinkPredictor(loss, conv, **how).fit(train, val)
    assert model.score(test) > 0.7
    proba = model.predict_proba(test)
    assert np.allclose(proba.sum(1), 1)
    assert np.array_equal(clone(model).fit(train, val).predict_proba(test), proba)


def test_the_link_losses_are_those_computed_by_hand():
    g = torch.Generator().manual_seed(0)
    z = torch.randn(6, 4, generator=g).double()
    pairs, labels = torch.randint(0, 6, (2, 9), generator=g), torch.tensor([1, 0, 1, 1, 0, 0, 1, 0, 1.0]).double()
    q = [[float(z[a, i] * z[b, i]) for i in range(4)] for a, b in pairs.T.tolist()]
    for loss, logits in (("ce", [sum(r) for r in q]), ("ff", [sum(v * v for v in r) - 2 for r in q])):
        assert torch.allclose(link_logits(z, pairs, loss), torch.tensor(logits).double())
        terms = [np.log1p(np.exp(-v if y == 1 else v)) for v, y in zip(logits, labels, strict=True)]
        on, off = ([t for t, y in zip(terms, labels, strict=True) if y == k] for k in (1, 0))
        expected = np.mean(terms) if loss == "ce" else np.mean(on) + np.mean(off)
        assert float(link_loss(z, pairs, labels, loss)) == pytest.approx(float(expected), abs=1e-9)


def test_bad_links_are_refused():
    data = easy(60)
    train, val, test = split_links(data)
    directed = Data(x=data.x, edge_index=data.edge_index[:, data.edge_index[0] < data.edge_index[1]])
    with pytest.raises(ValueError, match="in both directions"):
        ForwardLinkPredictor().fit(directed)
    for settings, message in (
        ({"loss": "x"}, "loss must be ce, ff or bp"),
        ({"loss": "ff", "topdown": True}, "topdown needs"),
        ({"layers": 0}, "layers must be"),
    ):
        with pytest.raises(ValueError, match=message):
            ForwardLinkPredictor(**settings).fit(train, val)
    one = train.clone()
    one.edge_label = torch.ones_like(one.edge_label)
    with pytest.raises(ValueError, match=r"links \(1\) and others"):
        ForwardLinkPredictor().fit(one)
    model = ForwardLinkPredictor(hidden=8, epochs=2, lr=0.01).fit(train)
    with pytest.raises(ValueError, match="from 0 to 59"):
        model.predict_proba([[0], [60]])
    assert model.predict_proba(test.edge_label_index).shape == (test.edge_label_index.shape[1], 2)


# Parts ---------------------------------------------------------------------------------------------------------------


def test_a_local_layer_trains_any_module_by_itself():
    torch.manual_seed(0)
    layer = LocalLayer(
        torch.nn.Linear(3, 2), lambda p: torch.optim.SGD(p, lr=0.1), lambda out, y: (out - y).square().sum()
    )
    x = torch.randn(5, 3, requires_grad=True)
    losses = [layer.step(x, y=torch.ones(5, 2))[1] for _ in range(20)]
    assert losses[-1] < 0.2 * losses[0]
    assert x.grad is None
    with pytest.raises(ValueError, match="loss must be given"):
        LocalLayer(torch.nn.Linear(3, 2)).step(x)


def test_labels_beside_features():
    y, mask = torch.tensor([0, 1, -1]), torch.tensor([True, True, False])
    made = LabelAppender(2)(torch.zeros(3, 1), y, mask)
    assert made.tolist() == [[0, 1, 0], [0, 0, 1], [0, 0.5, 0.5]]
    assert LabelAppender(2, unlabelled="zeros").labels(y, mask)[2].tolist() == [0, 0]


def test_rows_of_zeros_stay_zeros():
    x = torch.tensor([[0.0, 0.0], [3.0, 4.0]])
    assert torch.allclose(row_norm(x), torch.tensor([[0.0, 0.0], [0.6, 0.8]]))
    assert Features(torch.zeros(4, 20)).sparse is not None


def test_splits_are_those_of_the_paper():
    parts = node_splits(2995)
    assert len(parts) == 5
    assert [int(parts[0][f"{name}_mask"].sum()) for name in ("train", "val", "test")] == [1916, 480, 599]
    assert torch.stack([p["test_mask"] for p in parts]).sum(0).eq(1).all()
    with pytest.raises(ValueError, match="at least 10"):
        node_splits(9)


def test_held_out_nodes_come_from_every_class():
    task = as_task(Data(x=torch.ones(40, 1), edge_index=torch.zeros(2, 0, dtype=torch.long), y=torch.arange(40) % 4))
    held = task.with_held_out(0.2)
    assert torch.bincount(held.y[held.val]).tolist() == [2, 2, 2, 2]
    assert not (held.train & held.val).any()


def test_the_papers_files_are_read(tmp_path):
    import scipy.sparse

    rng = np.random.default_rng(0)
    adj = scipy.sparse.csr_matrix(np.triu(rng.random((12, 12)) < 0.4, 1).astype(np.float32))
    attr = scipy.sparse.csr_matrix(np.eye(12, 5, dtype=np.float32) + np.eye(12, 5, -5) + np.eye(12, 5, -10))
    arrays = {
        f"{name}_{part}": getattr(m, part)
        for name, m in (("adj", adj), ("attr", attr))
        for part in ("data", "indices", "indptr", "shape")
    }
    np.savez(tmp_path / "cora_ml.npz", labels=np.arange(12) % 3, **arrays)
    data = load_graph("cora_ml", tmp_path)
    assert data.x.shape == (12, 5)
    assert torch.allclose(data.x.sum(1), torch.ones(12))
    assert data.edge_index.shape[1] == 2 * adj.nnz
    (tmp_path / "cora_ml.npz").write_bytes(b"PK nothing")
    with pytest.raises(DataError, match=r"cora_ml\.npz"):
        read_npz_graph(tmp_path / "cora_ml.npz")
    with pytest.raises(DataError, match="missing"):
        load_graph("photo", tmp_path)
    with pytest.raises(ValueError, match="name must be one of"):
        load_graph("nothing")
    with pytest.raises(ValueError, match="give the one"):
        load_graph("photo")


def test_generated_graphs_check_their_settings():
    for wrong in ({"n": 1}, {"n_classes": 1}, {"p_in": 2.0}):
        with pytest.raises(ValueError, match="must be"):
            sbm(**{"n": 20, **wrong})
    assert make_conv("gat", 4, 8).heads == 4
