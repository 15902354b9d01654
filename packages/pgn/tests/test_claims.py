"""The claims of the paper that are exact, a test each."""

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from pgn_impl import PGN, TPGN, time_features
from pgn_impl.benchmarks import gradient_reach
from pgn_impl.tpgn import fold, parameter_count, unfold
from shared_impl.train import count_parameters


def test_a_hidden_state_sees_only_what_came_before_and_an_output_all_up_to_itself():
    torch.manual_seed(0)
    length = 9
    layer = PGN(2, 3, seq_len=length).double()
    x = torch.randn(1, length, 2, dtype=torch.float64, requires_grad=True)
    history = layer.hie(x[None])[0]
    out = layer(x)
    for t in range(length):
        (seen,) = torch.autograd.grad(history[:, t].sum(), x, retain_graph=True)
        assert torch.count_nonzero(seen[:, t:]) == 0
        assert torch.count_nonzero(seen[:, :t]) == seen[:, :t].numel()
        (seen,) = torch.autograd.grad(out[:, t].square().sum(), x, retain_graph=True)
        assert torch.count_nonzero(seen[:, t + 1 :]) == 0
        assert torch.count_nonzero(seen[:, : t + 1]) == seen[:, : t + 1].numel()


@pytest.mark.parametrize("form", ["conv", "dense", "fft"])
def test_the_parallel_forms_equal_the_loop_over_steps(form):
    torch.manual_seed(0)
    for length, window in ((2, 1), (24, 23), (65, 64), (130, 40), (30, 90)):
        layer = PGN(3, 4, window).double()
        x = torch.randn(2, length, 3, dtype=torch.float64)
        torch.testing.assert_close(layer(x, form), layer(x, "loop"), rtol=1e-12, atol=1e-12)
        state, steps = layer.initial_state(2), []
        with torch.no_grad():
            for t in range(length):
                y, state = layer.step(x[:, t], state)
                steps.append(y)
        torch.testing.assert_close(torch.stack(steps, 1), layer(x, form).detach(), rtol=1e-12, atol=1e-12)


def test_the_parameters_are_those_of_the_formula():
    model = TPGN(seq_len=168, pred_len=168, period=24, d_model=32, time_features=4)
    assert count_parameters(model) == parameter_count(32) == 22_151
    # the formula of a univariate model with 7 rows of 24 columns, written out
    d, rows_out = 32, 7
    long = (30 * d + d) + ((5 + d) * 2 * d + 2 * d) + (7 * d**2 + d)
    short = (120 * d + d) + (7 * d**2 + d)
    assert long + short + rows_out * (2 * d + 1) == 22_151
    for options in (
        {"seq_len": 168, "pred_len": 1440, "period": 24, "d_model": 8, "time_features": 4, "c_in": 1, "short": True},
        {"seq_len": 100, "pred_len": 50, "period": 12, "d_model": 5, "time_features": 3, "c_in": 4, "short": False},
    ):
        assert count_parameters(TPGN(**options)) == parameter_count(**options)


def test_folding_is_undone_by_unfolding_and_any_horizon_has_its_length():
    torch.manual_seed(0)
    x = torch.randn(3, 168, 2)
    grid = fold(x, 24)
    assert grid.shape == (3, 7, 24, 2)
    assert torch.equal(grid[1, 2, 5], x[1, 2 * 24 + 5])  # a row is a day
    assert torch.equal(unfold(grid, 168), x)
    marks = torch.randn(3, 168, 4)
    for horizon in (1, 23, 24, 100, 336):
        model = TPGN(seq_len=168, pred_len=horizon, period=24, c_in=2, d_model=3, norm=True)
        assert model(x, marks).shape == (3, horizon, 2)
    torch.manual_seed(1)
    cut = TPGN(seq_len=168, pred_len=100, c_in=2, d_model=3, norm=True)
    torch.manual_seed(1)
    whole = TPGN(seq_len=168, pred_len=120, c_in=2, d_model=3, norm=True)
    assert torch.equal(cut(x, marks), whole(x, marks)[:, :100])


def test_with_norm_the_forecast_follows_shifts_and_scales_of_the_window():
    torch.manual_seed(0)
    # a window of large variance, so that the constant under the root counts 1e-11
    x = 1e3 * torch.randn(4, 72, 2, dtype=torch.float64)
    marks = torch.rand(4, 72, 4, dtype=torch.float64) - 0.5
    factor, shift = torch.tensor([3.0, 0.2], dtype=torch.float64), torch.tensor([-500.0, 9e3], dtype=torch.float64)
    for norm in (True, False):
        model = TPGN(seq_len=72, pred_len=30, c_in=2, d_model=4, norm=norm).double()
        rescaled, expected = model(x * factor + shift, marks), model(x, marks) * factor + shift
        assert torch.allclose(rescaled, expected, rtol=1e-7, atol=1e-4) == norm


def test_time_features_are_those_of_the_table():
    # date, then hour of day / 23, day of week / 6 (Monday 0), day of month - 1 / 30, day of year - 1 / 365, all - 0.5
    table = {
        "2016-07-01 00:00": (0, 4, 0, 182),  # a Friday in a leap year
        "2017-12-31 23:00": (23, 6, 30, 364),
        "2016-12-31 13:00": (13, 5, 30, 365),
        "2018-01-01 12:00": (12, 0, 0, 0),
    }
    found = time_features(pd.DatetimeIndex(list(table)), "h")
    expected = np.array(list(table.values())) / [23, 6, 30, 365] - 0.5
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)
    # over four years each fills the range exactly, minutes included
    years = pd.date_range("2016-01-01", "2019-12-31 23:45", freq="15min")
    features = time_features(years, "15min")
    assert features.shape[1] == 5
    np.testing.assert_allclose(features.min(0), -0.5)
    np.testing.assert_allclose(features[:, 1:].max(0), 0.5)
    assert features[:, 0].max() == 45 / 59 - 0.5
    assert time_features(years, "D").shape[1] == 3


def test_the_gradient_reaches_every_distance_alike_and_fades_in_a_plain_rnn():
    length = 257
    near, far = slice(1, 33), slice(224, 256)  # distances
    norms = {"pgn": torch.zeros(length), "rnn": torch.zeros(length)}
    for seed in range(8):
        torch.manual_seed(seed)
        norms["pgn"] += gradient_reach(PGN(4, 32, seq_len=length), 4, length, batch=4)
        norms["rnn"] += gradient_reach(_States(nn.RNN(4, 32, batch_first=True)), 4, length, batch=4)
    ratio = {name: float(norm[far].mean() / norm[near].mean()) for name, norm in norms.items()}
    assert 0.8 < ratio["pgn"] < 1.25
    assert ratio["rnn"] < 1e-3


class _States(nn.Module):
    def __init__(self, cell):
        super().__init__()
        self.cell = cell

    def forward(self, x):
        return self.cell(x)[0]
