"""Shapes are checked at every call; small graphs that several tests need."""

import numpy as np
import pytest
import torch

from shared_impl.testing import check_shapes

check_shapes("ncnc_impl")
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def random_graph():
    """A function from a seed to a random graph with features, isolated nodes included."""
    from ncnc_impl import Graph

    def make(seed: int, n_nodes: int = 25, n_pairs: int = 60, n_features: int = 6):
        generator = np.random.default_rng(seed)
        # the last three nodes stay isolated
        pairs = generator.integers(n_nodes - 3, size=(n_pairs, 2))
        return Graph.from_edges(pairs, n_nodes, x=generator.standard_normal((n_nodes, n_features)).astype(np.float32))

    return make


@pytest.fixture(scope="session")
def all_pairs():
    """A function from a number of nodes to all ordered pairs of different nodes."""

    def make(n_nodes: int) -> torch.Tensor:
        pairs = torch.cartesian_prod(torch.arange(n_nodes), torch.arange(n_nodes))
        return pairs[pairs[:, 0] != pairs[:, 1]]

    return make


@pytest.fixture(scope="session")
def small_geometric():
    """A geometric graph of 400 nodes."""
    from ncnc_impl import geometric_graph

    return geometric_graph(400, seed=0)
