"""What the paper states about learning (claims 8 to 10), on data that are here; minutes each."""

import pytest

from s4_impl import data
from s4_impl.configs import Recipe
from s4_impl.experiments import last_value_error, matched
from s4_impl.training import build_model, train
from shared_impl.train import count_parameters


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_claim_8_hippo_remembers_what_a_random_matrix_and_an_lstm_forget():
    """Predict u_{t-200} at every step of 512; the time constants cover the delay for both choices of A."""
    task = data.delay_task(length=512, lag=200, bandwidth=0.1, n_train=1024, n_eval=128)
    s4 = Recipe(
        task="delay",
        model={"n_layers": 1, "d_model": 64, "d_state": 64, "dt_min": 2e-3, "dt_max": 2e-2},
        lr=0.01, batch_size=16, steps=300, grad_clip=1.0,
    )  # fmt: skip
    size = count_parameters(build_model("s4", task, dict(s4.model)))
    width = matched("lstm", task, size, {"n_layers": 1})
    lstm = Recipe(
        task="delay", model={"n_layers": 1, "d_model": width}, lr=0.005, batch_size=16, steps=300, grad_clip=1.0
    )
    legs = train("s4", task, s4).test["mse"]
    random_a = train("s4", task, Recipe(**{**vars(s4), "model": {**s4.model, "init": "random"}})).test["mse"]
    lstm_mse = train("lstm", task, lstm).test["mse"]
    assert legs < random_a / 3
    assert legs < lstm_mse / 3


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_claim_9_digits_read_pixel_by_pixel_are_recognised():
    recipe = Recipe(
        task="digits", model={"n_layers": 2, "d_model": 48, "d_state": 32, "dropout": 0.1, "norm": "batch"},
        lr=0.01, weight_decay=0.01, batch_size=32, epochs=8,
    )  # fmt: skip
    assert train("s4", data.digits_task(0), recipe).test["accuracy"] >= 93.0


@pytest.mark.slow
@pytest.mark.data
@pytest.mark.timeout(900)
def test_claim_10_the_forecast_of_etth1_beats_the_last_value():
    task = data.etth1_task(context=168, horizon=24, stride=4)
    recipe = Recipe(
        task="ett", model={"n_layers": 2, "d_model": 32, "d_state": 32, "dropout": 0.25, "bidirectional": False},
        lr=0.004, weight_decay=0.01, batch_size=50, epochs=4,
    )  # fmt: skip
    assert train("s4", task, recipe).test["mse"] < last_value_error(task)["mse"]
