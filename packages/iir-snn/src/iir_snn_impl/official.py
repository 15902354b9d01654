"""The authors' spiking networks (SayeedChowdhury/IIR-SNN) with their weights, thresholds and leaks in ours."""

import os
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from .architecture import describe, fold_batch_norm, spiking_layers
from .models import dqn, resnet20, vgg
from .network import SpikingNet

__all__ = ["CHECKOUT", "checkout", "from_official"]

CHECKOUT = "IIR_SNN_OFFICIAL_DIR"
"""environment variable: a checkout of SayeedChowdhury/IIR-SNN"""


def checkout() -> Path | None:
    """The folder of the checkout, if the variable names one that is there."""
    folder = os.environ.get(CHECKOUT)
    return Path(folder) if folder and (Path(folder) / "vgg_spiking_bnfused_biasyes.py").is_file() else None


def from_official(weights: Mapping[str, Tensor], name: str, *, T: int = 1) -> SpikingNet:
    """Our network with the `state_dict` of `VGG_SNN_STDB`, `RESNET_SNN_STDB` or `SnnDQN`, on CIFAR's sizes.

    Args:
        name: "VGG9", "VGG11", "VGG16", "ResNet20" or "DQN". A leading "module." (`DataParallel`) is left out.

    Raises:
        ValueError: an unknown name, or weights of another network.
    """
    given = {key.removeprefix("module."): value for key, value in weights.items()}
    shapes = {key: tuple(value.shape) for key, value in given.items()}
    last = [shape[0] for key, shape in shapes.items() if key.endswith("weight") and len(shape) == 2]
    if not last:
        raise ValueError("weights must be those of one of the authors' networks: there is no linear layer among them")
    ann: nn.Sequential
    if name == "ResNet20":
        ann = fold_batch_norm(resnet20(n_classes=last[-1], dropout=0.0))
    elif name == "DQN":
        first = shapes.get("conv1.weight")
        ann = dqn(in_channels=1 if first is None else first[1], n_actions=last[-1])
    else:
        ann = fold_batch_norm(vgg(name, n_classes=last[-1], dropout=0.0, batch_norm="features.0.bias" in given))
    net = SpikingNet(layers=spiking_layers(describe(ann)), T=T)
    # both have their layers, and in them the parameters, in the order of running
    weight_names = [k for k in given if not k.startswith(("threshold", "leak"))]
    own_weights = [k for k in net.state_dict() if not k.endswith(("threshold", "leak"))]
    thresholds, leaks = (_numbered(given, kind) for kind in ("threshold.t", "leak.l"))
    state = dict(zip(own_weights, (given[k] for k in weight_names), strict=False))
    neurons = net.neurons()
    if len(weight_names) != len(own_weights) or len(thresholds) != len(neurons):
        raise ValueError(
            f"weights must be those of {name}: it has {len(own_weights)} weights and {len(neurons)} thresholds, got "
            f"{len(weight_names)} and {len(thresholds)}"
        )
    try:
        net.load_state_dict(state, strict=False)
    except RuntimeError as error:
        raise ValueError(f"weights must be those of {name}: {str(error).splitlines()[-1].strip()}") from error
    with torch.no_grad():
        for i, layer in enumerate(neurons):
            layer.threshold.copy_(thresholds[i])
            layer.leak.copy_(leaks[i] if leaks else torch.ones(()))
    return net.eval()


def _numbered(given: Mapping[str, Tensor], kind: str) -> list[Tensor]:
    """t0, t3, t6, ... in the order of their numbers."""
    found = {int(key.removeprefix(kind)): value for key, value in given.items() if key.startswith(kind)}
    return [found[number] for number in sorted(found)]
