"""What a training run is made of, in texts that can be compared: its data, its functions, its modules.

Equal texts do not prove that two runs are the same, but what people change between two starts of a command (a file, a
weight of the loss, a rate of dropout) makes them differ.
"""

import dis
import functools
import hashlib
import sys
import types
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

__all__ = ["of_data", "of_function", "of_modules"]

_MOST_BYTES = 1 << 28
"""of one tensor; of a larger one, equally spaced elements are taken"""
_DEPTH = 6


class _Hash(Protocol):
    def update(self, data: bytes, /) -> None: ...


def of_data(data: Any) -> str:
    """Sixteen digits for tensors, arrays, numbers and texts in tuples, lists, mappings and dataclasses; of anything
    else only the type counts."""
    digest = hashlib.blake2b(digest_size=8)
    _add(digest, data, _DEPTH)
    return digest.hexdigest()


def of_function(function: Any) -> dict[str, str]:
    """A function's name, and sixteen digits for its code and the constants that it captured.

    What a function captures counts if it cannot change: numbers, texts, tensors, functions, modules. Code can be
    compared under one version of Python only, which is part of the key.
    """
    digest = hashlib.blake2b(digest_size=8)
    _add_callable(digest, function, _DEPTH, set())
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    return {"": _name(function), f"'s code (Python {version})": digest.hexdigest()}


def of_modules(model: nn.Module) -> dict[str, str]:
    """Modules of torch by their names in the model, as they print: sizes, rates, constants. Of other modules the
    numbers with "drop" in their names, where dropout is a function."""
    found = {}
    for name, module in model.named_modules():
        if type(module).__module__.startswith("torch.nn."):
            text = module.extra_repr()
        else:
            rates = {k: v for k, v in vars(module).items() if "drop" in k.lower() and isinstance(v, int | float)}
            text = ", ".join(f"{key}={value}" for key, value in sorted(rates.items()))
        if text:
            found[name] = f"{type(module).__name__}({text})"
    return found


def _add(digest: _Hash, value: Any, depth: int) -> None:
    if isinstance(value, Tensor):
        _add_tensor(digest, value)
    elif isinstance(value, np.ndarray):
        if value.dtype.kind in "biufc":
            _add_tensor(digest, torch.from_numpy(np.ascontiguousarray(value)))
        else:
            digest.update(f"array{value.shape}{value.dtype}".encode())
    elif value is None or isinstance(value, bool | int | float | complex | str | bytes | np.generic):
        digest.update(f"{type(value).__name__}={value!r};".encode())
    elif depth and isinstance(value, Mapping):
        digest.update(f"mapping{len(value)}".encode())
        for key, item in value.items():
            _add(digest, key, depth - 1)
            _add(digest, item, depth - 1)
    elif depth and isinstance(value, list | tuple):
        digest.update(f"sequence{len(value)}".encode())
        for item in value:
            _add(digest, item, depth - 1)
    elif depth and is_dataclass(value) and not isinstance(value, type):
        digest.update(type(value).__name__.encode())
        for f in fields(value):
            _add(digest, getattr(value, f.name, None), depth - 1)
    else:
        digest.update(type(value).__name__.encode())


def _add_tensor(digest: _Hash, tensor: Tensor) -> None:
    digest.update(f"tensor{tuple(tensor.shape)}{tensor.dtype}".encode())
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.device.type == "meta":
        return
    flat = tensor.detach().reshape(-1)
    step = -(-flat.numel() * flat.element_size() // _MOST_BYTES)
    flat = flat[::step].contiguous().cpu() if step > 1 else flat.contiguous().cpu()
    if flat.numel():
        digest.update(flat.resolve_conj().resolve_neg().view(torch.uint8).numpy().tobytes())


def _name(function: Any) -> str:
    if isinstance(function, functools.partial):
        return f"partial of {_name(function.func)}"
    return str(getattr(function, "__qualname__", type(function).__qualname__))


def _add_callable(digest: _Hash, function: Any, depth: int, seen: set[int]) -> None:
    digest.update(_name(function).encode())
    if depth == 0 or id(function) in seen:
        return
    seen.add(id(function))
    if isinstance(function, functools.partial):
        _add_callable(digest, function.func, depth - 1, seen)
        for key, value in [*enumerate(function.args), *sorted(function.keywords.items())]:
            digest.update(str(key).encode())
            _add_captured(digest, value, depth - 1, seen)
    elif isinstance(function, types.MethodType):
        _add_callable(digest, function.__func__, depth - 1, seen)
        _add_captured(digest, function.__self__, depth - 1, seen)
    elif isinstance(function, types.FunctionType):
        code = function.__code__
        _add_code(digest, code)
        for value in [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]:
            _add_captured(digest, value, depth - 1, seen)
        changing = {i.argval for i in dis.get_instructions(code) if i.opname == "STORE_DEREF"}
        for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
            try:
                value = cell.cell_contents
            except ValueError:  # still empty
                continue
            if name not in changing:
                digest.update(name.encode())
                _add_captured(digest, value, depth - 1, seen)
    else:
        _add_captured(digest, function, depth - 1, seen)


def _add_captured(digest: _Hash, value: Any, depth: int, seen: set[int]) -> None:
    """A value that a function holds; of containers and objects that may change only the type."""
    if isinstance(value, nn.Module):
        digest.update(f"{type(value).__name__}{of_modules(value)}".encode())
    elif isinstance(value, functools.partial | types.FunctionType | types.MethodType):
        _add_callable(digest, value, depth, seen)
    elif isinstance(value, list | dict | set) or (is_dataclass(value) and not value.__dataclass_params__.frozen):  # type: ignore[union-attr]
        digest.update(type(value).__name__.encode())
    else:
        _add(digest, value, depth)


def _add_code(digest: _Hash, code: types.CodeType) -> None:
    digest.update(code.co_code)
    digest.update(repr(code.co_names).encode())
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            _add_code(digest, constant)
        elif isinstance(constant, frozenset):
            digest.update(repr(sorted(map(repr, constant))).encode())
        else:
            digest.update(repr(constant).encode())
