import pytest
import torch

from pgn_impl.models import HORIZONS, LABELS, MODELS, UNTRAINED, build, settings
from pgn_impl.tpgn import TPGN


@pytest.mark.parametrize("name", MODELS)
def test_every_model_can_be_built_by_name_and_forecasts(name):
    torch.manual_seed(0)
    model = build(name, seq_len=48, pred_len=30, c_in=2, **settings(name, pred_len=30)).eval()
    x, marks, future = torch.randn(2, 48, 2), torch.rand(2, 48, 4), torch.rand(2, 30, 4)
    with torch.no_grad():
        assert model(x, marks, future).shape == (2, 30, 2)
    assert (name in UNTRAINED) == (not list(model.parameters()))
    assert LABELS[name]


def test_tpgn_has_the_settings_of_table_b():
    assert [settings("tpgn", data="ETTh1", pred_len=h)["d_model"] for h in HORIZONS] == [2, 2, 2, 8]
    assert [settings("tpgn", data="Traffic", pred_len=h)["d_model"] for h in HORIZONS] == [128, 128, 256, 256]
    assert settings("tpgn", data="ETTh2") == {"period": 24, "norm": False, "d_model": 8}
    # between two horizons of the table, and beyond them
    assert settings("tpgn", data="ETTh1", pred_len=800)["d_model"] == 8
    assert settings("tpgn", data="Traffic", pred_len=9000)["d_model"] == 256
    assert settings("tpgn", data="my.csv", period=7)["period"] == 7


def test_options_reach_the_model():
    model = build("tpgn", seq_len=48, pred_len=5, d_model=3, period=12, long="gru")
    assert isinstance(model, TPGN)
    assert (model.d_model, model.period, model.rows) == (3, 12, 4)


def test_an_unknown_model_is_named():
    for call in (lambda: settings("arima"), lambda: build("arima", seq_len=48, pred_len=5)):
        with pytest.raises(ValueError, match=r"model must be one of last, seasonal, tpgn, .* got 'arima'"):
            call()
