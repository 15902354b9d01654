"""What is timed against what, declared. The peer `continual-inference` is timed where it is installed."""

import importlib
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from shared_impl.bench import Benchmark, Case, Setting, checkout_revision
from shared_impl.cli import UserError
from shared_impl.results import Row

from .attention import RetroactiveMHA, SingleOutputMHA
from .container import Residual, Sequential, continual, load_in_order
from .conv import Conv1d, Conv3d
from .cost import parameters
from .module import initial_state, state_bytes, step
from .official import REPOSITORIES, adapters, layers, networks
from .pool import AvgPool1d
from .skeleton import CoSTGCN
from .video import CoX3D, SmallCo3D

__all__ = ["BENCHMARKS"]

PEER = "continual-inference"
ABSENT = f"{PEER} is not installed: it is not timed."


def _peer() -> Any:
    try:
        return importlib.import_module("continual")
    except ImportError:
        return None


def _quiet(form: Callable[..., Any], *args: Any) -> Callable[[], Any]:
    def call() -> Any:
        with torch.no_grad():
            return form(*args)

    return call


def _size(label: str, form: str, what: str, value: float) -> Row:
    return Row(label, form, what, value, higher_is_better=False)


def _stepper(module: Any, clip: Tensor) -> Callable[[], Any]:
    """A function that steps a stream whose state is full."""
    with torch.no_grad():
        for t in range(clip.shape[2]):
            module.forward_step(clip[:, :, t])
    return _quiet(module.forward_step, clip[:, :, 0].contiguous())


def _layers(width: int) -> Iterator[tuple[str, Any, Callable[[Any], Any], tuple[int, ...]]]:
    """Label, our layer, how the peer makes its own, shape of a slice."""
    small = width // 4
    for k in (3, 9):
        yield f"conv 1d, k {k}", Conv1d(width, width, k), lambda co, k=k: co.Conv1d(width, width, k), (width,)
    space: Any = {"padding": (0, 1, 1)}
    conv = Conv3d(small, small, 3, **space)
    yield "conv 3d, k 3, 16 x 16", conv, lambda co: co.Conv3d(small, small, 3, **space), (small, 16, 16)
    yield "average pool, k 16", AvgPool1d(16, 1), lambda co: co.AvgPool1d(16, 1), (width,)
    residual = Residual(Conv1d(width, width, 3, padding=1))
    yield "residual conv, k 3", residual, lambda co: co.Residual(co.Conv1d(width, width, 3, padding=1)), (width,)


def steps(setting: Setting) -> Iterator[Case | Row | str]:
    """A step of a layer against its window, and against the peer at equal layers and weights."""
    peer = _peer()
    if peer is None:
        yield ABSENT
    for batch in (1,) if setting.quick else (1, 32):
        for label, ours, make, shape in _layers(16 if setting.quick else 64):
            clip = torch.randn(batch, shape[0], 16, *shape[1:])
            forms = {"window of 16": _quiet(ours.eval(), clip)}
            if peer is not None:
                theirs = make(peer).eval()
                load_in_order(theirs, ours.state_dict())
                forms[PEER] = _stepper(theirs, clip)
            forms["step"] = _stepper(ours, clip)
            name, baseline = f"{label}, batch {batch}", PEER if peer is not None else "window of 16"
            yield Case(name, forms, baseline=baseline, rounds=21)
            yield _size(name, "step", "state KiB", state_bytes(ours.state) / 1024)


def window(setting: Setting) -> Iterator[Case]:
    """A small Co3D over moving shapes: one frame's cost, as a sliding window of T and as a step."""
    for batch in (1,) if setting.quick else (1, 32):
        for frames in (8,) if setting.quick else (8, 16, 32):
            model = SmallCo3D(frames=frames).eval()
            clip = torch.randn(batch, 1, frames, 16, 16)
            forms = {"sliding window": _quiet(model, clip), "step": _stepper(model, clip)}
            size = float(frames) if batch == 1 else None
            yield Case(f"{frames} frames, batch {batch}", forms, baseline="sliding window", size=size, rounds=21)


def models(setting: Setting) -> Iterator[Case | Row]:
    """The papers' networks: a clip (what a sliding window computes for a frame) against a step, and the states."""
    side = 32 if setting.quick else 160
    x3d = CoX3D(size="s", window=13, scope="clip"), CoX3D(size="s", window=13)
    both: list[tuple[str, Any, Any, tuple[int, ...]]] = [("X3D-S, 13", *x3d, (1, 3, 13, side, side))]
    if not setting.quick:
        both.append(("ST-GCN, 300", CoSTGCN(), CoSTGCN(mod=True), (1, 3, 300, 25, 2)))
    for frames, whole, stream, shape in both:
        clip, label = torch.randn(shape), f"{frames} frames"
        filled = stream.eval()
        state: dict[str, Any] = {}
        with torch.no_grad():
            for t in range(stream.delay + 1):
                filled.advance(clip[:, :, t % shape[2]], state)
        forms = {
            "sliding window": _quiet(whole.eval(), clip),
            "step": _quiet(filled.advance, clip[:, :, 0].contiguous(), state),
        }
        yield Case(label, forms, baseline="sliding window", rounds=3)
        yield _size(label, "step", "state MiB", state_bytes(state) / 2**20)
        yield _size(label, "step", "weights MiB", 4 * parameters(stream) / 2**20)


def attention(setting: Setting) -> Iterator[Case | Row | str]:
    """All rows anew, O(n^2 d), against one row and all rows in steps, O(n d)."""
    peer = _peer()
    if peer is None:
        yield ABSENT
    width = 64
    for n in (32,) if setting.quick else (64, 256, 1024):
        clip = torch.randn(1, width, n)
        single, retro = SingleOutputMHA(width, 4, n).eval(), RetroactiveMHA(width, 4, n).eval()
        forms = {
            "whole window": _quiet(retro, clip),
            "single output": _stepper(single, clip),
            "retroactive": _stepper(retro, clip),
        }
        if peer is not None:
            options = {"sequence_len": n, "batch_first": True, "embed_dim_second": True}
            for form, layer in (("single output", "SingleOutput"), ("retroactive", "Retroactive")):
                theirs = getattr(peer, f"{layer}MultiheadAttention")(width, 4, **options)
                forms[f"peer, {form}"] = _stepper(theirs.eval(), clip)
        yield Case(f"window {n}", forms, baseline="whole window", size=n, rounds=21)
        for name, module in (("single output", single), ("retroactive", retro)):
            yield _size(f"window {n}", name, "state KiB", state_bytes(module.state) / 1024)


def pure(setting: Setting) -> Iterator[Case]:
    """The functional step against the eager one in place, on a stack of convolutions."""
    net = continual(nn.Sequential(*[nn.Conv1d(64, 64, 3) for _ in range(2 if setting.quick else 6)])).eval()
    assert isinstance(net, Sequential)
    x = torch.randn(1, 64)
    state = initial_state(net, x)
    forms = {
        "functional": _quiet(step, net, None, state, x),
        "in place": _stepper(net, torch.randn(1, 64, 20)),
    }
    yield Case("six convolutions", forms, baseline="functional")


def official(setting: Setting) -> Iterator[Row | str]:
    """The authors' layers, blocks, CoX3D and adapters with the same weights on the same streams."""
    place = Path(os.environ.get("CIN_OFFICIAL_DIR", ""))
    if not os.environ.get("CIN_OFFICIAL_DIR") or not all((place / name).is_dir() for name in REPOSITORIES):
        raise UserError(
            f"bench official needs CIN_OFFICIAL_DIR: a folder with LukasHedegaard's {', '.join(REPOSITORIES)}"
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for label, worst, unlike in (*layers(place), *(() if setting.quick else networks(place))):
            yield _size(label, "ours", "largest difference", worst)
            yield _size(label, "ours", "steps in which one alone answers", float(unlike))
        for label, worst in adapters(place):
            yield _size(label, "ours", "largest difference over largest number", worst)
    yield "; ".join(f"LukasHedegaard/{name}@{checkout_revision(place / name)}" for name in REPOSITORIES)


BENCHMARKS: Mapping[str, Benchmark] = {
    "steps": Benchmark(f"One step of a layer against the window and against {PEER}", steps),
    "window": Benchmark("A frame's cost: sliding window and step", window, xlabel="frames of the window"),
    "models": Benchmark("A frame's cost: the papers' networks", models),
    "attention": Benchmark("A step of attention", attention, xlabel="window"),
    "functional": Benchmark("The two forms of a step", pure),
    "official": Benchmark("Beside the authors' code", official),
}
