"""A prior whose posterior is known: Gaussian classes with conjugate means and a Dirichlet over the classes.

    p ~ Dirichlet(alpha, ..., alpha),   mu_k ~ N(0, tau² I),   y ~ p,   x | y = k ~ N(mu_k, I)

A network that is fitted to it must answer with the posterior predictive, which here has a closed form: the check that
what a PFN learns is Bayesian inference.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.data import Dataset

from tabpfn_impl.priors import TaskBatch

__all__ = ["ConjugateTasks", "GaussianClasses", "kl_to_posterior"]


@dataclass(frozen=True, kw_only=True)
class GaussianClasses:
    """The prior and its posterior predictive."""

    n_classes: int = 3
    n_features: int = 2
    tau: float = 2.0
    """standard deviation of the class means; within a class it is 1"""
    alpha: float = 2.0
    """concentration of the Dirichlet over the classes"""

    def sample(self, batch: int, rows: int, n_train: int, generator: torch.Generator) -> TaskBatch:
        """Tables of the prior."""
        shape = torch.full((batch, self.n_classes), self.alpha, dtype=torch.float64)
        p = torch._standard_gamma(shape, generator=generator)
        y = torch.multinomial((p / p.sum(1, keepdim=True)), rows, replacement=True, generator=generator)
        means = self.tau * torch.randn(batch, self.n_classes, self.n_features, generator=generator)
        x = means.gather(1, y[:, :, None].expand(-1, -1, self.n_features))
        x = x + torch.randn(batch, rows, self.n_features, generator=generator)
        return TaskBatch(x, y, n_train, torch.full((batch,), self.n_features))

    def posterior_predictive(
        self,
        x_train: Float[Tensor, "batch train features"],
        y_train: Int[Tensor, "batch train"],
        x: Float[Tensor, "batch queries features"],
    ) -> Float[Tensor, "batch queries classes"]:
        """p(y | x, D): p(k | D) N(x; m_k, (1 + s_k) I), normalised, with s_k = 1 / (1/tau² + n_k), m_k = s_k sum x."""
        member = torch.nn.functional.one_hot(y_train, self.n_classes).double()
        count = member.sum(1)
        s = 1.0 / (1.0 / self.tau**2 + count)
        m = s[:, :, None] * (member.mT @ x_train.double())
        square = (x.double()[:, :, None] - m[:, None]).square().sum(-1)
        variance = (1.0 + s)[:, None]
        density = -0.5 * square / variance - 0.5 * self.n_features * torch.log(2.0 * math.pi * variance)
        return torch.softmax(density + torch.log(count + self.alpha)[:, None], dim=-1)


class ConjugateTasks(Dataset[TaskBatch]):
    """Group i of a run on this prior: 32 rows, of which 2 to 24 are context."""

    def __init__(self, prior: GaussianClasses, length: int, *, sets: int = 64, rows: int = 32, seed: int = 0) -> None:
        self.prior, self.length, self.sets, self.rows, self.seed = prior, length, sets, rows, seed

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> TaskBatch:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + index)
        n_train = int(torch.randint(2, 25, (1,), generator=generator))
        return self.prior.sample(self.sets, self.rows, n_train, generator)


@torch.no_grad()
def kl_to_posterior(model: torch.nn.Module, prior: GaussianClasses, batch: TaskBatch) -> float:
    """Mean over queries of KL(exact posterior predictive || network), in nats."""
    n = batch.n_train
    exact = prior.posterior_predictive(batch.x[:, :n], batch.y[:, :n], batch.x[:, n:])
    logits = model(batch.x, batch.y[:, :n])[:, :, : prior.n_classes]
    log_q = torch.log_softmax(logits.double(), dim=-1)
    return float((exact * (exact.clamp_min(1e-300).log() - log_q)).sum(-1).mean())
