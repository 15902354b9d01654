import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pgn_impl.windows import ForecastData, sliding_windows, split_borders


def series(length, c=1):
    """Values that tell their own time, from 0."""
    values = np.arange(length, dtype=float)[:, None] + 1000.0 * np.arange(c)
    return values, pd.date_range("2020-01-01", periods=length, freq="h")


@settings(max_examples=40, deadline=None)
@given(length=st.integers(2, 60), seq_len=st.integers(1, 30), pred_len=st.integers(1, 30))
def test_windows_are_every_stretch_once(length, seq_len, pred_len):
    values = torch.arange(length)[:, None].float()
    if length < seq_len + pred_len:
        with pytest.raises(ValueError, match="values must have at least"):
            sliding_windows(values, -values, seq_len, pred_len)
        return
    found = sliding_windows(values, -values, seq_len, pred_len)
    assert found.n == length - seq_len - pred_len + 1
    for i in (0, found.n - 1):
        assert found.x[i, :, 0].tolist() == list(range(i, i + seq_len))
        assert found.y[i, :, 0].tolist() == list(range(i + seq_len, i + seq_len + pred_len))
        assert torch.equal(found.marks[i], -found.x[i])
        assert torch.equal(found.future_marks[i], -found.y[i])


def test_windows_copy_nothing():
    values = torch.zeros(1000, 2)
    found = sliding_windows(values, values, 100, 50)
    assert found.x.untyped_storage().data_ptr() == values.untyped_storage().data_ptr()


def test_what_is_forecast_in_a_part_lies_in_it_and_in_no_other():
    values, index = series(500)
    data = ForecastData.from_series(values, index, freq="h", seq_len=48, pred_len=24)
    assert data.borders == (300, 400) == split_borders(500)
    back = lambda y: (y * float(data.scale[0]) + float(data.mean[0])).round()  # noqa: E731
    assert torch.equal(back(data.values[:, 0]), torch.arange(500.0))  # values are their own times
    for part, (start, stop) in {"train": (48, 300), "valid": (300, 400), "test": (400, 500)}.items():
        y = back(data.windows(part).y)
        assert (y.min(), y.max()) == (start, stop - 1)


def test_scaling_knows_the_training_part_only():
    values, index = series(500, 2)
    data = ForecastData.from_series(values, index, freq="h", seq_len=48, pred_len=24)
    values[300:] = 1e9
    again = ForecastData.from_series(values, index, freq="h", seq_len=48, pred_len=24)
    assert np.array_equal(data.mean, again.mean)
    assert np.array_equal(data.scale, again.scale)
    assert torch.equal(data.windows("train").y, again.windows("train").y)
    known = data.values[:300]
    assert torch.allclose(known.mean(0), torch.zeros(2), atol=1e-5)
    assert torch.allclose(known.std(0, unbiased=False), torch.ones(2), atol=1e-5)


def test_the_paper_s_split_of_ett_has_its_sizes():
    # 60/20/20 of 17,420 hours, 168 in and 168 out
    values, index = series(17_420)
    data = ForecastData.from_series(values, index, freq="h", seq_len=168, pred_len=168)
    assert [data.windows(part).n for part in ("train", "valid", "test")] == [10_117, 3_317, 3_317]


def test_what_cannot_be_split_is_refused():
    values, index = series(100)
    with pytest.raises(ValueError, match="valid has 20 steps to forecast, fewer than pred_len 24"):
        ForecastData.from_series(values, index, freq="h", seq_len=24, pred_len=24)
    values[7] = np.nan
    with pytest.raises(ValueError, match="values must be finite, got 1 that are not"):
        ForecastData.from_series(values, index, freq="h", seq_len=24, pred_len=10)
    with pytest.raises(ValueError, match="train and test must be positive"):
        split_borders(100, 0.9, 0.1)


def test_a_constant_is_only_centred():
    _, index = series(100)
    data = ForecastData.from_series(np.full((100, 1), 7.0), index, freq="h", seq_len=24, pred_len=10)
    assert torch.equal(data.values, torch.zeros(100, 1))
