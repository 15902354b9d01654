"""CoST-GCN and its kin: graph networks over the joints of a skeleton, in steps (arXiv 2203.11009)."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from shared_impl.pretrained import Pretrained

from .container import Residual, Sequential
from .conv import Conv2d
from .module import Continual
from .pointwise import BatchNorm1d, BatchNorm2d, Linear, Pointwise
from .pool import GlobalAvgPool
from .video import Network

__all__ = ["NTU_BONES", "CoSTGCN", "GraphConv", "SpatialAttention", "partitions"]

NTU_BONES = (
    (1, 2), (2, 21), (3, 21), (4, 3), (5, 21), (6, 5), (7, 6), (8, 7), (9, 21), (10, 9), (11, 10), (12, 11), (13, 1),
    (14, 13), (15, 14), (16, 15), (17, 1), (18, 17), (19, 18), (20, 19), (22, 23), (23, 8), (24, 25), (25, 12),
)  # fmt: skip
"""(joint, joint nearer the centre), 25 joints counted from 1, centre 21"""


def partitions(bones: Sequence[Sequence[int]] = NTU_BONES, joints: int = 25) -> Float[Tensor, "3 joints joints"]:
    """Itself, inward and outward adjacency, columns normalised to one."""
    inward = torch.zeros(joints, joints)
    for outer, inner in bones:
        if not (1 <= outer <= joints and 1 <= inner <= joints):
            raise ValueError(f"bones must join joints 1 to {joints}, got {(outer, inner)}")
        inward[inner - 1, outer - 1] = 1
    parts = [torch.eye(joints), inward, inward.T]
    return torch.stack([part / part.sum(0).clamp(min=1) for part in parts])


class _Spatial(Continual, nn.Module):
    """What acts on each skeleton alone: `_mix` of `(batch, channels, joints)`, a norm, a shortcut, ReLU."""

    norm: BatchNorm2d
    shortcut: Any

    def _mix(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        b, c, t, v = x.shape
        y = self._mix(x.transpose(1, 2).reshape(b * t, c, v)).unflatten(0, (b, t)).transpose(1, 2)
        return self._finish(self.norm, y, x, lambda: self.shortcut(x))

    def on_slice(self, x: Tensor) -> Tensor:
        return self._finish(self.norm.on_slice, self._mix(x), x, lambda: self.shortcut.advance(x, {}))

    def _finish(self, norm: Any, y: Tensor, x: Tensor, projected: Callable[[], Tensor]) -> Tensor:
        return torch.relu(norm(y) + (x if self.shortcut is None else projected()))


class GraphConv(_Spatial):
    """relu(bn(sum_i W_i x (A_i * M_i)) + x), M learned, from 1.

    `adaptive` (A-GCN): A_i + B_i + softmax(theta' phi / c) instead, B learned, from nearly 0, the softmax of each
    skeleton by itself.
    """

    def __init__(self, inside: int, out: int, graph: Tensor, *, adaptive: bool = False) -> None:
        super().__init__()
        self.register_buffer("graph", graph.clone())
        self.mask = nn.Parameter(torch.full_like(graph, 1e-6) if adaptive else torch.ones_like(graph))
        self.weights = nn.ModuleList(nn.Conv1d(inside, out, 1) for _ in graph)
        self.adaptive = adaptive
        if adaptive:
            self.theta = nn.ModuleList(nn.Conv1d(inside, out // 4, 1) for _ in graph)
            self.phi = nn.ModuleList(nn.Conv1d(inside, out // 4, 1) for _ in graph)
        self.shortcut = Sequential(Conv2d(inside, out, 1), BatchNorm2d(out)) if inside != out else None
        self.norm = BatchNorm2d(out)

    def _mix(self, x: Tensor) -> Tensor:
        graph: Any = self.graph
        total: Any = 0
        for i, weight in enumerate(self.weights):
            if self.adaptive:
                theta, phi = self.theta[i](x), self.phi[i](x)
                a = graph[i] + self.mask[i] + (theta.transpose(1, 2) @ phi / theta.shape[1]).softmax(-2)
            else:
                a = graph[i] * self.mask[i]
            total = total + weight(x @ a)
        return total  # type: ignore[no-any-return]


class SpatialAttention(_Spatial):
    """Self-attention over the joints of a slice (S-TR), relu(bn(attention + x)), where the graph convolution stood."""

    def __init__(self, inside: int, out: int, joints: int, *, heads: int = 8) -> None:
        super().__init__()
        if out // 4 % heads:
            raise ValueError(f"a quarter of out must be a multiple of the {heads} heads, got out={out}")
        self.heads = heads
        self.before, self.norm = BatchNorm1d(inside * joints), BatchNorm2d(out)
        self.qkv = nn.Conv1d(inside, 2 * (out // 4) + out, 1)
        self.sizes = (out // 4, out // 4, out)
        self.out = nn.Conv1d(out, out, 1)
        self.same = inside == out

    def _mix(self, x: Tensor) -> Tensor:
        parts = self.qkv(self.before(x.flatten(1)).view_as(x)).split(self.sizes, 1)
        q, k, v = (part.unflatten(1, (self.heads, -1)) for part in parts)
        weights = (q.transpose(2, 3) @ k / q.shape[2] ** 0.5).softmax(-1)
        return self.out((v @ weights.transpose(2, 3)).flatten(1, 2))  # type: ignore[no-any-return]

    def _finish(self, norm: Any, y: Tensor, x: Tensor, projected: Callable[[], Tensor]) -> Tensor:
        return torch.relu(norm(y + x if self.same else y))


class _People(Continual, nn.Module):
    """People into the batch, and the normalisation of the data over people, joints and coordinates."""

    def __init__(self, channels: int, joints: int, people: int) -> None:
        super().__init__()
        self.shape = (channels, joints, people)
        self.norm = BatchNorm1d(people * joints * channels)

    def _checked(self, x: Tensor, time: tuple[str, ...]) -> Tensor:
        channels, joints, people = self.shape
        if x.ndim != 4 + len(time) or (x.shape[1], *x.shape[-2:]) != self.shape:
            wanted = ", ".join(("batch", str(channels), *time, f"{joints} joints", f"{people} people"))
            raise ValueError(f"x must be ({wanted}), got {tuple(x.shape)}")
        return x

    def forward(self, x: Tensor) -> Tensor:
        b, c, t, v, m = self._checked(x, ("time",)).shape
        y = self.norm(x.permute(0, 4, 3, 1, 2).reshape(b, m * v * c, t))
        return y.reshape(b * m, v, c, t).permute(0, 2, 3, 1)

    def on_slice(self, x: Tensor) -> Tensor:
        b, c, v, m = self._checked(x, ()).shape
        y = self.norm.on_slice(x.permute(0, 3, 2, 1).reshape(b, m * v * c))
        return y.reshape(b * m, v, c).transpose(1, 2)


class _Mean(Continual, nn.Module):
    def __init__(self, people: int) -> None:
        super().__init__()
        self.people = people

    def forward(self, x: Tensor) -> Tensor:
        return x.unflatten(0, (-1, self.people)).mean(1)

    on_slice = forward


class CoSTGCN(Network, Pretrained):
    """Ten blocks of a graph convolution and a 9x1 continual convolution; `(batch, 3, time, joints, people)`.

    All variants of one kind have the same parameters by the same names: `load_state_dict` takes a network that was
    trained on clips over to `mod`.

    Args:
        kind: "st-gcn", "a-gcn" (adaptive graph) or "s-tr" (attention over joints from the fourth block on).
        mod: stride 1 and no padding in time, so that each frame gives an output (`_mod` in the paper).
        window: of the last pool, in slices at its place (300 frames at strides 2 and 2: 75).
        bones: the graph, pairs (joint, joint nearer the centre) counted from 1; default: the 25 joints of NTU RGB+D.
        widths: channels of the blocks.
        kernel: of the convolutions in time, odd.
    """

    def __init__(
        self, *, classes: int = 60, in_channels: int = 3, joints: int = 25, people: int = 2, kind: str = "st-gcn",
        mod: bool = False, window: int = 75, bones: Sequence[Sequence[int]] = NTU_BONES,
        widths: Sequence[int] = (64,) * 4 + (128,) * 3 + (256,) * 3, kernel: int = 9,
    ) -> None:  # fmt: skip
        super().__init__()
        if kind not in ("st-gcn", "a-gcn", "s-tr"):
            raise ValueError(f"kind must be st-gcn, a-gcn or s-tr, got {kind!r}")
        if kernel % 2 == 0:
            raise ValueError(f"kernel must be odd, got {kernel}")
        if bones is NTU_BONES and joints != 25:
            raise ValueError(f"bones must be given for other joints than the 25 of NTU RGB+D, got joints={joints}")
        graph, relu = partitions(bones, joints), Pointwise(nn.ReLU())
        layers: list[nn.Module] = [_People(in_channels, joints, people)]
        inside = in_channels
        for i, out in enumerate(widths):
            stride = 2 if not mod and i and out != widths[i - 1] else 1
            if kind == "s-tr" and i >= 3:
                space: nn.Module = SpatialAttention(inside, out, joints)
            else:
                space = GraphConv(inside, out, graph, adaptive=kind == "a-gcn")
            pad = 0 if mod else kernel // 2
            body = Sequential(space, Conv2d(out, out, (kernel, 1), (stride, 1), (pad, 0)), BatchNorm2d(out))
            skip = None if inside == out else Sequential(Conv2d(inside, out, 1), BatchNorm2d(out))
            layers.append(Residual(body, shrink="centred" if mod else None, skip=skip) if i else body)
            layers.append(relu)
            inside = out
        self.net = Sequential(*layers, GlobalAvgPool(window), _Mean(people), Linear(inside, classes))
