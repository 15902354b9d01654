"""The noise network: linear layers that see its input again, scaled by the noise level (Preechakul et al. 2022)."""

import math
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import silu

__all__ = ["MLPDenoiser", "Skip", "parameter_count", "time_embedding"]

Skip = Literal["input", "unet", "none"]


def time_embedding(k: Float[Tensor, "rows"], width: int = 64, max_period: float = 10_000.0) -> Float[Tensor, "rows w"]:
    """Cosines, then sines, of k times width/2 frequencies from 1 down towards 1 / max_period."""
    half = width // 2
    frequencies = torch.exp(-math.log(max_period) * torch.arange(half, dtype=torch.float32, device=k.device) / half)
    angles = k[:, None].float() * frequencies
    return torch.cat([angles.cos(), angles.sin()], 1)


def parameter_count(length: int, hidden: int, depth: int) -> int:
    """Parameters of the network with input skips: c² + 66c + (2ch + 4h) + (n-2)(h² + 2ch + 4h) + (h + c)c + c."""
    c, h = length, hidden
    return c * c + 66 * c + 2 * c * h + 4 * h + (depth - 2) * (h * h + 2 * c * h + 4 * h) + (h + c) * c + c


class _Layer(nn.Module):
    """Linear, times 1 + what the noise level says, layer norm, SiLU."""

    def __init__(self, inputs: int, outputs: int, condition: int, dropout: float) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, outputs)
        self.level = nn.Linear(condition, outputs)
        self.norm = nn.LayerNorm(outputs)
        self.dropout = nn.Dropout(dropout)
        for layer in (self.linear, self.level):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        scaled = self.linear(x) * (1 + self.level(level))
        out: Tensor = self.dropout(silu(self.norm(scaled)))
        return out


class MLPDenoiser(nn.Module):
    """What is predicted of a noisy window and its noise level: noise, data, or a mixture, as the diffusion has it.

    Args:
        length: numbers of a window (steps, or steps times variables).
        hidden, depth: width of the hidden layers, and the number of all layers.
        skip: what later layers see beside the layer before: the network's input (the paper's family), the layer of the
            first half that mirrors them, or nothing.
        residual: hidden layers add to what they get, which is normalised first.
    """

    def __init__(
        self, length: int, hidden: int = 512, depth: int = 6, *, skip: Skip = "input", residual: bool = False,
        time_width: int = 64, dropout: float = 0.0,
    ) -> None:  # fmt: skip
        super().__init__()
        for name, value, least in (("length", length, 1), ("hidden", hidden, 1), ("depth", depth, 2)):
            if value < least:
                raise ValueError(f"{name} must be at least {least}, got {value}")
        if time_width < 2 or time_width % 2:
            raise ValueError(f"time_width must be even and positive, got {time_width}")
        if skip not in ("input", "unet", "none"):
            raise ValueError(f"skip must be input, unet or none, got {skip!r}")
        self.length, self.skip, self.residual, self.time_width = length, skip, residual, time_width
        self.time = nn.Sequential(nn.Linear(time_width, length), nn.SiLU(), nn.Linear(length, length))
        inner = depth - 1  # hidden layers; the last one is plain
        # of "unet": hidden layer i of the second half sees the output of layer inner - 1 - i, the last the input
        self.mirror = {i: inner - 1 - i for i in range(inner // 2 + inner % 2, inner)} if skip == "unet" else {}
        more = [length if skip == "input" and i else hidden if i in self.mirror else 0 for i in range(inner)]
        self.layers = nn.ModuleList(
            [_Layer((hidden if i else length) + more[i], hidden, length, dropout) for i in range(inner)]
        )
        self.before = nn.ModuleList([nn.LayerNorm(hidden) for _ in range(inner - 1)] if residual else [])
        self.last = nn.Linear(hidden + (0 if skip == "none" else length), length)

    def forward(self, x: Float[Tensor, "rows length"], k: Float[Tensor, "rows"]) -> Float[Tensor, "rows length"]:
        """The prediction for windows `x` at noise levels `k`, counted from zero."""
        level = silu(self.time(time_embedding(k, self.time_width).to(x.dtype)))
        kept: list[Tensor] = []
        h = x
        for i, layer in enumerate(self.layers):
            plain = h
            if self.residual and i:
                h = self.before[i - 1](h)
            if self.skip == "input" and i:
                h = torch.cat([h, x], 1)
            elif i in self.mirror:
                h = torch.cat([h, kept[self.mirror[i]]], 1)
            h = layer(h, level)
            if self.residual and i:
                h = plain + h
            kept.append(h)
        out: Tensor = self.last(h if self.skip == "none" else torch.cat([h, x], 1))
        return out
