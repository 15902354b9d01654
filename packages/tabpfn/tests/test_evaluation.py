"""Measures, splits, baselines, tables."""

import importlib.util
import sys
import types

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import log_loss as sklearn_log_loss

from shared_impl.data import DataError
from tabpfn_impl.baselines import BASELINES, PEERS, available_peers, make_baseline
from tabpfn_impl.data import (
    CC18_NUMERICAL,
    Table,
    cc18_tables,
    made_up_tables,
    read_csv,
    read_released_tables,
    sklearn_tables,
)
from tabpfn_impl.evaluation import evaluate, half_splits
from tabpfn_impl.metrics import auc_ovo, calibration_error, log_loss, score


def test_the_area_is_the_share_of_pairs_in_the_right_order():
    labels = np.array([0, 0, 1, 1, 1])
    scores = np.array([0.1, 0.4, 0.35, 0.8, 0.4])
    pairs = [(a > b) + 0.5 * (a == b) for a in scores[2:] for b in scores[:2]]
    assert auc_ovo(labels, np.stack([1 - scores, scores], 1)) == pytest.approx(np.mean(pairs))


def test_log_loss_is_scikit_learns():
    rng = np.random.default_rng(0)
    p, y = rng.dirichlet(np.ones(4), 50), rng.integers(0, 4, 50)
    assert log_loss(y, p) == pytest.approx(sklearn_log_loss(y, p, labels=range(4)))


def test_calibration_error_of_the_calibrated_is_small_and_of_the_too_sure_large():
    rng = np.random.default_rng(0)
    p = rng.uniform(size=20_000)
    y = (rng.uniform(size=20_000) < p).astype(int)
    assert calibration_error(y, np.stack([1 - p, p], 1)) < 0.015
    sure = (p > 0.5) * 0.98 + 0.01
    assert calibration_error(y, np.stack([1 - sure, sure], 1)) == pytest.approx(0.24, abs=0.02)


def test_measures_refuse_what_they_cannot_measure():
    with pytest.raises(ValueError, match="two classes"):
        auc_ovo(np.zeros(3, int), np.full((3, 2), 0.5))
    with pytest.raises(ValueError, match="probabilities must be"):
        score(np.zeros(3, int), np.full((4, 2), 0.5))


def test_splits_have_every_class_on_both_sides_and_depend_on_the_seed():
    y = np.repeat([0, 1, 2], [40, 10, 4])
    splits = list(half_splits(y, 5, 0))
    for train, test in splits:
        assert set(train) & set(test) == set()
        assert set(y[train]) == set(y[test]) == {0, 1, 2}
    assert not np.array_equal(splits[0][0], next(half_splits(y, 1, 1))[0])


def test_models_are_scored_on_the_same_splits():
    X = np.random.default_rng(0).normal(size=(80, 3))
    y = np.where(X[:, 0] > 0, "yes", "no")
    models = {name: BASELINES[name] for name in ("15-NN", "logistic regression")}
    outcomes = evaluate(Table("t", X, y), models, n_splits=2)
    assert [(o.model, o.split) for o in outcomes] == [
        ("15-NN", 0), ("logistic regression", 0), ("15-NN", 1), ("logistic regression", 1),
    ]  # fmt: skip
    assert all(o.scores.auc > 0.8 for o in outcomes)


@pytest.mark.parametrize("name", BASELINES)
def test_every_baseline_reads_frames_with_words_and_gaps(name):
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"a": rng.normal(size=60), "b": rng.choice(["u", "v"], 60)})
    frame.loc[3, "a"] = np.nan
    frame.loc[4, "b"] = None
    y = rng.integers(0, 2, 60)
    p = make_baseline(name).fit(frame[:50], y[:50]).predict_proba(frame[50:])
    np.testing.assert_allclose(p.sum(1), 1)


@pytest.mark.filterwarnings("ignore:tabicl is left out")
def test_a_peer_that_is_not_installed_says_how_to_get_it():
    absent = {name for name, (module, *_) in PEERS.items() if importlib.util.find_spec(module) is None}
    assert not absent & set(available_peers())
    for name in absent:
        with pytest.raises(ValueError, match="pip install"):
            make_baseline(name)
    with pytest.raises(ValueError, match="must be one of"):
        make_baseline("perceptron")


def test_a_peer_whose_weights_cannot_be_had_is_left_out(monkeypatch):
    class NoNetwork:
        def __init__(self, **settings):
            pass

        def fit(self, X, y):
            raise FileNotFoundError("no such file, and no network")

    monkeypatch.setitem(sys.modules, "tabicl", types.SimpleNamespace(TabICLClassifier=NoNetwork, __spec__=object()))
    available_peers.cache_clear()
    with pytest.warns(UserWarning, match="tabicl is left out: no such file"):
        assert "tabicl" not in available_peers()
    available_peers.cache_clear()


def test_true_probabilities_of_made_up_tables_are_true():
    for made in made_up_tables(rows=4000, seed=1):
        p = made.posterior(np.asarray(made.table.X))
        np.testing.assert_allclose(p.sum(1), 1)
        y = made.table.y.astype(int)
        # calibrated, and no one-sided error: the mean probability of each class is its share
        assert calibration_error(y, p) < 0.03
        np.testing.assert_allclose(p.mean(0), np.bincount(y) / len(y), atol=0.03)


def test_sklearns_tables_have_their_sizes():
    sizes = [(t.name, *t.X.shape, len(set(t.y))) for t in sklearn_tables()]
    assert sizes == [
        ("breast_cancer", 569, 30, 2), ("wine", 178, 13, 3), ("iris", 150, 4, 3), ("digits", 1797, 64, 10),
    ]  # fmt: skip


def test_csv_files_are_read_with_the_label_last_or_named(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("a,b,c\n1,x,0\n2,,1\n")
    X, y = read_csv(path)
    assert list(X.columns) == ["a", "b"]
    assert y.tolist() == [0, 1]
    X, y = read_csv(path, "a")
    assert list(X.columns) == ["b", "c"]
    assert y.tolist() == [1, 2]
    with pytest.raises(DataError, match="no column 'z'"):
        read_csv(path, "z")
    with pytest.raises(DataError, match="label is missing in 1 rows"):
        read_csv(path, "b")
    with pytest.raises(DataError, match="no such file"):
        read_csv(tmp_path / "none.csv")
    (tmp_path / "one.csv").write_text("a\n1\n")
    with pytest.raises(DataError, match="at least one other"):
        read_csv(tmp_path / "one.csv")


def test_the_18_sets_are_read_from_a_folder_of_files(tmp_path):
    names = list(CC18_NUMERICAL)
    assert len(names) == 18
    pd.DataFrame({"a": [1.0, 2.0], "y": [0, 1]}).to_csv(tmp_path / f"{names[0]}.csv", index=False)
    np.savez(tmp_path / f"{names[1]}.npz", X=np.ones((2, 3)), y=np.array([0, 1]))
    tables = cc18_tables(tmp_path, names=names[:2])
    assert [table.X.shape for table in tables] == [(2, 1), (2, 3)]
    with pytest.raises(DataError, match=names[2]):
        cc18_tables(tmp_path, names=names[:3])
    with pytest.raises(DataError, match="no such folder"):
        cc18_tables(tmp_path / "none")


def test_a_file_that_is_not_the_released_one_is_not_read(tmp_path):
    path = tmp_path / "tables.pickle"
    path.write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    with pytest.raises(DataError, match="SHA-256 differs"):
        read_released_tables(path)


def test_a_pickle_that_asks_for_more_than_tables_need_is_refused(tmp_path, monkeypatch):
    import hashlib

    content = b"cos\nsystem\n(S'true'\ntR."
    monkeypatch.setattr("tabpfn_impl.data.RELEASED_SHA256", hashlib.sha256(content).hexdigest())
    path = tmp_path / "tables.pickle"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"os\.system, which is refused"):
        read_released_tables(path)


def test_the_released_file_is_read_without_running_it(tmp_path, monkeypatch):
    import hashlib
    import pickle

    rows = torch.arange(6.0).reshape(3, 2)
    entries = [
        ["one", rows, torch.tensor([0, 1, 0]), [], ["a", "b"], {"x": np.float64(1.5)}],
        ["categorical", rows, torch.tensor([0, 1, 0]), [1], ["a", "b"], {}],
        ["missing", rows / rows, torch.tensor([0, 1, 0]), [], ["a", "b"], {}],
    ]
    for protocol in (2, 4):
        content = pickle.dumps(entries, protocol=protocol)
        monkeypatch.setattr("tabpfn_impl.data.RELEASED_SHA256", hashlib.sha256(content).hexdigest())
        path = tmp_path / "tables.pickle"
        path.write_bytes(content)
        (table,) = read_released_tables(path)
        assert table.name == "one"
        np.testing.assert_array_equal(table.X, rows.numpy())
        np.testing.assert_array_equal(table.y, [0, 1, 0])


def test_a_table_needs_a_label_for_each_row():
    with pytest.raises(ValueError, match="3 and 2"):
        Table("t", np.ones((3, 1)), np.zeros(2))
