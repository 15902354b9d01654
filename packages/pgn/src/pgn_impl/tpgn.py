"""TPGN: a series folded into days × hours, PGN along the days, patches along the hours (section 3.2).

    x (batch, seq_len), folded: R rows of one period each, P columns
    long   PGN along the rows of each column, then a linear map of all R rows to one vector        (P vectors)
    short  a linear map of each row's P columns, then one of all R rows; the same for every column (1 vector)
    out    a linear map of [short, long] to R_out values a column, R_out rows of P values each, cut to pred_len

Every variable has weights of its own, and nothing is mixed between variables. There are no future time features, no
dropout, and no activation but the gate's.
"""

import math
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pgn_impl.grouped import GroupedLinear
from pgn_impl.hie import Form
from pgn_impl.pgn import PGN2d
from shared_impl.pretrained import Pretrained

__all__ = ["EPSILON", "TPGN", "LongBranch", "fold", "parameter_count", "unfold"]

LongBranch = Literal["pgn", "lstm", "gru", "mlp", "attn", "none"]
EPSILON = 1e-5  # under the root of the window's variance


def fold(x: Float[Tensor, "batch length c"], period: int) -> Float[Tensor, "batch rows period c"]:
    """Rows of one period each. A length that is no multiple gets its missing first part from one period later.

    Raises:
        ValueError: if the length is below one period, or too short to fill the first row.
    """
    length = x.shape[1]
    missing = -length % period
    if length < max(period, missing + period if missing else 0):
        raise ValueError(f"length must be at least a period of {period} steps beyond what is missing, got {length}")
    if missing:
        # the step before the first is at phase -1, a period before step period - 1
        x = torch.cat((x[:, period - missing : period], x), 1)
    return x.unflatten(1, (-1, period))


def unfold(grid: Float[Tensor, "batch rows period c"], length: int) -> Float[Tensor, "batch length c"]:
    """The first `length` cells, row by row.

    Raises:
        ValueError: if the grid has fewer.
    """
    series = grid.flatten(1, 2)
    if not 1 <= length <= series.shape[1]:
        raise ValueError(f"length must be from 1 to {series.shape[1]}, got {length}")
    return series[:, :length]


def parameter_count(
    d_model: int,
    *,
    seq_len: int = 168,
    pred_len: int = 168,
    period: int = 24,
    time_features: int = 4,
    c_in: int = 1,
    short: bool = True,
) -> int:
    """Parameters of TPGN with its PGN branch, by formula; for R rows, F time features, P columns and R_out rows out

    HIE (1+F)(R-1)d + d; gates (1+F+d) 2d + 2d; linear_long R d² + d;
    short: linear_row (1+F) P d + d, linear_col R d² + d; head R_out (2d+1), or R_out (d+1) without the short branch.
    """
    d, rows, rows_out = d_model, math.ceil(seq_len / period), math.ceil(pred_len / period)
    z = 1 + time_features
    one = z * (rows - 1) * d + d + (z + d) * 2 * d + 2 * d + rows * d * d + d
    if short:
        one += z * period * d + d + rows * d * d + d
    one += rows_out * ((2 if short else 1) * d + 1)
    return c_in * one


class _Recurrent(nn.Module):
    """An LSTM or GRU in PGN's place; one a variable."""

    def __init__(self, kind: str, d_in: int, d_model: int, c_in: int) -> None:
        super().__init__()
        cell = nn.LSTM if kind == "lstm" else nn.GRU
        self.cells = nn.ModuleList(cell(d_in, d_model, batch_first=True) for _ in range(c_in))

    def forward(self, grid: Tensor) -> Tensor:
        flat = grid.flatten(1, 2)
        return torch.stack([cell(x)[0] for cell, x in zip(self.cells, flat, strict=True)]).unflatten(1, grid.shape[1:3])


class _MLP(nn.Module):
    """Each cell on its own: the history is then only in the linear map of all rows that follows."""

    def __init__(self, d_in: int, d_model: int, c_in: int) -> None:
        super().__init__()
        self.first = GroupedLinear(c_in, d_in, d_model)
        self.second = GroupedLinear(c_in, d_model, d_model)

    def forward(self, grid: Tensor) -> Tensor:
        return self.second(self.first(grid.flatten(1, 3)).relu()).unflatten(1, grid.shape[1:4])


class _Attention(nn.Module):
    """Causal attention of one head along the rows of each column, with the residual of its own cell."""

    def __init__(self, d_in: int, d_model: int, c_in: int) -> None:
        super().__init__()
        self.embed = GroupedLinear(c_in, d_in, d_model)
        self.qkv = GroupedLinear(c_in, d_model, 3 * d_model)

    def forward(self, grid: Tensor) -> Tensor:
        x = self.embed(grid.flatten(1, 3))
        q, k, v = self.qkv(x).unflatten(1, (-1, grid.shape[3])).chunk(3, -1)
        mixed = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return (x.view_as(mixed) + mixed).unflatten(1, grid.shape[1:3])


class TPGN(nn.Module, Pretrained):
    """Forecast `pred_len` steps of each variable from `seq_len` steps and their time features.

    Args:
        seq_len: steps of the window, at least two periods.
        pred_len: steps to forecast, any number.
        period: steps of a row, P.
        c_in: variables.
        d_model: width.
        time_features: features of a time stamp, F.
        norm: take the window's mean and standard deviation out before, and put them back after.
        long: what runs along the rows; all but "pgn" are ablations, "none" leaves the long branch out.
        short: whether there is the short branch.

    Raises:
        ValueError: for sizes that cannot be.
    """

    def __init__(
        self,
        *,
        seq_len: int,
        pred_len: int,
        period: int = 24,
        c_in: int = 1,
        d_model: int = 32,
        time_features: int = 4,
        norm: bool = False,
        long: LongBranch = "pgn",
        short: bool = True,
    ) -> None:
        super().__init__()
        sizes = {"seq_len": seq_len, "pred_len": pred_len, "period": period, "c_in": c_in, "d_model": d_model}
        for name, size in sizes.items():
            if size < 1:
                raise ValueError(f"{name} must be at least 1, got {size}")
        if time_features < 0:
            raise ValueError(f"time_features must not be negative, got {time_features}")
        if seq_len < 2 * period:
            raise ValueError(f"seq_len must be at least two periods, {2 * period}, got {seq_len}")
        if long not in get_args(LongBranch):
            raise ValueError(f"long must be one of {', '.join(get_args(LongBranch))}, got {long!r}")
        if long == "none" and not short:
            raise ValueError("short must be True where long is 'none': one branch has to be there")
        self.seq_len, self.pred_len, self.period, self.c_in = seq_len, pred_len, period, c_in
        self.d_model, self.time_features, self.norm = d_model, time_features, norm
        self.rows, self.rows_out = math.ceil(seq_len / period), math.ceil(pred_len / period)
        d_in = 1 + time_features
        self.long: nn.Module | None = None
        if long != "none":
            if long == "pgn":
                self.long = PGN2d(d_in, d_model, self.rows, c_in=c_in)
            elif long == "mlp":
                self.long = _MLP(d_in, d_model, c_in)
            elif long == "attn":
                self.long = _Attention(d_in, d_model, c_in)
            else:
                self.long = _Recurrent(long, d_in, d_model, c_in)
            self.linear_long = GroupedLinear(c_in, self.rows * d_model, d_model)
        self.short = short
        if short:
            self.linear_row = GroupedLinear(c_in, period * d_in, d_model)
            self.linear_col = GroupedLinear(c_in, self.rows * d_model, d_model)
        self.head = GroupedLinear(c_in, d_model * (short + (long != "none")), self.rows_out)

    def forward(
        self,
        x: Float[Tensor, "batch seq_len c_in"],
        marks: Float[Tensor, "batch seq_len time_features"],
        future_marks: Tensor | None = None,
        *,
        form: Form = "auto",
    ) -> Float[Tensor, "batch pred_len c_in"]:
        """The forecast.

        Args:
            marks: time features of the window's steps.
            future_marks: not used; here because other forecasters do.
            form: how PGN gathers the history (see `pgn_impl.hie`).
        """
        batch, length, c_in = x.shape
        if length != self.seq_len or c_in != self.c_in:
            raise ValueError(f"x must have {self.seq_len} steps of {self.c_in} variables, got {length} of {c_in}")
        if self.norm:
            mean = x.mean(1, keepdim=True).detach()
            scale = (x.var(1, keepdim=True, unbiased=False) + EPSILON).sqrt().detach()
            x = (x - mean) / scale
        # [variable, batch, row, column, feature]
        grid = fold(x, self.period).permute(3, 0, 1, 2).unsqueeze(-1)
        features = fold(marks, self.period).expand(c_in, -1, -1, -1, -1)
        cells = torch.cat((grid, features), -1)
        parts = []
        if self.short:
            rows = self.linear_row(cells.reshape(c_in, batch * self.rows, -1))
            whole = self.linear_col(rows.view(c_in, batch, -1))
            parts.append(whole.unsqueeze(2).expand(-1, -1, self.period, -1))
        if self.long is not None:
            columns = cells.transpose(2, 3).contiguous()
            found = self.long(columns, form) if isinstance(self.long, PGN2d) else self.long(columns)
            columnwise = self.linear_long(found.reshape(c_in, batch * self.period, -1))
            parts.append(columnwise.view(c_in, batch, self.period, -1))
        merged = torch.cat(parts, -1) if len(parts) > 1 else parts[0]
        out = self.head(merged.reshape(c_in, batch * self.period, -1)).view(c_in, batch, self.period, -1)
        y = unfold(out.permute(1, 3, 2, 0), self.pred_len)
        return y * scale + mean if self.norm else y
