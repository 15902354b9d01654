import numpy as np
import pandas as pd
import pytest

from pgn_impl.data import synthetic_series
from pgn_impl.timeline import as_frame, default_period, detect_frequency, regular


def hours(n=48, freq="h"):
    index = pd.date_range("2020-01-01", periods=n, freq=freq)
    return pd.DataFrame({"a": np.arange(n, dtype=float), "b": np.arange(n) % 24.0}, index)


def test_series_of_every_kind_become_a_frame():
    frame = hours()
    assert as_frame(frame).equals(frame)
    assert list(as_frame(frame["a"]).columns) == ["a"]
    assert as_frame(frame["a"].to_numpy(), frame.index).shape == (48, 1)
    assert list(as_frame(frame.to_numpy().tolist(), frame.index.strftime("%Y-%m-%d %H:%M").tolist()).columns) == [
        "value 0", "value 1",
    ]  # fmt: skip
    assert len(as_frame(synthetic_series(30))) == 30
    months = pd.Series([1, 2, 3], pd.period_range("2020-01", periods=3, freq="M"))
    assert as_frame(months).index[1] == pd.Timestamp("2020-02-01")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: as_frame(np.zeros(5)), "timestamps must be given where the series has no DatetimeIndex"),
        (lambda: as_frame(np.zeros(5), ["2020-01-01"]), "timestamps must be as many as the series has rows, 5, got 1"),
        (lambda: as_frame(np.zeros((2, 2, 2))), "series must have one or two dimensions, got 3"),
        (lambda: as_frame(hours().iloc[:0]), "series must have rows and columns"),
        (lambda: as_frame(hours().assign(c="x")), "series must hold numbers only, got others in c"),
    ],
)
def test_what_is_no_series_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize(
    ("freq", "period"), [("h", 24), ("15min", 96), ("D", 7), ("W-SUN", 52), ("MS", 12), ("QS-JAN", 4), ("2h", 12)]
)
def test_the_frequency_is_found_and_has_its_usual_cycle(freq, period):
    index = pd.date_range("2020-01-01", periods=40, freq=freq)
    assert detect_frequency(index) == freq
    assert default_period(freq) == period


def test_the_frequency_is_found_beside_gaps():
    assert detect_frequency(hours().index.delete([3, 4, 20])) == "h"
    days = pd.DatetimeIndex(["2020-01-01", "2020-01-02", "2020-02-07", "2020-03-08", "2021-01-01"])
    with pytest.raises(ValueError, match="freq must be given: the most frequent step"):
        detect_frequency(days)
    with pytest.raises(ValueError, match="fewer than three"):
        detect_frequency(days[:2])


@pytest.mark.parametrize("freq", ["7h", "YS", "14D"])
def test_a_frequency_without_a_cycle_needs_a_period(freq):
    with pytest.raises(ValueError, match="period must be given for a series of frequency"):
        default_period(freq)


def test_a_regular_series_stays_as_it_is():
    frame, freq = regular(hours())
    assert freq == "h"
    assert frame.equals(hours())
    assert frame.index.freqstr == "h"


def test_clocks_that_change_are_regular_where_the_zone_is_known():
    index = pd.date_range("2020-03-28", periods=72, freq="h", tz="Europe/Berlin")
    frame, freq = regular(pd.DataFrame({"a": np.arange(72.0)}, index))
    assert (freq, len(frame)) == ("h", 72)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: f.drop(f.index[[3, 4, 9]]), r"3 of 48 steps \('h'\) missing, the first 2020-01-01 03:00"),
        (lambda f: f.set_axis(f.index[:-1].append(f.index[:1])), "timestamps must differ, got 1 .* 2020-01-01 00:00"),
        (lambda f: f.iloc[::-1], "timestamps must be in order"),
        (lambda f: f.mask(f == 7), "got 3 missing, the first of a at 2020-01-01 07:00"),
        (lambda f: f.replace(7, np.inf), "values must be finite, got 3 that are infinite"),
        (
            lambda f: f.set_axis(f.index.where(f.index.hour != 5, f.index + pd.Timedelta("10min"))),
            "2 of 48 that do not, the first 2020-01-01 05:10",
        ),
        (lambda f: f.set_axis(f.index[:-1].append(pd.DatetimeIndex([pd.NaT]))), "got 1 that are missing"),
    ],
)
def test_what_is_not_regular_is_refused_with_its_place(spoil, message):
    with pytest.raises(ValueError, match=message):
        regular(spoil(hours()))


def test_lines_fill_gaps_and_missing_values():
    full = hours()
    holes = full.drop(full.index[[3, 4, 9]]).mask(full == 30)
    frame, _ = regular(holes, fill="linear")
    assert frame["a"].tolist() == full["a"].tolist()
    frame, _ = regular(full.iloc[:40].reindex(full.index), freq="h", fill="linear")
    assert frame["a"].tolist() == [*range(40)] + [39] * 8  # the last value goes on


def test_values_before_and_of_a_period_before_fill_too():
    full = hours()
    holes = full.drop(full.index[[30, 31]])
    assert regular(holes, fill="previous")[0]["a"].iloc[29:33].tolist() == [29, 29, 29, 32]
    frame, _ = regular(holes, fill="seasonal")
    assert frame["a"].iloc[29:33].tolist() == [29, 6, 7, 32]
    assert frame["b"].tolist() == full["b"].tolist()
    early, _ = regular(full.assign(a=full["a"].replace(2, np.nan)), fill="seasonal")
    assert early["a"].iloc[:4].tolist() == [0, 1, 26, 3]  # none before: that of a period later


def test_stamps_off_the_grid_are_resampled():
    full = hours()
    shifted = full.set_axis(full.index.where(full.index.hour != 5, full.index + pd.Timedelta("30min")))
    shifted["a"] = (shifted.index - full.index[0]).total_seconds() / 3600  # a line in time
    assert np.allclose(regular(shifted, fill="linear")[0]["a"], full["a"])
    assert regular(shifted, fill="previous")[0]["a"].iloc[4:7].tolist() == [4, 4, 6]
    with pytest.raises(ValueError, match="fill='seasonal' needs stamps 'h' apart, got 2 that are not"):
        regular(shifted, fill="seasonal")


@pytest.mark.parametrize(
    ("spoil", "options", "message"),
    [
        (lambda f: f, {"fill": "cubic"}, "fill must be None or one of linear, previous, seasonal, got 'cubic'"),
        (lambda f: f, {"freq": "fortnight"}, "freq must be one that pandas knows, .* got 'fortnight'"),
        (lambda f: f.mask(f["a"] < 30), {"fill": "linear"}, "a must be known at half of the steps or more, got 18"),
        (lambda f: f.mask(f["a"] < 3), {"fill": "linear"}, "cut the series to begin at 2020-01-01 03:00"),
        (lambda f: f.mask(f["b"] == 5), {"fill": "seasonal"}, "needs every phase of the period of 24"),
    ],
)
def test_what_cannot_be_filled_is_refused(spoil, options, message):
    with pytest.raises(ValueError, match=message):
        regular(spoil(hours()), **options)
