"""MEGA's own code, imported from a checkout: its modules, and its weights in our layers.

Nothing of it is here: `official_modules` reads the files where they lie, without fairseq's own start-up, which needs
libraries that these modules do not.
"""

import importlib
import os
import sys
import types
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from shared_impl.cli import UserError

__all__ = [
    "VARIABLE",
    "checkout",
    "from_official_block",
    "from_official_encoder",
    "from_official_layer",
    "official_modules",
]

VARIABLE = "TCNCA_OFFICIAL_DIR"
# what stands for packages whose start-up imports all of fairseq (None), and for modules that are not used here
_SHELLS: dict[str, tuple[str, ...] | None] = {
    "fairseq": None,
    "fairseq.modules": None,
    "fairseq.models": None,
    "fairseq.models.lra": None,
    "fairseq.data": ("iterators",),
    "fairseq.logging": (),
    "fairseq.logging.meters": ("safe_round",),
    "fairseq.modules.multihead_attention": ("MultiheadAttention",),
}
_CLASSES = {
    "SequenceNorm": "sequence_norm", "RealNumberEmbedding": "real_number_embedding",
    "LayerDropModuleList": "layer_drop", "MegaSentenceEncoderLayer": "mega_sentence_encoder_layer",
}  # fmt: skip
_LAYER = Path("fairseq/modules/moving_average_gated_attention.py")


def checkout() -> Path:
    """The folder that the environment variable names: a checkout of facebookresearch/mega.

    Raises:
        UserError: it names none.
    """
    folder = Path(os.environ.get(VARIABLE, ""))
    if not (folder / _LAYER).is_file():
        raise UserError(f"bench official needs {VARIABLE}: the folder of a checkout of facebookresearch/mega")
    return folder


@contextmanager
def official_modules(folder: Path) -> Iterator[types.SimpleNamespace]:
    """Classes `average`, `layer`, `block` and `encoder` of MEGA, for as long as the context lasts.

    Raises:
        UserError: a file needs what is not there.
    """
    kept = {name: module for name, module in sys.modules.items() if name.split(".")[0] == "fairseq"}
    for name in kept:
        del sys.modules[name]
    try:
        for name, holds in _SHELLS.items():
            module = types.ModuleType(name)
            if holds is None:
                module.__path__ = [str(folder.joinpath(*name.split(".")))]
            for attribute in holds or ():
                setattr(module, attribute, None)
            sys.modules[name] = module
        modules: Any = sys.modules["fairseq.modules"]
        modules.gelu = modules.gelu_accurate = F.gelu
        try:
            for name, path in _CLASSES.items():
                setattr(modules, name, getattr(importlib.import_module(f"fairseq.modules.{path}"), name))
            encoder = importlib.import_module("fairseq.models.lra.mega_lra_encoder").MegaLRAEncoder
        except ImportError as error:
            raise UserError(f"{folder} cannot be imported: {error}") from error
        yield types.SimpleNamespace(
            average=importlib.import_module("fairseq.modules.exponential_moving_average").MultiHeadEMA,
            layer=importlib.import_module("fairseq.modules.moving_average_gated_attention").MovingAverageGatedAttention,
            block=modules.MegaSentenceEncoderLayer,
            encoder=encoder,
        )
    finally:
        for name in [name for name in sys.modules if name.split(".")[0] == "fairseq"]:
            del sys.modules[name]
        sys.modules.update(kept)


def from_official_layer(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state dict of a MovingAverageGatedAttention as that of our `MegaLayer` with the average as mixer.

    Raises:
        ValueError: an entry that our layer has no place for.
    """
    converted = {}
    for name, value in state.items():
        if name == "rel_pos_bias._float_tensor":
            continue
        head, _, tail = name.partition(".")
        if head == "move":
            new, value = f"mixer.{tail}", value.squeeze(-1) if value.ndim == 3 else value
        elif head == "rel_pos_bias":
            new, value = (
                ("attention.bias.weight", value) if tail == "rel_pos_bias" else (f"attention.bias.{tail}", value[0])
            )
        elif name == "norm.norm.scalar":
            new = "norm.norm.scale"
        elif head in ("norm", "v_proj", "mx_proj", "h_proj", "gamma", "beta"):
            new = name
        else:
            raise ValueError(f"state has {name!r}, which is not of an official MEGA layer")
        converted[new] = value
    return converted


def from_official_block(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state dict of a MegaSentenceEncoderLayer as that of our `Block` of `MegaLayer` and `FeedForward`.

    Raises:
        ValueError: an entry that our block has no place for.
    """
    layer = {name[len("mega_layer.") :]: value for name, value in state.items() if name.startswith("mega_layer.")}
    converted = {f"layer.{name}": value for name, value in from_official_layer(layer).items()}
    for name, value in state.items():
        head, _, tail = name.partition(".")
        if head == "nffn":
            converted["ffn." + tail.replace("norm.norm.scalar", "norm.norm.scale")] = value
        elif head != "mega_layer":
            raise ValueError(f"state has {name!r}, which is not of an official MEGA block")
    return converted


def from_official_encoder(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state dict of a MegaLRAEncoder as that of our `TCNCAClassifier` without its head.

    Raises:
        ValueError: an entry that our model has no place for.
    """
    converted: dict[str, Tensor] = {}
    blocks: dict[str, dict[str, Tensor]] = {}
    for name, value in state.items():
        head, _, tail = name.partition(".")
        if name == "embed_tokens.embed.weight":
            converted["inputs.weight"] = value
        elif name == "embed_tokens.weight":
            converted["inputs.weight"] = value.unsqueeze(1)
        elif name == "embed_tokens.bias":
            converted["inputs.bias"] = value
        elif head == "final_norm":
            converted["norm." + tail.replace("norm.scalar", "norm.scale")] = value
        elif head == "layers":
            index, _, rest = tail.partition(".")
            blocks.setdefault(index, {})[rest] = value
        else:
            raise ValueError(f"state has {name!r}, which is not of an official MEGA encoder")
    for index, block in blocks.items():
        converted |= {f"blocks.{index}.{name}": value for name, value in from_official_block(block).items()}
    return converted
