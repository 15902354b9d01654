"""Checkpoints in the layout of flash-linear-attention, where the authors publish theirs (fla-hub/gla-*)."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from gla_impl.config import GLAConfig
from gla_impl.model import GLAForCausalLM

__all__ = ["fla_config", "fla_weights", "load_fla"]

_LAYER = {
    "attn_norm.weight": "mixer_norm.weight",
    "attn.q_proj.weight": "mixer.q_proj.weight",
    "attn.k_proj.weight": "mixer.k_proj.weight",
    "attn.v_proj.weight": "mixer.v_proj.weight",
    "attn.g_proj.weight": "mixer.r_proj.weight",
    "attn.o_proj.weight": "mixer.o_proj.weight",
    "attn.gk_proj.0.weight": "mixer.gate_proj.0.weight",
    "attn.gk_proj.1.weight": "mixer.gate_proj.1.weight",
    "attn.gk_proj.1.bias": "mixer.gate_proj.1.bias",
    "attn.g_norm_swish_gate.weight": "mixer.norm.weight",
    "attn.g_norm.weight": "mixer.norm.weight",
    "mlp_norm.weight": "ffn_norm.weight",
    "mlp.down_proj.weight": "ffn.out_proj.weight",
}
_MODEL = {
    "model.embeddings.weight": "embedding.weight",
    "model.norm.weight": "norm.weight",
    "lm_head.weight": "lm_head.weight",
}


def load_fla(folder: Path) -> GLAForCausalLM:
    """A GLA model from a folder with config.json and safetensors as flash-linear-attention writes them.

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: if the model has parts that this package does not, or weights are missing or too many.
    """
    folder = Path(folder)
    config = fla_config(json.loads((folder / "config.json").read_text(encoding="utf-8")))
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise FileNotFoundError(f"{folder} has no safetensors file")
    weights: dict[str, Tensor] = {}
    for file in files:
        weights |= load_file(file)
    model = GLAForCausalLM(config)
    try:
        model.load_state_dict(fla_weights(weights))
    except RuntimeError as error:
        raise ValueError(f"{folder} does not fit its own config.json: {error}") from error
    return model.eval()


def fla_config(fields: Mapping[str, Any]) -> GLAConfig:
    """Our configuration for a config.json of flash-linear-attention.

    Raises:
        ValueError: if it asks for something that this package does not have; the message names it.
    """
    plain = {
        "attn": None,
        "clamp_min": None,
        "feature_map": None,
        "tie_word_embeddings": False,
        "use_output_gate": True,
        "use_short_conv": False,
    }
    for name, value in plain.items():
        if fields.get(name, value) != value:
            raise ValueError(f"{name} must be {value}, got {fields[name]!r}")
    heads = fields.get("num_heads", 4)
    if fields.get("num_kv_heads") not in (None, heads):
        raise ValueError(f"num_kv_heads must be {heads} (num_heads), got {fields['num_kv_heads']}")
    d_model = fields["hidden_size"]
    width = fields.get("intermediate_size")
    if width is None:
        width = 256 * -(-int(d_model * (fields.get("hidden_ratio") or 4) * 2 / 3) // 256)
    return GLAConfig(
        vocab_size=fields["vocab_size"],
        d_model=d_model,
        n_layers=fields["num_hidden_layers"],
        n_heads=heads,
        expand_k=float(fields.get("expand_k", 0.5)),
        expand_v=float(fields.get("expand_v", 1.0)),
        ffn_width=width,
        norm_eps=float(fields.get("norm_eps", 1e-6)),
    )


def fla_weights(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our names for flash-linear-attention's weights; gate and value of the SwiGLU become one matrix.

    Raises:
        ValueError: if a name is unknown.
    """
    ours: dict[str, Tensor] = {}
    for name, weight in weights.items():
        if name in _MODEL:
            ours[_MODEL[name]] = weight
            continue
        number, _, part = name.removeprefix("model.layers.").partition(".")
        if not name.startswith("model.layers.") or not number.isdigit():
            raise ValueError(f"weight {name!r} is not one of a GLA model")
        if part in _LAYER:
            ours[f"blocks.{number}.{_LAYER[part]}"] = weight
        elif part == "mlp.gate_proj.weight":
            # early versions keep both halves in gate_proj, and have no up_proj
            up = weights.get(f"model.layers.{number}.mlp.up_proj.weight")
            ours[f"blocks.{number}.ffn.in_proj.weight"] = weight if up is None else torch.cat([weight, up])
        elif part != "mlp.up_proj.weight":
            raise ValueError(f"weight {name!r} is not one of a GLA model")
    return ours
