import numpy as np
import pytest
import torch
from torch import nn

from pgn_impl.baselines import LastValue, NLinear
from pgn_impl.data import synthetic_series
from pgn_impl.training import Recipe, errors, predict, train
from pgn_impl.windows import ForecastData


@pytest.fixture(scope="module")
def data():
    series = synthetic_series(700)
    return ForecastData.from_series(series.values, series.index, freq="h", seq_len=48, pred_len=12)


class Zero(nn.Module):
    def forward(self, x, marks, future_marks=None):
        return torch.zeros(x.shape[0], 12, x.shape[2])


def test_errors_are_means_over_windows_steps_and_variables(data):
    windows = data.windows("test")
    found = errors(Zero(), windows)
    assert found["mse"] == pytest.approx(windows.y.square().mean().item(), rel=1e-5)
    assert found["mae"] == pytest.approx(windows.y.abs().mean().item(), rel=1e-5)
    full = errors(Zero(), windows, drop_last=32)
    kept = windows.n // 32 * 32
    assert kept < windows.n
    assert full["mse"] == pytest.approx(windows.y[:kept].square().mean().item(), rel=1e-5)
    with pytest.raises(ValueError, match="windows must fill at least one batch of 1000"):
        errors(Zero(), windows, drop_last=1000)


def test_predictions_come_in_order_whatever_the_batch(data):
    windows = data.windows("test")
    model = LastValue(pred_len=12)
    assert torch.equal(predict(model, windows, batch_size=7), model(windows.x))


def test_training_ends_with_the_weights_best_on_validation_and_repeats_by_seed(data):
    def run():
        torch.manual_seed(0)
        model = NLinear(seq_len=48, pred_len=12)
        result = train(model, data.windows("train"), data.windows("valid"), Recipe(epochs=4), seed=1)
        return model, result

    model, result = run()
    mses = [row["mse"] for row in result.history]
    assert errors(model, data.windows("valid"))["mse"] == pytest.approx(min(mses), rel=1e-6)
    assert min(mses) < mses[0] or len(mses) == 1
    again, _ = run()
    assert torch.equal(model.linear.weight, again.linear.weight)


def test_the_learning_rate_is_full_for_two_epochs_and_then_falls(data):
    torch.manual_seed(0)
    model = NLinear(seq_len=48, pred_len=12)
    recipe = Recipe(epochs=5, patience=5, decay=0.5)
    result = train(model, data.windows("train"), data.windows("valid"), recipe)
    rates = [row["lr"] for row in result.history]
    np.testing.assert_allclose(rates, [1e-3, 1e-3, 5e-4, 2.5e-4, 1.25e-4])


def test_steps_can_be_limited(data):
    model = NLinear(seq_len=48, pred_len=12)
    result = train(model, data.windows("train"), data.windows("valid"), Recipe(max_steps=3))
    assert result.steps == 3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epochs": 0}, "epochs must be at least 1, got 0"),
        ({"lr": 0.0}, "lr must be positive"),
        ({"decay": 1.5}, "decay must be above 0 and at most 1, got 1.5"),
    ],
)
def test_recipes_that_cannot_be_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Recipe(**settings)


def test_a_batch_larger_than_the_training_set_is_refused(data):
    with pytest.raises(ValueError, match="batch_size must be at most the"):
        train(NLinear(seq_len=48, pred_len=12), data.windows("train"), data.windows("valid"), Recipe(batch_size=9999))
