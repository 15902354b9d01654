import pytest
import torch

from shared_impl.testing import check_shapes

check_shapes("tcnca_impl")


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)
