"""The claims of the paper and of its measures, a test each. Thresholds are the specification's."""

import itertools

import numpy as np
import pytest
import torch
from torch_geometric.data import Data
from torch_geometric.explain import Explainer, Explanation, GNNExplainer
from torch_geometric.explain.config import ModelConfig
from torch_geometric.explain.metric import fidelity as pyg_fidelity

from robust_fidelity_impl.datasets import ba2motifs, tree_cycles
from robust_fidelity_impl.experiments import of_graph
from robust_fidelity_impl.measures import fidelity, robust_fidelity, score_explanations
from robust_fidelity_impl.meta import size_matched_curve
from robust_fidelity_impl.models import GCN, GIN, OutsideFlipped
from robust_fidelity_impl.probe import Probe

GRAPH = ba2motifs(2)[0]
PAIRS = sorted({tuple(sorted(pair)) for pair in GRAPH.edge_index.T.tolist()})


def model(kind=GIN):
    torch.manual_seed(0)
    return kind(in_features=10, classes=2)


def small_graph(n_edges, seed):
    """A random graph of few edges."""
    rng = np.random.default_rng(seed)
    pairs = rng.permutation(list(itertools.combinations(range(6), 2)))[:n_edges]
    edges = torch.from_numpy(np.concatenate([pairs, pairs[:, ::-1]]).T.copy())
    return Data(
        x=torch.rand(6, 10, generator=torch.Generator().manual_seed(seed)), edge_index=edges, y=torch.tensor([1])
    )


@pytest.mark.parametrize("kind", [GCN, GIN])
def test_claim_1_alpha_1_and_0_are_the_original_measures(kind):
    classifier = model(kind).eval()
    without, only = GRAPH.edge_index[:, ~GRAPH.edge_mask], GRAPH.edge_index[:, GRAPH.edge_mask]
    label = int(GRAPH.y)
    with torch.no_grad():
        whole, cut, kept = (classifier(GRAPH.x, e).softmax(-1)[0, label] for e in (GRAPH.edge_index, without, only))
    original = fidelity(classifier, GRAPH, GRAPH.edge_mask)
    robust = robust_fidelity(classifier, GRAPH, GRAPH.edge_mask, alpha1=1.0, alpha2=0.0)
    for found in (original, robust):
        assert found.plus == pytest.approx(float(whole - cut), abs=1e-6)
        assert found.minus == pytest.approx(float(whole - kept), abs=1e-6)
        assert found.exact


def test_claim_1_by_labels_they_are_pygs_measures():
    torch.manual_seed(0)
    config = ModelConfig(mode="multiclass_classification", task_level="graph", return_type="raw")
    batch = torch.zeros(25, dtype=torch.int64)
    for seed, graph in enumerate(ba2motifs(8)):
        torch.manual_seed(seed)
        classifier = GIN(in_features=10, classes=2).eval()
        explainer = Explainer(
            classifier, algorithm=GNNExplainer(epochs=1), explanation_type="model", edge_mask_type="object",
            model_config=config,
        )  # fmt: skip
        target = classifier(graph.x, graph.edge_index).argmax(-1)
        explanation = Explanation(
            x=graph.x, edge_index=graph.edge_index, edge_mask=graph.edge_mask.float(), target=target, batch=batch
        )
        explanation._model_args = ["batch"]
        plus, minus = pyg_fidelity(explainer, explanation)
        ours = fidelity(classifier, graph, graph.edge_mask, target="pred")
        assert (ours.plus_acc, ours.minus_acc) == pytest.approx((plus, minus), abs=1e-6)


def test_claim_2_nothing_deleted_is_no_difference():
    found = robust_fidelity(model(), GRAPH, GRAPH.edge_mask, alpha1=0.0, alpha2=1.0)
    assert found.plus == pytest.approx(0, abs=1e-6)
    assert found.minus == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_claim_3_the_duality_by_enumeration(seed):
    graph = small_graph(9, seed)
    probe = Probe(model(), graph)
    rng = torch.Generator().manual_seed(seed)
    inside = torch.rand(probe.n_units, generator=rng) < 0.5
    sets = torch.stack([inside, ~inside, torch.ones_like(inside), torch.zeros_like(inside)])
    alpha = 0.3
    both = score_explanations(probe, sets, label=1, alpha1=alpha, alpha2=1 - alpha, exact="always")
    # Fid- of S is Fid+ of the rest; so delta changes its sign; and all edges have the most that there is to have
    assert float(both.minus[0]) == pytest.approx(float(both.plus[1]), abs=1e-6)
    assert float(both.delta[0]) == pytest.approx(-float(both.delta[1]), abs=1e-6)
    assert float(both.delta[2]) == pytest.approx(-float(both.delta[3]), abs=1e-6)


def detected(detector, alpha1, alpha2, chosen, motif):
    probe = Probe(detector(motif), GRAPH, output="probs")
    mask = torch.tensor([tuple(sorted(pair)) in set(chosen) for pair in GRAPH.edge_index.T.tolist()])
    return robust_fidelity(
        probe.model, GRAPH, mask, alpha1=alpha1, alpha2=alpha2, output="probs", target=1, exact="always"
    )


@pytest.mark.parametrize(("alpha1", "alpha2"), [(0.1, 0.9), (0.4, 0.7), (1.0, 0.0)])
@pytest.mark.parametrize("hits", range(7))
def test_claim_4_closed_forms_for_a_motif_detector(detector, alpha1, alpha2, hits):
    motif = sorted({tuple(sorted(p)) for p in GRAPH.edge_index[:, GRAPH.edge_mask].T.tolist()})
    assert len(motif) == 6
    others = [pair for pair in PAIRS if pair not in motif]
    chosen = [*motif[:hits], *others[: len(others) - 9 + hits]]  # few enough edges beside it to enumerate
    found = detected(detector, alpha1, alpha2, chosen, motif) if len(chosen) <= 16 else None
    if found is None:
        probe = Probe(detector(motif), GRAPH, output="probs")
        mask = torch.tensor([tuple(sorted(p)) in set(motif[:hits]) for p in GRAPH.edge_index.T.tolist()])
        found = robust_fidelity(
            probe.model, GRAPH, mask, alpha1=alpha1, alpha2=alpha2, output="probs", target=1, n_samples=4000,
            exact="never", seed=1,
        )  # fmt: skip
    assert found.plus == pytest.approx(1 - (1 - alpha1) ** hits, abs=4 * max(found.plus_se, 1e-9))
    assert found.minus == pytest.approx(1 - alpha2 ** (6 - hits), abs=4 * max(found.minus_se, 1e-9))


def test_claim_5_the_error_falls_with_the_root_and_the_standard_error_covers():
    probe = Probe(model(), small_graph(12, 0))
    explanation = torch.arange(probe.n_units) < 6
    exact = score_explanations(probe, explanation[None], label=1, alpha1=0.4, exact="always")
    errors, covered = [], []
    for samples in (10, 40, 160):
        gaps = []
        for seed in range(150):
            found = score_explanations(
                probe, explanation[None], label=1, alpha1=0.4, exact="never", n_samples=samples, seed=seed
            )
            gaps.append(float(found.plus - exact.plus))
            if samples == 160:
                covered.append(abs(gaps[-1]) <= 1.96 * float(found.plus_se))
        errors.append(np.sqrt(np.mean(np.square(gaps))))
    slope = np.polyfit(np.log([10, 40, 160]), np.log(errors), 1)[0]
    assert slope == pytest.approx(-0.5, abs=0.1)
    assert 0.9 <= np.mean(covered) <= 0.99


def test_claim_6_both_directions_share_their_fate():
    seen = []

    class Watching(torch.nn.Module):
        def forward(self, x, edge_index, batch):
            seen.append(edge_index)
            return torch.zeros(int(batch.max()) + 1, 2)

    robust_fidelity(Watching(), GRAPH, GRAPH.edge_mask, exact="never")
    for edges in seen:
        pairs = set(map(tuple, edges.T.tolist()))
        assert pairs == {(b, a) for a, b in pairs}


def test_claim_7_empty_sets_are_zero_and_not_nan():
    m = GRAPH.edge_index.shape[1]
    lonely = Data(x=GRAPH.x, edge_index=torch.zeros(2, 0, dtype=torch.int64), y=GRAPH.y)
    assert robust_fidelity(model(), GRAPH, torch.zeros(m)).plus == pytest.approx(0, abs=1e-6)
    assert robust_fidelity(model(), GRAPH, torch.ones(m)).minus == pytest.approx(0, abs=1e-6)
    assert robust_fidelity(model(), lonely, torch.zeros(0)).delta == pytest.approx(0, abs=1e-6)


def test_claim_8_edges_outside_the_receptive_field_change_nothing():
    torch.manual_seed(0)
    tree = tree_cycles()
    classifier = GCN(in_features=10, classes=2, task="node")
    node = 700
    probe = Probe(classifier, tree, task="node", index=node)
    far = torch.ones(tree.edge_index.shape[1])
    far[probe.kept_edges] = 0
    found = robust_fidelity(classifier, tree, far, task="node", index=node, alpha1=1.0)
    assert (found.size, found.plus) == (0, pytest.approx(0, abs=1e-6))
    with torch.no_grad():
        whole = classifier.eval()(tree.x, tree.edge_index)[node]
        cut = classifier(tree.x, tree.edge_index[:, probe.kept_edges])[node]
    torch.testing.assert_close(whole, cut, rtol=1e-5, atol=1e-6)


def test_claim_9_in_one_pass_as_one_by_one():
    subject = of_graph(Probe(model(), GRAPH), GRAPH)
    alone = Probe(model(), GRAPH, max_edges=1)
    for name in ("plus", "minus", "delta"):
        together, apart = (
            getattr(score_explanations(p, subject.truth[None], label=0, exact="never"), name)
            for p in (subject.probe, alone)
        )
        assert float(together) == pytest.approx(float(apart), abs=1e-6)


def test_claim_10_a_classifier_wrong_off_the_data_fools_the_original_fid_minus_only(detector):
    """A detector, as a classifier that is right on the data needs no training; wrong below 60 % of the edges."""
    original, robust = [], []
    for graph in [g for g in ba2motifs(12) if int(g.y) == 1]:
        motif = graph.edge_index[:, graph.edge_mask].T.tolist()
        wrong = OutsideFlipped(detector(motif), graph.edge_index.shape[1])
        probe = Probe(wrong, graph, output="probs")
        truth = of_graph(probe, graph).truth
        draw = torch.rand(10, len(truth), generator=torch.Generator().manual_seed(0)).argsort(1).argsort(1)
        family = torch.cat([truth[None], draw < int(truth.sum())])
        for found, options in ((original, {"alpha1": 1.0, "alpha2": 0.0}), (robust, {})):
            minus = score_explanations(probe, family, label=1, **options).minus
            found.append(bool(minus[0] < minus[1:].mean()))
    assert not any(original)
    assert all(robust)


def test_claim_11_at_equal_size_delta_falls_with_the_distance(detector):
    motif = GRAPH.edge_index[:, GRAPH.edge_mask].T.tolist()
    subject = of_graph(Probe(detector(motif), GRAPH, output="probs"), GRAPH)
    curve = size_matched_curve([type(subject)(subject.probe, subject.truth, 1)], draws=10, n_samples=50)
    assert (np.diff(curve["delta"]) < 0).all()
