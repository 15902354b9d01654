import pytest
import torch
from jaxtyping import TypeCheckError
from torch_geometric.data import Data
from torch_geometric.nn import GATConv

from robust_fidelity_impl.datasets import ba2motifs, tree_cycles
from robust_fidelity_impl.models import GCN, GIN
from robust_fidelity_impl.probe import Probe, receptive_field


@pytest.fixture(scope="module")
def graph():
    return ba2motifs(2)[0]


@pytest.fixture(params=[GCN, GIN])
def model(request):
    torch.manual_seed(0)
    return request.param(in_features=10, classes=2)


def random_keeps(probe, n=7):
    return torch.rand(n, probe.n_units, generator=torch.Generator().manual_seed(0)) < 0.6


@pytest.mark.parametrize("mode", ["delete", "weight"])
def test_many_subsets_at_once_are_those_one_by_one_and_in_chunks(graph, model, mode):
    probe = Probe(model, graph, mode=mode)
    keep = random_keeps(probe)
    together = probe.probabilities(keep)
    assert together.shape == (7, 2)
    torch.testing.assert_close(together.sum(1), torch.ones(7, dtype=torch.float64))
    chunks = Probe(model, graph, mode=mode, max_edges=2 * graph.edge_index.shape[1]).probabilities(keep)
    torch.testing.assert_close(together, chunks, rtol=1e-6, atol=1e-6)
    for row, chosen in zip(together, keep, strict=True):
        left = chosen[probe.ids]
        with torch.no_grad():
            alone = model.eval()(graph.x, graph.edge_index[:, left]).softmax(-1)[0]
        if mode == "delete":
            torch.testing.assert_close(row, alone.double(), rtol=1e-5, atol=1e-6)
    model.train()
    probe.probabilities(keep[:1])
    assert model.training


def test_weight_0_is_deletion_for_layers_that_use_weights(graph, model):
    keep = random_keeps(Probe(model, graph))
    deleted, weighted = (Probe(model, graph, mode=mode).probabilities(keep) for mode in ("delete", "weight"))
    torch.testing.assert_close(deleted, weighted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", [GCN, GIN])
def test_a_node_is_asked_about_in_its_own_neighbourhood_with_the_whole_graphs_answer(kind):
    torch.manual_seed(0)
    tree = tree_cycles()
    model = kind(in_features=10, classes=2, task="node").eval()
    with torch.no_grad():
        whole = model(tree.x, tree.edge_index).softmax(-1).double()
    assert receptive_field(model, lambda: model(tree.x, tree.edge_index)) == 3
    for node in (0, 600, 870):
        probe = Probe(model, tree, task="node", index=node)
        assert len(probe.x) < tree.num_nodes
        answer = probe.probabilities(probe.everything()[None])[0]
        torch.testing.assert_close(answer, whole[node], rtol=1e-5, atol=1e-6)
        # an edge that may be deleted, deleted in the whole graph
        unit = int(torch.nonzero(probe.domain)[0])
        keep = probe.everything()
        keep[unit] = False
        in_graph = probe.units_of_graph != probe.unit_names[unit]
        with torch.no_grad():
            changed = model(tree.x, tree.edge_index[:, in_graph]).softmax(-1).double()[node]
        torch.testing.assert_close(probe.probabilities(keep[None])[0], changed, rtol=1e-5, atol=1e-6)


class Plain(torch.nn.Module):
    def __init__(self, out=2, take_weights=True):
        super().__init__()
        self.linear = torch.nn.Linear(10, out)

    def forward(self, x, edge_index, batch, edge_weight=None, edge_attr=None):
        self.seen = edge_attr
        return (
            self.linear(x).new_zeros(int(batch.max()) + 1, self.linear.out_features).index_add(0, batch, self.linear(x))
        )


def test_edge_attributes_go_with_their_edges(graph):
    data = graph.clone()
    data.edge_attr = torch.arange(float(data.edge_index.shape[1]))[:, None]
    model = Plain()
    probe = Probe(model, data)
    keep = random_keeps(probe, 2)
    probe.probabilities(keep)
    expected = torch.cat([data.edge_attr[chosen[probe.ids]] for chosen in keep])
    torch.testing.assert_close(model.seen, expected)


def test_a_model_that_ignores_weights_is_refused_in_weight_mode(graph):
    with pytest.raises(ValueError, match="ignores edge_weight"):
        Probe(Plain(), graph, mode="weight")

    class Without(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = GATConv(10, 2)

        def forward(self, x, edge_index, batch):
            return self.conv(x, edge_index)

    with pytest.raises(ValueError, match="takes no edge_weight"):
        Probe(Without(), graph, mode="weight")


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        ({"x": None}, {}, "x and edge_index"),
        ({"x": torch.zeros(0, 10)}, {}, "no nodes"),
        ({"x": torch.zeros(3, 10)}, {}, "names node"),
        ({}, {"task": "edge"}, "task"),
        ({}, {"mode": "drop"}, "mode"),
        ({}, {"output": "logit"}, "output"),
        ({}, {"task": "node"}, "index"),
        ({}, {"task": "node", "index": 99}, "index"),
        ({}, {"max_edges": 0}, "max_edges"),
    ],
)
def test_what_cannot_be_is_refused(graph, change, options, message):
    data = Data(**{"x": graph.x, "edge_index": graph.edge_index, "y": graph.y, **change})
    with pytest.raises((ValueError, TypeCheckError), match=message):
        Probe(Plain(), data, **options)


@pytest.mark.parametrize(("out", "message"), [(1, "two classes"), (2, "not finite")])
def test_a_model_that_returns_nonsense_is_refused(graph, out, message):
    model = Plain(out)
    if out == 2:
        torch.nn.init.constant_(model.linear.bias, torch.nan)
    with pytest.raises(ValueError, match=message):
        Probe(model, graph)


def test_a_model_of_graphs_must_take_the_batch(graph):
    class NoBatch(torch.nn.Module):
        def forward(self, x, edge_index):
            return x

    with pytest.raises(ValueError, match="batch"):
        Probe(NoBatch(), graph)
