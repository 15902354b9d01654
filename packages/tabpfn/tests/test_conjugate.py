"""The closed-form posterior predictive against brute force."""

import math

import pytest
import torch

from tabpfn_impl.conjugate import ConjugateTasks, GaussianClasses, kl_to_posterior


def test_the_posterior_predictive_is_the_average_over_the_posterior():
    """Importance sampling: parameters from the prior, weighted by the likelihood of the context."""
    prior = GaussianClasses(n_classes=2, n_features=1, tau=1.5, alpha=1.0)
    x_train = torch.tensor([[[0.5], [-1.0], [0.8]]])
    y_train = torch.tensor([[0, 1, 0]])
    query = torch.tensor([[[0.3], [-2.0], [1.5]]])
    exact = prior.posterior_predictive(x_train, y_train, query)[0]
    generator = torch.Generator().manual_seed(0)
    n = 400_000
    means = 1.5 * torch.randn(n, 2, generator=generator, dtype=torch.float64)
    p = torch.rand(n, generator=generator, dtype=torch.float64)
    p = torch.stack([p, 1 - p], 1)  # Dirichlet(1, 1)

    def density(x, k):
        return torch.exp(-0.5 * (x - means[:, k]) ** 2) / math.sqrt(2 * math.pi)

    weight = torch.ones(n, dtype=torch.float64)
    for x, k in zip(x_train[0, :, 0].tolist(), y_train[0].tolist(), strict=True):
        weight = weight * p[:, k] * density(x, k)
    for row, x in zip(exact, query[0, :, 0].tolist(), strict=True):
        joint = torch.stack([(weight * p[:, k] * density(x, k)).sum() for k in range(2)])
        torch.testing.assert_close(row, joint / joint.sum(), atol=5e-3, rtol=0)


def test_the_exact_answer_has_no_divergence_from_itself():
    prior = GaussianClasses()

    class Exact(torch.nn.Module):
        def forward(self, x, y):
            n = y.shape[1]
            return prior.posterior_predictive(x[:, :n], y, x[:, n:]).log()

    class Uniform(torch.nn.Module):
        def forward(self, x, y):
            return torch.zeros(len(x), x.shape[1] - y.shape[1], 3)

    batch = prior.sample(32, 40, 10, torch.Generator().manual_seed(0))
    assert kl_to_posterior(Exact(), prior, batch) == pytest.approx(0, abs=1e-9)
    assert kl_to_posterior(Uniform(), prior, batch) > 0.2


def test_tables_are_a_function_of_their_number():
    tasks = ConjugateTasks(GaussianClasses(), 100)
    assert torch.equal(tasks[5].x, ConjugateTasks(GaussianClasses(), 10)[5].x)
    assert not torch.equal(tasks[5].x, tasks[6].x)
    assert len(tasks) == 100
    assert tasks[5].x.shape == (64, 32, 2)


def test_classes_have_the_distribution_of_the_prior():
    batch = GaussianClasses(tau=3.0).sample(4000, 20, 10, torch.Generator().manual_seed(0))
    # variance of x: tau² + 1
    assert float(batch.x.var()) == pytest.approx(10.0, rel=0.05)
    share = torch.bincount(batch.y.flatten(), minlength=3) / batch.y.numel()
    torch.testing.assert_close(share, torch.full((3,), 1 / 3), atol=0.02, rtol=0)
