import pytest
import torch

from robust_fidelity_impl.datasets import ba2motifs, tree_cycles
from robust_fidelity_impl.explainers import RobustFidelity, explain_graphs
from robust_fidelity_impl.measures import robust_fidelity
from robust_fidelity_impl.models import GCN, GIN, OutsideFlipped
from robust_fidelity_impl.training import graph_accuracy, node_accuracy, train_on_graphs, train_on_nodes

GRAPHS = ba2motifs(40)


@pytest.fixture(scope="module")
def trained():
    torch.manual_seed(0)
    model = GIN(in_features=10, classes=2)
    result = train_on_graphs(model, GRAPHS[:30], steps=250, lr=1e-2)
    assert result.history[-1]["train_loss"] < result.history[0]["train_loss"]
    return model


def test_houses_and_cycles_are_told_apart(trained):
    assert graph_accuracy(trained, GRAPHS[:30]) >= 0.95


def test_the_best_weights_on_validation_graphs_stay():
    torch.manual_seed(0)
    model = GIN(in_features=10, classes=2)
    result = train_on_graphs(model, GRAPHS[:30], valid=GRAPHS[30:], steps=20)
    assert graph_accuracy(model, GRAPHS[30:]) == max(row["accuracy"] for row in result.history)


def test_nodes_are_trained_on():
    torch.manual_seed(0)
    tree = tree_cycles()
    model = GIN(in_features=10, classes=2, task="node")
    train = torch.arange(tree.num_nodes) % 2 == 0
    train_on_nodes(model, tree, train, steps=80, lr=1e-2)
    assert node_accuracy(model, tree, ~train) > 0.7


@pytest.mark.parametrize("kind", [GCN, GIN])
def test_models_come_back_from_their_folder(kind, tmp_path):
    torch.manual_seed(0)
    model = kind(in_features=10, classes=2).eval()
    model.save_pretrained(tmp_path)
    graph = GRAPHS[0]
    again = kind.from_pretrained(tmp_path)
    torch.testing.assert_close(again(graph.x, graph.edge_index), model(graph.x, graph.edge_index))


def test_off_the_data_the_classes_are_exchanged(trained):
    graph = GRAPHS[0]
    m = graph.edge_index.shape[1]
    model = OutsideFlipped(trained, m)
    batch = torch.zeros(25, dtype=torch.int64)
    plain = trained(graph.x, graph.edge_index, batch=batch)
    torch.testing.assert_close(model(graph.x, graph.edge_index, batch), plain)
    few = graph.edge_index[:, : m // 2]
    torch.testing.assert_close(model(graph.x, few, batch), trained(graph.x, few, batch=batch).flip(-1))


@pytest.mark.parametrize(
    ("options", "message"),
    [({"in_features": 0}, "in_features"), ({"classes": 1}, "classes"), ({"hidden": 0}, "hidden")],
)
def test_sizes_that_cannot_be_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        GCN(**{"in_features": 10, "classes": 2, **options})
    with pytest.raises(ValueError, match="graphs"):
        train_on_graphs(GCN(in_features=10, classes=2), [])


def test_explainers_give_a_weight_for_each_edge(trained):
    for name in ("truth", "random", "GNNExplainer", "PGExplainer"):
        masks = explain_graphs(name, trained, GRAPHS[:2], train=GRAPHS[2:4], epochs=2)
        assert [len(mask) for mask in masks] == [g.edge_index.shape[1] for g in GRAPHS[:2]]
        again = explain_graphs(name, trained, GRAPHS[:2], train=GRAPHS[2:4], epochs=2)
        for a, b in zip(masks, again, strict=True):
            torch.testing.assert_close(a, b)
    with pytest.raises(ValueError, match="train"):
        explain_graphs("PGExplainer", trained, GRAPHS[:1])


def test_the_metric_for_pyg_is_the_function(trained):
    from torch_geometric.explain import Explainer, GNNExplainer
    from torch_geometric.explain.config import ModelConfig

    graph = GRAPHS[0]
    explainer = Explainer(
        trained, algorithm=GNNExplainer(epochs=2), explanation_type="phenomenon", edge_mask_type="object",
        model_config=ModelConfig(mode="multiclass_classification", task_level="graph", return_type="raw"),
    )  # fmt: skip
    batch = torch.zeros(25, dtype=torch.int64)
    explanation = explainer(graph.x, graph.edge_index, target=graph.y, batch=batch)
    explanation.edge_mask = graph.edge_mask.float()
    assert RobustFidelity()(explainer, explanation) == robust_fidelity(trained, graph, graph.edge_mask)
    del explanation.edge_mask
    with pytest.raises(ValueError, match="edge_mask"):
        RobustFidelity()(explainer, explanation)
