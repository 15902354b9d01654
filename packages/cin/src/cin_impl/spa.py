"""Structured Pruning Adapters (arXiv 2211.10155): adapt a frozen network while its channels are pruned.

An adapter keeps the source weight W as it is and learns a small change that can be pruned by rows and columns as W can;
afterwards both are fused into one smaller plain layer.
"""

import copy
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = [
    "Adapter", "FineTuning", "SPLoPA", "SPLoRA", "SPPaRA", "adapt", "block_scores", "channel_scores", "cubic_schedule",
    "fuse", "keep_best", "learned_parameters", "prune_blocks", "prune_chain",
    "shared_prototypes",
]  # fmt: skip


class Adapter(nn.Module):
    """A frozen Linear or convolution with a learned change of its weight.

    Raises:
        ValueError: a module of another kind; a convolution with groups or an even kernel, which has no centre tap.
    """

    mask_block: Any

    def __init__(self, source: nn.Module) -> None:
        super().__init__()
        if not isinstance(source, _ADAPTED):
            raise ValueError(f"source must be Linear or Conv1d to Conv3d, got {type(source).__name__}")
        self._like = [copy.deepcopy(source)]
        if not isinstance(source, nn.Linear):
            if source.padding_mode != "zeros":
                raise ValueError(f"padding_mode must be 'zeros' to be adapted, got {source.padding_mode!r}")
            if source.groups != 1:
                raise ValueError(f"groups must be 1 to be adapted, got {source.groups}")
            if any(k % 2 == 0 for k in source.kernel_size) or len(set(source.kernel_size)) > 1:
                raise ValueError(f"kernel_size must be odd and equal in all directions, got {source.kernel_size}")
        self.weight = nn.Parameter(source.weight.detach().clone(), requires_grad=False)
        self.bias = None if source.bias is None else nn.Parameter(source.bias.detach().clone())
        out, inside = self.weight.shape[:2]
        self.register_buffer("mask_out", torch.ones(out, dtype=torch.bool))
        self.register_buffer("mask_in", torch.ones(inside, dtype=torch.bool))
        self.register_buffer("mask_block", None)

    def change(self) -> Tensor:
        """The learned change, (out, in), not pruned."""
        raise NotImplementedError

    def _adapted(self) -> Tensor:
        delta = self.change()
        if self.weight.ndim == 2:
            return self.weight + delta
        # only the centre tap learns
        pad = [k // 2 for k in reversed(self.weight.shape[2:]) for _ in range(2)]
        return self.weight + F.pad(delta.reshape(*delta.shape, *(1,) * (self.weight.ndim - 2)), pad)

    def effective_weight(self) -> Tensor:
        """(W + change)[mask_out][:, mask_in], pruned blocks zero."""
        weight, mask = self._adapted(), self._spread()
        return (weight if mask is None else weight * mask)[self.mask_out][:, self.mask_in]  # type: ignore[index]

    def _spread(self) -> Tensor | None:
        """The mask of blocks over the weight."""
        mask: Any = self.mask_block
        if mask is None:
            return None
        out, inside = self.weight.shape[:2]
        mask = mask.repeat_interleave(out // mask.shape[0], 0).repeat_interleave(inside // mask.shape[1], 1)
        return mask.reshape(out, inside, *(1,) * (self.weight.ndim - 2))  # type: ignore[no-any-return]

    def _run(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        like: Any = self._like[0]
        if isinstance(like, nn.Linear):
            return F.linear(x, weight, bias)
        convolve = {3: F.conv1d, 4: F.conv2d, 5: F.conv3d}[weight.ndim]
        return convolve(x, weight, bias, like.stride, like.padding, like.dilation)  # type: ignore[operator,no-any-return]

    def forward(self, x: Tensor) -> Tensor:
        bias = None if self.bias is None else self.bias[self.mask_out]  # type: ignore[index]
        return self._run(x, self.effective_weight(), bias)

    def prune(self, mask_out: Bool[Tensor, "out"] | None = None, mask_in: Bool[Tensor, "inside"] | None = None) -> None:
        """Keep these outputs and inputs; masks are over those of the source, and only ever take away.

        Raises:
            ValueError: a mask of another length, or one that leaves nothing.
        """
        for name, mask in (("mask_out", mask_out), ("mask_in", mask_in)):
            if mask is None:
                continue
            own: Any = getattr(self, name)
            if mask.shape != own.shape:
                raise ValueError(f"{name} must have length {len(own)}, got {tuple(mask.shape)}")
            kept = own & mask.to(own.device)
            if not kept.any():
                raise ValueError(f"{name} must keep at least one channel, got none")
            own.copy_(kept)

    def prune_blocks(self, mask: Bool[Tensor, "rows columns"]) -> None:
        """Keep these blocks of the weight; the others are zero from now on.

        Raises:
            ValueError: a mask that does not divide the weight, or of another shape than before.
        """
        out, inside = self.weight.shape[:2]
        before: Any = self.mask_block
        if out % mask.shape[0] or inside % mask.shape[1] or (before is not None and before.shape != mask.shape):
            raise ValueError(f"mask must divide the weight's {out} x {inside} as before, got {tuple(mask.shape)}")
        self.mask_block = mask.clone() if before is None else before & mask

    def fuse(self) -> nn.Module:
        """A plain layer of the pruned sizes with the adapted weights."""
        plain: Any = copy.deepcopy(self._like[0])
        with torch.no_grad():
            plain.weight = nn.Parameter(self.effective_weight().clone())
            if self.bias is not None:
                plain.bias = nn.Parameter(self.bias[self.mask_out].clone())  # type: ignore[index]
        out, inside = plain.weight.shape[:2]
        if isinstance(plain, nn.Linear):
            plain.out_features, plain.in_features = out, inside
        else:
            plain.out_channels, plain.in_channels = out, inside
        return plain

    def learned(self) -> int:
        """Learned numbers that are left after pruning, biases among them; the masks' bits come on top."""
        raise NotImplementedError

    def shared(self) -> nn.Module | None:
        """What it learns in common with other adapters, if anything; `learned` has it too."""
        return None

    def _kept(self) -> tuple[int, int]:
        return int(self.mask_out.sum()), int(self.mask_in.sum())  # type: ignore[operator]

    def _biases(self) -> int:
        return 0 if self.bias is None else self._kept()[0]


class FineTuning(Adapter):
    """No adapter: the weight itself learns. What adapters are compared with, pruned in the same way."""

    def __init__(self, source: nn.Module) -> None:
        super().__init__(source)
        self.weight.requires_grad_(True)

    def _adapted(self) -> Tensor:
        return self.weight

    def learned(self) -> int:
        mask = self._spread()
        ones = torch.ones_like(self.weight, dtype=torch.bool)
        kept = (ones if mask is None else ones & mask)[self.mask_out][:, self.mask_in]  # type: ignore[index]
        return int(kept.sum()) + self._biases()


class SPLoRA(Adapter):
    """W + U D of low rank: U (out, r) near zero, D (r, in); r (|m_o| + |m_i|) learned numbers.

    Args:
        rank: a number, or below 1 a fraction of the outputs.
    """

    def __init__(self, source: nn.Module, rank: float | int = 8) -> None:
        super().__init__(source)
        out, inside = self.weight.shape[:2]
        if not rank > 0 or (rank >= 1 and rank != int(rank)):
            raise ValueError(f"rank must be a positive integer or a fraction of the outputs below 1, got {rank}")
        self.rank = max(1, round(rank * out)) if rank < 1 else int(rank)
        self.up = nn.Parameter(self.weight.new_empty(out, self.rank).uniform_(-1e-4, 1e-4))
        self.down = nn.Parameter(self.weight.new_empty(self.rank, inside))
        nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))

    def change(self) -> Tensor:
        return self.up @ self.down

    def learned(self) -> int:
        return self.rank * sum(self._kept()) + self._biases()


class SPPaRA(Adapter):
    """W + P, P a full (out, in) matrix: a parallel 1x1 convolution; |m_o| |m_i| learned numbers."""

    def __init__(self, source: nn.Module) -> None:
        super().__init__(source)
        self.parallel = nn.Parameter(self.weight.new_empty(self.weight.shape[:2]).uniform_(-1e-4, 1e-4))

    def change(self) -> Tensor:
        return self.parallel

    def learned(self) -> int:
        out, inside = self._kept()
        return out * inside + self._biases()


def shared_prototypes(count: int = 64, block: int = 32) -> nn.ParameterList:
    """Prototypes of blocks, for several `SPLoPA` to share."""
    return nn.ParameterList(
        nn.Parameter(torch.empty(shape).uniform_(-1, 1) / block**0.5)
        for shape in ((count, block, 1), (count, 1, block))
    )


class SPLoPA(Adapter):
    """W + sum_p A_p (x) (u_p v_p'): blocks of one size, each a mix of shared prototypes of rank one; for block pruning.

    Args:
        prototypes: (prototypes, block, 1) and (prototypes, 1, block) shared by several adapters; None makes own ones.
    """

    def __init__(
        self, source: nn.Module, *, block: int = 32, count: int = 64, prototypes: nn.ParameterList | None = None
    ) -> None:
        super().__init__(source)
        out, inside = self.weight.shape[:2]
        if out % block or inside % block:
            raise ValueError(f"block must divide the weight's {out} x {inside}, got {block}")
        if prototypes is None:
            prototypes = shared_prototypes(count, block)
        if prototypes[0].shape[1:] != (block, 1) or prototypes[1].shape[1:] != (1, block):
            raise ValueError(f"prototypes must be of blocks of {block}, got {tuple(prototypes[0].shape)}")
        self.prototypes, self.block = prototypes, block
        self.mix = nn.Parameter(self.weight.new_empty(prototypes[0].shape[0], out // block, inside // block))
        self.mask_block = torch.ones(out // block, inside // block, dtype=torch.bool)
        nn.init.uniform_(self.mix, -1e-4, 1e-4)

    def change(self) -> Tensor:
        shapes = self.prototypes[0] * self.prototypes[1]
        return torch.einsum("pij,pab->iajb", self.mix, shapes).reshape(self.weight.shape[:2])

    def learned(self) -> int:
        shared = sum(p.numel() for p in self.prototypes)
        return int(self.mask_block.sum()) * self.mix.shape[0] + shared + self._biases()  # type: ignore[operator]

    def shared(self) -> nn.Module:
        return self.prototypes


_ADAPTED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


def adapt(model: nn.Module, make: Callable[[nn.Module], Adapter], *, skip: tuple[str, ...] = ()) -> nn.Module:
    """A copy of the model whose Linear and convolution layers are adapters; all else but biases is frozen.

    Raises:
        ValueError: the model is one layer, not a tree; a layer that torch.nn's attention or encoder reads the weight of
            without calling it, so that an adapter would be passed over: name it in `skip`.
    """
    if isinstance(model, _ADAPTED):
        raise ValueError(f"model must contain layers, got a single {type(model).__name__}; wrap it in nn.Sequential")
    model = copy.deepcopy(model)
    model.requires_grad_(False)

    def adapter(name: str, module: nn.Module, parent: nn.Module) -> nn.Module | None:
        if name in skip or not isinstance(module, _ADAPTED):
            return None
        if isinstance(parent, nn.MultiheadAttention | nn.TransformerEncoderLayer):
            raise ValueError(f"{name}'s weight is read without a call, past any adapter; give skip=({name!r}, ...)")
        return make(module)

    return _replaced(model, adapter)


def fuse(model: nn.Module) -> nn.Module:
    """A copy of the model with plain layers in the place of its adapters."""
    if isinstance(model, Adapter):
        return model.fuse()
    return _replaced(copy.deepcopy(model), lambda _, module, __: module.fuse() if isinstance(module, Adapter) else None)


def _replaced(model: nn.Module, by: Callable[[str, nn.Module, nn.Module], nn.Module | None]) -> nn.Module:
    """The model, in place, with `by(name, module, parent)` for modules for which it is not None."""
    for name, module in list(model.named_modules())[1:]:
        parent, _, leaf = name.rpartition(".")
        new = by(name, module, model.get_submodule(parent))
        if new is not None:
            setattr(model.get_submodule(parent), leaf, new)
    return model


def learned_parameters(model: nn.Module) -> int:
    """Learned numbers of all adapters after pruning; what several share counts once."""
    adapters = [module for module in model.modules() if isinstance(module, Adapter)]
    shared = [part for part in (adapter.shared() for adapter in adapters) if part is not None]
    sizes = [sum(p.numel() for p in part.parameters()) for part in shared]
    once = sum(dict(zip(map(id, shared), sizes, strict=True)).values())
    return sum(adapter.learned() for adapter in adapters) - sum(sizes) + once


def keep_best(scores: Float[Tensor, "channels"], density: float) -> Bool[Tensor, "channels"]:
    """The mask that keeps the best `density` of the channels, one at least."""
    if not 0 < density <= 1:
        raise ValueError(f"density must lie in (0, 1], got {density}")
    count = max(1, round(density * len(scores)))
    mask = torch.zeros(len(scores), dtype=torch.bool)
    mask[scores.topk(count).indices.cpu()] = True
    return mask


def cubic_schedule(step: int, steps: int, final_density: float) -> float:
    """Density after `step` of `steps`: 1 - (1 - final)(1 - (1 - step / steps)^3)."""
    if steps < 1 or not 0 <= step <= steps:
        raise ValueError(f"step must lie in [0, steps] with steps >= 1, got {step} of {steps}")
    return 1 - (1 - final_density) * (1 - (1 - step / steps) ** 3)


def channel_scores(
    model: nn.Module, layer: nn.Module, criterion: str, x: Tensor | None = None, y: Tensor | None = None
) -> Float[Tensor, "channels"]:
    """How much each output channel of a layer matters; -1 for those that are pruned already.

    Args:
        criterion: "magnitude" of its weights; "taylor", |activation * gradient of the loss| over a batch; "lrp", the
            relevance |activation * gradient of the true class's logit|, which is LRP-0 in networks of ReLU.
        x: the batch; needed but for the magnitude.
        y: its labels.
    """
    mask: Any = getattr(layer, "mask_out", None)
    if criterion == "magnitude":
        weight: Any = layer._adapted()[:, layer.mask_in] if isinstance(layer, Adapter) else layer.weight  # type: ignore[index]
        scores = weight.detach().flatten(1).norm(dim=1)
        return scores if mask is None else scores.masked_fill(~mask, -1.0)
    if criterion not in ("taylor", "lrp"):
        raise ValueError(f"criterion must be magnitude, taylor or lrp, got {criterion!r}")
    if x is None or y is None:
        raise ValueError(f"criterion {criterion} needs a batch, x and y")
    seen: list[Tensor] = []
    hook = layer.register_forward_hook(lambda _m, _i, out: seen.append(out))
    try:
        with torch.enable_grad():
            logits = model(x)
            goal = F.cross_entropy(logits, y) if criterion == "taylor" else logits.gather(1, y[:, None]).sum()
            (gradient,) = torch.autograd.grad(goal, seen[0])
    finally:
        hook.remove()
    relevance = (seen[0] * gradient).detach()
    relevance = relevance.flatten(2).sum(2) if relevance.ndim > 2 else relevance
    kept = relevance.abs().mean(0)
    if mask is None:
        return kept
    whole = kept.new_full((len(mask),), -1.0)
    whole[mask] = kept
    return whole


def block_scores(weight: Float[Tensor, "out inside"], block: int) -> Float[Tensor, "rows columns"]:
    """Magnitude of each block of a weight."""
    if weight.shape[0] % block or weight.shape[1] % block:
        raise ValueError(f"block must divide the weight's {tuple(weight.shape)}, got {block}")
    return weight.unflatten(0, (-1, block)).unflatten(2, (-1, block)).square().sum((1, 3)).sqrt()


def prune_blocks(adapters: Sequence[Adapter], density: float, block: int) -> None:
    """Keep the blocks of the greatest magnitude, over all these adapters together."""
    weights = [adapter._adapted().detach() for adapter in adapters]
    scores = [block_scores(w.flatten(2).norm(dim=2) if w.ndim > 2 else w, block) for w in weights]
    # what is gone stays gone, and does not count among the best
    scores = [
        score if adapter.mask_block is None else score.masked_fill(~adapter.mask_block, -1.0)
        for score, adapter in zip(scores, adapters, strict=True)
    ]
    mask = keep_best(torch.cat([score.flatten() for score in scores]), density)
    for adapter, score, part in zip(adapters, scores, mask.split([score.numel() for score in scores]), strict=True):
        adapter.prune_blocks(part.reshape(score.shape))


def prune_chain(
    model: nn.Module, layers: Sequence[Adapter], density: float, criterion: str, x: Tensor | None = None,
    y: Tensor | None = None,
) -> None:  # fmt: skip
    """Prune what lies between consecutive adapters of a chain: outputs of one are inputs of the next."""
    scores = [channel_scores(model, layer, criterion, x, y) for layer in layers[:-1]]
    for score, layer, following in zip(scores, layers[:-1], layers[1:], strict=True):
        mask = keep_best(score, density)
        layer.prune(mask_out=mask)
        following.prune(mask_in=mask)
