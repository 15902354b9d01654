import subprocess
import sys

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

from s4_impl.estimators import S4Classifier, S4Forecaster

SMALL = {"d_model": 8, "d_state": 4, "n_layers": 1}


def waves(n=60, length=24, channels=None, seed=0):
    """Slow and fast sines with random phases."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 2, n)
    phase = rng.uniform(0, 6, (n, 1))
    X = np.sin(np.arange(length) * np.where(y, 0.3, 1.2)[:, None] + phase) + 0.1 * rng.standard_normal((n, length))
    if channels:
        X = np.stack([X] * channels, axis=2) + 0.1 * rng.standard_normal((n, length, channels))
    return X, y


def classifier(**changes):
    return S4Classifier(**{**SMALL, "epochs": 4, "lr": 0.03, "dropout": 0.0, "random_state": 0, **changes})


@pytest.mark.slow
def test_s4_classifier_passes_the_checks_of_scikit_learn():
    """In a process of its own: the suite sets arguments of every type, which the shape checks of these tests refuse."""
    code = """
import warnings
from s4_impl.estimators import S4Classifier
from sklearn.utils.estimator_checks import check_estimator
warnings.simplefilter("ignore")
model = S4Classifier(d_model=8, d_state=4, n_layers=1, epochs=8, lr=0.03, dropout=0.0, random_state=0)
results = check_estimator(model, on_fail=None)
failed = [(r["check_name"], r["exception"]) for r in results if r["status"] == "failed"]
print(len(results), "checks")
raise SystemExit(f"failed: {failed}" if failed or len(results) < 40 else 0)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize("channels", [None, 3])
def test_it_learns_to_tell_slow_from_fast_waves_with_string_labels(channels):
    X, y = waves(120, channels=channels)
    labels = np.array(["slow" if v else "fast" for v in y])
    model = classifier(epochs=8, batch_size=8, d_state=8).fit(X[:80], labels[:80])
    assert model.score(X[80:], labels[80:]) > 0.9
    assert list(model.classes_) == ["fast", "slow"]
    p = model.predict_proba(X[80:])
    assert p.shape == (40, 2)
    assert np.allclose(p.sum(axis=1), 1)
    assert (model.classes_[p.argmax(axis=1)] == model.predict(X[80:])).all()
    assert ((model.decision_function(X[80:]) > 0) == (p[:, 1] > 0.5)).all()


def test_the_same_random_state_gives_the_same_model_and_another_one_another():
    X, y = waves()
    first, again, other = (classifier(epochs=1, random_state=seed).fit(X, y).predict_proba(X) for seed in (0, 0, 1))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_fitting_leaves_the_global_random_generators_alone():
    import torch

    X, y = waves()
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    classifier(epochs=1).fit(X, y)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("labels", [["a", "b"], [3, 7], [True, False], [0.0, 2.0]])
def test_a_saved_classifier_predicts_the_same(tmp_path, labels):
    X, y = waves()
    model = classifier(epochs=1).fit(X, np.array(labels)[y])
    loaded = S4Classifier.load(model.save(tmp_path / "model"))
    assert np.array_equal(loaded.predict_proba(X), model.predict_proba(X))
    assert np.array_equal(loaded.predict(X), model.predict(X))
    assert loaded.predict(X).dtype == model.predict(X).dtype
    assert loaded.get_params() == model.get_params()
    assert {path.suffix for path in (tmp_path / "model").iterdir()} <= {".json", ".safetensors", ".md"}
    with pytest.raises(ValueError, match="holds a S4Classifier"):
        S4Forecaster.load(tmp_path / "model")


@pytest.mark.parametrize(
    ("X", "y", "message"),
    [
        (np.zeros((5, 8)), np.zeros(5), "one class"),
        (np.full((5, 8), np.nan), np.arange(5) % 2, "NaN"),
        (np.full((5, 8), np.inf), np.arange(5) % 2, "infinity"),
        (np.zeros((5, 8, 2, 2)), np.arange(5) % 2, r"\(n, length, channels\)"),
        (np.zeros(5), np.arange(5) % 2, "2D array"),
        (np.zeros((5, 8)), np.arange(4) % 2, "inconsistent"),
        (np.zeros((5, 8)), np.linspace(0, 1, 5), "label type"),
    ],
)
def test_wrong_data_are_refused_with_the_reason(X, y, message):
    with pytest.raises(ValueError, match=message):
        classifier().fit(X, y)


def test_predicting_another_shape_or_before_fitting_is_refused():
    X, y = waves(channels=2)
    with pytest.raises(NotFittedError):
        classifier().predict(X)
    model = classifier(epochs=1).fit(X, y)
    with pytest.raises(ValueError, match="channels"):
        model.predict(X[:, :, :1])
    with pytest.raises(ValueError, match="features"):
        model.predict(X[:, :10])


@pytest.mark.parametrize("setting", [{"epochs": 0}, {"d_model": 0}, {"lr": 0.0}, {"batch_size": -1}])
def test_settings_are_checked_in_fit_and_cloned_as_they_are(setting):
    model = classifier(**setting)
    assert clone(model).get_params() == model.get_params()
    with pytest.raises(ValueError, match=next(iter(setting))):
        model.fit(*waves())


def forecaster(**changes):
    return S4Forecaster(
        **{**SMALL, "horizon": 6, "context": 24, "stride": 1, "epochs": 8, "lr": 0.02, "random_state": 0, **changes}
    )


@pytest.mark.parametrize("relative", [True, False])
def test_the_forecaster_beats_the_last_value_on_a_wave_far_from_zero(relative):
    series = 50 + 10 * np.sin(np.arange(900) / 3)
    model = forecaster(relative=relative).fit(series[:600])
    forecast = model.predict(series[:700])
    assert forecast.shape == (6,)
    test = series[600:]
    last_value = np.mean([(test[i : i + 6] - test[i - 1]) ** 2 for i in range(24, len(test) - 6)])
    assert -model.score(test) < 0.3 * last_value


def test_the_forecaster_keeps_channels_and_is_saved_without_pickle(tmp_path):
    t = np.arange(300)
    series = np.stack([np.sin(t / 4), 5 + np.cos(t / 7)], axis=1)
    model = forecaster(epochs=1).fit(series)
    assert model.predict(series).shape == (6, 2)
    loaded = S4Forecaster.load(model.save(tmp_path / "f"))
    assert np.array_equal(loaded.predict(series), model.predict(series))


def test_the_forecaster_refuses_series_that_it_cannot_use():
    with pytest.raises(ValueError, match="context \\+ horizon"):
        forecaster().fit(np.zeros(10))
    with pytest.raises(ValueError, match="NaN"):
        forecaster().fit(np.full(100, np.nan))
    with pytest.raises(ValueError, match="series"):
        forecaster().fit(np.zeros((10, 10, 10)))
    with pytest.raises(ValueError, match="horizon must be positive"):
        forecaster(horizon=0).fit(np.zeros(100))
    with pytest.raises(NotFittedError):
        forecaster().predict(np.zeros(30))
    model = forecaster(epochs=1).fit(np.sin(np.arange(100.0)))
    with pytest.raises(ValueError, match="at least 24 steps"):
        model.predict(np.zeros(5))
    with pytest.raises(ValueError, match="1 channels"):
        model.predict(np.zeros((30, 2)))
