"""A saved model that was damaged is refused, in every package that saves models."""

import ast
import importlib
import inspect
import json
import types
import typing
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any

import pytest
import workspace

from shared_impl.pretrained import Pretrained

SMALL = 48
"""what stands for a size that has no default, and at most for one that has"""


def saved_classes(slug: str) -> dict[str, str]:
    """Classes that derive from a mixin of saved models, and their modules; found by reading, not by importing."""
    name = workspace.import_name(slug)
    root = workspace.folder(slug) / "src" / name
    classes = {
        node.name: (".".join([name, *path.relative_to(root).with_suffix("").parts]), bases)
        for path in sorted(root.rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef)
        and (bases := {ast.unparse(base).rpartition(".")[2].partition("[")[0] for base in node.bases})
    }
    known: set[str] = set()
    derived = {"Pretrained", "PyTorchModelHubMixin"}
    while derived - known:
        known = set(derived)
        derived |= {name for name, (_, bases) in classes.items() if bases & known}
    return {name: classes[name][0] for name in sorted(derived) if name in classes}


def small(cls: type) -> Any:
    """A small instance; None if the class cannot be made of sizes alone."""
    given = arguments(cls)
    if given is None:
        return None
    # where one of several optional sizes has to be given, the first that helps
    optional = [
        name
        for name, parameter in inspect.signature(cls).parameters.items()
        if parameter.default is None and int in typing.get_args(parameter.annotation)
    ]
    for more in ({}, *({name: SMALL} for name in optional)):
        try:
            return cls(**given, **more)
        except (TypeError, ValueError, NotImplementedError):  # the last: a base without layers of its own
            continue
    return None


def arguments(cls: type) -> dict[str, Any] | None:
    if is_dataclass(cls):
        kinds = {f.name: (f.type, f.default if f.default_factory is MISSING else None) for f in fields(cls)}
    else:
        parameters = inspect.signature(cls).parameters.values()
        kinds = {p.name: (p.annotation, MISSING if p.default is p.empty else p.default) for p in parameters}
    given: dict[str, Any] = {}
    for name, (kind, default) in kinds.items():
        if type(default) is int and default > SMALL:
            given[name] = SMALL
        elif default is not MISSING:
            continue
        elif kind is int:
            given[name] = SMALL
        elif is_dataclass(kind) and not isinstance(kind, types.GenericAlias):
            inner = arguments(kind)
            if inner is None:
                return None
            given[name] = kind(**inner)
        else:
            return None
    return given


def test_a_damaged_model_is_refused(package: str, tmp_path: Path) -> None:
    classes = saved_classes(package)
    if not classes:
        pytest.skip("saves no model")
    torch = pytest.importorskip("torch")
    from safetensors.torch import load_file, save_file

    tested = []
    for name, module in classes.items():
        cls: Any = getattr(importlib.import_module(module), name)
        model = small(cls)
        if model is None:
            continue
        folder = tmp_path / cls.__name__
        model.save_pretrained(folder)
        tensors, config = folder / "model.safetensors", folder / "config.json"
        whole, settings = tensors.read_bytes(), config.read_text(encoding="utf-8")
        loaded = cls.from_pretrained(folder)
        for tensor, value in model.state_dict().items():
            assert torch.equal(value, loaded.state_dict()[tensor]), f"{name}: {tensor} does not come back"
        found = load_file(tensors)
        first, last = min(found), max(found)
        damages: dict[str, Any] = {
            "a tensor is missing": {k: v for k, v in found.items() if k != first},
            "another is missing": {k: v for k, v in found.items() if k != last},
            "one is too many": {**found, "no.such.tensor": torch.zeros(3)},
            "one has another shape": {**found, last: torch.zeros(*found[last].shape, 2)},
            "the file is cut short": whole[: len(whole) * 3 // 4],
            "the file is empty": b"",
        }
        if issubclass(cls, Pretrained):
            damages["a number has changed"] = whole[:-1] + bytes([whole[-1] ^ 1])
        for damage, content in damages.items():
            if isinstance(content, bytes):
                tensors.write_bytes(content)
            else:
                save_file(content, tensors)
            assert refused(cls, folder), f"{cls.__name__} loads although {damage}"
        tensors.write_bytes(whole)
        if issubclass(cls, Pretrained):
            for damaged in (
                '{"no_such_setting": 1}',
                settings[:-5],
                json.dumps(dict(list(json.loads(settings).items())[1:])),
            ):
                config.write_text(damaged, encoding="utf-8")
                assert refused(cls, folder), f"{cls.__name__} loads with the configuration {damaged}"
        tested.append(cls.__name__)
    assert tested, "no model could be made of sizes alone: give its sizes defaults"


def refused(cls: Any, folder: Path) -> bool:
    try:
        cls.from_pretrained(folder)
    except Exception:
        return True
    return False
