import pytest
import torch

from pgn_impl.witran import WITRAN


def cell_by_cell(model, x, marks, future):
    """The equations, cell by cell; a grid with more rows than columns is turned, as in the official code."""
    d = model.biases[0].shape[0] // 6
    turned = model.rows > model.period
    given = torch.cat((x, marks), -1)[0].view(model.rows, model.period, -1)
    given = given.transpose(0, 1) if turned else given
    rows, columns = given.shape[:2]
    ends = []
    for weight, bias in zip(model.weights, model.biases, strict=True):
        along = torch.zeros(rows, columns + 1, d, dtype=x.dtype)  # the state handed on along a row
        across = torch.zeros(rows + 1, columns, d, dtype=x.dtype)
        outputs = torch.zeros(rows, columns, 2 * d, dtype=x.dtype)
        for r in range(rows):
            for c in range(columns):
                h_row, h_col = along[r, c].clone(), across[r, c].clone()
                gates = weight @ torch.cat((h_row, h_col, given[r, c])) + bias
                u_r, o_r, u_c, o_c = gates[: 4 * d].sigmoid().split(d)
                i_r, i_c = gates[4 * d :].tanh().split(d)
                along[r, c + 1] = torch.tanh((1 - u_r) * h_row + u_r * i_r) * o_r
                across[r + 1, c] = torch.tanh((1 - u_c) * h_col + u_c * i_c) * o_c
                outputs[r, c] = torch.cat((along[r, c + 1], across[r + 1, c]))
        last, each = (across[rows, -1], along[:, -1]) if turned else (along[-1, columns], across[rows])
        ends.append((last, each))
        given = outputs
    out = []
    per_column = [torch.cat([torch.cat((last, each[c])) for last, each in ends]) for c in range(model.period)]
    spread = torch.stack(per_column) @ model.spread.weight.T + model.spread.bias
    spread = spread.view(model.period, model.rows_out, d)
    for step in range(model.pred_len):
        r, c = divmod(step, model.period)
        out.append(model.head(spread[c, r] + model.future(future[0, step])))
    return torch.stack(out)


@pytest.mark.parametrize(("seq_len", "period"), [(24, 6), (24, 12), (28, 4)])  # rows: 4 of 6, 2 of 12, 7 of 4
def test_antidiagonals_give_what_cells_give_one_by_one(seq_len, period):
    torch.manual_seed(0)
    model = WITRAN(seq_len=seq_len, pred_len=15, period=period, d_model=4, n_layers=2).double().eval()
    x = torch.randn(1, seq_len, 1, dtype=torch.float64)
    marks, future = torch.rand(1, seq_len, 4, dtype=torch.float64), torch.rand(1, 15, 4, dtype=torch.float64)
    with torch.no_grad():
        expected = cell_by_cell(model, x, marks, future)
        torch.testing.assert_close(model(x, marks, future)[0], expected, rtol=1e-11, atol=1e-11)


def test_the_official_form_differs_and_learns():
    torch.manual_seed(0)
    options = {"seq_len": 24, "pred_len": 15, "period": 12, "d_model": 4}
    paper, official = WITRAN(**options).eval(), WITRAN(**options, compat="official").eval()
    official.load_state_dict(paper.state_dict())
    with torch.no_grad():
        for bias in (*paper.biases, *official.biases):
            bias.fill_(0.5)
    x, marks, future = torch.randn(2, 24, 1), torch.rand(2, 24, 4), torch.rand(2, 15, 4)
    assert not torch.allclose(paper(x, marks, future), official(x, marks, future), atol=1e-4)
    for model in (paper, official):
        model(x, marks, future).square().sum().backward()
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"period": 7}, "period must divide seq_len 24, got 7"),
        ({"n_layers": 0}, "n_layers must be at least 1, got 0"),
    ],
)
def test_what_cannot_be_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        WITRAN(**{"seq_len": 24, "pred_len": 5, "period": 12, **changes})
