import pytest
import torch

from shared_impl.testing import check_shapes

check_shapes("robust_fidelity_impl")


class Detector(torch.nn.Module):
    """Sees a motif where all of its edges are: a closed form for everything."""

    def __init__(self, motif):
        super().__init__()
        self.motif = torch.tensor(sorted({tuple(sorted(pair)) for pair in motif}))

    def forward(self, x, edge_index, batch):
        graphs = int(batch.max()) + 1
        pairs = (edge_index % (len(x) // graphs)).sort(0).values.T
        edge, place = (pairs[:, None] == self.motif).all(-1).nonzero(as_tuple=True)
        found = torch.zeros(graphs, len(self.motif), dtype=torch.bool)
        found[batch[edge_index[0, edge]], place] = True
        seen = found.all(1).float()
        return torch.stack([1 - seen, seen], 1)


@pytest.fixture
def detector():
    return Detector


def pytest_collection_modifyitems(items):
    # the detector's scores are 0 and 1, which could be probabilities
    for item in items:
        if "test_mended" not in item.nodeid:
            item.add_marker(pytest.mark.filterwarnings("ignore:the model seems to return probabilities"))
