import importlib.util
import warnings

import numpy as np
import pandas as pd
import pytest

from gpd_impl import (
    AR,
    BASELINES,
    GPDForecaster,
    SeasonalNaive,
    crps,
    crps_by_pairs,
    evaluation_windows,
    linear_interpolation,
    load_m4,
    load_series,
    made_corpus,
    read_table,
    scores,
    sinusoids,
    two_modes,
)
from gpd_impl.forecaster import _stretched
from gpd_impl.timeline import default_period, on_grid, stamps_after
from shared_impl.data import DataError


def hours(n: int = 150, columns: int = 1, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    t = np.arange(n)
    made = {f"s{c}": 10 + c + np.sin(2 * np.pi * t / 24 + c) + 0.1 * rng.standard_normal(n) for c in range(columns)}
    return pd.DataFrame(made, pd.date_range("2024-03-01", periods=n, freq="h"))


def shipped(**more) -> GPDForecaster:
    return GPDForecaster(weights="shipped", n_samples=6, sampling_steps=5, **more)


def fitted(series, **more) -> GPDForecaster:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return shipped(**more).fit(series)


def test_pandas_in_pandas_out_with_intervals(tmp_path):
    frame = hours(150, 2)
    model = fitted(frame)
    table = model.predict(12, level=0.8)
    assert list(table) == ["s0", "s0_lower", "s0_upper", "s1", "s1_lower", "s1_upper"]
    assert table.index[0] == frame.index[-1] + pd.Timedelta("1h")
    assert (table["s0_lower"] <= table["s0_upper"]).all()
    assert model.sample(4, 12).shape == (4, 12, 2)
    made = model.forecast(12)
    assert made.mean.equals(table[["s0", "s1"]])
    assert np.allclose(made.median, made.quantile(0.5))
    loaded = GPDForecaster.load(model.save(tmp_path / "saved"))
    assert np.allclose(loaded.predict(12, level=0.8), table)
    assert loaded.skill_ == model.skill_


def test_long_tables_and_a_series_does_not_depend_on_the_others():
    wide = hours(120, 3)
    long = wide.iloc[:, 1:].melt(ignore_index=False, var_name="unique_id", value_name="y").reset_index(names="ds")
    table = fitted(long).predict(6, level=0.5)
    assert list(table) == ["unique_id", "ds", "y", "y_lower", "y_upper"]
    assert len(table) == 12
    of_wide = fitted(wide).predict(6)
    for name in ("s1", "s2"):
        assert np.allclose(table[table["unique_id"] == name]["y"], of_wide[name], atol=1e-4)


def test_gaps_are_filled_with_and_without_stamps():
    frame = hours(150)
    frame.iloc[40:50] = np.nan
    model = fitted(frame)
    filled = model.impute(frame, level=0.8)
    known = frame["s0"].notna()
    assert (filled["s0"][known] == frame["s0"][known]).all()
    assert filled["s0_lower"][~known].lt(filled["s0_upper"][~known]).all()
    absent = frame.dropna()
    assert len(model.impute(absent)) == 150
    assert np.isfinite(fitted(absent.to_numpy()).predict(3).to_numpy()).all()


def test_training_on_ones_own_series_measures_itself():
    frame = hours(600)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        model = GPDForecaster(length=48, steps=40, hidden=16, depth=3, n_samples=4, sampling_steps=4).fit(frame)
    assert model.trained_
    assert np.isfinite(model.skill_)
    assert model.predict(100).shape == (100, 1)
    short = fitted(hours(60))
    assert not short.trained_
    with pytest.raises(ValueError, match="at least 241 steps to train"):
        GPDForecaster(weights="fit").fit(hours(60))


def test_skill_that_is_none_is_warned_of():
    walk = pd.Series(np.cumsum(np.random.default_rng(3).standard_normal(80)) * np.r_[np.ones(60), np.full(20, 9.0)])
    with pytest.warns(UserWarning, match="no better than the last period"):
        GPDForecaster(weights="shipped", n_samples=2, sampling_steps=1, period=1).fit(walk)


def test_short_series_are_stretched_to_the_window():
    frame = hours(40)
    one, other = (fitted(frame, stretch=stretch).predict(6) for stretch in (True, False))
    assert one.index.equals(other.index)
    assert np.abs(one - other).to_numpy().max() > 1e-3
    made = _stretched(np.array([0.0, 1, np.nan, 3]), 2)
    assert np.array_equal(made, [0, 0.5, 1, np.nan, np.nan, np.nan, 3], equal_nan=True)


def test_what_cannot_be_forecast_is_refused():
    frame = hours(100)
    model = fitted(frame)
    uneven = frame.set_axis(frame.index[:99].append(pd.DatetimeIndex(["2024-04-01 00:07"])))
    for series, message in (
        (uneven, "must lie evenly"),
        (frame * np.nan, "at least one number"),
        (frame * np.inf, "must be finite"),
        (frame.iloc[:0], "must have rows"),
        (frame.iloc[[0, 0, 1]], "must be there once"),
        (frame.iloc[:2], "at least 3 time stamps"),
        (np.ones((2, 2, 2)), "one or two dimensions"),
        (pd.Series([1.0, 2, 3], [0, 1, 5]), "numbered evenly"),
        (frame.astype(str) + "x", "must hold numbers"),
    ):
        with pytest.raises(ValueError, match=message):
            model.forecast(3, series)
    with pytest.raises(ValueError, match="horizon must be"):
        model.predict(0)
    with pytest.raises(ValueError, match="level must be"):
        model.predict(3, level=2.0)
    with pytest.raises(ValueError, match="q must be"):
        model.forecast(3).quantile(-1.0)
    with pytest.raises(RuntimeError, match="call fit first"):
        GPDForecaster().predict(3)
    with pytest.raises(ValueError, match="holds no saved forecaster"):
        GPDForecaster.load("nowhere")
    with pytest.raises(ValueError, match="s0: x must have no gap as long"):
        model.impute(pd.DataFrame({"s0": [1.0, *[np.nan] * 299]}, pd.date_range("2024", periods=300, freq="h")))


def test_stamps_and_periods():
    months = pd.DataFrame({"y": range(30)}, pd.date_range("2020-01-31", periods=30, freq="ME"))
    grid, frequency = on_grid(months.drop(months.index[7]))
    assert len(grid) == 30
    assert grid["y"].isna().sum() == 1
    assert list(stamps_after(grid.index, frequency, 2)) == [pd.Timestamp("2022-07-31"), pd.Timestamp("2022-08-31")]
    assert [default_period(f) for f in ("h", "15min", "D", "MS", "QS", "W")] == [24, 96, 7, 12, 4, 52]
    assert default_period(None, np.sin(2 * np.pi * np.arange(90) / 15)) == 15
    assert list(stamps_after(pd.Index([4, 6, 8]), None, 2)) == [10, 12]


# Baselines, scores, data ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", BASELINES)
def test_every_baseline_forecasts_its_shape(name):
    if name == "ETS" and importlib.util.find_spec("statsmodels") is None:
        pytest.skip("statsmodels is not installed")
    series = load_series("made")
    model = BASELINES[name]()
    if hasattr(model, "steps"):
        model.steps = 3
    model.fit(series, 48, 12)
    x, y = evaluation_windows(series, "test", 48, 12, 400)
    drawn = model.forecast(x, 12, n_samples=3)
    assert drawn.shape == (len(x), drawn.shape[1], 12, 1)
    assert set(scores(drawn.transpose(1, 0, 2, 3), y)) == {"mse", "mae", "crps", "coverage"}


def test_simple_baselines_are_right_where_they_must_be():
    x = np.tile(np.arange(6.0), 4)[None, :, None]
    assert SeasonalNaive(6).forecast(x, 9)[0, 0, :, 0].tolist() == [0, 1, 2, 3, 4, 5, 0, 1, 2]
    rng = np.random.default_rng(0)
    values = np.zeros(4000)
    for t in range(1, 4000):
        values[t] = 0.8 * values[t - 1] + rng.standard_normal()
    from gpd_impl import Series

    model = AR(1, 1e-9)
    model.fit(Series(values[:, None].astype(np.float32), (3000, 3500, 4000), 1), 4, 3)
    assert model.weights[0][0] == pytest.approx(0.8, abs=0.03)
    assert model.spread[0] == pytest.approx(1.0, abs=0.05)
    gaps = np.array([[np.nan], [1.0], [np.nan], [3.0]])
    assert linear_interpolation(gaps)[:, 0].tolist() == [1, 1, 2, 3]


def test_crps_by_a_sort_is_that_by_pairs_and_that_of_a_normal():
    rng = np.random.default_rng(0)
    samples, truth = rng.standard_normal((30, 4, 5)), rng.standard_normal((4, 5))
    assert crps(samples, truth) == pytest.approx(crps_by_pairs(samples, truth), abs=1e-12)
    assert crps(samples[:1], truth) == pytest.approx(np.abs(samples[0] - truth).mean())
    many = rng.standard_normal((20_000, 1))
    assert crps(many, np.zeros(1)) == pytest.approx((np.sqrt(2) - 1) / np.sqrt(np.pi), abs=0.01)


def test_windows_of_a_part_begin_in_the_part_before_and_none_is_dropped():
    series = load_series("made")
    x, y = evaluation_windows(series, "test", 20, 5)
    assert len(x) == 6000 - series.ends[1] - 5 + 1
    assert np.array_equal(y[0], series.values[series.ends[1] : series.ends[1] + 5])
    assert np.array_equal(x[0], series.values[series.ends[1] - 20 : series.ends[1]])
    assert np.array_equal(y[-1], series.values[-5:])
    assert np.abs(series.part("train").mean(0)).max() < 1e-4
    coarse = load_series("made@4")
    assert (len(coarse.values), coarse.period) == (1500, 6)
    with pytest.raises(ValueError, match="must have history"):
        evaluation_windows(series, "test", 20, 5000)


def test_made_series_are_what_they_say():
    assert np.array_equal(sinusoids(3, 50, seed=2), sinusoids(3, 50, seed=2))
    corpus = made_corpus(50, 96)
    assert corpus.shape == (50, 96)
    assert np.isfinite(corpus).all()
    late = two_modes(300)[:, 32:].mean(1)
    assert ((late > 1).mean() + (late < -1).mean()) == pytest.approx(1, abs=0.01)


def test_the_benchmark_files_are_read_from_a_folder(tmp_path):
    stamps = pd.date_range("2020", periods=60, freq="h")
    frame = pd.DataFrame({"date": stamps, "0": np.arange(60.0), "OT": np.arange(60.0) ** 2})
    frame.to_csv(tmp_path / "electricity.csv", index=False)
    series = load_series("electricity", tmp_path)
    assert series.ends == (42, 48, 60)
    assert series.values.shape == (60, 2)
    (tmp_path / "weather.csv").write_text("date,a\n2020,x\n")
    for name, error, message in (
        ("weather", DataError, "no table"), ("traffic", DataError, "is missing"), ("x", ValueError, "must be one of"),
        ("ETTh1@1", ValueError, "must end in @"),
    ):  # fmt: skip
        with pytest.raises(error, match=message):
            load_series(name, tmp_path)
    with pytest.raises(ValueError, match="read from a folder"):
        load_series("ili")
    for part, columns in (("train", 5), ("test", 3)):
        table = pd.DataFrame(np.arange(2.0 * columns).reshape(2, -1), ["H1", "H2"])
        table.iloc[1, -1] = np.nan
        table.to_csv(tmp_path / f"Hourly-{part}.csv", index_label="V1")
    past, future = load_m4(tmp_path)
    assert [len(p) for p in past + future] == [5, 4, 3, 2]
    with pytest.raises(DataError, match="is missing"):
        load_m4(tmp_path, "Daily")


@pytest.mark.data
def test_etts_parts_are_the_usual_months():
    series = load_series("ETTh1")
    assert series.ends == (8640, 11520, 14400)
    assert len(evaluation_windows(series, "test", 96, 96)[0]) == 2785


def test_tables_of_ones_own(tmp_path):
    file = tmp_path / "a.csv"
    file.write_text("when;x;y\n2020-01-01;1;2\n2020-01-02;;3\n")
    table = read_table(file)
    assert isinstance(table.index, pd.DatetimeIndex)
    assert table["x"].isna().sum() == 1
    file.write_text(",x\n0,1.5\n1,2.5\n")
    assert list(read_table(file)) == ["x"]
    file.write_text("x\n1\n2\n")
    assert read_table(file).shape == (2, 1)
    for text, message in (
        ("", "cannot be read as CSV"), ("a,b\n", "must have rows"), ("date,a\n2020-01-01,x\n", "holds text"),
        ("date\n2020-01-01\n", "no column of numbers"), ("date,a\nsoon,1\n", "must hold dates"),
    ):  # fmt: skip
        file.write_text(text)
        with pytest.raises(ValueError, match=message):
            read_table(file)
    file.write_bytes(b"\xff\xfe\x00a")
    with pytest.raises(ValueError, match="not UTF-8"):
        read_table(file)
    with pytest.raises(ValueError, match="cannot be read: No such file"):
        read_table(tmp_path / "none.csv")
