"""Units of a causal network that are sums of small decision trees (not in the paper; see `PriorConfig.trees_p`).

In the paper's prior every unit is a smooth or piecewise linear function of those before it. Where real tables have
thresholds, a network that saw only that prior draws soft boundaries. A tree here is oblivious: all nodes of a level ask
the same question, whether one input is above one of its own values, so `depth` comparisons give the leaf.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

__all__ = ["Forest", "draw_forest", "grow"]


class Forest(NamedTuple):
    """The random numbers of the trees of some units, for a group of data sets."""

    units: Int[Tensor, "sets units"]
    """which units of the layer are sums of trees"""
    inputs: Int[Tensor, "sets units trees depth"]
    """the input that each level of a tree asks for"""
    rows: Int[Tensor, "sets units trees depth"]
    """the row whose value of that input is the threshold"""
    leaves: Float[Tensor, "sets units trees leaves"]
    """values, 2^depth a tree"""


def draw_forest(
    rows: int, n_in: int, units: Int[Tensor, "sets units"], trees: int, depth: int, generator: torch.Generator
) -> Forest:
    """Trees with inputs and thresholds at random and standard normal leaves."""
    shape, device = (*units.shape, trees, depth), units.device
    inputs = torch.randint(0, n_in, shape, generator=generator, device=device)
    thresholds = torch.randint(0, rows, shape, generator=generator, device=device)
    leaves = torch.randn(*shape[:3], 2**depth, generator=generator, device=device)
    return Forest(units, inputs, thresholds, leaves)


def grow(
    forest: Forest, inputs: Float[Tensor, "sets rows n_in"], values: Float[Tensor, "sets rows n_out"]
) -> Float[Tensor, "sets rows n_out"]:
    """`values` with the forest's units replaced by sums of trees over `inputs`, as spread out as what they replace."""
    (sets, units, trees, depth), n_rows = forest.inputs.shape, inputs.shape[1]
    asked = inputs.mT.gather(1, forest.inputs.view(sets, -1, 1).expand(-1, -1, n_rows))
    thresholds = asked.gather(2, forest.rows.view(sets, -1, 1))
    above = (asked > thresholds).view(sets, units * trees, depth, n_rows)
    powers = 2 ** torch.arange(depth, device=above.device)
    leaf = (above * powers[:, None]).sum(2)
    grown = forest.leaves.flatten(1, 2).gather(2, leaf).view(sets, units, trees, n_rows).sum(2).mT / trees**0.5
    index = forest.units[:, None, :].expand(-1, n_rows, -1)
    spread = values.gather(2, index).std(1, keepdim=True)
    return values.scatter(2, index, grown * spread)
