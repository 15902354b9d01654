"""Refusals that several modules share: sequences, lengths, states and positive numbers."""

from collections.abc import Sequence
from numbers import Integral

import torch
from torch import Tensor

__all__ = [
    "State",
    "check_choice",
    "check_count",
    "check_ids",
    "check_lengths",
    "check_positive",
    "check_sequence",
    "check_state",
    "check_steps",
]

State = tuple[Tensor, ...]


def check_positive(**numbers: int | float) -> None:
    """Refuse numbers that are not above zero.

    Raises:
        ValueError: names the argument.
    """
    for name, value in numbers.items():
        if not value > 0:
            raise ValueError(f"{name} must be positive, got {value}")


def check_count(**numbers: object) -> None:
    """Refuse what is no whole number above zero.

    Raises:
        ValueError: names the argument.
    """
    for name, value in numbers.items():
        if isinstance(value, bool) or not isinstance(value, Integral):
            raise ValueError(f"{name} must be a whole number, got {value!r}")
        check_positive(**{name: int(value)})


def check_choice(name: str, value: object, allowed: Sequence[object]) -> None:
    """Refuse what is none of the allowed values.

    Raises:
        ValueError: names the argument and the choices.
    """
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(map(str, allowed))}, got {value!r}")


def check_sequence(
    x: Tensor, features: int, *, axes: int = 3, name: str = "x", dtype: torch.dtype | None = None
) -> None:
    """Refuse another number of axes or features, another dtype than the weights', NaN and infinity.

    Raises:
        ValueError: names the argument, what came and what is allowed.
    """
    if x.dim() != axes or x.shape[-1] != features:
        shape = "(batch, length, features)" if axes == 3 else "(batch, features)"
        raise ValueError(f"{name} must be {shape} with {features} features, got shape {tuple(x.shape)}")
    if not x.is_floating_point() or (dtype is not None and x.dtype != dtype):
        raise ValueError(f"{name} must be {dtype or 'floating point'}, got {x.dtype}")
    if not bool(torch.isfinite(x).all()):
        raise ValueError(f"{name} must be finite, got NaN or infinity")


def check_lengths(lengths: Tensor, batch: int, length: int) -> None:
    """Refuse lengths that are not one whole number a sequence within the padded length; 0 is allowed.

    Raises:
        ValueError: names what came.
    """
    if not isinstance(lengths, Tensor):
        raise ValueError(f"lengths must be a tensor of {batch} integers, got {type(lengths).__name__}")
    if lengths.shape != (batch,) or lengths.is_floating_point() or lengths.dtype == torch.bool:
        raise ValueError(f"lengths must be {batch} integers, got {lengths.dtype} of shape {tuple(lengths.shape)}")
    if batch and (int(lengths.min()) < 0 or int(lengths.max()) > length):
        raise ValueError(f"lengths must be from 0 to {length}, got {lengths.tolist()}")


def check_state(state: Sequence[Tensor], parts: int, batch: int, size: int) -> None:
    """Refuse a state of another cell or of another batch size.

    Raises:
        ValueError: names what came.
    """
    shapes = [tuple(part.shape) for part in state]
    if shapes != [(batch, size)] * parts:
        raise ValueError(f"state must be {parts} tensors of shape ({batch}, {size}), got {shapes}")


def check_ids(ids: Tensor, vocabulary: int, name: str) -> None:
    """Refuse symbols outside the vocabulary.

    Raises:
        ValueError: names the first.
    """
    if ids.is_floating_point() or ids.dtype == torch.bool:
        raise ValueError(f"{name} must be integers, got {ids.dtype}")
    if ids.numel() and (int(ids.min()) < 0 or int(ids.max()) >= vocabulary):
        wrong = ids[(ids < 0) | (ids >= vocabulary)][0]
        raise ValueError(f"{name} must be ids from 0 to {vocabulary - 1}, got {int(wrong)}")


def check_steps(x: Tensor, targets: Tensor) -> None:
    """Refuse targets of other sequences or steps than x.

    Raises:
        ValueError: names both shapes.
    """
    if targets.shape[:2] != x.shape[:2]:
        raise ValueError(
            f"targets must have the batch and length of x, {tuple(x.shape[:2])}, got {tuple(targets.shape)}"
        )
