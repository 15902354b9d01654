"""Muon for the matrices of a network, AdamW for all its other parameters, as one optimiser.

Muon (Jordan et al. 2024) replaces the momentum of a matrix by the nearest orthogonal matrix, so that a step moves all
directions equally far. Small prior-fitted networks leave their first plateau, where they do not yet read the context,
in fewer steps with it.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.optim import Optimizer

__all__ = ["Muon", "orthogonalise", "parameter_groups"]

_A, _B, _C = 3.4445, -4.7750, 2.0315
"""coefficients of the quintic of which five iterations bring singular values near 1 (Jordan et al. 2024)"""


def orthogonalise(matrices: Float[Tensor, "n rows columns"], steps: int = 5) -> Float[Tensor, "n rows columns"]:
    """U V' of each matrix U S V', up to singular values between about 0.7 and 1.2 (Newton-Schulz, in bfloat16)."""
    x = matrices.to(torch.bfloat16)
    tall = x.shape[1] > x.shape[2]
    if tall:
        x = x.mT
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp_min(1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = _A * x + (_B * gram + _C * gram @ gram) @ x
    return (x.mT if tall else x).to(matrices.dtype)


def parameter_groups(model: nn.Module) -> list[dict[str, Any]]:
    """The matrices of the model's layers for Muon; embeddings, first and last maps, biases and norms for AdamW."""
    matrices: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        inner = parameter.ndim == 2 and "layers." in name
        (matrices if inner else others).append(parameter)
    return [{"params": group, "muon": muon} for group, muon in ((matrices, True), (others, False)) if group]


class Muon(Optimizer):
    """Groups with `muon=True` take Muon's step, the others AdamW's; both share learning rate and weight decay.

    A matrix's orthogonal step is scaled by 0.2 sqrt(max(rows, columns)), which gives it the size of AdamW's (Liu et al.
    2025): one learning rate suits both. Matrices of one shape are orthogonalised together.

    Args:
        params: groups, as `parameter_groups` makes them.
        lr: learning rate.
        momentum: of Muon (in Nesterov's form).
        betas, eps: of AdamW.
        weight_decay: decoupled, times lr.

    Raises:
        ValueError: a group for Muon that holds something else than matrices, or settings out of range.
    """

    def __init__(
        self,
        params: Iterable[dict[str, Any]],
        lr: float = 1e-3,
        *,
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.98),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        if not lr >= 0 or not weight_decay >= 0:
            raise ValueError(f"lr and weight_decay must not be negative, got {lr} and {weight_decay}")
        if not all(0 <= value < 1 for value in (momentum, *betas)):
            raise ValueError(f"momentum and betas must lie in [0, 1), got {momentum} and {betas}")
        defaults = {
            "lr": lr, "momentum": momentum, "betas": betas, "eps": eps, "weight_decay": weight_decay, "muon": False,
        }  # fmt: skip
        super().__init__(params, defaults)
        for group in self.param_groups:
            if group["muon"] and any(p.ndim != 2 for p in group["params"]):
                raise ValueError("Muon is for matrices; put vectors and scalars in a group with muon=False")

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step; parameters without a gradient stay."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            given = [p for p in group["params"] if p.grad is not None]
            if group["weight_decay"]:
                for p in given:
                    p.mul_(1.0 - group["lr"] * group["weight_decay"])
            (self._muon if group["muon"] else self._adam)(given, group)
        return loss

    def _muon(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        by_shape: defaultdict[torch.Size, list[Tensor]] = defaultdict(list)
        for p in parameters:
            by_shape[p.shape].append(p)
        momentum = group["momentum"]
        for shape, alike in by_shape.items():
            updates = []
            for p in alike:
                assert p.grad is not None
                state = self.state[p]
                if not state:
                    state["momentum"] = torch.zeros_like(p)
                mean: Tensor = state["momentum"].lerp_(p.grad, 1.0 - momentum)
                updates.append(p.grad.lerp(mean, momentum))
            size = 0.2 * max(shape) ** 0.5
            for p, step in zip(alike, orthogonalise(torch.stack(updates)), strict=True):
                p.add_(step, alpha=-group["lr"] * size)

    def _adam(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        if not parameters:
            return
        (beta1, beta2), eps, lr = group["betas"], group["eps"], group["lr"]
        for p in parameters:
            assert p.grad is not None
            state = self.state[p]
            if not state:
                state |= {"step": 0, "mean": torch.zeros_like(p), "square": torch.zeros_like(p)}
            state["step"] += 1
            mean = state["mean"].lerp_(p.grad, 1.0 - beta1)
            square = state["square"].mul_(beta2).addcmul_(p.grad, p.grad, value=1.0 - beta2)
            scale = (square / (1.0 - beta2 ** state["step"])).sqrt_().add_(eps)
            p.addcdiv_(mean, scale, value=-lr / (1.0 - beta1 ** state["step"]))
