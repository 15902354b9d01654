"""The paper's networks before conversion, as `nn.Sequential`: VGG, ResNet-20, the DQN, and small ones."""

import itertools
import math

from torch import nn

from .architecture import Residual

__all__ = ["VGG_LAYERS", "dqn", "q_network", "resnet20", "small_conv", "vgg"]

_A = 0  # mean pooling
VGG_LAYERS: dict[str, tuple[int, ...]] = {
    "VGG4": (64, _A, 128, _A),
    "VGG6": (64, _A, 128, 128, _A),
    "VGG9": (64, _A, 128, 256, _A, 256, 512, _A, 512, _A, 512),
    "VGG11": (64, _A, 128, 256, _A, 512, 512, _A, 512, _A, 512, 512),
    "VGG16": (64, 64, _A, 128, 128, _A, 256, 256, 256, _A, 512, 512, 512, _A, 512, 512, 512),
}
"""widths of the convolutions; 0 is pooling, which takes the place of the dropout before it"""


def vgg(
    name: str = "VGG16",
    *,
    in_channels: int = 3,
    n_classes: int = 10,
    size: int = 32,
    width: float | int = 1.0,
    hidden: int | None = None,
    dropout: float | int = 0.5,
    batch_norm: bool = True,
    pool_last: bool = False,
) -> nn.Sequential:
    """A VGG with mean pooling, batch norm on the convolutions, and linear layers without bias.

    Args:
        size: height and width of the images.
        width: what all widths are multiplied by.
        hidden: of the linear layers (default: 4096, VGG4 1024).
        batch_norm: on the convolutions; without it they have no bias either.
        pool_last: also after the last convolution (the paper's for ImageNet, with size 224).

    Raises:
        ValueError: an unknown name, or images that are too small for its pooling.
    """
    if name not in VGG_LAYERS:
        raise ValueError(f"name must be one of {', '.join(VGG_LAYERS)}, got {name!r}")
    shape = (*VGG_LAYERS[name], *([_A] if pool_last and VGG_LAYERS[name][-1] != _A else []))
    pools = shape.count(_A)
    if size < 2**pools:
        raise ValueError(f"size must be at least {2**pools} for the {pools} poolings of {name}, got {size}")
    layers: list[nn.Module] = []
    channels, side = in_channels, size
    for wide in shape:
        if wide == _A:
            layers[-1] = nn.AvgPool2d(2)
            side //= 2
            continue
        out = max(1, round(wide * width))
        layers.append(nn.Conv2d(channels, out, 3, padding=1, bias=batch_norm))
        if batch_norm:
            layers.append(nn.BatchNorm2d(out))
        layers += [nn.ReLU(), nn.Dropout(dropout)]
        channels = out
    layers.append(nn.Flatten())
    inner = hidden or max(1, round((1024 if name == "VGG4" else 4096) * width))
    widths = [channels * side * side, *[inner] * (1 if name == "VGG4" else 2)]
    for before, after in itertools.pairwise(widths):
        layers += [nn.Linear(before, after, bias=False), nn.ReLU(), nn.Dropout(dropout)]
    layers.append(nn.Linear(inner, n_classes, bias=False))
    return _initialised(nn.Sequential(*layers))


def resnet20(
    *, in_channels: int = 3, n_classes: int = 10, size: int = 32, width: float | int = 1.0, dropout: float | int = 0.5
) -> nn.Sequential:
    """A stem of three convolutions and pooling, blocks [2, 2, 2, 2], shortcuts without ReLU added before the neuron.

    Raises:
        ValueError: images below 16 pixels.
    """
    if size < 16:
        raise ValueError(f"size must be at least 16, got {size}")
    widths = [max(1, round(w * width)) for w in (64, 128, 256, 512)]
    layers: list[nn.Module] = []
    for before in (in_channels, widths[0], widths[0]):
        layers += [*_conv(before, widths[0]), nn.ReLU(), nn.Dropout(dropout)]
    layers[-1] = nn.AvgPool2d(2)
    channels, side = widths[0], size // 2
    for stage, out in enumerate(widths):
        for block in range(2):
            stride = 2 if stage and not block else 1
            body = [*_conv(channels, out, stride), nn.ReLU(), nn.Dropout(dropout), *_conv(out, out)]
            same = stride == 1 and channels == out
            shortcut = [] if same else _conv(channels, out, stride, kernel=1)
            layers += [Residual(nn.Sequential(*body), nn.Sequential(*shortcut)), nn.ReLU()]
            channels = out
            side = -(-side // stride)
    layers += [nn.Flatten(), nn.Linear(channels * side * side, n_classes, bias=False)]
    return _initialised(nn.Sequential(*layers))


def small_conv(
    *, in_channels: int = 1, n_classes: int = 10, size: int = 16, width: int = 12, dropout: float | int = 0.0
) -> nn.Sequential:
    """Two convolutions with batch norm and pooling, a hidden layer: seconds to train on small images.

    Raises:
        ValueError: images below 4 pixels.
    """
    if size < 4:
        raise ValueError(f"size must be at least 4, got {size}")
    return _initialised(
        nn.Sequential(
            *_conv(in_channels, width), nn.ReLU(), nn.AvgPool2d(2),
            *_conv(width, 2 * width), nn.ReLU(), nn.AvgPool2d(2), nn.Dropout(dropout),
            nn.Flatten(), nn.Linear(2 * width * (size // 4) ** 2, 64), nn.ReLU(), nn.Dropout(dropout),
            nn.Linear(64, n_classes),
        )
    )  # fmt: skip


def dqn(*, in_channels: int = 1, n_actions: int = 6) -> nn.Sequential:
    """The Q-network of the paper for 84 × 84 frames: 8×8/4, 4×4/2, 3×3/1 convolutions, 512, no biases."""
    return nn.Sequential(
        nn.Conv2d(in_channels, 32, 8, 4, bias=False), nn.ReLU(),
        nn.Conv2d(32, 64, 4, 2, bias=False), nn.ReLU(),
        nn.Conv2d(64, 64, 3, 1, bias=False), nn.ReLU(),
        nn.Flatten(), nn.Linear(64 * 7 * 7, 512, bias=False), nn.ReLU(), nn.Linear(512, n_actions, bias=False),
    )  # fmt: skip


def q_network(*, n_observations: int, n_actions: int, hidden: int = 128) -> nn.Sequential:
    """A Q-network for observations that are vectors, such as CartPole's."""
    return nn.Sequential(
        nn.Linear(n_observations, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, n_actions)
    )


def _conv(before: int, after: int, stride: int = 1, kernel: int = 3) -> list[nn.Module]:
    return [nn.Conv2d(before, after, kernel, stride, kernel // 2), nn.BatchNorm2d(after)]


def _initialised(model: nn.Sequential) -> nn.Sequential:
    """He's rule on the convolutions; linear layers as torch does (the code's rule for them is never reached)."""
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.normal_(layer.weight, std=math.sqrt(2 / (layer.kernel_size[0] ** 2 * layer.out_channels)))
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    return model
