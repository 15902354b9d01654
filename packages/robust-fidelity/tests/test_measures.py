import pytest
import torch
from jaxtyping import TypeCheckError
from torch_geometric.data import Data

from robust_fidelity_impl.compat import published_fid_minus
from robust_fidelity_impl.datasets import ba2motifs
from robust_fidelity_impl.experiments import of_graph
from robust_fidelity_impl.measures import fidelity, robust_fidelity, score_explanations
from robust_fidelity_impl.models import GIN
from robust_fidelity_impl.probe import Probe


@pytest.fixture(scope="module")
def graph():
    return ba2motifs(2)[0]


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return GIN(in_features=10, classes=2)


def test_one_seed_one_score_and_another_another(model, graph):
    first, again, other = (robust_fidelity(model, graph, graph.edge_mask, seed=s) for s in (0, 0, 1))
    assert first == again
    assert first.minus != other.minus
    assert first.size == 6
    assert first.edges == graph.edge_index.shape[1] // 2
    assert first.delta == pytest.approx(first.plus - first.minus)


@pytest.mark.parametrize("sampling", ["independent", "antithetic", "stratified"])
def test_every_way_to_sample_comes_to_the_mean_over_all_subsets(model, graph, sampling):
    probe = Probe(model, graph)
    domain = torch.zeros_like(probe.domain)
    domain[:10] = True
    probe.domain = domain
    explanation = torch.zeros_like(domain)
    explanation[:5] = True
    options = {"label": 1, "alpha1": 0.3, "alpha2": 0.6}
    exact = score_explanations(probe, explanation[None], exact="always", **options)
    found = score_explanations(probe, explanation[None], exact="never", n_samples=4000, sampling=sampling, **options)
    for name in ("plus", "minus", "delta"):
        error = abs(float(getattr(found, name) - getattr(exact, name)))
        assert error < 4 * float(getattr(found, f"{name}_se")) + 1e-9, name
    assert float(exact.plus_se + exact.minus_se) == 0


def test_stratified_sampling_errs_less_where_the_number_deleted_decides(graph, detector):
    subject = of_graph(Probe(detector(graph.edge_index[:, graph.edge_mask].T.tolist()), graph), graph)
    exact = score_explanations(subject.probe, subject.truth[None], label=1, alpha1=0.1, exact="always", alpha2=1.0)

    def error(sampling):
        found = [
            score_explanations(
                subject.probe, subject.truth[None], label=1, alpha1=0.1, alpha2=1.0, n_samples=10, exact="never",
                sampling=sampling, seed=seed,
            ).plus
            for seed in range(60)
        ]  # fmt: skip
        return float((torch.stack(found) - exact.plus).square().mean())

    independent = error("independent")
    assert error("stratified") < independent


def test_explanations_of_one_graph_see_the_same_numbers(model, graph):
    subject = of_graph(Probe(model, graph), graph)
    both = torch.stack([subject.truth, subject.truth])
    found = score_explanations(subject.probe, both, label=0, exact="never")
    assert found.delta[0] == found.delta[1]


def test_empty_and_complete_explanations(model, graph):
    m = graph.edge_index.shape[1]
    nothing = robust_fidelity(model, graph, torch.zeros(m))
    assert abs(nothing.plus) < 1e-7
    assert (nothing.plus_se, nothing.size) == (0, 0)
    everything = robust_fidelity(model, graph, torch.ones(m))
    assert abs(everything.minus) < 1e-7
    assert everything.minus_se == 0
    lonely = Data(x=graph.x, edge_index=torch.zeros(2, 0, dtype=torch.int64), y=graph.y)
    assert robust_fidelity(model, lonely, torch.zeros(0)).delta == pytest.approx(0, abs=1e-7)


def test_the_predicted_label_and_a_given_one(model, graph):
    predicted = robust_fidelity(model, graph, graph.edge_mask, target="pred")
    assert predicted.correct
    given = robust_fidelity(model, graph, graph.edge_mask, target=predicted.label)
    assert given == predicted
    other = robust_fidelity(model, graph, graph.edge_mask, target=1 - predicted.label)
    assert not other.correct
    assert other.plus == pytest.approx(-predicted.plus)


def test_the_published_variant_keeps_none_of_the_explanation(graph, detector):
    motif = graph.edge_index[:, graph.edge_mask].T.tolist()
    subject = of_graph(Probe(detector(motif), graph), graph)
    right = score_explanations(subject.probe, subject.truth[None], label=1).minus
    assert float(right[0]) == 0
    full = torch.softmax(torch.tensor([0.0, 1.0]), 0)[1] - torch.softmax(torch.tensor([1.0, 0.0]), 0)[1]
    assert published_fid_minus(subject.probe, subject.truth, label=1) == pytest.approx(float(full), abs=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"alpha1": -0.1}, "alpha1"),
        ({"alpha2": 1.1}, "alpha2"),
        ({"n_samples": 1}, "n_samples"),
        ({"n_samples": 5, "sampling": "antithetic"}, "even"),
        ({"sampling": "sobol"}, "sampling"),
        ({"exact": "maybe"}, "exact"),
        ({"exact": "always"}, "at most 2"),
        ({"target": 2}, "label"),
        ({"target": "best"}, "target"),
    ],
)
def test_what_cannot_be_is_refused(model, graph, options, message):
    with pytest.raises((ValueError, TypeCheckError), match=message):
        robust_fidelity(model, graph, graph.edge_mask, **options)


def test_without_a_label_the_predicted_one_must_be_asked_for(model, graph):
    data = Data(x=graph.x, edge_index=graph.edge_index)
    with pytest.raises(ValueError, match="target='pred'"):
        fidelity(model, data, graph.edge_mask)
    assert fidelity(model, data, graph.edge_mask, target="pred").correct


def test_the_public_name_is_the_function_whatever_was_imported_before():
    import importlib

    import robust_fidelity_impl

    for module in ("compat", "demo", "measures"):
        importlib.import_module(f"robust_fidelity_impl.{module}")
    assert robust_fidelity_impl.fidelity is fidelity
    assert callable(robust_fidelity_impl.robust_fidelity)
