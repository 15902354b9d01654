import json

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone

from pgn_impl import TPGNForecaster
from pgn_impl.data import synthetic_series
from pgn_impl.forecaster import shortest_series
from pgn_impl.models import MODELS


def frame(n=900, c=1, freq="h", tz=None, seed=0):
    generator = np.random.default_rng(seed)
    index = pd.date_range("2021-03-01", periods=n, freq=freq, tz=tz)
    t = np.arange(n)[:, None]
    values = 10 * (1 + np.arange(c)) + np.sin(2 * np.pi * t / 24) + 0.1 * generator.normal(size=(n, c))
    return pd.DataFrame(values, index, [f"v{i}" for i in range(c)])


def quick(horizon=30, **changes):
    return TPGNForecaster(horizon, **{"window": 72, "epochs": 3, "d_model": 4, **changes})


@pytest.fixture(scope="module")
def fitted():
    return quick(epochs=12, lr=0.01).fit(frame(1500))


def test_a_forecast_goes_on_where_the_series_ends(fitted):
    forecast = fitted.predict()
    series = frame(1500)
    assert forecast.index[0] == series.index[-1] + pd.Timedelta("1h")
    assert forecast.shape == (30, 1)
    assert list(forecast.columns) == ["v0"]
    truth = 10 + np.sin(2 * np.pi * np.arange(1500, 1530) / 24)
    assert np.abs(forecast["v0"] - truth).mean() < 0.25  # the amplitude is 1
    assert (fitted.frequency_, fitted.period_, fitted.window_) == ("h", 24, 72)


def test_later_steps_can_be_given_in_any_form(fitted):
    later = frame(1700).iloc[1000:]
    expected = fitted.predict(later)
    assert expected.index[0] == later.index[-1] + pd.Timedelta("1h")
    assert fitted.predict(later["v0"]).equals(expected)
    assert fitted.predict(later["v0"].to_numpy(), later.index).equals(expected)
    assert fitted.predict(later.iloc[-72:]).equals(expected)  # only the window counts


def test_a_saved_forecaster_forecasts_the_same(fitted, tmp_path):
    folder = fitted.save(tmp_path / "model")
    assert sorted(p.name for p in folder.iterdir()) == ["forecaster.json", "model.safetensors", "state.safetensors"]
    again = TPGNForecaster.load(folder)
    assert again.predict(level=0.8).equals(fitted.predict(level=0.8))
    assert again.get_params() == fitted.get_params()
    content = json.loads((folder / "forecaster.json").read_text())
    (folder / "forecaster.json").write_text(json.dumps(content | {"format": 99}))
    with pytest.raises(ValueError, match="format 99 is not 1"):
        TPGNForecaster.load(folder)
    (folder / "state.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"holds no saved forecaster: state.safetensors is missing"):
        TPGNForecaster.load(folder)


@pytest.mark.parametrize("model", MODELS)
def test_every_model_has_the_same_interface_and_is_saved(model, tmp_path):
    forecaster = quick(horizon=31, model=model, epochs=1).fit(frame(500, c=2, tz="Europe/Berlin"))
    forecast = forecaster.predict(level=0.7)
    assert forecast.shape == (31, 6)
    assert str(forecast.index.tz) == "Europe/Berlin"
    assert np.isfinite(forecast.to_numpy()).all()
    assert TPGNForecaster.load(forecaster.save(tmp_path)).predict(level=0.7).equals(forecast)


def test_intervals_are_ordered_and_grow_with_the_level(fitted):
    low, high = fitted.predict(level=0.5), fitted.predict(level=0.95)
    for forecast in (low, high):
        assert (forecast["v0_lower"] <= forecast["v0"]).all()
        assert (forecast["v0"] <= forecast["v0_upper"]).all()
    assert (high["v0_upper"] >= low["v0_upper"]).all()


@pytest.mark.parametrize("level", [0.5, 0.9])
def test_intervals_cover_a_part_that_nothing_has_seen_as_often_as_promised(level):
    """On a series that does not change its ways; a window a day, so that errors are nearly independent."""
    series = frame(4000)
    forecaster = quick(horizon=24, epochs=6, lr=0.01).fit(series.iloc[:2500])
    covered = []
    for end in range(2572, 3976, 24):
        forecast = forecaster.predict(series.iloc[end - 72 : end], level=level)
        truth = series["v0"].iloc[end : end + 24]
        covered.append(((forecast["v0_lower"] <= truth) & (truth <= forecast["v0_upper"])).mean())
    # 59 windows of 24 steps with independent noise: the standard error is below 0.015
    assert abs(np.mean(covered) - level) < 0.06


@pytest.mark.parametrize(("freq", "n", "period"), [("15min", 2600, 96), ("D", 200, 7), ("MS", 400, 12), ("YS", 60, 4)])
def test_any_frequency_and_horizon(freq, n, period):
    forecaster = TPGNForecaster(
        5, window=2 * period, period=4 if freq == "YS" else None, epochs=1, valid=0.2, calibration=0.2
    )
    generator = np.random.default_rng(0)
    start = "1700-01-01" if freq == "YS" else "1980-01-01"
    series = pd.Series(generator.normal(size=n), pd.date_range(start, periods=n, freq=freq))
    forecast = forecaster.fit(series).predict(level=0.6)
    assert forecaster.period_ == period
    assert len(forecast) == 5
    assert forecast.index[0] == pd.date_range(series.index[-1], periods=2, freq=freq)[1]


def test_scaling_and_training_know_nothing_of_the_later_parts():
    series = frame(1000)
    spoiled = series.copy()
    spoiled.iloc[-150:] += 1e3  # the calibration part
    one, other = quick(epochs=1).fit(series), quick(epochs=1).fit(spoiled)
    assert np.array_equal(one.mean_, other.mean_)
    assert np.array_equal(one.scale_, other.scale_)
    assert one.history_ == other.history_
    assert one.predict(series).equals(other.predict(series))


def test_the_same_seed_gives_the_same_forecast_and_another_another():
    one = quick(epochs=1).fit(frame(700)).predict()
    assert quick(epochs=1).fit(frame(700)).predict().equals(one)
    assert not quick(epochs=1, random_state=1).fit(frame(700)).predict().equals(one)


def test_holes_are_refused_or_filled_on_request():
    holes = frame(900).drop(frame(900).index[[100, 101, 890]])
    with pytest.raises(ValueError, match="timestamps must have no gaps, got 3 of 900"):
        quick().fit(holes)
    for fill in ("linear", "previous", "seasonal"):
        forecast = quick(epochs=1, fill=fill).fit(holes).predict()
        assert forecast.index[0] == frame(901).index[-1]
    with pytest.raises(ValueError, match="timestamps must differ"):
        quick(fill="linear").fit(pd.concat([frame(900), frame(900).iloc[-1:]]).sort_index())


def test_a_constant_series_is_refused_and_a_constant_variable_is_not():
    with pytest.raises(ValueError, match=r"series must not be constant, got \[7.0\] at all of the 630 steps"):
        quick().fit(frame(900) * 0 + 7)
    forecast = quick(epochs=1).fit(frame(900).assign(same=7.0)).predict()
    assert np.allclose(forecast["same"], 7, atol=0.1)


def test_the_shortest_series_is_long_enough_and_one_step_less_is_not():
    least = shortest_series(72, 30, 0.15, 0.15)
    assert quick(epochs=1).fit(frame(least)).predict().shape == (30, 1)
    with pytest.raises(
        ValueError, match=f"series must have at least {least} steps for a window of 72, a horizon of 30"
    ):
        quick().fit(frame(least - 1))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "arima"}, "model must be one of last, seasonal, tpgn"),
        ({"horizon": 0}, "horizon must be at least 1, got 0"),
        ({"period": 50}, "seq_len must be at least two periods, 100, got 72"),
        ({"model": "segrnn", "period": 50}, "segment must divide seq_len 72, got 50"),
        ({"model": "seasonal", "period": 90}, "x must have at least a period of 90 steps, got 72"),
        ({"valid": 0.0}, "valid must be between 0 and 1"),
        ({"calibration": 0.9}, "calibration must be from 0 to below 1 - valid, got 0.9"),
        ({"options": {"depth": 3}}, r"options must be those of tpgn, got \['depth'\]"),
        ({"freq": "3 moons"}, "freq must be one that pandas knows"),
    ],
)
def test_settings_that_cannot_be_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        quick(**changes).fit(frame())


def test_a_period_that_does_not_divide_the_window_is_fine():
    assert quick(window=70, period=24, epochs=1).fit(frame()).predict().shape == (30, 1)


def test_what_cannot_be_forecast_from_is_refused(fitted):
    with pytest.raises(RuntimeError, match="call fit before predict"):
        quick().predict()
    with pytest.raises(RuntimeError, match="call fit before save"):
        quick().save("nowhere")
    with pytest.raises(ValueError, match="series must have at least the window's 72 steps, got 50"):
        fitted.predict(frame(50))
    with pytest.raises(ValueError, match="series must have the columns v0; v0 missing"):
        fitted.predict(frame(100, c=2).rename(columns={"v0": "x"}))
    with pytest.raises(ValueError, match="timestamps must lie 'h' apart"):
        fitted.predict(frame(100, freq="D").set_axis(pd.date_range("2020-01-01", periods=100, freq="37min")))
    with pytest.raises(ValueError, match=r"level must be at most n / \(n \+ 1\)"):
        fitted.predict(level=0.99999)
    with pytest.raises(ValueError, match="level needs a forecaster that was fitted with calibration above 0"):
        quick(calibration=0.0, epochs=1).fit(frame()).predict(level=0.5)


def test_it_is_a_scikit_learn_estimator():
    forecaster = quick(options={"long": "gru"})
    copy = clone(forecaster)
    assert copy.get_params() == forecaster.get_params()
    assert copy.set_params(horizon=7).horizon == 7
    assert "horizon=30" in repr(forecaster)


def test_the_generated_series_can_be_fitted_as_it_is():
    assert quick(epochs=1).fit(synthetic_series(600)).predict().columns.tolist() == ["load"]
