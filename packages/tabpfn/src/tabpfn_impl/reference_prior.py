"""The prior one table at a time, each step written as the paper says it: the tests' oracle, and what `bench prior`
compares with."""

import math
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from tabpfn_impl.gp_prior import GPPrior
from tabpfn_impl.hyperpriors import UniformInt
from tabpfn_impl.mlp_prior import NetworkDraw, Structure
from tabpfn_impl.priors import PriorConfig

__all__ = ["compute_one", "draw_network", "draw_table", "rank_classes", "squash_column"]

_FUNCTIONS = (math.tanh, lambda v: v, lambda v: max(v, 0.0))
_LAYERS = (torch.tanh, lambda t: t, torch.relu)


def compute_one(
    structure: Structure, draw: NetworkDraw, index: int
) -> tuple[Float[Tensor, "rows features"], Float[Tensor, " rows"]]:
    """Table `index` of a group from the group's random numbers, row by row and layer by layer, in float64."""
    activation = _FUNCTIONS[int(draw.activation[index])]
    rows_x, rows_y = [], []
    for row in range(draw.causes.shape[1]):
        causes = draw.causes[index, row].double()
        h = causes @ draw.weights[0][index].double() + draw.biases[0][index, 0].double()
        units: list[float] = []
        for weight, bias, noise in zip(draw.weights[1:], draw.biases[1:], draw.noise, strict=True):
            active = torch.tensor([activation(v) for v in h.tolist()], dtype=torch.float64)
            h = active @ weight[index].double() + bias[index, 0].double() + noise[index, row].double()
            units += h.tolist()
        source = units if structure.causal else causes.tolist()
        rows_x.append([source[int(unit)] for unit in draw.feature_units[index]])
        rows_y.append(units[int(draw.target_unit[index])] if structure.causal else units[-1])
    return torch.tensor(rows_x, dtype=torch.float64), torch.tensor(rows_y, dtype=torch.float64)


def squash_column(values: Float[Tensor, " rows"], n_sigma: float = 4.0) -> Float[Tensor, " rows"]:
    """Outliers of one column brought near."""
    inside = values[(values - values.mean()).abs() <= n_sigma * values.std()]
    reach = n_sigma * (inside.std() if len(inside) > 1 else 0.0)
    low, high = inside.mean() - reach, inside.mean() + reach
    values = torch.maximum(low - torch.log(1 + values.abs()), values)
    return torch.minimum(high + torch.log(1 + values.abs()), values)


def rank_classes(
    values: Float[Tensor, " rows"], n_classes: int, ordered_p: float, rng: np.random.Generator
) -> Int[Tensor, " rows"]:
    """How many of n_classes - 1 of the values lie below each; permuted; perhaps reversed."""
    boundaries = [float(values[rng.integers(len(values))]) for _ in range(n_classes - 1)]
    codes = torch.tensor([sum(float(v) > b for b in boundaries) for v in values])
    if rng.uniform() > ordered_p:
        codes = torch.as_tensor(rng.permutation(n_classes))[codes]
    return n_classes - 1 - codes if rng.uniform() > 0.5 else codes


def draw_table(
    config: PriorConfig,
    rows: int,
    n_train: int,
    rng: np.random.Generator,
    generator: torch.Generator,
    *,
    features: int | None = None,
) -> tuple[Float[Tensor, "rows features"], Int[Tensor, " rows"]]:
    """One table with its classes; drawn again until context and queries have the same classes."""
    given = features
    for _ in range(1000):
        features = given or int(UniformInt(1, config.max_features).sample(rng, 1)[0])
        weight = 1.0 / (1.0 + math.exp(rng.uniform(*config.gp_logits) - 1.0))
        networks = {"scm", "bnn"} & set(config.components)
        if "gp" in config.components and (not networks or rng.uniform() < weight):
            x, y = (t[0] for t in GPPrior(config.gp).sample(1, rows, features, rng, generator))
        else:
            x, y = draw_network(config, rows, features, rng, generator)
        if not (x.isfinite().all() and y.isfinite().all()):
            continue
        if rng.uniform() < config.categorical_p:
            p = rng.uniform()
            for column in range(features):
                if rng.uniform() < p:
                    k = max(round(rng.gamma(1.0, 10.0)), 2)
                    x[:, column] = rank_classes(x[:, column], k, 0.3, rng).float()
        x = torch.stack([squash_column(x[:, column]) for column in range(features)], dim=1)
        x = torch.stack([(c - c.mean()) / (c.std() + 1e-6) for c in x.T], dim=1).clamp(-100, 100)
        n_classes = 2
        if rng.uniform() >= config.binary_p:
            n_classes = round(rng.uniform(2, UniformInt(config.most_low, config.max_classes).sample(rng, 1)[0]))
        labels = rank_classes((y - y.mean()) / (y.std() + 1e-6), n_classes, 0.0, rng)
        for _ in range(11):
            train, test = set(labels[:n_train].tolist()), set(labels[n_train:].tolist())
            if train == test and len(train) > 1:
                numbers = {old: new for new, old in enumerate(sorted(train))}
                shift = int(rng.integers(len(train)))
                return x, torch.tensor([(numbers[v] + shift) % len(train) for v in labels.tolist()])
            order = torch.randperm(rows, generator=generator)
            x, labels = x[order], labels[order]
    raise RuntimeError(f"no usable table of {rows} rows with {n_train} of context")


def draw_network(
    config: PriorConfig, rows: int, features: int, rng: np.random.Generator, generator: torch.Generator
) -> tuple[Float[Tensor, "rows features"], Float[Tensor, " rows"]]:
    """One table from a random network, layer by layer."""
    c = config.mlp

    def one(distribution: Any) -> Any:
        return distribution.sample(rng, 1)[0]

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    networks = {"scm", "bnn"} & set(config.components)
    causal = bool(one(c.is_causal)) if len(networks) == 2 else "scm" in networks
    hidden, num_causes = int(one(c.hidden)), int(one(c.num_causes))
    if causal:
        hidden = max(hidden, 1 + 2 * features)
    else:
        num_causes = features
    structure = Structure(causal, int(one(c.num_layers)), hidden, num_causes, features)
    noise_std, init_std, dropout = float(one(c.noise_std)), float(one(c.init_std)), float(one(c.dropout))
    own_noise, block_wise = bool(one(c.pre_sample_weights)), bool(one(c.block_wise_dropout))
    activation = _LAYERS[int(one(c.activation))]
    mean = normal(num_causes)
    causes = mean + (normal(num_causes) * mean).abs() * normal(rows, num_causes)
    h, units = causes, []
    for i, (n_in, n_out) in enumerate(structure.layer_dims()):
        if block_wise:
            weight = torch.zeros(n_in, n_out)
            n_blocks = int(rng.integers(1, math.ceil(math.sqrt(min(n_in, n_out))), endpoint=True))
            high, wide = n_in // n_blocks, n_out // n_blocks
            std = init_std / math.sqrt(n_blocks * high * wide / (n_in * n_out))
            for b in range(n_blocks):
                weight[b * high : (b + 1) * high, b * wide : (b + 1) * wide] = std * normal(high, wide)
        else:
            p = dropout if i > 0 else 0.0
            kept = torch.rand(n_in, n_out, generator=generator) < 1.0 - p
            weight = normal(n_in, n_out) * init_std / (1.0 - math.sqrt(p)) * kept
        bias = (2.0 * torch.rand(n_out, generator=generator) - 1.0) / math.sqrt(n_in)
        if i == 0:
            h = h @ weight + bias
            continue
        level = (normal(n_out) * noise_std).abs() if own_noise else torch.full((n_out,), noise_std)
        h = activation(h) @ weight + bias + level * normal(rows, n_out)
        units.append(h)
    shift = int(rng.integers(features))
    rotate = [(f + shift) % features for f in range(features)]
    if not causal:
        return causes[:, rotate], units[-1][:, 0]
    flat = torch.cat(units, dim=1)
    last = flat.shape[1] - 1
    y_is_effect, sort_features, in_clique = (bool(one(d)) for d in (c.y_is_effect, c.sort_features, c.in_clique))
    if in_clique:
        chosen = int(rng.uniform() * (last - features)) + rng.permutation(features + 1)
    else:
        chosen = rng.permutation(last)[: features + 1]
    target = last if y_is_effect else int(chosen[0])
    picked = np.sort(chosen[1:]) if sort_features else chosen[1:]
    return flat[:, picked[rotate].tolist()], flat[:, target]
