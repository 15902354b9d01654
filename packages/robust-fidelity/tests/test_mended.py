import pytest
import torch
from torch import nn
from torch_geometric.data import Batch, Data
from torch_geometric.nn import APPNP, GATConv, GCNConv, GraphNorm, SGConv, TAGConv, global_add_pool
from torch_geometric.utils import barabasi_albert_graph

from robust_fidelity_impl.measures import fidelity, robust_fidelity, score_explanations
from robust_fidelity_impl.pairs import explanation_units
from robust_fidelity_impl.probe import Probe, receptive_field


class Nodes(nn.Module):
    """Node classes by layers that are given."""

    def __init__(self, *layers, norm=None, times=1):
        super().__init__()
        self.layers, self.norm, self.times = nn.ModuleList(layers), norm, times

    def forward(self, x, edge_index):
        for layer in self.layers:
            for _ in range(self.times):
                x = layer(x, edge_index)
                x = x if self.norm is None else self.norm(x)
        return x


def path(n=12):
    one = torch.stack([torch.arange(n - 1), torch.arange(1, n)])
    x = torch.randn(n, 3, generator=torch.Generator().manual_seed(0))
    return Data(x=x, edge_index=torch.cat([one, one.flip(0)], 1), y=torch.zeros(n, dtype=torch.long))


@pytest.mark.parametrize(
    ("model", "hops"),
    [
        (lambda: Nodes(TAGConv(3, 3, K=3)), 3),
        (lambda: Nodes(APPNP(4, 0.1)), 4),
        (lambda: Nodes(SGConv(3, 3, K=2)), 2),
        (lambda: Nodes(GCNConv(3, 3), times=3), 3),
        (lambda: Nodes(SGConv(3, 3, K=2, cached=True)), None),
    ],
)
def test_the_computation_graph_is_as_wide_as_the_model_looks(model, hops):
    torch.manual_seed(0)
    net, data = model().eval(), path()
    assert receptive_field(net, lambda: net(data.x, data.edge_index)) == hops
    if hops is None:
        return
    probe = Probe(net, data, task="node", index=0)
    # from the end of a path: edges up to so many hops may be deleted, and none beyond the next moves the answer
    assert probe.unit_names[probe.domain].tolist() == list(range(hops))
    whole = net(data.x, data.edge_index)[0]
    for unit in range(hops + 1, 11):
        keep = probe.units_of_graph != unit
        assert torch.allclose(net(data.x, data.edge_index[:, keep])[0], whole, atol=1e-6)


def test_norms_over_all_nodes_are_asked_one_copy_at_a_time():
    torch.manual_seed(0)
    data = path()
    net = Nodes(GCNConv(3, 3), norm=GraphNorm(3)).eval()
    probe = Probe(net, data, task="node", index=4, hops=11)
    assert not probe.together
    assert Probe(Nodes(GCNConv(3, 3)), data, task="node", index=4).together
    keep = torch.rand(5, probe.n_units, generator=torch.Generator().manual_seed(1)) < 0.5
    answers = probe.probabilities(keep)
    for chosen, answer in zip(keep, answers, strict=True):
        with torch.no_grad():
            alone = net(probe.x, probe.edge_index[:, chosen[probe.ids]])[probe.target].softmax(-1)
        assert torch.allclose(answer, alone.double(), atol=1e-5)


def test_top_k_of_a_node_is_taken_from_its_own_computation_graph():
    torch.manual_seed(0)
    data, net = path(), Nodes(GCNConv(3, 2)).eval()
    # the largest weights are far from node 0
    mask = torch.arange(11.0).repeat(2)
    found = robust_fidelity(net, data, mask, task="node", index=0, top_k=1)
    assert found.size == 1
    with pytest.raises(ValueError, match="undirected edges, 1"):
        robust_fidelity(net, data, mask, task="node", index=0, top_k=2)
    among = torch.tensor([True, True, False])
    chosen = explanation_units(torch.tensor([1.0, 2.0, 3.0]), torch.arange(3), 3, top_k=1, among=among)
    assert chosen.tolist() == [False, True, False]


class Weighted(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = GCNConv(3, 2)

    def forward(self, x, edge_index, batch, edge_weight=None):
        return global_add_pool(self.conv(x, edge_index, edge_weight), batch)


@pytest.mark.parametrize("mode", ["delete", "weight"])
def test_a_graphs_own_weights_are_given_to_the_model(mode):
    torch.manual_seed(0)
    data, net = path(), Weighted().eval()
    data.edge_weight = torch.rand(11).repeat(2) + 0.1
    probe = Probe(net, data, mode=mode)
    whole = net(data.x, data.edge_index, torch.zeros(12, dtype=torch.long), data.edge_weight).softmax(-1)[0]
    assert torch.allclose(probe.probabilities(probe.everything()[None])[0], whole.double(), atol=1e-6)
    data.edge_weight = torch.ones(3)
    with pytest.raises(ValueError, match="edge_weight must have one value"):
        Probe(net, data)


def test_a_layer_that_ignores_weights_is_warned_of_in_weight_mode():
    class Half(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = GATConv(3, 3), GCNConv(3, 2)

        def forward(self, x, edge_index, batch, edge_weight=None):
            return global_add_pool(self.second(self.first(x, edge_index), edge_index, edge_weight), batch)

    torch.manual_seed(0)
    with pytest.warns(UserWarning, match="still count"):
        Probe(Half(), path(), mode="weight")


def test_graphs_draw_masks_of_their_own_and_explanations_of_one_graph_the_same():
    torch.manual_seed(0)
    graphs = []
    for seed in range(40):
        torch.manual_seed(seed)
        graphs.append(Data(x=torch.ones(15, 3), edge_index=barabasi_albert_graph(15, 2), y=torch.tensor([0])))

    class Counted(nn.Module):
        """Edges between the first nodes, which graphs of one kind have in common."""

        def forward(self, x, edge_index, batch):
            seen = torch.zeros(int(batch.max()) + 1).index_add(0, batch[edge_index[0]], torch.ones(edge_index.shape[1]))
            return torch.stack([seen / 4, torch.zeros_like(seen)], 1)

    def mean(seed):
        found = []
        for graph in graphs:
            probe = Probe(Counted(), graph)
            found.append(score_explanations(probe, ~probe.everything()[None], label=0, n_samples=10, seed=seed))
        errors = torch.stack([f.minus_se[0] for f in found])
        return float(torch.stack([f.minus[0] for f in found]).mean()), float(errors.square().sum().sqrt() / len(graphs))

    drawn = [mean(seed) for seed in range(15)]
    spread = float(torch.tensor([m for m, _ in drawn]).std())
    expected = sum(e for _, e in drawn) / len(drawn)
    # one set of masks for all graphs would give a spread of about the square root of 40 times this
    assert spread < 2.5 * expected


def test_stratified_samples_are_common_to_explanations():
    torch.manual_seed(0)
    data, net = path(), Weighted().eval()
    probe = Probe(net, data)
    explanation = torch.arange(11) < 5
    twice = score_explanations(
        probe, torch.stack([explanation, explanation]), label=0, exact="never", sampling="stratified"
    )
    assert float(twice.delta[0]) == float(twice.delta[1])


def test_memory_is_bounded_by_features_too(monkeypatch):
    data, net = path(), Weighted().eval()
    probe = Probe(net, data)
    sizes = []
    ask = probe._ask
    monkeypatch.setattr(probe, "_ask", lambda keep: sizes.append(len(keep)) or ask(keep))
    monkeypatch.setattr("robust_fidelity_impl.probe.MAX_VALUES", 2 * data.x.numel())
    probe.probabilities(torch.ones(5, 11, dtype=torch.bool))
    assert sizes == [2, 2, 1]


class Says(nn.Module):
    def __init__(self, rows):
        super().__init__()
        self.rows = torch.tensor(rows)

    def forward(self, x, edge_index, batch):
        return self.rows.expand(int(batch.max()) + 1, -1)


def test_outputs_of_another_kind_are_noticed():
    data = path()
    with pytest.warns(UserWarning, match="seems to return probabilities"):
        Probe(Says([0.3, 0.7]), data)
    with pytest.raises(ValueError, match="no probs"):
        Probe(Says([2.0, -1.0]), data, output="probs")
    with pytest.raises(ValueError, match="no log_probs"):
        Probe(Says([0.3, 0.7]), data, output="log_probs")
    with pytest.raises(ValueError, match="not finite"):
        Probe(Says([float("nan"), 0.0]), data, output="log_probs")
    assert Probe(Says([float("-inf"), 0.0]), data, output="log_probs").together


def test_labels_and_settings_that_cannot_be_are_refused():
    data, net = path(), Weighted().eval()
    mask = torch.zeros(22)
    for y in (torch.tensor([[0, 1]]), torch.tensor([0.5])):
        data.y = y
        with pytest.raises(ValueError, match="y must be one whole number"):
            fidelity(net, data, mask)
    data.y = torch.tensor([1.0])
    assert fidelity(net, data, mask).label == 1
    with pytest.raises(ValueError, match="at least 4"):
        robust_fidelity(net, data, mask, sampling="antithetic", n_samples=2)
    with pytest.raises(ValueError, match="one graph, got a batch of 2"):
        fidelity(net, Batch.from_data_list([data, data]), torch.zeros(44))
    with pytest.raises(ValueError, match="hops must be at least 1"):
        Probe(Nodes(GCNConv(3, 2)), data, task="node", index=0, hops=0)
