"""Data sets from random networks: structural causal models and Bayesian neural networks (paper, section 4).

Both start from random causes and a random multi-layer perceptron. In a structural causal model (SCM) features and
target are units anywhere in the network; in a Bayesian neural network (BNN) the features are its inputs and the target
is its output.

Data sets are drawn in groups: those of a group share the shape of the network (depth, width, number of causes), so that
a group is a few batched matrix products; weights, noise, activation, sparsity and the choice of units differ from set
to set.
"""

import math
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tabpfn_impl.forests import Forest, draw_forest, grow
from tabpfn_impl.hyperpriors import MetaBeta, MetaChoice, MetaGamma, MetaTruncatedNormal

__all__ = [
    "ACTIVATIONS",
    "BNNPrior",
    "MLPConfig",
    "MLPPrior",
    "NetworkDraw",
    "SCMPrior",
    "Structure",
    "class_causes",
    "tree_units",
]

ACTIVATIONS = ("tanh", "identity", "relu")


@dataclass(frozen=True, kw_only=True)
class MLPConfig:
    """The distributions of the hyper-parameters (defaults: those of the paper's final prior)."""

    num_layers: MetaGamma = field(default_factory=lambda: MetaGamma(2.0, 3.0, 2))
    hidden: MetaGamma = field(default_factory=lambda: MetaGamma(3.0, 100.0, 4))
    num_causes: MetaGamma = field(default_factory=lambda: MetaGamma(3.0, 7.0, 2))
    dropout: MetaBeta = field(default_factory=lambda: MetaBeta(0.6, 0.1, 5.0))
    noise_std: MetaTruncatedNormal = field(default_factory=lambda: MetaTruncatedNormal(1e-4, 0.3))
    init_std: MetaTruncatedNormal = field(default_factory=lambda: MetaTruncatedNormal(0.01, 10.0))
    is_causal: MetaChoice = field(default_factory=MetaChoice)
    pre_sample_weights: MetaChoice = field(default_factory=MetaChoice)
    """whether each unit has a noise level of its own"""
    y_is_effect: MetaChoice = field(default_factory=MetaChoice)
    """whether the target is the last unit"""
    block_wise_dropout: MetaChoice = field(default_factory=MetaChoice)
    sort_features: MetaChoice = field(default_factory=MetaChoice)
    in_clique: MetaChoice = field(default_factory=MetaChoice)
    """whether the features are neighbours"""
    activation: MetaChoice = field(default_factory=lambda: MetaChoice((0, 1, 2), -5.0, 6.0))
    """index into `ACTIVATIONS`"""


class Structure(NamedTuple):
    """What the data sets of a group share."""

    causal: bool
    num_layers: int
    hidden: int
    num_causes: int
    features: int

    @property
    def units(self) -> int:
        """Units that can become features or target of a causal model."""
        return (self.num_layers - 1) * self.hidden

    def layer_dims(self) -> list[tuple[int, int]]:
        """(in, out) of each linear map."""
        dims = [(self.num_causes, self.hidden)] + [(self.hidden, self.hidden)] * (self.num_layers - 1)
        return dims if self.causal else [*dims, (self.hidden, 1)]


class NetworkDraw(NamedTuple):
    """Everything that is random in a group of data sets, before it is computed."""

    causes: Float[Tensor, "sets rows causes"]
    weights: list[Float[Tensor, "sets n_in n_out"]]
    biases: list[Float[Tensor, "sets 1 n_out"]]
    noise: list[Float[Tensor, "sets rows n_out"]]
    """for each map but the first"""
    activation: Int[Tensor, " sets"]
    feature_units: Int[Tensor, "sets features"]
    """for a causal model: the units that are features; else the order of the causes"""
    target_unit: Int[Tensor, " sets"]
    forests: list[Forest] | None = None
    """trees in place of some units: one forest for each hidden layer of a causal model, else one for the target"""


class MLPPrior:
    """Draws groups of data sets; `causal` fixes the kind, None draws it for each group.

    Args:
        config: the hyper-parameters' distributions.
        causal: True for SCMs only, False for BNNs only.
    """

    def __init__(self, config: MLPConfig | None = None, *, causal: bool | None = None) -> None:
        self.config = config or MLPConfig()
        self.causal = causal

    def sample(
        self,
        sets: int,
        rows: int,
        features: int,
        rng: np.random.Generator,
        generator: torch.Generator,
        *,
        classes: Int[Tensor, "sets rows"] | None = None,
        trees: bool = False,
    ) -> tuple[Float[Tensor, "sets rows features"], Float[Tensor, "sets rows"]]:
        """Features and real-valued targets of `sets` data sets of one structure, on the device of the generator.

        Args:
            classes: of each row; then the class is what the causes depend on (`class_causes`), and the target that is
                returned has no use.
            trees: whether some units are sums of decision trees (`forests`).
        """
        structure = self.structure(features, rng)
        if classes is not None and structure.causal:
            # as many more causes as tell ten classes apart
            structure = structure._replace(num_causes=structure.num_causes + int(rng.integers(0, 12)))
        draw = self.draw(structure, sets, rows, rng, generator)
        if classes is not None:
            draw = draw._replace(causes=class_causes(classes, structure.num_causes, rng, generator))
        if trees:
            draw = draw._replace(forests=tree_units(structure, sets, rows, rng, generator))
        return compute(structure, draw)

    def structure(self, features: int, rng: np.random.Generator) -> Structure:
        """The shape of the network of a group."""
        c = self.config
        causal = bool(c.is_causal.sample(rng, 1)[0])
        num_layers = int(c.num_layers.sample(rng, 1)[0])
        hidden = int(c.hidden.sample(rng, 1)[0])
        num_causes = int(c.num_causes.sample(rng, 1)[0])
        if self.causal is not None:
            causal = self.causal
        if causal:
            hidden = max(hidden, 1 + 2 * features)
        else:
            num_causes = features
        return Structure(causal, num_layers, hidden, num_causes, features)

    def draw(
        self, structure: Structure, sets: int, rows: int, rng: np.random.Generator, generator: torch.Generator
    ) -> NetworkDraw:
        """All random numbers of a group."""
        c, device = self.config, generator.device

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator, device=device)

        def uniform(*shape: int) -> Tensor:
            return torch.rand(*shape, generator=generator, device=device)

        def of(distribution: Any) -> Tensor:
            return torch.as_tensor(distribution.sample(rng, sets), device=device)

        noise_std = of(c.noise_std).float()
        init_std = of(c.init_std).float()
        dropout = of(c.dropout).float()
        own_noise = of(c.pre_sample_weights)
        y_is_effect = of(c.y_is_effect)
        block_wise = of(c.block_wise_dropout)
        sort_features = of(c.sort_features)
        in_clique = of(c.in_clique)
        # tables of one activation side by side: each kind is one call
        activation = of(c.activation).sort().values

        mean = normal(sets, 1, structure.num_causes)
        std = (normal(sets, 1, structure.num_causes) * mean).abs()
        causes = mean + std * normal(sets, rows, structure.num_causes)
        weights, biases, noise = [], [], []
        for i, (n_in, n_out) in enumerate(structure.layer_dims()):
            keep = 1.0 - (dropout if i > 0 else torch.zeros_like(dropout))[:, None, None]
            scale = init_std[:, None, None] / (1.0 - (1.0 - keep).sqrt())
            mask = uniform(sets, n_in, n_out) < keep
            # few groups have no set with blocks
            if bool(block_wise.any()):
                n_blocks = rng.integers(1, math.ceil(math.sqrt(min(n_in, n_out))), sets, endpoint=True)
                blocks, block_scale = _block_mask(torch.as_tensor(n_blocks, device=device), n_in, n_out)
                chosen = block_wise[:, None, None]
                mask = torch.where(chosen, blocks, mask)
                scale = torch.where(chosen, init_std[:, None, None] * block_scale, scale)
            weights.append(normal(sets, n_in, n_out).mul_(scale).mul_(mask))
            biases.append((2.0 * uniform(sets, 1, n_out) - 1.0) / math.sqrt(n_in))
            if i > 0:
                level = noise_std[:, None, None]
                level = torch.where(own_noise[:, None, None], (normal(sets, 1, n_out) * level).abs(), level)
                noise.append(normal(sets, rows, n_out).mul_(level))
        if structure.causal:
            features, target = _choose_units(structure, y_is_effect, sort_features, in_clique, uniform)
        else:
            features = torch.arange(structure.features, device=device).expand(sets, -1)
            target = torch.zeros(sets, dtype=torch.long, device=device)
        shift = torch.as_tensor(rng.integers(0, structure.features, sets), device=device)
        order = (torch.arange(structure.features, device=device) + shift[:, None]) % structure.features
        return NetworkDraw(causes, weights, biases, noise, activation, features.gather(1, order), target)


class SCMPrior(MLPPrior):
    """Structural causal models only."""

    def __init__(self, config: MLPConfig | None = None) -> None:
        super().__init__(config, causal=True)


class BNNPrior(MLPPrior):
    """Bayesian neural networks only."""

    def __init__(self, config: MLPConfig | None = None) -> None:
        super().__init__(config, causal=False)


def class_causes(
    classes: Int[Tensor, "sets rows"], num_causes: int, rng: np.random.Generator, generator: torch.Generator
) -> Float[Tensor, "sets rows causes"]:
    """Causes that depend on the class: Gaussian clusters, from one to three a class (not in the paper).

    In the paper's prior a class is an interval of one unit, and tables of many classes are slices along one direction.
    Here class and features have common causes, so each class has a region of its own in all directions that matter.
    A data set has a distance of its centres and a share of causes that depend on the class; a cluster has deviations of
    its own.
    """
    sets, rows = classes.shape
    device = classes.device
    per_class = int(rng.integers(1, 4))
    clusters = per_class * (int(classes.max()) + 1)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, device=device)

    def column(values: Any) -> Tensor:
        return torch.as_tensor(values, device=device).float()[:, None, None]

    # centres of many causes lie as far apart as those of four
    distance = column(np.exp(rng.uniform(math.log(0.3), math.log(4.0), sets)) / math.sqrt(max(1.0, num_causes / 4.0)))
    relevant = torch.rand(sets, 1, num_causes, generator=generator, device=device) < column(rng.uniform(0.2, 1.0, sets))
    centres = distance * relevant * normal(sets, clusters, num_causes)
    deviations = torch.exp(column(rng.uniform(0.0, 0.6, sets)) * normal(sets, clusters, num_causes))
    which = classes * per_class + torch.randint(0, per_class, classes.shape, generator=generator, device=device)
    index = which[:, :, None].expand(-1, -1, num_causes)
    return centres.gather(1, index) + deviations.gather(1, index) * normal(sets, rows, num_causes)


MAX_TREE_UNITS = 24
"""of a layer: trees cost more than a linear map"""


def tree_units(
    structure: Structure, sets: int, rows: int, rng: np.random.Generator, generator: torch.Generator
) -> list[Forest]:
    """Forests for a group: from one to eight trees a unit, of depth one to five (not in the paper).

    In a causal model a share of each hidden layer's units, the last among them, are trees of the layer before; else the
    target is one of the features.
    """
    n_trees, depth = int(np.rint(np.exp(rng.uniform(0.0, math.log(8.0))))), int(rng.integers(1, 6))
    device = generator.device
    if not structure.causal:
        target = torch.zeros(sets, 1, dtype=torch.long, device=device)
        return [draw_forest(rows, structure.num_causes, target, 2 * n_trees, depth, generator)]
    others = max(1, min(MAX_TREE_UNITS, round(rng.uniform() * structure.hidden))) - 1
    forests = []
    for _ in range(structure.num_layers - 1):
        chosen = torch.rand(sets, structure.hidden - 1, generator=generator, device=device).argsort(1)[:, :others]
        units = torch.nn.functional.pad(chosen, (0, 1), value=structure.hidden - 1)
        forests.append(draw_forest(rows, structure.hidden, units, n_trees, depth, generator))
    return forests


def compute(
    structure: Structure, draw: NetworkDraw
) -> tuple[Float[Tensor, "sets rows features"], Float[Tensor, "sets rows"]]:
    """Propagate the causes through the networks of a group and read features and targets."""
    h = torch.bmm(draw.causes, draw.weights[0]).add_(draw.biases[0])
    counts = torch.bincount(draw.activation, minlength=len(ACTIVATIONS)).tolist()
    (sets, rows, hidden), hidden_layers = h.shape, structure.num_layers - 1
    units = h.new_empty(hidden_layers, sets, rows, hidden)
    for i in range(hidden_layers):
        before = h
        torch.bmm(_activate(h, counts), draw.weights[i + 1], out=units[i])
        h = units[i].add_(draw.biases[i + 1])
        if structure.causal and draw.forests is not None:
            h.copy_(grow(draw.forests[i], before, h))
        h.add_(draw.noise[i])
    if not structure.causal:
        y = torch.bmm(_activate(h, counts), draw.weights[-1]).add_(draw.biases[-1])
        if draw.forests is not None:
            y = grow(draw.forests[0], draw.causes, y)
        y.add_(draw.noise[-1])
        return draw.causes.gather(2, draw.feature_units[:, None, :].expand(-1, rows, -1)), y.squeeze(-1)
    chosen = torch.cat([draw.feature_units, draw.target_unit[:, None]], dim=1)
    which = torch.arange(sets, device=h.device)[:, None]
    columns = units[chosen // hidden, which, :, chosen % hidden]
    return columns[:, :-1].mT.contiguous(), columns[:, -1]


def _activate(h: Tensor, counts: list[int]) -> Tensor:
    """tanh of the first tables, the next as they are, ReLU of the last."""
    n_tanh, n_identity, n_relu = counts
    if n_identity == len(h):
        return h
    out = torch.empty_like(h)
    torch.tanh(h[:n_tanh], out=out[:n_tanh])
    out[n_tanh : n_tanh + n_identity] = h[n_tanh : n_tanh + n_identity]
    torch.clamp_min(h[len(h) - n_relu :], 0.0, out=out[len(h) - n_relu :])
    return out


def _block_mask(
    n_blocks: Int[Tensor, " sets"], n_in: int, n_out: int
) -> tuple[Bool[Tensor, "sets n_in n_out"], Float[Tensor, "sets 1 1"]]:
    """Diagonal blocks of equal size, and 1 / sqrt(share of the matrix that they are)."""
    high, wide = n_in // n_blocks, n_out // n_blocks
    rows = torch.arange(n_in, device=n_blocks.device) // high[:, None]
    columns = torch.arange(n_out, device=n_blocks.device) // wide[:, None]
    inside = (rows < n_blocks[:, None])[:, :, None] & (columns < n_blocks[:, None])[:, None, :]
    kept = (n_blocks * high * wide).float() / (n_in * n_out)
    return inside & (rows[:, :, None] == columns[:, None, :]), kept.rsqrt()[:, None, None]


def _choose_units(
    structure: Structure, y_is_effect: Tensor, sort_features: Tensor, in_clique: Tensor, uniform: Any
) -> tuple[Int[Tensor, "sets features"], Int[Tensor, " sets"]]:
    """Which units are features and which is the target; the last unit is never a feature."""
    sets, units, features = len(y_is_effect), structure.units, structure.features
    last = units - 1
    scattered = uniform(sets, last).argsort(1)[:, : features + 1]
    start = (uniform(sets, 1) * (last - features)).long()
    window = start + uniform(sets, features + 1).argsort(1)
    chosen = torch.where(in_clique[:, None], window, scattered)
    target = torch.where(y_is_effect, torch.full_like(chosen[:, 0], last), chosen[:, 0])
    picked = chosen[:, 1:]
    return torch.where(sort_features[:, None], picked.sort(1).values, picked), target
