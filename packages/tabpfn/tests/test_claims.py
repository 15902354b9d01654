"""A test for each exact claim of the card."""

import numpy as np
import pytest
import torch
from sklearn.datasets import make_classification

from tabpfn_impl.checkpoints import Checkpoint, shipped_checkpoint
from tabpfn_impl.classifier import TabPFNClassifier
from tabpfn_impl.priors import PriorConfig, TabularPrior
from tabpfn_impl.transformer import PFNTransformer, efficient_mask


def network():
    """The paper's network, small, with weights that are nowhere zero."""
    torch.manual_seed(0)
    model = PFNTransformer(d_model=32, n_layers=4, n_heads=4)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return model.eval()


def table(rows=60, features=7, n_train=40):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(2, rows, features, generator=generator)
    return x, torch.randint(0, 5, (2, n_train), generator=generator)


def both():
    return {"paper": network(), "shipped": shipped_checkpoint().model}


@torch.no_grad()
def test_predictions_do_not_depend_on_the_other_queries_or_their_number():
    x, y = table()
    for name, model in both().items():
        together = model(x, y).softmax(-1)
        for i in (0, 7, 19):
            alone = model(torch.cat([x[:, :40], x[:, 40 + i : 41 + i]], 1), y).softmax(-1)
            assert (alone[:, 0] - together[:, i]).abs().max() < 1e-5, name


@torch.no_grad()
def test_the_order_of_the_context_rows_does_not_matter():
    x, y = table()
    order = torch.randperm(40, generator=torch.Generator().manual_seed(0))
    shuffled = torch.cat([x[:, :40][:, order], x[:, 40:]], 1)
    for name, model in both().items():
        difference = model(shuffled, y[:, order]).softmax(-1) - model(x, y).softmax(-1)
        assert difference.abs().max() < 1e-5, name


@torch.no_grad()
def test_attention_to_the_context_alone_is_the_dense_mask_built_from_it():
    x, y = table()
    model = network()
    dense = model.forward_with_mask(x, y, efficient_mask(60, 40))
    torch.testing.assert_close(model(x, y), dense, atol=1e-4, rtol=1e-4)


def test_the_full_ensemble_is_equivariant_to_rotations_of_classes_and_columns():
    X, y = make_classification(
        60, 4, n_informative=3, n_redundant=0, n_classes=3, n_clusters_per_class=1, random_state=0
    )
    checkpoint = Checkpoint(network(), "row", {}, {})

    def full(X, y):
        model = TabPFNClassifier(3 * 4 * 2, multiclass="direct", model=checkpoint).fit(X[:40], y[:40])
        assert len({(m.class_shift, m.feature_shift, m.power) for m in model.members_}) == 24
        return model.predict_proba(X[40:])

    plain = full(X, y)
    np.testing.assert_allclose(full(np.roll(X, 1, axis=1), y), plain, atol=1e-5)
    np.testing.assert_allclose(full(X, (y + 1) % 3), np.roll(plain, 1, axis=1), atol=1e-5)
    # a single member is not
    single = TabPFNClassifier(1, multiclass="direct", model=checkpoint)
    one, two = (single.fit(Z[:40], y[:40]).predict_proba(Z[40:]) for Z in (X, np.roll(X, 1, axis=1)))
    assert np.abs(one - two).max() > 1e-3


@torch.no_grad()
def test_zero_columns_beyond_those_of_the_table_change_nothing():
    x, y = table(features=7)
    model = network()
    # the released code scales by 100 / columns and pads to 100
    padded = torch.nn.functional.pad(x * (100 / 7), (0, 93))
    torch.testing.assert_close(model(padded, y), model(x, y), atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_a_new_network_only_normalises():
    torch.manual_seed(0)
    model = PFNTransformer(d_model=32, n_layers=5, n_heads=4)
    x, y = table()
    h = torch.nn.functional.layer_norm(model.encoder(torch.nn.functional.pad(x * (100 / 7), (0, 93))), (32,))
    torch.testing.assert_close(model(x, y), model.decoder(h[:, 40:]), atol=1e-3, rtol=1e-3)


@torch.no_grad()
def test_a_kept_context_answers_as_a_new_one():
    x, y = table()
    for name, model in both().items():
        cache = model.context(x[:, :40], y)
        difference = model.query(cache, x[:, 40:]).softmax(-1) - model(x, y).softmax(-1)
        assert difference.abs().max() < 1e-5, name


@pytest.mark.parametrize("components", [("scm", "bnn", "gp"), ("scm",), ("bnn",), ("gp",)])
def test_the_prior_repeats_itself_and_its_tables_have_the_same_classes_on_both_sides(components):
    prior = TabularPrior(PriorConfig(components=components, max_features=20))
    a, b = prior.sample(24, 60, n_train=30, seed=7), prior.sample(24, 60, n_train=30, seed=7)
    assert torch.equal(a.x, b.x)
    assert torch.equal(a.y, b.y)
    assert int(a.y.max()) < 10
    for y in a.y:
        assert set(y[:30].tolist()) == set(y[30:].tolist())
