"""Claims about what is learnt: minutes, not seconds."""

import warnings

import numpy as np
import pytest
import torch

from tabpfn_impl.baselines import make_baseline
from tabpfn_impl.classifier import TabPFNClassifier
from tabpfn_impl.conjugate import ConjugateTasks, GaussianClasses, kl_to_posterior
from tabpfn_impl.data import sklearn_tables
from tabpfn_impl.evaluation import evaluate
from tabpfn_impl.training import TrainRecipe, train_pfn

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]


@pytest.fixture(scope="module")
def areas():
    """Mean AUC over scikit-learn's four sets, two splits each."""
    models = {
        "TabPFN": lambda seed: TabPFNClassifier(8, random_state=seed),
        # the same way of asking, so that only the number of members differs
        "eight members": lambda seed: TabPFNClassifier(8, multiclass="direct", random_state=seed),
        "one member": lambda seed: TabPFNClassifier(1, multiclass="direct", random_state=seed),
        "logistic regression": lambda seed: make_baseline("logistic regression", seed),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        outcomes = [o for table in sklearn_tables() for o in evaluate(table, models, n_splits=2)]
    return {name: float(np.mean([o.scores.auc for o in outcomes if o.model == name])) for name in models}


def test_on_real_sets_it_is_within_one_point_of_logistic_regression(areas):
    assert areas["TabPFN"] >= areas["logistic regression"] - 0.01


def test_eight_members_are_no_worse_than_one(areas):
    assert areas["eight members"] >= areas["one member"]


def test_a_fitted_network_agrees_with_the_exact_posterior_predictive():
    prior = GaussianClasses()
    held = prior.sample(256, 64, 16, torch.Generator().manual_seed(1_000_003))
    recipe = TrainRecipe(
        architecture="row",
        model={"max_features": 2, "max_classes": 3, "d_model": 64, "n_layers": 3, "n_heads": 2},
        steps=3000, groups_per_step=1, lr=2e-3, warmup_steps=50, precision="float32", eval_every=500, workers=0,
    )  # fmt: skip
    model, _ = train_pfn(
        recipe,
        tasks=ConjugateTasks(prior, recipe.steps),
        evaluate=lambda network: {"loss": kl_to_posterior(network, prior, held)},
    )
    # over contexts of all sizes that the run draws
    sizes = range(2, 25, 2)
    batches = [prior.sample(256, n + 32, n, torch.Generator().manual_seed(n)) for n in sizes]
    assert np.mean([kl_to_posterior(model, prior, batch) for batch in batches]) < 0.02
