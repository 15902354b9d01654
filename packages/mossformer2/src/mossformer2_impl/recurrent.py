"""The recurrent module without recurrence: memory by convolutions over time, gated, dilated, densely connected."""

from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from .attention import FFConvM, side_by_side
from .convolution import depthwise, grouped

__all__ = ["FSMN", "GCU", "DilatedFSMN", "Memory", "RecurrentModule", "interleaved"]

Frames = Float[Tensor, "batch frames channels"]
Grouping = Literal["official", "paired"]
Memory = Literal["gfsmn", "gfsmn-plain", "dfsmn", "fsmn", "blstm", "none"]
"""gates with the dilated network (the paper's), gates with the plain one, either without gates, an LSTM, nothing"""


def interleaved(channels: int, parts: int) -> Tensor:
    """The order that puts channel c of each of `parts` blocks side by side."""
    return torch.arange(parts * channels).view(parts, channels).T.flatten()


class OverTime(nn.Module):
    """Each channel to mean 0 and deviation 1 over its frames, then scaled and shifted; causal: over those so far."""

    def __init__(self, channels: int, *, causal: bool = False, eps: float = 1e-5) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))
        self.causal, self.eps = causal, eps

    def forward(self, x: Frames) -> Frames:
        if self.causal:
            count = torch.arange(1, x.shape[1] + 1, device=x.device, dtype=x.dtype)[:, None]
            mean = x.cumsum(1) / count
            var = (x.square().cumsum(1) / count - mean.square()).clamp(min=0)
        else:
            var, mean = torch.var_mean(x, 1, correction=0, keepdim=True)
        scale = self.weight * (var + self.eps).rsqrt()
        return x * scale + (self.bias - mean * scale)


class FSMN(nn.Module):
    """Feed-forward sequential memory: p = W relu(W x); x + p + its convolution over 2 lorder - 1 frames."""

    def __init__(self, d: int, lorder: int = 20, *, causal: bool = False) -> None:
        super().__init__()
        if d < 1 or lorder < 1:
            raise ValueError(f"d and lorder must be positive, got {d} and {lorder}")
        self.linear, self.project = nn.Linear(d, d), nn.Linear(d, d, bias=False)
        self.conv = nn.Conv1d(d, d, 2 * lorder - 1, groups=d, bias=False)
        self.causal = causal

    def forward(self, x: Frames) -> Frames:
        p = self.project(F.relu(self.linear(x)))
        return x + p + depthwise(p, self.conv.weight[:, 0], causal=self.causal)


class DilatedFSMN(nn.Module):
    """FSMN whose memory is a dense network: layer i convolves all before it over 2 lorder - 1 frames, 2^i apart.

    A layer's convolution has a group for each channel and i + 1 channels a group. grouping="official" takes the
    concatenated channels as they stand, so that in the second layer the first half of the groups sees the first
    layer's output alone and the second half the projection alone; "paired" gives each group the same channel of both.
    """

    def __init__(
        self, d: int, lorder: int = 20, *, depth: int = 2, causal: bool = False, grouping: Grouping = "official"
    ) -> None:
        super().__init__()
        if d < 1 or lorder < 1 or depth < 1:
            raise ValueError(f"d, lorder and depth must be positive, got {d}, {lorder} and {depth}")
        if grouping not in ("official", "paired"):
            raise ValueError(f"grouping must be official or paired, got {grouping!r}")
        self.linear, self.project = nn.Linear(d, d), nn.Linear(d, d, bias=False)
        self.convs = nn.ModuleList(
            nn.Conv1d((i + 1) * d, d, 2 * lorder - 1, dilation=2**i, groups=d, bias=False) for i in range(depth)
        )
        self.norms = nn.ModuleList(OverTime(d, causal=causal) for _ in range(depth))
        self.slopes = nn.ParameterList(nn.Parameter(torch.full((d,), 0.25)) for _ in range(depth))
        self.causal, self.grouping = causal, grouping

    def forward(self, x: Frames) -> Frames:
        seen = out = self.project(F.relu(self.linear(x)))
        conv: Any
        for i, (conv, norm, slope) in enumerate(zip(self.convs, self.norms, self.slopes, strict=True)):
            given = seen
            if self.grouping == "paired" and i:
                given = seen[..., interleaved(x.shape[2], i + 1).to(x.device)]
            out = norm(grouped(given, conv.weight, dilation=2**i, causal=self.causal))
            out = torch.where(out >= 0, out, slope * out)
            if i + 1 < len(self.convs):
                seen = torch.cat([out, seen], -1)
        return x + out


class GCU(nn.Module):
    """Gated convolutional unit: b * memory(a) + x with a and b an `FFConvM` of x each (section 2.3)."""

    def __init__(self, d: int, memory: nn.Module | None = None, *, dropout: float = 0.1, causal: bool = False) -> None:
        super().__init__()
        self.to_u = FFConvM(d, d, dropout=dropout, causal=causal)
        self.to_v = FFConvM(d, d, dropout=dropout, causal=causal)
        self.memory = DilatedFSMN(d, causal=causal) if memory is None else memory

    def forward(self, x: Frames) -> Frames:
        u, v = side_by_side(x, [self.to_u, self.to_v]).chunk(2, -1)
        return v * self.memory(u) + x


class _LSTM(nn.Module):
    """Both directions, `d` numbers in and out; causal: one."""

    def __init__(self, d: int, *, causal: bool = False) -> None:
        super().__init__()
        self.lstm = nn.LSTM(d, d if causal else d // 2, batch_first=True, bidirectional=not causal)

    def forward(self, x: Frames) -> Frames:
        return x + self.lstm(x)[0]  # type: ignore[no-any-return]


class RecurrentModule(nn.Module):
    """Bottleneck, memory, and back, added to the input.

    Args:
        d_model: channels of the input.
        d_rec: channels of the bottleneck; even.
        memory: what stands between the norms.
    """

    def __init__(
        self, d_model: int, d_rec: int = 256, lorder: int = 20, *, memory: Memory = "gfsmn", dropout: float = 0.1,
        causal: bool = False, grouping: Grouping = "official",
    ) -> None:  # fmt: skip
        super().__init__()
        if memory not in ("gfsmn", "gfsmn-plain", "dfsmn", "fsmn", "blstm"):
            raise ValueError(f"memory must be gfsmn, gfsmn-plain, dfsmn, fsmn or blstm, got {memory!r}")
        if d_rec < 2 or d_rec % 2:
            raise ValueError(f"d_rec must be even and positive, got {d_rec}")
        self.into, self.out_of = nn.Linear(d_model, d_rec), nn.Linear(d_rec, d_model)
        self.prelu = nn.PReLU()
        self.norm1, self.norm2 = nn.LayerNorm(d_rec), nn.LayerNorm(d_rec)
        core: nn.Module
        if memory == "blstm":
            core = _LSTM(d_rec, causal=causal)
        elif memory in ("gfsmn", "dfsmn"):
            core = DilatedFSMN(d_rec, lorder, causal=causal, grouping=grouping)
        else:
            core = FSMN(d_rec, lorder, causal=causal)
        gated = memory in ("gfsmn", "gfsmn-plain")
        self.memory = GCU(d_rec, core, dropout=dropout, causal=causal) if gated else core

    def forward(self, x: Frames) -> Frames:
        y = self.norm1(self.prelu(self.into(x)))
        return x + self.out_of(self.norm2(self.memory(y)))  # type: ignore[no-any-return]
