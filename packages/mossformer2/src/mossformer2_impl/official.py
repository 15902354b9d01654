"""Weights of the authors' public checkpoints in the layout of this package."""

import re
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from shared_impl.data import DataError, reading
from shared_impl.pretrained import WeightsError

from .model import MossFormer2

__all__ = ["from_official", "read_official", "settings_of"]

PARTS = {"encoder.": "encoder.", "enc.": "encoder.", "decoder.": "decoder.", "dec.": "decoder."}
NETWORK = ("masknet.", "mask_net.")
STACK = re.compile(r"(?:dual_mdl\.0|mdl)\.(?:intra_mdl\.(?:mdl\.flashT|mossformerM|mdl\.mossformerM)\.)")
NAMES: tuple[tuple[str, str], ...] = (
    (r"^encoder\.conv1d\.weight$", "encoder.weight"),
    (r"^decoder\.weight$", "decoder.weight"),
    (r"^net\.norm\.(weight|bias)$", r"network.norm_in.\1"),
    (r"^net\.conv1d_encoder\.weight$", "network.into.weight"),
    (r"^net\.pos_enc\.scale$", "network.position_scale"),
    (r"^net\.(?:dual_mdl\.0|mdl)\.intra_mdl\.(?:mdl\.)?norm\.(?:norm\.)?(weight|bias)$", r"network.norm_frames.\1"),
    (r"^net\.(?:dual_mdl\.0|mdl)\.intra_norm\.(weight|bias)$", r"network.norm_out.\1"),
    (r"^net\.prelu\.weight$", "network.prelu.weight"),
    (r"^net\.conv1d_out\.(weight|bias)$", r"network.split.\1"),
    (r"^net\.output\.0\.(weight|bias)$", r"network.value.\1"),
    (r"^net\.output_gate\.0\.(weight|bias)$", r"network.gate.\1"),
    (r"^net\.conv1_decoder\.weight$", "network.out_of.weight"),
    (r"^stack\.layers\.(\d+)\.qk_offset_scale\.(gamma|beta)$", r"network.attention.\1.\2"),
    (r"^stack\.layers\.(\d+)\.(to_hidden|to_qk|to_out)\.(.*)$", r"network.attention.\1.\2.\3"),
    (r"^stack\.fsmn\.(\d+)\.conv1\.0\.(weight|bias)$", r"network.recurrent.\1.into.\2"),
    (r"^stack\.fsmn\.(\d+)\.conv1\.1\.weight$", r"network.recurrent.\1.prelu.weight"),
    (r"^stack\.fsmn\.(\d+)\.(norm[12])\.(weight|bias)$", r"network.recurrent.\1.\2.\3"),
    (r"^stack\.fsmn\.(\d+)\.conv2\.(weight|bias)$", r"network.recurrent.\1.out_of.\2"),
    (r"^stack\.fsmn\.(\d+)\.gated_fsmn\.(to_[uv])\.(.*)$", r"network.recurrent.\1.memory.\2.\3"),
    (r"^stack\.fsmn\.(\d+)\.gated_fsmn\.fsmn\.(linear|project)\.(.*)$", r"network.recurrent.\1.memory.memory.\2.\3"),
    (r"^stack\.fsmn\.(\d+)\.gated_fsmn\.fsmn\.conv\.(conv|norm|prelu)(\d)\.(weight|bias)$", "dense"),
)
INNER = ((r"\.mdl\.0\.", ".norm."), (r"\.mdl\.1\.", ".linear."), (r"\.mdl\.3\.sequential\.1\.conv\.", ".conv."))
CONSTANT = re.compile(r"(inv_freq|rotary_pos_emb\.\w+)$")
"""tensors that are no weights"""


def _name(key: str) -> str | None:
    """Our name for one of theirs; None if there is none."""
    key = key.removeprefix("module.").removeprefix("model.")
    for theirs, ours in PARTS.items():
        if key.startswith(theirs):
            key = ours + key.removeprefix(theirs)
    for theirs in NETWORK:
        if key.startswith(theirs):
            key = "net." + key.removeprefix(theirs)
            key = "stack." + key[4:][found.end() :] if (found := STACK.match(key[4:])) else key
    for pattern, ours in NAMES:
        if not (found := re.match(pattern, key)):
            continue
        if ours == "dense":
            layer, kind, number, tail = found.groups()
            place = f"network.recurrent.{layer}.memory.memory"
            i = int(number) - 1
            return f"{place}.slopes.{i}" if kind == "prelu" else f"{place}.{kind}s.{i}.{tail}"
        name = re.sub(pattern, ours, key)
        for inside, mine in INNER:
            name = re.sub(inside, mine, name)
        return name
    return None


def from_official(state: Mapping[str, Any], ours: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a checkpoint of alibabasglab/MossFormer2 or ClearerVoice-Studio under our names and shapes.

    Args:
        state: theirs: keys `encoder.`, `masknet.`, `decoder.`, or `enc.`, `mask_net.`, `dec.`.
        ours: the `state_dict` that is wanted.

    Raises:
        WeightsError: a tensor is not known, missing, or of another size.
    """
    found: dict[str, Tensor] = {}
    for key, value in state.items():
        if CONSTANT.search(key):
            continue
        name = _name(key)
        if name is None or name not in ours:
            raise WeightsError(f"{key} is none of this model's tensors")
        if value.numel() != ours[name].numel():
            raise WeightsError(f"{key} must have the shape {tuple(ours[name].shape)}, got {tuple(value.shape)}")
        # pointwise convolutions are linear here, those over time have one axis
        found[name] = value.reshape(ours[name].shape)
    if missing := sorted(set(ours) - set(found)):
        raise WeightsError(f"{len(missing)} tensors are missing, the first is {missing[0]}")
    return found


def _tensors(path: Path) -> dict[str, Tensor]:
    with reading(path):
        if path.suffix == ".safetensors":
            return load_file(path)
        try:
            held = torch.load(path, map_location="cpu", weights_only=True)
        except (UnpicklingError, RuntimeError) as error:
            raise DataError(f"{path} is no checkpoint of tensors alone: {str(error).splitlines()[0]}") from error
    held = held.get("model", held) if isinstance(held, dict) else held
    if not isinstance(held, dict) or not all(isinstance(value, Tensor) for value in held.values()):
        raise DataError(f"{path} must hold tensors by name")
    return held


def read_official(place: Path) -> dict[str, Tensor]:
    """The tensors of a file, or of `encoder.ckpt`, `masknet.ckpt` and `decoder.ckpt` in a folder, with such prefixes.

    Raises:
        DataError: a file is missing, damaged, or holds more than tensors.
    """
    if place.is_file():
        return _tensors(place)
    state: dict[str, Tensor] = {}
    for part in ("encoder", "masknet", "decoder"):
        path = place / f"{part}.ckpt"
        if not path.is_file():
            raise DataError(f"{path} is missing")
        state |= {f"{part}.{key}": value for key, value in _tensors(path).items()}
    return state


def settings_of(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Sizes of the model that a checkpoint is of; whether it maps or masks, and its rate, no checkpoint tells.

    Raises:
        WeightsError: tensors that tell the sizes are missing.
    """
    named = {name: value for key, value in state.items() if (name := _name(key))}
    try:
        n_filters, _, kernel = named["encoder.weight"].shape
        layers = {int(n.split(".")[2]) for n in named if n.startswith("network.attention.")}
        return {
            "n_src": len(named["network.split.weight"]) // n_filters, "n_filters": n_filters, "kernel": kernel,
            "n_layers": len(layers), "d_qk": named["network.attention.0.gamma"].shape[1],
            "d_rec": len(named["network.recurrent.0.into.weight"]),
            "lorder": (named["network.recurrent.0.memory.memory.convs.0.weight"].shape[2] + 1) // 2,
        }  # fmt: skip
    except KeyError as error:
        raise WeightsError(f"the checkpoint lacks {error.args[0]}") from error


def load_official(place: Path, **settings: Any) -> MossFormer2:
    """The model of a public checkpoint, in evaluation mode; `mask=False` for the one of WHAMR!."""
    state = read_official(place)
    return MossFormer2(**{**settings_of(state), **settings}).load_official(state).eval()


# `load_official` is a method's name too; this one reads files
__all__ += ["load_official"]
