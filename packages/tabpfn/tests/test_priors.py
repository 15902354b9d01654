"""The prior: every part against its plain form, and what every table must be."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from tabpfn_impl.gp_prior import GPConfig
from tabpfn_impl.hyperpriors import MetaChoice, MetaGamma, MetaTruncatedNormal
from tabpfn_impl.mlp_prior import MLPConfig, class_causes, compute
from tabpfn_impl.priors import BNNPrior, GPPrior, PriorConfig, SCMPrior, TabularPrior
from tabpfn_impl.reference_prior import compute_one, draw_network, draw_table


def streams(seed=0):
    return np.random.default_rng(seed), torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("prior", [SCMPrior(), BNNPrior()], ids=["scm", "bnn"])
@pytest.mark.parametrize("features", [1, 5])
def test_a_group_is_computed_as_each_of_its_tables_alone(prior, features):
    for seed in range(5):
        rng, generator = streams(seed)
        structure = prior.structure(features, rng)
        # row by row in Python: small
        structure = structure._replace(hidden=min(structure.hidden, 12), num_layers=min(structure.num_layers, 4))
        draw = prior.draw(structure, 3, 7, rng, generator)
        x, y = compute(structure, draw)
        for index in range(3):
            x_one, y_one = compute_one(structure, draw, index)
            scale = max(1.0, float(x_one.abs().max()), float(y_one.abs().max()))
            torch.testing.assert_close(x[index].double() / scale, x_one / scale, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(y[index].double() / scale, y_one / scale, rtol=1e-4, atol=1e-5)


def test_features_and_target_of_a_causal_model_are_different_units_and_the_last_is_no_feature():
    prior = SCMPrior()
    for seed in range(30):
        rng, generator = streams(seed)
        structure = prior.structure(4, rng)
        draw = prior.draw(structure, 8, 2, rng, generator)
        assert structure.hidden >= 9
        for units, target in zip(draw.feature_units.tolist(), draw.target_unit.tolist(), strict=True):
            assert len(set(units)) == 4
            assert target not in units
            assert structure.units - 1 not in units


def test_neighbouring_and_sorted_features_are_so():
    always, never = MetaChoice((True,)), MetaChoice((False,))
    config = MLPConfig(in_clique=always, sort_features=always, y_is_effect=never)
    prior = SCMPrior(config)
    rng, generator = streams()
    structure = prior.structure(6, rng)
    draw = prior.draw(structure, 20, 2, rng, generator)
    for units in draw.feature_units.tolist():
        assert max(units) - min(units) <= 6
        # sorted up to a rotation: at most one descent around the circle
        assert sum(a > b for a, b in zip(units, units[1:] + units[:1], strict=True)) == 1


def test_block_wise_weights_are_blocks_on_the_diagonal_and_dropout_spares_the_first_map():
    always, never = MetaChoice((True,)), MetaChoice((False,))
    rng, generator = streams(3)
    blocks = SCMPrior(MLPConfig(block_wise_dropout=always))
    structure = blocks.structure(5, rng)._replace(hidden=36)
    weight = blocks.draw(structure, 30, 2, rng, generator).weights[1]
    kept = (weight != 0).float().mean((1, 2))
    counts = {round(1 / float(k)) for k in kept}
    assert counts <= set(range(1, 7))
    assert len(counts) > 2
    dropped = SCMPrior(MLPConfig(block_wise_dropout=never))
    draw = dropped.draw(structure, 30, 2, rng, generator)
    assert bool((draw.weights[0] != 0).all())
    assert float((draw.weights[1] == 0).float().mean()) == pytest.approx(0.3, abs=0.15)


def test_the_fast_and_the_plain_form_draw_from_the_same_distribution():
    """Statistics of features and targets over many small networks: two-sample Kolmogorov-Smirnov tests."""
    config = PriorConfig(components=("scm", "bnn"), group_size=1, mlp=MLPConfig(hidden=MetaGamma(3.0, 12.0, 4)))
    rng, generator = streams(1)
    prior = TabularPrior(config).networks
    drawn = [prior.sample(1, 24, 3, rng, generator) for _ in range(400)]
    fast = [(x[0], y[0]) for x, y in drawn]
    rng, generator = streams(2)
    plain = [draw_network(config, 24, 3, rng, generator) for _ in range(400)]

    def of(tables, statistic):
        return np.array([float(statistic(x, y)) for x, y in tables])

    statistics = {
        "ln std of x": lambda x, y: torch.log(x.std() + 1e-12),
        "ln std of y": lambda x, y: torch.log(y.std() + 1e-12),
        "correlation of x and y": lambda x, y: torch.corrcoef(torch.stack([x[:, 0], y]))[0, 1].nan_to_num().abs(),
        "correlation of features": lambda x, y: torch.corrcoef(x.T)[0, 1].nan_to_num().abs(),
    }
    for name, statistic in statistics.items():
        p = stats.ks_2samp(of(fast, statistic), of(plain, statistic)).pvalue
        assert p > 0.001, f"{name}: p = {p:.2g}"


def test_class_counts_of_the_fast_and_the_plain_form_agree():
    mlp = MLPConfig(hidden=MetaGamma(3.0, 12.0, 4))
    config = PriorConfig(components=("scm", "bnn"), max_features=6, group_size=1, mlp=mlp)
    rng, generator = streams(5)
    plain = [int(draw_table(config, 40, 20, rng, generator)[1].max()) + 1 for _ in range(150)]
    fast = [int(y.max()) + 1 for y in TabularPrior(config).sample(300, 40, n_train=20, seed=1).y]
    for count in (2, 3, 4):
        assert np.mean(np.array(plain) == count) == pytest.approx(np.mean(np.array(fast) == count), abs=0.15)


def test_a_gaussian_process_has_the_covariance_of_its_kernel():
    config = GPConfig(
        outputscale=MetaTruncatedNormal(2.0, 2.0001, 1e-6, 2e-6),
        lengthscale=MetaTruncatedNormal(1.5, 1.5001, 1e-6, 2e-6),
        noise=MetaChoice((0.01,)),
    )
    rng, generator = streams()
    x, y = GPPrior(config).sample(20_000, 3, 2, rng, generator)
    square = (x[:, 0] - x[:, 1]).square().sum(1)
    kernel = 2.0 * torch.exp(-square / (2 * 1.5**2))
    assert float((y[:, 0] * y[:, 1] - kernel).mean()) == pytest.approx(0, abs=0.03)
    near = square < 0.5
    assert float((y[:, 0] * y[:, 1])[near].mean()) == pytest.approx(float(kernel[near].mean()), abs=0.15)
    assert float(y[:, 2].square().mean()) == pytest.approx(2.01, abs=0.06)


@settings(deadline=None, max_examples=25)
@given(
    rows=st.integers(8, 60),
    share=st.floats(0.2, 0.8),
    features=st.one_of(st.none(), st.integers(1, 12)),
    seed=st.integers(0, 2**31),
    components=st.sampled_from([("scm", "bnn", "gp"), ("scm",), ("bnn",), ("gp",)]),
)
def test_every_table_is_usable(rows, share, features, seed, components):
    n_train = min(max(int(rows * share), 3), rows - 3)
    prior = TabularPrior(PriorConfig(components=components, max_features=12))
    batch = prior.sample(5, rows, n_train=n_train, features=features, seed=seed)
    assert batch.x.shape[:2] == (5, rows)
    assert torch.isfinite(batch.x).all()
    assert float(batch.x.abs().max()) <= 100
    assert batch.y.min() >= 0
    assert batch.y.max() < 10
    for x, y, width in zip(batch.x, batch.y, batch.n_features, strict=True):
        assert set(y[:n_train].tolist()) == set(y[n_train:].tolist()) == set(range(int(y.max()) + 1))
        assert int(y.max()) >= 1
        assert (x[:, width:] == 0).all()
        if features is not None:
            assert width == features


def test_the_same_seed_gives_the_same_tables_and_another_one_others():
    prior = TabularPrior()
    a, b, c = (prior.sample(12, 30, seed=seed) for seed in ((1, 2), (1, 2), (1, 3)))
    assert torch.equal(a.x, b.x)
    assert torch.equal(a.y, b.y)
    assert a.n_train == b.n_train
    assert a.x.shape != c.x.shape or not torch.equal(a.x, c.x)


def test_categories_come_in_about_the_share_that_is_asked_for():
    def share(p):
        batch = TabularPrior(PriorConfig(categorical_p=p, components=("bnn",))).sample(40, 64, features=6, seed=1)
        return np.mean([len(column.unique()) < 32 for x in batch.x for column in x.T])

    assert share(0.0) == 0.0
    # half of the columns, those with more than 32 values not counted
    assert 0.3 < share(1.0) < 0.65


def test_a_class_that_is_a_cause_has_clusters_of_its_own():
    generator, rng = torch.Generator().manual_seed(0), np.random.default_rng(0)
    classes = torch.arange(4).repeat(300, 50)
    causes = class_causes(classes, 6, rng, generator)
    assert causes.shape == (300, 200, 6)
    of_class = causes.view(300, 50, 4, 6)
    between = of_class.mean(1).var(1)
    noise = of_class.var(1).mean(1) / 50
    # some causes do not depend on the class, others far more than by chance
    ratio = (between / noise).flatten()
    assert 0.1 < float((ratio < 3.0).float().mean()) < 0.8
    assert float((ratio > 10.0).float().mean()) > 0.15


def test_tables_whose_class_is_a_cause_are_usable_and_the_papers_prior_has_none_of_them():
    prior = TabularPrior(PriorConfig(class_causes_p=1.0, most_low=10, binary_p=0.0))
    batch = prior.sample(64, 60, n_train=30, features=5, seed=0)
    assert torch.isfinite(batch.x).all()
    for y in batch.y:
        assert set(y[:30].tolist()) == set(y[30:].tolist()) == set(range(int(y.max()) + 1))
    assert int(batch.y.max()) > 5
    again = prior.sample(64, 60, n_train=30, features=5, seed=0)
    assert torch.equal(batch.x, again.x)
    assert torch.equal(batch.y, again.y)
    assert PriorConfig().class_causes_p == 0.0


def test_tables_with_numbers_too_large_to_be_squared_are_drawn_again(monkeypatch):
    prior = TabularPrior(PriorConfig(components=("bnn",), group_size=12, most_low=10))
    draw, drawn = prior.networks.sample, []

    def sample(sets, rows, features, rng, generator, **options):
        x, y = draw(sets, rows, features, rng, generator, **options)
        if not drawn:
            # the sum over the rows overflows, no value does; NaN and infinity
            y[:10] = 3e38
            y[10, 3], x[11, 5, 1] = float("nan"), float("inf")
        drawn.append(sets)
        return x, y

    monkeypatch.setattr(prior.networks, "sample", sample)
    batch = prior.sample(12, 40, n_train=20, features=3, seed=0)
    assert len(drawn) > 1
    assert torch.isfinite(batch.x).all()
    for y in batch.y:
        assert set(y[:20].tolist()) == set(y[20:].tolist()) == set(range(int(y.max()) + 1))


def test_bad_settings_are_named():
    with pytest.raises(ValueError, match="components"):
        PriorConfig(components=("mlp",))
    with pytest.raises(ValueError, match="max_classes"):
        PriorConfig(max_classes=11)
    with pytest.raises(ValueError, match="most_low"):
        PriorConfig(most_low=1)
    with pytest.raises(ValueError, match="binary_p"):
        PriorConfig(binary_p=2.0)
    with pytest.raises(ValueError, match="group_size"):
        PriorConfig(group_size=0)
    prior = TabularPrior(PriorConfig(max_features=5))
    with pytest.raises(ValueError, match="n_train"):
        prior.sample(2, 10, n_train=9)
    with pytest.raises(ValueError, match="features"):
        prior.sample(2, 10, features=6)
    with pytest.raises(ValueError, match="rows"):
        prior.sample(2, 3)
