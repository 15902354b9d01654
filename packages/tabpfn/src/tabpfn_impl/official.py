"""Weights of the authors' code (v1) in this package's network."""

from collections.abc import Mapping

import torch
from torch import Tensor

__all__ = ["from_official"]


def from_official(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state dict of a `PFNTransformer` from that of the authors' `TransformerModel`.

    Keys of the criterion, and a leading "module." of distributed training, are left out.

    Raises:
        ValueError: a weight that the network of the paper does not have.
    """
    renamed: dict[str, Tensor] = {}
    for key, value in state.items():
        name = key.removeprefix("module.")
        if name.startswith("criterion."):
            continue
        parts = name.split(".")
        if parts[0] in ("encoder", "decoder"):
            renamed[name] = value
        elif parts[0] == "y_encoder":
            renamed[f"label_encoder.{parts[1]}"] = value
        elif name.startswith("transformer_encoder.layers."):
            layer, rest = f"layers.{parts[2]}", ".".join(parts[3:])
            renamed.update(_layer(layer, rest, value))
        else:
            raise ValueError(f"the network of the paper has no weight {key!r}")
    return renamed


def _layer(layer: str, name: str, value: Tensor) -> dict[str, Tensor]:
    kind = name.rpartition(".")[2]
    if name.startswith("self_attn.in_proj_"):
        kind = name.removeprefix("self_attn.in_proj_")
        query, key, val = value.chunk(3)
        return {
            f"{layer}.attention.query.{kind}": query.clone(),
            f"{layer}.attention.key_value.{kind}": torch.cat([key, val]),
        }
    places = {
        "self_attn.out_proj": "attention.output",
        "linear1": "feed_forward.0",
        "linear2": "feed_forward.2",
        "norm1": "norm1",
        "norm2": "norm2",
    }
    place = places.get(name.rpartition(".")[0])
    if place is None:
        raise ValueError(f"the network of the paper has no weight {name!r} in a layer")
    return {f"{layer}.{place}.{kind}": value}
