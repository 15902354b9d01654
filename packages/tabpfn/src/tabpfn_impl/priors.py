"""The prior: synthetic classification tables from structural causal models, Bayesian networks and Gaussian processes.

batch = TabularPrior().sample(32, 256, seed=0)   # 32 tables of 256 rows
batch.x, batch.y, batch.n_train                  # (32, 256, features), (32, 256), how many rows are context
"""

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from tabpfn_impl.gp_prior import GPConfig, GPPrior
from tabpfn_impl.hyperpriors import UniformInt
from tabpfn_impl.mlp_prior import BNNPrior, MLPConfig, MLPPrior, SCMPrior
from tabpfn_impl.tabular import (
    assign_classes,
    compact_labels,
    make_categorical,
    match_label_sets,
    squash_outliers,
    standardise,
)

__all__ = ["BNNPrior", "GPPrior", "PriorConfig", "SCMPrior", "TabularPrior", "TaskBatch"]


LARGEST = 1e15
"""tables with larger values are drawn again"""


class TaskBatch(NamedTuple):
    """Classification tables of one size; the first `n_train` rows of each are context, the others queries."""

    x: Float[Tensor, "sets rows features"]
    """standardised; columns from `n_features` on are 0"""
    y: Int[Tensor, "sets rows"]
    n_train: int
    n_features: Int[Tensor, " sets"]

    def to(self, device: torch.device | str) -> "TaskBatch":
        """The batch on a device."""
        return TaskBatch(
            self.x.to(device, non_blocking=True),
            self.y.to(device, non_blocking=True),
            self.n_train,
            self.n_features.to(device, non_blocking=True),
        )


@dataclass(frozen=True, kw_only=True)
class PriorConfig:
    """The mixture of priors and what is done to its tables."""

    components: tuple[str, ...] = ("scm", "bnn", "gp")
    """some of scm, bnn, gp"""
    gp_logits: tuple[float, float] = (2.0, 10.0)
    """the network priors' weight is softmax([1, U(...)])[1], the rest is the Gaussian process'"""
    max_features: int = 100
    max_classes: int = 10
    binary_p: float = 0.5
    """share of tables with two classes; the others have round(U(2, most)), most = round(U(most_low, max_classes))"""
    most_low: int = 2
    class_causes_p: float = 0.0
    """share of the network priors' groups in which the class is a cause, not an interval of the target (not in the
    paper; see `mlp_prior.class_causes`)"""
    trees_p: float = 0.0
    """share of the network priors' groups in which some units are sums of decision trees (not in the paper; see
    `mlp_prior.tree_units`)"""
    categorical_p: float = 0.2
    """share of tables with categorical columns"""
    group_size: int = 8
    """tables that share the shape of their network; 1: each its own"""
    mlp: MLPConfig = field(default_factory=MLPConfig)
    gp: GPConfig = field(default_factory=GPConfig)

    def __post_init__(self) -> None:
        unknown = sorted(set(self.components) - {"scm", "bnn", "gp"})
        if unknown or not self.components:
            raise ValueError(f"components must be some of scm, bnn, gp, got {self.components}")
        if not 2 <= self.max_classes <= 10:
            raise ValueError(f"max_classes must be from 2 to 10, got {self.max_classes}")
        for name in ("max_features", "group_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not 2 <= self.most_low <= self.max_classes:
            raise ValueError(f"most_low must be from 2 to max_classes={self.max_classes}, got {self.most_low}")
        for name in ("categorical_p", "binary_p", "class_causes_p", "trees_p"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"{name} must lie in [0, 1], got {getattr(self, name)}")


class TabularPrior:
    """Draws classification tables.

    Tables whose context and queries do not have the same classes, at least two, or that hold values that are not
    finite, are drawn again: the released code lets them pass with labels that its loss ignores.
    """

    def __init__(self, config: PriorConfig | None = None) -> None:
        self.config = config or PriorConfig()
        networks = set(self.config.components) & {"scm", "bnn"}
        causal = None if len(networks) == 2 else "scm" in networks
        self.networks = MLPPrior(self.config.mlp, causal=causal) if networks else None
        self.gp = GPPrior(self.config.gp) if "gp" in self.config.components else None

    def sample(
        self,
        batch: int,
        rows: int,
        *,
        n_train: int | None = None,
        features: int | None = None,
        seed: int | tuple[int, ...] = 0,
        device: torch.device | str = "cpu",
    ) -> TaskBatch:
        """Draw `batch` tables of `rows` rows.

        Args:
            n_train: rows of context; None: uniform from 2 to rows - 2.
            features: columns; None: round(U(1, max_features)) for each group, padded with zeros to the widest.
            seed: the same seed gives the same tables (on the same kind of device).

        Raises:
            ValueError: a size that is too small, or n_train not from 2 to rows - 2.
        """
        c = self.config
        if batch < 1 or rows < 4:
            raise ValueError(f"batch must be at least 1 and rows at least 4, got {batch} and {rows}")
        rng = np.random.default_rng(seed)
        generator = torch.Generator(device=device).manual_seed(int(rng.integers(2**62)))
        if n_train is None:
            n_train = int(rng.integers(2, rows - 2, endpoint=True))
        if not 2 <= n_train <= rows - 2:
            raise ValueError(f"n_train must be from 2 to rows - 2 = {rows - 2}, got {n_train}")
        if features is not None and not 1 <= features <= c.max_features:
            raise ValueError(f"features must be from 1 to max_features={c.max_features}, got {features}")
        groups: list[tuple[Tensor, Tensor]] = []
        missing = batch
        for _ in range(1000 + 10 * batch):
            width = features if features is not None else int(UniformInt(1, c.max_features).sample(rng, 1)[0])
            # a quarter is drawn in vain
            sets = min(c.group_size, missing + 1 + missing // 4)
            x, y, valid = self._draw(sets, rows, width, n_train, rng, generator)
            usable = valid.nonzero().squeeze(1)[:missing]
            groups.append((x[usable], y[usable]))
            missing -= len(usable)
            if not missing:
                break
        else:
            raise RuntimeError(f"the prior gives no usable tables of {rows} rows with {n_train} of context")
        widest = max(x.shape[2] for x, _ in groups)
        x = torch.cat([torch.nn.functional.pad(x, (0, widest - x.shape[2])) for x, _ in groups])
        y = torch.cat([y for _, y in groups])
        n_features = torch.cat([torch.full((len(x),), x.shape[2], device=x.device) for x, _ in groups])
        return TaskBatch(x, y, n_train, n_features)

    def _draw(
        self, sets: int, rows: int, features: int, n_train: int, rng: np.random.Generator, generator: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Tables, their classes, and which of them are usable."""
        c = self.config
        component = self._component(rng)
        # no number is drawn for it where the prior has none of it
        caused = bool(c.class_causes_p) and isinstance(component, MLPPrior) and rng.uniform() < c.class_causes_p
        trees = bool(c.trees_p) and isinstance(component, MLPPrior) and rng.uniform() < c.trees_p
        if isinstance(component, MLPPrior):
            classes = self._class_draw(sets, rows, rng, generator) if caused else None
            x, y = component.sample(sets, rows, features, rng, generator, classes=classes, trees=trees)
        else:
            x, y = component.sample(sets, rows, features, rng, generator)
        # neither NaN nor so large that a sum of squares is not finite
        finite = (x.abs() < LARGEST).all(2).all(1) & (y.abs() < LARGEST).all(1)
        x = torch.where(finite[:, None, None], x, 0.0)
        y = torch.where(finite[:, None], y, 0.0)
        has_categories = rng.uniform(size=(sets, 1)) < c.categorical_p
        categorical = has_categories & (rng.uniform(size=(sets, features)) < rng.uniform(size=(sets, 1)))
        x = make_categorical(x, torch.as_tensor(categorical, device=x.device), rng, generator)
        x = standardise(squash_outliers(x))
        if caused:
            assert classes is not None
            labels = classes
        else:
            n_classes = torch.as_tensor(self._class_counts(sets, rng), device=x.device)
            labels = assign_classes(standardise(y), n_classes, generator)
        order, valid = match_label_sets(labels, n_train, generator)
        x = x.gather(1, order[:, :, None].expand_as(x))
        labels = compact_labels(labels.gather(1, order), generator)
        return x, labels, valid & finite

    def _class_counts(self, sets: int, rng: np.random.Generator) -> NDArray[np.int64]:
        c = self.config
        most = UniformInt(c.most_low, c.max_classes).sample(rng, sets)
        several = np.rint(rng.uniform(2, most)).astype(np.int64)
        return np.where(rng.uniform(size=sets) < c.binary_p, 2, several)

    def _class_draw(self, sets: int, rows: int, rng: np.random.Generator, generator: torch.Generator) -> Tensor:
        """Classes of the rows, whose probabilities are Dirichlet(a) with ln a ~ U(0, ln 30)."""
        device = generator.device
        labels = []
        for k in self._class_counts(sets, rng):
            p = rng.dirichlet(np.full(k, np.exp(rng.uniform(0.0, np.log(30.0)))))
            ends = torch.as_tensor(np.cumsum(p)[:-1], device=device).float()
            labels.append(torch.searchsorted(ends, torch.rand(rows, generator=generator, device=device)))
        return torch.stack(labels)

    def _component(self, rng: np.random.Generator) -> MLPPrior | GPPrior:
        low, high = self.config.gp_logits
        gp_weight = 1.0 / (1.0 + np.exp(rng.uniform(low, high) - 1.0))
        if self.networks is None:
            assert self.gp is not None
            return self.gp
        return self.gp if self.gp is not None and rng.uniform() < gp_weight else self.networks
