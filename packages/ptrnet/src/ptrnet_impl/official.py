"""Weights of a public re-implementation (shirgur/PointerNet, PyTorch 0.2) in this package's network.

Its attention and its LSTMs have the paper's equations, with biases; its decoder then mixes the attended vector into the
hidden state, which the paper's pointer network does not. So the weights go over whole but for that mixing layer, and
`blended_decode` does with it what that code does, to compare all steps.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .model import PointerNetwork

__all__ = ["CHECKOUT", "blended_decode", "checkout", "from_shirgur"]

CHECKOUT = "PTRNET_OFFICIAL_DIR"
"""environment variable: a checkout of shirgur/PointerNet"""


def checkout() -> Path | None:
    """The folder of the checkout, if the variable names one that is there."""
    folder = os.environ.get(CHECKOUT)
    return Path(folder) if folder and (Path(folder) / "PointerNet.py").is_file() else None


def from_shirgur(weights: Mapping[str, Tensor]) -> PointerNetwork:
    """Our network with the weights of a one-layer `PointerNet` (`state_dict()`); its `decoder.hidden_out` is left out.

    Raises:
        ValueError: if weights are missing, or the encoder has more than one layer.
    """
    if any("_l1" in name for name in weights):
        raise ValueError("weights must be of one encoder layer, got more")
    missing = sorted(set(_NAMES.values()) - set(weights))
    if missing:
        raise ValueError(f"weights must be those of PointerNet, {missing[0]} is missing")
    two = "encoder.lstm.weight_ih_l0_reverse" in weights
    model = PointerNetwork(
        input_dim=weights["embedding.weight"].shape[1],
        hidden=weights["decoder.att.V"].shape[0],
        embedding=weights["embedding.weight"].shape[0],
        end_symbol=False,
        bidirectional=two,
        attention_bias=True,
    )
    own = {name: weights[theirs] for name, theirs in _NAMES.items()}
    own["pointer.key.weight"] = own["pointer.key.weight"].squeeze(-1)
    own |= {
        name.replace("encoder.lstm.", "encoder."): tensor
        for name, tensor in weights.items()
        if name.startswith("encoder.lstm.")
    }
    model.load_state_dict(own)
    return model


_NAMES = {
    "embedding.weight": "embedding.weight",
    "embedding.bias": "embedding.bias",
    "start": "decoder_input0",
    "decoder.weight_ih_l0": "decoder.input_to_hidden.weight",
    "decoder.bias_ih_l0": "decoder.input_to_hidden.bias",
    "decoder.weight_hh_l0": "decoder.hidden_to_hidden.weight",
    "decoder.bias_hh_l0": "decoder.hidden_to_hidden.bias",
    "pointer.query.weight": "decoder.att.input_linear.weight",
    "pointer.query.bias": "decoder.att.input_linear.bias",
    "pointer.key.weight": "decoder.att.context_linear.weight",
    "pointer.key.bias": "decoder.att.context_linear.bias",
    "pointer.v": "decoder.att.V",
}


@torch.no_grad()
def blended_decode(
    model: PointerNetwork, mixing: Any, x: Float[Tensor, "batch n d"]
) -> tuple[Float[Tensor, "batch n n"], Int[Tensor, "batch n"]]:
    """Greedy permutations as that code has them: probabilities of each step, and the choices.

    Args:
        mixing: its layer `hidden_out`, of the attended keys beside the decoder's state.
    """
    memory, state = model.encode(x)
    inputs = model.first_input(memory)
    visited = torch.zeros(x.shape[:2], dtype=torch.bool, device=x.device)
    probabilities, chosen = [], []
    for _ in range(x.shape[1]):
        logits, (h, c) = model.step(memory, state, inputs)
        weights = logits.masked_fill(visited, -torch.inf).softmax(-1)
        attended = (weights[:, None] @ memory.keys[0])[:, 0]
        state = (torch.tanh(mixing(torch.cat([attended, h[0]], 1)))[None], c)
        index = weights.argmax(1)
        visited = visited.scatter(1, index[:, None], True)
        inputs = model.chosen_input(memory, index[:, None])[:, 0]
        probabilities.append(weights)
        chosen.append(index)
    return torch.stack(probabilities, 1), torch.stack(chosen, 1)
