"""WITRAN (Jia et al., NeurIPS 2023): a recurrent network that runs over a grid of days × hours in both directions.

Each cell (r, c) takes the row state of its left neighbour, the column state of its upper one, and its input:

    [u_r, o_r, u_c, o_c] = sigmoid, [i_r, i_c] = tanh of  W [h_row, h_col, x] + b
    h_row' = tanh((1 - u_r) h_row + u_r i_r) * o_r          and h_col' likewise

Cells of one antidiagonal do not depend on each other and are computed together: R + P - 1 serial steps instead of R P.
"""

import math
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

__all__ = ["WITRAN"]


class WITRAN(nn.Module):
    """Forecast from the last row state and the last column states, plus the time features of the future.

    Args:
        period: columns of the grid, P; must divide seq_len.
        d_model, n_layers, dropout: of the recurrent encoder.
        compat: "official" repeats two things of the official code that the equations do not have: the column state
            below the last row goes on to the first row, and from step R on the bias is left out.
    """

    def __init__(
        self,
        *,
        seq_len: int,
        pred_len: int,
        c_in: int = 1,
        time_features: int = 4,
        period: int = 24,
        d_model: int = 32,
        n_layers: int = 2,
        dropout: float = 0.05,
        compat: Literal["paper", "official"] = "paper",
    ) -> None:
        super().__init__()
        if period < 1 or seq_len % period:
            raise ValueError(f"period must divide seq_len {seq_len}, got {period}")
        if n_layers < 1:
            raise ValueError(f"n_layers must be at least 1, got {n_layers}")
        if compat not in ("paper", "official"):
            raise ValueError(f"compat must be paper or official, got {compat!r}")
        self.seq_len, self.pred_len, self.period, self.compat = seq_len, pred_len, period, compat
        self.rows, self.rows_out = seq_len // period, -(-pred_len // period)
        d, d_in = d_model, c_in + time_features
        self.weights = nn.ParameterList(
            torch.empty(6 * d, 2 * d + (d_in if i == 0 else 2 * d)) for i in range(n_layers)
        )
        self.biases = nn.ParameterList(torch.empty(6 * d) for _ in range(n_layers))
        for parameter in (*self.weights, *self.biases):
            nn.init.uniform_(parameter, -1 / math.sqrt(d), 1 / math.sqrt(d))
        self.dropout = nn.Dropout(dropout)
        self.future = nn.Linear(time_features, d, bias=False)
        self.spread = nn.Linear(2 * n_layers * d, self.rows_out * d)
        self.head = nn.Linear(d, c_in)

    def forward(
        self,
        x: Float[Tensor, "batch seq_len c_in"],
        marks: Float[Tensor, "batch seq_len time_features"],
        future_marks: Float[Tensor, "batch pred_len time_features"],
    ) -> Float[Tensor, "batch pred_len c_in"]:
        """The forecast."""
        batch = x.shape[0]
        grid = torch.cat((x, marks), -1).view(batch, self.rows, self.period, -1)
        # the states travel along the longer side, all of the shorter side at once
        slices = grid if self.rows <= self.period else grid.transpose(1, 2)
        along, across = self._encode(slices)
        rows, columns = (along, across) if self.rows <= self.period else (across, along)
        both = torch.cat((rows[:, :, -1:].expand(-1, -1, self.period, -1), columns), -1)  # [batch, layer, column, 2 d]
        spread = self.spread(both.transpose(1, 2).flatten(2)).view(batch, self.period, self.rows_out, -1)
        steps = spread.transpose(1, 2).flatten(1, 2)[:, : self.pred_len]
        forecast: Tensor = self.head(steps + self.dropout(self.future(future_marks)))
        return forecast

    def _encode(self, grid: Tensor) -> tuple[Tensor, Tensor]:
        """Last states along each slice, [batch, layer, slice, d], and across all slices, [batch, layer, place, d]."""
        batch, n, length, _ = grid.shape
        steps = n + length - 1
        d = self.biases[0].shape[0] // 6
        # slice r starts r steps later: antidiagonals become columns
        skewed = grid.new_zeros(n, batch, steps, grid.shape[3])
        for r in range(n):
            skewed[r, :, r : r + length] = grid[:, r]
        started = torch.arange(steps)[:, None] >= torch.arange(n)  # [step, slice]
        started = started.to(grid.device, grid.dtype)[..., None, None]
        if self.compat == "official":
            started[n:] = 0
        all_along, all_across = [], []
        given = skewed
        for layer, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            from_input = (self.dropout(given) if layer else given) @ weight[:, 2 * d :].T
            from_states = weight[:, : 2 * d].T
            along = across = grid.new_zeros(n, batch, d)
            outputs, ends_along, ends_across = [], [], []
            for s in range(steps):
                gates = from_input[:, :, s] + torch.cat((along, across), -1) @ from_states + bias * started[s]
                update_a, out_a, update_c, out_c = gates[..., : 4 * d].sigmoid().chunk(4, -1)
                new_a, new_c = gates[..., 4 * d :].tanh().chunk(2, -1)
                along = torch.lerp(along, new_a, update_a).tanh() * out_a
                across = torch.lerp(across, new_c, update_c).tanh() * out_c
                outputs.append(torch.cat((along, across), -1))
                if s >= length - 1:
                    ends_along.append(along[s - length + 1])
                if s >= n - 1:
                    ends_across.append(across[n - 1])
                first = across[-1:] if self.compat == "official" else torch.zeros_like(across[-1:])
                across = torch.cat((first, across[:-1]))
            given = torch.stack(outputs, 2)
            all_along.append(torch.stack(ends_along, 1))
            all_across.append(torch.stack(ends_across, 1))
        return torch.stack(all_along, 1), torch.stack(all_across, 1)
