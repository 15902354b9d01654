"""Checkpoints: directories of safetensors and JSON, written whole or not at all, checked by SHA-256.

A checkpoint is a folder `step-00000400` with one `<part>.safetensors` for each part that has tensors, `structure.json`
for everything else, and `manifest.json` with size and SHA-256 of each of these files. Nothing is pickled.
"""

import errno
import hashlib
import json
import os
import random
import re
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

FORMAT = 1
_NAME = re.compile(r"^(?P<prefix>[a-z]+)-(?P<step>\d{8,})$")


class CheckpointError(RuntimeError):
    """A checkpoint is damaged, or none of those present can be used."""


class CheckpointWarning(UserWarning):
    """A damaged checkpoint was passed over."""


# Structures -----------------------------------------------------------------------------------------------------------


def flatten(value: Any, tensors: dict[str, Tensor], path: str = "") -> Any:
    """Put the tensors of a nested value into `tensors` and return the rest as something that JSON can hold.

    Tuples, counters, complex tensors and dictionaries with keys other than strings come back as they were.

    Raises:
        CheckpointError: the value holds something that is neither a tensor nor plain data.
    """
    if isinstance(value, Tensor):
        stored = value.detach().cpu()
        kind = "__complex__" if stored.is_complex() else "__tensor__"
        stored = torch.view_as_real(stored.resolve_conj()) if stored.is_complex() else stored
        # A copy of its own for each name: safetensors refuses tensors that share memory (tied weights).
        tensors[path] = stored.clone(memory_format=torch.contiguous_format)
        return {kind: path}
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, Counter):
        return {"__counter__": [[k, v] for k, v in value.items()]}
    if isinstance(value, Mapping):
        child = {k: flatten(v, tensors, f"{path}/{k}" if path else str(k)) for k, v in value.items()}
        if all(isinstance(k, str) and not k.startswith("__") for k in child):
            return child
        return {"__items__": [[flatten(k, tensors), v] for k, v in child.items()]}
    if isinstance(value, list | tuple):
        items = [flatten(v, tensors, f"{path}/{i}" if path else str(i)) for i, v in enumerate(value)]
        return {"__tuple__": items} if isinstance(value, tuple) else items
    raise CheckpointError(f"cannot save {path or 'the value'}: {type(value).__name__} is neither tensor nor plain data")


def unflatten(structure: Any, tensors: Mapping[str, Tensor]) -> Any:
    """The value that `flatten` took apart."""
    if isinstance(structure, list):
        return [unflatten(v, tensors) for v in structure]
    if not isinstance(structure, dict):
        return structure
    if len(structure) == 1:
        [(kind, content)] = structure.items()
        if kind == "__tensor__":
            return tensors[content]
        if kind == "__complex__":
            return torch.view_as_complex(tensors[content])
        if kind == "__tuple__":
            return tuple(unflatten(v, tensors) for v in content)
        if kind == "__counter__":
            return Counter(dict(content))
        if kind == "__items__":
            return {unflatten(k, tensors): unflatten(v, tensors) for k, v in content}
    return {k: unflatten(v, tensors) for k, v in structure.items()}


# Files ----------------------------------------------------------------------------------------------------------------


@contextmanager
def storing(path: Path) -> Iterator[None]:
    """Turn what goes wrong while files are written into a `CheckpointError` that says so."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        # safetensors tells the system's number in its text only
        full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or re.search(
            rf"os error ({errno.ENOSPC}|{errno.EDQUOT})\b", str(error)
        )
        raise CheckpointError(f"cannot write {path}: {'the disk is full' if full else error}") from error


def write_text(path: Path, text: str) -> None:
    """Write a small file whole: temporary name, fsync, rename.

    Raises:
        CheckpointError: it cannot be written.
    """
    temporary = path.with_name(f".tmp-{path.name}-{os.getpid()}")
    with storing(path):
        try:
            temporary.write_text(text, encoding="utf-8")
            _sync(temporary)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        _sync(path.parent)


def write(directory: Path, parts: Mapping[str, Any]) -> Path:
    """Write the parts (nested values with tensors) as the checkpoint `directory`; it appears complete or not at all.

    Raises:
        CheckpointError: the disk is full, the folder cannot be written, or a part holds what cannot be saved.
    """
    temporary = directory.with_name(f".tmp-{directory.name}-{os.getpid()}")
    with storing(directory):
        directory.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(temporary, ignore_errors=True)
        try:
            _fill(temporary, parts)
            _discard(directory)  # an older, damaged one of this name
            temporary.rename(directory)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        _sync(directory.parent)
    return directory


def _fill(folder: Path, parts: Mapping[str, Any]) -> None:
    folder.mkdir()
    structure = {}
    for part, value in parts.items():
        tensors: dict[str, Tensor] = {}
        structure[part] = flatten(value, tensors)
        if tensors:
            save_file(tensors, folder / f"{part}.safetensors")
    (folder / "structure.json").write_text(json.dumps(structure), encoding="utf-8")
    files = {p.name: {"bytes": p.stat().st_size, "sha256": _sha256(p)} for p in sorted(folder.iterdir())}
    (folder / "manifest.json").write_text(json.dumps({"format": FORMAT, "files": files}), encoding="utf-8")
    for path in (*folder.iterdir(), folder):
        _sync(path)


def read(directory: Path) -> dict[str, Any]:
    """The parts of a checkpoint.

    Raises:
        CheckpointError: a file is missing, cut short or changed, or the format is not known.
    """
    try:
        manifest = json.loads((directory / "manifest.json").read_text(encoding="utf-8"))
        if manifest["format"] != FORMAT:
            raise CheckpointError(f"{directory}: format {manifest['format']}, this version reads {FORMAT}")
        for name, expected in manifest["files"].items():
            size = (directory / name).stat().st_size
            if size != expected["bytes"]:
                raise CheckpointError(f"{directory / name} has {size} bytes, its manifest says {expected['bytes']}")
            if _sha256(directory / name) != expected["sha256"]:
                raise CheckpointError(f"{directory / name} does not have the SHA-256 of its manifest")
        structure = json.loads((directory / "structure.json").read_text(encoding="utf-8"))
        parts = {}
        for part, content in structure.items():
            name = f"{part}.safetensors"
            parts[part] = unflatten(content, load_file(directory / name) if name in manifest["files"] else {})
        return parts
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
        raise CheckpointError(f"{directory} cannot be read: {type(error).__name__}: {error}") from error


def path_of(folder: Path, prefix: str, step: int) -> Path:
    """Where the checkpoint of a step is, for example `folder/step-00000400`."""
    return folder / f"{prefix}-{step:08d}"


def find(folder: Path, prefix: str) -> dict[int, Path]:
    """The checkpoints in a folder by step, newest first; whether they are whole is for `read` to say."""
    found = {}
    if folder.is_dir():
        for path in folder.iterdir():
            match = _NAME.match(path.name)
            if match and match["prefix"] == prefix:
                found[int(match["step"])] = path
    return dict(sorted(found.items(), reverse=True))


def keep_only(folder: Path, prefix: str, steps: set[int]) -> None:
    """Remove the other checkpoints of this prefix."""
    for step, path in find(folder, prefix).items():
        if step not in steps:
            _discard(path)


def clean(folder: Path) -> None:
    """Remove what interrupted writes have left; nobody may be writing."""
    for path in folder.glob(".tmp-*") if folder.is_dir() else ():
        shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)


def _discard(directory: Path) -> None:
    if directory.exists():
        # Renamed first, so that a kill in the middle leaves no half of a checkpoint under its name.
        doomed = directory.with_name(f".tmp-old-{directory.name}-{os.getpid()}")
        shutil.rmtree(doomed, ignore_errors=True)
        directory.rename(doomed)
        shutil.rmtree(doomed)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    if os.name == "nt" and path.is_dir():
        return  # Windows cannot open folders
    descriptor = os.open(path, os.O_RDONLY if os.name != "nt" else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# Random numbers -------------------------------------------------------------------------------------------------------


def rng_state(device: torch.device) -> dict[str, Tensor]:
    """State of the global generators of Python, numpy and torch (and of `device`, if it is CUDA) as tensors of fixed
    shapes, so that processes can gather them."""
    _, words, gauss = random.getstate()
    numpy_state: Any = np.random.get_state()  # noqa: NPY002 - the global generator is what has to be saved
    state = {
        "python": torch.tensor(words, dtype=torch.int64),
        "python_gauss": torch.tensor([gauss is not None, gauss or 0.0], dtype=torch.float64),
        "numpy": torch.tensor([*numpy_state[1].tolist(), numpy_state[2], numpy_state[3]], dtype=torch.int64),
        "numpy_gauss": torch.tensor([numpy_state[4]], dtype=torch.float64),
        "torch": torch.get_rng_state(),
    }
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def set_rng_state(state: Mapping[str, Tensor], device: torch.device) -> None:
    """Put the global generators back to what `rng_state` returned."""
    has_gauss, gauss = state["python_gauss"].tolist()
    random.setstate((3, tuple(state["python"].tolist()), gauss if has_gauss else None))
    *keys, position, has_numpy_gauss = state["numpy"].tolist()
    numpy_gauss = state["numpy_gauss"].item()
    np.random.set_state(("MT19937", np.array(keys, dtype=np.uint32), position, has_numpy_gauss, numpy_gauss))  # noqa: NPY002
    # Copies: torch reads a state from the start of its storage, wherever in it a view begins.
    torch.set_rng_state(state["torch"].cpu().clone())
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"].cpu().clone(), device)
