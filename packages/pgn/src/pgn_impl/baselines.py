"""What one would have used instead: repeating values, and the linear and recurrent forecasters.

All have TPGN's interface: x (batch, seq_len, c_in), marks, future marks -> (batch, pred_len, c_in).
"""

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

__all__ = ["DLinear", "LastValue", "NLinear", "RecurrentForecaster", "SeasonalNaive", "SegRNN", "moving_average"]

Series = Float[Tensor, "batch seq_len c_in"]
Forecast = Float[Tensor, "batch pred_len c_in"]


class LastValue(nn.Module):
    """The last value, again and again."""

    def __init__(self, *, pred_len: int) -> None:
        super().__init__()
        self.pred_len = pred_len

    def forward(self, x: Series, marks: Tensor | None = None, future_marks: Tensor | None = None) -> Forecast:
        """The forecast."""
        return x[:, -1:].expand(-1, self.pred_len, -1)


class SeasonalNaive(nn.Module):
    """The last period, again and again."""

    def __init__(self, *, pred_len: int, period: int) -> None:
        super().__init__()
        if period < 1:
            raise ValueError(f"period must be at least 1, got {period}")
        self.pred_len, self.period = pred_len, period

    def forward(self, x: Series, marks: Tensor | None = None, future_marks: Tensor | None = None) -> Forecast:
        """The forecast."""
        if x.shape[1] < self.period:
            raise ValueError(f"x must have at least a period of {self.period} steps, got {x.shape[1]}")
        times = -(-self.pred_len // self.period)
        return x[:, -self.period :].repeat(1, times, 1)[:, : self.pred_len]


def moving_average(x: Float[Tensor, "batch length c"], kernel: int) -> Float[Tensor, "batch length c"]:
    """The mean of `kernel` steps around each, the first and the last value repeated beyond the ends."""
    half = (kernel - 1) // 2
    padded = F.pad(x.transpose(1, 2), (half, kernel - 1 - half), mode="replicate")
    return F.avg_pool1d(padded, kernel, 1).transpose(1, 2)


class DLinear(nn.Module):
    """A moving average and the rest, each mapped linearly to the future (Zeng et al., AAAI 2023).

    Args:
        kernel: of the moving average.
    """

    def __init__(self, *, seq_len: int, pred_len: int, kernel: int = 25) -> None:
        super().__init__()
        if kernel < 1 or kernel % 2 == 0:
            raise ValueError(f"kernel must be positive and odd, got {kernel}")
        self.kernel = kernel
        self.seasonal = nn.Linear(seq_len, pred_len)
        self.trend = nn.Linear(seq_len, pred_len)

    def forward(self, x: Series, marks: Tensor | None = None, future_marks: Tensor | None = None) -> Forecast:
        """The forecast."""
        trend = moving_average(x, self.kernel)
        y: Tensor = self.seasonal((x - trend).transpose(1, 2)) + self.trend(trend.transpose(1, 2))
        return y.transpose(1, 2)


class NLinear(nn.Module):
    """A linear map of what differs from the last value (Zeng et al., AAAI 2023)."""

    def __init__(self, *, seq_len: int, pred_len: int) -> None:
        super().__init__()
        self.linear = nn.Linear(seq_len, pred_len)

    def forward(self, x: Series, marks: Tensor | None = None, future_marks: Tensor | None = None) -> Forecast:
        """The forecast."""
        last = x[:, -1:].detach()
        y: Tensor = self.linear((x - last).transpose(1, 2))
        return y.transpose(1, 2) + last


class RecurrentForecaster(nn.Module):
    """An LSTM or GRU reads values and time features; its last state is mapped linearly to the future.

    Args:
        kind: the cell.
        d_model, n_layers: its size.
        time_features: features of a time stamp that it reads.
    """

    def __init__(
        self,
        *,
        seq_len: int,
        pred_len: int,
        kind: Literal["lstm", "gru"] = "lstm",
        c_in: int = 1,
        d_model: int = 32,
        n_layers: int = 1,
        time_features: int = 4,
    ) -> None:
        super().__init__()
        if kind not in ("lstm", "gru"):
            raise ValueError(f"kind must be lstm or gru, got {kind!r}")
        self.seq_len, self.pred_len, self.c_in = seq_len, pred_len, c_in
        cell = nn.LSTM if kind == "lstm" else nn.GRU
        self.cell = cell(c_in + time_features, d_model, n_layers, batch_first=True)
        self.head = nn.Linear(d_model, pred_len * c_in)

    def forward(self, x: Series, marks: Tensor, future_marks: Tensor | None = None) -> Forecast:
        """The forecast."""
        states, _ = self.cell(torch.cat((x, marks), -1))
        y: Tensor = self.head(states[:, -1])
        return y.view(-1, self.pred_len, self.c_in)


class SegRNN(nn.Module):
    """A GRU over segments; all future segments are decoded at once from position codes (Lin et al., 2023).

    Args:
        segment: steps a segment; must divide seq_len.
        d_model: width, even.
        dropout: before the last map.
    """

    def __init__(
        self, *, seq_len: int, pred_len: int, c_in: int = 1, segment: int = 24, d_model: int = 512, dropout: float = 0.5
    ) -> None:
        super().__init__()
        if segment < 1 or seq_len % segment:
            raise ValueError(f"segment must divide seq_len {seq_len}, got {segment}")
        if d_model < 2 or d_model % 2:
            raise ValueError(f"d_model must be even, got {d_model}")
        self.segment, self.pred_len, self.c_in = segment, pred_len, c_in
        self.n_out = -(-pred_len // segment)
        self.embed = nn.Linear(segment, d_model)
        self.cell = nn.GRU(d_model, d_model, batch_first=True)
        self.position = nn.Parameter(torch.randn(self.n_out, d_model // 2))
        self.channel = nn.Parameter(torch.randn(c_in, d_model // 2))
        self.head = nn.Sequential(nn.Dropout(dropout), nn.Linear(d_model, segment))

    def forward(self, x: Series, marks: Tensor | None = None, future_marks: Tensor | None = None) -> Forecast:
        """The forecast."""
        batch, _, c = x.shape
        last = x[:, -1:].detach()
        segments = (x - last).transpose(1, 2).reshape(batch * c, -1, self.segment)
        _, state = self.cell(self.embed(segments).relu())
        codes = torch.cat(
            (self.position.expand(c, -1, -1), self.channel.unsqueeze(1).expand(-1, self.n_out, -1)), -1
        )  # [variable, segment, d_model]
        codes = codes.expand(batch, -1, -1, -1).reshape(batch * c * self.n_out, 1, -1)
        _, decoded = self.cell(codes, state.repeat_interleave(self.n_out, 1))
        y = self.head(decoded[0]).view(batch, c, -1)[..., : self.pred_len]
        return y.transpose(1, 2) + last
