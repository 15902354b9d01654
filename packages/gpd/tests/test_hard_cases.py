"""What was found wrong once, a test each."""

import numpy as np
import pandas as pd
import pytest

from gpd_impl import GPD, GPDForecaster, Recipe

WAVE = 5 + np.sin(2 * np.pi * np.arange(150) / 24)


def fitted(series):
    return GPDForecaster(weights="shipped", n_samples=20).fit(series)


def test_periods_are_stamps_of_their_beginnings():
    months = pd.period_range("2010-01", periods=150, freq="M")
    frame = fitted(pd.DataFrame({"a": WAVE}, months)).predict(3)
    assert list(frame.index) == list(pd.date_range("2022-07-01", periods=3, freq="MS"))


def test_names_that_come_twice_are_refused():
    twice = np.stack([WAVE, WAVE], 1)
    for columns in (["a", "a"], [1, "1"]):
        with pytest.raises(ValueError, match="names of their own"):
            fitted(pd.DataFrame(twice, columns=columns))
    model = fitted(pd.DataFrame(twice, columns=["a", "a_lower"]))
    assert list(model.predict(3).columns) == ["a", "a_lower"]
    with pytest.raises(ValueError, match="not be those of intervals, got a_lower"):
        model.predict(3, level=0.8)


def test_a_small_movement_far_from_zero_is_forecast_as_near_it():
    near, far = (fitted(pd.DataFrame({"a": WAVE + offset})).predict(24).to_numpy() - offset for offset in (0, 1e9))
    np.testing.assert_allclose(far, near, atol=0.02)


def test_training_that_diverges_is_refused():
    model = GPD(16, hidden=8, depth=2)
    with pytest.raises(ValueError, match="too large"):
        model.fit([WAVE], recipe=Recipe(steps=40, lr=1e30, min_lr=1e30, batch_size=8))
