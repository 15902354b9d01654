import numpy as np
import pandas as pd
import pytest

from pgn_impl.data import load, load_ett, read_csv, synthetic_series


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "load.csv"
    path.write_text("date,a,b,name\n2020-01-01 00:00,1,2,x\n2020-01-01 01:00,,3,y\n", encoding="utf-8")
    return path


def test_numbers_and_stamps_are_read_from_a_csv(table):
    series = read_csv(table)
    assert series.columns == ("a", "b")
    assert np.isnan(series.values[1, 0])
    assert series.index[1] == pd.Timestamp("2020-01-01 01:00")
    assert read_csv(table, target="b").values.tolist() == [[2.0], [3.0]]
    assert series.frame().shape == (2, 2)
    assert len(load(str(table), target=None)) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": "c"}, "target must be one of a, b, name, got 'c'"),
        ({"target": "name"}, "must hold numbers"),
        ({"time_column": "when"}, "time_column must be one of date, a, b, name, got 'when'"),
        ({"time_column": "b"}, "must hold time stamps, got numbers"),
        ({"time_column": "name"}, "must hold time stamps"),
    ],
)
def test_columns_that_are_not_there_or_not_of_their_kind_are_named(table, options, message):
    with pytest.raises(ValueError, match=message):
        read_csv(table, **options)


def test_files_without_content_are_refused(tmp_path):
    (tmp_path / "head.csv").write_text("date,a\n")
    with pytest.raises(ValueError, match="has no rows"):
        read_csv(tmp_path / "head.csv")
    (tmp_path / "text.csv").write_text("date,a\n2020-01-01,x\n")
    with pytest.raises(ValueError, match="has no column of numbers"):
        read_csv(tmp_path / "text.csv")


def test_names_lead_to_files(tmp_path):
    with pytest.raises(ValueError, match="data must be ETTh1"):
        load("nowhere.csv")
    with pytest.raises(ValueError, match=r"ECL is read from electricity\.csv in data_dir"):
        load("ECL", data_dir=tmp_path)
    (tmp_path / "electricity.csv").write_text("date,OT\n2020-01-01,1\n2020-01-02,2\n")
    assert len(load("ECL", data_dir=tmp_path)) == 2


def test_the_generated_series_is_the_same_for_a_seed_and_has_a_day_in_it():
    one = synthetic_series(2000, seed=3)
    assert np.array_equal(one.values, synthetic_series(2000, seed=3).values)
    assert not np.array_equal(one.values, synthetic_series(2000, seed=4).values)
    assert one.index.freqstr == "h"
    spectrum = np.abs(np.fft.rfft(one.values[:1992, 0] - one.values[:1992, 0].mean()))
    spectrum[:5] = 0  # drift and level shifts
    assert spectrum.argmax() == 1992 // 24
    with pytest.raises(ValueError, match="hours must be at least 1"):
        synthetic_series(0)


@pytest.mark.data("ett_small")
def test_ett_has_its_rows_and_target():
    series = load_ett("ETTh2")
    assert series.values.shape == (17_420, 1)
    assert series.columns == ("OT",)
    assert load_ett("ETTh1", target=None).values.shape == (17_420, 7)
    assert str(series.index[0]) == "2016-07-01 00:00:00"
