"""Networks as plain descriptions: a list of layers that JSON has, and back; batch norm folded; nothing unpickled."""

import copy
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, cast

import torch
from jaxtyping import Float
from safetensors.torch import save_file
from torch import Tensor, nn

from shared_impl.pretrained import load_weights
from shared_impl.results import write_atomically

from .neuron import LIF

__all__ = ["Residual", "build", "describe", "flat", "fold_batch_norm", "load_ann", "save_ann", "spiking_layers"]

Spec = dict[str, Any]

_CONV = ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups")
_KINDS: Mapping[str, tuple[type[nn.Module], tuple[str, ...]]] = {
    "conv1d": (nn.Conv1d, _CONV),
    "conv2d": (nn.Conv2d, _CONV),
    "linear": (nn.Linear, ("in_features", "out_features")),
    "batch_norm1d": (nn.BatchNorm1d, ("num_features", "eps")),
    "batch_norm2d": (nn.BatchNorm2d, ("num_features", "eps")),
    "relu": (nn.ReLU, ()),
    "avg_pool2d": (nn.AvgPool2d, ("kernel_size", "stride", "padding")),
    "max_pool2d": (nn.MaxPool2d, ("kernel_size", "stride", "padding")),
    "adaptive_avg_pool2d": (nn.AdaptiveAvgPool2d, ("output_size",)),
    "flatten": (nn.Flatten, ("start_dim", "end_dim")),
    "dropout": (nn.Dropout, ("p",)),
    "identity": (nn.Identity, ()),
}
_LIF = ("threshold", "leak", "learn", "per_neuron", "reset", "surrogate", "shape")
_NEGATIVE = (
    nn.LeakyReLU,
    nn.PReLU,
    nn.ELU,
    nn.GELU,
    nn.SiLU,
    nn.Tanh,
    nn.SELU,
    nn.CELU,
    nn.Hardtanh,
    nn.Mish,
    nn.RReLU,
)


class Residual(nn.Module):
    """body(x) + shortcut(x); what follows (a ReLU, a neuron) sees the sum."""

    def __init__(self, body: nn.Sequential, shortcut: nn.Sequential) -> None:
        super().__init__()
        self.body = body
        self.shortcut = shortcut

    def forward(self, x: Float[Tensor, "batch *rest"]) -> Float[Tensor, "batch *rest2"]:
        """The sum of both ways."""
        return self.body(x) + self.shortcut(x)


def describe(module: nn.Module) -> list[Spec]:
    """The layers of a sequential network, as JSON has them, nested `nn.Sequential` flattened.

    Raises:
        ValueError: a layer that has no spiking form: the message says which and what is allowed.
    """
    return [_describe(layer) for layer in flat(module)]


def flat(module: nn.Module) -> list[nn.Module]:
    """The layers of nested `nn.Sequential` in one list."""
    if isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward:
        return [layer for child in module for layer in flat(child)]
    return [module]


def _describe(layer: nn.Module) -> Spec:
    if isinstance(layer, Residual):
        return {"kind": "residual", "body": describe(layer.body), "shortcut": describe(layer.shortcut)}
    if isinstance(layer, _NEGATIVE):
        raise ValueError(
            f"module must have ReLU activations only: {type(layer).__name__} gives negative values (or is no ReLU), "
            "which no spike stands for"
        )
    for kind, (cls, names) in _KINDS.items():
        if type(layer) is cls:
            if getattr(layer, "padding_mode", "zeros") != "zeros":
                raise ValueError(f"padding_mode must be zeros, got {layer.padding_mode!r} in {layer}")
            if getattr(layer, "ceil_mode", False) or getattr(layer, "divisor_override", None):
                raise ValueError(f"pooling must have neither ceil_mode nor divisor_override, got {layer}")
            if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d) and not (layer.affine and layer.track_running_stats):
                raise ValueError(f"batch norm must be affine with running statistics, got {layer}")
            spec: Spec = {"kind": kind, **{name: _plain(getattr(layer, name)) for name in names}}
            if isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Linear):
                spec["bias"] = layer.bias is not None
            return spec
    raise ValueError(
        f"module must be an nn.Sequential of {', '.join(sorted(_KINDS))} and Residual, got {type(layer).__name__}"
    )


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def build(specs: Sequence[Spec]) -> nn.Sequential:
    """The network of a description, with fresh weights.

    Raises:
        ValueError: a kind or setting that is not known, or is missing.
    """
    if isinstance(specs, str | bytes) or not isinstance(specs, Sequence) or not specs:
        raise ValueError(f"layers must be a list of at least one layer, got {specs!r}")
    return nn.Sequential(*[_build(spec) for spec in specs])


def _build(spec: Spec) -> nn.Module:
    if not isinstance(spec, Mapping) or "kind" not in spec:
        raise ValueError(f"layers must be objects with a kind, got {spec!r}")
    settings = {k: tuple(v) if isinstance(v, list) else v for k, v in spec.items() if k != "kind"}
    kind = spec["kind"]
    if kind == "residual":
        shortcut = nn.Sequential(*[_build(s) for s in spec.get("shortcut", [])])
        return Residual(build(spec.get("body", [])), shortcut)
    if kind == "lif":
        cls: Any = LIF
        allowed: tuple[str, ...] = _LIF
    elif kind in _KINDS:
        cls, allowed = _KINDS[kind]
        if allowed and allowed[0].startswith("in_"):
            allowed = (*allowed, "bias")
    else:
        raise ValueError(f"layers: kind must be one of {', '.join(sorted(_KINDS))}, lif, residual, got {kind!r}")
    if unknown := sorted(settings.keys() - set(allowed)):
        raise ValueError(f"layers: {kind} has no setting {unknown[0]!r}; it has {', '.join(allowed) or 'none'}")
    try:
        return cast(nn.Module, cls(**settings))
    except (TypeError, RuntimeError) as error:
        raise ValueError(f"layers: {kind} cannot be made of {settings}: {error}") from error


def fold_batch_norm(module: nn.Module) -> nn.Sequential:
    """A copy without batch norm and without dropout's state changed: its weights are in the layer before it.

    W' = W gamma / sqrt(var + eps), b' = (b - mean) gamma / sqrt(var + eps) + beta; exact in evaluation mode.

    Raises:
        ValueError: a batch norm that follows no convolution or linear layer.
    """
    folded: list[nn.Module] = []
    for layer in flat(module):
        if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
            before = folded[-1] if folded else None
            if not isinstance(before, nn.Conv1d | nn.Conv2d | nn.Linear):
                raise ValueError(f"batch norm must follow a convolution or linear layer, got it after {before}")
            _fold(before, layer)
        elif isinstance(layer, Residual):
            folded.append(Residual(fold_batch_norm(layer.body), fold_batch_norm(layer.shortcut)))
        elif not isinstance(layer, nn.Identity):
            folded.append(copy.deepcopy(layer))
    return nn.Sequential(*folded)


@torch.no_grad()
def _fold(layer: nn.Conv1d | nn.Conv2d | nn.Linear, norm: nn.BatchNorm1d | nn.BatchNorm2d) -> None:
    mean, var = cast(Tensor, norm.running_mean), cast(Tensor, norm.running_var)
    scale = norm.weight / torch.sqrt(var + norm.eps)
    bias = torch.zeros_like(mean) if layer.bias is None else layer.bias
    layer.weight.mul_(scale.view(-1, *[1] * (layer.weight.ndim - 1)))
    layer.bias = nn.Parameter((bias - mean) * scale + norm.bias)


def spiking_layers(specs: Iterable[Spec], *, max_pool: Literal["error", "average"] = "error", **lif: Any) -> list[Spec]:
    """A description with neurons in the place of ReLU.

    Args:
        max_pool: what is done with max pooling, which saturates on spikes: refuse it, or average instead.
        lif: settings of the neurons.

    Raises:
        ValueError: max pooling, batch norm that is not folded, no ReLU, or a ReLU at the end.
    """
    spiking = _spiking(list(specs), max_pool, lif)
    kinds = [spec["kind"] for spec in spiking]
    if "lif" not in kinds:
        raise ValueError("module must have at least one ReLU: without one there is nothing to spike")
    if [kind for kind in kinds if kind not in ("dropout", "flatten")][-1] == "lif":
        raise ValueError("module must end in a layer without ReLU: the output layer sums up and never spikes")
    return spiking


def _spiking(specs: list[Spec], max_pool: str, lif: Mapping[str, Any]) -> list[Spec]:
    spiking: list[Spec] = []
    for spec in specs:
        kind = spec["kind"]
        if kind == "relu":
            spiking.append({"kind": "lif", **lif})
        elif kind == "residual":
            body, shortcut = (_spiking(spec[way], max_pool, lif) for way in ("body", "shortcut"))
            spiking.append({"kind": kind, "body": body, "shortcut": shortcut})
        elif kind == "max_pool2d":
            if max_pool != "average":
                raise ValueError(
                    "module must pool by the mean: max pooling saturates on spikes; train with AvgPool2d, or give "
                    "max_pool='average' and fine-tune"
                )
            spiking.append({**spec, "kind": "avg_pool2d"})
        elif kind.startswith("batch_norm"):
            raise ValueError("batch norm must be folded before the neurons come in: fold_batch_norm(module)")
        else:
            spiking.append(dict(spec))
    return spiking


def save_ann(module: nn.Module, folder: Path | str) -> Path:
    """Write a network as `model.safetensors` and `config.json`, from which `load_ann` makes it again."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    plain = nn.Sequential(*flat(module))
    save_file({k: v.detach().cpu().contiguous() for k, v in plain.state_dict().items()}, folder / "model.safetensors")
    write_atomically(folder / "config.json", json.dumps({"layers": describe(plain)}, indent=1) + "\n")
    return folder


def load_ann(weights: Path | str, config: Path | str | None = None) -> nn.Sequential:
    """A network from safetensors and a JSON file with its `layers`; in evaluation mode.

    Args:
        weights: the file, names as of an `nn.Sequential` ("0.weight"), or the folder that `save_ann` wrote.
        config: the JSON file (default: config.json beside the weights).

    Raises:
        ValueError: a file is missing, damaged, or of another network.
    """
    weights = Path(weights)
    if weights.is_dir():
        weights = weights / "model.safetensors"
    path = weights.with_name("config.json") if config is None else Path(config)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"config {path} cannot be read: {error}") from error
    if not isinstance(content, dict) or "layers" not in content:
        raise ValueError(f"config {path} must be an object with `layers`, a list of layers")
    module = build(content["layers"])
    load_weights(module, weights)
    return module.eval()
