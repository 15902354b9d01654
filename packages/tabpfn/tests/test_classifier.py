"""`TabPFNClassifier` as an estimator of scikit-learn, and what it does with difficult tables."""

import pickle
import warnings
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.datasets import load_iris, make_classification
from sklearn.exceptions import NotFittedError
from sklearn.utils.estimator_checks import parametrize_with_checks

from tabpfn_impl.checkpoints import Checkpoint, CheckpointError
from tabpfn_impl.classifier import TabPFNClassifier
from tabpfn_impl.ensemble import class_codes
from tabpfn_impl.transformer import PFNTransformer


@parametrize_with_checks([TabPFNClassifier(n_estimators=2)])
def test_the_checks_of_scikit_learn(estimator, check):
    check(estimator)


def table(rows=60, columns=4, classes=2, seed=0):
    return make_classification(
        rows, columns, n_informative=3, n_redundant=0, n_classes=classes, n_clusters_per_class=1, random_state=seed
    )


def test_strings_are_labels():
    X, y = table()
    names = np.array(["no", "yes"])[y]
    model = TabPFNClassifier(2).fit(X[:40], names[:40])
    assert model.classes_.tolist() == ["no", "yes"]
    assert set(model.predict(X[40:])) <= {"no", "yes"}
    np.testing.assert_allclose(
        model.predict_proba(X[40:]), TabPFNClassifier(2).fit(X[:40], y[:40]).predict_proba(X[40:])
    )


def test_frames_with_categories_strings_and_missing_values_are_read():
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "number": rng.normal(size=80),
            "text": rng.choice(["a", "b", "c"], 80),
            "category": pd.Categorical(rng.choice(["low", "high"], 80)),
            "truth": rng.uniform(size=80) < 0.5,
            "integer": pd.array(rng.integers(0, 5, 80), dtype="Int64"),
        }
    )
    y = (frame["text"] == "a").astype(int).to_numpy()
    frame.loc[3, "number"] = np.nan
    frame.loc[4, "text"] = None
    frame.loc[5, "integer"] = pd.NA
    model = TabPFNClassifier(4).fit(frame[:60], y[:60])
    assert model.n_features_in_ == 5
    assert model.feature_names_in_.tolist() == list(frame.columns)
    p = model.predict_proba(frame[60:])
    assert np.isfinite(p).all()
    new = frame[60:].copy()
    new["text"] = "never seen"
    assert np.isfinite(model.predict_proba(new)).all()


def test_columns_of_numbers_can_be_called_categories():
    X, y = table()
    X[:, 1] = np.round(X[:, 1])
    by_name = TabPFNClassifier(2, categorical_features=["b"]).fit(pd.DataFrame(X, columns=list("abcd")), y)
    by_place = TabPFNClassifier(2, categorical_features=[1]).fit(X, y)
    np.testing.assert_allclose(by_name.predict_proba(pd.DataFrame(X, columns=list("abcd"))), by_place.predict_proba(X))
    with pytest.raises(ValueError, match="'z'"):
        TabPFNClassifier(2, categorical_features=["z"]).fit(pd.DataFrame(X, columns=list("abcd")), y)
    with pytest.raises(ValueError, match="below 4"):
        TabPFNClassifier(2, categorical_features=[7]).fit(X, y)


def test_missing_values_count_as_the_mean():
    X, y = table()
    with_gap = X.copy()
    with_gap[50, 2] = np.nan
    filled = X.copy()
    filled[50, 2] = X[:40, 2].mean()
    model = TabPFNClassifier(1).fit(X[:40], y[:40])
    np.testing.assert_allclose(model.predict_proba(with_gap[50:51]), model.predict_proba(filled[50:51]), atol=1e-5)


def test_constant_and_empty_columns_change_nothing():
    X, y = table()
    plain = TabPFNClassifier(2).fit(X[:40], y[:40]).predict_proba(X[40:])
    padded = np.column_stack([X, np.full(60, 3.0), np.full(60, np.nan)])
    np.testing.assert_allclose(TabPFNClassifier(2).fit(padded[:40], y[:40]).predict_proba(padded[40:]), plain)


def test_a_table_without_information_gives_the_shares_of_the_classes_roughly():
    y = np.array([0] * 30 + [1] * 10)
    p = TabPFNClassifier(2).fit(np.ones((40, 3)), y).predict_proba(np.ones((1, 3)))
    assert 0.5 < p[0, 0] < 0.95


def test_scaling_and_shifting_columns_changes_nothing():
    X, y = table()
    plain = TabPFNClassifier(2).fit(X[:40], y[:40]).predict_proba(X[40:])
    moved = X * np.array([1e-6, 1.0, 1e4, 30.0]) + np.array([0.0, 5.0, -1e3, 1.0])
    np.testing.assert_allclose(TabPFNClassifier(2).fit(moved[:40], y[:40]).predict_proba(moved[40:]), plain, atol=1e-3)


def test_each_class_against_the_rest_is_asked_for_every_class():
    X, y = table(classes=3)
    model = TabPFNClassifier(4, multiclass="one-vs-rest").fit(X[:40], y[:40])
    assert [m.positive for m in model.members_] == [0, 0, 1, 1, 2, 2]
    p = model.predict_proba(X[40:])
    np.testing.assert_allclose(p.sum(1), 1)
    # each class's own question, asked by itself
    asked = np.stack([_against_rest(X, y == k, model, k) for k in range(3)], axis=1)
    np.testing.assert_allclose(p, asked / asked.sum(1, keepdims=True), atol=1e-5)
    direct = TabPFNClassifier(4, multiclass="direct").fit(X[:40], y[:40])
    assert all(m.positive is None for m in direct.members_)
    both = TabPFNClassifier(4, multiclass="both").fit(X[:40], y[:40]).predict_proba(X[40:])
    mean = np.sqrt(p * direct.predict_proba(X[40:]))
    np.testing.assert_allclose(both, mean / mean.sum(1, keepdims=True), atol=1e-5)


def _against_rest(X, is_class, model, k):
    binary = TabPFNClassifier(2).fit(X[:40], is_class[:40].astype(int))
    binary.members_ = [replace(m, positive=None) for m in model.members_ if m.positive == k]
    return binary.predict_proba(X[40:])[:, 1]


def test_more_than_ten_classes_asked_directly_are_coded():
    rng = np.random.default_rng(0)
    centres = 6 * rng.normal(size=(14, 3))
    y = np.repeat(np.arange(14), 12)
    X = centres[y] + rng.normal(size=(len(y), 3))
    train = np.arange(len(y)) % 3 > 0
    model = TabPFNClassifier(4, multiclass="direct").fit(X[train], y[train])
    p = model.predict_proba(X[~train])
    assert p.shape == ((~train).sum(), 14)
    np.testing.assert_allclose(p.sum(1), 1)
    assert (model.predict(X[~train]) == y[~train]).mean() > 0.3
    rest = TabPFNClassifier(4, multiclass="one-vs-rest").fit(X[train], y[train])
    assert (rest.predict(X[~train]) == y[~train]).mean() > 0.5
    codes = class_codes(14, 10, 1, 0)
    assert len(np.unique(codes.T, axis=0)) == 14


def test_of_many_rows_each_member_draws_some_and_says_so():
    X, y = table(rows=300, classes=3)
    y[:295] = np.minimum(y[:295], 1)
    y[295:] = 2
    with pytest.warns(UserWarning, match="max_rows=50"):
        model = TabPFNClassifier(4, max_rows=50).fit(X, y)
    for member in model.members_:
        assert len(member.rows) == len(set(member.rows)) == 50
        assert set(y[list(member.rows)]) == {0, 1, 2}
    assert model.members_[0].rows != model.members_[1].rows
    assert model.predict_proba(X).shape == (300, 3)


def test_of_many_columns_each_member_draws_some():
    X, y = table(columns=30)
    model = TabPFNClassifier(4, max_features=10).fit(X, y)
    assert all(len(member.columns) == 10 for member in model.members_)
    assert len({member.columns for member in model.members_}) > 1
    assert np.isfinite(model.predict_proba(X)).all()


def test_a_network_with_several_columns_a_token_sees_them_in_another_order_in_each_member():
    X, y = table(columns=6)
    model = TabPFNClassifier(4).fit(X, y)
    assert all(sorted(member.columns) == list(range(6)) for member in model.members_)
    assert len({member.columns for member in model.members_}) > 1
    checkpoint = Checkpoint(PFNTransformer(d_model=16, n_layers=1, n_heads=2), "row", {}, {})
    assert all(member.columns is None for member in TabPFNClassifier(4, model=checkpoint).fit(X, y).members_)


def test_the_same_seed_gives_the_same_and_another_one_another_ensemble():
    X, y = table(classes=3)
    one, again, other = (TabPFNClassifier(4, random_state=s).fit(X[:40], y[:40]) for s in (0, 0, 1))
    np.testing.assert_array_equal(one.predict_proba(X[40:]), again.predict_proba(X[40:]))
    assert one.members_ != other.members_


def test_an_answer_does_not_depend_on_how_many_are_asked_for():
    X, y = table(rows=240)
    model = TabPFNClassifier(2).fit(X[:40], y[:40])
    whole = model.predict_proba(X[40:])
    np.testing.assert_array_equal(
        np.concatenate([model.predict_proba(X[i : i + 1]) for i in range(40, 60)]), whole[:20]
    )


def test_a_kept_context_gives_the_same():
    X, y = table()
    plain = TabPFNClassifier(3).fit(X[:40], y[:40])
    kept = TabPFNClassifier(3, cache_context=True).fit(X[:40], y[:40])
    np.testing.assert_array_equal(kept.predict_proba(X[40:]), plain.predict_proba(X[40:]))


def test_members_batched_in_any_way_give_the_same():
    X, y = table()
    a = TabPFNClassifier(5, batch_size=5).fit(X[:40], y[:40]).predict_proba(X[40:])
    b = TabPFNClassifier(5, batch_size=2).fit(X[:40], y[:40]).predict_proba(X[40:])
    np.testing.assert_allclose(a, b, atol=1e-5)


def test_input_gradients_are_those_of_finite_differences():
    X, y = table(classes=3)
    model = TabPFNClassifier(2).fit(X[:40], y[:40])
    label = model.predict(X[40:43])
    gradient = model.input_gradient(X[40:43])
    np.testing.assert_allclose(gradient, model.input_gradient(X[40:43], label))
    assert np.abs(gradient).max() > 1e-3
    h = 1e-2
    for column in range(4):
        up, down = X[40:43].copy(), X[40:43].copy()
        up[:, column] += h
        down[:, column] -= h
        rows = np.arange(3)
        slope = (np.log(model.predict_proba(up)[rows, label]) - np.log(model.predict_proba(down)[rows, label])) / (
            2 * h
        )
        np.testing.assert_allclose(gradient[:, column], slope, atol=0.03 * np.abs(gradient).max() + 1e-3)


def test_input_gradients_need_numbers_and_known_labels():
    X, y = table()
    model = TabPFNClassifier(1).fit(X, y)
    with pytest.raises(ValueError, match="label must be among"):
        model.input_gradient(X[:2], 7)
    frame = pd.DataFrame({"a": list("xyxyxyxyxy"), "b": np.arange(10.0)})
    with pytest.raises(ValueError, match="table of numbers"):
        TabPFNClassifier(1).fit(frame, [0, 1] * 5).input_gradient(frame)


def test_one_class_is_certain():
    model = TabPFNClassifier(2).fit([[0.0], [1.0]], ["only", "only"])
    assert model.predict_proba([[5.0]]).tolist() == [[1.0]]
    assert model.predict([[5.0]]).tolist() == ["only"]


def test_it_is_cloned_and_pickled():
    X, y = table()
    model = TabPFNClassifier(2, softmax_temperature=0.9).fit(X, y)
    assert clone(model).softmax_temperature == 0.9
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(again.predict_proba(X), model.predict_proba(X))
    assert len(pickle.dumps(model)) < 200_000


def test_temperature_sharpens():
    X, y = table()
    sharp, soft = (
        TabPFNClassifier(2, softmax_temperature=t).fit(X[:40], y[:40]).predict_proba(X[40:]) for t in (0.3, 3.0)
    )
    assert sharp.max(1).mean() > soft.max(1).mean()
    np.testing.assert_array_equal(sharp.argmax(1), soft.argmax(1))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_estimators": 0}, "n_estimators must be a positive integer, got 0"),
        ({"max_rows": 0}, "max_rows"),
        ({"batch_size": 1.5}, "batch_size"),
        ({"softmax_temperature": 0.0}, "softmax_temperature"),
        ({"multiclass": "pairs"}, "multiclass must be auto, direct"),
        ({"device": "tpu"}, "device must be 'auto', 'cpu' or 'cuda', got 'tpu'"),
    ],
)
def test_bad_settings_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        TabPFNClassifier(**settings).fit(*load_iris(return_X_y=True))


def test_what_cannot_be_used_is_refused(tmp_path):
    X, y = table()
    with pytest.raises(NotFittedError):
        TabPFNClassifier().predict(X)
    with pytest.raises(ValueError, match="infinity"):
        TabPFNClassifier(1).fit(np.where(X > 1, np.inf, X), y)
    with pytest.raises(ValueError, match="continuous"):
        TabPFNClassifier(1).fit(X, X[:, 0])
    with pytest.raises(ValueError, match="expecting 4 features"):
        TabPFNClassifier(1).fit(X, y).predict(X[:, :3])
    with pytest.raises(CheckpointError, match="no network"):
        TabPFNClassifier(1, model=tmp_path).fit(X, y)


def test_fit_and_predict_do_not_warn():
    X, y = table()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        TabPFNClassifier(4).fit(X[:40], y[:40]).predict_proba(X[40:])


def test_a_frame_with_dates_numbers_and_words():
    rng = np.random.default_rng(0)
    days = pd.to_datetime("2024-01-01") + pd.to_timedelta(rng.integers(0, 200, 80), unit="D")
    frame = pd.DataFrame({"day": days, "x": rng.standard_normal(80), "colour": rng.choice(["red", "blue"], 80)})
    frame["took"] = pd.to_timedelta(rng.integers(1, 9, 80), unit="h")
    y = np.where(days < pd.Timestamp("2024-04-10"), "early", "late")
    classifier = TabPFNClassifier(n_estimators=2).fit(frame[:60], y[:60])
    assert (classifier.predict(frame[60:]) == y[60:]).mean() > 0.8
    assert list(classifier.feature_names_in_) == list(frame.columns)
