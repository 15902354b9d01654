"""The columns' transform against scikit-learn's pieces and against the group form of the prior."""

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.preprocessing import PowerTransformer

from tabpfn_impl.preprocess import ColumnTransform, TableEncoder, yeo_johnson
from tabpfn_impl.tabular import squash_outliers


def numbers(rows=50, columns=3, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(rows, columns)) ** 3)


def test_without_power_it_standardises_and_squashes_as_the_prior_does():
    x = numbers()
    z = (x - x.mean(0)) / x.std(0)
    expected = squash_outliers(z[None])[0]
    torch.testing.assert_close(ColumnTransform.fit(x, power=False)(x), expected)


def test_only_training_rows_count():
    x = numbers()
    transform = ColumnTransform.fit(x[:30], power=True)
    torch.testing.assert_close(transform(x)[35:36], transform(x[35:36]))


def test_the_power_transform_is_scikit_learns():
    x = numbers()
    z = ((x - x.mean(0)) / x.std(0)).numpy()
    expected = PowerTransformer(standardize=False).fit(z)
    ours = yeo_johnson(torch.from_numpy(z), torch.from_numpy(expected.lambdas_))
    np.testing.assert_allclose(ours.numpy(), expected.transform(z), rtol=1e-10)


@settings(deadline=None, max_examples=40)
@given(lam=st.sampled_from([0.0, 2.0, 1.0, -1.5, 0.5, 3.0]), value=st.floats(-50, 50))
def test_yeo_johnson_at_its_special_parameters(lam, value):
    from scipy.stats import yeojohnson

    ours = float(yeo_johnson(torch.tensor([[value]], dtype=torch.float64), torch.tensor([lam], dtype=torch.float64)))
    assert ours == pytest.approx(float(yeojohnson(np.array([value]), lmbda=lam)[0]), rel=1e-9, abs=1e-12)


def test_columns_that_do_not_vary_are_dropped_and_rounding_is_no_variation():
    x = numbers()
    x = torch.cat([x, torch.full((50, 1), 7.0), torch.full((50, 1), torch.nan)], dim=1).double()
    x = torch.cat([x, 1e9 + 1e-7 * torch.randn(50, 1, dtype=torch.float64)], dim=1)
    assert ColumnTransform.fit(x, power=False).kept.tolist() == [0, 1, 2]


def test_a_table_without_variation_becomes_zeros():
    x = torch.ones(5, 2, dtype=torch.float64)
    assert ColumnTransform.fit(x, power=True)(x).tolist() == [[0.0]] * 5


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 10_000), scale=st.sampled_from([1e-300, 1e-9, 1.0, 1e12, 1e150]), power=st.booleans())
def test_whatever_the_scale_the_result_is_finite(seed, scale, power):
    rng = np.random.default_rng(seed)
    x = torch.from_numpy(rng.standard_cauchy((20, 2)) * scale)
    x[rng.uniform(size=(20, 2)) < 0.2] = torch.nan
    out = ColumnTransform.fit(x[:12], power=power)(x)
    assert torch.isfinite(out).all()


def test_columns_of_words_become_ranks():
    frame = pd.DataFrame({"a": ["x", "z", "y", None], "b": [1.5, 2.5, np.nan, 0.5], "c": [True, False, True, True]})
    encoder = TableEncoder().fit(frame)
    np.testing.assert_array_equal(
        encoder.transform(frame), [[0, 1.5, 1], [2, 2.5, 0], [1, np.nan, 1], [np.nan, 0.5, 1]]
    )
    assert not encoder.is_numeric
    new = pd.DataFrame({"a": ["w"], "b": [9.0], "c": [False]})
    np.testing.assert_array_equal(encoder.transform(new), [[np.nan, 9.0, 0]])


def test_arrays_of_objects_are_numbers_where_they_hold_numbers():
    X = np.array([[1, "a"], [2.5, "b"], [None, "a"]], dtype=object)
    np.testing.assert_array_equal(TableEncoder().fit(X).transform(X), [[1, 0], [2.5, 1], [np.nan, 0]])


@pytest.mark.parametrize("value", [1e4, 1e30, -1e30, 3e38, 1e300, -1.7e308])
@pytest.mark.parametrize("power", [False, True])
def test_an_extreme_cell_costs_no_more_than_itself(value, power):
    x = torch.from_numpy(np.random.default_rng(0).standard_normal((100, 2)))
    spoilt = x.clone()
    spoilt[3, 0] = value
    plain, made = ColumnTransform.fit(x, power=power)(x), ColumnTransform.fit(spoilt, power=power)(spoilt)
    others = torch.arange(100) != 3
    torch.testing.assert_close(made[others, 0], plain[others, 0], atol=0.3, rtol=0.1)
    torch.testing.assert_close(made[:, 1], plain[:, 1])
    assert torch.isfinite(made).all()
    assert made[3, 0].abs() < 20


def test_a_column_with_few_values_besides_zero_keeps_them():
    x = torch.zeros(100, 1, dtype=torch.float64)
    x[:3, 0] = torch.tensor([1.0, 2.0, 3.0])
    made = ColumnTransform.fit(x, power=False)(x)
    assert made[2, 0] > made[1, 0] > made[0, 0] > made[50, 0]


def test_dates_and_durations_are_numbers():
    frame = pd.DataFrame(
        {
            "day": pd.to_datetime(["1970-01-02", None, "1970-01-01 00:00:01"], format="ISO8601"),
            "zoned": pd.to_datetime(["1970-01-02", "1970-01-03", None], utc=True),
            "took": pd.to_timedelta(["1s", None, "2min"]),
        }
    )
    numbers = TableEncoder().fit(frame).transform(frame)
    np.testing.assert_array_equal(numbers, [[86400, 86400, 1], [np.nan, 172800, np.nan], [1, np.nan, 120]])
    array = np.array([["1970-01-01"], ["1970-01-03"]], dtype="datetime64[D]")
    np.testing.assert_array_equal(TableEncoder().fit(array).transform(array), [[0], [172800]])
