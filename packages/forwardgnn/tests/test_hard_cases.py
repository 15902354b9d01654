"""What once went wrong, a small test each."""

import copy
import json
import random
import sys

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import torch
from torch import nn
from torch_geometric.data import Data
from torch_geometric.nn import GCNConv, SAGEConv

from forwardgnn_impl import (
    Features,
    ForwardGNN,
    ForwardLinkPredictor,
    ForwardNodeClassifier,
    GraphLayer,
    LabelAppender,
    Propagation,
    node_splits,
    row_norm,
    saved_bytes,
    sbm,
    split_links,
    wrong_classes,
)
from forwardgnn_impl.cli import main
from forwardgnn_impl.data import read_npz_graph
from forwardgnn_impl.files import candidate_pairs
from shared_impl.data import DataError

FAST = {"hidden": 8, "epochs": 4}


def easy(n: int = 60, *, fold: int = 0, seed: int = 0) -> Data:
    data = sbm(n, 3, p_in=0.3, p_out=0.02, n_features=4, distance=3.0, seed=seed)
    data.update(node_splits(n)[fold])
    return data


# Nodes ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["sf", "sf-top2input", "ff-la", "cafo"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bool])
def test_features_of_any_kind_of_number_are_read(method, dtype):
    data = easy()
    data.x = data.x.to(dtype)
    proba = ForwardGNN(method, **FAST).fit(data).predict_proba()
    single = data.clone()
    single.x = data.x.float()
    assert np.array_equal(ForwardGNN(method, **FAST).fit(single).predict_proba(), proba)


def test_a_model_that_held_nodes_out_scores_the_graph_it_was_given():
    data = easy()
    data.val_mask = None
    model = ForwardNodeClassifier(**FAST).fit(data)
    assert model.score(data) == model.score()
    assert np.array_equal(model.predict_proba(data), model.predict_proba())


@pytest.mark.parametrize("method", ["sf", "sf-top2input", "sf-top2loss", "ff-la", "ff-vn", "bp"])
def test_labels_of_test_nodes_of_another_graph_change_nothing(method):
    model = ForwardGNN(method, **FAST).fit(easy())
    other = easy(fold=3, seed=5)
    wrong = other.clone()
    wrong.y = torch.where(other.test_mask, (other.y + 1) % 3, other.y)
    assert np.array_equal(model.predict_proba(other), model.predict_proba(wrong))


@pytest.mark.parametrize("method", ["sf", "ff-la", "ff-vn"])
def test_labels_that_are_unknown_at_prediction_are_no_error(method):
    model = ForwardGNN(method, **FAST).fit(easy())
    other = easy()
    other.y = torch.where(torch.arange(60) % 2 == 0, -1, other.y)
    assert np.isfinite(model.predict_proba(other)).all()


def test_nodes_to_be_tested_on_may_not_be_learnt_from():
    data = easy()
    data.test_mask = data.test_mask | data.train_mask
    with pytest.raises(ValueError, match="test_mask and the others must not share nodes"):
        ForwardGNN(**FAST).fit(data)


def test_labels_beside_the_graph_stay_those_of_the_model():
    data = easy()
    names = np.array(["a", "b", "c"])[data.y.numpy()]
    model = ForwardGNN(**FAST).fit(data, names)
    assert np.array_equal(model.predict(data), model.predict())
    assert model.score(data) == model.score()


def test_missing_labels_may_be_none_or_nan():
    data = easy()
    names = np.array(["a", "b", "c"], dtype=object)[data.y.numpy()]
    names[::3] = None
    codes = data.y.double()
    codes[::3] = float("nan")
    plain = Data(x=data.x, edge_index=data.edge_index)
    first, second = (ForwardGNN(**FAST).fit(plain, labels) for labels in (names, codes))
    assert list(first.classes_) == ["a", "b", "c"]
    assert np.array_equal(first.predict_proba(), second.predict_proba())
    names[1] = 3
    with pytest.raises(ValueError, match="classes of one kind"):
        ForwardGNN(**FAST).fit(plain, names)


@pytest.mark.parametrize("method", ["sf", "sf-top2input", "sf-top2loss", "ff-la", "bp", "dfa", "cafo", "pepita"])
def test_training_that_diverges_is_refused(method):
    with pytest.raises(ValueError, match="too large"):
        ForwardGNN(method, lr=1e30, **FAST).fit(easy())
    with pytest.raises(ValueError, match="too large"):
        ForwardLinkPredictor(lr=1e30, **FAST).fit(easy())


SETTINGS = [
    ({"patience": None}, "patience must be at least -1"),
    ({"patience": 2.5}, "patience must be at least -1"),
    ({"theta": float("nan")}, "theta must be a number"),
    ({"lr": "x"}, "lr must be positive, got 'x'"),
    ({"lr": -1}, "lr must be positive"),
    ({"weight_decay": float("nan")}, "weight_decay must not be negative"),
    ({"random_state": "a"}, "random_state must be"),
    ({"random_state": -1}, "random_state must be"),
]


@pytest.mark.parametrize(("settings", "message"), SETTINGS)
def test_settings_of_another_kind_are_refused_by_both_models(settings, message):
    for model in (ForwardGNN, ForwardLinkPredictor):
        with pytest.raises(ValueError, match=message):
            model(**{**FAST, **settings}).fit(easy())


def test_settings_of_nodes_alone_are_refused():
    for settings, message in (
        ({"clip": 0}, "clip must be positive"),
        ({"negatives": 2.5}, "negatives must be at least 1"),
        ({"tau": None}, "tau must be positive"),
    ):
        with pytest.raises(ValueError, match=message):
            ForwardGNN(**{**FAST, **settings}).fit(easy())


def test_fewer_epochs_than_between_validations_are_validated_at_the_end():
    model = ForwardNodeClassifier(hidden=8, epochs=3, val_every=100).fit(easy())
    assert model.history_.validation == [[model.best_validation_]] * 2 or len(model.history_.validation) == 2
    assert np.isfinite(model.skill_)


@pytest.mark.parametrize("method", ["sf", "ff-la", "bp", "cafo"])
def test_models_can_be_copied(method):
    model = ForwardGNN(method, **FAST).fit(easy())
    assert np.array_equal(copy.deepcopy(model).predict_proba(), model.predict_proba())


def test_a_generator_of_numpy_seeds_a_model():
    made = [ForwardGNN(random_state=np.random.default_rng(3), **FAST).fit(easy()).predict_proba() for _ in range(2)]
    assert np.array_equal(*made)


def test_all_steps_but_the_first_two_are_averaged():
    seen = []
    model = ForwardGNN("sf-top2input", time_steps=12, **FAST).fit(easy())
    x, graph, labels = model._class_graph(model.task_)
    with torch.no_grad():
        model._over_time(model._runs(x, graph), x, labels, lambda z: seen.append(z) or z)
    assert len(seen) == 10 * 2


def test_top_to_loss_predicts_as_the_official_code_where_asked():
    data = easy()
    model = ForwardGNN("sf-top2loss", layers=3, compat="official", **FAST).fit(data)
    whole = model.augmenter_(data.x, data.edge_index, data.y, data.train_mask)
    z, states, expected = whole.x, [row_norm(whole.x)], torch.zeros(60, 3)
    for layer in model.layers_:
        z = layer(z, whole.edge_index)
        states.append(row_norm(z))
    for i, layer in enumerate(model.layers_):
        mean = torch.stack([layer(states[i], whole.edge_index), *states[i + 2 :]]).mean(0)
        expected += (mean[:60] @ mean[60:].T).softmax(1) / 3
    assert np.allclose(model.predict_proba(), expected.detach().numpy(), atol=1e-5)
    ours = ForwardGNN("sf-top2loss", layers=3, **FAST).fit(data).predict_proba()
    assert abs(ours - model.predict_proba()).max() > 1e-3
    with pytest.raises(ValueError, match="compat must be None or 'official'"):
        ForwardGNN(compat="x", **FAST).fit(data)


@pytest.mark.parametrize("conv", [GCNConv, SAGEConv])
def test_messages_that_go_against_the_edges_are_not_sent_along_them(conv):
    edges = torch.randint(0, 30, (2, 60), generator=torch.Generator().manual_seed(0))
    layer = GraphLayer(conv(5, 4, flow="target_to_source"))
    fast, obvious = (
        layer.on(Features(torch.ones(30, 5).cumsum(0)), Propagation(edges, 30), cached=cached)()
        for cached in (True, False)
    )
    assert torch.equal(fast, obvious)


def test_parameters_do_not_count_as_kept():
    layers = [nn.Linear(64, 64) for _ in range(2)]
    x = torch.randn(2, 64, requires_grad=True)
    assert saved_bytes(lambda: layers[1](layers[0](x) @ layers[0].weight.T[:]), ignore=[x]) == 2 * 2 * 64 * 4


def test_parts_refuse_classes_out_of_range():
    with pytest.raises(ValueError, match="from 0 to 1 where mask holds, got 4 to 4"):
        LabelAppender(2).labels(torch.tensor([4]), torch.tensor([True]))
    with pytest.raises(ValueError, match="from 0 to 2"):
        wrong_classes(torch.tensor([0, 5]), 3)


# Links ---------------------------------------------------------------------------------------------------------------


def test_a_split_of_links_depends_on_its_seed_alone():
    found = []
    for state in (1, 2):
        random.seed(state)
        found.append(torch.cat([part.edge_label_index for part in split_links(easy(), seed=7)], 1))
    assert torch.equal(*found)
    assert not torch.equal(found[0], torch.cat([p.edge_label_index for p in split_links(easy(), seed=8)], 1))


def test_edges_listed_twice_do_not_leak_and_no_node_links_to_itself():
    data = easy()
    loops = torch.arange(60).repeat(2, 1)
    data.edge_index = torch.cat([data.edge_index, data.edge_index, loops], 1)
    train, _, test = split_links(data)
    known = {tuple(edge) for edge in train.edge_index.T.tolist()}
    links = [tuple(pair) for pair in test.edge_label_index[:, test.edge_label == 1].T.tolist()]
    assert links
    assert not known & set(links)
    assert all(a != b for a, b in links)
    assert torch.equal(train.y, data.y)


def test_links_that_cannot_be_learnt_are_refused():
    data = easy()
    train, val, _ = split_links(data)
    everybody = torch.combinations(torch.arange(8)).T
    everybody = torch.cat([everybody, everybody.flip(0)], 1)
    far = train.clone()
    far.edge_label_index = train.edge_label_index + 1000
    short = train.clone()
    short.edge_label = train.edge_label[:-1]
    cases = [
        ((Data(x=data.x[:8], edge_index=everybody),), "not all pairs, got 28 and 0 others"),
        ((Data(x=data.x, edge_index=torch.tensor([[0, 1], [1, 0]])),), "links to divide"),
        ((Data(x=data.x, edge_index=torch.zeros(2, 0, dtype=torch.long)),), "links to divide"),
        ((Data(x=data.x[:, 0], edge_index=data.edge_index),), "x must have a row of features"),
        ((Data(x=data.x, edge_index=torch.tensor([[0, 99], [99, 0]])),), "edge_index must be from 0 to 59"),
        ((Data(x=data.x),), "data must have tensors"),
        ((data, val), "must have edge_label_index where val is given"),
        ((far, val), "pairs must be from 0 to 59, got 1000"),
        ((short, val), "a label for each of"),
    ]
    for given, message in cases:
        with pytest.raises(ValueError, match=message):
            ForwardLinkPredictor(**FAST).fit(*given)
    with pytest.raises(ValueError, match="shares of the links"):
        split_links(data, val=0.5, test=0.5)


def test_what_links_cannot_be_asked():
    data = easy()
    train, val, test = split_links(data)
    model = ForwardLinkPredictor(**FAST, lr=0.01).fit(train, val)
    one = test.clone()
    one.edge_label = torch.ones_like(one.edge_label)
    for asked, message in ((one, r"links \(1\) and others"), (data, "edge_label_index and edge_label")):
        with pytest.raises(ValueError, match=message):
            model.score(asked)
    beyond = Data(edge_index=torch.tensor([[0], [999]]), edge_label_index=torch.tensor([[0], [1]]))
    with pytest.raises(ValueError, match="edge_index must be from 0 to 59"):
        model.predict_proba(beyond)
    with pytest.raises(ValueError, match=r"torch.bool of shape \(2, 3\)"):
        model.predict_proba(np.ones((2, 3), dtype=bool))
    train.x = train.x.double()
    assert 0 <= ForwardLinkPredictor(**FAST, lr=0.01).fit(train, val).score(test) <= 1


def test_of_too_many_pairs_those_with_the_most_common_neighbours_are_asked_about():
    hub = torch.tensor([[0, 0, 0, 1, 1, 1, 2, 3, 4, 2, 3, 4], [2, 3, 4, 2, 3, 4, 0, 0, 0, 1, 1, 1]])
    more = torch.tensor([[5, 6], [6, 5]])
    data = Data(edge_index=torch.cat([hub, more], 1), num_nodes=7)
    assert candidate_pairs(data, most=1).tolist() == [[0], [1]]


# Files ---------------------------------------------------------------------------------------------------------------


def test_files_of_the_paper_are_read_as_torch_geometric_reads_them(tmp_path):
    words = scipy.sparse.csr_matrix(np.array([[3.0, 0], [0, 2], [1, 1]]))
    edges = scipy.sparse.csr_matrix(np.array([[1.0, 1, 0], [0, 0, 1], [0, 0, 0]]))
    arrays = {
        f"{name}_{part}": getattr(m, part)
        for name, m in (("adj", edges), ("attr", words))
        for part in ("data", "indices", "indptr", "shape")
    }
    np.savez(tmp_path / "a.npz", labels=np.arange(3), **arrays)
    data = read_npz_graph(tmp_path / "a.npz", normalise=False)
    assert data.x.tolist() == [[1, 0], [0, 1], [1, 1]]
    assert data.edge_index.tolist() == [[0, 1, 1, 2], [1, 0, 2, 1]]
    # GitHub is kept otherwise
    np.savez(tmp_path / "b.npz", edges=np.array([[0, 1], [1, 2]]), features=words.toarray(), target=np.arange(3))
    data = read_npz_graph(tmp_path / "b.npz", normalise=False)
    assert data.x.tolist() == [[3, 0], [0, 2], [1, 1]]
    assert data.edge_index.tolist() == [[0, 1, 1, 2], [1, 0, 2, 1]]
    np.savez(tmp_path / "c.npz", edges=np.array([[0, 9]]), features=words.toarray(), target=np.arange(3))
    with pytest.raises(DataError, match="edges must be between 3 nodes"):
        read_npz_graph(tmp_path / "c.npz")


@pytest.fixture
def tables(tmp_path):
    data = easy()
    names = [f"node {i}" for i in range(60)]
    names[5:8] = "NA", "null", "Zürich"
    pd.DataFrame(data.x.numpy()).set_axis(names).to_csv(tmp_path / "features.csv", index_label="node")
    pairs = pd.DataFrame(np.array(names)[data.edge_index.numpy().T], columns=["source", "target"])
    pairs.to_csv(tmp_path / "edges.csv", index=False)
    pairs.to_csv(tmp_path / "headless.csv", index=False, header=False)
    label = pd.Series(np.array(["None", "y", "z"])[data.y.numpy()], names, name="label")
    label[::3] = None
    label.to_csv(tmp_path / "labels.csv", index_label="node")
    return tmp_path, names


def test_nodes_and_classes_may_be_called_na_and_none(tables, capsys):
    folder, names = tables
    given = [str(folder / "edges.csv"), "--features", str(folder / "features.csv")]
    labels = ["--labels", str(folder / "labels.csv")]
    out = ["--out", str(folder), "--json", "--device", "cpu", "--epochs", "1"]
    assert main(["train", *given, *labels, *out]) == 0
    found = json.loads(capsys.readouterr().out)
    answers = pd.read_csv(found["path"], keep_default_na=False)
    assert answers["node"].tolist() == names
    assert set(answers["given"]) == {"", "None", "y", "z"}
    (folder / "two.csv").write_text("node,label\nnode 0,a\nnode 1,b\n")
    assert main(["train", *given, "--labels", str(folder / "two.csv"), *out]) == 0
    assert json.loads(capsys.readouterr().out)["held_out_accuracy"] is None
    assert main(["links", *given, *out, "--top", "3"]) == 0
    assert len(pd.read_csv(json.loads(capsys.readouterr().out)["path"])) == 3


def test_tables_that_would_be_misread_are_refused(tables, capsys, monkeypatch):
    folder, _ = tables
    edges, features, labels, headless = (
        str(folder / f"{name}.csv") for name in ("edges", "features", "labels", "headless")
    )
    (folder / "longer.csv").write_text("node,a\nnode 0,1,2\nnode 1,2\n")
    (folder / "half.csv").write_text("source,target\nnode 0,node 1\nnode 2,\n")
    (folder / "huge.csv").write_text("node,a\nnode 0,1e300\n")
    monkeypatch.setattr(sys, "stdin", None)
    for arguments, message in (
        (["train", headless, "--features", features, "--labels", labels], "must have a header"),
        (["train", edges, "--features", str(folder / "longer.csv"), "--labels", labels], "is no table"),
        (["train", str(folder / "half.csv"), "--features", features, "--labels", labels], "row 3: a node's name"),
        (["train", edges, "--features", str(folder / "huge.csv"), "--labels", labels], "single precision"),
        (["train", edges, "--features", features, "--labels", labels, "--output", "/no/x.csv"], "no file can be"),
        (["links", edges, "--features", features, "--output", str(folder)], "no file can be"),
        (["memory", "--hidden", "0"], "hidden must be a positive integer"),
    ):
        assert main([*arguments, "--device", "cpu"]) == 2, arguments
        said = capsys.readouterr().err
        assert message in said
        assert len(said.splitlines()) == 1, said
