"""Trees as units of a causal network: against a loop over nodes, and what they do to the prior's tables."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.tree import DecisionTreeClassifier

from tabpfn_impl.forests import draw_forest, grow
from tabpfn_impl.hyperpriors import MetaChoice
from tabpfn_impl.mlp_prior import MAX_TREE_UNITS, BNNPrior, MLPConfig, SCMPrior, compute, tree_units
from tabpfn_impl.priors import PriorConfig, TabularPrior


def walk(forest, inputs, index, unit, row):
    """The sum of the trees of one unit for one row of one data set, level by level."""
    total = 0.0
    for tree in range(forest.inputs.shape[2]):
        leaf = 0
        for level in range(forest.inputs.shape[3]):
            column = int(forest.inputs[index, unit, tree, level])
            threshold = inputs[index, int(forest.rows[index, unit, tree, level]), column]
            leaf += int(inputs[index, row, column] > threshold) << level
        total += float(forest.leaves[index, unit, tree, leaf])
    return total / forest.inputs.shape[2] ** 0.5


@pytest.mark.parametrize(("trees", "depth"), [(1, 1), (3, 2), (2, 5)])
def test_a_forest_is_what_a_walk_down_each_tree_gives(trees, depth):
    generator = torch.Generator().manual_seed(trees)
    inputs = torch.randn(2, 9, 4, generator=generator)
    values = 3.0 * torch.randn(2, 9, 5, generator=generator)
    units = torch.tensor([[0, 4], [2, 1]])
    forest = draw_forest(9, 4, units, trees, depth, generator)
    grown = grow(forest, inputs, values)
    for index in range(2):
        for unit, position in enumerate(units[index].tolist()):
            spread = float(values[index, :, position].std())
            expected = [spread * walk(forest, inputs, index, unit, row) for row in range(9)]
            np.testing.assert_allclose(grown[index, :, position], expected, rtol=1e-5, atol=1e-6)
        others = [c for c in range(5) if c not in units[index].tolist()]
        assert torch.equal(grown[index][:, others], values[index][:, others])


@pytest.mark.parametrize("prior", [SCMPrior(), BNNPrior()], ids=["scm", "bnn"])
def test_only_some_units_are_trees_and_the_last_is_one(prior):
    for seed in range(8):
        rng, generator = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
        structure = prior.structure(4, rng)
        draw = prior.draw(structure, 3, 40, rng, generator)
        forests = tree_units(structure, 3, 40, rng, generator)
        if not structure.causal:
            assert len(forests) == 1
            # the target depends on the features alone
            assert int(forests[0].inputs.max()) < 4
        else:
            assert len(forests) == structure.num_layers - 1
            for forest in forests:
                assert 1 <= forest.units.shape[1] <= MAX_TREE_UNITS
                assert (forest.units[:, -1] == structure.hidden - 1).all()
        plain, grown = compute(structure, draw), compute(structure, draw._replace(forests=forests))
        assert torch.isfinite(grown[1]).all()
        if not structure.causal:
            assert torch.equal(plain[0], grown[0])
            assert not torch.equal(plain[1], grown[1])


@pytest.mark.parametrize(
    "prior", [SCMPrior(MLPConfig(y_is_effect=MetaChoice((True,)))), BNNPrior()], ids=["scm", "bnn"]
)
def test_without_noise_a_target_that_is_one_tree_has_no_more_values_than_leaves(prior):
    for seed in range(6):
        rng, generator = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
        structure = prior.structure(3, rng)
        draw = prior.draw(structure, 2, 80, rng, generator)
        last = structure.hidden - 1 if structure.causal else 0
        n_in = structure.hidden if structure.causal else structure.num_causes
        units = torch.full((2, 1), last)
        forests = [draw_forest(80, n_in, units, 1, 2, generator) for _ in range(structure.num_layers - 1)]
        quiet = draw._replace(noise=[torch.zeros_like(noise) for noise in draw.noise])
        for forest, most in ((None, 80), (forests, 4)):
            y = compute(structure, quiet._replace(forests=forest))[1]
            values = [len(target.unique()) for target in y]
            assert max(values) <= most
        assert max(values) > 1


def test_tables_with_trees_have_thresholds_which_a_tree_finds_and_a_line_does_not():
    prior = TabularPrior(PriorConfig(trees_p=1.0, components=("bnn",), categorical_p=0.0, binary_p=1.0))
    batch = prior.sample(60, 300, n_train=200, features=2, seed=0)
    scores = []
    for x, y in zip(batch.x.numpy(), batch.y.numpy(), strict=True):
        models = (DecisionTreeClassifier(max_depth=5, random_state=0), LogisticRegression())
        scores.append([m.fit(x[:200], y[:200]).score(x[200:], y[200:]) for m in models])
    tree, line = np.mean(scores, axis=0)
    assert tree > line + 0.05


def test_trees_repeat_for_a_seed_and_the_papers_prior_has_none():
    prior = TabularPrior(PriorConfig(trees_p=1.0, group_size=2))
    batch, again = (prior.sample(12, 60, n_train=30, features=5, seed=3) for _ in range(2))
    assert torch.equal(batch.x, again.x)
    assert torch.equal(batch.y, again.y)
    for y in batch.y:
        assert set(y[:30].tolist()) == set(y[30:].tolist())
    assert PriorConfig().trees_p == 0.0
    with pytest.raises(ValueError, match="trees_p"):
        PriorConfig(trees_p=1.5)
