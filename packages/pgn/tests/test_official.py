"""Weights in the official layout: the model written with grouped convolutions gives the forecasts of ours."""

import pytest
import torch
import torch.nn.functional as F

from pgn_impl import TPGN
from pgn_impl.official import from_official, load_official, official_model
from shared_impl.cli import UserError


def convolutional_weights(c, d, rows, period, rows_out, z):
    """Random weights of grouped convolutions: name, (out, in / groups, kernel)."""
    shapes = {
        "LNN_dim.hidden_MLP": (c * d, z, rows - 1),
        "LNN_dim.gate": (c * 2 * d, z + d, 1),
        "LNN_dim.fc": (c * d, d, rows),
        "s_t_p_e.fc_row": (c * d, z, period),
        "s_t_p_e.fc_col": (c * d, d, rows),
        "fc": (c * rows_out, 2 * d, 1),
    }
    weights = {}
    for name, shape in shapes.items():
        weights[f"TPGN.{name}.weight"] = torch.randn(shape, dtype=torch.float64)
        weights[f"TPGN.{name}.bias"] = torch.randn(shape[0], dtype=torch.float64)
    return weights


def by_convolutions(weights, x, marks, d, rows, period):
    """The forecast of (1, rows · period, c) and its time features, column by column and row by row."""
    c = x.shape[2]

    def conv(name, inputs):  # [c · features, length] -> [c · features, length']
        return F.conv1d(inputs[None], weights[f"TPGN.{name}.weight"], weights[f"TPGN.{name}.bias"], groups=c)[0]

    def both(a, b):  # features of each variable side by side
        return torch.cat((a.view(c, -1, a.shape[-1]), b.view(c, -1, b.shape[-1])), 1).flatten(0, 1)

    cells = torch.cat((x[0, :, :, None], marks[0, :, None].expand(-1, c, -1)), -1).view(rows, period, -1)
    by_row = [conv("s_t_p_e.fc_row", cells[r].T)[:, 0] for r in range(rows)]
    short = conv("s_t_p_e.fc_col", torch.stack(by_row, 1))
    out = []
    for p in range(period):
        column = cells[:, p].T
        history = conv("LNN_dim.hidden_MLP", F.pad(column, (rows - 1, 0))[:, :-1])
        gates = conv("LNN_dim.gate", both(column, history)).view(c, 2, d, rows)
        gate, candidate = gates[:, 0].sigmoid(), gates[:, 1].tanh()
        gated = history.view(c, d, rows) * gate + (1 - gate) * candidate
        long = conv("LNN_dim.fc", gated.flatten(0, 1))
        out.append(conv("fc", both(short, long)).view(c, -1))
    return torch.stack(out, -1).flatten(1).T[None]


@pytest.mark.parametrize("c", [1, 3])
def test_convolutions_with_their_weights_give_our_forecast(c):
    torch.manual_seed(0)
    d, rows, period, rows_out, features = 3, 4, 5, 2, 4
    model = TPGN(seq_len=20, pred_len=10, period=period, c_in=c, d_model=d, time_features=features).double()
    weights = convolutional_weights(c, d, rows, period, rows_out, 1 + features)
    model.load_state_dict(from_official(weights, model))
    x, marks = torch.randn(1, 20, c, dtype=torch.float64), torch.randn(1, 20, features, dtype=torch.float64)
    expected = by_convolutions(weights, x, marks, d, rows, period)
    torch.testing.assert_close(model(x, marks), expected, rtol=1e-12, atol=1e-12)


def test_a_checkout_is_imported_and_named(tmp_path):
    with pytest.raises(UserError, match="is not a checkout"):
        load_official(tmp_path)
    (tmp_path / "models").mkdir()
    code = "import torch\nclass Model(torch.nn.Module):\n    def __init__(self, config):\n        super().__init__()\n"
    (tmp_path / "models" / "TPGN.py").write_text(code + "        self.config = config\n")
    ours = TPGN(seq_len=48, pred_len=7, period=12, c_in=2, d_model=3, norm=True)
    config = official_model(load_official(tmp_path), ours).config
    found = (config.seq_len, config.pred_len, config.TPGN_period, config.enc_in, config.d_model, config.norm)
    assert found == (48, 7, 12, 2, 3, 1)
