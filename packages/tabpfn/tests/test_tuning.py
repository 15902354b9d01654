"""The choices made after training: what they compare is what the classifier would do."""

from dataclasses import replace

import pytest
import torch

from tabpfn_impl.checkpoints import shipped_checkpoint
from tabpfn_impl.classifier import TabPFNClassifier
from tabpfn_impl.ensemble import combine
from tabpfn_impl.metrics import log_loss
from tabpfn_impl.recipes import RECIPES
from tabpfn_impl.training import held_out_tasks
from tabpfn_impl.tuning import TEMPERATURES, choose_prediction, cluster_tables, prior_tables

TINY = RECIPES["tiny"]


def test_losses_are_those_of_classifiers_so_set_and_the_least_is_chosen():
    shipped = shipped_checkpoint()
    families = [[cluster_tables()[4]], [cluster_tables()[7]]]
    choice = choose_prediction(shipped, families, n_estimators=2)
    assert len(choice.losses) == 3 * len(TEMPERATURES)
    assert choice.log_loss == min(choice.losses.values()) == choice.losses[choice.multiclass, choice.temperature]
    for way, temperature in (("direct", 0.6), ("one-vs-rest", 1.0), ("both", 0.8)):
        expected = 0.0
        for ((X, y, n),) in families:
            model = TabPFNClassifier(2, multiclass=way, softmax_temperature=temperature, model=shipped, device="cpu")
            expected += log_loss(y[n:], model.fit(X[:n], y[:n]).predict_proba(X[n:])) / 2
        assert choice.losses[way, temperature] == pytest.approx(expected, rel=1e-6)


def test_tables_of_the_prior_are_none_of_validation():
    tables = prior_tables(TINY, each=1)
    assert len(tables) == 8
    validation = held_out_tasks(replace(TINY, held_out=1))
    for (X, y, n), batch in zip(tables, validation, strict=True):
        assert X.shape == batch.x.shape[1:]
        assert n == batch.n_train
        assert len(y) == len(X)
        assert not torch.equal(torch.from_numpy(X).float(), batch.x[0])


def test_clusters_have_the_classes_in_both_halves():
    for X, y, n in cluster_tables():
        assert len(X) == len(y) == 2 * n
        assert set(y[:n].tolist()) == set(y[n:].tolist())


def test_both_ways_together_are_their_geometric_mean():
    torch.manual_seed(0)
    direct, rest = torch.randn(5, 3), torch.randn(5, 3)
    p = torch.softmax(direct, 1) * torch.sigmoid(rest) / torch.sigmoid(rest).sum(1, keepdim=True)
    expected = p.sqrt() / p.sqrt().sum(1, keepdim=True)
    torch.testing.assert_close(torch.softmax(combine(direct, rest), 1), expected)
    assert torch.equal(combine(direct, None), direct)
    with pytest.raises(ValueError, match="one way"):
        combine(None, None)
