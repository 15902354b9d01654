import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pgn_impl import TPGN
from pgn_impl.tpgn import fold, parameter_count, unfold
from shared_impl.train import count_parameters

LONG = ("pgn", "lstm", "gru", "mlp", "attn", "none")


def inputs(batch=3, length=72, c_in=2, features=4):
    return torch.randn(batch, length, c_in), torch.rand(batch, length, features) - 0.5


@settings(max_examples=30, deadline=None)
@given(rows=st.integers(2, 6), period=st.integers(1, 9), c=st.integers(1, 3))
def test_unfolding_undoes_folding(rows, period, c):
    x = torch.randn(2, rows * period, c)
    grid = fold(x, period)
    assert grid.shape == (2, rows, period, c)
    assert torch.equal(unfold(grid, rows * period), x)


def test_a_length_that_is_no_multiple_keeps_its_phase_and_its_end():
    x = torch.arange(50.0)[None, :, None]
    grid = fold(x, 24)[0, :, :, 0]
    assert grid.shape == (3, 24)
    assert grid[2].tolist() == list(range(26, 50))  # the last row is the last period
    assert grid[0, :22].tolist() == list(range(2, 24))  # what is missing comes from a period later
    assert grid[0, 22:].tolist() == [0, 1]
    with pytest.raises(ValueError, match="length must be at least"):
        fold(x[:, :20], 24)
    with pytest.raises(ValueError, match="length must be from 1 to 48, got 49"):
        unfold(torch.zeros(1, 2, 24, 1), 49)


@pytest.mark.parametrize("long", LONG)
@pytest.mark.parametrize("short", [True, False])
def test_every_ablation_learns_in_all_its_parameters(long, short):
    if long == "none" and not short:
        with pytest.raises(ValueError, match="one branch has to be there"):
            TPGN(seq_len=72, pred_len=10, long=long, short=short)
        return
    torch.manual_seed(0)
    model = TPGN(seq_len=72, pred_len=30, c_in=2, d_model=4, norm=True, long=long, short=short)
    y = model(*inputs())
    assert y.shape == (3, 30, 2)
    y.square().sum().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


@pytest.mark.parametrize("long", ["pgn", "lstm", "mlp", "attn"])
def test_variables_are_not_mixed(long):
    torch.manual_seed(0)
    model = TPGN(seq_len=72, pred_len=30, c_in=3, d_model=4, long=long)
    x, marks = inputs(c_in=3)
    changed = x.clone()
    changed[:, :, 1] += 1
    before, after = model(x, marks), model(changed, marks)
    assert torch.equal(before[..., [0, 2]], after[..., [0, 2]])
    assert not torch.allclose(before[..., 1], after[..., 1])


def test_forms_of_the_long_branch_give_the_same_forecast():
    torch.manual_seed(0)
    model = TPGN(seq_len=120, pred_len=31, c_in=2, d_model=4).double()
    x, marks = (t.double() for t in inputs(length=120))
    for form in ("conv", "dense", "fft"):
        torch.testing.assert_close(model(x, marks, form=form), model(x, marks, form="loop"), rtol=1e-11, atol=1e-11)


def test_the_model_is_its_description_written_out():
    """Every column and row by itself, from section 3.2."""
    torch.manual_seed(0)
    P, R, d = 6, 4, 3
    model = TPGN(seq_len=P * R, pred_len=10, period=P, d_model=d, time_features=2).double()
    x, marks = torch.randn(1, P * R, 1, dtype=torch.float64), torch.randn(1, P * R, 2, dtype=torch.float64)
    cells = torch.cat((x, marks), -1)[0].view(R, P, 3)
    rows = [model.linear_row.weight[0] @ cells[r].flatten() + model.linear_row.bias[0] for r in range(R)]
    short = model.linear_col.weight[0] @ torch.cat(rows) + model.linear_col.bias[0]
    out = torch.empty(2, P, dtype=torch.float64)
    for p in range(P):
        column = model.long.pgn(cells[None, :, p])[0]
        long = model.linear_long.weight[0] @ column.flatten() + model.linear_long.bias[0]
        out[:, p] = model.head.weight[0] @ torch.cat((short, long)) + model.head.bias[0]
    torch.testing.assert_close(model(x, marks)[0, :, 0], out.flatten()[:10], rtol=1e-12, atol=1e-12)


@settings(max_examples=25, deadline=None)
@given(
    rows=st.integers(2, 8), period=st.integers(1, 12), d_model=st.integers(1, 6), pred_len=st.integers(1, 40),
    features=st.integers(0, 5), c_in=st.integers(1, 3), short=st.booleans(),
)  # fmt: skip
def test_the_parameter_formula_holds_for_all_sizes(rows, period, d_model, pred_len, features, c_in, short):
    sizes = {
        "seq_len": rows * period, "pred_len": pred_len, "period": period, "time_features": features, "c_in": c_in,
        "short": short,
    }  # fmt: skip
    assert count_parameters(TPGN(d_model=d_model, **sizes)) == parameter_count(d_model, **sizes)


def test_no_time_features_are_fine():
    model = TPGN(seq_len=24, pred_len=7, period=6, d_model=3, time_features=0)
    assert model(torch.randn(2, 24, 1), torch.empty(2, 24, 0)).shape == (2, 7, 1)


def test_a_saved_model_comes_back(tmp_path):
    torch.manual_seed(0)
    model = TPGN(seq_len=72, pred_len=30, c_in=2, d_model=4, norm=True)
    model.save_pretrained(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir() if path.suffix in (".json", ".safetensors")) == [
        "config.json", "model.safetensors",
    ]  # fmt: skip
    x, marks = inputs()
    assert torch.equal(TPGN.from_pretrained(tmp_path)(x, marks), model(x, marks))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seq_len": 47}, "seq_len must be at least two periods, 48, got 47"),
        ({"d_model": 0}, "d_model must be at least 1, got 0"),
        ({"time_features": -1}, "time_features must not be negative"),
    ],
)
def test_what_cannot_be_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        TPGN(**{"seq_len": 72, "pred_len": 10, **changes})


def test_a_window_of_another_length_is_refused():
    model = TPGN(seq_len=72, pred_len=10)
    with pytest.raises(ValueError, match="x must have 72 steps of 1 variables, got 71 of 1"):
        model(*inputs(length=71, c_in=1))


def test_rows_out_cover_the_horizon():
    for horizon in (1, 24, 25, 100):
        assert TPGN(seq_len=72, pred_len=horizon).rows_out == math.ceil(horizon / 24)
