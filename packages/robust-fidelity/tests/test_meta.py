import numpy as np
import pytest
import torch

from robust_fidelity_impl.datasets import ba2motifs
from robust_fidelity_impl.experiments import of_graph
from robust_fidelity_impl.meta import (
    Grid,
    agreement,
    meta_evaluate,
    perturb_explanation,
    size_matched_curve,
    size_matched_delta,
    swap_explanation,
)
from robust_fidelity_impl.probe import Probe

TRUTH = torch.tensor([True] * 6 + [False] * 14)
OTHERS = ~TRUTH
SEED = 0


def generator():
    return torch.Generator().manual_seed(SEED)


def test_shares_removed_and_added_are_as_asked():
    family = perturb_explanation(TRUTH, OTHERS, 0.3, 0.5, 4000, generator())
    assert float((family & TRUTH).sum(1).float().mean()) == pytest.approx(6 * 0.7, abs=0.1)
    assert float((family & OTHERS).sum(1).float().mean()) == pytest.approx(6 * 0.5, abs=0.1)
    assert torch.equal(perturb_explanation(TRUTH, OTHERS, 0.0, 0.0, 1, generator())[0], TRUTH)
    assert torch.equal(perturb_explanation(TRUTH, OTHERS, 1.0, 99.0, 1, generator())[0], OTHERS)


@pytest.mark.parametrize(("removed", "added"), [(-0.1, 0.0), (1.1, 0.0), (0.0, -1.0)])
def test_shares_that_cannot_be_are_refused(removed, added):
    with pytest.raises(ValueError, match="removed"):
        perturb_explanation(TRUTH, OTHERS, removed, added, 1, generator())
    with pytest.raises(ValueError, match="cannot be in the truth"):
        perturb_explanation(TRUTH, TRUTH, 0.0, 0.0, 1, generator())


def test_swaps_keep_the_size():
    for s in range(7):
        family = swap_explanation(TRUTH, OTHERS, s, 50, generator())
        assert (family.sum(1) == 6).all()
        assert ((family & TRUTH).sum(1) == 6 - s).all()
    with pytest.raises(ValueError, match="swapped"):
        swap_explanation(TRUTH, OTHERS, 7, 1, generator())


@pytest.fixture
def subject(detector):
    graph = ba2motifs(2)[0]
    motif = graph.edge_index[:, graph.edge_mask].T.tolist()
    made = of_graph(Probe(detector(motif), graph), graph)
    return type(made)(made.probe, made.truth, 1)


def test_the_grid_of_a_detector_is_monotone_in_what_is_removed(subject):
    grid = meta_evaluate([subject], levels=(0.0, 0.5, 1.0), draws=20, n_samples=10)
    delta = grid.values["delta"][:, 0]
    assert delta[0] > delta[1] > delta[2]
    assert grid.values["distance"][0, 0] == 0
    assert grid.values["iou"][0, 0] == 1
    assert grid.values["auc"][2, 0] == 0.5
    assert grid.spearman("delta") < 0
    assert grid.column_spearman("delta") == -1


def test_at_equal_size_delta_falls_with_every_wrong_edge(subject):
    curve = size_matched_curve([subject], draws=10, n_samples=20)
    assert (np.diff(curve["delta"]) < 0).all()
    np.testing.assert_allclose(curve["distance"], 2 * np.arange(7))


def test_the_truth_beats_random_explanations_of_its_size(subject):
    found = size_matched_delta(subject.probe, subject.truth, label=1, n_random=30)
    assert found.share_below == 1
    assert found.advantage == pytest.approx(found.delta - found.random_mean)
    with pytest.raises(ValueError, match="n_random"):
        size_matched_delta(subject.probe, subject.truth, label=1, n_random=1)


def test_correlations_of_what_does_not_vary_are_nan():
    assert np.isnan(agreement(np.ones(4), np.arange(4.0)))
    grid = Grid((0.0, 1.0), {"delta": np.zeros((2, 2)), "distance": np.array([[0.0, 1], [1, 2]])})
    assert np.isnan(grid.column_spearman("delta"))


def test_no_subjects_and_empty_truths_are_refused(subject):
    with pytest.raises(ValueError, match="subjects"):
        meta_evaluate([])
    with pytest.raises(ValueError, match="empty"):
        meta_evaluate([type(subject)(subject.probe, torch.zeros_like(subject.truth), 1)])
