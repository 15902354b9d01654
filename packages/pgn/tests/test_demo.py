import numpy as np
import pandas as pd
import pytest

from pgn_impl.demo import plot_forecasts


def test_forecasts_are_drawn_with_a_band_and_in_any_time_zone(tmp_path):
    recent = pd.Series(np.arange(48.0), pd.date_range("2020-03-27", periods=48, freq="h", tz="Europe/Berlin"), name="x")
    index = pd.date_range(recent.index[-1], periods=25, freq="h")[1:]
    values = np.arange(24.0)
    path = plot_forecasts(tmp_path / "a" / "p.png", recent, {"f": values}, index=index, band=(values - 1, values + 1))
    assert path.stat().st_size > 1000
    assert plot_forecasts(path, recent, {"f": values}, truth=pd.Series(values, index)).stat().st_size > 1000
    with pytest.raises(ValueError, match="index must be given"):
        plot_forecasts(path, recent, {"f": values})
