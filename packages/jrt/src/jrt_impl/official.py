"""Checkpoints in the layout of the authors' code, mapped key by key."""

import re
from collections.abc import Mapping

from torch import Tensor

from .model import JRTForCausalLM

__all__ = ["load_official"]

_RENAMED = (
    (r"^transformer\.embeddings\.word_embeddings\.weight$", "embedding.weight"),
    (r"^transformer\.ln_f\.weight$", "norm.weight"),
    (r"^transformer\.layers\.(\d+)\.mlp\.(fc[12]\.\w+)$", r"blocks.\1.\2"),
    (r"^transformer\.layers\.(\d+)\.mixer\.conv\.conv\.(\w+)$", r"blocks.\1.mixer.conv.\2"),
    (r"^transformer\.layers\.(\d+)\.((?:mixer|norm1|norm2)\..+)$", r"blocks.\1.\2"),
)


def load_official(model: JRTForCausalLM, weights: Mapping[str, Tensor]) -> JRTForCausalLM:
    """Fill a model with the tensors of one of the authors' checkpoints; all or nothing.

    Raises:
        ValueError: if a key is unknown, missing or of another shape.
    """
    own = model.state_dict()
    mapped: dict[str, Tensor] = {}
    for key, tensor in weights.items():
        if key == "lm_head.weight" or key.endswith(("rotary_emb.inv_freq", "feature_map.tril_indices")):
            continue  # the head is the embedding; the others are constants
        for pattern, into in _RENAMED:
            if re.match(pattern, key):
                mapped[re.sub(pattern, into, key)] = tensor
                break
        else:
            raise ValueError(f"weights: {key} is no key of the authors' layout")
    if missing := sorted(set(own) - set(mapped)):
        raise ValueError(f"weights must have {missing[0]} and {len(missing) - 1} more that are missing")
    for key, tensor in mapped.items():
        if key not in own or own[key].shape != tensor.shape:
            want = tuple(own[key].shape) if key in own else "nothing"
            raise ValueError(f"weights: {key} has shape {tuple(tensor.shape)}, the model has {want}")
    model.load_state_dict(mapped)
    return model
