"""Networks on disk: weights as safetensors, configuration as JSON; and the network that comes with the package."""

import functools
import importlib.resources
import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from shared_impl.results import write_atomically
from tabpfn_impl.training import PFN, TrainRecipe, build_model

__all__ = ["Checkpoint", "CheckpointError", "load_checkpoint", "save_checkpoint", "shipped_checkpoint"]

_WEIGHTS, _CONFIG = "model.safetensors", "config.json"


class CheckpointError(ValueError):
    """A folder that holds no network of ours, or a damaged one."""


@dataclass(frozen=True)
class Checkpoint:
    """A network and what it was made with."""

    model: PFN
    architecture: str
    config: dict[str, Any]
    """arguments of the architecture"""
    info: dict[str, Any]
    """training recipe, steps, validation, temperature, ..."""

    @property
    def temperature(self) -> float:
        """The softmax temperature that suits this network; 0.8, the released code's, if it was not chosen."""
        return float(self.info.get("softmax_temperature", 0.8))

    @property
    def recipe(self) -> TrainRecipe:
        """What the network was trained by; the default one where that was not kept.

        Raises:
            ValueError: settings that cannot work.
        """
        known = {f.name for f in fields(TrainRecipe)}
        stored = self.info.get("recipe", {"minutes": 1.0})
        given: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in stored.items() if k in known}
        return TrainRecipe(**given)

    @property
    def multiclass(self) -> str:
        """How to ask this network about more than two classes; "direct", as in the paper, if it was not chosen."""
        return str(self.info.get("multiclass", "direct"))


def save_checkpoint(
    folder: Path, model: PFN, architecture: str, config: dict[str, Any], *, info: dict[str, Any], half: bool = False
) -> None:
    """Write a network; `half`: in float16, half the size, read back as float32."""
    folder.mkdir(parents=True, exist_ok=True)
    dtype = torch.float16 if half else torch.float32
    weights = {name: value.detach().cpu().to(dtype).contiguous() for name, value in model.state_dict().items()}
    save_file(weights, folder / _WEIGHTS)
    (folder / _WEIGHTS).chmod(0o644)
    text = json.dumps({"architecture": architecture, "model": config, **info}, indent=2, default=str)
    write_atomically(folder / _CONFIG, text + "\n")


def load_checkpoint(folder: Path) -> Checkpoint:
    """Read a network that `save_checkpoint` or `tabpfn-impl train` wrote.

    Raises:
        CheckpointError: there is none, or it is damaged.
    """
    for name in (_CONFIG, _WEIGHTS):
        if not (folder / name).is_file():
            raise CheckpointError(f"{folder} holds no network: there is no {name}")
    try:
        info = json.loads((folder / _CONFIG).read_text(encoding="utf-8"))
        architecture, config = info.pop("architecture"), info.pop("model")
        model = build_model(architecture, config)
        model.load_state_dict({name: value.float() for name, value in load_file(folder / _WEIGHTS).items()})
    except (ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        raise CheckpointError(f"{folder} cannot be read: {type(error).__name__}: {error}") from error
    return Checkpoint(model.eval().requires_grad_(False), architecture, config, info)


def shipped_folder() -> Path:
    """Where the package keeps its own network."""
    return Path(str(importlib.resources.files("tabpfn_impl"))) / "weights"


@functools.cache
def shipped_checkpoint() -> Checkpoint:
    """The network that comes with the package, read once."""
    return load_checkpoint(shipped_folder())
