"""The experiments at a size of seconds."""

from dataclasses import replace

import numpy as np
import pytest

from shared_impl.data import DataError
from tabpfn_impl import experiments
from tabpfn_impl.data import CC18_NUMERICAL


@pytest.fixture
def small(monkeypatch):
    quick = {
        name: (function, {"cpu": replace(presets["cpu"], n_splits=1, n_estimators=1, steps=4)})
        for name, (function, presets) in experiments.EXPERIMENTS.items()
    }
    monkeypatch.setattr(experiments, "EXPERIMENTS", quick)


def models_of(record):
    return {row.model for row in record.rows}


def test_table_1_scores_every_set_of_a_folder(small, tmp_path, monkeypatch):
    monkeypatch.setattr(experiments, "BASELINES", {"15-NN": experiments.BASELINES["15-NN"]})
    rng = np.random.default_rng(0)
    for name in CC18_NUMERICAL:
        X = rng.normal(size=(40, 2))
        np.savez(tmp_path / f"{name}.npz", X=X, y=(X[:, 0] > 0).astype(int))
    record = experiments.run("table1", "cpu", out_dir=tmp_path, data_dir=tmp_path)
    assert models_of(record) >= {"TabPFN", "15-NN"}
    assert {row.task for row in record.rows} >= set(CC18_NUMERICAL)
    tabpfn = next(row for row in record.rows if row.model == "TabPFN" and row.metric == "AUC (OVO)")
    assert tabpfn.paper == 0.934
    assert any("of 18 sets" in note for note in record.notes)
    with pytest.raises(DataError):
        experiments.run("table1", "cpu", out_dir=tmp_path, data_dir=tmp_path / "none")


def test_made_up_sets_have_the_bound_of_the_true_probabilities(small, tmp_path, monkeypatch):
    monkeypatch.setattr(experiments, "BASELINES", {"15-NN": experiments.BASELINES["15-NN"]})
    record = experiments.run("made-up", "cpu", out_dir=tmp_path)
    for task in {row.task for row in record.rows}:
        losses = {row.model: row.value for row in record.rows if row.task == task}
        assert losses["true probabilities"] < losses["15-NN"] + 0.02


def test_the_posterior_experiment_records_a_divergence(small, tmp_path):
    record = experiments.run("posterior", "cpu", out_dir=tmp_path)
    assert len(record.rows) == 4
    # four steps do not suffice
    assert all(row.value > 0.02 for row in record.rows)
    assert (tmp_path / "posterior-cpu.png").is_file()


@pytest.mark.slow
def test_scikit_learns_sets_and_the_ensembles(small, tmp_path):
    record = experiments.run("offline", "cpu", out_dir=tmp_path)
    assert models_of(record) >= {"TabPFN", "logistic regression", "random forest", "15-NN", "gradient boosting"}
    record = experiments.run("ensemble", "cpu", out_dir=tmp_path)
    assert len(record.rows) == 24
