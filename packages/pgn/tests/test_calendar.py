import numpy as np
import pandas as pd
import pytest

from pgn_impl.calendar import feature_names, time_features


@pytest.mark.parametrize(
    ("freq", "n"),
    [("s", 6), ("min", 5), ("15min", 5), ("h", 4), ("3h", 4), ("D", 3), ("B", 3), ("W", 2), ("MS", 1), ("YS", 0)],
)
def test_each_frequency_has_its_features_within_half(freq, n):
    index = pd.date_range("2019-12-28", periods=200, freq=freq)
    found = time_features(index, freq)
    assert found.shape == (200, n) == (200, len(feature_names(freq)))
    assert (np.abs(found) <= 0.5).all()


def test_features_are_the_local_clock_s():
    utc = pd.date_range("2020-03-28 20:00", periods=12, freq="h", tz="UTC")
    local = utc.tz_convert("Europe/Berlin")
    hours = (time_features(local, "h")[:, 0] + 0.5) * 23
    # the clock jumps from 1 to 3 in the night of the 29th
    assert np.round(hours).astype(int).tolist() == [21, 22, 23, 0, 1, 3, 4, 5, 6, 7, 8, 9]


@pytest.mark.parametrize("freq", ["fortnight", "2 moons", "ns"])
def test_an_unknown_frequency_is_named(freq):
    with pytest.raises(ValueError, match=f"freq must be .*{freq}"):
        feature_names(freq)
