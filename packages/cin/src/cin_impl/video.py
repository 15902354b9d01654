"""Networks over video: X3D, Slow and I3D with continual convolutions (Co3D, arXiv 2106.00050), and CoOadTR, a continual
Transformer encoder over features of frames, for online action detection (arXiv 2201.06268, section 4)."""

from typing import Any

from torch import Tensor, nn

from shared_impl.pretrained import Pretrained

from .attention import RecyclingPositionalEncoding, TransformerEncoder
from .container import BroadcastReduce, Residual, Sequential, continual
from .conv import Conv3d
from .module import Around
from .pointwise import BatchNorm3d, Linear, Pointwise, SqueezeExcite
from .pool import GlobalAvgPool, MaxPool3d

__all__ = ["X3D_SIZES", "CoI3D", "CoOadTR", "CoSlow", "CoX3D", "Network", "SmallCo3D"]

X3D_SIZES = {"s": ((3, 5, 11, 7), 13, 160), "m": ((3, 5, 11, 7), 16, 224), "l": ((5, 10, 25, 15), 16, 312)}
"""size to (blocks of each stage, frames of a clip, side of a frame)"""


class Network(Around, nn.Module):
    """A model that is one stack, `self.net`."""

    net: Any

    def _inner(self) -> Any:
        return self.net

    def forward(self, x: Tensor) -> Tensor:
        """A clip, `(batch, channels, time, *space)`; logits, `(batch, classes, time')`."""
        return self.net(x)  # type: ignore[no-any-return]


def _conv(inside: int, out: int, kernel: Any, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    padding = tuple(k // 2 for k in kernel)
    conv = Conv3d(inside, out, kernel, (1, stride, stride), padding, groups=groups, bias=False)
    return [conv, BatchNorm3d(out)]


def _block(body: list[nn.Module], inside: int, out: int, stride: int) -> nn.Module:
    """body(x) + shortcut(x), then ReLU."""
    relu = Pointwise(nn.ReLU())
    if inside == out and stride == 1:
        return Sequential(Residual(Sequential(*body)), relu)
    return Sequential(BroadcastReduce(Sequential(*_conv(inside, out, (1, 1, 1), stride)), Sequential(*body)), relu)


class CoX3D(Network, Pretrained):
    """X3D in steps; 3.79 million parameters (S, M), 6.15 million (L).

    Args:
        size: "s", "m" or "l".
        window: slices of the pool at the end: the paper's 64 for steps, 13 or 16 for a clip of the size that the
            network was trained on.
        scope: of squeeze-and-excitation: "clip" for the clip network X3D itself (no steps); "frame", of each slice
            alone, as the authors run it in steps; "window", of as many slices as the pool has.
    """

    def __init__(
        self, *, size: str = "m", classes: int = 400, window: int = 64, in_channels: int = 3, scope: str = "frame"
    ) -> None:
        super().__init__()
        if size not in X3D_SIZES:
            raise ValueError(f"size must be one of {', '.join(X3D_SIZES)}, got {size!r}")
        if scope not in ("clip", "frame", "window"):
            raise ValueError(f"scope must be clip, frame or window, got {scope!r}")
        seen = 1 if scope == "frame" else window
        relu, silu = Pointwise(nn.ReLU()), Pointwise(nn.SiLU())
        stem = Conv3d(in_channels, 24, (1, 3, 3), (1, 2, 2), (0, 1, 1), bias=False)
        layers: list[nn.Module] = [stem, *_conv(24, 24, (5, 1, 1), groups=24), relu]
        inside = 24
        for out, depth in zip((24, 48, 96, 192), X3D_SIZES[size][0], strict=True):
            wide = int(2.25 * out)
            for i in range(depth):
                stride = 2 if i == 0 else 1
                body = [*_conv(inside, wide, (1, 1, 1)), relu, *_conv(wide, wide, (3, 3, 3), stride, wide)]
                if i % 2 == 0:
                    squeezed = max(8, int(wide * 0.0625 + 4) // 8 * 8)
                    squeezed += 8 if squeezed < 0.9 * wide * 0.0625 else 0
                    body.append(SqueezeExcite(wide, squeezed, seen, clip=scope == "clip"))
                body += [silu, *_conv(wide, out, (1, 1, 1))]
                layers.append(_block(body, inside, out, stride))
                inside = out
        layers += [*_conv(192, 432, (1, 1, 1)), relu, GlobalAvgPool(window)]
        layers += [Linear(432, 2048, bias=False), relu, Linear(2048, classes)]
        self.net = Sequential(*layers)


def _resnet(taps: tuple[Any, ...], in_channels: int, classes: int, window: int, pool: int) -> Sequential:
    """ResNet-50; `taps`: slices of the first convolution, then of the blocks of each stage, in turn."""
    relu = Pointwise(nn.ReLU())
    layers = [*_conv(in_channels, 64, (taps[0], 7, 7), 2), relu, MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1))]
    inside = 64
    for stage, (wide, depth) in enumerate(zip((64, 128, 256, 512), (3, 4, 6, 3), strict=True)):
        for i in range(depth):
            stride = 2 if i == 0 and stage else 1
            k = taps[1 + stage][i % len(taps[1 + stage])]
            body = [*_conv(inside, wide, (k, 1, 1)), relu, *_conv(wide, wide, (1, 3, 3), stride), relu]
            layers.append(_block([*body, *_conv(wide, 4 * wide, (1, 1, 1))], inside, 4 * wide, stride))
            inside = 4 * wide
        if pool > 1 and stage == 0:
            layers.append(MaxPool3d((pool, 1, 1), (pool, 1, 1)))
    return Sequential(*layers, GlobalAvgPool(window), Linear(2048, classes))


class CoSlow(Network, Pretrained):
    """Slow (ResNet-50, kernels of three slices in the last two stages) in steps; 32.45 million parameters."""

    def __init__(self, *, classes: int = 400, window: int = 64, in_channels: int = 3) -> None:
        super().__init__()
        self.net = _resnet((1, (1,), (1,), (3,), (3,)), in_channels, classes, window, 1)


class CoI3D(Network, Pretrained):
    """I3D (ResNet-50 inflated) in steps; 28.04 million parameters.

    Args:
        window: slices of the pool at the end; with `pool=2` half of the clip's.
        pool: 2 halves the rate of slices after the first stage, as the clip network does: an output every other step.
    """

    def __init__(self, *, classes: int = 400, window: int = 4, in_channels: int = 3, pool: int = 2) -> None:
        super().__init__()
        if pool not in (1, 2):
            raise ValueError(f"pool must be 1 or 2, got {pool}")
        self.net = _resnet((5, (3,), (3, 1), (3, 1), (1, 3)), in_channels, classes, window, pool)


class SmallCo3D(Network, Pretrained):
    """A small 3D network for small videos, in the manner of Co3D: no padding in time, a pool over what is left.

    Args:
        frames: of the clip that it is trained on; a step's output is then the clip network's on the last so many.
    """

    def __init__(
        self, *, classes: int = 8, frames: int = 16, channels: int = 16, in_channels: int = 1, kernel: int = 3
    ) -> None:
        super().__init__()
        pool = frames - 2 * (kernel - 1)
        if pool < 1:
            raise ValueError(f"frames must be at least {2 * (kernel - 1) + 1}, got {frames}")
        self.net = continual(
            nn.Sequential(
                nn.Conv3d(in_channels, channels, (kernel, 3, 3), (1, 2, 2), (0, 1, 1)),
                nn.ReLU(),
                nn.Conv3d(channels, 2 * channels, (kernel, 3, 3), (1, 2, 2), (0, 1, 1)),
                nn.ReLU(),
                nn.AdaptiveAvgPool3d(1),
                nn.Linear(2 * channels, classes),
            ),
            window=pool,
        )


class CoOadTR(Network, Pretrained):
    """Features of one frame in, scores of actions out, from a window of 64; `(batch, features, time)`.

    As in the paper there is neither a class token nor the decoder of OadTR: the newest row is classified.

    Args:
        blocks: 1 (single-output attention) or 2 (retroactive, then single-output).
        features: of a frame: 4096 from networks trained on Kinetics, 3072 on ActivityNet.
    """

    def __init__(
        self, *, blocks: int = 2, features: int = 4096, classes: int = 22, d_model: int = 1024, n_heads: int = 8,
        d_mlp: int = 1024, window: int = 64,
    ) -> None:  # fmt: skip
        super().__init__()
        self.net = Sequential(
            Linear(features, d_model),
            RecyclingPositionalEncoding(d_model, 2 * window - 1, window=window),
            TransformerEncoder(d_model, n_heads, d_mlp, window, blocks=blocks),
            Linear(d_model, classes),
        )

    def forward(self, x: Tensor) -> Tensor:
        """One window; `(batch, classes, 1)`."""
        return super().forward(x)
