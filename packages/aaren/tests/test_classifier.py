import numpy as np
import pytest
from sklearn.utils.estimator_checks import estimator_checks_generator

from aaren_impl import Classifier, chirps

FAST = Classifier(d_model=8, n_layers=1, steps=3, learning_rate=0.03)
CHECKS = list(estimator_checks_generator(FAST))


@pytest.mark.parametrize(("estimator", "check"), CHECKS, ids=[getattr(c, "func", c).__name__ for _, c in CHECKS])
@pytest.mark.filterwarnings("ignore:no better than")
def test_the_classifier_is_scikit_learns(estimator, check):
    if getattr(check, "func", check).__name__ in ("check_classifiers_train", "check_classifiers_classes"):
        estimator.set_params(steps=30)  # what is asked of accuracy
    check(estimator)


def test_the_classifier_learns_and_refuses_other_channels():
    x, y = chirps(90, length=32, noise=0.1)
    model = Classifier(steps=60, d_model=16, n_layers=1).fit(x, y)
    assert model.skill_ > 0.2
    assert model.predict_proba(x[:2]).sum(1) == pytest.approx(1)
    with pytest.raises(ValueError, match="channels"):
        model.predict(np.zeros((1, 32, 2)))
    with pytest.raises(ValueError, match="at least 2 classes"):
        model.fit(x, np.zeros(len(x)))
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        model.fit(x, y[:-1])


@pytest.mark.filterwarnings("ignore:no better than")
def test_sequences_of_their_own_lengths_are_read_as_they_are_alone():
    x, y = chirps(24, length=40)
    cut = [case[: 20 + i % 9] for i, case in enumerate(x)]
    model = Classifier(d_model=8, n_layers=1, steps=3).fit(cut, y)
    together = model.predict_proba(cut)
    alone = np.concatenate([model.predict_proba([case]) for case in cut])
    assert together == pytest.approx(alone, abs=1e-5)
    assert model.predict_proba([case[:, 0] for case in cut]) == pytest.approx(together, abs=1e-6)


def test_what_is_no_better_than_the_usual_class_warns():
    rng = np.random.default_rng(0)
    with pytest.warns(UserWarning, match="no better than the most frequent class"):
        Classifier(d_model=8, n_layers=1, steps=2).fit(rng.normal(size=(40, 6)), np.arange(40) % 2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"model": "mamba"}, "model must be one of"),
        ({"recipe": "mine"}, "recipe must be one of"),
        ({"steps": 0}, "steps must be positive"),
        ({"d_model": -1}, "d_model must be positive"),
    ],
)
def test_arguments_that_cannot_be_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        Classifier(**arguments).fit(*chirps(10, length=8))


@pytest.mark.parametrize(
    ("x", "message"),
    [
        ([], "at least 1 sequence"),
        (np.full((4, 8, 1), np.nan), "contains NaN"),
        ([np.zeros((3, 1)), np.zeros((4, 2)), np.zeros((3, 1)), np.zeros((3, 1))], "same number of channels"),
        ([np.zeros((3, 1)), np.zeros((0, 1)), np.zeros((3, 1)), np.zeros((3, 1))], "0 sample"),
    ],
)
def test_sequences_that_are_none_are_refused(x, message):
    with pytest.raises(ValueError, match=message):
        Classifier(steps=1).fit(x, [0, 1, 0, 1][: len(x)])


@pytest.mark.filterwarnings("ignore:no better than")
def test_the_papers_recipe_takes_its_first_steps():
    model = Classifier(recipe="paper", steps=2).fit(*chirps(20, length=16))
    assert model.n_steps_ == 2
    assert model.net_.backbone.n_layers == 3
    assert model.net_.backbone.d_model == 128
