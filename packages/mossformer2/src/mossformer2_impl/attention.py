"""The attention module: gates, a single head that is shared by two values, local within groups and global over all."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from .convolution import depthwise

__all__ = [
    "FFConvM",
    "JointAttention",
    "ScaleNorm",
    "joint_attention",
    "joint_attention_naive",
    "rotate",
    "side_by_side",
]

Frames = Float[Tensor, "batch frames channels"]
Keys = Float[Tensor, "batch frames d_qk"]
ROTATED = 32
"""leading dimensions of queries and keys that the rotary code turns"""


class ScaleNorm(nn.Module):
    """g x / max(||x|| / sqrt(d), eps), with one learned g."""

    def __init__(self, d: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.g = nn.Parameter(torch.ones(1))

    def bare(self, x: Frames) -> Frames:
        """Without g."""
        return x / (x.norm(dim=-1, keepdim=True) * x.shape[-1] ** -0.5).clamp(min=self.eps)

    def forward(self, x: Frames) -> Frames:
        return self.bare(x) * self.g


class FFConvM(nn.Module):
    """Norm, linear, SiLU, y + depthwise convolution of y over 17 frames, dropout (section 3 of MossFormer).

    Args:
        norm: "scale" (`ScaleNorm`) or "layer".
        causal: the convolution looks back only.
    """

    def __init__(
        self, d_in: int, d_out: int, *, norm: str = "layer", kernel: int = 17, dropout: float = 0.1,
        causal: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        if norm not in ("scale", "layer"):
            raise ValueError(f"norm must be scale or layer, got {norm!r}")
        if kernel < 1 or kernel % 2 == 0:
            raise ValueError(f"kernel must be odd and positive, got {kernel}")
        self.norm: ScaleNorm | nn.LayerNorm = ScaleNorm(d_in) if norm == "scale" else nn.LayerNorm(d_in)
        self.linear = nn.Linear(d_in, d_out)
        self.conv = nn.Conv1d(d_out, d_out, kernel, groups=d_out, bias=False)
        self.dropout, self.causal = dropout, causal

    def forward(self, x: Frames) -> Float[Tensor, "batch frames d_out"]:
        return side_by_side(x, [self])

    def folded(self) -> tuple[Tensor, Tensor, Tensor]:
        """Weight and bias that take the norm's own weights in, and the kernel that takes the residual in."""
        weight: Tensor = self.linear.weight
        bias: Tensor = self.linear.bias
        if isinstance(self.norm, ScaleNorm):
            weight = weight * self.norm.g
        else:
            bias = bias + weight @ self.norm.bias
            weight = weight * self.norm.weight
        kernel = self.conv.weight[:, 0]
        middle = kernel.shape[1] - 1 if self.causal else kernel.shape[1] // 2
        one = torch.zeros_like(kernel[:1])
        one[:, middle] = 1
        return weight, bias, kernel + one


def side_by_side(x: Frames, modules: Sequence[FFConvM]) -> Float[Tensor, "batch frames d_out"]:
    """Outputs of several `FFConvM` of one input and kind, next to each other: one norm, product, convolution."""
    first = modules[0]
    bare = first.norm.bare(x) if isinstance(first.norm, ScaleNorm) else F.layer_norm(x, x.shape[-1:])
    folded = zip(*(m.folded() for m in modules), strict=True)
    parts = [torch.cat(list(part)) if len(modules) > 1 else part[0] for part in folded]
    y = F.silu(F.linear(bare, parts[0], parts[1]))
    return F.dropout(depthwise(y, parts[2], causal=first.causal), first.dropout, first.training)


def rotate(x: Float[Tensor, "batch frames heads d"], dims: int = ROTATED) -> Float[Tensor, "batch frames heads d"]:
    """The rotary code: pairs of the first `dims` dimensions turned by frame / 10000^(pair / pairs)."""
    dims = min(dims, x.shape[-1]) // 2 * 2
    angle = _angles(x.shape[1], dims, x)[:, None]
    cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    even, odd = x[..., 0:dims:2], x[..., 1:dims:2]
    turned = torch.stack([even * cos - odd * sin, odd * cos + even * sin], -1).flatten(-2)
    return torch.cat([turned, x[..., dims:]], -1)


def joint_attention_naive(
    q: Keys, q_global: Keys, k: Keys, k_global: Keys, values: Frames, group: int, *, causal: bool = False
) -> Frames:  # fmt: skip
    """All frames against all: relu(q k / P)^2 within groups of P frames, and q' k' / S everywhere (or, causal, over P
    and in earlier groups only, with a triangle within groups)."""
    frames = q.shape[1]
    place = torch.arange(frames, device=q.device)
    same = place[:, None] // group == place // group
    local = (q @ k.mT / group).relu().square() * same
    over_all = q_global @ k_global.mT / frames
    if causal:
        local = local * (place[:, None] >= place)
        over_all = q_global @ k_global.mT / group * (place[:, None] // group > place // group)
    return (local + over_all) @ values


def joint_attention(
    q: Keys, q_global: Keys, k: Keys, k_global: Keys, values: Frames, group: int, *, causal: bool = False,
    dropout: float = 0.0,
) -> Frames:  # fmt: skip
    """`joint_attention_naive` in time linear in frames: whole groups as a batch, the rest as a shorter one, and the
    global part as q' (k'^T v).

    Args:
        dropout: of the local weights.
    """
    batch, frames, _ = q.shape
    n = frames // group
    if causal:
        kv, rest = _before(k_global, values, group)
        parts = [] if n == 0 else [_groups(q_global, n, group) @ kv]
        if frames > n * group:
            parts.append(q_global[:, n * group :] @ rest)
    else:
        kv = k_global.mT @ values / frames
        whole = q_global @ kv
        parts = [] if n == 0 else [_groups(whole, n, group)]
        if frames > n * group:
            parts.append(whole[:, n * group :])
    found = []
    for i, part in enumerate(parts):
        grouped = n > 0 and i == 0
        own = [_groups(x, n, group) if grouped else x[:, n * group :] for x in (q, k, values)]
        # 1 / P goes to the smaller factor
        weight = ((own[0] / group) @ own[1].mT).relu().square()
        if causal:
            weight = weight.tril()
        weight = F.dropout(weight, dropout, dropout > 0)
        found.append(torch.baddbmm(part, weight, own[2]).reshape(batch, -1, values.shape[2]))
    return found[0] if len(found) == 1 else torch.cat(found, 1)


def _groups(x: Tensor, n: int, group: int) -> Tensor:
    return x[:, : n * group].reshape(len(x) * n, group, x.shape[2])


def _before(keys: Tensor, values: Tensor, group: int) -> tuple[Tensor, Tensor]:
    """Sums of k v over earlier groups, for each group and for what comes after the last whole one; over P."""
    batch, n = len(keys), keys.shape[1] // group
    each = (_groups(keys, n, group).mT @ _groups(values, n, group)).unflatten(0, (batch, n)) / group
    total = F.pad(each, (0, 0, 0, 0, 1, 0)).cumsum(1)
    return total[:, :n].flatten(0, 1), total[:, n]


class JointAttention(nn.Module):
    """Frames mixed by joint local and global attention with gates; residual (section 2.2).

    With v, u of one `FFConvM` and shared queries and keys: o = (A u * v) * sigmoid(A v * u).

    Args:
        d_model: channels; even.
        d_qk: of queries and keys.
        group: frames P of a local group.
        dropout: of local weights and of the outputs of each `FFConvM`.
        fast: False: the quadratic form, for comparison.
    """

    def __init__(
        self, d_model: int, d_qk: int = 128, group: int = 256, *, expansion: int = 4, dropout: float = 0.1,
        causal: bool = False, fast: bool = True,
    ) -> None:  # fmt: skip
        super().__init__()
        for name, value in (("d_model", d_model), ("d_qk", d_qk), ("group", group), ("expansion", expansion)):
            if value < 1:
                raise ValueError(f"{name} must be positive, got {value}")
        if d_model % 2:
            raise ValueError(f"d_model must be even, got {d_model}")
        inner = expansion * d_model
        how = {"norm": "scale", "dropout": dropout, "causal": causal}
        self.to_hidden = FFConvM(d_model, inner, **how)  # type: ignore[arg-type]
        self.to_qk = FFConvM(d_model, d_qk, **how)  # type: ignore[arg-type]
        self.gamma = nn.Parameter(0.02 * torch.randn(4, d_qk))
        self.beta = nn.Parameter(torch.zeros(4, d_qk))
        self.to_out = FFConvM(inner // 2, d_model, **how)  # type: ignore[arg-type]
        self.group, self.dropout, self.causal, self.fast = group, dropout, causal, fast

    def forward(self, x: Frames) -> Frames:
        """What the module adds, added."""
        half = x.shape[2] // 2
        # token shift: the first half of the channels comes from the frame before
        shifted = torch.cat([F.pad(x[:, :-1, :half], (0, 0, 1, 0)), x[..., half:]], -1)
        d_qk = self.gamma.shape[1]
        both = side_by_side(shifted, [self.to_hidden, self.to_qk])
        values, z = both[..., :-d_qk], both[..., -d_qk:]
        heads = rotate(z.unsqueeze(2) * self.gamma + self.beta)
        q, q_global, k, k_global = heads.unbind(2)
        if self.fast:
            dropout = self.dropout if self.training else 0.0
            mixed = joint_attention(q, q_global, k, k_global, values, self.group, causal=self.causal, dropout=dropout)
        else:
            mixed = joint_attention_naive(q, q_global, k, k_global, values, self.group, causal=self.causal)
        v, u = values.chunk(2, -1)
        mixed_v, mixed_u = mixed.chunk(2, -1)
        return x + self.to_out((mixed_u * v) * torch.sigmoid(mixed_v * u))


def sinusoids(frames: int, d: int, *, device: torch.device, dtype: torch.dtype) -> Float[Tensor, "frames d"]:
    """sin and cos of frame / 10000^(i / (d / 2)), one after the other."""
    angle = _angles(frames, d, torch.empty(0, device=device, dtype=dtype))
    return torch.cat([angle.sin(), angle.cos()], -1)[:, :d].to(dtype)


def _angles(frames: int, d: int, like: Tensor) -> Tensor:
    """frame / 10000^(i / (d / 2)); the divisors are float32, as the official code keeps them."""
    divisor = 10000 ** (torch.arange(0, d, 2, device=like.device).float() / max(d, 1))
    kind = torch.float64 if like.dtype == torch.float64 else torch.float32
    return torch.arange(frames, device=like.device, dtype=kind)[:, None] * (1.0 / divisor).to(kind)
