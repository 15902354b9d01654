"""What is timed: cached layers, forward learning beside backpropagation, class graphs in a batch, the authors' code."""

import importlib.util
import os
import sys
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch_geometric.data import Data

from shared_impl.bench import Benchmark, Case, Setting, checkout_revision, module_from_file
from shared_impl.results import Row

from .augment import VirtualNodeAugmenter, wrong_classes
from .data import load_graph, sbm
from .graphs import node_splits
from .local import LocalLayer
from .losses import ff_loss, goodness, sf_logits
from .model import ForwardGNN
from .propagation import Features, GraphLayer, Propagation, make_conv, row_norm

__all__ = ["BENCHMARKS", "CHECKOUT"]

CHECKOUT = "FORWARDGNN_OFFICIAL_DIR"
"""environment variable: a checkout of facebookresearch/forwardgnn"""


def _data(quick: bool) -> Data:
    data = sbm(200) if quick else load_graph("cora")
    data.update(node_splits(data.num_nodes)[0])
    return data


def _epoch(local: LocalLayer, outputs: Callable[[], Tensor], data: Data) -> Callable[[], float]:
    """A step of single-forward."""

    def step() -> float:
        z = outputs()
        logits = sf_logits(z[: data.num_nodes][data.train_mask], z[data.num_nodes :])
        return local.update(cross_entropy(logits, data.y[data.train_mask]))

    return step


def layer(setting: Setting) -> Iterator[Case]:
    """An epoch of one layer that trains by itself: the obvious form, and with its input propagated once or sparse."""
    data = _data(setting.quick)
    for conv in ("gcn", "sage"):
        for place, x in (("first", data.x), ("second", torch.randn(data.num_nodes, 128).relu())):
            whole = VirtualNodeAugmenter(7, x.shape[1])(x, data.edge_index, data.y, data.train_mask)
            graph, fixed = Propagation(whole.edge_index, len(whole.x)), Features(row_norm(whole.x))
            forms: dict[str, Callable[[], object]] = {}
            for name, cached in (("every epoch", False), ("once", True)):
                local = LocalLayer(GraphLayer(make_conv(conv, x.shape[1], 128)))
                forms[name] = _epoch(local, local.module.on(fixed, graph, cached=cached), data)  # type: ignore[operator]
            yield Case(f"{conv}, {place} layer, {x.shape[1]} inputs", forms, baseline="every epoch", rounds=5)


def depth(setting: Setting) -> Iterator[Case]:
    """Twenty epochs of each layer, one layer after the other (SF) or all in each epoch (BP)."""
    data = _data(setting.quick)
    for layers in (1, 2) if setting.quick else (1, 2, 4, 8, 16):
        forms: dict[str, Callable[[], object]] = {
            name: partial(ForwardGNN(name.lower(), layers=layers, epochs=20, patience=-1, val_every=1000).fit, data)
            for name in ("BP", "SF")
        }
        yield Case(f"{layers} layers, 20 epochs of each", forms, baseline="BP", rounds=3, size=layers)


def classes(setting: Setting) -> Iterator[Case]:
    """Prediction of forward-forward: K graphs in one batch against a graph for each class."""
    data = _data(setting.quick)
    for method in ("ff-la", "ff-vn"):
        model = ForwardGNN(method, epochs=1, patience=-1, hidden=128).fit(data)
        loop = torch.no_grad()(partial(one_class_at_a_time, model))
        yield Case(method, {"loop": loop, "batch": model.predict_proba}, baseline="loop", rounds=5)


def one_class_at_a_time(model: ForwardGNN) -> Tensor:
    """What `predict_proba` of forward-forward is, a class after the other: the obvious form."""
    task, known = model.task_, model.task_.train | model.task_.val
    nobody = torch.zeros_like(known)
    found = torch.zeros(task.n, task.n_classes)
    for asked, told in ((~known, known), (known, nobody)):
        for c, labels in enumerate(model._guesses(task, told, asked)):
            if model.method == "ff-la":
                x, edges = model.appender_(task.x, labels, told | asked), task.edge_index
            else:
                whole = model.augmenter_(task.x, task.edge_index, labels, told | asked)
                x, edges = whole.x, whole.edge_index
            score = torch.zeros(task.n)
            for local in model.layers_:
                z = local(row_norm(x), edges)
                score += goodness(z[: task.n], model.theta, model.goodness)
                x = z
            found[asked, c] = score[asked]
    return found.softmax(1)


# The authors' code ---------------------------------------------------------------------------------------------------


def _scatter_add(src: Tensor, index: Tensor, dim: int = -1, dim_size: int | None = None) -> Tensor:
    shape = list(src.shape)
    shape[dim] = int(index.max()) + 1 if dim_size is None else dim_size
    return src.new_zeros(shape).index_add(dim, index, src)


def _load(source: Path, name: str) -> Any:
    """A module of theirs; what it imports of torch_scatter and torch_sparse is stood in for where not installed."""
    for absent in ("torch_scatter", "torch_sparse"):
        if absent not in sys.modules and importlib.util.find_spec(absent) is None:
            made: Any = ModuleType(absent)
            made.scatter_add, made.SparseTensor = _scatter_add, type("SparseTensor", (), {})
            made.gather_csr = made.matmul = made.mul = made.sum = made.fill_diag = None  # for other inputs than ours
            sys.modules[absent] = made
    sys.path.insert(0, str(source))
    try:
        return module_from_file(source / f"{name}.py", f"official_{name.replace('/', '_')}")
    finally:
        sys.path.remove(str(source))


def official(setting: Setting) -> Iterator[Case | Row | str]:
    """Single-forward and forward-forward layers of the authors' code: ten steps from equal weights, then an epoch."""
    place = os.environ.get(CHECKOUT)
    if not place or not (Path(place) / "src" / "train_forward.py").is_file():
        yield Row("facebookresearch/forwardgnn", "ours", "compared", 0.0, note=f"{CHECKOUT} names no checkout")
        yield f"set {CHECKOUT} to a checkout of facebookresearch/forwardgnn"
        return
    yield f"facebookresearch/forwardgnn at {checkout_revision(Path(place))}, unchanged"
    yield "torch_scatter, where absent, stood in for by torch's index_add"
    data = _data(setting.quick)
    k = int(data.y.max()) + 1
    for conv in ("GCN", "SAGE", "GAT"):
        yield from _single_forward(setting, Path(place) / "src", data, k, conv)
    yield from _forward_forward(Path(place) / "src", data, k)


ADAM = ("Adam", {"lr": 1e-3, "weight_decay": 5e-4})
ARGUMENTS = Namespace(temperature=1.0, grad_max_norm=1.0, ff_theta=2.0, device="cpu")


def _apart(name: str, theirs: Tensor, ours: Tensor) -> Row:
    far = float((theirs - ours).detach().abs().max() / theirs.detach().abs().max())
    return Row(name, "ours", "of outputs after ten steps, relative", far, higher_is_better=False)


def _single_forward(setting: Setting, source: Path, data: Data, k: int, conv: str) -> Iterator[Case | Row]:
    theirs = _load(source, "forward_learning/nodeclass/gnn_sf")
    torch.manual_seed(setting.seed)
    augmenter = theirs.GraphAugmenter(data, None, "bidirection", torch.device("cpu"))
    graph = augmenter.augment(data.y, data.train_mask)
    ours = VirtualNodeAugmenter(k, data.x.shape[1])
    ours.features = augmenter.virtual_node_feats
    whole = ours(data.x, data.edge_index, data.y, data.train_mask)
    assert torch.equal(whole.edge_index, graph.edge_index)
    assert torch.equal(whole.x, graph.x)
    made = [
        theirs.GNNSingleForwardLayer(theirs.GNNConv(name, data.x.shape[1], 128), *ADAM, ARGUMENTS)
        for name in (conv, *([f"Cached{conv}"] if conv != "GAT" else []))
    ]
    local: Any = LocalLayer(GraphLayer(make_conv(conv.lower(), data.x.shape[1], 128)))
    local.module.conv.load_state_dict(made[0].gnn_layer.gnn.state_dict())
    outputs = local.module.on(Features(row_norm(whole.x)), Propagation(whole.edge_index, len(whole.x)))
    step = _epoch(local, outputs, data)

    def reference(which: Any) -> float:
        return float(which.forward_train(graph.x, augmenter, data.train_mask, graph.edge_index))

    apart = max(abs(reference(made[0]) - step()) for _ in range(10))
    yield Row(f"SF, {conv}", "ours", "largest difference of ten losses", apart, higher_is_better=False)
    yield _apart(f"SF, {conv}", made[0](graph.x, graph.edge_index), outputs())
    forms: dict[str, Callable[[], object]] = {"theirs": partial(reference, made[0]), "ours": step}
    if len(made) > 1:
        forms["theirs, cached"] = partial(reference, made[1])
    yield Case(f"SF, {conv}, an epoch of the first layer", forms, baseline="theirs", rounds=5)


def _forward_forward(source: Path, data: Data, k: int) -> Iterator[Case | Row]:
    theirs = _load(source, "forward_learning/nodeclass/gnn_ff_with_label_appending")
    model = ForwardGNN("ff-la", layers=1, epochs=1, patience=-1).fit(data)
    task, width = model.task_, data.x.shape[1] + k
    layer = theirs.GNNFFLayer(theirs.GNNConv("GCN", width, 128), *ADAM, "forwardforward_loss_fn", ARGUMENTS)
    local: Any = LocalLayer(GraphLayer(make_conv("gcn", width, 128)))
    local.module.conv.load_state_dict(layer.gnn_layer.gnn.state_dict())
    labels = [task.y, *wrong_classes(task.y, k).T]
    x, graph, n = model._copies(task, labels, task.train)
    outputs = local.module.on(Features(x), graph)
    each = [part.contiguous() for part in x.view(len(labels), n, -1)]

    def step() -> float:
        z = outputs().view(len(labels), n, -1)[:, task.train]
        return float(local.update(ff_loss(z[0], z[1:], 2.0)))

    def reference() -> object:
        return layer.forward_train(task.train, each[0], each[1:], 2.0, data.edge_index, data.edge_index)

    for _ in range(10):
        reference(), step()
    yield _apart("FF-LA, GCN", layer(each[0], data.edge_index), outputs()[:n])
    yield Case("FF-LA, GCN, an epoch of the first layer", {"theirs": reference, "ours": step}, baseline="theirs",
               rounds=3)  # fmt: skip


def defaults(setting: Setting) -> Iterator[Row | str]:
    """`ForwardNodeClassifier()` as it comes on small graphs, beside a regression on features and label propagation."""
    import warnings

    from sklearn.linear_model import LogisticRegression
    from torch_geometric.nn import LabelPropagation

    from .model import ForwardNodeClassifier

    graphs = {"SBM, 200 nodes": sbm(200, seed=setting.seed), "SBM, 80 nodes": sbm(80, 2, p_in=0.15, p_out=0.02)}
    if not setting.quick:
        graphs |= {"cora, 20 a class": load_graph("cora"), "citeseer, 20 a class": load_graph("citeseer")}
    for name, data in graphs.items():
        n = data.num_nodes
        rng = torch.Generator().manual_seed(setting.seed)
        train = torch.zeros(n, dtype=torch.bool)
        for c in range(int(data.y.max()) + 1):
            rows = torch.nonzero(data.y == c)[:, 0]
            train[rows[torch.randperm(len(rows), generator=rng)[:20]]] = True
        data.train_mask, data.test_mask = train, ~train
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = ForwardNodeClassifier(epochs=20 if setting.quick else 1000).fit(data)
            linear = LogisticRegression(max_iter=2000, C=100).fit(data.x[train], data.y[train])
        spread = LabelPropagation(20, 0.9)(data.y, data.edge_index, mask=train).argmax(1)
        truth = data.y[~train].numpy()
        for who, guess in (
            ("ForwardNodeClassifier()", model.predict()[~train.numpy()]),
            ("regression on features", linear.predict(data.x[~train])),
            ("label propagation", spread[~train].numpy()),
        ):
            yield Row(name, who, "accuracy", float((guess == truth).mean()))


BENCHMARKS: Mapping[str, Benchmark] = {
    "layer": Benchmark("An epoch of a layer", layer),
    "depth": Benchmark("Beside backpropagation", depth, xlabel="layers"),
    "classes": Benchmark("Prediction of forward-forward", classes),
    "official": Benchmark("Beside the authors' code", official),
    "defaults": Benchmark("ForwardNodeClassifier as it comes", defaults),
}
