"""Shapes are checked at every call; one thread, as tensors this small gain nothing from more."""

import torch

from shared_impl.testing import check_shapes

check_shapes("pgn_impl")
torch.set_num_threads(1)
