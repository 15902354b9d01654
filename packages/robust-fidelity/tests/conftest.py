import pytest
import torch

from shared_impl.testing import check_shapes

check_shapes("robust_fidelity_impl")


class Detector(torch.nn.Module):
    """Sees a motif where all of its edges are: a closed form for everything."""

    def __init__(self, motif):
        super().__init__()
        self.motif = {tuple(sorted(pair)) for pair in motif}
        self.calls = 0

    def forward(self, x, edge_index, batch):
        self.calls += 1
        n = len(x) // (int(batch.max()) + 1)
        found = [set() for _ in range(int(batch.max()) + 1)]
        for a, b in edge_index.T.tolist():
            found[a // n].add(tuple(sorted((a % n, b % n))))
        seen = torch.tensor([float(self.motif <= edges) for edges in found])
        return torch.stack([1 - seen, seen], 1)


@pytest.fixture
def detector():
    return Detector


def pytest_collection_modifyitems(items):
    # the detector's scores are 0 and 1, which could be probabilities
    for item in items:
        if "test_mended" not in item.nodeid:
            item.add_marker(pytest.mark.filterwarnings("ignore:the model seems to return probabilities"))
