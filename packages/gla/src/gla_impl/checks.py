"""What every operator asks of its operands, with one clear error for each thing that does not fit."""

import math
from typing import NamedTuple

from torch import Tensor

LAYOUT = "(batch, length, heads, dim)"


class Operands(NamedTuple):
    """Checked operands; gates are expanded to the batch, length and heads of `q`."""

    q: Tensor
    k: Tensor
    v: Tensor
    log_alpha: Tensor | None
    log_beta: Tensor | None
    initial_state: Tensor | None


def check_operands(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_alpha: Tensor | None,
    log_beta: Tensor | None = None,
    initial_state: Tensor | None = None,
    *,
    values: bool = True,
) -> Operands:
    """Raise ValueError unless the operands fit together; `values=False` skips the passes over the data.

    Shapes, types and devices are always checked: that costs nothing. Checking values (no NaN, no infinity,
    no gate above 1) reads every operand once.
    """
    if q.ndim != 4:
        raise ValueError(f"q must have 4 axes {LAYOUT}, got shape {tuple(q.shape)}")
    batch, length, heads, key_dim = q.shape
    if k.shape != q.shape:
        raise ValueError(f"k must have the shape of q, {tuple(q.shape)}, got {tuple(k.shape)}")
    if v.ndim != 4 or v.shape[:3] != q.shape[:3]:
        raise ValueError(f"v must have shape ({batch}, {length}, {heads}, any), got {tuple(v.shape)}")
    value_dim = v.shape[3]
    if min(batch, length, heads, key_dim, value_dim) == 0:
        raise ValueError(f"every axis must have at least one element, got q {tuple(q.shape)} and v {tuple(v.shape)}")
    if not (q.is_floating_point() and k.dtype == q.dtype and v.dtype == q.dtype):
        raise ValueError(f"q, k and v must have one floating-point dtype, got {q.dtype}, {k.dtype} and {v.dtype}")
    log_alpha = _expand_gate("log_alpha", log_alpha, q, key_dim)
    log_beta = _expand_gate("log_beta", log_beta, q, value_dim)
    state_shape = (batch, heads, key_dim, value_dim)
    if initial_state is not None and initial_state.shape != state_shape:
        raise ValueError(
            f"initial_state must have shape {state_shape} (batch, heads, key dim, value dim), "
            f"got {tuple(initial_state.shape)}"
        )
    operands = {
        "k": k,
        "v": v,
        "log_alpha": log_alpha,
        "log_beta": log_beta,
        "initial_state": initial_state,
    }
    for name, tensor in operands.items():
        if tensor is not None and tensor.device != q.device:
            raise ValueError(f"{name} must be on the device of q, {q.device}, got {tensor.device}")
    if values:
        for name, tensor in (("q", q), ("k", k), ("v", v), ("initial_state", initial_state)):
            _check_finite(name, tensor)
        for name, gate in (("log_alpha", log_alpha), ("log_beta", log_beta)):
            _check_log_gate(name, gate)
    return Operands(q, k, v, log_alpha, log_beta, initial_state)


def check_chunk(chunk: int, sub: int) -> None:
    """Raise ValueError unless the chunk length is a positive multiple of the sub-block length."""
    if sub < 1:
        raise ValueError(f"sub must be a positive integer, got {sub}")
    if chunk < 1 or chunk % sub:
        raise ValueError(f"chunk must be a positive multiple of sub = {sub}, got {chunk}")


def _expand_gate(name: str, gate: Tensor | None, q: Tensor, dim: int) -> Tensor | None:
    if gate is None:
        return None
    full = (*q.shape[:3], dim)
    fits = gate.ndim == 4 and all(have in (1, want) for have, want in zip(gate.shape, full, strict=True))
    if not fits:
        raise ValueError(f"{name} must have shape {full}, or 1 in place of any axis, got {tuple(gate.shape)}")
    if not gate.is_floating_point():
        raise ValueError(f"{name} must have a floating-point dtype, got {gate.dtype}")
    return gate.expand(*full[:3], gate.shape[3])


def _check_finite(name: str, tensor: Tensor | None) -> None:
    if tensor is None:
        return
    # A sum is the cheapest pass that NaN and infinity cannot hide from; only if it looks wrong (it may
    # also have overflowed) is every element looked at.
    total = float(tensor.detach().sum())
    if not math.isfinite(total) and not tensor.isfinite().all():
        raise ValueError(f"{name} must be finite, got NaN or infinity")


def _check_log_gate(name: str, gate: Tensor | None) -> None:
    if gate is None:
        return
    largest = float(gate.detach().amax())  # NaN carries through a maximum
    if not largest <= 0.0:
        what = "NaN" if largest != largest else f"a value of {largest:g}"
        raise ValueError(f"{name} is the logarithm of a gate in [0, 1] and must be at most 0, got {what}")
