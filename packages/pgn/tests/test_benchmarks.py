import pytest
import torch
from torch import nn

from pgn_impl import PGN
from pgn_impl.benchmarks import gradient_reach, multiply_adds
from shared_impl.train import count_parameters


class Shifted(nn.Module):
    """Each output is the input three steps before, and nothing else."""

    def forward(self, x):
        return torch.roll(x, 3, 1)


def test_the_gradient_is_found_at_its_distance():
    norm = gradient_reach(Shifted(), 2, 10)
    assert norm.shape == (10,)
    assert norm.nonzero().flatten().tolist() == [3]


def test_the_gradient_of_a_windowed_layer_ends_with_its_window():
    norm = gradient_reach(PGN(2, 4, 5), 2, 12)
    assert (norm[:6] > 0).all()
    assert (norm[6:] == 0).all()


def test_multiply_adds_are_counted_by_hand_in_a_small_case():
    # width 1, 2 rows of 3 columns, one row out, 5 features a cell
    history = 3 * 5
    gates = 6 * 6 * 2
    maps = 3 * 2 + 2 * 3 * 5 + 2 + 3 * 2
    assert multiply_adds("tpgn", 6, 3, d_model=1, period=3) == history + gates + maps
    # an LSTM multiplies each weight once a step
    cell = nn.LSTM(5, 8)
    weights = count_parameters(cell) - 2 * 4 * 8
    assert multiply_adds("lstm", 10, 7, d_model=8) == 10 * weights + 8 * 7


@pytest.mark.parametrize("model", ["tpgn", "lstm"])
def test_multiply_adds_grow_with_the_length(model):
    counts = [multiply_adds(model, length, 168) for length in (168, 336, 672)]
    assert counts == sorted(counts)
    assert counts[2] > 2 * counts[1] - counts[0] - 1
