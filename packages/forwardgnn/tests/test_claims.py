"""The claims of the paper that a test can decide, a test each."""

import copy

import pytest
import torch
from torch.nn.functional import cross_entropy, softplus
from torch_geometric.data import Data

from forwardgnn_impl import (
    AssertLocal,
    Features,
    ForwardGNN,
    GraphLayer,
    LocalityError,
    LocalLayer,
    Propagation,
    VirtualNodeAugmenter,
    ff_loss,
    goodness,
    load_graph,
    make_conv,
    node_splits,
    row_norm,
    saved_bytes,
    sbm,
    sf_logits,
    wrong_classes,
)

FORWARD = ("sf", "sf-top2input", "sf-top2loss", "ff-la", "ff-vn")


def split(data: Data, fold: int = 0) -> Data:
    data.update(node_splits(data.num_nodes)[fold])
    return data


@pytest.fixture
def small() -> Data:
    return split(sbm(60, 3, p_in=0.3, p_out=0.03, n_features=8))


@pytest.mark.parametrize("method", FORWARD)
def test_a_step_of_a_layer_changes_that_layer_alone_and_no_input_asks_for_a_gradient(small, method, monkeypatch):
    changed = []
    update = LocalLayer.update

    def watched(self, loss):
        before = copy.deepcopy(model.layers_.state_dict()) if hasattr(model, "layers_") else {}
        value = update(self, loss)
        after = model.layers_.state_dict()
        own = next(i for i, layer in enumerate(model.layers_) if layer is self)
        moved = {int(key.split(".")[0]) for key in before if not torch.equal(before[key], after[key])}
        changed.append((own, moved))
        return value

    monkeypatch.setattr(LocalLayer, "update", watched)
    model = ForwardGNN(method, layers=3, hidden=8, epochs=2, patience=-1, cached=False)
    forward = GraphLayer.forward

    def strict(self, x, edge_index):
        assert not x.requires_grad
        return forward(self, x, edge_index)

    monkeypatch.setattr(GraphLayer, "forward", strict)
    model.fit(small)
    assert {own for own, _ in changed} == {0, 1, 2}
    assert all(moved <= {own} for own, moved in changed)
    assert any(moved for _, moved in changed)


def test_a_gradient_that_would_cross_a_layer_is_an_error(small):
    layers = [GraphLayer(make_conv("gcn", 8, 8)) for _ in range(2)]
    with AssertLocal(layers):
        z = layers[0](small.x, small.edge_index)
        layers[1](z.detach(), small.edge_index)
        with pytest.raises(LocalityError, match="layer 1"):
            layers[1](z, small.edge_index)
    layers[1](z, small.edge_index)


def test_the_augmented_graph_has_two_edges_for_each_labelled_node_and_none_for_others(small):
    whole = VirtualNodeAugmenter(3, 8)(small.x, small.edge_index, small.y, small.train_mask)
    many = int(small.train_mask.sum())
    added = whole.edge_index[:, small.edge_index.shape[1] :]
    assert len(whole.x) == 60 + 3
    assert added.shape[1] == 2 * many
    real, classes = added[:, :many]
    assert torch.equal(added[:, many:], torch.stack([classes, real]))
    assert torch.equal(torch.sort(real).values, torch.nonzero(small.train_mask)[:, 0])
    assert torch.equal(classes - 60, small.y[real])
    one_way = VirtualNodeAugmenter(3, 8, direction="to class").edges(small.y, small.train_mask)
    assert torch.equal(one_way, added[:, :many])


def test_single_forward_scores_are_inner_products_with_the_class_nodes(small):
    model = ForwardGNN("sf", layers=2, hidden=8, epochs=3, tau=0.5, patience=-1).fit(small)
    whole = model.augmenter_(small.x, small.edge_index, small.y, small.train_mask)
    x, expected = whole.x, torch.zeros(60, 3)
    for layer in model.layers_:
        z = layer.module.conv(row_norm(x), whole.edge_index).relu()
        logits = torch.stack([torch.stack([z[i] @ z[60 + c] for c in range(3)]) for i in range(60)]) / 0.5
        expected += logits.softmax(1) / 2
        x = z
    assert torch.allclose(torch.from_numpy(model.predict_proba()), expected, atol=1e-6)
    assert model.history_.passes == 2


def test_with_two_classes_the_negative_graph_is_the_positive_one_with_class_nodes_swapped():
    data = split(sbm(40, 2, p_in=0.3, p_out=0.05, n_features=4))
    augment = VirtualNodeAugmenter(2, 4)
    wrong = wrong_classes(data.y, 2)
    assert wrong.shape == (40, 1)
    positive, negative = augment.edges(data.y, data.train_mask), augment.edges(wrong[:, 0], data.train_mask)
    swapped = torch.where(positive >= 40, 81 - positive, positive)
    assert torch.equal(swapped, negative)


def test_the_forward_forward_loss_is_the_one_computed_by_hand():
    g = torch.Generator().manual_seed(0)
    positive, negative = torch.randn(5, 4, generator=g).double(), torch.randn(3, 5, 4, generator=g).double()
    by_hand = sum(softplus(-(row.square().sum() - 2)) for row in positive) / 5
    by_hand = by_hand + sum(softplus(row.square().sum() - 2) for part in negative for row in part) / 15
    assert torch.allclose(ff_loss(positive, negative, 2.0), by_hand, atol=1e-12)
    assert torch.allclose(goodness(positive, 2.0, "mean"), positive.square().mean(1) - 2)


@pytest.mark.parametrize("method", FORWARD)
def test_renaming_nodes_renames_predictions(method):
    data = split(sbm(50, 2, p_in=0.3, p_out=0.05, n_features=6))
    order = torch.randperm(50, generator=torch.Generator().manual_seed(1))
    place = torch.empty_like(order)
    place[order] = torch.arange(50)
    renamed = Data(x=data.x[order], y=data.y[order], edge_index=place[data.edge_index])
    for mask in ("train_mask", "val_mask", "test_mask"):
        renamed[mask] = data[mask][order]
    # two classes: the wrong ones of forward-forward need no draw
    how = {"layers": 2, "hidden": 8, "epochs": 5, "patience": -1}
    first, second = (ForwardGNN(method, **how).fit(d).predict_proba() for d in (data, renamed))
    assert abs(first[order] - second).max() < 1e-4


def test_one_layer_of_single_forward_is_one_step_of_backpropagation():
    data = split(sbm(60, 3, p_in=0.3, p_out=0.03, n_features=8))
    model = ForwardGNN("sf", layers=1, hidden=8, epochs=1, patience=-1).fit(data)
    torch.manual_seed(0)
    # the class nodes' features are drawn by a generator of their own, so that the weights are drawn first here too
    net = GraphLayer(make_conv("gcn", 8, 8))
    whole = model.augmenter_(data.x, data.edge_index, data.y, data.train_mask)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3, weight_decay=5e-4)
    z = net(row_norm(whole.x), whole.edge_index)
    cross_entropy(sf_logits(z[:60][data.train_mask], z[60:]), data.y[data.train_mask]).backward()
    optimizer.step()
    for ours, theirs in zip(model.layers_[0].module.parameters(), net.parameters(), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-7)


def test_top_to_input_with_nothing_above_is_the_bottom_up_pass(small):
    model = ForwardGNN("sf-top2input", layers=1, hidden=8, epochs=1, patience=-1).fit(small)
    x, graph, labels = model._class_graph(model.task_)
    run = model._runs(x, graph)
    nothing = torch.zeros(63, 3)
    states = model._bottom_up(run, x, labels)
    assert torch.equal(run[0](x, nothing), states[1])
    assert torch.equal(states[2], labels)
    assert not torch.allclose(run[0](x, labels), states[1])


@pytest.mark.parametrize("conv", ["gcn", "sage"])
@pytest.mark.parametrize("sparse", [True, False])
@pytest.mark.parametrize("moving", [0, 3])
def test_the_fast_form_of_a_layer_equals_the_obvious_one(conv, sparse, moving):
    g = torch.Generator().manual_seed(0)
    x = torch.randn(30, 12, generator=g).double()
    if sparse:
        x = x * (torch.rand(30, 12, generator=g) < 0.05)
        x[0, 0] = 1.0
    edges = torch.randint(0, 30, (2, 90), generator=g)
    extra = torch.randn(30, moving, generator=g).double().requires_grad_() if moving else None
    layer = GraphLayer(make_conv(conv, 12 + moving, 8)).double()
    graph = Propagation(edges, 30, dtype=torch.float64)
    found = []
    for cached in (True, False):
        layer.zero_grad()
        z = layer.on(Features(x), graph, cached=cached)(extra)
        (z * torch.linspace(-1, 1, z.numel()).view_as(z)).sum().backward()
        found.append([z, *[p.grad.clone() for p in layer.parameters()], *([extra.grad.clone()] if moving else [])])
        if moving:
            extra.grad = None
    assert Features(x).sparse is not None or not sparse
    for ours, obvious in zip(*found, strict=True):
        assert torch.allclose(ours, obvious, atol=1e-12)


@pytest.mark.parametrize("method", FORWARD)
def test_what_autograd_keeps_does_not_grow_with_depth(method):
    data = split(sbm(200))

    def kept(method: str, layers: int) -> int:
        model = ForwardGNN(method, layers=layers, hidden=32, epochs=2, patience=-1)
        return saved_bytes(lambda: model.fit(data), ignore=[data.x, data.edge_index])

    assert kept(method, 8) <= 1.05 * kept(method, 3)
    assert kept("bp", 8) > 2 * kept("bp", 3)


def test_single_forward_predicts_in_one_pass_and_forward_forward_in_one_for_each_class(small):
    for method, expected in (("sf", 2), ("ff-la", 2 * 2 * 3), ("ff-vn", 2 * 2 * 3)):
        model = ForwardGNN(method, layers=2, hidden=8, epochs=1, patience=-1).fit(small)
        model.predict()
        # forward-forward is asked twice: for nodes without a known class, and for the others
        assert model.history_.passes == expected


@pytest.mark.parametrize("method", ["ff-la", "ff-vn"])
def test_all_classes_in_one_batch_are_answered_as_one_at_a_time(small, method):
    from forwardgnn_impl.benchmarks import one_class_at_a_time

    model = ForwardGNN(method, layers=2, hidden=8, epochs=5, patience=-1).fit(small)
    with torch.no_grad():
        loop = one_class_at_a_time(model).numpy()
    assert abs(model.predict_proba() - loop).max() < 1e-5


def test_layers_side_by_side_in_threads_learn_the_same(small):
    for method, more in (("sf-top2loss", {}), ("sf-top2input", {"alternating": False})):
        how = {"layers": 3, "hidden": 8, "epochs": 5, "patience": -1, **more}
        one, many = (ForwardGNN(method, workers=w, **how).fit(small).predict_proba() for w in (1, 3))
        assert abs(one - many).max() < 1e-6


@pytest.mark.slow
def test_single_forward_is_within_three_points_of_backpropagation_and_far_ahead_with_one_layer():
    for name in ("cora", "sbm"):
        scores = {}
        for method in ("sf", "bp"):
            for layers in (1, 2):
                found = []
                for fold in range(3):
                    data = split(load_graph(name), fold)
                    model = ForwardGNN(method, layers=layers, epochs=200 if method == "sf" else 1000, val_every=5)
                    found.append(model.fit(data).score(data))
                scores[method, layers] = sum(found) / 3
        assert scores["sf", 2] >= scores["bp", 2] - 0.03
        if name == "cora":
            assert scores["sf", 1] >= scores["bp", 1] + 0.3
