"""The authors' five repositories beside this package: same weights, same input, how close.

Their code is imported from checkouts. Modules that it imports only for training or pruning (ride, torchvision,
torch_pruning, pytorch_lightning) are stood in for by empty ones while it is imported.
"""

import importlib
import importlib.abc
import importlib.machinery
import sys
import types
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from . import nn as co
from .container import load_in_order
from .skeleton import GraphConv, SpatialAttention, partitions
from .spa import SPLoPA, SPLoRA, SPPaRA
from .video import CoX3D

__all__ = ["REPOSITORIES", "adapters", "layers", "networks"]

REPOSITORIES = ("continual-inference", "structured-pruning-adapters", "continual-skeletons", "co3d")
"""folders of the checkouts, all of LukasHedegaard"""

_EMPTY = ("ride", "torchvision", "torch_pruning", "pytorch_lightning", "datasets")


class _Empty(types.ModuleType):
    """Has every name: a class for a capital letter, else itself."""

    __path__: ClassVar[list[str]] = []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        made = {"__init__": lambda self, *_, **__: None, "__mro_entries__": lambda self, bases: ()}
        return type(name, (), made) if name[0].isupper() else _Empty(name)

    def __call__(self, *_: Any, **__: Any) -> Any:
        return self


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name.partition(".")[0] in _EMPTY:
            return importlib.machinery.ModuleSpec(name, self, is_package=True)
        return None

    def create_module(self, spec: Any) -> Any:
        return _Empty(spec.name)

    def exec_module(self, module: Any) -> None:
        pass


def _forget(names: Iterable[str]) -> None:
    for name in names:
        if name.partition(".")[0] in (*_EMPTY, "continual", "models", "sp_adapters"):
            del sys.modules[name]


@contextmanager
def _checkouts(*folders: Path) -> Iterator[None]:
    """Their modules can be imported; afterwards nothing of it is left."""
    before, finder = dict(sys.modules), _Finder()
    _forget(before)
    sys.path[:0] = [str(folder) for folder in folders]
    try:
        # their logging asks for pytorch_lightning and does without; it must not find an empty one
        importlib.import_module("continual")
        sys.meta_path.insert(0, finder)
        yield
    finally:
        if finder in sys.meta_path:
            sys.meta_path.remove(finder)
        for folder in folders:
            sys.path.remove(str(folder))
        _forget(set(sys.modules) - set(before))
        sys.modules.update(before)


def _randomise(module: nn.Module) -> None:
    """Weights that show a mistake: none is 0 or 1."""
    for name, value in module.state_dict().items():
        if value.is_floating_point() and value.ndim <= 1:
            value.uniform_(0.5, 1.5) if "var" in name or "weight" in name else value.normal_(0, 0.3)


def _compare(theirs: Any, ours: Any, x: Tensor) -> tuple[float, int]:
    """Largest difference of outputs over a stream, and in how many steps only one of the two gave one."""
    worst, unlike = 0.0, 0
    with torch.no_grad():
        for t in range(x.shape[2]):
            a, b = theirs.forward_step(x[:, :, t]), ours.forward_step(x[:, :, t])
            if isinstance(a, Tensor) != (b is not None):
                unlike += 1
            elif b is not None:
                worst = max(worst, float((a.reshape(b.shape) - b).abs().max()))
    return worst, unlike


def layers(place: Path) -> Iterator[tuple[str, float, int]]:
    """Layers of continual-inference: what, largest difference, steps in which one alone gave an output."""
    with _checkouts(place / "continual-inference"):
        theirs: Any = importlib.import_module("continual")
        heads = {"sequence_len": 6, "batch_first": True, "embed_dim_second": True}
        single, retroactive = theirs.SingleOutputMultiheadAttention, theirs.RetroactiveMultiheadAttention
        for label, a, b, shape in (
            ("conv 1d", theirs.Conv1d(8, 8, 5), co.Conv1d(8, 8, 5), (8,)),
            ("conv 1d, padding, stride 2", theirs.Conv1d(8, 6, 5, 2, 2), co.Conv1d(8, 6, 5, 2, 2), (8,)),
            ("conv 3d", theirs.Conv3d(4, 6, 3, padding=1), co.Conv3d(4, 6, 3, padding=1), (4, 6, 6)),
            ("average pool", theirs.AvgPool1d(4, 1), co.AvgPool1d(4, 1), (8,)),
            ("maximum pool", theirs.MaxPool1d(4, 1), co.MaxPool1d(4, 1), (8,)),
            ("residual", *(of.Residual(of.Conv1d(8, 8, 5, padding=2)) for of in (theirs, co)), (8,)),
            ("single-output attention", single(8, 2, **heads), co.SingleOutputMHA(8, 2, 6), (8,)),
            ("retroactive attention", retroactive(8, 2, **heads), co.RetroactiveMHA(8, 2, 6), (8,)),
        ):
            _randomise(a)
            load_in_order(b, a.state_dict())
            yield label, *_compare(a.eval(), b.eval(), torch.randn(2, shape[0], 40, *shape[1:]))


def networks(place: Path) -> Iterator[tuple[str, float, int]]:
    """Blocks of continual-skeletons and the whole of co3d's CoX3D-S."""
    graph = partitions()
    with _checkouts(place / "continual-skeletons", place / "continual-inference"):
        base: Any = importlib.import_module("models.base")
        adaptive: Any = importlib.import_module("models.a_gcn.a_gcn").AdaptiveGraphConvolution
        attention: Any = importlib.import_module("models.s_tr.s_tr").GcnUnitAttention
        stepping: Any = importlib.import_module("continual").forward_stepping

        def per_slice(module: Any, **options: Any) -> Any:
            return lambda i, o, a, **_: stepping(module(i, o, a, **options))

        for label, make, space in (
            ("CoST-GCN block", base.CoGraphConvolution, lambda: GraphConv(32, 32, graph)),
            ("CoA-GCN block", per_slice(adaptive), lambda: GraphConv(32, 32, graph, adaptive=True)),
            ("CoS-TR block", per_slice(attention, num_point=25), lambda: SpatialAttention(32, 32, 25)),
        ):
            for padding in (0, 4):
                width = "equal" if padding else 0
                a = base.CoSpatioTemporalBlock(32, 32, graph.numpy(), padding=width, CoGraphConv=make)
                _randomise(a)
                body = co.Sequential(space(), co.Conv2d(32, 32, (9, 1), padding=(padding, 0)), co.BatchNorm2d(32))
                b = co.Sequential(co.Residual(body, shrink=None if padding else "centred"), nn.ReLU())
                state = a.state_dict()
                if isinstance(body[0], SpatialAttention):  # a graph that is not used
                    state = {name: value for name, value in state.items() if not name.endswith(".A")}
                load_in_order(b, state)
                what = f"{label}, padding {padding}"
                yield what, *_compare(a.eval(), b.eval(), torch.randn(2, 32, 30, 25))
    with _checkouts(place / "co3d", place / "continual-inference"):
        network: Any = importlib.import_module("models.cox3d.modules.x3d").CoX3D
        a = network(
            dim_in=3, image_size=64, temporal_window_size=4, num_classes=7, x3d_conv1_dim=12, x3d_conv5_dim=2048,
            x3d_num_groups=1, x3d_width_per_group=64, x3d_width_factor=2.0, x3d_depth_factor=2.2,
            x3d_bottleneck_factor=2.25, x3d_use_channelwise_3x3x3=True, x3d_dropout_rate=0.5,
            x3d_head_activation="softmax", x3d_head_batchnorm=False, x3d_fc_std_init=0.01,
            x3d_final_batchnorm_zero_init=False, se_scope="frame",
        )  # fmt: skip
        _randomise(a)
        x3d = CoX3D(size="s", classes=7, window=4)
        load_in_order(x3d, a.state_dict())
        both = co.Sequential(x3d, co.Lambda(lambda y: y.softmax(1)))
        yield "CoX3D-S, probabilities", *_compare(a.eval(), both.eval(), torch.randn(1, 3, 40, 64, 64))


def adapters(place: Path) -> Iterator[tuple[str, float]]:
    """Adapted weights of structured-pruning-adapters: what, largest difference in parts of the largest number."""
    with _checkouts(place / "structured-pruning-adapters", place / "continual-inference"):
        theirs: Any = importlib.import_module("sp_adapters")
        linear, conv = nn.Linear(64, 96), nn.Conv2d(16, 24, 3)
        for label, a, b in (
            ("SPLoRA, linear", theirs.SPLoRALinear.from_module(linear, rank=4), SPLoRA(linear, 4)),
            ("SPLoRA, convolution", theirs.SPLoRAConv2d.from_module(conv, rank=4), SPLoRA(conv, 4)),
            ("SPPaRA, convolution", theirs.SPPaRAConv2d.from_module(conv), SPPaRA(conv)),
            ("SPLoPA, linear", theirs.SPLoPALinear.from_module(linear), SPLoPA(linear)),
        ):
            with torch.no_grad():
                for name, value in a.named_parameters():
                    if "adapter" in name:
                        value.normal_()
                if isinstance(b, SPPaRA):
                    pairs = [(b.parallel, a.adapter)]
                elif isinstance(b, SPLoRA):
                    pairs = [(b.up, a.adapter.cols), (b.down, a.adapter.rows)]
                else:
                    prototypes = a.adapter.prototypes
                    pairs = [(b.mix, a.adapter.pos_weights), *zip(b.prototypes, (prototypes.cols, prototypes.rows))]  # noqa: B905
                for mine, value in pairs:
                    mine.copy_(value.reshape(mine.shape))
                theirs_weight = a.adapted_weight
                worst = float((theirs_weight - b.effective_weight()).abs().max())
                yield label, worst / float(theirs_weight.abs().max())
