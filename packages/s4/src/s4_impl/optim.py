"""Optimiser settings of S4: the SSM's own parameters learn slowly and without weight decay (appendix D.5)."""

from typing import Any

import torch
from torch import nn

__all__ = ["adamw", "param_groups"]


def param_groups(
    model: nn.Module, lr: float, weight_decay: float = 0.0, *, ssm_lr: float = 1e-3, dt_lr: float | None = None
) -> list[dict[str, Any]]:
    """Parameter groups for a torch optimiser.

    A, P, B and dt of every S4 kernel: learning rate min(lr, ssm_lr), no weight decay. The rest, C and D included: lr
    and weight_decay.

    Args:
        dt_lr: another learning rate for dt; the current recipes for ListOps, Text and Retrieval use `lr`.
    """
    if lr <= 0 or ssm_lr <= 0 or weight_decay < 0:
        raise ValueError(f"lr and ssm_lr must be positive, weight_decay at least 0, got {lr}, {ssm_lr}, {weight_decay}")
    from s4_impl.kernel import S4Kernel

    slow_lr = min(lr, ssm_lr)
    groups: dict[str, list[nn.Parameter]] = {"ssm": [], "dt": [], "rest": []}
    seen: set[int] = set()
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if not parameter.requires_grad or id(parameter) in seen:
                continue
            seen.add(id(parameter))
            if isinstance(module, S4Kernel) and not name.startswith("C"):
                kind = "dt" if "dt" in name else "ssm"
            else:
                kind = "rest"
            groups[kind].append(parameter)
    settings = {
        "ssm": (slow_lr, 0.0),
        "dt": (dt_lr if dt_lr is not None else slow_lr, 0.0),
        "rest": (lr, weight_decay),
    }
    return [
        {"params": parameters, "lr": settings[kind][0], "weight_decay": settings[kind][1]}
        for kind, parameters in groups.items()
        if parameters
    ]


def adamw(
    model: nn.Module, lr: float, weight_decay: float = 0.0, *, ssm_lr: float = 1e-3, dt_lr: float | None = None
) -> torch.optim.AdamW:
    """AdamW over `param_groups`."""
    return torch.optim.AdamW(param_groups(model, lr, weight_decay, ssm_lr=ssm_lr, dt_lr=dt_lr))
