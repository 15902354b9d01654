import pytest
import torch

from pgn_impl.baselines import (
    DLinear,
    LastValue,
    NLinear,
    RecurrentForecaster,
    SeasonalNaive,
    SegRNN,
    moving_average,
)  # fmt: skip
from pgn_impl.transformers import ITransformer, PatchTST


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def inputs(batch=3, length=48, c=2, horizon=30):
    return torch.randn(batch, length, c), torch.rand(batch, length, 4) - 0.5, torch.rand(batch, horizon, 4) - 0.5


MODELS = {
    "last": lambda c: LastValue(pred_len=30),
    "seasonal": lambda c: SeasonalNaive(pred_len=30, period=24),
    "dlinear": lambda c: DLinear(seq_len=48, pred_len=30),
    "nlinear": lambda c: NLinear(seq_len=48, pred_len=30),
    "lstm": lambda c: RecurrentForecaster(seq_len=48, pred_len=30, kind="lstm", c_in=c, d_model=8),
    "gru": lambda c: RecurrentForecaster(seq_len=48, pred_len=30, kind="gru", c_in=c, d_model=8, n_layers=2),
    "segrnn": lambda c: SegRNN(seq_len=48, pred_len=30, c_in=c, segment=12, d_model=16),
    "patchtst": lambda c: PatchTST(seq_len=48, pred_len=30),
    "itransformer": lambda c: ITransformer(seq_len=48, pred_len=30, d_model=16),
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("c", [1, 3])
def test_every_baseline_has_the_interface_of_tpgn(name, c):
    x, marks, future = inputs(c=c)
    model = MODELS[name](c)
    assert model(x, marks, future).shape == (3, 30, c)


@pytest.mark.parametrize("name", ["last", "seasonal", "dlinear", "nlinear", "segrnn", "patchtst"])
def test_variables_are_forecast_apart(name):
    x, marks, future = inputs(c=2)
    model = MODELS[name](2).eval()
    changed = x.clone()
    changed[..., 1] = 7 + torch.randn(3, 48)
    torch.testing.assert_close(model(x, marks, future)[..., 0], model(changed, marks, future)[..., 0])


def test_the_naive_ones_repeat():
    x, _, _ = inputs()
    last = LastValue(pred_len=30)(x)
    assert torch.equal(last[:, 0], x[:, -1])
    assert torch.equal(last[:, 29], x[:, -1])
    seasonal = SeasonalNaive(pred_len=30, period=24)(x)
    assert torch.equal(seasonal[:, :24], x[:, 24:])
    assert torch.equal(seasonal[:, 24:], x[:, 24:30])
    with pytest.raises(ValueError, match="x must have at least a period of 50 steps, got 48"):
        SeasonalNaive(pred_len=3, period=50)(x)


def test_the_moving_average_repeats_the_ends():
    x = torch.tensor([1.0, 2.0, 6.0, 3.0])[None, :, None]
    assert torch.allclose(moving_average(x, 3)[0, :, 0], torch.tensor([4.0, 9.0, 11.0, 12.0]) / 3)


def test_dlinear_is_two_matrices():
    x, _, _ = inputs()
    model = DLinear(seq_len=48, pred_len=30, kernel=5)
    trend = moving_average(x, 5)
    expected = torch.einsum("hl,blc->bhc", model.seasonal.weight, x - trend)
    expected = expected + torch.einsum("hl,blc->bhc", model.trend.weight, trend)
    expected = expected + (model.seasonal.bias + model.trend.bias)[None, :, None]
    torch.testing.assert_close(model(x), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["nlinear", "segrnn"])
def test_what_subtracts_the_last_value_follows_shifts(name):
    x, marks, future = inputs()
    model = MODELS[name](2).eval()
    torch.testing.assert_close(model(x + 5, marks, future), model(x, marks, future) + 5, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["patchtst", "itransformer"])
def test_what_standardises_windows_follows_shifts_and_scales(name):
    x, marks, future = inputs()
    model = MODELS[name](2).eval()
    expected = model(x, marks, future) * 3 - 5
    torch.testing.assert_close(model(x * 3 - 5, marks, future), expected, rtol=1e-3, atol=1e-3)


def test_itransformer_takes_time_features_as_tokens():
    x, marks, _ = inputs()
    model = MODELS["itransformer"](2).eval()
    assert not torch.allclose(model(x, marks), model(x, marks + 0.3))
    order = torch.tensor([1, 0])  # tokens have no places
    torch.testing.assert_close(model(x[..., order], marks), model(x, marks)[..., order], rtol=1e-4, atol=1e-5)


def test_segrnn_decodes_each_segment_from_its_place_and_variable():
    x, _, _ = inputs()
    model = MODELS["segrnn"](2).eval()
    before = model(x)
    with torch.no_grad():
        model.position[1] += 1
    after = model(x)
    assert torch.equal(before[:, :12], after[:, :12])
    assert not torch.allclose(before[:, 12:24], after[:, 12:24])
    assert torch.equal(before[:, 24:], after[:, 24:])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DLinear(seq_len=4, pred_len=2, kernel=4), "kernel must be positive and odd, got 4"),
        (lambda: SegRNN(seq_len=50, pred_len=2, segment=24), "segment must divide seq_len 50, got 24"),
        (lambda: SegRNN(seq_len=48, pred_len=2, d_model=7), "d_model must be even, got 7"),
        (lambda: PatchTST(seq_len=8, pred_len=2), "patch must be from 1 to seq_len 8"),
        (lambda: PatchTST(seq_len=48, pred_len=2, d_model=6), "d_model must be a multiple of n_heads"),
        (lambda: SeasonalNaive(pred_len=2, period=0), "period must be at least 1, got 0"),
    ],
)
def test_what_cannot_be_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
